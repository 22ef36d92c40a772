"""`millpond explain`: what it prints, and that the service believes its signature."""

import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from millpond.api.auth import AccountKeys, SharedKeyAuth
from millpond.cli.client import Client
from millpond.cli.main import main
from tests.unit.cli.test_commands import known_service

ANSWER: dict[str, Any] = {
    "subject": {"kind": "task", "jobId": "render", "id": "18"},
    "state": "active",
    "stateTransitionTime": "2026-01-01T00:00:00Z",
    "summary": "The task will not run unless someone acts.",
    "never": True,
    "causes": [
        {
            "code": "dependencyPending",
            "message": "it waits for task '17', which waits itself",
            "never": True,
            "references": [{"kind": "task", "jobId": "render", "id": "17"}],
            "causes": [
                {
                    "code": "tooManySlots",
                    "message": "it needs 4 slots, and the pool's nodes have 2",
                    "never": True,
                    "since": "2026-01-01T00:00:00Z",
                    "unblock": "a bigger pool",
                    "references": [{"kind": "pool", "id": "p"}],
                }
            ],
        }
    ],
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []

    def get(_: Client, *segments: str) -> dict[str, Any]:
        calls.append(segments)
        return ANSWER

    monkeypatch.setattr(Client, "get", get)
    return calls


def test_the_chain_is_printed_as_a_list(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    known_service(tmp_path / "data")
    result = CliRunner().invoke(main, ["explain", "task", "--data-dir", str(tmp_path / "data"), "render", "18"])
    assert result.output.splitlines() == [
        "task render/18: active since 2026-01-01T00:00:00Z",
        "The task will not run unless someone acts.",
        "! it waits for task '17', which waits itself  [dependencyPending]",
        "    about: task render/17",
        "    ! it needs 4 slots, and the pool's nodes have 2 (since 2026-01-01T00:00:00Z)  [tooManySlots]",
        "        ends when: a bigger pool",
        "        about: pool p",
    ]
    assert asked == [("jobs", "render", "tasks", "18", "explain")]


@pytest.mark.parametrize(
    ("arguments", "segments"),
    [
        (("job", "render"), ("jobs", "render")),
        (("pool", "p"), ("pools", "p")),
        (("node", "p", "tvmps_1_d"), ("pools", "p", "nodes", "tvmps_1_d")),
    ],
)
def test_every_subject_has_its_path_and_json(
    tmp_path: Path, asked: list[tuple[str, ...]], arguments: tuple[str, ...], segments: tuple[str, ...]
) -> None:
    known_service(tmp_path / "data")
    subject, *names = arguments
    command = ["explain", subject, "--json", "--data-dir", str(tmp_path / "data"), *names]
    assert json.loads(CliRunner().invoke(main, command).output) == ANSWER
    assert asked == [(*segments, "explain")]


def test_the_service_believes_the_signature(tmp_path: Path) -> None:
    keys = known_service(tmp_path / "data").account_keys()
    client = Client(None, str(tmp_path / "data"))
    auth = SharedKeyAuth(AccountKeys.from_base64("lab", keys.primary, keys.secondary), time.time)
    date = formatdate(usegmt=True)
    path = "/jobs/sched%3Ajob-1/explain"
    headers = {b"ocp-date": date.encode(), b"authorization": client.authorization("GET", path, date).encode()}
    auth.check("GET", path.encode(), headers, [(b"api-version", b"2025-06-01")])


def test_a_service_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    known_service(tmp_path / "data")
    result = CliRunner().invoke(main, ["explain", "pool", "--data-dir", str(tmp_path / "data"), "p"])
    assert result.exit_code == 1
    assert result.output.startswith("millpond: the service at http://127.0.0.1:1 does not answer")
