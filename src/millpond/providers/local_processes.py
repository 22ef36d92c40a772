"""What runs on this machine below a host's directory, found through /proc."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

_MARKER: Final = b"MILLPOND_PROCESS="
"""The variable by which every process of a task is known: `<token of the host's directory>:…` (`agent/spawner.py`)."""
_SPAWNER: Final = b"spawner.py"
_KERNEL_THREAD: Final = 0x00200000
"""PF_KTHREAD among the flags of a process."""
_QUIET_ROUNDS: Final = 2
_PAUSE_S: Final = 0.01


class _Process(NamedTuple):
    pid: int
    parent: int


class Belonging(NamedTuple):
    """What one look at the processes of the machine found of a directory."""

    parents: list[int]
    """The host and the spawner, and what they are about to turn into another program."""
    tasks: list[int]
    """Processes of tasks, and all that descends from any of these."""
    is_certain: bool
    """Not certain while some process is between two programs, when nothing tells whose it is."""


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks since the machine did; None when there is none, or it has ended."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def kill_all(
    directory: str,
    host_command: Sequence[str],
    limit_s: float,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Kill the host (known by its command line) and the spawner of the directory, and every process of its tasks;
    whether nothing is left.

    Gives up after `limit_s`. Blocks: not for an event loop.
    """
    deadline = monotonic() + limit_s
    quiet = 0
    while True:
        found = find(directory, host_command)
        # While there are tasks, their parents are only stopped: they start nothing more, and what detaches from a
        # task still becomes the spawner's child, by which it is found even without the marker.
        for pid in found.parents:
            _signal(pid, signal.SIGSTOP if found.tasks else signal.SIGKILL)
        for pid in found.tasks:
            _signal(pid, signal.SIGKILL)
        # A process seen while it was being copied or replaced may show only at the next look.
        quiet = quiet + 1 if found.is_certain and not found.parents and not found.tasks else 0
        if quiet == _QUIET_ROUNDS:
            return True
        if monotonic() > deadline:
            for pid in found.parents:
                _signal(pid, signal.SIGKILL)
            return not found.parents and not found.tasks
        pause(_PAUSE_S)


def find(directory: str, host_command: Sequence[str]) -> Belonging:
    """The processes of a directory, as far as they can be told now. This process is never among them."""
    marker = None
    with contextlib.suppress(FileNotFoundError):
        facts = os.stat(directory)
        marker = _MARKER + f"{facts.st_dev:x}-{facts.st_ino:x}:".encode()
    if marker is None:
        return Belonging([], [], is_certain=True)
    own, host = os.fsencode(directory), [os.fsencode(argument) for argument in host_command]
    parents: set[int] = set()
    tasks: set[int] = set()
    others: list[_Process] = []
    is_certain = True
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        pid = int(name)
        # In this order: a process that turns into another program meanwhile has the later one's environment.
        arguments, environment = _read(pid, "cmdline"), _read(pid, "environ")
        fields = _stat(pid)
        if fields is None:
            continue
        process = _Process(pid, int(fields[1]))
        if environment is None or arguments is None:
            others.append(process)  # somebody else's
        elif any(variable.startswith(marker) for variable in environment.split(b"\0")):
            tasks.add(pid)
        elif _is_parent(arguments.split(b"\0")[:-1], own, host):
            parents.add(pid)
        else:
            others.append(process)
            if not arguments and not environment and not int(fields[6]) & _KERNEL_THREAD:
                is_certain = False
    # A child that a parent has not yet turned into the task's program looks like its parent, and is stopped or killed
    # as such. What follows are the children that hide: they have cleared their environment.
    family = parents | tasks
    more = True
    while more:
        more = False
        for process in others:
            if process.parent in family and process.pid not in family:
                family.add(process.pid)
                tasks.add(process.pid)
                more = True
    return Belonging(sorted(parents), sorted(tasks), is_certain)


def _is_parent(arguments: list[bytes], directory: bytes, host: list[bytes]) -> bool:
    if arguments == host:
        return True
    at = arguments.index(directory) if directory in arguments else 0
    return at > 0 and os.path.basename(arguments[at - 1]) == _SPAWNER


def _stat(pid: int) -> list[bytes] | None:
    """The fields of `/proc/<pid>/stat` from the state on; None when there is no process, or it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command name (in parentheses) may hold anything.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if not fields or fields[0] in {b"Z", b"X"} else fields


def _read(pid: int, name: str) -> bytes | None:
    """None when it is gone, or hidden from us."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
