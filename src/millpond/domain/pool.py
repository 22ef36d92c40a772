"""A pool: its record."""

import msgspec

from millpond.domain.autoscale import AutoScale
from millpond.domain.durations import Timestamp
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import AllocationState, JobDefaultOrder, NodeDeallocationOption, NodeFillType, PoolState
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
    start_task: StartTaskRules | None = None
    inter_node_communication: bool = False
    """enableInterNodeCommunication: without it no multi-instance task runs here."""
    job_default_order: JobDefaultOrder = JobDefaultOrder.NONE
    auto_pool: bool = False
    """Made by the service for a job or a job schedule."""
    auto_scale: AutoScale | None = None
    """None while its size is the user's to say."""
    auto_scale_enabled: Timestamp | None = None
    """When a request last enabled automatic scaling; it may have been disabled since."""

    @property
    def needs_setup(self) -> bool:
        """Whether there is something its nodes get before their start task."""
        return bool(self.spec.get("applicationPackageReferences") or self.spec.get("mountConfiguration"))


class PoolChanges(msgspec.Struct, frozen=True):
    """A PATCH of a pool, or a replacement of its properties.

    `spec` holds the top-level wire properties to put in place of those in `Pool.spec`; None takes one away. The typed
    fields follow it: `start_task` is the new rules, None leaves them, `remove_start_task` takes them away. The others
    are refused unless the pool is empty, and None leaves them as they are.
    """

    spec: JsonObject
    start_task: StartTaskRules | None = None
    remove_start_task: bool = False
    vm_size: str | None = None
    task_slots_per_node: int | None = None
    fill_type: NodeFillType | None = None
    job_default_order: JobDefaultOrder | None = None
    inter_node_communication: bool | None = None
    needs_empty_pool: tuple[str, ...] = ()
    """Wire names of the properties given that may change only while the pool has no nodes."""
