"""Looks at a formula before it runs: what will fail, what probably does not mean what was meant, what hurts later.

Every finding has a place and says what to do. The rules:

    syntax              the formula is refused
    unknown-variable    read, and assigned nowhere before
    bad-time            a text that time() cannot read
    division-by-zero    by nothing but zero
    bad-look-back       negative, or shorter than the time between two samples
    percent-scale       a GetSamplePercent (0 to 100) or a $CPUPercent (0 to 1) compared on the other's scale
    kills-running-work  a pool that shrinks takes nodes from running tasks, and does not wait for them
    queue-only          the target follows the queue alone: it is empty as soon as everything runs
    slots-ignored       tasks are counted where nodes run several tasks, or tasks need several slots
    no-sample-guard     samples are used with nothing said for the time when there are none
    possible-zero       a divisor that may be zero, with no condition before it
    no-target           the formula sets no target; constant-target: always the same
    no-cap              the target follows the tasks without an upper limit
    one-sample          GetSample(1) of what moves quickly, by itself
    both-names          a target is set by its full name and by its alias
    unused-variable     assigned and never read
    unreachable         after stop()
    chained-comparison  a < b < c
    extension, retired  not on Azure Batch, or not for long
"""

import difflib
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Final

import msgspec

from millpond.autoscale.analysis import Analysis, Place, name_of
from millpond.autoscale.errors import FormulaError
from millpond.autoscale.parser import parse
from millpond.autoscale.samples import DEFAULT_PERIOD_S
from millpond.autoscale.tree import Call, Chain, Expression, Method, Service, Statement, Variable, walk
from millpond.autoscale.values import Interval, Value, format_value
from millpond.autoscale.variables import (
    DEALLOCATION_OPTION,
    OPTIONS,
    SERVICE_VARIABLES,
    TARGET_DEDICATED,
    TARGET_LOW_PRIORITY,
    Metric,
)
from millpond.domain.states import NodeDeallocationOption


class Severity(StrEnum):
    """How sure, and how bad."""

    ERROR = "error"
    """Refused, or certain to fail when it is reached."""
    WARNING = "warning"
    """Works, and probably not as meant."""
    NOTE = "note"
    """Worth knowing."""


class Finding(msgspec.Struct, frozen=True, gc=False):
    """One thing found. `rule` is stable, for tools to leave out what is known."""

    rule: str
    severity: Severity
    message: str
    hint: str
    """What to do; may be empty."""
    line: int
    column: int


class LintFacts(msgspec.Struct, frozen=True, gc=False):
    """What is known of the pool; None is unknown."""

    task_slots_per_node: int | None = None
    several_slots: bool | None = None
    """Whether tasks with requiredSlots above 1 run on it."""
    period_s: float = DEFAULT_PERIOD_S


_UNKNOWN_POOL: Final = LintFacts()
_TARGETS: Final = (TARGET_DEDICATED.name, TARGET_LOW_PRIORITY.name)
_TASK_COUNTS: Final = frozenset({Metric.ACTIVE_TASKS, Metric.RUNNING_TASKS, Metric.PENDING_TASKS})
_TASK_SLOTS: Final = frozenset({Metric.ACTIVE_TASK_SLOTS, Metric.RUNNING_TASK_SLOTS, Metric.PENDING_TASK_SLOTS})
_SET_BY_FORMULA: Final = frozenset({*_TARGETS, DEALLOCATION_OPTION.name})
_PATIENT: Final = frozenset({NodeDeallocationOption.TASK_COMPLETION, NodeDeallocationOption.RETAINED_DATA})
_REDUCING: Final = frozenset({"avg", "max", "min", "norm", "range", "std"})
_ASKING: Final = (".GetSamplePercent", ".Count", ".HistoryBeginTime")
_COMPARISONS: Final = frozenset({"<", "<=", ">", ">=", "==", "!="})
_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def lint(text: str, facts: LintFacts = _UNKNOWN_POOL) -> list[Finding]:
    """What there is to say of a formula, in the order of the text; a formula that cannot be read has one finding."""
    try:
        formula = parse(text)
    except FormulaError as error:
        return [Finding("syntax", Severity.ERROR, error.detail, "", error.line, error.column)]
    found = list(_Linter(Analysis(formula), facts).findings())
    return sorted(found, key=lambda one: (one.line, one.column, _ORDER[one.severity], one.rule))


class _Linter:
    def __init__(self, analysis: Analysis, facts: LintFacts) -> None:
        self._analysis = analysis
        self._facts = facts
        self._targets = [one for name in _TARGETS for one in analysis.assignments.get(name, ())]

    def findings(self) -> Iterator[Finding]:
        yield from self._variables()
        yield from self._service_variables()
        yield from self._targets_set()
        yield from self._shrinking()
        yield from self._slots()
        yield from self._statements()
        for place in self._analysis.places:
            match place.node:
                case Method():
                    yield from self._sampling(place, place.node)
                case Chain():
                    yield from self._comparisons(place.node)
                    yield from self._divisions(place, place.node)
                case Call(name="time", arguments=(argument,)):
                    yield from self._time(place.node, argument)

    def _finding(self, rule: str, severity: Severity, offset: int, message: str, hint: str = "") -> Finding:
        return Finding(rule, severity, message, hint, *self._analysis.formula.position(offset))

    # Variables

    def _variables(self) -> Iterator[Finding]:
        assigned: set[str] = set()
        read: set[str] = set()
        reported: set[str] = set()
        places = iter(self._analysis.places)
        place = next(places, None)
        for statement in self._analysis.formula.statements:
            while place is not None and place.statement is statement:
                node = place.node
                if isinstance(node, Variable):
                    read.add(node.name)
                    if node.name not in assigned | reported and node.name.lower() not in OPTIONS:
                        reported.add(node.name)
                        yield self._unknown(node, assigned)
                place = next(places, None)
            if isinstance(statement.target, Variable):
                assigned.add(statement.target.name)
        for name, statements in self._analysis.assignments.items():
            if name not in read and name not in _SET_BY_FORMULA:
                yield self._finding(
                    "unused-variable",
                    Severity.NOTE,
                    statements[0].start,
                    f"{name} is assigned and never read.",
                    "It still shows in the results, which may be what it is for.",
                )

    def _unknown(self, node: Variable, assigned: set[str]) -> Finding:
        known = sorted(assigned | {variable.name for variable in SERVICE_VARIABLES} | set(OPTIONS))
        other = node.name.removeprefix("$") if node.name.startswith("$") else f"${node.name}"
        same = [name for name in known if name.lower() in {node.name.lower(), other.lower()}]
        close = same or difflib.get_close_matches(node.name[:64], known, 1)
        hint = f"Is {close[0]} meant?" if close else "Assign it before it is read."
        if other in assigned:
            hint = f"{other} is assigned: the names with and without '$' are two variables."
        return self._finding(
            "unknown-variable",
            Severity.ERROR,
            node.start,
            f"{node.name} has no value here: it is assigned nowhere before.",
            hint,
        )

    def _service_variables(self) -> Iterator[Finding]:
        seen: set[str] = set()
        for place in self._analysis.places:
            node = place.node
            if not isinstance(node, Service) or node.variable.name in seen:
                continue
            seen.add(node.variable.name)
            if node.variable.extension:
                yield self._finding(
                    "extension",
                    Severity.NOTE,
                    node.start,
                    f"{node.variable.name} is Millpond's own; Azure Batch does not have it.",
                )
            elif node.variable.retired:
                yield self._finding(
                    "retired",
                    Severity.NOTE,
                    node.start,
                    f"{node.variable.name} is announced as retired by Azure Batch.",
                    "Scale by task counts where the formula is to run there too.",
                )

    # Targets

    def _targets_set(self) -> Iterator[Finding]:
        if not self._targets:
            yield self._finding(
                "no-target",
                Severity.WARNING,
                0,
                "The formula sets no target: it never changes the pool.",
                f"Assign to {TARGET_DEDICATED.name} or {TARGET_LOW_PRIORITY.name}.",
            )
            return
        values = {statement.start: self._analysis.constant(statement.value) for statement in self._targets}
        if all(value is not None for value in values.values()):
            yield self._finding(
                "constant-target",
                Severity.NOTE,
                self._targets[0].start,
                "The targets are always the same.",
                "A pool of fixed size needs no formula.",
            )
        for name in _TARGETS:
            statements = self._analysis.assignments.get(name, [])
            spellings = {statement.target.name for statement in statements if statement.target is not None}
            if len(spellings) > 1:
                yield self._finding(
                    "both-names",
                    Severity.WARNING,
                    statements[-1].start,
                    f"{' and '.join(sorted(spellings))} are one variable; {name} counts whichever comes last.",
                    "Use the full name only.",
                )
            if statements and values[statements[-1].start] is None:
                yield from self._cap(statements[-1])

    def _cap(self, statement: Statement) -> Iterator[Finding]:
        sources = self._analysis.sources(statement.value)
        followed = {metric.value for metric in (*_TASK_COUNTS, *_TASK_SLOTS)} & sources
        if followed and not any(
            isinstance(place.node, Call) and place.node.name == "min" and len(place.node.arguments) > 1
            for place in self._behind(statement)
        ):
            yield self._finding(
                "no-cap",
                Severity.NOTE,
                statement.start,
                f"The target follows {_names(followed)} without an upper limit.",
                "Limit it: min(25, …).",
            )

    def _behind(self, statement: Statement) -> Iterator[Place]:
        """Every expression that a statement's value is made of, through variables."""
        names = self._analysis.mentions(statement.value)
        for place in self._analysis.places:
            target = place.statement.target
            if place.statement is statement or (target is not None and name_of(target) in names):
                yield place

    def _shrinking(self) -> Iterator[Finding]:
        moving = [one for one in self._targets if self._analysis.constant(one.value) is None]
        if not moving:
            return
        options = self._analysis.assignments.get(DEALLOCATION_OPTION.name, [])
        if any(self._patient(statement.value) for statement in options):
            return
        follows = self._analysis.sources(moving[-1].value)
        yield self._finding(
            "kills-running-work",
            Severity.WARNING,
            options[-1].start if options else moving[-1].start,
            "When the pool shrinks, tasks running on nodes that are taken away are interrupted"
            + (" and run again from the start." if not options else "."),
            f"End with {DEALLOCATION_OPTION.name} = taskcompletion; then nodes finish their tasks first.",
        )
        counts = follows & {metric.value for metric in _TASK_COUNTS}
        if counts == {Metric.ACTIVE_TASKS.value}:
            yield self._finding(
                "queue-only",
                Severity.WARNING,
                moving[-1].start,
                "$ActiveTasks counts waiting tasks only: it is 0 as soon as all of them run, and the pool shrinks under them.",
                "Use $PendingTasks, which counts running tasks as well.",
            )

    def _patient(self, value: Expression) -> bool:
        """Whether an option lets tasks end, on some path at least."""
        constant = self._analysis.constant(value)
        if constant is not None:
            return constant in _PATIENT
        return any(isinstance(node, Variable) and node.name.lower() in _PATIENT for node in walk(value))

    def _slots(self) -> Iterator[Finding]:
        facts = self._facts
        sources: frozenset[str] = frozenset().union(*(self._analysis.sources(one.value) for one in self._targets))
        if sources & {metric.value for metric in _TASK_SLOTS}:
            return
        if facts.several_slots:
            yield from self._slots_ignored(sources, "The pool runs tasks that need several slots")
        elif Metric.TASK_SLOTS_PER_NODE.value in sources or facts.task_slots_per_node == 1:
            return
        elif facts.task_slots_per_node is not None:
            yield from self._slots_ignored(sources, f"Each node has {facts.task_slots_per_node} slots")
        elif not any(self._divided(statement) for statement in self._targets):
            yield from self._slots_ignored(sources, "Nodes may have several slots", Severity.NOTE)

    def _slots_ignored(
        self, sources: frozenset[str], when: str, severity: Severity = Severity.WARNING
    ) -> Iterator[Finding]:
        counts = {metric.value for metric in _TASK_COUNTS} & sources
        if counts:
            first = next(
                place.node
                for place in self._analysis.places
                if isinstance(place.node, Service) and place.node.variable.name in counts
            )
            yield self._finding(
                "slots-ignored",
                severity,
                first.start,
                f"{when}, and {_names(counts)} counts tasks, not slots.",
                "Divide by $TaskSlotsPerNode; where tasks need several slots, start from $PendingTaskSlots (Millpond's own).",
            )

    def _divided(self, statement: Statement) -> bool:
        """Whether a number of tasks is divided on the way to a target: the author has thought of tasks per node."""
        return any(
            isinstance(place.node, Chain)
            and any(one.operator == "/" for one in place.node.rest)
            and name_of(place.node.first) not in _SET_BY_FORMULA
            and self._analysis.metrics(place.node.first) & _TASK_COUNTS
            for place in self._behind(statement)
        )

    # Statements

    def _statements(self) -> Iterator[Finding]:
        statements = self._analysis.formula.statements
        for statement, following in pairwise(statements):
            if isinstance(statement.value, Call) and statement.value.name == "stop":
                yield self._finding(
                    "unreachable", Severity.WARNING, following.start, "What comes after stop() is never evaluated."
                )
                return

    def _time(self, node: Expression, argument: Expression) -> Iterator[Finding]:
        if isinstance(self._analysis.constant(argument), str) and self._analysis.constant(node) is None:
            yield self._finding(
                "bad-time",
                Severity.ERROR,
                argument.start,
                f"time() cannot read {format_value(self._analysis.constant(argument) or '')[:64]!r}.",
                'Write "2026-01-31T12:00:00Z" or "Sat, 31 Jan 2026 12:00:00 GMT".',
            )

    # Samples

    def _sampling(self, place: Place, node: Method) -> Iterator[Finding]:
        if node.name not in {"GetSample", "GetSamplePercent"}:
            return
        constants = [self._analysis.constant(argument) for argument in node.arguments]
        for argument, value in zip(node.arguments, constants, strict=True):
            if isinstance(value, Interval) and value.ticks < 0:
                yield self._finding(
                    "bad-look-back",
                    Severity.ERROR,
                    argument.start,
                    "The look-back is negative.",
                    "Write how long ago: TimeInterval_Minute * 5.",
                )
        span = _span(constants)
        if span is not None and 0 <= span < self._facts.period_s:
            yield self._finding(
                "bad-look-back",
                Severity.WARNING,
                node.arguments[0].start,
                f"The window is {span:g} s long, and samples are taken every {self._facts.period_s:g} s: "
                "it is empty most of the time.",
                "Look back over several samples.",
            )
        if node.name == "GetSample":
            yield from self._guard(place, node, constants)
            if constants[0] == 1.0 and not self._has_default(place):
                yield self._finding(
                    "one-sample",
                    Severity.NOTE,
                    node.start,
                    "One sample decides: the pool follows every twitch.",
                    "Take the mean of some minutes, or the larger of both.",
                )

    def _guard(self, place: Place, node: Method, constants: list[Value | None]) -> Iterator[Finding]:
        """Samples are guarded by a condition on their number or on the time, or by a number beside them."""
        if self._asked_for_samples(place):
            return
        by_count = isinstance(constants[0], float)
        demanding = len(node.arguments) == 3 or (len(node.arguments) == 2 and isinstance(constants[1], float))
        if not demanding:
            users = self._users(place)
            if all(self._asked_for_samples(one) or self._has_default(one) or not one.calls for one in users):
                return
        what = "too few samples" if demanding else "no sample yet" if by_count else "no sample in the window"
        yield self._finding(
            "no-sample-guard",
            Severity.NOTE if by_count or demanding else Severity.WARNING,
            node.start,
            f"With {what} the evaluation fails, and the pool stays as it is.",
            f"Ask first: {node.target.name}.GetSamplePercent(…) < 70 ? a default : …"
            + ("." if demanding else "; or give a default: max(0, …)."),
        )

    def _users(self, place: Place) -> list[Place]:
        """Where samples are used: where they are taken, or where the variable is read that they are put into."""
        target = place.statement.target
        if place.node is not place.statement.value or not isinstance(target, Variable):
            return [place]
        return [one for one in self._analysis.places if isinstance(one.node, Variable) and one.node.name == target.name]

    def _asked_for_samples(self, place: Place) -> bool:
        for condition in place.conditions:
            sources = self._analysis.sources(condition)
            if "time" in sources or any(source.endswith(_ASKING) for source in sources):
                return True
        return False

    def _has_default(self, place: Place) -> bool:
        """Whether the function around samples has something to work with when there are none."""
        if not place.calls:
            return False
        call = place.calls[-1]
        if call.name in {"len", "sum"}:
            return True
        return call.name in _REDUCING and any(
            not any(isinstance(inner, Method) or inner is place.node for inner in walk(argument))
            for argument in call.arguments
        )

    # Operators

    def _comparisons(self, node: Chain) -> Iterator[Finding]:
        if node.rest[0].operator not in _COMPARISONS:
            return
        if len(node.rest) > 1:
            yield self._finding(
                "chained-comparison",
                Severity.WARNING,
                node.rest[1].at,
                "The result of the comparison before (1 or 0) is compared.",
                "Write a < b && b < c.",
            )
        for value, other in ((node.first, node.rest[0].operand), (node.rest[0].operand, node.first)):
            limit = self._analysis.constant(other)
            if not isinstance(limit, float):
                continue
            scale = self._scale_of(value)
            if scale == 100 and 0 < limit < 1:
                yield self._finding(
                    "percent-scale",
                    Severity.WARNING,
                    other.start,
                    f"GetSamplePercent gives 0 to 100; {limit:g} is less than one percent.",
                    f"Write {limit * 100:g}.",
                )
            elif scale == 1 and limit > 1:
                yield self._finding(
                    "percent-scale",
                    Severity.WARNING,
                    other.start,
                    f"$CPUPercent is a fraction from 0 to 1; it never reaches {limit:g}.",
                    f"Write {limit / 100:g}.",
                )

    def _scale_of(self, node: Expression) -> int:
        """100 for a percentage of samples, 1 for processor use, 0 for all else."""
        if isinstance(node, Variable):
            assigned = self._analysis.assignments.get(node.name, [])
            return self._scale_of(assigned[0].value) if len(assigned) == 1 and assigned[0].end < node.start else 0
        if isinstance(node, Call) and node.arguments and node.name in {"avg", "max", "min", "val", "percentile"}:
            return self._scale_of(node.arguments[0])
        if isinstance(node, Method) and node.name == "GetSamplePercent":
            return 100
        sampled = node.target if isinstance(node, Method) and node.name == "GetSample" else node
        return 1 if isinstance(sampled, Service) and sampled.variable.metric is Metric.CPU_PERCENT else 0

    def _divisions(self, place: Place, node: Chain) -> Iterator[Finding]:
        for operation in node.rest:
            if operation.operator != "/":
                continue
            divisor = operation.operand
            value = self._analysis.constant(divisor)
            if value == 0.0 and isinstance(value, float):
                yield self._finding("division-by-zero", Severity.ERROR, operation.at, "The divisor is 0.")
            elif value is None and not self._never_zero(divisor) and not self._asked_before(place, divisor):
                yield self._finding(
                    "possible-zero",
                    Severity.NOTE,
                    operation.at,
                    "If the divisor is 0, the evaluation fails and the pool stays as it is.",
                    "Divide by max(1, …), or ask before: d > 0 ? n / d : 0.",
                )

    def _never_zero(self, divisor: Expression) -> bool:
        if isinstance(divisor, Service):
            return divisor.variable.metric is Metric.TASK_SLOTS_PER_NODE
        if isinstance(divisor, Variable):
            assigned = self._analysis.assignments.get(divisor.name, [])
            return bool(assigned) and all(self._nonzero(statement.value) for statement in assigned)
        return self._nonzero(divisor)

    def _nonzero(self, node: Expression) -> bool:
        value = self._analysis.constant(node)
        if value is not None:
            return _positive(value)
        if isinstance(node, Call) and node.name == "max":
            return any(_positive(self._analysis.constant(argument)) for argument in node.arguments)
        return isinstance(node, Service) and node.variable.metric is Metric.TASK_SLOTS_PER_NODE

    def _asked_before(self, place: Place, divisor: Expression) -> bool:
        """Whether a condition before mentions what the divisor is made of."""
        own = self._analysis.sources(divisor)
        return any(own & self._analysis.sources(condition) for condition in place.conditions)


def _span(look_backs: list[Value | None]) -> float | None:
    """Seconds of the window between constant look-backs; None when they are not."""
    match look_backs:
        case [Interval() as first] | [Interval() as first, float()]:
            return first.seconds
        case [Interval() as first, Interval() as second, *_]:
            return abs(first.seconds - second.seconds)
    return None


def _positive(value: object) -> bool:
    return isinstance(value, float) and value > 0


def _names(names: set[str] | frozenset[str]) -> str:
    return " and ".join(sorted(names))
