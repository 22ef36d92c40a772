"""Placement: slots, spread and pack, priority, turns, affinity, feeding ahead and calling back."""

from collections import Counter

import pytest

from millpond.domain import events as e
from millpond.domain.job import JobChanges
from millpond.domain.states import NodeFillType, TaskState
from millpond.domain.task import TaskRules
from tests.unit.scheduler.world import World


def nodes_of(world: World, *task_ids: str, job: str = "job") -> list[str]:
    return [world.task(task_id, job).node_id or "" for task_id in task_ids]


def holders(world: World) -> set[str]:
    return {a.task.id for node in world.state.nodes.values() for a in node.assigned.values() if a.holds}


def test_spread_fills_nodes_evenly_and_pack_one_after_the_other() -> None:
    for fill, expected in ((NodeFillType.SPREAD, [1, 1, 1]), (NodeFillType.PACK, [3])):
        world = World()
        world.add_pool(nodes=3, slots=4, fill=fill)
        world.add_job()
        world.add_tasks("a", "b", "c")
        assert sorted(Counter(nodes_of(world, "a", "b", "c")).values()) == expected


def test_required_slots_are_never_oversold() -> None:
    world = World()
    world.add_pool(nodes=1, slots=4)
    world.add_job()
    world.add_tasks("three", slots=3)
    world.add_tasks("two", slots=2)
    world.add_tasks("one", slots=1)
    assert holders(world) == {"three", "one"}
    world.end("three")
    assert "two" in holders(world)


def test_a_task_that_fits_no_node_waits_and_stops_nobody() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    world.add_job()
    world.add_tasks("huge", slots=3)
    world.add_tasks("small")
    assert world.task("huge").node_id is None
    assert holders(world) == {"small"}


def test_larger_priority_goes_first_and_can_change() -> None:
    world = World()
    world.add_pool(nodes=1, connect=False)
    world.add_job("low", priority=-5)
    world.add_job("high", priority=5)
    world.add_tasks("l1", job="low")
    world.add_tasks("h1", job="high")
    world.connect_all()
    assert holders(world) == {"h1"}
    other = World()
    other.add_pool(nodes=1, connect=False)
    other.add_job("low", priority=-5)
    other.add_job("high", priority=5)
    other.add_tasks("l1", job="low")
    other.add_tasks("h1", job="high")
    other.do(e.JobUpdated(at=other.now, job_id="low", changes=JobChanges({}, priority=10)))
    other.connect_all()
    assert holders(other) == {"l1"}


def test_jobs_of_equal_priority_take_turns() -> None:
    world = World()
    world.add_pool(nodes=1, slots=6, connect=False)
    for job in ("a", "b", "c"):
        world.add_job(job)
        world.add_tasks(*(f"{job}{n}" for n in range(10)), job=job)
    world.connect_all()
    assert Counter(task_id[0] for task_id in holders(world)) == {"a": 2, "b": 2, "c": 2}


def test_max_parallel_tasks_bounds_a_job() -> None:
    world = World()
    world.add_pool(nodes=1, slots=8)
    world.add_job(max_parallel=2)
    world.add_tasks("a", "b", "c")
    assert len(holders(world)) == 2
    world.end("a")
    assert holders(world) == {"b", "c"}


def test_affinity_is_a_hint() -> None:
    world = World()
    world.add_pool(nodes=2, slots=1)
    world.add_job()
    wanted = sorted(world.state.nodes)[1]
    rules = TaskRules(affinity_node_id=wanted)
    world.add_tasks("a", rules=rules)
    world.add_tasks("b", rules=rules)
    assert world.task("a").node_id == wanted
    assert world.task("b").node_id not in (None, wanted)


def test_busy_nodes_are_fed_ahead_by_how_short_tasks_are() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks(*(f"t{n}" for n in range(200)))
    node = next(iter(world.state.nodes.values()))
    assert node.ahead == 1
    for n in range(40):
        world.start(f"t{n}")
        world.tick(0.004)
        key, node_id, start = world.task(f"t{n}").key, node.row.id, world.task(f"t{n}").start_time
        world.do(
            e.TaskEnded(
                at=world.now, node_id=node_id, key=key, attempt=1, start_time=start, end_time=world.now, exit_code=0
            )
        )
    assert 10 < node.ahead <= 64
    assert sum(1 for a in node.assigned.values() if a.holds) == 1


def test_long_tasks_are_not_handed_out_ahead() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks("long")
    world.start("long")
    start = world.now
    world.tick(100)
    task = world.task("long")
    world.do(
        e.TaskEnded(
            at=world.now,
            node_id=task.node_id or "",
            key=task.key,
            attempt=1,
            start_time=start,
            end_time=world.now,
            exit_code=0,
        )
    )
    world.add_tasks("a", "b", "c")
    assert holders(world) == {"a"}
    assert world.task("b").node_id is None


def test_an_idle_node_calls_back_what_waits_behind_another_task() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks("runs", "waits")
    world.start("runs")
    assert world.task("waits").node_id is not None
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0))
    world.connect_all()
    (wish,) = world.returned
    world.do(e.TaskReturned(at=world.now, node_id=wish.node_id, key=wish.key, attempt=wish.attempt))
    assert world.task("waits").attempt == 2
    assert holders(world) == {"runs", "waits"}


def _short_ones(world: World, count: int) -> None:
    """Tasks of a few milliseconds, on the pool's only node, whose ends say that they began."""
    for n in range(count):
        task = world.task(f"s{n}")
        begun = world.now
        world.tick(0.004)
        end = e.AttemptEnd(n + 1, task.key, task.attempt, begun, world.now, 0)
        world.do(e.TasksEnded(at=world.now, told=[(task.node_id or "", (end,))]))


@pytest.mark.parametrize("told_first", [True, False])
def test_an_idle_node_calls_back_what_waits_behind_a_long_task_among_short_ones(told_first: bool) -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks(*(f"s{n}" for n in range(40)), "long", *(f"behind{n}" for n in range(3)))
    _short_ones(world, 40)
    assert {world.task(f"behind{n}").node_id for n in range(3)} == {world.task("long").node_id}
    if told_first:
        world.start("long")
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0))
    world.connect_all()
    if not told_first:
        assert world.returned == [], "it may be as short as the others were"
        world.start("long")
    (wish,) = world.returned
    assert wish.key == world.task("behind2").key
    world.do(e.TaskReturned(at=world.now, node_id=wish.node_id, key=wish.key, attempt=wish.attempt))
    assert world.task("behind2").node_id not in (None, world.task("long").node_id)


def test_a_node_that_restarts_is_given_what_it_should_hold_and_stops_what_it_should_not() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    world.add_job()
    world.add_tasks("kept", "lost")
    node = next(iter(world.state.nodes.values()))
    world.started.clear()
    kept = world.task("kept")
    stray = e.HeldAttempt(key=(7 << 32) | 1, attempt=3, slots=1)
    world.connect(node.row.id, e.HeldAttempt(kept.key, 1, 1), stray)
    assert [(s.task.id, s.attempt) for s in world.started] == [("lost", 1)]
    assert [(s.key, s.attempt) for s in world.stopped] == [(stray.key, 3)]
    assert node.free == -1, "what it should not hold still takes room"
    world.confirm_stops()
    assert node.free == 0
    assert world.task("kept").state is TaskState.ACTIVE


def test_what_fits_nowhere_else_is_not_asked_back() -> None:
    world = World()
    world.add_pool(nodes=2, slots=2)
    world.add_job()
    world.add_tasks("full", slots=2)
    world.add_tasks("small")
    world.start("full")
    world.start("small")
    # It goes ahead to the busy node; the other has a slot free, and it needs two.
    world.add_tasks("wide", slots=2)
    assert world.task("wide").node_id == world.task("full").node_id
    world.do()
    assert world.returned == []
    world.tick(0.5)
    world.end("small")
    (wish,) = world.returned
    world.do(e.TaskReturned(at=world.now, node_id=wish.node_id, key=wish.key, attempt=wish.attempt))
    assert world.task("wide").node_id not in (None, world.task("full").node_id)
