"""A filter over values in memory."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from millpond.odata.filters import And, Comparison, Condition, Filter, Literal, Operator, Or, StartsWith, fold

ValueOf: TypeAlias = Callable[[str], Literal | None]
"""Path on the wire → the entity's value, None when it has none."""


def matches(where: Filter, values: Mapping[str, Literal | None] | ValueOf) -> bool:
    """Whether an entity passes the filter. A path missing from a mapping has no value.

    Strings are compared without regard to case (see `filters.fold`). A value whose type is not that of the literal is
    treated as no value.
    """
    return _holds(where.condition, values.get if isinstance(values, Mapping) else values)


def _holds(condition: Condition, value_of: ValueOf) -> bool:
    match condition:
        case And(parts):
            return all(_holds(part, value_of) for part in parts)
        case Or(parts):
            return any(_holds(part, value_of) for part in parts)
        case StartsWith(path, prefix):
            text = value_of(path)
            return isinstance(text, str) and fold(text).startswith(fold(prefix))
        case Comparison(path, operator, literal):
            return _compare(value_of(path), operator, literal)


def _compare(value: Literal | None, operator: Operator, literal: Literal | None) -> bool:
    left: bytes | float
    right: bytes | float
    if literal is None:
        return operator is (Operator.EQ if value is None else Operator.NE)
    if isinstance(literal, str):
        if not isinstance(value, str):
            return operator is Operator.NE
        left, right = fold(value), fold(literal)
        return _ordered(operator, (left > right) - (left < right))
    if value is None or isinstance(value, str):
        return operator is Operator.NE
    left, right = value, literal
    return _ordered(operator, (left > right) - (left < right))


def _ordered(operator: Operator, sign: int) -> bool:
    """Whether `left operator right`, given the sign of their difference."""
    match operator:
        case Operator.EQ:
            return sign == 0
        case Operator.NE:
            return sign != 0
        case Operator.GE:
            return sign >= 0
        case Operator.GT:
            return sign > 0
        case Operator.LE:
            return sign <= 0
        case Operator.LT:
            return sign < 0
