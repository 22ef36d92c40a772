"""Task arrays: adding one, and filing what rows tell of one."""

from collections.abc import Iterable

import msgspec

from millpond.domain import task_array
from millpond.domain.effects import AddTaskArray, Effect, Reply
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import TaskArrayAdded
from millpond.domain.ids import MAX_TASK_NUMBER, id_key, task_key
from millpond.domain.states import JobState
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray
from millpond.scheduler import additions, tasks
from millpond.scheduler.state import ArrayMemory, JobMemory, Line, SchedulerState


def on_task_array_added(state: SchedulerState, event: TaskArrayAdded, effects: list[Effect]) -> None:
    job = tasks.find_job(state, event.job_id)
    tasks.require_open(job)
    row = job.row
    array = msgspec.structs.replace(event.array, key=task_key(row.no, row.next_task_number), creation_time=event.at)
    count = array.count
    taken = _taken_id(job, array)
    if taken is not None:
        raise BatchError(
            ErrorCode.TASK_EXISTS, f"The task '{taken}' of the array exists already.", JobId=row.id, TaskId=taken
        )
    for _, _, template in array.sections():
        error = additions.reason_to_refuse(job, template.rules)
        if error is not None:
            raise BatchError(error)
    if row.next_task_number + count > MAX_TASK_NUMBER:
        raise BatchError(ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE, f"Job '{row.id}' has had too many tasks.")
    row.next_task_number += count
    rest = [(0, count - 1)]
    row.counts.active += count
    row.counts.active_slots += array.slots(rest)
    state.touch_job(job)
    effects.append(AddTaskArray(array))
    for head in keep(job, array, rest):
        tasks.make_ready(state, job, head)
    effects.append(Reply(array))


def _taken_id(job: JobMemory, array: TaskArray) -> str | None:
    """The id of an item of a new array that a task of the job has, or will have; None when all are free.

    An array of the same id of which items have no record yet takes the whole id."""
    key = id_key(array.id)
    count = array.count
    known = job.arrays.get(key)
    if known is not None:
        return array.task_id(known.rest[0][0])
    names: Iterable[str] = job.tasks
    if len(job.tasks) > count:
        names = (name for index in range(count) if (name := id_key(array.task_id(index))) in job.tasks)
    special = (id_key(rules.id) for rules in (job.row.preparation, job.row.release) if rules is not None)
    for name in (*names, *special):
        if name.startswith(key):
            parts = task_array.split_id(name)
            if parts is not None and parts[0] == key and parts[1] < count:
                return array.task_id(parts[1])
    return None


def _lines(memory: ArrayMemory) -> Iterable[Line]:
    """One for all neighbours in an array that need the same slots, in order."""
    sections: list[tuple[int, int, int]] = []
    for first, last, template in memory.array.sections():
        joins = sections and sections[-1][2] == template.required_slots
        start = sections.pop()[0] if joins else first
        sections.append((start, last, template.required_slots))
    for first, last, _ in sections:
        index = task_array.next_of(memory.rest, first)
        if index is not None and index <= last:
            yield Line(memory, memory.array.task(index), last)


def keep(job: JobMemory, array: TaskArray, rest: Rest) -> list[Task]:
    """Take an array out of its row: the tasks that are to be queued for it. None when its job is over."""
    memory = ArrayMemory(array, rest)
    job.arrays[id_key(array.id)] = memory
    if job.row.state is JobState.COMPLETED:
        return []
    lines = list(_lines(memory))
    job.lines.update((line.head.key, line) for line in lines)
    return [line.head for line in lines]
