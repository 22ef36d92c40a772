"""Processes on their way to becoming their programs, which the starter in C does not wait for.

Each is held up there by its log file: a pipe that nobody reads yet.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from millpond.agent.base import GivenBack, ProcessSpec
from millpond.agent.executors.compiled import build
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.spawning import frames
from millpond.domain.errors import TaskFailure
from tests.machine import runs
from tests.process.test_processes import Host, Watched, children, in_lane, run_in_lane
from tests.waiting import PATIENCE_S, until_true


@pytest.fixture
async def host(tmp_path: Path, leave_out: Callable[[str], None]) -> AsyncIterator[Host]:
    if not build(str(tmp_path / "host" / "compiled")):
        leave_out("no C compiler")
    host = Host(tmp_path, compiled=True)
    await host.executor.open()
    await host.begin()
    yield host
    await host.executor.shutdown()


class HeldUp:
    """A process that begins, and gets no further before it is let go."""

    def __init__(self, host: Host, *argv: str, lane: bool = False) -> None:
        self._host = host
        spec = host.spec(*argv)
        self._pipe = f"{spec.stdout_path}.pipe"
        os.mkfifo(self._pipe)
        spec = msgspec.structs.replace(spec, stdout_path=self._pipe)
        self.spec: ProcessSpec = in_lane(spec) if lane else spec
        self.watched = Watched()
        self.pid = 0

    async def begin(self) -> None:
        before = set(children(self._host.spawner_pid()).split())
        self._host.executor.begin(self.spec, self.watched)
        await self.has_begun(before)

    async def has_begun(self, before: set[str]) -> None:
        def new() -> list[str]:
            # It is asleep in the middle of it.
            begun = set(children(self._host.spawner_pid()).split()) - before
            return [pid for pid in begun if state(int(pid)) == "S"]

        await until_true(lambda: len(new()) == 1, "it does not begin")
        self.pid = int(new()[0])

    def let_go(self) -> None:
        self._reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("argv", [("sleep", "0"), ("no-such-program",)])
async def test_one_that_takes_long_holds_up_no_other(host: Host, argv: tuple[str, ...]) -> None:
    slow = HeldUp(host, *argv)
    await slow.begin()
    for number in range(3):
        assert (await host.run(host.shell(f"exit {number}", name=f"b{number}"))).exit_code == number
    # As one that runs it is not known before it does.
    assert slow.watched.told == []
    assert slow.spec.id not in await host.executor.known()
    slow.let_go()
    await until_true(lambda: len(slow.watched.told) == (2 if argv[0] == "sleep" else 1), "it goes no further")
    assert slow.watched.told == (["running", 0] if argv[0] == "sleep" else [TaskFailure])


async def test_one_that_its_user_stops_goes_on(host: Host) -> None:
    slow = HeldUp(host, "sh", "-c", "exit 3")
    await slow.begin()
    os.kill(slow.pid, signal.SIGSTOP)
    slow.let_go()
    await until_true(lambda: len(slow.watched.told) == 2, "it stays as it is")
    assert slow.watched.told == ["running", 3]


@pytest.mark.parametrize("grace_s", [0.0, 0.1])
@pytest.mark.parametrize("by", ["kill", "end"])
async def test_one_that_is_killed(host: Host, by: str, grace_s: float) -> None:
    if grace_s:
        await host.executor.close()
        host.executor = ProcessExecutor(host.directory, grace_s=grace_s, compiles=False)
        await host.executor.open()
    slow = HeldUp(host, "sleep", "600")
    await slow.begin()
    async with asyncio.timeout(PATIENCE_S):
        await (host.executor.kill if by == "kill" else host.executor.end)(slow.spec.id)
    await until_true(lambda: len(slow.watched.told) == 2, "it goes on")
    assert slow.watched.told == ["running", -signal.SIGKILL]
    assert not runs(slow.pid)
    assert (await host.run(host.shell("exit 4", name="b"))).exit_code == 4


async def test_one_that_is_killed_just_before_its_program(host: Host) -> None:
    """It sees the signal as soon as it would begin."""
    await host.executor.close()
    host.executor = ProcessExecutor(host.directory, grace_s=10 * PATIENCE_S, compiles=False)
    await host.executor.open()
    slow = HeldUp(host, "sleep", "600")
    await slow.begin()
    await host.executor.kill(slow.spec.id)
    # The spawner has taken that in.
    assert (await host.run(host.shell("exit 4", name="b"))).exit_code == 4
    slow.let_go()
    await until_true(lambda: len(slow.watched.told) == 2, "it goes on")
    assert slow.watched.told == ["running", -signal.SIGTERM]


async def test_one_that_cannot_start_gives_back_what_waits_for_it(host: Host) -> None:
    slow, behind = HeldUp(host, "no-such-program", lane=True), Watched()
    await slow.begin()
    host.executor.begin(in_lane(host.shell("exit 0", name="b")), behind)
    slow.let_go()
    await until_true(lambda: slow.watched.told and behind.told, "they are not told")
    assert slow.watched.told == [TaskFailure]
    assert behind.told == [GivenBack]
    # Its place in the lane is free.
    assert await run_in_lane(host, host.shell("exit 5", name="c")) == ["running", 5]


async def test_shutdown(host: Host) -> None:
    slow = HeldUp(host, "sleep", "600")
    await slow.begin()
    spawner = host.spawner_pid()
    async with asyncio.timeout(PATIENCE_S):
        await host.executor.shutdown()
    await until_true(lambda: not runs(spawner) and not runs(slow.pid), "they stay")


@pytest.mark.parametrize(("argv", "exit_code"), [(("sh", "-c", "exit 3"), 3), (("no-such-program",), 127)])
async def test_the_next_agent_is_told_that_it_runs(host: Host, argv: tuple[str, ...], exit_code: int) -> None:
    """It waits a while for what has yet to start, but not for ever. What cannot start after all has ended."""
    slow = HeldUp(host, *argv)
    await slow.begin()
    await host.crash()
    async with asyncio.timeout(PATIENCE_S):
        assert await host.executor.known() == [slow.spec.id]
    waiting = asyncio.ensure_future(host.executor.wait(slow.spec.id))
    slow.let_go()
    exit_ = await asyncio.wait_for(waiting, PATIENCE_S)
    assert exit_ is not None
    assert exit_.exit_code == exit_code


async def test_the_next_agent_is_not_told_of_what_could_not_start(host: Host) -> None:
    slow = HeldUp(host, "no-such-program")
    await slow.begin()
    await host.executor.close()
    slow.let_go()
    await host.crash()
    assert await host.executor.known() == []
    with pytest.raises(TaskFailure):
        await host.executor.start(msgspec.structs.replace(slow.spec, stdout_path=f"{host.path}/out"))


async def test_one_that_is_launched_twice_runs_once(host: Host) -> None:
    script = f"echo ran >> {host.path}/ran"
    slow = HeldUp(host, "sh", "-c", script)
    await host.executor.close()
    fields = [slow.spec.id, slow.spec.directory, slow.spec.stdout_path, slow.spec.stderr_path, "", "3"]
    launch = frames.frame(frames.LAUNCH, *(field.encode() for field in (*fields, "/bin/sh", "-c", script)))
    reader, writer = await host.connect()
    before = set(children(host.spawner_pid()).split())
    writer.write(launch)
    await slow.has_begun(before)
    writer.write(launch)
    writer.write(frames.frame(frames.END, b"another"))
    told: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        while frames.ENDED not in told:
            told.append(await one_frame(reader))
        assert told == [frames.HELLO, frames.READY, frames.ENDED]
        slow.let_go()
        while told[-1] != frames.EXITED:
            told.append(await one_frame(reader))
    assert told.count(frames.RUNNING) <= 1
    assert (host.path / "ran").read_text() == "ran\n"
    writer.close()
    await writer.wait_closed()


async def one_frame(reader: asyncio.StreamReader) -> int:
    """Which one it is."""
    length, operation = frames.HEADER.unpack(await reader.readexactly(frames.HEADER.size))
    await reader.readexactly(length)
    return int(operation)
