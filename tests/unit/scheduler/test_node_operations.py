"""Reboot, reimage, deallocate, start, scheduling on and off: which states take them, what becomes of tasks, and that
each survives a crash (Azure Batch: semantics 1.2, 9)."""

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import (
    NodeDeallocationOption,
    NodeOperation,
    NodeState,
    SchedulingState,
    TaskKind,
    TaskState,
)
from millpond.domain.task import TaskRules
from millpond.scheduler.rebuild import rebuild
from tests.unit.scheduler.world import World

DAY_S = 86400.0
REQUEUE = NodeDeallocationOption.REQUEUE
TERMINATE = NodeDeallocationOption.TERMINATE
COMPLETION = NodeDeallocationOption.TASK_COMPLETION
RETAINED = NodeDeallocationOption.RETAINED_DATA


def operate(
    world: World,
    node_id: str,
    operation: NodeOperation,
    option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE,
) -> None:
    world.do(e.NodeOperationRequested(at=world.now, node_id=node_id, operation=operation, option=option))


def disable(world: World, node_id: str, option: NodeDeallocationOption = NodeDeallocationOption.REQUEUE) -> None:
    world.do(e.NodeSchedulingDisableRequested(at=world.now, node_id=node_id, option=option))


def enable(world: World, node_id: str) -> None:
    world.do(e.NodeSchedulingEnableRequested(at=world.now, node_id=node_id))


def start(world: World, node_id: str) -> None:
    world.do(e.NodeStartRequested(at=world.now, node_id=node_id))


def refusal(world: World, event: e.Event) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        world.do(event)
    return caught.value.code


def state_of(world: World, node_id: str) -> NodeState:
    return world.state.nodes[node_id].row.state


def one_node(**more: object) -> tuple[World, str]:
    world = World()
    world.add_pool(nodes=1, **more)
    (node_id,) = world.state.nodes
    return world, node_id


def one_running_task(**more: object) -> tuple[World, str]:
    world, node_id = one_node(**more)
    world.add_job()
    world.add_tasks("a")
    world.start("a")
    return world, node_id


def crash(world: World) -> list[f.Effect]:
    """The engine's memory is lost and built anew from rows: what that brings about."""
    state, effects = rebuild(
        "account",
        "pool",
        world.now,
        pool=world.pool,
        nodes=list(world.nodes.values()),
        job_rows=list(world.jobs.values()),
        task_rows=[world.tasks[key] for key in sorted(world.tasks)],
        job_nodes=list(world.job_nodes.values()),
    )
    world.state = state
    return effects


# --- reboot and reimage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "wipe", "during"),
    [
        (NodeOperation.REBOOT, False, NodeState.REBOOTING),
        (NodeOperation.REIMAGE, True, NodeState.REIMAGING),
    ],
)
def test_a_restart_takes_the_node_out_and_brings_it_back(
    operation: NodeOperation, wipe: bool, during: NodeState
) -> None:
    world, node_id = one_node(start_task=StartTaskRules())
    world.run_special(TaskKind.START_TASK)
    boot_time = world.state.nodes[node_id].row.last_boot_time
    operate(world, node_id, operation)
    assert state_of(world, node_id) is during
    assert [(told.node.id, told.wipe) for told in world.restarts] == [(node_id, wipe)]
    world.restart_all()
    assert state_of(world, node_id) is NodeState.WAITING_FOR_START_TASK, "the start task runs again"
    world.run_special(TaskKind.START_TASK)
    assert state_of(world, node_id) is NodeState.IDLE
    assert world.state.nodes[node_id].row.last_boot_time != boot_time


def test_requeue_counts_and_the_task_runs_again_once_the_node_is_back() -> None:
    world, node_id = one_running_task()
    operate(world, node_id, NodeOperation.REBOOT)
    task = world.task("a")
    assert (task.state, task.requeue_count, task.retry_count, task.node_id) == (TaskState.ACTIVE, 1, 0, None)
    assert world.stopped == [], "the node ends all it runs by itself"
    world.restart_all()
    assert (task.node_id, task.attempt) == (node_id, 2)


def test_terminate_ends_what_runs() -> None:
    world, node_id = one_running_task()
    operate(world, node_id, NodeOperation.REIMAGE, TERMINATE)
    task = world.task("a")
    assert task.state is TaskState.COMPLETED
    assert task.failure is not None
    assert (task.failure.code, task.failure.message) == (
        "TaskEnded",
        "The task was ended because its node was reimaged",
    )


def test_taskcompletion_waits_and_gives_the_node_nothing_new() -> None:
    world, node_id = one_running_task(slots=2)
    world.add_tasks("b")
    operate(world, node_id, NodeOperation.REBOOT, COMPLETION)
    world.confirm_stops()
    assert state_of(world, node_id) is NodeState.RUNNING
    assert world.task("b").node_id is None, "what had not begun went back"
    assert world.task("b").requeue_count == 0
    assert world.restarts == []
    world.end("a")
    assert state_of(world, node_id) is NodeState.REBOOTING
    world.restart_all()
    assert world.task("b").node_id == node_id


def test_retaineddata_waits_for_the_files_too() -> None:
    world, node_id = one_node()
    world.add_job()
    world.add_tasks("a", rules=TaskRules(retention_s=100.0))
    world.start("a")
    operate(world, node_id, NodeOperation.REBOOT, RETAINED)
    world.tick(5)
    world.end("a")
    deadline = world.timers[f"retention {node_id}"]
    assert deadline == world.now + 100.0
    assert state_of(world, node_id) is NodeState.IDLE
    world.do(e.NodeRetentionPassed(at=world.now, node_id=node_id, deadline=deadline - 1))
    assert world.restarts == [], "a stale timer"
    world.now = deadline
    # Timers may ring a moment early.
    world.do(e.NodeRetentionPassed(at=deadline - 0.001, node_id=node_id, deadline=deadline))
    assert state_of(world, node_id) is NodeState.REBOOTING


def test_files_are_kept_a_week_unless_the_task_says_otherwise() -> None:
    world, node_id = one_running_task()
    world.end("a")
    assert world.state.nodes[node_id].row.retain_until == world.now + 7 * DAY_S
    world.tick()
    world.add_tasks("b", rules=TaskRules(retention_s=10.0))
    world.start("b")
    world.end("b")
    assert world.state.nodes[node_id].row.retain_until == world.now - 1 + 7 * DAY_S
    operate(world, node_id, NodeOperation.REBOOT)
    world.restart_all()
    assert world.state.nodes[node_id].row.retain_until is not None, "a reboot keeps the disk"
    operate(world, node_id, NodeOperation.REIMAGE)
    world.restart_all()
    assert world.state.nodes[node_id].row.retain_until is None


def test_an_agent_that_was_only_started_again_has_not_rebooted() -> None:
    world, node_id = one_running_task()
    operate(world, node_id, NodeOperation.REBOOT)
    world.restarts.clear()
    world.connect(node_id)
    assert state_of(world, node_id) is NodeState.REBOOTING
    assert [told.node.id for told in world.restarts] == [node_id], "it is told again, in its new session"
    assert world.task("a").node_id is None
    world.restart_all()
    assert world.task("a").node_id == node_id


def test_a_reimage_needs_a_new_disk_not_only_a_new_boot() -> None:
    world, node_id = one_node()
    disk_time = world.disk_times[node_id]
    operate(world, node_id, NodeOperation.REIMAGE)
    world.restarts.clear()
    world.connect(node_id, boot_time=world.tick(), disk_time=disk_time)
    assert state_of(world, node_id) is NodeState.REIMAGING
    world.restart_all()
    assert state_of(world, node_id) is NodeState.IDLE


def test_a_reimage_is_told_by_another_disk_whatever_the_nodes_clock_says() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.REIMAGE)
    world.connect(node_id, boot_time=world.now + 0.001, disk_time=world.now - 3600)
    assert state_of(world, node_id) is NodeState.IDLE


@pytest.mark.parametrize("operation", [NodeOperation.REBOOT, NodeOperation.REIMAGE])
def test_a_crash_during_a_restart_repeats_it(operation: NodeOperation) -> None:
    world, node_id = one_node()
    operate(world, node_id, operation)
    world.restarts.clear()
    effects = crash(world)
    assert [told.node.id for told in effects if isinstance(told, f.RestartNode)] == [node_id]
    world.connect(node_id)
    assert [told.node.id for told in world.restarts] == [node_id]
    world.restart_all()
    assert state_of(world, node_id) is NodeState.IDLE


def test_a_crash_while_the_node_drains_does_not_forget_the_reboot() -> None:
    world, node_id = one_running_task()
    task = world.task("a")
    operate(world, node_id, NodeOperation.REBOOT, COMPLETION)
    crash(world)
    world.connect(node_id, e.HeldAttempt(task.key, task.attempt, 1))
    assert state_of(world, node_id) is NodeState.RUNNING
    world.end("a")
    assert state_of(world, node_id) is NodeState.REBOOTING


def test_a_crash_while_files_are_retained_sets_the_timer_again() -> None:
    world, node_id = one_running_task()
    world.end("a")
    operate(world, node_id, NodeOperation.REBOOT, RETAINED)
    deadline = world.timers.pop(f"retention {node_id}")
    crash(world)
    world.connect(node_id)
    assert world.timers[f"retention {node_id}"] == deadline


def test_a_node_that_falls_silent_while_it_restarts_is_unknown_and_still_to_restart() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.REBOOT)
    world.do(e.NodeSilent(at=world.now, node_id=node_id))
    assert state_of(world, node_id) is NodeState.REBOOTING, "that is what a restart looks like"
    world.do(e.NodeLost(at=world.now, node_id=node_id))
    assert state_of(world, node_id) is NodeState.UNKNOWN
    world.restarts.clear()
    world.connect(node_id)
    assert state_of(world, node_id) is NodeState.REBOOTING
    world.do(e.NodeLost(at=world.now, node_id=node_id))
    world.connect(node_id, boot_time=world.tick())
    assert state_of(world, node_id) is NodeState.IDLE, "it came back from its restart, late"


def test_a_node_that_restarts_by_itself_while_it_drains_has_done_what_was_asked() -> None:
    world, node_id = one_running_task()
    operate(world, node_id, NodeOperation.REBOOT, COMPLETION)
    world.connect(node_id, boot_time=world.tick())
    assert world.restarts == []
    assert world.task("a").node_id == node_id
    assert world.task("a").requeue_count == 0, "nobody asked for that"


def test_a_machine_that_vanishes_while_it_restarts_is_made_again() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.REBOOT)
    world.do(e.NodeGone(at=world.now, node_id=node_id))
    assert world.connect_all() == [node_id]
    assert state_of(world, node_id) is NodeState.IDLE


def test_a_node_whose_start_task_failed_can_be_rebooted() -> None:
    world, node_id = one_node(start_task=StartTaskRules())
    world.run_special(TaskKind.START_TASK, exit_code=1)
    assert state_of(world, node_id) is NodeState.START_TASK_FAILED
    operate(world, node_id, NodeOperation.REBOOT)
    world.restart_all()
    world.run_special(TaskKind.START_TASK)
    assert state_of(world, node_id) is NodeState.IDLE


def test_a_node_that_hangs_in_its_start_task_can_be_rebooted() -> None:
    world, node_id = one_node(start_task=StartTaskRules())
    assert state_of(world, node_id) is NodeState.WAITING_FOR_START_TASK
    world.specials.clear()
    operate(world, node_id, NodeOperation.REBOOT)
    world.restart_all()
    assert [special.attempt for special in world.specials] == [2]


# --- which states take an operation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", [NodeOperation.REBOOT, NodeOperation.REIMAGE, NodeOperation.DEALLOCATE])
def test_states_that_refuse_an_operation(operation: NodeOperation) -> None:
    world = World()
    asked = e.NodeOperationRequested(at=world.now, node_id="tvmps_0_d", operation=operation)
    assert refusal(world, asked) is ErrorCode.POOL_NOT_FOUND
    world.add_pool(nodes=1, connect=False)
    assert refusal(world, asked) is ErrorCode.NODE_NOT_FOUND
    (node_id,) = world.state.nodes
    asked = e.NodeOperationRequested(at=world.now, node_id=node_id, operation=operation)
    assert refusal(world, asked) is ErrorCode.NODE_BEING_CREATED
    world.do(e.NodeProvisioned(at=world.now, node_id=node_id, handle="h"))
    assert refusal(world, asked) is ErrorCode.NODE_BEING_STARTED
    world.connect(node_id)
    operate(world, node_id, NodeOperation.REBOOT)
    assert refusal(world, asked) is ErrorCode.NODE_BEING_REBOOTED
    world.restart_all()
    operate(world, node_id, NodeOperation.REIMAGE)
    assert refusal(world, asked) is ErrorCode.NODE_BEING_REIMAGED
    world.restart_all()
    operate(world, node_id, NodeOperation.DEALLOCATE)
    assert refusal(world, asked) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    world.release_all()
    assert refusal(world, asked) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    world.do(e.PoolDeleteRequested(at=world.now))


def test_an_operation_that_waits_for_tasks_is_not_asked_for_twice() -> None:
    world, node_id = one_running_task()
    operate(world, node_id, NodeOperation.REBOOT, COMPLETION)
    again = e.NodeOperationRequested(at=world.now, node_id=node_id, operation=NodeOperation.DEALLOCATE)
    assert refusal(world, again) is ErrorCode.NODE_BEING_REBOOTED
    world.do(e.PoolDeleteRequested(at=world.now))
    assert refusal(world, again) is ErrorCode.POOL_BEING_DELETED


def test_a_mute_node_is_deallocated_but_not_rebooted() -> None:
    world, node_id = one_node()
    world.do(e.NodeLost(at=world.now, node_id=node_id))
    reboot = e.NodeOperationRequested(at=world.now, node_id=node_id, operation=NodeOperation.REBOOT)
    assert refusal(world, reboot) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    operate(world, node_id, NodeOperation.DEALLOCATE)
    world.release_all()
    assert state_of(world, node_id) is NodeState.DEALLOCATED


# --- deallocate and start -------------------------------------------------------------------------------------------


def test_a_deallocated_node_stays_in_the_pool_and_starts_under_its_id_with_a_fresh_disk() -> None:
    world, node_id = one_running_task()
    allocated = world.state.nodes[node_id].row.allocation_time
    operate(world, node_id, NodeOperation.DEALLOCATE)
    assert state_of(world, node_id) is NodeState.DEALLOCATING
    assert world.to_release == [node_id]
    assert refusal(world, e.NodeStartRequested(at=world.now, node_id=node_id)) is (
        ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
    )
    world.release_all()
    assert state_of(world, node_id) is NodeState.DEALLOCATED
    assert world.pool is not None
    assert (world.pool.target_dedicated_nodes, world.pool.allocation_state) == (1, "steady")
    assert world.to_create == []
    world.tick(100)
    start(world, node_id)
    assert state_of(world, node_id) is NodeState.STARTING
    assert refusal(world, e.NodeStartRequested(at=world.now, node_id=node_id)) is ErrorCode.NODE_BEING_STARTED
    assert world.connect_all() == [node_id]
    assert world.task("a").node_id == node_id
    assert world.state.nodes[node_id].row.allocation_time == allocated


def test_only_a_deallocated_node_starts() -> None:
    world, node_id = one_node()
    event = e.NodeStartRequested(at=world.now, node_id=node_id)
    assert refusal(world, event) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE


def test_the_last_words_of_a_machine_that_goes_change_nothing() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.DEALLOCATE)
    world.connect(node_id)
    assert state_of(world, node_id) is NodeState.DEALLOCATING
    world.release_all()
    world.connect(node_id, boot_time=world.tick())
    assert state_of(world, node_id) is NodeState.DEALLOCATED


def test_a_crash_while_a_node_is_deallocated_releases_it_again() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.DEALLOCATE)
    effects = crash(world)
    assert [told.node.id for told in effects if isinstance(told, f.ReleaseNode)] == [node_id]
    world.release_all()
    effects = crash(world)
    assert [told for told in effects if isinstance(told, f.CreateNode | f.ReleaseNode)] == []
    start(world, node_id)
    effects = crash(world)
    assert [told.node.id for told in effects if isinstance(told, f.CreateNode)] == [node_id]


def test_a_node_the_provider_refuses_to_start_is_deallocated_and_says_why() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.DEALLOCATE)
    world.release_all()
    start(world, node_id)
    world.do(e.NodeProvisionFailed(at=world.now, node_id=node_id, code="AllocationFailed", message="no room"))
    row = world.state.nodes[node_id].row
    assert row.state is NodeState.DEALLOCATED
    assert [(error.code, error.message) for error in row.errors] == [("AllocationFailed", "no room")]
    start(world, node_id)
    assert row.errors == ()


def test_a_machine_that_vanishes_while_it_drains_to_be_deallocated_is() -> None:
    world, node_id = one_running_task()
    operate(world, node_id, NodeOperation.DEALLOCATE, COMPLETION)
    world.do(e.NodeGone(at=world.now, node_id=node_id))
    assert state_of(world, node_id) is NodeState.DEALLOCATED
    assert world.to_create == []


def test_deallocated_nodes_leave_a_pool_at_once() -> None:
    world, node_id = one_node()
    operate(world, node_id, NodeOperation.DEALLOCATE)
    world.release_all()
    world.do(e.PoolDeleteRequested(at=world.now))
    assert world.to_release == []
    assert world.state.pool is None


# --- scheduling -----------------------------------------------------------------------------------------------------


def test_disabling_and_enabling_an_idle_node() -> None:
    world, node_id = one_node()
    disable(world, node_id)
    assert state_of(world, node_id) is NodeState.OFFLINE
    again = e.NodeSchedulingDisableRequested(at=world.now, node_id=node_id)
    assert refusal(world, again) is ErrorCode.NODE_ALREADY_IN_TARGET_SCHEDULING_STATE
    world.add_job()
    world.add_tasks("a")
    assert world.task("a").node_id is None
    enable(world, node_id)
    assert world.task("a").node_id == node_id
    again_enabled = e.NodeSchedulingEnableRequested(at=world.now, node_id=node_id)
    assert refusal(world, again_enabled) is ErrorCode.NODE_ALREADY_IN_TARGET_SCHEDULING_STATE


def test_disabling_with_requeue_kills_and_gives_back() -> None:
    world, node_id = one_running_task()
    disable(world, node_id)
    task = world.task("a")
    assert (task.state, task.requeue_count, task.node_id) == (TaskState.ACTIVE, 1, None)
    assert [stop.key for stop in world.stopped] == [task.key]
    assert state_of(world, node_id) is NodeState.OFFLINE
    world.confirm_stops()
    enable(world, node_id)
    assert (task.node_id, task.attempt) == (node_id, 2)


def test_disabling_with_terminate_ends_what_runs() -> None:
    world, node_id = one_running_task()
    disable(world, node_id, TERMINATE)
    failure = world.task("a").failure
    assert failure is not None
    assert failure.message == "The task was ended because scheduling was disabled on its node"
    world.confirm_stops()
    assert world.task("a").exit_code == -9


def test_disabling_with_taskcompletion_lets_tasks_end() -> None:
    world, node_id = one_running_task()
    world.add_tasks("b")
    disable(world, node_id, COMPLETION)
    world.confirm_stops()
    row = world.state.nodes[node_id].row
    assert (row.state, row.scheduling_state) == (NodeState.RUNNING, SchedulingState.DISABLED)
    world.end("a")
    assert state_of(world, node_id) is NodeState.OFFLINE
    assert world.task("b").node_id is None


def test_scheduling_stays_disabled_over_a_reboot() -> None:
    world, node_id = one_node()
    disable(world, node_id)
    operate(world, node_id, NodeOperation.REBOOT)
    world.restart_all()
    assert state_of(world, node_id) is NodeState.OFFLINE


def test_a_node_that_leaves_takes_no_wishes_about_scheduling() -> None:
    world, node_id = one_node()
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=0, resize_timeout_s=300.0))
    event = e.NodeSchedulingDisableRequested(at=world.now, node_id=node_id)
    assert refusal(world, event) is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
