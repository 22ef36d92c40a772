"""Task dependencies: ids, ranges, exit conditions (Azure Batch: task dependencies, exit conditions)."""

import pytest

from millpond.domain import events as e
from millpond.domain.states import DependencyAction, ErrorCategory, JobAction, JobState, TaskState
from millpond.domain.task import ExitConditions, ExitOptions, FailureInfo, TaskRules
from tests.unit.scheduler.world import World

SATISFY = ExitOptions(dependency_action=DependencyAction.SATISFY)
BLOCK = ExitOptions(dependency_action=DependencyAction.BLOCK)


@pytest.fixture
def world() -> World:
    world = World()
    world.add_pool(nodes=1, slots=8)
    world.add_job(dependencies=True)
    return world


def after(*ids: str, ranges: tuple[tuple[int, int], ...] = ()) -> TaskRules:
    return TaskRules(depends_on_ids=tuple(i.lower() for i in ids), depends_on_ranges=ranges)


def placed(world: World, task_id: str) -> bool:
    return world.task(task_id).node_id is not None


def test_a_dependent_waits_for_all_its_parents(world: World) -> None:
    world.add_tasks("child", rules=after("A", "b"))
    world.add_tasks("a", "B")
    assert not placed(world, "child")
    world.end("a")
    assert not placed(world, "child")
    world.end("b")
    assert placed(world, "child")
    world.add_tasks("late", rules=after("a", "b"))
    assert placed(world, "late")


def test_dependencies_need_a_job_that_uses_them(world: World) -> None:
    world.add_job("plain")
    outcome = world.add_tasks("x", job="plain", rules=after("y"))
    assert [entry.error_code for entry in outcome] == ["TaskDependenciesNotSpecifiedOnJob"]


@pytest.mark.parametrize("last", [3, 300])
def test_every_member_of_a_range_counts(world: World, last: int) -> None:
    world.add_tasks("child", rules=after(ranges=((1, last),)))
    for number in range(1, last + 1):
        assert not placed(world, "child")
        world.add_tasks(str(number))
        world.end(str(number))
    assert placed(world, "child")


def test_leading_zeros_do_not_matter_and_the_first_counts(world: World) -> None:
    world.add_tasks("child", rules=after(ranges=((4, 5),)))
    world.add_tasks("4", "04", "004", "5", "x5")
    world.end("004")
    world.end("4")
    assert not placed(world, "child")
    world.end("5")
    assert placed(world, "child")


def test_a_failed_parent_blocks_for_ever_and_keeps_the_job_open(world: World) -> None:
    world.add_job("auto", dependencies=True)
    world.add_tasks("parent", job="auto")
    world.add_tasks("child", job="auto", rules=after("parent"))
    world.end("parent", 1, job="auto")
    child = world.task("child", "auto")
    assert (child.state, child.node_id, world.job("auto").counts.active) == (TaskState.ACTIVE, None, 1)


@pytest.mark.parametrize(
    ("conditions", "exit_code", "failure", "satisfied"),
    [
        (ExitConditions(exit_codes=((3, SATISFY),)), 3, None, True),
        (ExitConditions(exit_codes=((3, SATISFY),)), 4, None, False),
        (ExitConditions(exit_code_ranges=((2, 5, SATISFY),)), 5, None, True),
        (ExitConditions(exit_codes=((3, BLOCK),), exit_code_ranges=((2, 5, SATISFY),)), 3, None, False),
        (ExitConditions(default=SATISFY), 9, None, True),
        (ExitConditions(default=BLOCK), 0, None, True),
        (ExitConditions(exit_codes=((0, BLOCK),)), 0, None, False),
        (ExitConditions(default=SATISFY), None, "BlobNotFound", True),
        (ExitConditions(pre_processing_error=BLOCK, default=SATISFY), None, "CommandProgramNotFound", False),
        (ExitConditions(), 0, "FileUploadAccessDenied", False),
        (ExitConditions(file_upload_error=SATISFY), 0, "FileUploadAccessDenied", True),
        (ExitConditions(exit_codes=((0, SATISFY),), file_upload_error=BLOCK), 0, "FileUploadMiscError", True),
        (ExitConditions(default=SATISFY), -9, "TaskEnded", True),
    ],
)
def test_exit_conditions_decide_what_satisfies(
    world: World, conditions: ExitConditions, exit_code: int | None, failure: str | None, satisfied: bool
) -> None:
    world.add_tasks("parent", rules=TaskRules(exit_conditions=conditions))
    world.add_tasks("child", rules=after("parent"))
    world.end("parent", exit_code, failure=FailureInfo(ErrorCategory.USER_ERROR, failure, "") if failure else None)
    assert world.task("parent").state is TaskState.COMPLETED
    assert placed(world, "child") is satisfied


def test_job_actions_of_exit_conditions(world: World) -> None:
    world.add_job("careful", exit_actions=True)
    options = ExitConditions(exit_codes=((3, ExitOptions(JobAction.NONE)), (4, ExitOptions(JobAction.DISABLE))))
    world.add_tasks("a", "b", job="careful", rules=TaskRules(exit_conditions=options))
    world.end("a", 3, job="careful")
    assert world.job("careful").state is JobState.ACTIVE
    world.end("b", 4, job="careful")
    assert world.job("careful").state is JobState.DISABLED


def test_a_job_action_is_refused_where_the_job_takes_none(world: World) -> None:
    options = ExitConditions(default=ExitOptions(JobAction.TERMINATE))
    outcome = world.add_tasks("a", rules=TaskRules(exit_conditions=options))
    assert [entry.error_code for entry in outcome] == ["InvalidPropertyValue"]


def test_a_deleted_parent_is_remembered_by_its_id(world: World) -> None:
    world.add_tasks("parent")
    world.add_tasks("child", rules=after("parent", "never"))
    world.end("parent")
    world.do(e.TaskDeleteRequested(at=world.now, job_id="job", task_id="parent"))
    world.add_tasks("second", rules=after("parent"))
    assert placed(world, "second")
    assert world.state.jobs["job"].dependencies is not None
    assert world.state.jobs["job"].dependencies.waiting[world.task("child").key].remaining == 1


def test_reactivating_a_parent_can_release_what_it_blocked(world: World) -> None:
    world.add_tasks("parent")
    world.add_tasks("child", rules=after("parent"))
    world.end("parent", 1)
    assert not placed(world, "child")
    world.do(e.TaskReactivateRequested(at=world.now, job_id="job", task_id="parent"))
    world.end("parent", 0)
    assert placed(world, "child")


def test_a_reactivated_dependent_waits_for_what_is_still_missing(world: World) -> None:
    world.add_tasks("child", rules=after("a", "b"))
    world.add_tasks("a")
    world.end("a")
    world.do(e.TaskTerminateRequested(at=world.now, job_id="job", task_id="child"))
    world.do(e.TaskReactivateRequested(at=world.now, job_id="job", task_id="child"))
    assert not placed(world, "child")
    world.add_tasks("b")
    world.end("b")
    assert placed(world, "child")
