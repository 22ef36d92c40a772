"""Tasks: events in, effects and records out (Azure Batch: task states, retries, requeue, reactivate)."""

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.job import JobChanges
from millpond.domain.preconditions import Precondition
from millpond.domain.states import (
    ErrorCategory,
    JobState,
    NodeDeallocationOption,
    NodeState,
    OnAllTasksComplete,
    TaskState,
)
from millpond.domain.task import FailureInfo, NameValue, ResourceUse, TaskAddOutcome
from tests.unit.scheduler.world import World

DOWNLOAD_FAILED = FailureInfo(ErrorCategory.USER_ERROR, "BlobNotFound", "no such blob")


@pytest.fixture
def world() -> World:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    return world


def refusal(world: World, event: e.Event) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        world.do(event)
    return caught.value.code


def test_a_task_lives_from_active_to_completed(world: World) -> None:
    world.add_tasks("t")
    task = world.task("t")
    assert (task.state, task.attempt, task.previous_state) == (TaskState.ACTIVE, 1, None)
    assert [(s.task.id, s.attempt) for s in world.started] == [("t", 1)]
    started_at = world.tick()
    world.start("t")
    assert (task.state, task.start_time, task.previous_state) == (TaskState.RUNNING, started_at, TaskState.ACTIVE)
    node = world.state.nodes[task.node_id or ""].row
    assert (node.state, node.running_tasks, node.total_tasks_run) == (NodeState.RUNNING, 1, 1)
    ended_at = world.tick()
    world.end("t", 0)
    assert (task.state, task.exit_code, task.failure, task.end_time) == (TaskState.COMPLETED, 0, None, ended_at)
    assert (node.state, node.running_tasks, node.total_tasks_succeeded) == (NodeState.IDLE, 0, 1)
    assert world.job().counts.succeeded == 1


def test_ids_are_unique_whatever_their_case(world: World) -> None:
    outcomes = world.add_tasks("Frame1", "frame1", "frame2")
    assert outcomes == [
        TaskAddOutcome("Frame1", None, world.now),
        TaskAddOutcome("frame1", "TaskExists", 0.0),
        TaskAddOutcome("frame2", None, world.now),
    ]
    assert world.job().counts.active == 2


@pytest.mark.parametrize(("limit", "runs"), [(0, 1), (1, 2), (3, 4)])
def test_a_task_is_retried_up_to_its_limit(world: World, limit: int, runs: int) -> None:
    world.add_tasks("t", retries=limit)
    for run in range(1, runs + 1):
        assert world.task("t").attempt == run
        world.start("t")
        world.tick()
        world.end("t", 7)
    task = world.task("t")
    assert task.state is TaskState.COMPLETED
    assert (task.retry_count, task.requeue_count, task.exit_code) == (limit, 0, 7)
    assert task.failure is not None
    assert (task.failure.code, task.failure.category) == ("FailureExitCode", ErrorCategory.USER_ERROR)
    assert world.job().counts.failed == 1


def test_what_the_node_knows_of_a_failed_exit_code_changes_only_what_is_told(world: World) -> None:
    killed = FailureInfo(
        category=ErrorCategory.USER_ERROR,
        code="FailureExitCode",
        message="a process of it was killed",
        details=(NameValue("Reason", "OutOfMemory"),),
    )
    world.add_tasks("t", retries=1)
    for run in (1, 2):
        assert (world.task("t").attempt, world.task("t").retry_count) == (run, run - 1)
        world.start("t")
        world.end("t", -9, failure=killed)
    task = world.task("t")
    assert (task.state, task.retry_count, task.exit_code) == (TaskState.COMPLETED, 1, -9)
    assert task.failure == killed


def test_minus_one_retries_for_ever(world: World) -> None:
    world.add_tasks("t", retries=-1)
    for _ in range(50):
        world.start("t")
        world.end("t", 1)
    assert (world.task("t").state, world.task("t").retry_count) == (TaskState.ACTIVE, 50)


def test_the_limit_of_the_job_holds_for_tasks_without_their_own(world: World) -> None:
    world.add_job("other", retries=2)
    world.add_tasks("t", job="other")
    for _ in range(3):
        world.start("t", "other")
        world.end("t", 1, job="other")
    assert world.task("t", "other").state is TaskState.COMPLETED


def test_failures_before_the_command_are_not_retried(world: World) -> None:
    world.add_tasks("t", retries=5)
    world.end("t", None, failure=DOWNLOAD_FAILED)
    task = world.task("t")
    assert (task.state, task.retry_count, task.failure) == (TaskState.COMPLETED, 0, DOWNLOAD_FAILED)


def test_failures_of_the_node_count_against_nothing(world: World) -> None:
    world.add_tasks("t", retries=0)
    for _ in range(3):
        world.end("t", None, failure=DOWNLOAD_FAILED, retryable=True)
    task = world.task("t")
    assert (task.state, task.retry_count, task.requeue_count, task.attempt) == (TaskState.ACTIVE, 0, 0, 4)


def test_a_task_its_nodes_never_manage_to_run_is_given_up(world: World) -> None:
    world.add_tasks("t")
    for _ in range(200):
        if world.task("t").state is TaskState.COMPLETED:
            break
        world.end("t", None, failure=DOWNLOAD_FAILED, retryable=True)
    failure = world.task("t").failure
    assert failure is not None
    assert failure.code == "MaxInternalRetryCountReached"


def test_a_lost_node_gives_its_tasks_back_uncounted(world: World) -> None:
    world.add_tasks("t")
    world.start("t")
    node_id = world.task("t").node_id or ""
    world.do(e.NodeSilent(at=world.now, node_id=node_id))
    assert world.task("t").state is TaskState.RUNNING, "silence alone takes nothing away"
    assert world.state.nodes[node_id].row.state is NodeState.UNKNOWN
    world.do(e.NodeLost(at=world.now, node_id=node_id))
    task = world.task("t")
    assert (task.state, task.node_id, task.retry_count, task.requeue_count) == (TaskState.ACTIVE, None, 0, 0)


def test_reports_of_another_attempt_change_nothing(world: World) -> None:
    world.add_tasks("t", retries=1)
    task = world.task("t")
    node_id = task.node_id or ""
    world.start("t")
    world.end("t", 1)
    assert task.attempt == 2
    for event in (
        e.TaskStarted(at=world.now, node_id=node_id, key=task.key, attempt=1, start_time=0.0),
        e.TaskEnded(at=world.now, node_id=node_id, key=task.key, attempt=1, start_time=0.0, end_time=1.0, exit_code=0),
        e.TaskEnded(
            at=world.now, node_id="tvmps_x_d", key=task.key, attempt=2, start_time=0.0, end_time=1.0, exit_code=0
        ),
        e.TaskEnded(at=world.now, node_id=node_id, key=12345, attempt=1, start_time=0.0, end_time=1.0, exit_code=0),
        e.TaskStopped(at=world.now, node_id=node_id, key=task.key, attempt=1),
    ):
        world.do(event)
        assert (task.state, task.attempt, task.exit_code) == (TaskState.ACTIVE, 2, None)


def test_a_report_that_comes_twice_counts_once(world: World) -> None:
    world.add_tasks("t")
    task = world.task("t")
    node_id = task.node_id or ""
    end = e.TaskEnded(
        at=world.now, node_id=node_id, key=task.key, attempt=1, start_time=world.now, end_time=world.now, exit_code=0
    )
    world.do(end, end)
    world.do(end)
    assert world.job().counts.succeeded == 1
    assert world.state.nodes[node_id].row.total_tasks_run == 1


def test_terminate_ends_a_running_task_and_holds_its_slot_until_it_is_gone(world: World) -> None:
    world.add_tasks("t", "next")
    world.start("t")
    world.do(e.TaskTerminateRequested(at=world.now, job_id="job", task_id="t"))
    task = world.task("t")
    assert task.state is TaskState.COMPLETED
    assert task.failure is not None
    assert (task.failure.code, task.exit_code) == ("TaskEnded", None)
    node = world.state.nodes[task.node_id or ""]
    assert node.free == 0
    world.confirm_stops()
    assert task.exit_code == -9
    assert world.task("next").node_id is not None
    assert refusal(world, e.TaskTerminateRequested(at=world.now, job_id="job", task_id="t")) is ErrorCode.TASK_COMPLETED


def test_terminate_ends_an_active_task_too(world: World) -> None:
    world.add_tasks("a", "b", "c", "d")
    world.do(e.TaskTerminateRequested(at=world.now, job_id="job", task_id="d"))
    assert world.task("d").state is TaskState.COMPLETED
    assert world.job().counts.failed == 1


def test_reactivate_starts_again_from_nothing(world: World) -> None:
    world.add_tasks("t", retries=1)
    world.start("t")
    assert (
        refusal(world, e.TaskReactivateRequested(at=world.now, job_id="job", task_id="t"))
        is ErrorCode.TASK_NOT_COMPLETED
    )
    world.end("t", 1)
    world.end("t", 1)
    assert world.task("t").state is TaskState.COMPLETED
    world.do(e.TaskReactivateRequested(at=world.now, job_id="job", task_id="t"))
    task = world.task("t")
    assert (task.state, task.retry_count, task.exit_code, task.failure, task.end_time) == (
        TaskState.ACTIVE,
        0,
        None,
        None,
        None,
    )
    assert task.attempt == 3
    world.end("t", 0)
    assert (
        refusal(world, e.TaskReactivateRequested(at=world.now, job_id="job", task_id="t")) is ErrorCode.TASK_SUCCEEDED
    )


def test_delete_removes_the_row_the_process_and_the_directory(world: World) -> None:
    world.add_tasks("t")
    world.start("t")
    key = world.task("t").key
    world.effects.clear()
    world.do(e.TaskDeleteRequested(at=world.now, job_id="job", task_id="T"))
    assert key not in world.tasks
    kinds = [type(effect) for effect in world.effects]
    assert kinds.index(f.StopTask) < kinds.index(f.RemoveTaskDirectory)
    assert world.job().counts.total == 0
    world.confirm_stops()
    assert refusal(world, e.TaskDeleteRequested(at=world.now, job_id="job", task_id="t")) is ErrorCode.TASK_NOT_FOUND
    assert world.add_tasks("t") == [TaskAddOutcome("t", None, world.now)]


def test_conditions_are_checked_where_the_change_is_made(world: World) -> None:
    world.add_tasks("t")
    stale = Precondition(if_match=("0x8D0",))
    for event in (
        e.TaskTerminateRequested(at=world.now, job_id="job", task_id="t", condition=stale),
        e.TaskDeleteRequested(at=world.now, job_id="job", task_id="t", condition=stale),
        e.TaskUpdated(at=world.now, job_id="job", task_id="t", max_retry_count=1, spec=b"{}", condition=stale),
        e.JobTerminateRequested(at=world.now, job_id="job", reason="x", condition=stale),
        e.JobUpdated(at=world.now, job_id="job", changes=JobChanges({}, priority=1), condition=stale),
        e.PoolDeleteRequested(at=world.now, condition=stale),
    ):
        assert refusal(world, event) is ErrorCode.CONDITION_NOT_MET


def test_the_etag_follows_the_definition_not_the_state(world: World) -> None:
    world.add_tasks("t")
    task = world.task("t")
    before = task.last_modified
    world.tick()
    world.start("t")
    assert task.last_modified == before
    world.do(e.TaskUpdated(at=before, job_id="job", task_id="t", max_retry_count=4, spec=b'{"x":1}'))
    assert task.last_modified > before, "also when the clock stands still"
    assert task.max_retry_count == 4


@pytest.mark.parametrize("option", list(NodeDeallocationOption)[:3])
def test_shrinking_the_pool_deals_with_tasks_as_asked(world: World, option: NodeDeallocationOption) -> None:
    world.add_tasks("t", "ahead")
    world.start("t")
    world.do(
        e.PoolResizeRequested(
            at=world.now, target_dedicated_nodes=0, resize_timeout_s=300.0, node_deallocation_option=option
        )
    )
    task = world.task("t")
    if option is NodeDeallocationOption.REQUEUE:
        assert (task.state, task.requeue_count, task.retry_count) == (TaskState.ACTIVE, 1, 0)
    elif option is NodeDeallocationOption.TERMINATE:
        assert task.failure is not None
        assert (task.state, task.failure.code) == (TaskState.COMPLETED, "TaskEnded")
    else:
        assert task.state is TaskState.RUNNING
        assert world.to_release == []
        world.end("t", 0)
        world.confirm_stops()
    assert (world.task("ahead").state, world.task("ahead").requeue_count) == (TaskState.ACTIVE, 0)
    assert len(world.to_release) == 1
    world.release_all()
    assert world.state.nodes == {}


def test_all_tasks_complete_ends_the_job(world: World) -> None:
    world.add_tasks("a", "b")
    world.do(
        e.JobUpdated(
            at=world.now, job_id="job", changes=JobChanges({}, on_all_tasks_complete=OnAllTasksComplete.TERMINATE_JOB)
        )
    )
    world.end("a", 0)
    assert world.job().state is JobState.ACTIVE
    world.end("b", 1)
    assert (world.job().state, world.job().terminate_reason) == (JobState.COMPLETED, "AllTasksComplete")
    assert refusal(world, e.TasksAdded(at=world.now, job_id="job", tasks=())) is ErrorCode.JOB_COMPLETED


def test_new_constraints_bring_a_new_retention_time(world: World) -> None:
    world.add_tasks("t")
    task = world.task("t")
    for retention in (60.0, 60.0, None):
        world.do(
            e.TaskUpdated(
                at=world.now, job_id="job", task_id="t", max_retry_count=None, spec=b"{}", retention_s=retention
            )
        )
        assert (None if task.rules is None else task.rules.retention_s) == retention
        saved = [effect.task for effect in world.effects if isinstance(effect, f.SaveTask)]
        assert (None if saved[-1].rules is None else saved[-1].rules.retention_s) == retention


def test_what_runs_used_is_summed_over_retries_and_over_the_job() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    world.add_job(retries=1)
    world.tick(5)
    world.add_tasks("a", "b")
    world.tick(2)

    def run(task_id: str, exit_code: int) -> None:
        world.start(task_id)
        began = world.now
        world.tick(10)
        task = world.task(task_id)
        world.do(
            e.TaskEnded(
                at=world.now,
                node_id=task.node_id or "",
                key=task.key,
                attempt=task.attempt,
                start_time=began,
                end_time=world.now,
                exit_code=exit_code,
                user_cpu_s=3.0,
                kernel_cpu_s=1.0,
            )
        )

    run("a", 1)
    assert world.task("a").use == ResourceUse(3.0, 1.0, 10.0, 2.0)
    assert world.job().use == ResourceUse(3.0, 1.0, 10.0, 2.0, 1)
    run("a", 0)
    run("b", 0)
    assert world.task("a").use == ResourceUse(6.0, 2.0, 20.0, 2.0)
    assert world.task("b").use == ResourceUse(3.0, 1.0, 10.0, 22.0)
    assert world.job().use == ResourceUse(9.0, 3.0, 30.0, 24.0, 1)
    world.check()
