"""A job: its record, and the typed part of its specification that decides scheduling."""

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules
from millpond.domain.states import (
    DisableJobOption,
    ErrorCategory,
    JobState,
    OnAllTasksComplete,
    OnTaskFailure,
    PoolLifetimeOption,
)
from millpond.domain.task import NO_USE, JsonObject, NameValue, ResourceUse, TaskCounts


class SchedulingError(msgspec.Struct, frozen=True):
    """Why a job could not be scheduled at all (Azure Batch: JobSchedulingError)."""

    category: ErrorCategory
    code: str
    message: str
    details: tuple[NameValue, ...] = ()


class AutoPool(msgspec.Struct, frozen=True):
    """The job runs in a pool the service made for it, or for its schedule (Azure Batch: AutoPoolSpecification)."""

    keep_alive: bool = False
    """The pool is left to the user to delete."""
    lifetime: PoolLifetimeOption = PoolLifetimeOption.JOB


class Job(msgspec.Struct):
    """One row of the `job` table, one object in memory.

    `spec` is the wire form of everything the user set, shown again by GET; the scheduler reads only the typed fields
    beside it, which the API keeps in step.
    """

    no: int
    """The job's number in the account; task keys are built on it."""
    id: str
    pool_id: str
    """The pool as the user spelled it; it may not exist (yet)."""
    state: JobState
    creation_time: Timestamp
    last_modified: Timestamp
    """Changes with the definition, not with the state; the ETag is made of it."""
    state_time: Timestamp
    spec: JsonObject
    priority: int = 0
    max_parallel_tasks: int = -1
    """Tasks of the job that may run at a time; -1 is no limit."""
    max_wall_clock_s: float | None = None
    """Seconds from creation until the job is terminated; None is no limit."""
    max_task_retry_count: int = 0
    """For tasks that set none of their own; -1 retries for ever."""
    uses_task_dependencies: bool = False
    on_all_tasks_complete: OnAllTasksComplete = OnAllTasksComplete.NO_ACTION
    on_task_failure: OnTaskFailure = OnTaskFailure.NO_ACTION
    previous_state: JobState | None = None
    previous_state_time: Timestamp | None = None
    start_time: Timestamp | None = None
    end_time: Timestamp | None = None
    terminate_reason: str | None = None
    disable_option: DisableJobOption | None = None
    """What the disable in progress does to running tasks; None outside `disabling`."""
    allow_task_preemption: bool = False
    """Tasks of jobs with a higher priority may have this job's running tasks requeued."""
    preparation: JobPreparationRules | None = None
    release: JobReleaseRules | None = None
    auto_pool: AutoPool | None = None
    """Set when `pool_id` is that of an auto pool."""
    schedule_id: str | None = None
    """The job schedule that made the job."""
    scheduling_error: SchedulingError | None = None
    release_deadline: Timestamp | None = None
    """When the job ends without waiting any longer for its release tasks."""
    next_task_number: int = 1
    counts: TaskCounts = msgspec.field(default_factory=TaskCounts)
    use: ResourceUse = NO_USE
    """Of its tasks' runs that have ended, deleted tasks' too."""


class JobChanges(msgspec.Struct, frozen=True):
    """A PATCH or PUT of a job: `None` leaves a field as it is (the API fills in defaults for PUT).

    `spec` holds the top-level wire properties to put in place of those in `Job.spec`.
    """

    spec: JsonObject
    priority: int | None = None
    max_parallel_tasks: int | None = None
    constraints: tuple[float | None, int] | None = None
    """(max_wall_clock_s, max_task_retry_count)"""
    on_all_tasks_complete: OnAllTasksComplete | None = None
    pool_id: str | None = None
    """Another pool: only for a disabled job."""
    allow_task_preemption: bool | None = None
    keep_alive: bool | None = None
    """Of the job's auto pool; only where its lifetime is that of the job."""
