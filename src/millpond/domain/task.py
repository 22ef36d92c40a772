"""A task: its slim, hot record. The wide specification is kept apart, as the JSON it was added with."""

from typing import Any

import msgspec

from millpond.domain import ids
from millpond.domain.durations import Timestamp
from millpond.domain.states import DependencyAction, ErrorCategory, JobAction, TaskResult, TaskState


class NameValue(msgspec.Struct, frozen=True, gc=False):
    """One detail of a failure: `{"name": …, "value": …}` on the wire."""

    name: str
    value: str


class FailureInfo(msgspec.Struct, frozen=True, gc=False):
    """Why a task failed (Azure Batch: TaskFailureInformation)."""

    category: ErrorCategory
    code: str
    """One of the catalogue in `domain.errors.TaskFailureCode`."""
    message: str
    details: tuple[NameValue, ...] = ()


class ExitOptions(msgspec.Struct, frozen=True, gc=False):
    """What a matched exit condition does; `None` is the service's default for that condition."""

    job_action: JobAction | None = None
    dependency_action: DependencyAction | None = None


class ExitConditions(msgspec.Struct, frozen=True, gc=False):
    """Azure Batch: ExitConditions. Order of matching: exact codes, ranges, upload or pre-processing error, default."""

    exit_codes: tuple[tuple[int, ExitOptions], ...] = ()
    """(code, options)"""
    exit_code_ranges: tuple[tuple[int, int, ExitOptions], ...] = ()
    """(first, last, options), both ends inclusive"""
    pre_processing_error: ExitOptions | None = None
    file_upload_error: ExitOptions | None = None
    default: ExitOptions | None = None


class JobManagerRules(msgspec.Struct, frozen=True, gc=False):
    """What sets a job manager task apart (Azure Batch: JobManagerTask)."""

    kill_job_on_completion: bool = True
    """When it completes, its job is terminated."""
    run_exclusive: bool = True
    """Nothing else runs on its node meanwhile."""
    allow_low_priority_node: bool = True
    """It may run on a spot node."""


class TaskRules(msgspec.Struct, frozen=True, gc=False):
    """What few tasks have and the scheduler needs: kept out of the record of the many that have none of it."""

    depends_on_ids: tuple[str, ...] = ()
    """Ids of parents, in comparison form (`ids.id_key`)."""
    depends_on_ranges: tuple[tuple[int, int], ...] = ()
    """(first, last) of integer ids, both ends inclusive"""
    exit_conditions: ExitConditions | None = None
    affinity_node_id: str | None = None
    """The node the task would like to run on: a soft hint."""
    job_manager: JobManagerRules | None = None
    """The task is its job's manager."""
    instances: int = 0
    """Instances of a multi-instance task, the primary among them; 0 for an ordinary task."""
    job_access: bool = False
    """It gets a token with which it may call the service about its own job (authenticationTokenSettings)."""
    retention_s: float | None = None
    """Seconds its files are kept after its end; None is the service's default (7 days)."""

    @property
    def has_dependencies(self) -> bool:
        return bool(self.depends_on_ids or self.depends_on_ranges)


class ResourceUse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What runs used, in seconds: of a task over all its runs, or of all tasks of a job."""

    user_cpu_s: float = 0.0
    kernel_cpu_s: float = 0.0
    wall_s: float = 0.0
    wait_s: float = 0.0
    """From creation to the first start."""
    retries: int = 0

    def plus(self, other: "ResourceUse") -> "ResourceUse":
        return ResourceUse(
            self.user_cpu_s + other.user_cpu_s,
            self.kernel_cpu_s + other.kernel_cpu_s,
            self.wall_s + other.wall_s,
            self.wait_s + other.wait_s,
            self.retries + other.retries,
        )


NO_USE = ResourceUse()


class Task(msgspec.Struct, gc=False):
    """The slim record of a task: one row of the hot `task` table, one object in the scheduler's memory.

    A task that is `active` with a `node_id` has been handed to that node as `attempt` and has not been reported
    running yet (on the wire it is plainly `active`). The record holds no reference to other records, so the garbage
    collector need not look at it.
    """

    key: int
    """`ids.task_key(job_no, number)`; key order is creation order within a job."""
    id: str
    state: TaskState
    creation_time: Timestamp
    last_modified: Timestamp
    """Changes with the definition, not with the state; the ETag is made of it."""
    state_time: Timestamp
    required_slots: int = 1
    max_retry_count: int | None = None
    """-1 retries for ever; `None` takes the job's at the time of the failure."""
    previous_state: TaskState | None = None
    previous_state_time: Timestamp | None = None
    attempt: int = 0
    """Counts every hand-over to a node, for whatever reason; reports of any other attempt are dropped."""
    node_id: str | None = None
    """The node of the current attempt; for a completed task the node it ended on."""
    retry_count: int = 0
    """Runs repeated because of a non-zero exit code (the only ones that count against the limit)."""
    requeue_count: int = 0
    """Runs given back because a user asked (resize, job disable)."""
    last_retry_time: Timestamp | None = None
    last_requeue_time: Timestamp | None = None
    start_time: Timestamp | None = None
    """Entry to `running`, of the latest run."""
    end_time: Timestamp | None = None
    exit_code: int | None = None
    failure: FailureInfo | None = None
    satisfies: bool = False
    """Completed in a way that releases its dependents."""
    rules: TaskRules | None = None
    use: ResourceUse | None = None
    """Of the runs that have ended by themselves; None before the first."""

    @property
    def job_no(self) -> int:
        return ids.job_no_of(self.key)

    @property
    def result(self) -> TaskResult | None:
        """`success` or `failure` of a completed task (success means: no failure info), else None."""
        if self.state is not TaskState.COMPLETED:
            return None
        return TaskResult.SUCCESS if self.failure is None else TaskResult.FAILURE


class NewTask(msgspec.Struct, frozen=True, gc=False):
    """A task as the API hands it to the scheduler: checked by itself, not yet against its job."""

    id: str
    spec: bytes
    """The wire form (JSON object) as it will be shown again; opaque to the scheduler."""
    required_slots: int = 1
    max_retry_count: int | None = None
    rules: TaskRules | None = None


class TaskCounts(msgspec.Struct):
    """Tasks of a job by state, and the slots they need (Azure Batch: TaskCountsResult). Exact, kept by the scheduler.

    `running` includes preparing; `active` includes tasks blocked by dependencies.
    """

    active: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    active_slots: int = 0
    running_slots: int = 0
    succeeded_slots: int = 0
    failed_slots: int = 0

    @property
    def completed(self) -> int:
        return self.succeeded + self.failed

    @property
    def completed_slots(self) -> int:
        return self.succeeded_slots + self.failed_slots

    @property
    def total(self) -> int:
        return self.active + self.running + self.succeeded + self.failed


class TaskAddOutcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one task of `TasksAdded`, in the order given."""

    id: str
    error_code: str | None = None
    """`TaskExists` …, or None when the task was added."""
    last_modified: Timestamp = 0.0


JsonObject = dict[str, Any]
"""A decoded JSON object in wire form."""
