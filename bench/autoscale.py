"""What autoscale formulas cost: parse and evaluate each published one, on a day of samples of a busy pool.

python bench/autoscale.py          or as a part of `make bench`
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from millpond.autoscale.evaluate import Inputs, evaluate
from millpond.autoscale.parser import parse
from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from tests.unit.autoscale import published

Figure: TypeAlias = tuple[str, float, str, str, bool | None]
"""The fields of a row: name, value, unit, bar, whether it is met."""

BAR_US = 1000.0
NOW = 1_714_564_800.0
DAY = 2880
"""Sampling times in a day."""


def busy_day() -> History:
    """Every metric sampled and changing each time: the worst case for the history."""
    history = History()
    for tick in range(DAY):
        history.add(NOW - 30.0 * (DAY - 1 - tick), {metric: float(tick % 17) for metric in Metric})
    return history


def _median_us(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e6


def figures(times: int) -> Iterator[Figure]:
    inputs = Inputs(NOW, busy_day(), target_dedicated_nodes=4)
    for name, text in published.ALL.items():
        whole = _median_us(lambda text=text: evaluate(parse(text), inputs), times)  # type: ignore[misc]
        formula = parse(text)
        alone = _median_us(lambda formula=formula: evaluate(formula, inputs), times)  # type: ignore[misc]
        yield f"autoscale {name}: parse + evaluate", whole, "µs", f"≤ {BAR_US:,.0f}", whole <= BAR_US
        yield f"autoscale {name}: evaluate", alone, "µs", "", None
    formula = parse(published.TASKS)
    begun = time.perf_counter()
    for minute in range(0, 30 * 24 * 60, 5):
        # The day comes round again: what is measured is evaluating, not the history.
        evaluate(formula, Inputs(NOW - minute % 1440 * 60.0, inputs.samples, target_dedicated_nodes=4))
    yield "autoscale: 30 days of a 5-minute formula", (time.perf_counter() - begun) * 1e3, "ms", "", None
    history = busy_day()
    values = dict.fromkeys(Metric, 1.0)
    ticks = iter(range(1, 1_000_000))
    one = _median_us(lambda: history.add(NOW + next(ticks), values), times)
    yield f"autoscale: a sampling time, {len(Metric)} metrics", one, "µs", "", None
    data = history.snapshot()
    size = len(data.times) + sum(len(track.starts) + len(track.values) for track in data.tracks.values())
    yield "autoscale: a busy day of samples", size / 1024, "KiB", "", None


def main() -> int:
    for name, value, unit, bar, met in figures(300):
        verdict = "" if met is None else "met" if met else "MISSED"
        print(f"{name:52}  {value:>10,.1f}  {unit:<4} {bar:<8} {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
