"""The program of docs/how-to/task-arrays.md runs as it stands."""

import os
import re
import subprocess
import sys
from typing import Any

from tests.process.test_up import REPOSITORY, client_of, m

PAGE = REPOSITORY / "docs" / "how-to" / "task-arrays.md"
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_how_to_runs(service: Any) -> None:
    with client_of(service) as client:
        client.create_job(m.BatchJobCreateOptions(id="film", pool_info=m.BatchPoolInfo(pool_id="later")))
        (program,) = PROGRAM.findall(PAGE.read_text(encoding="utf-8"))
        environment = {**os.environ, **service.client_environment()}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["1000", "sweep-0", "sweep-999", "1000"]
        assert client.get_task("film", "sweep-1").command_line == "/bin/sh -c 'echo frame 0001 at 20 percent'"
        retries = [client.get_task("film", f"sweep-{index}").constraints.max_task_retry_count for index in (997, 998)]
        assert retries == [0, 3]
