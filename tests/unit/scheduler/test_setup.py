"""Nodes are set up with their pool's application packages before anything runs there (semantics 5.4)."""

from millpond.domain import events as e
from millpond.domain.errors import TaskFailureCode
from millpond.domain.ids import NODE_SETUP_KEY
from millpond.domain.node import Node
from millpond.domain.pool import PoolChanges
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import ErrorCategory, NodeOperation, NodeState, SpecialTaskState, TaskKind
from millpond.domain.task import FailureInfo, NameValue
from millpond.scheduler import retries
from tests.unit.scheduler.world import World

SETUP = TaskKind.NODE_SETUP
START = TaskKind.START_TASK
BAD = FailureInfo(
    ErrorCategory.USER_ERROR, TaskFailureCode.APPLICATION_PACKAGE_ERROR.value, "broken", (NameValue("Version", "1"),)
)
AWAY = FailureInfo(ErrorCategory.SERVER_ERROR, TaskFailureCode.APPLICATION_PACKAGE_ERROR.value, "no answer")


def row(world: World) -> Node:
    (node,) = world.nodes.values()
    return node


def kinds(world: World) -> list[TaskKind]:
    return [special.kind for special in world.specials]


def restart(world: World, operation: NodeOperation = NodeOperation.REBOOT) -> None:
    world.do(e.NodeOperationRequested(at=world.tick(), node_id=row(world).id, operation=operation))
    world.restart_all()


def test_setup_comes_before_the_start_task_and_tasks_wait_for_both() -> None:
    world = World()
    world.add_pool(1, packages=True, start_task=StartTaskRules())
    world.add_job()
    world.add_tasks("t")
    assert (row(world).state, kinds(world), row(world).start_task) == (NodeState.STARTING, [SETUP], None)
    assert world.task("t").node_id is None
    world.run_special(SETUP)
    assert (row(world).state, kinds(world)) == (NodeState.WAITING_FOR_START_TASK, [START])
    world.run_special(START)
    assert [start.task.id for start in world.started] == ["t"]


def test_a_start_task_nobody_waits_for_still_waits_for_setup() -> None:
    world = World()
    world.add_pool(1, packages=True, start_task=StartTaskRules(wait_for_success=False))
    assert (row(world).state, kinds(world)) == (NodeState.STARTING, [SETUP])
    world.run_special(SETUP)
    assert (row(world).state, kinds(world)) == (NodeState.IDLE, [START])


def test_a_failed_setup_makes_the_node_unusable_until_it_boots_again() -> None:
    world = World()
    world.add_pool(1, packages=True, start_task=StartTaskRules())
    world.add_job()
    world.add_tasks("t")
    world.run_special(SETUP, None, failure=BAD)
    (error,) = row(world).errors
    assert (row(world).state, world.specials) == (NodeState.UNUSABLE, [])
    assert error.code == "ApplicationPackageError"
    assert error.message == "One or more application packages specified for the pool are invalid"
    assert error.details == (NameValue("Message", "broken"), NameValue("Version", "1"))
    # Said again under the same boot, it is still unusable; so it is after a silence.
    world.connect(row(world).id)
    assert row(world).state is NodeState.UNUSABLE
    world.do(e.NodeSilent(at=world.now, node_id=row(world).id))
    world.connect(row(world).id)
    assert row(world).state is NodeState.UNUSABLE
    restart(world)
    assert (row(world).state, row(world).errors, kinds(world)) == (NodeState.STARTING, (), [SETUP])
    world.run_special(SETUP)
    world.run_special(START)
    assert world.task("t").node_id == row(world).id


def test_what_is_the_nodes_own_fault_is_tried_again_a_few_times() -> None:
    world = World()
    world.add_pool(1, packages=True)
    for _ in range(retries.MAX_SETUP_RETRIES):
        world.run_special(SETUP, None, failure=AWAY, retryable=True)
        assert (row(world).state, kinds(world)) == (NodeState.STARTING, [SETUP])
    world.run_special(SETUP, None, failure=AWAY, retryable=True)
    assert (row(world).state, world.specials) == (NodeState.UNUSABLE, [])
    # Each boot has tries of its own.
    restart(world)
    world.run_special(SETUP, None, failure=AWAY, retryable=True)
    assert kinds(world) == [SETUP]
    world.run_special(SETUP)
    assert row(world).state is NodeState.IDLE


def test_a_report_of_the_boot_before_counts_for_nothing() -> None:
    world = World()
    world.add_pool(1, packages=True)
    (old,) = world.specials
    world.specials.clear()
    world.connect(old.node_id, boot_time=world.tick())
    (new,) = world.specials
    assert new.attempt == old.attempt + 1
    common = {"at": world.now, "node_id": old.node_id, "start_time": world.now, "end_time": world.now}
    world.do(e.TaskEnded(key=NODE_SETUP_KEY, attempt=old.attempt, exit_code=None, failure=BAD, **common))
    assert row(world).state is NodeState.STARTING
    world.do(e.TaskEnded(key=NODE_SETUP_KEY, attempt=new.attempt, exit_code=0, **common))
    assert row(world).state is NodeState.IDLE


def test_a_start_task_of_the_boot_before_is_not_taken_up_again() -> None:
    """While the node is set up anew, neither the node's hello nor a rebuilt memory brings it back."""
    world = World()
    world.add_pool(1, packages=True, start_task=StartTaskRules())
    world.run_special(SETUP)
    assert kinds(world) == [START]
    world.specials.clear()
    world.connect(row(world).id, boot_time=world.tick())
    assert kinds(world) == [SETUP]
    info = row(world).start_task
    assert info is not None
    assert (info.state, info.lost) == (SpecialTaskState.COMPLETED, True)
    (memory,) = world.rebuilt().nodes.values()
    assert list(memory.specials) == [NODE_SETUP_KEY]
    world.run_special(SETUP)
    (again,) = world.specials
    assert (again.kind, again.attempt) == (START, 2)


def test_a_node_that_does_not_know_of_its_setup_is_told_again() -> None:
    world = World()
    world.add_pool(1, packages=True)
    (told,) = world.specials
    world.specials.clear()
    world.connect(told.node_id)
    assert [(one.kind, one.attempt) for one in world.specials] == [(SETUP, told.attempt)]
    world.specials.clear()
    world.connect(told.node_id, e.HeldAttempt(key=NODE_SETUP_KEY, attempt=told.attempt, slots=0))
    assert (world.specials, row(world).state) == ([], NodeState.STARTING)


def test_changed_references_count_from_the_next_boot_on_also_when_there_are_none_left() -> None:
    world = World()
    world.add_pool(1)
    assert (world.specials, row(world).state) == ([], NodeState.IDLE)
    changes = PoolChanges({"applicationPackageReferences": [{"applicationId": "a"}]})
    world.do(e.PoolUpdated(at=world.now, changes=changes))
    assert world.specials == []
    restart(world)
    assert kinds(world) == [SETUP]
    world.run_special(SETUP)
    world.do(e.PoolUpdated(at=world.now, changes=PoolChanges({"applicationPackageReferences": []})))
    restart(world)
    # So that the node forgets what it told its tasks.
    assert kinds(world) == [SETUP]
    world.run_special(SETUP)
    assert row(world).state is NodeState.IDLE


def test_a_node_that_leaves_meanwhile_just_leaves() -> None:
    world = World()
    world.add_pool(1, packages=True, start_task=StartTaskRules())
    node_id = row(world).id
    world.do(e.NodesRemoveRequested(at=world.now, node_ids=(node_id,), resize_timeout_s=900.0))
    assert row(world).state is NodeState.LEAVING_POOL
    world.run_special(SETUP, None, failure=BAD)
    assert (row(world).state, world.specials) == (NodeState.LEAVING_POOL, [])
    world.release_all()
    assert world.nodes == {}
