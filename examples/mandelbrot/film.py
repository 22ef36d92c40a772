"""The film as a batch job, through the official Azure SDK. Nothing here is Millpond's own but the signed URLs of the
account's storage (on Azure they would be SAS URLs of a storage account).
"""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError

from millpond.staging.auto_storage import sign_url

HERE = Path(__file__).resolve().parent
POLL_S = 0.2
"""Between two looks at the service."""
POLLER_S = 1
"""The same for the SDK's own pollers, which take 5 s when not told."""
URLS_VALID_S = 24 * 3600.0
PICTURE = "mandelbrot.png"
ASSEMBLE = "assemble"


class Order(NamedTuple):
    """What is to be made."""

    frames: int
    width: int
    height: int
    nodes: int
    slots_per_node: int
    vm_size: str


class FilmFailed(Exception):
    """A task failed or an output is missing; the text says which and why."""


class Result(NamedTuple):
    """What came of it."""

    picture: bytes
    wall_s: float
    """From adding the first task to the last task's end, as the client saw it."""
    cpu_s: list[float]
    """What each frame says it cost."""


class Storage:
    """The account's own storage by signed URLs."""

    def __init__(self, environment: dict[str, str], container: str) -> None:
        self._endpoint = environment["AZURE_BATCH_ENDPOINT"]
        self._account = environment["AZURE_BATCH_ACCOUNT"]
        self._key = base64.b64decode(environment["AZURE_BATCH_ACCESS_KEY"])
        self._container = container

    def url(self, blob: str | None, permissions: str) -> str:
        expires = time.time() + URLS_VALID_S
        return sign_url(self._endpoint, self._account, self._key, self._container, blob, permissions, expires)

    def put(self, blob: str, content: bytes) -> None:
        request = urllib.request.Request(self.url(blob, "w"), content, {"x-ms-blob-type": "BlockBlob"}, method="PUT")
        with urllib.request.urlopen(request, timeout=60):
            pass

    def get(self, blob: str) -> bytes:
        with urllib.request.urlopen(self.url(blob, "r"), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def has(self, blob: str) -> bool:
        request = urllib.request.Request(self.url(blob, "r"), method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.headers["Content-Length"]) > 0
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise


def connect(environment: dict[str, str]) -> BatchClient:
    return BatchClient(
        endpoint=environment["AZURE_BATCH_ENDPOINT"],
        credential=AzureNamedKeyCredential(environment["AZURE_BATCH_ACCOUNT"], environment["AZURE_BATCH_ACCESS_KEY"]),
    )


class Film:
    """One run of the job: `prepare`, `submit`, `watch`, `result`, `clean_up`."""

    def __init__(self, client: BatchClient, storage: Storage, name: str, order: Order) -> None:
        self._client = client
        self._storage = storage
        self._name = name
        self._order = order
        self._begun = 0.0

    def prepare(self) -> None:
        """Stage the scripts, make the pool and the job. Returns when the nodes are idle."""
        for script in ("render.py", "assemble.py"):
            self._storage.put(script, (HERE / script).read_bytes())
        order = self._order
        self._client.create_pool(
            m.BatchPoolCreateOptions(
                id=self._name,
                vm_size=order.vm_size,
                virtual_machine_configuration=self._image(),
                target_dedicated_nodes=order.nodes,
                task_slots_per_node=order.slots_per_node,
            )
        )
        self._client.create_job(
            m.BatchJobCreateOptions(
                id=self._name, pool_info=m.BatchPoolInfo(pool_id=self._name), uses_task_dependencies=True
            )
        )
        while True:
            pool = self._client.get_pool(self._name)
            if pool.resize_errors:
                raise FilmFailed(f"the pool cannot be made: {pool.resize_errors[0].message}")
            nodes = list(self._client.list_nodes(self._name, select=["id", "state"]))
            if sum(node.state == m.BatchNodeState.IDLE for node in nodes) == order.nodes:
                return
            time.sleep(POLL_S)

    def _image(self) -> m.VirtualMachineConfiguration:
        for image in self._client.list_supported_images():
            if image.os_type == m.OSType.LINUX and image.verification_type == m.ImageVerificationType.VERIFIED:
                return m.VirtualMachineConfiguration(
                    image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
                )
        raise FilmFailed("the service has no Linux image")

    def submit(self) -> None:
        """Add a task for each frame, and one that waits for all of them."""
        order = self._order
        script = m.ResourceFile(http_url=self._storage.url("render.py", "r"), file_path="render.py")
        frames = self._storage.url(None, "w")
        tasks = [
            m.BatchTaskCreateOptions(
                id=str(number),
                command_line=(
                    f"python3 -I render.py --frames {order.frames} --size {order.width}x{order.height} --only {number}"
                ),
                resource_files=[script],
                output_files=[_output(f"frame-{number:04}.png", frames, f"frames/frame-{number:04}.png")],
                constraints=m.BatchTaskConstraints(max_task_retry_count=1, max_wall_clock_time=timedelta(minutes=10)),
            )
            for number in range(order.frames)
        ]
        tasks.append(
            m.BatchTaskCreateOptions(
                id=ASSEMBLE,
                command_line=f"python3 -I assemble.py frames {order.frames} {PICTURE}",
                resource_files=[
                    m.ResourceFile(http_url=self._storage.url("assemble.py", "r"), file_path="assemble.py"),
                    m.ResourceFile(storage_container_url=self._storage.url(None, "rl"), blob_prefix="frames/"),
                ],
                output_files=[_output(PICTURE, frames, PICTURE)],
                depends_on=m.BatchTaskDependencies(task_id_ranges=[m.BatchTaskIdRange(start=0, end=order.frames - 1)]),
            )
        )
        self._begun = time.monotonic()
        # The helper sends 100 at a time and takes them from the end of the list: hand it the list back to front.
        self._client.create_tasks(self._name, tasks[::-1])

    def watch(self, progress: Callable[[int], None]) -> float:
        """Wait for the end of all tasks, telling how many are complete; the wall time. Raises FilmFailed when one of
        them fails."""
        total = self._order.frames + 1
        while True:
            counts = self._client.get_job_task_counts(self._name).task_counts
            progress(counts.completed)
            if counts.failed:
                raise FilmFailed(self._failures())
            if counts.completed == total:
                return time.monotonic() - self._begun
            time.sleep(POLL_S)

    def result(self, wall_s: float) -> Result:
        """The picture and what the frames cost. Raises FilmFailed when an output is missing."""
        blobs = [f"frames/frame-{number:04}.png" for number in range(self._order.frames)]
        missing = [blob for blob in (*blobs, PICTURE) if not self._storage.has(blob)]
        if missing:
            raise FilmFailed(f"{len(missing)} outputs are missing, {missing[0]} to begin with")
        told = json.loads(b"".join(self._client.download_task_file(self._name, ASSEMBLE, "stdout.txt")))
        if told["frames"] != self._order.frames:
            raise FilmFailed(f"{told['frames']} frames were put together, not {self._order.frames}")
        return Result(self._storage.get(PICTURE), wall_s, told["cpu_s"])

    def clean_up(self) -> None:
        """Delete the job and the pool, whatever is there of them."""
        for delete in (self._client.begin_delete_job, self._client.begin_delete_pool):
            try:
                delete(self._name, polling_interval=POLLER_S).result()
            except HttpResponseError as error:
                if error.status_code != 404:
                    raise

    def _failures(self) -> str:
        lines = []
        for task in self._client.list_tasks(self._name, filter="executionInfo/result eq 'failure'"):
            info = task.execution_info
            why = info.failure_info.message if info and info.failure_info else "unknown"
            lines.append(f"task {task.id} failed: {why}" + "".join(f"\n    {line}" for line in self._stderr(task.id)))
        return "\n".join(lines[:5]) or "a task failed"

    def _stderr(self, task_id: Any) -> Iterator[str]:
        try:
            text = b"".join(self._client.download_task_file(self._name, task_id, "stderr.txt"))
        except HttpResponseError:
            return
        yield from text.decode("utf-8", "replace").splitlines()[-5:]


def _output(pattern: str, container_url: str, path: str) -> m.OutputFile:
    return m.OutputFile(
        file_pattern=pattern,
        destination=m.OutputFileDestination(
            container=m.OutputFileBlobContainerDestination(container_url=container_url, path=path)
        ),
        upload_options=m.OutputFileUploadConfiguration(upload_condition=m.OutputFileUploadCondition.TASK_SUCCESS),
    )
