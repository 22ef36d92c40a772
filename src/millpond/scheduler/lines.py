"""Lines: the items of task arrays that have no record yet, and how they stand in queues.

Such an item counts among its job's active tasks, and follows from its array in everything else. In the queue of its
request class an array stands by the first of them alone (`state.Line`): when that leaves the queue, the next takes its
place. An item gets its record, and with the same commit its row, when it is handed to a node or when somebody asks
something of it by its id (`admit`); in the latter case it keeps its place in the line.
"""

from collections.abc import Iterator

from millpond.domain import task_array
from millpond.domain.effects import AddTasks, Effect
from millpond.domain.ids import id_key
from millpond.domain.task import Task
from millpond.scheduler.state import ArrayMemory, JobMemory, Line, SchedulerState, is_ready
from millpond.scheduler.task_queue import TaskQueue

# --- items without records ------------------------------------------------------------------------------------------


def _item(job: JobMemory, key: str) -> tuple[ArrayMemory, int] | None:
    """The array, and the index, of the item without a record that this id key names."""
    if not job.arrays:
        return None
    parts = task_array.split_id(key)
    memory = job.arrays.get(parts[0]) if parts is not None else None
    if parts is None or memory is None or not task_array.covers(memory.rest, parts[1]):
        return None
    return memory, parts[1]


def is_item(job: JobMemory, key: str) -> bool:
    """Whether the id key is that of an item without a record."""
    return _item(job, key) is not None


def find(job: JobMemory, key: str) -> Task | None:
    """The task of that id key: its record, or that of an item as it would be. The latter is to look at, until
    `admit`."""
    task = job.tasks.get(key)
    if task is not None:
        return task
    found = _item(job, key)
    if found is None:
        return None
    memory, index = found
    line = job.lines.get(memory.array.key + index)
    return memory.array.task(index) if line is None else line.head


def admit(state: SchedulerState, job: JobMemory, task: Task, effects: list[Effect]) -> None:
    """What `find` gave has a record and a row from now on."""
    key = id_key(task.id)
    found = None if key in job.tasks else _item(job, key)
    if found is None:
        return
    _admit(state, job, *found, task, key, effects)


def _admit(
    state: SchedulerState,
    job: JobMemory,
    memory: ArrayMemory,
    index: int,
    task: Task,
    key: str,
    effects: list[Effect],
) -> None:
    _leave(state, job, memory, index)
    job.tasks[task.id if key == task.id else key] = task
    effects.append(AddTasks([task], [memory.array.spec(index)]))


def dismiss(state: SchedulerState, job: JobMemory, task: Task) -> bool:
    """An item without a record is deleted: it will never have one. False for any other task."""
    key = id_key(task.id)
    found = None if key in job.tasks else _item(job, key)
    if found is None or found[0].array.key + found[1] != task.key:
        return False
    _leave(state, job, *found)
    return True


def _leave(state: SchedulerState, job: JobMemory, memory: ArrayMemory, index: int) -> None:
    task_array.remove(memory.rest, index)
    state.dirty_arrays[memory.array.key] = memory
    if not memory.rest:
        del job.arrays[id_key(memory.array.id)]


def waiting(job: JobMemory) -> int:
    """Items that stand behind the heads of their lines."""
    if not job.lines:
        return 0
    return max(0, sum(task_array.size_of(memory.rest) for memory in job.arrays.values()) - len(job.lines))


# --- queues ---------------------------------------------------------------------------------------------------------


def take_first(state: SchedulerState, job: JobMemory, queue: TaskQueue, effects: list[Effect]) -> Task:
    """The first task of one of the job's queues leaves it to be placed."""
    task = queue.popleft()
    line = job.lines.get(task.key) if job.lines else None
    if line is not None:
        key = id_key(task.id)
        if key not in job.tasks:
            _admit(state, job, line.memory, task.key - line.memory.array.key, task, key, effects)
        _move_up(job, queue, task.key)
    return task


def drop_stale(job: JobMemory, queue: TaskQueue) -> None:
    """Drop entries from the head of one of the job's queues that cannot be placed any more."""
    while queue and not is_ready(queue.head):
        task = queue.popleft()
        if job.lines and task.key in job.lines:
            _move_up(job, queue, task.key)


def _move_up(job: JobMemory, queue: TaskQueue, key: int) -> None:
    """The head of a line has left the queue: the next item takes its place."""
    line = job.lines.pop(key)
    head = next(_behind(job, line), None)
    if head is not None:
        line.head = head
        job.lines[head.key] = line
        queue.appendleft(head)


def _behind(job: JobMemory, line: Line) -> Iterator[Task]:
    """What stands behind the head of a line and can be placed: items without records, and those that have one by now."""
    array, rest = line.memory.array, line.memory.rest
    for index in range(line.head.key - array.key + 1, line.last + 1):
        if task_array.covers(rest, index):
            yield array.task(index)
            continue
        task = job.tasks.get(id_key(array.task_id(index)))
        if task is not None and task.key == array.key + index and is_ready(task):
            yield task


def with_records(job: JobMemory) -> Iterator[Task]:
    """Tasks with records that stand in lines and in no queue."""
    for line in job.lines.values():
        yield from (task for task in _behind(job, line) if id_key(task.id) in job.tasks)
