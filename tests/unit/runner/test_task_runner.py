"""The runner through its seam, over pretended processes and storage in memory."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millpond.agent.base import NodeFacts, Outcome, ProcessSpec
from millpond.agent.executors.fake import FakeExecutor, FakeRun
from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.runner import task_runner
from millpond.agent.runner.task_runner import TaskRunner
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import ErrorCategory
from millpond.protocol.messages import Start
from tests.unit.runner.staging import MemoryStaging
from tests.waiting import until_true

FOR_EVER_S = 600.0


class Bench:
    """A runner with its surroundings."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.begins = False
        """Attempts that can be are run by callbacks."""
        self.plan = FakeRun()
        self.act: Callable[[ProcessSpec], None] = lambda process: None
        """What the pretended process does to the disk when it begins."""
        self.executor = FakeExecutor(self._plan, time.time)
        self.staging = MemoryStaging()
        self.facts = NodeFacts("node", "pool", "account", "https://account", is_dedicated=True, root=str(root))
        self.runners: list[TaskRunner] = []
        self.runner = self.next_life()
        self.started: list[float] = []
        monkeypatch.setattr(task_runner, "_RETRY_PAUSE_S", 0.0)

    def _plan(self, process: ProcessSpec) -> FakeRun:
        self.act(process)
        return self.plan

    def next_life(self) -> TaskRunner:
        """As after a restart of the agent: nothing in memory."""
        self.runner = TaskRunner(
            self.facts, self.executor, self.staging, directories=NodeDirectories(str(self.root), time.time)
        )
        self.runners.append(self.runner)
        return self.runner

    def start(self, attempt: int = 1, *, common: tuple[tuple[str, str], ...] = (), **spec: Any) -> Start:
        wire = {"id": "task", "commandLine": "run it", **spec}
        return Start(1, 7, attempt, "job", "task", 1, json.dumps(wire).encode(), common)

    async def run(self, attempt: int = 1, *, resumed: bool = False, **spec: Any) -> Outcome:
        if self.begins and not resumed:
            ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            if self.runner.begin(self.start(attempt, **spec), time.time(), self.started.append, ended.set_result):
                return await asyncio.shield(ended)
        began = self.started[0] if resumed and self.started else None
        return await self.runner.run(self.start(attempt, **spec), self.started.append, resumed=resumed, began=began)

    def begin(self, attempt: int = 1, *, resumed: bool = False, **spec: Any) -> "asyncio.Task[Outcome]":
        return asyncio.create_task(self.run(attempt, resumed=resumed, **spec))

    @property
    def task(self) -> Path:
        return self.root / "workitems/job/job-1/task"

    @property
    def wd(self) -> Path:
        return self.task / "wd"


def time_is_up(runner: TaskRunner, key: int = 7) -> None:
    """Now, for the attempt that runs. A limit so short that it passes by itself may pass too early on a machine that
    stalls: before there is a process."""
    timer = runner._running[key, 1].deadline_timer
    assert timer is not None
    timer._run()


def code_of(outcome: Outcome) -> str:
    assert outcome.failure is not None
    return outcome.failure.code


# --- the plain way --------------------------------------------------------------------------------------------------


async def test_a_task_that_succeeds(bench: Bench) -> None:
    before = time.time()
    outcome = await bench.run()
    assert outcome.exit_code == 0
    assert outcome.failure is None
    assert not outcome.retryable
    assert [outcome.start_time] == bench.started
    assert before <= bench.started[0] <= outcome.end_time <= time.time()
    (process,) = bench.executor.started
    assert process.id == "node/7/1"
    assert process.argv == ("run", "it")
    assert process.directory == str(bench.wd)
    assert process.stdout_path == str(bench.task / "stdout.txt")
    assert process.stderr_path == str(bench.task / "stderr.txt")
    assert process.environment["AZ_BATCH_TASK_WORKING_DIR"] == str(bench.wd)
    assert process.environment["AZ_BATCH_TASK_ID"] == "task"
    assert sorted(os.listdir(bench.root)) == ["applications", "fsmounts", "shared", "startup", "volatile", "workitems"]


async def test_an_exit_code_is_for_the_control_plane_to_judge(bench: Bench) -> None:
    bench.plan = FakeRun(exit_code=3)
    outcome = await bench.run()
    assert (outcome.exit_code, outcome.failure, outcome.retryable) == (3, None, False)


async def test_environment_settings(bench: Bench) -> None:
    start = bench.start(
        common=(("A", "job"), ("B", "job")),
        environmentSettings=[{"name": "A", "value": "task"}, {"name": "C", "value": "$B-$A"}, {"name": "D"}],
    )
    await bench.runner.run(start, bench.started.append, resumed=False)
    environment = bench.executor.started[0].environment
    assert [environment[name] for name in "ABCD"] == ["task", "job", "job-task", ""]


@pytest.mark.parametrize(
    ("identity", "shown"),
    [
        (None, "PoolNonAdmin"),
        ({"autoUser": {}}, "PoolNonAdmin"),
        ({"autoUser": {"scope": "task", "elevationLevel": "admin"}}, "TaskAdmin"),
        ({"autoUser": {"scope": "pool", "elevationLevel": "admin"}}, "PoolAdmin"),
        ({"username": "alice"}, "alice"),
    ],
)
async def test_identity(bench: Bench, identity: object, shown: str) -> None:
    await bench.run(userIdentity=identity)
    assert bench.executor.started[0].environment["AZ_BATCH_TASK_USER_IDENTITY"] == shown


async def test_a_second_attempt_begins_clean(bench: Bench) -> None:
    bench.act = lambda process: (bench.wd / "left.txt").write_text("of the first")
    await bench.run()
    assert (bench.wd / "left.txt").exists()
    bench.act = lambda process: None
    await bench.run(2)
    assert os.listdir(bench.wd) == []
    assert os.listdir(bench.task) == ["wd"]


# --- what cannot be run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "category", "retryable"),
    [
        (TaskFailure(TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND, "no"), ErrorCategory.USER_ERROR, False),
        (TaskFailure(TaskFailureCode.COMMAND_LAUNCH_FAILED, "no", user_error=False), ErrorCategory.SERVER_ERROR, True),
    ],
)
async def test_what_cannot_be_started(
    bench: Bench, failure: TaskFailure, category: ErrorCategory, *, retryable: bool
) -> None:
    bench.plan = FakeRun(refusal=failure)
    outcome = await bench.run()
    assert outcome.exit_code is None
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.category) == (failure.code, category)
    assert outcome.retryable is retryable
    # It can be asked for its output all the same.
    assert (bench.task / "stdout.txt").read_bytes() == b""


async def test_a_command_line_that_is_none(bench: Bench) -> None:
    outcome = await bench.run(commandLine="echo 'open")
    assert code_of(outcome) == "CommandLaunchFailed"
    assert not outcome.retryable
    assert bench.executor.started == []


@pytest.mark.parametrize("spec", [b"", b"[]", b'{"commandLine": 5}', b'{"constraints": {"maxWallClockTime": "soon"}}'])
async def test_a_specification_that_cannot_be_read(bench: Bench, spec: bytes) -> None:
    outcome = await bench.runner.run(Start(1, 7, 1, "job", "task", 1, spec), bench.started.append, resumed=False)
    assert code_of(outcome) == "Unknown"
    assert not outcome.retryable
    assert len(bench.started) == 1


async def test_a_node_without_a_disk(bench: Bench) -> None:
    bench.root.parent.mkdir(exist_ok=True)
    bench.root.write_text("a file where the directory should be")
    outcome = await bench.run()
    assert outcome.failure is not None
    assert outcome.failure.category is ErrorCategory.SERVER_ERROR
    assert outcome.retryable


async def test_a_full_disk_is_told_to_the_user(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millpond.agent.runner.hooks.limits.RESERVED_DISK_SPACE_BYTES", 1 << 62)
    outcome = await bench.run()
    assert code_of(outcome) == "DiskFull"
    assert not outcome.retryable


# --- resource files -------------------------------------------------------------------------------------------------


async def test_resource_files(bench: Bench) -> None:
    bench.staging.files = {
        "mem://x/one": b"1",
        "mem://c/data/a.txt": b"a",
        "mem://c/data/sub/b.txt": b"b",
        "mem://c/data/folder/": b"",
        "mem://c/other": b"o",
    }
    outcome = await bench.run(
        resourceFiles=[
            {"httpUrl": "mem://x/one", "filePath": "in/one.sh", "fileMode": "0755"},
            {"httpUrl": "mem://x/one", "filePath": "./two"},
            {"storageContainerUrl": "mem://c", "blobPrefix": "data/", "filePath": "from/c", "fileMode": "600"},
            {"storageContainerUrl": "mem://c", "blobPrefix": "nothing"},
        ]
    )
    assert outcome.failure is None
    found = {
        str(path.relative_to(bench.wd)): (path.read_bytes(), path.stat().st_mode & 0o7777)
        for path in bench.wd.rglob("*")
        if path.is_file()
    }
    assert found == {
        "in/one.sh": (b"1", 0o755),
        "two": (b"1", 0o770),
        "from/c/data/a.txt": (b"a", 0o600),
        "from/c/data/sub/b.txt": (b"b", 0o600),
    }
    assert (bench.wd / "from/c/data/folder").is_dir()


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ({"httpUrl": "mem://x/missing", "filePath": "a"}, "BlobNotFound"),
        ({"httpUrl": "mem://x/one", "filePath": "../a"}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one", "filePath": "/tmp/a"}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one", "filePath": "b/../../a"}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one", "filePath": "a\0b"}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one", "filePath": "."}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one"}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one", "filePath": "a", "fileMode": "rwx"}, "ResourceFileCreateFailed"),
        ({"httpUrl": "mem://x/one", "filePath": "a", "fileMode": "77777"}, "ResourceFileCreateFailed"),
        ({"storageContainerUrl": "mem://evil"}, "ResourceFileCreateFailed"),
        ({"storageContainerUrl": "mem://clash"}, "ResourceDirectoryCreateFailed"),
        ({"filePath": "a"}, "ResourceFileCreateFailed"),
    ],
)
async def test_resource_files_that_cannot_be(bench: Bench, file: dict[str, str], code: str) -> None:
    bench.staging.files = {
        "mem://x/one": b"1",
        "mem://evil/../../etc/passwd": b"root",
        "mem://clash/a": b"1",
        "mem://clash/a/b": b"",
    }
    outcome = await bench.run(resourceFiles=[file])
    assert code_of(outcome) == code
    assert outcome.exit_code is None
    assert not outcome.retryable
    assert bench.executor.started == []
    assert not (bench.task / "a").exists()


async def test_running_begins_before_the_downloads(bench: Bench) -> None:
    bench.staging.gate.clear()
    run = bench.begin(resourceFiles=[{"httpUrl": "mem://x/one", "filePath": "a"}])
    await until_true(lambda: bench.staging.waiting)
    assert len(bench.started) == 1
    bench.staging.gate.set()
    await run


async def test_stop_while_downloading(bench: Bench) -> None:
    bench.staging.gate.clear()
    run = bench.begin(resourceFiles=[{"httpUrl": "mem://x/one", "filePath": str(number)} for number in range(40)])
    await until_true(lambda: bench.staging.waiting == 16)
    await bench.runner.stop(7, 1)
    outcome = await run
    assert code_of(outcome) == "TaskEnded"
    assert outcome.exit_code is None
    assert bench.staging.waiting == 0
    assert bench.executor.started == []


# --- the wall clock -------------------------------------------------------------------------------------------------


async def test_the_wall_clock_kills(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    run = bench.begin(constraints={"maxWallClockTime": "PT1H"})
    await until_true(lambda: bench.executor.started)
    time_is_up(bench.runner)
    outcome = await run
    assert outcome.exit_code == -9
    assert outcome.failure is not None
    assert outcome.failure.code == "TaskEnded"
    assert "PT1H" in outcome.failure.message
    assert [(detail.name, detail.value) for detail in outcome.failure.details] == [("MaxWallClockTime", "PT1H")]
    assert not outcome.retryable


async def test_the_wall_clock_counts_downloads(bench: Bench) -> None:
    bench.staging.gate.clear()
    outcome = await bench.run(
        constraints={"maxWallClockTime": "PT0.05S"}, resourceFiles=[{"httpUrl": "mem://x/1", "filePath": "a"}]
    )
    assert code_of(outcome) == "TaskEnded"
    assert outcome.exit_code is None
    assert bench.staging.waiting == 0


async def test_the_wall_clock_does_not_matter_to_one_that_ends_in_time(bench: Bench) -> None:
    outcome = await bench.run(constraints={"maxWallClockTime": "PT1H"})
    assert (outcome.exit_code, outcome.failure) == (0, None)


async def test_outputs_of_one_that_timed_out_are_uploaded(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    bench.act = lambda process: (bench.wd / "half.txt").write_text("half") and None
    run = bench.begin(constraints={"maxWallClockTime": "PT1H"}, outputFiles=[output("*.txt", "taskfailure")])
    await until_true(lambda: bench.executor.started)
    time_is_up(bench.runner)
    outcome = await run
    assert code_of(outcome) == "TaskEnded"
    assert bench.staging.files == {"mem://out/half.txt": b"half"}


# --- stop -----------------------------------------------------------------------------------------------------------


async def test_stop_kills_the_process(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    run = bench.begin()
    await until_true(lambda: bench.executor.started)
    await bench.runner.stop(7, 2)
    assert not run.done()
    await bench.runner.stop(7, 1)
    outcome = await run
    assert outcome.exit_code == -9
    assert code_of(outcome) == "TaskEnded"
    assert not outcome.retryable
    # It is over: nothing is left to stop.
    await bench.runner.stop(7, 1)


async def test_stop_right_after_the_beginning(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    run = bench.begin()
    stop = asyncio.create_task(bench.runner.stop(7, 1))
    outcome = await run
    await stop
    assert code_of(outcome) == "TaskEnded"


async def test_stop_while_uploading(bench: Bench) -> None:
    bench.act = lambda process: (bench.wd / "a.txt").write_text("a") and None
    bench.staging.gate.clear()
    run = bench.begin(outputFiles=[output("*.txt")])
    await until_true(lambda: bench.staging.waiting)
    await bench.runner.stop(7, 1)
    outcome = await run
    assert outcome.exit_code == 0
    assert code_of(outcome) == "TaskEnded"
    assert bench.staging.files == {}


async def test_a_stopped_task_uploads_nothing(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    bench.act = lambda process: (bench.wd / "a.txt").write_text("a") and None
    run = bench.begin(outputFiles=[output("*.txt")])
    await until_true(lambda: bench.executor.started)
    await bench.runner.stop(7, 1)
    assert code_of(await run) == "TaskEnded"
    assert bench.staging.files == {}


# --- output files ---------------------------------------------------------------------------------------------------


def output(pattern: str, condition: str | None = None, **container: Any) -> dict[str, Any]:
    file: dict[str, Any] = {
        "filePattern": pattern,
        "destination": {"container": {"containerUrl": "mem://out", **container}},
    }
    if condition:
        file["uploadOptions"] = {"uploadCondition": condition}
    return file


async def test_output_files(bench: Bench) -> None:
    def act(process: ProcessSpec) -> None:
        (bench.wd / "sub").mkdir()
        for path in (bench.wd / "a.txt", bench.wd / "sub/b.txt", bench.task / "stdout.txt"):
            path.write_text(path.name)

    bench.act = act
    outcome = await bench.run(
        environmentSettings=[{"name": "NAME", "value": "a"}],
        outputFiles=[
            output("**/*.txt"),
            output("**/*.txt", path="/runs/1/"),
            output("$NAME.txt", path="renamed", uploadHeaders=[{"name": "Content-Type", "value": "text/plain"}]),
            output("../std*.txt", path="logs"),
            output("nothing*"),
        ],
    )
    assert outcome.failure is None
    assert bench.staging.files == {
        "mem://out/a.txt": b"a.txt",
        "mem://out/sub/b.txt": b"b.txt",
        "mem://out/runs/1/a.txt": b"a.txt",
        "mem://out/runs/1/sub/b.txt": b"b.txt",
        "mem://out/renamed": b"a.txt",
        "mem://out/logs/stdout.txt": b"stdout.txt",
    }
    assert bench.staging.headers["mem://out/renamed"] == {"Content-Type": "text/plain"}
    # What each pattern matched, the begin and end of each file, and a last line.
    assert len((bench.task / "fileuploadout.txt").read_text().splitlines()) == 5 + 2 * 6 + 1
    assert (bench.task / "fileuploaderr.txt").read_text() == ""


@pytest.mark.parametrize(
    ("exit_code", "uploaded"),
    [(0, {"mem://out/any", "mem://out/good"}), (1, {"mem://out/any", "mem://out/bad"})],
)
async def test_upload_conditions(bench: Bench, exit_code: int, uploaded: set[str]) -> None:
    bench.plan = FakeRun(exit_code=exit_code)
    bench.act = lambda process: (bench.wd / "a").write_text("a") and None
    await bench.run(
        outputFiles=[
            output("a", "taskcompletion", path="any"),
            output("a", "taskSuccess", path="good"),
            output("a", "taskfailure", path="bad"),
        ]
    )
    assert bench.staging.files.keys() == uploaded


async def test_without_an_upload_there_is_no_log_of_it(bench: Bench) -> None:
    await bench.run(outputFiles=[output("a", "taskfailure")])
    assert not (bench.task / "fileuploadout.txt").exists()


@pytest.mark.parametrize("exit_code", [0, 4])
async def test_an_upload_that_fails(bench: Bench, exit_code: int) -> None:
    bench.plan = FakeRun(exit_code=exit_code)
    bench.act = lambda process: (bench.wd / "a.txt").write_text("a") and None
    bench.staging.refuse = TaskFailure(TaskFailureCode.FILE_UPLOAD_ACCESS_DENIED, "not allowed")
    outcome = await bench.run(outputFiles=[output("*.txt")])
    assert outcome.exit_code == exit_code
    assert code_of(outcome) == "FileUploadAccessDenied"
    assert not outcome.retryable
    assert "not allowed" in (bench.task / "fileuploaderr.txt").read_text()


# --- restarts -------------------------------------------------------------------------------------------------------


async def crash(bench: Bench, run: "asyncio.Task[Outcome]") -> None:
    await until_true(lambda: bench.executor.started)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert "node/7/1" in await bench.executor.known()
    bench.next_life()


async def test_a_running_task_is_picked_up(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    bench.act = lambda process: (bench.wd / "a.txt").write_text("a") and None
    await crash(bench, bench.begin(outputFiles=[output("*.txt")]))
    run = bench.begin(resumed=True, outputFiles=[output("*.txt")])
    await until_true(lambda: len(bench.started) == 2)
    # It entered running once.
    assert bench.started[1] == pytest.approx(bench.started[0], abs=1e-5)
    bench.executor._end("node/7/1", 5)
    outcome = await run
    assert (outcome.exit_code, outcome.failure) == (5, None)
    assert outcome.start_time == bench.started[1]
    assert len(bench.executor.started) == 1
    assert bench.staging.files == {"mem://out/a.txt": b"a"}


async def test_a_task_that_ended_meanwhile(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    await crash(bench, bench.begin(constraints={"maxWallClockTime": "PT1H"}))
    bench.executor._end("node/7/1", 0)
    exit_ = await bench.executor.wait("node/7/1")
    outcome = await bench.run(resumed=True, constraints={"maxWallClockTime": "PT1H"})
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert exit_ is not None
    assert outcome.end_time == exit_.end_time, "not when the agent came back"


async def test_the_wall_clock_runs_on_while_the_agent_is_away(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    await crash(bench, bench.begin(constraints={"maxWallClockTime": "PT1H"}))
    # Long ago.
    bench.started[0] -= 3600.0
    outcome = await bench.run(resumed=True, constraints={"maxWallClockTime": "PT1H"})
    assert outcome.exit_code == -9
    assert code_of(outcome) == "TaskEnded"


async def test_a_task_that_was_lost(bench: Bench) -> None:
    outcome = await bench.run(resumed=True)
    assert outcome.exit_code is None
    assert outcome.failure is not None
    assert outcome.failure.category is ErrorCategory.SERVER_ERROR
    assert outcome.retryable


async def test_a_process_lost_while_it_is_waited_for(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    run = bench.begin()
    await until_true(lambda: bench.executor.started)
    bench.executor.lose_all()
    assert (await run).retryable


async def test_an_exit_is_kept_until_it_is_surely_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_runner, "_FORGET_AFTER_S", 0.02)
    await bench.run()
    assert list(await bench.executor.known()) == ["node/7/1"]
    await until_true(lambda: not bench.executor._known)


async def test_processes_nobody_holds_are_cleared_away(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    for attempt in (1, 2):
        run = bench.begin(attempt)
        await until_true(lambda: len(bench.executor.started) == attempt)  # noqa: B023  awaited in the same turn
        run.cancel()
        await asyncio.wait([run])
    bench.next_life()
    await bench.runner.forget_others({(7, 2)})
    assert list(await bench.executor.known()) == ["node/7/2"]


async def test_remove_directory(bench: Bench) -> None:
    await bench.run()
    assert bench.task.exists()
    await bench.runner.remove_directory("job", "task")
    assert not bench.task.exists()
    await bench.runner.remove_directory("job", "task")
    await bench.run(2)
    await bench.runner.remove_directory("job", "")
    assert os.listdir(bench.root / "workitems") == []
    await bench.run(3)
    assert bench.wd.exists()


async def test_many_attempts_at_once(bench: Bench) -> None:
    def start(key: int) -> Start:
        return Start(1, key, 1, "job", f"task{key}", 1, b'{"commandLine": "x"}')

    outcomes = await asyncio.gather(
        *(bench.runner.run(start(key), bench.started.append, resumed=False) for key in range(200))
    )
    assert all(outcome.exit_code == 0 and outcome.failure is None for outcome in outcomes)
    assert len(bench.started) == 200


async def test_what_the_service_could_not_prepare(bench: Bench) -> None:
    error = {"code": "BlobAccessDenied", "message": "The identity is for another account"}
    outcome = await bench.run(prepareError=error)
    assert code_of(outcome) == "BlobAccessDenied"
    assert outcome.failure is not None
    assert outcome.failure.message == error["message"]
    assert (outcome.exit_code, bench.executor.started) == (None, [])


def retained(bench: Bench) -> list[str]:
    """The directories that are to be removed some day, as it is written down."""
    records = (bench.root / "volatile/retention").iterdir()
    return [line.split("\t")[2] for record in records for line in record.read_text().splitlines()]


async def test_before_an_end_is_reported_its_retention_is_written_down(bench: Bench) -> None:
    await bench.run()
    bench.runner.settle()
    assert retained(bench) == ["workitems/job/job-1/task"]
    # The next attempt in the same directory finds the last one settled.
    await bench.run(2)
    await bench.run(3)
    assert len(retained(bench)) >= 2


async def test_retention_of_one_that_ended_just_before_the_agent_was_killed(bench: Bench) -> None:
    await bench.run()
    # Its timer dies with it.
    bench.runner._late.clear()
    bench.next_life().settle([bench.start()])
    assert set(retained(bench)) == {"workitems/job/job-1/task"}
