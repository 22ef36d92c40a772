"""How much work a pool has: exact sums over its jobs, kept as jobs change, never counted anew.

What formulas see of tasks (`$ActiveTasks` …). Every change to a job's counts touches the job, so summing up the
touched jobs after each batch keeps the sums exact.
"""

from millpond.domain.states import JobState, TaskState
from millpond.domain.task import Task, TaskCounts
from millpond.scheduler.state import JobMemory, SchedulerState, TaskLoad


def extra_instances(task: Task) -> int:
    """Instances of a multi-instance task beside its primary."""
    return task.rules.instances - 1 if task.rules is not None and task.rules.instances else 0


def add_extra(extra: TaskCounts, task: Task, sign: int) -> None:
    """Note (or take back) the further instances of a multi-instance task in its present state."""
    number = sign * extra_instances(task)
    slots = number * task.required_slots
    if task.state is TaskState.ACTIVE:
        extra.active += number
        extra.active_slots += slots
    elif task.state is not TaskState.COMPLETED:
        extra.running += number
        extra.running_slots += slots


def load_of(job: JobMemory) -> TaskLoad:
    """What one job adds to the load of its pool.

    Ready are the active tasks of an active job that wait for no other task; a multi-instance task counts as many times
    as it has instances. What a disabled or ending job has on nodes still runs.
    """
    row, extra = job.row, job.extra
    counts = row.counts
    load = TaskLoad(succeeded=counts.succeeded, failed=counts.failed)
    if row.state is JobState.DELETING or row.state is JobState.COMPLETED:
        return load
    load.running = counts.running + extra.running
    load.running_slots = counts.running_slots + extra.running_slots
    if row.state is JobState.ACTIVE:
        load.active = counts.active + extra.active
        load.active_slots = counts.active_slots + extra.active_slots
        index = job.dependencies
        if index is not None:
            load.active -= index.waiting_instances
            load.active_slots -= index.waiting_slots
    return load


def recount(state: SchedulerState, job: JobMemory) -> None:
    """Put what the job adds now in place of what it added when it was last looked at."""
    known, now = job.load, load_of(job)
    job.load = now
    total = state.load
    total.active += now.active - known.active
    total.active_slots += now.active_slots - known.active_slots
    total.running += now.running - known.running
    total.running_slots += now.running_slots - known.running_slots
    total.succeeded += now.succeeded - known.succeeded
    total.failed += now.failed - known.failed


def forget(state: SchedulerState, job: JobMemory) -> None:
    """The job leaves this memory, and its load with it."""
    known, total = job.load, state.load
    job.load = TaskLoad()
    total.active -= known.active
    total.active_slots -= known.active_slots
    total.running -= known.running
    total.running_slots -= known.running_slots
    total.succeeded -= known.succeeded
    total.failed -= known.failed


def settle(state: SchedulerState) -> None:
    """After a batch: the jobs it touched."""
    for job in state.dirty_jobs.values():
        recount(state, job)
