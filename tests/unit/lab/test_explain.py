"""Explaining an evaluation, on samples from a table."""

import pytest

from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.lab.explain import explain_history
from millpond.lab.samples_file import SamplesError, format_samples, parse_samples

SAMPLES = """\
time,$PendingTasks,$usablenodecount
2026-01-05T08:00:00Z,4,2
2026-01-05T08:00:30Z,6,
2026-01-05T08:01:00Z,8,3
"""


def test_every_value_and_window_is_told() -> None:
    text = "tasks = max(1, avg($PendingTasks.GetSample(TimeInterval_Minute * 2))) + 1;\n$TargetDedicatedNodes = tasks;"
    lines = explain_history(text, parse_samples(SAMPLES), target_dedicated_nodes=3)
    assert lines[0] == "1:1  tasks = max(1, avg($PendingTasks.GetSample(TimeInterval_Minute * 2))) + 1"
    told = [line.strip() for line in lines]
    for expected in (
        "$PendingTasks.GetSample(TimeInterval_Minute * 2) = [8,6,4]",
        "avg($PendingTasks.GetSample(TimeInterval_Minute * 2)) = 6",
        "TimeInterval_Minute * 2 = 00:02:00",
        "samples: $PendingTasks after 2026-01-05T07:59:00Z up to 2026-01-05T08:01:00Z: 3 of 4 (75%)",
        "→ tasks = 7 (double)",
        "→ $TargetDedicatedNodes = 7 (double)",
        "At 2026-01-05T08:01:00Z:",
        "target dedicated nodes: 7 (before: 3)",
        "target low-priority nodes: 0 (as before)",
        "nodes that go: requeue",
    ):
        assert expected in told, "\n".join(lines)


def test_windows_stand_with_their_statement() -> None:
    text = "a = $PendingTasks.GetSamplePercent(TimeInterval_Minute);\nb = $UsableNodeCount;\n$TargetDedicatedNodes = a + b;"
    lines = explain_history(text, parse_samples(SAMPLES))
    second = lines.index("2:1  b = $UsableNodeCount")
    assert any("$PendingTasks after" in line and "2 of 2 (100%)" in line for line in lines[:second])
    assert any("$UsableNodeCount" in line for line in lines[second + 1 :])


def test_what_fails_is_told_with_its_place() -> None:
    lines = explain_history("x = 1;\n$TargetDedicatedNodes = x / 0;", parse_samples(SAMPLES), target_dedicated_nodes=2)
    assert "    → failed" in lines
    assert any(line.startswith("AutoScalingFormulaEvaluationError: line 2, column ") for line in lines)
    assert "  target dedicated nodes: 2 (as before)" in lines


def test_samples_are_written_as_they_are_read() -> None:
    history = parse_samples(SAMPLES)
    again = parse_samples(format_samples(history.times()))
    assert isinstance(again, History)
    assert list(again.times()) == list(history.times())
    assert list(again.times())[1][1] == {Metric.PENDING_TASKS: 6.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no samples"),
        ("time,$PendingTasks\n", "there are no samples"),
        ("$PendingTasks\n1\n", "line 1: the header names no column 'time'"),
        ("time,tasks\n", "line 1: 'tasks' is no column"),
        ("time,$TargetDedicatedNodes\n", "line 1: '$TargetDedicatedNodes' is no column"),
        ("time,$PendingTasks,$pendingtasks\n", "line 1: '$pendingtasks' is there twice"),
        ("time,$PendingTasks\n1,2\n3\n", "line 3: 1 columns"),
        ("time,$PendingTasks\n5,2\n5,3\n", "line 3: 5 is not after the line before it"),
        ("time,$PendingTasks\nnoon,2\n", "line 2: 'noon' is neither a time"),
        ("time,$PendingTasks\n1,many\n", "line 2: $PendingTasks 'many' is no number"),
        ("time,$PendingTasks\n1,nan\n", "line 2: $PendingTasks 'nan' is no number"),
        ("time,$PendingTasks\n1e300,1\n", "line 2: '1e300' is not a time"),
    ],
)
def test_nonsense_samples_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(SamplesError) as refused:
        parse_samples(text, "s.csv")
    assert message in str(refused.value)
