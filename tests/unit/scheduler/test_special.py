"""Start, preparation, release and manager tasks (semantics 3.1 to 3.4)."""

import pytest

from millpond.domain import events as e
from millpond.domain.errors import BatchError, TaskFailureCode
from millpond.domain.ids import preparation_key, release_key
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules, StartTaskRules
from millpond.domain.states import (
    DisableJobOption,
    ErrorCategory,
    JobState,
    NodeState,
    SpecialTaskState,
    TaskKind,
    TaskState,
)
from millpond.domain.task import FailureInfo, JobManagerRules, NewTask, TaskRules
from tests.unit.scheduler.world import World

PREPARATION = TaskKind.JOB_PREPARATION
RELEASE = TaskKind.JOB_RELEASE
START = TaskKind.START_TASK


def only_node(world: World) -> str:
    (node_id,) = world.state.nodes
    return node_id


def node_state(world: World) -> NodeState:
    return world.nodes[only_node(world)].state


def started_tasks(world: World) -> list[str]:
    return [start.task.id for start in world.started]


def terminate(world: World) -> None:
    world.do(e.JobTerminateRequested(at=world.now, job_id="job", reason="UserTerminate"))


# --- start tasks ----------------------------------------------------------------------------------------------------


def test_a_node_waits_for_its_start_task_and_takes_no_tasks_meanwhile() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules())
    world.add_job()
    world.add_tasks("t")
    assert node_state(world) is NodeState.WAITING_FOR_START_TASK
    assert world.task("t").node_id is None
    world.run_special(START)
    assert started_tasks(world) == ["t"]
    info = world.nodes[only_node(world)].start_task
    assert info is not None
    assert (info.state, info.exit_code, info.failure, info.retry_count) == (SpecialTaskState.COMPLETED, 0, None, 0)


def test_a_start_task_is_retried_as_often_as_it_says_then_the_node_fails() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules(max_retry_count=2))
    attempts = []
    for _ in range(3):
        attempts.append(world.specials[0].attempt)
        assert node_state(world) is NodeState.WAITING_FOR_START_TASK
        world.run_special(START, 7)
    assert attempts == [1, 2, 3]
    assert world.specials == []
    assert node_state(world) is NodeState.START_TASK_FAILED
    info = world.nodes[only_node(world)].start_task
    assert info is not None
    assert info.failure is not None
    assert (info.retry_count, info.exit_code, info.failure.code) == (2, 7, TaskFailureCode.FAILURE_EXIT_CODE)


def test_between_retries_the_last_end_shows_and_a_success_wipes_the_failure() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules(max_retry_count=-1))
    world.run_special(START, 1)
    info = world.nodes[only_node(world)].start_task
    assert info is not None
    assert (info.state, info.end_time, info.retry_count) == (SpecialTaskState.RUNNING, world.now, 1)
    world.run_special(START, 0)
    info = world.nodes[only_node(world)].start_task
    assert info is not None
    assert (info.state, info.failure) == (SpecialTaskState.COMPLETED, None)
    assert node_state(world) is NodeState.IDLE


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_start_task_nobody_waits_for_neither_holds_nor_fails_the_node(exit_code: int) -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules(wait_for_success=False))
    world.add_job()
    world.add_tasks("t")
    assert node_state(world) is NodeState.IDLE
    assert started_tasks(world) == ["t"]
    world.run_special(START, exit_code)
    assert node_state(world) is NodeState.IDLE


def test_a_start_task_that_cannot_be_started_is_not_retried() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules(max_retry_count=5))
    failure = FailureInfo(ErrorCategory.USER_ERROR, TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND, "no such program")
    world.run_special(START, None, failure=failure)
    assert node_state(world) is NodeState.START_TASK_FAILED
    assert world.specials == []


def test_the_start_task_runs_again_after_a_reboot_not_after_an_agent_restart() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules())
    world.run_special(START)
    node_id = only_node(world)
    world.connect(node_id)
    assert world.specials == []
    assert node_state(world) is NodeState.IDLE
    world.tick()
    world.connect(node_id, boot_time=world.now)
    assert [special.attempt for special in world.specials] == [2]
    assert node_state(world) is NodeState.WAITING_FOR_START_TASK


def test_a_start_task_the_node_forgot_is_handed_to_it_again() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules())
    first = world.specials.pop()
    world.connect(only_node(world))
    assert [(special.key, special.attempt) for special in world.specials] == [(first.key, first.attempt)]
    world.connect(only_node(world), e.HeldAttempt(first.key, first.attempt, 0))
    assert len(world.specials) == 1


def test_a_silent_node_comes_back_to_its_start_task() -> None:
    world = World()
    world.add_pool(1, start_task=StartTaskRules())
    node_id = only_node(world)
    world.do(e.NodeSilent(at=world.now, node_id=node_id), e.NodeLost(at=world.now, node_id=node_id))
    assert node_state(world) is NodeState.UNKNOWN
    special = world.specials[0]
    world.connect(node_id, e.HeldAttempt(special.key, special.attempt, 0))
    assert node_state(world) is NodeState.WAITING_FOR_START_TASK
    world.run_special(START)
    assert node_state(world) is NodeState.IDLE


# --- preparation ----------------------------------------------------------------------------------------------------


def test_preparation_is_lazy_and_runs_once_while_its_tasks_wait_in_preparing() -> None:
    world = World()
    world.add_pool(2, slots=2)
    world.add_job(preparation=JobPreparationRules())
    assert world.specials == []
    world.add_tasks("a", "b", "c")
    nodes = {world.task(name).node_id for name in "abc"}
    assert len(nodes) == 2
    assert sorted(special.node_id for special in world.specials) == sorted(str(node) for node in nodes)
    assert {world.task(name).state for name in "abc"} == {TaskState.PREPARING}
    assert world.job().counts.running == 3
    assert world.started == []
    world.run_special(PREPARATION)
    assert sorted(started_tasks(world)) == ["a", "b", "c"]
    for name in "abc":
        world.start(name)
        assert world.task(name).state is TaskState.RUNNING
        world.end(name)
    world.add_tasks("d")
    assert world.specials == []
    assert started_tasks(world)[-1] == "d"


def test_nothing_is_handed_ahead_of_a_task_that_waits_for_its_preparation_task() -> None:
    """The node does not know that its slots are held for it, and would start what it was handed at once."""
    world = World()
    world.add_pool(1, slots=1)
    world.add_job(preparation=JobPreparationRules())
    world.add_job("other")
    world.add_tasks("a")
    world.add_tasks("b", job="other")
    assert world.task("a").state is TaskState.PREPARING
    assert world.task("b", "other").node_id is None
    world.run_special(PREPARATION)
    world.start("a")
    world.end("a")
    assert started_tasks(world) == ["a", "b"]


def test_a_node_where_preparation_failed_is_barred_for_that_job_only() -> None:
    world = World()
    world.add_pool(1, slots=4)
    world.add_job(preparation=JobPreparationRules(max_retry_count=4))
    world.add_job("other")
    world.add_tasks("t")
    for _ in range(5):
        assert world.task("t").state is TaskState.PREPARING
        world.run_special(PREPARATION, 1)
    assert world.specials == []
    assert (world.task("t").state, world.task("t").node_id) == (TaskState.ACTIVE, None)
    assert (world.task("t").retry_count, world.task("t").requeue_count) == (0, 0)
    known = world.job_nodes[1, only_node(world)].preparation
    assert known is not None
    assert known.retry_count == 4
    world.add_tasks("u", job="other")
    assert started_tasks(world) == ["u"]


def test_a_reboot_does_not_lift_the_bar_a_reimage_does() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(preparation=JobPreparationRules())
    world.add_tasks("t")
    world.run_special(PREPARATION, 1)
    node_id = only_node(world)
    world.tick()
    world.connect(node_id, boot_time=world.now)
    assert world.specials == []
    world.tick()
    world.connect(node_id, boot_time=world.now, disk_time=world.now)
    assert [special.kind for special in world.specials] == [PREPARATION]
    world.run_special(PREPARATION)
    assert started_tasks(world) == ["t"]


@pytest.mark.parametrize(("rerun", "expected"), [(True, 1), (False, 0)])
def test_preparation_reruns_after_a_reboot_unless_told_not_to(rerun: bool, expected: int) -> None:
    world = World()
    world.add_pool(1)
    world.add_job(preparation=JobPreparationRules(rerun_on_reboot=rerun))
    world.add_tasks("t")
    world.run_special(PREPARATION)
    world.start("t")
    world.tick()
    world.connect(only_node(world), boot_time=world.now)
    # The task was lost with the boot, and comes back to the node.
    assert (world.task("t").attempt, world.task("t").retry_count, world.task("t").requeue_count) == (2, 0, 0)
    assert len(world.specials) == expected


def test_preparation_that_had_not_completed_always_reruns() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(preparation=JobPreparationRules(rerun_on_reboot=False))
    world.add_tasks("t")
    world.specials.clear()
    world.tick()
    world.connect(only_node(world), boot_time=world.now)
    assert [(special.kind, special.attempt) for special in world.specials] == [(PREPARATION, 2)]
    assert world.task("t").state is TaskState.PREPARING


@pytest.mark.parametrize("exit_code", [0, 1])
def test_preparation_nobody_waits_for_holds_nothing(exit_code: int) -> None:
    world = World()
    world.add_pool(1)
    world.add_job(preparation=JobPreparationRules(wait_for_success=False))
    world.add_tasks("t", "u")
    assert started_tasks(world)[0] == "t"
    world.start("t")
    world.run_special(PREPARATION, exit_code)
    world.end("t")
    assert world.task("t").exit_code == 0
    world.start("u")
    assert world.specials == []


def test_terminating_a_task_that_prepares_tells_the_node_nothing() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(preparation=JobPreparationRules())
    world.add_tasks("t")
    world.do(e.TaskTerminateRequested(at=world.now, job_id="job", task_id="t"))
    assert world.stopped == []
    assert world.task("t").state is TaskState.COMPLETED
    world.run_special(PREPARATION)
    assert world.started == []


def test_tasks_cannot_have_the_ids_of_special_tasks() -> None:
    world = World()
    world.add_pool(0)
    world.add_job(preparation=JobPreparationRules(id="Prep"), release=JobReleaseRules(id="Rel"))
    for task_id, code in (("prep", "TaskIdSameAsJobPreparationTask"), ("REL", "TaskIdSameAsJobReleaseTask")):
        with pytest.raises(BatchError) as refused:
            world.do(e.TasksAdded(at=world.now, job_id="job", tasks=(NewTask(task_id, b"{}"),), single=True))
        assert refused.value.code == code


# --- release --------------------------------------------------------------------------------------------------------


def prepared_job(nodes: int = 1) -> World:
    """A job with preparation and release whose task ran on each of the nodes; one more node never saw it."""
    world = World()
    world.add_pool(nodes)
    world.add_job(preparation=JobPreparationRules(), release=JobReleaseRules(max_wall_clock_s=600.0))
    world.add_tasks(*[f"t{i}" for i in range(nodes)])
    world.run_special(PREPARATION)
    for i in range(nodes):
        world.start(f"t{i}")
    return world


def test_release_runs_where_preparation_completed_and_the_job_waits_for_it() -> None:
    world = prepared_job(2)
    world.do(
        e.PoolResizeRequested(at=world.now, target_dedicated_nodes=3, resize_timeout_s=900.0),
    )
    world.connect_all()
    world.end("t0")
    terminate(world)
    assert world.specials == []  # not before what ran is gone
    world.confirm_stops()
    assert {special.kind for special in world.specials} == {RELEASE}
    assert len(world.specials) == 2
    assert world.job().state is JobState.TERMINATING
    first, second = world.specials
    world.specials = [first]
    world.run_special(RELEASE, 1)
    assert world.job().state is JobState.TERMINATING
    world.specials = [second]
    world.run_special(RELEASE)
    assert world.job().state is JobState.COMPLETED
    results = {row.release.exit_code for row in world.job_nodes.values() if row.release is not None}
    assert results == {0, 1}


def test_release_does_not_run_where_preparation_was_killed_or_the_disk_is_new() -> None:
    world = World()
    world.add_pool(2)
    world.add_job(preparation=JobPreparationRules(), release=JobReleaseRules())
    world.add_tasks("a", "b")
    reimaged = world.specials[0].node_id
    world.specials, held_back = world.specials[:1], world.specials[1:]
    world.run_special(PREPARATION)
    assert len(held_back) == 1
    world.tick()
    world.connect(reimaged, boot_time=world.now, disk_time=world.now)
    world.specials.clear()
    terminate(world)
    world.confirm_stops()
    assert world.specials == []
    assert world.job().state is JobState.COMPLETED


def test_a_release_task_no_node_answers_for_ends_with_its_time() -> None:
    world = prepared_job()
    terminate(world)
    world.confirm_stops()
    deadline = world.timers["job"]
    assert deadline is not None
    assert 600.0 < deadline - world.now <= 900.0
    world.do(e.NodeSilent(at=world.now, node_id=only_node(world)))
    assert world.job().state is JobState.TERMINATING
    world.tick(deadline - world.now)
    world.do(e.JobTimedOut(at=world.now, job_id="job", deadline=deadline))
    assert world.job().state is JobState.COMPLETED


@pytest.mark.parametrize("lost", [e.NodeLost, e.NodeGone])
def test_a_lost_node_is_not_waited_for(lost: type[e.NodeLost] | type[e.NodeGone]) -> None:
    world = prepared_job()
    terminate(world)
    world.confirm_stops()
    world.do(lost(at=world.now, node_id=only_node(world)))
    assert world.job().state is JobState.COMPLETED


def test_release_runs_again_after_a_reboot_in_the_middle_of_it() -> None:
    world = prepared_job()
    terminate(world)
    world.confirm_stops()
    world.specials.clear()
    node_id = only_node(world)
    disk_time = world.nodes[node_id].disk_time
    world.tick()
    world.connect(node_id, boot_time=world.now, disk_time=disk_time)
    assert [(special.kind, special.attempt) for special in world.specials] == [(RELEASE, 2)]
    world.run_special(RELEASE)
    assert world.job().state is JobState.COMPLETED


def test_deleting_an_active_job_runs_release_first_and_a_completed_one_does_not() -> None:
    world = prepared_job()
    world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
    assert world.to_purge == []
    world.confirm_stops()
    assert [special.kind for special in world.specials] == [RELEASE]
    world.run_special(RELEASE)
    assert world.to_purge == ["job"]
    world.purge_all()
    assert world.jobs == {}

    world = prepared_job()
    terminate(world)
    world.confirm_stops()
    world.run_special(RELEASE)
    world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
    assert world.specials == []
    assert world.to_purge == ["job"]


def test_deleting_a_job_that_terminates_waits_for_its_release_tasks_once() -> None:
    world = prepared_job()
    terminate(world)
    world.confirm_stops()
    assert len(world.specials) == 1
    world.do(e.JobDeleteRequested(at=world.now, job_id="job"))
    assert len(world.specials) == 1
    assert world.to_purge == []
    world.run_special(RELEASE)
    assert world.to_purge == ["job"]


def test_a_preparation_task_that_runs_is_killed_with_its_job() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(preparation=JobPreparationRules(), release=JobReleaseRules())
    world.add_tasks("t")
    terminate(world)
    assert [stop.key for stop in world.stopped] == [preparation_key(1)]
    assert world.job().state is JobState.TERMINATING
    world.confirm_stops()
    assert world.job().state is JobState.COMPLETED
    assert [task.state for task in world.tasks.values()] == [TaskState.ACTIVE]
    assert not any(special.key == release_key(1) for special in world.specials)


# --- job managers ---------------------------------------------------------------------------------------------------


def manager(*, kill: bool = True, retries: int = 0) -> NewTask:
    rules = TaskRules(job_manager=JobManagerRules(kill_job_on_completion=kill))
    return NewTask("manager", b"{}", max_retry_count=retries, rules=rules)


@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_job_ends_with_its_manager(exit_code: int) -> None:
    world = World()
    world.add_pool(2)
    world.add_job(manager=manager())
    world.add_tasks("t")
    world.start("manager")
    world.start("t")
    world.end("manager", exit_code)
    assert world.job().state is JobState.TERMINATING
    assert world.job().terminate_reason == "JMComplete"
    assert world.task("t").failure is not None


def test_a_retry_or_requeue_of_the_manager_does_not_end_the_job() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(manager=manager(retries=1))
    world.start("manager")
    world.end("manager", 1)
    assert world.job().state is JobState.ACTIVE
    world.do(e.NodeLost(at=world.now, node_id=only_node(world)))
    assert world.job().state is JobState.ACTIVE
    world.connect(only_node(world))
    world.start("manager")
    world.end("manager", 1)
    assert world.job().state is JobState.COMPLETED


def test_a_manager_that_does_not_kill_leaves_the_job_to_itself() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(manager=manager(kill=False))
    world.start("manager")
    world.end("manager")
    assert world.job().state is JobState.ACTIVE


def test_the_end_of_a_manager_counts_while_its_job_is_being_disabled() -> None:
    world = World()
    world.add_pool(1)
    world.add_job(manager=manager())
    world.start("manager")
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=DisableJobOption.WAIT))
    assert world.job().state is JobState.DISABLING
    world.end("manager")
    assert world.job().state is JobState.COMPLETED
    assert world.job().terminate_reason == "JMComplete"
