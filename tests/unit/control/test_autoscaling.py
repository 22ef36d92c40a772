"""Automatic scaling through the true control plane on virtual time: sampling, evaluating, restarts, queues."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.autoscale import AutoScale, AutoScaleRun
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.job import AutoPool
from millpond.domain.pool import Pool
from millpond.domain.states import JobState, NodeDeallocationOption
from millpond.domain.task import NewTask, TaskRules
from millpond.protocol import messages as m
from millpond.store.base import SampleBlock
from tests.listening import hear
from tests.unit.control.lab import EPOCH, SETTINGS, Lab
from tests.unit.scheduler.world import new_job, new_pool

BY_QUEUE = "$TargetDedicatedNodes = min(3, $PendingTasks.GetSample(1)); $NodeDeallocationOption = taskcompletion;"
LATEST = "$TargetDedicatedNodes = val($PendingTasks.GetSample(1), 0)"


@pytest.fixture
def lab() -> Lab:
    return Lab()


def lab_with(**settings: Any) -> Lab:
    return Lab(msgspec.structs.replace(SETTINGS, **settings))


async def add_pool(lab: Lab, formula: str | None = LATEST, interval_s: float = 300.0, pool_id: str = "pool") -> None:
    pool = new_pool(pool_id=pool_id)
    if formula is not None:
        pool.auto_scale = AutoScale(formula, interval_s, 0.0, 0.0)
    await lab.keep_alive()
    await lab.insist(lambda c: c.add_pool(pool, "test"))


async def add_job(lab: Lab, *tasks: NewTask | str, job_id: str = "job") -> None:
    job = new_job(job_id, dependencies=True)
    await lab.insist(lambda c: c.add_job(job, "test"))
    if tasks:
        await add_tasks(lab, *tasks, job_id=job_id)


async def add_tasks(lab: Lab, *tasks: NewTask | str, job_id: str = "job") -> None:
    new = tuple(NewTask(task, b"{}") if isinstance(task, str) else task for task in tasks)
    await lab.insist(lambda c: c.to_job(job_id, e.TasksAdded(at=lab.clock(), job_id=job_id, tasks=new)))


async def stored(lab: Lab, pool_id: str = "pool") -> Pool:
    pool = await lab.store.get_pool(pool_id)
    assert pool is not None
    return pool


async def run_of(lab: Lab, pool_id: str = "pool") -> AutoScaleRun | None:
    scale = (await stored(lab, pool_id)).auto_scale
    return None if scale is None else scale.run


async def until_run(lab: Lab, pool_id: str = "pool", *, after: float = 0.0) -> AutoScaleRun:
    async def has_run() -> bool:
        run = await run_of(lab, pool_id)
        return run is not None and run.timestamp > after

    await lab.until(has_run)
    run = await run_of(lab, pool_id)
    assert run is not None
    return run


async def evaluate(lab: Lab, formula: str, pool_id: str = "pool") -> AutoScaleRun | BatchError:
    return await lab.insist(lambda c: c.evaluate_auto_scale(pool_id, formula))


async def number(lab: Lab, expression: str) -> str:
    """What an expression gives, evaluated in the pool."""
    run = await evaluate(lab, f"x = {expression};")
    assert isinstance(run, AutoScaleRun)
    return str(run.error.values[0].value) if run.error is not None else run.results.rpartition("x=")[2]


# --- running ---------------------------------------------------------------------------------------------------------


def test_a_pool_grows_and_shrinks_at_its_interval(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab)
        first = await until_run(lab)
        assert first.results == "$TargetDedicatedNodes=0;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
        await add_job(lab, "a", "b")
        second = await until_run(lab, after=first.timestamp)
        assert second.timestamp == pytest.approx(first.timestamp + 300.0, abs=1.0)
        assert (await stored(lab)).target_dedicated_nodes == 2
        page = await lab.store.list_nodes("pool", None, 10, None)
        assert len(page.items) == 2
        await lab.insist(
            lambda c: c.to_job("job", e.JobTerminateRequested(at=lab.clock(), job_id="job", reason="over"))
        )
        await until_run(lab, after=second.timestamp)
        assert (await stored(lab)).target_dedicated_nodes == 0

    lab.run(main())


@pytest.mark.parametrize("early_s", [0.0, 0.0009])
def test_a_timer_that_rings_early_does_not_make_two_runs_of_one(early_s: float) -> None:
    scale = AutoScale(LATEST, 300.0, EPOCH, EPOCH + 300.0)
    assert scale.due_after(EPOCH + 300.0 - early_s) == EPOCH + 600.0
    assert scale.due_after(EPOCH + 200.0) == EPOCH + 300.0
    assert scale.due_after(EPOCH + 1250.0) == EPOCH + 1500.0


def test_many_formulas_due_at_once_are_all_evaluated_once(lab: Lab) -> None:
    async def main() -> None:
        pools = [f"pool{number}" for number in range(50)]
        for pool_id in pools:
            await add_pool(lab, pool_id=pool_id)
        for pool_id in pools:
            await until_run(lab, pool_id)
        await asyncio.sleep(310.0)
        for number, pool_id in enumerate(pools, 1):
            records = [run.at for run in await lab.store.list_auto_scale_runs(number, 10)]
            assert len(records) == 2, (pool_id, records)

    lab.run(main())


def test_every_run_is_recorded_with_what_it_looked_at(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "n = $PendingTasks.GetSamplePercent(TimeInterval_Minute); $TargetDedicatedNodes = 2;")
        first = await until_run(lab)
        await until_run(lab, after=first.timestamp)

        async def written() -> bool:
            return len(await lab.store.list_auto_scale_runs(1, 10)) == 2

        await lab.until(written)
        records = [msgspec.json.decode(run.record) for run in await lab.store.list_auto_scale_runs(1, 10)]
        assert {record["trigger"] for record in records} == {"interval"}
        evaluation = records[0]["evaluation"]
        assert evaluation["target_dedicated_nodes"] == 2
        assert evaluation["variables"][0]["name"] == "n"
        assert evaluation["windows"][0]["metric"] == "$PendingTasks"
        assert records[0]["formula"].startswith("n = ")

    lab.run(main())


def test_a_formula_that_fails_leaves_the_pool_as_it_is(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = max($PendingTasks.GetSample(TimeInterval_Hour, 50))")
        run = await until_run(lab)
        assert run.error is not None
        assert run.error.code == "InsufficientSampleData"
        assert run.error.values[0].value.startswith("Line 1, Col 29: Insufficient data from data set: $PendingTasks")
        assert (await stored(lab)).target_dedicated_nodes == 0

    lab.run(main())


def test_runs_that_change_targets_or_fail_leave_one_record_each_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lab = lab_with(auto_scale_max_nodes=3)

    async def main() -> None:
        with caplog.at_level(logging.INFO, logger="millpond.control.autoscaling"):
            await add_pool(lab, "$TargetDedicatedNodes = 2; $TargetLowPriorityNodes = 9")
            await add_pool(lab, "$TargetDedicatedNodes = 0", pool_id="idle")
            await add_pool(lab, "$TargetDedicatedNodes = 1 / 0", pool_id="broken")
            for pool_id in ("pool", "idle", "broken"):
                first = await until_run(lab, pool_id)
                await until_run(lab, pool_id, after=first.timestamp)

            async def as_many_as_stored() -> bool:
                return len(await lab.store.list_auto_scale_runs(3, 100)) == len(told_of("broken"))

            await lab.until(as_many_as_stored)

    def told_of(pool_id: str) -> list[dict[str, Any]]:
        return [vars(record) for record in caplog.records if vars(record).get("pool") == pool_id]

    lab.run(main())
    scaled = told_of("pool")
    assert [record["targets"] for record in scaled] == [(2, 1)], "later runs changed nothing"
    assert scaled[0]["result"].startswith("$TargetDedicatedNodes=2;$TargetLowPriorityNodes=9;")
    assert not told_of("idle")
    broken = told_of("broken")
    assert len(broken) >= 2
    assert {record["targets"] for record in broken} == {(0, 0)}
    assert {record["error_code"] for record in broken} == {"AutoScalingFormulaEvaluationError"}


def test_the_schedule_goes_on_after_a_restart(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, interval_s=600.0)
        first = await until_run(lab)
        await asyncio.sleep(200)
        await lab.restart()
        second = await until_run(lab, after=first.timestamp)
        assert second.timestamp == pytest.approx(first.timestamp + 600.0, abs=1.0)
        # What was due while nobody was there is due at once, and the beat stays.
        lab.kill()
        await asyncio.sleep(1000)
        third = await until_run(lab, after=second.timestamp)
        assert third.timestamp == pytest.approx(second.timestamp + 1000.0, abs=2.0)
        fourth = await until_run(lab, after=third.timestamp)
        assert fourth.timestamp == pytest.approx(first.timestamp + 1800.0, abs=1.0)

    lab.run(main())


def test_an_evaluation_whose_commit_fails_is_made_again(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 2")
        first = await until_run(lab)
        lab.store.fail_next_commit = StoreUnavailable("disk full")
        second = await until_run(lab, after=first.timestamp)
        assert second.timestamp - first.timestamp < 310

    lab.run(main())


def test_a_pool_that_is_disabled_or_deleted_is_evaluated_no_more(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 1")
        await until_run(lab)
        await lab.insist(lambda c: c.to_pool("pool", e.PoolAutoScaleDisableRequested(at=lab.clock())))
        await asyncio.sleep(1000)
        assert (await stored(lab)).auto_scale is None
        await lab.insist(
            lambda c: c.to_pool(
                "pool", e.PoolAutoScaleEnableRequested(at=lab.clock(), formula=LATEST, interval_s=300.0)
            )
        )
        await until_run(lab)
        await lab.insist(lambda c: c.to_pool("pool", e.PoolDeleteRequested(at=lab.clock())))

        async def gone() -> bool:
            return await lab.store.get_pool("pool") is None

        await lab.until(gone)
        assert await lab.store.list_auto_scale_runs(1, 10) == []
        # Another pool of that id begins without the other's samples.
        await add_pool(lab, "$TargetDedicatedNodes = $PendingTasks.Count()")
        await until_run(lab)
        assert (await stored(lab)).target_dedicated_nodes == 1

    lab.run(main())


def test_many_pools_are_all_evaluated(lab: Lab) -> None:
    async def main() -> None:
        for index in range(200):
            await add_pool(lab, "$TargetLowPriorityNodes = 0; x = 1", pool_id=f"p{index}")
        await lab.restart()
        await asyncio.sleep(700)
        for index in range(200):
            run = await run_of(lab, f"p{index}")
            assert run is not None
            assert run.timestamp > lab.clock() - 310

    lab.run(main())


# --- changes of the queue ---------------------------------------------------------------------------------------------


def test_a_pool_grows_within_a_second_of_the_first_task() -> None:
    lab = lab_with(auto_scale_on_queue_change=True)

    async def main() -> None:
        await add_pool(lab, BY_QUEUE)
        await until_run(lab)
        await asyncio.sleep(10)
        asked = lab.clock()
        await add_job(lab, "a")

        async def grown() -> bool:
            return (await stored(lab)).target_dedicated_nodes == 1

        await lab.until(grown, patience_s=2.0)
        run = await run_of(lab)
        assert run is not None
        assert run.timestamp - asked < 1.0
        # A storm of tasks is looked at once a second at most, and none is forgotten.
        writes = lab.store.commits
        for turn in range(50):
            await add_tasks(lab, *(f"{turn}-{task}" for task in range(3)))
        await lab.until(lambda: _target(lab, 3), patience_s=3.0)
        assert lab.store.commits - writes < 70
        runs = await lab.store.list_auto_scale_runs(1, 100)
        assert len(runs) <= 4

    lab.run(main())


async def _target(lab: Lab, wanted: int) -> bool:
    return (await stored(lab)).target_dedicated_nodes == wanted


def test_without_the_setting_only_the_interval_counts(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, BY_QUEUE)
        await until_run(lab)
        await add_job(lab, "a")
        await asyncio.sleep(100)
        assert (await stored(lab)).target_dedicated_nodes == 0

    lab.run(main())


# --- samples ---------------------------------------------------------------------------------------------------------


def test_what_formulas_see_of_tasks_and_nodes(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 1; $TargetLowPriorityNodes = 2")
        await until_run(lab)
        await add_job(
            lab,
            NewTask("a", b"{}", required_slots=1),
            NewTask("b", b"{}", rules=TaskRules(depends_on_ids=("a",))),
            NewTask("c", b"{}", required_slots=3),
        )
        seen = {
            metric: await number(lab, metric)
            for metric in (
                "$ActiveTasks",
                "$PendingTasks",
                "$ActiveTaskSlots",
                "$PendingTaskSlots",
                "$RunningTasks",
                "$SucceededTasks",
                "$CurrentDedicatedNodes",
                "$CurrentLowPriorityNodes",
                "$PreemptedNodeCount",
                "$UsableNodeCount",
                "$TaskSlotsPerNode",
                "$SampleNodeCount",
            )
        }
        assert list(seen.values()) == ["2", "2", "4", "4", "0", "0", "1", "2", "0", "0", "1", "0"]

    lab.run(main())


def test_the_newest_sample_is_the_present_and_windows_are_the_past(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab)
        await add_job(lab)
        await asyncio.sleep(301)
        await add_tasks(lab, "a")
        assert await number(lab, "$PendingTasks.GetSample(3)") == "[1,0,0]"
        assert await number(lab, "$PendingTasks.GetSample(TimeInterval_Minute * 2)") == "[0,0,0,0]"
        assert await number(lab, "$PendingTasks.GetSamplePercent(TimeInterval_Minute * 2)") == "100"

    lab.run(main())


def test_samples_survive_restarts_and_what_was_missed_is_missing(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, None)
        await add_job(lab, "a", "b")
        await asyncio.sleep(3600)
        lab.kill()
        await asyncio.sleep(600)
        await lab.keep_alive()
        event = e.PoolAutoScaleEnableRequested(at=lab.clock(), formula=LATEST)
        await lab.insist(lambda c: c.to_pool("pool", event))
        # Sampled from its first moment on, also before it had a formula.
        percent = await number(lab, "$PendingTasks.GetSamplePercent(TimeInterval_Minute * 60)")
        assert 80 <= float(percent) <= 85
        assert await number(lab, "min($PendingTasks.GetSample(TimeInterval_Minute * 50))") == "2"
        assert float(await number(lab, "$PendingTasks.Count()")) >= 120
        await asyncio.sleep(300)
        assert float(await number(lab, "$PendingTasks.GetSamplePercent(TimeInterval_Minute * 5)")) == 100

    lab.run(main())


def test_samples_are_kept_for_as_long_as_the_settings_say() -> None:
    lab = lab_with(sample_s=1.0, sample_history_s=600.0)

    async def main() -> None:
        await add_pool(lab, interval_s=3600.0)
        await until_run(lab)
        await asyncio.sleep(3000)
        count = float(await number(lab, "$PendingTasks.Count()"))
        assert 600 <= count <= 700
        blocks = await lab.store.load_samples(1, 0.0)
        assert 600 <= sum(_samples_in(block) for block in blocks) <= 700
        await lab.restart()
        assert 560 <= float(await number(lab, "$PendingTasks.Count()")) <= 700

    lab.run(main())


def _samples_in(block: SampleBlock) -> int:
    return len(msgspec.msgpack.decode(block.data)["times"]) // 8


def test_damaged_samples_are_left_out(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab)
        await until_run(lab)
        await asyncio.sleep(2000)
        blocks = await lab.store.load_samples(1, 0.0)
        assert len(blocks) > 1
        await lab.store.save_samples([SampleBlock(1, blocks[0].start, b"\xff")], {})
        await lab.restart()
        assert float(await number(lab, "$PendingTasks.Count()")) >= 30

    lab.run(main())


def test_a_clock_that_is_set_back_does_not_end_sampling(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab)
        await until_run(lab)
        await asyncio.sleep(3600)
        lab.skew_s = -86400.0
        await asyncio.sleep(600)
        assert float(await number(lab, "$PendingTasks.GetSamplePercent(TimeInterval_Minute * 5)")) == 100

    lab.run(main())


def test_a_store_that_takes_nothing_for_a_while_gets_the_samples_later(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab)
        await until_run(lab)
        save = lab.store.save_samples

        async def fail(*_: object) -> None:
            raise StoreUnavailable("disk full")

        lab.store.save_samples = fail
        await asyncio.sleep(2000)
        lab.store.save_samples = save
        await asyncio.sleep(60)
        assert sum(_samples_in(block) for block in await lab.store.load_samples(1, 0.0)) >= 66

    lab.run(main())


def test_machines_are_averaged_over_the_nodes_that_told(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 3")
        await until_run(lab)

        async def made() -> bool:
            page = await lab.store.list_nodes("pool", None, 10, None)
            return len(page.items) == 3 and all(node.handle for node in page.items)

        await lab.until(made)
        nodes = [node.id for node in (await lab.store.list_nodes("pool", None, 10, None)).items]
        assert (await number(lab, "$CPUPercent")).endswith("wanted 1 sample, received 0")

        async def tell(control: ControlService, node_id: str, metrics: m.NodeMetrics) -> None:
            hello = m.Hello(node_id, m.PROTOCOL_VERSION, "1", lab.clock() - 50, "127.0.0.1")
            welcome = await control.agents.hello(hello)
            await hear(control.agents, node_id, welcome.session, metrics=metrics, park=False)

        busy = m.NodeMetrics(cpu=0.9, memory_bytes=3e9, disk_bytes=5e9, network_in_bytes_s=10.0)
        await lab.call(lambda c: tell(c, nodes[0], busy))
        await lab.call(lambda c: tell(c, nodes[1], m.NodeMetrics(cpu=0.1, memory_bytes=1e9)))
        assert await number(lab, "$CPUPercent") == "0.5"
        assert await number(lab, "$MemoryBytes") == "2000"
        assert await number(lab, "$DiskBytes") == "5"
        assert await number(lab, "$NetworkInBytes") == "300"
        assert await number(lab, "$SampleNodeCount") == "2"
        assert float(await number(lab, "$WallClockSeconds")) == pytest.approx(100, abs=5)
        assert (await number(lab, "$NetworkOutBytes")).endswith("wanted 1 sample, received 0")
        # What was told long ago says nothing of now; the samples taken meanwhile stay.
        await asyncio.sleep(600)
        assert await number(lab, "$SampleNodeCount") == "0"
        assert await number(lab, "max($CPUPercent.GetSample(TimeInterval_Minute * 10))") == "0.5"

    lab.run(main())


# --- what users ask --------------------------------------------------------------------------------------------------


def test_evaluating_changes_nothing(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 2")
        run = await until_run(lab)
        before = await stored(lab)
        answer = await evaluate(lab, "$TargetDedicatedNodes = $TargetDedicatedNodes + 5; $nodes = $nothing")
        assert isinstance(answer, AutoScaleRun)
        assert answer.error is not None
        assert answer.results.startswith("$TargetDedicatedNodes=2;")
        answer = await evaluate(lab, "$TargetDedicatedNodes = $TargetDedicatedNodes + 5")
        assert isinstance(answer, AutoScaleRun)
        assert answer.results.startswith("$TargetDedicatedNodes=7;")
        assert await stored(lab) == before
        assert await run_of(lab) == run

    lab.run(main())


def test_evaluations_that_are_refused(lab: Lab) -> None:
    async def refusal(formula: str, pool_id: str) -> ErrorCode:
        answer = await evaluate(lab, formula, pool_id)
        assert isinstance(answer, BatchError)
        return answer.code

    async def main() -> None:
        await add_pool(lab, None, pool_id="fixed")
        await add_job(lab)  # of a pool there is not
        assert await refusal("$x = 1", "fixed") is ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE
        assert await refusal("$x = 1", "none") is ErrorCode.POOL_NOT_FOUND
        assert await refusal("$x = 1", "pool") is ErrorCode.POOL_NOT_FOUND
        assert await refusal("$x = ", "fixed") is ErrorCode.AUTO_SCALING_FORMULA_SYNTAX_ERROR
        await add_pool(lab, "$TargetDedicatedNodes = 1", pool_id="going")
        await until_run(lab, "going")
        await lab.insist(lambda c: c.to_pool("going", e.PoolDeleteRequested(at=lab.clock())))
        assert await refusal("$x = 1", "going") in (ErrorCode.POOL_BEING_DELETED, ErrorCode.POOL_NOT_FOUND)

    lab.run(main())


@pytest.mark.parametrize(
    ("scale", "code"),
    [
        (AutoScale("$x = ", 300.0, 0.0, 0.0), "InvalidAutoScaleFormulaInAutoPool"),
        (AutoScale("$x = 1", 299.0, 0.0, 0.0), "InvalidAutoPoolSettings"),
        (AutoScale("$TargetDedicatedNodes = 2", 300.0, 0.0, 0.0), None),
    ],
)
def test_the_formula_of_an_auto_pool(lab: Lab, scale: AutoScale, code: str | None) -> None:
    async def main() -> None:
        await lab.keep_alive()
        job, pool = new_job(), new_pool(pool_id="auto")
        job.pool_id, job.auto_pool = pool.id, AutoPool()
        pool.auto_scale = scale
        await lab.insist(lambda c: c.add_job(job, "test", auto_pool=pool))
        known = await lab.store.get_job("job")
        assert known is not None
        if code is None:
            assert known.scheduling_error is None
            await until_run(lab, "auto")
            assert (await stored(lab, "auto")).target_dedicated_nodes == 2
        else:
            assert known.scheduling_error is not None
            assert known.scheduling_error.code == code
            assert known.state is JobState.COMPLETED
            assert await lab.store.get_pool("auto") is None

    lab.run(main())


def test_a_formula_that_can_no_longer_be_read_is_an_error_of_the_run(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$x == = 1")
        run = await until_run(lab)
        assert run.error is not None
        assert run.error.code == "AutoScalingFormulaSyntaxError"
        assert run.results.startswith("$TargetDedicatedNodes=0;")

    lab.run(main())


def test_no_formula_asks_for_more_than_the_limit() -> None:
    lab = lab_with(auto_scale_max_nodes=4)

    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 1e6")
        await until_run(lab)
        assert (await stored(lab)).target_dedicated_nodes == 4
        assert [error.code for error in (await stored(lab)).resize_errors] == ["AccountCoreQuotaReached"]

    lab.run(main())


def test_settings_are_checked_against_those_of_the_service() -> None:
    lab = lab_with(auto_scale_min_interval_s=2.0)

    async def main() -> None:
        await lab.keep_alive()
        control = lab.control
        assert control is not None
        control.check_auto_scale("$x = 1", 2.0)
        control.check_auto_scale(None, 168 * 3600.0)
        for interval_s in (1.9, 168 * 3600.0 + 1):
            with pytest.raises(BatchError) as caught:
                control.check_auto_scale(None, interval_s)
            assert caught.value.code is ErrorCode.INVALID_PROPERTY_VALUE
            assert caught.value.values["PropertyName"] == "autoScaleEvaluationInterval"

    lab.run(main())


def test_a_history_says_the_same_as_the_store(lab: Lab) -> None:
    """The memory of a pool with a formula, and what is read after a restart."""

    async def main() -> None:
        await add_pool(lab, interval_s=3600.0)
        await until_run(lab)
        await add_job(lab, "a")
        await asyncio.sleep(2500)

        async def history(control: ControlService) -> list[tuple[float, dict[Metric, float]]]:
            engine = control._engines.of_pool("pool")
            assert engine.state is not None
            assert engine.state.pool is not None
            found: History = await control._autoscaling._sampler.history(engine, engine.state.pool)
            return list(found.times())

        before = await lab.call(history)
        assert len(before) > 60
        await lab.restart()
        assert (await lab.call(history))[: len(before)] == before
        assert before[0][0] >= EPOCH

    lab.run(main())


def test_the_option_of_the_formula_reaches_the_pool(lab: Lab) -> None:
    async def main() -> None:
        await add_pool(lab, "$TargetDedicatedNodes = 1; $NodeDeallocationOption = retaineddata;")
        await until_run(lab)
        assert (await stored(lab)).node_deallocation_option is NodeDeallocationOption.RETAINED_DATA

    lab.run(main())


def test_the_defaults_are_those_of_azure_batch() -> None:
    settings = ControlSettings()
    assert (settings.auto_scale_min_interval_s, settings.sample_s) == (300.0, 30.0)
    assert settings.auto_scale_on_queue_change is False
