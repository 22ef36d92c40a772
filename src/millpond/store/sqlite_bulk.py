"""Many rows in one statement.

sqlite3 lets go of the interpreter at every step of a statement, and with a busy event loop it takes a while to get it
back. So rows are written many to a statement. The number of rows in one is a power of two or half as much again, to
have few statements to compile; what is missing is filled up with rows of NULL, which the statements leave out.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from millpond.store.sqlite_rows import Row

MAX_ROWS: Final = 512
"""Rows of one statement."""


class Bulk:
    """A statement over many rows of `width` columns, and over what is the same for all of them: its first parameters."""

    def __init__(self, sql: str, width: int) -> None:
        self._sql = sql
        self._width = width
        self._row = f"({', '.join('?' * width)})"
        self._texts: dict[int, str] = {}

    def run(self, connection: sqlite3.Connection, rows: Sequence[Row], same: Row = ()) -> int:
        """How many rows it changed."""
        changed = 0
        for start in range(0, len(rows), MAX_ROWS):
            part = rows[start : start + MAX_ROWS]
            size = _size(len(part))
            text = self._texts.get(size)
            if text is None:
                text = self._texts[size] = self._sql.replace("/*values*/", ", ".join([self._row] * size))
            values: list[Any] = [*same, *chain.from_iterable(part)]
            values += [None] * ((size - len(part)) * self._width)
            changed += connection.execute(text, values).rowcount
        return changed


def _size(rows: int) -> int:
    """Of the statement for so many rows."""
    size = 1 << (rows - 1).bit_length()
    return size * 3 // 4 if size >= 4 and rows <= size * 3 // 4 else size
