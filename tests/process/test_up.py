"""`millpond up` as a user meets it: its messages, its end, and what survives a crash."""

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential

from tests.commands import millpond, said_by
from tests.machine import free_port
from tests.waiting import PATIENCE_S, until


def client_of(service: Any) -> BatchClient:
    return BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key))


def make_pool(client: BatchClient, nodes: int, *, slots: int = 2, with_job: bool = True) -> None:
    image = next(i for i in client.list_supported_images() if i.os_type == m.OSType.LINUX)
    client.create_pool(
        m.BatchPoolCreateOptions(
            id="p",
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=nodes,
            task_slots_per_node=slots,
        )
    )
    until(
        lambda: [node.state for node in client.list_nodes("p")],
        lambda states: states == [m.BatchNodeState.IDLE] * nodes,
    )
    if with_job:
        make_job(client)


def make_job(client: BatchClient) -> None:
    client.create_job(m.BatchJobCreateOptions(id="j", pool_info=m.BatchPoolInfo(pool_id="p")))


def add(client: BatchClient, task_id: str, script: str, **more: Any) -> None:
    client.create_task("j", m.BatchTaskCreateOptions(id=task_id, command_line=f'/bin/sh -c "{script}"', **more))


def state_of(client: BatchClient, task_id: str) -> Any:
    return client.get_task("j", task_id).state


def processes_of(directory: Path) -> list[str]:
    """Command lines of the processes that have to do with a data directory: named in their arguments, their environment
    or as where they are."""
    own = os.getpid()
    wanted = os.fsencode(str(directory))
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            traces = arguments + (entry / "environ").read_bytes() + os.fsencode(os.readlink(entry / "cwd"))
        except OSError:
            continue
        if wanted in traces and arguments:
            found.append(f"{entry.name}: {arguments.replace(bytes(1), b' ').decode(errors='replace')}")
    return found


def up(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """A start that is expected to fail."""
    return millpond("up", *arguments, environment=environment)


def assert_one_line(result: "subprocess.CompletedProcess[str]", exit_code: int, *parts: str) -> None:
    assert result.returncode == exit_code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("millpond: ")
    for part in parts:
        assert part in result.stderr


# --- starting ---


def test_it_says_all_that_a_client_needs(new_service: Any) -> None:
    service = new_service().start()
    until(service.log, lambda text: "Ctrl-C" in text)
    text = service.log()
    assert service.endpoint in text
    assert str(service.data_dir / "keys.json") in text
    for name, value in service.client_environment().items():
        assert f"export {name}={value}\n" in text or f"export {name}='{value}'\n" in text
    assert stat.S_IMODE((service.data_dir / "keys.json").stat().st_mode) == 0o600
    # Tasks of other users pass through it to their nodes; nobody else may look into it.
    assert stat.S_IMODE(service.data_dir.stat().st_mode) in (0o700, 0o711)
    (hint,) = re.findall(r'in another shell by eval "\$\((.*)\)":', text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLPOND_")}
    printed = subprocess.run(shlex.split(hint), capture_output=True, text=True, check=True, env=environment).stdout
    assert f"export AZURE_BATCH_ENDPOINT={service.endpoint}\n" in printed
    told = millpond("env", "--json", data_dir=service.data_dir)
    assert json.loads(told.stdout) == service.client_environment()
    assert told.stderr == ""
    assert service.endpoint in said_by("status", data_dir=service.data_dir)


def test_the_account_is_named_by_flag(new_service: Any) -> None:
    service = new_service("data", "--account", "labacct").start()
    assert service.account == "labacct"
    with client_of(service) as client:
        assert list(client.list_pools()) == []


def test_a_second_one_on_the_same_directory_is_refused(new_service: Any, tmp_path: Path) -> None:
    service = new_service().start()
    result = up("--data-dir", str(service.data_dir), "--port", "0")
    assert_one_line(result, 1, str(service.data_dir), f"in use by another millpond (process {service.pid})")
    # The first one does not mind.
    with client_of(service) as client:
        assert list(client.list_pools()) == []


def test_a_used_port_is_one_line_and_nothing_is_touched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = up("--data-dir", str(tmp_path / "data"), "--port", str(port))
    assert_one_line(result, 1, f"port {port} on 127.0.0.1 is in use", "--port")
    assert not (tmp_path / "data").exists()


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(
        up("--data-dir", str(tmp_path / "file" / "data"), "--port", "0"), 1, "cannot be written", "--data-dir"
    )
    assert_one_line(up("--data-dir", str(tmp_path / "file"), "--port", "0"), 1, "is not a directory")


def test_a_directory_of_somebody_else_is_one_line(tmp_path: Path, leave_out: Callable[[str], None]) -> None:
    if os.geteuid() == 0:
        leave_out("root may write everywhere")
    (tmp_path / "theirs").mkdir(mode=0o500)
    result = up("--data-dir", str(tmp_path / "theirs" / "data"), "--port", "0")
    assert_one_line(result, 1, "cannot be written (Permission denied)")


def test_a_store_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "millpond.db").write_bytes(b"this is not a database, whatever its name says\n" * 100)
    assert_one_line(up("--data-dir", str(tmp_path / "data"), "--port", "0"), 1, "millpond.db")


def test_bad_configuration_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("[nodes]\nlost_s = 1\n")
    assert_one_line(up("--config", str(tmp_path / "m.toml")), 2, str(tmp_path / "m.toml"), "nodes.lost_s")
    assert_one_line(up("--port", "70000"), 2, "--port: must be a whole number from 0 to 65535")
    assert_one_line(up(environment={"MILLPOND_ACCOUNT_NAME": "No!"}), 2, "MILLPOND_ACCOUNT_NAME: must be 3 to 24")


# --- stopping ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_and_the_state_stays(new_service: Any, number: signal.Signals) -> None:
    service = new_service().start()
    with client_of(service) as client:
        make_pool(client, 2)
        add(client, "done", "true")
        until(lambda: state_of(client, "done"), lambda state: state == m.BatchTaskState.COMPLETED)
        # A child that leaves the group and the session, and ignores the polite signals.
        add(client, "long", "setsid sh -c 'trap : TERM INT HUP; while :; do sleep 1; done' & sleep 600")
        until(lambda: state_of(client, "long"), lambda state: state == m.BatchTaskState.RUNNING)
    before = service.key
    assert service.stop(number) == 0
    until(lambda: processes_of(service.data_dir), lambda found: not found)

    service.start()
    assert service.key == before
    with client_of(service) as client:
        done = client.get_task("j", "done")
        assert (done.state, done.execution_info.exit_code) == (m.BatchTaskState.COMPLETED, 0)
        assert client.get_pool("p").current_dedicated_nodes == 2
        add(client, "after", "true")
        until(lambda: state_of(client, "after"), lambda state: state == m.BatchTaskState.COMPLETED)
        # What was cut off is not lost: it runs again.
        until(lambda: state_of(client, "long"), lambda state: state == m.BatchTaskState.RUNNING)


def test_a_second_signal_is_immediate(new_service: Any) -> None:
    service = new_service().start()
    with client_of(service) as client:
        make_pool(client, 1)
        # One of them hides: it has no environment, and neither parent nor session of its task.
        add(client, "long", "env -i setsid sleep 601 & sleep 600")
        until(
            lambda: [line for line in processes_of(service.data_dir) if ": sleep 60" in line],
            lambda found: len(found) == 2,
        )
    process = service.process
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) in (0, 130)
    until(lambda: processes_of(service.data_dir), lambda found: not found)


# --- crashing ---


def test_after_a_crash_nothing_acknowledged_is_lost_and_tasks_run_on(new_service: Any, tmp_path: Path) -> None:
    service = new_service().start()
    with client_of(service) as client:
        make_pool(client, 2)
        runs, go = tmp_path / "runs", tmp_path / "go"
        for number in range(4):
            # Each run leaves a line: two lines of one task would mean it ran twice.
            add(client, f"long-{number}", f"echo {number} >> {runs}; until [ -e {go} ]; do sleep 0.05; done")
        for number in range(4):
            until(lambda n=number: state_of(client, f"long-{n}"), lambda state: state == m.BatchTaskState.RUNNING)
        until(lambda: sorted(runs.read_text().split()) if runs.exists() else [], lambda seen: seen == list("0123"))
        tasks = [m.BatchTaskCreateOptions(id=f"short-{n}", command_line="/bin/true") for n in range(50)]
        client.create_tasks("j", tasks)
        service.kill()

    # While nobody is there, the tasks go on, and two of them end.
    go.write_text("")
    service.start()
    with client_of(service) as client:
        wanted = {f"long-{n}" for n in range(4)} | {f"short-{n}" for n in range(50)}
        tasks_now = until(
            lambda: {task.id: task for task in client.list_tasks("j")},
            lambda seen: all(task.state == m.BatchTaskState.COMPLETED for task in seen.values()),
        )
        assert set(tasks_now) == wanted
        assert all(task.execution_info.exit_code == 0 for task in tasks_now.values())
        assert all(task.execution_info.retry_count == 0 for task in tasks_now.values())
        counts = client.get_job_task_counts("j").task_counts
        assert (counts.succeeded, counts.failed, counts.active, counts.running) == (54, 0, 0, 0)
    assert sorted(runs.read_text().split()) == list("0123")


def test_crashes_one_after_the_other_while_tasks_are_added(new_service: Any) -> None:
    service = new_service().start()
    with client_of(service) as client:
        make_pool(client, 2)
    acknowledged: set[str] = set()
    for life in range(3):
        with client_of(service) as client:
            for number in range(20):
                add(client, f"{life}-{number}", "true")
                acknowledged.add(f"{life}-{number}")
        service.kill()
        service.start()
    with client_of(service) as client:
        seen = until(
            lambda: {task.id: task.state for task in client.list_tasks("j")},
            lambda states: all(state == m.BatchTaskState.COMPLETED for state in states.values()),
        )
    assert set(seen) == acknowledged


def test_it_answers_that_it_is_ready(new_service: Any) -> None:
    # At a port that nobody else is given when it has stopped.
    service = new_service("data", "--port", str(free_port())).start()
    with urllib.request.urlopen(service.endpoint + "/healthz", timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    service.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(service.endpoint + "/healthz", timeout=PATIENCE_S)


def test_a_pool_stops_growing_where_the_machine_is_full(new_service: Any, tmp_path: Path) -> None:
    configuration = tmp_path / "small.toml"
    configuration.write_text("[nodes]\nmax_nodes = 1\n")
    service = new_service("data", "--config", str(configuration)).start()
    with client_of(service) as client:
        make_pool(client, 1, with_job=False)
        client.begin_resize_pool("p", m.BatchPoolResizeOptions(target_dedicated_nodes=3), polling_interval=0).wait()
        pool = client.get_pool("p")
        assert pool.current_dedicated_nodes == 1
        (error,) = pool.resize_errors
        assert error.code == "AllocationFailed"
        assert "all the nodes it may have, 1" in error.message
