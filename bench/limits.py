"""Limits to hold Millpond against, each measured by a process of its own in the same run."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.machine import ENVIRONMENT, stop

_STOP_S: Final = 15.0


def spawn_rate(directory: Path, count: int, command: Sequence[str] = ("/bin/true",), *, in_flight: int = 2) -> float:
    """Processes a second; see `spawn`."""
    return float(_output("spawn", f"--count={count}", f"--in-flight={in_flight}", "--", str(directory), *command))


def plain_lives(directory: Path, tasks: int) -> float:
    """Tasks a second that the store alone takes through their lives; see `plain_server`."""
    return float(_output("plain_server", str(directory / "plain.db"), f"--lives={tasks}"))


class Plain(NamedTuple):
    """A plain server that runs; a load's target."""

    endpoint: str
    account: str = "plain"
    key: str = "cGxhaW4="


@contextlib.contextmanager
def plain_server(directory: Path) -> Iterator[Plain]:
    """See `plain_server`. Raises RuntimeError when it does not start."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.plain_server", str(directory / "plain.db")],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError("the plain server did not start")
        yield Plain(line)
    finally:
        stop(process, _STOP_S)


def _output(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"bench.{module}", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True).stdout
