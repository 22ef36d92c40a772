"""Nodes: coming, connecting, falling silent, leaving."""

from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import (
    BeginSession,
    CreateNode,
    Effect,
    ReleaseNode,
    SavePool,
    StopTask,
)
from millpond.domain.events import (
    NodeConnected,
    NodeGone,
    NodeLost,
    NodePreempted,
    NodeProvisioned,
    NodeProvisionFailed,
    NodeSilent,
)
from millpond.domain.ids import job_no_of, make_node_id
from millpond.domain.node import Node, NodeError, PendingOperation
from millpond.domain.pool import Pool, ResizeError
from millpond.domain.states import IN_SERVICE_NODE_STATES, NodeOperation, NodeState
from millpond.scheduler import gangs, node_operations, special, tasks
from millpond.scheduler.node_operations import drop_node
from millpond.scheduler.state import NodeMemory, SchedulerState, Stopping, set_node_state

_SHOWN_UNKNOWN: Final = IN_SERVICE_NODE_STATES | {
    NodeState.STARTING,
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
}
"""Node states that become `unknown` when the node falls silent."""

_GIVEN_BACK: Final = frozenset({NodeState.LEAVING_POOL, NodeState.DEALLOCATING, NodeState.DEALLOCATED})
"""Node states in which there is no machine, or the provider is taking it away."""

_RESTARTING: Final = {NodeState.REBOOTING: NodeOperation.REBOOT, NodeState.REIMAGING: NodeOperation.REIMAGE}


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
    if node.row.state is NodeState.PREEMPTED:
        set_node_state(state, node, NodeState.CREATING, event.at)
    if node.row.state is NodeState.CREATING:
        set_node_state(state, node, NodeState.STARTING, event.at)
    elif node.row.state in _GIVEN_BACK and state.pool is not None:
        # It was to go before the provider had answered: now there is a handle to release it by.
        effects.append(ReleaseNode(state.pool, node.row))


def on_node_provision_failed(state: SchedulerState, event: NodeProvisionFailed, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None or state.pool is None:
        return
    row = node.row
    if row.handle and row.state is not NodeState.PREEMPTED:
        return
    # It may have been there before (its handle was lost with the engine's memory): then it is gone with all it held.
    node.connected = False
    _lose_everything(state, node, event.at, effects)
    if row.state is NodeState.STARTING:
        # It was deallocated, and cannot be started just now.
        set_node_state(state, node, NodeState.DEALLOCATED, event.at)
        row.errors = (NodeError(event.code, event.message),)
        return
    if _is_deallocated(state, node, event.at, effects):
        return
    if row.removal is None:
        error = ResizeError(event.code, event.message)
        if error not in state.pool.resize_errors:
            state.pool.resize_errors = (*state.pool.resize_errors, error)
            effects.append(SavePool(state.pool))
    drop_node(state, node, effects)


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
    rebooted = row.last_boot_time != event.boot_time
    if row.state in _GIVEN_BACK or (row.state is NodeState.PREEMPTED and not rebooted):
        return  # the last words of a machine that goes
    disk_time = event.boot_time if event.disk_time is None else event.disk_time
    fresh = row.disk_time != disk_time
    row.last_boot_time = event.boot_time
    row.ip_address = event.ip_address
    row.agent_version = event.agent_version
    row.capabilities = event.capabilities
    state.touch_node(node)
    if row.state in _RESTARTING and not (rebooted and (fresh or row.state is NodeState.REBOOTING)):
        # It has not heard of it, or came up anew before it had.
        node.connected = True
        node_operations.restart(state, node, effects)
        return
    booted = rebooted or fresh
    if booted:
        # Nothing it ran is there any more, whatever it holds.
        tasks.lose_attempts(state, node, event.at, effects)
        _note_boot(node, effects, fresh=fresh, disk_time=disk_time)
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
    if not booted:
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
    state.pool_unsettled = True
    if booted:
        begin_service(state, node, event.at, effects)
    else:
        special.settle_booted(state, node, event.at)


def _note_boot(node: NodeMemory, effects: list[Effect], *, fresh: bool, disk_time: Timestamp) -> None:
    """The node came up anew: what a pending restart was to bring about is done."""
    row = node.row
    if row.disk_time != disk_time:
        row.disk_time = disk_time
        row.retain_until = None
    operation = row.pending.operation if row.pending is not None else None
    if operation is NodeOperation.REBOOT or (operation is NodeOperation.REIMAGE and fresh):
        node_operations.call_off(node, effects)


def begin_service(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The node has newly booted, and its agent is there: preempted → creating → starting, its start task, and then what
    it waits for or does. An agent that was only started again under the same boot does not come here."""
    row = node.row
    if row.state is NodeState.PREEMPTED:
        set_node_state(state, node, NodeState.CREATING, at)
    row.errors = ()
    set_node_state(state, node, NodeState.STARTING, at)
    special.node_booted(state, node, at, effects)
    special.settle_booted(state, node, at)


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
    tasks.lose_attempts(state, node, event.at, effects)
    special.node_lost(state, node, event.at, effects, gone=False)
    operation = _RESTARTING.get(node.row.state)
    if operation is not None:
        # Should it come back as it was, it still is to restart.
        node.row.pending = PendingOperation(operation)
        set_node_state(state, node, NodeState.UNKNOWN, event.at)
    _show_unknown(state, node, event.at)


def on_node_gone(state: SchedulerState, event: NodeGone, effects: list[Effect]) -> None:
    """A node that was leaving is deleted, one that was deallocated is so; one that vanished is made again under its own
    id (service healing)."""
    node = state.nodes.get(event.node_id)
    if node is None or node.row.state is NodeState.PREEMPTED:
        return
    node.connected = False
    _lose_everything(state, node, event.at, effects)
    node.row.handle = ""
    if node.row.removal is not None or state.pool is None:
        drop_node(state, node, effects)
        return
    if _is_deallocated(state, node, event.at, effects):
        return
    _call_off_restart(node, effects)
    if node.row.state is not NodeState.CREATING:
        set_node_state(state, node, NodeState.CREATING, event.at)
    effects.append(CreateNode(state.pool, node.row))


def on_node_preempted(state: SchedulerState, event: NodePreempted, effects: list[Effect]) -> None:
    """The machine of a spot node was taken back, with its disk. Its tasks are active again and counted nowhere; the
    node stays in its pool and is made again under its own id as soon as the provider can (Azure Batch: Spot)."""
    node = state.nodes.get(event.node_id)
    if node is None or node.row.state in _GIVEN_BACK or node.row.state is NodeState.PREEMPTED or state.pool is None:
        return
    row = node.row
    if row.state is NodeState.CREATING and not row.handle:
        return  # it is being made again already
    node.connected = False
    _lose_everything(state, node, event.at, effects)
    state.pool_unsettled = True
    if row.pending is not None and row.pending.operation in (NodeOperation.REMOVE, NodeOperation.DEALLOCATE):
        return  # nothing is in the way of that any more
    _call_off_restart(node, effects)
    set_node_state(state, node, NodeState.PREEMPTED, event.at)
    effects.append(CreateNode(state.pool, row))


def _lose_everything(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The machine is gone for good, with all it ran and all it had."""
    tasks.lose_attempts(state, node, at, effects)
    node_operations.lose_disk(state, node, at, effects)


def _is_deallocated(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> bool:
    """There is no machine: whether that is as was asked."""
    row = node.row
    wanted = row.pending is not None and row.pending.operation is NodeOperation.DEALLOCATE
    if row.state is not NodeState.DEALLOCATED and (wanted or row.state is NodeState.DEALLOCATING):
        node_operations.call_off(node, effects)
        set_node_state(state, node, NodeState.DEALLOCATING, at)
        set_node_state(state, node, NodeState.DEALLOCATED, at)
    return row.state is NodeState.DEALLOCATED


def _call_off_restart(node: NodeMemory, effects: list[Effect]) -> None:
    """Its next machine comes up anew anyway."""
    if node.row.pending is not None and node.row.removal is None:
        node_operations.call_off(node, effects)
