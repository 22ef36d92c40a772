"""Gangs neither deadlock each other nor starve behind small tasks, and do not keep nodes for ever."""

from millpond.domain import events as e
from millpond.domain.job import JobChanges
from millpond.domain.states import DisableJobOption, TaskState
from millpond.domain.task import TaskRules
from millpond.scheduler.reservations import RESERVATION_S
from tests.unit.scheduler.world import World


def gang(size: int) -> TaskRules:
    return TaskRules(instances=size)


def busy(nodes: int, **job: object) -> World:
    """A pool where every node runs a small task, and as many wait."""
    world = World()
    world.add_pool(nodes=nodes, inter_node=True)
    world.state.run_time_s = 100.0  # long tasks: nothing is handed out ahead
    world.add_job("small", **job)
    world.add_tasks(*(f"s{n}" for n in range(nodes * 3)), job="small")
    for n in range(nodes * 3):
        if world.task(f"s{n}", "small").node_id is not None:
            world.start(f"s{n}", "small")
    return world


def running_small(world: World) -> list[str]:
    return [t.id for t in world.state.jobs["small"].tasks.values() if t.state is TaskState.RUNNING]


def started(world: World) -> None:
    """What was handed out begins."""
    for start in world.started:
        task = start.task
        if task.node_id is not None and task.attempt == start.attempt and task.state is TaskState.ACTIVE:
            world.do(
                e.TaskStarted(
                    at=world.now, node_id=start.node_id, key=task.key, attempt=start.attempt, start_time=world.now
                )
            )
    world.started.clear()


def test_small_tasks_do_not_starve_a_gang() -> None:
    world = busy(3)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(3))
    for name in running_small(world):
        world.end(name, job="small")
    assert world.task("g", "mpi").node_id is not None, "every node that became free was kept for it"


def test_only_as_many_nodes_as_it_needs_are_kept() -> None:
    world = busy(4)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(2))
    assert sum(node.reserved for node in world.state.nodes.values()) == 2
    for name in running_small(world):
        world.end(name, job="small")
        started(world)
    assert world.task("g", "mpi").node_id is not None
    assert len(running_small(world)) == 2


def test_a_node_that_becomes_free_first_takes_the_place_of_a_busy_one() -> None:
    world = busy(3)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(1))
    (kept,) = (node.row.id for node in world.state.nodes.values() if node.reserved)
    other = next(name for name in running_small(world) if world.task(name, "small").node_id != kept)
    world.end(other, job="small")
    assert world.task("g", "mpi").node_id not in (None, kept)
    assert not any(node.reserved for node in world.state.nodes.values())


def test_gangs_that_each_want_most_of_the_pool_do_not_wait_for_each_other() -> None:
    world = busy(3)
    world.add_job("a")
    world.add_job("b")
    world.add_tasks("g", job="a", rules=gang(2))
    world.add_tasks("h", job="b", rules=gang(2))
    for _ in range(40):
        for name in running_small(world):
            world.end(name, job="small")
        for job, name in (("a", "g"), ("b", "h")):
            if world.task(name, job).state is TaskState.RUNNING:
                world.coordinate(name, job=job)
                world.end(name, job=job)
        world.confirm_stops()
        started(world)
    assert [world.task("g", "a").state, world.task("h", "b").state] == [TaskState.COMPLETED] * 2


def test_small_tasks_have_their_turn_between_gangs() -> None:
    world = busy(2)
    world.add_job("mpi")
    world.add_tasks("g1", "g2", job="mpi", rules=gang(2))
    for name in running_small(world):
        world.end(name, job="small")
    started(world)
    assert world.task("g1", "mpi").node_id is not None
    world.end("g1", job="mpi")
    world.confirm_stops()
    started(world)
    assert world.task("g2", "mpi").node_id is None
    assert len(running_small(world)) == 2
    for name in running_small(world):
        world.end(name, job="small")
    assert world.task("g2", "mpi").node_id is not None


def test_what_was_handed_out_ahead_to_a_reserved_node_comes_back_and_nothing_follows() -> None:
    world = World()
    world.add_pool(nodes=1, inter_node=True)
    world.add_job("small")
    world.add_tasks("s0", "s1", "s2", job="small")
    world.start("s0", "small")
    assert world.task("s1", "small").node_id is not None, "handed out ahead"
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(1))
    (wish,) = world.returned
    assert wish.key == world.task("s1", "small").key
    world.do(e.TaskReturned(at=world.now, node_id=wish.node_id, key=wish.key, attempt=wish.attempt))
    assert world.task("s1", "small").node_id is None
    world.end("s0", job="small")
    assert world.task("g", "mpi").node_id is not None


def test_higher_priority_passes_and_takes_over_the_reservation() -> None:
    world = busy(2)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(2))
    world.add_job("urgent", priority=10)
    world.add_tasks("u", job="urgent")
    world.end(running_small(world)[0], job="small")
    assert world.task("u", "urgent").node_id is not None, "a kept node serves work of a higher priority"
    world.add_job("bigger", priority=5)
    world.add_tasks("h", job="bigger", rules=gang(2))
    reservation = world.state.reservation
    assert reservation is not None
    assert reservation.task.id == "h"
    started(world)
    world.end("u", job="urgent")
    for name in running_small(world):
        world.end(name, job="small")
    assert world.task("h", "bigger").node_id is not None
    assert world.task("g", "mpi").node_id is None


def test_lower_priority_does_not_pass() -> None:
    world = busy(2)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(2))
    world.add_job("idle", priority=-10)
    world.add_tasks("i", job="idle")
    world.end(running_small(world)[0], job="small")
    assert world.task("i", "idle").node_id is None


def test_a_reservation_ends_with_its_reason() -> None:
    for change in (
        e.TaskTerminateRequested(at=1000.0, job_id="mpi", task_id="g"),
        e.TaskDeleteRequested(at=1000.0, job_id="mpi", task_id="g"),
        e.JobDisableRequested(at=1000.0, job_id="mpi", option=DisableJobOption.REQUEUE),
        e.JobTerminateRequested(at=1000.0, job_id="mpi", reason="UserTerminate"),
        e.JobDeleteRequested(at=1000.0, job_id="mpi"),
        e.PoolResizeRequested(at=1000.0, target_dedicated_nodes=1, resize_timeout_s=300.0),
    ):
        world = busy(2)
        world.add_job("mpi")
        world.add_tasks("g", job="mpi", rules=gang(2))
        assert world.state.reservation is not None
        world.do(change)
        assert world.state.reservation is None, change
        assert world.timers["gang"] is None
        started(world)
        world.end(running_small(world)[0], job="small")
        started(world)
        assert running_small(world), "the node is free for others again"


def test_a_gang_the_pool_is_too_small_for_keeps_nothing() -> None:
    world = busy(2)
    world.add_job("mpi")
    world.add_tasks("huge", job="mpi", rules=gang(3))
    assert world.state.reservation is None
    world.add_tasks("fits", job="mpi", rules=gang(2))
    assert world.state.reservation is not None
    assert world.state.reservation.task.id == "fits"


def test_a_reservation_is_bounded_and_comes_back() -> None:
    world = busy(2)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(2))
    first, second = running_small(world)
    world.end(first, job="small")
    assert len(running_small(world)) == 1, "one node waits for the other"
    assert world.timers["gang"] == world.now + RESERVATION_S
    world.do(e.GangReservationTimedOut(at=world.now, deadline=world.now + 1.0))
    assert world.state.reservation is not None, "a stale timer"
    world.fire_gang_timer()
    assert world.state.reservation is None
    started(world)
    assert len(running_small(world)) == 2, "others have their turn"
    assert world.timers["gang"] == world.now + RESERVATION_S
    world.add_tasks("later", job="mpi", rules=gang(1))
    assert world.state.reservation is not None, "the next in order may reserve"
    world.end(second, job="small")
    started(world)
    assert world.task("later", "mpi").node_id is not None
    world.end("later", job="mpi")
    world.fire_gang_timer()
    assert world.state.reservation is not None
    assert world.state.reservation.task.id == "g"


def test_a_lost_reserved_node_is_replaced() -> None:
    world = busy(3)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(2))
    lost = next(node.row.id for node in world.state.nodes.values() if node.reserved)
    world.do(e.NodeLost(at=world.now, node_id=lost))
    kept = {node.row.id for node in world.state.nodes.values() if node.reserved}
    assert len(kept) == 2
    assert lost not in kept


def test_a_rebuilt_memory_reserves_anew() -> None:
    world = busy(2)
    world.add_job("mpi")
    world.add_tasks("g", job="mpi", rules=gang(2))
    world.state = world.rebuilt()
    assert world.state.reservation is None
    for node_id, node in list(world.state.nodes.items()):
        world.connect(node_id, *(e.HeldAttempt(key, a.attempt, 1) for key, a in node.assigned.items()))
    assert world.state.reservation is not None


def test_a_job_at_its_limit_keeps_nothing() -> None:
    world = busy(2)
    world.add_job("mpi", max_parallel=1)
    world.add_tasks("g", job="mpi", rules=gang(2))
    assert world.state.reservation is not None
    world.do(e.JobUpdated(at=world.now, job_id="mpi", changes=JobChanges({}, max_parallel_tasks=1)))
    for name in running_small(world):
        world.end(name, job="small")
    world.add_tasks("h", job="mpi", rules=gang(1))
    assert world.task("g", "mpi").node_id is not None
    assert world.state.reservation is None
