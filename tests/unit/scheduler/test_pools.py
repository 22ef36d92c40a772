"""Pools and nodes: resize, stop, time-out, delete, healing (Azure Batch: pool and allocation states)."""

import pytest

from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.pool import PoolChanges
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import (
    AllocationState,
    JobDefaultOrder,
    NodeDeallocationOption,
    NodeFillType,
    NodeState,
    PoolState,
)
from millpond.domain.task import TaskRules
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


def remove(world: World, *node_ids: str, option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE) -> None:
    world.do(
        e.NodesRemoveRequested(at=world.now, node_ids=node_ids, resize_timeout_s=300.0, node_deallocation_option=option)
    )


def test_removing_nodes_lowers_the_targets() -> None:
    world = World()
    world.add_pool(nodes=2, spot=2)
    dedicated = sorted(node_id for node_id in world.state.nodes if node_id.endswith("_d"))
    spot = sorted(node_id for node_id in world.state.nodes if node_id.endswith("_p"))
    remove(world, dedicated[0], spot[1], spot[1])
    pool = world.state.pool
    assert pool is not None
    assert (pool.target_dedicated_nodes, pool.target_low_priority_nodes) == (1, 1)
    assert pool.allocation_state is AllocationState.RESIZING
    assert world.timers["resize"] == world.now + 300.0
    world.release_all()
    assert pool.allocation_state is AllocationState.STEADY
    assert sorted(world.state.nodes) == sorted([dedicated[1], spot[0]])
    assert world.to_create == []


def test_removing_a_node_that_is_not_there_removes_none() -> None:
    world = World()
    world.add_pool(nodes=1)
    (node_id,) = world.state.nodes
    event = e.NodesRemoveRequested(at=world.now, node_ids=(node_id, "tvmps_0_d"), resize_timeout_s=300.0)
    assert refusal(world, event) is ErrorCode.NODE_NOT_FOUND
    assert world.to_release == []


def test_removing_needs_a_steady_pool() -> None:
    world = World()
    event = e.NodesRemoveRequested(at=world.now, node_ids=(), resize_timeout_s=300.0)
    assert refusal(world, event) is ErrorCode.POOL_NOT_FOUND
    world.add_pool(nodes=1, connect=False)
    assert refusal(world, event) is ErrorCode.POOL_BEING_RESIZED
    world.do(e.PoolDeleteRequested(at=world.now))
    assert refusal(world, event) is ErrorCode.POOL_BEING_DELETED


def test_removing_does_not_make_up_for_what_an_earlier_resize_lacks() -> None:
    world = World()
    world.add_pool(nodes=2, connect=False)
    first, second = world.to_create
    world.to_create.clear()
    world.do(e.NodeProvisioned(at=world.now, node_id=first, handle="h"))
    world.connect(first)
    world.do(e.NodeProvisionFailed(at=world.now, node_id=second, code="AllocationFailed", message="no room"))
    remove(world, first)
    assert world.to_create == []
    assert world.state.pool is not None
    assert world.state.pool.target_dedicated_nodes == 1
    assert world.state.pool.resize_errors == ()


def test_a_removal_by_taskcompletion_lasts_until_the_tasks_end() -> None:
    world = World()
    world.add_pool(nodes=1)
    (node_id,) = world.state.nodes
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    remove(world, node_id, option=NodeDeallocationOption.TASK_COMPLETION)
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.RESIZING
    world.end("a")
    assert world.to_release == [node_id]


def test_a_removal_that_takes_too_long_is_called_off_and_the_node_works_on() -> None:
    world = World()
    world.add_pool(nodes=1)
    (node_id,) = world.state.nodes
    world.add_job()
    world.add_tasks("a", "b")
    world.start("a")
    remove(world, node_id, option=NodeDeallocationOption.TASK_COMPLETION)
    world.confirm_stops()
    deadline = world.timers["resize"]
    assert deadline is not None
    world.now = deadline
    world.do(e.PoolResizeTimedOut(at=deadline, deadline=deadline))
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.STEADY
    assert [error.code for error in pool.resize_errors] == ["AllocationTimedOut"]
    assert "removed" in pool.resize_errors[0].message
    world.end("a")
    assert world.task("b").node_id == node_id


def test_retaineddata_lets_nodes_go_when_the_last_files_may() -> None:
    world = World()
    world.add_pool(nodes=2)
    world.add_job()
    world.add_tasks("a", rules=TaskRules(retention_s=200.0))
    world.start("a")
    used = world.task("a").node_id or ""
    (unused,) = set(world.state.nodes) - {used}
    world.end("a")
    until = world.now + 200.0
    remove(world, used, unused, option=NodeDeallocationOption.RETAINED_DATA)
    assert world.to_release == [unused]
    world.release_all()
    assert world.timers[f"retention {used}"] == until
    world.add_tasks("b")
    assert world.task("b").node_id is None
    world.now = until
    world.do(e.NodeRetentionPassed(at=until, node_id=used, deadline=until))
    assert world.to_release == [used]


def test_a_stopped_resize_calls_off_what_waits_for_retained_data() -> None:
    world = World()
    world.add_pool(nodes=1)
    (node_id,) = world.state.nodes
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    world.end("a")
    remove(world, node_id, option=NodeDeallocationOption.RETAINED_DATA)
    assert world.timers[f"retention {node_id}"] is not None
    world.do(e.PoolResizeStopRequested(at=world.now))
    assert world.timers[f"retention {node_id}"] is None
    assert world.state.pool is not None
    assert world.state.pool.allocation_state is AllocationState.STEADY
    world.add_tasks("b")
    assert world.task("b").node_id == node_id


def test_pool_delete_waits_for_no_retained_data_and_no_mute_node() -> None:
    world = World()
    world.add_pool(nodes=2)
    world.add_job()
    world.add_tasks("a", "b")
    world.start("a")
    world.start("b")
    kept, mute = world.task("a").node_id or "", world.task("b").node_id or ""
    world.end("a")
    remove(world, kept, option=NodeDeallocationOption.RETAINED_DATA)
    world.do(e.NodeSilent(at=world.now, node_id=mute))
    world.do(e.PoolDeleteRequested(at=world.now))
    assert sorted(world.to_release) == sorted([kept, mute])
    assert world.task("b").requeue_count == 1
    world.release_all()
    assert world.state.pool is None


def test_a_node_that_never_answers_does_not_hold_up_a_removal_by_taskcompletion() -> None:
    world = World()
    world.add_pool(nodes=1)
    (node_id,) = world.state.nodes
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    remove(world, node_id, option=NodeDeallocationOption.TASK_COMPLETION)
    world.do(e.NodeSilent(at=world.now, node_id=node_id))
    world.do(e.NodeLost(at=world.now, node_id=node_id))
    assert world.to_release == [node_id]


def test_a_provider_that_does_not_let_go_does_not_hold_up_the_pool() -> None:
    world = World()
    world.add_pool(nodes=2)
    resize(world, 1)
    deadline = world.timers["resize"]
    assert deadline is not None
    world.now = deadline
    world.do(e.PoolResizeTimedOut(at=deadline, deadline=deadline))
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.STEADY
    resize(world, 2)
    assert len(world.to_create) == 1
    world.connect_all()
    world.release_all()
    assert pool.allocation_state is AllocationState.STEADY
    assert len(world.state.nodes) == 2


def test_a_stopped_resize_is_steady_at_the_latest_when_its_time_is_over() -> None:
    world = World()
    world.add_pool(nodes=1, connect=False)
    world.do(e.PoolResizeStopRequested(at=world.now))
    pool = world.state.pool
    assert pool is not None
    assert pool.allocation_state is AllocationState.STOPPING
    deadline = world.timers["resize"]
    assert deadline is not None
    world.now = deadline
    world.do(e.PoolResizeTimedOut(at=deadline, deadline=deadline))
    assert pool.allocation_state is AllocationState.STEADY
    assert [error.code for error in pool.resize_errors] == ["ResizeStopped"]


def update(world: World, changes: PoolChanges) -> None:
    world.do(e.PoolUpdated(at=world.tick(), changes=changes))


def test_a_new_start_task_is_for_nodes_that_boot_later() -> None:
    world = World()
    world.add_pool(nodes=1)
    (node_id,) = world.state.nodes
    update(world, PoolChanges({"startTask": {"commandLine": "x"}}, start_task=StartTaskRules()))
    pool = world.state.pool
    assert pool is not None
    assert pool.spec == {"startTask": {"commandLine": "x"}}
    assert world.specials == []
    assert world.state.nodes[node_id].row.state is NodeState.IDLE
    world.connect(node_id, boot_time=world.tick())
    assert world.state.nodes[node_id].row.state is NodeState.WAITING_FOR_START_TASK
    before = pool.last_modified
    update(world, PoolChanges({"startTask": None}, remove_start_task=True))
    assert (pool.start_task, pool.spec) == (None, {})
    assert pool.last_modified > before
    world.connect(node_id, boot_time=world.tick())
    assert world.state.nodes[node_id].row.state is NodeState.IDLE


def test_what_needs_an_empty_pool_is_changed_in_an_empty_pool_only() -> None:
    changes = PoolChanges(
        {"taskSlotsPerNode": 4},
        task_slots_per_node=4,
        vm_size="large",
        fill_type=NodeFillType.PACK,
        job_default_order=JobDefaultOrder.CREATION_TIME,
        inter_node_communication=True,
        needs_empty_pool=("taskSlotsPerNode", "vmSize"),
    )
    world = World()
    world.add_pool(nodes=1)
    event = e.PoolUpdated(at=world.now, changes=changes)
    assert refusal(world, event) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    resize(world, 0)
    world.release_all()
    update(world, changes)
    resize(world, 1)
    world.connect_all()
    (node,) = world.state.nodes.values()
    assert node.slots == 4
    pool = world.state.pool
    assert pool is not None
    assert (pool.vm_size, pool.fill_type, pool.job_default_order, pool.inter_node_communication) == (
        "large",
        NodeFillType.PACK,
        JobDefaultOrder.CREATION_TIME,
        True,
    )


def test_updates_of_pools_that_are_not_there_or_go() -> None:
    world = World()
    event = e.PoolUpdated(at=world.now, changes=PoolChanges({}))
    assert refusal(world, event) is ErrorCode.POOL_NOT_FOUND
    world.add_pool(nodes=1)
    world.do(e.PoolDeleteRequested(at=world.now))
    assert refusal(world, event) is ErrorCode.POOL_BEING_DELETED
