"""Tasks that are placed apart from the many: job managers and multi-instance tasks.

They wait in queues of their own (`JobMemory.first` and `gangs`), so that the many cost nothing more. What they ask of
nodes is said here, and how a task is assigned to nodes chosen for it.
"""

from collections.abc import Iterator, Sequence

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.pool import Pool
from millpond.domain.states import JobState, NodeFillType
from millpond.domain.task import JobManagerRules, Task
from millpond.scheduler import gangs, service_log, special
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState, is_ready


def manager_rules(task: Task) -> JobManagerRules | None:
    return task.rules.job_manager if task.rules is not None else None


def is_manager(task: Task) -> bool:
    return manager_rules(task) is not None


def is_restart(task: Task) -> bool:
    """A job manager that has run before: it goes before all others of its job's priority, and may displace them."""
    return task.attempt > 0 and is_manager(task)


def wants_whole_nodes(task: Task) -> bool:
    """It runs only where nothing else does: a multi-instance task, or a job manager with runExclusive."""
    rules = manager_rules(task)
    return gangs.is_gang(task) or (rules is not None and rules.run_exclusive)


def nodes_wanted(task: Task) -> int:
    return max(1, task.rules.instances) if task.rules is not None else 1


def slots_on(node: NodeMemory, task: Task) -> int:
    """What it occupies on the node."""
    return node.slots if task.rules is not None and wants_whole_nodes(task) else task.required_slots


def fits_pool(pool: Pool, task: Task) -> bool:
    """Whether nodes of this pool could ever run it."""
    return gangs.fits_pool(pool, task) if gangs.is_gang(task) else task.required_slots <= pool.task_slots_per_node


def suits(job: JobMemory, task: Task, node: NodeMemory) -> bool:
    """Whether the node is one the task may run on at all (as long as it takes tasks)."""
    rules = manager_rules(task)
    if rules is not None and not rules.allow_low_priority_node and not node.row.is_dedicated:
        return False
    return node.row.id not in job.barred


def is_idle(node: NodeMemory) -> bool:
    """It takes tasks, and nothing is on it, going, or coming."""
    return node.takes_tasks and node.free == node.slots and not node.ahead


def at_limit(job: JobMemory) -> bool:
    """maxParallelTasks is reached; a multi-instance task counts as one."""
    limit = job.row.max_parallel_tasks
    return limit > 0 and len(job.assigned) >= limit


def prune(job: JobMemory) -> None:
    """Drop stale entries from the heads of the job's queues apart."""
    while job.first and not is_ready(job.first.head):
        job.first.popleft()
    for size in list(job.gangs):
        queue = job.gangs[size]
        while queue and not is_ready(queue.head):
            queue.popleft()
        if not queue:
            del job.gangs[size]


def waiting_jobs(state: SchedulerState) -> Iterator[JobMemory]:
    """The active jobs that have something to be placed apart."""
    for job in list(state.apart.values()):
        prune(job)
        if not job.first and not job.gangs:
            del state.apart[job.row.no]
        elif job.row.state is JobState.ACTIVE:
            yield job


def find_nodes(state: SchedulerState, job: JobMemory, task: Task) -> list[NodeMemory] | None:
    """Free nodes for all of the task, those reserved for it among them; None when there are not enough."""
    pool = state.pool
    if pool is None or not fits_pool(pool, task):
        return None
    if not wants_whole_nodes(task):
        node = _free_node(state, pool, job, task)
        return None if node is None else [node]
    wanted = nodes_wanted(task)
    reservation = state.reservation
    found: list[NodeMemory] = []
    if reservation is not None and reservation.task is task:
        found = [node for node in reservation.nodes.values() if is_idle(node)]
    if len(found) < wanted and len(state.free_nodes) > pool.task_slots_per_node:
        idle = state.free_nodes[pool.task_slots_per_node]
        if len(found) + len(idle) < wanted:
            return None
        known = {node.row.id for node in found}
        for node in idle.values():
            if node.row.id not in known and suits(job, task, node):
                found.append(node)
                if len(found) == wanted:
                    break
    if len(found) < wanted:
        return None
    wish = task.rules.affinity_node_id if task.rules is not None else None
    found.sort(key=lambda node: node.row.id != wish)
    return found[:wanted]


def _free_node(state: SchedulerState, pool: Pool, job: JobMemory, task: Task) -> NodeMemory | None:
    buckets = state.free_nodes
    wish = task.rules.affinity_node_id if task.rules is not None else None
    order = range(task.required_slots, len(buckets))
    chosen: NodeMemory | None = None
    for free in order if pool.fill_type is NodeFillType.PACK else reversed(order):
        for node in buckets[free].values():
            if suits(job, task, node):
                if wish is None or node.row.id == wish:
                    return node
                chosen = chosen or node
    return chosen


def assign(
    state: SchedulerState,
    job: JobMemory,
    task: Task,
    nodes: Sequence[NodeMemory],
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """Hand the task to these nodes, one instance to each: it holds its slots, or is first in line for them."""
    if state.reservation is not None and state.reservation.task is task:
        drop_reservation(state)
    state.unreserved_until.pop(task.key, None)
    task.attempt += 1
    task.node_id = nodes[0].row.id
    job.assigned[task.key] = task.node_id
    if gangs.is_gang(task):
        gangs.found(state, task, nodes, at, effects)
    for index, node in enumerate(nodes):
        slots = slots_on(node, task)
        assignment = Assignment(task, task.attempt, slots, holds=node.free >= slots and not node.ahead, index=index)
        node.assigned[task.key] = assignment
        node.alone = wants_whole_nodes(task)
        free_before = node.free
        if assignment.holds:
            node.free -= slots
        else:
            node.ahead += 1
        state.refile(node, free_before)
    if state.tells_tasks:
        effects.append(service_log.task_started(job, task))
    for node in nodes:
        special.hand_over(state, job, node, node.assigned[task.key], at, effects)


def drop_reservation(state: SchedulerState) -> None:
    """Give the nodes back that were kept free for a task."""
    reservation = state.reservation
    if reservation is None:
        return
    state.reservation = None
    for node in reservation.nodes.values():
        if state.nodes.get(node.row.id) is node:
            node.reserved = False
            state.refile(node, node.free)
