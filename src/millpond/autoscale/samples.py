"""Samples: what a formula looks at, and a history of them in memory.

A pool is sampled at regular times, every 30 s by default. A sample is the value of one metric at one such time; any may
be missing. `SampleSource` is all that evaluation asks for; `History` keeps days of samples in bounded space.
"""

import math
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from millpond.autoscale.variables import Metric
from millpond.domain.durations import Timestamp

DEFAULT_PERIOD_S: Final = 30.0
"""Between samples, as on Azure Batch."""
DEFAULT_KEEP_S: Final = 7 * 86_400.0
"""The longest interval between evaluations."""


_METRICS: Final = frozenset(metric.value for metric in Metric)


class Samples(NamedTuple):
    """Samples of one metric, the newest first; both sequences are equally long."""

    times: Sequence[Timestamp]
    values: Sequence[float]


NO_SAMPLES: Final = Samples((), ())


class SampleSource(Protocol):
    """Where a formula's samples come from. Nothing later than `until` is ever shown."""

    @property
    def period_s(self) -> float:
        """The time between two samples."""

    def newest(self, metric: Metric, count: int, until: Timestamp) -> Samples:
        """The newest `count` samples up to and including `until`, however old; fewer when there are fewer."""

    def between(self, metric: Metric, after: Timestamp, until: Timestamp) -> Samples:
        """The samples with `after < time <= until`."""

    def count(self, metric: Metric, until: Timestamp) -> int:
        """How many samples there are up to and including `until`."""

    def oldest_time(self, metric: Metric, until: Timestamp) -> Timestamp | None:
        """When the oldest sample was taken; None when there is none."""


class TrackData(msgspec.Struct, frozen=True, gc=False):
    """One metric in a snapshot: runs of equal values. Little-endian, 4 bytes a start, 8 a value."""

    starts: bytes
    """Which sampling time each run begins at, as an index into `HistoryData.times`."""
    values: bytes
    """The value of each run; not a number where samples are missing."""


class HistoryData(msgspec.Struct, frozen=True, gc=False):
    """A history as plain data, for a store. Everything in it can be written as JSON or MessagePack by msgspec."""

    period_s: float
    keep_s: float
    times: bytes
    """Doubles, little-endian, increasing."""
    tracks: dict[str, TrackData]
    """By the metric's name; of a metric never sampled there is none."""


class _Track:
    """One metric: runs of equal values, by the absolute number of the sampling time they begin at.

    Counts of tasks and nodes stand still for long, so runs are far fewer than samples; a metric that never stands
    still costs 16 bytes a sample.
    """

    __slots__ = ("present", "starts", "values")

    def __init__(self) -> None:
        self.starts = array("q")
        self.values = array("d")
        self.present = 0
        """Samples in it that are not missing."""

    def value_at(self, number: int) -> float:
        run = bisect_right(self.starts, number) - 1
        return self.values[run] if run >= 0 else math.nan

    def append(self, number: int, value: float) -> None:
        missing = math.isnan(value)
        self.present += not missing
        if self.values:
            last = self.values[-1]
            if last == value or (missing and math.isnan(last)):
                return
        elif missing:
            return
        self.starts.append(number)
        self.values.append(value)

    def runs_down(self, low: int, high: int) -> Iterator[tuple[int, int, float]]:
        """Runs within [low, high), the newest first: their first and last number, exclusive, and their value.

        Missing samples are left out.
        """
        run = bisect_left(self.starts, high) - 1
        while run >= 0 and high > low:
            begin = max(self.starts[run], low)
            value = self.values[run]
            if not math.isnan(value):
                yield begin, high, value
            high = begin
            run -= 1

    def forget_before(self, number: int) -> None:
        begin = self.starts[0] if self.starts else number
        if begin >= number:
            return
        self.present -= sum(last - first for first, last, _ in self.runs_down(begin, number))
        keep = bisect_right(self.starts, number) - 1
        del self.starts[:keep]
        del self.values[:keep]
        self.starts[0] = number


class History:
    """The samples of one pool, in memory: a `SampleSource`.

    At least the last `keep_s` of samples are kept and at most an eighth more, in at most 8 bytes a sampling time and 16
    for each metric; a metric that does not change costs nothing.
    """

    def __init__(self, *, period_s: float = DEFAULT_PERIOD_S, keep_s: float = DEFAULT_KEEP_S) -> None:
        """Raises ValueError when the period or what is kept is not positive."""
        if not (0 < period_s < math.inf and 0 < keep_s < math.inf):
            raise ValueError(f"a period of {period_s} s, kept for {keep_s} s: both must be positive")
        self._period_s = period_s
        self._keep_s = keep_s
        self._capacity = max(1, math.ceil(keep_s / period_s))
        self._times = array("d")
        self._first = 0
        """The absolute number of the oldest sampling time kept."""
        self._tracks: dict[Metric, _Track] = {}

    @property
    def period_s(self) -> float:
        return self._period_s

    @property
    def newest_time(self) -> Timestamp | None:
        """When the newest samples were taken."""
        return self._times[-1] if self._times else None

    def add(self, at: Timestamp, values: Mapping[Metric, float]) -> bool:
        """Take in the samples of one time; a metric that is not named, or not a finite number, is missing then.

        False, and nothing is taken in, when `at` is not after the newest samples: the clock went back.
        """
        if not math.isfinite(at) or (self._times and at <= self._times[-1]):
            return False
        number = self._first + len(self._times)
        self._times.append(at)
        for metric, value in values.items():
            if math.isfinite(value) and metric not in self._tracks:
                self._tracks[metric] = _Track()
        for metric, track in self._tracks.items():
            value = values.get(metric, math.nan)
            track.append(number, float(value) if math.isfinite(value) else math.nan)
        if len(self._times) > self._capacity + self._capacity // 8:
            self._forget(len(self._times) - self._capacity)
        return True

    def _forget(self, count: int) -> None:
        del self._times[:count]
        self._first += count
        for metric, track in list(self._tracks.items()):
            track.forget_before(self._first)
            if not track.present:
                del self._tracks[metric]

    def _number_after(self, at: Timestamp) -> int:
        """The absolute number of the first sampling time later than `at`."""
        return self._first + bisect_right(self._times, at)

    def newest(self, metric: Metric, count: int, until: Timestamp) -> Samples:
        track = self._tracks.get(metric)
        return NO_SAMPLES if track is None else self._samples(track, self._first, self._number_after(until), count)

    def between(self, metric: Metric, after: Timestamp, until: Timestamp) -> Samples:
        track = self._tracks.get(metric)
        if track is None:
            return NO_SAMPLES
        return self._samples(track, self._number_after(after), self._number_after(until), len(self._times))

    def _samples(self, track: _Track, low: int, high: int, most: int) -> Samples:
        """Up to `most` samples with numbers in [low, high), the newest first."""
        times: list[float] = []
        values: list[float] = []
        for first, last, value in track.runs_down(low, high):
            begin = max(first, last - (most - len(values)))
            times.extend(reversed(self._times[begin - self._first : last - self._first]))
            values.extend([value] * (last - begin))
            if len(values) >= most:
                break
        return Samples(times, values)

    def count(self, metric: Metric, until: Timestamp) -> int:
        track = self._tracks.get(metric)
        if track is None:
            return 0
        high = self._number_after(until)
        later = sum(last - first for first, last, _ in track.runs_down(high, self._first + len(self._times)))
        return track.present - later

    def oldest_time(self, metric: Metric, until: Timestamp) -> Timestamp | None:
        track = self._tracks.get(metric)
        if track is None:
            return None
        # A track's first run may have become one of missing samples, by forgetting; the next one is not.
        first = next(
            (start for start, value in zip(track.starts, track.values, strict=True) if not math.isnan(value)), None
        )
        oldest = None if first is None else self._times[first - self._first]
        return oldest if oldest is not None and oldest <= until else None

    def times(self, after: Timestamp = -math.inf) -> Iterator[tuple[Timestamp, dict[Metric, float]]]:
        """Every sampling time later than `after` and what was sampled then, the oldest first.

        Adding them to another history in this order makes an equal one.
        """
        low = self._number_after(after)
        for number in range(low, self._first + len(self._times)):
            values = {metric: track.value_at(number) for metric, track in self._tracks.items()}
            yield (
                self._times[number - self._first],
                {metric: value for metric, value in values.items() if not math.isnan(value)},
            )

    def snapshot(self) -> HistoryData:
        """All of it as plain data; see `restore`."""
        return HistoryData(
            self._period_s,
            self._keep_s,
            _to_bytes(self._times),
            {
                metric.value: TrackData(
                    _to_bytes(array("I", (start - self._first for start in track.starts))), _to_bytes(track.values)
                )
                for metric, track in self._tracks.items()
            },
        )

    @classmethod
    def restore(cls, data: HistoryData, *, period_s: float | None = None, keep_s: float | None = None) -> "History":
        """The history of a snapshot, with another period or length where given.

        Metrics this version does not know are left out. Raises ValueError when the data is not a snapshot.
        """
        history = cls(
            period_s=data.period_s if period_s is None else period_s, keep_s=data.keep_s if keep_s is None else keep_s
        )
        times = _from_bytes("d", data.times)
        if not all(map(math.isfinite, times)) or any(map(float.__ge__, times, times[1:])):
            raise ValueError("the times of the samples are not in order")
        history._times = times
        for name, packed in data.tracks.items():
            track = _Track()
            track.starts = array("q", map(int, _from_bytes("I", packed.starts)))
            track.values = _from_bytes("d", packed.values)
            starts = track.starts
            if (
                len(starts) != len(track.values)
                or any(map(int.__ge__, starts, starts[1:]))
                or any(map(math.isinf, track.values))
            ):
                raise ValueError(f"the samples of {name} are damaged")
            if starts and starts[-1] >= len(times):
                raise ValueError(f"the samples of {name} go beyond the times of sampling")
            track.present = sum(last - first for first, last, _ in track.runs_down(0, len(times)))
            if track.present and name in _METRICS:
                history._tracks[Metric(name)] = track
        if len(times) > history._capacity + history._capacity // 8:
            history._forget(len(times) - history._capacity)
        return history


def _to_bytes(numbers: "array[float] | array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _from_bytes(code: str, data: bytes) -> "array[float]":
    """Raises ValueError when the length is no multiple of a number's."""
    numbers: array[float] = array(code)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
