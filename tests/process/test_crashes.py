"""Crashes in the middle of much work, and a full disk: every task runs to its end, and none is told to have run once that
ran twice."""

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.exceptions import AzureError, HttpResponseError

from tests.machine import command_lines
from tests.process.test_up import client_of, make_job, make_pool
from tests.waiting import until

TASKS = 60
NODES = 4
SLOTS = 2 * NODES


def host_pid(service: Any, *, other_than: int = 0) -> int:
    """Wait for the agent host's process: between one host and the next there is none."""

    def look() -> int:
        try:
            return int(json.loads((service.data_dir / "nodes" / "host.json").read_text())["pid"])
        except (OSError, ValueError):
            return 0

    return until(look, lambda pid: pid not in (0, other_than))


def spawner_pid(service: Any) -> int:
    wanted = f"spawner.py\0{service.data_dir / 'nodes'}\0"
    return next(pid for pid, arguments in command_lines() if wanted in arguments)


def add_many(client: BatchClient, directory: Path, numbers: range = range(TASKS), *, gate: Path | None = None) -> None:
    """Tasks of different length that leave a line at their begin, and one at their end, in a file of their own; they do
    not end before there is a file `gate`."""
    directory.mkdir(exist_ok=True)
    tasks = []
    for number in numbers:
        file = directory / str(number)
        wait = f"until [ -e {gate} ]; do sleep 0.05; done; " if gate else ""
        script = f"echo begin >> {file}; sleep 0.{1 + number % 4}; {wait}echo end >> {file}"
        tasks.append(m.BatchTaskCreateOptions(id=f"t{number}", command_line=f'/bin/sh -c "{script}"'))
    client.create_tasks("j", tasks)


def lines(directory: Path) -> Counter[tuple[str, str]]:
    """How often each task began and ended."""
    return Counter((file.name, line) for file in directory.iterdir() for line in file.read_text().split())


def completed(client: BatchClient) -> list[m.BatchTask]:
    """Wait until all tasks are."""

    def look() -> Any:
        try:
            return client.get_job_task_counts("j").task_counts
        except AzureError as error:
            return error

    until(look, lambda counts: getattr(counts, "completed", 0) == TASKS)
    return list(client.list_tasks("j"))


def assert_each_ran_once(tasks: list[m.BatchTask], directory: Path) -> None:
    assert len(tasks) == TASKS
    for task in tasks:
        info = task.execution_info
        assert (info.exit_code, info.retry_count, info.requeue_count or 0) == (0, 0, 0), task.id
    assert lines(directory) == Counter((str(n), line) for n in range(TASKS) for line in ("begin", "end"))


def wait_for_some(directory: Path, count: int) -> None:
    until(lambda: lines(directory).total(), lambda total: total >= count)


def test_a_service_killed_again_and_again_runs_every_task_once(new_service: Any, tmp_path: Path) -> None:
    service = new_service().start()
    files = tmp_path / "files"
    with client_of(service) as client:
        make_pool(client, NODES)
        add_many(client, files)
    for share in (0.2, 0.9, 1.4):
        wait_for_some(files, int(TASKS * share))
        service.kill()
        service.start()
    with client_of(service) as client:
        assert_each_ran_once(completed(client), files)


def test_a_killed_host_finds_its_tasks_again(new_service: Any, tmp_path: Path) -> None:
    service = new_service().start()
    files = tmp_path / "files"
    with client_of(service) as client:
        make_pool(client, NODES)
        add_many(client, files)
        for share in (0.2, 1.0):
            wait_for_some(files, int(TASKS * share))
            victim = host_pid(service)
            os.kill(victim, signal.SIGKILL)
            host_pid(service, other_than=victim)
        assert_each_ran_once(completed(client), files)


def test_tasks_of_a_killed_spawner_run_again_and_it_is_no_retry(new_service: Any, tmp_path: Path) -> None:
    service = new_service().start()
    files = tmp_path / "files"
    with client_of(service) as client:
        make_pool(client, NODES)
        ended, gate = TASKS // 3, tmp_path / "go"
        add_many(client, files, range(ended))
        wait_for_some(files, 2 * ended)
        # Each slot holds one that cannot end yet.
        add_many(client, files, range(ended, TASKS), gate=gate)
        wait_for_some(files, 2 * ended + SLOTS)
        os.kill(spawner_pid(service), signal.SIGKILL)
        gate.touch()
        tasks = completed(client)
        assert len(tasks) == TASKS
        assert {(task.execution_info.exit_code, task.execution_info.retry_count) for task in tasks} == {(0, 0)}
        counts = lines(files)
        assert all(counts[str(n), "end"] >= 1 for n in range(TASKS))
        # Only what ran when it happened began again. It may have come to its end with nobody to see how.
        again = [n for n in range(TASKS) if counts[str(n), "begin"] > 1]
        assert len(again) == SLOTS
        assert all(counts[str(n), "begin"] == 2 for n in again)


@pytest.fixture
def small_disk(tmp_path: Path, leave_out: Callable[[str], None]) -> Iterator[Path]:
    """A file system of 24 MiB where the service has its data."""
    disk = tmp_path / "data"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        leave_out("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_loses_nothing_acknowledged(small_disk: Path, new_service: Any) -> None:
    service = new_service().start()
    acknowledged: set[str] = set()
    refused: list[tuple[int, str, int]] = []

    def add_one(client: BatchClient) -> tuple[int, int]:
        """How many were added so far, how many refused."""
        task_id = f"t{len(acknowledged)}-{len(refused)}"
        try:
            client.create_task(
                "j",
                m.BatchTaskCreateOptions(id=task_id, command_line="/bin/true", display_name="x" * 1000),
                retry_total=0,
            )
            acknowledged.add(task_id)
        except HttpResponseError as error:
            code = error.error.code if error.error is not None else ""
            refused.append((error.status_code or 0, code, int(error.response.headers.get("Retry-After", 0))))
        return len(acknowledged), len(refused)

    def ids(client: BatchClient) -> set[str]:
        return {task.id for task in client.list_tasks("j")}

    with client_of(service) as client:
        make_job(client)
        add_one(client)
        filler = small_disk / "filler"
        fill(filler)
        until(lambda: add_one(client), lambda counts: counts[1] >= 3)
        assert {(status, code) for status, code, _ in refused} == {(503, "ServerBusy")}
        assert all(seconds > 0 for _, _, seconds in refused)
        assert ids(client) == acknowledged
        before = len(acknowledged)
        filler.unlink()
        until(lambda: add_one(client), lambda counts: counts[0] > before)
        fill(filler)
        before = len(refused)
        until(lambda: add_one(client), lambda counts: counts[1] > before)
        service.kill()

    filler.unlink()
    service.start()
    with client_of(service) as client:
        assert ids(client) == acknowledged
        make_pool(client, 1, with_job=False)
        until(
            lambda: {task.state for task in client.list_tasks("j")},
            lambda states: states == {m.BatchTaskState.COMPLETED},
        )
