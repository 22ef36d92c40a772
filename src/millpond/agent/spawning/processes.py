"""Processes as the spawner knows them, and as the kernel shows them."""

import contextlib
import ctypes
import os
import signal
import struct
import time

from millpond.agent.spawning.frames import MARKER
from millpond.agent.spawning.lanes import Lane

_libc = ctypes.CDLL(None, use_errno=True)
_SHORT = 2048
_PF_KTHREAD = 0x00200000
_NAMELESS_ROUNDS = 20
"""A process that has wiped out its own arguments and environment for good is waited for no longer than that."""


def directory_token(directory: str) -> str:
    """What tells the processes of one spawner directory from those of another on the same machine."""
    facts = os.stat(directory)
    return f"{facts.st_dev:x}-{facts.st_ino:x}"


class Process:
    """A process that was launched, until it is forgotten."""

    __slots__ = (
        "began",
        "exit",
        "forgotten",
        "id",
        "keeps",
        "kill_at",
        "lane",
        "patience_until",
        "pid",
        "starting",
        "succeeded",
        "switching",
        "tell_at",
    )

    def __init__(self, process_id: bytes, pid: int, began: bytes, keeps: bool, lane: Lane | None) -> None:
        self.id = process_id
        self.pid = pid
        self.began = began
        """The time, in words."""
        self.starting = True
        """It has yet to become its program, as far as the client is told."""
        self.tell_at = 0.0
        """Monotonic time at which it is told that it runs, if it still does."""
        self.lane = lane
        self.succeeded = False
        """It has ended with exit code 0."""
        self.exit: bytes | None = None
        """The EXITED frame, from when it was reaped; not told before what it left behind is gone."""
        self.kill_at = 0.0
        """Monotonic time at which SIGTERM becomes SIGKILL; 0 when no kill is pending."""
        self.patience_until = 0.0
        self.forgotten = False
        self.keeps = keeps
        """What it leaves behind lives on after its end."""
        self.switching = -1
        """Descriptor on which it says how it became another user's; -1 once it has."""


class Stray:
    """A process that lost its parent and became the spawner's child. Its pid is safe to use until it is reaped."""

    __slots__ = ("leads_group", "suspects")

    def __init__(self, suspects: set[bytes], leads_group: bool) -> None:
        self.suspects = suspects
        """Processes it may stem from: one if it carries the marker or is in the session, otherwise all that lived when
        it was first seen. It is killed when the last of them has ended, so never while its task may still run."""
        self.leads_group = leads_group


def child_signals() -> int:
    """From now on SIGCHLD comes as something to read from this descriptor: that costs less than a handler, which is
    called in the middle of a system call that then begins anew. Raises OSError."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    wanted = struct.pack("=Q", 1 << (signal.SIGCHLD - 1))
    descriptor: int = _libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return descriptor


class Children:
    """The direct children of this process."""

    def __init__(self) -> None:
        try:
            self._children_file = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._children_file = -1

    def pids(self) -> list[int]:
        """Pids of all direct children. Exact: they leave the list only when reaped, which happens in this thread."""
        if self._children_file >= 0:
            text = chunk = os.pread(self._children_file, 1 << 16, 0)
            # Only the last part is shorter than about a page.
            while len(chunk) > _SHORT:
                chunk = os.pread(self._children_file, 1 << 16, len(text))
                text += chunk
            return [int(pid) for pid in text.split()]
        own = os.getpid()
        children: list[int] = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    if read_family(int(name))[0] == own:
                        children.append(int(name))
        return children


def signal_group(pid: int, number: int) -> None:
    """Signal a leader that has not been reaped, and its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def is_of(process_id: bytes, attempt: bytes) -> bool:
    """Whether the process is one of that attempt."""
    return process_id.startswith(attempt) and process_id[len(attempt) : len(attempt) + 1] in (b"", b"/")


def read_family(pid: int) -> tuple[int, int, int]:
    """Parent, process group and session of a process; OSError when it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The name in parentheses may hold anything, also parentheses and blanks.
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[2]), int(fields[3])


def read_marker(pid: int) -> bytes:
    """The value of the marker variable in a process's first environment, or nothing; OSError when it is hidden."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        text = b"\0" + file.read()
    _, found, rest = text.partition(b"\0" + MARKER.encode() + b"=")
    return rest.partition(b"\0")[0] if found else b""


def is_nameless(pid: int) -> bool:
    """Whether a process is neither the kernel's own nor ended, yet shows no environment and no arguments: it is turning
    into another program. OSError when it is gone."""
    with open(f"/proc/{pid}/environ", "rb") as environment, open(f"/proc/{pid}/cmdline", "rb") as arguments:
        if environment.read(1) or arguments.read(1):
            return False
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return fields[0] not in (b"Z", b"X") and not int(fields[6]) & _PF_KTHREAD


def kill_leftovers(token: str) -> None:
    """Kill processes of an earlier spawner of the same directory, which was killed: nobody can tell how they end.

    Tasks they belong to are reported lost and run again, so they must not run on. One that has yet to become its task's
    program holds the lock, so there is none here; one that is in the middle of it has let go of the lock and shows no
    environment, nor arguments, for a moment.
    """
    prefix = token.encode() + b":"
    for round_ in range(100):
        found = False
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                # The descriptor first, then the look: what is signalled is then what was looked at.
                descriptor = os.pidfd_open(int(name))
                try:
                    if read_marker(int(name)).startswith(prefix):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        found = True
                    elif round_ < _NAMELESS_ROUNDS and is_nameless(int(name)):
                        found = True
                finally:
                    os.close(descriptor)
        if not found:
            return
        time.sleep(0.01)
