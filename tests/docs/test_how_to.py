"""Every snippet of the how-to pages runs as it stands, one after the other in one directory."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SNIPPET = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)
def test_application_packages(service: Any, tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/how-to/application-packages.md").read_text(encoding="utf-8")
    commands = {"millpond": f'exec "{sys.executable}" -m millpond "$@"', "python3": f'exec "{sys.executable}" "$@"'}
    (tmp_path / "bin").mkdir()
    for name, line in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "src"),
        "MILLPOND_DATA_DIR": str(service.data_dir),
    }
    # In one shell, as a reader's: what one snippet exports the next one uses.
    script = "\n".join(SNIPPET.findall(text))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "*1.0" in done.stdout
    assert "Hello from version 1.0" in done.stdout
    assert "('3.0-rc', <PackageState.ACTIVE: 'Active'>)" in done.stdout
