"""The tree of a parsed `$filter`.

Names in the tree are those of the wire (`executionInfo/exitCode`); what they mean in a row is the reader's business
(`evaluate`, `sql`). A property without a value is equal to null only: `eq null` holds for it, and `ne` with anything
else; every other test fails (OData: null is unequal to every other literal, and every ordering of null is false). There
is no negation, so "fails" and "unknown" need not be told apart.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec


class Operator(StrEnum):
    """The comparisons, spelled as on the wire."""

    EQ = "eq"
    NE = "ne"
    GE = "ge"
    GT = "gt"
    LE = "le"
    LT = "lt"


Literal: TypeAlias = str | int | float | bool
"""A value in a filter. Date-times are floats of epoch seconds, UTC; strings are as written."""


class Comparison(msgspec.Struct, frozen=True):
    """`property operator literal`."""

    path: str
    operator: Operator
    value: Literal | None
    """None is the literal `null`; only `eq` and `ne` go with it."""


class StartsWith(msgspec.Struct, frozen=True):
    """`startswith(property, 'prefix')`."""

    path: str
    prefix: str


class And(msgspec.Struct, frozen=True):
    """All of two or more conditions."""

    parts: "tuple[Condition, ...]"


class Or(msgspec.Struct, frozen=True):
    """Any of two or more conditions."""

    parts: "tuple[Condition, ...]"


Condition: TypeAlias = Comparison | StartsWith | And | Or


class Filter(msgspec.Struct, frozen=True):
    """A parsed `$filter`, checked against the properties of one kind of entity."""

    text: str
    """As the client wrote it."""
    condition: Condition


def names(condition: Condition, path: str) -> bool:
    """Whether the condition looks at the property."""
    match condition:
        case And(parts) | Or(parts):
            return any(names(part, path) for part in parts)
        case StartsWith(looked_at, _) | Comparison(looked_at):
            return looked_at == path


def fold(text: str) -> bytes:
    """The form in which strings are compared and ordered: UTF-8 with A-Z as a-z.

    Only ASCII is folded, because that is what every database does alike; ids, states and sizes are ASCII anyway.
    """
    return text.encode("utf-8", "surrogatepass").lower()
