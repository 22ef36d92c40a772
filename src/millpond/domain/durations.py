"""ISO 8601 durations and timestamps, as Azure Batch reads and prints them.

Inside Millpond a duration is a `float` of seconds (`None` is unlimited) and a timestamp a `float` of seconds since the
epoch, UTC, kept to the microsecond.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

Timestamp: TypeAlias = float
"""Seconds since the epoch, UTC."""

UNLIMITED_TEXT: Final = "P10675199DT2H48M5.4775807S"
"""How the service prints "no limit": .NET's TimeSpan.MaxValue."""

_UNLIMITED_S: Final = 10675199 * 86400.0 + 2 * 3600 + 48 * 60 + 5.4775807
_DURATION: Final = re.compile(
    r"(?P<sign>-)?P(?:(?P<days>\d{1,9}(?:\.\d{1,9})?)D)?"
    r"(?:T(?:(?P<hours>\d{1,9}(?:\.\d{1,9})?)H)?(?:(?P<minutes>\d{1,9}(?:\.\d{1,9})?)M)?(?:(?P<seconds>\d{1,12}(?:\.\d{1,9})?)S)?)?\Z"
)
_EXACT_S: Final = 2.0**33
"""Until the year 2242: so far a time in microseconds is a whole number of those that a float holds."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC1123_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_RFC1123_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_duration(text: str) -> float | None:
    """Seconds in an ISO 8601 duration (`PT15M`, `P7D`, `PT01H00M00S`, `PT0.5S`); `None` when it means "no limit".

    Raises ValueError when the text is not a duration, uses years, months or weeks, or is negative.
    """
    match = _DURATION.match(text)
    if match is None or text.endswith(("P", "T")):
        raise ValueError(f"{text!r} is not an ISO 8601 duration such as PT15M or P7D")
    if match["sign"]:
        raise ValueError(f"{text!r} is a negative duration")
    seconds = (
        float(match["days"] or 0) * 86400
        + float(match["hours"] or 0) * 3600
        + float(match["minutes"] or 0) * 60
        + float(match["seconds"] or 0)
    )
    return None if seconds >= _UNLIMITED_S - 1e-3 else seconds


def format_duration(seconds: float | None) -> str:
    """A duration as the service normalises it on output: `P7D`, `PT15M`, `PT1H30M`, `PT0.5S`; `None` is "no limit"."""
    if seconds is None:
        return UNLIMITED_TEXT
    microseconds = round(seconds * 1_000_000)
    days, rest = divmod(microseconds, 86_400_000_000)
    hours, rest = divmod(rest, 3_600_000_000)
    minutes, rest = divmod(rest, 60_000_000)
    text = f"P{days}D" if days else "P"
    clock = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    if rest:
        clock += f"{rest / 1_000_000:.6f}".rstrip("0").rstrip(".") + "S"
    if clock:
        text += "T" + clock
    return text if text != "P" else "PT0S"


def parse_timestamp(text: str) -> Timestamp:
    """The instant an ISO 8601 date or date-time names; without a zone it is UTC. Raises ValueError.

    The service prints up to seven fractional digits; the seventh is dropped.
    """
    trimmed = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        moment = datetime.fromisoformat(trimmed)
    except ValueError:
        raise ValueError(f"{text!r} is not an ISO 8601 date-time such as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) / timedelta(seconds=1)


def format_timestamp(at: Timestamp) -> str:
    """A timestamp as the service prints it: ISO 8601, UTC, fraction without trailing zeros."""
    moment = _EPOCH + timedelta(microseconds=round(at * 1_000_000))
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    if moment.microsecond:
        text += f".{moment.microsecond:06d}".rstrip("0")
    return text + "Z"


def format_http_date(at: Timestamp) -> str:
    """A timestamp as an HTTP header carries it (RFC 1123, whole seconds, GMT)."""
    moment = _EPOCH + timedelta(seconds=int(at))
    return (
        f"{_RFC1123_DAYS[moment.weekday()]}, {moment.day:02d} {_RFC1123_MONTHS[moment.month - 1]} {moment.year:04d} "
        f"{moment.hour:02d}:{moment.minute:02d}:{moment.second:02d} GMT"
    )


def etag_of(last_modified: Timestamp) -> str:
    """The entity tag of an entity last modified then: unquoted, `0x8D…`, as the service sends it.

    Two modifications of one entity never carry the same time (see `later_than`), so the tag changes with each.
    """
    return f"0x8D{round(last_modified * 1_000_000):013X}"


def whole_microseconds(at: Timestamp) -> Timestamp:
    """The time as it is shown. Every time of an entity goes through here, or a client that asks for what changed after
    the time it was shown would be told of the same change again, and one that asks for that time would find nothing."""
    # `round(at, 6)` goes by way of the decimal text and takes eight times as long, and there are two for every task.
    return round(at * 1e6) / 1e6 if -_EXACT_S < at < _EXACT_S else round(at, 6)


def later_than(previous: Timestamp, at: Timestamp) -> Timestamp:
    """`at`, or the next microsecond after `previous` when the clock has not moved on since."""
    return at if at > previous else round(previous + 1e-6, 6)
