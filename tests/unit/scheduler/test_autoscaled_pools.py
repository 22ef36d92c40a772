"""Pools that scale themselves: enabling, disabling, and what outcomes of formulas do (Azure Batch: autoscale)."""

from collections.abc import Callable

import pytest

from millpond.domain import events as e
from millpond.domain.autoscale import AutoScale, AutoScaleRun, AutoScaleRunError
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, DisableJobOption, NodeDeallocationOption, TaskState
from millpond.domain.task import TaskRules
from millpond.scheduler.state import TaskLoad
from tests.unit.scheduler.world import World, new_pool

FORMULA = "$TargetDedicatedNodes=1"


def scaled(slots: int = 1, *, inter_node: bool = False) -> World:
    """A pool that scales itself every 5 minutes, before its first run."""
    world = World()
    pool = new_pool(0, slots, inter_node=inter_node)
    pool.auto_scale = AutoScale(FORMULA, 300.0, 0.0, 0.0)
    world.do(e.PoolAdded(at=world.now, pool=pool))
    return world


def pool_of(world: World) -> Pool:
    assert world.state.pool is not None
    return world.state.pool


def scale_of(world: World) -> AutoScale:
    scale = pool_of(world).auto_scale
    assert scale is not None
    return scale


def ran(
    world: World,
    dedicated: int = 0,
    spot: int = 0,
    *,
    option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE,
    most: int | None = None,
    error: str | None = None,
    **more: object,
) -> object:
    """The formula has been evaluated: with that outcome."""
    failure = None if error is None else AutoScaleRunError(error, "…")
    run = AutoScaleRun(world.now, f"$TargetDedicatedNodes={dedicated}", failure)
    fields = {
        "at": world.now,
        "pool_no": pool_of(world).no,
        "since": scale_of(world).since,
        "run": run,
        "target_dedicated_nodes": dedicated,
        "target_low_priority_nodes": spot,
        "node_deallocation_option": option,
        "max_nodes": most,
    }
    return world.do(e.PoolAutoScaled(**{**fields, **more}))


def enable(world: World, formula: str | None = FORMULA, interval_s: float | None = None) -> None:
    world.do(e.PoolAutoScaleEnableRequested(at=world.now, formula=formula, interval_s=interval_s))


def refused(act: Callable[[], object]) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        act()
    return caught.value.code


# --- the first run ---------------------------------------------------------------------------------------------------


def test_a_new_pool_is_evaluated_at_once_and_then_at_its_interval() -> None:
    world = scaled()
    begun = world.now
    assert world.timers["autoscale"] == begun
    assert pool_of(world).allocation_state is AllocationState.STEADY
    world.tick(0.5)
    assert ran(world, 2) is True
    assert world.timers["autoscale"] == begun + 300.0
    assert scale_of(world).run == AutoScaleRun(begun + 0.5, "$TargetDedicatedNodes=2")
    assert pool_of(world).allocation_state is AllocationState.RESIZING
    assert len(world.to_create) == 2
    # A formula's resize takes the time it takes.
    assert world.timers["resize"] is None
    world.connect_all()
    assert pool_of(world).allocation_state is AllocationState.STEADY


def test_runs_missed_are_not_made_up_for() -> None:
    world = scaled()
    begun = world.now
    ran(world, 0)
    world.tick(300.0 * 7.5)
    ran(world, 0)
    assert world.timers["autoscale"] == begun + 300.0 * 8


def test_a_run_between_does_not_move_the_schedule() -> None:
    world = scaled()
    begun = world.now
    ran(world, 0)
    world.tick(100.0)
    ran(world, 1)
    assert world.timers["autoscale"] == begun + 300.0
    assert pool_of(world).target_dedicated_nodes == 1


def test_the_timer_is_set_again_when_memory_is_rebuilt() -> None:
    world = scaled()
    ran(world, 0)
    assert world.rebuilt().pool == pool_of(world)
    assert ("autoscale", world.timers["autoscale"]) in world.rebuilt_timers()


# --- outcomes --------------------------------------------------------------------------------------------------------


def test_an_outcome_that_changes_nothing_begins_no_resize() -> None:
    world = scaled()
    ran(world, 1, 1)
    world.connect_all()
    modified = pool_of(world).last_modified
    world.tick(300)
    ran(world, 1, 1, option=NodeDeallocationOption.TERMINATE)
    assert pool_of(world).allocation_state is AllocationState.STEADY
    assert pool_of(world).last_modified == modified
    assert scale_of(world).run is not None
    assert scale_of(world).run.timestamp == world.now


def test_a_failed_evaluation_changes_nothing_but_the_run() -> None:
    world = scaled()
    ran(world, 2)
    world.connect_all()
    world.tick(300)
    ran(world, 0, error="InsufficientSampleData")
    assert pool_of(world).target_dedicated_nodes == 2
    assert pool_of(world).allocation_state is AllocationState.STEADY
    assert scale_of(world).run is not None
    assert scale_of(world).run.error == AutoScaleRunError("InsufficientSampleData", "…")
    assert world.timers["autoscale"] == world.now + 300.0


@pytest.mark.parametrize("what", ["pool", "since"])
def test_the_outcome_of_what_has_gone_does_not_count(what: str) -> None:
    world = scaled()
    before = pool_of(world).auto_scale
    stale: dict[str, object] = {"pool_no": 77} if what == "pool" else {"since": 5.0}
    assert ran(world, 3, **stale) is False
    assert pool_of(world).auto_scale == before
    assert pool_of(world).target_dedicated_nodes == 0


def test_the_outcome_for_a_pool_that_is_deleted_or_fixed_now_does_not_count() -> None:
    world = scaled()
    since = scale_of(world).since
    event = e.PoolAutoScaled(
        at=world.now, pool_no=1, since=since, run=AutoScaleRun(world.now, ""), target_dedicated_nodes=2
    )
    world.do(e.PoolAutoScaleDisableRequested(at=world.now))
    assert world.do(event) is False
    assert world.timers["autoscale"] is None
    ran_pool = scaled()
    ran(ran_pool, 1)
    ran_pool.do(e.PoolDeleteRequested(at=ran_pool.now))
    assert ran_pool.timers["autoscale"] is None
    assert ran(ran_pool, 3) is False
    ran_pool.release_all()
    assert ran_pool.do(event) is False


@pytest.mark.parametrize(
    ("option", "state"),
    [
        (NodeDeallocationOption.REQUEUE, TaskState.ACTIVE),
        (NodeDeallocationOption.TERMINATE, TaskState.COMPLETED),
        (NodeDeallocationOption.TASK_COMPLETION, TaskState.RUNNING),
    ],
)
def test_nodes_leave_as_the_formula_says(option: NodeDeallocationOption, state: TaskState) -> None:
    world = scaled()
    ran(world, 1)
    world.connect_all()
    world.add_job()
    world.add_tasks("t")
    world.start("t")
    world.tick(300)
    ran(world, 0, option=option)
    assert world.task("t").state is state
    assert bool(world.to_release) is (state is not TaskState.RUNNING)


def test_draining_nodes_come_back_when_the_target_rises() -> None:
    world = scaled()
    ran(world, 2)
    world.connect_all()
    world.add_job()
    world.add_tasks("a", "b")
    world.start("a")
    world.start("b")
    ran(world, 0, option=NodeDeallocationOption.TASK_COMPLETION)
    nodes = list(world.state.nodes.values())
    assert all(node.row.removal is not None for node in nodes)
    # Hours later they still drain, and nothing has timed out.
    world.tick(7200)
    assert pool_of(world).allocation_state is AllocationState.RESIZING
    ran(world, 3, option=NodeDeallocationOption.TASK_COMPLETION)
    assert all(node.row.removal is None for node in nodes)
    assert len(world.to_create) == 1
    world.connect_all()
    assert pool_of(world).allocation_state is AllocationState.STEADY
    assert {world.task("a").state, world.task("b").state} == {TaskState.RUNNING}


def test_targets_are_replaced_while_the_last_resize_still_runs() -> None:
    world = scaled()
    ran(world, 5)
    assert len(world.to_create) == 5
    world.tick(10)
    ran(world, 1)
    # Those the provider has not made are given up.
    staying = [node for node in world.state.nodes.values() if node.row.removal is None]
    assert len(staying) == 1
    assert pool_of(world).target_dedicated_nodes == 1


def test_nothing_is_begun_while_a_resize_is_being_stopped() -> None:
    world = scaled()
    ran(world, 1)
    world.connect_all()
    ran(world, 3)
    made = world.to_create.pop()
    world.do(e.NodeProvisioned(at=world.now, node_id=made, handle="h"))
    world.do(e.PoolResizeStopRequested(at=world.now))
    assert pool_of(world).allocation_state is AllocationState.STOPPING
    ran(world, 2)
    assert pool_of(world).target_dedicated_nodes == 3
    world.release_all()
    assert pool_of(world).allocation_state is AllocationState.STEADY
    ran(world, 2)
    assert pool_of(world).target_dedicated_nodes == 2


def test_no_formula_gets_more_nodes_than_a_pool_may_have() -> None:
    world = scaled()
    ran(world, 2, 5, most=4)
    assert (pool_of(world).target_dedicated_nodes, pool_of(world).target_low_priority_nodes) == (2, 2)
    assert [error.code for error in pool_of(world).resize_errors] == ["AccountCoreQuotaReached"]
    world.connect_all()
    ran(world, 9, 5, most=4)
    assert (pool_of(world).target_dedicated_nodes, pool_of(world).target_low_priority_nodes) == (4, 0)
    world.connect_all()
    world.release_all()
    ran(world, 9, 5, most=4)
    assert pool_of(world).allocation_state is AllocationState.STEADY
    assert [error.code for error in pool_of(world).resize_errors] == ["AccountCoreQuotaReached"]
    ran(world, 3, most=4)
    assert pool_of(world).resize_errors == ()


# --- what users ask --------------------------------------------------------------------------------------------------


def test_enabling_begins_a_schedule_and_does_not_evaluate() -> None:
    world = World()
    world.add_pool(nodes=2)
    before = pool_of(world).last_modified
    enable(world, interval_s=600.0)
    assert scale_of(world) == AutoScale(FORMULA, 600.0, world.now, world.now + 600.0)
    assert world.timers["autoscale"] == world.now + 600.0
    assert pool_of(world).last_modified > before
    assert pool_of(world).target_dedicated_nodes == 2


def test_enabling_without_an_interval_takes_fifteen_minutes() -> None:
    world = World()
    world.add_pool(nodes=0)
    enable(world)
    assert scale_of(world).interval_s == 900.0


def test_a_formula_alone_keeps_the_schedule_and_an_interval_begins_a_new_one() -> None:
    world = scaled()
    ran(world, 0)
    due = world.timers["autoscale"]
    world.tick(100)
    enable(world, "$x=1")
    assert (scale_of(world).formula, scale_of(world).next_run) == ("$x=1", due)
    assert scale_of(world).since == world.now
    assert scale_of(world).run is not None
    world.tick(31)
    enable(world, None, 1000.0)
    assert (scale_of(world).formula, scale_of(world).next_run) == ("$x=1", world.now + 1000.0)
    assert scale_of(world).run is not None


def test_enabling_too_often_is_refused_also_when_disabled_between() -> None:
    world = World()
    world.add_pool(nodes=0)
    enable(world)
    world.tick(29)
    assert refused(lambda: enable(world)) is ErrorCode.TOO_MANY_ENABLE_AUTO_SCALE_REQUESTS
    world.do(e.PoolAutoScaleDisableRequested(at=world.now))
    assert refused(lambda: enable(world)) is ErrorCode.TOO_MANY_ENABLE_AUTO_SCALE_REQUESTS
    world.tick(1)
    enable(world)


def test_enabling_needs_something_to_enable() -> None:
    world = World()
    assert refused(lambda: enable(world)) is ErrorCode.POOL_NOT_FOUND
    world.add_pool(nodes=0)
    assert refused(lambda: enable(world, None, 300.0)) is ErrorCode.MISSING_REQUIRED_PROPERTY
    enable(world)
    world.tick(40)
    assert refused(lambda: enable(world, None, None)) is ErrorCode.MISSING_REQUIRED_PROPERTY


def test_a_pool_that_is_resized_or_deleted_cannot_be_enabled() -> None:
    world = World()
    world.add_pool(nodes=1, connect=False)
    assert refused(lambda: enable(world)) is ErrorCode.POOL_BEING_RESIZED
    world.do(e.PoolDeleteRequested(at=world.now))
    assert refused(lambda: enable(world)) is ErrorCode.POOL_BEING_DELETED
    assert refused(lambda: world.do(e.PoolAutoScaleDisableRequested(at=world.now))) is ErrorCode.POOL_BEING_DELETED


def test_a_pool_that_scales_itself_cannot_be_resized_by_hand() -> None:
    world = scaled()
    event = e.PoolResizeRequested(at=world.now, target_dedicated_nodes=1, resize_timeout_s=300.0)
    assert refused(lambda: world.do(event)) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    world.do(e.PoolAutoScaleDisableRequested(at=world.now))
    world.do(event)
    assert pool_of(world).target_dedicated_nodes == 1


def test_disabling_keeps_the_size_and_a_resize_under_way() -> None:
    world = scaled()
    ran(world, 2)
    world.do(e.PoolAutoScaleDisableRequested(at=world.now))
    assert pool_of(world).auto_scale is None
    assert pool_of(world).target_dedicated_nodes == 2
    world.connect_all()
    assert len(world.state.nodes) == 2
    modified = pool_of(world).last_modified
    world.do(e.PoolAutoScaleDisableRequested(at=world.now + 5))
    assert pool_of(world).last_modified == modified


# --- the load --------------------------------------------------------------------------------------------------------


def test_the_load_counts_what_is_ready_runs_and_is_done() -> None:
    world = scaled(slots=4)
    world.add_job(dependencies=True)
    world.add_tasks("a", slots=3)
    world.add_tasks("b", slots=2, rules=TaskRules(depends_on_ids=("a",)))
    world.add_job("other")
    world.add_tasks("c", "d", job="other")
    assert world.state.load == TaskLoad(active=3, active_slots=5)
    ran(world, 1)
    world.connect_all()
    world.start("a")
    world.start("c", "other")
    assert world.state.load == TaskLoad(active=1, active_slots=1, running=2, running_slots=4)
    world.end("a")
    assert world.state.load == TaskLoad(active=2, active_slots=3, running=1, running_slots=1, succeeded=1)
    world.end("c", 1, job="other")
    assert world.state.load == TaskLoad(active=2, active_slots=3, succeeded=1, failed=1)


def test_disabled_jobs_are_no_load_but_for_what_still_runs() -> None:
    world = scaled()
    world.add_job()
    world.add_tasks("a", "b")
    ran(world, 1)
    world.connect_all()
    world.start("a")
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=DisableJobOption.WAIT))
    assert world.state.load == TaskLoad(running=1, running_slots=1)
    world.end("a")
    assert world.state.load == TaskLoad(succeeded=1)
    world.confirm_stops()
    world.do(e.JobEnableRequested(at=world.now, job_id="job"))
    assert world.state.load == TaskLoad(active=1, active_slots=1, succeeded=1)


def test_a_multi_instance_task_counts_its_instances() -> None:
    world = scaled(inter_node=True)
    world.add_job(dependencies=True)
    world.add_tasks("a")
    world.add_tasks("mpi", rules=TaskRules(instances=3))
    world.add_tasks("later", rules=TaskRules(instances=5, depends_on_ids=("a",)))
    assert world.state.load == TaskLoad(active=4, active_slots=4)
    ran(world, 4)
    world.connect_all()
    world.end("a")
    world.start_all("mpi")
    assert world.state.load == TaskLoad(active=5, active_slots=5, running=3, running_slots=3, succeeded=1)
    world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
    world.purge_all()
    assert world.state.load == TaskLoad()
