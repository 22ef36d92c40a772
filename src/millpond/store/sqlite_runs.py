"""Tasks that were added together, as few parameters of two statements.

Of the tasks of one Add Task Collection nearly all is the same: only keys, which follow one another, ids and
specifications differ. Bound value by value a row costs four times as much processor time as this, and a good part of
that with the interpreter held.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import astuple, fields

from millpond.domain.states import TaskState
from millpond.domain.task import Task

_SAME_FROM: Final = 2
"""`Task` begins with key and id: they differ within a run."""
_UNSET_FROM: Final = 8
"""From here on the fields of a task that has only been added have their defaults."""
_UNSET: Final = tuple(field.default for field in fields(Task)[_UNSET_FROM:])
_PLACE_BITS: Final = 24
"""A place is the offset above, the length below; a specification is shorter than a request's body."""
MIN_TASKS: Final = 4
"""Fewer are not worth two statements of their own."""
MAX_TASKS: Final = 512

_encode: Final = msgspec.json.Encoder().encode


class Run(msgspec.Struct, frozen=True, gc=False):
    """Rows of `task` and `task_spec` that differ in key, id and specification alone."""

    first_key: int
    same: tuple[Any, ...]
    """From `state` to `max_retry_count`."""
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
    same: tuple[Any, ...] = ()
    following = -1
    for task in tasks:
        key = task.key
        if key == following and astuple(task)[_SAME_FROM:] == same and key in specs and len(members) < MAX_TASKS:
            members.append(task)
            following += 1
            continue
        _close(members, same, specs, runs, rest)
        same = astuple(task)[_SAME_FROM:]
        if same[_UNSET_FROM - _SAME_FROM :] == _UNSET and key in specs:
            members, following = [task], key + 1
        else:
            rest.append(task)
            members, following = [], -1
    _close(members, same, specs, runs, rest)
    return runs, rest


def _close(
    members: list[Task], same: tuple[Any, ...], specs: Mapping[int, bytes], runs: list[Run], rest: list[Task]
) -> None:
    if len(members) < MIN_TASKS:
        rest += members
        return
    state: TaskState = same[0]
    places: list[int] = []
    parts = [specs[task.key] for task in members]
    offset = 0
    for part in parts:
        places.append(offset << _PLACE_BITS | len(part))
        offset += len(part)
    runs.append(
        Run(
            members[0].key,
            (state.value, *same[1 : _UNSET_FROM - _SAME_FROM]),
            _encode([task.id for task in members]).decode(),
            _encode(places).decode(),
            b"".join(parts),
        )
    )
