"""Building the scheduler's memory from rows: at start, at take-over, and after a failed commit."""

from collections.abc import Iterable, Sequence

from millpond.domain.durations import Timestamp
from millpond.domain.effects import (
    CreateNode,
    Effect,
    ReleaseNode,
    SaveTask,
    SetAutoScaleTimer,
    SetResizeTimer,
    TellJobCompleted,
)
from millpond.domain.events import JobArrived
from millpond.domain.ids import id_key, job_no_of, task_key
from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import (
    IN_SERVICE_NODE_STATES,
    JobState,
    NodeState,
    PoolState,
    SchedulingState,
    SubtaskState,
    TaskState,
)
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray
from millpond.scheduler import apart, dependencies, gangs, jobs, load, node_operations, special, task_arrays
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState, set_node_state
from millpond.scheduler.task_queue import TaskQueue
from millpond.scheduler.tasks import make_ready


def rebuild(
    account: str,
    pool_id: str,
    at: Timestamp,
    *,
    pool: Pool | None,
    nodes: Sequence[Node],
    job_rows: Sequence[Job],
    task_rows: Iterable[Task],
    satisfied: Iterable[tuple[int, str]] = (),
    job_nodes: Sequence[JobNode] = (),
    subtasks: Sequence[Subtask] = (),
    arrays: Iterable[tuple[TaskArray, Rest]] = (),
) -> tuple[SchedulerState, list[Effect]]:
    """The state the rows describe, and the effects that pick up what was under way: timers, wishes, purges.

    `task_rows` are the tasks of all jobs that are not completed, in key order. No node counts as connected until its
    agent says hello; nodes that were in service are shown as `unknown` only once they stay silent.
    """
    state = SchedulerState(account, pool.id if pool is not None else pool_id)
    effects: list[Effect] = []
    state.pool = pool
    slots = pool.task_slots_per_node if pool is not None else 1
    for row in nodes:
        node = NodeMemory(row, slots)
        node.row.running_tasks = node.row.running_task_slots = 0
        state.nodes[row.id] = node
    for job_row in job_rows:
        job = JobMemory(job_row)
        state.jobs[id_key(job_row.id)] = job
        state.jobs_by_no[job_row.no] = job
        if job_row.state in (JobState.COMPLETED, JobState.DELETING):
            jobs.forget_tasks(state, job)
        elif job_row.allow_task_preemption:
            state.preemptible[job_row.no] = job
    remembered: dict[int, list[str]] = {}
    for job_no, key in satisfied:
        remembered.setdefault(job_no, []).append(key)
    for job_no, keys in remembered.items():
        owner = state.jobs_by_no.get(job_no)
        if owner is not None and owner.dependencies is not None:
            for key in keys:
                dependencies.mark_satisfied(owner.dependencies, key)
    special.recall(state, job_nodes)
    instances: dict[int, list[Subtask]] = {}
    for subtask in subtasks:
        instances.setdefault(subtask.task_key, []).append(subtask)
    _file_tasks(state, task_rows, instances, arrays, effects)
    for node in state.nodes.values():
        _take_slots(node)
        state.refile(node, node.free)
        if (
            node.row.state in IN_SERVICE_NODE_STATES
            and not node.row.running_tasks
            and node.row.state is NodeState.RUNNING
        ):
            enabled = node.row.scheduling_state is SchedulingState.ENABLED
            set_node_state(state, node, NodeState.IDLE if enabled else NodeState.OFFLINE, at)
    for job in state.jobs.values():
        load.recount(state, job)
    _resume(state, effects)
    return state, effects


def on_job_arrived(state: SchedulerState, event: JobArrived, effects: list[Effect]) -> None:
    """A disabled job comes from another pool: its memory is built from its rows, as at a rebuild.

    One that is known has been found among the pool's rows by a rebuild; one that names yet another pool has moved on.
    """
    row = event.job
    if id_key(row.id) in state.jobs or id_key(row.pool_id) != id_key(state.pool_id):
        return
    job = JobMemory(row)
    state.jobs[id_key(row.id)] = job
    state.jobs_by_no[row.no] = job
    if job.dependencies is not None:
        for key in event.satisfied:
            dependencies.mark_satisfied(job.dependencies, key)
    for job_node in event.job_nodes:
        special.file_job_node(state, job, job_node)
    # It may have been here before, and nodes not have confirmed yet what they were told to stop.
    job.stopping = sum(1 for node in state.nodes.values() for key, _ in node.stopping if job_no_of(key) == row.no)
    _file_tasks(state, event.tasks, {}, event.task_arrays, effects)
    load.recount(state, job)
    state.touch_unsettled(job)
    if jobs.deadline_of(job) is not None:
        jobs.set_timer(job, effects)


def _file_tasks(
    state: SchedulerState,
    task_rows: Iterable[Task],
    instances: dict[int, list[Subtask]],
    arrays: Iterable[tuple[TaskArray, Rest]],
    effects: list[Effect],
) -> None:
    """File every task where it belongs: on its nodes, in a queue, or among those that wait for others."""
    heads: list[tuple[JobMemory, Task]] = []
    for array, rest in arrays:
        owner = state.jobs_by_no[job_no_of(array.key)]
        if owner.row.state is not JobState.DELETING:
            heads += [(owner, head) for head in task_arrays.keep(owner, array, rest)]
    pending = _load_tasks(state, task_rows, instances, effects)
    if heads:
        pending = sorted([*pending, *heads], key=lambda entry: entry[1].key)
    for job, task in pending:
        index = job.dependencies
        if index is None or dependencies.add_dependent(index, task):
            make_ready(state, job, task)


def _load_tasks(
    state: SchedulerState, task_rows: Iterable[Task], instances: dict[int, list[Subtask]], effects: list[Effect]
) -> list[tuple[JobMemory, Task]]:
    """File every task under its job and node, or in a queue. Those that may depend on others are returned: by then all
    satisfied parents are known. So are those of jobs with arrays, whose items have their places among them."""
    pending: list[tuple[JobMemory, Task]] = []

    def file_waiting(job: JobMemory, task: Task) -> None:
        if job.dependencies is None and not job.arrays:
            make_ready(state, job, task)
        else:
            pending.append((job, task))

    active = TaskState.ACTIVE
    job: JobMemory | None = None
    queue = TaskQueue()
    first_key = end_key = queue_slots = -1
    for task in task_rows:
        if not first_key <= task.key < end_key:
            job_no = job_no_of(task.key)
            first_key, end_key, queue_slots = task_key(job_no, 0), task_key(job_no + 1, 0), -1
            job = state.jobs_by_no[job_no]
            if job.row.state in (JobState.COMPLETED, JobState.DELETING):
                job = None
            else:
                tasks = job.tasks
                is_plain = job.dependencies is None and not job.arrays
        if job is None:
            continue
        lower = task.id
        if not lower.islower():
            folded = id_key(lower)
            # One text where both are the same.
            lower = lower if folded == lower else folded
        tasks[lower] = task
        if task.rules is None and task.node_id is None and task.state is active:
            if task.required_slots == queue_slots:
                # As `file_waiting` would: there may be a million of them.
                queue.append(task)
                continue
            file_waiting(job, task)
            if is_plain:
                queue_slots = task.required_slots
                queue = job.ready[queue_slots]
            continue
        if gangs.is_gang(task):
            load.add_extra(job.extra, task, 1)
        if task.state is TaskState.COMPLETED:
            if task.satisfies and job.dependencies is not None:
                dependencies.mark_satisfied(job.dependencies, lower)
        elif task.node_id is None:
            file_waiting(job, task)
        else:
            node = state.nodes.get(task.node_id)
            gang = gangs.recall(state, task, instances.get(task.key, ())) if gangs.is_gang(task) else None
            if node is None or (gang is None and gangs.is_gang(task)):
                # A node and its tasks, a task and its instances change in one commit, so this cannot be; better run
                # again than hang.
                task.node_id = None
                task.state = TaskState.ACTIVE
                task.start_time = None
                effects.append(SaveTask(task))
                file_waiting(job, task)
                continue
            job.assigned[task.key] = node.row.id
            if gang is None:
                _load_assignment(state, job, node, task)
                continue
            for instance in gang.instances:
                if instance.state is not SubtaskState.COMPLETED:
                    _load_assignment(state, job, state.nodes[instance.node_id], task, instance.index)
    return pending


def _load_assignment(state: SchedulerState, job: JobMemory, node: NodeMemory, task: Task, index: int = 0) -> None:
    whole = apart.wants_whole_nodes(task)
    assignment = Assignment(task, task.attempt, apart.slots_on(node, task), holds=False, index=index)
    assignment.holds = task.state is not TaskState.ACTIVE or gangs.is_gang(task)
    preparation = job.row.preparation
    if task.state is TaskState.PREPARING or (index and preparation is not None and preparation.wait_for_success):
        # It is sent with the commit that says the preparation task is done.
        assignment.sent = special.preparation_on(job, node) is special.Preparation.DONE
    node.assigned[task.key] = assignment
    node.alone = node.alone or whole
    if gangs.is_running(state, assignment):
        node.row.running_tasks += 1
        node.row.running_task_slots += task.required_slots


def _take_slots(node: NodeMemory) -> None:
    """Running attempts hold their slots; of those handed out, the first that fit."""
    node.free -= sum(assignment.slots for assignment in node.assigned.values() if assignment.holds)
    blocked = False
    for assignment in node.assigned.values():
        if assignment.holds:
            continue
        if not blocked and assignment.slots <= node.free:
            assignment.holds = True
            node.free -= assignment.slots
        else:
            blocked = True
            node.ahead += 1


def _resume(state: SchedulerState, effects: list[Effect]) -> None:
    pool = state.pool
    if pool is not None:
        state.pool_unsettled = True
        effects.append(SetResizeTimer(pool.resize_deadline))
        if pool.auto_scale is not None and pool.state is PoolState.ACTIVE:
            effects.append(SetAutoScaleTimer(pool.auto_scale.next_run))
        for node in state.nodes.values():
            row = node.row
            if row.state in (NodeState.LEAVING_POOL, NodeState.DEALLOCATING):
                effects.append(ReleaseNode(pool, row))
                continue
            if row.state in (NodeState.REBOOTING, NodeState.REIMAGING):
                node_operations.restart(state, node, effects)
            if row.state is NodeState.PREEMPTED or (not row.handle and row.state is not NodeState.DEALLOCATED):
                # Also of a node that has connected since: the provider's answer was lost with the memory, and without
                # a handle nobody would notice that the machine is gone.
                effects.append(CreateNode(pool, row))
    for job in state.jobs.values():
        if job.row.state is JobState.COMPLETED and job.row.schedule_id is not None:
            effects.append(TellJobCompleted(job.row))
        state.touch_unsettled(job)
        if jobs.deadline_of(job) is not None:
            jobs.set_timer(job, effects)
