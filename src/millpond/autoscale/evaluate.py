"""Evaluates a formula: pure, bounded, and with a record of all it looked at.

Choices made where Azure's documentation is silent: `&&` and `||` do not evaluate a right side that cannot matter;
division by zero and everything else that is not a finite number is an error; so are avg, max, min … of nothing (`len`
and `sum` give 0); samples come newest first; a look-back never lies in the future; the targets are cut to whole numbers
when the formula has ended, not when they are assigned.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from millpond.autoscale.errors import EvaluationFailed, FormulaError, InsufficientSamples
from millpond.autoscale.functions import LOGARITHMS, REDUCTIONS, ROUNDINGS, TOTALS, Chance, element, percentile
from millpond.autoscale.operators import apply, describe, finite
from millpond.autoscale.record import (
    Evaluation,
    Failure,
    NamedValue,
    SampleMethod,
    SampleWindow,
    StatementTrace,
    Step,
    Warned,
    percent,
)
from millpond.autoscale.samples import Samples, SampleSource
from millpond.autoscale.tree import (
    Call,
    Chain,
    Choice,
    Constant,
    Expression,
    Formula,
    Member,
    Method,
    Number,
    Service,
    Statement,
    Text,
    Unary,
    Variable,
)
from millpond.autoscale.values import (
    TICKS_PER_SECOND,
    Interval,
    Moment,
    Value,
    format_double,
    format_value,
    interval,
    member_of,
    moment_of,
    parse_moment,
    type_name,
)
from millpond.autoscale.variables import (
    DEALLOCATION_OPTION,
    OPTIONS,
    TARGET_DEDICATED,
    TARGET_LOW_PRIORITY,
    Metric,
    ServiceVariable,
)
from millpond.domain.durations import Timestamp
from millpond.domain.states import NodeDeallocationOption

MAX_WORK: Final = 500_000
"""Expressions evaluated and elements handled in one evaluation; it bounds time and memory alike. The published
formulas take some hundreds."""
MAX_TARGET: Final = 2**31 - 1
MAX_RESULTS: Final = 65_536
"""Characters of results above which long vectors are cut short."""
LONG_VECTOR: Final = 64
"""Elements of a vector that are printed where space is short: in records, traces, and results that are too long."""
_TRUNCATION_NOISE: Final = 1e-9
"""Added, away from zero, before a target is cut to a whole number: for 2.9999999999 that is meant to be 3."""


class Inputs(msgspec.Struct, frozen=True):
    """The world a formula is evaluated in."""

    now: Timestamp
    samples: SampleSource
    target_dedicated_nodes: int = 0
    target_low_priority_nodes: int = 0
    """The pool's present targets: what a target that is not assigned keeps."""
    current: Mapping[Metric, float] = {}
    """Values known exactly at `now`, for variables used as numbers; the newest sample stands in for the others."""
    seed: int = 0
    """For `rand()`, together with the time."""


def evaluate(formula: Formula, inputs: Inputs, *, trace: bool = False) -> Evaluation:
    """What a formula says now; errors of the formula are in the record. Raises none but for nonsensical inputs.

    With `trace`, the record holds every statement reached and every expression evaluated.
    """
    run = _Tracing(formula, inputs) if trace else _Run(formula, inputs)
    return run.evaluation()


def value_of(formula: Formula, node: Expression, inputs: Inputs, variables: Mapping[str, Value]) -> Value:
    """The value of one expression of a formula, with these variables set.

    Raises FormulaError; `stop()` has no value and must not be in it.
    """
    run = _Run(formula, inputs)
    run._variables.update(variables)
    return run._value(node)


class _Stopped(Exception):
    """`stop()` was called."""


class _Run:
    """One evaluation."""

    def __init__(self, formula: Formula, inputs: Inputs) -> None:
        self._formula = formula
        self._inputs = inputs
        self._now = moment_of(inputs.now)
        self._chance = Chance(inputs.seed ^ self._now.ticks)
        self._work = MAX_WORK
        self._variables: dict[str, Value] = {}
        self._settings: dict[str, tuple[Value, Expression]] = {}
        """The service's variables that were assigned, by the name or alias used."""
        self._windows: list[SampleWindow] = []
        self._warnings: list[Warned] = []

    def evaluation(self) -> Evaluation:
        stopped = False
        try:
            for statement in self._formula.statements:
                self._do(statement)
        except _Stopped:
            stopped = True
        except FormulaError as error:
            return self._failed(error)
        inputs = self._inputs
        dedicated = self._target(TARGET_DEDICATED, inputs.target_dedicated_nodes)
        low_priority = self._target(TARGET_LOW_PRIORITY, inputs.target_low_priority_nodes)
        option = self._setting(DEALLOCATION_OPTION)
        assert isinstance(option, NodeDeallocationOption)
        results = self._results(dedicated, low_priority, option)
        return Evaluation(
            inputs.now,
            results,
            dedicated,
            low_priority,
            option,
            self._named_values(),
            tuple(self._windows),
            tuple(self._warnings),
            None,
            stopped,
            self._traces(),
        )

    def _failed(self, error: FormulaError) -> Evaluation:
        dedicated, low_priority = self._inputs.target_dedicated_nodes, self._inputs.target_low_priority_nodes
        option = NodeDeallocationOption.REQUEUE
        return Evaluation(
            self._inputs.now,
            _three(dedicated, low_priority, option),
            dedicated,
            low_priority,
            option,
            self._named_values(),
            tuple(self._windows),
            tuple(self._warnings),
            Failure(error.code, error.message, error.detail, error.line, error.column),
            False,
            self._traces(),
        )

    def _traces(self) -> tuple[StatementTrace, ...]:
        return ()

    # Statements and their outcome

    def _do(self, statement: Statement) -> Value:
        value = self._value(statement.value)
        target = statement.target
        if isinstance(target, Variable):
            self._variables[target.name] = value
        elif target is not None:
            if target.variable is DEALLOCATION_OPTION:
                if not isinstance(value, NodeDeallocationOption):
                    words = ", ".join(OPTIONS)
                    raise self._error(
                        f"{target.name} is one of {words} (without quotes), not {describe(value)}.",
                        statement.value.start,
                    )
            elif not isinstance(value, float):
                advice = "; make one number of it with avg, max or val" if isinstance(value, tuple) else ""
                raise self._error(f"{target.name} is a number, not {describe(value)}{advice}.", statement.value.start)
            self._settings[target.name] = (value, statement.value)
        return value

    def _assigned(self, variable: ServiceVariable) -> tuple[Value, Expression] | None:
        """What the formula made of it: the full name counts more than an alias."""
        for name in (variable.name, *variable.aliases):
            if name in self._settings:
                return self._settings[name]
        return None

    def _setting(self, variable: ServiceVariable) -> Value:
        if assigned := self._assigned(variable):
            return assigned[0]
        if variable is TARGET_DEDICATED:
            return float(self._inputs.target_dedicated_nodes)
        if variable is TARGET_LOW_PRIORITY:
            return float(self._inputs.target_low_priority_nodes)
        return NodeDeallocationOption.REQUEUE

    def _target(self, variable: ServiceVariable, present: int) -> int:
        assigned = self._assigned(variable)
        if assigned is None:
            return present
        value, source = assigned
        assert isinstance(value, float)
        target = math.trunc(value + math.copysign(_TRUNCATION_NOISE, value))
        if 0 <= target <= MAX_TARGET:
            return target
        clamped = 0 if target < 0 else MAX_TARGET
        self._warnings.append(
            Warned(
                f"{variable.name} would be {format_double(value)}; it is {clamped}.",
                *self._formula.position(source.start),
            )
        )
        return clamped

    def _results(self, dedicated: int, low_priority: int, option: NodeDeallocationOption) -> str:
        names = sorted(self._variables)
        parts = [f"{name}={format_value(self._variables[name])}" for name in names]
        if sum(map(len, parts)) + len(parts) > MAX_RESULTS:
            parts = [f"{name}={format_value(self._variables[name], LONG_VECTOR)}" for name in names]
            self._warnings.append(Warned("The results are too long to print; doubleVecs in them are cut short.", 0, 0))
        return ";".join((_three(dedicated, low_priority, option), *parts))

    def _named_values(self) -> tuple[NamedValue, ...]:
        return tuple(
            NamedValue(
                name, type_name(value), format_value(value, LONG_VECTOR), value if isinstance(value, float) else None
            )
            for name, value in sorted(self._variables.items())
        )

    def _error(self, detail: str, offset: int) -> EvaluationFailed:
        return EvaluationFailed(detail, *self._formula.position(offset))

    def _spend(self, amount: int, offset: int) -> None:
        self._work -= amount
        if self._work < 0:
            raise self._error(f"The formula does too much work: more than {MAX_WORK} steps.", offset)

    # Expressions

    def _value(self, node: Expression) -> Value:
        self._work -= 1
        return _EVALUATORS[type(node)](self, node)

    def _number(self, node: Expression, what: str) -> float:
        """The value of a node that is to be a double; `what` begins the message when it is not."""
        value = self._value(node)
        if isinstance(value, float):
            return value
        advice = "; make one number of it with avg, max or val" if isinstance(value, tuple) else ""
        raise self._error(f"{what} is a double, not {describe(value)}{advice}.", node.start)

    def _literal(self, node: Number | Text | Constant) -> Value:
        return node.value

    def _variable(self, node: Variable) -> Value:
        value = self._variables.get(node.name)
        if value is not None:
            return value
        if option := OPTIONS.get(node.name.lower()):
            return option
        other = node.name.removeprefix("$") if node.name.startswith("$") else f"${node.name}"
        hint = (
            f" {other} has one: the names with and without '$' are two variables." if other in self._variables else ""
        )
        raise self._error(f"The variable {node.name} has no value.{hint}", node.start)

    def _service(self, node: Service) -> Value:
        metric = node.variable.metric
        return self._setting(node.variable) if metric is None else self._current(metric, node)

    def _current(self, metric: Metric, node: Service) -> float:
        value = self._inputs.current.get(metric)
        available = 1
        if value is None:
            newest = self._inputs.samples.newest(metric, 1, self._inputs.now).values
            available = len(newest)
            value = newest[0] if newest else math.nan
        self._look(SampleMethod.CURRENT, metric, node, None, self._inputs.now, available, 1)
        if not available:
            raise self._insufficient(metric, "1 sample", "0", node)
        return float(value)

    def _unary(self, node: Unary) -> Value:
        value = self._value(node.operand)
        if isinstance(value, float):
            if node.operator == "-":
                return -value
            return 0.0 if value else 1.0
        if isinstance(value, Interval) and node.operator == "-":
            return Interval(-value.ticks)
        advice = "; multiply it by -1" if isinstance(value, tuple) and node.operator == "-" else ""
        raise self._error(f"'{node.operator}' does not go with {describe(value)}{advice}.", node.start)

    def _chain(self, node: Chain) -> Value:
        symbol = node.rest[0].operator
        if symbol in {"&&", "||"}:
            return self._logic(node, symbol == "||")
        value = self._value(node.first)
        for operation in node.rest:
            right = self._value(operation.operand)
            if isinstance(value, tuple) or isinstance(right, tuple):
                self._spend(max(len(one) for one in (value, right) if isinstance(one, tuple)), operation.at)
            try:
                value = apply(operation.operator, value, right)
            except ValueError as error:
                reason = str(error)
                raise self._error(f"{reason[0].upper()}{reason[1:]}.", operation.at) from None
        return value

    def _logic(self, node: Chain, decides: bool) -> float:
        """`&&` and `||`: the first operand that is what `decides` decides."""
        what = f"An operand of '{node.rest[0].operator}'"
        for operand in (node.first, *(operation.operand for operation in node.rest)):
            if (self._number(operand, what) != 0) is decides:
                return 1.0 if decides else 0.0
        return 0.0 if decides else 1.0

    def _choice(self, node: Choice) -> Value:
        for branch in node.branches:
            if self._number(branch.condition, "The condition before '?'") != 0:
                return self._value(branch.value)
        return self._value(node.otherwise)

    def _member(self, node: Member) -> float:
        value = self._value(node.target)
        if not isinstance(value, Moment):
            raise self._error(f"Only a timestamp has the member {node.name}, not {describe(value)}.", node.target.start)
        return member_of(value, node.name)

    # Functions

    def _call(self, node: Call) -> Value:
        name = node.name
        if name == "time":
            return self._time(node)
        if name == "stop":
            raise _Stopped
        if name == "rand":
            return self._chance.next()
        try:
            if rounding := ROUNDINGS.get(name):
                return rounding(self._number(node.arguments[0], f"The argument of {name}"))
            if name in {"percentile", "val"}:
                first = self._value(node.arguments[0])
                if not isinstance(first, tuple):
                    raise self._error(
                        f"The first argument of {name} is a doubleVec, not {describe(first)}.", node.arguments[0].start
                    )
                second = self._number(node.arguments[1], f"The second argument of {name}")
                self._spend(len(first), node.start)
                return finite(percentile(first, second) if name == "percentile" else element(first, second))
            values, scalar = self._flat(node)
            if logarithm := LOGARITHMS.get(name):
                results = tuple(map(logarithm, values))
                return results[0] if scalar else results
            if total := TOTALS.get(name):
                return finite(total(values))
            if not values:
                raise ValueError("there are no values")  # noqa: TRY301  told below, as those of the functions
            return finite(REDUCTIONS[name](values))
        except ValueError as error:
            reason = "only of positive numbers" if name in LOGARITHMS else str(error)
            raise self._error(f"{name}: {reason}.", node.start) from None

    def _flat(self, node: Call) -> tuple[list[float], bool]:
        """The numbers among the arguments, in order; and whether the only argument is a double."""
        values: list[float] = []
        value: Value = 0.0
        for argument in node.arguments:
            value = self._value(argument)
            if isinstance(value, float):
                values.append(value)
            elif isinstance(value, tuple):
                self._spend(len(value), argument.start)
                values.extend(value)
            else:
                raise self._error(
                    f"The arguments of {node.name} are doubles and doubleVecs, not {describe(value)}.", argument.start
                )
        return values, len(node.arguments) == 1 and isinstance(value, float)

    def _time(self, node: Call) -> Moment:
        if not node.arguments:
            return self._now
        text = self._value(node.arguments[0])
        if not isinstance(text, str) or isinstance(text, NodeDeallocationOption):
            raise self._error(f"The argument of time is a string, not {describe(text)}.", node.arguments[0].start)
        try:
            return parse_moment(text)
        except ValueError as error:
            raise self._error(f"{error}.", node.arguments[0].start) from None

    # Samples

    def _method(self, node: Method) -> Value:
        if not isinstance(node.target, Service):
            if node.target.name in self._variables:
                raise self._error(
                    f"{node.target.name} has no samples: {node.name} is for sampled variables such as $RunningTasks.",
                    node.start,
                )
            raise self._error(f"There is no sampled variable {node.target.name}.", node.start)
        metric = node.target.variable.metric
        assert metric is not None
        samples, now = self._inputs.samples, self._inputs.now
        match node.name:
            case "GetSample":
                return self._get_sample(node, metric)
            case "GetSamplePercent":
                arguments = [self._value(argument) for argument in node.arguments]
                after, until = self._window(node, arguments)
                available = len(samples.between(metric, after, until).values)
                self._spend(available, node.start)
                possible = self._possible(after, until)
                self._look(SampleMethod.GET_SAMPLE_PERCENT, metric, node, after, until, available, possible)
                return percent(available, possible)
            case "GetSamplePeriod":
                return interval(round(samples.period_s * TICKS_PER_SECOND))
            case "Count":
                count = samples.count(metric, now)
                self._look(SampleMethod.COUNT, metric, node, None, now, count, count)
                return float(count)
        oldest = samples.oldest_time(metric, now)
        self._look(SampleMethod.HISTORY_BEGIN_TIME, metric, node, None, now, int(oldest is not None), 1)
        if oldest is None:
            raise self._insufficient(metric, "1 sample", "0", node)
        return moment_of(oldest)

    def _get_sample(self, node: Method, metric: Metric) -> Value:
        arguments = [self._value(argument) for argument in node.arguments]
        inputs = self._inputs
        if isinstance(arguments[0], float):
            if len(arguments) > 1:
                raise self._error("GetSample with a number of samples takes nothing else.", node.arguments[1].start)
            if arguments[0] < 0:
                raise self._error("The number of samples is negative.", node.arguments[0].start)
            count = int(min(arguments[0], MAX_WORK))
            found = inputs.samples.newest(metric, count, inputs.now) if count else Samples((), ())
            self._spend(len(found.values), node.start)
            available = len(found.values)
            self._look(SampleMethod.GET_SAMPLE, metric, node, None, inputs.now, available, count)
            return tuple(map(float, found.values))
        wanted: float | None = None
        if len(arguments) > 1 and isinstance(last := arguments[-1], float):
            wanted = last
            arguments.pop()
        elif len(arguments) == 3:
            raise self._error(f"The samplePercent is a double, not {describe(arguments[2])}.", node.arguments[2].start)
        after, until = self._window(node, arguments)
        found = inputs.samples.between(metric, after, until)
        available, possible = len(found.values), self._possible(after, until)
        self._spend(available, node.start)
        self._look(SampleMethod.GET_SAMPLE, metric, node, after, until, available, possible, wanted)
        received = percent(available, possible)
        if wanted is not None and received < wanted:
            raise self._insufficient(metric, f"{_short(wanted)}%", f"{_short(received)}%", node)
        return tuple(map(float, found.values))

    def _window(self, node: Method, arguments: list[Value]) -> tuple[Timestamp, Timestamp]:
        """The window between two look-backs in either order, or from one until now: after, until."""
        bounds = [self._look_back(value, argument) for value, argument in zip(arguments, node.arguments, strict=False)]
        if len(bounds) == 1:
            bounds.append(self._now.ticks)
        return min(bounds) / TICKS_PER_SECOND, max(bounds) / TICKS_PER_SECOND

    def _look_back(self, value: Value, argument: Expression) -> int:
        """Ticks since 1970 of a look-back: a timestamp, or how long ago."""
        if isinstance(value, Moment):
            return min(value.ticks, self._now.ticks)
        if not isinstance(value, Interval):
            raise self._error(f"A look-back is a timeinterval or a timestamp, not {describe(value)}.", argument.start)
        if value.ticks < 0:
            raise self._error(f"The look-back {format_value(value)} is negative.", argument.start)
        return self._now.ticks - value.ticks

    def _possible(self, after: Timestamp, until: Timestamp) -> int:
        return max(1, math.floor((until - after) / self._inputs.samples.period_s + 1e-6))

    def _look(
        self,
        method: SampleMethod,
        metric: Metric,
        node: Expression,
        after: Timestamp | None,
        until: Timestamp,
        available: int,
        possible: int,
        wanted: float | None = None,
    ) -> None:
        line, column = self._formula.position(node.start)
        self._windows.append(SampleWindow(metric, method, line, column, after, until, available, possible, wanted))

    def _insufficient(self, metric: Metric, wanted: str, received: str, node: Expression) -> InsufficientSamples:
        return InsufficientSamples(
            f"Insufficient data from data set: {metric.value} wanted {wanted}, received {received}",
            *self._formula.position(node.start),
        )


class _Tracing(_Run):
    """An evaluation that notes every value."""

    def __init__(self, formula: Formula, inputs: Inputs) -> None:
        super().__init__(formula, inputs)
        self._statements: list[StatementTrace] = []
        self._steps: list[Step] = []
        self._depth = 0

    def _do(self, statement: Statement) -> Value:
        self._steps = []
        self._depth = 0
        value: Value | None = None
        try:
            value = super()._do(statement)
            return value
        finally:
            self._statements.append(
                StatementTrace(
                    statement.start,
                    statement.end,
                    *self._formula.position(statement.start),
                    None if statement.target is None else statement.target.name,
                    None if value is None else type_name(value),
                    None if value is None else format_value(value, LONG_VECTOR),
                    tuple(self._steps),
                )
            )

    def _value(self, node: Expression) -> Value:
        self._depth += 1
        value = super()._value(node)
        self._depth -= 1
        if not isinstance(node, (Number, Text, Constant)):
            self._steps.append(
                Step(
                    node.start,
                    node.end,
                    *self._formula.position(node.start),
                    self._depth,
                    type_name(value),
                    format_value(value, LONG_VECTOR),
                )
            )
        return value

    def _traces(self) -> tuple[StatementTrace, ...]:
        return tuple(self._statements)


_Evaluator: TypeAlias = Callable[[Any, Any], Value]
_EVALUATORS: Final[dict[type, _Evaluator]] = {
    Number: _Run._literal,
    Text: _Run._literal,
    Constant: _Run._literal,
    Variable: _Run._variable,
    Service: _Run._service,
    Call: _Run._call,
    Method: _Run._method,
    Member: _Run._member,
    Unary: _Run._unary,
    Chain: _Run._chain,
    Choice: _Run._choice,
}


def _three(dedicated: int, low_priority: int, option: NodeDeallocationOption) -> str:
    """The service's own variables, which every result begins with."""
    return (
        f"{TARGET_DEDICATED.name}={dedicated};{TARGET_LOW_PRIORITY.name}={low_priority};"
        f"{DEALLOCATION_OPTION.name}={option.value}"
    )


def _short(value: float) -> str:
    return format_double(round(value, 2))
