"""Histories made of lists, and evaluation in one call."""

from collections.abc import Mapping, Sequence

from millpond.autoscale.evaluate import Inputs, evaluate
from millpond.autoscale.parser import parse
from millpond.autoscale.record import Evaluation
from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.domain.durations import parse_timestamp

NOW = parse_timestamp("2024-05-01T12:00:00Z")
"""A Wednesday."""

Newest = Sequence[float | None]
"""Values every 30 s, the newest first and taken at NOW; None is a gap."""


def history(values: Mapping[Metric, Newest], now: float = NOW) -> History:
    made = History()
    for age in range(max((len(one) for one in values.values()), default=0) - 1, -1, -1):
        present = {}
        for metric, newest in values.items():
            value = newest[age] if age < len(newest) else None
            if value is not None:
                present[metric] = value
        made.add(now - 30.0 * age, present)
    return made


def run(
    text: str,
    samples: Mapping[Metric, Newest] | None = None,
    *,
    now: float = NOW,
    dedicated: int = 0,
    low_priority: int = 0,
    current: Mapping[Metric, float] | None = None,
    trace: bool = False,
) -> Evaluation:
    inputs = Inputs(now, history(samples or {}, now), dedicated, low_priority, current or {})
    return evaluate(parse(text), inputs, trace=trace)


def value(expression: str, samples: Mapping[Metric, Newest] | None = None, **more: object) -> str:
    """An expression's value as results print it; or the code and the located detail of the error."""
    done = run(f"x = {expression}", samples, **more)
    if done.error is not None:
        return f"{done.error.code.value} {done.error.values[0][1]}"
    return done.results.partition(";x=")[2]
