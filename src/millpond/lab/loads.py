"""Loads: tasks that arrive over time. Made by chance from a seed, or read from traces (see `traces`)."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

MAX_TASKS: Final = 2_000_000
"""Of a load: some gigabytes of memory while it is replayed."""
_HOUR: Final = 3600.0
_DAY: Final = 86_400.0


class LoadError(ValueError):
    """A load, or the text of one, makes no sense: the message says where and why."""


class Arrival(msgspec.Struct, frozen=True, order=True, gc=False):
    """A task that is added."""

    at: float
    """Seconds from the beginning of the load."""
    duration_s: float
    slots: int = 1


class Load(msgspec.Struct, frozen=True):
    """Tasks in the order they arrive in."""

    name: str
    arrivals: tuple[Arrival, ...]
    span_s: float
    """How long it lasts: not before the last arrival."""

    @property
    def slot_seconds(self) -> float:
        """The work in it."""
        return math.fsum(one.duration_s * one.slots for one in self.arrivals)

    @property
    def largest_slots(self) -> int:
        return max((one.slots for one in self.arrivals), default=1)


def make_load(name: str, arrivals: Iterable[Arrival], span_s: float | None = None) -> Load:
    """A load of tasks in any order. Raises LoadError for tasks that make no sense, and for too many."""
    ordered: list[Arrival] = []
    for one in arrivals:
        problem = problem_of(one)
        if problem is not None:
            raise LoadError(f"load {name}: task {len(ordered) + 1}: {problem}")
        if len(ordered) == MAX_TASKS:
            raise LoadError(f"load {name} has more than {MAX_TASKS:,} tasks")
        ordered.append(one)
    ordered.sort(key=lambda one: one.at)
    last = ordered[-1].at if ordered else 0.0
    if span_s is not None and not last <= span_s < math.inf:
        raise LoadError(f"load {name} lasts {span_s:g} s, and a task arrives after {last:g} s")
    return Load(name, tuple(ordered), last if span_s is None else span_s)


def problem_of(arrival: Arrival) -> str | None:
    """What makes no sense in it."""
    if not 0 <= arrival.at < math.inf:
        return f"it arrives at {arrival.at:g}: the time is in seconds from the beginning, 0 or more"
    if not 0 <= arrival.duration_s < math.inf:
        return f"it runs for {arrival.duration_s:g} s: 0 or more"
    if arrival.slots < 1:
        return f"it needs {arrival.slots} slots: 1 or more"
    return None


# --- by chance ------------------------------------------------------------------------------------------------------


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of every synthetic load."""

    days: float = 1.0
    """How long it lasts."""
    duration: float = 300.0
    """Mean run time of a task, seconds."""
    spread: float = 0.0
    """0: every task runs for `duration`; else the run times are log-normal, and this is their standard deviation in
    units of the mean."""
    slots: int = 1
    seed: int = 1


class Poisson(_Options, frozen=True, tag_field="kind", tag="poisson"):
    """Tasks arrive independently of each other, at a constant rate."""

    rate: float = 12.0
    """Tasks an hour."""


class Bursts(_Options, frozen=True, tag_field="kind", tag="bursts"):
    """Now and then many tasks at once: people who submit jobs."""

    every: float = 4.0
    """Hours from one burst to the next, on average."""
    size: float = 100.0
    """Tasks in a burst, on average."""
    jitter: float = 1.0
    """0: bursts come like a clock and are of one size; 1: times and sizes are exponential."""


class Daily(_Options, frozen=True, tag_field="kind", tag="daily"):
    """A rate that rises and falls with the day: lowest at midnight, highest at noon, UTC."""

    low: float = 2.0
    """Tasks an hour at night."""
    high: float = 40.0
    """Tasks an hour at noon."""


class Weekly(Daily, frozen=True, tag_field="kind", tag="weekly"):
    """As `daily` on working days; on Saturdays and Sundays the rate of the night. The load begins on a Monday."""


Synthetic = Poisson | Bursts | Daily | Weekly
KINDS: Final[dict[str, type[Poisson] | type[Bursts] | type[Daily]]] = {
    "poisson": Poisson,
    "bursts": Bursts,
    "daily": Daily,
    "weekly": Weekly,
}


def synthetic(options: Synthetic) -> Load:
    """The load of these options: the same ones always make the same load. Raises LoadError."""
    kind = str(options.__struct_config__.tag)
    for name in options.__struct_fields__:
        value = getattr(options, name)
        if not 0 <= value < math.inf or (value == 0 and name in ("days", "every", "slots")):
            raise LoadError(f"{kind}: {name} is {value:g}: it must be {'1 or' if name == 'slots' else '0 or'} more")
    chance = random.Random(f"{kind} {options.seed}")
    span_s = options.days * _DAY
    arrivals = (
        Arrival(at, _duration(options, chance), options.slots) for at in _times(options, span_s, chance) if at < span_s
    )
    return make_load(describe(options), arrivals, span_s)


def parse_synthetic(text: str) -> Load:
    """`kind`, or `kind:name=value,…`: `poisson:rate=30,duration=600,days=30`. Raises LoadError."""
    kind, _, rest = text.partition(":")
    options = KINDS.get(kind)
    if options is None:
        raise LoadError(f"{kind!r} is no kind of load: there are {', '.join(KINDS)}")
    fields: dict[str, float | int] = {}
    for part in filter(None, rest.split(",")):
        name, separator, value = part.partition("=")
        name = name.strip()
        if not separator or name not in options.__struct_fields__:
            raise LoadError(f"{part!r} in {text!r}: {kind} takes {', '.join(options.__struct_fields__)}, as name=value")
        try:
            fields[name] = int(value) if name in ("slots", "seed") else float(value)
        except ValueError:
            raise LoadError(f"{part!r} in {text!r}: {value!r} is no number") from None
    return synthetic(msgspec.convert(fields, options))


def describe(options: Synthetic) -> str:
    """As `parse_synthetic` takes it, with what is not the default."""
    default = type(options)()
    given = [
        f"{name}={getattr(options, name):g}"
        for name in options.__struct_fields__
        if getattr(options, name) != getattr(default, name)
    ]
    kind = str(options.__struct_config__.tag)
    return f"{kind}:{','.join(given)}" if given else kind


def _duration(options: _Options, chance: random.Random) -> float:
    if not options.spread or not options.duration:
        return options.duration
    variance = math.log1p(options.spread**2)
    return chance.lognormvariate(math.log(options.duration) - variance / 2, math.sqrt(variance))


def _times(options: Synthetic, span_s: float, chance: random.Random) -> Iterator[float]:
    match options:
        case Bursts():
            return _bursts(options, span_s, chance)
        case Daily(low=low, high=high):
            weekly = isinstance(options, Weekly)
            return _thinned(lambda at: _rate_of_day(at, low, high, weekly=weekly), max(low, high), span_s, chance)
        case Poisson(rate=rate):
            return _thinned(lambda _: rate, rate, span_s, chance)


def _thinned(
    rate_at: Callable[[float], float], highest: float, span_s: float, chance: random.Random
) -> Iterator[float]:
    """Times of a Poisson process with a rate that changes: those of the highest rate, thinned (Lewis, Shedler 1979)."""
    at = 0.0
    while highest > 0:
        at += chance.expovariate(highest) * _HOUR
        if at >= span_s:
            return
        if chance.random() * highest < rate_at(at):
            yield at


def _rate_of_day(at: float, low: float, high: float, *, weekly: bool) -> float:
    if weekly and int(at // _DAY) % 7 >= 5:
        return low
    return low + (high - low) * (1 - math.cos(2 * math.pi * at / _DAY)) / 2


def _bursts(options: Bursts, span_s: float, chance: random.Random) -> Iterator[float]:
    at = 0.0
    while at < span_s:
        size = options.size * (1 + options.jitter * (chance.expovariate(1.0) - 1))
        yield from [at] * max(1, round(size))
        gap = options.every * (1 + options.jitter * (chance.expovariate(1.0) - 1))
        at += max(1.0, gap * _HOUR)
