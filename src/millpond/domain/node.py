"""A compute node: its record."""

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.states import NodeDeallocationOption, NodeState, SchedulingState
from millpond.domain.task import NameValue


class NodeError(msgspec.Struct, frozen=True):
    """What is wrong with a node (Azure Batch: ComputeNodeError)."""

    code: str
    message: str
    details: tuple[NameValue, ...] = ()


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
    removal: NodeDeallocationOption | None = None
    """The node is to leave the pool, in this manner; it is given no new tasks."""
    running_tasks: int = 0
    running_task_slots: int = 0
    total_tasks_run: int = 0
    total_tasks_succeeded: int = 0
    errors: tuple[NodeError, ...] = ()
