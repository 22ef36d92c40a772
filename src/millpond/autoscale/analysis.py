"""What can be said of a formula without running it: constants, and what depends on what.

All of it is about the text, not about one run: a variable depends on everything that any of its assignments mentions.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from millpond.autoscale.errors import FormulaError
from millpond.autoscale.evaluate import Inputs, value_of
from millpond.autoscale.samples import History
from millpond.autoscale.tree import (
    Call,
    Chain,
    Choice,
    Expression,
    Formula,
    Method,
    Service,
    Statement,
    Variable,
    children,
    walk,
)
from millpond.autoscale.values import Value
from millpond.autoscale.variables import OPTIONS, Metric

_NOWHERE: Final = Inputs(0.0, History())

_MOST_CONDITIONS: Final = 32
"""Kept of those before an expression, the nearest: enough for what people write."""


class Place(NamedTuple):
    """An expression and where it stands in its statement."""

    node: Expression
    statement: Statement
    conditions: tuple[Expression, ...]
    """What was evaluated before it and decided that it is evaluated at all: ternaries' conditions, the left of `&&`."""
    calls: tuple[Call, ...]
    """The functions it is inside the arguments of, the innermost last."""


class Analysis:
    """A formula, asked about."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.assignments: dict[str, list[Statement]] = {}
        """By the name assigned to; aliases of service variables by the full name."""
        for statement in formula.statements:
            if statement.target is not None:
                name = name_of(statement.target) or statement.target.name
                self.assignments.setdefault(name, []).append(statement)
        self.places = [
            place for statement in formula.statements for place in _places(Place(statement.value, statement, (), ()))
        ]
        """Every expression, those outside before those inside them."""
        self._reached: dict[str, frozenset[str]] = {}
        self._direct: dict[str, frozenset[str]] = {}
        self._constants: dict[str, Value | None] = {}
        """Of variables assigned once."""

    def sources(self, node: Expression) -> frozenset[str]:
        """What the value of an expression comes from, through the formula's own variables.

        Full names of service variables, methods and functions with what was asked of which variable
        (`$ActiveTasks.GetSample`, `time`), and names of the formula's own variables.
        """
        found = set(_direct_sources(node))
        for name in self.mentions(node):
            found.add(name)
            if name not in self._direct:
                statements = self.assignments.get(name, ())
                self._direct[name] = frozenset().union(*(_direct_sources(one.value) for one in statements))
            found |= self._direct[name]
        return frozenset(found)

    def metrics(self, node: Expression) -> set[Metric]:
        """The metrics among the sources."""
        names = self.sources(node)
        return {metric for metric in Metric if metric.value in names}

    def mentions(self, node: Expression) -> set[str]:
        """The variables with assignments that an expression mentions, itself or through others."""
        found: set[str] = set()
        for inner in walk(node):
            name = name_of(inner)
            if name is not None:
                found |= self._reachable(name)
        return found

    def _reachable(self, name: str) -> frozenset[str]:
        if name not in self._reached:
            reached = {name}
            waiting = [name]
            while waiting:
                for statement in self.assignments.get(waiting.pop(), ()):
                    others = {name_of(inner) for inner in walk(statement.value)} - {None}
                    waiting.extend(other for other in others if other is not None and other not in reached)
                    reached.update(waiting)
            self._reached[name] = frozenset(reached)
        return self._reached[name]

    def constant(self, node: Expression) -> Value | None:
        """The value of an expression that always has the same; None for the others, and for those that fail.

        A variable of the formula's own is constant when it is assigned once, before, to a constant.
        """
        variables: dict[str, Value] = {}
        for inner in walk(node):
            match inner:
                case Service() | Method() | Call(name="rand" | "stop") | Call(name="time", arguments=()):
                    return None
                case Variable(name=name) if name not in variables:
                    assigned = self.assignments.get(name, [])
                    if not assigned and name.lower() in OPTIONS:
                        continue
                    if len(assigned) != 1 or assigned[0].end > inner.start:
                        return None
                    if name not in self._constants:
                        self._constants[name] = self.constant(assigned[0].value)
                    value = self._constants[name]
                    if value is None:
                        return None
                    variables[name] = value
        try:
            return value_of(self.formula, node, _NOWHERE, variables)
        except FormulaError:
            return None


def name_of(node: Expression) -> str | None:
    """The name of a variable that can be assigned to, the full one for an alias; None for all else."""
    if isinstance(node, Variable):
        return node.name
    if isinstance(node, Service) and node.variable.metric is None:
        return node.variable.name
    return None


def _direct_sources(node: Expression) -> Iterator[str]:
    asked = set()
    for inner in walk(node):
        match inner:
            case Method(target=Service(variable=variable) as target, name=name):
                yield f"{variable.name}.{name}"
                if name != "GetSample":
                    # How many samples there are says nothing of what they are.
                    asked.add(id(target))
            case Service(variable=variable) if id(inner) not in asked:
                yield variable.name
            case Call(name=name):
                yield name


def _places(place: Place) -> Iterator[Place]:
    yield place
    node, statement, conditions, calls = place
    match node:
        case Choice():
            before = conditions
            for branch in node.branches:
                yield from _places(Place(branch.condition, statement, before, calls))
                before = (*before, branch.condition)[-_MOST_CONDITIONS:]
                yield from _places(Place(branch.value, statement, before, calls))
            yield from _places(Place(node.otherwise, statement, before, calls))
        case Chain() if node.rest[0].operator in {"&&", "||"}:
            before = conditions
            for operand in children(node):
                yield from _places(Place(operand, statement, before, calls))
                before = (*before, operand)[-_MOST_CONDITIONS:]
        case _:
            inner = (*calls, node) if isinstance(node, Call) else calls
            for child in children(node):
                yield from _places(Place(child, statement, conditions, inner))
