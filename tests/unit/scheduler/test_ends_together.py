"""Ends that nodes tell together: what is done once for all of them must come to the same as one after the other."""

import random

import pytest

from millpond.domain import events as e
from millpond.domain.states import ErrorCategory, JobState, NodeState, TaskState
from millpond.domain.task import FailureInfo, NewTask, TaskRules
from millpond.scheduler.check import digest
from tests.unit.scheduler.world import World

_UPLOAD = FailureInfo(ErrorCategory.USER_ERROR, "FileUploadMiscError", "no")


def _world() -> World:
    world = World()
    world.add_pool(nodes=2, slots=3)
    world.add_job("plain", retries=1)
    world.add_job("other", terminate_when_done=True)
    world.add_job("children", dependencies=True)
    return world


def _add(world: World, chance: random.Random, serial: int) -> None:
    """The same in every world that was given the same chance."""
    job = chance.choice(("plain", "plain", "plain", "other", "children"))
    if world.job(job).state is not JobState.ACTIVE:
        return
    tasks = []
    for number in range(serial, serial + chance.randint(1, 9)):
        rules = TaskRules(retention_s=chance.choice((1.0, 1e9))) if chance.random() < 0.1 else None
        if job == "children" and chance.random() < 0.5:
            rules = TaskRules(depends_on_ids=(f"t{number - 1}",))
        tasks.append(NewTask(f"t{number}", b"{}", required_slots=chance.choice((1, 1, 1, 3)), rules=rules))
    world.do(e.TasksAdded(at=world.now, job_id=job, tasks=tuple(tasks), single=False))


def _ends(world: World, chance: random.Random, node_id: str) -> list[e.AttemptEnd]:
    """Of what the node holds the first few, in its order, most of them with exit code 0 and told with their beginning."""
    ends = []
    now = world.now
    for key, assignment in list(world.state.nodes[node_id].assigned.items())[: chance.randint(0, 9)]:
        code, failure = chance.choice(((0, None),) * 20 + ((1, None), (0, _UPLOAD)))
        ends.append(
            e.AttemptEnd(
                len(ends),
                key,
                assignment.attempt if chance.random() < 0.97 else 99,
                None if assignment.task.state is TaskState.RUNNING else now - chance.random(),
                now + chance.uniform(-1.0, 0.1),
                code,
                failure,
                retryable=chance.random() < 0.5,
                user_cpu_s=chance.random(),
            )
        )
    return ends


def _play(seed: int, *, together: bool) -> tuple[World, list[int]]:
    world, chance = _world(), random.Random(seed)
    told: list[int] = []
    for round_ in range(60):
        world.tick(chance.choice((0.001, 1.0)))
        _add(world, chance, 10 * round_)
        by_node = []
        for node_id in list(world.state.nodes):
            assigned = list(world.state.nodes[node_id].assigned.values())
            if assigned and assigned[0].holds and chance.random() < 0.3:
                first = assigned[0]
                world.do(
                    e.TaskStarted(
                        at=world.now,
                        node_id=node_id,
                        key=first.task.key,
                        attempt=first.attempt,
                        start_time=world.now,
                    )
                )
            by_node.append((node_id, _ends(world, chance, node_id)))
        told.append(min(len(ends) for _, ends in by_node))
        event = e.TasksEnded(at=world.now, told=by_node)
        alone = [event.alone(node_id, end) for node_id, ends in by_node for end in ends]
        world.do(*([event] if together else alone))
    return world, told


@pytest.mark.parametrize("seed", range(12))
def test_together_is_as_one_by_one(seed: int) -> None:
    world, told = _play(seed, together=True)
    alone, _ = _play(seed, together=False)
    assert max(told) > 3
    assert world.job("plain").counts.succeeded > 30
    assert digest(world.state) == digest(alone.state)


def test_a_node_that_ran_tasks_between_two_reports_was_running() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    (node_id,) = world.state.nodes
    world.add_job()
    world.add_tasks("a", "b", "c")
    ready = world.state.nodes[node_id].row.state_time
    world.tick(5.0)
    assigned = list(world.state.nodes[node_id].assigned.values())
    ends = [
        e.AttemptEnd(seq, one.task.key, one.attempt, world.now - 2.0, world.now - 1.0, 0)
        for seq, one in enumerate(assigned)
    ]
    world.do(e.TasksEnded(at=world.now, told=[(node_id, ends)]))
    row = world.nodes[node_id]
    assert row.state is NodeState.IDLE
    assert row.state_time == world.now > ready
    assert (row.total_tasks_run, row.total_tasks_succeeded, row.running_tasks) == (len(ends), len(ends), 0)
    assert row.recent_tasks == tuple(one.task.key for one in assigned)
    assert world.task("a").start_time == world.now - 2.0
    assert world.job().counts.succeeded == len(ends)
