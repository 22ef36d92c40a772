"""How fast the lab is: thirty days of a five-minute formula, with the true scheduler and the true evaluator.

python bench/lab.py          or as a part of `make bench`
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from millpond.lab.backtest import Machines, Site, backtest
from millpond.lab.loads import parse_synthetic
from tests.unit.autoscale import published

Figure: TypeAlias = tuple[str, float, str, str, bool | None]
"""The fields of a row: name, value, unit, bar, whether it is met."""

BAR_S = 15.0
"""For a month of some ten thousand tasks: "seconds", on a slow machine too."""
SITE = Site(slots=4, machines=Machines(boot_s=120.0, boot_spread=0.2, evictions_per_hour=0.05))
LOADS = {"working days": "weekly:low=2,high=40", "bursts": "bursts:size=100,every=4"}


def figures(days: float = 30.0) -> Iterator[Figure]:
    for name, options in LOADS.items():
        load = parse_synthetic(f"{options},days={days:g}")
        begun = time.perf_counter()
        report = backtest(published.TASKS, load, SITE)
        taken = time.perf_counter() - begun
        bar = BAR_S * days / 30
        what = f"backtest: {days:g} days of {name}, {report.tasks:,} tasks"
        yield what, taken, "s", f"≤ {bar:g}", taken <= bar
    quiet = parse_synthetic(f"poisson:rate=0,days={days:g}")
    begun = time.perf_counter()
    backtest(published.TASKS, quiet, SITE)
    yield f"backtest: {days:g} days without a task", time.perf_counter() - begun, "s", "", None


def main() -> int:
    for name, value, unit, bar, met in figures():
        verdict = "" if met is None else "met" if met else "MISSED"
        print(f"{name:60}  {value:>8.2f}  {unit:<4} {bar:<8} {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
