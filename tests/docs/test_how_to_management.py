"""Every snippet of docs/how-to/management.md runs as it stands; those with az where az is there, or CI=true."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.environments import EnvironmentMissing, python_environment
from tests.conftest import REPOSITORY, MillpondProcess

_PAGE = REPOSITORY / "docs" / "how-to" / "management.md"
_SNIPPET = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_AZ = ("azure-cli", "azure-cli==2.91.0")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MillpondProcess]:
    running = MillpondProcess(tmp_path / "data", "--tls", "--development-issuer")
    try:
        yield running.start()
    finally:
        running.stop()


def _run(service: MillpondProcess, directory: Path, snippets: list[str], az: Path | None) -> str:
    commands = {"millpond": f'exec "{sys.executable}" -m millpond "$@"', "python3": f'exec "{sys.executable}" "$@"'}
    if az is not None:
        # Its own libraries, not ours.
        commands["az"] = f'unset PYTHONPATH\nexec "{az}" -m azure.cli "$@"'
    (directory / "bin").mkdir()
    for name, line in commands.items():
        (directory / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (directory / "bin" / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AZURE_")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(snippets)],
        cwd=directory,
        env={
            **kept,
            "PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY / "src"),
            "MILLPOND_DATA_DIR": str(service.data_dir),
            "AZURE_CONFIG_DIR": str(directory / "azure"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _snippets(*, with_az: bool) -> list[str]:
    found = _SNIPPET.findall(_PAGE.read_text(encoding="utf-8"))
    return [text for text in found if bool(re.search(r"^az ", text, re.MULTILINE)) is with_az]


@pytest.mark.timeout(300)
def test_management_with_python(service: MillpondProcess, tmp_path: Path) -> None:
    said = _run(service, tmp_path, _snippets(with_az=False), None).splitlines()
    assert said[:2] == ["{'team': 'render'}", "made managed"]
    assert said[-2:] == [f"{service.endpoint}/accounts/films", "deleted films"]


@pytest.mark.timeout(1200)
def test_management_with_az(
    service: MillpondProcess, tmp_path: Path, require_component: Callable[[str, str], None]
) -> None:
    try:
        az = python_environment(*_AZ, heavy=True)
    except EnvironmentMissing as error:
        require_component("azure-cli", str(error))
        raise
    before = (service.data_dir / "keys.json").read_text()
    said = _run(service, tmp_path, _snippets(with_az=True), az)
    assert '"provisioningState": "Succeeded"' in said
    assert (service.data_dir / "keys.json").read_text() != before
