"""Sample methods, and the history behind them."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millpond.autoscale.record import SampleMethod, SampleWindow
from millpond.autoscale.samples import NO_SAMPLES, History, HistoryData
from millpond.autoscale.variables import Metric
from tests.unit.autoscale.support import NOW, run, value

M = Metric
MINUTES_10 = {M.RUNNING_TASKS: [float(age) for age in range(20)]}
"""The value of a sample is its age in half minutes; the newest is taken at NOW."""
GAPS = {M.RUNNING_TASKS: [None if age in {3, 7} else float(age) for age in range(20)]}
A = "$RunningTasks.GetSample"
MINUTE = "TimeInterval_Minute"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f"{A}(3)", "[0,1,2]"),
        (f"{A}(2.9)", "[0,1]"),
        (f"{A}(0)", "[]"),
        (f"{A}(0.5)", "[]"),
        (f"len({A}(1e300))", "20"),
        (f"{A}(2 * {MINUTE})", "[0,1,2,3]"),
        (f"len({A}(10 * {MINUTE}))", "20"),
        (f"len({A}(60 * {MINUTE}))", "20"),
        (f"{A}({MINUTE} * 0)", "[]"),
        (f"len({A}(1 * {MINUTE}, 6 * {MINUTE}))", "10"),
        (f"{A}(1 * {MINUTE}, 3 * {MINUTE})", "[2,3,4,5]"),
        (f"{A}(3 * {MINUTE}, 1 * {MINUTE})", "[2,3,4,5]"),
        (f"{A}(3 * {MINUTE}, 1 * {MINUTE}, 100)", "[2,3,4,5]"),
        (f"{A}(time() - 2 * {MINUTE})", "[0,1,2,3]"),
        (f"{A}(time() - 2 * {MINUTE}, 100)", "[0,1,2,3]"),
        (f"{A}(time() - 3 * {MINUTE}, {MINUTE})", "[2,3,4,5]"),
        (f"{A}(time() + {MINUTE}, {MINUTE})", "[0,1]"),
        (f"{A}('2024' == '' ? {MINUTE} : {MINUTE})", "[0,1]"),
        ("$RunningTasks.GetSamplePercent(10 * TimeInterval_Minute)", "100"),
        ("$RunningTasks.GetSamplePercent(20 * TimeInterval_Minute)", "50"),
        ("$RunningTasks.GetSamplePercent(TimeInterval_Minute, 6 * TimeInterval_Minute)", "100"),
        ("$RunningTasks.GetSamplePercent(TimeInterval_Second * 10)", "100"),
        ("$RunningTasks.GetSamplePercent(TimeInterval_Zero)", "0"),
        ("$RunningTasks.GetSamplePercent(time() - TimeInterval_Hour)", "16.666666666666668"),
        ("$ActiveTasks.GetSamplePercent(TimeInterval_Hour)", "0"),
        ("$RunningTasks.GetSamplePeriod()", "00:00:30"),
        ("$RunningTasks.Count()", "20"),
        ("$ActiveTasks.Count()", "0"),
        ("$RunningTasks.HistoryBeginTime()", "2024-05-01T11:50:30.000Z"),
        ("$RunningTasks.HistoryBeginTime().minute", "50"),
        ("$ActiveTasks.GetSample(5)", "[]"),
        ("$ActiveTasks.GetSample(TimeInterval_Hour)", "[]"),
    ],
)
def test_sample_methods(expression: str, expected: str) -> None:
    assert value(expression, MINUTES_10) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f"{A}(5)", "[0,1,2,4,5]"),
        (f"{A}(3 * {MINUTE})", "[0,1,2,4,5]"),
        (f"len({A}(10 * {MINUTE}, 80))", "18"),
        ("$RunningTasks.GetSamplePercent(10 * TimeInterval_Minute)", "90"),
        ("$RunningTasks.Count()", "18"),
    ],
)
def test_gaps(expression: str, expected: str) -> None:
    assert value(expression, GAPS) == expected


def test_the_documented_example_of_too_few_samples() -> None:
    done = run(f"x = 1;\ny = max({A}(TimeInterval_Minute * 10, 95))", GAPS)
    assert done.error is not None
    assert done.error.code.value == "InsufficientSampleData"
    assert done.error.values == (
        ("Message", "Line 2, Col 9: Insufficient data from data set: $RunningTasks wanted 95%, received 90%"),
    )


@pytest.mark.parametrize(
    ("expression", "column", "words"),
    [
        (f"{A}(-1)", 29, "negative"),
        (f"{A}(-1 * {MINUTE})", 29, "The look-back -00:01:00 is negative"),
        (f"{A}(5, {MINUTE})", 32, "takes nothing else"),
        (f"{A}('a')", 29, "A look-back is a timeinterval or a timestamp, not the string a"),
        (f"{A}({MINUTE}, 'a')", 50, "A look-back is"),
        (f"{A}({MINUTE}, {MINUTE}, {MINUTE})", 71, "The samplePercent is a double"),
        (f"{A}({MINUTE}, 5, 5)", 50, "A look-back is"),
        ("$RunningTasks.GetSamplePercent(5)", 36, "A look-back is"),
        ("$ActiveTasks.HistoryBeginTime()", 5, "wanted 1 sample, received 0"),
    ],
)
def test_errors_of_sample_methods(expression: str, column: int, words: str) -> None:
    said = value(expression, MINUTES_10)
    assert f"Line 1, Col {column}: " in said
    assert words in said


def test_every_window_is_in_the_record() -> None:
    text = f"p = $RunningTasks.GetSamplePercent(20 * {MINUTE});\nx = {A}(2); y = {A}({MINUTE}, 50); z = $RunningTasks;"
    assert run(text, MINUTES_10).windows == (
        SampleWindow(M.RUNNING_TASKS, SampleMethod.GET_SAMPLE_PERCENT, 1, 5, NOW - 1200, NOW, 20, 40),
        SampleWindow(M.RUNNING_TASKS, SampleMethod.GET_SAMPLE, 2, 5, None, NOW, 2, 2),
        SampleWindow(M.RUNNING_TASKS, SampleMethod.GET_SAMPLE, 2, 37, NOW - 60, NOW, 2, 2, 50.0),
        SampleWindow(M.RUNNING_TASKS, SampleMethod.CURRENT, 2, 91, None, NOW, 1, 1),
    )
    assert run(text, MINUTES_10).windows[0].percent == 50


def test_nothing_later_than_now_is_seen() -> None:
    past = NOW - 300
    made = History()
    for age in range(19, -1, -1):
        made.add(NOW - 30.0 * age, {M.RUNNING_TASKS: age})
    assert made.newest(M.RUNNING_TASKS, 2, past).values == [10, 11]
    assert made.count(M.RUNNING_TASKS, past) == 10
    assert made.oldest_time(M.RUNNING_TASKS, past) == NOW - 570
    assert made.oldest_time(M.RUNNING_TASKS, NOW - 571) is None
    assert made.newest(M.RUNNING_TASKS, 2, NOW - 571) == ([], [])


# History


def test_times_and_values_come_newest_first() -> None:
    made = History()
    for at, number in ((0.0, 5), (30.0, 5), (60.0, 6), (90.0, math.nan), (120.0, 6)):
        made.add(at, {M.FAILED_TASKS: number})
    assert made.between(M.FAILED_TASKS, 0.0, 120.0) == ([120.0, 60.0, 30.0], [6, 6, 5])
    assert made.newest(M.FAILED_TASKS, 2, 200.0) == ([120.0, 60.0], [6, 6])
    assert made.newest_time == 120.0
    assert made.newest(M.ACTIVE_TASKS, 2, 200.0) == NO_SAMPLES


def test_a_clock_that_goes_back_adds_nothing() -> None:
    made = History()
    assert made.add(100.0, {M.FAILED_TASKS: 1})
    assert not made.add(100.0, {M.FAILED_TASKS: 2})
    assert not made.add(70.0, {M.FAILED_TASKS: 2})
    assert not made.add(math.nan, {M.FAILED_TASKS: 2})
    assert made.newest(M.FAILED_TASKS, 9, 1000.0) == ([100.0], [1])


@pytest.mark.parametrize(("period_s", "keep_s"), [(0, 10), (-1, 10), (30, 0), (math.nan, 1), (30, math.inf)])
def test_nonsensical_lengths(period_s: float, keep_s: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        History(period_s=period_s, keep_s=keep_s)


def test_space_is_bounded() -> None:
    made = History(period_s=1.0, keep_s=100.0)
    for tick in range(1000):
        made.add(float(tick), {M.ACTIVE_TASKS: tick, M.FAILED_TASKS: 1, **({M.CPU_PERCENT: 0.5} if tick < 10 else {})})
    count = made.count(M.ACTIVE_TASKS, 1000.0)
    assert 100 <= count <= 112
    assert made.newest(M.ACTIVE_TASKS, 100, 1000.0).values == list(range(999, 899, -1))
    assert made.count(M.FAILED_TASKS, 1000.0) == count
    assert made.count(M.CPU_PERCENT, 1000.0) == 0
    data = made.snapshot()
    assert set(data.tracks) == {"$ActiveTasks", "$FailedTasks"}
    assert len(data.tracks["$FailedTasks"].values) == 8  # it never changed


class Plain:
    """What a history should be: a list."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, dict[Metric, float]]] = []

    def samples(self, metric: Metric, after: float, until: float) -> list[tuple[float, float]]:
        return [(at, row[metric]) for at, row in reversed(self.rows) if metric in row and after < at <= until]


VALUES = st.dictionaries(
    st.sampled_from([M.ACTIVE_TASKS, M.RUNNING_TASKS]), st.sampled_from([0.0, 1.0, 2.5, math.nan]), max_size=2
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 3), VALUES), max_size=60),
    st.integers(2, 40),
    st.integers(-5, 100),
    st.integers(-5, 100),
    st.booleans(),
)
def test_a_history_is_a_list(
    ticks: list[tuple[int, dict[Metric, float]]], keep: int, low: int, high: int, restored: bool
) -> None:
    made = History(period_s=1.0, keep_s=float(keep))
    plain = Plain()
    at = 0
    for step, values in ticks:
        at += step
        if made.add(float(at), values):
            plain.rows.append((float(at), {metric: one for metric, one in values.items() if not math.isnan(one)}))
            if len(plain.rows) > keep + keep // 8:
                del plain.rows[:-keep]
    if restored:
        packed = msgspec.json.encode(made.snapshot())
        made = History.restore(msgspec.json.decode(packed, type=HistoryData))
    for metric in (M.ACTIVE_TASKS, M.RUNNING_TASKS):
        expected = plain.samples(metric, low, high)
        assert list(zip(*made.between(metric, low, high), strict=True)) == expected
        all_until = plain.samples(metric, -math.inf, high)
        assert list(zip(*made.newest(metric, 3, high), strict=True)) == all_until[:3]
        assert made.count(metric, high) == len(all_until)
        assert made.oldest_time(metric, high) == (all_until[-1][0] if all_until else None)
    assert [(time, row) for time, row in made.times() if row] == [(time, row) for time, row in plain.rows if row]
    copy = History(period_s=1.0, keep_s=float(keep))
    for time, row in made.times():
        copy.add(time, row)
    assert list(copy.times()) == list(made.times())
    assert list(made.times(float(low))) == [(time, row) for time, row in made.times() if time > low]


def test_a_history_goes_on_after_being_restored_and_may_get_shorter() -> None:
    made = History(period_s=1.0, keep_s=100.0)
    for tick in range(100):
        made.add(float(tick), {M.ACTIVE_TASKS: tick // 7})
    data = made.snapshot()
    shorter = History.restore(data, keep_s=10.0)
    assert shorter.newest(M.ACTIVE_TASKS, 99, 1e9).values == [14, 14, *[13] * 7, 12]
    assert shorter.add(100.0, {M.ACTIVE_TASKS: 1})
    assert shorter.newest(M.ACTIVE_TASKS, 1, 1e9) == ([100.0], [1])


def test_metrics_of_another_version_are_left_out() -> None:
    made = History()
    made.add(0.0, {M.ACTIVE_TASKS: 1})
    data = made.snapshot()
    data.tracks["$Unheard"] = data.tracks["$ActiveTasks"]
    assert dict(History.restore(data).times()) == {0.0: {M.ACTIVE_TASKS: 1}}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("times", lambda data: msgspec.structs.replace(data, times=data.times[:-1])),
        ("times", lambda data: msgspec.structs.replace(data, times=data.times[8:] + data.times[:8])),
        ("times", lambda data: msgspec.structs.replace(data, times=data.times[:8])),
        ("starts", lambda data: msgspec.structs.replace(data.tracks["$ActiveTasks"], starts=b"abc")),
        ("starts", lambda data: msgspec.structs.replace(data.tracks["$ActiveTasks"], starts=bytes(4))),
        ("starts", lambda data: msgspec.structs.replace(data.tracks["$ActiveTasks"], starts=bytes(8))),
        ("values", lambda data: msgspec.structs.replace(data.tracks["$ActiveTasks"], values=b"")),
        ("period", lambda data: msgspec.structs.replace(data, period_s=0.0)),
    ],
)
def test_damaged_snapshots_are_refused(name: str, spoil) -> None:
    made = History()
    for tick in range(3):
        made.add(float(tick), {M.ACTIVE_TASKS: min(tick, 1)})
    data = made.snapshot()
    spoiled = spoil(data)
    if not isinstance(spoiled, HistoryData):
        spoiled = msgspec.structs.replace(data, tracks={"$ActiveTasks": spoiled})
    with pytest.raises(ValueError, match=r"samples|bytes|positive"):
        History.restore(spoiled)
