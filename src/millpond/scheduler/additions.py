"""Additions: tasks that users add to a job.

A call of Add Task Collection brings a hundred, and nearly always they are alike but for id and specification: those are
filed together. What is said of one task here holds for each of them.
"""

from collections.abc import Sequence
from itertools import repeat
from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import AddTasks, Effect, Reply
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import TasksAdded
from millpond.domain.ids import id_key, id_keys, task_key
from millpond.domain.states import OnTaskFailure, TaskState
from millpond.domain.task import ExitConditions, NewTask, Task, TaskAddOutcome, TaskRules
from millpond.scheduler import dependencies, lines, load
from millpond.scheduler.state import JobMemory, SchedulerState
from millpond.scheduler.tasks import find_job, make_ready, require_open

_ACTIVE: Final = TaskState.ACTIVE


def on_tasks_added(state: SchedulerState, event: TasksAdded, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    at = event.at
    news = event.tasks
    keys = id_keys([new.id for new in news])
    if len(news) > 1 and _are_alike(news) and _are_free(job, keys):
        _add_alike(state, job, news, keys, at, effects)
        return
    outcomes: list[TaskAddOutcome] = []
    tasks: list[Task] = []
    specs: list[bytes] = []
    for new, key in zip(news, keys, strict=True):
        error = _reason_to_refuse(job, new, key)
        if error is not None:
            if event.single:
                raise BatchError(error)
            outcomes.append(TaskAddOutcome(new.id, error.value))
            continue
        tasks.append(_add(state, job, new, key, at))
        specs.append(new.spec)
        outcomes.append(TaskAddOutcome(new.id, None, at))
    if tasks:
        _note_added(state, job, AddTasks(tasks, specs), effects)
    effects.append(Reply(outcomes))


def _are_alike(news: Sequence[NewTask]) -> bool:
    """Whether they differ in id and specification alone, and need nothing that takes a look at each."""
    slots, retries = news[0].required_slots, news[0].max_retry_count
    for new in news:
        if new.rules is not None or new.required_slots != slots or new.max_retry_count != retries:
            return False
    return True


def _are_free(job: JobMemory, keys: Sequence[str]) -> bool:
    """Whether each id is one that a task of the job may be given, and none comes twice."""
    if job.arrays or not job.tasks.keys().isdisjoint(keys):
        return False
    distinct = set(keys)
    reserved = (job.row.preparation, job.row.release)
    return len(distinct) == len(keys) and not any(it is not None and id_key(it.id) in distinct for it in reserved)


def _add_alike(
    state: SchedulerState,
    job: JobMemory,
    news: Sequence[NewTask],
    keys: Sequence[str],
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """`_add` for tasks that are alike and may be added: without rules, none of them waits for another."""
    row = job.row
    slots, retries = news[0].required_slots, news[0].max_retry_count
    first = task_key(row.no, row.next_task_number)
    row.next_task_number += len(news)
    # In the order of the fields: by name takes twice as long, and this is done for every task there is.
    tasks = [Task(number, new.id, _ACTIVE, at, at, at, slots, retries) for number, new in enumerate(news, start=first)]
    ids = [new.id for new in news]
    # One string serves as id and key where they are equal: with a million tasks that is worth the look.
    same = ids if ids == keys else [own if own == key else key for own, key in zip(ids, keys, strict=True)]
    job.tasks.update(zip(same, tasks, strict=True))
    make_ready(state, job, tasks[0])
    job.ready[slots].extend(tasks[1:])
    _note_added(state, job, AddTasks(tasks, [new.spec for new in news], alike=True), effects)
    effects.append(Reply(list(map(TaskAddOutcome, ids, repeat(None), repeat(at)))))


def _reason_to_refuse(job: JobMemory, new: NewTask, key: str) -> ErrorCode | None:
    if key in job.tasks or (job.arrays and lines.is_item(job, key)):
        return ErrorCode.TASK_EXISTS
    row = job.row
    if row.preparation is not None and key == id_key(row.preparation.id):
        return ErrorCode.TASK_ID_SAME_AS_JOB_PREPARATION_TASK
    if row.release is not None and key == id_key(row.release.id):
        return ErrorCode.TASK_ID_SAME_AS_JOB_RELEASE_TASK
    return reason_to_refuse(job, new.rules)


def reason_to_refuse(job: JobMemory, rules: TaskRules | None) -> ErrorCode | None:
    """What tasks of the job cannot have."""
    if rules is None:
        return None
    if rules.has_dependencies and job.dependencies is None:
        return ErrorCode.TASK_DEPENDENCIES_NOT_SPECIFIED_ON_JOB
    if (
        rules.exit_conditions is not None
        and job.row.on_task_failure is OnTaskFailure.NO_ACTION
        and _has_job_action(rules.exit_conditions)
    ):
        return ErrorCode.INVALID_PROPERTY_VALUE
    return None


def _has_job_action(conditions: ExitConditions) -> bool:
    single = (conditions.pre_processing_error, conditions.file_upload_error, conditions.default)
    options = [entry[-1] for entry in conditions.exit_codes]
    options += [entry[-1] for entry in conditions.exit_code_ranges]
    options += [option for option in single if option is not None]
    return any(option.job_action is not None for option in options)


def add(state: SchedulerState, job: JobMemory, new: NewTask, at: Timestamp, effects: list[Effect]) -> None:
    """Add a task that may be added: active, and queued unless it waits for others."""
    task = _add(state, job, new, id_key(new.id), at)
    _note_added(state, job, AddTasks([task], [new.spec]), effects)


def _add(state: SchedulerState, job: JobMemory, new: NewTask, key: str, at: Timestamp) -> Task:
    """`add`, but for what many tasks added together need once (`_note_added`). `key` is the id's."""
    row = job.row
    number = row.next_task_number
    row.next_task_number = number + 1
    task_id, rules = new.id, new.rules
    # In the order of the fields: by name takes twice as long, and this is done for every task there is.
    task = Task(task_key(row.no, number), task_id, _ACTIVE, at, at, at, new.required_slots, new.max_retry_count)
    # One string serves as id and key where they are equal: with a million tasks that is worth the look.
    job.tasks[task_id if key == task_id else key] = task
    if rules is not None:
        task.rules = rules
        if rules.instances:
            load.add_extra(job.extra, task, 1)
    if job.dependencies is None or dependencies.add_dependent(job.dependencies, task):
        make_ready(state, job, task)
    return task


def _note_added(state: SchedulerState, job: JobMemory, added: AddTasks, effects: list[Effect]) -> None:
    counts = job.row.counts
    counts.active += len(added.tasks)
    counts.active_slots += sum([task.required_slots for task in added.tasks])
    state.touch_job(job)
    effects.append(added)
