"""Every snippet of the how-to pages runs as it stands, one after the other in one directory."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.commands import REPOSITORY, read_aloud, reader

SNIPPET = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)
def test_application_packages(service: Any, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/how-to/application-packages.md").read_text(encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    said = read_aloud(*SNIPPET.findall(text), environment=reader(tmp_path, service.data_dir), cwd=work)
    assert "*1.0" in said
    assert "Hello from version 1.0" in said
    assert "('3.0-rc', <PackageState.ACTIVE: 'Active'>)" in said
