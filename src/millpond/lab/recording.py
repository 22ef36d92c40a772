"""Loads and samples from a service's own history, as its REST interface shows it."""

from collections.abc import Iterable, Mapping
from typing import Any

from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.domain.durations import parse_duration, parse_timestamp
from millpond.lab.loads import Arrival, Load, make_load


def load_of_tasks(tasks: Iterable[Mapping[str, Any]], name: str) -> tuple[Load, int]:
    """The load of tasks that have run to an end, by their creationTime and last run; how many others there were."""
    found: list[tuple[float, float, int]] = []
    left_out = 0
    for task in tasks:
        info = task.get("executionInfo", {})
        if task.get("state") != "completed" or "startTime" not in info or "endTime" not in info:
            left_out += 1
            continue
        duration_s = max(0.0, parse_timestamp(info["endTime"]) - parse_timestamp(info["startTime"]))
        found.append((parse_timestamp(task["creationTime"]), duration_s, task.get("requiredSlots", 1)))
    begin = min((at for at, _, _ in found), default=0.0)
    return make_load(name, [Arrival(round(at - begin, 6), round(run, 6), slots) for at, run, slots in found]), left_out


def history_of(answer: Mapping[str, Any]) -> History:
    """The samples of a pool (`/pools/…/autoscalesamples`). Raises ValueError when there are none yet."""
    period_s = parse_duration(answer["samplePeriod"]) if answer["samplePeriod"] else None
    if period_s is None:
        raise ValueError("the pool has not been sampled yet: try again in a minute")
    history = History(period_s=period_s)
    known = {metric.value for metric in Metric}
    columns = {Metric(name): values for name, values in answer["samples"].items() if name in known}
    for index, text in enumerate(answer["times"]):
        values = {metric: column[index] for metric, column in columns.items() if column[index] is not None}
        history.add(parse_timestamp(text), values)
    return history
