"""A compute node: its record."""

from collections.abc import Sequence
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.special_task import SpecialTaskInfo
from millpond.domain.states import NodeDeallocationOption, NodeOperation, NodeState, SchedulingState
from millpond.domain.task import NameValue

RECENT_TASKS: Final = 10
"""How many tasks a node shows of those it ran (Azure Batch: recentTasks)."""


class NodeError(msgspec.Struct, frozen=True):
    """What is wrong with a node (Azure Batch: ComputeNodeError)."""

    code: str
    message: str
    details: tuple[NameValue, ...] = ()


class PendingOperation(msgspec.Struct, frozen=True):
    """What the node is to undergo, and what becomes of the tasks on it first; it is given no new ones meanwhile."""

    operation: NodeOperation
    option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE


class NodeWork(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What of a node changes when tasks begin and end on it: of a busy pool's nodes hardly anything else does. See
    `Node` for what the fields are."""

    id: str
    state: NodeState
    state_time: Timestamp
    running_tasks: int
    running_task_slots: int
    total_tasks_run: int
    total_tasks_succeeded: int
    recent_tasks: tuple[int, ...]
    retain_until: Timestamp | None


class Node(msgspec.Struct):
    """One row of the `node` table."""

    id: str
    pool_no: int
    state: NodeState
    state_time: Timestamp
    allocation_time: Timestamp
    is_dedicated: bool = True
    scheduling_state: SchedulingState = SchedulingState.ENABLED
    last_boot_time: Timestamp | None = None
    ip_address: str = ""
    agent_version: str = ""
    handle: str = ""
    """The provider's own memory of the node: opaque JSON, empty until the provider made it."""
    pending: PendingOperation | None = None
    """Kept until the operation is under way: a removal until the node is gone, the others until the node's state says
    so."""
    disk_time: Timestamp | None = None
    """When the node's disk was made, by the node's own clock: another value is a fresh disk."""
    setup: SpecialTaskInfo | None = None
    """How the node was made ready for its pool (application packages), since it booted last; None when there was nothing
    to do. It comes before the start task; a node it failed on is unusable."""
    start_task: SpecialTaskInfo | None = None
    start_task_waits: bool = False
    """The start task that runs, or ran last, had waitForSuccess."""
    retain_until: Timestamp | None = None
    """When the last files of tasks that ended here may go: what `retaineddata` waits for."""
    running_tasks: int = 0
    running_task_slots: int = 0
    total_tasks_run: int = 0
    total_tasks_succeeded: int = 0
    recent_tasks: tuple[int, ...] = ()
    """Keys of the tasks that began here last, the latest last."""
    errors: tuple[NodeError, ...] = ()
    capabilities: tuple[NameValue, ...] = ()
    """What its agent says it can and cannot do (`protocol.messages.Hello`); shown by an operation of ours."""

    def note_task(self, key: int) -> None:
        """A task begins here: the latest of `RECENT_TASKS`."""
        recent = self.recent_tasks
        if key in recent:
            recent = tuple([known for known in recent if known != key])
        self.recent_tasks = (*recent[1 - RECENT_TASKS :], key)

    def note_tasks(self, keys: Sequence[int]) -> None:
        """Several, the latest last."""
        for key in keys[-RECENT_TASKS:]:
            self.note_task(key)

    def work(self) -> NodeWork:
        # In the order of the fields: by name takes twice as long.
        return NodeWork(
            self.id,
            self.state,
            self.state_time,
            self.running_tasks,
            self.running_task_slots,
            self.total_tasks_run,
            self.total_tasks_succeeded,
            self.recent_tasks,
            self.retain_until,
        )

    def take_work(self, work: NodeWork) -> None:
        """Be as `work` says."""
        for name in NodeWork.__struct_fields__:
            setattr(self, name, getattr(work, name))

    @property
    def removal(self) -> NodeDeallocationOption | None:
        """How the node is to leave the pool; None when it is not."""
        pending = self.pending
        return pending.option if pending is not None and pending.operation is NodeOperation.REMOVE else None
