"""Events: everything that can happen to the scheduler of one pool id, and to the keeper of job schedules.

Names are in the past tense. The time rides in the event (`at`), and `cause` is the id of what led to it (a request id,
a node's report …); it travels on with every effect. An event that the rules forbid makes `apply` raise `BatchError`
and leaves no trace.
"""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from millpond.domain.autoscale import AutoScaleRun
from millpond.domain.durations import Timestamp, whole_microseconds
from millpond.domain.job import Job, JobChanges
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.pool import Pool, PoolChanges
from millpond.domain.preconditions import Precondition
from millpond.domain.special_task import JobNode
from millpond.domain.states import DisableJobOption, NodeDeallocationOption, NodeOperation
from millpond.domain.task import FailureInfo, JsonObject, NameValue, NewTask, Task
from millpond.domain.task_array import Rest, TaskArray


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    at: Timestamp
    cause: str = ""


# --- pool -----------------------------------------------------------------------------------------------------------


class PoolAdded(_Event, frozen=True, kw_only=True):
    """`pool` comes with number, id and definition set; the scheduler sets its states. Reply: None."""

    pool: Pool


class PoolUpdated(_Event, frozen=True, kw_only=True):
    changes: PoolChanges
    condition: Precondition | None = None


class PoolDeleteRequested(_Event, frozen=True, kw_only=True):
    condition: Precondition | None = None


class PoolResizeRequested(_Event, frozen=True, kw_only=True):
    """A target that is None stays as it is (one of the two is given)."""

    target_dedicated_nodes: int | None = None
    target_low_priority_nodes: int | None = None
    resize_timeout_s: float
    node_deallocation_option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE
    condition: Precondition | None = None


class PoolResizeStopRequested(_Event, frozen=True, kw_only=True):
    condition: Precondition | None = None


class NodesRemoveRequested(_Event, frozen=True, kw_only=True):
    """Take these nodes out of the pool; its targets fall by as many (Azure Batch: Remove Nodes)."""

    node_ids: tuple[str, ...]
    resize_timeout_s: float
    node_deallocation_option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE
    condition: Precondition | None = None


class PoolResizeTimedOut(_Event, frozen=True, kw_only=True):
    """The resize deadline passed; `deadline` tells a stale timer from the current one."""

    deadline: Timestamp


class PoolAutoScaleEnableRequested(_Event, frozen=True, kw_only=True):
    """A formula or interval that is None stays as it is. The formula can be read, the interval is allowed."""

    formula: str | None = None
    interval_s: float | None = None
    condition: Precondition | None = None


class PoolAutoScaleDisableRequested(_Event, frozen=True, kw_only=True):
    condition: Precondition | None = None


class PoolAutoScaled(_Event, frozen=True, kw_only=True):
    """The pool's formula was evaluated. `pool_no` and `since` (see `AutoScale`) tell an outcome that counts from one of
    a formula, or a pool, that has gone. With an error in `run` the targets mean nothing."""

    pool_no: int
    since: Timestamp
    run: AutoScaleRun
    target_dedicated_nodes: int = 0
    target_low_priority_nodes: int = 0
    node_deallocation_option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE
    max_nodes: int | None = None
    """Nodes the pool may have, of both kinds together; None is no limit."""


# --- nodes ----------------------------------------------------------------------------------------------------------


class NodeProvisioned(_Event, frozen=True, kw_only=True):
    """The provider accepted the node; `handle` is its memory of it."""

    node_id: str
    handle: str


class NodeProvisionFailed(_Event, frozen=True, kw_only=True):
    node_id: str
    code: str
    message: str


class HeldAttempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt a node's agent knows of: queued, running, or ended and not yet acknowledged."""

    key: int
    attempt: int
    slots: int
    ended: bool = False
    """It has ended; its report is on the way."""


class NodeConnected(_Event, frozen=True, kw_only=True):
    """The node's agent said hello: a new session. `inventory` is all it holds; anything else it has forgotten."""

    node_id: str
    boot_time: Timestamp
    ip_address: str
    agent_version: str
    inventory: tuple[HeldAttempt, ...] = ()
    session: str = ""
    """Of the hello; comes back in `effects.BeginSession`."""
    disk_time: Timestamp | None = None
    """When the node's disk was made; None is as if at `boot_time`."""
    capabilities: tuple[NameValue, ...] = ()
    """See `protocol.messages.Hello`."""


class NodeSilent(_Event, frozen=True, kw_only=True):
    """No word from the node for a while: it becomes `unknown`; its tasks are left alone for now."""

    node_id: str


class NodeLost(_Event, frozen=True, kw_only=True):
    """The node has been silent too long, or the provider says it failed: its tasks run elsewhere."""

    node_id: str


class NodePreempted(_Event, frozen=True, kw_only=True):
    """The provider took a spot node's machine back: disk and tasks are lost, the node waits to be made again."""

    node_id: str


class NodeOperationRequested(_Event, frozen=True, kw_only=True):
    """Reboot, reimage or deallocate the node, once the tasks on it have been dealt with as `option` says."""

    node_id: str
    operation: NodeOperation
    option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE


class NodeStartRequested(_Event, frozen=True, kw_only=True):
    """Start a deallocated node."""

    node_id: str


class NodeSchedulingDisableRequested(_Event, frozen=True, kw_only=True):
    """Give the node no new tasks; `option` (not `retaineddata`) says what becomes of those it runs."""

    node_id: str
    option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE


class NodeSchedulingEnableRequested(_Event, frozen=True, kw_only=True):
    node_id: str


class NodeRetentionPassed(_Event, frozen=True, kw_only=True):
    """What a node kept for `retaineddata` may go; `deadline` tells a stale timer from the current one."""

    node_id: str
    deadline: Timestamp


class NodeGone(_Event, frozen=True, kw_only=True):
    """The provider says the node no longer exists (released, or vanished)."""

    node_id: str


# --- jobs -----------------------------------------------------------------------------------------------------------


class JobAdded(_Event, frozen=True, kw_only=True):
    """`job` comes with number, id and definition set; the scheduler sets its states. Reply: None.

    `auto_pool` is made with it, in the same commit, unless the pool exists already (that of a schedule does).
    """

    job: Job
    manager: NewTask | None = None
    """The job manager task: the job's first task."""
    auto_pool: Pool | None = None


class JobArrived(_Event, frozen=True, kw_only=True):
    """A disabled job that was moved here from another pool, as the store has it. Known already: nothing happens."""

    job: Job
    tasks: tuple[Task, ...]
    satisfied: tuple[str, ...] = ()
    """Id keys of deleted tasks that had released their dependents."""
    job_nodes: tuple[JobNode, ...] = ()
    task_arrays: tuple[tuple[TaskArray, Rest], ...] = ()


class JobUpdated(_Event, frozen=True, kw_only=True):
    job_id: str
    changes: JobChanges
    condition: Precondition | None = None


class JobDisableRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    option: DisableJobOption
    condition: Precondition | None = None


class JobEnableRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    condition: Precondition | None = None


class JobTerminateRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    reason: str
    condition: Precondition | None = None


class JobDeleteRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    condition: Precondition | None = None


class JobTimedOut(_Event, frozen=True, kw_only=True):
    """The job's maxWallClockTime passed; `deadline` tells a stale timer from the current one."""

    job_id: str
    deadline: Timestamp


class JobPurged(_Event, frozen=True, kw_only=True):
    """All task rows of a deleting job are gone from the store."""

    job_id: str


# --- tasks ----------------------------------------------------------------------------------------------------------


class TasksAdded(_Event, frozen=True, kw_only=True):
    """Tasks to add to a job, one by one. Reply: `list[TaskAddOutcome]`, in the order given.

    `single` (Add Task, not Add Task Collection) makes a task that cannot be added raise its `BatchError` instead.
    """

    job_id: str
    tasks: tuple[NewTask, ...]
    single: bool = False


class TaskArrayAdded(_Event, frozen=True, kw_only=True):
    """An array to add to a job: all of its items or none. Reply: the array as it was added.

    Raises BatchError TaskExists when one of its ids is taken.
    """

    job_id: str
    array: TaskArray


class TaskTerminateRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    task_id: str
    condition: Precondition | None = None


class TaskDeleteRequested(_Event, frozen=True, kw_only=True):
    """`row` is the task as the store has it when its job is completed: memory has let go of those."""

    job_id: str
    task_id: str
    condition: Precondition | None = None
    row: Task | None = None


class TaskUpdated(_Event, frozen=True, kw_only=True):
    """New constraints: the retry count for the scheduler, the whole new specification for the store."""

    job_id: str
    task_id: str
    max_retry_count: int | None
    spec: bytes
    retention_s: float | None = None
    """See `TaskRules.retention_s`."""
    condition: Precondition | None = None


class TaskReactivateRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    task_id: str
    condition: Precondition | None = None


class TaskStarted(_Event, frozen=True, kw_only=True):
    """A node reports: the attempt is running (its files are being fetched, or its command line runs).

    This and the other reports are also those of special tasks and of instances: the key and the node tell.
    """

    node_id: str
    key: int
    attempt: int
    start_time: Timestamp


class TaskEnded(_Event, frozen=True, kw_only=True):
    """A node reports: the attempt ended.

    `failure` is set for anything but an exit by itself (could not start, upload failed, wall clock, stopped);
    `retryable` failures are the node's own fault and count against no limit.
    """

    node_id: str
    key: int
    attempt: int
    start_time: Timestamp | None
    end_time: Timestamp
    exit_code: int | None
    failure: FailureInfo | None = None
    retryable: bool = False
    user_cpu_s: float = 0.0
    kernel_cpu_s: float = 0.0
    """Seconds of processor time the attempt's process and those it waited for used."""


class AttemptEnd(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One of `TasksEnded`; see `TaskEnded` for what they have alike."""

    seq: int
    """Number of the node's report."""
    key: int
    attempt: int
    start_time: Timestamp | None
    """By the node's clock, as it gives it, as `end_time` is."""
    end_time: Timestamp
    exit_code: int | None
    failure: FailureInfo | None = None
    retryable: bool = False
    user_cpu_s: float = 0.0
    kernel_cpu_s: float = 0.0


class TasksEnded(_Event, frozen=True, kw_only=True):
    """The same of several attempts on one or more nodes: what they have alike is then done once."""

    told: Sequence[tuple[str, Sequence[AttemptEnd]]]
    """(node id, what ended there, in the order it did)"""

    def alone(self, node_id: str, end: AttemptEnd) -> TaskEnded:
        """One of them, as if it had been told by itself; times in whole microseconds, as all that is kept."""
        return TaskEnded(
            at=self.at,
            cause=self.cause,
            node_id=node_id,
            key=end.key,
            attempt=end.attempt,
            start_time=None if end.start_time is None else whole_microseconds(end.start_time),
            end_time=whole_microseconds(end.end_time),
            exit_code=end.exit_code,
            failure=end.failure,
            retryable=end.retryable,
            user_cpu_s=end.user_cpu_s,
            kernel_cpu_s=end.kernel_cpu_s,
        )


class InstanceCoordinated(_Event, frozen=True, kw_only=True):
    """A node reports: the coordination command of its instance of a multi-instance task has succeeded (or there is
    none), and its files are there."""

    node_id: str
    key: int
    attempt: int


class TaskStopped(_Event, frozen=True, kw_only=True):
    """A node reports: the attempt it was told to stop is gone (`exit_code` if it had been running), or never was."""

    node_id: str
    key: int
    attempt: int
    exit_code: int | None = None


class TaskReturned(_Event, frozen=True, kw_only=True):
    """A node gives an attempt back that it had been asked to return and had not started."""

    node_id: str
    key: int
    attempt: int


class GangReservationTimedOut(_Event, frozen=True, kw_only=True):
    """Nodes have been kept free for a multi-instance task long enough; `deadline` tells a stale timer from the current
    one."""

    deadline: Timestamp


# --- job schedules --------------------------------------------------------------------------------------------------
# These go to the one owner of all job schedules (`scheduler.job_schedules`), not to the engine of a pool.


class JobScheduleAdded(_Event, frozen=True, kw_only=True):
    """`schedule` comes with number, id and definition set. Reply: None."""

    schedule: JobSchedule


class JobScheduleUpdated(_Event, frozen=True, kw_only=True):
    """`spec` holds the top-level wire properties to put in place; jobs made already keep what they were made with."""

    schedule_id: str
    spec: JsonObject
    recurrence: Recurrence | None = None
    condition: Precondition | None = None


class JobScheduleDisableRequested(_Event, frozen=True, kw_only=True):
    schedule_id: str
    condition: Precondition | None = None


class JobScheduleEnableRequested(_Event, frozen=True, kw_only=True):
    schedule_id: str
    condition: Precondition | None = None


class JobScheduleTerminateRequested(_Event, frozen=True, kw_only=True):
    schedule_id: str
    condition: Precondition | None = None


class JobScheduleDeleteRequested(_Event, frozen=True, kw_only=True):
    schedule_id: str
    condition: Precondition | None = None


class JobScheduleDue(_Event, frozen=True, kw_only=True):
    """The schedule's next moment came; `deadline` tells a stale timer from the current one."""

    schedule_id: str
    deadline: Timestamp


class ScheduledJobCompleted(_Event, frozen=True, kw_only=True):
    """A job of the schedule is completed, or is gone. Said at least once."""

    schedule_id: str
    job_id: str


class ScheduledJobsDeleted(_Event, frozen=True, kw_only=True):
    """All jobs of a deleting schedule are gone."""

    schedule_id: str


PoolEvent: TypeAlias = (
    PoolAdded
    | PoolUpdated
    | PoolDeleteRequested
    | PoolResizeRequested
    | PoolResizeStopRequested
    | PoolResizeTimedOut
    | NodesRemoveRequested
    | PoolAutoScaleEnableRequested
    | PoolAutoScaleDisableRequested
    | PoolAutoScaled
)
NodeEvent: TypeAlias = (
    NodeProvisioned
    | NodeProvisionFailed
    | NodeConnected
    | NodeSilent
    | NodeLost
    | NodePreempted
    | NodeOperationRequested
    | NodeStartRequested
    | NodeSchedulingDisableRequested
    | NodeSchedulingEnableRequested
    | NodeRetentionPassed
    | NodeGone
)
JobEvent: TypeAlias = (
    JobAdded
    | JobArrived
    | JobUpdated
    | JobDisableRequested
    | JobEnableRequested
    | JobTerminateRequested
    | JobDeleteRequested
    | JobTimedOut
    | JobPurged
)
TaskEvent: TypeAlias = (
    TasksAdded
    | TaskArrayAdded
    | TaskTerminateRequested
    | TaskDeleteRequested
    | TaskUpdated
    | TaskReactivateRequested
    | TaskStarted
    | TaskEnded
    | TasksEnded
    | InstanceCoordinated
    | TaskStopped
    | TaskReturned
    | GangReservationTimedOut
)
Event: TypeAlias = PoolEvent | NodeEvent | JobEvent | TaskEvent
"""What the engine of a pool takes."""

JobScheduleEvent: TypeAlias = (
    JobScheduleAdded
    | JobScheduleUpdated
    | JobScheduleDisableRequested
    | JobScheduleEnableRequested
    | JobScheduleTerminateRequested
    | JobScheduleDeleteRequested
    | JobScheduleDue
    | ScheduledJobCompleted
    | ScheduledJobsDeleted
)
"""What the owner of the job schedules takes."""
