"""Every snippet of docs/how-to/management.md runs as it stands; those with az where az is there, or CI=true."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.environments import EnvironmentMissing, python_environment
from tests.commands import REPOSITORY, read_aloud, reader
from tests.conftest import MillpondProcess

_PAGE = REPOSITORY / "docs" / "how-to" / "management.md"
_SNIPPET = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_AZ = ("azure-cli", "azure-cli==2.91.0")


def _run(service: MillpondProcess, directory: Path, snippets: list[str], az: Path | None) -> str:
    environment = reader(directory, service.data_dir) | {"AZURE_CONFIG_DIR": str(directory / "azure")}
    if az is not None:
        # Its own libraries, not ours.
        (directory / "bin/az").write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec "{az}" -m azure.cli "$@"\n')
        (directory / "bin/az").chmod(0o755)
    return read_aloud(*snippets, environment=environment, cwd=directory, limit_s=250.0)


def _snippets(*, with_az: bool) -> list[str]:
    found = _SNIPPET.findall(_PAGE.read_text(encoding="utf-8"))
    return [text for text in found if bool(re.search(r"^az ", text, re.MULTILINE)) is with_az]


@pytest.mark.timeout(300)
def test_management_with_python(secured: MillpondProcess, tmp_path: Path) -> None:
    said = _run(secured, tmp_path, _snippets(with_az=False), None).splitlines()
    assert said[:2] == ["{'team': 'render'}", "made managed"]
    assert said[-2:] == [f"{secured.endpoint}/accounts/films", "deleted films"]


@pytest.mark.timeout(1200)
def test_management_with_az(
    secured: MillpondProcess, tmp_path: Path, require_component: Callable[[str, str], None]
) -> None:
    try:
        az = python_environment(*_AZ, heavy=True)
    except EnvironmentMissing as error:
        require_component("azure-cli", str(error))
        raise
    before = (secured.data_dir / "keys.json").read_text()
    said = _run(secured, tmp_path, _snippets(with_az=True), az)
    assert '"provisioningState": "Succeeded"' in said
    assert (secured.data_dir / "keys.json").read_text() != before
