"""Files up, tasks over them, results down: the first job of an Azure Batch user.

    eval "$(millpond env)"
    python examples/quickstart/quickstart.py

Where the account's storage speaks the Azure Blob protocol (`millpond up --blob …`) files are moved by azure-storage-blob,
as with Azure; where it is Millpond's own directory, by the URLs that Millpond signs. The tasks do not know the difference.
"""

import argparse
import base64
import binascii
import os
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import BlobServiceClient, generate_container_sas

from millpond.staging.auto_storage import sign_url

INPUTS = Path(__file__).resolve().parent / "inputs"
VARIABLES = ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY")
CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
LIVES = timedelta(hours=1)
"""How long the signed URLs are good."""
DEADLINE_S = 600.0


class QuickstartFailed(Exception):
    """The text says why."""


class Storage(Protocol):
    """One container for the inputs and the results of a run."""

    def upload(self, name: str, content: bytes) -> None: ...

    def download(self, name: str) -> bytes: ...

    def url(self, permissions: str) -> str:
        """The container's URL, signed."""
        ...


class BlobContainer:
    """A container of an Azure Blob account."""

    def __init__(self, connection_string: str, container: str) -> None:
        self._client = BlobServiceClient.from_connection_string(connection_string).create_container(container)

    def upload(self, name: str, content: bytes) -> None:
        self._client.upload_blob(name, content)

    def download(self, name: str) -> bytes:
        return self._client.download_blob(name).readall()

    def url(self, permissions: str) -> str:
        client = self._client
        sas = generate_container_sas(
            str(client.account_name),
            client.container_name,
            client.credential.account_key,
            permission=permissions,
            expiry=datetime.now(UTC) + LIVES,
        )
        return f"{client.url}?{sas}"


class OwnContainer:
    """A container of Millpond's directory."""

    def __init__(self, container: str) -> None:
        self._container = container

    def upload(self, name: str, content: bytes) -> None:
        request = urllib.request.Request(self._url(name, "w"), content, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()

    def download(self, name: str) -> bytes:
        with urllib.request.urlopen(self._url(name, "r"), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def url(self, permissions: str) -> str:
        return self._url(None, permissions)

    def _url(self, blob: str | None, permissions: str) -> str:
        endpoint, account, key = (os.environ[name] for name in VARIABLES)
        until = time.time() + LIVES.total_seconds()
        return sign_url(endpoint, account, base64.b64decode(key), self._container, blob, permissions, until)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        print(f'{", ".join(missing)} not set: start millpond up, then eval "$(millpond env)"')
        return 1
    try:
        run()
    except binascii.Error:
        print("The quickstart failed: AZURE_BATCH_ACCESS_KEY is not a key, which is base64; see millpond env")
        return 1
    except urllib.error.URLError as error:
        # What refuses says why: a key that is another account's, say.
        why = f"is there a service at {os.environ['AZURE_BATCH_ENDPOINT']}?"
        if isinstance(error, urllib.error.HTTPError):
            why = error.read().decode()
        print(f"The quickstart failed: {error}: {why}")
        return 1
    except (QuickstartFailed, AzureError, OSError) as error:
        print(f"The quickstart failed: {error}")
        return 1
    return 0


def run() -> None:
    name = f"quickstart-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    connection_string = os.environ.get(CONNECTION_STRING)
    storage: Storage = BlobContainer(connection_string, name) if connection_string else OwnContainer(name)
    inputs = sorted(INPUTS.glob("*.txt"))
    for path in inputs:
        storage.upload(f"inputs/{path.name}", path.read_bytes())
        print(f"uploaded   {name}/inputs/{path.name}")

    key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    client = BatchClient(endpoint=os.environ["AZURE_BATCH_ENDPOINT"], credential=key)
    try:
        make_pool(client, name)
        client.create_job(m.BatchJobCreateOptions(id=name, pool_info=m.BatchPoolInfo(pool_id=name)))
        tasks = [task_over(path, storage, name) for path in inputs]
        client.create_tasks(name, tasks)
        print(f"added      {len(tasks)} tasks to job {name}")
        wait(client, name)
        for path in inputs:
            print(f"result     {path.name}: {storage.download(f'results/{path.stem}.txt').decode().strip()}")
    finally:
        clean_up(client, name)


def make_pool(client: BatchClient, name: str) -> None:
    image = next(image for image in client.list_supported_images() if image.os_type == m.OSType.LINUX)
    client.create_pool(
        m.BatchPoolCreateOptions(
            id=name,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=1,
            task_slots_per_node=2,
        )
    )


def task_over(path: Path, storage: Storage, container: str) -> m.BatchTaskCreateOptions:
    """Counts the words of one input; the count goes back to the container."""
    return m.BatchTaskCreateOptions(
        id=path.stem,
        command_line=f"/bin/sh -c 'wc -w < inputs/{path.name} > count.txt'",
        # The container is the account's own, so the service itself signs what the node reads. Of another account's it
        # would be storage_container_url=storage.url("rl").
        resource_files=[
            m.ResourceFile(auto_storage_container_name=container, blob_prefix=f"inputs/{path.name}"),
        ],
        output_files=[
            m.OutputFile(
                file_pattern="count.txt",
                destination=m.OutputFileDestination(
                    container=m.OutputFileBlobContainerDestination(
                        container_url=storage.url("w"), path=f"results/{path.stem}.txt"
                    )
                ),
                upload_options=m.OutputFileUploadConfiguration(
                    upload_condition=m.OutputFileUploadCondition.TASK_SUCCESS
                ),
            )
        ],
    )


def wait(client: BatchClient, name: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while any(task.state != m.BatchTaskState.COMPLETED for task in client.list_tasks(name)):
        if time.monotonic() > deadline:
            raise QuickstartFailed(f"the tasks are not complete after {DEADLINE_S:g} s: millpond explain job {name}")
        time.sleep(0.2)
    for task in client.list_tasks(name):
        info = task.execution_info
        if info is None or info.result != m.BatchTaskExecutionResult.SUCCESS:
            told = info.failure_info.message if info is not None and info.failure_info is not None else "no reason"
            raise QuickstartFailed(f"task {task.id} failed: {told}")


def clean_up(client: BatchClient, name: str) -> None:
    for delete in (client.begin_delete_job, client.begin_delete_pool):
        try:
            delete(name, polling_interval=1).result()
        except HttpResponseError as error:
            if error.status_code != 404:
                raise


if __name__ == "__main__":
    sys.exit(main())
