"""Loads by chance and from files; nonsense is refused with its line."""

from pathlib import Path

import pytest

from millpond.autoscale.variables import Metric
from millpond.lab.loads import Arrival, LoadError, make_load, parse_synthetic
from millpond.lab.recording import history_of, load_of_tasks
from millpond.lab.traces import load_of, parse_csv, parse_swf, read_trace, to_csv

HOUR = 3600.0


def test_a_constant_rate_brings_about_as_many_tasks() -> None:
    load = parse_synthetic("poisson:rate=60,days=10,duration=90,slots=2")
    assert len(load.arrivals) == pytest.approx(14_400, rel=0.05)
    assert {(one.duration_s, one.slots) for one in load.arrivals} == {(90.0, 2)}
    assert load.span_s == 864_000.0
    assert load.name == "poisson:days=10,duration=90,slots=2,rate=60"


def test_run_times_spread_around_their_mean() -> None:
    load = parse_synthetic("poisson:rate=200,days=10,duration=100,spread=1")
    mean = sum(one.duration_s for one in load.arrivals) / len(load.arrivals)
    assert mean == pytest.approx(100, rel=0.05)
    assert len({one.duration_s for one in load.arrivals}) == len(load.arrivals)


def test_days_have_nights_and_weeks_have_ends() -> None:
    load = parse_synthetic("weekly:days=7,low=1,high=60")
    hours = [0] * (7 * 24)
    for one in load.arrivals:
        hours[int(one.at // HOUR)] += 1
    assert sum(hours[11:13]) > 10 * sum(hours[0:2])
    assert sum(hours[: 24 * 5]) > 20 * sum(hours[24 * 5 :])
    daily = parse_synthetic("daily:days=7,low=1,high=60")
    assert len(daily.arrivals) > len(load.arrivals)


def test_bursts_without_jitter_are_a_clock() -> None:
    load = parse_synthetic("bursts:days=1,every=6,size=3,jitter=0")
    assert [one.at for one in load.arrivals] == [at for hour in (0, 6, 12, 18) for at in [hour * HOUR] * 3]


def test_the_seed_is_all_that_differs() -> None:
    assert parse_synthetic("bursts:days=3") == parse_synthetic("bursts:days=3")
    assert parse_synthetic("bursts:days=3").arrivals != parse_synthetic("bursts:days=3,seed=2").arrivals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gaussian", "'gaussian' is no kind of load: there are poisson, bursts, daily, weekly"),
        ("poisson:speed=3", "poisson takes days, duration, spread, slots, seed, rate"),
        ("poisson:rate", "as name=value"),
        ("poisson:rate=fast", "'fast' is no number"),
        ("poisson:rate=-1", "rate is -1: it must be 0 or more"),
        ("poisson:rate=nan", "rate is nan"),
        ("poisson:slots=0", "slots is 0: it must be 1 or more"),
        ("poisson:days=1e9,rate=1000000", "more than 2,000,000 tasks"),
    ],
)
def test_nonsense_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(LoadError) as refused:
        parse_synthetic(text)
    assert message in str(refused.value)


def test_a_csv_in_any_order_with_comments() -> None:
    load = parse_csv("# from the cluster\nDuration, Arrival ,slots,count\n5,10,,2\n\n7.5,0,3,1\n")
    assert load.arrivals == (Arrival(0.0, 7.5, 3), Arrival(10.0, 5.0), Arrival(10.0, 5.0))
    assert parse_csv(to_csv(load.arrivals)).arrivals == load.arrivals


def test_times_count_from_the_first() -> None:
    load = parse_csv("arrival,duration\n2026-01-05T08:00:30Z,1\n2026-01-05T08:00:00Z,2\n")
    assert load.arrivals == (Arrival(0.0, 2.0), Arrival(30.0, 1.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no header line"),
        ("arrival\n1\n", "line 1: the header names no column 'duration'"),
        ("arrival,duration,speed\n", "line 1: 'speed' is no column"),
        ("arrival,duration,arrival\n", "line 1: 'arrival' is there twice"),
        ("arrival,duration\n1,2\n1\n", "line 3: 1 columns, and the header has 2"),
        ("arrival,duration\n1,2\nsoon,2\n", "line 3: arrival 'soon' is neither a number"),
        ("arrival,duration\n1,2\n2026-01-05,2\n", "line 3: arrivals are all in seconds, or all times"),
        ("arrival,duration\n1,long\n", "line 2: duration 'long' is no number"),
        ("arrival,duration\n1,inf\n", "line 2: duration 'inf' is not finite"),
        ("arrival,duration\n1,-5\n", "line 2: it runs for -5 s"),
        ("arrival,duration\n-1,5\n", "line 2: it arrives at -1"),
        ("arrival,duration\nnan,5\n", "line 2: it arrives at nan"),
        ("arrival,duration,slots\n1,5,0\n", "line 2: it needs 0 slots"),
        ("arrival,duration,slots\n1,5,1.5\n", "line 2: slots '1.5' is no whole number"),
        ("arrival,duration,count\n1,5,9999999\n", "line 2: count is 9999999"),
        ('arrival,duration\n1,"5\n', "line 2"),
    ],
)
def test_a_nonsense_csv_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(LoadError) as refused:
        parse_csv(text, "t.csv")
    assert message in str(refused.value)
    assert str(refused.value).startswith("t.csv")


def swf(*lines: str) -> str:
    return "; Version: 2.2\n; Computer: a test\n" + "".join(f"{line}\n" for line in lines)


def test_a_standard_workload_trace() -> None:
    load = parse_swf(
        swf(
            "1 100 5 60 4 50.0 -1 4 600 -1 1 1 1 1 1 1 -1 -1",
            "2 160 5 30 -1 50.0 -1 6 600 -1 1 1 1 1 1 1 -1 -1",
            "3 170 5 -1 4 -1 -1 4 600 -1 5 1 1 1 1 1 -1 -1",
        ),
        "t.swf",
        processors_per_slot=4,
    )
    assert load.arrivals == (Arrival(0.0, 60.0, 1), Arrival(60.0, 30.0, 2))
    assert load.name == "t.swf (1 jobs that never ran left out)"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3", "t.swf, line 3: 3 columns"),
        ("1 x 5 60 4 50 -1 4 600 -1 1 1 1 1 1 1 -1 -1", "t.swf, line 3: column 2 'x' is no number"),
        ("1 -7 5 60 4 50 -1 4 600 -1 1 1 1 1 1 1 -1 -1", "t.swf, line 3: it arrives at -7"),
        ("1 7 5 -1 4 50 -1 4 600 -1 1 1 1 1 1 1 -1 -1", "no job in it that ran (1 lines"),
    ],
)
def test_a_nonsense_trace_is_refused_with_its_line(line: str, message: str) -> None:
    with pytest.raises(LoadError) as refused:
        parse_swf(swf(line), "t.swf")
    assert message in str(refused.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        load_of(str(tmp_path / "gone.csv"))
    packed = tmp_path / "packed.swf"
    packed.write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(LoadError, match="is it compressed"):
        read_trace(packed)
    with pytest.raises(LoadError, match="lasts 5 s, and a task arrives after 9 s"):
        make_load("x", [Arrival(9.0, 1.0)], 5.0)


def test_the_tasks_of_a_service_are_a_load() -> None:
    ran = {
        "id": "a",
        "state": "completed",
        "creationTime": "2026-01-05T08:00:10Z",
        "requiredSlots": 2,
        "executionInfo": {"startTime": "2026-01-05T08:01:00Z", "endTime": "2026-01-05T08:01:30.5Z"},
    }
    earlier = {**ran, "creationTime": "2026-01-05T08:00:00Z"}
    waiting = {"id": "b", "state": "active", "creationTime": "2026-01-05T08:00:10Z"}
    load, left_out = load_of_tasks([ran, waiting, earlier], "job")
    assert load.arrivals == (Arrival(0.0, 30.5, 2), Arrival(10.0, 30.5, 2))
    assert left_out == 1


def test_the_samples_of_a_service_are_a_history() -> None:
    answer = {
        "samplePeriod": "PT30S",
        "times": ["2026-01-05T08:00:00Z", "2026-01-05T08:00:30Z"],
        "samples": {"$PendingTasks": [4, None], "$FromTheFuture": [1, 2]},
    }
    history = history_of(answer)
    assert history.period_s == 30.0
    assert [values for _, values in history.times()] == [{Metric.PENDING_TASKS: 4.0}, {}]
    with pytest.raises(ValueError, match="not been sampled yet"):
        history_of({"samplePeriod": None, "times": [], "samples": {}})
