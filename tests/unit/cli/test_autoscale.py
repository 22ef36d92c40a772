"""`millpond autoscale`, as far as it needs no running service."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from millpond.cli.main import main

GOOD = (
    "n = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 5) < 50 ? 1 : "
    "avg($PendingTasks.GetSample(TimeInterval_Minute * 5));\n"
    "$TargetDedicatedNodes = min(5, n);\n$NodeDeallocationOption = taskcompletion;\n"
)
LOAD = "arrival,duration\n0,600\n0,600\n4000,60\n"


def invoke(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, ["autoscale", *arguments], prog_name="millpond", input=text)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.txt").write_text(GOOD)
    (tmp_path / "one.txt").write_text("$TargetDedicatedNodes = 1;")
    (tmp_path / "bad.txt").write_text("$TargetDedicatedNodes = ;\n")
    (tmp_path / "load.csv").write_text(LOAD)
    return tmp_path


def test_check_prints_places_and_hints_and_fails_on_errors(here: Path) -> None:
    result = invoke("check", "good.txt", "--slots-per-node", "1")
    assert result.exit_code == 0
    result = invoke("check", "good.txt", "bad.txt")
    assert result.exit_code == 1
    assert "bad.txt:1:25: error: " in result.output
    assert "[syntax]" in result.output
    result = invoke("check", "-", text="$TargetDedicatedNodes = $ActiveTasks;")
    assert result.exit_code == 0
    assert "-:1:" in result.output
    assert invoke("check", "--strict", "-", text="$TargetDedicatedNodes = $ActiveTasks;").exit_code == 1
    found = json.loads(invoke("check", "--json", "bad.txt").stdout)
    assert [(one["formula"], one["rule"], one["line"], one["column"]) for one in found] == [
        ("bad.txt", "syntax", 1, 25)
    ]


def test_explain_on_samples(here: Path) -> None:
    (here / "s.csv").write_text("time,$PendingTasks\n2026-01-05T08:00:00Z,4\n2026-01-05T08:00:30Z,6\n")
    result = invoke("explain", "good.txt", "--samples", "s.csv", "--dedicated", "2")
    assert result.exit_code == 0, result.output
    assert "target dedicated nodes: 1 (before: 2)" in result.output
    earlier = invoke("explain", "good.txt", "--samples", "s.csv", "--at", "2026-01-05T07:00:00Z")
    assert "0 of 10" in earlier.output
    for arguments, code, message in (
        (("good.txt",), 2, "give either --samples FILE or --pool POOL"),
        (("good.txt", "--samples", "gone.csv"), 1, "gone.csv: No such file"),
        (("bad.txt", "--samples", "s.csv"), 1, "Line 1, Col 25"),
        (("good.txt", "--samples", "s.csv", "--at", "noon"), 2, "'noon' is no time"),
    ):
        result = invoke("explain", *arguments)
        assert result.exit_code == code
        assert message in result.output
        assert "Traceback" not in result.output


def test_backtest_compares_and_draws(here: Path) -> None:
    result = invoke("backtest", "good.txt", "one.txt", "--load", "load.csv", "--boot", "1m", "--plot", "p.svg")
    assert result.exit_code == 0, result.output
    assert "load.csv: 3 tasks, 0.3 slot hours of work" in result.output
    heading = next(line for line in result.output.splitlines() if "good" in line)
    assert heading.split() == ["good", "one"]
    assert (here / "p.svg").read_text().startswith("<?xml")
    reports = json.loads(invoke("backtest", "one.txt", "--load", "load.csv", "--json").stdout)
    assert [(one["formula"], one["done"]) for one in reports] == [("one", 3)]
    assert reports[0]["series"][0] == {"at": 0.0, "target": 1, "nodes": 0, "active": 2, "running": 0}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--load", "gone.csv"), 1, "gone.csv: No such file"),
        (("--load", "weekend"), 1, "'weekend' is no kind of load"),
        (("--load", "load.csv", "--boot", "soon"), 2, "'soon' is no length of time"),
        (("--load", "load.csv", "--evict", "half"), 2, "'half' is no eviction"),
        (("--load", "load.csv", "--vm-size", "huge"), 1, "no VM size 'huge'"),
        (("--load", "load.csv", "--interval", "0"), 1, "interval_s is 0"),
        (("--load", "load.csv", "--plot", "p.gif"), 1, "ends in .png"),
        (("--load", "poisson:slots=2,days=0.1"), 1, "tasks of 2 slots, and nodes have 1"),
        (("gone.txt", "--load", "load.csv"), 1, "gone.txt: No such file"),
        (("bad.txt", "--load", "load.csv"), 1, "Line 1, Col 25"),
    ],
)
def test_what_makes_no_sense_is_one_line(here: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = invoke("backtest", "one.txt", *arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_suggest_prints_a_formula_that_can_be_used(here: Path) -> None:
    load = ("--load", "poisson:days=0.5")
    result = invoke("suggest", *load, "--wait", "20m", "--tries", "5", "--plot", "p.png")
    assert result.exit_code == 0, result.output
    formula, _, figures = result.output.partition("\n\n")
    assert "wait, 95%" in figures
    (here / "found.txt").write_text(formula)
    assert invoke("check", "found.txt").exit_code == 0
    assert (here / "p.png").exists()
    result = invoke("suggest", *load, "--wait", "1s", "--tries", "2")
    assert result.exit_code == 1
    assert "none of the 2 formulas tried" in result.output
