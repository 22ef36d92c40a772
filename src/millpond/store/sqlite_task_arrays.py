"""Task arrays in the SQLite file. Each method runs in a transaction of its caller's."""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from millpond.domain import ids, task_array
from millpond.domain.task_array import Rest, TaskArray
from millpond.store import task_arrays
from millpond.store.base import TaskRow
from millpond.store.sqlite_rows import Row

_KEPT: Final = 64
"""Arrays kept decoded; they never change."""

_array_of: Final = msgspec.json.Decoder(TaskArray).decode
_rest_of: Final = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode


class TaskArrayTable:
    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self._decoded: dict[int, TaskArray] = {}
        """By key, which is never used again."""

    def of_job(self, connection: sqlite3.Connection, job_no: int, after: int = -1) -> Iterator[tuple[TaskArray, Rest]]:
        """In key order, those that have items after that key."""
        first, last = ids.task_key(job_no, 0), ids.task_key(job_no + 1, 0) - 1
        for row in connection.execute(self._queries["list_task_arrays"], (first, last, after)):
            yield self._decode(row)

    def item(self, connection: sqlite3.Connection, job_id: str, task_id: str) -> TaskRow | None:
        """The item without a row of that id."""
        parts = task_array.split_id(ids.id_key(task_id))
        if parts is None:
            return None
        row = connection.execute(self._queries["get_task_array"], (job_id, parts[0])).fetchone()
        return None if row is None else task_arrays.named([self._decode(row)], ids.id_key(task_id))

    def purge(self, connection: sqlite3.Connection, job_no: int) -> None:
        first, last = ids.task_key(job_no, 0), ids.task_key(job_no + 1, 0) - 1
        connection.execute(self._queries["purge_task_arrays"], (first, last))

    def _decode(self, row: Row) -> tuple[TaskArray, Rest]:
        key, rest, record = row
        array = self._decoded.get(key)
        if array is None:
            array = _array_of(record)
            if len(self._decoded) >= _KEPT:
                self._decoded.clear()
            self._decoded[key] = array
        return array, _rest_of(rest)
