"""The events of the service log: what Azure Batch tells a monitoring system (category ServiceLog).

Each class is the body of one event, encoded as JSON as it is: its fields are the properties on the wire, in their order,
and its name is the event's. Source: Azure Batch's reference of monitoring data.
"""

from typing import TypeAlias

import msgspec


class _Part(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename="camel"):
    pass


# --- pools ----------------------------------------------------------------------------------------------------------


class ImageReference(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    publisher: str = " "
    offer: str = " "
    sku: str = " "
    version: str = " "


class VirtualMachineConfiguration(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    image_reference: ImageReference
    node_agent_id: str


class NetworkConfiguration(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    subnet_id: str


class PoolCreateEvent(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A pool was added. Where its target is above 0, a resize follows."""

    id: str
    display_name: str
    vm_size: str
    image_type: str = "VirtualMachineConfiguration"
    network_configuration: NetworkConfiguration
    virtual_machine_configuration: VirtualMachineConfiguration
    resize_timeout: str
    """Milliseconds"""
    target_dedicated_nodes: int
    target_low_priority_nodes: int
    task_slots_per_node: int
    vm_fill_type: str
    enable_auto_scale: bool
    enable_inter_node_communication: bool
    is_auto_pool: bool


class _PoolResize(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    id: str
    node_deallocation_option: str
    """When a resize begins, `Invalid` where nodes of neither kind are to go."""
    current_dedicated_nodes: int
    target_dedicated_nodes: int
    current_low_priority_nodes: int
    target_low_priority_nodes: int
    enable_auto_scale: bool
    is_auto_pool: bool


class PoolResizeStartEvent(_PoolResize, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A pool begins to move towards its targets."""


class PoolResizeCompleteEvent(_PoolResize, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A resize is over, whether it reached its targets or not."""

    start_time: str
    end_time: str
    result_code: str
    """`Success`, or the code of the first resize error."""
    result_message: str


class NameAndValue(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    name: str
    value: str


class AutoScaleError(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    """Empty where the evaluation did not fail."""

    code: str = ""
    message: str = ""
    values: tuple[NameAndValue, ...] = ()


class PoolAutoScaleEvent(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A pool's formula was evaluated."""

    id: str
    timestamp: str
    formula: str
    results: str
    error: AutoScaleError


class PoolDeleteStartEvent(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    id: str


class PoolDeleteCompleteEvent(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    id: str
    start_time: str
    end_time: str


# --- tasks ----------------------------------------------------------------------------------------------------------


class NodeInfo(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    pool_id: str
    node_id: str
    """A space where there is none."""


class MultiInstanceSettings(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    number_of_instances: int


class Constraints(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    max_task_retry_count: int


class StartInfo(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    retry_count: int


class SchedulingError(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    """Why a task failed."""

    category: str
    code: str
    message: str
    details: tuple[NameAndValue, ...] = ()


class RunInfo(_Part, frozen=True, kw_only=True, gc=False, rename="camel", omit_defaults=True):
    """What is not known is left out."""

    start_time: str | None = None
    end_time: str | None = None
    exit_code: int | None = None
    retry_count: int
    requeue_count: int
    result: str | None = None
    scheduling_error: SchedulingError | None = None


class TaskStartEvent(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    """An attempt was handed to a node."""

    job_id: str
    id: str
    task_type: str
    """`User`, or `JobManager`."""
    system_task_version: int
    """The attempt's number."""
    required_slots: int
    node_info: NodeInfo
    multi_instance_settings: MultiInstanceSettings
    constraints: Constraints
    execution_info: StartInfo


class _TaskRunEvent(_Part, frozen=True, kw_only=True, gc=False, rename="camel"):
    job_id: str
    id: str
    task_type: str
    system_task_version: int
    required_slots: int
    node_info: NodeInfo
    multi_instance_settings: MultiInstanceSettings
    constraints: Constraints
    execution_info: RunInfo


class TaskCompleteEvent(_TaskRunEvent, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A task is completed, whatever came of it."""


class TaskFailEvent(_TaskRunEvent, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A task is completed and has failed: comes with a `TaskCompleteEvent`."""


class TaskRequeueEvent(_TaskRunEvent, frozen=True, kw_only=True, gc=False, rename="camel"):
    """A task that was on a node is active again, for whatever reason."""


ServiceLogEvent: TypeAlias = (
    PoolCreateEvent
    | PoolResizeStartEvent
    | PoolResizeCompleteEvent
    | PoolAutoScaleEvent
    | PoolDeleteStartEvent
    | PoolDeleteCompleteEvent
    | TaskStartEvent
    | TaskCompleteEvent
    | TaskFailEvent
    | TaskRequeueEvent
)
