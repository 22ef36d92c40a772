"""What nodes report of attempts: begun, ended, stopped, given back. The key tells whether it is a task's or a special task's.

A report of an attempt that is not the current one changes nothing but the slots it held.
"""

from collections.abc import Sequence
from itertools import islice

from millpond.domain.durations import Timestamp, whole_microseconds
from millpond.domain.effects import Effect, SaveTask, SaveTasks
from millpond.domain.events import AttemptEnd, TaskEnded, TaskReturned, TasksEnded, TaskStarted, TaskStopped
from millpond.domain.ids import is_special_key
from millpond.domain.node import RECENT_TASKS
from millpond.domain.states import IN_SERVICE_NODE_STATES, TaskState
from millpond.domain.task import ResourceUse, Task
from millpond.scheduler import gangs, jobs, retries, special, tasks
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState, settle_filed_node_state


def _start(
    state: SchedulerState, job: JobMemory, node: NodeMemory, task: Task, start_time: Timestamp, at: Timestamp
) -> None:
    """The node has begun the attempt it holds: take the slots if it ran ahead of our books, and show it running."""
    assignment = node.assigned[task.key]
    assignment.returning = False
    if not assignment.holds:
        free_before = node.free
        assignment.holds = True
        node.free -= assignment.slots
        node.ahead -= 1
        tasks.demote(node, assignment)
        state.refile(node, free_before)
    # The node's clock may be off: a task starts neither before it was handed out nor in the future.
    task.start_time = min(max(start_time, task.state_time), at)
    tasks.set_task_state(state, job, task, TaskState.RUNNING, at)
    row = node.row
    row.running_tasks += 1
    row.running_task_slots += task.required_slots
    row.total_tasks_run += 1
    row.note_task(task.key)
    state.touch_work(node)
    if row.state in IN_SERVICE_NODE_STATES:
        settle_filed_node_state(state, node, at)


def on_task_started(state: SchedulerState, event: TaskStarted, effects: list[Effect]) -> None:
    if is_special_key(event.key):
        special.on_started(state, event, effects)
        return
    node = state.nodes.get(event.node_id)
    assignment = node.assigned.get(event.key) if node is not None else None
    if node is None or assignment is None or assignment.attempt != event.attempt:
        return
    task = assignment.task
    if task.rules is not None and task.rules.instances:
        gangs.note_start(state, node, assignment, event.start_time, event.at, effects)
        if assignment.index:
            return
    if task.state not in (TaskState.ACTIVE, TaskState.PREPARING):
        return
    _start(state, state.jobs_by_no[task.job_no], node, task, event.start_time, event.at)
    effects.append(SaveTask(task))


def on_task_ended(state: SchedulerState, event: TaskEnded, effects: list[Effect]) -> None:
    if is_special_key(event.key):
        special.on_ended(state, event, effects)
        return
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    assignment = node.assigned.get(event.key)
    if assignment is None or assignment.attempt != event.attempt:
        # It ended by itself while it was being stopped: that will do.
        tasks.note_stopped(state, node, event.key, event.attempt, event.exit_code, event.at, effects)
        return
    at = event.at
    task = assignment.task
    job = state.jobs_by_no[task.job_no]
    if (
        task.rules is not None
        and task.rules.instances
        and not _instance_ended(state, job, node, assignment, event, effects)
    ):
        return
    if task.state is not TaskState.RUNNING and event.start_time is not None and not assignment.index:
        _start(state, job, node, task, event.start_time, at)
    end_time = min(max(event.end_time, task.start_time or task.state_time), at)
    if task.start_time is not None:
        run_time_s = end_time - task.start_time
        known = state.run_time_s
        state.run_time_s = run_time_s if known is None else 0.9 * known + 0.1 * run_time_s
    _note_use(job, task, event, end_time)
    tasks.detach(state, job, task, at, stop=False, effects=effects, node=node)
    failure = event.failure
    if failure is not None and event.retryable:
        if retries.internal_retries(task) < retries.MAX_INTERNAL_RETRIES:
            tasks.requeue(state, job, task, at, effects, by_user=False)
            return
        failure = retries.TOO_MANY_INTERNAL_RETRIES
    elif retries.failed_by_exit_code(event):
        if retries.may_retry(task, job.row):
            task.retry_count += 1
            job.row.use = job.row.use.plus(ResourceUse(retries=1))
            state.touch_job(job)  # of a task that no primary has begun the state stays as it is
            task.last_retry_time = at
            tasks.requeue(state, job, task, at, effects, by_user=False)
            return
        failure = failure or retries.EXIT_CODE_FAILURE
    if failure is None:
        node.row.total_tasks_succeeded += 1
        state.touch_work(node)
    elif assignment.index:
        failure = gangs.blame(assignment, failure)
    tasks.complete(state, job, task, at, effects, end_time=end_time, exit_code=event.exit_code, failure=failure)


def on_tasks_ended(state: SchedulerState, event: TasksEnded, effects: list[Effect]) -> None:
    """As if each had been told alone; but most ends are alike: of these each node, and the job, is changed once for all."""
    at = event.at
    alike = _Alike()
    for node_id, ends in event.told:
        node = state.nodes.get(node_id)
        if node is None:
            continue
        told = 0
        while told < len(ends):
            if count := _end_alike(state, node, ends, told, at, alike, effects):
                told += count
                continue
            alike.settle(state, effects)  # it may concern the same job
            end = ends[told]
            told += 1
            on_task_ended(state, event.alone(node_id, end), effects)
            if state.follow_ups:
                # What it asks of its job may concern those that follow.
                jobs.follow_up(state, at, effects)
    alike.settle(state, effects)


class _Alike:
    """Tasks of one job that have been completed one after the other, on whatever nodes. What that does to the job is done in
    one go."""

    __slots__ = ("ended", "job", "runs")

    def __init__(self) -> None:
        self.job: JobMemory | None = None
        self.ended: list[Task] = []
        self.runs: list[ResourceUse] = []
        """What the last run of each used."""

    def settle(self, state: SchedulerState, effects: list[Effect]) -> None:
        """Change the job, and begin with another."""
        job, ended = self.job, self.ended
        if job is None or not ended:
            return
        use = job.row.use
        user_cpu_s, kernel_cpu_s, wall_s, wait_s = use.user_cpu_s, use.kernel_cpu_s, use.wall_s, use.wait_s
        run_time_s = state.run_time_s
        for run in self.runs:
            user_cpu_s += run.user_cpu_s
            kernel_cpu_s += run.kernel_cpu_s
            wall_s += run.wall_s
            wait_s += run.wait_s
            run_time_s = run.wall_s if run_time_s is None else 0.9 * run_time_s + 0.1 * run.wall_s
        state.run_time_s = run_time_s
        job.row.use = ResourceUse(user_cpu_s, kernel_cpu_s, wall_s, wait_s, use.retries)
        number, slots = len(ended), sum([task.required_slots for task in ended])
        counts = job.row.counts
        counts.active -= number
        counts.active_slots -= slots
        counts.succeeded += number
        counts.succeeded_slots += slots
        state.touch_job(job)
        state.touch_unsettled(job)
        effects.append(SaveTasks(ended))
        tasks.check_all_complete(state, job)
        self.ended, self.runs = [], []


def _end_alike(
    state: SchedulerState,
    node: NodeMemory,
    ends: Sequence[AttemptEnd],
    first: int,
    at: Timestamp,
    alike: _Alike,
    effects: list[Effect],
) -> int:
    """Complete the tasks whose ends come from `first` on, as far as they are of one job, without rules, and began and ended
    on the node with exit code 0 since it last reported; how many these are."""
    assigned = node.assigned
    begin = assigned.get(ends[first].key)
    if begin is None:
        return 0
    job = state.jobs_by_no[begin.task.job_no]
    if job.dependencies is not None or state.tells_tasks:
        return 0
    if alike.job is not job:
        alike.settle(state, effects)
        alike.job = job
    on_nodes = job.assigned
    ended, runs = alike.ended, alike.runs
    before = len(ended)
    free_before = node.free
    last_end = 0.0
    for end in islice(ends, first, None) if first else ends:
        key = end.key
        assignment = assigned.get(key)
        if assignment is None or assignment.attempt != end.attempt:
            break
        if end.exit_code != 0 or end.failure is not None or end.start_time is None:
            break
        task = assignment.task
        if task.rules is not None or task.state is not TaskState.ACTIVE or key not in on_nodes:
            break
        if not assignment.holds:
            tasks.promote(node)
            if not assignment.holds:
                break
        del assigned[key]
        del on_nodes[key]
        node.free += assignment.slots
        # The node's clock may be off: see `_start`.
        start_time = min(max(whole_microseconds(end.start_time), task.state_time), at)
        end_time = min(max(whole_microseconds(end.end_time), start_time), at)
        used = task.use
        wait_s = max(0.0, start_time - task.creation_time) if used is None else 0.0
        run = ResourceUse(end.user_cpu_s, end.kernel_cpu_s, end_time - start_time, wait_s)
        task.use = run if used is None else used.plus(run)
        task.previous_state = TaskState.RUNNING
        task.previous_state_time = task.state_time = at
        task.state = TaskState.COMPLETED
        task.start_time = start_time
        task.end_time = end_time
        task.exit_code = 0
        task.failure = None
        last_end = max(last_end, end_time)
        ended.append(task)
        runs.append(run)
    number = len(ended) - before
    if number:
        row = node.row
        row.total_tasks_run += number
        row.total_tasks_succeeded += number
        row.note_tasks([task.key for task in ended[-min(number, RECENT_TASKS) :]])
        if not row.running_tasks and row.state in IN_SERVICE_NODE_STATES:
            row.state_time = at  # it ran, and does not any more
        tasks.retain_files(state, node, None, last_end)
        state.touch_work(node)
        node.alone = False
        tasks.settle(state, node, free_before, at)
    return number


def _note_use(job: JobMemory, task: Task, event: TaskEnded, end_time: Timestamp) -> None:
    """Add what the run used to the task's sum and to the job's. Both are saved with whatever comes of the end."""
    if task.start_time is None:
        return
    wait_s = max(0.0, task.start_time - task.creation_time) if task.use is None else 0.0
    run = ResourceUse(event.user_cpu_s, event.kernel_cpu_s, end_time - task.start_time, wait_s)
    task.use = run if task.use is None else task.use.plus(run)
    job.row.use = job.row.use.plus(run)


def _instance_ended(
    state: SchedulerState,
    job: JobMemory,
    node: NodeMemory,
    assignment: Assignment,
    event: TaskEnded,
    effects: list[Effect],
) -> bool:
    """One instance of a multi-instance task has ended by itself, and is taken off its node: whether the task ends."""
    began = gangs.is_running(state, assignment)
    ends = gangs.note_end(state, assignment, event, effects)
    task = assignment.task
    if not assignment.index and not began and event.start_time is not None:
        _start(state, job, node, task, event.start_time, event.at)
        began = True
    tasks.take_off(state, job, node, task, event.at, began=began, stop=False, effects=effects)
    return ends


def on_task_stopped(state: SchedulerState, event: TaskStopped, effects: list[Effect]) -> None:
    if is_special_key(event.key):
        special.on_stopped(state, event, effects)
        return
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    assignment = node.assigned.get(event.key)
    if assignment is not None and assignment.attempt == event.attempt:
        # We never asked for it: the node gave the attempt up by itself (its own shutdown).
        job = state.jobs_by_no[assignment.task.job_no]
        tasks.detach(state, job, assignment.task, event.at, stop=False, effects=effects, node=node)
        tasks.requeue(state, job, assignment.task, event.at, effects, by_user=False)
        return
    tasks.note_stopped(state, node, event.key, event.attempt, event.exit_code, event.at, effects)


def on_task_returned(state: SchedulerState, event: TaskReturned, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    assignment = node.assigned.get(event.key)
    if assignment is None or assignment.attempt != event.attempt:
        tasks.release_stopping(state, node, event.key, event.attempt, event.at)
        return
    job = state.jobs_by_no[assignment.task.job_no]
    tasks.detach(state, job, assignment.task, event.at, stop=False, effects=effects, node=node)
    tasks.requeue(state, job, assignment.task, event.at, effects, by_user=False)
