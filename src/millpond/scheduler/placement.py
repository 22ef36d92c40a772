"""Which task goes to which node: request classes over buckets of free slots.

Order (Azure Batch: job priority, slots, fill type): larger job priority first; jobs of equal priority in turn, or the
older one first (jobDefaultOrder); within a job its manager, then first come first served, skipping what does not fit.
Work grows with the jobs that have something ready and with the tasks placed, not with the tasks that wait.

Multi-instance tasks and job managers are placed apart (`apart`, `reservations`); what may be requeued to make room is
said in `preemption`.
"""

import math
from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect, HandOver, ReturnTask, StartTask
from millpond.domain.states import JobDefaultOrder, JobState, NodeFillType
from millpond.domain.task import Task
from millpond.scheduler import apart, lines, preemption, reservations, service_log, special
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState, is_ready

FEED_AHEAD_S: Final = 0.1
"""Seconds of work a node is handed beyond its slots, so that it never idles for a round trip."""

MAX_AHEAD: Final = 512
_LONG_RUN_S: Final = 1.0
"""Tasks that run longer are not handed out ahead: the round trip does not show."""
_RECALL_RUN_S: Final = 0.02
"""What waits behind tasks that run shorter is not asked back: they will be done before the answer. That is if they are
as tasks have been lately: one that a node has told to run, and not to have ended, is not."""


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
    if state.reservation is not None:
        reservations.review(state, at, effects)
    if state.pool is None:
        return
    if state.apart:
        _fill_with_apart(state, at, effects)
    elif state.ready_jobs:
        _fill(state, at, effects, ahead=False)
    if state.preemptible:
        preemption.preempt(state, at, effects)
    if state.ready_jobs and state.hungry:
        _fill(state, at, effects, ahead=True)
    if state.with_ahead and not any(job.ready for job in state.ready_jobs.values()):
        _recall(state, effects)
    if state.apart or state.reservation_timer is not None:
        reservations.set_timer(state, effects)


def _fill(state: SchedulerState, at: Timestamp, effects: list[Effect], *, ahead: bool) -> None:
    levels = _levels(state, ahead=ahead)
    for priority in sorted(levels, reverse=True):
        _serve(state, levels[priority], at, effects, ahead=ahead)


def _levels(state: SchedulerState, *, ahead: bool) -> dict[int, list[JobMemory]]:
    """The jobs that have something to place, by priority. Nothing is handed out ahead of a waiting job manager."""
    levels: dict[int, list[JobMemory]] = {}
    for job in list(state.ready_jobs.values()):
        _prune(job)
        if not job.ready:
            del state.ready_jobs[job.row.no]
        elif job.row.state is JobState.ACTIVE and not (ahead and job.first):
            levels.setdefault(job.row.priority, []).append(job)
            if job.row.allow_task_preemption:
                state.preemptible[job.row.no] = job
    return levels


def _serve(state: SchedulerState, jobs: list[JobMemory], at: Timestamp, effects: list[Effect], *, ahead: bool) -> None:
    """Place tasks of jobs of equal priority: one of each in turn, or all of the oldest first."""
    if len(jobs) > 1:
        jobs = _in_order(state, jobs)
        if _is_by_age(state):
            for job in jobs:
                while _place_one(state, job, at, effects, ahead=ahead):
                    pass
            return
    elif jobs:
        job = jobs[0]
        if _is_alike(state, job):
            (_feed_alike if ahead else _fill_alike)(state, job, effects)
            if not job.ready:
                return
    while jobs:
        jobs = [job for job in jobs if _place_one(state, job, at, effects, ahead=ahead)]


def _is_alike(state: SchedulerState, job: JobMemory) -> bool:
    """Whether one task of the job is placed like the other, as far as it has no rules, and nothing else comes of it."""
    row = job.row
    return row.max_parallel_tasks <= 0 and row.preparation is None and len(job.ready) == 1 and not state.tells_tasks


def _fill_alike(state: SchedulerState, job: JobMemory, effects: list[Effect]) -> None:
    """Spread over free slots what one job has ready, as long as that is all alike: each task to the node that has most of
    them. The rest is left to `_place_one`."""
    if job.barred or state.pool is None or state.pool.fill_type is NodeFillType.PACK:
        return
    row = job.row
    ((slots, queue),) = job.ready.items()
    on_nodes = job.assigned
    buckets = state.free_nodes
    free = len(buckets) - 1
    while queue and queue.head.rules is None:
        while free >= slots and not buckets[free]:
            free -= 1
        if free < slots:
            return
        node_id, node = buckets[free].popitem(last=False)
        task = lines.take_first(state, job, queue, effects) if job.lines else queue.popleft()
        key = task.key
        attempt = task.attempt = task.attempt + 1
        task.node_id = node_id
        node.assigned[key] = Assignment(task, attempt, slots, True)
        on_nodes[key] = node_id
        # As `refile` would: the node takes tasks, and holds none ahead.
        left = node.free = free - slots
        if left:
            buckets[left][node_id] = node
        elif not node.alone:
            state.hungry[node_id] = node
        effects += (HandOver(task), StartTask(node_id, row, task, attempt, slots))
        if not queue or not is_ready(queue.head):
            lines.drop_stale(job, queue)
            if not queue:
                del job.ready[slots]


def _feed_alike(state: SchedulerState, job: JobMemory, effects: list[Effect]) -> None:
    """Hand nodes ahead what one job has ready, as long as that is all alike and needs nothing of its own: in turn, to
    each at a time as many tasks as it can run beside each other. The rest is left to `_place_one`."""
    row = job.row
    ((slots, queue),) = job.ready.items()
    on_nodes = job.assigned
    while queue:
        node = _hungry_node(state, job, slots)
        if node is None:
            return
        node_id, assigned = node.row.id, node.assigned
        number = min(ahead_limit(state, node.slots) - node.ahead, node.slots // slots)
        for _ in range(number):
            task = lines.take_first(state, job, queue, effects) if job.lines else queue.popleft()
            key = task.key
            attempt = task.attempt = task.attempt + 1
            task.node_id = node_id
            assigned[key] = Assignment(task, attempt, slots, False)
            on_nodes[key] = node_id
            node.ahead += 1
            effects += (HandOver(task), StartTask(node_id, row, task, attempt, slots))
            if not queue or not is_ready(queue.head):
                lines.drop_stale(job, queue)
                if not queue:
                    del job.ready[slots]
                    break
        state.with_ahead[node_id] = node
        state.hungry.move_to_end(node_id)


def _is_by_age(state: SchedulerState) -> bool:
    return state.pool is not None and state.pool.job_default_order is JobDefaultOrder.CREATION_TIME


def _in_order(state: SchedulerState, jobs: list[JobMemory]) -> list[JobMemory]:
    if _is_by_age(state):
        return sorted(jobs, key=lambda job: (job.row.creation_time, job.row.no))
    state.turn = (state.turn + 1) % len(jobs)
    return jobs[state.turn :] + jobs[: state.turn]


# --- with tasks that are placed apart -------------------------------------------------------------------------------


def _fill_with_apart(state: SchedulerState, at: Timestamp, effects: list[Effect]) -> None:
    """Fill free slots where multi-instance tasks or job managers wait too.

    At each priority: job managers that start again and multi-instance tasks; then all others, job managers that start
    for the first time in their jobs' turn; unless the others come first this time (`SchedulerState.yielding`).
    """
    levels = _levels(state, ahead=False)
    apart_levels: dict[int, list[JobMemory]] = {}
    for job in apart.waiting_jobs(state):
        apart_levels.setdefault(job.row.priority, []).append(job)
        if job.row.allow_task_preemption:
            state.preemptible[job.row.no] = job
    lifted = False
    for priority in sorted({*levels, *apart_levels}, reverse=True):
        reservation = state.reservation
        above = reservation is not None and priority > reservation.job.row.priority
        if above and not lifted:
            reservations.lift(state)
        elif lifted and not above:
            reservations.lower(state, effects)
        lifted = above
        jobs, waiting = levels.get(priority, []), apart_levels.get(priority, [])
        others_first = _yields(state, priority, jobs)
        if not others_first:
            reservations.serve(state, waiting, at, effects)
            if not _yields(state, priority, jobs):
                reservations.reserve_for_first(state, waiting, at, effects)
        before = sum(len(job.assigned) for job in jobs)
        managers = [job for job in waiting if job.first and not apart.is_restart(job.first.head)]
        _serve_with_managers(state, jobs, managers, at, effects)
        if others_first:
            _count_turns(state, priority, sum(len(job.assigned) for job in jobs) - before)
            reservations.serve(state, waiting, at, effects)
            if not _yields(state, priority, jobs):
                reservations.reserve_for_first(state, waiting, at, effects)
        alone = [(job, job.first.head) for job in managers if job.first and apart.wants_whole_nodes(job.first.head)]
        reservations.reserve(state, alone, at, effects)
    if lifted:
        reservations.lower(state, effects)


def _yields(state: SchedulerState, priority: int, jobs: list[JobMemory]) -> bool:
    """Whether tasks placed by reservation have had their turn at this priority, and others wait for theirs."""
    return state.yielding is not None and state.yielding[0] == priority and any(job.ready for job in jobs)


def _count_turns(state: SchedulerState, priority: int, placed: int) -> None:
    """So many of the others have been placed in their turn; where nodes are free still, they have nothing more that
    fits."""
    left = state.yielding[1] - placed if state.yielding is not None else 0
    state.yielding = None if left <= 0 or any(state.free_nodes[1:]) else (priority, left)


def _serve_with_managers(
    state: SchedulerState, jobs: list[JobMemory], managers: list[JobMemory], at: Timestamp, effects: list[Effect]
) -> None:
    """As `_serve`; a job whose manager waits for its first start has that placed in its first turn."""
    if not managers:
        _serve(state, jobs, at, effects, ahead=False)
        return
    everyone = _in_order(state, [*jobs, *(job for job in managers if not job.ready)])
    by_age = _is_by_age(state)
    left: list[JobMemory] = []
    for job in everyone:
        placed = bool(job.first) and reservations.place_manager(state, job, at, effects)
        if by_age:
            while _place_one(state, job, at, effects, ahead=False):
                pass
        elif job.ready if placed else _place_one(state, job, at, effects, ahead=False):
            left.append(job)
    while left:
        left = [job for job in left if _place_one(state, job, at, effects, ahead=False)]


# --- one task -------------------------------------------------------------------------------------------------------


def _prune(job: JobMemory) -> None:
    """Drop stale entries from the heads of the job's queues, and empty queues."""
    for slots in list(job.ready):
        queue = job.ready[slots]
        lines.drop_stale(job, queue)
        if not queue:
            del job.ready[slots]


def _place_one(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect], *, ahead: bool) -> bool:
    """Place the first task of the job that fits somewhere; whether one was placed."""
    limit = job.row.max_parallel_tasks
    if limit > 0 and len(job.assigned) >= limit:
        return False
    ready = job.ready
    classes = list(ready) if len(ready) == 1 else sorted(ready, key=lambda slots: ready[slots].head.key)
    for slots in classes:
        queue = ready[slots]
        task = queue.head
        node = _hungry_node(state, job, slots) if ahead else _free_node(state, job, task, slots)
        if node is None:
            continue
        lines.take_first(state, job, queue, effects)
        _assign(state, job, task, node, at, effects, holds=not ahead)
        # Only now: a task that was ended while it waited and reactivated stands in the queue twice.
        lines.drop_stale(job, queue)
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
    full: list[str] = []
    found: NodeMemory | None = None
    for node_id, node in state.hungry.items():
        if node.ahead >= ahead_limit(state, node.slots):
            full.append(node_id)
        elif node.specials and any(not assignment.sent for assignment in node.assigned.values()):
            continue  # the node does not know that slots are held for what waits for a preparation task
        elif slots in (1, node.slots) and (
            job.row.preparation is None or special.preparation_on(job, node) is special.Preparation.DONE
        ):
            found = node
            break
    for node_id in full:
        del state.hungry[node_id]
    return found


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
    if state.tells_tasks:
        effects.append(service_log.task_started(job, task))
    if job.row.preparation is None:
        effects.append(HandOver(task))
        effects.append(StartTask(node.row.id, job.row, task, task.attempt, task.required_slots))
    else:
        special.hand_over(state, job, node, assignment, at, effects)


def _recall(state: SchedulerState, effects: list[Effect]) -> None:
    """Idle nodes, and nothing to place: ask busy nodes to give back what they have not begun, where it fits elsewhere
    (what does not would be handed to them again, and asked back again, without end)."""
    are_short = state.run_time_s is not None and state.run_time_s < _RECALL_RUN_S
    idle = sum(free * len(bucket) for free, bucket in enumerate(state.free_nodes))
    for node in state.with_ahead.values():
        if idle <= 0:
            return
        if are_short and not node.row.running_tasks:
            continue
        for assignment in reversed(list(node.assigned.values())):
            if assignment.holds or idle <= 0:
                break
            task = assignment.task
            if _free_node(state, state.jobs_by_no[task.job_no], task, assignment.slots) is None:
                continue
            if not assignment.returning:
                assignment.returning = True
                effects.append(ReturnTask(node.row.id, task.key, assignment.attempt))
            idle -= assignment.slots
