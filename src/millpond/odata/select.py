"""`$select` and `$expand`."""

from collections.abc import Set as AbstractSet
from typing import Final

from millpond.odata.errors import SelectError

MAX_LENGTH: Final = 4096
"""Characters in a `$select` or `$expand`."""

EXPANDABLE: Final = frozenset({"stats"})


def parse_select(text: str, names: AbstractSet[str]) -> frozenset[str]:
    """The top-level properties to show, out of `names` (case-sensitive). Raises SelectError."""
    return _parse_names("$select", text, names)


def parse_expand(text: str) -> frozenset[str]:
    """The properties to expand; only `stats` can be. Raises SelectError."""
    return _parse_names("$expand", text, EXPANDABLE)


def _parse_names(option: str, text: str, names: AbstractSet[str]) -> frozenset[str]:
    if len(text) > MAX_LENGTH:
        raise SelectError(f"{option} is longer than {MAX_LENGTH} characters.", MAX_LENGTH)
    chosen: set[str] = set()
    position = 0
    for part in text.split(","):
        name = part.strip(" ")
        if not name:
            raise SelectError(f"{option} lacks a property name.", position)
        if name not in names:
            reason = f"{option} names '{name[:128]}', which is not one of: {', '.join(sorted(names))}."
            raise SelectError(reason, position + len(part) - len(part.lstrip(" ")))
        chosen.add(name)
        position += len(part) + 1
    return frozenset(chosen)
