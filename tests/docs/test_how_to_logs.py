"""The commands of docs/how-to/logs.md run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.process.test_up import REPOSITORY, client_of, m, make_pool
from tests.waiting import until

PAGE = REPOSITORY / "docs" / "how-to" / "logs.md"
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_how_to_runs(service: Any, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "millpond").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m millpond "$@"\n')
    (commands / "millpond").chmod(0o755)
    environment = {
        **os.environ,
        **service.client_environment(),
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "src"),
        "MILLPOND_DATA_DIR": str(service.data_dir),
    }

    def completed(task_id: str) -> None:
        until(lambda: client.get_task("render", task_id).state, lambda state: state == m.BatchTaskState.COMPLETED)

    with client_of(service) as client:
        make_pool(client, 1, with_job=False)
        client.create_job(m.BatchJobCreateOptions(id="render", pool_info=m.BatchPoolInfo(pool_id="p")))
        command = "/bin/sh -c 'echo out; echo err >&2; echo report > report.log'"
        client.create_task("render", m.BatchTaskCreateOptions(id="frame-1", command_line=command))
        completed("frame-1")
        outputs = []
        for language, text in SNIPPET.findall(PAGE.read_text(encoding="utf-8")):
            shell = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
            done = subprocess.run(shell, env=environment, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr
            outputs.append(done.stdout)
        assert outputs[0].split() == ["out", "err", "report", "out", "out"]
        completed("keeps")
        client.begin_delete_pool("p", polling_interval=0.1).result()
        until(lambda: list(client.list_pools()), lambda pools: not pools)
        assert b"".join(client.download_task_file("render", "keeps", "wd/report.log")) == b"done\n"
