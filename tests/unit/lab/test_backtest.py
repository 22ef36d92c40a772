"""Backtests: small loads whose outcome can be worked out by hand, and what must hold of any."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond.autoscale.errors import FormulaSyntaxError
from millpond.lab.backtest import Machines, Report, Site, backtest, compare
from millpond.lab.loads import Arrival, Load, LoadError, make_load, parse_synthetic
from millpond.sim.virtual_pool import VirtualPool
from tests.unit.autoscale import published

ONE = "$TargetDedicatedNodes = 1; $NodeDeallocationOption = taskcompletion;"
BY_QUEUE = "$TargetDedicatedNodes = min(10, max($PendingTasks.GetSample(1))); $NodeDeallocationOption = taskcompletion;"
TWO_MINUTES = Site(machines=Machines(boot_s=120.0), after_s=3600.0)


def load_of(*tasks: tuple[float, float] | tuple[float, float, int], span_s: float | None = None) -> Load:
    return make_load("test", [Arrival(*task) for task in tasks], span_s)


def test_one_node_runs_tasks_one_after_the_other() -> None:
    report = backtest(ONE, load_of((0.0, 100.0), (0.0, 100.0), (300.0, 50.0)), TWO_MINUTES)
    # Asked for at 0, there at 120: 120 to 220, 220 to 320, 320 to 370.
    assert (report.done, report.requeued) == (3, 0)
    assert [report.wait_p50, report.wait_max] == [120.0, 220.0]
    assert report.dedicated_hours == pytest.approx((300.0 + 3600.0) / 3600)
    assert report.utilisation == pytest.approx(250.0 / 3900.0)
    assert report.cost == pytest.approx(report.dedicated_hours * 0.096)
    assert (report.series[0].target, report.series[0].active) == (1, 2)
    assert report.series[-1].running == 0


def test_a_node_costs_until_it_is_given_back() -> None:
    report = backtest(BY_QUEUE, load_of((10.0, 100.0)), TWO_MINUTES)
    # Nothing waits at 0. At 300 the formula asks for a node, which is there at 420 and done at 520; it goes at 600.
    assert report.wait_max == 410.0
    assert report.dedicated_hours * 3600 == pytest.approx(300.0)
    # From 600 to the end the target is 0, and so are the nodes.
    assert (report.series[-1].target, report.series[-1].nodes) == (0, 0)


def test_giving_back_takes_time_that_costs() -> None:
    site = Site(machines=Machines(boot_s=120.0, release_s=60.0))
    report = backtest(BY_QUEUE, load_of((10.0, 100.0)), site)
    assert report.dedicated_hours * 3600 == pytest.approx(360.0)


def test_evaluating_when_the_queue_changes_starts_at_once() -> None:
    site = Site(machines=Machines(boot_s=120.0), on_queue_change=True)
    report = backtest(BY_QUEUE, load_of((10.0, 100.0)), site)
    assert report.wait_max == pytest.approx(120.2)


def test_slots_are_filled_and_not_overfilled() -> None:
    site = Site(slots=4, machines=Machines(boot_s=0.0))
    report = backtest(ONE, load_of(*[(0.0, 100.0, 2)] * 3), site)
    assert sorted({one.running for one in report.series}) == [0, 1, 2]
    assert report.wait_max == 100.0


def test_requeue_loses_runs_and_taskcompletion_does_not() -> None:
    tasks = [(0.0, 1000.0)] * 4
    falling = (
        "$TargetDedicatedNodes = $CurrentDedicatedNodes < 4 && $SucceededTasks == 0 && time() - "
        'time("2026-01-05") < 5 * TimeInterval_Minute ? 4 : 1; $NodeDeallocationOption = {};'
    )
    site = Site(machines=Machines(boot_s=0.0), after_s=7200.0)
    lost = backtest(falling.format("requeue"), load_of(*tasks), site)
    assert (lost.done, lost.requeued) == (4, 3)
    assert lost.lost_hours * 3600 == pytest.approx(900.0)
    kept = backtest(falling.format("taskcompletion"), load_of(*tasks), site)
    assert (kept.done, kept.requeued, kept.lost_hours) == (4, 0, 0.0)


def test_a_wave_of_evictions_costs_runs_and_not_tasks() -> None:
    spot = "$TargetLowPriorityNodes = 4; $NodeDeallocationOption = taskcompletion;"
    machines = Machines(boot_s=60.0, evictions=((600.0, 0.5),), eviction_wait_s=300.0)
    report = backtest(spot, load_of(*[(0.0, 1000.0)] * 4), Site(machines=machines, after_s=7200.0))
    assert (report.evicted, report.requeued, report.done) == (2, 2, 4)
    assert report.lost_hours * 3600 == pytest.approx(2 * 540.0)
    # Nobody pays while there is no machine.
    assert report.spot_hours * 3600 == pytest.approx(4 * 7200.0 - 2 * 300.0)
    assert report.cost == pytest.approx(report.spot_hours * 0.096 * 0.3)


def test_random_evictions_come_about_as_often_as_asked() -> None:
    spot = "$TargetLowPriorityNodes = 10;"
    site = Site(machines=Machines(boot_s=0.0, evictions_per_hour=0.5))
    report = backtest(spot, load_of(span_s=10 * 86_400.0), site)
    assert report.evicted == pytest.approx(0.5 * report.spot_hours, rel=0.15)


def test_tasks_that_never_started_count_with_their_wait() -> None:
    report = backtest("$TargetDedicatedNodes = 0;", load_of((0.0, 1.0), span_s=1000.0), Site(after_s=500.0))
    assert (report.done, report.unfinished, report.wait_max, report.node_hours) == (0, 1, 1500.0, 0.0)


def test_failed_evaluations_are_told_and_change_nothing() -> None:
    report = backtest(
        "$TargetDedicatedNodes = $ActiveTasks > 0 ? 1 / $SucceededTasks : 1;", load_of((0.0, 10.0)), TWO_MINUTES
    )
    (failure,) = report.failures
    assert failure.code == "AutoScalingFormulaEvaluationError"
    assert failure.message.startswith("Line 1, Col 46: ")
    assert failure.count == report.failed_evaluations == report.evaluations
    assert report.node_hours == 0


def test_what_cannot_be_replayed_is_refused() -> None:
    with pytest.raises(FormulaSyntaxError):
        backtest("$TargetDedicatedNodes = ", load_of())
    with pytest.raises(LoadError, match="tasks of 3 slots, and nodes have 2"):
        backtest(ONE, load_of((0.0, 1.0, 3)), Site(slots=2))
    with pytest.raises(ValueError, match="no VM size 'Standard_Z9'"):
        backtest(ONE, load_of(), Site(vm_size="Standard_Z9"))
    with pytest.raises(ValueError, match="boot_s is -1"):
        backtest(ONE, load_of(), Site(machines=Machines(boot_s=-1.0)))
    with pytest.raises(ValueError, match="interval_s is 0"):
        backtest(ONE, load_of(), Site(interval_s=0.0))


def test_the_quota_is_kept() -> None:
    report = backtest("$TargetDedicatedNodes = 50;", load_of(span_s=600.0), Site(max_nodes=7))
    assert report.most_nodes == 7


@pytest.mark.parametrize("name", sorted(published.ALL))
def test_every_published_formula_can_be_replayed(name: str) -> None:
    load = parse_synthetic("poisson:rate=20,days=0.5,spread=1")
    report = backtest(published.ALL[name], load, Site(slots=4, machines=Machines(evictions_per_hour=0.3)))
    assert report.tasks == len(load.arrivals)
    assert report.evaluations == 13 * 12 + 1
    assert report.done + report.unfinished == report.tasks


def test_the_same_seed_tells_the_same_story() -> None:
    load = parse_synthetic("bursts:days=2,spread=1")
    site = Site(machines=Machines(boot_spread=0.5, evictions_per_hour=0.5), seed=7)
    first, second = compare({"a": published.NEXTFLOW, "b": published.NEXTFLOW}, load, site)
    assert {**_figures(first), "formula": ""} == {**_figures(second), "formula": ""}
    other = backtest(published.NEXTFLOW, load, Site(machines=site.machines, seed=8))
    assert other.evicted != first.evicted or other.spot_hours != first.spot_hours


def _figures(report: Report) -> dict[str, object]:
    return {name: getattr(report, name) for name in report.__struct_fields__}


_tasks = st.lists(
    st.tuples(st.integers(0, 4000).map(float), st.integers(0, 900).map(float), st.integers(1, 3)), max_size=30
)


@settings(max_examples=40, deadline=None)
@given(
    tasks=_tasks,
    slots=st.integers(3, 5),
    boot=st.sampled_from([0.0, 1.0, 90.0, 400.0]),
    evictions=st.sampled_from([0.0, 2.0]),
    option=st.sampled_from(["requeue", "terminate", "taskcompletion", "retaineddata"]),
    seed=st.integers(0, 5),
)
def test_books_balance(
    tasks: list[tuple[float, float, int]], slots: int, boot: float, evictions: float, option: str, seed: int
) -> None:
    formula = (
        f"$TargetDedicatedNodes = rand() * 4; $TargetLowPriorityNodes = rand() * 4;$NodeDeallocationOption = {option};"
    )
    machines = Machines(boot_s=boot, boot_spread=0.3, evictions_per_hour=evictions, release_s=10.0)
    site = Site(slots=slots, machines=machines, seed=seed, interval_s=100.0, after_s=4000.0)
    report = backtest(formula, load_of(*tasks), site)
    assert 0 <= report.done <= report.tasks == len(tasks)
    assert 0 <= report.utilisation <= 1 + 1e-9
    assert report.node_hours * 3600 <= 8 * report.seconds + 1e-6
    assert 0 <= report.wait_p50 <= report.wait_p90 <= report.wait_p99 <= report.wait_max
    assert all(before.at < after.at for before, after in zip(report.series, report.series[1:], strict=False))
    if option != "terminate":
        assert all(one.active + one.running <= len(tasks) for one in report.series)


def test_a_virtual_pool_refuses_machines_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="boot_spread is 2"):
        VirtualPool(None, Machines(boot_spread=2.0), 0.0)
