"""Processes from their launch until they are their programs: begun by the starter in C, by the switch, or at once.

Neither the starter nor the switch is waited for. A process *has started* once it is its program; until then it counts as
running, can be killed, and its client is told nothing of it.
"""

import os
import select
import socket
import time
from collections.abc import Callable

from millpond.agent.spawning.client import TELL_S
from millpond.agent.spawning.frames import KEEPS, MARKER
from millpond.agent.spawning.lanes import Lane
from millpond.agent.spawning.native import NativeStarter, NotStarted
from millpond.agent.spawning.processes import Process, signal_group
from millpond.agent.spawning.start import Starter, StartError
from millpond.agent.spawning.switch import ANSWER, Switch

_LOOK_S = 0.005
"""Between two looks at what the starter in C has begun."""
_SLOW_S = 0.05
"""The same, where that takes long."""
_AWAIT_S = 0.001
"""The same, while somebody waits."""
_PATIENCE_S = 2.0
_MAX_SWITCHES = 256


class Starts:
    """Tells `started` of each process that has started or was killed before, and `failed` of each that could not start
    and is reaped. `token` is what processes are marked with."""

    def __init__(
        self,
        token: bytes,
        epoll: select.epoll,
        started: Callable[[Process], None],
        failed: Callable[[Process, StartError], None],
    ) -> None:
        self._token = token
        self._epoll = epoll
        self._started = started
        self._failed = failed
        self._starter = Starter()
        self._native: NativeStarter | None = None
        self._begun: dict[int, Process] = {}
        """By pid: by the starter in C."""
        self._switching: dict[int, tuple[socket.socket, Process]] = {}
        """By descriptor: by the switch, and what it says of them."""
        self._switches: dict[tuple[bytes, ...], Switch] = {}
        """By what LAUNCH_AS says of them: most tasks are the same few users'."""

    def compiled(self, path: str) -> None:
        """Begin with the starter in C from now on. Raises OSError."""
        # Each client says it. One starter is enough, and knows what it has begun.
        if self._native is None:
            self._native = NativeStarter(path, self._token, self._starter.cgroups)

    def switch_of(self, who: tuple[bytes, ...]) -> Switch:
        switch = self._switches.get(who)
        if switch is None:
            if len(self._switches) >= _MAX_SWITCHES:
                self._switches.clear()
            switch = self._switches[who] = Switch(*who)
        return switch

    def begin(self, process_id: bytes, launch: bytes, switch: Switch | None, lane: Lane | None) -> Process:
        """`launch` is that of `frames.LAUNCH`. Raises StartError."""
        answer: socket.socket | None = None
        began = b"%.6f" % time.time()
        if self._native is not None:
            pid = self._native.begin(launch, switch)
        else:
            pid, answer = self._start(launch, switch)
        process = Process(process_id, pid, began, KEEPS in launch.split(b"\0", 5)[4], lane)
        process.tell_at = time.monotonic() + TELL_S
        if answer is not None:
            process.switching = answer.fileno()
            self._switching[process.switching] = (answer, process)
            self._epoll.register(process.switching, select.EPOLLIN)
        elif self._native is not None:
            self._begun[pid] = process
        else:
            process.starting = False
        return process

    def _start(self, launch: bytes, switch: Switch | None) -> tuple[int, socket.socket | None]:
        """See `Starter.start`."""
        process_id, directory, stdout_path, stderr_path, flags, count, strings = launch.split(b"\0", 6)
        fields = strings.split(b"\0")
        environment = {MARKER.encode(): self._token + b":" + process_id}
        for field in fields[int(count) :]:
            name, _, value = field.partition(b"=")
            environment[name] = value
        arguments = fields[: int(count)]
        return self._starter.start(directory, stdout_path, stderr_path, flags, arguments, environment, switch)

    def __bool__(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._begun)

    def look_in_s(self) -> float:
        """Seconds until the next look, while there is something to look at."""
        newest = next(reversed(self._begun.values()))
        return _LOOK_S if time.monotonic() < newest.tell_at + _SLOW_S else _SLOW_S

    def look(self) -> None:
        """See which of those have started that the starter in C has begun."""
        if self._native is not None and self._native.begun() < len(self._begun):
            for pid, process in list(self._begun.items()):
                if not self._native.is_beginning(pid):
                    del self._begun[pid]
                    self._has_started(process)

    def _has_started(self, process: Process) -> None:
        if process.starting:
            process.starting = False
            self._started(process)

    def is_answer(self, descriptor: int) -> bool:
        """Whether a switch says something there."""
        return descriptor in self._switching

    def answer(self, descriptor: int) -> bool:
        """Take in what a switch says; whether its process could not start."""
        answer, process = self._switching[descriptor]
        try:
            said = answer.recv(ANSWER.size)
        except BlockingIOError:
            return False
        except OSError:
            said = b""
        del self._switching[descriptor]
        self._epoll.unregister(descriptor)
        answer.close()
        process.switching = -1
        if len(said) < ANSWER.size:
            self._has_started(process)
            return False
        number, was_user = ANSWER.unpack(said)
        # It is about to end, and is no process of the task's.
        os.waitpid(process.pid, 0)
        if not was_user:
            self._starter.cgroups.close()
        self._failed(process, StartError(number, b"exec" if was_user else b"cgroup"))
        return True

    def settle(self, take_in: Callable[[], None]) -> None:
        """Wait until there is something to tell a new client of all processes: what takes too long counts as started.
        `take_in` takes in those that have ended."""
        for descriptor, (answer, _) in list(self._switching.items()):
            answer.settimeout(_PATIENCE_S)
            self.answer(descriptor)
        until = time.monotonic() + _PATIENCE_S
        while any(process.starting for process in self._begun.values()) and time.monotonic() < until:
            time.sleep(_AWAIT_S)
            take_in()
            self.look()
        for process in self._begun.values():
            process.starting = False

    def signal(self, process: Process, number: int) -> None:
        """Signal one that has not been reaped, and its group."""
        if process.pid in self._begun:
            # It may have no group of its own yet.
            os.kill(process.pid, number)
        signal_group(process.pid, number)

    def ended_child(self) -> tuple[int, bytes]:
        """The pid of a child that has ended, or 0; what EXITED says of it if it is taken in. Those that could not start
        are over with."""
        if self._native is None:
            return _ended_child(), b""
        while True:
            try:
                pid, said = self._native.take_in()
            except NotStarted as error:
                self._failed(self._begun.pop(error.pid), error.why)
            else:
                process = self._begun.pop(pid, None)
                if process is not None:
                    process.starting = False
                return pid, said


def _ended_child() -> int:
    """The pid of a child that has ended, and is still to be taken in; 0 when there is none."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if ended is None else ended.si_pid
