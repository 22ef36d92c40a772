"""Logs of tasks that outlive their node, as the official client reads them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.process.test_crashes import host_pid
from tests.process.test_up import add, client_of, make_job, make_pool, state_of
from tests.waiting import until


@pytest.fixture
def client(new_service: Any) -> Iterator[BatchClient]:
    with client_of(new_service("data", environment={"MILLPOND_KEPT_LOGS_FILE_KIB": "4"}).start()) as client:
        yield client


def read(client: BatchClient, task_id: str, name: str = "stdout.txt", **more: Any) -> bytes:
    return b"".join(client.download_task_file("j", task_id, name, **more))


def completed(client: BatchClient, *task_ids: str) -> None:
    until(
        lambda: [state_of(client, task_id) for task_id in task_ids],
        lambda states: set(states) == {m.BatchTaskState.COMPLETED},
    )


def gone(client: BatchClient) -> None:
    """Wait until the pool is."""

    def look() -> bool:
        try:
            client.get_pool("p")
        except ResourceNotFoundError:
            return True
        return False

    until(look, bool)


def code_of(client: BatchClient, task_id: str, name: str) -> str:
    with pytest.raises(HttpResponseError) as caught:
        read(client, task_id, name)
    response = caught.value.response
    response.read()
    return str(response.json()["code"])


def test_logs_outlive_a_pool_deleted_the_moment_the_tasks_end(client: BatchClient) -> None:
    make_pool(client, 2)
    keep = [m.EnvironmentSetting(name="MILLPOND_KEEP_FILES", value="*.log; sub/**; ../../*; /etc/passwd; none")]
    add(client, "says", "echo out; echo err >&2; exit 3")
    add(client, "silent", "true")
    add(client, "long", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
    add(
        client,
        "names",
        "mkdir -p 'sub/d e'; echo a > a.log; echo b > 'sub/d e/ü %41.txt'; echo c > c.txt; ln -s /etc/passwd l.log",
        environment_settings=keep,
    )
    completed(client, "says", "silent", "long", "names")
    client.begin_delete_pool("p", polling_interval=0.1).result()
    gone(client)

    assert (read(client, "says"), read(client, "says", "stderr.txt")) == (b"out\n", b"err\n")
    assert read(client, "says", ocp_range="bytes=1-2") == b"ut"
    assert [file.name for file in client.list_task_files("j", "silent")] == ["stderr.txt", "stdout.txt"]
    assert read(client, "silent") == b""
    listed = {file.name: file for file in client.list_task_files("j", "names", recursive=True)}
    assert list(listed) == [
        "stderr.txt",
        "stdout.txt",
        "wd",
        "wd/a.log",
        "wd/sub",
        "wd/sub/d e",
        "wd/sub/d e/ü %41.txt",
    ]
    assert listed["wd/sub"].is_directory
    assert read(client, "names", "wd/sub/d e/ü %41.txt") == b"b\n"
    assert read(client, "names", "wd/a.log") == b"a\n"
    assert code_of(client, "names", "wd/c.txt") == "TaskFilesUnavailable"
    cut = read(client, "long")
    assert cut.startswith(b"line 0\nline 1\n")
    assert cut.endswith(b"line 1998\nline 1999\n")
    assert b"bytes were not kept ...]" in cut
    assert 4096 <= len(cut) < 4200


def test_logs_of_a_task_that_runs_again_are_those_of_its_last_attempt(client: BatchClient, tmp_path: Path) -> None:
    make_pool(client, 1)
    script = f"echo x >> {tmp_path}/n; wc -l < {tmp_path}/n; exit 1"
    add(client, "again", script, constraints=m.BatchTaskConstraints(max_task_retry_count=2))
    completed(client, "again")
    client.begin_delete_pool("p", polling_interval=0.1).result()
    gone(client)
    assert read(client, "again").split() == [b"3"]


def test_what_was_not_sent_is_sent_by_the_next_life_of_the_agent(new_service: Any, tmp_path: Path) -> None:
    service = new_service().start()
    with client_of(service) as client:
        make_pool(client, 1)
        add(client, "t", f"echo begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo ended")
        until(lambda: state_of(client, "t"), lambda state: state == m.BatchTaskState.RUNNING)
        until(lambda: list(service.data_dir.glob("nodes/nodes/*/root/workitems/*/*/t/stdout.txt")), bool)
    service.kill()
    (tmp_path / "go").touch()
    # It ends while there is no service, and the agent dies with what it had to say.
    (waiting,) = until(lambda: list(service.data_dir.glob("nodes/nodes/*/root/volatile/logs/*")), bool)
    os.kill(host_pid(service), signal.SIGKILL)
    service.start()
    with client_of(service) as client:
        completed(client, "t")
        until(waiting.exists, lambda there: not there)
        client.begin_delete_pool("p", polling_interval=0.1).result()
        gone(client)
        assert read(client, "t") == b"begun\nended\n"


def test_they_go_with_their_task_and_their_blobs_after_them(new_service: Any) -> None:
    service = new_service().start()
    with client_of(service) as client:
        make_pool(client, 1)
        add(client, "t", "echo kept")
        completed(client, "t")
        (blob,) = until(lambda: list(service.data_dir.glob("storage/millpond-logs/*/*")), bool)
        assert blob.read_bytes() == b"kept\n"
        client.delete_task("j", "t")
        client.begin_delete_job("j", polling_interval=0.1).result()
        make_job(client)
        add(client, "t", "true")
        completed(client, "t")
        assert read(client, "t") == b""


def test_none_are_kept_where_that_is_turned_off(new_service: Any) -> None:
    service = new_service("data", environment={"MILLPOND_KEPT_LOGS_ENABLED": "false"}).start()
    with client_of(service) as client:
        make_pool(client, 1)
        add(client, "t", "echo gone")
        completed(client, "t")
        client.begin_delete_pool("p", polling_interval=0.1).result()
        gone(client)
        assert code_of(client, "t", "stdout.txt") == "TaskFilesUnavailable"
