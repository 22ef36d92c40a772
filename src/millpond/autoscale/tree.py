"""The tree of a formula, and its text again.

Every node knows where it stands in the text: `start` and `end` are offsets, `end` exclusive. Parentheses are not in the
tree; operators of one level stand in one `Chain` (`a - b + c` is one, `a - (b + c)` one in another), and so do the
branches of a ternary chain in one `Choice`, so that the tree is only as deep as its parentheses, arguments and signs.
Service variables, constants, functions and methods carry their canonical names.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from millpond.autoscale.values import Interval, format_double
from millpond.autoscale.variables import ServiceVariable

LEVELS: Final = {
    "||": 1,
    "&&": 2,
    "==": 3,
    "!=": 3,
    "<": 4,
    "<=": 4,
    ">": 4,
    ">=": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
}
"""Binary operators and how tightly they bind. Azure's documentation gives no precedence; this is C's, and every
published formula means by it what its author says."""
_LINE_END: Final = re.compile(r"\r\n?|\n")
_UNARY_LEVEL: Final = 7
_PRIMARY_LEVEL: Final = 8


class Number(msgspec.Struct, frozen=True, gc=False):
    start: int
    end: int
    value: float


class Text(msgspec.Struct, frozen=True, gc=False):
    start: int
    end: int
    value: str


class Constant(msgspec.Struct, frozen=True, gc=False):
    """`TimeInterval_Minute` and its like."""

    start: int
    end: int
    name: str
    value: Interval


class Variable(msgspec.Struct, frozen=True, gc=False):
    """A variable of the formula's own, or one of the words of `$NodeDeallocationOption`; `x` and `$x` are two."""

    start: int
    end: int
    name: str


class Service(msgspec.Struct, frozen=True, gc=False):
    """A variable of the service, by its full name or an alias."""

    start: int
    end: int
    name: str
    variable: ServiceVariable


class Call(msgspec.Struct, frozen=True, gc=False):
    start: int
    end: int
    name: str
    arguments: "tuple[Expression, ...]"


class Method(msgspec.Struct, frozen=True, gc=False):
    """`$RunningTasks.GetSample(…)`; only the service's sampled variables have methods."""

    start: int
    end: int
    target: Service | Variable
    name: str
    arguments: "tuple[Expression, ...]"


class Member(msgspec.Struct, frozen=True, gc=False):
    """`$curTime.hour`."""

    start: int
    end: int
    target: "Expression"
    name: str


class Unary(msgspec.Struct, frozen=True, gc=False):
    start: int
    end: int
    operator: str
    operand: "Expression"


class Operation(msgspec.Struct, frozen=True, gc=False):
    """An operator of a chain and what stands to its right; `at` is the operator's own place."""

    at: int
    operator: str
    operand: "Expression"


class Chain(msgspec.Struct, frozen=True, gc=False):
    """Operators of one level, applied from the left."""

    start: int
    end: int
    first: "Expression"
    rest: tuple[Operation, ...]


class Branch(msgspec.Struct, frozen=True, gc=False):
    condition: "Expression"
    value: "Expression"


class Choice(msgspec.Struct, frozen=True, gc=False):
    """`c1 ? v1 : c2 ? v2 : otherwise`. Only what is chosen is evaluated."""

    start: int
    end: int
    branches: tuple[Branch, ...]
    otherwise: "Expression"


Expression: TypeAlias = Number | Text | Constant | Variable | Service | Call | Method | Member | Unary | Chain | Choice


class Statement(msgspec.Struct, frozen=True, gc=False):
    """`target = value`, or a value alone (`stop()`)."""

    start: int
    end: int
    target: Service | Variable | None
    value: Expression


class Formula(msgspec.Struct, frozen=True, gc=False):
    """A formula that is in the grammar."""

    text: str
    """As it was given."""
    statements: tuple[Statement, ...]
    line_starts: tuple[int, ...]
    """The offsets at which lines begin."""

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset into the text, both from 1."""
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1


def line_starts(text: str) -> tuple[int, ...]:
    """The offsets at which lines begin; one ends with a line feed, a carriage return or both."""
    return (0, *(match.end() for match in _LINE_END.finditer(text)))


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, both from 1."""
    return Formula(text, (), line_starts(text)).position(offset)


def children(node: Expression) -> Iterator[Expression]:
    """What a node is made of, in the order of the text."""
    match node:
        case Call() | Method():
            if isinstance(node, Method):
                yield node.target
            yield from node.arguments
        case Member():
            yield node.target
        case Unary():
            yield node.operand
        case Chain():
            yield node.first
            for operation in node.rest:
                yield operation.operand
        case Choice():
            for branch in node.branches:
                yield branch.condition
                yield branch.value
            yield node.otherwise
        case _:
            pass


def walk(node: Expression) -> Iterator[Expression]:
    """The node and all below it, parents first, in the order of the text."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(list(children(node))))


def print_formula(formula: Formula) -> str:
    """A formula as text, one statement a line, without comments and without parentheses it does not need."""
    return "".join(f"{print_statement(statement)};\n" for statement in formula.statements)


def print_statement(statement: Statement) -> str:
    value = print_expression(statement.value)
    return value if statement.target is None else f"{statement.target.name} = {value}"


def print_expression(node: Expression) -> str:
    match node:
        case Number():
            # The grammar reads a small e as well as a large one; small is how people write it.
            return format_double(node.value).replace("E", "e")
        case Text():
            mark = "'" if '"' in node.value else '"'
            return f"{mark}{node.value}{mark}"
        case Constant() | Variable() | Service():
            return node.name
        case Call():
            return f"{node.name}({', '.join(map(print_expression, node.arguments))})"
        case Method():
            return f"{node.target.name}.{node.name}({', '.join(map(print_expression, node.arguments))})"
        case Member():
            return f"{_at_level(node.target, _PRIMARY_LEVEL)}.{node.name}"
        case Unary():
            return f"{node.operator}{_at_level(node.operand, _UNARY_LEVEL)}"
        case Chain():
            inner = _level(node) + 1
            rest = "".join(f" {one.operator} {_at_level(one.operand, inner)}" for one in node.rest)
            return _at_level(node.first, inner) + rest
        case Choice():
            branches = "".join(f"{_at_level(one.condition, 1)} ? {_at_level(one.value, 1)} : " for one in node.branches)
            return branches + _at_level(node.otherwise, 1)


def _level(node: Expression) -> int:
    """How tightly the outermost operator of a node binds; 0 for a ternary."""
    match node:
        case Choice():
            return 0
        case Chain():
            return LEVELS[node.rest[0].operator]
        case Unary():
            return _UNARY_LEVEL
        case _:
            return _PRIMARY_LEVEL


def _at_level(node: Expression, level: int) -> str:
    text = print_expression(node)
    # A dot after a number would be read as part of it.
    return f"({text})" if _level(node) < level or (level == _PRIMARY_LEVEL and isinstance(node, Number)) else text


def shape(formula: Formula) -> object:
    """The tree without its places, as plain tuples: equal for texts that mean the same tree."""
    return tuple((None if one.target is None else one.target.name, _shape(one.value)) for one in formula.statements)


def _shape(node: Expression) -> object:
    match node:
        case Number() | Text():
            return node.value
        case Constant() | Variable() | Service():
            return (type(node).__name__, node.name)
        case Call():
            return ("Call", node.name, *map(_shape, node.arguments))
        case Method():
            return ("Method", node.target.name, node.name, *map(_shape, node.arguments))
        case Member():
            return ("Member", _shape(node.target), node.name)
        case Unary():
            return (node.operator, _shape(node.operand))
        case Chain():
            return ("Chain", _shape(node.first), *((one.operator, _shape(one.operand)) for one in node.rest))
        case Choice():
            branches = ((_shape(one.condition), _shape(one.value)) for one in node.branches)
            return ("Choice", *branches, _shape(node.otherwise))
