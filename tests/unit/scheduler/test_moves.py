"""A disabled job moves to another pool: one engine lets it go, the other takes it in (semantics 1.3, 10.1)."""

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.job import AutoPool, JobChanges
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules
from millpond.domain.states import DisableJobOption, JobState, PoolState, TaskKind, TaskState
from millpond.domain.task import TaskRules
from tests.unit.scheduler.world import World, new_job, new_pool


def move(world: World, pool_id: str = "other", **more: object) -> None:
    changes = JobChanges(spec={"poolInfo": {"poolId": pool_id}}, pool_id=pool_id, **more)
    world.do(e.JobUpdated(at=world.now, job_id="job", changes=changes))


def disable(world: World, option: DisableJobOption = DisableJobOption.REQUEUE) -> None:
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=option))


def worlds() -> tuple[World, World]:
    """A pool with a busy job, and another with a node."""
    old, new = World(), World("other")
    old.add_pool(1)
    pool = new_pool(1, pool_id="other")
    pool.no = 2  # nodes are named after it
    new.do(e.PoolAdded(at=new.now, pool=pool))
    new.connect_all()
    return old, new


def test_only_a_disabled_job_moves() -> None:
    old, _ = worlds()
    old.add_job()
    old.add_tasks("t")
    old.start("t")
    for state in (JobState.ACTIVE, JobState.DISABLING):
        assert old.job().state is state
        with pytest.raises(BatchError) as caught:
            move(old)
        assert caught.value.code is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
        disable(old)
    old.confirm_stops()
    move(old)
    assert [arrived.job.pool_id for arrived in old.moved] == ["other"]


def test_naming_its_own_pool_moves_nothing() -> None:
    old, _ = worlds()
    old.add_job()
    move(old, "POOL", priority=7)
    assert (old.moved, old.job().priority, old.job().pool_id) == ([], 7, "pool")


def test_a_moved_job_brings_its_tasks_and_goes_on_where_it_is_enabled() -> None:
    old, new = worlds()
    old.add_job(dependencies=True, wall_clock_s=500.0)
    old.add_tasks("done", "deleted")
    old.start("done")
    old.end("done")
    old.start("deleted")
    old.end("deleted")
    old.do(e.TaskDeleteRequested(at=old.now, job_id="job", task_id="deleted"))
    old.add_tasks("free")
    old.add_tasks("after", rules=TaskRules(depends_on_ids=("done", "deleted", "free")))
    old.start("free")
    disable(old)
    old.confirm_stops()
    created = old.job().creation_time
    move(old, priority=3)
    assert not old.state.jobs
    with pytest.raises(BatchError) as caught:
        disable(old)
    assert caught.value.code is ErrorCode.JOB_NOT_FOUND
    assert not [effect for effect in old.effects[-3:] if isinstance(effect, f.SetJobTimer)]

    new.take_in(old.moved[0])
    assert (new.job().state, new.job().priority, new.job().creation_time) == (JobState.DISABLED, 3, created)
    assert new.timers["job"] == created + 500.0
    assert new.started == []
    new.do(e.JobEnableRequested(at=new.now, job_id="job"))
    assert [start.task.id for start in new.started] == ["free"]
    assert new.task("free").attempt == 2, "attempts go on, so that no report of the old pool is taken for a new one"
    new.start("free")
    new.end("free")
    assert new.task("after").node_id is not None, "what satisfied it in the old pool counts"
    assert new.task("done").state is TaskState.COMPLETED


def test_to_arrive_twice_is_to_arrive_once() -> None:
    old, new = worlds()
    old.add_job()
    old.add_tasks("t")
    disable(old)
    old.confirm_stops()
    move(old)
    new.take_in(old.moved[0])
    new.do(e.JobEnableRequested(at=new.now, job_id="job"))
    new.do(old.moved[0])
    assert new.job().state is JobState.ACTIVE, "what it was when it left is past"
    third = World("third")
    third.do(old.moved[0])
    assert not third.state.jobs, "it does not go there"


def test_preparation_is_done_again_where_it_was_not_and_old_rows_come_along() -> None:
    old, new = worlds()
    old.add_job(preparation=JobPreparationRules(), release=JobReleaseRules())
    old.add_tasks("t")
    old.run_special(TaskKind.JOB_PREPARATION)
    disable(old)
    old.confirm_stops()
    move(old)
    (row,) = old.moved[0].job_nodes
    assert row.pool_id == "pool"
    new.take_in(old.moved[0])
    new.do(e.JobEnableRequested(at=new.now, job_id="job"))
    assert new.task("t").state is TaskState.PREPARING
    new.run_special(TaskKind.JOB_PREPARATION)
    assert [start.task.id for start in new.started] == ["t"]
    new.start("t")
    new.end("t")
    new.do(e.JobTerminateRequested(at=new.now, job_id="job", reason="UserTerminate"))
    new.run_special(TaskKind.JOB_RELEASE)
    assert new.job().state is JobState.COMPLETED
    assert {known.pool_id for known in new.job_nodes.values()} == {"pool", "other"}


def test_a_preparation_that_runs_is_stopped_and_the_job_can_come_back() -> None:
    old, new = worlds()
    old.add_job(preparation=JobPreparationRules())
    old.add_tasks("t")
    assert len(old.specials) == 1
    disable(old)
    old.confirm_stops()
    assert old.job().state is JobState.DISABLED
    old.specials.clear()
    move(old)
    assert len(old.stopped) == 1
    new.take_in(old.moved[0])
    move(new, "pool")
    old.take_in(new.moved[0])
    assert old.state.jobs["job"].stopping == 1
    old.confirm_stops()
    assert old.state.jobs["job"].stopping == 0
    old.do(e.JobEnableRequested(at=old.now, job_id="job"))
    old.run_special(TaskKind.JOB_PREPARATION)
    old.start("t")


def test_the_auto_pool_it_leaves_goes_unless_it_is_kept() -> None:
    for keep in (False, True):
        world = World()
        job = new_job()
        job.auto_pool = AutoPool(keep_alive=keep)
        world.do(e.JobAdded(at=world.now, job=job, auto_pool=new_pool(1)))
        disable(world)
        move(world)
        assert world.pool is not None
        assert world.pool.state is (PoolState.ACTIVE if keep else PoolState.DELETING)
        assert world.moved[0].job.auto_pool is None


def test_to_a_pool_that_does_not_exist_yet() -> None:
    old, _ = worlds()
    old.add_job()
    old.add_tasks("t")
    disable(old)
    old.confirm_stops()
    move(old, "later")
    later = World("later")
    later.take_in(old.moved[0])
    later.do(e.JobEnableRequested(at=later.now, job_id="job"))
    later.add_pool(1, pool_id="later")
    assert [start.task.id for start in later.started] == ["t"]
