"""Samples as a table: CSV with a column `time` and one for each metric, by the name of its variable.

    time,$PendingTasks,$UsableNodeCount
    2026-01-05T08:00:00Z,4,2
    2026-01-05T08:00:30Z,6,2

Times are those, or seconds (since 1970), and increase. An empty cell is a missing sample. Lines that begin with # are
comments.
"""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from millpond.autoscale.samples import DEFAULT_PERIOD_S, History
from millpond.autoscale.values import format_double
from millpond.autoscale.variables import SERVICE_VARIABLES, SPELLINGS, Metric
from millpond.domain.durations import Timestamp, format_timestamp, parse_timestamp

_KEEP_S: Final = 366 * 86_400.0


class SamplesError(ValueError):
    """The table makes no sense: the message says where and why."""


def read_samples(path: Path, *, period_s: float = DEFAULT_PERIOD_S) -> History:
    """Raises SamplesError, with the line where there is one to blame."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SamplesError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SamplesError(f"{path}: this is not text in UTF-8 (byte {error.start})") from error
    return parse_samples(text, str(path), period_s=period_s)


def parse_samples(text: str, name: str = "samples", *, period_s: float = DEFAULT_PERIOD_S) -> History:
    """Raises SamplesError with the line."""
    history = History(period_s=period_s, keep_s=_KEEP_S)
    metrics: list[Metric | None] | None = None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if not any(cell.strip() for cell in row) or row[0].lstrip().startswith("#"):
                continue
            if metrics is None:
                metrics = _header(row, where)
                continue
            if len(row) != len(metrics):
                raise SamplesError(f"{where}: {len(row)} columns, and the header has {len(metrics)}")
            at: Timestamp = 0.0
            values: dict[Metric, float] = {}
            for metric, cell in zip(metrics, row, strict=True):
                if metric is None:
                    at = _time(cell.strip(), where)
                elif cell.strip():
                    values[metric] = _value(metric, cell.strip(), where)
            if not history.add(at, values):
                raise SamplesError(f"{where}: {row[metrics.index(None)].strip()} is not after the line before it")
    except csv.Error as error:
        raise SamplesError(f"{name}, line {reader.line_num}: {error}") from error
    if history.newest_time is None:
        raise SamplesError(f"{name}: there are no samples in it")
    return history


def format_samples(times: Iterable[tuple[Timestamp, dict[Metric, float]]]) -> str:
    """As `parse_samples` reads it."""
    rows = list(times)
    seen = {metric for _, values in rows for metric in values}
    metrics = [metric for metric in Metric if metric in seen]
    lines = [",".join(["time", *metrics])]
    for at, values in rows:
        cells = (format_double(values[metric]) if metric in values else "" for metric in metrics)
        lines.append(",".join([format_timestamp(at), *cells]))
    return "\n".join(lines) + "\n"


def _header(row: list[str], where: str) -> list[Metric | None]:
    metrics: list[Metric | None] = []
    for cell in map(str.strip, row):
        metric = None
        if cell.lower() != "time":
            found = SPELLINGS.get(cell.lower())
            metric = found[1].metric if found is not None else None
            if metric is None:
                names = ", ".join(one.name for one in SERVICE_VARIABLES if one.metric is not None)
                raise SamplesError(f"{where}: {cell!r} is no column: there are time, {names}")
        if metric in metrics:
            raise SamplesError(f"{where}: {cell!r} is there twice")
        metrics.append(metric)
    if None not in metrics:
        raise SamplesError(f"{where}: the header names no column 'time'")
    return metrics


def _time(text: str, where: str) -> Timestamp:
    try:
        at = float(text)
    except ValueError:
        try:
            at = parse_timestamp(text)
        except ValueError:
            raise SamplesError(
                f"{where}: {text!r} is neither a time such as 2026-01-05T08:00:00Z nor a number of seconds"
            ) from None
    if not 0 <= at < 2e11:
        raise SamplesError(f"{where}: {text!r} is not a time from 1970 on")
    return at


def _value(metric: Metric, text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SamplesError(f"{where}: {metric} {text!r} is no number")
    return value
