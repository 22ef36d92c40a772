"""Loads from a service's own history: tasks as its REST interface lists them."""

from collections.abc import Iterable, Mapping
from typing import Any

from millpond.domain.durations import parse_timestamp
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
