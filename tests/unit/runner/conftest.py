"""The runner with its surroundings, for the tests that do not make their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.runner.test_task_runner import Bench


@pytest.fixture(params=["run", "begin"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """Both ways of an attempt through the runner; which of them is not to be seen from outside."""
    bench = Bench(tmp_path / "root", monkeypatch)
    bench.begins = request.param == "begin"
    yield bench
    for runner in bench.runners:
        await runner.close()
