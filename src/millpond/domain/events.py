"""Events: everything that can happen to the scheduler of one pool id.

Names are in the past tense. The time rides in the event (`at`), and `cause` is the id of what led to it (a request id,
a node's report …); it travels on with every effect. An event that the rules forbid makes `apply` raise `BatchError`
and leaves no trace.
"""

from typing import TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.job import Job, JobChanges
from millpond.domain.pool import Pool
from millpond.domain.preconditions import Precondition
from millpond.domain.states import DisableJobOption, NodeDeallocationOption
from millpond.domain.task import FailureInfo, NewTask, Task


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    at: Timestamp
    cause: str = ""


# --- pool -----------------------------------------------------------------------------------------------------------


class PoolAdded(_Event, frozen=True, kw_only=True):
    """`pool` comes with number, id and definition set; the scheduler sets its states. Reply: None."""

    pool: Pool


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


class PoolResizeTimedOut(_Event, frozen=True, kw_only=True):
    """The resize deadline passed; `deadline` tells a stale timer from the current one."""

    deadline: Timestamp


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


class NodeSilent(_Event, frozen=True, kw_only=True):
    """No word from the node for a while: it becomes `unknown`; its tasks are left alone for now."""

    node_id: str


class NodeLost(_Event, frozen=True, kw_only=True):
    """The node has been silent too long, or the provider says it failed: its tasks run elsewhere."""

    node_id: str


class NodeGone(_Event, frozen=True, kw_only=True):
    """The provider says the node no longer exists (released, or vanished)."""

    node_id: str


# --- jobs -----------------------------------------------------------------------------------------------------------


class JobAdded(_Event, frozen=True, kw_only=True):
    """`job` comes with number, id and definition set; the scheduler sets its states. Reply: None."""

    job: Job


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
    condition: Precondition | None = None


class TaskReactivateRequested(_Event, frozen=True, kw_only=True):
    job_id: str
    task_id: str
    condition: Precondition | None = None


class TaskStarted(_Event, frozen=True, kw_only=True):
    """A node reports: the attempt is running (its files are being fetched, or its command line runs)."""

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


PoolEvent: TypeAlias = (
    PoolAdded | PoolDeleteRequested | PoolResizeRequested | PoolResizeStopRequested | PoolResizeTimedOut
)
NodeEvent: TypeAlias = NodeProvisioned | NodeProvisionFailed | NodeConnected | NodeSilent | NodeLost | NodeGone
JobEvent: TypeAlias = (
    JobAdded
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
    | TaskTerminateRequested
    | TaskDeleteRequested
    | TaskUpdated
    | TaskReactivateRequested
    | TaskStarted
    | TaskEnded
    | TaskStopped
    | TaskReturned
)
Event: TypeAlias = PoolEvent | NodeEvent | JobEvent | TaskEvent
