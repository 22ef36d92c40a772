"""`millpond node`: what it asks for, what it prints, and that the service believes its signatures."""

import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from millpond.api.auth import AccountKeys, SharedKeyAuth
from millpond.cli.client import Client
from millpond.cli.main import main
from tests.unit.cli.test_commands import known_service

NODES = [
    {"id": "tvmps_1_d", "state": "running", "schedulingState": "enabled", "runningTasksCount": 2, "isDedicated": True},
    {
        "id": "tvmps_22_p",
        "state": "preempted",
        "schedulingState": "enabled",
        "runningTasksCount": 0,
        "isDedicated": False,
    },
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def call(
        _: Client, method: str, path: str, query: dict[str, str] | None = None, body: bytes | None = None
    ) -> dict[str, Any]:
        calls.append((method, path, query or {}, body))
        if method == "POST":
            return {}
        if not query:
            return {"value": NODES[:1], "odata.nextLink": "http://x/pools/p/nodes?$skiptoken=1%20a&api-version=v"}
        return {"value": NODES[1:]}

    monkeypatch.setattr(Client, "_call", call)
    return calls


def invoke(tmp_path: Path, *arguments: str) -> Result:
    if not (tmp_path / "data").exists():
        known_service(tmp_path / "data")
    return CliRunner().invoke(main, ["node", *arguments, "--data-dir", str(tmp_path / "data")])


def test_show(calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"id": "n", "properties": [{"name": "isolation", "value": "none"}, {"name": "why", "value": "no root"}]}

    def call(_: Client, method: str, path: str) -> dict[str, Any]:
        calls.append((method, path))
        return answer

    monkeypatch.setattr(Client, "_call", call)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert invoke(tmp_path / "a", "show", "p", "n").output == "isolation: none\nwhy: no root\n"
    assert json.loads(invoke(tmp_path / "b", "show", "p", "n", "--json").output) == answer
    assert calls == [("GET", "/pools/p/nodes/n/properties")] * 2


def test_list(calls: list[Any], tmp_path: Path) -> None:
    result = invoke(tmp_path, "list", "my pool")
    assert result.output == (
        "NODE        STATE      SCHEDULING  TASKS  KIND\n"
        "tvmps_1_d   running    enabled     2      dedicated\n"
        "tvmps_22_p  preempted  enabled     0      spot\n"
    )
    assert [(path, query.get("$skiptoken")) for _, path, query, _ in calls] == [
        ("/pools/my%20pool/nodes", None),
        ("/pools/my%20pool/nodes", "1 a"),
    ]


def test_list_as_json(calls: list[Any], tmp_path: Path) -> None:
    assert json.loads(invoke(tmp_path, "list", "p", "--json").output) == NODES


@pytest.mark.parametrize(
    ("arguments", "verb", "body"),
    [
        (["reboot"], "reboot", b""),
        (["reboot", "--tasks", "taskcompletion"], "reboot", b'{"nodeRebootOption": "taskcompletion"}'),
        (["reimage", "--tasks", "terminate"], "reimage", b'{"nodeReimageOption": "terminate"}'),
        (["deallocate", "--tasks", "retaineddata"], "deallocate", b'{"nodeDeallocateOption": "retaineddata"}'),
        (["start"], "start", b""),
        (["disable", "--tasks", "requeue"], "disablescheduling", b'{"nodeDisableSchedulingOption": "requeue"}'),
        (["enable"], "enablescheduling", b""),
        (["preempt"], "preempt", b""),
    ],
)
def test_operations(calls: list[Any], tmp_path: Path, arguments: list[str], verb: str, body: bytes) -> None:
    result = invoke(tmp_path, *arguments, "p", "tvmps_1_d")
    assert (result.exit_code, result.output) == (0, "")
    assert calls == [("POST", f"/pools/p/nodes/tvmps_1_d/{verb}", {}, body)]


def test_disabling_retains_nothing(tmp_path: Path) -> None:
    assert invoke(tmp_path, "disable", "--tasks", "retaineddata", "p", "n").exit_code == 2


def test_no_service(tmp_path: Path) -> None:
    result = invoke(tmp_path, "preempt", "p", "n")
    assert result.exit_code == 1
    assert "does not answer" in result.output


@pytest.mark.parametrize("body", [None, b"", b'{"a": 1}'])
def test_the_service_believes_the_signature(tmp_path: Path, body: bytes | None) -> None:
    directory = known_service(tmp_path / "data")
    client = Client(None, str(directory.path))
    date = formatdate(usegmt=True)
    query = {"api-version": "2025-06-01", "$skiptoken": "a b/c=="}
    method = "GET" if body is None else "POST"
    path = "/pools/p%20q/nodes"
    headers = {
        b"authorization": client.authorization(method, path, date, query=query, body=body).encode(),
        b"ocp-date": date.encode(),
    }
    if body is not None:
        headers[b"content-type"] = b"application/json; odata=minimalmetadata"
        headers[b"content-length"] = str(len(body)).encode()
    keys = directory.account_keys()
    auth = SharedKeyAuth(AccountKeys.from_base64("lab", keys.primary, keys.secondary), time.time)
    auth.check(method, path.encode(), headers, [(name.encode(), value.encode()) for name, value in query.items()])
