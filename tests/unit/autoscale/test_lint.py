"""What `check` finds, and what it leaves in peace."""

import pytest

from millpond.autoscale.lint import LintFacts, Severity, lint
from tests.unit.autoscale import published

GOOD = """
p = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 5);
n = p < 70 ? max(0, $PendingTasks.GetSample(1)) : avg($PendingTasks.GetSample(TimeInterval_Minute * 5));
$TargetDedicatedNodes = min(25, n / $TaskSlotsPerNode + 0.9);
$NodeDeallocationOption = taskcompletion;
"""


def rules(text: str, facts: LintFacts | None = None) -> list[str]:
    return [one.rule for one in lint(text, facts or LintFacts(task_slots_per_node=1))]


def with_tail(text: str) -> str:
    """A statement within a formula that has nothing else to complain of."""
    return f"{text}; $TargetDedicatedNodes = min(9, x + time().hour); $NodeDeallocationOption = taskcompletion"


@pytest.mark.parametrize("facts", [LintFacts(), LintFacts(1), LintFacts(4), LintFacts(4, False)])
def test_a_good_formula(facts: LintFacts) -> None:
    assert lint(GOOD, facts) == []


def test_a_formula_that_cannot_be_read_has_one_finding() -> None:
    (found,) = lint("a = 1;\n$ActiveTasks = 3")
    assert (found.rule, found.severity, found.line, found.column) == ("syntax", Severity.ERROR, 2, 1)
    assert found.message == "$ActiveTasks is read-only."


@pytest.mark.parametrize(
    ("text", "rule", "column"),
    [
        ("x = y", "unknown-variable", 5),
        ("x = x", "unknown-variable", 5),
        ("x = y.Count()", "unknown-variable", 5),
        ("x = 1 ? y : 2", "unknown-variable", 9),
        ("x = time('soon').hour", "bad-time", 10),
        ("x = 1 / 0", "division-by-zero", 7),
        ("z = 0; x = 1 / (z * 2)", "division-by-zero", 14),
        ("x = 5 / $CurrentDedicatedNodes", "possible-zero", 7),
        ("z = $CurrentDedicatedNodes; x = 5 / z", "possible-zero", 35),
        ("x = sum($FailedTasks.GetSample(TimeInterval_Second * 10))", "bad-look-back", 32),
        ("x = sum($FailedTasks.GetSample(TimeInterval_Zero))", "bad-look-back", 32),
        ("x = sum($FailedTasks.GetSample(-5 * TimeInterval_Minute))", "bad-look-back", 32),
        ("m = TimeInterval_Minute; x = $FailedTasks.GetSamplePercent(m, m + TimeInterval_Second)", "bad-look-back", 60),
        ("x = $FailedTasks.GetSamplePercent(TimeInterval_Hour) < 0.7", "percent-scale", 56),
        ("p = $FailedTasks.GetSamplePercent(TimeInterval_Hour); x = 0.7 > p", "percent-scale", 59),
        ("x = avg(0, $FailedTasks.GetSample(TimeInterval_Hour)) < 1 < 2", "chained-comparison", 59),
        ("x = avg($FailedTasks.GetSample(TimeInterval_Hour))", "no-sample-guard", 9),
        ("s = $FailedTasks.GetSample(TimeInterval_Hour); x = avg(s)", "no-sample-guard", 5),
        ("x = val($FailedTasks.GetSample(9), 0)", "no-sample-guard", 9),
        ("x = max(0, $FailedTasks.GetSample(TimeInterval_Hour, 50))", "no-sample-guard", 12),
        ("x = 1; unused = 2", "unused-variable", 8),
        ("x = 1; stop(); y = x", "unreachable", 16),
        ("x = $ActiveTaskSlots", "extension", 5),
        ("x = $MemoryBytes", "retired", 5),
    ],
)
def test_findings_and_their_places(text: str, rule: str, column: int) -> None:
    found = [one for one in lint(with_tail(text), LintFacts(1)) if one.rule == rule]
    assert [(one.line, one.column) for one in found] == [(1, column)]
    assert found[0].message


@pytest.mark.parametrize(
    "text",
    [
        "y = 1; x = y",
        "x = requeue == terminate",
        "x = time('2024-05-01').hour",
        "z = 4; x = 1 / z",
        "x = 5 / $TaskSlotsPerNode",
        "x = 5 / max(1, $CurrentDedicatedNodes)",
        "z = max(1, $CurrentDedicatedNodes); x = 5 / z",
        "x = $CurrentDedicatedNodes > 0 ? 5 / $CurrentDedicatedNodes : 0",
        "x = $CurrentDedicatedNodes > 0 && 5 / $CurrentDedicatedNodes > 1",
        "z = $CurrentDedicatedNodes; x = z == 0 ? 0 : 5 / z",
        "x = max(0, $FailedTasks.GetSample(TimeInterval_Hour))",
        "x = sum($FailedTasks.GetSample(TimeInterval_Hour))",
        "x = $FailedTasks.Count() ? avg($FailedTasks.GetSample(TimeInterval_Hour)) : 0",
        "c = $FailedTasks.Count() > 3; x = c ? avg($FailedTasks.GetSample(TimeInterval_Hour)) : 0",
        "s = $FailedTasks.GetSample(TimeInterval_Hour); x = len(s) > 0 ? 1 : max(0, s)",
        "s = $FailedTasks.GetSample(TimeInterval_Hour); x = time().hour > 3 ? avg(s) : 0",
        "x = time().hour > 3 ? avg($FailedTasks.GetSample(TimeInterval_Hour, 50)) : 0",
        "x = $FailedTasks.GetSamplePercent(TimeInterval_Hour) < 70",
        "x = $FailedTasks.GetSamplePercent(TimeInterval_Hour) > 0",
        "h = TimeInterval_Hour; x = $FailedTasks.GetSamplePercent(h, h * 2)",
        "x = 1 < 2 == 1",
    ],
)
def test_what_is_left_in_peace(text: str) -> None:
    assert rules(with_tail(text)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x = 1", ["no-target", "unused-variable"]),
        ("$TargetDedicatedNodes = 4", ["constant-target"]),
        ("n = 4; $TargetDedicatedNodes = n; $TargetLowPriorityNodes = n * 2", ["constant-target"]),
        ("$TargetDedicatedNodes = time().hour", ["kills-running-work"]),
        ("$TargetDedicatedNodes = time().hour; $NodeDeallocationOption = requeue", ["kills-running-work"]),
        ("$TargetDedicatedNodes = time().hour; $NodeDeallocationOption = terminate", ["kills-running-work"]),
        ("$TargetDedicatedNodes = time().hour; $NodeDeallocationOption = retaineddata", []),
        (
            "$TargetDedicatedNodes = time().hour; $NodeDeallocationOption = time().hour > 8 ? taskcompletion : requeue",
            [],
        ),
        ("$TargetDedicatedNodes = $PendingTasks; $NodeDeallocationOption = taskcompletion", ["no-cap"]),
        ("n = $PendingTasks; $TargetDedicatedNodes = min(n, 5); $NodeDeallocationOption = taskcompletion", []),
        ("$TargetDedicatedNodes = min(5, $ActiveTasks)", ["kills-running-work", "queue-only"]),
        ("$TargetDedicatedNodes = min(5, $ActiveTasks + $RunningTasks)", ["kills-running-work"]),
        ("$TargetDedicated = 4; $TargetDedicatedNodes = 5", ["constant-target", "both-names"]),
        (
            "$TargetDedicatedNodes = min(5, max(0, $PendingTasks.GetSample(1))); $NodeDeallocationOption = taskcompletion",
            [],
        ),
    ],
)
def test_targets(text: str, found: list[str]) -> None:
    assert rules(text) == found


@pytest.mark.parametrize(
    ("facts", "count", "found"),
    [
        (LintFacts(1, False), "$PendingTasks", False),
        (LintFacts(1), "$PendingTasks", False),
        (LintFacts(), "$PendingTasks", True),
        (LintFacts(), "$PendingTasks / 4", False),
        (LintFacts(), "$PendingTasks + $TargetDedicatedNodes / 2", True),
        (LintFacts(4), "$PendingTasks", True),
        (LintFacts(4), "$PendingTasks / 4", True),
        (LintFacts(4), "$PendingTasks / $TaskSlotsPerNode", False),
        (LintFacts(4, True), "$PendingTasks / $TaskSlotsPerNode", True),
        (LintFacts(4, True), "$PendingTaskSlots / $TaskSlotsPerNode", False),
        (LintFacts(4, True), "$UsableNodeCount", False),
    ],
)
def test_slots(facts: LintFacts, count: str, found: bool) -> None:
    text = f"$TargetDedicatedNodes = min(5, {count}); $NodeDeallocationOption = taskcompletion"
    assert ("slots-ignored" in rules(text, facts)) is found


def test_hints_for_names() -> None:
    (found,) = [one for one in lint(with_tail("$n = 1; x = n + $n")) if one.rule == "unknown-variable"]
    assert found.hint == "$n is assigned: the names with and without '$' are two variables."
    (found,) = [one for one in lint(with_tail("x = $PendingTask")) if one.rule == "unknown-variable"]
    assert found.hint == "Is $PendingTasks meant?"
    (found,) = [one for one in lint(with_tail("x = PendingTasks")) if one.rule == "unknown-variable"]
    assert found.hint == "Is $PendingTasks meant?"


def test_findings_come_in_the_order_of_the_text() -> None:
    places = [(one.line, one.column) for one in lint(published.SHIPYARD)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("pending", {"slots-ignored"}),
        ("monday", {"kills-running-work"}),
        ("cpu", {"kills-running-work", "no-sample-guard", "retired"}),
        ("tasks", {"slots-ignored", "one-sample"}),
        ("four_slots", {"kills-running-work", "queue-only", "one-sample"}),
        ("tes_validator", set()),
        ("powershell", {"percent-scale", "kills-running-work", "retired"}),
    ],
)
def test_published_formulas(name: str, found: set[str]) -> None:
    assert {one.rule for one in lint(published.ALL[name])} == found
