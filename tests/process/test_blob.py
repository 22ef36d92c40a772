"""The account's storage as blobs: `millpond up --blob`, Azurite beside the service, identities."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.blob import BlobServiceClient

from millpond import azurite as azurite_module
from tests.commands import said_by
from tests.machine import content_of, files_below, free_port, runs
from tests.process.test_up import assert_one_line, processes_of, up
from tests.servers.azurite import PROGRAM
from tests.waiting import PATIENCE_S, until

IDENTITY = "/subscriptions/s/resourceGroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"


@pytest.fixture(scope="session")
def azurite_cache(
    tmp_path_factory: pytest.TempPathFactory, require_component: Callable[[str, str], None]
) -> dict[str, str]:
    """An environment in which Azurite is installed: the one that the tests have anyway."""
    if not PROGRAM.exists():
        require_component("azurite", "run tools/azurite.sh (it needs npm)")
    cache = tmp_path_factory.mktemp("cache")
    (cache / "millpond").mkdir()
    installed = PROGRAM.parents[2]
    (cache / "millpond" / f"azurite-{azurite_module.VERSION}").symlink_to(installed)
    return {"XDG_CACHE_HOME": str(cache)}


def batch_client(service: Any) -> BatchClient:
    return BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, service.key))


def env_of(service: Any) -> dict[str, str]:
    environment: dict[str, str] = json.loads(said_by("env", "--json", data_dir=service.data_dir))
    return environment


def make_pool_and_job(client: BatchClient, identities: Sequence[str] = (), **more: Any) -> None:
    image = next(i for i in client.list_supported_images() if i.os_type == m.OSType.LINUX)
    options = m.BatchPoolCreateOptions(
        id="p",
        vm_size="standard_d2s_v3",
        virtual_machine_configuration=m.VirtualMachineConfiguration(
            image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
        ),
        target_dedicated_nodes=1,
        **more,
    )
    if identities:
        # In Azure they are set through the management plane; the data plane only shows them.
        listed = [{"resourceId": one} for one in identities]
        options["identity"] = {"type": "UserAssigned", "userAssignedIdentities": listed}
    client.create_pool(options)
    client.create_job(m.BatchJobCreateOptions(id="j", pool_info=m.BatchPoolInfo(pool_id="p")))


def run(client: BatchClient, task_id: str, command: str, **more: Any) -> Any:
    """Add a task and wait for its end."""
    client.create_task("j", m.BatchTaskCreateOptions(id=task_id, command_line=f'/bin/sh -c "{command}"', **more))
    task = until(lambda: client.get_task("j", task_id), lambda task: task.state == m.BatchTaskState.COMPLETED)
    return task.execution_info


def azurite_process(service: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((service.data_dir / "azurite" / "process.json").read_text())
    return facts


# --- Azurite beside the service ---------------------------------------------------------------------------------------


def test_azurite_beside_the_service(new_service: Any, azurite_cache: dict[str, str]) -> None:
    service = new_service("data", "--blob", "azurite", "--account", "labacct", environment=azurite_cache).start()
    until(service.log, lambda text: "Ctrl-C" in text)
    connection_string = env_of(service)["AZURE_STORAGE_CONNECTION_STRING"]
    assert f"export AZURE_STORAGE_CONNECTION_STRING='{connection_string}'" in service.log()
    assert "AccountName=labacct;" in connection_string
    assert "storage  Azurite at http://127.0.0.1:" in service.log()
    process = azurite_process(service)
    # No secret is in its arguments, which everybody on the machine can read.
    key = connection_string.partition("AccountKey=")[2].partition(";")[0]
    assert key not in Path(f"/proc/{process['pid']}/cmdline").read_text()

    with BlobServiceClient.from_connection_string(connection_string) as blobs, batch_client(service) as client:
        inputs, results = blobs.create_container("inputs"), blobs.create_container("results")
        inputs.upload_blob("in/a.txt", b"from a blob")
        make_pool_and_job(client)
        url = service_url(service, "results", "rwl")
        resources = [m.ResourceFile(auto_storage_container_name="inputs", blob_prefix="in/")]
        outputs = [output_file("out.txt", url)]
        copy = "tr a-z A-Z < in/a.txt > out.txt"
        assert run(client, "first", copy, resource_files=resources, output_files=outputs).exit_code == 0
        assert results.download_blob("out.txt").readall() == b"FROM A BLOB"

        # A crash of Azurite: it comes back at the same place, with the same key.
        os.kill(process["pid"], signal.SIGKILL)
        until(lambda: azurite_process(service), lambda facts: facts["pid"] != process["pid"])
        until(service.log, lambda text: "Azurite runs again" in text)
        assert f"Azurite (process {process['pid']}) has ended; it is started again" in service.log()
        for container, blob in (("inputs", "in/a.txt"), ("results", "x")):
            # It writes its tables down every few seconds: the last may be lost.
            client_of_container = blobs.get_container_client(container)
            if not client_of_container.exists():
                client_of_container.create_container()
            client_of_container.upload_blob(blob, b"again", overwrite=True)
        assert run(client, "second", copy, resource_files=resources, output_files=outputs).exit_code == 0
        assert results.download_blob("out.txt").readall() == b"AGAIN"

    # A crash of the service: Azurite stays, for what tasks still upload, and is found again.
    before = azurite_process(service)
    service.kill()
    assert runs(before["pid"])
    service.start()
    assert azurite_process(service) == before
    assert env_of(service)["AZURE_STORAGE_CONNECTION_STRING"] == connection_string

    assert service.stop() == 0
    until(lambda: processes_of(service.data_dir), lambda found: not found)
    service.start()
    assert azurite_process(service)["port"] == before["port"]
    with BlobServiceClient.from_connection_string(connection_string) as blobs:
        assert blobs.get_blob_client("results", "out.txt").download_blob().readall() == b"AGAIN"
    # A second signal while it stops, or the first, leaves nothing behind.
    service.process.send_signal(signal.SIGINT)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE_S) in (0, 130)
    until(lambda: processes_of(service.data_dir), lambda found: not found)


def service_url(service: Any, container: str, permissions: str) -> str:
    """By `millpond storage url`."""
    return said_by("storage", "url", container, "--permissions", permissions, data_dir=service.data_dir).strip()


def output_file(pattern: str, container_url: str, **more: Any) -> m.OutputFile:
    container = m.OutputFileBlobContainerDestination(container_url=container_url, path=pattern, **more)
    return m.OutputFile(
        file_pattern=pattern,
        destination=m.OutputFileDestination(container=container),
        upload_options=m.OutputFileUploadConfiguration(upload_condition=m.OutputFileUploadCondition.TASK_SUCCESS),
    )


def test_another_storage_than_at_the_last_start_is_pointed_out(new_service: Any, azurite: Any) -> None:
    service = new_service("data", environment={"STRING": azurite.connection_string})

    def printed(*arguments: str) -> str:
        before = len(service.log())
        service.arguments = arguments
        service.start()
        said: str = until(lambda: service.log()[before:], lambda text: "Ctrl-C" in text)
        service.stop()
        return said

    account = ("--blob-connection-string-env", "STRING")
    assert "at the last start" not in printed()
    # The directory had nothing in it yet.
    assert "at the last start" not in printed(*account)
    assert f"(at the last start it was the account at {azurite.endpoint}; its files stay there)" in printed()
    (service.data_dir / "storage" / "inputs").mkdir(parents=True)
    assert f"(at the last start it was the directory {service.data_dir}/storage; " in printed(*account)


def test_a_used_port_for_azurite_is_one_line(tmp_path: Path, azurite_cache: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {**azurite_cache, "MILLPOND_STORAGE_AZURITE_PORT": str(port)}
        arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--blob", "azurite")
        result = up(*arguments, environment=environment)
    assert_one_line(result, 1, f"Azurite's port {port} on 127.0.0.1 is in use", "storage.azurite_port")
    assert processes_of(tmp_path / "data") == []


def test_what_azurite_needs_is_said(tmp_path: Path) -> None:
    arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--blob", "azurite")
    programs = tmp_path / "bin"
    programs.mkdir()
    environment = {"PATH": str(programs), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert_one_line(up(*arguments, environment=environment), 1, "Azurite needs Node.js", "--blob URL")
    for name, script in (("node", "exit 0"), ("npm", "echo 'npm error no such network' >&2; exit 1")):
        (programs / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
        (programs / name).chmod(0o755)
        result = up(*arguments, environment=environment)
        if name == "node":
            assert_one_line(result, 1, "there is no npm in PATH", "--blob URL")
    assert result.returncode == 1
    installing, failed = result.stderr.splitlines()
    assert installing.startswith(f"millpond: Installing Azurite {azurite_module.VERSION}")
    assert "could not install" in failed
    assert "no such network" in failed
    assert list((tmp_path / "cache" / "millpond").glob("azurite*/*")) == []


def test_an_azurite_that_ends_at_its_start_is_one_line(tmp_path: Path) -> None:
    script = (
        tmp_path / "cache" / "millpond" / f"azurite-{azurite_module.VERSION}" / "node_modules/azurite/dist/src/blob"
    )
    script.mkdir(parents=True)
    (script / "main.js").write_text("echo 'the disk is broken' >&2; exit 3\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "node").symlink_to(str(shutil.which("sh")))
    arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0", "--blob", "azurite")
    environment = {"PATH": str(programs), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = up(*arguments, environment=environment)
    assert_one_line(result, 1, "Azurite ended at its start (the disk is broken)", "azurite.log")
    assert processes_of(tmp_path / "data") == []


# --- an account that is there -----------------------------------------------------------------------------------------


def test_what_is_wrong_with_an_account_is_one_line(tmp_path: Path, azurite: Any) -> None:
    arguments = ("--data-dir", str(tmp_path / "data"), "--port", "0")
    wrong = {"MILLPOND_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}
    result = up(*arguments, "--blob", azurite.endpoint, environment=wrong)
    assert_one_line(result, 1, azurite.endpoint, "refuses its key", "see that its key is right")
    nobody = f"http://127.0.0.1:{free_port()}/acct"
    result = up(*arguments, "--blob", nobody, environment=wrong)
    assert_one_line(result, 1, nobody, "does not answer", "see that it is reachable")
    assert_one_line(up(*arguments, "--blob", azurite.endpoint), 2, "its key is missing")
    assert_one_line(up(*arguments, "--blob", "s3://bucket"), 2, "--blob: must be directory, azurite, or the URL")
    named = ("--blob-connection-string-env", "NO_SUCH_VARIABLE")
    assert_one_line(up(*arguments, *named), 2, "there is no variable NO_SUCH_VARIABLE")
    named = ("--blob-connection-string-env", "STRING")
    assert_one_line(
        up(*arguments, *named, environment={"STRING": "AccountName=a"}), 1, "must hold AccountName and AccountKey"
    )
    assert processes_of(tmp_path / "data") == []


@pytest.fixture
def with_identities(new_service: Any, azurite: Any, tmp_path: Path) -> Any:
    """A service on an account, with identities: `writer` by key, `other` by key, and one that no pool lists."""
    config = tmp_path / "millpond.toml"
    config.write_text(
        f"""
        [identities.writer]
        resource_id = "{IDENTITY}Writer"
        connection_string = "{azurite.connection_string}"
        [identities.elsewhere]
        account_url = "https://elsewhere.example"
        account_key = "{azurite.key}"
        [identities.unlisted]
        connection_string = "{azurite.connection_string}"
        """
    )
    config.chmod(0o600)
    return new_service(
        "data",
        "--config",
        str(config),
        "--blob-connection-string-env",
        "LAB_STRING",
        environment={"LAB_STRING": azurite.connection_string},
    ).start()


def test_identities(with_identities: Any, azurite: Any) -> None:
    container = azurite.new_container()
    azurite.put(container, "in/a b.txt", b"private")
    base = f"{azurite.endpoint}/{container}"

    def identity(name: str) -> m.BatchNodeIdentityReference:
        return m.BatchNodeIdentityReference(resource_id=name)

    def resource(name: str) -> m.ResourceFile:
        return m.ResourceFile(http_url=f"{base}/in/a%20b.txt", file_path="f", identity_reference=identity(name))

    with batch_client(with_identities) as client:
        make_pool_and_job(client, [IDENTITY + "writer", "elsewhere", "nobody-knows"])
        assert [one.resource_id for one in client.get_pool("p").identity.user_assigned_identities or ()] == [
            IDENTITY + "writer",
            "elsewhere",
            "nobody-knows",
        ]
        # By resource id and by name, whatever the case; a file and a container to read, a container to write.
        files = [
            resource("WRITER"),
            m.ResourceFile(
                storage_container_url=base, blob_prefix="in/", identity_reference=identity(IDENTITY + "writer")
            ),
        ]
        done = run(
            client,
            "good",
            "cat f 'in/a b.txt' > both.txt; env > environment.txt; cat environment.txt",
            resource_files=files,
            output_files=[output_file("both.txt", base, identity_reference=identity("writer"))],
        )
        assert (done.exit_code, done.failure_info) == (0, None)
        assert azurite.read(container, "both.txt") == b"privateprivate"
        # Nothing that opens the account has come to the node: neither there, nor in what the API shows.
        nodes = with_identities.data_dir / "nodes"
        for path in files_below(nodes):
            assert azurite.key.encode() not in content_of(path), path
        shown = client.get_task("j", "good")
        assert shown.resource_files[0].http_url == f"{base}/in/a%20b.txt"
        assert shown.resource_files[0].identity_reference.resource_id == "WRITER"

        for task_id, name, code, words in (
            ("unlisted", "unlisted", "ResourceContainerListMiscError", "is none of the pool's"),
            ("nobody", "nobody-knows", "BlobAccessDenied", "no credentials for the identity nobody-knows"),
            ("elsewhere", "elsewhere", "BlobAccessDenied", "is for https://elsewhere.example, not for"),
        ):
            ended = run(client, task_id, "echo never", resource_files=[resource(name)])
            assert (ended.result, ended.exit_code) == ("failure", None)
            assert (ended.failure_info.code, ended.failure_info.category) == (code, "usererror")
            assert words in ended.failure_info.message
            assert "sig=" not in ended.failure_info.message
        ended = run(
            client,
            "no-output",
            "echo never > f",
            output_files=[output_file("f", base, identity_reference=identity("unlisted"))],
        )
        # It fails before its command has run in vain.
        assert (ended.exit_code, ended.failure_info.code) == (None, "ResourceContainerListMiscError")


def test_credentials_of_s3_reach_the_nodes_of_their_pool_only(new_service: Any, moto_s3: Any, tmp_path: Path) -> None:
    bucket = moto_s3.new_bucket()
    options = moto_s3.options
    config = tmp_path / "millpond.toml"
    config.write_text(
        f"""
        [identities.lab]
        access_key_id = "{options["access_key_id"]}"
        secret_access_key = "very-secret-access-key"
        region = "{options["region"]}"
        endpoint = "{options["endpoint"]}"
        bucket = "{bucket}"
        """
    )
    config.chmod(0o600)
    service = new_service("data", "--config", str(config)).start()
    lab = m.BatchNodeIdentityReference(resource_id=IDENTITY + "lab")
    with batch_client(service) as client:
        make_pool_and_job(client, [IDENTITY + "lab"])
        written = run(
            client,
            "write",
            "echo by a task > out.txt",
            output_files=[output_file("out.txt", f"s3://{bucket}/results", identity_reference=lab)],
        )
        assert (written.exit_code, written.failure_info) == (0, None)
        read = run(
            client,
            "read",
            "cat out.txt results/out.txt; env; cat /proc/$PPID/environ || true",
            resource_files=[
                m.ResourceFile(http_url=f"s3://{bucket}/results/out.txt", file_path="out.txt", identity_reference=lab),
                m.ResourceFile(storage_container_url=f"s3://{bucket}", blob_prefix="results/", identity_reference=lab),
            ],
        )
        assert read.failure_info is None, read.failure_info.message
        assert read.exit_code == 0
        told = b"".join(client.download_task_file("j", "read", "stdout.txt"))
        assert told.startswith(b"by a task\nby a task\n")
        assert b"very-secret" not in told
    # Beside the node's root, in its journal, which is the agent's own; in the root there is no trace of it.
    with_secret = [
        path
        for path in files_below(service.data_dir)
        if path.name != "millpond.log" and b"very-secret" in content_of(path)
    ]
    assert with_secret
    for path in with_secret:
        assert path.name == "journal", path
        assert path.stat().st_mode & 0o077 == 0
    assert "very-secret" not in service.log()
