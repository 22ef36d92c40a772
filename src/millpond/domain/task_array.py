"""A task array: one definition that stands for many tasks, its items, told apart by an index from 0.

Nothing of an item is kept as long as nothing has happened to it but its addition: its record, id and specification
follow from the array and the index. An item that something happens to becomes a task like any other, with a row; the
rest of the array, the items without rows, is told by ranges of indexes (`Rest`).
"""

import functools
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.states import TaskState
from millpond.domain.task import NewTask, Task, TaskRules

MAX_ITEMS: Final = 1_000_000
"""Items of one array."""

Rest: TypeAlias = Sequence[tuple[int, int]]
"""(first, last) index of items without rows, both ends inclusive: in order, and never two that touch."""

# Where a number goes in a template: private use characters, which no text of a request may hold.
_BEGIN: Final = "\ue000"
_END: Final = "\ue001"
_INDEX: Final = "i"
_HOLE: Final = re.compile(f"{_BEGIN}(i|[0-9]+)(?::([0-9]+))?{_END}".encode())

INDEX_MARK: Final = f"{_BEGIN}{_INDEX}{_END}"
"""Stands for the item's index in `ItemTemplate.spec`."""


def value_mark(number: int, width: int) -> str:
    """Stands for the item's value of a parameter set in `ItemTemplate.spec`, filled up with zeros to `width`."""
    return f"{_BEGIN}{number}:{width}{_END}"


def has_mark(text: str) -> bool:
    """Whether the text has one of the characters that marks are made of."""
    return _BEGIN in text or _END in text


class ParameterSet(msgspec.Struct, frozen=True, gc=False):
    """The values of one parameter: from `start` to `end` inclusive, `step` apart (Azure Batch CLI extensions)."""

    start: int
    end: int
    step: int = 1

    @property
    def count(self) -> int:
        """How many values; 0 when `step` leads away from `end`."""
        return max(0, (self.end - self.start) // self.step + 1)


class ItemTemplate(msgspec.Struct, frozen=True, gc=False):
    """What items have in common; `NewTask` with marks in its specification, and without an id."""

    spec: str
    required_slots: int = 1
    max_retry_count: int | None = None
    rules: TaskRules | None = None


class Override(msgspec.Struct, frozen=True, gc=False):
    """The items from `first` to `last` inclusive are made from another template."""

    first: int
    last: int
    template: ItemTemplate


class TaskArray(msgspec.Struct, frozen=True, gc=False):
    """The definition; it never changes."""

    id: str
    """What the ids of its tasks begin with; empty: they are plain numbers, as those of a task factory."""
    parameter_sets: tuple[ParameterSet, ...]
    """Every combination of values is an item; the last set's value changes fastest."""
    template: ItemTemplate
    overrides: tuple[Override, ...] = ()
    """In order; none overlap."""
    key: int = 0
    """The key of the first item; the others follow. Set by the scheduler, like the next."""
    creation_time: Timestamp = 0.0

    @property
    def count(self) -> int:
        """Items."""
        count = 1
        for parameters in self.parameter_sets:
            count *= parameters.count
        return count

    @property
    def last_key(self) -> int:
        return self.key + self.count - 1

    def task_id(self, index: int) -> str:
        return f"{self.id}-{index}" if self.id else str(index)

    def values(self, index: int) -> tuple[int, ...]:
        """The item's value of each parameter set."""
        if len(self.parameter_sets) == 1:
            (only,) = self.parameter_sets
            return (only.start + index * only.step,)
        values = []
        for parameters in reversed(self.parameter_sets):
            index, place = divmod(index, parameters.count)
            values.append(parameters.start + place * parameters.step)
        values.reverse()
        return tuple(values)

    def template_of(self, index: int) -> ItemTemplate:
        if not self.overrides:
            return self.template
        place = bisect_left(self.overrides, index, key=_last_of)
        if place < len(self.overrides) and self.overrides[place].first <= index:
            return self.overrides[place].template
        return self.template

    def spec(self, index: int) -> bytes:
        """The item's specification in wire form, `NewTask.spec`."""
        form, holes = _parts(self.template_of(index).spec)
        values = (*self.values(index), index)
        return form % tuple([str(values[number]).zfill(width).encode() for number, width in holes])

    def task(self, index: int) -> Task:
        """The item's record as it was added."""
        template = self.template_of(index)
        at = self.creation_time
        slots, retries = template.required_slots, template.max_retry_count
        task = Task(self.key + index, self.task_id(index), TaskState.ACTIVE, at, at, at, slots, retries)
        task.rules = template.rules
        return task

    def new_task(self, index: int) -> NewTask:
        """The item as if it were added by itself."""
        template = self.template_of(index)
        return NewTask(
            self.task_id(index), self.spec(index), template.required_slots, template.max_retry_count, template.rules
        )

    def sections(self) -> list[tuple[int, int, ItemTemplate]]:
        """All items in order, as (first, last, template of these)."""
        found: list[tuple[int, int, ItemTemplate]] = []
        start = 0
        for override in self.overrides:
            if override.first > start:
                found.append((start, override.first - 1, self.template))
            found.append((override.first, override.last, override.template))
            start = override.last + 1
        if start < self.count:
            found.append((start, self.count - 1, self.template))
        return found

    def slots(self, rest: Rest) -> int:
        """What all these items need together."""
        if not self.overrides:
            return self.template.required_slots * size_of(rest)
        total = 0
        for first, last, template in self.sections():
            covered = sum(max(0, min(last, end) - max(first, start) + 1) for start, end in rest)
            total += covered * template.required_slots
        return total


def _last_of(override: Override) -> int:
    return override.last


@functools.lru_cache(maxsize=256)
def _parts(spec: str) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The specification as a format with `%b` in place of its marks, and these as (number of the parameter set, or -1
    for the index, width)."""
    pieces = _HOLE.split(spec.encode())
    holes = tuple(
        (-1 if number == _INDEX.encode() else int(number), int(width or 0))
        for number, width in zip(pieces[1::3], pieces[2::3], strict=True)
    )
    return b"%b".join([piece.replace(b"%", b"%%") for piece in pieces[::3]]), holes


# --- ids ------------------------------------------------------------------------------------------------------------


def split_id(id_key: str) -> tuple[str, int] | None:
    """(id key of the array, index) of the item that this id would name, or None: no item of any array has it."""
    array, separator, digits = id_key.rpartition("-")
    if (separator and not array) or not (digits.isascii() and digits.isdigit()) or len(digits) > 10:
        return None
    if len(digits) > 1 and digits[0] == "0":
        return None
    return array, int(digits)


# --- the rest -------------------------------------------------------------------------------------------------------


def size_of(rest: Rest) -> int:
    """How many items."""
    return sum(last - first + 1 for first, last in rest)


def _place_of(rest: Rest, index: int) -> int:
    """Of the first range that ends at the index or after."""
    return bisect_left(rest, index, key=_end_of)


def _end_of(range_: tuple[int, int]) -> int:
    return range_[1]


def covers(rest: Rest, index: int) -> bool:
    """Whether the item has no row yet, and is there."""
    place = _place_of(rest, index)
    return place < len(rest) and rest[place][0] <= index


def next_of(rest: Rest, index: int) -> int | None:
    """The first item without a row from `index` on."""
    place = _place_of(rest, index)
    return max(index, rest[place][0]) if place < len(rest) else None


def remove(rest: list[tuple[int, int]], index: int) -> None:
    """The item has a row now, or is gone. It must be among the rest."""
    place = _place_of(rest, index)
    first, last = rest[place]
    left = [(first, index - 1)] if first < index else []
    if index < last:
        left.append((index + 1, last))
    rest[place : place + 1] = left
