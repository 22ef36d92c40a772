"""Multi-instance tasks: all of them or none, coordination, ends and retries, and never a member left behind."""

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.errors import TaskFailureCode
from millpond.domain.special_task import JobPreparationRules
from millpond.domain.states import (
    DisableJobOption,
    ErrorCategory,
    JobState,
    NodeDeallocationOption,
    SubtaskState,
    TaskKind,
    TaskState,
)
from millpond.domain.task import FailureInfo, TaskRules
from tests.unit.scheduler.world import World

_MPI = TaskRules(instances=3)
_LOST = FailureInfo(ErrorCategory.SERVER_ERROR, "NodeTrouble", "the node's own fault")


def cluster(nodes: int = 3, **more: object) -> World:
    world = World()
    world.add_pool(nodes=nodes, inter_node=True, **more)
    return world


def running(retries: int = 0, **more: object) -> World:
    """A multi-instance task of three whose primary runs its command line."""
    world = cluster(**more)
    world.add_job(retries=retries)
    world.add_tasks("mpi", rules=_MPI)
    world.start_all("mpi")
    world.coordinate("mpi")
    return world


def held(world: World) -> int:
    """Attempts on nodes, coming or going."""
    return sum(len(node.assigned) + len(node.stopping) for node in world.state.nodes.values())


# --- placing --------------------------------------------------------------------------------------------------------


def test_all_instances_start_at_once_on_nodes_of_their_own() -> None:
    world = cluster(nodes=2)
    world.add_job()
    world.add_tasks("mpi", rules=_MPI)
    assert world.task("mpi").node_id is None
    assert held(world) == 0
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=3, resize_timeout_s=300.0))
    world.connect_all()
    members = world.members("mpi")
    assert len(set(members)) == 3
    assert world.task("mpi").node_id == members[0]
    assert [(s.node_id, s.index, s.attempt) for s in world.started] == [(node, i, 1) for i, node in enumerate(members)]
    assert all([m.node_id for m in start.members] == members for start in world.started)
    assert {m.ip_address for start in world.started for m in start.members} == {"127.0.0.1"}
    assert [world.subtask("mpi", i).state for i in range(3)] == [SubtaskState.PREPARING] * 3


def test_a_gang_of_one_is_a_gang_too() -> None:
    world = cluster(nodes=1)
    world.add_job()
    world.add_tasks("one", rules=TaskRules(instances=1))
    (start,) = world.started
    assert len(start.members) == 1
    world.start("one")
    world.coordinate("one")
    assert [(p.node_id, p.attempt) for p in world.proceeded] == [(start.node_id, 1)]
    world.end("one")
    assert world.task("one").exit_code == 0


@pytest.mark.parametrize("pool", [{"inter_node": False}, {"inter_node": True, "slots": 2}])
def test_in_a_pool_of_another_kind_it_waits_for_ever_without_error(pool: dict[str, object]) -> None:
    world = World()
    world.add_pool(nodes=3, **pool)
    world.add_job()
    world.add_tasks("mpi", rules=_MPI)
    world.add_tasks("small")
    assert world.task("mpi").node_id is None
    assert world.task("mpi").state is TaskState.ACTIVE
    assert world.task("small").node_id is not None
    assert world.state.reservation is None


def test_it_counts_as_one_task() -> None:
    world = cluster(nodes=4)
    world.add_job(max_parallel=2)
    world.add_tasks("mpi", rules=_MPI)
    world.add_tasks("a", "b")
    world.start_all("mpi")
    assert world.job().counts.running == 1
    assert world.job().counts.running_slots == 1
    placed = [name for name in ("a", "b") if world.task(name).node_id is not None]
    assert len(placed) == 1
    assert [node.row.running_tasks for node in world.state.nodes.values()].count(1) == 3


# --- running --------------------------------------------------------------------------------------------------------


def test_the_primary_proceeds_when_all_have_coordinated() -> None:
    world = cluster()
    world.add_job()
    world.add_tasks("mpi", rules=_MPI)
    world.start_all("mpi")
    assert world.task("mpi").state is TaskState.RUNNING
    world.coordinate("mpi", 0)
    world.coordinate("mpi", 2, 2)
    assert world.proceeded == []
    assert world.subtask("mpi", 2).state is SubtaskState.RUNNING
    assert world.subtask("mpi", 1).state is SubtaskState.PREPARING
    world.coordinate("mpi", 1)
    (proceed,) = world.proceeded
    task = world.task("mpi")
    assert (proceed.node_id, proceed.key, proceed.attempt) == (task.node_id, task.key, 1)


def test_the_primarys_exit_is_the_tasks_and_ends_the_others() -> None:
    world = running()
    members = world.members("mpi")
    world.end("mpi")
    task = world.task("mpi")
    assert (task.state, task.exit_code, task.failure, task.node_id) == (TaskState.COMPLETED, 0, None, members[0])
    assert sorted(stop.node_id for stop in world.stopped) == sorted(members[1:])
    assert [world.subtask("mpi", i).state for i in range(3)] == [SubtaskState.COMPLETED] * 3
    assert [world.subtask("mpi", i).exit_code for i in range(3)] == [0, 0, 0]
    free = {node.row.id: node.free for node in world.state.nodes.values()}
    assert [free[node_id] for node_id in members] == [1, 0, 0], "slots are taken until the node says they are free"
    world.confirm_stops()
    assert held(world) == 0
    assert world.task("mpi").exit_code == 0, "the kill of a subtask is not the task's exit code"


def test_a_failed_primary_is_retried_as_a_gang_up_to_the_limit() -> None:
    world = running(retries=1)
    world.end("mpi", 7)
    world.confirm_stops()
    assert (world.task("mpi").retry_count, world.task("mpi").attempt) == (1, 2)
    assert [world.subtask("mpi", i).attempt for i in range(3)] == [2, 2, 2]
    assert world.subtask("mpi", 1).state is SubtaskState.PREPARING
    world.start_all("mpi")
    world.end("mpi", 7)
    task = world.task("mpi")
    assert (task.state, task.exit_code, task.retry_count) == (TaskState.COMPLETED, 7, 1)
    assert task.failure is not None
    assert task.failure.code == TaskFailureCode.FAILURE_EXIT_CODE


def test_a_subtask_that_fails_fails_the_task_with_its_exit_code() -> None:
    world = running()
    world.end_instance("mpi", 2, 9)
    task = world.task("mpi")
    assert (task.state, task.exit_code) == (TaskState.COMPLETED, 9)
    assert task.failure is not None
    assert ("SubtaskId", "2") in [(detail.name, detail.value) for detail in task.failure.details]
    row = world.subtask("mpi", 2)
    assert (row.exit_code, row.failure is not None) == (9, True)
    world.confirm_stops()
    assert held(world) == 0


def test_a_subtask_that_fails_in_its_coordination_command_is_retried_as_a_gang() -> None:
    world = cluster()
    world.add_job(retries=1)
    world.add_tasks("mpi", rules=_MPI)
    world.effects.clear()
    world.end_instance("mpi", 1, 3)
    assert world.task("mpi").retry_count == 1
    assert world.task("mpi").state is TaskState.ACTIVE
    assert any(isinstance(effect, f.SaveJob) for effect in world.effects), "the job counts its retries"
    world.confirm_stops()
    assert world.task("mpi").attempt == 2


def test_a_subtask_that_ends_well_leaves_the_others_running() -> None:
    world = running()
    world.end_instance("mpi", 1, 0)
    assert world.task("mpi").state is TaskState.RUNNING
    assert world.subtask("mpi", 1).exit_code == 0
    world.add_tasks("small")
    assert world.task("small").node_id == world.members("mpi")[1], "its node is free"
    world.end("mpi")
    assert world.task("mpi").exit_code == 0


def test_a_nodes_own_failure_of_a_subtask_counts_nowhere() -> None:
    world = running(retries=0)
    world.end_instance("mpi", 1, None, failure=_LOST, retryable=True)
    task = world.task("mpi")
    assert (task.state, task.retry_count, task.requeue_count) == (TaskState.ACTIVE, 0, 0)
    world.confirm_stops()
    assert world.task("mpi").attempt == 2


@pytest.mark.parametrize("event", [e.NodeLost, e.NodeGone])
@pytest.mark.parametrize("index", [0, 1])
def test_a_lost_member_takes_all_with_it_and_counts_nowhere(event: type[e.NodeLost], index: int) -> None:
    world = running()
    members = world.members("mpi")
    world.do(event(at=world.now, node_id=members[index]))
    task = world.task("mpi")
    assert (task.state, task.node_id, task.retry_count, task.requeue_count) == (TaskState.ACTIVE, None, 0, 0)
    assert sorted(stop.node_id for stop in world.stopped) == sorted(set(members) - {members[index]})
    world.confirm_stops()
    assert held(world) == 0


def test_reports_of_members_that_are_past_are_dropped() -> None:
    world = running(retries=1)
    task = world.task("mpi")
    primary = task.node_id or ""
    world.end("mpi", 1)
    for event in (
        e.InstanceCoordinated(at=world.now, node_id=primary, key=task.key, attempt=1),
        e.TaskStarted(at=world.now, node_id=primary, key=task.key, attempt=1, start_time=world.now),
        e.InstanceCoordinated(at=world.now, node_id="tvmps_0_d", key=task.key, attempt=1),
    ):
        world.do(event)
    assert len(world.proceeded) == 1
    assert world.task("mpi").state is TaskState.ACTIVE


# --- users ----------------------------------------------------------------------------------------------------------


def test_terminate_and_delete_take_every_member() -> None:
    world = running()
    world.do(e.TaskTerminateRequested(at=world.now, job_id="job", task_id="mpi"))
    assert len(world.stopped) == 3
    assert world.task("mpi").state is TaskState.COMPLETED
    world.do(e.TaskDeleteRequested(at=world.now, job_id="job", task_id="mpi"))
    assert world.subtasks == {}
    assert {r.node_id for r in world.effects if isinstance(r, f.RemoveTaskDirectory)} == set(world.state.nodes)
    world.confirm_stops()
    assert held(world) == 0
    other = running()
    other.do(e.TaskDeleteRequested(at=other.now, job_id="job", task_id="mpi"))
    assert (len(other.stopped), other.subtasks, other.tasks) == (3, {}, {})


@pytest.mark.parametrize("option", list(DisableJobOption))
def test_disabling_the_job_deals_with_all_of_it(option: DisableJobOption) -> None:
    world = running()
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=option))
    task = world.task("mpi")
    if option is DisableJobOption.WAIT:
        assert world.stopped == []
        world.end("mpi")
        assert world.job().state is JobState.DISABLING, "its subtasks are still going"
    elif option is DisableJobOption.REQUEUE:
        assert (task.state, task.requeue_count, task.retry_count) == (TaskState.ACTIVE, 1, 0)
    else:
        assert task.state is TaskState.COMPLETED
    world.confirm_stops()
    assert world.job().state is JobState.DISABLED
    assert held(world) == 0


def test_what_has_not_begun_is_not_waited_for() -> None:
    world = cluster()
    world.add_job()
    world.add_tasks("mpi", rules=_MPI)
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=DisableJobOption.WAIT))
    world.confirm_stops()
    assert (world.job().state, world.task("mpi").requeue_count) == (JobState.DISABLED, 0)
    assert held(world) == 0


@pytest.mark.parametrize("event", [e.JobTerminateRequested, e.JobDeleteRequested])
def test_the_end_of_the_job_takes_every_member(event: type[e.Event]) -> None:
    world = running()
    more = {"reason": "UserTerminate"} if event is e.JobTerminateRequested else {}
    world.do(event(at=world.now, job_id="job", **more))
    assert len(world.stopped) == 3
    world.confirm_stops()
    world.purge_all()
    assert held(world) == 0
    assert [job.state for job in world.jobs.values()] in ([JobState.COMPLETED], [])


@pytest.mark.parametrize(
    ("option", "state", "requeues"),
    [
        (NodeDeallocationOption.REQUEUE, TaskState.ACTIVE, 1),
        (NodeDeallocationOption.TERMINATE, TaskState.COMPLETED, 0),
        (NodeDeallocationOption.TASK_COMPLETION, TaskState.RUNNING, 0),
    ],
)
def test_taking_one_node_away_deals_with_all_of_it(
    option: NodeDeallocationOption, state: TaskState, requeues: int
) -> None:
    world = running()
    world.do(
        e.PoolResizeRequested(
            at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0, node_deallocation_option=option
        )
    )
    assert (world.task("mpi").state, world.task("mpi").requeue_count) == (state, requeues)
    if state is TaskState.RUNNING:
        assert world.to_release == []
        world.end("mpi")
    world.confirm_stops()
    world.release_all()
    assert len(world.state.nodes) == 2
    assert held(world) == 0


def test_it_waits_for_the_preparation_task_on_every_node() -> None:
    world = cluster()
    world.add_job(preparation=JobPreparationRules())
    world.add_tasks("mpi", rules=_MPI)
    assert world.started == []
    assert world.task("mpi").state is TaskState.PREPARING
    world.run_special(TaskKind.JOB_PREPARATION)
    assert sorted(start.index for start in world.started) == [0, 1, 2]
    world.start_all("mpi")
    assert world.task("mpi").state is TaskState.RUNNING


def test_a_failed_preparation_bars_one_node_and_gives_all_back() -> None:
    world = cluster()
    world.add_job(preparation=JobPreparationRules())
    world.add_tasks("mpi", rules=_MPI)
    barred = world.specials.pop(1)
    world.run_special(TaskKind.JOB_PREPARATION)
    world.specials.append(barred)
    world.run_special(TaskKind.JOB_PREPARATION, 1)
    assert world.task("mpi").node_id is None
    world.confirm_stops()
    assert held(world) == 0
    assert world.task("mpi").node_id is None, "two nodes are not enough"


# --- sessions -------------------------------------------------------------------------------------------------------


def test_a_lost_proceed_is_repeated_when_the_primarys_node_says_hello() -> None:
    world = running()
    task = world.task("mpi")
    world.proceeded.clear()
    for node_id in world.members("mpi"):
        world.connect(node_id, e.HeldAttempt(task.key, 1, 1))
    assert [(p.node_id, p.key, p.attempt) for p in world.proceeded] == [(task.node_id, task.key, 1)]


def test_an_instance_that_never_arrived_is_sent_again_alone() -> None:
    world = cluster()
    world.add_job()
    world.add_tasks("mpi", rules=_MPI)
    members = world.members("mpi")
    world.started.clear()
    world.connect(members[1])
    (start,) = world.started
    assert (start.node_id, start.index, start.attempt) == (members[1], 1, 1)
    assert [m.node_id for m in start.members] == members


def test_a_coordinated_instance_that_vanished_starts_all_over() -> None:
    world = running()
    members = world.members("mpi")
    world.connect(members[2])
    task = world.task("mpi")
    assert (task.node_id, task.retry_count, task.requeue_count) == (None, 0, 0)
    assert sorted(stop.node_id for stop in world.stopped) == sorted(members[:2])


def test_a_reboot_of_a_member_starts_all_over() -> None:
    world = running()
    members = world.members("mpi")
    world.connect(members[1], boot_time=world.tick())
    assert world.task("mpi").node_id is None
    world.confirm_stops()
    assert world.task("mpi").attempt == 2
