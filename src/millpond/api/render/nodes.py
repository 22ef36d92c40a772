"""Nodes in wire form."""

from collections.abc import Sequence
from typing import Any, Final

from millpond.api.render.common import name_values, node_url, put_time, timestamp_text, words
from millpond.api.render.special_tasks import start_task_info
from millpond.api.render.tasks import task_info
from millpond.domain.ids import affinity_id
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.task import Task

PROPERTIES: Final = words(
    "id url state schedulingState stateTransitionTime lastBootTime allocationTime ipAddress ipv6Address affinityId "
    "vmSize totalTasksRun runningTasksCount runningTaskSlotsCount totalTasksSucceeded recentTasks startTask "
    "startTaskInfo certificateReferences errors isDedicated endpointConfiguration nodeAgentInfo "
    "virtualMachineInfo"
)
"""What `$select` may name."""


def node_object(node: Node, pool: Pool, base_url: str, recent: Sequence[tuple[str, Task]]) -> dict[str, Any]:
    """The node; `recent` are the tasks last handed to it, with their jobs' ids."""
    body: dict[str, Any] = {
        "id": node.id,
        "url": node_url(base_url, pool.id, node.id),
        "state": node.state.value,
        "schedulingState": node.scheduling_state.value,
        "stateTransitionTime": timestamp_text(node.state_time),
        "allocationTime": timestamp_text(node.allocation_time),
        "affinityId": affinity_id(node.id),
        "vmSize": pool.vm_size,
        "totalTasksRun": node.total_tasks_run,
        "runningTasksCount": node.running_tasks,
        "runningTaskSlotsCount": node.running_task_slots,
        "totalTasksSucceeded": node.total_tasks_succeeded,
        "isDedicated": node.is_dedicated,
    }
    put_time(body, "lastBootTime", node.last_boot_time)
    if node.ip_address:
        body["ipv6Address" if ":" in node.ip_address else "ipAddress"] = node.ip_address
    if recent:
        body["recentTasks"] = [task_info(job_id, task, base_url) for job_id, task in recent]
    start_task = pool.spec.get("startTask")
    if start_task:
        body["startTask"] = start_task
    if node.start_task is not None:
        body["startTaskInfo"] = start_task_info(node.start_task)
    if node.errors:
        body["errors"] = [
            {"code": error.code, "message": error.message, "errorDetails": name_values(error.details)}
            for error in node.errors
        ]
    if node.agent_version:
        started = node.allocation_time if node.last_boot_time is None else node.last_boot_time
        body["nodeAgentInfo"] = {"version": node.agent_version, "lastUpdateTime": timestamp_text(started)}
    image = pool.spec.get("virtualMachineConfiguration", {}).get("imageReference")
    if image:
        body["virtualMachineInfo"] = {"imageReference": image}
    return body
