"""`millpond logs -f`: what a task writes, as it writes it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m

from tests.commands import millpond, plain_environment
from tests.machine import free_port
from tests.process.test_crashes import host_pid
from tests.process.test_up import add, client_of, make_pool, state_of
from tests.waiting import PATIENCE_S, until


class Follower:
    """The command, running."""

    def __init__(self, service: Any, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millpond", "logs", "--data-dir", str(service.data_dir), "-f", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=plain_environment(),
        )

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def rest(self) -> tuple[bytes, str, int]:
        """Everything else it prints, what it says, and its exit code."""
        output, said = self.process.communicate(timeout=PATIENCE_S)
        return output, said.decode(), self.process.returncode


@pytest.fixture
def service(new_service: Any) -> Any:
    # At a port to come back to.
    return new_service("data", "--port", str(free_port())).start()


Follow = Callable[..., Follower]


@pytest.fixture
def follow(service: Any) -> Iterator[Follow]:
    made: list[Follower] = []

    def begin(*arguments: str) -> Follower:
        made.append(Follower(service, *arguments))
        return made[-1]

    yield begin
    for follower in made:
        follower.process.kill()
        follower.process.communicate()


@pytest.fixture
def client(service: Any) -> Iterator[BatchClient]:
    with client_of(service) as client:
        yield client


def watches(pid: int) -> int:
    """How many files a process watches."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            found += Path(f"/proc/{pid}/fdinfo/{name}").read_text().count("inotify wd:")
        except OSError:
            continue
    return found


def test_it_waits_for_the_task_follows_its_retries_and_ends_with_it(
    client: BatchClient, follow: Follow, tmp_path: Path
) -> None:
    make_pool(client, 1)
    options = m.BatchJobDisableOptions(disable_tasks=m.DisableBatchJobOption.REQUEUE)
    client.begin_disable_job("j", options, polling_interval=0.1).result()
    script = f"echo run; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo end; exit 1"
    add(client, "t", script, constraints=m.BatchTaskConstraints(max_task_retry_count=1))
    follower = follow("j", "t")
    assert follower.process.stderr is not None
    assert b"the task is active; waiting for it to run" in follower.process.stderr.readline()
    client.begin_enable_job("j", polling_interval=0.1).result()
    assert follower.line() == b"run\n"
    (tmp_path / "go").touch()
    assert follower.line() == b"end\n"
    output, said, exit_code = follower.rest()
    assert (output, exit_code) == (b"run\nend\n", 0)
    assert "the task runs again (attempt 2)" in said


def test_it_outlives_the_service_and_goes_on_where_it_was(
    service: Any, client: BatchClient, follow: Follow, tmp_path: Path
) -> None:
    make_pool(client, 1)
    add(client, "t", f"echo one; until [ -e {tmp_path}/go ]; do sleep 0.02; done; printf 'zw\\303\\266lf'")
    follower = follow("j", "t")
    assert follower.line() == b"one\n"
    service.kill()
    (tmp_path / "go").touch()
    service.start()
    assert follower.rest()[::2] == ("zwölf".encode(), 0)


def test_what_cannot_be_shown_is_one_line(service: Any, client: BatchClient) -> None:
    make_pool(client, 0)
    add(client, "t", "true")
    for arguments, exit_code, message in (
        (("nope", "t"), 1, "JobNotFound: The job 'nope' does not exist."),
        (("j", "nope"), 1, "TaskNotFound: The task 'nope' does not exist."),
        (("-f", "j", "nope"), 1, "TaskNotFound: The task 'nope' does not exist."),
        (("j", "t"), 1, "it has not run yet. (the task is active; -f waits for it)"),
        (("--tail", "3", "j", "t"), 1, "it has not run yet. (the task is active; -f waits for it)"),
        (("--stderr", "--file", "x", "j", "t"), 2, "--stderr and --file exclude each other"),
    ):
        done = millpond("logs", *arguments, data_dir=service.data_dir)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1), done.stderr
        assert message in done.stderr


def test_a_client_that_leaves_is_not_followed_for(service: Any, client: BatchClient, follow: Follow) -> None:
    make_pool(client, 1)
    add(client, "t", "echo one; sleep 1000")
    followers = [follow("j", "t") for _ in range(2)]
    assert [follower.line() for follower in followers] == [b"one\n"] * 2
    host = host_pid(service)
    until(lambda: watches(host), lambda count: count == 1)
    followers[0].process.kill()
    followers[0].process.communicate()
    followers[1].process.send_signal(signal.SIGINT)
    assert followers[1].rest() == (b"", "", 130)
    until(lambda: watches(host), lambda count: count == 0)
    assert state_of(client, "t") == m.BatchTaskState.RUNNING


def test_the_last_lines_of_another_file(service: Any, client: BatchClient, follow: Follow, tmp_path: Path) -> None:
    make_pool(client, 1)
    add(client, "t", f"sleep 0.2; seq 5 > a.txt; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo 6 >> a.txt")
    until(lambda: list(service.data_dir.glob("nodes/nodes/*/root/workitems/*/*/t/wd/a.txt")), bool)
    until(
        lambda: [
            f.properties.content_length
            for f in client.list_task_files("j", "t", recursive=True)
            if f.name == "wd/a.txt"
        ],
        lambda sizes: sizes == [10],
    )
    follower = follow("--file", "wd/a.txt", "--tail", "2", "j", "t")
    assert [follower.line(), follower.line()] == [b"4\n", b"5\n"]
    (tmp_path / "go").touch()
    assert follower.rest() == (b"6\n", "", 0)
