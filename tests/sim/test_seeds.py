"""A few seeds of the whole cluster under faults, those that once failed, and that a run repeats itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from millpond.sim.cluster import Cluster

_REGRESSIONS = Path(__file__).with_name("regressions.txt")
_SOURCE = Path(__file__).resolve().parents[2] / "src"


def _regressions() -> list[int]:
    lines = _REGRESSIONS.read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("seed", range(1, 16))
def test_no_invariant_breaks(seed: int) -> None:
    result = Cluster(seed).run()
    assert not result.violation, f"seed {seed}: {result.violation}\n{result.story}"
    assert result.checks > 10


def test_seeds_that_once_failed() -> None:
    for seed in _regressions():
        result = Cluster(seed).run()
        assert not result.violation, f"seed {seed}: {result.violation}\n{result.story}"


def test_some_seeds_run_many_tasks_through_many_faults() -> None:
    results = [Cluster(seed, minutes=4.0).run() for seed in range(1, 9)]
    assert sum(result.tasks for result in results) > 100
    assert sum(sum(result.faults.values()) for result in results) > 50


def test_a_seed_repeats_itself() -> None:
    first, second = Cluster(3, minutes=4.0).run(), Cluster(3, minutes=4.0).run()
    assert (first.hash, first.steps, first.events) == (second.hash, second.steps, second.events)
    assert Cluster(4, minutes=4.0).run().hash != first.hash


def test_a_seed_repeats_itself_in_another_process() -> None:
    """Nothing may hang on the order of a set of strings, which differs from process to process."""
    code = "from millpond.sim.cluster import Cluster; print(Cluster(3, minutes=4.0).run().hash)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(_SOURCE), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(hashes) == 1
