"""Runs of automatic scaling in wire form."""

from typing import Any

import msgspec

from millpond.api.render.common import name_values, timestamp_text
from millpond.domain.autoscale import AutoScaleRun
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
