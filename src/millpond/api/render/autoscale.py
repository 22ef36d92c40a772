"""Runs of automatic scaling in wire form."""

from typing import Any

import msgspec

from millpond.api.render.common import name_values, timestamp_text
from millpond.autoscale.samples import History
from millpond.domain.autoscale import AutoScaleRun
from millpond.domain.durations import format_duration
from millpond.store.base import StoredRun


def run_object(run: AutoScaleRun) -> dict[str, Any]:
    """Azure Batch: AutoScaleRun."""
    body: dict[str, Any] = {"timestamp": timestamp_text(run.timestamp), "results": run.results}
    if run.error is not None:
        body["error"] = {
            "code": run.error.code,
            "message": run.error.message,
            "values": name_values(run.error.values),
        }
    return body


def stored_run_object(run: StoredRun) -> dict[str, Any]:
    """All that was recorded of a run (our own)."""
    return {"timestamp": timestamp_text(run.at), **msgspec.json.decode(run.record, type=dict[str, Any])}


def samples_object(history: History | None) -> dict[str, Any]:
    """Samples by metric, one for each time and null where it is missing (our own); None is no samples at all."""
    rows = [] if history is None else list(history.times())
    metrics = sorted({metric for _, values in rows for metric in values})
    return {
        "samplePeriod": None if history is None else format_duration(history.period_s),
        "times": [timestamp_text(at) for at, _ in rows],
        "samples": {metric: [values.get(metric) for _, values in rows] for metric in metrics},
    }
