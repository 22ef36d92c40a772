"""Spot nodes: their machine is taken back, and they come back under the same id (Azure Batch: semantics 8)."""

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import (
    AllocationState,
    NodeDeallocationOption,
    NodeOperation,
    NodeState,
    TaskKind,
    TaskState,
)
from tests.unit.scheduler.test_node_operations import crash, operate, state_of
from tests.unit.scheduler.world import World


def spot_world(**more: object) -> tuple[World, str]:
    world = World()
    world.add_pool(nodes=0, spot=1, **more)
    (node_id,) = world.state.nodes
    return world, node_id


def preempt(world: World, node_id: str) -> None:
    world.do(e.NodePreempted(at=world.now, node_id=node_id))


def test_a_preempted_node_stays_listed_and_its_tasks_count_nothing() -> None:
    world, node_id = spot_world()
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    preempt(world, node_id)
    row = world.state.nodes[node_id].row
    assert (row.state, row.is_dedicated, row.running_tasks) == (NodeState.PREEMPTED, False, 0)
    task = world.task("a")
    assert (task.state, task.retry_count, task.requeue_count, task.node_id) == (TaskState.ACTIVE, 0, 0, None)
    pool = world.state.pool
    assert pool is not None
    assert (pool.allocation_state, pool.target_low_priority_nodes) == (AllocationState.STEADY, 1)


def test_it_is_made_again_under_its_id_and_runs_its_start_task_on_a_fresh_disk() -> None:
    world, node_id = spot_world(start_task=StartTaskRules())
    world.run_special(TaskKind.START_TASK)
    row = world.state.nodes[node_id].row
    allocated, disk_time = row.allocation_time, row.disk_time
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    world.tick(60)
    preempt(world, node_id)
    assert world.to_create == [node_id]
    world.do(e.NodeProvisioned(at=world.now, node_id=node_id, handle="new"))
    assert (row.state, row.handle) == (NodeState.STARTING, "new")
    world.connect(node_id, boot_time=world.tick())
    assert row.state is NodeState.WAITING_FOR_START_TASK
    world.run_special(TaskKind.START_TASK)
    assert row.disk_time != disk_time
    assert row.allocation_time == allocated
    assert (world.task("a").node_id, world.task("a").attempt) == (node_id, 2)


def test_its_tasks_run_elsewhere_meanwhile() -> None:
    world = World()
    world.add_pool(nodes=1, spot=1)
    spot = next(node_id for node_id in world.state.nodes if node_id.endswith("_p"))
    other = next(node_id for node_id in world.state.nodes if node_id.endswith("_d"))
    world.add_job()
    world.add_tasks("a", "b")
    for task_id in ("a", "b"):
        world.start(task_id)
    mine = next(task_id for task_id in ("a", "b") if world.task(task_id).node_id == spot)
    theirs = "b" if mine == "a" else "a"
    preempt(world, spot)
    world.end(theirs)
    assert world.task(mine).node_id == other


def test_a_hello_of_the_new_machine_may_come_before_the_providers_answer() -> None:
    world, node_id = spot_world()
    preempt(world, node_id)
    world.connect(node_id)
    assert state_of(world, node_id) is NodeState.PREEMPTED, "the old machine's last words"
    world.connect(node_id, boot_time=world.tick())
    assert state_of(world, node_id) is NodeState.IDLE
    world.do(e.NodeProvisioned(at=world.now, node_id=node_id, handle="new"))
    assert (state_of(world, node_id), world.state.nodes[node_id].row.handle) == (NodeState.IDLE, "new")


def test_said_twice_it_is_preempted_once() -> None:
    world, node_id = spot_world()
    preempt(world, node_id)
    world.do(e.NodeProvisioned(at=world.now, node_id=node_id, handle="new"))
    world.to_create.clear()
    preempt(world, node_id)
    assert (state_of(world, node_id), world.to_create) == (NodeState.PREEMPTED, [node_id])
    preempt(world, node_id)
    assert world.to_create == [node_id]


def test_a_crash_while_it_is_preempted_asks_for_it_again() -> None:
    world, node_id = spot_world()
    preempt(world, node_id)
    effects = crash(world)
    assert [told.node.id for told in effects if isinstance(told, f.CreateNode)] == [node_id]


def test_silence_and_vanishing_say_nothing_new_of_a_preempted_node() -> None:
    world, node_id = spot_world()
    preempt(world, node_id)
    world.to_create.clear()
    for kind in (e.NodeSilent, e.NodeLost, e.NodeGone):
        world.do(kind(at=world.now, node_id=node_id))
    assert (state_of(world, node_id), world.to_create) == (NodeState.PREEMPTED, [])


@pytest.mark.parametrize("operation", [NodeOperation.REBOOT, NodeOperation.REIMAGE])
def test_a_restart_it_waited_for_is_made_up_for(operation: NodeOperation) -> None:
    world, node_id = spot_world()
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    operate(world, node_id, operation, NodeDeallocationOption.TASK_COMPLETION)
    preempt(world, node_id)
    assert world.connect_all() == [node_id]
    assert world.restarts == []
    assert world.task("a").node_id == node_id


def test_preempted_while_it_drains_it_leaves_or_is_deallocated() -> None:
    for operation, after in (
        (NodeOperation.DEALLOCATE, NodeState.DEALLOCATING),
        (NodeOperation.REMOVE, NodeState.LEAVING_POOL),
    ):
        world, node_id = spot_world()
        world.add_job()
        world.add_tasks("a")
        world.start("a")
        option = NodeDeallocationOption.TASK_COMPLETION
        if operation is NodeOperation.DEALLOCATE:
            operate(world, node_id, operation, option)
        else:
            world.do(
                e.PoolResizeRequested(
                    at=world.now,
                    target_low_priority_nodes=0,
                    resize_timeout_s=300.0,
                    node_deallocation_option=option,
                )
            )
        preempt(world, node_id)
        assert state_of(world, node_id) is after
        assert world.to_create == []
        assert world.to_release == [node_id]


def test_a_preempted_node_is_removed_without_being_made_first() -> None:
    world, node_id = spot_world()
    preempt(world, node_id)
    world.do(e.PoolResizeRequested(at=world.now, target_low_priority_nodes=0, resize_timeout_s=300.0))
    assert state_of(world, node_id) is NodeState.LEAVING_POOL
    assert world.state.nodes[node_id].row.handle, "by which the provider forgets it"
    world.release_all()
    assert world.state.nodes == {}


def test_preempted_nodes_leave_before_those_that_work() -> None:
    world = World()
    world.add_pool(nodes=0, spot=3)
    gone = sorted(world.state.nodes)[1]
    preempt(world, gone)
    world.do(e.PoolResizeRequested(at=world.now, target_low_priority_nodes=2, resize_timeout_s=300.0))
    assert world.to_release == [gone]
