"""Tasks that are added: what can be filed together comes out as if each had come by itself."""

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.states import NodeState
from millpond.domain.task import NewTask, TaskAddOutcome, TaskRules
from tests.unit.scheduler.world import World, new_job


@pytest.fixture
def world() -> World:
    world = World()
    world.add_pool(nodes=0)
    world.do(e.JobAdded(at=world.now, job=new_job(dependencies=True)))
    return world


def add(world: World, *news: NewTask) -> object:
    return world.do(e.TasksAdded(at=world.now, job_id="job", tasks=news))


def added(world: World) -> list[f.AddTasks]:
    return [effect for effect in world.effects if isinstance(effect, f.AddTasks)]


def plain(*ids: str, slots: int = 1) -> list[NewTask]:
    return [NewTask(task_id, f'{{"id":"{task_id}"}}'.encode(), slots, 3) for task_id in ids]


def test_tasks_that_are_alike_are_filed_together(world: World) -> None:
    ids = ["c", "B", "a"]
    assert add(world, *plain(*ids, slots=2)) == [TaskAddOutcome(task_id, None, world.now) for task_id in ids]
    (effect,) = added(world)
    assert effect.alike
    assert effect.specs == [new.spec for new in plain(*ids)]
    job = world.state.jobs["job"]
    assert list(job.tasks) == ["c", "b", "a"]
    assert [task.key for task in effect.tasks] == [(1 << 32) + number for number in (1, 2, 3)]
    assert list(job.ready[2]) == effect.tasks
    assert {(task.required_slots, task.max_retry_count) for task in effect.tasks} == {(2, 3)}
    assert (job.row.counts.active, job.row.counts.active_slots, job.row.next_task_number) == (3, 6, 4)


def test_one_that_stands_out_is_not_said_to_be_alike(world: World) -> None:
    waiting = NewTask("w", b"{}", 1, 3, TaskRules(depends_on_ids=("a",)))
    for news in ([*plain("a"), *plain("b", slots=2)], [*plain("c"), waiting]):
        add(world, *news)
    assert [effect.alike for effect in added(world)] == [False, False]
    job = world.state.jobs["job"]
    assert {slots: [task.id for task in queue] for slots, queue in job.ready.items()} == {1: ["a", "c"], 2: ["b"]}


@pytest.mark.parametrize("taken", ["A", "twin"])
def test_an_id_that_is_taken_is_refused_alone(world: World, taken: str) -> None:
    add(world, *plain("a"))
    outcomes = add(world, *plain("twin", taken, "z"))
    assert outcomes == [
        TaskAddOutcome("twin", None, world.now),
        TaskAddOutcome(taken, "TaskExists"),
        TaskAddOutcome("z", None, world.now),
    ]
    assert world.state.jobs["job"].row.counts.active == 3


def test_what_is_alike_may_be_placed_at_once() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    world.add_job()
    world.add_tasks("a", "b", "c")
    assert [start.task.id for start in world.started[:2]] == ["a", "b"]
    assert added(world)[0].alike
    assert {node.row.state for node in world.state.nodes.values()} == {NodeState.IDLE}
