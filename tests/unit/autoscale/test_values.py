"""Values as text, times from text."""

import pytest

from millpond.autoscale.values import (
    MAX_INTERVAL_TICKS,
    Interval,
    format_value,
    interval,
    member_of,
    moment,
    moment_of,
    parse_moment,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10.0, "10"),
        (0.5, "0.5"),
        (-0.0, "0"),
        (-2.0, "-2"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e14, "100000000000000"),
        (1e15, "1E+15"),
        (1234567890123456.0, "1.234567890123456E+15"),
        (-1234567890123456.5, "-1.2345678901234565E+15"),
        (1e16, "1E+16"),
        (1.5e300, "1.5E+300"),
        (0.0001, "0.0001"),
        (0.00001, "1E-05"),
        (1.5e-10, "1.5E-10"),
        ((), "[]"),
        ((1.0, 1.0, 0.5), "[1,1,0.5]"),
        ("as it is", "as it is"),
        (Interval(0), "00:00:00"),
        (Interval(1), "00:00:00.0000001"),
        (Interval(-36_000_000_000), "-01:00:00"),
        (Interval(936_000_000_000 + 5_000_000), "1.02:00:00.5000000"),
        (Interval(MAX_INTERVAL_TICKS), "10675199.02:48:05.4775807"),
    ],
)
def test_values_as_text(value: float | tuple[float, ...] | str | Interval, text: str) -> None:
    assert format_value(value) == text


def test_long_vectors_are_cut_where_space_is_short() -> None:
    assert format_value((1.0, 2.0, 3.0), 2) == "[1,2,… 3 in all]"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("2014", "2014-01-01T00:00:00.000Z"),
        ("2014-10", "2014-10-01T00:00:00.000Z"),
        ("2014-10-06", "2014-10-06T00:00:00.000Z"),
        ("2014-10-06T10:20Z", "2014-10-06T10:20:00.000Z"),
        (" 2014-10-06T10:20:30 ", "2014-10-06T10:20:30.000Z"),
        ("2014-10-06T10:20:30.1234567Z", "2014-10-06T10:20:30.123Z"),
        ("2014-10-06T00:20:30+02:00", "2014-10-05T22:20:30.000Z"),
        ("2014-10-06T23:20:30-0130", "2014-10-07T00:50:30.000Z"),
        ("Mon, 06 Oct 2014 10:20:00 GMT", "2014-10-06T10:20:00.000Z"),
        ("6 Oct 2014 10:20 GMT", "2014-10-06T10:20:00.000Z"),
        ("0001-01-01", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_times_from_text(text: str, printed: str) -> None:
    assert format_value(parse_moment(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2014-13-01",
        "2014-02-30",
        "2014-10-06T25:00Z",
        "2014-10-06T10:20:30+24:00",
        "0000-01-01",
        "0001-01-01T00:00+01:00",
        "Mon, 06 Okt 2014 10:20:00 GMT",
        "Mon, 06 Oct 2014 10:20:00 CET",
        "１２３４",  # noqa: RUF001  # digits, but not ours
        "20141006",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time such as"):
        parse_moment(text)


def test_members_of_a_time() -> None:
    at = parse_moment("2024-02-29T13:14:15.999Z")
    names = ("year", "month", "day", "weekday", "hour", "minute", "second")
    assert [member_of(at, name) for name in names] == [2024, 2, 29, 4, 13, 14, 15]
    assert member_of(parse_moment("2024-03-03"), "weekday") == 0
    assert member_of(parse_moment("1969-12-31T23:59:59Z"), "year") == 1969
    assert member_of(parse_moment("0001-01-01"), "weekday") == 1


def test_bounds() -> None:
    assert moment_of(1.5).ticks == 15_000_000
    for make, ticks in ((interval, MAX_INTERVAL_TICKS + 1), (interval, -MAX_INTERVAL_TICKS - 1), (moment, 10**19)):
        with pytest.raises(OverflowError):
            make(ticks)
