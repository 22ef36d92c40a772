"""Task arrays as stores read them: items without rows, as if they had some."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from millpond.domain import ids, task_array
from millpond.domain.errors import Bug
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray
from millpond.odata.evaluate import matches
from millpond.odata.filters import And, Comparison, Condition, Filter, Literal, Operator, Or, names
from millpond.store import base, filterable, paging
from millpond.store.base import TaskRow
from millpond.store.changes import ChangeSet

SCAN_ITEMS: Final = 20_000
"""Items whose ids one call looks at, at most, to fill a page of a filtered listing."""

Arrays = Iterable[tuple[TaskArray, Rest]]


def row_of(array: TaskArray, index: int) -> TaskRow:
    """The row the item would have."""
    return TaskRow(array.task(index), array.spec(index))


def named(arrays: Arrays, id_key: str) -> TaskRow | None:
    """The item without a row of that id key, among the arrays of one job."""
    parts = task_array.split_id(id_key)
    if parts is None:
        return None
    for array, rest in arrays:
        if ids.id_key(array.id) == parts[0] and task_array.covers(rest, parts[1]):
            return row_of(array, parts[1])
    return None


class Page:
    """The items without rows of a page of a listing, in key order: those after key `after` that pass the filter, as
    many as the page may have and one more."""

    def __init__(self, arrays: Arrays, where: Filter | None, after: int, limit: int) -> None:
        self._where = where
        self._limit = limit
        self._scan = SCAN_ITEMS
        self._rows: list[TaskRow] = []
        self._end: int | None = None
        """The key up to which items were looked at; None: to the end."""
        for array, rest in arrays:
            if array.last_key <= after:
                continue
            self._look_at(array, rest, max(0, after + 1 - array.key))
            if self._end is not None:
                break

    def _look_at(self, array: TaskArray, rest: Rest, start: int) -> None:
        for index in self._passing(array, rest, start):
            self._rows.append(row_of(array, index))
            if len(self._rows) > self._limit:
                self._end = array.key + index
                return

    def _passing(self, array: TaskArray, rest: Rest, start: int) -> Iterator[int]:
        """Indexes of the items from `start` on that pass. All but their ids is the same in all of them."""
        where = self._where
        by_id = where is not None and names(where.condition, "id")
        if where is not None and not by_id and not filterable.passes(where, array.task(0), filterable.TASK):
            return
        same = array.task(0)
        if where is not None and (wanted := _ids_in(where.condition)) is not None:
            named_here = (task_array.split_id(ids.id_key(one)) for one in wanted)
            indexes = {parts[1] for parts in named_here if parts is not None and parts[0] == ids.id_key(array.id)}
            for index in sorted(indexes):
                if index >= start and task_array.covers(rest, index) and _passes(where, same, array.task_id(index)):
                    yield index
            return
        for first, last in rest:
            for index in range(max(first, start), last + 1):
                if by_id:
                    self._scan -= 1
                    if where is None or _passes(where, same, array.task_id(index)):
                        yield index
                    if not self._scan:
                        self._end = array.key + index
                        return
                else:
                    yield index

    def with_rows(self, rows: Sequence[TaskRow], end: int | None) -> "base.Page[TaskRow]":
        """The page, given its rows: those after the same key that pass, as many as the page may have and one more.
        `end` is the key up to which rows were looked at, None: to the end."""
        bound = min((key for key in (end, self._end) if key is not None), default=None)
        found = list(rows)
        if self._rows:
            found = sorted([*rows, *self._rows], key=_key_of)
        if bound is not None:
            found = [row for row in found if row.task.key <= bound]
        if len(found) > self._limit:
            found = found[: self._limit]
            return base.Page(found, paging.token_of_task(found[-1].task.key))
        return base.Page(found, None if bound is None else paging.token_of_task(bound))


def _ids_in(condition: Condition) -> list[str] | None:
    """Ids of which what passes must have one; None when they are not all named."""
    match condition:
        case Comparison("id", Operator.EQ, str(task_id)):
            return [task_id]
        case And(parts):
            return next((found for part in parts if (found := _ids_in(part)) is not None), None)
        case Or(parts):
            each = [_ids_in(part) for part in parts]
            return None if None in each else [task_id for found in each for task_id in found or ()]
        case _:
            return None


def _passes(where: Filter, same: Task, task_id: str) -> bool:
    def value_of(path: str) -> Literal | None:
        getter = filterable.TASK.get(path)
        return task_id if path == "id" else None if getter is None else getter(same)

    return matches(where, value_of)


def _key_of(row: TaskRow) -> int:
    return row.task.key


def check(changes: ChangeSet, known: Mapping[int, TaskArray]) -> None:
    """Raises Bug for a task that is to have a row while its array still says that it has none, and for the rest of an
    array that is not there."""
    for key, rest in changes.rests.items():
        array = changes.task_arrays.get(key) or known.get(key)
        if array is None:
            raise Bug(f"rows that cannot be: a rest of array {key}, which is not there")
        for task_key in changes.tasks:
            if array.key <= task_key <= array.last_key and task_array.covers(rest, task_key - array.key):
                raise Bug(f"rows that cannot be: task {task_key} has one, and is an item of {array.id!r} without")
