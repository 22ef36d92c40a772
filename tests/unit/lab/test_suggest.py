"""The search: what it proposes meets the goal, and costs no more than what it tried first."""

import pytest

from millpond.lab.backtest import Machines, Site, backtest
from millpond.lab.checking import Severity, lint
from millpond.lab.loads import Arrival, make_load, parse_synthetic
from millpond.lab.suggest import Goal, peak_slots, suggest

LOAD = parse_synthetic("bursts:days=1,size=20,every=3,duration=600")


def test_what_is_suggested_meets_the_goal_and_is_the_cheapest_tried() -> None:
    site = Site(machines=Machines(boot_s=120.0))
    goal = Goal(wait_s=3600.0, percentile=90)
    found = suggest(LOAD, goal, site, tries=25)
    assert found.best.meets
    assert len(found.tried) <= 25
    assert found.best.report.cost == min(one.report.cost for one in found.tried if one.meets)
    assert found.best.report.cost < found.tried[0].report.cost
    again = backtest(found.best.recipe.text(), LOAD, site)
    assert (again.cost, again.wait_p90) == (found.best.report.cost, found.best.report.wait_p90)
    assert again.wait_p90 <= 3600.0
    assert again.failures == ()


def test_a_goal_nothing_meets_brings_the_shortest_wait() -> None:
    found = suggest(LOAD, Goal(wait_s=1.0, percentile=100), tries=8)
    assert not found.best.meets
    assert found.best.report.wait_max == min(one.report.wait_max for one in found.tried)


def test_slots_are_counted_unless_it_is_for_azure() -> None:
    load = parse_synthetic("poisson:rate=20,days=0.25,slots=2")
    site = Site(slots=4, machines=Machines(boot_s=60.0))
    ours = suggest(load, Goal(wait_s=1200.0), site, tries=3)
    assert "$PendingTaskSlots" in ours.best.recipe.text()
    azure = suggest(load, Goal(wait_s=1200.0), site, tries=3, azure=True)
    text = azure.best.recipe.text()
    assert "$PendingTasks." in text
    assert not [one for one in lint(text) if one.rule in ("extension", "retired")]
    assert not [one for one in lint(text) if one.severity is not Severity.NOTE], lint(text)


def test_spot_nodes() -> None:
    found = suggest(LOAD, Goal(wait_s=3600.0), tries=2, spot=True)
    assert found.best.report.dedicated_hours == 0
    assert found.best.report.spot_hours > 0


def test_the_peak_of_a_load() -> None:
    tasks = [Arrival(0.0, 10.0, 2), Arrival(5.0, 10.0, 1), Arrival(10.0, 1.0, 1)]
    assert peak_slots(make_load("x", tasks)) == 3
    assert peak_slots(make_load("none", [])) == 0


@pytest.mark.parametrize(("wait", "percentile", "tries"), [(-1.0, 95, 5), (1.0, 42, 5), (1.0, 95, 0)])
def test_nonsense_goals_are_refused(wait: float, percentile: int, tries: int) -> None:
    with pytest.raises(ValueError, match=r"a goal is|are none"):
        suggest(LOAD, Goal(wait, percentile), tries=tries)
