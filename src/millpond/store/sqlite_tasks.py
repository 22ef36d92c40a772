"""Tasks in the SQLite file. Each method runs in a transaction of its caller's, where it is not said otherwise."""

import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, takewhile
from operator import attrgetter
from typing import Any, Final

from millpond.domain import ids
from millpond.domain.errors import LeaseLost
from millpond.domain.task import Task
from millpond.odata.filters import Filter
from millpond.store import sqlite_listing, sqlite_rows, task_arrays
from millpond.store.base import Fence, Page, TaskRow
from millpond.store.sqlite_file import transaction
from millpond.store.sqlite_listing import Condition
from millpond.store.sqlite_task_arrays import TaskArrayTable

HIGHEST: Final = (1 << 63) - 1
"""Above every row's number."""
_TASKS_AT_ONCE: Final = 10_000
_ADDED_AT_ONCE: Final = 4000
PAGE_BYTES: Final = 1 << 26
"""A page comes out of SQLite in few values, of at most about so many bytes each."""

_BETWEEN_SPECS: Final = b"\x1e"
_key_of: Final = attrgetter("key")
_key_of_row: Final = attrgetter("task.key")


def range_of_job(job_no: int) -> tuple[int, int]:
    """First and last key a task of the job can have."""
    return ids.task_key(job_no, 0), ids.task_key(job_no + 1, 0) - 1


class TaskTables:
    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self.arrays = TaskArrayTable(queries)
        self._node_names: dict[int | None, str | None] = {None: None}
        """What `task.node` means. Names never change, so what was read once stays true."""

    def of_job(self, connection: sqlite3.Connection, job_no: int) -> list[Task]:
        """In order of creation. Most of a long queue has only been added: such rows are read in a tenth of the time."""
        first, last = range_of_job(job_no)
        tasks = self._added(connection, first, last)
        for start in range(0, len(tasks), _TASKS_AT_ONCE):
            self._hand_over(connection, tasks[start : start + _TASKS_AT_ONCE])
        added = len(tasks)
        if added == self._all(connection, "count_tasks", first, last)[0][0]:
            return tasks
        cursor = connection.execute(self._queries["load_other_tasks"], (first, last))
        while rows := cursor.fetchmany(_TASKS_AT_ONCE):
            tasks += self._tasks(connection, rows)
        if added:
            tasks.sort(key=_key_of)
        return tasks

    def _added(self, connection: sqlite3.Connection, first: int, last: int) -> list[Task]:
        """Those that have only been added. SQLite does not need the interpreter to read the next some thousand while the
        records of these are made."""
        tasks: list[Task] = []
        with ThreadPoolExecutor(1, "millpond-store-reads-ahead") as ahead:
            bound, columns = self._added_after(connection, first - 1, last)
            while True:
                following = None if bound == last else ahead.submit(self._added_after, connection, bound, last)
                if columns[0] is not None:
                    part = sqlite_rows.added_tasks(*columns)
                    # SQLite promises no order of what it aggregates.
                    part.sort(key=_key_of)
                    tasks += part
                if following is None:
                    return tasks
                bound, columns = following.result()

    def _added_after(self, connection: sqlite3.Connection, key: int, last: int) -> tuple[int, Sequence[Any]]:
        """Of the next rows beyond a key what `load_added_tasks` gives, and the key these end with: `last` at the end."""
        bound = self._all(connection, "scan_tasks", key, last, _ADDED_AT_ONCE - 1)
        end = bound[0][0] if bound else last
        return end, self._all(connection, "load_added_tasks", key, end)[0]

    def specs(self, connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, bytes]:
        return dict(self._all(connection, "task_specs", sqlite_rows.json_of(keys)))

    def get(self, connection: sqlite3.Connection, job_id: str, task_id: str) -> TaskRow | None:
        """In a transaction of its own."""
        with transaction(connection):
            rows = self._task_rows(connection, self._all(connection, "get_task", job_id, task_id))
            return rows[0] if rows else self.arrays.item(connection, job_id, task_id)

    def page(
        self,
        connection: sqlite3.Connection,
        job_no: int,
        where: Filter | None,
        condition: Condition,
        limit: int,
        start: int,
    ) -> Page[TaskRow]:
        """In a transaction of its own. `condition` is what `where` says. Fewer than `limit`, and a next page, where
        specifications are so large that they would be more than `PAGE_BYTES`."""
        end = last = range_of_job(job_no)[1]
        with transaction(connection):
            if condition.scans:
                bound = self._all(connection, "scan_tasks", start, last, sqlite_listing.SCAN_ROWS - 1)
                end = bound[0][0] if bound else last
            items, limit = self._items(connection, condition, start, end, limit)
            arrays = task_arrays.Page(self.arrays.of_job(connection, job_no, start), where, start, limit)
        return arrays.with_rows(items, None if end == last else end)

    def _items(
        self, connection: sqlite3.Connection, condition: Condition, start: int, end: int, limit: int
    ) -> tuple[list[TaskRow], int]:
        """The tasks beyond `start` that a page of `limit` tasks has, and one more if there is one; and the limit, which is
        lower where that would be too much."""
        before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
        try:
            return self._items_of(connection, condition, start, end, limit), limit
        except sqlite3.DataError:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
            sizes = self._with(connection, "sizes_of_tasks", condition, start, end, limit + 1)
            sums = accumulate(size or 0 for (size,) in sizes)
            # In JSON a specification may be twice as long; and one task more than the page has is read.
            limit = max(1, sum(1 for _ in takewhile(lambda size: 2 * size < PAGE_BYTES, sums)) - 1)
            return self._items_of(connection, condition, start, end, limit), limit
        finally:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)

    def _items_of(
        self, connection: sqlite3.Connection, condition: Condition, start: int, end: int, limit: int
    ) -> list[TaskRow]:
        first, last, wanted = self._with(connection, "extent_of_page", condition, start, end, limit + 1)[0]
        if not wanted:
            return []
        start, end = first - 1, last
        items: list[TaskRow] = []
        *columns, specs = self._with(connection, "list_added_tasks", condition, start, end)[0]
        if specs is not None:
            items += map(TaskRow, sqlite_rows.added_tasks(*columns), specs.split(_BETWEEN_SPECS))
        if len(items) < wanted:
            text = self._with(connection, "list_other_tasks", condition, start, end)[0][0]
            rows = sqlite_rows.listed_rows_of(text)
            names = self._names(connection, {row[sqlite_rows.TASK_REF] for row in rows})
            items += [TaskRow(sqlite_rows.listed_task(row, names), (row[-1] or "{}").encode()) for row in rows]
        # SQLite promises no order of what it aggregates.
        items.sort(key=_key_of_row)
        self._hand_over(connection, [row.task for row in items])
        return items

    def _with(
        self, connection: sqlite3.Connection, query: str, condition: Condition, start: int, end: int, *more: int
    ) -> list[Any]:
        """The rows of a query over the tasks beyond `start` and up to `end` for which a condition holds."""
        sql = self._queries[query].replace("/*where*/", condition.text)
        return connection.execute(sql, (start, end, *condition.parameters, *more)).fetchall()

    def of_keys(self, connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, tuple[str, Task]]:
        """See `Store.tasks_of_keys`. In a transaction of its own."""
        with transaction(connection):
            rows = self._all(connection, "tasks_of_keys", sqlite_rows.json_of(keys))
            tasks = self._tasks(connection, rows)
        return {task.key: (row[-1], task) for row, task in zip(rows, tasks, strict=True)}

    def nodes_after(self, connection: sqlite3.Connection, key: int, chunk: int) -> tuple[int | None, set[int]]:
        """The numbers of the nodes that the next tasks beyond a key name, `chunk` tasks at most; and the key to go on
        after, None when these were the last."""
        with transaction(connection):
            bound = self._all(connection, "scan_tasks", key, HIGHEST, chunk - 1)
            end = bound[0][0] if bound else HIGHEST
            refs = {ref for (ref,) in self._all(connection, "nodes_of_tasks", key, end)}
        return (end if bound else None), refs

    def purge(self, connection: sqlite3.Connection, job_no: int, wanted: int, fence: Fence) -> int:
        """Delete the first tasks of a job, at most so many, and all that hangs on them; how many those were. Raises
        LeaseLost."""
        lease = connection.execute(self._queries["get_lease"], (fence.pool_key,)).fetchone()
        if lease is None or lease[0] != fence.epoch:
            raise LeaseLost(f"the lease of pool {fence.pool_key!r} is another's")
        first, last = range_of_job(job_no)
        row = connection.execute(self._queries["scan_tasks"], (first - 1, last, wanted - 1)).fetchone()
        if row is not None:
            last = row[0]
            connection.execute(self._queries["purge_satisfied"], (job_no, wanted))
        else:
            for query in ("delete_satisfied", "delete_job_nodes"):
                connection.execute(self._queries[query], (f"[{job_no}]",))
        self.arrays.purge(connection, job_no)
        gone = connection.execute(self._queries["purge_tasks"], (first, last)).rowcount
        for query in ("purge_hand_overs", "purge_specs", "purge_subtasks", "purge_kept_logs"):
            connection.execute(self._queries[query], (first, last))
        return gone

    def _all(self, connection: sqlite3.Connection, query: str, *parameters: str | int) -> list[Any]:
        return connection.execute(self._queries[query], parameters).fetchall()

    def _tasks(self, connection: sqlite3.Connection, rows: Sequence[sqlite_rows.Row]) -> list[Task]:
        names = self._names(connection, {row[sqlite_rows.TASK_REF] for row in rows})
        task_of_row = sqlite_rows.task_of_row
        tasks = [task_of_row(row, names) for row in rows]
        self._hand_over(connection, tasks)
        return tasks

    def _hand_over(self, connection: sqlite3.Connection, tasks: Sequence[Task]) -> None:
        """Give tasks, which come in order of their keys, the attempt and node that they were handed to since their rows
        were written. In one transaction with what read the rows."""
        if not tasks:
            return
        handed = self._all(connection, "handed_over", tasks[0].key, tasks[-1].key)
        if not handed:
            return
        names = self._names(connection, {ref for _, _, ref in handed})
        by_key = {task.key: task for task in tasks}
        for key, attempt, ref in handed:
            task = by_key.get(key)
            if task is not None and task.attempt < attempt:
                task.attempt, task.node_id = attempt, names[ref]

    def _names(self, connection: sqlite3.Connection, refs: set[int | None]) -> Mapping[int | None, str | None]:
        """At least the names of these."""
        names = self._node_names
        missing = refs - names.keys()
        if missing:
            names.update(self._all(connection, "node_names", sqlite_rows.json_of(list(missing))))
        return names

    def _task_rows(self, connection: sqlite3.Connection, rows: Sequence[sqlite_rows.Row]) -> list[TaskRow]:
        tasks = self._tasks(connection, rows)
        return [TaskRow(task, row[-1] or b"{}") for task, row in zip(tasks, rows, strict=True)]
