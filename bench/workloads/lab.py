"""How fast the lab is: thirty days of a five-minute formula, with the true scheduler and the true evaluator."""

import time
from typing import Final

from bench.figures import Figure, Outcome, figure
from bench.workload import Site, Sizes, Workload
from millpond.lab.backtest import Machines, backtest
from millpond.lab.backtest import Site as LabSite
from millpond.lab.loads import parse_synthetic
from tests.unit.autoscale import published

BAR_S = 15.0
"""For a month of some ten thousand tasks: "seconds", on a slow machine too."""
PLACE = LabSite(slots=4, machines=Machines(boot_s=120.0, boot_spread=0.2, evictions_per_hour=0.05))
LOADS = {"working days": "weekly:low=2,high=40", "bursts": "bursts:size=100,every=4"}


async def run(site: Site, days: float) -> Outcome:
    figures: list[Figure] = []
    for name, options in LOADS.items():
        load = parse_synthetic(f"{options},days={days:g}")
        begun = time.perf_counter()
        report = backtest(published.TASKS, load, PLACE)
        taken = time.perf_counter() - begun
        what = f"{days:g} days of {name}, {report.tasks:,} tasks"
        figures.append(figure(what, "s", taken, at_most=BAR_S * days / 30))
    quiet = parse_synthetic(f"poisson:rate=0,days={days:g}")
    begun = time.perf_counter()
    backtest(published.TASKS, quiet, PLACE)
    figures.append(figure(f"{days:g} days without a task", "s", time.perf_counter() - begun))
    return Outcome(figures=tuple(figures))


WORKLOAD: Final = Workload(
    name="lab",
    title="The lab",
    about="A month of a five-minute formula, tried out with the true scheduler and the true evaluator on virtual time.",
    run=run,
    sizes=Sizes(full=30.0, quick=3.0, tiny=1.0),
)
