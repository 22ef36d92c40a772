"""Why a task or a job waits: a pure look at the scheduler's memory, in the order in which placement would refuse it.

Every cause has a code, a sentence, since when, and what would end it. A dependent whose parents can never satisfy it is
marked `never`, through any number of tasks between them. Nodes and pools are explained in `explain_nodes`.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.explanation import Cause, Explanation, Reference
from millpond.domain.ids import id_key
from millpond.domain.pool import Pool
from millpond.domain.states import JobState, OnAllTasksComplete, PoolState, SubtaskState, TaskState
from millpond.domain.task import Task
from millpond.scheduler import apart, gangs, lines
from millpond.scheduler.dependencies import number_of
from millpond.scheduler.explain_nodes import agree, node_reference, nodes_missing, trouble_of, troubles
from millpond.scheduler.state import JobMemory, NodeMemory, SchedulerState, is_ready

_MOST_PARENTS: Final = 10
"""Parents named one by one; of more, the number is said."""
_MOST_DEPTH: Final = 6
"""How far a chain of parents is followed in words."""
_MOST_REFERENCES: Final = 10
_MOST_SAMPLED: Final = 200
"""Waiting tasks of a job that are looked at one by one: a million must not hold up the engine."""

_OF_THE_JOB: Final = frozenset({"jobDisabled", "jobOver", "poolMissing", "poolDeleting"})
"""Causes that all tasks of a job share."""

_OVER: Final = {
    JobState.TERMINATING: "is being terminated",
    JobState.COMPLETED: "is completed",
    JobState.DELETING: "is being deleted",
}


def plural(number: int, noun: str) -> str:
    """`1 node`, `3 nodes`"""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _task_reference(job: JobMemory, task: Task) -> Reference:
    return Reference("task", task.id, job.row.id)


def _job_reference(job: JobMemory) -> Reference:
    return Reference("job", job.row.id)


# --- a task ---------------------------------------------------------------------------------------------------------


def explain_task(state: SchedulerState, job_id: str, task_id: str, row: Task | None = None) -> Explanation:
    """Why a task is where it is. `row` is the task as the store has it, for jobs whose tasks memory has let go of.

    Raises BatchError: JobNotFound, TaskNotFound.
    """
    job = _find_job(state, job_id)
    task = lines.find(job, id_key(task_id)) or row
    if task is None:
        raise BatchError(
            ErrorCode.TASK_NOT_FOUND,
            f"The task '{task_id}' does not exist in job '{job.row.id}'.",
            JobId=job.row.id,
            TaskId=task_id,
        )
    causes = tuple(_causes_of_task(state, job, task, set()))
    return Explanation(_task_reference(job, task), task.state.value, task.state_time, _summary(task, causes), causes)


def _find_job(state: SchedulerState, job_id: str) -> JobMemory:
    job = state.jobs.get(id_key(job_id))
    if job is None:
        raise BatchError(ErrorCode.JOB_NOT_FOUND, f"The job '{job_id}' does not exist.", JobId=job_id)
    return job


def _summary(task: Task, causes: tuple[Cause, ...]) -> str:
    if task.state is TaskState.COMPLETED:
        if task.failure is None:
            return "The task completed."
        code = f", exit code {task.exit_code}" if task.exit_code is not None else ""
        return f"The task failed: {task.failure.message}{code}."
    if task.state is TaskState.RUNNING:
        return "The task runs." if not causes else f"The task runs: {causes[0].message}"
    if any(cause.never for cause in causes):
        return "The task will not run unless someone acts: " + next(cause.message for cause in causes if cause.never)
    return f"The task waits: {causes[0].message}" if causes else "The task is about to be placed."


def _causes_of_task(state: SchedulerState, job: JobMemory, task: Task, above: set[int]) -> Iterator[Cause]:
    """`above`: keys of the tasks this one is a parent of, up to the one asked for."""
    if task.state is TaskState.COMPLETED:
        return
    if task.key in job.assigned:
        yield from _causes_on_node(state, job, task)
        return
    yield from _causes_in_job(job)
    yield from _causes_in_dependencies(state, job, task, above)
    if job.row.state in _OVER:
        return
    pool = state.pool
    if pool is None or pool.state is PoolState.DELETING:
        yield _pool_missing(state, job, pool)
        return
    misfit = _misfit(pool, task)
    if misfit is not None:
        yield misfit
        return
    if job.dependencies is not None and task.key in job.dependencies.waiting:
        return
    if apart.at_limit(job):
        yield Cause(
            "maxParallelTasks",
            f"the job runs {len(job.assigned)} of at most {job.row.max_parallel_tasks} tasks at a time",
            "a task of the job ends, or maxParallelTasks is raised",
            references=tuple(_running_references(job)),
        )
    if job.row.state is JobState.ACTIVE:
        yield from _causes_in_nodes(state, job, task)


def _causes_on_node(state: SchedulerState, job: JobMemory, task: Task) -> Iterator[Cause]:
    node = state.nodes[job.assigned[task.key]]
    trouble = trouble_of(node) if not node.connected else None
    if trouble is not None:
        yield trouble
    gang = state.gangs.get(task.key)
    if task.state is TaskState.RUNNING:
        if gang is not None and not gang.is_coordinated:
            late = [i for i in gang.instances if i.state is SubtaskState.PREPARING]
            yield Cause(
                "coordinating",
                f"{plural(len(late), 'instance')} of {len(gang.instances)} have not finished their coordination "
                "command; the primary waits for all",
                since=task.start_time,
                references=tuple(Reference("node", i.node_id) for i in late[:_MOST_REFERENCES]),
            )
        return
    assignment = node.assigned[task.key]
    members = [node] if gang is None else [state.nodes[i.node_id] for i in gang.instances if i.node_id in state.nodes]
    unprepared = [m for m in members if (a := m.assigned.get(task.key)) is not None and not a.sent]
    if unprepared:
        yield Cause(
            "preparationRunning",
            f"the job's preparation task runs on {plural(len(unprepared), 'node')}, and the task waits for it",
            since=task.state_time,
            references=tuple(node_reference(m) for m in unprepared[:_MOST_REFERENCES]),
        )
    elif not assignment.holds:
        before = [a for a in node.assigned.values() if a.holds]
        yield Cause(
            "handedOutAhead",
            "the task has been handed to a node ahead of time, and starts there when slots become free",
            references=(node_reference(node), *_references_of(state, (a.task for a in before))),
        )
    else:
        yield Cause(
            "starting", "the task has been handed to a node, which has not begun it", references=(node_reference(node),)
        )


def _causes_in_job(job: JobMemory) -> Iterator[Cause]:
    row = job.row
    if row.state in _OVER:
        yield Cause(
            "jobOver",
            f"the job {_OVER[row.state]}: its active tasks stay as they are and do not run",
            "add the task to another job",
            row.state_time,
            never=True,
            references=(_job_reference(job),),
        )
    elif row.state is not JobState.ACTIVE:
        yield Cause(
            "jobDisabled",
            f"the job is {row.state}",
            "enable the job",
            row.state_time,
            never=True,
            references=(_job_reference(job),),
        )


def _misfit(pool: Pool, task: Task) -> Cause | None:
    """What about the task no node of this pool will ever offer."""
    since = max(pool.creation_time, task.creation_time)
    here = (Reference("pool", pool.id),)
    if gangs.is_gang(task):
        if not pool.inter_node_communication:
            return Cause(
                "noInterNodeCommunication",
                "it is a multi-instance task, and the pool has no inter-node communication",
                "a pool with enableInterNodeCommunication",
                since,
                never=True,
                references=here,
            )
        if pool.task_slots_per_node != 1:
            return Cause(
                "severalSlotsPerNode",
                f"it is a multi-instance task, and the pool's nodes have {pool.task_slots_per_node} task slots",
                "a pool with taskSlotsPerNode 1",
                since,
                never=True,
                references=here,
            )
    if task.required_slots > pool.task_slots_per_node:
        return Cause(
            "tooManySlots",
            f"it needs {plural(task.required_slots, 'slot')}, and the pool's nodes have {pool.task_slots_per_node}",
            f"a pool with taskSlotsPerNode of at least {task.required_slots}, or a task that needs less",
            since,
            never=True,
            references=here,
        )
    return None


def _pool_missing(state: SchedulerState, job: JobMemory, pool: Pool | None) -> Cause:
    reference = (Reference("pool", job.row.pool_id),)
    if pool is None:
        return Cause(
            "poolMissing",
            f"the job's pool '{job.row.pool_id}' does not exist",
            f"add a pool '{job.row.pool_id}', or move the job to another pool",
            job.row.creation_time,
            never=True,
            references=reference,
        )
    return Cause(
        "poolDeleting",
        f"the job's pool '{pool.id}' is being deleted",
        "add the pool again, or move the job to another pool",
        pool.state_time,
        never=True,
        references=reference,
    )


def _references_of(state: SchedulerState, of: Iterable[Task]) -> Iterator[Reference]:
    for _, task in zip(range(_MOST_REFERENCES), of, strict=False):
        yield _task_reference(state.jobs_by_no[task.job_no], task)


def _running_references(job: JobMemory) -> Iterator[Reference]:
    found = (task for task in job.tasks.values() if task.key in job.assigned)
    for _, task in zip(range(min(_MOST_REFERENCES, len(job.assigned))), found, strict=False):
        yield _task_reference(job, task)


# --- dependencies ---------------------------------------------------------------------------------------------------


def _causes_in_dependencies(state: SchedulerState, job: JobMemory, task: Task, above: set[int]) -> Iterator[Cause]:
    index = job.dependencies
    rules = task.rules
    if index is None or rules is None or task.key not in index.waiting:
        return
    left = index.waiting[task.key].remaining
    named = 0
    below = above | {task.key}
    for parent_id in dict.fromkeys(rules.depends_on_ids):
        if parent_id not in index.satisfied_ids:
            named += 1
            if named <= _MOST_PARENTS:
                yield _cause_in_parent(state, job, lines.find(job, parent_id), f"'{parent_id}'", below)
    for first, last in rules.depends_on_ranges:
        if named >= _MOST_PARENTS:
            break
        by_number = _by_number(job, first, last)
        for number in range(first, last + 1):
            if number in index.satisfied_numbers:
                continue
            named += 1
            if named > _MOST_PARENTS:
                break
            parent = by_number.get(number) or lines.find(job, str(number))
            yield _cause_in_parent(state, job, parent, f"{number} (of {first} to {last})", below)
    if left > _MOST_PARENTS:
        yield Cause("moreDependencies", f"{plural(left, 'dependency').replace('ys', 'ies')} are not met in all")


def _by_number(job: JobMemory, first: int, last: int) -> dict[int, Task]:
    """Tasks whose ids are integers of that range: of several for one integer, one that may still satisfy."""
    found: dict[int, Task] = {}
    for key, task in job.tasks.items():
        number = number_of(key)
        if number is None or not first <= number <= last:
            continue
        known = found.get(number)
        if known is None or known.state is TaskState.COMPLETED:
            found[number] = task
    return found


def _cause_in_parent(state: SchedulerState, job: JobMemory, parent: Task | None, name: str, above: set[int]) -> Cause:
    if parent is None:
        return Cause(
            "dependencyMissing",
            f"it depends on task {name}, which does not exist",
            f"add task {name} to the job",
            never=True,
        )
    reference = (_task_reference(job, parent),)
    if parent.state is TaskState.COMPLETED:
        code = f" with exit code {parent.exit_code}" if parent.exit_code is not None else ""
        how = "failed" if parent.failure is not None else "ended"
        return Cause(
            "dependencyFailed",
            f"it is blocked by task '{parent.id}', which {how}{code}",
            f"reactivate task '{parent.id}'" if parent.failure is not None else "",
            parent.end_time,
            never=True,
            references=reference,
        )
    if parent.key in above:
        return Cause(
            "dependencyCycle",
            f"it depends on task '{parent.id}', which depends on it in turn",
            "delete one of them",
            never=True,
            references=reference,
        )
    if parent.state is not TaskState.ACTIVE or len(above) > _MOST_DEPTH:
        return Cause(
            "dependencyPending",
            f"it waits for task '{parent.id}', which is {parent.state}",
            since=parent.state_time,
            never=len(above) > _MOST_DEPTH and _is_blocked(job, parent),
            references=reference,
        )
    # What holds up the whole job is said of the task that was asked for.
    causes = tuple(c for c in _causes_of_task(state, job, parent, above) if c.code not in _OF_THE_JOB)
    return Cause(
        "dependencyPending",
        f"it waits for task '{parent.id}', which waits itself" if causes else f"it waits for task '{parent.id}'",
        since=parent.state_time,
        never=any(cause.never for cause in causes),
        references=reference,
        causes=causes,
    )


def _is_blocked(job: JobMemory, task: Task) -> bool:
    """Whether the task can never run as things are: some task it depends on, directly or not, has ended without
    satisfying, does not exist, or depends on it in turn."""
    index = job.dependencies
    if index is None:
        return False
    todo, seen = [task], {task.key}
    while todo:
        rules = todo.pop().rules
        if rules is None:
            continue
        parents = [(key, lines.find(job, key)) for key in rules.depends_on_ids if key not in index.satisfied_ids]
        for _, parent in parents:
            if parent is None or parent.state is TaskState.COMPLETED or parent.key == task.key:
                return True
            if parent.key in index.waiting and parent.key not in seen:
                seen.add(parent.key)
                todo.append(parent)
    return False


# --- nodes, as the task sees them -----------------------------------------------------------------------------------


def _causes_in_nodes(state: SchedulerState, job: JobMemory, task: Task) -> Iterator[Cause]:
    wanted = apart.nodes_wanted(task)
    nodes = list(state.nodes.values())
    if not nodes or len(nodes) < wanted:
        yield nodes_missing(state, wanted, task.creation_time)
        if not nodes:
            return
    suited = [node for node in nodes if apart.suits(job, task, node)]
    barred = [node for node in nodes if node.row.id in job.barred]
    if barred:
        yield Cause(
            "preparationFailed",
            f"the job's preparation task failed on {len(barred)} of {plural(len(nodes), 'node')}, where the job runs "
            "nothing more",
            "see why (az batch job prep-release-status list), then reimage these nodes, or add others",
            never=len(suited) < wanted,
            references=tuple(node_reference(node) for node in barred[:_MOST_REFERENCES]),
        )
    rules = apart.manager_rules(task)
    if rules is not None and not rules.allow_low_priority_node and not any(n.row.is_dedicated for n in nodes):
        yield Cause(
            "needsDedicatedNode",
            "it is a job manager that must not run on spot nodes, and the pool has no dedicated node",
            "add a dedicated node",
            never=True,
        )
    usable = [node for node in suited if node.takes_tasks]
    yield from troubles(node for node in suited if not node.takes_tasks)
    if len(usable) < wanted:
        return
    yield from _causes_in_reservations(state, job, task, usable)
    yield from _causes_in_work(state, job, task, usable)


def _has_room(node: NodeMemory, task: Task) -> bool:
    return apart.is_idle(node) if apart.wants_whole_nodes(task) else node.free >= task.required_slots


def _causes_in_work(state: SchedulerState, job: JobMemory, task: Task, usable: list[NodeMemory]) -> Iterator[Cause]:
    """What runs where the task could, and what comes before it."""
    wanted = apart.nodes_wanted(task)
    open_to_it = [node for node in usable if not node.reserved or _is_for(state, task)]
    room = sum(1 for node in open_to_it if _has_room(node, task))
    if room < wanted:
        if apart.wants_whole_nodes(task):
            text = f"it needs {plural(wanted, 'idle node')} at once, and {room} of {plural(len(usable), 'node')} are"
        else:
            text = f"none of {plural(len(usable), 'node')} that could run it has {plural(task.required_slots, 'slot')} free"
        working = [a.task for node in open_to_it for a in node.assigned.values() if a.holds]
        yield Cause(
            "nodesBusy",
            text,
            "tasks end, or the pool grows",
            references=tuple(_references_of(state, working)),
        )
    higher = [
        other
        for other in {**state.ready_jobs, **state.apart}.values()
        if other.row.priority > job.row.priority and other.row.state is JobState.ACTIVE
    ]
    ahead = sum(_waiting_count(other) for other in higher)
    if ahead:
        yield Cause(
            "behindHigherPriority",
            f"{plural(ahead, 'task')} of {plural(len(higher), 'job')} with a higher priority wait too, and come first",
            "they are placed, or the job's priority is raised",
            references=tuple(_job_reference(other) for other in higher[:_MOST_REFERENCES]),
        )


def _waiting_count(job: JobMemory) -> int:
    """Entries in the job's queues, and what stands behind them; those that have gone stale are few and short-lived."""
    return sum(map(len, (*job.ready.values(), job.first, *job.gangs.values()))) + lines.waiting(job)


def _is_for(state: SchedulerState, task: Task) -> bool:
    return state.reservation is not None and state.reservation.task is task


def _causes_in_reservations(
    state: SchedulerState, job: JobMemory, task: Task, usable: list[NodeMemory]
) -> Iterator[Cause]:
    reservation = state.reservation
    until = state.unreserved_until.get(task.key)
    if until is not None:
        yield Cause(
            "reservationPaused",
            "nodes had been kept free for it without enough of them draining; others have their turn before it may "
            "reserve again",
        )
    if reservation is None:
        return
    if reservation.task is task:
        idle = sum(1 for node in reservation.nodes.values() if apart.is_idle(node))
        yield Cause(
            "nodesDraining",
            f"{plural(len(reservation.nodes), 'node')} are kept free for it, and {idle} of them are idle by now",
            since=reservation.since,
            references=tuple(node_reference(node) for node in list(reservation.nodes.values())[:_MOST_REFERENCES]),
        )
    elif reservation.job.row.priority >= job.row.priority and any(node.reserved for node in usable):
        yield Cause(
            "nodesReserved",
            f"{plural(sum(node.reserved for node in usable), 'node')} are kept free for task '{reservation.task.id}' of "
            f"job '{reservation.job.row.id}', which needs {len(reservation.nodes)} at once",
            since=reservation.since,
            references=(_task_reference(reservation.job, reservation.task),),
        )


# --- a job ----------------------------------------------------------------------------------------------------------


def explain_job(state: SchedulerState, job_id: str) -> Explanation:
    """Why a job's tasks wait, or why it does not end. Raises BatchError JobNotFound."""
    job = _find_job(state, job_id)
    row = job.row
    causes = tuple(_causes_of_job(state, job))
    counts = row.counts
    text = (
        f"The job is {row.state}: {plural(counts.active, 'task')} {agree(counts.active, 'waits', 'wait')}, "
        f"{counts.running} {agree(counts.running, 'runs', 'run')}, "
        f"{counts.completed} {agree(counts.completed, 'is', 'are')} completed."
    )
    return Explanation(_job_reference(job), row.state.value, row.state_time, text, causes)


def _causes_of_job(state: SchedulerState, job: JobMemory) -> Iterator[Cause]:
    row = job.row
    if row.state in (JobState.DISABLING, JobState.TERMINATING, JobState.DELETING):
        yield from _causes_of_leaving(state, job)
        return
    if row.state is JobState.COMPLETED:
        return
    if row.scheduling_error is not None:
        yield Cause("schedulingError", row.scheduling_error.message, since=row.state_time, never=True)
    yield from _causes_in_job(job)
    if state.pool is None or state.pool.state is PoolState.DELETING:
        yield _pool_missing(state, job, state.pool)
    yield from _causes_of_waiting(state, job)
    counts = row.counts
    is_idle = row.state is JobState.ACTIVE and not counts.active and not counts.running
    if is_idle and row.on_all_tasks_complete is not OnAllTasksComplete.TERMINATE_JOB:
        yield Cause(
            "noTasks",
            "every task is completed; an active job stays active until it is terminated",
            "add tasks, terminate the job, or set onAllTasksComplete to terminatejob",
            row.state_time,
        )


def _causes_of_leaving(state: SchedulerState, job: JobMemory) -> Iterator[Cause]:
    if job.assigned:
        yield Cause(
            "tasksRunning",
            f"{plural(len(job.assigned), 'task')} still {agree(len(job.assigned), 'runs', 'run')}",
            "they end",
            job.row.state_time,
            references=tuple(_running_references(job)),
        )
    if job.stopping:
        holders = [n for n in state.nodes.values() if any(key >> 32 == job.row.no for key, _ in n.stopping)]
        yield Cause(
            "tasksStopping",
            f"{plural(job.stopping, 'attempt')} were told to stop, and their nodes have not said that they are gone",
            "the nodes answer, or are given up",
            job.row.state_time,
            references=tuple(node_reference(node) for node in holders[:_MOST_REFERENCES]),
            causes=tuple(troubles(node for node in holders if not node.connected)),
        )
    if job.specials:
        holders = [n for n in state.nodes.values() if any(run.job is job for run in n.specials.values())]
        yield Cause(
            "releaseRunning",
            f"the job's release task runs on {plural(len(holders), 'node')}",
            "it ends, or its time is over",
            job.row.state_time,
            references=tuple(node_reference(node) for node in holders[:_MOST_REFERENCES]),
        )


def _causes_of_waiting(state: SchedulerState, job: JobMemory) -> Iterator[Cause]:
    """What holds up its active tasks, alike causes counted together."""
    grouped: dict[str, list[tuple[Task, Cause]]] = {}
    for task in _sample(job):
        cause = next(iter(_causes_of_task(state, job, task, set())), None)
        if cause is not None and cause.code not in _OF_THE_JOB:
            grouped.setdefault(cause.code, []).append((task, cause))
    for found in grouped.values():
        _, cause = found[0]
        yield Cause(
            cause.code,
            f"{plural(len(found), 'task')}, '{found[0][0].id}' first: {cause.message}",
            cause.unblock,
            min((c.since for _, c in found if c.since is not None), default=None),
            never=any(c.never for _, c in found),
            references=tuple(_task_reference(job, task) for task, _ in found[:_MOST_REFERENCES]),
            causes=cause.causes,
        )


def _sample(job: JobMemory) -> Iterator[Task]:
    """Some of the tasks that wait: of every queue the first, and of those with unmet dependencies."""
    for queue in (job.first, *job.gangs.values(), *job.ready.values()):
        for _, task in zip(range(_MOST_SAMPLED), queue, strict=False):
            if is_ready(task):
                yield task
    if job.dependencies is not None:
        for _, waiting in zip(range(_MOST_SAMPLED), job.dependencies.waiting.values(), strict=False):
            yield waiting.task
