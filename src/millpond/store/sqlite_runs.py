"""Tasks that were added together, as few parameters of two statements.

Of the tasks of one Add Task Collection nearly all is the same: only keys, which follow one another, ids and
specifications differ. Bound value by value a row costs four times as much processor time as this, and a good part of
that with the interpreter held.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

import msgspec

from millpond.domain.task import Task

_PLACE_BITS: Final = 24
"""A place is the offset above, the length below; a specification is shorter than a request's body."""
MIN_TASKS: Final = 4
"""Fewer are not worth statements of their own."""

_encode: Final = msgspec.json.Encoder().encode


class Run(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Rows of `task` and `task_spec` that differ in key, id and specification alone."""

    row: tuple[Any, ...]
    """Of `insert_runs`: first key, what is the same for all, ids as a JSON array."""
    specs: bytes
    """The specifications, one after the other."""
    places: str
    """Where each is in `specs`, as a JSON array."""


def run_of(tasks: Sequence[Task], specs: Sequence[bytes]) -> Run:
    """The run of tasks that are known to be one. What they have been through since they were added is not in it."""
    sizes = [len(spec) for spec in specs]
    places = [offset << _PLACE_BITS | size for offset, size in zip(accumulate(sizes, initial=0), sizes, strict=False)]
    first = tasks[0]
    row = (
        first.key,
        first.state.value,
        first.creation_time,
        first.last_modified,
        first.state_time,
        first.required_slots,
        first.max_retry_count,
        _encode([task.id for task in tasks]).decode(),
    )
    return Run(row, b"".join(specs), _encode(places).decode())


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
    """Whether the task has none of what `insert_runs` does not write."""
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
    if MIN_TASKS <= len(members) == len(parts):
        runs.append(run_of(members, parts))
    else:
        rest += members
