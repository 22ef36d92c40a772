"""Mounts from one end to the other: pools of a service, made by the SDK."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m

from millpond.agent.mount_table import mounted_below
from tests.clients.conftest import Batch
from tests.process.mounting import bind_works, clear, needs
from tests.process.test_crashes import host_pid
from tests.process.test_up import client_of
from tests.servers.azurite import Azurite
from tests.waiting import until


@pytest.fixture
def lent(tmp_path: Path, leave_out: Callable[[str], None]) -> Iterator[Path]:
    """A directory of the host that pools may mount."""
    needs((), lambda *_: None, leave_out)
    if not bind_works(tmp_path):
        leave_out("this root may not mount")
    (tmp_path / "lent").mkdir(mode=0o777)
    (tmp_path / "lent").chmod(0o777)
    yield tmp_path / "lent"
    clear(tmp_path)


def bind(directory: Path) -> m.MountConfiguration:
    return m.MountConfiguration(
        nfs_mount_configuration=m.NfsMountConfiguration(source=f"file://{directory}", relative_mount_path="data")
    )


def mounts(service: Any) -> list[str]:
    return [one.path for one in mounted_below(str(service.data_dir))]


def idle(client: BatchClient, count: int) -> list[m.BatchNode]:
    def look() -> list[m.BatchNode]:
        return list(client.list_nodes("p"))

    return until(look, lambda nodes: [n.state for n in nodes] == [m.BatchNodeState.IDLE] * count)


def test_a_pool_that_mounts_a_directory(lent: Path, new_service: Any) -> None:
    service = new_service(environment={"MILLPOND_NODES_MOUNT_ALLOW": str(lent)}).start()
    with client_of(service) as client:
        batch = Batch(client, "p")
        start = m.BatchStartTask(
            command_line="/bin/sh -c 'touch $AZ_BATCH_NODE_MOUNTS_DIR/data/boot-$$'", wait_for_success=True
        )
        batch.create_pool("p", 2, mount_configuration=[bind(lent)], start_task=start)
        idle(client, 2)
        assert len(mounts(service)) == 2
        boots = set(os.listdir(lent))
        assert len(boots) == 2, "mounted before the start task"
        (lent / "in").write_text("from the host")
        job = batch.create_job()
        batch.sh(
            job,
            "t",
            "cat $AZ_BATCH_NODE_MOUNTS_DIR/data/in; until [ -e $AZ_BATCH_NODE_MOUNTS_DIR/data/go ]; do sleep 0.05; done",
        )
        batch.running(job, "t")
        # The host dies: mounts and tasks go on, nothing is mounted again.
        victim = host_pid(service)
        os.kill(victim, signal.SIGKILL)
        host_pid(service, other_than=victim)
        (lent / "go").touch()
        task = batch.completed(job, "t")
        assert task.execution_info is not None
        assert (task.execution_info.exit_code, task.execution_info.requeue_count) == (0, 0)
        assert batch.stdout(job, "t") == "from the host"
        assert set(os.listdir(lent)) == boots | {"in", "go"}
        assert len(mounts(service)) == 2
    service.stop()
    assert mounts(service) == []
    assert (lent / "in").exists()
    # What was mounted is mounted again: the nodes restart, with their start tasks.
    service.start()
    with client_of(service) as client:
        until(lambda: len(os.listdir(lent)), lambda count: count == 6)
        idle(client, 2)
        assert len(mounts(service)) == 2
        client.begin_resize_pool("p", m.BatchPoolResizeOptions(target_dedicated_nodes=0))
        until(lambda: mounts(service), lambda left: left == [])
        until(lambda: list(client.list_nodes("p")), lambda nodes: nodes == [])
        assert (lent / "in").read_text() == "from the host"


def test_a_mount_that_fails_makes_the_node_unusable_and_says_why(lent: Path, new_service: Any) -> None:
    service = new_service(environment={"MILLPOND_NODES_MOUNT_ALLOW": str(lent)}).start()
    with client_of(service) as client:
        batch = Batch(client, "p")
        batch.create_pool("p", 1, mount_configuration=[bind(lent.parent)])
        (node,) = until(
            lambda: list(client.list_nodes("p")),
            lambda nodes: [node.state for node in nodes] == [m.BatchNodeState.UNUSABLE],
        )
        (error,) = node.errors or ()
        assert error.code == "MountConfigurationError"
        assert error.message == "An error was encountered while configuring specified mount(s)"
        details = {detail.name: detail.value for detail in error.error_details or ()}
        assert details["MountConfigurationPath"] == "data"
        assert "nodes.mount_allow" in str(details["Message"])
        assert mounts(service) == []


def test_a_pool_that_mounts_a_container(
    lent: Path,
    new_service: Any,
    azurite: Azurite,
    require_component: Callable[[str, str], None],
    leave_out: Callable[[str], None],
) -> None:
    needs(("rclone", "fusermount3"), require_component, leave_out)
    container = azurite.new_container()
    azurite.put(container, "in.txt", b"from the container")
    service = new_service(
        environment={"MILLPOND_NODES_MOUNT_ENDPOINTS": f"{azurite.account}={azurite.endpoint}"}
    ).start()
    with client_of(service) as client:
        batch = Batch(client, "p")
        blob = m.AzureBlobFileSystemConfiguration(
            account_name=azurite.account,
            container_name=container,
            account_key=azurite.key,
            relative_mount_path="blobs",
        )
        mount = m.MountConfiguration(azure_blob_file_system_configuration=blob)
        batch.create_pool("p", 1, mount_configuration=[mount])
        (shown,) = client.get_pool("p").mount_configuration or ()
        assert shown.azure_blob_file_system_configuration is not None
        assert shown.azure_blob_file_system_configuration.container_name == container
        assert shown.azure_blob_file_system_configuration.account_key is None
        idle(client, 1)
        job = batch.create_job()
        batch.sh(job, "t", "cd $AZ_BATCH_NODE_MOUNTS_DIR/blobs && cat in.txt && echo done > out.txt")
        assert batch.completed(job, "t").execution_info.exit_code == 0
        assert batch.stdout(job, "t") == "from the container"
        until(lambda: azurite_names(azurite, container), lambda names: "out.txt" in names)
        client.begin_delete_pool("p")
        until(lambda: mounts(service), lambda left: left == [])
    assert azurite.read(container, "out.txt") == b"done\n"


def azurite_names(azurite: Azurite, container: str) -> set[str]:
    with azurite.client() as client, client.get_container_client(container) as one:
        return {blob.name for blob in one.list_blobs()}
