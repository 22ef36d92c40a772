"""Searches a family of formulas for the cheapest that keeps waits short on a load.

The family is what people write by hand, with its numbers open: nodes for the tasks that wait and run, looked at over a
while, between a least and a most. The search turns one number at a time from the most generous choice downwards, and
begins again while anything gets better: some dozens of backtests, always the same ones for the same load.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from millpond.lab.backtest import Report, Site, backtest
from millpond.lab.loads import Load

PERCENTILES: Final = (50, 90, 95, 99, 100)
_HOLDS_MIN: Final = (2, 5, 10, 15, 30, 60, 120)
_CROWDS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


class Goal(msgspec.Struct, frozen=True):
    """What the formula is to reach."""

    wait_s: float
    percentile: int = 95
    """The share of tasks, in percent, that start within `wait_s`: 50, 90, 95, 99 or 100."""

    def wait_of(self, report: Report) -> float:
        return {
            50: report.wait_p50,
            90: report.wait_p90,
            95: report.wait_p95,
            99: report.wait_p99,
            100: report.wait_max,
        }[self.percentile]

    def is_met(self, report: Report) -> bool:
        return report.unfinished == 0 and self.wait_of(report) <= self.wait_s


class Recipe(msgspec.Struct, frozen=True):
    """One formula of the family."""

    least: int
    """Nodes that are always there."""
    most: int
    hold_min: int
    """Minutes the tasks are looked at over."""
    peak: bool
    """The most there were in that time; else their mean, or what there is now where that is more."""
    crowd: float
    """Slots' worth of tasks for each slot: above 1 some wait."""
    by_slots: bool
    """Counts slots (an extension of Millpond), not tasks."""
    task_slots: float
    """The slots a task needs, on average; where tasks are counted."""
    slots: int
    """Of a node."""
    spot: bool

    def text(self) -> str:
        """The formula."""
        metric = "$PendingTaskSlots" if self.by_slots else "$PendingTasks"
        fits = self.crowd * self.slots / (1.0 if self.by_slots else self.task_slots)
        target = "$TargetLowPriorityNodes" if self.spot else "$TargetDedicatedNodes"
        window = f"{metric}.GetSample(hold)"
        reduced = f"max({window})" if self.peak else f"avg({window})"
        what = "slots that tasks wait for or hold" if self.by_slots else "tasks that wait or run"
        return "\n".join(
            (
                f"// Nodes for the {what}, by the {'most' if self.peak else 'mean'} of the last {self.hold_min} minutes.",
                f"least = {self.least};",
                f"most = {self.most};",
                f"perNode = {max(fits, 0.01):g};",
                f"hold = TimeInterval_Minute * {self.hold_min};",
                f"now = max({metric}.GetSample(1));",
                f"work = {metric}.GetSamplePercent(hold) < 50 ? now : max(now, {reduced});",
                "nodes = work > 0 ? (work - 0.001) / perNode + 1 : 0;",
                f"{target} = max(least, min(most, nodes));",
                "$NodeDeallocationOption = taskcompletion;",
            )
        )


class Candidate(msgspec.Struct, frozen=True):
    """A recipe and what it did."""

    recipe: Recipe
    report: Report
    meets: bool


class Suggestion(msgspec.Struct, frozen=True):
    """The outcome of a search."""

    best: Candidate
    """The cheapest that meets the goal; if none does, the one with the shortest waits."""
    tried: tuple[Candidate, ...]
    """All of them, in the order of the search."""


def suggest(
    load: Load,
    goal: Goal,
    site: Site | None = None,
    *,
    tries: int = 60,
    spot: bool = False,
    azure: bool = False,
    on_try: Callable[[int, Candidate], None] = lambda number, best: None,
) -> Suggestion:
    """Search. With `azure`, only formulas that run on Azure Batch too; with `spot`, of spot nodes. `on_try` is told
    after each backtest how many there were, and the best so far.

    Raises ValueError for a goal or site that makes no sense, LoadError as `backtest`.
    """
    if goal.percentile not in PERCENTILES or not 0 <= goal.wait_s < math.inf:
        raise ValueError(f"a goal is a wait of 0 s or more, at a percentile of {', '.join(map(str, PERCENTILES))}")
    if tries < 1:
        raise ValueError(f"{tries} tries are none")
    site = site or Site()
    site.check()
    return _Search(load, goal, site, tries, on_try, spot=spot, azure=azure).run()


class _Search:
    def __init__(
        self,
        load: Load,
        goal: Goal,
        site: Site,
        tries: int,
        on_try: Callable[[int, Candidate], None],
        *,
        spot: bool,
        azure: bool,
    ) -> None:
        self._load = load
        self._goal = goal
        self._site = site
        self._tries = tries
        self._on_try = on_try
        self._tried: dict[Recipe, Candidate] = {}
        tasks = len(load.arrivals)
        mean_slots = sum(one.slots for one in load.arrivals) / tasks if tasks else 1.0
        self._peak = max(1, min(site.max_nodes, math.ceil(peak_slots(load) / site.slots)))
        self._first = Recipe(
            least=0,
            most=self._peak,
            hold_min=15,
            peak=True,
            crowd=1.0,
            by_slots=load.largest_slots > 1 and not azure,
            task_slots=mean_slots,
            slots=site.slots,
            spot=spot,
        )

    def run(self) -> Suggestion:
        best = self._try(self._first)
        improved = True
        while improved:
            improved = False
            for field, values in self._choices():
                for value in values:
                    recipe = msgspec.structs.replace(best.recipe, **{field: value})
                    if recipe.least > recipe.most:
                        continue
                    if recipe not in self._tried and len(self._tried) >= self._tries:
                        return self._done(best)
                    candidate = self._try(recipe)
                    if self._rank(candidate) < self._rank(best):
                        best, improved = candidate, True
        return self._done(best)

    def _choices(self) -> Iterator[tuple[str, Sequence[object]]]:
        peak = self._peak
        yield "hold_min", _HOLDS_MIN
        yield "peak", (False, True)
        yield "crowd", _CROWDS
        yield "most", sorted({max(1, round(peak * share)) for share in (0.15, 0.25, 0.4, 0.6, 0.8, 1.0)})
        yield "least", sorted({0, 1, *(round(peak * share) for share in (0.05, 0.1, 0.2, 0.35, 0.5))})

    def _try(self, recipe: Recipe) -> Candidate:
        known = self._tried.get(recipe)
        if known is None:
            report = backtest(recipe.text(), self._load, self._site, name=_name(recipe))
            known = self._tried[recipe] = Candidate(recipe, report, self._goal.is_met(report))
            self._on_try(len(self._tried), min(self._tried.values(), key=self._rank))
        return known

    def _rank(self, candidate: Candidate) -> tuple[float, ...]:
        """Less is better. Among formulas that miss the goal, that with the shorter waits; then the cheaper."""
        report = candidate.report
        cost = report.cost or report.node_hours
        if candidate.meets:
            return (0.0, cost, self._goal.wait_of(report))
        return (1.0, float(report.unfinished), self._goal.wait_of(report), cost)

    def _done(self, best: Candidate) -> Suggestion:
        return Suggestion(best, tuple(self._tried.values()))


def _name(recipe: Recipe) -> str:
    how = "most" if recipe.peak else "mean"
    return f"{recipe.least} to {recipe.most} nodes, {how} of {recipe.hold_min} min, {recipe.crowd:g} a slot"


def peak_slots(load: Load) -> int:
    """The slots needed at one time if nothing ever had to wait."""
    ends: list[tuple[float, int]] = []
    busy = most = 0
    for one in load.arrivals:
        while ends and ends[0][0] <= one.at:
            busy -= heapq.heappop(ends)[1]
        heapq.heappush(ends, (one.at + one.duration_s, one.slots))
        busy += one.slots
        most = max(most, busy)
    return most
