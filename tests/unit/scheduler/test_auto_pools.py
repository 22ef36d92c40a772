"""Auto pools of jobs: made with their jobs, and gone with them (semantics 3.7)."""

import copy

import pytest

from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.job import AutoPool, Job, JobChanges, SchedulingError
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, ErrorCategory, JobState, PoolLifetimeOption, PoolState
from millpond.domain.task import NewTask
from tests.unit.scheduler.world import World, new_job, new_pool


def own_pool_job(auto_pool: AutoPool, **more: object) -> Job:
    job = new_job(**more)
    job.auto_pool = auto_pool
    return job


def add(world: World, auto_pool: AutoPool, *, job_id: str = "job", no: int = 1, schedule: str | None = None) -> Job:
    job = own_pool_job(auto_pool, job_id=job_id, no=no)
    job.schedule_id = schedule
    world.do(e.JobAdded(at=world.now, job=job, auto_pool=new_pool(1)))
    world.connect_all()
    return job


def terminate(world: World, job_id: str = "job") -> None:
    world.do(e.JobTerminateRequested(at=world.now, job_id=job_id, reason="UserTerminate"))


def test_the_pool_is_made_with_the_job_in_one_batch() -> None:
    world = World()
    job = own_pool_job(AutoPool())
    world.do(
        e.JobAdded(at=world.now, job=job, auto_pool=new_pool(2), manager=NewTask("manager", b"{}")),
    )
    assert world.pool is not None
    assert (world.pool.auto_pool, world.pool.state, world.pool.allocation_state) == (
        True,
        PoolState.ACTIVE,
        AllocationState.RESIZING,
    )
    assert len(world.nodes) == 2
    world.connect_all()
    assert world.task("manager").node_id is not None


@pytest.mark.parametrize("end", ["terminate", "delete"])
def test_the_pool_goes_with_the_job(end: str) -> None:
    world = World()
    add(world, AutoPool())
    world.add_tasks("t")
    world.start("t")
    if end == "terminate":
        terminate(world)
    else:
        world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
        world.purge_all()
    if end == "terminate":
        assert world.pool is not None
        assert world.pool.state is PoolState.ACTIVE, "its task is still being stopped there"
    world.confirm_stops()
    assert world.pool is not None
    assert world.pool.state is PoolState.DELETING
    world.release_all()
    assert world.pool is None
    if end == "terminate":
        assert world.job().state is JobState.COMPLETED
        world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
        world.purge_all()
    assert world.jobs == {}


@pytest.mark.parametrize("auto_pool", [AutoPool(keep_alive=True), AutoPool(lifetime=PoolLifetimeOption.JOB_SCHEDULE)])
def test_a_pool_to_be_kept_and_that_of_a_schedule_stay(auto_pool: AutoPool) -> None:
    world = World()
    add(world, auto_pool, schedule="s")
    terminate(world)
    world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
    world.purge_all()
    assert world.pool is not None
    assert world.pool.state is PoolState.ACTIVE


def test_whether_it_is_kept_can_be_changed() -> None:
    world = World()
    add(world, AutoPool())
    changes = JobChanges(spec={}, keep_alive=True)
    world.do(e.JobUpdated(at=world.now, job_id="job", changes=changes))
    terminate(world)
    assert world.pool is not None
    assert world.pool.state is PoolState.ACTIVE


def test_the_next_job_of_a_schedule_takes_the_pool_that_is_there() -> None:
    world = World()
    shared = AutoPool(lifetime=PoolLifetimeOption.JOB_SCHEDULE)
    add(world, shared, job_id="s:job-1", no=1, schedule="s")
    first = copy.copy(world.pool)
    terminate(world, "s:job-1")
    add(world, shared, job_id="s:job-2", no=2, schedule="s")
    assert isinstance(world.pool, Pool)
    assert isinstance(first, Pool)
    assert world.pool.creation_time == first.creation_time
    assert world.told_completed == ["s:job-1"]


def test_a_job_whose_pool_is_being_deleted_cannot_be_scheduled() -> None:
    world = World()
    shared = AutoPool(lifetime=PoolLifetimeOption.JOB_SCHEDULE)
    add(world, shared, job_id="s:job-1", no=1, schedule="s")
    world.do(e.PoolDeleteRequested(at=world.now))
    job = add(world, shared, job_id="s:job-2", no=2, schedule="s")
    assert (job.state, job.end_time) == (JobState.COMPLETED, world.now)
    assert job.scheduling_error is not None
    assert "being deleted" in job.scheduling_error.message
    assert world.told_completed == ["s:job-2"], "the schedule goes on"


def test_a_job_whose_pool_cannot_be_made_is_completed_and_takes_no_tasks() -> None:
    world = World()
    job = own_pool_job(AutoPool(), wall_clock_s=60.0)
    job.scheduling_error = SchedulingError(ErrorCategory.USER_ERROR, "InvalidAutoPoolSettings", "no such size")
    world.do(e.JobAdded(at=world.now, job=job, auto_pool=new_pool(2), manager=NewTask("manager", b"{}")))
    assert (world.pool, world.nodes, world.tasks) == (None, {}, {})
    assert (job.state, job.previous_state) == (JobState.COMPLETED, JobState.ACTIVE)
    assert world.timers.get("job") is None
    with pytest.raises(BatchError) as caught:
        world.add_tasks("t")
    assert caught.value.code is ErrorCode.JOB_COMPLETED
