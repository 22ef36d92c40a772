"""The Python of the README runs as it stands, against a service."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_python_of_the_readme_runs(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for name, value in service.client_environment().items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    exec(code, names)
    with names["client"] as client:
        until(lambda: client.get_task("job", "hello").state, lambda state: state == "completed")
        assert b"".join(client.download_task_file("job", "hello", "stdout.txt")) == b"hello\n"
