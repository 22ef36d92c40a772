"""The snippets of docs/how-to/sign-in.md run as they stand, one after the other in one shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ServiceFactory

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "how-to" / "sign-in.md"
SNIPPET = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_on_signing_in_runs(new_service: ServiceFactory, tmp_path: Path) -> None:
    service = new_service("data", "--tls", "--development-issuer").start()
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, line in {"millpond": "-m millpond ", "python3": ""}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {line}"$@"\n')
        (commands / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(SNIPPET.findall(PAGE.read_text(encoding="utf-8")))],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY / "src"),
            "MILLPOND_DATA_DIR": str(service.data_dir),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    as_reader, told, as_submitter, made, jobs = done.stdout.splitlines()
    assert (as_reader, as_submitter) == ("[]", "[]")
    assert "create_job needs the role submitter" in told
    assert made == "made a job"
    assert jobs == "['mine']"
