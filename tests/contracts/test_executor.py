"""What every executor does, with real processes and with pretended ones."""

import asyncio
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millpond.agent.base import DirectoryNotMade, Executor, GivenBack, ProcessExit, ProcessSpec, RunAs
from millpond.agent.executors.fake import FakeExecutor, FakeRun
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.switch import install
from millpond.domain.errors import TaskFailure, TaskFailureCode
from tests.process.isolated import FIRST_UID, open_directory, why_not_here

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def pretend(process: ProcessSpec) -> FakeRun:
    """What the few programs of this suite would do."""
    match process.argv:
        case ("sleep", seconds):
            return FakeRun(duration_s=float(seconds))
        case ("sh", "-c", script) if script.startswith("exit "):
            return FakeRun(exit_code=int(script.split()[1]))
        case ("true",):
            return FakeRun()
        case _:
            return FakeRun(refusal=TaskFailure(TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND, "not found"))


class Case:
    """One executor, and how to make the next life's executor over the same processes."""

    def __init__(
        self,
        executor: Any,
        again: Callable[[], Any],
        directory: Path,
        run_as: RunAs | None = None,
        *,
        tells_in_order: bool = True,
    ) -> None:
        """Not `tells_in_order`: processes that begin beside each other are told of in the order in which they have
        become their program, which takes them a while after they were started."""
        self.executor: Executor = executor
        self.tells_in_order = tells_in_order
        self.again = again
        self._directory = directory
        self._run_as = run_as

    def spec(self, name: str, *argv: str) -> ProcessSpec:
        return ProcessSpec(
            id=f"node/{name}/1",
            argv=argv,
            directory=str(self._directory),
            environment=ENVIRONMENT,
            stdout_path=str(self._directory / f"{name}.out"),
            stderr_path=str(self._directory / f"{name}.err"),
            run_as=self._run_as,
        )


@pytest.fixture(params=["process", "switch", "setpriv", "compiled", "compiled switch", "fake"])
async def case(request: pytest.FixtureRequest, tmp_path: Path, leave_out: Callable[[str], None]) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakeExecutor(pretend, time.time)
        yield Case(fake, lambda: fake, tmp_path)
        return
    made: list[ProcessExecutor] = []
    directory, switch, run_as = tmp_path, "", None
    is_compiled = request.param.startswith("compiled")
    if request.param not in ("process", "compiled"):
        # As another user: whose own directory it is, in a place that every user can reach.
        why_not = why_not_here()
        if why_not:
            leave_out(why_not)
        run_as = RunAs(FIRST_UID + 90_040, FIRST_UID + 90_040, (FIRST_UID,))
        directory = open_directory()
        os.chown(directory, run_as.uid, run_as.gid)
        program = request.param.rpartition(" ")[2]
        switch = install(str(tmp_path)) if program == "switch" else shutil.which("setpriv") or ""
        if os.path.basename(switch) != program:
            leave_out(f"no {program}")

    def make() -> ProcessExecutor:
        made.append(ProcessExecutor(str(tmp_path / "host"), switch=switch, compiles=False))
        return made[-1]

    if is_compiled and not await make().compile():
        leave_out("no C compiler")
    tells_in_order = run_as is None and not is_compiled
    yield Case(made[0] if made else make(), make, directory, run_as, tells_in_order=tells_in_order)
    for executor in made[:-1]:
        await executor.close()
    await made[-1].shutdown()
    if directory is not tmp_path:
        shutil.rmtree(directory)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
async def test_exit_code(case: Case, code: int) -> None:
    before = time.time()
    spec = case.spec("a", "sh", "-c", f"exit {code}")
    await case.executor.start(spec)
    ended = await case.executor.wait(spec.id)
    assert ended is not None
    assert ended.exit_code == code
    assert before - 0.01 <= ended.end_time <= time.time() + 0.01


async def test_wait_again_gives_the_same(case: Case) -> None:
    spec = case.spec("a", "sh", "-c", "exit 7")
    await case.executor.start(spec)
    first, second = await asyncio.gather(case.executor.wait(spec.id), case.executor.wait(spec.id))
    assert first == second == await case.executor.wait(spec.id)
    assert first is not None


async def test_program_not_found(case: Case) -> None:
    spec = case.spec("a", "no-such-program-anywhere")
    with pytest.raises(TaskFailure) as caught:
        await case.executor.start(spec)
    assert caught.value.code is TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND
    assert caught.value.user_error
    assert spec.id not in await case.executor.known()
    assert await case.executor.wait(spec.id) is None


async def test_kill(case: Case) -> None:
    spec = case.spec("a", "sleep", "600")
    await case.executor.start(spec)
    await case.executor.kill(spec.id)
    ended = await case.executor.wait(spec.id)
    assert ended is not None
    assert ended.exit_code == -9
    # Once more, now that it has ended: nothing happens.
    await case.executor.kill(spec.id)
    assert await case.executor.wait(spec.id) == ended


async def test_unknown_process(case: Case) -> None:
    await case.executor.kill("node/404/1")
    await case.executor.forget("node/404/1")
    assert await case.executor.wait("node/404/1") is None
    assert list(await case.executor.known()) == []


async def test_start_twice_is_once(case: Case) -> None:
    spec = case.spec("a", "sleep", "600")
    await case.executor.start(spec)
    await case.executor.start(spec)
    assert list(await case.executor.known()) == [spec.id]
    await case.executor.kill(spec.id)
    ended = await case.executor.wait(spec.id)
    # Nor is one that has ended started again.
    await case.executor.start(spec)
    assert await case.executor.wait(spec.id) == ended


async def test_known_until_forgotten(case: Case) -> None:
    runs, ends = case.spec("runs", "sleep", "600"), case.spec("ends", "true")
    await case.executor.start(runs)
    await case.executor.start(ends)
    await case.executor.wait(ends.id)
    assert sorted(await case.executor.known()) == [ends.id, runs.id]
    await case.executor.forget(ends.id)
    assert list(await case.executor.known()) == [runs.id]
    assert await case.executor.wait(ends.id) is None
    # Of one that runs nothing is asked any more either.
    await case.executor.kill(runs.id)
    await case.executor.forget(runs.id)
    assert list(await case.executor.known()) == []
    assert await case.executor.wait(runs.id) is None
    assert list(await case.again().known()) == []


async def test_a_next_life_finds_everything(case: Case) -> None:
    runs, ends = case.spec("runs", "sleep", "600"), case.spec("ends", "sh", "-c", "exit 5")
    await case.executor.start(runs)
    await case.executor.start(ends)
    ended = await case.executor.wait(ends.id)
    heir: Executor = case.again()
    assert sorted(await heir.known()) == [ends.id, runs.id]
    assert await heir.wait(ends.id) == ended
    await heir.kill(runs.id)
    killed = await heir.wait(runs.id)
    assert killed is not None
    assert killed.exit_code == -9


async def test_a_cancelled_wait_leaves_the_process_alone(case: Case) -> None:
    spec = case.spec("a", "sleep", "600")
    await case.executor.start(spec)
    waiting = asyncio.ensure_future(case.executor.wait(spec.id))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert list(await case.executor.known()) == [spec.id]
    await case.executor.kill(spec.id)
    assert await case.executor.wait(spec.id) is not None


async def test_many_at_once(case: Case) -> None:
    specs = [case.spec(str(number), "sh", "-c", f"exit {number % 5}") for number in range(60)]
    await asyncio.gather(*map(case.executor.start, specs))
    ended = await asyncio.gather(*(case.executor.wait(spec.id) for spec in specs))
    assert [one.exit_code for one in ended if one is not None] == [number % 5 for number in range(60)]


async def test_an_attempt_ends_with_all_its_processes(case: Case) -> None:
    first, second, other = (
        case.spec("a", "sleep", "600"),
        case.spec("a", "sleep", "600"),
        case.spec("aa", "sleep", "600"),
    )
    second = msgspec.structs.replace(second, id=f"{first.id}/second", keeps=True)
    third = msgspec.structs.replace(case.spec("a", "sh", "-c", "exit 3"), id=f"{first.id}/third", keeps=True)
    # Its id begins with the attempt's, but it is none of it.
    longer = msgspec.structs.replace(case.spec("b", "sleep", "600"), id=f"{first.id}0")
    for spec in (first, second, third, other, longer):
        await case.executor.start(spec)
    ended = await case.executor.wait(third.id)
    assert ended is not None
    assert ended.exit_code == 3
    await case.executor.end(first.id)
    for spec in (first, second):
        killed = await case.executor.wait(spec.id)
        assert killed is not None
        assert killed.exit_code == -9
    assert await case.executor.wait(third.id) == ended
    assert sorted(await case.executor.known()) == sorted(spec.id for spec in (first, second, third, other, longer))
    for spec in (other, longer):
        waiting = asyncio.ensure_future(case.executor.wait(spec.id))
        await asyncio.sleep(0)
        assert not waiting.done()
        await case.executor.kill(spec.id)
        assert await waiting is not None
    # Once more, now that nothing of it runs; and of one that nobody knows.
    await case.executor.end(first.id)
    await case.executor.end("node/404/1")


async def test_a_next_life_ends_an_attempt(case: Case) -> None:
    first = case.spec("a", "sleep", "600")
    kept = msgspec.structs.replace(case.spec("a", "true"), id=f"{first.id}/kept", keeps=True)
    await case.executor.start(first)
    await case.executor.start(kept)
    assert await case.executor.wait(kept.id) is not None
    heir: Executor = case.again()
    assert sorted(await heir.known()) == [first.id, kept.id]
    await heir.end(first.id)
    killed = await heir.wait(first.id)
    assert killed is not None
    assert killed.exit_code == -9


# --- by callbacks ---------------------------------------------------------------------------------------------------


class Seen:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.over = asyncio.Event()

    def running(self, began: float, *, is_over: bool) -> None:
        self.told.append("running")

    def ended(self, exit_: ProcessExit | None) -> None:
        self.told.append(None if exit_ is None else exit_.exit_code)
        self.over.set()

    def failed(self, error: Exception) -> None:
        self.told.append(type(error))
        self.over.set()


async def begun(case: Case, spec: ProcessSpec) -> Seen:
    if not case.executor.is_ready:
        assert isinstance(case.executor, ProcessExecutor)
        await case.executor.open()
    seen = Seen()
    case.executor.begin(spec, seen)
    assert seen.told == []
    return seen


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("sh", "-c", "exit 3"), ["running", 3]),
        (("sleep", "0.1"), ["running", 0]),
        (("no-such-program",), [TaskFailure]),
    ],
)
async def test_one_that_is_watched(case: Case, argv: tuple[str, ...], told: list[object]) -> None:
    spec = case.spec("a", *argv)
    seen = await begun(case, spec)
    await asyncio.wait_for(seen.over.wait(), 60)
    assert seen.told == told
    assert (spec.id in await case.executor.known()) == (told[0] == "running")


async def test_one_that_is_watched_can_be_killed(case: Case) -> None:
    spec = case.spec("a", "sleep", "600")
    seen = await begun(case, spec)
    await case.executor.kill(spec.id)
    await asyncio.wait_for(seen.over.wait(), 60)
    assert seen.told == ["running", -9]


# --- in lanes -------------------------------------------------------------------------------------------------------


class Lane:
    """What an agent does with what is given back: it begins it again, in order, once nothing runs any more."""

    def __init__(self, case: Case, width: int) -> None:
        self._case = case
        self._width = width
        self._left: list[ProcessSpec] = []
        self.order: list[str] = []
        """Names, as they began and ended."""
        self.given_back = 0
        self.now = self.most = 0

    async def run(self, *specs: ProcessSpec) -> None:
        if not self._case.executor.is_ready:
            assert isinstance(self._case.executor, ProcessExecutor)
            await self._case.executor.open()
        self._left = [msgspec.structs.replace(spec, lane="node", width=self._width) for spec in specs]
        async with asyncio.timeout(60):
            while self._left:
                going, self._left = self._left, []
                told = [_InLane(self, spec) for spec in going]
                for one in told:
                    self._case.executor.begin(one.spec, one)
                for one in told:
                    await one.over.wait()

    def give_back(self, spec: ProcessSpec) -> None:
        self.given_back += 1
        self._left.append(spec)


class _InLane:
    def __init__(self, lane: Lane, spec: ProcessSpec) -> None:
        self.spec = spec
        self.over = asyncio.Event()
        self._lane = lane
        self._began = 0.0

    @property
    def _name(self) -> str:
        return self.spec.id.split("/")[1]

    def running(self, began: float, *, is_over: bool) -> None:
        self._began = began
        self._lane.order.append(f"+{self._name}")

    def ended(self, exit_: ProcessExit | None) -> None:
        assert exit_ is not None
        assert self._began <= exit_.end_time
        self._lane.order.append(f"-{self._name}")
        self.over.set()

    def failed(self, error: Exception) -> None:
        if isinstance(error, GivenBack):
            self._lane.give_back(self.spec)
        else:
            self._lane.order.append(f"!{self._name}")
        self.over.set()


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_lane_runs_one_after_the_other(case: Case, exit_code: int) -> None:
    lane = Lane(case, 1)
    names = "abcdefgh"
    await lane.run(*(case.spec(name, "sh", "-c", f"exit {exit_code if name == 'c' else 0}") for name in names))
    assert lane.order == [f"{sign}{name}" for name in names for sign in "+-"]
    assert lane.given_back >= 5 * exit_code


async def test_a_lane_runs_no_more_than_fit(case: Case) -> None:
    lane = Lane(case, 2)
    await lane.run(*(case.spec(name, "sleep", "0.02") for name in "abcdefgh"))
    running: set[str] = set()
    for sign, name in lane.order:
        (running.add if sign == "+" else running.remove)(name)
        assert len(running) <= 2
    assert sorted(lane.order) == sorted(f"{sign}{name}" for name in "abcdefgh" for sign in "+-")
    if case.tells_in_order:
        assert [event for event in lane.order if event[0] == "+"] == [f"+{name}" for name in "abcdefgh"]


async def test_what_cannot_be_started_gives_back_what_waits_for_it(case: Case) -> None:
    lane = Lane(case, 1)
    await lane.run(case.spec("a", "true"), case.spec("b", "no-such-program"), case.spec("c", "true"))
    assert lane.order == ["+a", "-a", "!b", "+c", "-c"]
    assert lane.given_back >= 1


async def test_what_waits_is_given_back_when_it_is_killed(case: Case) -> None:
    specs = [msgspec.structs.replace(case.spec(name, "sleep", "600"), lane="node", width=1) for name in "abc"]
    first, second, third = [await begun(case, spec) for spec in specs]
    await case.executor.kill(specs[1].id)
    await asyncio.wait_for(second.over.wait(), 60)
    assert second.told == [GivenBack]
    await case.executor.kill(specs[0].id)
    await asyncio.wait_for(third.over.wait(), 60)
    assert third.told == [GivenBack], "the one before it did not end well"
    await asyncio.wait_for(first.over.wait(), 60)
    assert first.told == ["running", -9]
    assert await case.executor.known() == [specs[0].id]


async def test_lanes_do_not_wait_for_each_other(case: Case) -> None:
    first = msgspec.structs.replace(case.spec("a", "sleep", "600"), lane="node", width=1)
    second = msgspec.structs.replace(case.spec("b", "true"), lane="other", width=1)
    assert (await begun(case, first)).told == []
    seen = await begun(case, second)
    await asyncio.wait_for(seen.over.wait(), 60)
    assert seen.told == ["running", 0]
    await case.executor.kill(first.id)


def in_new_directories(case: Case, name: str) -> ProcessSpec:
    spec = case.spec(name, "true")
    task = f"{spec.directory}/{name}"
    return msgspec.structs.replace(
        spec,
        directory=f"{task}/wd",
        stdout_path=f"{task}/stdout.txt",
        stderr_path=f"{task}/stderr.txt",
        makes_directory=True,
    )


async def test_its_directories_are_made_for_it(case: Case) -> None:
    spec = in_new_directories(case, "a")
    seen = await begun(case, spec)
    await asyncio.wait_for(seen.over.wait(), 60)
    assert seen.told == ["running", 0]
    for path in (spec.directory, os.path.dirname(spec.directory)):
        facts = os.stat(path)
        assert stat.S_ISDIR(facts.st_mode)
        assert facts.st_mode & 0o007 == 0 or spec.run_as is None
        assert facts.st_uid == (os.getuid() if spec.run_as is None else spec.run_as.uid)
        if spec.run_as is not None:
            assert (facts.st_gid, facts.st_mode & 0o7777) == (spec.run_as.gid, 0o770)


@pytest.mark.parametrize("trouble", ["there already", "nowhere to be"])
async def test_directories_that_cannot_be_made(case: Case, trouble: str) -> None:
    spec = in_new_directories(case, "a")
    if trouble == "there already":
        os.mkdir(os.path.dirname(spec.directory))
    else:
        spec = msgspec.structs.replace(spec, directory=f"{spec.directory}/b/wd")
    seen = await begun(case, spec)
    await asyncio.wait_for(seen.over.wait(), 60)
    assert seen.told == [DirectoryNotMade]
    with pytest.raises(DirectoryNotMade):
        await case.executor.start(spec)
    assert spec.id not in await case.executor.known()
