"""Which tasks wait for which (Azure Batch: task dependencies).

A dependent waits for ids and for ranges of integers. A parent satisfies once it is completed and its exit maps to
`satisfy`; ids that are integers stand for the integer, leading zeros insignificant, the first of them to satisfy
counting. What is named may not exist yet: the dependent waits.
"""

from typing import Final, TypeVar

from millpond.domain.task import Task
from millpond.scheduler.state import DependencyIndex, Waiting

_K = TypeVar("_K")

_SHORT_RANGE: Final = 64
"""Ranges up to this long are indexed by member, longer ones searched."""


def number_of(id_key: str) -> int | None:
    """The integer an id stands for in ranges, or None."""
    return int(id_key) if id_key.isascii() and id_key.isdigit() else None


def add_dependent(index: DependencyIndex, task: Task) -> bool:
    """Register a task's dependencies; whether all of them are satisfied already (then nothing is registered)."""
    rules = task.rules
    if rules is None or not rules.has_dependencies:
        return True
    key = task.key
    missing_ids = [parent for parent in set(rules.depends_on_ids) if parent not in index.satisfied_ids]
    satisfied = index.satisfied_numbers
    remaining = len(missing_ids)
    short: list[int] = []
    wide: list[tuple[int, int, int]] = []
    for first, last in rules.depends_on_ranges:
        length = last - first + 1
        if length <= _SHORT_RANGE:
            missing = [number for number in range(first, last + 1) if number not in satisfied]
            short.extend(missing)
            remaining += len(missing)
        else:
            met = (
                sum(1 for number in satisfied if first <= number <= last)
                if len(satisfied) < length
                else sum(1 for number in range(first, last + 1) if number in satisfied)
            )
            if met < length:
                wide.append((first, last, key))
                remaining += length - met
    if remaining == 0:
        return True
    index.waiting[key] = Waiting(task, remaining)
    _count(index, task, 1)
    for parent in missing_ids:
        index.by_id.setdefault(parent, []).append(key)
    for number in short:
        index.by_number.setdefault(number, []).append(key)
    index.wide.extend(wide)
    return False


def _count(index: DependencyIndex, task: Task, sign: int) -> None:
    instances = sign * (task.rules.instances or 1) if task.rules is not None else sign
    index.waiting_instances += instances
    index.waiting_slots += instances * task.required_slots


def mark_satisfied(index: DependencyIndex, id_key: str) -> list[Task]:
    """A parent satisfies: the dependents this releases."""
    released: list[Task] = []
    waiting = index.waiting

    def release(keys: list[int]) -> None:
        for key in keys:
            wait = waiting.get(key)
            if wait is None:
                continue
            wait.remaining -= 1
            if wait.remaining == 0:
                del waiting[key]
                _count(index, wait.task, -1)
                released.append(wait.task)

    if id_key not in index.satisfied_ids:
        index.satisfied_ids.add(id_key)
        release(index.by_id.pop(id_key, []))
    number = number_of(id_key)
    if number is not None and number not in index.satisfied_numbers:
        index.satisfied_numbers.add(number)
        release(index.by_number.pop(number, []))
        if index.wide:
            release([key for first, last, key in index.wide if first <= number <= last])
            index.wide = [entry for entry in index.wide if entry[2] in waiting]
    return released


def remove_dependent(index: DependencyIndex, task: Task) -> None:
    """A waiting task left (terminated, deleted): stale index entries are skipped by `mark_satisfied`.

    They must not outlive it where the same task could wait again (reactivation), or it would be counted down twice.
    """
    if index.waiting.pop(task.key, None) is None or task.rules is None:
        return
    _count(index, task, -1)
    for parent in set(task.rules.depends_on_ids):
        _discard(index.by_id, parent, task.key)
    for first, last in task.rules.depends_on_ranges:
        if last - first + 1 <= _SHORT_RANGE:
            for number in range(first, last + 1):
                _discard(index.by_number, number, task.key)
    index.wide = [entry for entry in index.wide if entry[2] != task.key]


def _discard(table: dict[_K, list[int]], parent: _K, key: int) -> None:
    keys = table.get(parent)
    if keys is not None:
        table[parent] = [other for other in keys if other != key]
        if not table[parent]:
            del table[parent]
