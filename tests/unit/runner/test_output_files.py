"""Output files through the runner: when they are uploaded, what is told of it, and files that are not as they should be."""

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from millpond.agent.base import Outcome
from millpond.agent.executors.fake import FakeRun
from millpond.agent.runner.hooks import output_files
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import TaskKind
from millpond.protocol.messages import Start
from tests.unit.runner.staging import MemoryStaging
from tests.unit.runner.test_task_runner import Bench, code_of, crash, output, time_is_up
from tests.waiting import until_true


@pytest.fixture(name="bench")
async def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "root", monkeypatch)
    yield bench
    for runner in bench.runners:
        await runner.close()


def writes(bench: Bench, *names: str | bytes) -> None:
    """The task writes these files, below `wd`."""

    def act(process: object) -> None:
        for name in names:
            path = os.path.join(os.fsencode(bench.wd), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"said")

    bench.act = act


def out(bench: Bench) -> str:
    return (bench.task / "fileuploadout.txt").read_text()


def err(bench: Bench) -> str:
    return (bench.task / "fileuploaderr.txt").read_text()


async def run(bench: Bench, *, exit_code: int = 0, kind: TaskKind = TaskKind.TASK, **start: Any) -> Outcome:
    bench.plan = FakeRun(exit_code=exit_code)
    spec = {"commandLine": "run it", "outputFiles": [output("*.txt")], **start.pop("spec", {})}
    directive = Start(1, 7, 1, "job", "task", 1, json.dumps(spec).encode(), kind=kind, **start)
    return await bench.runner.run(directive, bench.started.append, resumed=False)


# --- when ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "will_retry", "uploaded"), [(0, True, True), (3, True, False), (3, False, True), (0, False, True)]
)
async def test_only_the_run_that_completes_the_task_uploads(
    bench: Bench, exit_code: int, *, will_retry: bool, uploaded: bool
) -> None:
    writes(bench, "a.txt")
    outcome = await run(bench, exit_code=exit_code, will_retry=will_retry)
    assert (outcome.exit_code, outcome.failure) == (exit_code, None)
    assert ("mem://out/a.txt" in bench.staging.files) is uploaded
    assert (bench.task / "fileuploadout.txt").exists() is uploaded


async def test_a_run_that_timed_out_is_not_repeated_and_uploads(bench: Bench) -> None:
    writes(bench, "a.txt")
    bench.plan = FakeRun(exit_code=0, duration_s=600.0)
    spec = {"commandLine": "x", "outputFiles": [output("*.txt")], "constraints": {"maxWallClockTime": "PT1H"}}
    start = Start(1, 7, 1, "job", "task", 1, json.dumps(spec).encode(), will_retry=True)
    run = asyncio.create_task(bench.runner.run(start, bench.started.append, resumed=False))
    await until_true(lambda: bench.executor.started)
    time_is_up(bench.runner)
    outcome = await run
    assert code_of(outcome) == "TaskEnded"
    assert "mem://out/a.txt" in bench.staging.files


@pytest.mark.parametrize("kind", [TaskKind.START_TASK, TaskKind.JOB_PREPARATION, TaskKind.JOB_RELEASE])
async def test_special_tasks_upload_nothing(bench: Bench, kind: TaskKind) -> None:
    await run(bench, kind=kind, spec={"outputFiles": [output("../*.txt"), output("*")]})
    assert bench.staging.files == {}


async def test_the_wall_clock_does_not_count_uploads(bench: Bench) -> None:
    writes(bench, "a.txt")
    bench.staging.gate.clear()
    task = asyncio.create_task(run(bench, spec={"constraints": {"maxWallClockTime": "PT1H"}}))
    await until_true(lambda: bench.staging.waiting)
    assert bench.runner._running[7, 1].deadline_timer is None
    bench.staging.gate.set()
    assert (await task).failure is None


async def test_uploads_are_done_again_by_the_agents_next_life(bench: Bench) -> None:
    writes(bench, "a.txt", "b.txt")
    bench.staging.gate.clear()
    first = bench.begin(outputFiles=[output("*.txt")])
    await until_true(lambda: bench.staging.waiting == 2)
    await crash(bench, first)
    bench.staging.gate.set()
    outcome = await bench.begin(resumed=True, outputFiles=[output("*.txt")])
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert bench.staging.files.keys() == {"mem://out/a.txt", "mem://out/b.txt"}
    # The files about it tell of the life that got through.
    assert "all uploads are done" in out(bench)
    assert err(bench) == ""


# --- what is told -------------------------------------------------------------------------------------------------


async def test_each_file_is_told_of_while_it_goes_on(bench: Bench) -> None:
    writes(bench, "a.txt")
    bench.staging.gate.clear()
    task = asyncio.create_task(run(bench))
    await until_true(lambda: bench.staging.waiting)
    assert out(bench).rstrip().endswith(f"uploading {bench.wd}/a.txt (4 bytes) as a.txt")
    bench.staging.gate.set()
    await task
    assert f"uploaded {bench.wd}/a.txt as a.txt" in out(bench)


async def test_a_failure_says_which_file_and_which_code(bench: Bench) -> None:
    writes(bench, "a.txt")
    bench.staging.refuse = TaskFailure(TaskFailureCode.FILE_UPLOAD_CONTAINER_NOT_FOUND, "no such container")
    outcome = await run(bench)
    assert code_of(outcome) == "FileUploadContainerNotFound"
    assert f"failed {bench.wd}/a.txt: FileUploadContainerNotFound: no such container" in err(bench)
    assert outcome.failure is not None
    assert {detail.name: detail.value for detail in outcome.failure.details} == {"LocalPath": f"{bench.wd}/a.txt"}


@pytest.mark.parametrize(
    ("pattern", "hinted"),
    [
        ("stdout.txt", True),
        ("std*.txt", True),
        ("./stderr.txt", True),
        ("*.dat", False),
        ("../nothing.txt", False),
        ("/stdout.txt", False),
        ("../std*.txt", False),
    ],
)
async def test_the_frequent_mistake_is_pointed_out(bench: Bench, pattern: str, *, hinted: bool) -> None:
    bench.act = lambda process: (bench.task / "stdout.txt").touch() or (bench.task / "stderr.txt").touch()
    outcome = await run(bench, spec={"outputFiles": [output(pattern)]})
    assert outcome.failure is None
    assert ("one level above" in out(bench)) is hinted


# --- files that are not as they should be ---------------------------------------------------------------------------


async def test_names_of_all_sorts(bench: Bench) -> None:
    writes(bench, "a b.txt", "ü/é.txt", "new\nline.txt", "50%.txt", "#.txt")
    await run(bench, spec={"outputFiles": [output("**/*.txt")]})
    assert set(bench.staging.files) == {
        f"mem://out/{name}" for name in ("a b.txt", "ü/é.txt", "new\nline.txt", "50%.txt", "#.txt")
    }
    assert all(line.startswith("20") for line in out(bench).splitlines())


async def test_a_name_that_is_no_text_cannot_be_a_blobs(bench: Bench) -> None:
    writes(bench, b"bad\xff.txt")
    outcome = await run(bench)
    assert code_of(outcome) == "FileUploadMiscError"
    assert "not UTF-8" in err(bench)
    assert outcome.failure is not None
    # It can be sent to the control plane.
    outcome.failure.message.encode()


async def test_a_file_that_vanishes_before_its_turn_is_as_if_it_had_never_been(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_files, "_PARALLEL", 1)
    writes(bench, "a.txt", "b.txt")
    bench.staging.gate.clear()
    bench.next_life()
    task = asyncio.create_task(run(bench))
    await until_true(lambda: bench.staging.waiting)
    (bench.wd / "b.txt").unlink()
    # One that is being read is read to its end.
    (bench.wd / "a.txt").unlink()
    bench.staging.gate.set()
    assert (await task).failure is None
    assert bench.staging.files == {"mem://out/a.txt": b"said"}
    assert f"skipped {bench.wd}/b.txt" in out(bench)


async def test_a_file_that_becomes_a_pipe_does_not_hang(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_files, "_PARALLEL", 1)
    writes(bench, "a.txt", "b.txt")
    bench.staging.gate.clear()
    bench.next_life()
    task = asyncio.create_task(run(bench))
    await until_true(lambda: bench.staging.waiting)
    (bench.wd / "b.txt").unlink()
    os.mkfifo(bench.wd / "b.txt")
    bench.staging.gate.set()
    assert code_of(await task) == "FileUploadMiscError"
    assert "not a regular file" in err(bench)


async def test_a_file_that_cannot_be_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, run_as: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(output_files, "_open", refuse)
    writes(bench, "a.txt")
    outcome = await run(bench)
    assert code_of(outcome) == "FileUploadMiscError"
    assert "cannot be read" in err(bench)


async def test_thousands_of_files_a_few_at_a_time(bench: Bench) -> None:
    class Counting(MemoryStaging):
        most = now = 0

        async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0)
            await super().put(path, container_url, name, headers)
            self.now -= 1

    bench.staging = staging = Counting()
    bench.next_life()
    writes(bench, *(f"{number % 7}/{number}.dat" for number in range(2000)))
    outcome = await run(bench, spec={"outputFiles": [output("**/*.dat", path="all")]})
    assert outcome.failure is None
    assert len(staging.files) == 2000
    assert 1 < staging.most <= output_files._PARALLEL


async def test_a_disk_without_room_for_the_log_costs_the_log_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A directory is where the log would be.
    writes(bench, "a.txt", "../fileuploadout.txt/in-the-way", "../fileuploaderr.txt/in-the-way")
    assert (await run(bench)).failure is None
    assert "mem://out/a.txt" in bench.staging.files


async def test_the_log_follows_no_link_of_the_task(bench: Bench, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")

    def act(process: object) -> None:
        (bench.wd / "a.txt").touch()
        (bench.task / "fileuploadout.txt").symlink_to(victim)
        os.link(victim, bench.task / "fileuploaderr.txt")

    bench.act = act
    assert (await run(bench)).failure is None
    assert victim.read_text() == "mine"
