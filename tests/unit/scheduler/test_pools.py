"""Pools and nodes: resize, stop, time-out, delete, healing (Azure Batch: pool and allocation states)."""

import pytest

from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.states import AllocationState, NodeDeallocationOption, NodeState, PoolState
from tests.unit.scheduler.world import World, new_pool


def resize(world: World, target: int | None, spot: int | None = None) -> None:
    world.do(
        e.PoolResizeRequested(
            at=world.now, target_dedicated_nodes=target, target_low_priority_nodes=spot, resize_timeout_s=300.0
        )
    )


def refusal(world: World, event: e.Event) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        world.do(event)
    return caught.value.code


def test_a_pool_resizes_until_its_nodes_are_there() -> None:
    world = World()
    world.add_pool(nodes=2, spot=1, connect=False)
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.RESIZING
    assert world.timers["resize"] == world.now + 900.0
    assert {node.row.state for node in world.state.nodes.values()} == {NodeState.CREATING}
    assert sorted(node.row.id[-1] for node in world.state.nodes.values()) == ["d", "d", "p"]
    world.connect_all()
    assert pool.allocation_state is AllocationState.STEADY
    assert world.timers["resize"] is None
    assert {node.row.state for node in world.state.nodes.values()} == {NodeState.IDLE}


def test_a_pool_of_no_nodes_is_steady_at_once() -> None:
    world = World()
    world.add_pool(nodes=0)
    assert world.state.pool is not None
    assert world.state.pool.allocation_state is AllocationState.STEADY


def test_resize_needs_a_steady_pool_and_leaves_the_other_kind_alone() -> None:
    world = World()
    assert (
        refusal(world, e.PoolResizeRequested(at=world.now, target_dedicated_nodes=1, resize_timeout_s=300.0))
        is ErrorCode.POOL_NOT_FOUND
    )
    world.add_pool(nodes=1, spot=1, connect=False)
    event = e.PoolResizeRequested(at=world.now, target_dedicated_nodes=3, resize_timeout_s=300.0)
    assert refusal(world, event) is ErrorCode.POOL_BEING_RESIZED
    world.connect_all()
    resize(world, 3)
    world.connect_all()
    assert sorted(node.row.is_dedicated for node in world.state.nodes.values()) == [False, True, True, True]


def test_shrinking_takes_idle_nodes_first() -> None:
    world = World()
    world.add_pool(nodes=3)
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    busy = world.task("a").node_id
    resize(world, 1)
    world.release_all()
    assert list(world.state.nodes) == [busy]


def test_stop_resize_keeps_what_was_reached() -> None:
    world = World()
    world.add_pool(nodes=3, connect=False)
    first = world.to_create.pop(0)
    world.do(e.NodeProvisioned(at=world.now, node_id=first, handle="h"))
    world.do(e.PoolResizeStopRequested(at=world.now))
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.STOPPING
    world.release_all()
    assert list(world.state.nodes) == [first]
    assert pool.allocation_state is AllocationState.STEADY
    assert [error.code for error in pool.resize_errors] == ["ResizeStopped"]
    assert refusal(world, e.PoolResizeStopRequested(at=world.now)) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    resize(world, 1)
    assert pool.resize_errors == ()


def test_a_resize_that_takes_too_long_is_given_up() -> None:
    world = World()
    world.add_pool(nodes=2, connect=False)
    deadline = world.timers["resize"]
    assert deadline is not None
    world.do(e.PoolResizeTimedOut(at=deadline, deadline=deadline - 1))
    assert world.state.pool is not None
    assert world.state.pool.resize_errors == (), "a stale timer"
    world.do(e.PoolResizeTimedOut(at=deadline, deadline=deadline))
    world.release_all()
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.STEADY
    assert [error.code for error in pool.resize_errors] == ["AllocationTimedOut"]
    assert pool.target_dedicated_nodes == 2


def test_what_the_provider_refuses_becomes_a_resize_error() -> None:
    world = World()
    world.add_pool(nodes=2, connect=False)
    for node_id in world.to_create:
        world.do(e.NodeProvisionFailed(at=world.now, node_id=node_id, code="AllocationFailed", message="no room"))
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.STEADY
    assert [(error.code, error.message) for error in pool.resize_errors] == [("AllocationFailed", "no room")]
    assert world.state.nodes == {}


def test_draining_nodes_come_back_when_the_target_rises_again() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    world.do(
        e.PoolResizeRequested(
            at=world.now,
            target_dedicated_nodes=0,
            resize_timeout_s=300.0,
            node_deallocation_option=NodeDeallocationOption.TASK_COMPLETION,
        )
    )
    assert world.state.pool is not None
    assert world.state.pool.allocation_state is AllocationState.RESIZING
    world.do(e.PoolResizeStopRequested(at=world.now))
    resize(world, 1)
    assert world.to_create == []
    world.add_tasks("b")
    world.end("a")
    assert world.task("b").node_id is not None


def test_a_deleted_pool_goes_when_its_nodes_are_gone() -> None:
    world = World()
    world.add_pool(nodes=2)
    world.do(e.PoolDeleteRequested(at=world.now))
    pool = world.state.pool
    assert pool is not None
    assert pool.state is PoolState.DELETING
    assert refusal(world, e.PoolDeleteRequested(at=world.now)) is ErrorCode.POOL_BEING_DELETED
    assert refusal(world, e.PoolAdded(at=world.now, pool=new_pool(1))) is ErrorCode.POOL_BEING_DELETED
    world.release_all()
    assert world.state.pool is None
    assert world.pool is None
    assert refusal(world, e.PoolDeleteRequested(at=world.now)) is ErrorCode.POOL_NOT_FOUND


def test_an_existing_pool_is_not_made_twice() -> None:
    world = World()
    world.add_pool(nodes=0)
    assert refusal(world, e.PoolAdded(at=world.now, pool=new_pool(1, pool_id="POOL"))) is ErrorCode.POOL_EXISTS


def test_a_node_that_vanishes_is_made_again_under_its_id() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    node_id = world.task("a").node_id or ""
    allocated = world.state.nodes[node_id].row.allocation_time
    world.tick(60)
    world.do(e.NodeGone(at=world.now, node_id=node_id))
    assert world.state.nodes[node_id].row.state is NodeState.CREATING
    assert world.task("a").node_id is None
    assert world.connect_all() == [node_id]
    assert world.state.nodes[node_id].row.allocation_time == allocated
    assert (world.task("a").node_id, world.task("a").attempt, world.task("a").retry_count) == (node_id, 2, 0)


def test_a_node_released_before_the_provider_answered_is_released_again_with_its_handle() -> None:
    world = World()
    world.add_pool(nodes=1, connect=False)
    (node_id,) = world.to_create
    world.do(e.PoolDeleteRequested(at=world.now))
    assert world.to_release == [node_id]
    world.do(e.NodeProvisioned(at=world.now, node_id=node_id, handle="late"))
    assert world.to_release == [node_id, node_id]
    world.connect(node_id)
    assert world.state.nodes[node_id].row.state is NodeState.LEAVING_POOL
