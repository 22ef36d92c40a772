"""`millpond app`: what it asks for and prints."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from millpond.cli.main import main
from millpond.cli.management import ManagementClient
from tests.unit.cli.test_commands import known_service

LISTS: dict[tuple[str, ...], Any] = {
    ("applications",): [
        {"name": "blender", "properties": {"allowUpdates": True, "defaultVersion": "4.1"}},
        {"name": "empty", "properties": {"allowUpdates": True}},
    ],
    ("applications", "blender", "versions"): [
        {"name": "4.1", "properties": {"state": "Active"}},
        {"name": "5.0", "properties": {"state": "Pending"}},
    ],
    ("applications", "empty", "versions"): [],
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def call(_: ManagementClient, method: str, *segments: str, body: Any = None) -> Any:
        calls.append((method, "/".join(segments), body))
        return {"properties": {"storageUrl": "http://x/blob?sig=1"}}

    def upload(_: ManagementClient, url: str, content: Any, length: int) -> None:
        calls.append(("upload", url, (content.read(), length)))

    monkeypatch.setattr(ManagementClient, "call", call)
    monkeypatch.setattr(ManagementClient, "upload", upload)
    monkeypatch.setattr(ManagementClient, "get_all", lambda _, *segments: LISTS[segments])
    return calls


def invoke(tmp_path: Path, *arguments: str) -> Result:
    if not (tmp_path / "data").exists():
        known_service(tmp_path / "data")
    return CliRunner().invoke(main, ["app", *arguments, "--data-dir", str(tmp_path / "data")])


def test_list(calls: list[Any], tmp_path: Path) -> None:
    lines = invoke(tmp_path, "list").output.splitlines()
    assert [line.split() for line in lines] == [
        ["blender", "*4.1", "active"],
        ["blender", "5.0", "pending"],
        ["empty", "(no", "packages)"],
    ]
    told = json.loads(invoke(tmp_path, "list", "--json").output)
    assert [one["version"] for one in told[0]["packages"]] == ["4.1", "5.0"]


def test_add_uploads_activates_and_makes_it_the_default(calls: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(b"zip")
    result = invoke(tmp_path, "add", "blender", "4.2", str(file), "--default")
    assert result.output == "blender 4.2\n"
    assert calls == [
        ("PUT", "applications/blender", {}),
        ("PUT", "applications/blender/versions/4.2", {}),
        ("upload", "http://x/blob?sig=1", (b"zip", 3)),
        ("POST", "applications/blender/versions/4.2/activate", {"format": "zip"}),
        ("PATCH", "applications/blender", {"properties": {"defaultVersion": "4.2"}}),
    ]


def test_delete_looks_first(calls: list[Any], tmp_path: Path) -> None:
    assert invoke(tmp_path, "delete", "blender", "4.1").exit_code == 0
    assert invoke(tmp_path, "delete", "blender").exit_code == 0
    assert [f"{method} {path}" for method, path, _ in calls] == [
        "GET applications/blender/versions/4.1",
        "DELETE applications/blender/versions/4.1",
        "GET applications/blender",
        "DELETE applications/blender",
    ]


def test_without_a_service_it_says_so(tmp_path: Path) -> None:
    known_service(tmp_path / "data")
    result = CliRunner().invoke(main, ["app", "list", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert "does not answer" in result.output
