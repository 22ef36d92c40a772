"""Jobs: disable, enable, terminate, delete, limits (Azure Batch: job states)."""

import pytest

from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.job import AutoPool, JobChanges
from millpond.domain.states import DisableJobOption, JobState, OnAllTasksComplete, TaskState
from tests.unit.scheduler.world import World, new_job


@pytest.fixture
def world() -> World:
    world = World()
    world.add_pool(nodes=2)
    world.add_job()
    return world


def refusal(world: World, event: e.Event) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        world.do(event)
    return caught.value.code


@pytest.mark.parametrize("option", list(DisableJobOption))
def test_disable_starts_nothing_more_and_deals_with_what_runs(world: World, option: DisableJobOption) -> None:
    world.add_tasks("a", "b", "c", "d")
    world.start("a")
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=option))
    assert world.job().state is JobState.DISABLING
    task = world.task("a")
    expected = {
        DisableJobOption.REQUEUE: TaskState.ACTIVE,
        DisableJobOption.TERMINATE: TaskState.COMPLETED,
        DisableJobOption.WAIT: TaskState.RUNNING,
    }
    assert task.state is expected[option]
    world.confirm_stops()
    if option is DisableJobOption.WAIT:
        assert world.job().state is JobState.DISABLING
        world.end("a", 0)
    assert world.job().state is JobState.DISABLED
    assert [t.node_id for t in world.state.jobs["job"].tasks.values() if t.state is TaskState.ACTIVE] == [None] * (
        4 if option is DisableJobOption.REQUEUE else 3
    )
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=option))
    world.do(e.JobEnableRequested(at=world.now, job_id="job"))
    assert world.job().state is JobState.ACTIVE
    assert sum(1 for t in world.state.jobs["job"].tasks.values() if t.node_id and t.state is TaskState.ACTIVE) >= 2


def test_a_requeue_by_disable_is_counted_as_such(world: World) -> None:
    world.add_tasks("a")
    world.start("a")
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=DisableJobOption.REQUEUE))
    assert (world.task("a").requeue_count, world.task("a").retry_count) == (1, 0)
    assert world.task("a").last_requeue_time == world.now


def test_terminate_leaves_active_tasks_active(world: World) -> None:
    world.add_tasks("run", "also", "wait1", "wait2", "wait3", "wait4")
    world.start("run")
    world.start("also")
    world.do(e.JobTerminateRequested(at=world.now, job_id="job", reason="enough"))
    assert world.job().state is JobState.TERMINATING
    assert refusal(world, e.TasksAdded(at=world.now, job_id="job", tasks=())) is ErrorCode.JOB_BEING_TERMINATED
    world.confirm_stops()
    job = world.job()
    assert (job.state, job.terminate_reason, job.end_time) == (JobState.COMPLETED, "enough", world.now)
    assert (job.counts.active, job.counts.failed, job.counts.running) == (4, 2, 0)
    assert refusal(world, e.JobTerminateRequested(at=world.now, job_id="job", reason="x")) is ErrorCode.JOB_COMPLETED


def test_a_job_without_running_tasks_completes_at_once(world: World) -> None:
    world.do(e.JobTerminateRequested(at=world.now, job_id="job", reason="UserTerminate"))
    assert world.job().state is JobState.COMPLETED


def test_an_empty_job_with_terminatejob_ends_at_once(world: World) -> None:
    world.add_job("empty", terminate_when_done=True)
    assert (world.job("empty").state, world.job("empty").terminate_reason) == (JobState.COMPLETED, "AllTasksComplete")


def test_terminatejob_cannot_be_taken_back(world: World) -> None:
    world.add_tasks("a")
    world.do(
        e.JobUpdated(
            at=world.now, job_id="job", changes=JobChanges({}, on_all_tasks_complete=OnAllTasksComplete.TERMINATE_JOB)
        )
    )
    event = e.JobUpdated(
        at=world.now, job_id="job", changes=JobChanges({}, on_all_tasks_complete=OnAllTasksComplete.NO_ACTION)
    )
    assert refusal(world, event) is ErrorCode.INVALID_PROPERTY_VALUE


def test_delete_kills_forgets_and_goes_when_its_rows_are_gone(world: World) -> None:
    world.add_tasks("a", "b", "c")
    world.start("a")
    world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
    assert world.job().state is JobState.DELETING
    assert {stop.key & 0xFFFFFFFF for stop in world.stopped} == {1, 2, 3}
    assert refusal(world, e.JobDeleteRequested(at=world.now, job_id="job")) is ErrorCode.JOB_BEING_DELETED
    assert refusal(world, e.TasksAdded(at=world.now, job_id="job", tasks=())) is ErrorCode.JOB_BEING_DELETED
    world.confirm_stops()
    world.purge_all()
    assert refusal(world, e.JobDeleteRequested(at=world.now, job_id="job")) is ErrorCode.JOB_NOT_FOUND
    assert world.tasks == {}
    assert world.jobs == {}


def test_a_task_of_a_completed_job_can_be_deleted_once(world: World) -> None:
    world.add_tasks("a")
    world.end("a", 0)
    row = world.task("a")
    world.do(e.JobTerminateRequested(at=world.now, job_id="job", reason="x"))
    world.do(e.TaskDeleteRequested(at=world.now, job_id="job", task_id="a", row=row))
    assert world.job().counts.total == 0
    assert (
        refusal(world, e.TaskDeleteRequested(at=world.now, job_id="job", task_id="a", row=row))
        is ErrorCode.TASK_NOT_FOUND
    )


def test_the_wall_clock_of_a_job_counts_from_its_creation(world: World) -> None:
    created = world.now
    world.add_job("timed", wall_clock_s=60.0)
    assert world.timers["timed"] == created + 60.0
    world.tick(30)
    world.do(e.JobUpdated(at=world.now, job_id="timed", changes=JobChanges({}, constraints=(90.0, 0))))
    assert world.timers["timed"] == created + 90.0
    world.do(e.JobTimedOut(at=world.tick(30), job_id="timed", deadline=created + 60.0))
    assert world.job("timed").state is JobState.ACTIVE, "a stale timer"
    world.do(e.JobTimedOut(at=world.tick(30), job_id="timed", deadline=created + 90.0))
    assert (world.job("timed").state, world.job("timed").terminate_reason) == (
        JobState.COMPLETED,
        "MaxWallClockTimeExpiry",
    )


def test_failing_tasks_terminate_a_job_that_asks_for_it(world: World) -> None:
    world.add_job("strict", exit_actions=True)
    world.add_tasks("ok", "bad", "rest", job="strict")
    world.end("ok", 0, job="strict")
    assert world.job("strict").state is JobState.ACTIVE
    world.end("bad", 1, job="strict")
    world.confirm_stops()
    assert (world.job("strict").state, world.job("strict").terminate_reason) == (JobState.COMPLETED, "TaskFailed")


def test_two_jobs_of_one_name_are_refused(world: World) -> None:
    assert refusal(world, e.JobAdded(at=world.now, job=new_job("JOB", 9))) is ErrorCode.JOB_EXISTS


def test_jobs_outlive_their_pool_and_go_on_in_the_next(world: World) -> None:
    world.add_tasks("a", "b", "c")
    world.start("a")
    world.do(e.PoolDeleteRequested(at=world.now))
    assert (world.task("a").state, world.task("a").requeue_count) == (TaskState.ACTIVE, 1)
    world.release_all()
    assert world.state.pool is None
    world.add_pool(nodes=1)
    assert sum(1 for task in world.state.jobs["job"].tasks.values() if task.node_id) >= 1


def test_what_an_update_says_of_preemption_and_of_the_auto_pool(world: World) -> None:
    def update(**changes: bool) -> None:
        world.do(e.JobUpdated(at=world.now, job_id="job", changes=JobChanges({}, **changes)))

    job = world.job()
    update(allow_task_preemption=True, keep_alive=True)
    assert (job.allow_task_preemption, job.auto_pool) == (True, None)
    job.auto_pool = AutoPool()
    update(keep_alive=True)
    assert (job.allow_task_preemption, job.auto_pool) == (True, AutoPool(keep_alive=True))
    update(allow_task_preemption=False)
    assert (job.allow_task_preemption, job.auto_pool) == (False, AutoPool(keep_alive=True))
