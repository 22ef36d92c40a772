"""What autoscale formulas cost: parse and evaluate each published one, on a day of samples of a busy pool."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from bench.figures import Figure, Outcome, figure
from bench.workload import Site, Sizes, Workload
from millpond.autoscale.evaluate import Inputs, evaluate
from millpond.autoscale.parser import parse
from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from tests.unit.autoscale import published

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


def _run_text(text: str, inputs: Inputs) -> None:
    evaluate(parse(text), inputs)


async def run(site: Site, times: int) -> Outcome:
    inputs = Inputs(NOW, busy_day(), target_dedicated_nodes=4)
    figures: list[Figure] = []
    for name, text in published.ALL.items():
        whole = _median_us(partial(_run_text, text, inputs), times)
        formula = parse(text)
        alone = _median_us(partial(evaluate, formula, inputs), times)
        figures.append(figure(f"{name}: parse + evaluate", "µs", whole, at_most=BAR_US))
        figures.append(figure(f"{name}: evaluate", "µs", alone))
    formula = parse(published.TASKS)
    begun = time.perf_counter()
    for minute in range(0, 30 * 24 * 60, 5):
        # The day comes round again: what is measured is evaluating, not the history.
        evaluate(formula, Inputs(NOW - minute % 1440 * 60.0, inputs.samples, target_dedicated_nodes=4))
    figures.append(figure("30 days of a 5-minute formula", "ms", (time.perf_counter() - begun) * 1e3))
    history = busy_day()
    values = dict.fromkeys(Metric, 1.0)
    ticks = iter(range(1, 1_000_000))
    one = _median_us(lambda: history.add(NOW + next(ticks), values), times)
    figures.append(figure(f"a sampling time, {len(Metric)} metrics", "µs", one))
    data = history.snapshot()
    size = len(data.times) + sum(len(track.starts) + len(track.values) for track in data.tracks.values())
    figures.append(figure("a busy day of samples", "KiB", size / 1024))
    return Outcome(figures=tuple(figures))


WORKLOAD: Final = Workload(
    name="autoscale",
    title="Autoscale formulas",
    about=(
        "Formulas that are published with Azure Batch and Batch Shipyard, parsed and evaluated over a day of samples in which "
        "every metric changes each time. The median of many; the limit is the time there is, five minutes a formula."
    ),
    run=run,
    sizes=Sizes(full=300, quick=30, tiny=3),
)
