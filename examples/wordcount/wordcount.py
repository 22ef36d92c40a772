"""Count the words of a folder of text files as a batch job: a task for each file, then one that merges the counts.

    eval "$(millpond env)"
    python examples/wordcount/wordcount.py FOLDER

One task fails on purpose at its first run and is retried by the service. Exit code 0 only if all counts are right.
"""

import argparse
import base64
import binascii
import collections
import os
import sys
import time
import urllib.request
from pathlib import Path

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError
from count import EXIT_ON_PURPOSE, words
from rich.console import Console
from rich.progress import Progress

from millpond.staging.auto_storage import sign_url

HERE = Path(__file__).resolve().parent
VARIABLES = ("AZURE_BATCH_ENDPOINT", "AZURE_BATCH_ACCOUNT", "AZURE_BATCH_ACCESS_KEY")
POLL_S = 0.2
POLLER_S = 1
"""Between two looks of the SDK's own pollers, which take 5 s when not told."""
DEADLINE_S = 3600.0
RETRIES = 2
MERGE = "merge"


class WordCountFailed(Exception):
    """The count did not come about, or is wrong; the text says why."""


class Storage:
    """A container of the account's own storage, by signed URLs."""

    def __init__(self, container: str) -> None:
        self._endpoint, self._account, key = (os.environ[name] for name in VARIABLES)
        self._key = base64.b64decode(key)
        self._container = container

    def url(self, blob: str | None, permissions: str) -> str:
        expires_at = time.time() + DEADLINE_S
        return sign_url(self._endpoint, self._account, self._key, self._container, blob, permissions, expires_at)

    def put(self, blob: str, content: bytes) -> None:
        request = urllib.request.Request(self.url(blob, "w"), content, {"x-ms-blob-type": "BlockBlob"}, method="PUT")
        urllib.request.urlopen(request, timeout=60).close()

    def get(self, blob: str) -> bytes:
        with urllib.request.urlopen(self.url(blob, "r"), timeout=60) as answer:
            content: bytes = answer.read()
            return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=HERE / "texts", help="your texts (the ones shipped)")
    parser.add_argument("--pattern", default="*.txt", help="which files of the folder (*.txt)")
    parser.add_argument("--out", type=Path, default=Path("out/wordcount/words.tsv"), help="where the result goes")
    parser.add_argument("--slots", type=int, default=os.cpu_count() or 1, help="tasks at once (cores of this machine)")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        run(arguments, console)
    except binascii.Error:
        console.print(
            "[bold red]The count failed:[/] AZURE_BATCH_ACCESS_KEY is not a key, which is base64; see millpond env"
        )
        return 1
    except (WordCountFailed, AzureError, OSError) as error:
        console.print(f"[bold red]The count failed:[/] {error}")
        return 1
    return 0


def run(arguments: argparse.Namespace, console: Console) -> None:
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise WordCountFailed(f'{", ".join(missing)} not set: start millpond up, then eval "$(millpond env)"')
    texts = sorted(path for path in arguments.folder.glob(arguments.pattern) if path.is_file())
    if not texts:
        raise WordCountFailed(f"no {arguments.pattern} in {arguments.folder}")
    name = f"wordcount-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    storage = Storage(name)
    client = BatchClient(
        endpoint=os.environ["AZURE_BATCH_ENDPOINT"],
        credential=AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"]),
    )
    try:
        submit(client, storage, name, texts, arguments.slots)
        wait(client, console, name, len(texts) + 1)
        tell_retries(client, console, name, texts)
        result = storage.get("words.tsv")
    finally:
        clean_up(client, name)
    check(result, texts)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(result)
    for line in result.decode().splitlines()[:10]:
        console.print(line)
    console.print(f"All words of {len(texts)} files: {arguments.out}")


def submit(client: BatchClient, storage: Storage, name: str, texts: list[Path], slots: int) -> None:
    """Stage scripts and texts, make pool and job, add the tasks."""
    for script in ("count.py", "merge.py"):
        storage.put(script, (HERE / script).read_bytes())
    for number, path in enumerate(texts):
        storage.put(f"texts/{number}.txt", path.read_bytes())
    image = next(image for image in client.list_supported_images() if image.os_type == m.OSType.LINUX)
    client.create_pool(
        m.BatchPoolCreateOptions(
            id=name,
            vm_size="standard_a1_v2",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=1,
            task_slots_per_node=slots,
        )
    )
    client.create_job(
        m.BatchJobCreateOptions(id=name, pool_info=m.BatchPoolInfo(pool_id=name), uses_task_dependencies=True)
    )
    # The one in the middle fails at its first run.
    tasks = [count_task(storage, number, fails=number == len(texts) // 2) for number in range(len(texts))]
    tasks.append(merge_task(storage, len(texts)))
    # The helper takes tasks from the end of the list.
    client.create_tasks(name, tasks[::-1])


def count_task(storage: Storage, number: int, *, fails: bool) -> m.BatchTaskCreateOptions:
    return m.BatchTaskCreateOptions(
        id=str(number),
        command_line="python3 count.py text.txt counts.json",
        resource_files=[
            m.ResourceFile(http_url=storage.url("count.py", "r"), file_path="count.py"),
            m.ResourceFile(http_url=storage.url(f"texts/{number}.txt", "r"), file_path="text.txt"),
        ],
        output_files=[output(storage, "counts.json", f"counts/{number}.json")],
        environment_settings=[m.EnvironmentSetting(name="FAIL_ONCE_URL", value=storage.url("failed-once", "rw"))]
        if fails
        else None,
        constraints=m.BatchTaskConstraints(max_task_retry_count=RETRIES),
    )


def merge_task(storage: Storage, files: int) -> m.BatchTaskCreateOptions:
    return m.BatchTaskCreateOptions(
        id=MERGE,
        command_line=f"python3 merge.py counts {files} words.tsv",
        resource_files=[
            m.ResourceFile(http_url=storage.url("merge.py", "r"), file_path="merge.py"),
            m.ResourceFile(storage_container_url=storage.url(None, "rl"), blob_prefix="counts/"),
        ],
        output_files=[output(storage, "words.tsv", "words.tsv")],
        depends_on=m.BatchTaskDependencies(task_id_ranges=[m.BatchTaskIdRange(start=0, end=files - 1)]),
    )


def output(storage: Storage, pattern: str, path: str) -> m.OutputFile:
    return m.OutputFile(
        file_pattern=pattern,
        destination=m.OutputFileDestination(
            container=m.OutputFileBlobContainerDestination(container_url=storage.url(None, "w"), path=path)
        ),
        upload_options=m.OutputFileUploadConfiguration(upload_condition=m.OutputFileUploadCondition.TASK_SUCCESS),
    )


def wait(client: BatchClient, console: Console, name: str, total: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    with Progress(console=console) as progress:
        bar = progress.add_task("counting", total=total)
        while True:
            counts = client.get_job_task_counts(name).task_counts
            progress.update(bar, completed=counts.completed)
            if counts.completed == total or counts.failed:
                break
            if time.monotonic() > deadline:
                raise WordCountFailed(f"after {DEADLINE_S:g} s only {counts.completed} of {total} tasks are complete")
            time.sleep(POLL_S)
    for task in client.list_tasks(name, filter="executionInfo/result eq 'failure'"):
        info = task.execution_info
        raise WordCountFailed(
            f"task {task.id} failed: {info.failure_info.message if info and info.failure_info else 'unknown'}"
        )


def tell_retries(client: BatchClient, console: Console, name: str, texts: list[Path]) -> None:
    """Say which tasks were run again. Raises WordCountFailed unless it is the one that fails on purpose."""
    retried = {}
    for task in client.list_tasks(name):
        info = task.execution_info
        if info is not None and info.retry_count:
            retried[task.id] = info.retry_count
    for task_id, retry_count in retried.items():
        assert task_id is not None
        console.print(
            f"Task {task_id} ({texts[int(task_id)].name}) failed at its first run, on purpose, with exit code "
            f"{EXIT_ON_PURPOSE}; the service ran it again (retry count {retry_count}) and it succeeded."
        )
    if list(retried) != [str(len(texts) // 2)]:
        raise WordCountFailed(f"one task should have been retried, not {sorted(map(str, retried))}")


def check(result: bytes, texts: list[Path]) -> None:
    """Raises WordCountFailed unless the result is what counting here gives."""
    expected: collections.Counter[str] = collections.Counter()
    for path in texts:
        expected.update(words(path.read_text(encoding="utf-8", errors="replace")))
    found = {word: int(count) for count, word in (line.split("\t") for line in result.decode().splitlines())}
    if found != expected:
        raise WordCountFailed("the merged counts are not those of the texts")


def clean_up(client: BatchClient, name: str) -> None:
    for delete in (client.begin_delete_job, client.begin_delete_pool):
        try:
            delete(name, polling_interval=POLLER_S).result()
        except HttpResponseError as error:
            if error.status_code != 404:
                raise


if __name__ == "__main__":
    sys.exit(main())
