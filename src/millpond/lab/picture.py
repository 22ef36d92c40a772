"""Pictures of backtests: target, nodes and queue over time, one row for each formula. Needs matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from millpond.lab.backtest import Moment, Report

FORMATS: Final = ("png", "svg", "pdf")
_MOST_POINTS: Final = 4_000
"""Of a line: more are not seen, and make an SVG of many megabytes."""
_UNITS: Final = ((86_400.0, "days", 2.0), (3600.0, "hours", 2.0), (60.0, "minutes", 2.0), (1.0, "seconds", 0.0))
_NODES: Final = "#1f6f8b"
_TARGET: Final = "#d1495b"
_WAITING: Final = "#edae49"
_RUNNING: Final = "#b8d8ba"


class PictureError(Exception):
    """There can be no picture: the message says what to do."""


def save_picture(reports: Sequence[Report], path: Path) -> None:
    """Write a picture of the reports; the ending of the name says of which kind (png, svg, pdf). Raises PictureError."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise PictureError(f"{path}: a picture's name ends in {', '.join('.' + one for one in FORMATS)}")
    picture = render(reports, kind)
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}") from error


def render(reports: Sequence[Report], kind: str = "svg") -> bytes:
    """The picture as a file's content; the same reports make the same picture. Raises PictureError."""
    if not reports:
        raise PictureError("there is nothing to draw")
    figure_type, settings = _matplotlib()
    with settings({"svg.hashsalt": "millpond", "svg.fonttype": "path"}):
        figure = figure_type(figsize=(11, 1.2 + 3.0 * len(reports)), layout="constrained")
        longest = max(report.seconds for report in reports)
        unit_s, unit = next((seconds, name) for seconds, name, many in _UNITS if longest >= many * seconds)
        rows = figure.subplots(len(reports), 1, sharex=True, squeeze=False)
        highest = max((max(one.target, one.nodes) for report in reports for one in report.series), default=1)
        for report, (axes,) in zip(reports, rows, strict=True):
            _draw(axes, report, unit_s, highest)
        rows[-1][0].set_xlabel(f"{unit} of {reports[0].load}")
        handles, labels = rows[0][0].get_legend_handles_labels()
        more, names = rows[0][0].millpond_queue.get_legend_handles_labels()
        figure.legend([*handles, *more], [*labels, *names], loc="outside upper center", ncols=4, frameon=False)
        content = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else {}
        figure.savefig(content, format=kind, dpi=120, metadata=metadata)
    return content.getvalue()


def _matplotlib() -> tuple[Any, Any]:
    """Without pyplot: no window system is looked for, no global state is touched."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - only who wants a picture needs it
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise PictureError(
            "pictures need matplotlib, which is not installed: install Millpond with its extra `lab` "
            "(millpond[lab]), or matplotlib by itself"
        ) from error
    return Figure, rc_context


def _draw(axes: Any, report: Report, unit_s: float, highest: int) -> None:
    series = thinned(report.series, _MOST_POINTS)
    times = [one.at / unit_s for one in series] + [report.seconds / unit_s]

    def steps(values: list[int]) -> list[int]:
        return [*values, values[-1] if values else 0]

    active = steps([one.active for one in series])
    running = steps([one.running for one in series])
    queue = axes.twinx()
    axes.millpond_queue = queue
    queue.fill_between(times, running, step="post", color=_RUNNING, alpha=0.7, linewidth=0, label="tasks running")
    total = [one + other for one, other in zip(active, running, strict=True)]
    queue.fill_between(
        times, running, total, step="post", color=_WAITING, alpha=0.7, linewidth=0, label="tasks waiting"
    )
    queue.set_ylabel("tasks")
    queue.set_ylim(bottom=0)
    axes.set_zorder(queue.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.step(times, steps([one.target for one in series]), where="post", color=_TARGET, linewidth=1.1, label="target")
    axes.step(times, steps([one.nodes for one in series]), where="post", color=_NODES, linewidth=1.4, label="nodes")
    axes.set_ylim(0, highest * 1.08 + 0.5)
    axes.set_xlim(0, max(times[-1], 1e-9))
    axes.set_ylabel("nodes")
    axes.set_title(
        f"{report.formula}: {report.node_hours:,.0f} node hours, ${report.cost:,.2f}, "
        f"waits {span_text(report.wait_p50)} (median), {span_text(report.wait_p95)} (95%)",
        fontsize=10,
        loc="left",
    )


def thinned(series: Sequence[Moment], most: int) -> list[Moment]:
    """At most about so many moments: of each stretch those with the longest queue and the most nodes stay."""
    if len(series) <= most:
        return list(series)
    stretch = -(-len(series) * 3 // most)
    kept: list[Moment] = []
    for first in range(0, len(series), stretch):
        part = series[first : first + stretch]
        chosen = {id(one): one for one in (part[0], max(part, key=_queue), max(part, key=_nodes))}
        kept.extend(sorted(chosen.values(), key=lambda one: one.at))
    return kept


def _queue(moment: Moment) -> int:
    return moment.active + moment.running


def _nodes(moment: Moment) -> int:
    return max(moment.nodes, moment.target)


def span_text(seconds: float) -> str:
    """`42 s`, `3.5 min`, `2.1 h`, `1.5 d`."""
    for length, name in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length or (seconds >= length and name == "min"):
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"
