"""The commands of docs/how-to/logs.md run as they stand."""

import re
from pathlib import Path
from typing import Any

from tests.commands import REPOSITORY, read_aloud, reader
from tests.process.test_up import client_of, m, make_pool
from tests.waiting import until

PAGE = REPOSITORY / "docs" / "how-to" / "logs.md"
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_how_to_runs(service: Any, tmp_path: Path) -> None:
    environment = reader(tmp_path, service.data_dir) | service.client_environment()

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
            outputs.append(read_aloud(text, environment=environment, cwd=tmp_path, language=language))
        assert outputs[0].split() == ["out", "err", "report", "out", "out"]
        completed("keeps")
        client.begin_delete_pool("p", polling_interval=0.1).result()
        until(lambda: list(client.list_pools()), lambda pools: not pools)
        assert b"".join(client.download_task_file("render", "keeps", "wd/report.log")) == b"done\n"
