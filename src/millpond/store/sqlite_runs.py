"""Tasks that were added together, as few parameters of two statements.

Of the tasks of one Add Task Collection nearly all is the same: only keys, which follow one another, ids and
specifications differ. Bound value by value a row costs four times as much processor time as this, and a good part of
that with the interpreter held.
"""

import copy
import sqlite3
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, Final

import msgspec

from millpond.domain.task import Task

_PLACE_BITS: Final = 24
"""A place is the offset above, the length below; a specification is shorter than a request's body."""
MIN_TASKS: Final = 4
"""Fewer are not worth two statements of their own."""

_encode: Final = msgspec.json.Encoder().encode


class Run(msgspec.Struct, frozen=True, gc=False):
    """Rows of `task` and `task_spec` that differ in key, id and specification alone."""

    first_key: int
    same: tuple[Any, ...]
    """What `insert_run` takes between key and ids."""
    ids: str
    """JSON array."""
    places: str
    """JSON array: where each specification is in `specs`."""
    specs: bytes

    def write(self, connection: sqlite3.Connection, queries: Mapping[str, str]) -> None:
        connection.execute(queries["insert_run"], (self.first_key, *self.same, self.ids))
        connection.execute(queries["insert_run_specs"], (self.first_key, self.specs, self.places))


def runs_of(tasks: Iterable[Task], specs: Mapping[int, bytes]) -> tuple[list[Run], list[Task]]:
    """The runs among new tasks, which come in order of their keys as far as they may be one; and the tasks in none."""
    runs: list[Run] = []
    rest: list[Task] = []
    members: list[Task] = []
    like: Task | None = None
    following = -1
    for task in tasks:
        key = task.key
        if like is not None and key == following:
            like.key = key
            like.id = task.id
            if task == like:
                members.append(task)
                following += 1
                continue
        _close(members, specs, runs, rest)
        members = [task]
        following = key + 1
        like = copy.copy(task) if _is_only_added(task) else None
    _close(members, specs, runs, rest)
    return runs, rest


def _is_only_added(task: Task) -> bool:
    """Whether the task has none of what `insert_run` does not write."""
    return task == Task(
        key=task.key,
        id=task.id,
        state=task.state,
        creation_time=task.creation_time,
        last_modified=task.last_modified,
        state_time=task.state_time,
        required_slots=task.required_slots,
        max_retry_count=task.max_retry_count,
    )


def _close(members: list[Task], specs: Mapping[int, bytes], runs: list[Run], rest: list[Task]) -> None:
    parts = [specs[task.key] for task in members if task.key in specs]
    if not MIN_TASKS <= len(members) == len(parts):
        rest += members
        return
    sizes = [len(part) for part in parts]
    places = [offset << _PLACE_BITS | size for offset, size in zip(accumulate(sizes, initial=0), sizes, strict=False)]
    first = members[0]
    same = (
        first.state.value,
        first.creation_time,
        first.last_modified,
        first.state_time,
        first.required_slots,
        first.max_retry_count,
    )
    ids = _encode([task.id for task in members]).decode()
    runs.append(Run(first.key, same, ids, _encode(places).decode(), b"".join(parts)))
