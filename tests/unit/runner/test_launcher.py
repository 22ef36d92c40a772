"""The launch agent as mpirun sees it: arguments, exit codes, output, a service that is away for a while."""

import base64
import http.server
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millpond.agent.runner import launch_agent, launcher


class Service:
    """Answers the calls of launch agents with what is in `answers`, in order; the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/agent/v1/launch"
                service.tokens.append(self.headers["Authorization"])
                service.calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status, body = service.answers.pop(0) if len(service.answers) > 1 else service.answers[0]
                if status == 0:
                    self.close_connection = True
                    return
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture
def launch(service: Service, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[bytes]"]:
    root = str(tmp_path / "a node's root")
    launch_agent.install(root)

    def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
        known = {"AZ_BATCH_ACCOUNT_URL": service.url, "MILLPOND_LAUNCH_TOKEN": "secret", "PATH": os.defpath}
        return subprocess.run(
            [f"{root}/{launch_agent.LAUNCHER}", *arguments],
            env={name: value for name, value in (known | environment).items() if value},
            capture_output=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )

    return run


def answer(exit_code: int | None, out: bytes = b"", err: bytes = b"") -> tuple[int, Any]:
    stdout, stderr = (base64.b64encode(data).decode() for data in (out, err))
    return 200, {"exitCode": exit_code, "stdout": stdout, "stderr": stderr}


@pytest.mark.parametrize(
    ("arguments", "host", "command"),
    [
        (["h", "orted", "-mca", "x"], "h", "orted -mca x"),
        (["-x", "h", "proxy", "--port", "vm:1"], "h", "proxy --port vm:1"),
        (["-T", "-p", "22", "-o", "BatchMode=yes", "-q", "me@h", "a 'b c'"], "h", "a 'b c'"),
        (["-oBatchMode=yes", "-lme", "h", "", "x"], "h", " x"),
    ],
)
def test_arguments_are_those_of_ssh(arguments: list[str], host: str, command: str) -> None:
    assert launcher.split_arguments(arguments) == (host, command)


@pytest.mark.parametrize("arguments", [[], ["h"], ["-x", "h"], ["-p", "22", "h"], ["-p"]])
def test_without_a_host_or_a_command(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="usage"):
        launcher.split_arguments(arguments)


def test_output_and_exit_code_come_back(service: Service, launch: Callable[..., Any]) -> None:
    service.answers = [answer(None), answer(None, b"one \xff", b"oh"), answer(7, b"two")]
    result = launch("-x", "10.0.0.5", "orted", "-x", "'a b'")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"one \xfftwo", b"oh")
    assert set(service.tokens) == {"Bearer secret"}
    (command_id,) = {call["id"] for call in service.calls}
    assert command_id.isalnum()
    assert {(call["host"], call["command"]) for call in service.calls} == {("10.0.0.5", "orted -x 'a b'")}
    assert [(call["stdoutFrom"], call["stderrFrom"]) for call in service.calls] == [(0, 0), (0, 0), (5, 2)]


def test_each_launch_is_another(service: Service, launch: Callable[..., Any]) -> None:
    service.answers = [answer(0)]
    assert launch("h", "x").returncode == launch("h", "x").returncode == 0
    assert len({call["id"] for call in service.calls}) == 2


def test_a_command_that_was_killed(service: Service, launch: Callable[..., Any]) -> None:
    service.answers = [answer(-9)]
    assert launch("h", "x").returncode == 128 + 9


@pytest.mark.parametrize(
    "trouble", [(503, {"message": "busy"}), (409, {"message": "not ready"}), (0, None), (200, b"{"), (500, b"\xff")]
)
def test_a_service_that_is_away_is_asked_again(
    service: Service, launch: Callable[..., Any], trouble: tuple[int, Any]
) -> None:
    service.answers = [trouble, answer(None, b"a"), trouble, answer(3, b"b")]
    result = launch("h", "x")
    assert (result.returncode, result.stdout) == (3, b"ab")
    assert len({call["id"] for call in service.calls}) == 1


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_is_refused_is_told_and_not_asked_again(service: Service, launch: Callable[..., Any], status: int) -> None:
    service.answers = [(status, {"code": "x", "message": "that is none of yours"})]
    result = launch("10.9.9.9", "x")
    assert (result.returncode, result.stderr) == (255, b"millpond-launch: 10.9.9.9: that is none of yours\n")
    assert len(service.calls) == 1


def test_outside_of_a_multi_instance_task(launch: Callable[..., Any]) -> None:
    result = launch("h", "x", MILLPOND_LAUNCH_TOKEN="")
    assert result.returncode == 255
    assert b"MILLPOND_LAUNCH_TOKEN" in result.stderr


def test_patience_has_an_end(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(launcher, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(launcher, "_PAUSE_S", 0.0)
    monkeypatch.setenv("AZ_BATCH_ACCOUNT_URL", service.url)
    monkeypatch.setenv("MILLPOND_LAUNCH_TOKEN", "secret")
    service.answers = [(503, {"message": "busy"})]
    assert launcher.run("h", "x") == 255
    assert "the service cannot be reached: busy" in capsys.readouterr().err


def test_it_is_there_for_everybody_and_only_put_there_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    launch_agent.install(str(root))
    found = {path.name: path.stat() for path in (root / "bin").iterdir()}
    assert {name: stat.S_IMODE(facts.st_mode) for name, facts in found.items()} == {
        "millpond-launch": 0o755,
        "millpond-launch.py": 0o644,
    }
    launch_agent.install(str(root))
    assert {path.name: path.stat().st_ino for path in (root / "bin").iterdir()} == {
        name: facts.st_ino for name, facts in found.items()
    }
    # One of another release is replaced.
    (root / "bin/millpond-launch.py").write_text("old")
    launch_agent.install(str(root))
    assert (root / "bin/millpond-launch.py").read_text() == Path(launcher.__file__).read_text()


def test_its_interpreter_is_one_that_tasks_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.path.realpath(sys.executable)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert launch_agent.interpreter() == own
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy(own, closed / "python")
    monkeypatch.setattr(sys, "executable", str(closed / "python"))
    monkeypatch.setattr(launch_agent, "_SYSTEM_PYTHON", "/bin/sh")
    assert launch_agent.interpreter() == "/bin/sh"
    monkeypatch.setattr(launch_agent, "_SYSTEM_PYTHON", "/nowhere/python3")
    assert launch_agent.interpreter() == str(closed / "python")
