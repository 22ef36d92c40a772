"""The benchmark suite works: parts of it measured at their smallest, the page made of what came out, the check's rules."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import check, page, report
from bench.__main__ import main
from bench.figures import Figure, Outcome, figure
from bench.machine import ENVIRONMENT
from bench.registry import WORKLOADS
from bench.workload import AnyWorkload, Scale, Sizes, Workload

PARTS = ("commands", "adds", "million", "nodes")
"""Together they go through all the suite is made of; the others are more of the same."""


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_parts_are_measured_and_make_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "bench.json"
    only = [argument for part in PARTS for argument in ("--only", part)]
    bench("--tiny", "--peers", "xargs,xargs-sh", "--out", str(tmp_path), "--json", str(results), *only)

    measured = report.read(results)
    assert measured.parts.keys() == set(PARTS)
    for part in measured.parts.values():
        assert part.outcome.figures
        assert all(each.samples for each in part.outcome.figures)
    names = {each.name for each in measured.parts["commands"].outcome.figures}
    assert {"no-op: Millpond to xargs", "no-op: Millpond to xargs-sh", "no-op: of the limit"} <= names
    # Who is said to make what a task has makes it, and nobody else does.
    assert {len(list(tmp_path.rglob(f"xargs-sh-*/*/*/{made}"))) for made in ("wd", "stdout.txt", "stderr.txt")} == {70}
    assert not list(tmp_path.rglob("xargs-[0-9]*/*/*"))
    assert "Peers: xargs" in measured.parts["commands"].outcome.notes[0]

    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "IMAGES", tmp_path)
    whole = {name: msgspec.structs.replace(part, scale=Scale.FULL) for name, part in measured.parts.items()}
    missing = page.write(report.Report(parts=whole, machine=measured.machine), WORKLOADS)
    assert set(missing) == {workload.name for workload in WORKLOADS} - set(PARTS)
    text = page.PAGE.read_text()
    assert "| commands | no-op: of the limit |" in text
    assert (tmp_path / "bench-commands-1.svg").read_text().startswith("<?xml")


def test_the_page_is_of_whole_measurements_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    part = report.Part(name="adds", scale=Scale.QUICK, outcome=_outcome(1.0), at="", commit="", seconds=1.0, load=0.0)
    page.write(report.Report(parts={"adds": part}), WORKLOADS)
    assert "## Adds" not in page.PAGE.read_text()


def test_a_part_measured_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    for name, value in (("one", 1.0), ("two", 2.0), ("one", 3.0)):
        part = report.Part(
            name=name, scale=Scale.TINY, outcome=_outcome(value), at="", commit="", seconds=1.0, load=0.0
        )
        report.put(path, part)
    parts = report.read(path).parts
    assert {name: part.outcome.figures[0].value for name, part in parts.items()} == {"one": 3.0, "two": 2.0}


def test_a_file_that_cannot_be_added_to_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"machine": {"processors": 2}}')
    assert main(["--only", "adds", "--tiny", "--json", str(path), "--out", str(tmp_path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_every_part_can_be_listed() -> None:
    listed = [line.split()[0] for line in bench("--list").splitlines()]
    assert listed == [workload.name for workload in WORKLOADS]
    assert len(set(listed)) == len(listed)


def test_the_stored_ratios_are_of_parts_there_are() -> None:
    checked = {workload.name for workload in WORKLOADS if workload.is_checked}
    baseline = check.read()
    assert baseline.keys() == checked
    assert all(baseline.values())


def _outcome(*values: float, less_is_better: bool = False) -> Outcome:
    figures: list[Figure] = [
        figure(f"gate {number}", "%", value, is_gate=True, less_is_better=less_is_better)
        for number, value in enumerate(values)
    ]
    return Outcome(figures=(*figures, figure("no gate", "s", 1.0)))


async def _compare(stored: Outcome, *measured: Outcome) -> tuple[list[str], int]:
    """What is worse, and how often it was measured."""
    left = list(measured)

    async def measure(workload: AnyWorkload) -> Outcome:
        return left.pop(0)

    async def run(site: object, sizes: object) -> Outcome:
        raise AssertionError

    workload = Workload("part", "", "", run, Sizes(full=0, quick=0, tiny=0), is_checked=True)
    worse = await check.compare([workload], {"part": check.gates(stored)}, measure)
    return worse, len(measured) - len(left)


async def test_a_small_loss_passes_at_the_first_look() -> None:
    assert await _compare(_outcome(100.0, 50.0), _outcome(81.0, 60.0)) == ([], 1)


async def test_a_loss_that_is_gone_at_the_second_look_passes() -> None:
    assert await _compare(_outcome(100.0, 50.0), _outcome(70.0, 50.0), _outcome(95.0, 20.0)) == ([], 2)


async def test_a_loss_that_stays_fails() -> None:
    worse, looks = await _compare(_outcome(100.0, 50.0), _outcome(70.0, 50.0), _outcome(75.0, 50.0))
    assert looks == 2
    assert len(worse) == 1
    assert "gate 0: 75" in worse[0]


async def test_where_less_is_better_more_is_a_loss() -> None:
    stored = _outcome(2.0, less_is_better=True)
    assert await _compare(stored, _outcome(1.0, less_is_better=True)) == ([], 1)
    worse, _ = await _compare(stored, *[_outcome(3.0, less_is_better=True)] * 2)
    assert worse


async def test_a_ratio_that_is_not_measured_any_more_fails() -> None:
    worse, _ = await _compare(_outcome(1.0, 1.0), _outcome(1.0), _outcome(1.0))
    assert len(worse) == 1
    assert "not measured" in worse[0]
