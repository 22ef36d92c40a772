"""The program of docs/how-to/task-arrays.md runs as it stands."""

import re
from pathlib import Path
from typing import Any

from tests.commands import REPOSITORY, plain_environment, read_aloud
from tests.process.test_up import client_of, m

PAGE = REPOSITORY / "docs" / "how-to" / "task-arrays.md"
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_how_to_runs(service: Any, tmp_path: Path) -> None:
    with client_of(service) as client:
        client.create_job(m.BatchJobCreateOptions(id="film", pool_info=m.BatchPoolInfo(pool_id="later")))
        (program,) = PROGRAM.findall(PAGE.read_text(encoding="utf-8"))
        environment = plain_environment() | service.client_environment()
        said = read_aloud(program, environment=environment, cwd=tmp_path, language="python")
        assert said.split() == ["1000", "sweep-0", "sweep-999", "1000"]
        assert client.get_task("film", "sweep-1").command_line == "/bin/sh -c 'echo frame 0001 at 20 percent'"
        retries = [client.get_task("film", f"sweep-{index}").constraints.max_task_retry_count for index in (997, 998)]
        assert retries == [0, 3]
