"""A user who stops whatever runs as them cannot hold up the spawner, which starts everybody's tasks."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millpond.agent.base import ProcessSpec, RunAs
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.switch import install
from tests.process.isolated import FIRST_UID, open_directory, why_not_here

STOPS_ALL = "echo begun; while :; do kill -s STOP -- -1 2>/dev/null; done"
STARTS = 10
PATIENCE_S = 120.0


@contextlib.contextmanager
def stopping(run_as: RunAs) -> Iterator[None]:
    """A process of that user which stops all others of theirs, again and again."""
    with subprocess.Popen(
        ["/bin/sh", "-c", STOPS_ALL],
        stdout=subprocess.PIPE,
        user=run_as.uid,
        group=run_as.gid,
        extra_groups=[],
        cwd="/",
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            yield
        finally:
            process.kill()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("compiled", [False, True], ids=["python", "compiled"])
async def test_starts_that_are_stopped(compiled: bool, tmp_path: Path, leave_out: Callable[[str], None]) -> None:
    if why_not := why_not_here():
        leave_out(why_not)
    # Of no other test: they would be stopped too.
    run_as = RunAs(FIRST_UID + 90_100, FIRST_UID + 90_100, ())
    directory = open_directory()
    os.chown(directory, run_as.uid, run_as.gid)
    executor = ProcessExecutor(str(tmp_path / "host"), switch=install(str(tmp_path)), compiles=False)

    def spec(name: str) -> ProcessSpec:
        return ProcessSpec(
            id=f"node/{name}/1",
            argv=("true",),
            directory=str(directory),
            environment={"PATH": "/usr/bin:/bin"},
            stdout_path=str(directory / f"{name}.out"),
            stderr_path=str(directory / f"{name}.err"),
            run_as=run_as,
        )

    try:
        if compiled and not await executor.compile():
            leave_out("no C compiler")
        specs = [spec(str(number)) for number in range(STARTS)]
        with stopping(run_as):
            async with asyncio.timeout(PATIENCE_S):
                for one in specs:
                    await executor.start(one)
        async with asyncio.timeout(PATIENCE_S):
            for one in specs:
                await executor.kill(one.id)
                ended = await executor.wait(one.id)
                assert ended is not None
                assert ended.exit_code in (0, -9)
    finally:
        await executor.shutdown()
        shutil.rmtree(directory)
