"""The runner with its surroundings, for the tests that do not make their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.runner.test_task_runner import Bench


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "root", monkeypatch)
    yield bench
    for runner in bench.runners:
        await runner.close()
