"""Making room by requeuing what runs: for jobs of higher priority, and for job managers that start again.

A job with allowTaskPreemption lends its nodes: a ready task of a job with a higher priority that fits nowhere may have
its running tasks requeued. A job manager that ran before may have any task of its job's priority or a lower one requeued,
other managers excepted (Azure Batch: JobManagerTask), when no node has room for it. In both cases as few as possible go,
of the lowest priority first, and of these what started last.

What is requeued so has been ended by the service, not by a user: it counts neither as a retry nor as a requeue
(semantics 2.6). The task it made room for is assigned to the node at once, first in line for the slots, so that nothing
else can take them before those that had them are gone.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.states import JobState
from millpond.domain.task import Task
from millpond.scheduler import apart, gangs, lines, tasks
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState
from millpond.scheduler.task_queue import TaskQueue

MayGo: TypeAlias = Callable[[JobMemory, Assignment], bool]
"""Whether an attempt of that job may be requeued to make room."""

Rank: TypeAlias = tuple[int, int, float]
"""What making room costs: tasks requeued, the highest priority among them, minus the earliest start. Least first."""


class _Room(msgspec.Struct):
    """How to make room on one node."""

    node: NodeMemory
    victims: list[Assignment]
    behind: list[Assignment]
    """Handed out ahead, of lower priority: they go back to the queue, having not begun."""
    rank: Rank


def lends_to(job: JobMemory) -> MayGo:
    """What tasks of the job may have requeued at any time."""
    priority = job.row.priority

    def may_go(other: JobMemory, _: Assignment) -> bool:
        return other.row.allow_task_preemption and other.row.priority < priority

    return may_go


def _yields_to_manager(job: JobMemory) -> MayGo:
    priority = job.row.priority

    def may_go(other: JobMemory, assignment: Assignment) -> bool:
        return other.row.priority <= priority and not apart.is_manager(assignment.task)

    return may_go


# --- what can be requeued -------------------------------------------------------------------------------------------


def victims_for_whole(state: SchedulerState, node: NodeMemory, may_go: MayGo) -> list[Assignment] | None:
    """All that holds slots of the node, if all of it may go."""
    holders = [a for a in node.assigned.values() if a.holds]
    return holders if all(may_go(_job_of(state, a), a) for a in holders) else None


def _job_of(state: SchedulerState, assignment: Assignment) -> JobMemory:
    return state.jobs_by_no[assignment.task.job_no]


def _weight(assignment: Assignment) -> int:
    """How many attempts go with this one: all instances of a multi-instance task do."""
    return apart.nodes_wanted(assignment.task)


def _room_on(state: SchedulerState, job: JobMemory, task: Task, node: NodeMemory, may_go: MayGo) -> _Room | None:
    """How to make room for the task on the node, if that can be done."""
    if not node.takes_tasks or not apart.suits(job, task, node):
        return None
    if node.reserved and (state.reservation is None or state.reservation.task is not task):
        return None
    need = apart.slots_on(node, task)
    coming = node.free + sum(stopping.slots for stopping in node.stopping.values())
    behind: list[Assignment] = []
    candidates: list[Assignment] = []
    for assignment in node.assigned.values():
        owner = _job_of(state, assignment)
        if assignment.holds:
            if may_go(owner, assignment):
                candidates.append(assignment)
        elif owner.row.priority < job.row.priority:
            behind.append(assignment)
        else:
            coming -= assignment.slots  # before it in line
    victims = _fewest(state, candidates, need - coming)
    if victims is None:
        return None
    return _Room(node, victims, behind, rank_of(state, victims))


def rank_of(state: SchedulerState, victims: list[Assignment]) -> Rank:
    """What it costs to requeue these."""
    if not victims:
        return (0, 0, 0.0)
    return (
        sum(map(_weight, victims)),
        max(_job_of(state, a).row.priority for a in victims),
        -min(a.task.start_time or 0.0 for a in victims),
    )


def _fewest(state: SchedulerState, candidates: list[Assignment], need: int) -> list[Assignment] | None:
    """The least of them that free so many slots; None when all together do not."""
    if need <= 0:
        return []
    candidates.sort(key=lambda a: (_weight(a), _job_of(state, a).row.priority, -(a.task.start_time or 0.0)))
    for assignment in candidates:
        if assignment.slots >= need:
            return [assignment]
    chosen: list[Assignment] = []
    for assignment in sorted(candidates, key=lambda a: -a.slots):
        if need <= 0:
            break
        chosen.append(assignment)
        need -= assignment.slots
    return chosen if need <= 0 else None


def requeue_all(state: SchedulerState, victims: Iterable[Assignment], at: Timestamp, effects: list[Effect]) -> None:
    """End these attempts and put their tasks back in the queue, counted nowhere."""
    for assignment in victims:
        task = assignment.task
        job = _job_of(state, assignment)
        if task.key in job.assigned:
            tasks.detach(state, job, task, at, stop=True, effects=effects)
            tasks.requeue(state, job, task, at, effects, by_user=False)


def _move_in(
    state: SchedulerState, job: JobMemory, task: Task, room: _Room, at: Timestamp, effects: list[Effect]
) -> None:
    requeue_all(state, [*room.behind, *room.victims], at, effects)
    apart.assign(state, job, task, [room.node], at, effects)


# --- job managers that start again ----------------------------------------------------------------------------------


def displace(state: SchedulerState, job: JobMemory, manager: Task, at: Timestamp, effects: list[Effect]) -> bool:
    """Make room for a job manager that ran before and fits nowhere; whether it was."""
    if gangs.is_gang(manager):
        return False
    may_go = _yields_to_manager(job)
    rooms = (_room_on(state, job, manager, node, may_go) for node in state.nodes.values())
    best = min((room for room in rooms if room is not None), key=lambda room: room.rank, default=None)
    if best is None:
        return False
    _move_in(state, job, manager, best, at, effects)
    return True


# --- jobs of higher priority ----------------------------------------------------------------------------------------


def preempt(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """After a pass that filled what is free: have ready tasks take the place of those of jobs that lend theirs."""
    lenders: list[JobMemory] = []
    for job in list(state.preemptible.values()):
        if job.row.allow_task_preemption and job.assigned:
            lenders.append(job)
        else:
            del state.preemptible[job.row.no]  # the next pass that places something of it brings it back
    if not lenders:
        return
    lowest = min(job.row.priority for job in lenders)
    waiting = {**state.ready_jobs, **state.apart}
    takers = [job for job in waiting.values() if job.row.priority > lowest and job.row.state is JobState.ACTIVE]
    takers.sort(key=lambda job: (-job.row.priority, job.row.no))
    for job in takers:
        for queue in _queues(job):
            _preempt_for(state, job, queue, lenders, at, effects)


def _queues(job: JobMemory) -> Iterator[TaskQueue]:
    """The queues of tasks that run on one node, in the order of what they hold."""
    apart.prune(job)
    yield job.first
    yield from sorted((queue for queue in job.ready.values() if queue), key=lambda queue: queue.head.key)


def _preempt_for(
    state: SchedulerState,
    job: JobMemory,
    queue: TaskQueue,
    lenders: list[JobMemory],
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """All tasks of one queue ask the same of a node, so the nodes are ranked once, and again as they are used."""
    may_go = lends_to(job)
    lines.drop_stale(job, queue)
    if not queue or apart.at_limit(job):
        return
    node_ids = {
        node_id for lender in lenders if lender.row.priority < job.row.priority for node_id in _nodes_of(state, lender)
    }
    order = {node_id: place for place, node_id in enumerate(state.nodes) if node_id in node_ids}
    ranked: list[tuple[Rank, int, str]] = []

    def rank(node_id: str) -> _Room | None:
        return _room_on(state, job, queue.head, state.nodes[node_id], may_go)

    for node_id, place in order.items():
        room = rank(node_id)
        if room is not None:
            ranked.append((room.rank, place, node_id))
    heapq.heapify(ranked)
    while ranked and not apart.at_limit(job):
        known, place, node_id = heapq.heappop(ranked)
        room = rank(node_id)
        if room is None:
            continue
        if room.rank != known:
            heapq.heappush(ranked, (room.rank, place, node_id))
            continue
        _move_in(state, job, lines.take_first(state, job, queue, effects), room, at, effects)
        lines.drop_stale(job, queue)
        if not queue:
            break
        room = rank(node_id)
        if room is not None:
            heapq.heappush(ranked, (room.rank, place, node_id))


def _nodes_of(state: SchedulerState, job: JobMemory) -> Iterator[str]:
    for key, node_id in job.assigned.items():
        gang = state.gangs.get(key)
        if gang is None:
            yield node_id
        else:
            yield from (i.node_id for i in gang.instances if key in _assigned(state, i.node_id))


def _assigned(state: SchedulerState, node_id: str) -> dict[int, Assignment]:
    node = state.nodes.get(node_id)
    return node.assigned if node is not None else {}
