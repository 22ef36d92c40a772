"""Pictures of charts, as SVG: bars where the places are names, lines where they are numbers. Needs matplotlib (`lab`)."""

from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.figures import Chart, quantity

_SETTINGS: Final[Any] = {
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 9.0,
    # The same figures make the same file.
    "svg.fonttype": "none",
    "svg.hashsalt": "millpond",
}
_COLOURS: Final = ("#2f6f9f", "#d98032", "#4f9a5b", "#a54f7a", "#7a6fb0")
_OURS: Final = "#2f6f9f"
_THEIRS: Final = "#b8bfc6"


def draw(chart: Chart, path: Path) -> None:
    """Write the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(_SETTINGS):
        figure = _bars(chart) if isinstance(chart.places[0], str) else _lines(chart)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # It ends each line of a path with a blank.
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _bars(chart: Chart) -> Figure:
    count, kinds = len(chart.places), len(chart.series)
    figure = Figure(figsize=(7.2, 0.9 + 0.34 * count * max(1, 0.6 * kinds)), layout="constrained")
    axes = figure.subplots()
    thick = 0.8 / kinds
    for number, series in enumerate(chart.series):
        places = [count - 1 - place + 0.4 - thick * (number + 0.5) for place in range(count)]
        colour: Any = _COLOURS[number % len(_COLOURS)]
        if kinds == 1:
            colour = [
                _OURS if place == "millpond" or "limit" not in chart.places else _THEIRS for place in chart.places
            ]
        spread = None
        if series.least:
            below = [value - least for value, least in zip(series.values, series.least, strict=True)]
            above = [most - value for value, most in zip(series.values, series.most, strict=True)]
            spread = [below, above]
        axes.barh(places, series.values, thick, xerr=spread, color=colour, label=series.name, error_kw={"lw": 0.8})
        ends = series.most or series.values
        for place, value, end in zip(places, series.values, ends, strict=True):
            axes.annotate(
                quantity(value), (end, place), (6, 0), textcoords="offset points", va="center", annotation_clip=False
            )
    axes.set_yticks([count - 1 - place for place in range(count)], [str(place) for place in chart.places])
    axes.set_xlabel(chart.unit)
    axes.margins(x=0.12)
    if chart.is_logarithmic:
        axes.set_xscale("log")
    if chart.limit is not None:
        axes.axvline(chart.limit, color="#c0392b", lw=1.0, ls="--")
    axes.set_title(chart.title, loc="left")
    if kinds > 1:
        axes.legend(frameon=False)
    return figure


def _lines(chart: Chart) -> Figure:
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    places = [float(place) for place in chart.places]
    for number, series in enumerate(chart.series):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(places, series.values, "o-", color=colour, label=series.name, ms=4)
        if series.least:
            axes.fill_between(places, series.least, series.most, color=colour, alpha=0.15, lw=0)
    axes.set_xscale("log")
    axes.set_xticks(places, [quantity(place) for place in places])
    axes.minorticks_off()
    axes.set_xlabel(chart.place_name)
    axes.set_ylabel(chart.unit)
    if chart.is_logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    if chart.limit is not None:
        axes.axhline(chart.limit, color="#c0392b", lw=1.0, ls="--")
    axes.set_title(chart.title, loc="left")
    if len(chart.series) > 1:
        axes.legend(frameon=False)
    return figure
