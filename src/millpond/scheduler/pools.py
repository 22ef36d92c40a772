"""The pool: adding, changing, resizing, deleting."""

from typing import Final

import msgspec

from millpond.domain.durations import Timestamp, later_than
from millpond.domain.effects import DeletePool, Effect, SavePool, SetAutoScaleTimer, SetResizeTimer
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import (
    NodesRemoveRequested,
    PoolAdded,
    PoolDeleteRequested,
    PoolResizeRequested,
    PoolResizeStopRequested,
    PoolResizeTimedOut,
    PoolUpdated,
)
from millpond.domain.job import Job, SchedulingError
from millpond.domain.pool import Pool, ResizeError
from millpond.domain.preconditions import Precondition
from millpond.domain.states import (
    IN_SERVICE_NODE_STATES,
    AllocationState,
    ErrorCategory,
    NodeDeallocationOption,
    NodeState,
    PoolLifetimeOption,
    PoolState,
)
from millpond.scheduler import apart, service_log
from millpond.scheduler.node_operations import carry_on, keep_node, remove_node
from millpond.scheduler.nodes import create_node
from millpond.scheduler.state import NodeMemory, SchedulerState


def find_pool(state: SchedulerState) -> Pool:
    if state.pool is None:
        raise BatchError(ErrorCode.POOL_NOT_FOUND, f"The pool '{state.pool_id}' does not exist.", PoolId=state.pool_id)
    return state.pool


def find_live_pool(state: SchedulerState, condition: Precondition | None) -> Pool:
    """The pool, as the caller knows it. Raises PoolNotFound, ConditionNotMet, PoolBeingDeleted."""
    pool = find_pool(state)
    if condition is not None:
        condition.require(pool.last_modified)
    if pool.state is PoolState.DELETING:
        raise BatchError(ErrorCode.POOL_BEING_DELETED)
    return pool


def _set_allocation_state(pool: Pool, to: AllocationState, at: Timestamp) -> None:
    if pool.allocation_state is not to:
        pool.allocation_state = to
        pool.allocation_state_time = at


def on_pool_added(state: SchedulerState, event: PoolAdded, effects: list[Effect]) -> None:
    if state.pool is not None:
        code = ErrorCode.POOL_BEING_DELETED if state.pool.state is PoolState.DELETING else ErrorCode.POOL_EXISTS
        raise BatchError(code, None, PoolId=state.pool.id)
    pool = event.pool
    at = event.at
    pool.state = PoolState.ACTIVE
    pool.allocation_state = AllocationState.STEADY
    pool.creation_time = pool.last_modified = pool.state_time = pool.allocation_state_time = at
    state.pool = pool
    state.pool_id = pool.id
    effects.append(service_log.pool_created(pool))
    if pool.target_dedicated_nodes or pool.target_low_priority_nodes:
        begin_resize(state, pool, pool.resize_timeout_s, NodeDeallocationOption.REQUEUE, at, effects)
    if pool.auto_scale is not None:
        # The first evaluation makes the first nodes.
        pool.auto_scale = msgspec.structs.replace(pool.auto_scale, since=at, next_run=at)
        effects.append(SetAutoScaleTimer(at))
    effects.append(SavePool(pool))


def add_auto_pool(state: SchedulerState, pool: Pool, at: Timestamp, effects: list[Effect]) -> SchedulingError | None:
    """Make the pool of a job that runs in an auto pool, unless it is there already (that of a schedule is); what stands
    in the way, if anything does."""
    if state.pool is None:
        pool.auto_pool = True
        on_pool_added(state, PoolAdded(at=at, pool=pool), effects)
    elif state.pool.state is PoolState.DELETING:
        return SchedulingError(
            ErrorCategory.USER_ERROR, "Unknown", f"The auto pool '{state.pool.id}' of the schedule is being deleted"
        )
    return None


def delete_auto_pool(state: SchedulerState, job: Job, at: Timestamp, effects: list[Effect]) -> None:
    """The job is over: its auto pool goes with it, unless it is another's too or was to be kept."""
    pool, auto_pool = state.pool, job.auto_pool
    if auto_pool is None or auto_pool.lifetime is not PoolLifetimeOption.JOB or auto_pool.keep_alive:
        return
    if pool is not None and pool.auto_pool and pool.state is not PoolState.DELETING:
        on_pool_delete_requested(state, PoolDeleteRequested(at=at), effects)


def begin_resize(
    state: SchedulerState,
    pool: Pool,
    timeout_s: float | None,
    option: NodeDeallocationOption,
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """Move towards the targets; without a timeout for as long as it takes."""
    _enter_resizing(state, pool, timeout_s, option, at, effects)
    _approach_targets(state, pool, option, at, effects)


def _enter_resizing(
    state: SchedulerState,
    pool: Pool,
    timeout_s: float | None,
    option: NodeDeallocationOption,
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """The last resize's errors are forgotten."""
    pool.resize_errors = ()
    pool.node_deallocation_option = option
    pool.resize_deadline = None if timeout_s is None else at + timeout_s
    _set_allocation_state(pool, AllocationState.RESIZING, at)
    effects.append(SetResizeTimer(pool.resize_deadline))
    effects.append(service_log.resize_started(state, pool))
    state.pool_unsettled = True


def _approach_targets(
    state: SchedulerState, pool: Pool, option: NodeDeallocationOption, at: Timestamp, effects: list[Effect]
) -> None:
    for dedicated, target in ((True, pool.target_dedicated_nodes), (False, pool.target_low_priority_nodes)):
        kind = [node for node in state.nodes.values() if node.row.is_dedicated is dedicated]
        staying = [node for node in kind if node.row.removal is None]
        missing = target - len(staying)
        if missing > 0:
            draining = [node for node in kind if node.row.removal is not None and _can_stay(node)]
            for node in draining[:missing]:
                keep_node(state, node, effects)
            for _ in range(missing - len(draining)):
                create_node(state, pool, at, effects, dedicated=dedicated)
        elif missing < 0:
            for node in sorted(staying, key=_removal_rank)[:-missing]:
                remove_node(state, node, option, at, effects)


def _can_stay(node: NodeMemory) -> bool:
    return node.row.state is not NodeState.LEAVING_POOL


_USELESS: Final = {
    NodeState.UNUSABLE: 0,
    NodeState.START_TASK_FAILED: 0,
    NodeState.UNKNOWN: 0,
    NodeState.PREEMPTED: 2,
    NodeState.DEALLOCATING: 2,
    NodeState.DEALLOCATED: 2,
}


def _removal_rank(node: NodeMemory) -> tuple[int, int, int, float]:
    """Who leaves first: nodes of no use any more, of none yet, without a machine, then idle ones, then those that run
    least; the young first. Those that run a job manager leave last (Azure Batch: JobManagerTask)."""
    useless = 3 if node.row.state in IN_SERVICE_NODE_STATES else _USELESS.get(node.row.state, 1)
    managers = sum(1 for a in node.assigned.values() if apart.is_manager(a.task))
    return (useless, managers, node.row.running_task_slots, -node.row.allocation_time)


def _find_steady_pool(state: SchedulerState, condition: Precondition | None) -> Pool:
    """The pool, to be resized. Raises PoolNotFound, ConditionNotMet, PoolBeingDeleted, PoolBeingResized."""
    pool = find_live_pool(state, condition)
    if pool.allocation_state is not AllocationState.STEADY:
        raise BatchError(ErrorCode.POOL_BEING_RESIZED)
    return pool


def on_pool_updated(state: SchedulerState, event: PoolUpdated, effects: list[Effect]) -> None:
    """What the definition says from now on. Nodes there already take a new start task up when they boot next."""
    pool = find_pool(state)
    if pool.state is PoolState.DELETING:
        raise BatchError(ErrorCode.POOL_BEING_DELETED)
    if event.condition is not None:
        event.condition.require(pool.last_modified)
    changes = event.changes
    if changes.needs_empty_pool and state.nodes:
        names = ", ".join(changes.needs_empty_pool)
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"Pool '{pool.id}' has {len(state.nodes)} nodes, and can be changed in {names} only while it has none: "
            "resize it to 0 first.",
            PropertyName=changes.needs_empty_pool[0],
        )
    spec = {**pool.spec, **changes.spec}
    pool.spec = {name: value for name, value in spec.items() if value is not None or name not in changes.spec}
    if changes.remove_start_task:
        pool.start_task = None
    elif changes.start_task is not None:
        pool.start_task = changes.start_task
    if changes.vm_size is not None:
        pool.vm_size = changes.vm_size
    if changes.task_slots_per_node is not None:
        pool.task_slots_per_node = changes.task_slots_per_node
    if changes.fill_type is not None:
        pool.fill_type = changes.fill_type
    if changes.job_default_order is not None:
        pool.job_default_order = changes.job_default_order
    if changes.inter_node_communication is not None:
        pool.inter_node_communication = changes.inter_node_communication
    pool.last_modified = later_than(pool.last_modified, event.at)
    effects.append(SavePool(pool))


def on_nodes_remove_requested(state: SchedulerState, event: NodesRemoveRequested, effects: list[Effect]) -> None:
    """Azure Batch: Remove Nodes. The targets fall by as many, or the next resize would bring them back."""
    pool = _find_steady_pool(state, event.condition)
    chosen: dict[str, NodeMemory] = {}
    for node_id in event.node_ids:
        node = state.nodes.get(node_id)
        if node is None:
            raise BatchError(
                ErrorCode.NODE_NOT_FOUND,
                f"The node '{node_id[:80]}' does not exist in pool '{pool.id}'; none was removed.",
                NodeId=node_id[:80],
            )
        if node.row.removal is None:
            chosen[node_id] = node
    for node in chosen.values():
        if node.row.is_dedicated:
            pool.target_dedicated_nodes = max(0, pool.target_dedicated_nodes - 1)
        else:
            pool.target_low_priority_nodes = max(0, pool.target_low_priority_nodes - 1)
    pool.last_modified = later_than(pool.last_modified, event.at)
    _enter_resizing(state, pool, event.resize_timeout_s, event.node_deallocation_option, event.at, effects)
    for node in chosen.values():
        remove_node(state, node, event.node_deallocation_option, event.at, effects)
    effects.append(SavePool(pool))


def _refuse_if_auto_scaled(pool: Pool) -> None:
    """Raises OperationInvalidForCurrentState for a pool whose size is its formula's business."""
    if pool.auto_scale is not None:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"Pool '{pool.id}' scales itself by its formula: disable automatic scaling to resize it by hand.",
        )


def on_pool_resize_requested(state: SchedulerState, event: PoolResizeRequested, effects: list[Effect]) -> None:
    pool = _find_steady_pool(state, event.condition)
    _refuse_if_auto_scaled(pool)
    if event.target_dedicated_nodes is not None:
        pool.target_dedicated_nodes = event.target_dedicated_nodes
    if event.target_low_priority_nodes is not None:
        pool.target_low_priority_nodes = event.target_low_priority_nodes
    pool.last_modified = later_than(pool.last_modified, event.at)
    begin_resize(state, pool, event.resize_timeout_s, event.node_deallocation_option, event.at, effects)
    effects.append(SavePool(pool))


def on_pool_resize_stop_requested(state: SchedulerState, event: PoolResizeStopRequested, effects: list[Effect]) -> None:
    pool = find_live_pool(state, event.condition)
    if pool.allocation_state is not AllocationState.RESIZING:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"Pool '{pool.id}' is not being resized; its allocation state is {pool.allocation_state}.",
        )
    _set_allocation_state(pool, AllocationState.STOPPING, event.at)
    pool.last_modified = later_than(pool.last_modified, event.at)
    error = ResizeError("ResizeStopped", "The resize was stopped by user request; the pool keeps the nodes it has")
    _give_up_resize(state, pool, error, event.at, effects)


def on_pool_resize_timed_out(state: SchedulerState, event: PoolResizeTimedOut, effects: list[Effect]) -> None:
    """The pool is steady from here on, whatever it has reached: what is leaving leaves in its own time."""
    pool = state.pool
    if pool is None or pool.resize_deadline != event.deadline or pool.state is PoolState.DELETING:
        return
    if pool.allocation_state is AllocationState.RESIZING:
        _give_up_resize(state, pool, _timed_out(state, pool), event.at, effects)
    _end_resize(state, pool, event.at, effects)


def _timed_out(state: SchedulerState, pool: Pool) -> ResizeError:
    wrong: list[str] = []
    surplus = False
    for name, dedicated, target in (
        ("dedicated", True, pool.target_dedicated_nodes),
        ("low-priority", False, pool.target_low_priority_nodes),
    ):
        there = sum(1 for n in state.nodes.values() if n.row.is_dedicated is dedicated and not _is_wanted(n))
        if there != target:
            wrong.append(name)
            surplus = surplus or there > target
    names = " and ".join(wrong) or "dedicated"
    if surplus:
        message = f"Not all of the {names} nodes to be removed could be removed before the resize timeout was reached"
    else:
        message = f"Desired number of {names} nodes could not be allocated as the resize timeout was reached"
    return ResizeError("AllocationTimedOut", message)


def _is_wanted(node: NodeMemory) -> bool:
    """The node is still to be made for the first time (what the provider has made has a handle)."""
    return node.row.state is NodeState.CREATING and not node.row.handle


def _give_up_resize(
    state: SchedulerState, pool: Pool, error: ResizeError, at: Timestamp, effects: list[Effect]
) -> None:
    """Stay at what was reached: nodes not made yet are given up, nodes that still drain stay."""
    pool.resize_errors = (*pool.resize_errors, error)
    for node in list(state.nodes.values()):
        if _is_wanted(node) and node.row.removal is None:
            remove_node(state, node, NodeDeallocationOption.REQUEUE, at, effects)
        elif node.row.removal is not None and _can_stay(node):
            keep_node(state, node, effects)
    state.pool_unsettled = True
    effects.append(SavePool(pool))


def _end_resize(state: SchedulerState, pool: Pool, at: Timestamp, effects: list[Effect]) -> None:
    started = pool.allocation_state_time
    _set_allocation_state(pool, AllocationState.STEADY, at)
    pool.resize_deadline = None
    effects.append(SetResizeTimer(None))
    effects.append(SavePool(pool))
    effects.append(service_log.resize_completed(state, pool, started, at))


def on_pool_delete_requested(state: SchedulerState, event: PoolDeleteRequested, effects: list[Effect]) -> None:
    pool = find_pool(state)
    if pool.state is PoolState.DELETING:
        raise BatchError(ErrorCode.POOL_BEING_DELETED)
    if event.condition is not None:
        event.condition.require(pool.last_modified)
    at = event.at
    pool.state = PoolState.DELETING
    pool.state_time = at
    pool.last_modified = later_than(pool.last_modified, at)
    pool.target_dedicated_nodes = 0
    pool.target_low_priority_nodes = 0
    _set_allocation_state(pool, AllocationState.RESIZING, at)
    pool.resize_deadline = None
    effects.append(SetResizeTimer(None))
    if pool.auto_scale is not None:
        effects.append(SetAutoScaleTimer(None))
    for node in list(state.nodes.values()):
        remove_node(state, node, NodeDeallocationOption.REQUEUE, at, effects)
    state.pool_unsettled = True
    effects.append(SavePool(pool))
    effects.append(service_log.delete_started(pool))


def settle(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """Move the pool on when its nodes did: what drained nodes wait for begins, a resize ends, a deleting pool goes."""
    pool = state.pool
    if pool is None or not state.pool_unsettled:
        return
    state.pool_unsettled = False
    for node in list(state.nodes.values()):
        carry_on(state, node, at, effects)
    if pool.state is PoolState.DELETING:
        if not state.nodes:
            state.pool = None
            effects.append(DeletePool(pool))
            effects.append(service_log.delete_completed(pool, at))
        return
    if pool.allocation_state is AllocationState.STEADY:
        return
    if not any(node.row.removal is not None or _is_wanted(node) for node in state.nodes.values()):
        _end_resize(state, pool, at, effects)
