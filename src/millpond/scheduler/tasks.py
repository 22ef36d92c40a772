"""Tasks: handing out and taking back, starting, ending, and what users ask of them. `additions` has how they come."""

from typing import Final

import msgspec

from millpond.domain.durations import Timestamp, later_than
from millpond.domain.effects import (
    DeleteSubtasks,
    DeleteTask,
    Effect,
    RememberSatisfied,
    RemoveTaskDirectory,
    SaveTask,
    SaveTaskSpec,
    StopTask,
)
from millpond.domain.errors import BatchError, Bug, ErrorCode
from millpond.domain.events import (
    TaskDeleteRequested,
    TaskReactivateRequested,
    TaskTerminateRequested,
    TaskUpdated,
)
from millpond.domain.ids import id_key, job_no_of
from millpond.domain.states import (
    IN_SERVICE_NODE_STATES,
    TASK_MOVES,
    DependencyAction,
    JobAction,
    JobState,
    OnAllTasksComplete,
    OnTaskFailure,
    TaskState,
)
from millpond.domain.task import FailureInfo, Task, TaskRules
from millpond.scheduler import dependencies, gangs, lines, load, retries, service_log
from millpond.scheduler.state import (
    Assignment,
    JobMemory,
    NodeMemory,
    SchedulerState,
    Stopping,
    settle_filed_node_state,
)
from millpond.scheduler.task_queue import TaskQueue

JOB_MANAGER_COMPLETE: Final = "JMComplete"
"""Why a job ends whose manager completed with killJobOnCompletion."""

DEFAULT_RETENTION_S: Final = 7 * 86400.0
"""How long the files of a task are kept on its node that says nothing about it (Azure Batch: retentionTime)."""

_ACTIVE: Final = TaskState.ACTIVE
_COMPLETED: Final = TaskState.COMPLETED

_CLOSED_JOBS = {
    JobState.COMPLETED: ErrorCode.JOB_COMPLETED,
    JobState.TERMINATING: ErrorCode.JOB_BEING_TERMINATED,
    JobState.DELETING: ErrorCode.JOB_BEING_DELETED,
}


def find_job(state: SchedulerState, job_id: str) -> JobMemory:
    """The job. Raises JobNotFound."""
    job = state.jobs.get(id_key(job_id))
    if job is None:
        raise BatchError(ErrorCode.JOB_NOT_FOUND, f"The job '{job_id}' does not exist.", JobId=job_id)
    return job


def require_open(job: JobMemory) -> None:
    """Raises JobCompleted, JobBeingTerminated or JobBeingDeleted for a job that takes no more changes."""
    code = _CLOSED_JOBS.get(job.row.state)
    if code is not None:
        raise BatchError(code)


def _find_task(job: JobMemory, task_id: str) -> Task:
    """The task; before anything of it is changed, `lines.admit` it. Raises TaskNotFound."""
    task = lines.find(job, id_key(task_id))
    if task is None:
        raise BatchError(
            ErrorCode.TASK_NOT_FOUND,
            f"The task '{task_id}' does not exist in job '{job.row.id}'.",
            JobId=job.row.id,
            TaskId=task_id,
        )
    return task


# --- counts and states ----------------------------------------------------------------------------------------------


def _add_to_counts(job: JobMemory, task: Task, sign: int) -> None:
    counts = job.row.counts
    slots = sign * task.required_slots
    if task.rules is not None and task.rules.instances:
        load.add_extra(job.extra, task, sign)
    now = task.state
    if now is _ACTIVE:
        counts.active += sign
        counts.active_slots += slots
    elif now is not _COMPLETED:
        counts.running += sign
        counts.running_slots += slots
    elif task.failure is None:
        counts.succeeded += sign
        counts.succeeded_slots += slots
    else:
        counts.failed += sign
        counts.failed_slots += slots


def set_task_state(state: SchedulerState, job: JobMemory, task: Task, to: TaskState, at: Timestamp) -> None:
    """Move a task that is not completed to another state. Raises Bug for a move that does not exist."""
    if to not in TASK_MOVES[task.state]:
        raise Bug(f"task {task.id} of job {job.row.id} cannot go from {task.state} to {to}")
    _add_to_counts(job, task, -1)
    task.previous_state = task.state
    task.previous_state_time = task.state_time
    task.state = to
    task.state_time = at
    _add_to_counts(job, task, 1)
    state.touch_job(job)


def make_ready(state: SchedulerState, job: JobMemory, task: Task, *, first: bool = False) -> None:
    """Queue a task that could be placed: at the end, or (having been placed before) at the front."""
    rules = task.rules
    if rules is not None and (rules.instances or rules.job_manager is not None):
        queue: TaskQueue | None = job.gangs.setdefault(rules.instances, TaskQueue()) if rules.instances else job.first
        state.apart[job.row.no] = job
    else:
        queue = job.ready.get(task.required_slots)
        state.ready_jobs[job.row.no] = job
    if queue is None:
        queue = job.ready[task.required_slots] = TaskQueue()
    if first:
        queue.appendleft(task)
    else:
        queue.append(task)


# --- nodes and attempts ---------------------------------------------------------------------------------------------


def promote(node: NodeMemory) -> None:
    """Give freed slots to what was handed out ahead, in the node's own order: nothing overtakes the first."""
    if not node.ahead:
        return
    for assignment in node.assigned.values():
        if assignment.holds:
            continue
        if assignment.slots > node.free:
            break
        assignment.holds = True
        node.free -= assignment.slots
        node.ahead -= 1
        if not node.ahead:
            break


def demote(node: NodeMemory, begun: Assignment) -> None:
    """The node's own order is not the one in the books (rebuilt from rows, they know none): what it has begun holds
    the slots, so of what it has not begun the last must give theirs up."""
    for assignment in reversed(list(node.assigned.values())):
        if node.free >= 0:
            return
        if assignment.holds and assignment is not begun and assignment.task.state is TaskState.ACTIVE:
            assignment.holds = False
            node.free += assignment.slots
            node.ahead += 1


def settle(state: SchedulerState, node: NodeMemory, free_before: int, at: Timestamp) -> None:
    """After a change to what a node holds: promote, file, and show idle or running."""
    if node.ahead:
        promote(node)
    state.refile(node, free_before)
    if node.connected and node.row.state in IN_SERVICE_NODE_STATES:
        settle_filed_node_state(state, node, at)
    if node.row.pending is not None:
        state.pool_unsettled = True


def detach(
    state: SchedulerState,
    job: JobMemory,
    task: Task,
    at: Timestamp,
    *,
    stop: bool,
    effects: list[Effect],
    node: NodeMemory | None = None,
) -> None:
    """Take the current attempt off its node.

    With `stop` the node is told to kill it, and its slots stay taken until the node says it is gone; without, the
    attempt has ended there (or the node is gone with it). Of a multi-instance task all instances go: those on other
    nodes than `node` are told to stop in any case.
    """
    node_id = job.assigned.pop(task.key, None)
    if node_id is None:
        return
    if task.rules is not None and task.rules.instances:
        for instance in gangs.disband(state, task.key, at, effects):
            member = state.nodes[instance.node_id]
            began = instance.start_time is not None if instance.index else task.state is TaskState.RUNNING
            take_off(state, job, member, task, at, began=began, stop=stop or member is not node, effects=effects)
        return
    take_off(
        state, job, state.nodes[node_id], task, at, began=task.state is TaskState.RUNNING, stop=stop, effects=effects
    )


def take_off(
    state: SchedulerState,
    job: JobMemory,
    node: NodeMemory,
    task: Task,
    at: Timestamp,
    *,
    began: bool,
    stop: bool,
    effects: list[Effect],
) -> None:
    """Take what runs of the task on this node off it. `began`: it counts among what the node runs."""
    free_before = node.free
    assignment = node.assigned.pop(task.key)
    node.alone = False
    if stop and not assignment.sent:
        stop = False  # the node does not know of it
    if not assignment.holds:
        node.ahead -= 1
    elif not stop:
        node.free += assignment.slots
    if stop:
        held = assignment.slots if assignment.holds else 0
        # The exit code of a subtask is not the task's.
        node.stopping[task.key, assignment.attempt] = Stopping(held, None if assignment.index else task)
        job.stopping += 1
        effects.append(StopTask(node.row.id, task.key, assignment.attempt))
    if began and assignment.index:
        retain_files(state, node, task.rules, at)  # a subtask's, which the end of the task does not name
    if began:
        node.row.running_tasks -= 1
        node.row.running_task_slots -= task.required_slots
        state.touch_work(node)
    settle(state, node, free_before, at)


def release_stopping(state: SchedulerState, node: NodeMemory, key: int, attempt: int, at: Timestamp) -> Stopping | None:
    """An attempt told to stop is gone: its slots are free again."""
    stopping = node.stopping.pop((key, attempt), None)
    if stopping is None:
        return None
    job = state.jobs_by_no.get(job_no_of(key))
    if job is not None:
        job.stopping -= 1
        state.touch_unsettled(job)
    free_before = node.free
    node.free += stopping.slots
    settle(state, node, free_before, at)
    return stopping


def requeue(
    state: SchedulerState, job: JobMemory, task: Task, at: Timestamp, effects: list[Effect], *, by_user: bool
) -> None:
    """Make a detached task active again. `by_user` (resize, job disable) counts in requeueCount, else in nothing."""
    if task.state is not TaskState.ACTIVE:
        set_task_state(state, job, task, TaskState.ACTIVE, at)
        if by_user:
            task.requeue_count += 1
            task.last_requeue_time = at
        if state.tells_tasks:
            effects.append(service_log.task_requeued(job, task))
    task.node_id = None
    task.start_time = None
    effects.append(SaveTask(task))
    make_ready(state, job, task, first=True)
    state.touch_unsettled(job)


def complete(
    state: SchedulerState,
    job: JobMemory,
    task: Task,
    at: Timestamp,
    effects: list[Effect],
    *,
    end_time: Timestamp,
    exit_code: int | None,
    failure: FailureInfo | None,
) -> None:
    """End a detached task for good; release its dependents, and note what its job should do about it."""
    _add_to_counts(job, task, -1)
    task.previous_state = task.state
    task.previous_state_time = task.state_time
    task.state = TaskState.COMPLETED
    task.state_time = at
    task.end_time = end_time
    task.exit_code = exit_code
    task.failure = failure
    node = state.nodes.get(task.node_id) if task.node_id is not None else None
    if node is not None and task.start_time is not None:
        retain_files(state, node, task.rules, end_time)
    _add_to_counts(job, task, 1)
    state.touch_job(job)
    index = job.dependencies
    if index is not None:
        dependencies.remove_dependent(index, task)
        task.satisfies = retries.dependency_action(task) is DependencyAction.SATISFY
        if task.satisfies:
            for released in dependencies.mark_satisfied(index, id_key(task.id)):
                make_ready(state, job, released)
    effects.append(SaveTask(task))
    if state.tells_tasks:
        effects.extend(service_log.task_completed(job, task))
    state.touch_unsettled(job)
    if job.row.on_task_failure is OnTaskFailure.PERFORM_EXIT_OPTIONS_JOB_ACTION:
        action = retries.job_action(task)
        if action is not JobAction.NONE:
            state.follow_ups.append((job, action, "TaskFailed"))
    if task.rules is not None and task.rules.job_manager is not None and task.rules.job_manager.kill_job_on_completion:
        state.follow_ups.append((job, JobAction.TERMINATE, JOB_MANAGER_COMPLETE))
    check_all_complete(state, job)


def retain_files(state: SchedulerState, node: NodeMemory, rules: TaskRules | None, end_time: Timestamp) -> None:
    """Note on the node a task ended on until when its files are to be kept there."""
    retention_s = rules.retention_s if rules is not None else None
    until = end_time + (DEFAULT_RETENTION_S if retention_s is None else retention_s)
    if node.row.retain_until is None or until > node.row.retain_until:
        node.row.retain_until = until
        state.touch_work(node)


def check_all_complete(state: SchedulerState, job: JobMemory) -> None:
    """onAllTasksComplete: a job with no task that is not completed is complete, a job without tasks too."""
    counts = job.row.counts
    if (
        job.row.on_all_tasks_complete is OnAllTasksComplete.TERMINATE_JOB
        and job.row.state is JobState.ACTIVE
        and counts.active == 0
        and counts.running == 0
    ):
        state.follow_ups.append((job, JobAction.TERMINATE, "AllTasksComplete"))


# --- events from users ----------------------------------------------------------------------------------------------


def on_task_terminate_requested(state: SchedulerState, event: TaskTerminateRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    task = _find_task(job, event.task_id)
    _require(event, task)
    if task.state is TaskState.COMPLETED:
        raise BatchError(ErrorCode.TASK_COMPLETED)
    lines.admit(state, job, task, effects)
    detach(state, job, task, event.at, stop=True, effects=effects)
    complete(state, job, task, event.at, effects, end_time=event.at, exit_code=None, failure=retries.ENDED_BY_USER)


def on_task_delete_requested(state: SchedulerState, event: TaskDeleteRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    if job.row.state is JobState.DELETING:
        raise BatchError(ErrorCode.JOB_BEING_DELETED)
    if job.row.state is JobState.COMPLETED:
        task = event.row
        if task is None or task.key in job.deleted:
            raise BatchError(ErrorCode.TASK_NOT_FOUND)
        _require(event, task)
        job.deleted.add(task.key)
        has_row = not lines.dismiss(state, job, task)
    else:
        task = _find_task(job, event.task_id)
        _require(event, task)
        has_row = not lines.dismiss(state, job, task)
        if has_row:
            detach(state, job, task, event.at, stop=True, effects=effects)
            del job.tasks[id_key(task.id)]
    _add_to_counts(job, task, -1)
    state.touch_job(job)
    state.touch_unsettled(job)
    if task.rules is not None and task.rules.instances:
        # Its instances ran anywhere: who does not know the task has nothing to remove.
        effects.extend(RemoveTaskDirectory(node_id, job.row.id, task.id) for node_id in state.nodes)
        effects.append(DeleteSubtasks(task.key))
    elif task.node_id in state.nodes:
        effects.append(RemoveTaskDirectory(task.node_id, job.row.id, task.id))
    if job.dependencies is not None:
        dependencies.remove_dependent(job.dependencies, task)
        if task.satisfies:
            effects.append(RememberSatisfied(job.row.no, id_key(task.id)))
    if has_row:
        effects.append(DeleteTask(task))
    # Poison the record: entries of ready queues and of stopping attempts must not bring it back.
    task.state = TaskState.COMPLETED
    task.attempt = -1
    check_all_complete(state, job)


def on_task_updated(state: SchedulerState, event: TaskUpdated, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    task = _find_task(job, event.task_id)
    _require(event, task)
    if task.state is TaskState.COMPLETED:
        raise BatchError(ErrorCode.TASK_COMPLETED)
    lines.admit(state, job, task, effects)
    task.max_retry_count = event.max_retry_count
    if event.retention_s != (None if task.rules is None else task.rules.retention_s):
        task.rules = msgspec.structs.replace(task.rules or TaskRules(), retention_s=event.retention_s)
    task.last_modified = later_than(task.last_modified, event.at)
    effects.append(SaveTask(task))
    effects.append(SaveTaskSpec(task.key, event.spec))


def on_task_reactivate_requested(state: SchedulerState, event: TaskReactivateRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    task = _find_task(job, event.task_id)
    _require(event, task)
    if task.state is not TaskState.COMPLETED:
        raise BatchError(ErrorCode.TASK_NOT_COMPLETED)
    if task.failure is None:
        raise BatchError(ErrorCode.TASK_SUCCEEDED)
    if task.satisfies:
        # Released dependents are not recalled: what the task satisfied stays so, also after a restart.
        effects.append(RememberSatisfied(job.row.no, id_key(task.id)))
        task.satisfies = False
    set_task_state(state, job, task, TaskState.ACTIVE, event.at)
    task.failure = None
    task.exit_code = None
    task.end_time = None
    task.start_time = None
    task.node_id = None
    task.retry_count = 0
    task.last_retry_time = None
    effects.append(SaveTask(task))
    if job.dependencies is None or dependencies.add_dependent(job.dependencies, task):
        make_ready(state, job, task)


def _require(
    event: TaskTerminateRequested | TaskDeleteRequested | TaskUpdated | TaskReactivateRequested, task: Task
) -> None:
    if event.condition is not None:
        event.condition.require(task.last_modified)


# --- attempts that are gone -----------------------------------------------------------------------------------------


def note_stopped(
    state: SchedulerState,
    node: NodeMemory,
    key: int,
    attempt: int,
    exit_code: int | None,
    at: Timestamp,
    effects: list[Effect],
) -> None:
    stopping = release_stopping(state, node, key, attempt, at)
    if stopping is None or stopping.task is None or exit_code is None:
        return
    task = stopping.task
    if task.attempt == attempt and task.state is TaskState.COMPLETED and task.exit_code is None:
        task.exit_code = exit_code
        effects.append(SaveTask(task))


def lose_attempts(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The node is gone with all it held: its tasks become active again, counted nowhere (Azure Batch: recovery)."""
    for assignment in list(node.assigned.values()):
        job = state.jobs_by_no[assignment.task.job_no]
        detach(state, job, assignment.task, at, stop=False, effects=effects, node=node)
        requeue(state, job, assignment.task, at, effects, by_user=False)
    for key, attempt in list(node.stopping):
        release_stopping(state, node, key, attempt, at)
