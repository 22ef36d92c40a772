"""A pool: its record."""

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.states import AllocationState, NodeDeallocationOption, NodeFillType, PoolState
from millpond.domain.task import JsonObject, NameValue

DEFAULT_RESIZE_TIMEOUT_S = 15 * 60.0
MIN_RESIZE_TIMEOUT_S = 5 * 60.0


class ResizeError(msgspec.Struct, frozen=True):
    """Why the last resize did not reach its target (Azure Batch: ResizeError)."""

    code: str
    message: str
    values: tuple[NameValue, ...] = ()


class Pool(msgspec.Struct):
    """One row of the `pool` table. `spec` is the wire form of what the user set; see `Job.spec`."""

    no: int
    id: str
    state: PoolState
    allocation_state: AllocationState
    creation_time: Timestamp
    last_modified: Timestamp
    """Changes with the definition and the targets, not with node states; the ETag is made of it."""
    state_time: Timestamp
    allocation_state_time: Timestamp
    spec: JsonObject
    vm_size: str
    task_slots_per_node: int = 1
    fill_type: NodeFillType = NodeFillType.SPREAD
    target_dedicated_nodes: int = 0
    target_low_priority_nodes: int = 0
    resize_timeout_s: float = DEFAULT_RESIZE_TIMEOUT_S
    resize_deadline: Timestamp | None = None
    """When the resize in progress gives up; None when steady."""
    node_deallocation_option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE
    """What the resize in progress does to tasks on nodes it removes."""
    resize_errors: tuple[ResizeError, ...] = ()
    next_node_number: int = 1
