"""Special tasks on nodes: setup, start tasks, job preparation tasks, job release tasks (Azure Batch: semantics 3.1 to
3.3).

Setup is what a node needs before its start task: the pool's application packages. It goes the way of a special task,
and a node it fails on is unusable until it boots again (semantics 5.4).

A run of one is held by its node under a reserved key (`ids`), takes no slots, and is told from any other run by its
attempt, as tasks are. What a start task did stands in the node's row; what preparation and release tasks did, in a row
for each job and node. Those of a job's node count only for the disk they happened on.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect, SaveJobNode, SaveTask, StartSpecialTask, StopTask
from millpond.domain.errors import TaskFailureCode
from millpond.domain.events import TaskEnded, TaskStarted, TaskStopped
from millpond.domain.ids import NODE_SETUP_KEY, START_TASK_KEY, preparation_key, release_key
from millpond.domain.node import NodeError
from millpond.domain.special_task import JobNode, SpecialTaskInfo
from millpond.domain.states import NodeState, SpecialTaskState, TaskKind, TaskState
from millpond.domain.task import FailureInfo, NameValue
from millpond.scheduler import gangs, retries, tasks
from millpond.scheduler.state import (
    Assignment,
    JobMemory,
    NodeMemory,
    SchedulerState,
    SpecialRun,
    Stopping,
    set_node_state,
    settle_node_state,
)

RELEASE_GRACE_S: Final = 60.0
"""How long after its own time limit a release task is waited for: its node may have to come back first."""

_HAS_NO_DISK: Final = frozenset(
    {
        NodeState.CREATING,
        NodeState.PREEMPTED,
        NodeState.REIMAGING,
        NodeState.DEALLOCATING,
        NodeState.DEALLOCATED,
        NodeState.LEAVING_POOL,
    }
)
"""Node states in which nothing of what ran there before is left."""


class Preparation(Enum):
    """How a job's preparation task stands on a node."""

    DUE = auto()
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    """And was waited for: the job runs nothing there until the node is reimaged."""


# --- setup and start tasks ------------------------------------------------------------------------------------------


def _begin_setup(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The node has booted: get it ready as the pool has it now, then run the start task."""
    node.specials.pop(NODE_SETUP_KEY, None)
    node.specials.pop(START_TASK_KEY, None)
    row = node.row
    # A node that was set up once is told when there is nothing left to set up.
    if state.pool is None or not (state.pool.needs_setup or row.setup is not None):
        begin_start_task(state, node, at, effects)
        return
    row.setup = SpecialTaskInfo(attempt=1 if row.setup is None else row.setup.attempt + 1, start_time=at)
    known = row.start_task
    if known is not None and known.state is SpecialTaskState.RUNNING:
        # Of the boot before: it is not to be taken up again.
        known.state = SpecialTaskState.COMPLETED
        known.end_time = at
        known.failure = retries.NODE_LOST
        known.lost = True
    state.touch_node(node)
    _run_setup(state, node, row.setup, effects)


def _run_setup(state: SchedulerState, node: NodeMemory, info: SpecialTaskInfo, effects: list[Effect]) -> None:
    node.specials[NODE_SETUP_KEY] = SpecialRun(TaskKind.NODE_SETUP, NODE_SETUP_KEY, info.attempt)
    effects.append(StartSpecialTask(node.row.id, TaskKind.NODE_SETUP, NODE_SETUP_KEY, info.attempt, pool=state.pool))


def _setup_ended(
    state: SchedulerState, node: NodeMemory, info: SpecialTaskInfo, at: Timestamp, effects: list[Effect]
) -> None:
    if node.row.state is not NodeState.STARTING:
        return  # it leaves
    failure = info.failure
    if failure is None:
        begin_start_task(state, node, at, effects)
    else:
        node.row.errors = (_node_error(failure),)
        state.touch_node(node)
    settle_booted(state, node, at)


_NODE_ERRORS: Final = {
    TaskFailureCode.APPLICATION_PACKAGE_ERROR: "One or more application packages specified for the pool are invalid",
    TaskFailureCode.MOUNT_CONFIGURATION_ERROR: "An error was encountered while configuring specified mount(s)",
}
"""The service's own words; what went wrong stands in the details."""


def _node_error(failure: FailureInfo) -> NodeError:
    for code, message in _NODE_ERRORS.items():
        if failure.code == code:
            return NodeError(failure.code, message, (NameValue("Message", failure.message), *failure.details))
    return NodeError(failure.code, failure.message, failure.details)


def begin_start_task(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The node has booted and is set up: run the pool's start task as the pool has it now, if it has one."""
    node.specials.pop(START_TASK_KEY, None)
    row = node.row
    pool = state.pool
    state.touch_node(node)
    if pool is None or pool.start_task is None:
        row.start_task = None
        row.start_task_waits = False
        return
    attempt = 1 if row.start_task is None else row.start_task.attempt + 1
    row.start_task = SpecialTaskInfo(attempt=attempt, start_time=at)
    row.start_task_waits = pool.start_task.wait_for_success
    _run_start_task(state, node, row.start_task, effects)


def _run_start_task(state: SchedulerState, node: NodeMemory, info: SpecialTaskInfo, effects: list[Effect]) -> None:
    node.specials[START_TASK_KEY] = SpecialRun(TaskKind.START_TASK, START_TASK_KEY, info.attempt)
    effects.append(StartSpecialTask(node.row.id, TaskKind.START_TASK, START_TASK_KEY, info.attempt, pool=state.pool))


def settle_booted(state: SchedulerState, node: NodeMemory, at: Timestamp) -> None:
    """The state of a connected node by its setup and start task, and else by what it does."""
    setup, info = node.row.setup, node.row.start_task
    if setup is not None and setup.state is SpecialTaskState.RUNNING:
        set_node_state(state, node, NodeState.STARTING, at)
    elif setup is not None and setup.failure is not None:
        set_node_state(state, node, NodeState.UNUSABLE, at)
    elif info is not None and node.row.start_task_waits and info.state is SpecialTaskState.RUNNING:
        set_node_state(state, node, NodeState.WAITING_FOR_START_TASK, at)
    elif info is not None and node.row.start_task_waits and info.failure is not None:
        set_node_state(state, node, NodeState.START_TASK_FAILED, at)
    else:
        settle_node_state(state, node, at)


# --- job preparation tasks ------------------------------------------------------------------------------------------


def preparation_on(job: JobMemory, node: NodeMemory) -> Preparation:
    """How the job's preparation task stands on the node; DONE for a job without one."""
    rules = job.row.preparation
    if rules is None:
        return Preparation.DONE
    known = job.on_nodes.get(node.row.id)
    info = known.preparation if known is not None else None
    if known is None or info is None or info.lost or known.disk_time != node.row.disk_time:
        return Preparation.DUE
    if info.state is SpecialTaskState.RUNNING:
        return Preparation.RUNNING if preparation_key(job.row.no) in node.specials else Preparation.DUE
    if info.failure is not None:
        return Preparation.FAILED if rules.wait_for_success else Preparation.DONE
    if rules.rerun_on_reboot and known.boot_time != node.row.last_boot_time:
        return Preparation.DUE
    return Preparation.DONE


def hand_over(
    state: SchedulerState,
    job: JobMemory,
    node: NodeMemory,
    assignment: Assignment,
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """Tell the node to run what it was assigned, or have it wait there for the job's preparation task.

    The first task of a job on a node brings the preparation task about; there is one run at a time, and whoever comes
    meanwhile waits for it too (state `preparing`, slots held).
    """
    rules = job.row.preparation
    if rules is not None:
        standing = preparation_on(job, node)
        if standing is Preparation.DUE:
            _begin_preparation(state, job, node, at, effects)
        if standing is not Preparation.DONE and rules.wait_for_success:
            assignment.sent = False
            task = assignment.task
            if task.state is TaskState.ACTIVE:
                tasks.set_task_state(state, job, task, TaskState.PREPARING, at)
            effects.append(SaveTask(task))
            return
    effects.append(SaveTask(assignment.task))
    send(state, job, node, assignment, effects)


def send(
    state: SchedulerState, job: JobMemory, node: NodeMemory, assignment: Assignment, effects: list[Effect]
) -> None:
    """Tell the node to run what it was assigned."""
    assignment.sent = True
    effects.append(gangs.start_of(state, job, node, assignment))


def _begin_preparation(
    state: SchedulerState, job: JobMemory, node: NodeMemory, at: Timestamp, effects: list[Effect]
) -> None:
    node_id = node.row.id
    known = job.on_nodes.get(node_id)
    attempt = 1 if known is None or known.preparation is None else known.preparation.attempt + 1
    known = JobNode(
        job_no=job.row.no,
        node_id=node_id,
        pool_id=state.pool_id,
        disk_time=node.row.disk_time,
        boot_time=node.row.last_boot_time,
        preparation=SpecialTaskInfo(attempt=attempt, start_time=at),
    )
    job.on_nodes[node_id] = known
    _run_for_job(job, node, TaskKind.JOB_PREPARATION, attempt, known, effects)


def _run_for_job(
    job: JobMemory, node: NodeMemory, kind: TaskKind, attempt: int, known: JobNode, effects: list[Effect]
) -> None:
    key = release_key(job.row.no) if kind is TaskKind.JOB_RELEASE else preparation_key(job.row.no)
    node.specials[key] = SpecialRun(kind, key, attempt, job)
    job.specials += 1
    effects.append(SaveJobNode(known))
    effects.append(StartSpecialTask(node.row.id, kind, key, attempt, job=job.row))


def _waiting(job: JobMemory, node: NodeMemory) -> list[Assignment]:
    """What waits on the node for the job's preparation task."""
    return [a for a in node.assigned.values() if not a.sent and a.task.job_no == job.row.no]


def _preparation_done(
    state: SchedulerState, job: JobMemory, node: NodeMemory, at: Timestamp, effects: list[Effect]
) -> None:
    if preparation_on(job, node) is Preparation.FAILED:
        job.barred.add(node.row.id)
        give_back_waiting(state, job, node, at, effects)
        return
    for assignment in _waiting(job, node):
        send(state, job, node, assignment, effects)


def give_back_waiting(
    state: SchedulerState, job: JobMemory, node: NodeMemory, at: Timestamp, effects: list[Effect]
) -> None:
    """Tasks that wait on the node for the job's preparation task become active again, for other nodes."""
    for assignment in _waiting(job, node):
        task = assignment.task
        # Taking one instance of a multi-instance task back takes back all of it.
        if node.assigned.get(task.key) is assignment:
            tasks.detach(state, job, task, at, stop=True, effects=effects)
            tasks.requeue(state, job, task, at, effects, by_user=False)


# --- job release tasks ----------------------------------------------------------------------------------------------


def begin_release(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The job has ended and nothing of it runs any more: run its release task wherever its preparation task completed,
    on the disk it completed on. Called once for a job; `Job.release_deadline` says it was."""
    rules = job.row.release
    if rules is None or job.row.release_deadline is not None:
        return
    for known in job.on_nodes.values():
        node = state.nodes.get(known.node_id)
        if node is None or known.release is not None or not _calls_for_release(known, node):
            continue
        known.release = SpecialTaskInfo(attempt=1, start_time=at)
        _run_for_job(job, node, TaskKind.JOB_RELEASE, 1, known, effects)
    if job.specials:
        job.row.release_deadline = at + rules.max_wall_clock_s + RELEASE_GRACE_S
        state.touch_job(job)


def _calls_for_release(known: JobNode, node: NodeMemory) -> bool:
    info = known.preparation
    if info is None or info.state is not SpecialTaskState.COMPLETED or info.lost:
        return False
    if node.row.state in _HAS_NO_DISK or known.disk_time != node.row.disk_time:
        return False
    # One that was killed with its job has not completed.
    killed = info.exit_code is None and info.failure is not None and info.failure.code == TaskFailureCode.TASK_ENDED
    return not killed


def give_up_release(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The release tasks have had their time: the job ends without those that are not done."""
    for known in job.on_nodes.values():
        node = state.nodes.get(known.node_id)
        run = node.specials.get(release_key(job.row.no)) if node is not None else None
        if node is None or run is None:
            continue
        effects.append(StopTask(node.row.id, run.key, run.attempt))
        _lose_run(state, node, run, at, effects, retries.RELEASE_OVERDUE)


def stop_preparations(state: SchedulerState, job: JobMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The job ends: kill what prepares nodes for it."""
    key = preparation_key(job.row.no)
    for known in job.on_nodes.values():
        node = state.nodes.get(known.node_id)
        run = node.specials.get(key) if node is not None else None
        if node is None or run is None:
            continue
        _lose_run(state, node, run, at, effects, retries.ENDED_BY_JOB)
        node.stopping[key, run.attempt] = Stopping(0, None)
        job.stopping += 1
        effects.append(StopTask(node.row.id, key, run.attempt))


# --- what nodes report ----------------------------------------------------------------------------------------------


def _run_of(node: NodeMemory | None, key: int, attempt: int) -> SpecialRun | None:
    run = node.specials.get(key) if node is not None else None
    return run if run is not None and run.attempt == attempt else None


def _info_of(node: NodeMemory, run: SpecialRun) -> SpecialTaskInfo | None:
    if run.job is None:
        return node.row.setup if run.kind is TaskKind.NODE_SETUP else node.row.start_task
    known = run.job.on_nodes.get(node.row.id)
    if known is None:
        return None
    return known.release if run.kind is TaskKind.JOB_RELEASE else known.preparation


def _save(state: SchedulerState, node: NodeMemory, run: SpecialRun, effects: list[Effect]) -> None:
    if run.job is None:
        state.touch_node(node)
    else:
        effects.append(SaveJobNode(run.job.on_nodes[node.row.id]))


def on_started(state: SchedulerState, event: TaskStarted, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    run = _run_of(node, event.key, event.attempt)
    if node is None or run is None:
        return
    info = _info_of(node, run)
    if info is not None:
        # The node's clock may be off.
        info.start_time = min(max(event.start_time, info.start_time), event.at)
        _save(state, node, run, effects)


def on_ended(state: SchedulerState, event: TaskEnded, effects: list[Effect]) -> None:
    """A run of a special task ended: it is tried again (its own retries; without limit worth the name when the node was
    at fault), or that was it."""
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    run = _run_of(node, event.key, event.attempt)
    if run is None:
        tasks.note_stopped(state, node, event.key, event.attempt, None, event.at, effects)
        return
    info = _info_of(node, run)
    if info is None:
        _drop_run(state, node, run)
        return
    at = event.at
    info.end_time = min(max(event.end_time, info.start_time), at)
    info.exit_code = event.exit_code
    failure = event.failure
    if failure is None and event.exit_code != 0:
        failure = retries.EXIT_CODE_FAILURE
    info.failure = failure
    if failure is not None and _tries_again(state, run, info, event):
        if not event.retryable or run.kind is TaskKind.NODE_SETUP:
            info.retry_count += 1
            info.last_retry_time = at
        info.attempt += 1
        info.start_time = at
        _drop_run(state, node, run)
        if run.job is None:
            again = _run_setup if run.kind is TaskKind.NODE_SETUP else _run_start_task
            again(state, node, info, effects)
            state.touch_node(node)
        else:
            _run_for_job(run.job, node, run.kind, info.attempt, run.job.on_nodes[node.row.id], effects)
        return
    _finish(state, node, run, info, at, effects)


def _tries_again(state: SchedulerState, run: SpecialRun, info: SpecialTaskInfo, event: TaskEnded) -> bool:
    if run.kind is TaskKind.NODE_SETUP:
        return event.retryable and info.retry_count < retries.MAX_SETUP_RETRIES
    if event.retryable:
        return info.attempt - info.retry_count <= retries.MAX_INTERNAL_RETRIES
    if not retries.failed_by_exit_code(event) or run.kind is TaskKind.JOB_RELEASE:
        return False
    if run.job is not None:
        limit = run.job.row.preparation.max_retry_count if run.job.row.preparation is not None else 0
    else:
        start_task = state.pool.start_task if state.pool is not None else None
        limit = start_task.max_retry_count if start_task is not None else 0
    return limit < 0 or info.retry_count < limit


def _finish(
    state: SchedulerState,
    node: NodeMemory,
    run: SpecialRun,
    info: SpecialTaskInfo,
    at: Timestamp,
    effects: list[Effect],
) -> None:
    info.state = SpecialTaskState.COMPLETED
    _drop_run(state, node, run)
    _save(state, node, run, effects)
    if run.kind is TaskKind.NODE_SETUP:
        _setup_ended(state, node, info, at, effects)
    elif run.job is None:
        if node.row.state is NodeState.WAITING_FOR_START_TASK:
            settle_booted(state, node, at)
    elif run.kind is TaskKind.JOB_PREPARATION:
        _preparation_done(state, run.job, node, at, effects)


def _drop_run(state: SchedulerState, node: NodeMemory, run: SpecialRun) -> None:
    del node.specials[run.key]
    if run.job is not None:
        run.job.specials -= 1
        state.touch_unsettled(run.job)


def on_stopped(state: SchedulerState, event: TaskStopped, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    if node is None:
        return
    run = _run_of(node, event.key, event.attempt)
    if run is None:
        tasks.note_stopped(state, node, event.key, event.attempt, event.exit_code, event.at, effects)
        return
    # Nobody asked for it: the node gave it up by itself, and runs it again.
    effects.append(_again(state, node, run))


# --- nodes come and go ----------------------------------------------------------------------------------------------


def _again(state: SchedulerState, node: NodeMemory, run: SpecialRun) -> StartSpecialTask:
    if run.job is None:
        return StartSpecialTask(node.row.id, run.kind, run.key, run.attempt, pool=state.pool)
    return StartSpecialTask(node.row.id, run.kind, run.key, run.attempt, job=run.job.row)


def resume(state: SchedulerState, node: NodeMemory, held: set[tuple[int, int]], effects: list[Effect]) -> None:
    """The node said hello under the boot it had: what it should run and does not know of is handed to it again."""
    effects.extend(_again(state, node, run) for run in node.specials.values() if (run.key, run.attempt) not in held)


def node_booted(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect]) -> None:
    """The node came up anew, its row showing the new boot and disk: nothing runs there. The start task runs; a release
    task that was under way runs again if its disk is the same; a preparation task runs when a task comes next."""
    for run in list(node.specials.values()):
        if run.job is None:
            continue
        known = run.job.on_nodes.get(node.row.id)
        if run.kind is TaskKind.JOB_RELEASE and known is not None and known.disk_time == node.row.disk_time:
            info = known.release
            if info is not None:
                info.attempt += 1
                info.start_time = at
                run.attempt = info.attempt
                effects.append(SaveJobNode(known))
                effects.append(_again(state, node, run))
                continue
        _lose_run(state, node, run, at, effects, retries.NODE_LOST)
    for job in state.jobs.values():
        known = job.on_nodes.get(node.row.id)
        if known is not None and known.disk_time != node.row.disk_time:
            job.barred.discard(node.row.id)
    _begin_setup(state, node, at, effects)


def node_lost(state: SchedulerState, node: NodeMemory, at: Timestamp, effects: list[Effect], *, gone: bool) -> None:
    """The node is given up (`gone`: for good, or what it runs is). Its preparation and release tasks count as ended there; its start task is
    taken up again when it comes back under the same boot, and so is its setup."""
    for run in list(node.specials.values()):
        if run.job is not None or gone:
            _lose_run(state, node, run, at, effects, retries.NODE_LOST)


def disk_lost(state: SchedulerState, node: NodeMemory) -> None:
    """What preparation tasks did on the node, or failed to do, is gone with its disk."""
    node.row.disk_time = None
    state.touch_node(node)
    for job in state.jobs.values():
        job.barred.discard(node.row.id)


def _lose_run(
    state: SchedulerState,
    node: NodeMemory,
    run: SpecialRun,
    at: Timestamp,
    effects: list[Effect],
    failure: FailureInfo,
) -> None:
    """A run that will not be heard of again."""
    info = _info_of(node, run)
    _drop_run(state, node, run)
    if info is None:
        return
    info.state = SpecialTaskState.COMPLETED
    info.lost = failure is retries.NODE_LOST
    info.end_time = at
    info.exit_code = None
    info.failure = failure
    _save(state, node, run, effects)
    if run.job is not None and preparation_on(run.job, node) is Preparation.FAILED:
        run.job.barred.add(node.row.id)


# --- rebuilding -----------------------------------------------------------------------------------------------------


def recall(state: SchedulerState, job_nodes: Sequence[JobNode]) -> None:
    """What rows say runs on nodes, and where jobs are barred. Comes before the tasks are filed."""
    for node in state.nodes.values():
        for kind, key, info in (
            (TaskKind.NODE_SETUP, NODE_SETUP_KEY, node.row.setup),
            (TaskKind.START_TASK, START_TASK_KEY, node.row.start_task),
        ):
            if info is not None and info.state is SpecialTaskState.RUNNING and node.row.state not in _HAS_NO_DISK:
                node.specials[key] = SpecialRun(kind, key, info.attempt)
    for known in job_nodes:
        job = state.jobs_by_no.get(known.job_no)
        if job is not None:
            file_job_node(state, job, known)


def file_job_node(state: SchedulerState, job: JobMemory, known: JobNode) -> None:
    """Take in a row of what a job's special tasks did on a node, which may be gone."""
    job.on_nodes[known.node_id] = known
    node = state.nodes.get(known.node_id)
    if node is None:
        return
    for kind, key, info in (
        (TaskKind.JOB_PREPARATION, preparation_key(known.job_no), known.preparation),
        (TaskKind.JOB_RELEASE, release_key(known.job_no), known.release),
    ):
        if info is not None and info.state is SpecialTaskState.RUNNING:
            node.specials[key] = SpecialRun(kind, key, info.attempt, job)
            job.specials += 1
    if preparation_on(job, node) is Preparation.FAILED:
        job.barred.add(known.node_id)
