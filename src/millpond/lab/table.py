"""Reports as text: one column for each formula."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from millpond.lab.backtest import Report
from millpond.lab.picture import span_text

_ROWS: Final[tuple[tuple[str, Callable[[Report], str]], ...]] = (
    ("cost", lambda one: f"${one.cost:,.2f}"),
    ("node hours, dedicated", lambda one: f"{one.dedicated_hours:,.1f}"),
    ("node hours, spot", lambda one: f"{one.spot_hours:,.1f}"),
    ("most nodes", lambda one: str(one.most_nodes)),
    ("utilisation", lambda one: f"{one.utilisation:.0%}"),
    ("wait, median", lambda one: span_text(one.wait_p50)),
    ("wait, 90%", lambda one: span_text(one.wait_p90)),
    ("wait, 95%", lambda one: span_text(one.wait_p95)),
    ("wait, 99%", lambda one: span_text(one.wait_p99)),
    ("wait, longest", lambda one: span_text(one.wait_max)),
    ("tasks done", lambda one: f"{one.done:,}"),
    ("tasks not done", lambda one: f"{one.unfinished:,}"),
    ("runs lost", lambda one: f"{one.requeued:,}"),
    ("hours lost", lambda one: f"{one.lost_hours:,.1f}"),
    ("nodes evicted", lambda one: f"{one.evicted:,}"),
    ("evaluations", lambda one: f"{one.evaluations:,}"),
    ("evaluations failed", lambda one: f"{one.failed_evaluations:,}"),
)


def table(reports: Sequence[Report]) -> list[str]:
    """Lines, with what the formulas' failed evaluations said below."""
    columns = [[report.formula, *(show(report) for _, show in _ROWS)] for report in reports]
    labels = ["", *(label for label, _ in _ROWS)]
    widths = [max(map(len, column)) for column in columns]
    left = max(map(len, labels))
    lines = [
        "  ".join([label.ljust(left), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]).rstrip()
        for label, *cells in zip(labels, *columns, strict=True)
    ]
    for report in reports:
        lines.extend(
            f"{report.formula}: {failure.code}, {failure.count} times: {failure.message}" for failure in report.failures
        )
    return lines


def as_json_text(reports: Sequence[Report]) -> str:
    """The reports with their series, as a JSON array."""
    return msgspec.json.format(msgspec.json.encode(list(reports)), indent=2).decode()
