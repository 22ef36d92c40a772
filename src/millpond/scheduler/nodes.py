"""Nodes: coming, connecting, falling silent, leaving."""

from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import (
    BeginSession,
    CreateNode,
    DeleteNode,
    Effect,
    ReleaseNode,
    SavePool,
    StopTask,
)
from millpond.domain.events import (
    NodeConnected,
    NodeGone,
    NodeLost,
    NodeProvisioned,
    NodeProvisionFailed,
    NodeSilent,
)
from millpond.domain.ids import job_no_of, make_node_id
from millpond.domain.node import Node, PendingOperation
from millpond.domain.pool import Pool, ResizeError
from millpond.domain.states import IN_SERVICE_NODE_STATES, NodeDeallocationOption, NodeOperation, NodeState
from millpond.scheduler import gangs, retries, special, tasks
from millpond.scheduler.state import NodeMemory, SchedulerState, Stopping, set_node_state

_SHOWN_UNKNOWN: Final = IN_SERVICE_NODE_STATES | {
    NodeState.STARTING,
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
}
"""Node states that become `unknown` when the node falls silent."""


def create_node(
    state: SchedulerState, pool: Pool, at: Timestamp, effects: list[Effect], *, dedicated: bool
) -> NodeMemory:
    """A new node, to be made by the provider."""
    row = Node(
        id=make_node_id(state.account, pool.no, pool.next_node_number, dedicated=dedicated),
        pool_no=pool.no,
        state=NodeState.CREATING,
        state_time=at,
        allocation_time=at,
        is_dedicated=dedicated,
    )
    pool.next_node_number += 1
    node = NodeMemory(row, pool.task_slots_per_node)
    state.nodes[row.id] = node
    state.touch_node(node)
    effects.append(CreateNode(pool, row))
    return node


def on_node_provisioned(state: SchedulerState, event: NodeProvisioned, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    node.row.handle = event.handle
    state.touch_node(node)
    state.pool_unsettled = True
    if node.row.state is NodeState.CREATING:
        set_node_state(state, node, NodeState.STARTING, event.at)
    elif node.row.state is NodeState.LEAVING_POOL and state.pool is not None:
        # It was to leave before the provider had answered: now there is a handle to release it by.
        effects.append(ReleaseNode(state.pool, node.row))


def on_node_provision_failed(state: SchedulerState, event: NodeProvisionFailed, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None or state.pool is None or node.row.handle:
        return
    # It may have been there before (its handle was lost with the engine's memory): then it is gone with all it held.
    node.connected = False
    _lose_everything(state, node, event.at, effects, gone=True)
    if node.row.removal is None:
        error = ResizeError(event.code, event.message)
        if error not in state.pool.resize_errors:
            state.pool.resize_errors = (*state.pool.resize_errors, error)
            effects.append(SavePool(state.pool))
    drop_node(state, node, effects)


def drop_node(state: SchedulerState, node: NodeMemory, effects: list[Effect]) -> None:
    """Forget a node that is gone for good."""
    state.unfile(node)
    del state.nodes[node.row.id]
    state.dirty_nodes.pop(node.row.id, None)
    state.pool_unsettled = True
    effects.append(DeleteNode(node.row))


def on_node_connected(state: SchedulerState, event: NodeConnected, effects: list[Effect]) -> None:
    """Compare what the node holds with what it should hold; from here on both sides agree.

    An attempt it should hold and does not know is handed to it again, one it holds and should not is stopped. Attempts
    that ended are left alone: their reports follow.
    """
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    row = node.row
    effects.append(BeginSession(row.id, event.session))
    if row.state is NodeState.LEAVING_POOL:
        return
    disk_time = event.boot_time if event.disk_time is None else event.disk_time
    booted = row.last_boot_time != event.boot_time or row.disk_time != disk_time
    row.last_boot_time = event.boot_time
    row.disk_time = disk_time
    row.ip_address = event.ip_address
    row.agent_version = event.agent_version
    row.capabilities = event.capabilities
    state.touch_node(node)
    if booted:
        # Nothing it ran is there any more, whatever it holds.
        tasks.lose_attempts(state, node, event.at, effects)
    held = {(entry.key, entry.attempt): entry for entry in event.inventory}
    for key, attempt in list(node.stopping):
        entry = held.pop((key, attempt), None)
        if entry is None or entry.ended:
            tasks.release_stopping(state, node, key, attempt, event.at)
        else:
            effects.append(StopTask(row.id, key, attempt))
    for assignment in list(node.assigned.values()):
        task = assignment.task
        if held.pop((task.key, assignment.attempt), None) is not None:
            gangs.repeat_proceed(state, assignment, effects)
        elif assignment.sent:
            job = state.jobs_by_no[task.job_no]
            if gangs.relies_on(state, assignment):
                tasks.detach(state, job, task, event.at, stop=False, effects=effects, node=node)
                tasks.requeue(state, job, task, event.at, effects, by_user=False)
                continue
            assignment.returning = False
            special.send(state, job, node, assignment, effects)
    if booted:
        special.node_booted(state, node, event.at, effects)
    else:
        special.resume(state, node, set(held), effects)
        for run in node.specials.values():
            held.pop((run.key, run.attempt), None)
    free_before = node.free
    for (key, attempt), entry in held.items():
        if entry.ended:
            continue
        node.stopping[key, attempt] = Stopping(entry.slots, None)
        node.free -= entry.slots
        stopped_job = state.jobs_by_no.get(job_no_of(key))
        if stopped_job is not None:
            stopped_job.stopping += 1
        effects.append(StopTask(row.id, key, attempt))
    state.refile(node, free_before)
    node.connected = True
    if row.state is NodeState.CREATING:
        set_node_state(state, node, NodeState.STARTING, event.at)
    state.pool_unsettled = True
    special.settle_booted(state, node, event.at)


def on_node_silent(state: SchedulerState, event: NodeSilent, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    node.connected = False
    _show_unknown(state, node, event.at)


def _show_unknown(state: SchedulerState, node: NodeMemory, at: Timestamp) -> None:
    """Nobody knows what the node does, where it was to do something."""
    if node.row.state in _SHOWN_UNKNOWN:
        set_node_state(state, node, NodeState.UNKNOWN, at)
    else:
        state.refile(node, node.free)


def on_node_lost(state: SchedulerState, event: NodeLost, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    node.connected = False
    _lose_everything(state, node, event.at, effects, gone=False)
    _show_unknown(state, node, event.at)


def on_node_gone(state: SchedulerState, event: NodeGone, effects: list[Effect]) -> None:
    """A node that was leaving is deleted; one that vanished is made again under its own id (service healing)."""
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    node.connected = False
    _lose_everything(state, node, event.at, effects, gone=True)
    if node.row.removal is not None or state.pool is None:
        drop_node(state, node, effects)
        return
    node.row.handle = ""
    if node.row.state is not NodeState.CREATING:
        set_node_state(state, node, NodeState.CREATING, event.at)
    effects.append(CreateNode(state.pool, node.row))


def _lose_everything(
    state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect], *, gone: bool
) -> None:
    """The node is given up, or gone for good, with all it ran."""
    tasks.lose_attempts(state, node, at, effects)
    special.node_lost(state, node, at, effects, gone=gone)


def remove_node(
    state: SchedulerState, node: NodeMemory, option: NodeDeallocationOption, at: Timestamp, effects: list[Effect]
) -> None:
    """Begin to take a node out of its pool. It gets no new tasks; `option` says what becomes of those it runs."""
    row = node.row
    if row.state is NodeState.LEAVING_POOL:
        return
    row.pending = PendingOperation(NodeOperation.REMOVE, option)
    state.touch_node(node)
    state.pool_unsettled = True
    state.refile(node, node.free)
    drains = option in (NodeDeallocationOption.TASK_COMPLETION, NodeDeallocationOption.RETAINED_DATA)
    for assignment in list(node.assigned.values()):
        task = assignment.task
        begun = task.start_time is not None
        if begun and drains:
            continue
        job = state.jobs_by_no[task.job_no]
        # The whole node goes, so nothing need be stopped one by one, unless it lives on for others.
        tasks.detach(state, job, task, at, stop=drains, effects=effects)
        if begun and option is NodeDeallocationOption.TERMINATE:
            tasks.complete(
                state, job, task, at, effects, end_time=at, exit_code=None, failure=retries.ENDED_BY_NODE_REMOVAL
            )
        else:
            tasks.requeue(state, job, task, at, effects, by_user=begun)
    if not drains:
        for key, attempt in list(node.stopping):
            tasks.release_stopping(state, node, key, attempt, at)
    leave_when_drained(state, node, at, effects)


def leave_when_drained(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """Release a node that is to leave and runs nothing any more."""
    row = node.row
    if row.removal is None or row.state is NodeState.LEAVING_POOL or node.assigned or node.stopping:
        return
    set_node_state(state, node, NodeState.LEAVING_POOL, at)
    special.node_lost(state, node, at, effects, gone=True)
    if state.pool is not None:
        effects.append(ReleaseNode(state.pool, row))


def keep_node(state: SchedulerState, node: NodeMemory) -> None:
    """Call off a removal that has not begun to release the node."""
    node.row.pending = None
    state.touch_node(node)
    state.refile(node, node.free)
