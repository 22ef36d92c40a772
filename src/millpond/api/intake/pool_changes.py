"""Pools: from the body of a PATCH, or of a replacement of properties, to changes of a record."""

from collections.abc import Mapping
from typing import Final

import msgspec

from millpond.api.intake.common import check_display_name, check_metadata, within
from millpond.api.intake.mounts import check_mounts
from millpond.api.intake.pools import (
    check_machine,
    check_pool_packages,
    check_task_slots,
    check_user_accounts,
    vm_size_of,
)
from millpond.api.intake.special_tasks import start_task_rules
from millpond.api.schema.pool import PoolPatch, PoolReplace
from millpond.api.schema.special_task import StartTask
from millpond.api.support import refuse_if_used
from millpond.domain.pool import Pool, PoolChanges
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import JobDefaultOrder, NodeFillType
from millpond.providers.base import VmSize

_NEED_EMPTY_POOL: Final = (
    "displayName",
    "vmSize",
    "virtualMachineConfiguration",
    "enableInterNodeCommunication",
    "networkConfiguration",
    "taskSlotsPerNode",
    "taskSchedulingPolicy",
    "userAccounts",
    "mountConfiguration",
    "upgradePolicy",
    "resourceTags",
)
"""What may change only while the pool has no nodes (Azure Batch: BatchPoolUpdateOptions)."""


def patch_of(body: PoolPatch, pool: Pool, vm_sizes: Mapping[str, VmSize]) -> PoolChanges:
    """The changes of a PATCH: what is not given stays. Raises BatchError."""
    check_display_name("displayName", body.display_name)
    check_metadata(body.metadata)
    _check_both(body)
    if body.virtual_machine_configuration is not None:
        check_machine(body.virtual_machine_configuration)
    if body.vm_size is not None or body.task_slots_per_node is not None:
        size = vm_size_of(pool.vm_size if body.vm_size is None else body.vm_size, vm_sizes)
        slots = pool.task_slots_per_node if body.task_slots_per_node is None else body.task_slots_per_node
        check_task_slots(slots, size)
    check_user_accounts(body.user_accounts or ())
    start_task = _start_task(body.start_task)
    body.odata_metadata = None
    spec = msgspec.to_builtins(body)
    policy = body.task_scheduling_policy
    order = None
    if policy is not None:
        given = policy.job_default_order
        order = JobDefaultOrder.NONE if given is None else JobDefaultOrder(given.value)
    return PoolChanges(
        spec=spec,
        start_task=start_task,
        vm_size=body.vm_size,
        task_slots_per_node=body.task_slots_per_node,
        fill_type=None if policy is None else NodeFillType(policy.node_fill_type.value),
        job_default_order=order,
        inter_node_communication=body.enable_inter_node_communication,
        needs_empty_pool=tuple(name for name in _NEED_EMPTY_POOL if name in spec),
    )


def replacement_of(body: PoolReplace) -> PoolChanges:
    """The changes of a replacement: start task, packages and metadata are these, or none. Raises BatchError."""
    check_metadata(body.metadata)
    _check_both(body)
    start_task = _start_task(body.start_task)
    body.odata_metadata = None
    return PoolChanges(
        spec={"startTask": None, **msgspec.to_builtins(body)},
        start_task=start_task,
        remove_start_task=start_task is None,
    )


def _start_task(body: StartTask | None) -> StartTaskRules | None:
    if body is None:
        return None
    with within("startTask"):
        return start_task_rules(body)


def _check_both(body: PoolPatch | PoolReplace) -> None:
    check_pool_packages(body.application_package_references)
    refuse_if_used("pool", "certificateReferences", body.certificate_references)
    if isinstance(body, PoolPatch):
        check_mounts(body.mount_configuration)
