"""A short soak: `make soak` is the long one."""

from pathlib import Path
from typing import Any

import pytest

from tests.machine import free_port
from tests.process import soak


@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_done_twice_while_all_is_killed(new_service: Any, tmp_path: Path) -> None:
    service = new_service("data", "--port", str(free_port())).start()
    told: list[str] = []
    totals = soak.soak(service, tmp_path, seed=1, tasks=1500, seconds=0.0, pause_s=1.5, say=told.append)
    assert totals["tasks"] == 1500
    assert totals["retries"] > 0
    assert totals["services killed"] + totals["hosts killed"] >= 2, told
