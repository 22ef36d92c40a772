"""Run an MPI program over several nodes as one multi-instance task: Open MPI's mpirun, without ssh.

    eval "$(millpond env)"
    python examples/mpi_ring/mpi_ring.py --nodes 3 --ranks-per-node 2

Exit code 0 only if every rank on every node took part, and all agree on the result.
"""

import argparse
import base64
import binascii
import collections
import os
import re
import sys
import time
import urllib.request
from datetime import timedelta
from pathlib import Path

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError
from rich.console import Console

from millpond.staging.auto_storage import sign_url

HERE = Path(__file__).resolve().parent
VARIABLES = ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY")
POLL_S = 0.2
POLLER_S = 1
"""Between two looks of the SDK's own pollers, which take 5 s when not told."""
DEADLINE_S = 600.0
TASK = "ring"
LINE = re.compile(r"rank (\d+) of (\d+) on (\S+): token (\d+), sum (\d+)")

# Each node compiles the program for itself, where all processes of the instance find it. (No shell reads a command line
# unless it is asked to.)
COORDINATION = """/bin/sh -c 'mpicc -o "$AZ_BATCH_TASK_SHARED_DIR/ring" "$AZ_BATCH_TASK_SHARED_DIR/ring.c"'"""
# The inner shell runs on the node of each rank: the variable is that node's.
APPLICATION = (
    """/bin/sh -c 'mpirun --host "$AZ_BATCH_HOST_LIST" --oversubscribe --npernode {ranks} """
    """sh -c "exec \\"\\$AZ_BATCH_TASK_SHARED_DIR/ring\\""'"""
)


class RingFailed(Exception):
    """The ring did not come round; the text says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2, help="nodes, and instances of the task (2)")
    parser.add_argument("--ranks-per-node", type=int, default=2, help="processes of the program on each node (2)")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        run(arguments.nodes, arguments.ranks_per_node, console)
    except binascii.Error:
        console.print(
            "[bold red]The ring failed:[/] AZURE_BATCH_ACCESS_KEY is not a key, which is base64; see millpond env"
        )
        return 1
    except (RingFailed, AzureError, OSError) as error:
        console.print(f"[bold red]The ring failed:[/] {error}")
        return 1
    return 0


def run(nodes: int, ranks: int, console: Console) -> None:
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise RingFailed(f'{", ".join(missing)} not set: start millpond up, then eval "$(millpond env)"')
    name = f"mpi-ring-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    client = BatchClient(
        endpoint=os.environ["AZURE_BATCH_ENDPOINT"],
        credential=AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"]),
    )
    try:
        submit(client, name, stage(name), nodes, ranks)
        wait(client, name)
        tell(client, console, name, nodes, ranks)
    finally:
        clean_up(client, name)


def stage(container: str) -> str:
    """Put the program into the account's own storage; a signed URL of it."""
    endpoint, account, key = (os.environ[name] for name in VARIABLES)

    def url(permissions: str) -> str:
        expires_at = time.time() + DEADLINE_S
        return sign_url(endpoint, account, base64.b64decode(key), container, "ring.c", permissions, expires_at)

    content = (HERE / "ring.c").read_bytes()
    request = urllib.request.Request(url("w"), content, {"x-ms-blob-type": "BlockBlob"}, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()
    return url("r")


def submit(client: BatchClient, name: str, program_url: str, nodes: int, ranks: int) -> None:
    """A pool whose nodes may talk to each other and run one task at a time, and a task that takes all of them."""
    image = next(image for image in client.list_supported_images() if image.os_type == m.OSType.LINUX)
    client.create_pool(
        m.BatchPoolCreateOptions(
            id=name,
            vm_size="standard_a1_v2",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=nodes,
            task_slots_per_node=1,
            enable_inter_node_communication=True,
        )
    )
    client.create_job(m.BatchJobCreateOptions(id=name, pool_info=m.BatchPoolInfo(pool_id=name)))
    client.create_task(
        name,
        m.BatchTaskCreateOptions(
            id=TASK,
            command_line=APPLICATION.format(ranks=ranks),
            multi_instance_settings=m.MultiInstanceSettings(
                number_of_instances=nodes,
                coordination_command_line=COORDINATION,
                common_resource_files=[m.ResourceFile(http_url=program_url, file_path="ring.c")],
            ),
            constraints=m.BatchTaskConstraints(max_wall_clock_time=timedelta(minutes=5)),
        ),
    )


def wait(client: BatchClient, name: str) -> None:
    """Raises RingFailed when the task does, with what it said."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        task = client.get_task(name, TASK)
        if task.state == m.BatchTaskState.COMPLETED:
            break
        if time.monotonic() > deadline:
            raise RingFailed(f"after {DEADLINE_S:g} s the task is still {task.state}")
        time.sleep(POLL_S)
    info = task.execution_info
    if info is None or info.result != m.BatchTaskExecutionResult.SUCCESS:
        reason = info.failure_info.message if info and info.failure_info else "unknown"
        raise RingFailed(f"{reason}\n{file_of(client, name, 'stderr.txt')}")


def tell(client: BatchClient, console: Console, name: str, nodes: int, ranks: int) -> None:
    """Show what each rank said. Raises RingFailed unless it is right."""
    text = file_of(client, name, "stdout.txt")
    found = {int(match[1]): match for match in LINE.finditer(text)}
    for _, match in sorted(found.items()):
        console.print(match[0])
    size = nodes * ranks
    token = str(sum(range(size)))
    where = collections.Counter(match[3] for match in found.values())
    if set(found) != set(range(size)) or any((match[2], match[5]) != (str(size), token) for match in found.values()):
        raise RingFailed(f"{size} ranks should have agreed on {token}:\n{text}")
    if len(where) != nodes or set(where.values()) != {ranks}:
        raise RingFailed(f"each of {nodes} nodes should have run {ranks} ranks, not {dict(where)}")
    if found[0][4] != token:
        raise RingFailed(f"the token came back as {found[0][4]}, not {token}")
    subtasks = list(client.list_subtasks(name, TASK))
    console.print(f"{size} ranks on {nodes} nodes: the primary and {len(subtasks)} subtask(s), no ssh")


def file_of(client: BatchClient, name: str, file: str) -> str:
    return b"".join(client.download_task_file(name, TASK, file)).decode(errors="replace")


def clean_up(client: BatchClient, name: str) -> None:
    for delete in (client.begin_delete_job, client.begin_delete_pool):
        try:
            delete(name, polling_interval=POLLER_S).result()
        except HttpResponseError as error:
            if error.status_code != 404:
                raise


if __name__ == "__main__":
    sys.exit(main())
