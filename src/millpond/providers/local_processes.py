"""What runs on this machine below a host's directory, found through /proc."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Final

_MARKER: Final = b"MILLPOND_PROCESS="
"""The variable by which every process of a task is known: `<token of the host's directory>:…` (`agent/spawner.py`)."""
_SPAWNER: Final = b"spawner.py"


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks since the machine did; None when there is none, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name (in parentheses) may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def kill_all(directory: str) -> int:
    """Kill the spawner of the directory and every process of its tasks; how many there were."""
    count = 0
    for pid in _belonging(directory):
        count += 1
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return count


def _belonging(directory: str) -> Iterator[int]:
    try:
        facts = os.stat(directory)
    except FileNotFoundError:
        return
    marker = _MARKER + f"{facts.st_dev:x}-{facts.st_ino:x}:".encode()
    own = os.fsencode(directory)
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        pid = int(name)
        arguments = _read(pid, "cmdline").split(b"\0")
        is_spawner = own in arguments and any(os.path.basename(argument) == _SPAWNER for argument in arguments)
        is_task = any(variable.startswith(marker) for variable in _read(pid, "environ").split(b"\0"))
        if (is_spawner or is_task) and start_time(pid) is not None:
            yield pid


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
