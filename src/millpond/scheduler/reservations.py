"""Nodes kept free for tasks that need whole nodes: multi-instance tasks, and job managers that run alone.

Such a task would starve behind small ones, which take every node as it becomes free; and two of them, each holding some
of what both need, would wait for each other for ever. So only one task at a time has a reservation, the first in order
of those that could be satisfied at all: nodes that are idle, and else busy ones, which are handed nothing more and drain.
Reserved nodes are withheld from work of the same or a lower priority; work of a higher priority passes. As soon as
enough nodes are idle the task is handed out to all of them at once.

A reservation is bounded (`RESERVATION_S`), because idle nodes that wait for one that is busy for days do nobody any
good: when it runs out the nodes serve others for as long again before the same task may reserve any. It is a matter of
memory only: after a rebuild it begins anew.

Where small tasks of the same priority wait, they and tasks placed by reservation alternate: after one of these the next
may reserve only when as many small ones have been handed out as it had nodes (or no more of them can be).
"""

from collections.abc import Iterable
from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect, ReturnTask, SetGangTimer
from millpond.domain.events import GangReservationTimedOut
from millpond.domain.states import JobState
from millpond.domain.task import Task
from millpond.scheduler import apart, gangs, preemption
from millpond.scheduler.state import JobMemory, NodeMemory, Reservation, SchedulerState, is_ready

RESERVATION_S: Final = 15 * 60.0
"""Seconds a reservation lasts at most, and seconds its task goes without one after that. Long enough for common tasks to
drain, short enough that a node whose task runs for days does not keep others idle for as long."""


# --- one pass -------------------------------------------------------------------------------------------------------


def serve(state: SchedulerState, jobs: Iterable[JobMemory], at: Timestamp, effects: list[Effect]) -> None:
    """Place the multi-instance tasks, and the job managers that start again, of active jobs of one priority."""
    jobs = list(jobs)
    top_up(state, jobs)
    while _place_first(state, jobs, at, effects):
        pass


def reserve_for_first(state: SchedulerState, jobs: Iterable[JobMemory], at: Timestamp, effects: list[Effect]) -> None:
    """Let the first of those that `serve` could not place reserve nodes."""
    reserve(state, [head for head in _heads(jobs) if apart.wants_whole_nodes(head[1])], at, effects)


def _heads(jobs: Iterable[JobMemory]) -> list[tuple[JobMemory, Task]]:
    """The first of each queue, in order: job managers that start again, then what was added first."""
    heads = [
        (job, queue.head)
        for job in jobs
        if not apart.at_limit(job)
        for queue in (job.first, *job.gangs.values())
        if queue and (queue is not job.first or apart.is_restart(queue.head))
    ]
    heads.sort(key=lambda head: (not apart.is_manager(head[1]), head[1].creation_time, head[1].key))
    return heads


def _place_first(state: SchedulerState, jobs: Iterable[JobMemory], at: Timestamp, effects: list[Effect]) -> bool:
    for job, task in _heads(jobs):
        if place(state, job, task, at, effects):
            return True
        if apart.is_restart(task) and preemption.displace(state, job, task, at, effects):
            apart.prune(job)
            return True
    return False


def place(state: SchedulerState, job: JobMemory, task: Task, at: Timestamp, effects: list[Effect]) -> bool:
    """Hand the task out if there is room for all of it; whether there was."""
    if apart.at_limit(job):
        return False
    nodes = apart.find_nodes(state, job, task)
    if nodes is None:
        return False
    reserved = state.reservation is not None and state.reservation.task is task
    apart.assign(state, job, task, nodes, at, effects)
    if reserved:
        state.yielding = (job.row.priority, len(nodes))
    apart.prune(job)
    return True


def place_manager(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect]) -> bool:
    """In the job's turn: its manager, which starts for the first time."""
    return bool(job.first) and place(state, job, job.first.head, at, effects)


# --- reserving ------------------------------------------------------------------------------------------------------


def reserve(
    state: SchedulerState, heads: Iterable[tuple[JobMemory, Task]], at: Timestamp, effects: list[Effect]
) -> None:
    """Reserve nodes for the first of these tasks that can be satisfied, unless one of the same or a higher priority has
    them reserved."""
    for job, task in heads:
        current = state.reservation
        if current is not None and current.job.row.priority >= job.row.priority:
            return
        if state.unreserved_until.get(task.key, at) > at or apart.at_limit(job):
            continue
        if state.pool is None or not apart.fits_pool(state.pool, task):
            continue
        if state.pool.task_slots_per_node == 1 and apart.is_manager(task):
            continue  # a whole node is one slot: it waits its turn as others do
        look = (task.key, state.usable_changes, len(job.barred))
        if state.unfit == look:
            continue
        chosen = _choose(state, job, task, (), at, effects)
        if chosen is None:
            state.unfit = look
            continue
        apart.drop_reservation(state)
        state.reservation = Reservation(job, task, at, at + RESERVATION_S)
        for node in chosen:
            _withhold(state, state.reservation, node, effects)
        # What was made room for may be there at once: a task that waits for its preparation task leaves without a stop.
        place(state, job, task, at, effects)
        return


def _choose(
    state: SchedulerState,
    job: JobMemory,
    task: Task,
    keep: Iterable[NodeMemory],
    at: Timestamp,
    effects: list[Effect],
) -> list[NodeMemory] | None:
    """The nodes to reserve: those it keeps, idle ones, ones whose tasks may be requeued for it, else those with least
    to do. None when the pool has not enough that take tasks."""
    wanted = apart.nodes_wanted(task)
    chosen = {node.row.id: node for node in keep}
    usable = [
        node
        for node in state.nodes.values()
        if node.row.id not in chosen and node.takes_tasks and apart.suits(job, task, node)
    ]
    missing = wanted - len(chosen)
    if len(usable) < missing:
        return None
    idle = [node for node in usable if apart.is_idle(node)]
    busy = [node for node in usable if not apart.is_idle(node)]
    if state.preemptible and len(idle) < missing:
        may_go = preemption.lends_to(job)
        lent = [
            (preemption.rank_of(state, victims), place, node, victims)
            for place, node in enumerate(busy)
            if (victims := preemption.victims_for_whole(state, node, may_go)) is not None
        ]
        if len(idle) + len(lent) >= missing:
            lent.sort(key=lambda entry: entry[:2])
            taken = lent[: missing - len(idle)]
            for _, _, _, victims in taken:
                preemption.requeue_all(state, victims, at, effects)
            busy = [node for _, _, node, _ in taken]
    busy.sort(key=lambda node: (node.alone, len(node.assigned)))
    return [*chosen.values(), *(idle + busy)[:missing]]


def _withhold(state: SchedulerState, reservation: Reservation, node: NodeMemory, effects: list[Effect]) -> None:
    """Keep the node for the reservation: it is handed nothing more, and gives back what it has not begun."""
    reservation.nodes[node.row.id] = node
    node.reserved = True
    state.refile(node, node.free)
    for assignment in node.assigned.values():
        if assignment.holds or assignment.returning or not assignment.sent:
            continue
        if state.jobs_by_no[assignment.task.job_no].row.priority <= reservation.job.row.priority:
            assignment.returning = True
            effects.append(ReturnTask(node.row.id, assignment.task.key, assignment.attempt))


def _give_back(state: SchedulerState, reservation: Reservation, node: NodeMemory) -> None:
    del reservation.nodes[node.row.id]
    if state.nodes.get(node.row.id) is node:
        node.reserved = False
        state.refile(node, node.free)


def top_up(state: SchedulerState, jobs: Iterable[JobMemory]) -> None:
    """Nodes that have become idle take the place, in the reservation of one of these jobs, of reserved ones that are
    still busy."""
    reservation = state.reservation
    pool = state.pool
    if reservation is None or pool is None or not any(job is reservation.job for job in jobs):
        return
    busy = [node for node in reservation.nodes.values() if not apart.is_idle(node)]
    if not busy or len(state.free_nodes) <= pool.task_slots_per_node:
        return
    for node in list(state.free_nodes[pool.task_slots_per_node].values()):
        if not busy:
            return
        if apart.suits(reservation.job, reservation.task, node):
            _give_back(state, reservation, busy.pop())
            _withhold(state, reservation, node, [])


# --- keeping --------------------------------------------------------------------------------------------------------


def review(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """Before a pass: end a reservation that has lost its reason or its nodes, make good what it lost else."""
    reservation = state.reservation
    if reservation is None:
        return
    job = reservation.job
    apart.prune(job)
    same = job.gangs.get(apart.nodes_wanted(reservation.task)) if gangs.is_gang(reservation.task) else None
    if same:
        # Another of its size has come before it (a retry): that one is next, and needs the same.
        reservation.task = same.head
    task = reservation.task
    stands = (
        is_ready(task)
        and job.row.state is JobState.ACTIVE
        and not apart.at_limit(job)
        and state.pool is not None
        and apart.fits_pool(state.pool, task)
    )
    if not stands:
        apart.drop_reservation(state)
        return
    for node in list(reservation.nodes.values()):
        if state.nodes.get(node.row.id) is not node or not node.takes_tasks or not apart.suits(job, task, node):
            _give_back(state, reservation, node)
    if len(reservation.nodes) < apart.nodes_wanted(task):
        chosen = _choose(state, job, task, reservation.nodes.values(), at, effects)
        if chosen is None:
            apart.drop_reservation(state)
            return
        for node in chosen:
            if not node.reserved:
                _withhold(state, reservation, node, effects)


def lift(state: SchedulerState) -> None:
    """Let work of a higher priority see the reserved nodes."""
    if state.reservation is not None:
        for node in state.reservation.nodes.values():
            node.reserved = False
            state.refile(node, node.free)


def lower(state: SchedulerState, effects: list[Effect]) -> None:
    """Work of a higher priority has been served: the nodes are withheld from the rest again."""
    reservation = state.reservation
    if reservation is not None:
        for node in list(reservation.nodes.values()):
            if not node.reserved:
                _withhold(state, reservation, node, effects)


# --- time -----------------------------------------------------------------------------------------------------------


def set_timer(state: SchedulerState, effects: list[Effect]) -> None:
    """After a pass: be called when the reservation has lasted long enough, or when a task may reserve again."""
    deadlines = list(state.unreserved_until.values())
    if state.reservation is not None:
        deadlines.append(state.reservation.deadline)
    deadline = min(deadlines, default=None)
    if deadline != state.reservation_timer:
        state.reservation_timer = deadline
        effects.append(SetGangTimer(deadline))


def on_gang_reservation_timed_out(state: SchedulerState, event: GangReservationTimedOut, _: list[Effect]) -> None:
    if state.reservation_timer != event.deadline:
        return
    state.reservation_timer = None
    state.unreserved_until = {
        key: until for key, until in state.unreserved_until.items() if until > max(event.at, event.deadline)
    }
    reservation = state.reservation
    if reservation is not None and reservation.deadline <= event.deadline:
        state.unreserved_until[reservation.task.key] = event.at + RESERVATION_S
        apart.drop_reservation(state)
