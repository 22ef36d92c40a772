"""Convert films with ffmpeg, a task a file: the sound of each MP4 becomes an MP3.

    eval "$(millpond env)"
    python examples/ffmpeg/convert.py                   three clips made on the spot, and one that is broken
    python examples/ffmpeg/convert.py FILM.mp4 ...      films of your own

Exit code 0 only if every MP3 is what it should be, and the task of the broken clip failed as it should.
"""

import argparse
import binascii
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from typing import NamedTuple

from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import AzureError, HttpResponseError
from container import VARIABLES, Container, open_container

CLIPS = 3
BROKEN = "broken"
# -xerror: a film that breaks off is an error, not a shorter film. A command line is not read by a shell.
FFMPEG = "ffmpeg -nostdin -nostats -hide_banner -xerror -i film sound.mp3"
DEADLINE_S = 3600.0
NODES_FAILED = (m.BatchNodeState.START_TASK_FAILED, m.BatchNodeState.UNUSABLE)


class ConversionFailed(Exception):
    """The text says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path, nargs="*", metavar="FILM", help="your own films (clips made on the spot)")
    parser.add_argument("--out", type=Path, default=Path("out/ffmpeg"), help="where the results go (out/ffmpeg)")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of the pool (2)")
    parser.add_argument("--package", metavar="ID", help="an application package whose to-mp3.sh is used (README.md)")
    arguments = parser.parse_args()
    try:
        run(arguments.films, arguments.out, arguments.nodes, arguments.package)
    except binascii.Error:
        print("The conversion failed: AZURE_BATCH_ACCESS_KEY is not a key, which is base64; see millpond env")
        return 1
    except urllib.error.URLError as error:
        # What refuses says why: a key that is another account's, say.
        why = f"is there a service at {os.environ['AZURE_BATCH_ENDPOINT']}?"
        if isinstance(error, urllib.error.HTTPError):
            why = error.read().decode()
        print(f"The conversion failed: {error}: {why}")
        return 1
    except (ConversionFailed, AzureError, OSError) as error:
        print(f"The conversion failed: {error}")
        return 1
    return 0


def run(films: list[Path], out: Path, nodes: int, package: str | None) -> None:
    if missing := [name for name in VARIABLES if not os.environ.get(name)]:
        raise ConversionFailed(f'{", ".join(missing)} not set: start millpond up, then eval "$(millpond env)"')
    if missing := [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]:
        raise ConversionFailed(f"there is no {' and no '.join(missing)} here (Debian, Ubuntu: apt install ffmpeg)")
    with tempfile.TemporaryDirectory() as directory:
        tasks = task_ids(films or make_clips(Path(directory)))
        convert(tasks, out, nodes, package, expected_to_fail=set() if films else {BROKEN})


def make_clips(directory: Path) -> list[Path]:
    """Clips of a second, with a tone each, and one whose end is missing."""
    clips = [directory / f"clip-{number}.mp4" for number in range(1, CLIPS + 1)]
    for number, path in enumerate(clips, start=1):
        picture = ("-f", "lavfi", "-i", "testsrc2=size=160x90:rate=10:duration=1")
        tone = ("-f", "lavfi", "-i", f"sine=frequency={220 * number}:duration=1")
        # What describes the film comes first in the file, so that the broken one can be read until it breaks off.
        subprocess.run(["ffmpeg", "-v", "error", *picture, *tone, "-movflags", "+faststart", str(path)], check=True)
    whole = clips[0].read_bytes()
    broken = directory / f"{BROKEN}.mp4"
    broken.write_bytes(whole[: len(whole) * 6 // 10])
    return [*clips, broken]


def task_ids(films: list[Path]) -> dict[str, Path]:
    """A task for each film, called like it."""
    tasks: dict[str, Path] = {}
    for path in films:
        task_id = re.sub(r"[^A-Za-z0-9_-]", "-", path.stem)[:64]
        if task_id in tasks:
            raise ConversionFailed(f"{tasks[task_id]} and {path} would both be task {task_id}: rename one")
        tasks[task_id] = path
    return tasks


def convert(tasks: dict[str, Path], out: Path, nodes: int, package: str | None, expected_to_fail: set[str]) -> None:
    name = f"ffmpeg-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    inputs, outputs = open_container(f"{name}-in"), open_container(f"{name}-out")
    for path in tasks.values():
        inputs.upload(path.name, path)
        print(f"uploaded   {name}-in/{path.name}, {path.stat().st_size} bytes")

    key = AzureNamedKeyCredential(os.environ["AZURE_BATCH_ACCOUNT"], os.environ["AZURE_BATCH_ACCESS_KEY"])
    client = BatchClient(endpoint=os.environ["AZURE_BATCH_ENDPOINT"], credential=key)
    try:
        make_pool(client, name, nodes, package)
        client.create_job(m.BatchJobCreateOptions(id=name, pool_info=m.BatchPoolInfo(pool_id=name)))
        command_line = FFMPEG
        if package:
            command_line = f"/bin/sh -c '$AZ_BATCH_APP_PACKAGE_{variable(package)}/to-mp3.sh film sound.mp3'"
        client.create_tasks(name, [task(*pair, command_line, inputs, outputs) for pair in tasks.items()])
        print(f"added      {len(tasks)} tasks to job {name}")
        failed = wait(client, name)
        for task_id, why in failed.items():
            print(f"failed     {tasks[task_id].name}: {why}")
        fetch(tasks, outputs, out, failed)
        for task_id, film in tasks.items():
            if task_id in failed:
                show_log(client, name, task_id, out)
            else:
                check(film, out / f"{film.stem}.mp3")
        if failed.keys() - expected_to_fail:
            raise ConversionFailed(f"{len(failed)} of {len(tasks)} tasks failed; the logs are in {out / 'logs'}")
        if expected_to_fail - failed.keys():
            raise ConversionFailed("the task of the broken clip should have failed, and did not")
    finally:
        clean_up(client, name)


def variable(package: str) -> str:
    """A package's id as it is in the name of its variable."""
    return re.sub(r"[.#-]", "_", package)


def make_pool(client: BatchClient, name: str, nodes: int, package: str | None) -> None:
    image = next(image for image in client.list_supported_images() if image.os_type == m.OSType.LINUX)
    client.create_pool(
        m.BatchPoolCreateOptions(
            id=name,
            vm_size="standard_a1_v2",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=nodes,
            # A local node is this machine: what is installed here is there. On a bare machine in the cloud the start
            # task would be "apt-get update && apt-get install -y ffmpeg", by an admin user.
            start_task=m.BatchStartTask(command_line="ffmpeg -version", wait_for_success=True),
            application_package_references=[m.BatchApplicationPackageReference(application_id=package)]
            if package
            else None,
        )
    )


def task(
    task_id: str, film: Path, command_line: str, inputs: Container, outputs: Container
) -> m.BatchTaskCreateOptions:
    """Reads its film by a URL that is good for that film only, and writes by one that can do nothing but write."""

    def output(pattern: str, path: str, condition: m.OutputFileUploadCondition) -> m.OutputFile:
        return m.OutputFile(
            file_pattern=pattern,
            destination=m.OutputFileDestination(
                container=m.OutputFileBlobContainerDestination(container_url=outputs.url("w"), path=path)
            ),
            upload_options=m.OutputFileUploadConfiguration(upload_condition=condition),
        )

    return m.BatchTaskCreateOptions(
        id=task_id,
        command_line=command_line,
        resource_files=[m.ResourceFile(http_url=inputs.url("r", film.name), file_path="film")],
        output_files=[
            output("sound.mp3", f"{film.stem}.mp3", m.OutputFileUploadCondition.TASK_SUCCESS),
            # ffmpeg tells all it has to tell on standard error.
            output("../stderr.txt", f"logs/{task_id}.txt", m.OutputFileUploadCondition.TASK_COMPLETION),
        ],
    )


def wait(client: BatchClient, name: str) -> dict[str, str]:
    """Until all tasks are complete; why those failed that did."""
    deadline = time.monotonic() + DEADLINE_S
    while any(task.state != m.BatchTaskState.COMPLETED for task in client.list_tasks(name)):
        for node in client.list_nodes(name):
            if node.state in NODES_FAILED:
                raise ConversionFailed(f"node {node.id} is {m.BatchNodeState(node.state).value}: {told_by(node)}")
        if time.monotonic() > deadline:
            raise ConversionFailed(f"the tasks are not complete after {DEADLINE_S:g} s: millpond explain job {name}")
        time.sleep(0.2)
    failed = {}
    for task in client.list_tasks(name):
        info = task.execution_info
        if info is not None and info.result == m.BatchTaskExecutionResult.FAILURE:
            code = "" if info.exit_code is None else f" (exit code {info.exit_code})"
            failed[str(task.id)] = f"{info.failure_info.message if info.failure_info else 'no reason'}{code}"
    return failed


def told_by(node: m.BatchNode) -> str:
    info = node.start_task_info
    if info is not None and info.failure_info is not None:
        return f"its start task, which looks for ffmpeg, failed: {info.failure_info.message}"
    told = [
        text for error in node.errors or [] for text in (error.message, *(d.value for d in error.error_details or []))
    ]
    return "; ".join(filter(None, told)) or "it does not say why"


def fetch(tasks: dict[str, Path], outputs: Container, out: Path, failed: dict[str, str]) -> None:
    """Raises ConversionFailed unless there are exactly the log of every task and the MP3 of every one that succeeded."""
    found = outputs.names()
    expected = {f"logs/{task_id}.txt" for task_id in tasks}
    expected |= {f"{film.stem}.mp3" for task_id, film in tasks.items() if task_id not in failed}
    if set(found) != expected:
        raise ConversionFailed(f"uploaded were {', '.join(found)}; should have been {', '.join(sorted(expected))}")
    (out / "logs").mkdir(parents=True, exist_ok=True)
    for name in found:
        outputs.download(name, out / name)


def show_log(client: BatchClient, job: str, task_id: str, out: Path) -> None:
    """The end of a failed task's log, and whether half an MP3 is on its node."""
    log = out / "logs" / f"{task_id}.txt"
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]:
        print(f"log        {log}: {line}")
    if any(file.name == "wd/sound.mp3" for file in client.list_task_files(job, task_id, recursive=True)):
        print(f"           What task {task_id} had written by then is on its node, and was not uploaded.")


def check(film: Path, mp3: Path) -> None:
    """Raises ConversionFailed unless the MP3 is as long as the sound of the film."""
    before, after = probe(film), probe(mp3)
    if after.codec != "mp3" or abs(after.duration_s - before.duration_s) > max(0.25, 0.01 * before.duration_s):
        raise ConversionFailed(f"{film.name} is {before}, and {mp3} is {after}")
    size = mp3.stat().st_size
    print(f"result     {mp3}: {after.codec}, {after.duration_s:.1f} s, {after.sample_rate} Hz, {size} bytes")


class Sound(NamedTuple):
    codec: str
    duration_s: float
    sample_rate: int


def probe(path: Path) -> Sound:
    """What ffprobe says of the first sound in a file."""
    command = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-of", "json", "-show_format", "-show_streams"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConversionFailed(f"ffprobe cannot read {path}: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    if not told["streams"]:
        raise ConversionFailed(f"{path} has no sound")
    (stream,) = told["streams"]
    duration_s = float(stream.get("duration", told["format"].get("duration", "nan")))
    return Sound(stream["codec_name"], duration_s, int(stream["sample_rate"]))


def clean_up(client: BatchClient, name: str) -> None:
    for delete in (client.begin_delete_job, client.begin_delete_pool):
        try:
            delete(name, polling_interval=1).result()
        except HttpResponseError as error:
            if error.status_code != 404:
                raise


if __name__ == "__main__":
    sys.exit(main())
