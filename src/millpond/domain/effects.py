"""Effects: what the scheduler wants done. Names are imperative.

Rows (`Save…`, `Delete…`) go into the batch's one `ChangeSet`, the last per key winning; directives (`StartTask` …) and
replies leave only after that commit; provider wishes and timers are carried out after it too.
"""

from typing import Any, TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.task import Task


class _Effect(msgspec.Struct, frozen=True, gc=False):
    pass


# --- rows -----------------------------------------------------------------------------------------------------------


class SavePool(_Effect, frozen=True, gc=False):
    pool: Pool


class DeletePool(_Effect, frozen=True, gc=False):
    pool: Pool


class SaveNode(_Effect, frozen=True, gc=False):
    node: Node


class DeleteNode(_Effect, frozen=True, gc=False):
    node: Node


class SaveJob(_Effect, frozen=True, gc=False):
    job: Job


class DeleteJob(_Effect, frozen=True, gc=False):
    """The job's own row (its task rows are gone already)."""

    job: Job


class SaveTask(_Effect, frozen=True, gc=False):
    task: Task


class AddTask(_Effect, frozen=True, gc=False):
    """A new row and its specification."""

    task: Task
    spec: bytes


class SaveTaskSpec(_Effect, frozen=True, gc=False):
    """A new specification of an existing task."""

    key: int
    spec: bytes


class DeleteTask(_Effect, frozen=True, gc=False):
    """The task's row and specification."""

    task: Task


class RememberSatisfied(_Effect, frozen=True, gc=False):
    """A deleted task had released its dependents: the job remembers it by id (Azure Batch: task dependencies)."""

    job_no: int
    id_key: str


class PurgeJob(_Effect, frozen=True, gc=False):
    """Delete all task rows of a deleting job, a few at a time; answer with `JobPurged`."""

    job: Job


# --- directives to nodes --------------------------------------------------------------------------------------------


class BeginSession(_Effect, frozen=True, gc=False):
    """The node's inventory has been compared: only directives after this one are for the new session. Those before it
    have gone into the comparison, and would make a node that has run an attempt to its end run it again."""

    node_id: str
    session: str


class StartTask(_Effect, frozen=True, gc=False):
    node_id: str
    job: Job
    task: Task
    attempt: int


class StopTask(_Effect, frozen=True, gc=False):
    """Kill the attempt and say so (`TaskStopped`)."""

    node_id: str
    key: int
    attempt: int


class ReturnTask(_Effect, frozen=True, gc=False):
    """Give the attempt back if it has not started (`TaskReturned`); else carry on."""

    node_id: str
    key: int
    attempt: int


class RemoveTaskDirectory(_Effect, frozen=True, gc=False):
    """The task was deleted: its directory on the node may go, whatever its retention time."""

    node_id: str
    job_id: str
    task_id: str


class RemoveJobDirectories(_Effect, frozen=True, gc=False):
    """The job was deleted: the directories of its tasks on the node may go."""

    node_id: str
    job_id: str


# --- provider wishes ------------------------------------------------------------------------------------------------


class CreateNode(_Effect, frozen=True, gc=False):
    """Make this node; answered by `NodeProvisioned` or `NodeProvisionFailed`."""

    pool: Pool
    node: Node


class ReleaseNode(_Effect, frozen=True, gc=False):
    """Give the node back; answered by `NodeGone`. The handle may be empty when it was never provisioned."""

    pool: Pool
    node: Node


# --- timers, replies -----------------------------------------------------------------------------------------------


class SetResizeTimer(_Effect, frozen=True, gc=False):
    """`PoolResizeTimedOut` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    deadline: Timestamp | None


class SetJobTimer(_Effect, frozen=True, gc=False):
    """`JobTimedOut` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    job_id: str
    deadline: Timestamp | None


class Reply(_Effect, frozen=True, gc=False):
    """The answer to the event's sender (at most one for an event; without one the answer is None)."""

    value: Any


RowEffect: TypeAlias = (
    SavePool
    | DeletePool
    | SaveNode
    | DeleteNode
    | SaveJob
    | DeleteJob
    | AddTask
    | SaveTask
    | SaveTaskSpec
    | DeleteTask
    | RememberSatisfied
)
DirectiveEffect: TypeAlias = (
    BeginSession | StartTask | StopTask | ReturnTask | RemoveTaskDirectory | RemoveJobDirectories
)
Effect: TypeAlias = (
    RowEffect | DirectiveEffect | PurgeJob | CreateNode | ReleaseNode | SetResizeTimer | SetJobTimer | Reply
)
