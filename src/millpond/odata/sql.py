"""A filter as an SQL condition with parameters.

Written for SQLite; nothing of the filter's text reaches the SQL but through parameters and the caller's own column
expressions.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from millpond.odata.filters import And, Comparison, Condition, Filter, Operator, Or, StartsWith, fold


class Column(msgspec.Struct, frozen=True):
    """Where a property lives in a row."""

    expression: str
    """SQL, safe inside any other expression (parenthesised if need be)."""
    folded: bool = False
    """The text is in lower case already (ids in comparison form, states), so a plain comparison will do."""


Columns: TypeAlias = Mapping[str, Column]
"""Path on the wire → column."""

Parameter: TypeAlias = str | int | float

_SIGNS: Final = {
    Operator.EQ: "=",
    Operator.NE: "IS NOT",  # true for NULL, see `filters`
    Operator.GE: ">=",
    Operator.GT: ">",
    Operator.LE: "<=",
    Operator.LT: "<",
}


def to_sql(where: Filter, columns: Columns) -> tuple[str, list[Parameter]]:
    """The condition, in parentheses, and its parameters in order (`?`).

    The rows it selects are those for which `evaluate.matches` holds. Raises KeyError for a property without a column.
    """
    parameters: list[Parameter] = []
    return _sql(where.condition, columns, parameters), parameters


def _sql(condition: Condition, columns: Columns, parameters: list[Parameter]) -> str:
    match condition:
        case And(parts):
            return f"({' AND '.join([_sql(part, columns, parameters) for part in parts])})"
        case Or(parts):
            return f"({' OR '.join([_sql(part, columns, parameters) for part in parts])})"
        case StartsWith(path, prefix):
            return _starts_with(columns[path], prefix, parameters)
        case Comparison(path, operator, literal):
            column = columns[path]
            sign = _SIGNS[operator]
            if literal is None:
                return f"({column.expression} IS {'' if operator is Operator.EQ else 'NOT '}NULL)"
            if not isinstance(literal, str):
                parameters.append(int(literal) if isinstance(literal, bool) else literal)
                return f"({column.expression} {sign} ?)"
            parameters.append(fold(literal).decode())
            collation = "" if column.folded else " COLLATE NOCASE"
            return f"({column.expression}{collation} {sign} ?)"


def _starts_with(column: Column, prefix: str, parameters: list[Parameter]) -> str:
    folded = fold(prefix).decode()
    if not column.folded:
        parameters += [len(folded), folded]
        return f"(substr({column.expression}, 1, ?) COLLATE NOCASE = ?)"
    # A range, so that an index on the column serves.
    parameters.append(folded)
    after = _successor(folded)
    if after is None:
        return f"({column.expression} >= ?)"
    parameters.append(after)
    return f"({column.expression} >= ? AND {column.expression} < ?)"


def _successor(prefix: str) -> str | None:
    """The least text above everything that starts with `prefix`, in order of code points; None when there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if 0xD800 <= last <= 0xDFFF:
            last = 0xE000  # surrogates are no text
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(last)
        prefix = prefix[:-1]
    return None
