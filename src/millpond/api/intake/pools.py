"""Pools: from the body of a request to a record."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from millpond.api.decode import missing_property
from millpond.api.intake.autoscale import SETTINGS, auto_scale_of
from millpond.api.intake.common import check_display_name, check_id, check_metadata, duration_s, within
from millpond.api.intake.mounts import check_mounts
from millpond.api.intake.packages import check_package_references
from millpond.api.intake.special_tasks import start_task_rules
from millpond.api.schema.enums import DeallocationOption, PoolIdentityType
from millpond.api.schema.node import NodeRemove
from millpond.api.schema.pool import PoolCreate, PoolIdentity, PoolResize, PoolSpecification, UserAccount
from millpond.api.schema.task import ApplicationPackageReference
from millpond.api.schema.vm import VirtualMachineConfiguration
from millpond.api.support import refuse_if_used
from millpond.domain.application import MAX_POOL_REFERENCES
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.events import NodesRemoveRequested, PoolResizeRequested
from millpond.domain.ids import id_key
from millpond.domain.pool import DEFAULT_RESIZE_TIMEOUT_S, MIN_RESIZE_TIMEOUT_S, Pool
from millpond.domain.preconditions import Precondition
from millpond.domain.states import AllocationState, JobDefaultOrder, NodeDeallocationOption, NodeFillType, PoolState
from millpond.providers.base import VmSize

MAX_TASK_SLOTS: Final = 256
MAX_RESIZE_TIMEOUT_S: Final = 168 * 3600.0
MAX_NODES: Final = 100_000
"""Targets above it are surely mistaken."""

MAX_REMOVED_NODES: Final = 100
"""Of one request."""

MAX_USER_NAME: Final = 20

_LISTED_SIZES: Final = 8
"""A catalogue of VM sizes no longer than that is told in full."""


def new_pool(body: PoolCreate, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> Pool:
    """The pool's record; its number is set by the control plane, its states by the scheduler. Raises BatchError."""
    check_id("id", body.id)
    _check_identity(body.identity)
    return pool_of(body, body.id, vm_sizes, at)


def pool_of(body: PoolSpecification, pool_id: str, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> Pool:
    """The record of a pool like that, see `new_pool`. What has a default or several spellings is written back into
    `body` in the service's own form."""
    check_display_name("displayName", body.display_name)
    _refuse_unsupported(body)
    auto_scale = auto_scale_of(body, at)
    check_metadata(body.metadata)
    machine = body.virtual_machine_configuration
    if machine is None:
        raise missing_property("virtualMachineConfiguration")
    check_machine(machine)
    size = vm_size_of(body.vm_size, vm_sizes)
    slots = 1 if body.task_slots_per_node is None else body.task_slots_per_node
    check_task_slots(slots, size)
    timeout = _resize_timeout(body.resize_timeout)
    if body.resize_timeout is not None:
        body.resize_timeout = format_duration(timeout)
    policy = body.task_scheduling_policy
    order = None if policy is None else policy.job_default_order
    start_task = None
    if body.start_task is not None:
        with within("startTask"):
            start_task = start_task_rules(body.start_task)
    check_user_accounts(body.user_accounts or ())
    check_pool_packages(body.application_package_references)
    return Pool(
        no=0,
        id=pool_id,
        state=PoolState.ACTIVE,
        allocation_state=AllocationState.STEADY,
        creation_time=at,
        last_modified=at,
        state_time=at,
        allocation_state_time=at,
        spec={
            name: value for name, value in {"id": pool_id, **msgspec.to_builtins(body)}.items() if name not in SETTINGS
        },
        vm_size=body.vm_size,
        task_slots_per_node=slots,
        fill_type=NodeFillType.SPREAD if policy is None else NodeFillType(policy.node_fill_type.value),
        target_dedicated_nodes=_target("targetDedicatedNodes", body.target_dedicated_nodes) or 0,
        target_low_priority_nodes=_target("targetLowPriorityNodes", body.target_low_priority_nodes) or 0,
        resize_timeout_s=timeout,
        start_task=start_task,
        auto_scale=auto_scale,
        inter_node_communication=bool(body.enable_inter_node_communication),
        job_default_order=JobDefaultOrder.NONE if order is None else JobDefaultOrder(order.value),
    )


def _check_identity(identity: PoolIdentity | None) -> None:
    """What is listed need not have credentials yet: that is found out when a task names it."""
    if identity is None:
        return
    listed = identity.user_assigned_identities or []
    if identity.type is PoolIdentityType.USER_ASSIGNED and not listed:
        raise missing_property("identity.userAssignedIdentities")
    if identity.type is PoolIdentityType.NONE and listed:
        raise invalid_property("identity.type", identity.type.value, "with identities listed it must be UserAssigned")
    for index, one in enumerate(listed):
        if not one.resource_id:
            raise invalid_property(f"identity.userAssignedIdentities[{index}].resourceId", "", "it is empty")


def resize_of(body: PoolResize, at: Timestamp, cause: str, condition: Precondition | None) -> PoolResizeRequested:
    """The event of a resize. Raises BatchError."""
    if body.target_dedicated_nodes is None and body.target_low_priority_nodes is None:
        raise BatchError(
            ErrorCode.MISSING_REQUIRED_PROPERTY,
            "At least one of targetDedicatedNodes and targetLowPriorityNodes must be given.",
            PropertyName="targetDedicatedNodes",
        )
    return PoolResizeRequested(
        at=at,
        cause=cause,
        target_dedicated_nodes=_target("targetDedicatedNodes", body.target_dedicated_nodes),
        target_low_priority_nodes=_target("targetLowPriorityNodes", body.target_low_priority_nodes),
        resize_timeout_s=_resize_timeout(body.resize_timeout),
        node_deallocation_option=deallocation_option(body.node_deallocation_option),
        condition=condition,
    )


def removal_of(body: NodeRemove, at: Timestamp, cause: str, condition: Precondition | None) -> NodesRemoveRequested:
    """The event that takes nodes out of a pool. Raises BatchError."""
    count = len(body.node_list)
    if not 1 <= count <= MAX_REMOVED_NODES:
        raise invalid_property("nodeList", count, f"it must name 1 to {MAX_REMOVED_NODES} nodes, and names {count}")
    return NodesRemoveRequested(
        at=at,
        cause=cause,
        node_ids=tuple(map(id_key, body.node_list)),
        resize_timeout_s=_resize_timeout(body.resize_timeout),
        node_deallocation_option=deallocation_option(body.node_deallocation_option),
        condition=condition,
    )


def deallocation_option(option: DeallocationOption | None) -> NodeDeallocationOption:
    return NodeDeallocationOption.REQUEUE if option is None else NodeDeallocationOption(option.value)


def check_user_accounts(accounts: Sequence[UserAccount]) -> None:
    names: set[str] = set()
    for index, account in enumerate(accounts):
        with within(f"userAccounts[{index}]"):
            if not 1 <= len(account.name) <= MAX_USER_NAME:
                raise invalid_property("name", account.name, f"a user's name has 1 to {MAX_USER_NAME} characters")
            if account.name in names:
                raise invalid_property("name", account.name, "there are two users of that name")
            names.add(account.name)
            if account.password is None:
                raise missing_property("password")
            if not account.password:
                raise invalid_property("password", "", "it is empty")
            linux = account.linux_user_configuration
            if linux is not None and (linux.uid is None) != (linux.gid is None):
                raise invalid_property(
                    "linuxUserConfiguration", "", "uid and gid must be given together, or neither of them"
                )
            for name in ("uid", "gid"):
                number = None if linux is None else getattr(linux, name)
                if number is not None and number < 0:
                    raise invalid_property(f"linuxUserConfiguration.{name}", number, "it must be 0 or more")


def _refuse_unsupported(body: PoolSpecification) -> None:
    check_mounts(body.mount_configuration)
    refuse_if_used("pool", "certificateReferences", body.certificate_references)
    refuse_if_used("pool", "cloudServiceConfiguration", body.cloud_service_configuration)


def check_pool_packages(references: Sequence[ApplicationPackageReference] | None) -> None:
    """Their form; whether they can be satisfied is for `Applications.check` to say."""
    if references is not None and len(references) > MAX_POOL_REFERENCES:
        raise invalid_property(
            "applicationPackageReferences", len(references), f"it has more than {MAX_POOL_REFERENCES} references"
        )
    check_package_references(references)


def check_machine(machine: VirtualMachineConfiguration) -> None:
    path = "virtualMachineConfiguration"
    refuse_if_used("pool", f"{path}.containerConfiguration", machine.container_configuration)
    refuse_if_used("pool", f"{path}.windowsConfiguration", machine.windows_configuration)
    if not machine.node_agent_sku_id:
        raise invalid_property(f"{path}.nodeAgentSKUId", "", "it is empty")
    if "windows" in machine.node_agent_sku_id.lower():
        raise BatchError(
            ErrorCode.NOT_IMPLEMENTED,
            "Nodes run Linux: choose a nodeAgentSKUId of GET /supportedimages.",
            PropertyName=f"{path}.nodeAgentSKUId",
            PropertyValue=machine.node_agent_sku_id[:256],
        )
    for extension in machine.extensions or ():
        extension.protected_settings = None


def vm_size_of(name: str, vm_sizes: Mapping[str, VmSize]) -> VmSize:
    size = vm_sizes.get(name.lower())
    if size is None:
        known = sorted(vm_sizes)
        close = difflib.get_close_matches(name[:64].lower(), known, n=3, cutoff=0.7)
        # All of a big catalogue would bury the rest of the message.
        listed = known if len(known) <= _LISTED_SIZES else close or known[:5]
        more = " and others" if len(listed) < len(known) else ""
        raise invalid_property(
            "vmSize",
            name,
            f"it is not in the catalogue of VM sizes, which has {', '.join(listed)}{more}; "
            "your own are added to the configuration as [vm_sizes.<name>] with cores and memory_mib",
        )
    return size


def _target(name: str, value: int | None) -> int | None:
    if value is not None and not 0 <= value <= MAX_NODES:
        raise invalid_property(name, value, f"it must be between 0 and {MAX_NODES}")
    return value


def check_task_slots(slots: int, size: VmSize) -> None:
    most = min(4 * size.cores, MAX_TASK_SLOTS)
    if not 1 <= slots <= most:
        raise invalid_property(
            "taskSlotsPerNode", slots, f"it must be between 1 and {most} (4 for each core of {size.name}, at most 256)"
        )


def _resize_timeout(text: str | None) -> float:
    if text is None:
        return DEFAULT_RESIZE_TIMEOUT_S
    seconds = duration_s("resizeTimeout", text, minimum_s=MIN_RESIZE_TIMEOUT_S, maximum_s=MAX_RESIZE_TIMEOUT_S)
    return DEFAULT_RESIZE_TIMEOUT_S if seconds is None else seconds
