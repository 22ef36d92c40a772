"""Which task goes to which node: request classes over buckets of free slots.

Order (Azure Batch: job priority, slots, fill type): larger job priority first; jobs of equal priority in turn; within
a job first come first served, skipping what does not fit. Work grows with the jobs that have something ready and with
the tasks placed, not with the tasks that wait.
"""

import math
from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect, ReturnTask, SaveTask, StartTask
from millpond.domain.states import JobState, NodeFillType
from millpond.domain.task import Task
from millpond.scheduler import special
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState, is_ready

FEED_AHEAD_S: Final = 0.1
"""Seconds of work a node is handed beyond its slots, so that it never idles for a round trip."""

MAX_AHEAD: Final = 64
_LONG_RUN_S: Final = 1.0
"""Tasks that run longer are not handed out ahead: the round trip does not show."""
_RECALL_RUN_S: Final = 0.02
"""Tasks that run shorter are not asked back: they will be done before the answer."""


def ahead_limit(state: SchedulerState, slots: int) -> int:
    """How many attempts a node may hold beyond its slots, by how long tasks have run lately."""
    run_time_s = state.run_time_s
    if run_time_s is None:
        return slots
    if run_time_s >= _LONG_RUN_S:
        return 0
    return min(MAX_AHEAD, math.ceil(slots * FEED_AHEAD_S / max(run_time_s, 1e-3)))


def place(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """One pass: fill free slots, then feed nodes ahead, then call back what idle nodes could start sooner."""
    if state.pool is None:
        return
    if state.ready_jobs:
        _fill(state, at, effects, ahead=False)
    if state.ready_jobs and state.hungry:
        _fill(state, at, effects, ahead=True)
    if state.with_ahead and not any(job.ready for job in state.ready_jobs.values()):
        _recall(state, effects)


def _fill(state: SchedulerState, at: Timestamp, effects: list[Effect], *, ahead: bool) -> None:
    levels: dict[int, list[JobMemory]] = {}
    for job in list(state.ready_jobs.values()):
        _prune(job)
        if not job.ready:
            del state.ready_jobs[job.row.no]
        elif job.row.state is JobState.ACTIVE:
            levels.setdefault(job.row.priority, []).append(job)
    for priority in sorted(levels, reverse=True):
        jobs = levels[priority]
        if len(jobs) > 1:
            state.turn = (state.turn + 1) % len(jobs)
            jobs = jobs[state.turn :] + jobs[: state.turn]
        while jobs:
            jobs = [job for job in jobs if _place_one(state, job, at, effects, ahead=ahead)]


def _prune(job: JobMemory) -> None:
    """Drop stale entries from the heads of the job's queues, and empty queues."""
    for slots in list(job.ready):
        queue = job.ready[slots]
        while queue and not is_ready(queue[0]):
            queue.popleft()
        if not queue:
            del job.ready[slots]


def _place_one(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect], *, ahead: bool) -> bool:
    """Place the first task of the job that fits somewhere; whether one was placed."""
    limit = job.row.max_parallel_tasks
    if limit > 0 and len(job.assigned) >= limit:
        return False
    ready = job.ready
    classes = list(ready) if len(ready) == 1 else sorted(ready, key=lambda slots: ready[slots][0].key)
    for slots in classes:
        queue = ready[slots]
        task = queue[0]
        node = _hungry_node(state, job, slots) if ahead else _free_node(state, job, task, slots)
        if node is None:
            continue
        queue.popleft()
        _assign(state, job, task, node, at, effects, holds=not ahead)
        # Only now: a task that was ended while it waited and reactivated stands in the queue twice.
        while queue and not is_ready(queue[0]):
            queue.popleft()
        if not queue:
            del ready[slots]
        return bool(ready)
    return False


def _free_node(state: SchedulerState, job: JobMemory, task: Task, slots: int) -> NodeMemory | None:
    buckets = state.free_nodes
    barred = job.barred
    if task.rules is not None and task.rules.affinity_node_id is not None:
        wanted = state.nodes.get(task.rules.affinity_node_id)
        if (
            wanted is not None
            and wanted.row.id not in barred
            and wanted.free >= slots
            and wanted.row.id in buckets[min(wanted.free, len(buckets) - 1)]
        ):
            return wanted
    pack = state.pool is not None and state.pool.fill_type is NodeFillType.PACK
    order = range(slots, len(buckets)) if pack else range(len(buckets) - 1, slots - 1, -1)
    for free in order:
        if not barred:
            if buckets[free]:
                return next(iter(buckets[free].values()))
        else:
            for node_id, node in buckets[free].items():
                if node_id not in barred:
                    return node
    return None


def _hungry_node(state: SchedulerState, job: JobMemory, slots: int) -> NodeMemory | None:
    """A busy node to hand a task to ahead of its slots; one that is prepared for the job.

    Only tasks of one slot, or of a whole node: nodes start strictly in order, and anything between would keep slots
    idle before it.
    """
    for node_id in list(state.hungry):
        node = state.hungry[node_id]
        if node.ahead >= ahead_limit(state, node.slots):
            del state.hungry[node_id]
        elif slots in (1, node.slots) and (
            job.row.preparation is None or special.preparation_on(job, node) is special.Preparation.DONE
        ):
            return node
    return None


def _assign(
    state: SchedulerState,
    job: JobMemory,
    task: Task,
    node: NodeMemory,
    at: Timestamp,
    effects: list[Effect],
    *,
    holds: bool,
) -> None:
    task.attempt += 1
    task.node_id = node.row.id
    assignment = Assignment(task, task.attempt, task.required_slots, holds)
    node.assigned[task.key] = assignment
    job.assigned[task.key] = node.row.id
    free_before = node.free
    if holds:
        node.free -= task.required_slots
    else:
        node.ahead += 1
    state.refile(node, free_before)
    if not holds:
        # To the end of the line, so that nodes are fed in turn.
        state.hungry.pop(node.row.id, None)
        state.hungry[node.row.id] = node
    if job.row.preparation is None:
        effects.append(SaveTask(task))
        effects.append(StartTask(node.row.id, job.row, task, task.attempt, task.required_slots))
    else:
        special.hand_over(state, job, node, assignment, at, effects)


def _recall(state: SchedulerState, effects: list[Effect]) -> None:
    """Idle nodes, and nothing to place: ask busy nodes to give back what they have not begun."""
    if state.run_time_s is not None and state.run_time_s < _RECALL_RUN_S:
        return
    idle = sum(free * len(bucket) for free, bucket in enumerate(state.free_nodes))
    for node in state.with_ahead.values():
        if idle <= 0:
            return
        for assignment in reversed(list(node.assigned.values())):
            if assignment.holds or idle <= 0:
                break
            if not assignment.returning:
                assignment.returning = True
                effects.append(ReturnTask(node.row.id, assignment.task.key, assignment.attempt))
            idle -= assignment.slots
