"""allowTaskPreemption, and the order of jobs of equal priority."""

from millpond.domain import events as e
from millpond.domain.job import JobChanges
from millpond.domain.states import JobDefaultOrder, TaskState
from millpond.domain.task import TaskRules
from tests.unit.scheduler.world import World


def filled(nodes: int = 2, slots: int = 1, *, preemptible: bool = True, **more: object) -> World:
    """Every slot runs a task of a job of priority 0, started one second after the other."""
    world = World()
    world.add_pool(nodes=nodes, slots=slots, **more)
    world.state.run_time_s = 100.0
    world.add_job("low", preemptible=preemptible)
    names = [f"l{n}" for n in range(nodes * slots)]
    world.add_tasks(*names, job="low")
    for name in names:
        world.tick()
        world.start(name, "low")
    return world


def states(world: World, job: str = "low") -> dict[str, TaskState]:
    return {task.id: task.state for task in world.state.jobs[job].tasks.values()}


def test_a_higher_priority_takes_the_place_of_what_started_last() -> None:
    world = filled()
    world.add_job("high", priority=1)
    world.add_tasks("h", job="high")
    assert states(world) == {"l0": TaskState.RUNNING, "l1": TaskState.ACTIVE}
    victim = world.task("l1", "low")
    assert (victim.retry_count, victim.requeue_count, victim.last_requeue_time) == (0, 0, None)
    task = world.task("h", "high")
    (stop,) = world.stopped
    assert task.node_id == stop.node_id
    world.confirm_stops()
    world.start("h", "high")
    world.end("h", job="high")
    assert world.task("l1", "low").node_id is not None, "it runs again after"


def test_as_few_as_needed_and_no_more() -> None:
    world = filled(nodes=2, slots=4)
    world.add_job("high", priority=1)
    world.add_tasks("h", job="high", slots=2)
    assert list(states(world).values()).count(TaskState.ACTIVE) == 2
    world.do(e.JobUpdated(at=world.now, job_id="low", changes=JobChanges({}, priority=0)))
    assert list(states(world).values()).count(TaskState.ACTIVE) == 2, "another pass takes no more"
    world.confirm_stops()
    assert world.task("h", "high").attempt == 1
    world.start("h", "high")


def test_what_was_freed_is_kept_for_it() -> None:
    world = filled(nodes=1, slots=2)
    world.add_job("high", priority=1)
    world.add_tasks("h", job="high", slots=2)
    first, second = world.stopped
    world.do(e.TaskStopped(at=world.now, node_id=first.node_id, key=first.key, attempt=first.attempt))
    assert all(task.node_id is None for task in world.state.jobs["low"].tasks.values())
    world.do(e.TaskStopped(at=world.now, node_id=second.node_id, key=second.key, attempt=second.attempt))
    world.start("h", "high")
    assert world.task("h", "high").attempt == 1


def test_the_lowest_priority_goes_first() -> None:
    world = filled(nodes=1)
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0))
    world.add_job("lower", priority=-5, preemptible=True)
    world.add_tasks("x", job="lower")
    world.connect_all()
    world.start("x", "lower")
    world.add_job("high", priority=1)
    world.add_tasks("h", job="high")
    assert world.task("x", "lower").state is TaskState.ACTIVE
    assert world.task("l0", "low").state is TaskState.RUNNING


def test_equal_priority_and_jobs_that_do_not_allow_it_are_left_alone() -> None:
    world = filled()
    world.add_job("same")
    world.add_tasks("s", job="same")
    assert world.stopped == []
    other = filled(preemptible=False)
    other.add_job("high", priority=1)
    other.add_tasks("h", job="high")
    assert other.stopped == []
    other.do(e.JobUpdated(at=other.now, job_id="low", changes=JobChanges({}, allow_task_preemption=True)))
    assert len(other.stopped) == 1, "and at once when the job comes to allow it"


def test_nothing_goes_for_a_task_that_fits_nowhere_anyway() -> None:
    world = filled(nodes=2, slots=2)
    world.add_job("high", priority=1, max_parallel=1)
    world.add_tasks("huge", job="high", slots=3)
    assert world.stopped == []
    world.add_tasks("h1", "h2", job="high")
    assert len(world.stopped) == 1, "maxParallelTasks holds for the taker"


def test_many_take_the_place_of_many() -> None:
    world = filled(nodes=3, slots=2)
    world.add_job("high", priority=1)
    world.add_tasks(*(f"h{n}" for n in range(10)), job="high")
    assert len(world.stopped) == 6
    world.confirm_stops()
    assert sum(node.free for node in world.state.nodes.values()) == 0
    holders = {a.task.id[0] for n in world.state.nodes.values() for a in n.assigned.values() if a.holds}
    assert holders == {"h"}


def test_a_gang_takes_nodes_that_are_lent_and_waits_for_no_others() -> None:
    world = filled(nodes=3, inter_node=True)
    world.add_job("kept")
    world.add_job("mpi", priority=1)
    world.add_tasks("g", job="mpi", rules=TaskRules(instances=2))
    assert len(world.stopped) == 2
    assert states(world)["l0"] is TaskState.RUNNING
    world.confirm_stops()
    assert len(set(world.members("g", "mpi"))) == 2


def test_a_gang_that_cannot_be_served_at_once_has_nothing_ended_for_it() -> None:
    world = filled(nodes=1, inter_node=True)
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0))
    world.add_job("firm")
    world.add_tasks("f", job="firm")
    world.connect_all()
    world.start("f", "firm")
    world.add_job("mpi", priority=1)
    world.add_tasks("g", job="mpi", rules=TaskRules(instances=2))
    assert world.stopped == []
    assert world.state.reservation is not None


def test_a_gang_that_is_lent_goes_as_one() -> None:
    world = World()
    world.add_pool(nodes=2, inter_node=True)
    world.add_job("low", preemptible=True)
    world.add_tasks("g", job="low", rules=TaskRules(instances=2))
    world.start_all("g", "low")
    world.add_job("high", priority=1)
    world.add_tasks("h", job="high")
    assert len(world.stopped) == 2
    task = world.task("g", "low")
    assert (task.state, task.requeue_count) == (TaskState.ACTIVE, 0)
    world.confirm_stops()
    world.start("h", "high")


def test_creationtime_serves_the_older_job_first() -> None:
    for order, expected in ((JobDefaultOrder.CREATION_TIME, {"a": 4}), (JobDefaultOrder.NONE, {"a": 2, "b": 2})):
        world = World()
        world.add_pool(nodes=1, slots=4, order=order, connect=False)
        for job in ("a", "b"):
            world.add_job(job)
            world.add_tasks(*(f"{job}{n}" for n in range(6)), job=job)
        world.connect_all()
        held = [a.task.id[0] for n in world.state.nodes.values() for a in n.assigned.values() if a.holds]
        assert {name: held.count(name) for name in set(held)} == expected


def test_creationtime_lets_the_younger_have_what_the_older_cannot_use() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2, order=JobDefaultOrder.CREATION_TIME, connect=False)
    world.add_job("old", max_parallel=1)
    world.add_job("young")
    world.add_tasks("o0", "o1", job="old")
    world.add_tasks("y0", job="young")
    world.connect_all()
    held = {a.task.id for n in world.state.nodes.values() for a in n.assigned.values() if a.holds}
    assert held == {"o0", "y0"}
