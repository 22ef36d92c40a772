"""Why a node takes no tasks, and why a pool is not what it should be: a pure look at the scheduler's memory."""

from collections.abc import Iterable, Iterator
from typing import Final

from millpond.domain.durations import Timestamp, format_timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.explanation import Cause, Explanation, Reference
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, NodeOperation, NodeState, PoolState, SchedulingState
from millpond.domain.task import Task
from millpond.scheduler import apart
from millpond.scheduler.state import NodeMemory, SchedulerState

_MOST_REFERENCES: Final = 10

_WISHES: Final = {
    NodeOperation.REMOVE: "leave the pool",
    NodeOperation.REBOOT: "reboot",
    NodeOperation.REIMAGE: "be reimaged",
    NodeOperation.DEALLOCATE: "be deallocated",
}

_IN_STATE: Final[dict[NodeState, tuple[str, str, str, bool]]] = {
    NodeState.CREATING: ("nodeCreating", "is being made", "", False),
    NodeState.STARTING: ("nodeStarting", "is starting", "", False),
    NodeState.WAITING_FOR_START_TASK: ("startTaskRunning", "runs the pool's start task", "", False),
    NodeState.START_TASK_FAILED: (
        "startTaskFailed",
        "has failed the pool's start task",
        "look at its startup/stderr.txt, then reboot or reimage the node, or remove it",
        True,
    ),
    NodeState.UNKNOWN: ("nodeSilent", "does not answer", "its agent answers again, or it is given up", False),
    NodeState.UNUSABLE: ("nodeUnusable", "is unusable", "reboot or reimage the node, or remove it", True),
    NodeState.OFFLINE: ("schedulingDisabled", "has scheduling disabled", "enable scheduling on the node", True),
    NodeState.LEAVING_POOL: ("nodeLeaving", "leaves the pool", "", False),
    NodeState.PREEMPTED: ("nodePreempted", "was preempted, and is made again when there is room for it", "", False),
    NodeState.REBOOTING: ("nodeRebooting", "is rebooting", "", False),
    NodeState.REIMAGING: ("nodeReimaging", "is being reimaged", "", False),
    NodeState.UPGRADING_OS: ("nodeUpgrading", "has its operating system upgraded", "", False),
    NodeState.DEALLOCATING: ("nodeDeallocating", "is being deallocated", "", False),
    NodeState.DEALLOCATED: ("nodeDeallocated", "is deallocated", "start the node", True),
}
"""State → code, what the node does, what would end it, whether someone has to act."""


def node_reference(node: NodeMemory) -> Reference:
    return Reference("node", node.row.id)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def agree(number: int, one: str, many: str) -> str:
    """The verb that goes with the number: 1 task `waits`, 3 tasks `wait`."""
    return one if number == 1 else many


# --- nodes ----------------------------------------------------------------------------------------------------------


def trouble_of(node: NodeMemory) -> Cause | None:
    """Why the node takes no tasks; None when it does."""
    if node.takes_tasks:
        return None
    row = node.row
    reference = (node_reference(node),)
    pending = row.pending
    if pending is not None and row.state is not NodeState.LEAVING_POOL:
        wish = _WISHES[pending.operation]
        if node.retention_timer is not None:
            return Cause(
                "operationPending",
                f"the node waits to {wish} until the files of the tasks that ended on it need not be kept any more",
                "their retention time passes",
                references=reference,
            )
        waits = _plural(len(node.assigned) + len(node.stopping), "task")
        return Cause(
            "operationPending",
            f"the node waits to {wish}, {waits} being on it ({pending.option})",
            "its tasks end",
            references=reference,
        )
    known = _IN_STATE.get(row.state)
    if known is not None:
        code, text, unblock, never = known
        details = _details(node)
        return Cause(code, f"the node {text}{details}", unblock, row.state_time, never=never, references=reference)
    if not node.connected:
        return Cause(
            "nodeSilent",
            "the node's agent has not said hello since the service started",
            "its agent answers",
            references=reference,
        )
    if row.scheduling_state is SchedulingState.DISABLED:
        return Cause(
            "schedulingDisabled",
            "the node has scheduling disabled",
            "enable scheduling on the node",
            row.state_time,
            never=True,
            references=reference,
        )
    return Cause("nodeNotReady", f"the node is {row.state}", since=row.state_time, references=reference)


def _details(node: NodeMemory) -> str:
    row = node.row
    if row.state is NodeState.START_TASK_FAILED and row.start_task is not None:
        if row.start_task.exit_code is not None:
            return f", which exited with {row.start_task.exit_code}"
        if row.start_task.failure is not None:
            return f": {row.start_task.failure.message}"
    if row.errors:
        return ": " + "; ".join(error.message for error in row.errors[:3])
    return ""


def troubles(nodes: Iterable[NodeMemory]) -> Iterator[Cause]:
    """Why these nodes take no tasks, alike ones counted together."""
    grouped: dict[str, list[Cause]] = {}
    for node in nodes:
        cause = trouble_of(node)
        if cause is not None:
            grouped.setdefault(cause.code, []).append(cause)
    for code, found in grouped.items():
        if len(found) == 1:
            yield found[0]
            continue
        yield Cause(
            code,
            f"{len(found)} nodes: {found[0].message}",
            found[0].unblock,
            min((cause.since for cause in found if cause.since is not None), default=None),
            never=all(cause.never for cause in found),
            references=tuple(cause.references[0] for cause in found[:_MOST_REFERENCES]),
        )


def explain_node(state: SchedulerState, node_id: str) -> Explanation:
    """Why a node is as it is. Raises BatchError NodeNotFound."""
    node = state.nodes.get(node_id)
    if node is None:
        raise BatchError(ErrorCode.NODE_NOT_FOUND, f"The node '{node_id}' is not in pool '{state.pool_id}'.")
    row = node.row
    causes = tuple(_causes_of_node(state, node))
    trouble = trouble_of(node)
    if trouble is not None:
        summary = f"The node takes no tasks: {trouble.message}."
    else:
        slots = f"{max(node.free, 0)} of {_plural(node.slots, 'slot')} {agree(node.slots, 'is', 'are')}"
        summary = f"The node takes tasks; {slots} free."
    return Explanation(node_reference(node), row.state.value, row.state_time, summary, causes)


def _task_references(state: SchedulerState, tasks: list[Task]) -> tuple[Reference, ...]:
    return tuple(Reference("task", task.id, state.jobs_by_no[task.job_no].row.id) for task in tasks[:_MOST_REFERENCES])


def _causes_of_node(state: SchedulerState, node: NodeMemory) -> Iterator[Cause]:
    trouble = trouble_of(node)
    if trouble is not None:
        yield trouble
    held = [a.task for a in node.assigned.values() if a.holds]
    if held:
        tasks = f"{_plural(len(held), 'task')} {agree(len(held), 'is', 'are')}"
        yield Cause("tasksRunning", f"{tasks} on it", references=_task_references(state, held))
    ahead = [a.task for a in node.assigned.values() if not a.holds]
    if ahead:
        tasks = f"{_plural(len(ahead), 'task')} {agree(len(ahead), 'was', 'were')}"
        yield Cause(
            "handedOutAhead",
            f"{tasks} handed to it ahead of time",
            "slots become free",
            references=_task_references(state, ahead),
        )
    if node.stopping:
        yield Cause(
            "tasksStopping",
            f"{_plural(len(node.stopping), 'attempt')} on it were told to stop, and hold their slots until they are gone",
        )
    reservation = state.reservation
    if node.reserved and reservation is not None:
        yield Cause(
            "nodeReserved",
            f"it is kept free for task '{reservation.task.id}' of job '{reservation.job.row.id}', which needs "
            f"{_plural(apart.nodes_wanted(reservation.task), 'node')} at once",
            since=reservation.since,
            references=(Reference("task", reservation.task.id, reservation.job.row.id),),
        )
    barred = [job for job in state.jobs.values() if node.row.id in job.barred]
    if barred:
        yield Cause(
            "preparationFailed",
            f"the preparation task of {_plural(len(barred), 'job')} failed on it, of which it runs nothing more",
            "reimage the node",
            never=True,
            references=tuple(Reference("job", job.row.id) for job in barred[:_MOST_REFERENCES]),
        )


# --- the pool -------------------------------------------------------------------------------------------------------


def nodes_missing(state: SchedulerState, wanted: int, wanted_since: Timestamp = 0) -> Cause:
    """The pool has fewer nodes than something needs, which cannot have waited for them since before `wanted_since`."""
    pool = state.pool
    have = len(state.nodes)
    here = (Reference("pool", state.pool_id),)
    if have == 0:
        text = "the pool has no nodes"
    else:
        text = f"it needs {_plural(wanted, 'node')} at once, and the pool has {have}"
    target = 0 if pool is None else pool.target_dedicated_nodes + pool.target_low_priority_nodes
    coming = pool is not None and pool.allocation_state is not AllocationState.STEADY and target >= wanted
    scales = pool is not None and pool.auto_scale is not None
    return Cause(
        "tooFewNodes",
        text + (", which is resizing" if coming else ""),
        "" if coming or scales else "resize the pool",
        None if pool is None else max(pool.allocation_state_time, wanted_since),
        never=not coming and not scales,
        references=here,
        causes=() if pool is None else (*_resize_causes(pool), *_formula_causes(pool, coming=coming)),
    )


def _formula_causes(pool: Pool, *, coming: bool = False) -> Iterator[Cause]:
    """What the formula has to do with the pool's size: that its last evaluation failed, or asked for no more."""
    scale = pool.auto_scale
    if scale is None:
        return
    run = scale.run
    here = (Reference("pool", pool.id),)
    due = f"it is evaluated next at {format_timestamp(scale.next_run)}"
    if run is not None and run.error is not None:
        details = "; ".join(value.value for value in run.error.values)
        yield Cause(
            "autoScaleFailed",
            f"the pool's formula failed at {format_timestamp(run.timestamp)}: {run.error.code}: {run.error.message}"
            + (f" ({details})" if details else "")
            + f"; {due}",
            "correct the formula, unless it only lacks samples",
            run.timestamp,
            references=here,
        )
    elif not coming:
        target = pool.target_dedicated_nodes + pool.target_low_priority_nodes
        said = "has not been evaluated yet" if run is None else f"asks for {_plural(target, 'node')}"
        yield Cause(
            "autoScaleWaits",
            f"the pool's formula {said}; {due}",
            "wait for that, or change the formula",
            None if run is None else run.timestamp,
            references=here,
        )


def _resize_causes(pool: Pool) -> Iterator[Cause]:
    for error in pool.resize_errors:
        yield Cause(
            "resizeError",
            f"{error.code}: {error.message}",
            "resize the pool again when the reason is gone",
            pool.allocation_state_time,
            never=True,
            references=(Reference("pool", pool.id),),
        )


def explain_pool(state: SchedulerState) -> Explanation:
    """Why a pool is as it is, and what waits for it. Raises BatchError PoolNotFound."""
    pool = state.pool
    if pool is None:
        raise BatchError(ErrorCode.POOL_NOT_FOUND, f"The pool '{state.pool_id}' does not exist.", PoolId=state.pool_id)
    causes = tuple(_causes_of_pool(state, pool))
    useful = sum(1 for node in state.nodes.values() if node.takes_tasks)
    waiting = sum(job.row.counts.active for job in state.jobs.values())
    summary = (
        f"The pool is {pool.state}, {pool.allocation_state}: {useful} of {_plural(len(state.nodes), 'node')} "
        f"{agree(len(state.nodes), 'takes', 'take')} tasks, "
        f"and {_plural(waiting, 'task')} {agree(waiting, 'waits', 'wait')}."
    )
    return Explanation(Reference("pool", pool.id), pool.state.value, pool.state_time, summary, causes)


def _causes_of_pool(state: SchedulerState, pool: Pool) -> Iterator[Cause]:
    leaving = [node for node in state.nodes.values() if node.row.removal is not None]
    if pool.state is PoolState.DELETING or pool.allocation_state is not AllocationState.STEADY:
        making = [n for n in state.nodes.values() if n.row.state is NodeState.CREATING and n.row.removal is None]
        yield Cause(
            "poolDeleting" if pool.state is PoolState.DELETING else "poolResizing",
            f"{_plural(len(making), 'node')} are being made, and {_plural(len(leaving), 'node')} are leaving",
            since=pool.allocation_state_time,
            references=tuple(node_reference(node) for node in [*making, *leaving][:_MOST_REFERENCES]),
            causes=tuple(troubles(leaving)),
        )
    yield from _resize_causes(pool)
    if not state.nodes and pool.state is PoolState.ACTIVE:
        yield nodes_missing(state, 1)
    elif pool.auto_scale is not None and pool.auto_scale.run is not None and pool.auto_scale.run.error is not None:
        yield from _formula_causes(pool)
    yield from troubles(node for node in state.nodes.values() if node.row.removal is None)
    reservation = state.reservation
    if reservation is not None:
        yield Cause(
            "nodesReserved",
            f"{_plural(len(reservation.nodes), 'node')} are kept free for task '{reservation.task.id}' of job "
            f"'{reservation.job.row.id}', which needs them all at once",
            since=reservation.since,
            references=tuple(node_reference(node) for node in list(reservation.nodes.values())[:_MOST_REFERENCES]),
        )
