"""Why something waits: the causes of tasks, jobs, nodes and pools."""

import msgspec
import pytest

from millpond.domain import events as e
from millpond.domain.autoscale import AutoScaleRun, AutoScaleRunError
from millpond.domain.errors import BatchError
from millpond.domain.explanation import Cause, Explanation
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules, StartTaskRules
from millpond.domain.states import DisableJobOption, TaskKind
from millpond.domain.task import JobManagerRules, NameValue, NewTask, TaskRules
from millpond.scheduler.explain import explain_job, explain_task
from millpond.scheduler.explain_nodes import explain_node, explain_pool
from tests.unit.scheduler.world import World


def why(world: World, task_id: str, job: str = "job") -> Explanation:
    return explain_task(world.state, job, task_id)


def codes(explanation: Explanation) -> list[str]:
    return [cause.code for cause in explanation.causes]


def only(explanation: Explanation, code: str) -> Cause:
    (cause,) = [cause for cause in explanation.causes if cause.code == code]
    return cause


def after(*parents: str) -> TaskRules:
    return TaskRules(depends_on_ids=parents)


def test_what_does_not_exist_is_said_so() -> None:
    world = World()
    for ask in (
        lambda: explain_job(world.state, "none"),
        lambda: explain_task(world.state, "none", "t"),
        lambda: explain_node(world.state, "tvmps_0_d"),
        lambda: explain_pool(world.state),
    ):
        with pytest.raises(BatchError):
            ask()
    world.add_job()
    with pytest.raises(BatchError, match="task 't' does not exist"):
        why(world, "t")


def scaled(world: World, error: AutoScaleRunError | None, targets: int = 0) -> None:
    """The pool's formula has been evaluated."""
    pool = world.state.pool
    assert pool is not None
    assert pool.auto_scale is not None
    run = AutoScaleRun(world.now, "", error)
    event = e.PoolAutoScaled(at=world.now, pool_no=pool.no, since=pool.auto_scale.since, run=run)
    world.do(msgspec.structs.replace(event, target_dedicated_nodes=targets))


def test_a_pool_whose_formula_fails_or_asks_for_nothing() -> None:
    world = World()
    world.add_pool(nodes=0)
    world.do(e.PoolAutoScaleEnableRequested(at=world.now, formula="$TargetDedicatedNodes = 1 / 0;", interval_s=300.0))
    world.add_job()
    world.add_tasks("t")
    waits = only(why(world, "t"), "tooFewNodes")
    assert (waits.never, waits.unblock) == (False, "")  # a resize would be refused
    assert waits.causes[0].code == "autoScaleWaits"
    assert "has not been evaluated yet" in waits.causes[0].message
    values = (NameValue("Message", "Line 1, Col 27: Division by zero"),)
    scaled(world, AutoScaleRunError("AutoScalingFormulaEvaluationError", "It failed", values))
    failed = only(why(world, "t"), "tooFewNodes").causes[0]
    assert (failed.code, failed.since, failed.never) == ("autoScaleFailed", world.now, False)
    assert "AutoScalingFormulaEvaluationError: It failed (Line 1, Col 27: Division by zero); it is" in failed.message
    assert only(explain_pool(world.state), "tooFewNodes").causes[0] == failed
    scaled(world, None)
    assert "asks for 0 nodes" in only(explain_pool(world.state), "tooFewNodes").causes[0].message
    scaled(world, None, targets=1)
    scaled(world, AutoScaleRunError("InsufficientSampleData", "Too few"))
    assert "autoScaleFailed" in codes(explain_pool(world.state))


def test_too_many_slots_for_the_pools_nodes() -> None:
    world = World()
    world.add_pool(nodes=1, slots=2)
    world.add_job()
    world.add_tasks("big", slots=4)
    found = why(world, "big")
    assert codes(found) == ["tooManySlots"]
    assert found.causes[0].message == "it needs 4 slots, and the pool's nodes have 2"
    assert found.never


def test_a_task_does_not_wait_since_before_it_was_added() -> None:
    world = World()
    world.add_pool(nodes=1, inter_node=True)
    world.add_job()
    world.now += 60.0
    world.add_tasks("big", slots=4)
    assert only(why(world, "big"), "tooManySlots").since == world.task("big").creation_time == world.now
    assert only(explain_job(world.state, "job"), "tooManySlots").since == world.now


def test_one_of_a_thing_is_spoken_of_as_one() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks("runs")
    world.start("runs")
    world.add_tasks("waits")
    assert explain_job(world.state, "job").summary == "The job is active: 1 task waits, 1 runs, 0 are completed."
    assert explain_pool(world.state).summary.endswith(": 1 of 1 node takes tasks, and 1 task waits.")
    (node,) = world.state.nodes
    assert explain_node(world.state, node).summary == "The node takes tasks; 0 of 1 slot is free."
    running = only(explain_node(world.state, node), "tasksRunning")
    assert (running.message, [r.id for r in running.references]) == ("1 task is on it", ["runs"])
    ahead = only(explain_node(world.state, node), "handedOutAhead")
    assert (ahead.message, [r.id for r in ahead.references]) == ("1 task was handed to it ahead of time", ["waits"])


def test_blocked_by_a_task_that_failed_through_any_number_of_others() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job(dependencies=True)
    world.add_tasks("17")
    names = [f"t{n}" for n in range(12)]
    for parent, name in zip(["17", *names], names, strict=False):
        world.add_tasks(name, rules=after(parent))
    assert not why(world, names[-1]).never
    world.start("17")
    world.end("17", 3)
    direct = why(world, "t0")
    cause = only(direct, "dependencyFailed")
    assert cause.message == "it is blocked by task '17', which failed with exit code 3"
    assert cause.unblock == "reactivate task '17'"
    assert [(r.kind, r.id, r.job_id) for r in cause.references] == [("task", "17", "job")]
    assert cause.since == world.task("17").end_time
    last = why(world, names[-1])
    assert last.never
    assert only(last, "dependencyPending").causes[0].code == "dependencyPending"
    assert only(explain_job(world.state, "job"), "dependencyFailed").never


def test_missing_parents_ranges_and_cycles() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job(dependencies=True)
    world.add_tasks("orphan", rules=after("ghost"))
    assert only(why(world, "orphan"), "dependencyMissing").never
    world.add_tasks("a", rules=after("b"))
    world.add_tasks("b", rules=after("a"))
    cycle = why(world, "a")
    assert cycle.never
    assert only(cycle, "dependencyPending").causes[0].code == "dependencyCycle"
    world.add_tasks("04")
    world.add_tasks("ranged", rules=TaskRules(depends_on_ranges=((3, 5),)))
    ranged = why(world, "ranged")
    assert codes(ranged) == ["dependencyMissing", "dependencyPending", "dependencyMissing"]
    assert [r.id for r in ranged.causes[1].references] == ["04"]
    world.add_tasks("far", rules=TaskRules(depends_on_ranges=((100, 200),)))
    assert codes(why(world, "far")).count("dependencyMissing") == 10
    assert only(why(world, "far"), "moreDependencies").message == "101 dependencies are not met in all"


def test_the_pool_does_not_exist_or_has_no_nodes() -> None:
    world = World()
    world.add_job()
    world.add_tasks("t")
    assert codes(why(world, "t")) == ["poolMissing"]
    assert codes(explain_job(world.state, "job")) == ["poolMissing"]
    world.add_pool(nodes=0)
    empty = only(why(world, "t"), "tooFewNodes")
    assert (empty.message, empty.unblock, empty.never) == ("the pool has no nodes", "resize the pool", True)
    world.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0))
    (first, _) = world.to_create
    world.do(e.NodeProvisionFailed(at=world.now, node_id=first, code="AllocationFailed", message="no machines left"))
    coming = why(world, "t")
    assert not coming.never
    assert codes(coming) == ["nodeCreating"]
    world.do(e.NodeProvisionFailed(at=world.now, node_id=world.to_create[1], code="Quota", message="all used"))
    short = only(why(world, "t"), "tooFewNodes")
    assert [cause.code for cause in short.causes] == ["resizeError", "resizeError"]
    assert "resizeError" in codes(explain_pool(world.state))


def test_the_job_is_disabled_or_over() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.do(e.JobDisableRequested(at=world.now, job_id="job", option=DisableJobOption.WAIT))
    world.add_tasks("t")
    cause = only(why(world, "t"), "jobDisabled")
    assert (cause.unblock, cause.since, cause.never) == ("enable the job", world.job().state_time, True)
    row = world.task("t")
    world.do(e.JobTerminateRequested(at=world.now, job_id="job", reason="UserTerminate"))
    over = explain_task(world.state, "job", "t", row)
    assert codes(over) == ["jobOver"]
    assert over.never


def test_the_limit_of_the_job() -> None:
    world = World()
    world.add_pool(nodes=1, slots=4)
    world.add_job(max_parallel=1)
    world.add_tasks("a", "b")
    cause = only(why(world, "b"), "maxParallelTasks")
    assert [r.id for r in cause.references] == ["a"]


def test_preparation_runs_and_fails() -> None:
    world = World()
    world.add_pool(nodes=2)
    world.add_job(preparation=JobPreparationRules())
    world.add_tasks("a", "b")
    assert codes(why(world, "a")) == ["preparationRunning"]
    world.run_special(TaskKind.JOB_PREPARATION, 1)
    world.run_special(TaskKind.JOB_PREPARATION, 1)
    cause = only(why(world, "a"), "preparationFailed")
    assert cause.message.startswith("the job's preparation task failed on 2 of 2 nodes")
    assert cause.never
    assert len(cause.references) == 2
    assert only(explain_job(world.state, "job"), "preparationFailed").never
    node = explain_node(world.state, next(iter(world.state.nodes)))
    assert "preparationFailed" in codes(node)


def test_multi_instance_tasks() -> None:
    mpi = TaskRules(instances=3)
    for pool, code in (
        ({"slots": 1}, "noInterNodeCommunication"),
        ({"inter_node": True, "slots": 2}, "severalSlotsPerNode"),
    ):
        world = World()
        world.add_pool(nodes=3, **pool)
        world.add_job()
        world.add_tasks("g", rules=mpi)
        assert codes(why(world, "g")) == [code]
        assert why(world, "g").never
    world = World()
    world.add_pool(nodes=2, inter_node=True)
    world.state.run_time_s = 100.0
    world.add_job()
    world.add_tasks("g", rules=mpi)
    assert "it needs 3 nodes at once, and the pool has 2" in only(why(world, "g"), "tooFewNodes").message
    assert only(why(world, "g"), "tooFewNodes").since == world.task("g").creation_time
    world.do(e.TaskDeleteRequested(at=world.now, job_id="job", task_id="g"))
    world.add_tasks("small")
    world.start("small")
    world.add_tasks("g", rules=TaskRules(instances=2))
    world.add_tasks("other")
    assert only(why(world, "g"), "nodesDraining").since == world.now
    assert only(why(world, "other"), "nodesReserved").references[0].id == "g"
    assert "nodesReserved" in codes(explain_pool(world.state))
    assert "nodeReserved" in codes(explain_node(world.state, world.task("small").node_id or ""))
    world.end("small")
    world.start_all("g")
    assert only(why(world, "g"), "coordinating").message.startswith("2 instances of 2")
    world.coordinate("g")
    assert codes(why(world, "g")) == []


def test_a_paused_reservation() -> None:
    world = World()
    world.add_pool(nodes=1, inter_node=True)
    world.state.run_time_s = 100.0
    world.add_job()
    world.add_tasks("small")
    world.start("small")
    world.add_tasks("g", rules=TaskRules(instances=1))
    world.fire_gang_timer()
    assert "reservationPaused" in codes(why(world, "g"))


def test_nodes_that_are_busy_and_who_comes_first() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.state.run_time_s = 100.0
    world.add_job()
    world.add_job("urgent", priority=9)
    world.add_tasks("runs")
    world.start("runs")
    world.start("runs")
    world.add_tasks("u1", "u2", job="urgent")
    world.add_tasks("t")
    found = why(world, "t")
    assert codes(found) == ["nodesBusy", "behindHigherPriority"]
    assert [r.id for r in found.causes[0].references] == ["runs"]
    assert found.causes[1].message.startswith("2 tasks of 1 job with a higher priority")
    assert not found.never
    assert codes(why(world, "runs")) == []


def test_handed_out_ahead() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job()
    world.add_tasks("a", "b")
    assert codes(why(world, "a")) == ["starting"]
    assert codes(why(world, "b")) == ["handedOutAhead"]


def test_nodes_in_trouble() -> None:
    world = World()
    world.add_pool(nodes=2, start_task=StartTaskRules())
    world.add_job()
    world.add_tasks("t")
    assert only(why(world, "t"), "startTaskRunning").message.startswith("2 nodes")
    world.run_special(TaskKind.START_TASK, 5)
    cause = only(why(world, "t"), "startTaskFailed")
    assert cause.never
    assert "exited with 5" in cause.message
    node_id = next(iter(world.state.nodes))
    node = explain_node(world.state, node_id)
    assert node.summary.startswith("The node takes no tasks: the node has failed the pool's start task")
    silent = World()
    silent.add_pool(nodes=1)
    silent.add_job()
    node_id = next(iter(silent.state.nodes))
    silent.do(e.NodeSilent(at=silent.now, node_id=node_id))
    silent.add_tasks("t")
    assert codes(why(silent, "t")) == ["nodeSilent"]


def test_a_manager_that_wants_a_dedicated_node() -> None:
    world = World()
    world.add_pool(nodes=0, spot=1)
    rules = TaskRules(job_manager=JobManagerRules(allow_low_priority_node=False))
    world.add_job(manager=NewTask("manager", b"{}", rules=rules))
    assert only(why(world, "manager"), "needsDedicatedNode").never


def test_what_a_job_waits_for_to_end() -> None:
    world = World()
    world.add_pool(nodes=1)
    world.add_job(preparation=JobPreparationRules(), release=JobReleaseRules())
    world.add_tasks("t")
    world.run_special(TaskKind.JOB_PREPARATION)
    world.start("t")
    world.do(e.JobTerminateRequested(at=world.now, job_id="job", reason="UserTerminate"))
    assert codes(explain_job(world.state, "job")) == ["tasksStopping"]
    world.confirm_stops()
    assert codes(explain_job(world.state, "job")) == ["releaseRunning"]
    world.run_special(TaskKind.JOB_RELEASE)
    assert codes(explain_job(world.state, "job")) == []
    world.add_job("empty")
    assert codes(explain_job(world.state, "empty")) == ["noTasks"]


def test_asking_changes_nothing() -> None:
    world = World()
    world.add_pool(nodes=2, inter_node=True)
    world.add_job(dependencies=True)
    world.add_tasks("a", "b", "c")
    world.add_tasks("d", rules=after("a"))
    world.add_tasks("g", rules=TaskRules(instances=2))
    before = world.rebuilt()
    for name in ("a", "b", "c", "d", "g"):
        why(world, name)
    explain_job(world.state, "job")
    explain_pool(world.state)
    for node_id in world.state.nodes:
        explain_node(world.state, node_id)
    world.check()
    assert before.jobs.keys() == world.state.jobs.keys()
