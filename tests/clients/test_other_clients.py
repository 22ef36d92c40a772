"""Clients of other generations and languages, unmodified and pinned, each in an environment of its own.

Each program asserts what it sees and prints the steps it has done.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.environments import (
    EnvironmentMissing,
    node_environment,
    output_of,
    python_environment,
)
from tests.clients.how_to import snippet
from tests.conftest import MillpondProcess

PROGRAMS = Path(__file__).parent / "programs"

pytestmark = pytest.mark.timeout(1200)

Require = Callable[[str, str], None]


def run(service: MillpondProcess, *command: str, directory: Path | None = None) -> list[str]:
    """The steps a program has done."""
    return output_of(service, *command, directory=directory).split()


def test_azure_batch_14(service: MillpondProcess, require_component: Require) -> None:
    try:
        python = python_environment("azure-batch-14", "azure-batch==14.2.0")
    except EnvironmentMissing as error:
        require_component("azure-batch 14.2", str(error))
        raise
    steps = run(service, str(python), str(PROGRAMS / "batch_14.py"))
    assert steps == ["images", "pool", "tasks", "files", "jobs", "schedules", "autoscale", "nodes", "end"]
    shown = run(service, str(python), "-c", snippet("Python, azure-batch 14 and before", "python"))
    assert "'batch.node.ubuntu" in shown


def test_javascript(service: MillpondProcess, require_component: Require) -> None:
    try:
        directory = node_environment("azure-batch-js", "@azure/batch@10.2.0")
    except EnvironmentMissing as error:
        require_component("@azure/batch", str(error))
        raise
    # A program finds its packages beside itself.
    program = directory / "batch.mjs"
    program.write_bytes((PROGRAMS / "batch.mjs").read_bytes())
    assert run(service, "node", str(program), directory=directory) == ["images", "pool", "tasks", "files", "end"]
    program.write_text(snippet("JavaScript", "javascript"))
    assert "'batch.node.ubuntu" in run(service, "node", str(program), directory=directory)


def test_a_heavy_environment_is_not_made_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.clients.environments.CACHE", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(EnvironmentMissing, match="heavy client: runs with CI=true"):
        python_environment("heavy", "no-such-package==1", heavy=True)
    # Its lock has its name: as if another run had made it.
    (lock,) = tmp_path.glob("heavy-*.lock")
    made = tmp_path / lock.stem
    made.mkdir()
    (made / ".ready").touch()
    assert python_environment("heavy", "no-such-package==1", heavy=True) == made / "bin" / "python"
