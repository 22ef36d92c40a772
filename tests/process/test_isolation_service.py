"""Isolation from one end to the other: a service of root's, and tasks sent to it. Needs root."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.rest import HttpRequest

from tests.conftest import MillpondProcess
from tests.machine import command_lines, files_below, own_number
from tests.process.isolated import open_directory, why_not_here
from tests.waiting import PATIENCE_S, until

WHY_NOT = why_not_here()

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"does not apply here: {WHY_NOT}")

BOB = f"millpondbob{own_number()}"
"""The machine's accounts are everybody's."""

OWN = m.UserIdentity(
    auto_user=m.AutoUserSpecification(scope=m.AutoUserScope.TASK, elevation_level=m.ElevationLevel.NON_ADMIN)
)
ADMIN = m.UserIdentity(
    auto_user=m.AutoUserSpecification(scope=m.AutoUserScope.POOL, elevation_level=m.ElevationLevel.ADMIN)
)


@pytest.fixture(scope="module")
def service() -> Iterator[MillpondProcess]:
    place = open_directory()
    running = MillpondProcess(place / "data", environment={"MILLPOND_NODES_ISOLATION": "users"})
    try:
        yield running.start()
    finally:
        if running.process is not None:
            running.stop()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def client(service: MillpondProcess) -> Iterator[BatchClient]:
    with BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key)) as client:
        image = next(i for i in client.list_supported_images() if i.os_type == m.OSType.LINUX)
        client.create_pool(
            m.BatchPoolCreateOptions(
                id="p",
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=m.VirtualMachineConfiguration(
                    image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
                ),
                target_dedicated_nodes=1,
                task_slots_per_node=2,
                user_accounts=[m.UserAccount(name=BOB, password="x")],
                start_task=m.BatchStartTask(
                    command_line="/bin/sh -c 'echo $AZ_BATCH_TASK_USER_IDENTITY > made; id -u'", wait_for_success=True
                ),
            )
        )
        try:
            until(
                lambda: [node.state for node in client.list_nodes("p")],
                lambda states: states == [m.BatchNodeState.IDLE],
            )
        except AssertionError as error:
            # Its directory goes with it.
            error.add_note(service.log() + (service.data_dir / "nodes" / "host.log").read_text(errors="replace"))
            raise
        client.create_job(m.BatchJobCreateOptions(id="j", pool_info=m.BatchPoolInfo(pool_id="p")))
        yield client


def run(client: BatchClient, task_id: str, script: str, **more: Any) -> tuple[Any, str]:
    """The task when it has ended, and what it printed."""
    client.create_task("j", m.BatchTaskCreateOptions(id=task_id, command_line=f"/bin/sh -c '{script}'", **more))
    task = until(lambda: client.get_task("j", task_id), lambda task: task.state == m.BatchTaskState.COMPLETED)
    assert task.execution_info is not None
    return task.execution_info, b"".join(client.download_task_file("j", task_id, "stdout.txt")).decode()


def properties_of(client: BatchClient) -> dict[str, str]:
    (node,) = client.list_nodes("p")
    request = HttpRequest("GET", f"/pools/p/nodes/{node.id}/properties?api-version=2025-06-01")
    answer = client.send_request(request)
    answer.raise_for_status()
    body = answer.json()
    assert body["id"] == node.id
    return {one["name"]: one["value"] for one in body["properties"]}


def test_the_users_have_names_and_the_node_says_so(client: BatchClient) -> None:
    properties = properties_of(client)
    assert properties["isolation"] == "users"
    info, printed = run(client, "who", "whoami; echo $AZ_BATCH_TASK_USER; cat $AZ_BATCH_NODE_STARTUP_WORKING_DIR/made")
    assert info.exit_code == 0
    assert printed.splitlines() == [properties["poolUser"], properties["poolUser"], "TaskNonAdmin"]
    _, printed = run(client, "bob", f"whoami; cd ~{BOB} && touch x && ls", user_identity=m.UserIdentity(username=BOB))
    assert printed.splitlines() == [BOB, "x"]
    assert run(client, "admin", "whoami", user_identity=ADMIN)[1] == "root\n"
    first, last = (int(number) for number in properties["userIds"].split("-"))
    assert first < int(run(client, "own", "id -u", user_identity=OWN)[1]) <= last


def test_a_task_reaches_nothing_of_the_service(client: BatchClient, service: MillpondProcess) -> None:
    data = service.data_dir
    files = [path for path in files_below(data) if "root" not in path.parts[len(data.parts) :]]
    assert {"keys.json", "node-secret.json", "millpond.db", "journal", "node.json"} <= {path.name for path in files}
    names = " ".join(str(path) for path in files)
    # A node's own directories apart, nothing below the data directory opens to a task.
    info, printed = run(client, "spy", f"for f in {names}; do cat $f > /dev/null 2>&1 && echo $f; done; true")
    assert (info.exit_code, printed) == (0, "")
    (node,) = client.list_nodes("p")
    directories = [data, data / "storage", data / "nodes", data / "nodes/nodes", data / "nodes/nodes" / node.id]
    names = " ".join(str(path) for path in directories)
    info, printed = run(client, "look", f"for d in {names}; do ls $d 2>/dev/null; touch $d/x 2>/dev/null; done; true")
    assert (info.exit_code, printed) == (0, "")
    for pid in (service.pid, *host_and_spawner_of(data)):
        info, printed = run(client, f"proc-{pid}", f"cat /proc/{pid}/environ /proc/{pid}/mem; kill -9 {pid}; true")
        assert printed == ""


def host_and_spawner_of(data: Path) -> list[int]:
    wanted = str(data / "nodes")
    # For a moment, what one of them starts has the arguments of its parent.
    return until(
        lambda: [pid for pid, arguments in command_lines() if wanted in arguments.split("\0")],
        lambda found: len(found) == 2,
    )


def test_an_interpreter_out_of_reach_is_said_so(client: BatchClient, service: MillpondProcess) -> None:
    closed = service.data_dir.parent / "closed"
    closed.mkdir(mode=0o700)
    (closed / "tool").symlink_to("/bin/true")
    client.create_task("j", m.BatchTaskCreateOptions(id="closed", command_line=f"{closed}/tool"))
    task = until(lambda: client.get_task("j", "closed"), lambda task: task.state == m.BatchTaskState.COMPLETED)
    info = task.execution_info
    assert info is not None
    assert info.failure_info is not None
    assert info.failure_info.code == "CommandLaunchFailed"
    assert f"may not enter or execute '{closed}'" in (info.failure_info.message or "")


def test_the_accounts_go_with_the_node(client: BatchClient) -> None:
    # The last of the file: the pool goes.
    user = properties_of(client)["poolUser"]
    assert f"{user}:" in Path("/etc/passwd").read_text()
    client.begin_delete_pool("p", polling_interval=0.1).result()
    until(lambda: f"{user}:" not in Path("/etc/passwd").read_text())
    assert f"{BOB}:" not in Path("/etc/passwd").read_text()


def test_asked_for_where_it_cannot_be_had_the_service_does_not_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    service = MillpondProcess(tmp_path / "data", environment={"MILLPOND_NODES_ISOLATION": "users"})
    process = service.spawn()
    assert process.wait(PATIENCE_S) == 1
    assert f"other users cannot enter {tmp_path}" in service.log()
