"""Jobs: their life, and what happens to their tasks on the way."""

import msgspec

from millpond.domain.durations import Timestamp, later_than
from millpond.domain.effects import (
    DeleteJob,
    Effect,
    MoveJob,
    PurgeJob,
    RemoveJobDirectories,
    SaveJob,
    SaveJobNode,
    SetJobTimer,
    TellJobCompleted,
)
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.events import (
    JobAdded,
    JobDeleteRequested,
    JobDisableRequested,
    JobEnableRequested,
    JobPurged,
    JobTerminateRequested,
    JobTimedOut,
    JobUpdated,
)
from millpond.domain.ids import id_key
from millpond.domain.states import DisableJobOption, JobAction, JobState, OnAllTasksComplete, SpecialTaskState
from millpond.domain.task import Task, TaskCounts
from millpond.scheduler import additions, load, pools, retries, special, tasks
from millpond.scheduler.state import JobMemory, SchedulerState, set_job_state
from millpond.scheduler.tasks import find_job, require_open


def on_job_added(state: SchedulerState, event: JobAdded, effects: list[Effect]) -> None:
    row = event.job
    key = id_key(row.id)
    if key in state.jobs:
        raise BatchError(ErrorCode.JOB_EXISTS, f"The job '{row.id}' already exists.", JobId=row.id)
    at = event.at
    row.state = JobState.ACTIVE
    row.creation_time = row.last_modified = row.state_time = row.start_time = at
    row.counts = TaskCounts()
    job = JobMemory(row)
    state.jobs[key] = job
    state.jobs_by_no[row.no] = job
    state.touch_job(job)
    effects.append(SaveJob(row))
    if event.auto_pool is not None and row.scheduling_error is None:
        row.scheduling_error = pools.add_auto_pool(state, event.auto_pool, at, effects)
    if row.scheduling_error is not None:
        _complete(state, job, at, effects)
        return
    set_timer(job, effects)
    if event.manager is not None:
        additions.add(state, job, event.manager, at, effects)
    tasks.check_all_complete(state, job)


def deadline_of(job: JobMemory) -> Timestamp | None:
    """When the job's maxWallClockTime, counted from creation, runs out; for a job that ends, when its release tasks are
    no longer waited for. None when there is no such moment."""
    row = job.row
    if row.state in (JobState.TERMINATING, JobState.DELETING):
        return row.release_deadline
    if row.max_wall_clock_s is None or row.state is JobState.COMPLETED:
        return None
    return row.creation_time + row.max_wall_clock_s


def set_timer(job: JobMemory, effects: list[Effect]) -> None:
    effects.append(SetJobTimer(job.row.id, deadline_of(job)))


def on_job_updated(state: SchedulerState, event: JobUpdated, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    row = job.row
    if event.condition is not None:
        event.condition.require(row.last_modified)
    changes = event.changes
    if (
        changes.on_all_tasks_complete is OnAllTasksComplete.NO_ACTION
        and row.on_all_tasks_complete is OnAllTasksComplete.TERMINATE_JOB
    ):
        raise invalid_property(
            "onAllTasksComplete", "noaction", "once it is terminatejob it cannot be set back to noaction"
        )
    other_pool = changes.pool_id if changes.pool_id and id_key(changes.pool_id) != id_key(row.pool_id) else None
    if other_pool is not None and row.state is not JobState.DISABLED:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"The pool of job '{row.id}' can be changed only while the job is disabled; it is {row.state}.",
        )
    row.spec = {**row.spec, **changes.spec}
    if changes.priority is not None:
        row.priority = changes.priority
    if changes.max_parallel_tasks is not None:
        row.max_parallel_tasks = changes.max_parallel_tasks
    if changes.constraints is not None:
        row.max_wall_clock_s, row.max_task_retry_count = changes.constraints
    if changes.on_all_tasks_complete is not None:
        row.on_all_tasks_complete = changes.on_all_tasks_complete
    if changes.allow_task_preemption is not None:
        row.allow_task_preemption = changes.allow_task_preemption
    if changes.keep_alive is not None and row.auto_pool is not None:
        row.auto_pool = msgspec.structs.replace(row.auto_pool, keep_alive=changes.keep_alive)
    row.last_modified = later_than(row.last_modified, event.at)
    if other_pool is not None:
        _leave(state, job, other_pool, event.at, effects)
        return
    if changes.constraints is not None:
        set_timer(job, effects)
    state.touch_job(job)
    if changes.allow_task_preemption is not None:
        row.allow_task_preemption = changes.allow_task_preemption
        state.preemptible[row.no] = job
    state.file_job(job)
    tasks.check_all_complete(state, job)


def _leave(state: SchedulerState, job: JobMemory, pool_id: str, at: Timestamp, effects: list[Effect]) -> None:
    """The disabled job goes to another pool: with this commit its row says so, and this engine knows it no longer."""
    row = job.row
    preparing = [
        (known, known.preparation)
        for known in job.on_nodes.values()
        if known.preparation is not None and known.preparation.state is SpecialTaskState.RUNNING
    ]
    special.stop_preparations(state, job, at, effects)
    for known, info in preparing:
        # Killed, it has neither succeeded nor failed: it is due again should the job come back.
        info.lost = True
        effects.append(SaveJobNode(known))
    pools.delete_auto_pool(state, row, at, effects)
    row.pool_id = pool_id
    row.auto_pool = None
    _forget(state, job)
    effects.append(SaveJob(row))
    effects.append(MoveJob(row))


def _forget(state: SchedulerState, job: JobMemory) -> None:
    row = job.row
    del state.jobs[id_key(row.id)]
    del state.jobs_by_no[row.no]
    load.forget(state, job)
    for register in (state.unsettled_jobs, state.dirty_jobs, state.ready_jobs):
        register.pop(row.no, None)


def _running(job: JobMemory) -> list[Task]:
    """The tasks of the job that are handed out, in order of hand-over."""
    return [task for task in job.tasks.values() if task.key in job.assigned]


def _stop_tasks(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect], *, requeue: bool) -> None:
    """Kill what runs: tasks become active again (counted as a requeue), or completed with TaskEnded.

    Attempts handed out and not begun go back to the queue in any case: an active task stays active.
    """
    if not job.assigned:
        return
    for task in _running(job):
        begun = task.start_time is not None
        tasks.detach(state, job, task, at, stop=True, effects=effects)
        if requeue or not begun:
            tasks.requeue(state, job, task, at, effects, by_user=begun)
        else:
            tasks.complete(state, job, task, at, effects, end_time=at, exit_code=None, failure=retries.ENDED_BY_JOB)


def on_job_disable_requested(state: SchedulerState, event: JobDisableRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    if event.condition is not None:
        event.condition.require(job.row.last_modified)
    disable(state, job, event.option, event.at, effects)


def disable(
    state: SchedulerState, job: JobMemory, option: DisableJobOption, at: Timestamp, effects: list[Effect]
) -> None:
    """Start no more tasks; deal with those that run as `option` says. `settle` completes it."""
    if job.row.state is JobState.DISABLED:
        return
    if job.row.state is not JobState.DISABLING:
        set_job_state(state, job, JobState.DISABLING, at)
    job.row.disable_option = option
    job.row.last_modified = later_than(job.row.last_modified, at)
    state.touch_job(job)
    if option is DisableJobOption.WAIT:
        for task in [task for task in _running(job) if task.start_time is None]:
            # Not begun: whether the node has got to it is unknown, so it is taken back rather than waited for.
            tasks.detach(state, job, task, at, stop=True, effects=effects)
            tasks.requeue(state, job, task, at, effects, by_user=False)
    else:
        _stop_tasks(state, job, at, effects, requeue=option is DisableJobOption.REQUEUE)


def on_job_enable_requested(state: SchedulerState, event: JobEnableRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    if event.condition is not None:
        event.condition.require(job.row.last_modified)
    if job.row.state is JobState.DISABLING:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"Job '{job.row.id}' is still being disabled; enable it once it is disabled.",
        )
    if job.row.state is not JobState.DISABLED:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE, f"Job '{job.row.id}' is not disabled; it is {job.row.state}."
        )
    set_job_state(state, job, JobState.ENABLING, event.at)
    set_job_state(state, job, JobState.ACTIVE, event.at)
    job.row.last_modified = later_than(job.row.last_modified, event.at)
    state.file_job(job)
    tasks.check_all_complete(state, job)


def on_job_terminate_requested(state: SchedulerState, event: JobTerminateRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    require_open(job)
    if event.condition is not None:
        event.condition.require(job.row.last_modified)
    terminate(state, job, event.reason, event.at, effects)


def terminate(state: SchedulerState, job: JobMemory, reason: str, at: Timestamp, effects: list[Effect]) -> None:
    """End the job: running tasks are ended, active ones stay active for ever (Azure Batch: terminate job)."""
    set_job_state(state, job, JobState.TERMINATING, at)
    job.row.terminate_reason = reason
    job.row.disable_option = None
    job.row.last_modified = later_than(job.row.last_modified, at)
    _stop_tasks(state, job, at, effects, requeue=False)
    special.stop_preparations(state, job, at, effects)
    set_timer(job, effects)


def on_job_timed_out(state: SchedulerState, event: JobTimedOut, effects: list[Effect]) -> None:
    job = state.jobs.get(id_key(event.job_id))
    if job is None or deadline_of(job) != event.deadline:
        return
    if job.row.state in (JobState.TERMINATING, JobState.DELETING):
        special.give_up_release(state, job, event.at, effects)
        return
    terminate(state, job, "MaxWallClockTimeExpiry", event.at, effects)


def on_job_delete_requested(state: SchedulerState, event: JobDeleteRequested, effects: list[Effect]) -> None:
    job = find_job(state, event.job_id)
    if job.row.state is JobState.DELETING:
        raise BatchError(ErrorCode.JOB_BEING_DELETED)
    if event.condition is not None:
        event.condition.require(job.row.last_modified)
    was_over = job.row.state is JobState.COMPLETED
    set_job_state(state, job, JobState.DELETING, event.at)
    for task in _running(job):
        # One instance of a multi-instance task takes the others with it.
        if task.key in job.assigned:
            tasks.detach(state, job, task, event.at, stop=True, effects=effects)
    special.stop_preparations(state, job, event.at, effects)
    for node in state.nodes.values():
        for stopping in node.stopping.values():
            if stopping.task is not None and stopping.task.job_no == job.row.no:
                stopping.task = None  # its row is about to go
    forget_tasks(state, job)
    if was_over or job.row.release is None:
        _purge(state, job, effects)
    else:
        state.touch_unsettled(job)
    set_timer(job, effects)


def _purge(state: SchedulerState, job: JobMemory, effects: list[Effect]) -> None:
    """Nothing of a deleting job is waited for any more: its directories and rows go."""
    effects.extend(RemoveJobDirectories(node_id, job.row.id) for node_id in state.nodes)
    job.on_nodes = {}
    job.barred = set()
    job.purging = True
    effects.append(PurgeJob(job.row))


def forget_tasks(state: SchedulerState, job: JobMemory) -> None:
    """Let go of the records of a job that will not schedule again."""
    job.tasks = {}
    job.lines = {}
    if job.row.state is JobState.DELETING:
        job.arrays = {}
    job.ready = {}
    job.first.clear()
    job.gangs = {}
    job.dependencies = None
    state.ready_jobs.pop(job.row.no, None)
    state.apart.pop(job.row.no, None)
    state.preemptible.pop(job.row.no, None)


def on_job_purged(state: SchedulerState, event: JobPurged, effects: list[Effect]) -> None:
    job = state.jobs.get(id_key(event.job_id))
    if job is None or job.row.state is not JobState.DELETING:
        return
    _forget(state, job)
    pools.delete_auto_pool(state, job.row, event.at, effects)
    effects.append(DeleteJob(job.row))


def follow_up(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """What tasks asked of their jobs while an event was applied; each may end further tasks and ask again."""
    while state.follow_ups:
        job, action, reason = state.follow_ups.pop(0)
        # The end of a job manager is said once, so it counts for a disabled job too; the rest is asked again when the
        # job is enabled.
        if job.row.state is not JobState.ACTIVE and not (
            reason == tasks.JOB_MANAGER_COMPLETE and job.row.state in (JobState.DISABLING, JobState.DISABLED)
        ):
            continue
        if action is JobAction.TERMINATE:
            terminate(state, job, reason, at, effects)
        else:
            disable(state, job, DisableJobOption.REQUEUE, at, effects)


def settle(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """Move jobs on whose last attempts are gone: disabling → disabled, terminating → release tasks → completed,
    deleting → release tasks → purged."""
    if not state.unsettled_jobs:
        return
    unsettled = list(state.unsettled_jobs.values())
    state.unsettled_jobs.clear()
    for job in unsettled:
        if job.assigned or job.stopping or job.purging:
            continue
        if job.row.state is JobState.DISABLING:
            job.row.disable_option = None
            set_job_state(state, job, JobState.DISABLED, at)
        elif job.row.state in (JobState.TERMINATING, JobState.DELETING):
            if job.row.previous_state is not JobState.COMPLETED:
                special.begin_release(state, job, at, effects)
            if job.specials:
                set_timer(job, effects)
            elif job.row.state is JobState.DELETING:
                _purge(state, job, effects)
            else:
                _complete(state, job, at, effects)


def _complete(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect]) -> None:
    """Nothing of a terminating job is waited for any more, or it could not be scheduled in the first place."""
    job.row.end_time = at
    set_job_state(state, job, JobState.COMPLETED, at)
    forget_tasks(state, job)
    job.on_nodes = {}
    job.barred = set()
    pools.delete_auto_pool(state, job.row, at, effects)
    if job.row.schedule_id is not None:
        effects.append(TellJobCompleted(job.row))
