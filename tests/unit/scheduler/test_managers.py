"""Where job manager tasks run: alone, on dedicated nodes, first in their job, and last to lose their node."""

import pytest

from millpond.domain import events as e
from millpond.domain.states import NodeFillType, TaskState
from millpond.domain.task import JobManagerRules, NewTask, TaskRules
from tests.unit.scheduler.world import World


def manager(slots: int = 1, retries: int = 0, **rules: bool) -> NewTask:
    more = {"kill_job_on_completion": False, **rules}
    return NewTask(
        "manager",
        b"{}",
        required_slots=slots,
        max_retry_count=retries,
        rules=TaskRules(job_manager=JobManagerRules(**more)),
    )


def on(world: World, node_id: str | None) -> set[str]:
    return {a.task.id for a in world.state.nodes[node_id or ""].assigned.values()}


def test_run_exclusive_takes_the_whole_node() -> None:
    world = World()
    world.add_pool(nodes=1, slots=4)
    world.add_job(manager=manager())
    world.add_tasks("a", "b")
    (start,) = world.started
    assert start.slots == 4
    world.start("manager")
    node = world.state.nodes[start.node_id]
    assert on(world, start.node_id) == {"manager"}
    assert (node.row.running_tasks, node.row.running_task_slots) == (1, 1)
    world.end("manager")
    assert on(world, start.node_id) >= {"a", "b"}


def test_without_run_exclusive_it_shares() -> None:
    world = World()
    world.add_pool(nodes=1, slots=4, fill=NodeFillType.PACK)
    world.add_job(manager=manager(run_exclusive=False))
    world.add_tasks("a", "b")
    assert on(world, world.task("manager").node_id) == {"manager", "a", "b"}


def test_an_exclusive_manager_does_not_starve_behind_small_tasks() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    world.state.run_time_s = 100.0
    world.add_job("small")
    world.add_tasks(*(f"s{n}" for n in range(6)), job="small")
    world.add_job("led", manager=manager())
    assert world.task("manager", "led").node_id is None
    for _ in range(2):
        task = next(t for t in world.state.jobs["small"].tasks.values() if t.node_id and t.state is TaskState.ACTIVE)
        world.start(task.id, "small")
        world.end(task.id, job="small")
    assert world.task("manager", "led").node_id is not None


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_manager_that_wants_a_dedicated_node_waits_for_one(exclusive: bool) -> None:
    world = World()
    world.add_pool(nodes=0, spot=2, slots=2)
    world.add_job(manager=manager(allow_low_priority_node=False, run_exclusive=exclusive))
    world.add_tasks("a")
    assert world.task("manager").node_id is None
    assert world.task("a").node_id is not None
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=1, resize_timeout_s=300.0))
    world.connect_all()
    assert world.state.nodes[world.task("manager").node_id or ""].row.is_dedicated


def test_it_is_first_in_its_job_but_only_there() -> None:
    world = World()
    world.add_pool(nodes=1, connect=False)
    world.add_job("other", priority=1)
    world.add_tasks("urgent", job="other")
    world.add_job("led", manager=manager())
    world.add_tasks("a", job="led")
    world.connect_all()
    assert world.task("urgent", "other").node_id is not None
    assert world.task("manager", "led").node_id is None
    world.start("urgent", "other")
    world.end("urgent", job="other")
    holders = {a.task.id for n in world.state.nodes.values() for a in n.assigned.values() if a.holds}
    assert holders == {"manager"}


def test_nodes_that_run_one_are_removed_last() -> None:
    world = World()
    world.add_pool(nodes=3)
    world.add_job(manager=manager())
    world.add_tasks("a", "b")
    for name in ("manager", "a", "b"):
        world.start(name)
    kept = world.task("manager").node_id
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=1, resize_timeout_s=300.0))
    world.release_all()
    assert set(world.state.nodes) == {kept}


# --- starting again -------------------------------------------------------------------------------------------------


def lost_manager(*, slots: int = 1, other_priority: int = 0, **rules: bool) -> World:
    """A manager's node is lost, and another job has filled the rest of the pool."""
    world = World()
    world.add_pool(nodes=2, slots=slots)
    world.state.run_time_s = 100.0
    world.add_job("led", manager=manager(**rules))
    home = world.task("manager", "led").node_id or ""
    world.start("manager", "led")
    world.add_job("other", priority=other_priority)
    names = [f"o{n}" for n in range(slots)]
    world.add_tasks(*names, job="other")
    for name in names:
        world.tick()
        world.start(name, "other")
    world.do(e.NodeLost(at=world.now, node_id=home))
    return world


def test_on_restart_it_may_displace_a_task_of_its_priority() -> None:
    world = lost_manager()
    task = world.task("manager", "led")
    assert task.node_id is not None
    victim = world.task("o0", "other")
    assert (victim.state, victim.retry_count, victim.requeue_count) == (TaskState.ACTIVE, 0, 0)
    world.confirm_stops()
    world.start("manager", "led")
    assert on(world, task.node_id) == {"manager"}


def test_an_exclusive_one_displaces_all_of_one_node_and_keeps_it() -> None:
    world = lost_manager(slots=2)
    node_id = world.task("manager", "led").node_id
    assert on(world, node_id) == {"manager"}
    assert world.task("o0", "other").state is world.task("o1", "other").state is TaskState.ACTIVE
    stops, world.stopped = world.stopped, []
    world.do(*(e.TaskStopped(at=world.now, node_id=s.node_id, key=s.key, attempt=s.attempt) for s in stops[:1]))
    assert on(world, node_id) == {"manager"}, "what was freed for it is kept for it"


def test_one_that_shares_displaces_only_what_started_last() -> None:
    world = lost_manager(slots=2, run_exclusive=False)
    states = [world.task(name, "other").state for name in ("o0", "o1")]
    assert sorted(states) == [TaskState.ACTIVE, TaskState.RUNNING]
    assert world.task("o1", "other").state is TaskState.ACTIVE


def test_it_never_displaces_a_higher_priority_nor_another_manager() -> None:
    world = lost_manager(other_priority=1)
    assert world.task("manager", "led").node_id is None
    assert world.task("o0", "other").state is TaskState.RUNNING
    two = World()
    two.add_pool(nodes=2)
    two.add_job("a", manager=manager())
    two.add_job("b", manager=manager())
    two.start("manager", "a")
    two.start("manager", "b")
    two.do(e.NodeLost(at=two.now, node_id=two.task("manager", "a").node_id or ""))
    assert two.task("manager", "a").node_id is None
    assert two.task("manager", "b").state is TaskState.RUNNING


def test_the_first_start_displaces_nobody() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job("other")
    world.add_tasks("o", job="other")
    world.start("o", "other")
    world.add_job("led", manager=manager())
    assert world.task("o", "other").state is TaskState.RUNNING
    assert world.task("manager", "led").node_id is None
