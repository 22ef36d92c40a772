"""What users ask of nodes: reboot, reimage, deallocate, start, remove, and to be given tasks or none.

An operation waits in `Node.pending` until the tasks on the node have been dealt with as its option says; `carry_on`
then begins it. A removal stays in `pending` until the node is gone; of the others the node's state tells from then on,
so that a memory rebuilt from rows picks each up where it is.
"""

from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import (
    CreateNode,
    DeleteNode,
    Effect,
    ReleaseNode,
    RestartNode,
    SetNodeRetentionTimer,
)
from millpond.domain.errors import BatchError, ErrorCode, TaskFailureCode
from millpond.domain.events import (
    NodeOperationRequested,
    NodeRetentionPassed,
    NodeSchedulingDisableRequested,
    NodeSchedulingEnableRequested,
    NodeStartRequested,
)
from millpond.domain.node import PendingOperation
from millpond.domain.states import (
    IN_SERVICE_NODE_STATES,
    NODE_MOVES,
    ErrorCategory,
    NodeDeallocationOption,
    NodeOperation,
    NodeState,
    PoolState,
    SchedulingState,
)
from millpond.domain.task import FailureInfo
from millpond.scheduler import gangs, special, tasks
from millpond.scheduler.state import NodeMemory, SchedulerState, set_node_state, settle_node_state

_DRAINING: Final = frozenset({NodeDeallocationOption.TASK_COMPLETION, NodeDeallocationOption.RETAINED_DATA})
"""Options under which running tasks run to their end."""

_OPERABLE: Final = IN_SERVICE_NODE_STATES | {
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
    NodeState.UNUSABLE,
}
"""Where a node can be rebooted or reimaged: its agent is there to do it. Azure Batch writes "only if idle or running",
and has users reboot nodes whose start task or disk failed them."""

_ACCEPTED: Final = {
    NodeOperation.REBOOT: _OPERABLE,
    NodeOperation.REIMAGE: _OPERABLE,
    # The provider does it, so the agent need not answer: the way out for a node that has gone mute.
    NodeOperation.DEALLOCATE: _OPERABLE | {NodeState.UNKNOWN},
}

_UNDER_WAY: Final = {
    NodeOperation.REBOOT: NodeState.REBOOTING,
    NodeOperation.REIMAGE: NodeState.REIMAGING,
    NodeOperation.DEALLOCATE: NodeState.DEALLOCATING,
    NodeOperation.REMOVE: NodeState.LEAVING_POOL,
}

_STATE_CODES: Final = {
    NodeState.CREATING: ErrorCode.NODE_BEING_CREATED,
    NodeState.STARTING: ErrorCode.NODE_BEING_STARTED,
    NodeState.WAITING_FOR_START_TASK: ErrorCode.NODE_BEING_STARTED,
    NodeState.REBOOTING: ErrorCode.NODE_BEING_REBOOTED,
    NodeState.REIMAGING: ErrorCode.NODE_BEING_REIMAGED,
    NodeState.UNUSABLE: ErrorCode.NODE_STATE_UNUSABLE,
}
"""How a state that does not allow an operation is refused; any other is OperationInvalidForCurrentState."""

_PENDING_CODES: Final = {
    NodeOperation.REBOOT: ErrorCode.NODE_BEING_REBOOTED,
    NodeOperation.REIMAGE: ErrorCode.NODE_BEING_REIMAGED,
}

_WHY_ENDED: Final = {
    NodeOperation.REMOVE: "its node was removed from the pool",
    NodeOperation.REBOOT: "its node was rebooted",
    NodeOperation.REIMAGE: "its node was reimaged",
    NodeOperation.DEALLOCATE: "its node was deallocated",
    None: "scheduling was disabled on its node",
}


def _find_node(state: SchedulerState, node_id: str) -> NodeMemory:
    """The node. Raises PoolNotFound, PoolBeingDeleted, NodeNotFound."""
    if state.pool is None:
        raise BatchError(ErrorCode.POOL_NOT_FOUND, f"The pool '{state.pool_id}' does not exist.", PoolId=state.pool_id)
    if state.pool.state is PoolState.DELETING:
        raise BatchError(ErrorCode.POOL_BEING_DELETED)
    node = state.nodes.get(node_id)
    if node is None:
        raise BatchError(
            ErrorCode.NODE_NOT_FOUND,
            f"The node '{node_id[:80]}' does not exist in pool '{state.pool.id}'.",
            NodeId=node_id[:80],
        )
    return node


def _refuse(node: NodeMemory, wish: str, advice: str = "") -> BatchError:
    """409 for a state that does not allow what was asked."""
    row = node.row
    code = _STATE_CODES.get(row.state, ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE)
    return BatchError(code, f"A node that is {row.state} cannot be {wish}.{advice}", NodeState=row.state.value)


# --- reboot, reimage, deallocate, start -----------------------------------------------------------------------------


def on_node_operation_requested(state: SchedulerState, event: NodeOperationRequested, effects: list[Effect]) -> None:
    node = _find_node(state, event.node_id)
    operation = event.operation
    wish = operation.value.removesuffix("e") + "ed"
    pending = node.row.pending
    if pending is not None:
        code = _PENDING_CODES.get(pending.operation, ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE)
        raise BatchError(
            code,
            f"The node cannot be {wish}: another operation ({pending.operation}, {pending.option}) waits for its tasks.",
            NodeState=node.row.state.value,
        )
    if node.row.state not in _ACCEPTED[operation]:
        advice = ""
        if node.row.state is NodeState.UNKNOWN:
            advice = " Nothing has been heard of its agent lately: deallocate and start it, or remove it from the pool."
        raise _refuse(node, wish, advice)
    begin(state, node, PendingOperation(operation, event.option), event.at, effects)


def on_node_start_requested(state: SchedulerState, event: NodeStartRequested, effects: list[Effect]) -> None:
    node = _find_node(state, event.node_id)
    row = node.row
    if row.state is not NodeState.DEALLOCATED or state.pool is None:
        raise _refuse(node, "started", " Only a deallocated node can.")
    row.errors = ()
    set_node_state(state, node, NodeState.STARTING, event.at)
    effects.append(CreateNode(state.pool, row))


def begin(
    state: SchedulerState, node: NodeMemory, wish: PendingOperation, at: Timestamp, effects: list[Effect]
) -> None:
    """Begin an operation that the node's state allows: no new tasks, and with those it has as the option says."""
    row = node.row
    row.pending = wish
    state.touch_node(node)
    state.pool_unsettled = True
    state.refile(node, node.free)
    drains = wish.option in _DRAINING
    # The whole node goes down, so nothing need be stopped one by one, unless it lives on for others.
    _deal_with_tasks(state, node, wish.option, at, effects, why=_WHY_ENDED[wish.operation], stop=drains)
    if not drains:
        for key, attempt in list(node.stopping):
            tasks.release_stopping(state, node, key, attempt, at)
    carry_on(state, node, at, effects)


def _deal_with_tasks(
    state: SchedulerState,
    node: NodeMemory,
    option: NodeDeallocationOption,
    at: Timestamp,
    effects: list[Effect],
    *,
    why: str,
    stop: bool,
) -> None:
    """Requeue, end or leave what the node runs. What it has not begun goes back to its job in any case."""
    drains = option in _DRAINING
    for assignment in list(node.assigned.values()):
        task = assignment.task
        begun = task.start_time is not None or gangs.is_running(state, assignment)
        if begun and drains:
            continue
        job = state.jobs_by_no[task.job_no]
        tasks.detach(state, job, task, at, stop=stop, effects=effects, node=node)
        if begun and option is NodeDeallocationOption.TERMINATE:
            failure = FailureInfo(
                ErrorCategory.USER_ERROR, TaskFailureCode.TASK_ENDED.value, f"The task was ended because {why}"
            )
            tasks.complete(state, job, task, at, effects, end_time=at, exit_code=None, failure=failure)
        else:
            tasks.requeue(state, job, task, at, effects, by_user=begun)


def carry_on(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """Begin the operation the node waits for, if nothing on it is in the way any more."""
    row = node.row
    wish = row.pending
    if wish is None or node.assigned or node.stopping:
        return
    # A removal is shown until the node is gone. A node that nobody hears of cannot restart: it will when it is back.
    to = _UNDER_WAY[wish.operation]
    if row.state is to or to not in NODE_MOVES[row.state]:
        return
    if wish.option is NodeDeallocationOption.RETAINED_DATA and _retains(node, at, effects):
        return
    _stop_retention_timer(node, effects)
    if row.state is NodeState.DEALLOCATED and not row.handle:
        drop_node(state, node, effects)
        return
    set_node_state(state, node, to, at)
    if wish.operation is not NodeOperation.REMOVE:
        row.pending = None
        row.errors = ()
    if wish.operation is NodeOperation.REIMAGE:
        # The disk is known for what it is until there is another: by that a finished reimage is told.
        special.node_lost(state, node, at, effects, gone=True)
    elif wish.operation is not NodeOperation.REBOOT:
        lose_disk(state, node, at, effects)
    if state.pool is None:
        return
    if wish.operation in (NodeOperation.REBOOT, NodeOperation.REIMAGE):
        restart(state, node, effects)
    else:
        effects.append(ReleaseNode(state.pool, row))


def restart(state: SchedulerState, node: NodeMemory, effects: list[Effect]) -> None:
    """Tell a node that is rebooting or reimaging so: repeated until it says hello under a new boot."""
    if state.pool is not None:
        effects.append(RestartNode(state.pool, node.row, node.row.state is NodeState.REIMAGING))


def lose_disk(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The machine is gone, or about to go, with all that special tasks run and did there, and every file."""
    special.node_lost(state, node, at, effects, gone=True)
    special.disk_lost(state, node)
    node.row.retain_until = None


def drop_node(state: SchedulerState, node: NodeMemory, effects: list[Effect]) -> None:
    """Forget a node that is gone for good."""
    _stop_retention_timer(node, effects)
    state.unfile(node)
    del state.nodes[node.row.id]
    state.dirty_nodes.pop(node.row.id, None)
    state.worked_nodes.pop(node.row.id, None)
    state.pool_unsettled = True
    effects.append(DeleteNode(node.row))


# --- removal, resize ------------------------------------------------------------------------------------------------


def remove_node(
    state: SchedulerState, node: NodeMemory, option: NodeDeallocationOption, at: Timestamp, effects: list[Effect]
) -> None:
    """Begin to take a node out of its pool. It gets no new tasks; `option` says what becomes of those it runs."""
    if node.row.state is not NodeState.LEAVING_POOL:
        begin(state, node, PendingOperation(NodeOperation.REMOVE, option), at, effects)


def keep_node(state: SchedulerState, node: NodeMemory, effects: list[Effect]) -> None:
    """Call off a removal that has not begun to release the node."""
    call_off(node, effects)
    state.touch_node(node)
    state.refile(node, node.free)


def call_off(node: NodeMemory, effects: list[Effect]) -> None:
    """The node need not undergo any more what it waits for. Touching and filing it is left to the caller."""
    node.row.pending = None
    _stop_retention_timer(node, effects)


def _retains(node: NodeMemory, at: Timestamp, effects: list[Effect]) -> bool:
    """Whether files of tasks that ended on the node are still to be kept; there is a timer for when that ends."""
    until = node.row.retain_until
    if until is None or until <= at:
        return False
    if node.retention_timer != until:
        node.retention_timer = until
        effects.append(SetNodeRetentionTimer(node.row.id, until))
    return True


def _stop_retention_timer(node: NodeMemory, effects: list[Effect]) -> None:
    if node.retention_timer is not None:
        node.retention_timer = None
        effects.append(SetNodeRetentionTimer(node.row.id, None))


def on_node_retention_passed(state: SchedulerState, event: NodeRetentionPassed, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None or node.retention_timer != event.deadline:
        return
    node.retention_timer = None
    # A timer may ring a moment early.
    carry_on(state, node, max(event.at, event.deadline), effects)


# --- scheduling -----------------------------------------------------------------------------------------------------


def on_node_scheduling_disable_requested(
    state: SchedulerState, event: NodeSchedulingDisableRequested, effects: list[Effect]
) -> None:
    node = _find_node(state, event.node_id)
    _set_scheduling(state, node, SchedulingState.DISABLED)
    _deal_with_tasks(state, node, event.option, event.at, effects, why=_WHY_ENDED[None], stop=True)
    _settle(state, node, event.at)


def on_node_scheduling_enable_requested(
    state: SchedulerState, event: NodeSchedulingEnableRequested, effects: list[Effect]
) -> None:
    node = _find_node(state, event.node_id)
    _set_scheduling(state, node, SchedulingState.ENABLED)
    _settle(state, node, event.at)


def _set_scheduling(state: SchedulerState, node: NodeMemory, to: SchedulingState) -> None:
    row = node.row
    if row.state is NodeState.LEAVING_POOL:
        raise _refuse(node, f"set to scheduling {to}")
    if row.scheduling_state is to:
        raise BatchError(ErrorCode.NODE_ALREADY_IN_TARGET_SCHEDULING_STATE, f"Scheduling is {to} on that node already.")
    row.scheduling_state = to
    state.touch_node(node)
    state.refile(node, node.free)


def _settle(state: SchedulerState, node: NodeMemory, at: Timestamp) -> None:
    if node.connected and node.row.state in IN_SERVICE_NODE_STATES:
        settle_node_state(state, node, at)
