"""The types of the language, and how their values are printed.

A double is a Python `float` and always finite: whatever would make it infinite or not a number is an error. A
doubleVec is a tuple of them, a string a `str`. Times are whole ticks of 100 ns, as the service's own are, so that
adding and comparing them is exact. There is no boolean: comparisons give 1 and 0.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.states import NodeDeallocationOption

TICKS_PER_SECOND: Final = 10_000_000
MAX_INTERVAL_TICKS: Final = 2**63 - 1
"""What the service's time spans can hold: some 29,000 years."""
_DAY: Final = 86_400 * TICKS_PER_SECOND
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_TICKS: Final = -719_162 * _DAY
"""0001-01-01."""
_LAST_TICKS: Final = 2_932_897 * _DAY - 1
"""The last moment of 9999."""


class Interval(msgspec.Struct, frozen=True, order=True, gc=False):
    """A timeinterval: ticks, negative ones too."""

    ticks: int

    @property
    def seconds(self) -> float:
        return self.ticks / TICKS_PER_SECOND


class Moment(msgspec.Struct, frozen=True, order=True, gc=False):
    """A timestamp: ticks since 1970, UTC, in the years 1 to 9999."""

    ticks: int

    @property
    def timestamp(self) -> Timestamp:
        return self.ticks / TICKS_PER_SECOND


Vector: TypeAlias = tuple[float, ...]
Value: TypeAlias = float | Vector | str | Moment | Interval | NodeDeallocationOption

_TYPE_NAMES: Final[dict[type, str]] = {
    float: "double",
    tuple: "doubleVec",
    str: "string",
    Moment: "timestamp",
    Interval: "timeinterval",
    NodeDeallocationOption: "deallocation option",
}


def type_name(value: Value) -> str:
    """The language's name for the type of a value."""
    return _TYPE_NAMES[type(value)]


def interval(ticks: int) -> Interval:
    """Raises OverflowError when it is longer than a time span can be."""
    if not -MAX_INTERVAL_TICKS <= ticks <= MAX_INTERVAL_TICKS:
        raise OverflowError("the timeinterval is too long")
    return Interval(ticks)


def moment(ticks: int) -> Moment:
    """Raises OverflowError outside of the years 1 to 9999."""
    if not _FIRST_TICKS <= ticks <= _LAST_TICKS:
        raise OverflowError("the timestamp is outside of the years 1 to 9999")
    return Moment(ticks)


def moment_of(at: Timestamp) -> Moment:
    """Seconds since the epoch as a timestamp of the language. Raises OverflowError as `moment`."""
    return moment(round(at * 1_000_000) * 10)


def member_of(at: Moment, name: str) -> float:
    """`year`, `month`, `day`, `weekday` (Monday 1 … Saturday 6, Sunday 0), `hour`, `minute`, `second`; UTC."""
    days, rest = divmod(at.ticks, _DAY)
    match name:
        case "hour":
            return float(rest // (3600 * TICKS_PER_SECOND))
        case "minute":
            return float(rest // (60 * TICKS_PER_SECOND) % 60)
        case "second":
            return float(rest // TICKS_PER_SECOND % 60)
        case "weekday":
            return float((days + 4) % 7)
    date = _EPOCH + timedelta(days=days)
    return float(date.year if name == "year" else date.month if name == "month" else date.day)


MEMBERS: Final = ("year", "month", "day", "weekday", "hour", "minute", "second")

_ISO: Final = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(?:([Zz])|([+-])(\d\d):?(\d\d))?)?)?)?\Z",
    re.ASCII,
)
_RFC1123: Final = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), *)?(\d\d?) ([A-Z][a-z][a-z]) (\d{4}) (\d\d):(\d\d)(?::(\d\d))? (?:GMT|UTC|Z)\Z",
    re.ASCII,
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_moment(text: str) -> Moment:
    """A W3C date-time (`2014-10-06T10:20Z`; from the year alone to fractions of a second; without a zone it is UTC)
    or one of RFC 1123 (`Mon, 06 Oct 2014 10:20:00 GMT`; the name of the day is not checked).

    Raises ValueError.
    """
    trimmed = text.strip()
    try:
        found = _moment_of_iso(trimmed) if trimmed[:4].isdecimal() else _moment_of_rfc1123(trimmed)
    except (ValueError, OverflowError):
        found = None
    if found is None:
        form = "2026-01-31T12:00:00Z or Sat, 31 Jan 2026 12:00:00 GMT"
        raise ValueError(f"{text[:64]!r} is not a time such as {form}")
    return found


def _moment_of_iso(text: str) -> Moment | None:
    match = _ISO.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, _, sign, zone_hours, zone_minutes = match.groups()
    date = datetime(
        int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=UTC
    )
    east = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    if east >= timedelta(days=1):
        return None
    since = date - _EPOCH + (east if sign == "-" else -east)
    return moment(since // timedelta(seconds=1) * TICKS_PER_SECOND + int((fraction or "0")[:7].ljust(7, "0")))


def _moment_of_rfc1123(text: str) -> Moment | None:
    match = _RFC1123.match(text)
    if match is None or match[2] not in _MONTHS:
        return None
    day, month, year, hour, minute, second = match.groups()
    date = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second or 0), tzinfo=UTC)
    return moment((date - _EPOCH) // timedelta(seconds=1) * TICKS_PER_SECOND)


def format_double(value: float) -> str:
    """The shortest text that reads back as the same number, in .NET's manner: `10`, `0.5`, `1E+16`, `1E-05`."""
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    digits, _, exponent = repr(value).partition("e")
    if not exponent:
        return digits.removesuffix(".0") if abs(value) < 1e15 else _scientific(digits)
    power = int(exponent)
    return f"{digits}E{'-' if power < 0 else '+'}{abs(power):02d}"


def _scientific(digits: str) -> str:
    """`1234567890123456.0` as `1.234567890123456E+15`: what Python writes out up to 1e16 and .NET does not."""
    sign = "-" if digits.startswith("-") else ""
    whole = digits.removeprefix("-").partition(".")[0]
    fraction = (whole[1:] + digits.partition(".")[2]).rstrip("0")
    return f"{sign}{whole[0]}{'.' if fraction else ''}{fraction}E+{len(whole) - 1}"


def format_value(value: Value, longest: int | None = None) -> str:
    """A value as results print it: `10`, `[1,1,1]`, `2016-10-13T19:18:47.805Z`, `1.02:03:04.5000000`, text as it is.

    With `longest`, of a longer vector only so many elements are printed, and then how many there are.
    """
    if isinstance(value, float):
        return format_double(value)
    if isinstance(value, tuple):
        if longest is not None and len(value) > longest:
            return f"[{','.join(map(format_double, value[:longest]))},… {len(value)} in all]"
        return f"[{','.join(map(format_double, value))}]"
    if isinstance(value, Moment):
        days, rest = divmod(value.ticks, _DAY)
        seconds, ticks = divmod(rest, TICKS_PER_SECOND)
        date = _EPOCH + timedelta(days=days, seconds=seconds)
        milliseconds = ticks // 10_000
        return f"{date.year:04d}-{date.month:02d}-{date.day:02d}T{date:%H:%M:%S}.{milliseconds:03d}Z"
    if isinstance(value, Interval):
        return _format_interval(value)
    return value.value if isinstance(value, NodeDeallocationOption) else value


def _format_interval(value: Interval) -> str:
    """`[-][d.]hh:mm:ss[.fffffff]`, .NET's constant format: Azure documents none."""
    days, rest = divmod(abs(value.ticks), _DAY)
    seconds, ticks = divmod(rest, TICKS_PER_SECOND)
    text = f"{'-' if value.ticks < 0 else ''}{f'{days}.' if days else ''}"
    text += f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return text + (f".{ticks:07d}" if ticks else "")
