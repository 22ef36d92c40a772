"""Autoscale formulas as the control plane uses them: checked when they are given, evaluated against a pool."""

from collections.abc import Mapping
from typing import Final

import msgspec

from millpond.autoscale.errors import FormulaError, FormulaSyntaxError, FormulaTooLong, refusal
from millpond.autoscale.evaluate import Inputs, evaluate
from millpond.autoscale.parser import parse
from millpond.autoscale.record import Evaluation
from millpond.autoscale.samples import NO_SAMPLES, Samples, SampleSource
from millpond.autoscale.tree import Formula
from millpond.autoscale.variables import Metric
from millpond.domain.autoscale import MAX_INTERVAL_S, AutoScaleRun, AutoScaleRunError
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.errors import invalid_property
from millpond.domain.pool import Pool
from millpond.domain.states import NodeDeallocationOption
from millpond.domain.task import NameValue

INTERVAL: Final = "autoScaleEvaluationInterval"

_encode: Final = msgspec.json.Encoder().encode


def read_formula(text: str) -> Formula:
    """Raises BatchError AutoScalingFormulaSyntaxError or AutoScaleFormulaTooLong, with line and column."""
    try:
        return parse(text)
    except (FormulaSyntaxError, FormulaTooLong) as error:
        raise refusal(error) from None


def check_interval(interval_s: float, minimum_s: float) -> None:
    """Raises BatchError InvalidPropertyValue."""
    if minimum_s <= interval_s <= MAX_INTERVAL_S:
        return
    raise invalid_property(
        INTERVAL,
        format_duration(interval_s),
        f"it must be from {format_duration(minimum_s)} (autoscale.min_interval_s in the service's configuration) to "
        f"{format_duration(MAX_INTERVAL_S)}",
    )


class Present:
    """Samples of the past, and the present as the newest of them: `GetSample(1)` sees what is, not what was up to a
    sampling period ago. Windows of time hold samples of their regular times only."""

    def __init__(self, past: SampleSource, now: Timestamp, values: Mapping[Metric, float]) -> None:
        self._past = past
        self._now = now
        self._values = values

    @property
    def period_s(self) -> float:
        return self._past.period_s

    def newest(self, metric: Metric, count: int, until: Timestamp) -> Samples:
        value = self._values.get(metric)
        if value is None or until < self._now:
            return self._past.newest(metric, count, until)
        if count < 1:
            return NO_SAMPLES
        older = self._past.newest(metric, count, until)
        if older.times and older.times[0] == self._now:
            return older
        times, values = older.times[: count - 1], older.values[: count - 1]
        return Samples([self._now, *times], [float(value), *values])

    def between(self, metric: Metric, after: Timestamp, until: Timestamp) -> Samples:
        return self._past.between(metric, after, until)

    def count(self, metric: Metric, until: Timestamp) -> int:
        return self._past.count(metric, until)

    def oldest_time(self, metric: Metric, until: Timestamp) -> Timestamp | None:
        return self._past.oldest_time(metric, until)


def evaluate_for(
    pool: Pool, formula: Formula, now: Timestamp, past: SampleSource, values: Mapping[Metric, float]
) -> Evaluation:
    """What a formula says of a pool now. `values` are those of this moment."""
    return evaluate(
        formula,
        Inputs(
            now=now,
            samples=Present(past, now, values),
            target_dedicated_nodes=pool.target_dedicated_nodes,
            target_low_priority_nodes=pool.target_low_priority_nodes,
            current=values,
            seed=pool.no,
        ),
    )


def run_of(evaluation: Evaluation) -> AutoScaleRun:
    """What the pool shows of an evaluation."""
    failure = evaluation.error
    error = None
    if failure is not None:
        values = tuple(NameValue(name, value) for name, value in failure.values)
        error = AutoScaleRunError(failure.code.value, failure.message, values)
    return AutoScaleRun(evaluation.at, evaluation.results, error)


def unreadable(pool: Pool, error: FormulaError, now: Timestamp) -> AutoScaleRun:
    """The run of a formula that was taken once and cannot be read any more."""
    results = (
        f"$TargetDedicatedNodes={pool.target_dedicated_nodes};$TargetLowPriorityNodes={pool.target_low_priority_nodes};"
        f"$NodeDeallocationOption={NodeDeallocationOption.REQUEUE.value}"
    )
    values = (NameValue("Message", error.located),)
    return AutoScaleRun(now, results, AutoScaleRunError(error.code.value, error.message, values))


def record_of(formula: str, trigger: str, evaluation: Evaluation) -> bytes:
    """All there is to know of a run, as JSON: what led to it, the formula, the values of its variables, the samples it
    looked at, the result."""
    return _encode({"trigger": trigger, "formula": formula, "evaluation": evaluation})
