"""The scheduler: events in, effects out.

`apply` is the only way to change the state; `place` makes one pass over what changed. The engine applies a whole inbox,
places once, and commits the rows of all effects as one batch.
"""

from collections.abc import Callable
from typing import Any

from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.events import Event
from millpond.scheduler import (
    additions,
    autoscaled_pools,
    gangs,
    jobs,
    load,
    node_operations,
    nodes,
    placement,
    pools,
    rebuild,
    reports,
    reservations,
    task_arrays,
    tasks,
)
from millpond.scheduler.state import SchedulerState

_HANDLERS: dict[type, Callable[[SchedulerState, Any, list[Effect]], None]] = {
    e.PoolAdded: pools.on_pool_added,
    e.PoolUpdated: pools.on_pool_updated,
    e.PoolDeleteRequested: pools.on_pool_delete_requested,
    e.PoolResizeRequested: pools.on_pool_resize_requested,
    e.PoolResizeStopRequested: pools.on_pool_resize_stop_requested,
    e.PoolResizeTimedOut: pools.on_pool_resize_timed_out,
    e.NodesRemoveRequested: pools.on_nodes_remove_requested,
    e.PoolAutoScaleEnableRequested: autoscaled_pools.on_pool_auto_scale_enable_requested,
    e.PoolAutoScaleDisableRequested: autoscaled_pools.on_pool_auto_scale_disable_requested,
    e.PoolAutoScaled: autoscaled_pools.on_pool_auto_scaled,
    e.NodeProvisioned: nodes.on_node_provisioned,
    e.NodeProvisionFailed: nodes.on_node_provision_failed,
    e.NodeConnected: nodes.on_node_connected,
    e.NodeSilent: nodes.on_node_silent,
    e.NodeLost: nodes.on_node_lost,
    e.NodeGone: nodes.on_node_gone,
    e.NodePreempted: nodes.on_node_preempted,
    e.NodeOperationRequested: node_operations.on_node_operation_requested,
    e.NodeStartRequested: node_operations.on_node_start_requested,
    e.NodeSchedulingDisableRequested: node_operations.on_node_scheduling_disable_requested,
    e.NodeSchedulingEnableRequested: node_operations.on_node_scheduling_enable_requested,
    e.NodeRetentionPassed: node_operations.on_node_retention_passed,
    e.JobAdded: jobs.on_job_added,
    e.JobArrived: rebuild.on_job_arrived,
    e.JobUpdated: jobs.on_job_updated,
    e.JobDisableRequested: jobs.on_job_disable_requested,
    e.JobEnableRequested: jobs.on_job_enable_requested,
    e.JobTerminateRequested: jobs.on_job_terminate_requested,
    e.JobDeleteRequested: jobs.on_job_delete_requested,
    e.JobTimedOut: jobs.on_job_timed_out,
    e.JobPurged: jobs.on_job_purged,
    e.TasksAdded: additions.on_tasks_added,
    e.TaskArrayAdded: task_arrays.on_task_array_added,
    e.TaskTerminateRequested: tasks.on_task_terminate_requested,
    e.TaskDeleteRequested: tasks.on_task_delete_requested,
    e.TaskUpdated: tasks.on_task_updated,
    e.TaskReactivateRequested: tasks.on_task_reactivate_requested,
    e.TaskStarted: reports.on_task_started,
    e.TaskEnded: reports.on_task_ended,
    e.TasksEnded: reports.on_tasks_ended,
    e.TaskStopped: reports.on_task_stopped,
    e.TaskReturned: reports.on_task_returned,
    e.InstanceCoordinated: gangs.on_instance_coordinated,
    e.GangReservationTimedOut: reservations.on_gang_reservation_timed_out,
}


def apply(state: SchedulerState, event: Event) -> list[Effect]:
    """Apply one event: the effects it has. The only way to change the state.

    Raises BatchError for an event the rules forbid, which leaves no trace. Rows of jobs and nodes, which many events
    of a batch change, come with the next `place`.
    """
    effects: list[Effect] = []
    _HANDLERS[type(event)](state, event, effects)
    if state.follow_ups:
        jobs.follow_up(state, event.at, effects)
    return effects


def place(state: SchedulerState, at: Timestamp) -> list[Effect]:
    """After a batch of events: move on what waited for them, hand ready tasks to nodes, and give up the changed rows."""
    effects: list[Effect] = []
    jobs.settle(state, at, effects)
    pools.settle(state, at, effects)
    placement.place(state, at, effects)
    load.settle(state)
    effects.extend(state.flush_rows())
    return effects
