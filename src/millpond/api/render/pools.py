"""Pools and their node counts in wire form."""

from collections.abc import Iterable
from typing import Any, Final

from millpond.api.render.autoscale import run_object
from millpond.api.render.common import etag_text, name_values, pool_url, timestamp_text, words
from millpond.api.schema.secrets import pool_without_secrets
from millpond.domain.durations import format_duration
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, NodeState
from millpond.store.base import NodeCounts

PROPERTIES: Final = words(
    "id displayName url eTag lastModified creationTime state stateTransitionTime allocationState "
    "allocationStateTransitionTime vmSize virtualMachineConfiguration resizeTimeout resizeErrors "
    "currentDedicatedNodes currentLowPriorityNodes targetDedicatedNodes targetLowPriorityNodes enableAutoScale "
    "autoScaleFormula autoScaleEvaluationInterval autoScaleRun enableInterNodeCommunication networkConfiguration "
    "startTask applicationPackageReferences taskSlotsPerNode taskSchedulingPolicy userAccounts metadata stats "
    "mountConfiguration identity upgradePolicy cloudServiceConfiguration certificateReferences applicationLicenses "
    "resourceTags targetNodeCommunicationMode currentNodeCommunicationMode"
)
"""What `$select` may name."""

COUNT_NAMES: Final = {
    NodeState.CREATING: "creating",
    NodeState.IDLE: "idle",
    NodeState.OFFLINE: "offline",
    NodeState.PREEMPTED: "preempted",
    NodeState.REBOOTING: "rebooting",
    NodeState.REIMAGING: "reimaging",
    NodeState.RUNNING: "running",
    NodeState.STARTING: "starting",
    NodeState.START_TASK_FAILED: "startTaskFailed",
    NodeState.LEAVING_POOL: "leavingPool",
    NodeState.UNKNOWN: "unknown",
    NodeState.UNUSABLE: "unusable",
    NodeState.WAITING_FOR_START_TASK: "waitingForStartTask",
    NodeState.DEALLOCATED: "deallocated",
    NodeState.DEALLOCATING: "deallocating",
    NodeState.UPGRADING_OS: "upgradingOS",
}


def pool_object(pool: Pool, base_url: str, nodes: tuple[int, int]) -> dict[str, Any]:
    """The pool; `nodes` are its current dedicated and spot nodes."""
    spec = pool.spec
    body: dict[str, Any] = {
        **{name: value for name, value in pool_without_secrets(spec).items() if value != []},
        "url": pool_url(base_url, pool.id),
        "eTag": etag_text(pool.last_modified),
        "lastModified": timestamp_text(pool.last_modified),
        "creationTime": timestamp_text(pool.creation_time),
        "state": pool.state.value,
        "stateTransitionTime": timestamp_text(pool.state_time),
        "allocationState": pool.allocation_state.value,
        "allocationStateTransitionTime": timestamp_text(pool.allocation_state_time),
        "resizeTimeout": format_duration(pool.resize_timeout_s),
        "currentDedicatedNodes": nodes[0],
        "currentLowPriorityNodes": nodes[1],
        "targetDedicatedNodes": pool.target_dedicated_nodes,
        "targetLowPriorityNodes": pool.target_low_priority_nodes,
        "enableAutoScale": pool.auto_scale is not None,
        "enableInterNodeCommunication": pool.inter_node_communication,
        "taskSlotsPerNode": pool.task_slots_per_node,
        "taskSchedulingPolicy": {**spec.get("taskSchedulingPolicy", {}), "nodeFillType": pool.fill_type.value},
    }
    scale = pool.auto_scale
    if scale is not None:
        body["autoScaleFormula"] = scale.formula
        body["autoScaleEvaluationInterval"] = format_duration(scale.interval_s)
        if scale.run is not None:
            body["autoScaleRun"] = run_object(scale.run)
    # Clients take any list, even an empty one, for a failed resize.
    if pool.resize_errors and pool.allocation_state is AllocationState.STEADY:
        body["resizeErrors"] = [
            {"code": error.code, "message": error.message, "values": name_values(error.values)}
            for error in pool.resize_errors
        ]
    return body


def current_nodes(counts: Iterable[NodeCounts]) -> tuple[int, int]:
    """(dedicated, spot) nodes in the counts of one pool: every node there is, in whatever state."""
    dedicated = spot = 0
    for entry in counts:
        if entry.is_dedicated:
            dedicated += entry.count
        else:
            spot += entry.count
    return dedicated, spot


def node_counts_object(pool_id: str, counts: Iterable[NodeCounts]) -> dict[str, Any]:
    """Azure Batch: PoolNodeCounts; states without nodes are 0."""
    by_kind = {True: dict.fromkeys(COUNT_NAMES.values(), 0), False: dict.fromkeys(COUNT_NAMES.values(), 0)}
    for entry in counts:
        by_kind[entry.is_dedicated][COUNT_NAMES[entry.state]] += entry.count
    for kind in by_kind.values():
        kind["total"] = sum(kind.values())
    return {"poolId": pool_id, "dedicated": by_kind[True], "lowPriority": by_kind[False]}
