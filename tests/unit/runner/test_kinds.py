"""The runner with special tasks and with instances of multi-instance tasks."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millpond.agent.base import Outcome, ProcessSpec
from millpond.agent.executors.fake import FakeRun
from millpond.agent.runner.hooks import wall_clock
from millpond.domain.ids import START_TASK_KEY
from millpond.domain.states import TaskKind
from millpond.protocol.messages import Instance, LaunchReply, LaunchRequest, Start
from tests.unit.runner.test_task_runner import FOR_EVER_S, Bench, code_of, time_is_up
from tests.waiting import until_true

ADDRESSES = ("127.64.0.1", "127.64.0.2", "127.64.0.3")


def special(bench: Bench, kind: TaskKind, task_id: str = "", *, attempt: int = 1, **spec: Any) -> Start:
    start = msgspec.structs.replace(bench.start(attempt, **spec), kind=kind, task_id=task_id, slots=0)
    if kind is TaskKind.START_TASK:
        return msgspec.structs.replace(start, key=START_TASK_KEY, job_id="")
    return msgspec.structs.replace(start, key=8 if kind is TaskKind.JOB_RELEASE else 9, preparation_id="prep")


async def run(bench: Bench, start: Start, *, resumed: bool = False) -> Outcome:
    return await bench.runner.run(start, bench.started.append, resumed=resumed)


# --- special tasks --------------------------------------------------------------------------------------------------


async def test_a_start_task_runs_in_its_own_place(bench: Bench) -> None:
    outcome = await run(bench, special(bench, TaskKind.START_TASK))
    assert outcome.exit_code == 0
    (process,) = bench.executor.started
    startup = bench.root / "startup"
    assert process.id == "node/1/1"
    assert process.directory == str(startup / "wd")
    assert (process.stdout_path, process.stderr_path) == (str(startup / "stdout.txt"), str(startup / "stderr.txt"))
    environment = process.environment
    assert environment["AZ_BATCH_TASK_DIR"] == environment["AZ_BATCH_NODE_STARTUP_DIR"] == str(startup)
    assert environment["AZ_BATCH_TASK_WORKING_DIR"] == environment["HOME"] == str(startup / "wd")
    for name in ("AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID", "AZ_BATCH_JOB_PREP_DIR", "AZ_BATCH_AUTHENTICATION_TOKEN"):
        assert name not in environment


async def test_a_start_task_that_runs_again_has_a_new_working_directory(bench: Bench) -> None:
    await run(bench, special(bench, TaskKind.START_TASK))
    startup = bench.root / "startup"
    (startup / "wd/old").touch()
    (startup / "own").touch()
    bench.staging.files = {"mem://x/one": b"1"}
    files = [{"httpUrl": "mem://x/one", "filePath": "one"}]
    await run(bench, special(bench, TaskKind.START_TASK, attempt=2, resourceFiles=files))
    assert os.listdir(startup / "wd") == ["one"]
    assert (startup / "own").exists()


async def test_a_start_tasks_directory_has_no_retention_time(bench: Bench) -> None:
    await run(bench, special(bench, TaskKind.START_TASK))
    bench.runner.directories.discard_expired()
    assert os.listdir(bench.root / "volatile/retention") == []


async def test_where_a_jobs_special_tasks_run(bench: Bench) -> None:
    await run(bench, special(bench, TaskKind.JOB_PREPARATION, "prep"))
    await run(bench, special(bench, TaskKind.JOB_RELEASE, "release"))
    preparation, release = bench.executor.started
    job = bench.root / "workitems/job/job-1"
    assert (preparation.directory, release.directory) == (str(job / "prep/wd"), str(job / "release/wd"))
    assert preparation.environment["AZ_BATCH_TASK_ID"] == "prep"
    assert "AZ_BATCH_JOB_PREP_DIR" not in preparation.environment
    assert release.environment["AZ_BATCH_JOB_PREP_DIR"] == str(job / "prep")
    assert release.environment["AZ_BATCH_JOB_PREP_WORKING_DIR"] == str(job / "prep/wd")


async def test_tasks_of_a_scheduled_job_run_below_its_schedule(bench: Bench) -> None:
    start = msgspec.structs.replace(bench.start(), job_id="nightly:job-3", preparation_id="prep")
    await run(bench, start)
    (process,) = bench.executor.started
    job = bench.root / "workitems/nightly/job-3"
    assert process.directory == str(job / "task/wd")
    assert process.environment["AZ_BATCH_JOB_ID"] == "nightly:job-3"
    # Nobody minds that it is not there (any more).
    assert process.environment["AZ_BATCH_JOB_PREP_DIR"] == str(job / "prep")


async def test_a_preparation_task_that_runs_again_finds_nothing_of_the_last_run(bench: Bench) -> None:
    await run(bench, special(bench, TaskKind.JOB_PREPARATION, "prep"))
    directory = bench.root / "workitems/job/job-1/prep"
    (directory / "wd/data").touch()
    (directory / "more").touch()
    await run(bench, special(bench, TaskKind.JOB_PREPARATION, "prep", attempt=2))
    assert os.listdir(directory) == ["wd"]
    assert os.listdir(directory / "wd") == []


async def test_a_token_is_given_to_the_task(bench: Bench) -> None:
    await run(bench, msgspec.structs.replace(bench.start(), token="secret"))
    assert bench.executor.started[0].environment["AZ_BATCH_AUTHENTICATION_TOKEN"] == "secret"


@pytest.mark.parametrize("constraints", [None, {"maxWallClockTime": "PT1H"}, {}])
async def test_a_release_task_has_a_limit_of_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, constraints: dict[str, str] | None
) -> None:
    monkeypatch.setattr(wall_clock, "MAX_RELEASE_S", 0.05)
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    outcome = await run(bench, special(bench, TaskKind.JOB_RELEASE, "release", constraints=constraints))
    assert code_of(outcome) == "TaskEnded"
    assert not outcome.retryable


async def test_a_release_task_may_have_less_time(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    limit = {"maxWallClockTime": "PT0.05S"}
    assert code_of(await run(bench, special(bench, TaskKind.JOB_RELEASE, "release", constraints=limit))) == "TaskEnded"


# --- multi-instance tasks -------------------------------------------------------------------------------------------


class Gang:
    """One instance under test."""

    def __init__(self, bench: Bench, index: int = 0, **spec: Any) -> None:
        self.bench = bench
        self.coordinated = 0
        settings = {"coordinationCommandLine": "coordinate it", **spec.pop("multiInstanceSettings", {})}
        start = bench.start(multiInstanceSettings=settings, **spec)
        self.start = msgspec.structs.replace(
            start, kind=TaskKind.INSTANCE, instance=Instance(index, ADDRESSES, launch_token="launch")
        )
        bench.executor._plan = self.plan
        self.coordination = FakeRun()
        self.command_line = FakeRun()
        self.command = FakeRun()

    def plan(self, process: ProcessSpec) -> FakeRun:
        self.bench.act(process)
        if process.id.endswith("/coordination"):
            return self.coordination
        return self.command if "/command-" in process.id else self.command_line

    def begin(self, *, resumed: bool = False) -> "asyncio.Task[Outcome]":
        def note() -> None:
            self.coordinated += 1

        began = self.bench.started[0] if resumed and self.bench.started else None
        run = self.bench.runner.run(
            self.start, self.bench.started.append, resumed=resumed, began=began, coordinated=note
        )
        return asyncio.create_task(run)

    async def has_coordinated(self, times: int = 1) -> None:
        await until_true(lambda: self.coordinated == times)

    def proceed(self) -> None:
        self.bench.runner.proceed(7, 1)

    async def die(self, run: "asyncio.Task[Outcome]") -> None:
        """The agent ends; its next life begins."""
        run.cancel()
        await asyncio.wait([run])
        await self.bench.runner.close()
        self.bench.next_life()

    async def launch(self, command: str, command_id: str = "1", *, wait_s: float = 20.0, have: int = 0) -> LaunchReply:
        return await self.bench.runner.launch(LaunchRequest("r", 7, 1, command_id, command, have, 0, wait_s))

    @property
    def names(self) -> list[str]:
        return [process.id.removeprefix("node/7/1").lstrip("/") for process in self.bench.executor.started]


@pytest.fixture
def gang(bench: Bench) -> Callable[..., Gang]:
    return lambda index=0, **spec: Gang(bench, index, **spec)


async def test_a_primary_coordinates_and_proceeds(bench: Bench, gang: Callable[..., Gang]) -> None:
    primary = gang()
    run = primary.begin()
    await primary.has_coordinated()
    assert primary.names == ["coordination"]
    assert not run.done()
    primary.proceed()
    primary.proceed()
    outcome = await run
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert primary.names == ["coordination", ""]
    coordination, command_line = bench.executor.started
    assert coordination.argv == ("coordinate", "it")
    assert (coordination.keeps, coordination.appends) == (True, False)
    assert command_line.argv == ("run", "it")
    assert (command_line.keeps, command_line.appends) == (False, True)
    assert command_line.stdout_path == coordination.stdout_path
    assert bench.executor.ended == ["node/7/1"]


async def test_what_instances_are_told_of_each_other(bench: Bench, gang: Callable[..., Gang]) -> None:
    subtask = gang(1)
    run = subtask.begin()
    await subtask.has_coordinated()
    environment = bench.executor.started[0].environment
    cores = len(os.sched_getaffinity(0))
    expected = {
        "AZ_BATCH_HOST_LIST": "127.64.0.1,127.64.0.2,127.64.0.3",
        "AZ_BATCH_NODE_LIST": "127.64.0.1;127.64.0.2;127.64.0.3",
        "AZ_BATCH_MASTER_NODE": "127.64.0.1:6000",
        "AZ_BATCH_IS_CURRENT_NODE_MASTER": "false",
        "AZ_BATCH_TASK_SHARED_DIR": str(bench.task),
        "CCP_NODES": f"3 127.64.0.1 {cores} 127.64.0.2 {cores} 127.64.0.3 {cores}",
        "OMPI_MCA_plm_rsh_agent": str(bench.root / "bin/millpond-launch"),
        "OMPI_MCA_btl_tcp_if_include": "lo",
        "MILLPOND_LAUNCH_TOKEN": "launch",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert os.stat(bench.root / "bin/millpond-launch").st_mode & 0o777 == 0o755
    await bench.runner.stop(7, 1)
    await run


async def test_nodes_on_several_machines_choose_their_own_network(bench: Bench, gang: Callable[..., Gang]) -> None:
    primary = gang()
    instance = Instance(0, ("10.0.0.4", "10.0.0.5"))
    primary.start = msgspec.structs.replace(primary.start, instance=instance)
    run = primary.begin()
    await primary.has_coordinated()
    environment = bench.executor.started[0].environment
    assert environment["AZ_BATCH_IS_CURRENT_NODE_MASTER"] == "true"
    assert "OMPI_MCA_btl_tcp_if_include" not in environment
    await bench.runner.stop(7, 1)
    await run


async def test_a_subtask_stays_until_it_is_stopped(bench: Bench, gang: Callable[..., Gang]) -> None:
    subtask = gang(2)
    run = subtask.begin()
    await subtask.has_coordinated()
    # It is the primary's business.
    subtask.proceed()
    await asyncio.sleep(0)
    assert not run.done()
    await bench.runner.stop(7, 1)
    outcome = await run
    assert outcome.exit_code is None
    assert code_of(outcome) == "TaskEnded"
    assert subtask.names == ["coordination"]
    assert bench.executor.ended == ["node/7/1"]


@pytest.mark.parametrize("index", [0, 1])
async def test_a_coordination_command_that_fails(bench: Bench, gang: Callable[..., Gang], index: int) -> None:
    instance = gang(index)
    instance.coordination = FakeRun(exit_code=3)
    outcome = await instance.begin()
    assert (outcome.exit_code, outcome.failure) == (3, None)
    assert instance.coordinated == 0
    assert bench.executor.ended == ["node/7/1"]


async def test_a_coordination_command_that_cannot_be_started(gang: Callable[..., Gang]) -> None:
    primary = gang(multiInstanceSettings={"coordinationCommandLine": "'"})
    outcome = await primary.begin()
    assert code_of(outcome) == "CommandLaunchFailed"
    assert primary.coordinated == 0


async def test_without_a_coordination_command(gang: Callable[..., Gang]) -> None:
    primary = gang(multiInstanceSettings={"coordinationCommandLine": None})
    run = primary.begin()
    await primary.has_coordinated()
    primary.proceed()
    assert (await run).exit_code == 0


async def test_which_files_go_where(bench: Bench, gang: Callable[..., Gang]) -> None:
    bench.staging.files = {"mem://x/own": b"own", "mem://x/common": b"common", "mem://c/data/a": b"a"}
    spec: dict[str, Any] = {
        "resourceFiles": [{"httpUrl": "mem://x/own", "filePath": "own"}],
        "multiInstanceSettings": {
            "commonResourceFiles": [
                {"httpUrl": "mem://x/common", "filePath": "in/common"},
                {"storageContainerUrl": "mem://c"},
            ]
        },
    }
    for index, own in ((0, ["own"]), (1, [])):
        instance = gang(index, **spec)
        run = instance.begin()
        await instance.has_coordinated()
        assert (bench.task / "in/common").read_bytes() == b"common"
        assert (bench.task / "data/a").read_bytes() == b"a"
        assert os.listdir(bench.wd) == own
        await bench.runner.stop(7, 1)
        await run
        bench.next_life()
        for known in await bench.executor.known():
            await bench.executor.forget(known)


async def test_the_common_files_of_an_ordinary_task_are_nobodys(bench: Bench) -> None:
    settings = {"commonResourceFiles": [{"httpUrl": "mem://x/missing", "filePath": "a"}]}
    assert (await bench.run(multiInstanceSettings=settings)).exit_code == 0


@pytest.mark.parametrize(("index", "uploaded"), [(0, ["mem://out/a"]), (1, [])])
async def test_output_files_are_the_primarys(
    bench: Bench, gang: Callable[..., Gang], index: int, uploaded: list[str]
) -> None:
    bench.act = lambda process: (bench.wd / "a").write_text("a") and None
    output = {"filePattern": "a", "destination": {"container": {"containerUrl": "mem://out"}}}
    instance = gang(index, outputFiles=[output])
    instance.coordination = FakeRun(exit_code=1 if index else 0)
    run = instance.begin()
    if index == 0:
        await instance.has_coordinated()
        instance.proceed()
    await run
    assert sorted(bench.staging.files) == uploaded


@pytest.mark.parametrize("phase", ["coordination", "turn", "command line"])
@pytest.mark.parametrize("how", ["stop", "wall clock"])
async def test_an_instance_can_be_ended_in_any_phase(
    bench: Bench, gang: Callable[..., Gang], phase: str, how: str
) -> None:
    primary = gang(constraints={"maxWallClockTime": "PT1H"})
    if phase == "coordination":
        primary.coordination = FakeRun(duration_s=FOR_EVER_S)
    primary.command_line = FakeRun(duration_s=FOR_EVER_S)
    run = primary.begin()
    await until_true(lambda: primary.names)
    if phase != "coordination":
        await primary.has_coordinated()
    if phase == "command line":
        primary.proceed()
        await until_true(lambda: len(primary.names) == 2)
    if how == "stop":
        await bench.runner.stop(7, 1)
    else:
        time_is_up(bench.runner)
    outcome = await run
    assert code_of(outcome) == "TaskEnded"
    assert outcome.failure is not None
    assert ("wall clock" in outcome.failure.message) == (how == "wall clock")
    assert outcome.exit_code == (None if phase == "turn" else -9)
    assert not outcome.retryable
    assert "node/7/1" in bench.executor.ended


@pytest.mark.parametrize("phase", ["coordination", "coordinated", "told", "command line", "over"])
async def test_an_instance_outlives_the_agent_in_any_phase(bench: Bench, gang: Callable[..., Gang], phase: str) -> None:
    primary = gang()
    primary.coordination = FakeRun(duration_s=0.2 if phase == "coordination" else 0.0)
    primary.command_line = FakeRun(duration_s=0.2 if phase == "command line" else 0.0, exit_code=5)
    run = primary.begin()
    await until_true(lambda: primary.names)
    if phase != "coordination":
        await primary.has_coordinated()
    if phase in ("command line", "over"):
        primary.proceed()
        await until_true(lambda: len(primary.names) == 2)
    if phase == "over":
        await until_true(lambda: bench.executor._known["node/7/1"] is not None)
    await primary.die(run)
    primary.coordinated = 0
    run = primary.begin(resumed=True)
    if phase in ("coordination", "coordinated"):
        await primary.has_coordinated()
    else:
        # As an agent says it again that begins anew.
        await asyncio.sleep(0)
    primary.proceed()
    outcome = await run
    assert (outcome.exit_code, outcome.failure) == (5, None)
    assert primary.names == ["coordination", ""], "each was started once"
    assert bench.started == [pytest.approx(bench.started[0], abs=1e-5)] * 2


async def test_a_subtask_outlives_the_agent(bench: Bench, gang: Callable[..., Gang]) -> None:
    subtask = gang(1)
    run = subtask.begin()
    await subtask.has_coordinated()
    await subtask.die(run)
    assert bench.executor.ended == []
    run = subtask.begin(resumed=True)
    await subtask.has_coordinated(2)
    await bench.runner.stop(7, 1)
    assert code_of(await run) == "TaskEnded"
    assert bench.executor.ended == ["node/7/1"]


@pytest.mark.parametrize("phase", ["coordination", "command line", "between lives"])
async def test_an_instance_that_is_lost(bench: Bench, gang: Callable[..., Gang], phase: str) -> None:
    primary = gang()
    if phase == "coordination":
        primary.coordination = FakeRun(duration_s=FOR_EVER_S)
    primary.command_line = FakeRun(duration_s=FOR_EVER_S)
    run = primary.begin()
    await until_true(lambda: primary.names)
    if phase != "coordination":
        await primary.has_coordinated()
        primary.proceed()
        await until_true(lambda: len(primary.names) == 2)
    if phase == "between lives":
        await primary.die(run)
        bench.executor.lose_all()
        run = primary.begin(resumed=True)
    else:
        bench.executor.lose_all()
    outcome = await run
    assert outcome.retryable
    assert code_of(outcome) == "Unknown"


# --- launching in other instances -----------------------------------------------------------------------------------


async def test_a_command_runs_once_in_the_instance(bench: Bench, gang: Callable[..., Gang]) -> None:
    subtask = gang(1)
    subtask.command = FakeRun(exit_code=4)

    def act(process: ProcessSpec) -> None:
        if "/command-" in process.id:
            Path(process.stdout_path).write_text("hello")
            Path(process.stderr_path).write_text("oh")

    bench.act = act
    run = subtask.begin()
    await subtask.has_coordinated()
    reply = await subtask.launch("orted -x 'y'", "abc1")
    while reply.exit_code is None:
        reply = await subtask.launch("orted -x 'y'", "abc1")
    assert (reply.error, reply.exit_code, reply.stdout, reply.stderr) == ("", 4, b"hello", b"oh")
    again = await subtask.launch("orted -x 'y'", "abc1", have=3)
    assert (again.exit_code, again.stdout) == (4, b"lo")
    assert subtask.names == ["coordination", "command-abc1"]
    coordination, command = bench.executor.started
    assert command.argv[:2] == ("/bin/sh", "-c")
    assert command.argv[2].splitlines()[-1] == "orted -x 'y'"
    assert command.keeps
    # Beside each other on one machine, daemons need a place of their own.
    own = command.environment["TMPDIR"]
    assert command.environment == coordination.environment | {"TMPDIR": own}
    assert command.directory == coordination.directory
    # Its output is not where tasks are.
    assert not command.stdout_path.startswith(str(bench.task))
    await bench.runner.stop(7, 1)
    await run
    assert not os.path.exists(command.stdout_path)


async def test_a_command_that_runs_is_told_of_after_a_while(bench: Bench, gang: Callable[..., Gang]) -> None:
    subtask = gang(1)
    subtask.command = FakeRun(duration_s=FOR_EVER_S)
    run = subtask.begin()
    await subtask.has_coordinated()
    reply = await subtask.launch("orted", wait_s=0.01)
    assert (reply.error, reply.exit_code, reply.stdout) == ("", None, b"")
    # Output is told of at once.
    waiting = asyncio.create_task(subtask.launch("orted", wait_s=600.0))
    await asyncio.sleep(0)
    Path(bench.executor.started[-1].stdout_path).write_text("news")
    assert (await waiting).stdout == b"news"
    # It outlives the agent.
    await subtask.die(run)
    run = subtask.begin(resumed=True)
    await subtask.has_coordinated(2)
    assert (await subtask.launch("orted", wait_s=0.01)).stdout == b"news"
    assert subtask.names == ["coordination", "command-1"]
    await bench.runner.stop(7, 1)
    await run


async def test_commands_that_are_not_run(bench: Bench, gang: Callable[..., Gang]) -> None:
    subtask = gang(1)
    subtask.coordination = FakeRun(duration_s=FOR_EVER_S)
    assert (await subtask.launch("orted")).error == "TaskNotFound"
    run = subtask.begin()
    await until_true(lambda: subtask.names)
    assert (await subtask.launch("orted")).error == "NodeNotReady"
    await bench.runner.stop(7, 1)
    await run
    assert (await subtask.launch("orted")).error == "TaskNotFound"
    for known in await bench.executor.known():
        await bench.executor.forget(known)
    other = gang(1)
    run = other.begin()
    await other.has_coordinated()
    for bad in ("", "../../x", "a/b", "a" * 33):
        assert (await other.launch("orted", bad)).error == "InvalidRequestBody"
    assert other.names == ["coordination", "coordination"]
    bench.executor.lose("node/7/1/coordination")
    await bench.runner.stop(7, 1)
    await run


async def test_an_ordinary_task_takes_no_commands(bench: Bench) -> None:
    bench.plan = FakeRun(duration_s=FOR_EVER_S)
    run = bench.begin()
    await until_true(lambda: bench.executor.started)
    reply = await bench.runner.launch(LaunchRequest("r", 7, 1, "1", "id", 0, 0, 1.0))
    assert reply.error == "TaskNotFound"
    await bench.runner.stop(7, 1)
    await run
