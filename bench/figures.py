"""What a measurement yields: figures with their samples and bars, charts, and what there is to say beside them.

A figure keeps every repeat's sample; its value is their median. A bar is what we want of it on two cores. Figures marked
as gates are ratios to a limit or a peer of the same run, so that they mean the same on any machine: `make bench-check`
compares them.
"""

import statistics
from collections.abc import Sequence

import msgspec


class Bar(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """At least so much, at most so much, or both."""

    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        low = "" if self.at_least is None else f"≥ {quantity(self.at_least)}"
        high = "" if self.at_most is None else f"≤ {quantity(self.at_most)}"
        return ", ".join(filter(None, (low, high)))


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured quantity."""

    name: str
    unit: str
    samples: tuple[float, ...]
    """One for each repeat."""
    bar: Bar | None = None
    is_gate: bool = False
    less_is_better: bool = False

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def is_met(self) -> bool | None:
        """None where there is no bar."""
        return None if self.bar is None else self.bar.is_met(self.value)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One line, or one colour of bars: a value (with the least and the most) for each of the chart's places."""

    name: str
    values: tuple[float, ...]
    least: tuple[float, ...] = ()
    most: tuple[float, ...] = ()


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A picture of some of the figures. Places with numbers make lines on a logarithmic axis, texts make bars."""

    title: str
    unit: str
    places: tuple[str | float, ...]
    series: tuple[Series, ...]
    place_name: str = ""
    is_logarithmic: bool = False
    limit: float | None = None
    """A bar, drawn as a line across."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of one workload."""

    figures: tuple[Figure, ...]
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out, and why; what a reader must know."""


def figure(
    name: str,
    unit: str,
    *samples: float,
    at_least: float | None = None,
    at_most: float | None = None,
    is_gate: bool = False,
    less_is_better: bool = False,
) -> Figure:
    """A figure with its bar; a bar from above says that less is better."""
    has_bar = at_least is not None or at_most is not None
    return Figure(
        name=name,
        unit=unit,
        samples=samples,
        bar=Bar(at_least=at_least, at_most=at_most) if has_bar else None,
        is_gate=is_gate,
        less_is_better=less_is_better or (at_most is not None and at_least is None),
    )


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Pair by pair, as they were measured one after the other, in percent."""
    return tuple(100 * a / b for a, b in zip(ours, theirs, strict=False))


def quantile(values: Sequence[float], part: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def quantity(value: float) -> str:
    """Short, for people."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
