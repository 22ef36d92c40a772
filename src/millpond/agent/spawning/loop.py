"""The spawner's loop: what it is told, what ends, and what it kills."""

import contextlib
import errno
import math
import os
import select
import signal
import socket
import time

from millpond.agent.spawning.client import Client
from millpond.agent.spawning.frames import (
    COMPILED,
    END,
    ENDED,
    EXITED,
    FORGET,
    GIVEN_BACK,
    HELLO,
    IN_LANE,
    KILL,
    LAUNCH,
    LAUNCH_AS,
    READY,
    REFUSED,
    RUNNING,
    SHUTDOWN,
    SOCKET_NAME,
    VERSION,
    frame,
)
from millpond.agent.spawning.lanes import PATIENCE_S, Lane, Lanes
from millpond.agent.spawning.processes import (
    Children,
    Process,
    Stray,
    child_signals,
    directory_token,
    is_of,
    read_family,
    read_marker,
    signal_group,
)
from millpond.agent.spawning.start import StartError
from millpond.agent.spawning.starts import Starts
from millpond.agent.spawning.switch import Switch

_SWEEP_INTERVAL_S = 0.05
_SWEEP_PATIENCE_S = 10.0
"""After that a task's end is told although something it left behind cannot be killed (it hangs in the kernel, or runs
as another user)."""
_ORPHAN_CHECK_S = 2.0
_FIRST_CLIENT_S = 30.0
"""However short it is to linger, whoever started the spawner has that long to connect."""


class Spawner:
    """The loop: a listening socket, at most one client, children that end."""

    def __init__(self, listener: socket.socket, directory: str, linger_s: float) -> None:
        self._listener = listener
        self._directory = directory
        self._linger_s = linger_s
        self._token = os.fsencode(directory_token(directory))
        self._processes: dict[bytes, Process] = {}
        self._running: dict[int, Process] = {}
        """By pid: launched and not reaped."""
        self._ending: dict[bytes, Process] = {}
        """Reaped, and being swept up behind."""
        self._kept: dict[bytes, Process] = {}
        """Reaped, but what they left behind is not to be swept up yet."""
        self._ends: set[bytes] = set()
        """Attempts whose END is to be answered."""
        self._strays: dict[int, Stray] = {}
        self._killing: dict[bytes, Process] = {}
        """Between SIGTERM and SIGKILL."""
        self._client: Client | None = None
        self._shutting_down = False
        self._checked_at = time.monotonic()
        self._alone_since = self._checked_at + _FIRST_CLIENT_S
        self._lanes = Lanes()
        self._children = Children()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_receiver.fileno(), select.EPOLLIN)
        self._starts = Starts(self._token, self._epoll, self._tell_running, self._not_started)
        self._child_signals = child_signals()
        self._epoll.register(self._child_signals, select.EPOLLIN)

    def serve(self) -> None:
        """Run until told to shut down, or until nobody has come for long and nothing runs."""
        signal.set_wakeup_fd(self._wake_sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: self._shut_down())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while not self._is_done():
            for descriptor, events in self._epoll.poll(self._timeout()):
                if descriptor == self._child_signals:
                    # Which child it was says the kernel, for all that have ended since.
                    with contextlib.suppress(BlockingIOError):
                        os.read(descriptor, 4096)
                elif self._client is not None and descriptor == self._client.descriptor:
                    if events & ~select.EPOLLOUT:
                        self._receive()
                    if events & select.EPOLLOUT:
                        self._flush()
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._wake_receiver.fileno():
                    with contextlib.suppress(BlockingIOError):
                        self._wake_receiver.recv(65536)
                elif self._starts.is_answer(descriptor):
                    self._starts.answer(descriptor)
            self._reap()
            if self._starts:
                self._starts.look()
            if self._killing:
                self._kill_overdue()
            if self._lanes:
                for lane in self._lanes.stuck(time.monotonic()):
                    self._give_back(lane)
            if self._client is not None and self._client.tell_due():
                self._flush()
        if self._client is not None:
            self._client.close()

    def _timeout(self) -> float:
        """Seconds the loop may sleep."""
        timeout = -1.0 if self._client is not None else min(_ORPHAN_CHECK_S, self._linger_s + 0.01)
        if self._starts:
            timeout = self._starts.look_in_s()
        elif self._ending or self._shutting_down:
            timeout = _SWEEP_INTERVAL_S
        if self._killing:
            until = min(process.kill_at for process in self._killing.values()) - time.monotonic()
            timeout = max(0.001, until if timeout < 0 else min(timeout, until))
        due_at = math.inf if self._client is None else self._client.due_at()
        if due_at < math.inf:
            until = due_at - time.monotonic()
            timeout = max(0.001, until if timeout < 0 else min(timeout, until))
        elif self._lanes and not 0 <= timeout <= PATIENCE_S:
            timeout = PATIENCE_S
        return timeout

    def _is_done(self) -> bool:
        if self._shutting_down:
            return not self._running and not self._ending and not self._kept
        if self._client is not None:
            return False
        now = time.monotonic()
        if now - self._checked_at >= _ORPHAN_CHECK_S:
            self._checked_at = now
            if not os.path.exists(os.path.join(self._directory, SOCKET_NAME)):
                # Nobody can connect any more: the node's directory was deleted under us.
                self._shut_down()
                return False
        if self._running or self._ending or self._kept:
            return False
        return now - self._alone_since >= self._linger_s

    # --- the client ---

    def _accept(self) -> None:
        """Take a new client; it takes the place of the old one, which is a host that hangs or has died."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        # What the old one still said counts (a FORGET of an exit that was taken in): it came before the new one.
        while self._client is not None and self._receive():
            pass
        self._drop_client()
        self._starts.settle(self._reap)
        self._client = client = Client(connection, self._epoll)
        client.tell(frame(HELLO, str(VERSION).encode()))
        for process_id in self._lanes.given_back:
            client.tell(frame(GIVEN_BACK, process_id))
        for process in self._processes.values():
            if not process.forgotten:
                client.tell(self._news(process))
        client.tell(frame(READY))

    def _news(self, process: Process) -> bytes:
        """What there is to tell of a process."""
        if process.exit is None or process.id in self._ending:
            return frame(RUNNING, process.id, process.began)
        return process.exit

    def _drop_client(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
        # The next one is told.
        for lane in self._lanes.full():
            self._lanes.empty(lane)
        # Whoever comes next asks for what it wants to know.
        self._ends.clear()
        self._alone_since = time.monotonic()

    def _receive(self) -> bool:
        """Take in what the client sent; whether it is still there and there may be more."""
        assert self._client is not None
        try:
            if not self._client.receive():
                return False
            for operation, payload in self._client.frames():
                self._handle(operation, payload)
        except (EOFError, ValueError, IndexError):
            # It has gone, or what it speaks is not our protocol: whoever it is may connect again.
            self._drop_client()
            return False
        return True

    def _flush(self) -> None:
        if self._client is not None:
            try:
                self._client.flush()
            except EOFError:
                self._drop_client()

    def _tell(self, data: bytes) -> None:
        if self._client is not None:
            self._client.tell(data)

    def _handle(self, operation: int, payload: bytes) -> None:
        if operation == IN_LANE:
            name, width, generation, how, payload = payload.split(b"\0", 4)
            self._take_launch(int(how), payload, self._lanes.lane(name), int(width), int(generation))
        elif operation in (LAUNCH, LAUNCH_AS):
            self._take_launch(operation, payload)
        elif operation == KILL:
            process_id, grace_ms = payload.split(b"\0")
            self._kill(process_id, int(grace_ms))
        elif operation == FORGET:
            for process_id in payload.split(b"\0"):
                self._forget(process_id)
        elif operation == END:
            self._end(payload)
        elif operation == COMPILED:
            try:
                self._starts.compiled(os.fsdecode(payload))
            except OSError as error:
                os.write(2, f"{error}: processes are started without\n".encode())
        elif operation == SHUTDOWN:
            self._shut_down()
        else:
            raise ValueError(operation)

    # --- starting ---

    def _take_launch(
        self, operation: int, payload: bytes, lane: Lane | None = None, width: int = 0, generation: int = 0
    ) -> None:
        switch: Switch | None = None
        if operation == LAUNCH_AS:
            *who, payload = payload.split(b"\0", 3)
            switch = self._starts.switch_of(tuple(who))
        process_id = payload[: payload.index(b"\0")]
        known = self._processes.get(process_id)
        if known is not None:
            if not known.starting:
                self._tell(self._news(known))
            return
        self._lanes.given_back.pop(process_id, None)
        if process_id in self._lanes:
            return
        if self._shutting_down:
            self._refuse(process_id, errno.ESHUTDOWN, b"shutdown")
        elif lane is not None and width and generation != self._lanes.generation(lane.name):
            self._lanes.remember(process_id)
            self._refuse_waiting(process_id, lane)
        elif lane is None or not width or (lane.running < width and not lane.waiting):
            self._launch(process_id, payload, switch, lane)
        else:
            lane.width = width
            self._lanes.wait(lane, process_id, payload, switch, time.monotonic())

    def _refuse(self, process_id: bytes, number: int, step: bytes, *more: bytes) -> None:
        self._tell(frame(REFUSED, process_id, b"%d" % number, step, *more))

    def _give_back(self, lane: Lane) -> None:
        """Whatever waits in a lane."""
        for process_id in self._lanes.empty(lane):
            self._refuse_waiting(process_id, lane)

    def _refuse_waiting(self, process_id: bytes, lane: Lane) -> None:
        self._refuse(process_id, 0, b"waiting", lane.name, b"%d" % self._lanes.generation(lane.name))

    def _over_in(self, lane: Lane, *, well: bool) -> None:
        """A process of the lane is over, or was not started at all."""
        if not well or self._shutting_down:
            self._give_back(lane)
        self._lanes.leave(lane)
        while (following := self._lanes.next(lane)) is not None:
            launch, switch = following
            lane.begun_at = time.monotonic()
            self._launch(launch[: launch.index(b"\0")], launch, switch, lane)

    def _launch(self, process_id: bytes, launch: bytes, switch: Switch | None, lane: Lane | None) -> None:
        if lane is not None:
            lane.running += 1
        try:
            process = self._starts.begin(process_id, launch, switch, lane)
        except StartError as error:
            self._refuse(process_id, error.number, error.step)
            if lane is not None:
                self._over_in(lane, well=False)
            return
        self._processes[process_id] = self._running[process.pid] = process
        if not process.starting:
            self._tell_running(process)
        if self._shutting_down:
            # SIGTERM came in between.
            self._starts.signal(process, signal.SIGKILL)

    def _tell_running(self, process: Process) -> None:
        if self._client is not None:
            self._client.tell_running(process)

    def _not_started(self, process: Process, why: StartError) -> None:
        """It could not start, and is reaped."""
        del self._running[process.pid]
        if not process.starting:
            # A client was told that it runs: it ends as in a shell that finds no such program.
            self._ended(process, b"127 %.6f 0 0" % time.time())
            return
        self._killing.pop(process.id, None)
        del self._processes[process.id]
        self._refuse(process.id, why.number, why.step)
        if self._ends:
            self._answer_ends()
        if process.lane is not None:
            self._over_in(process.lane, well=False)

    # --- ending ---

    def _kill(self, process_id: bytes, grace_ms: int) -> None:
        lane = self._lanes.withdraw(process_id)
        if lane is not None:
            self._refuse_waiting(process_id, lane)
            return
        process = self._processes.get(process_id)
        if process is None:
            return
        # The whole tree is meant: it leaves nothing.
        process.keeps = False
        if process_id in self._kept:
            self._sweep_up(process)
        if process.pid not in self._running or process.exit is not None:
            return
        if grace_ms <= 0:
            self._killing.pop(process_id, None)
            self._starts.signal(process, signal.SIGKILL)
            return
        if process_id not in self._killing:
            self._starts.signal(process, signal.SIGTERM)
            # A stopped process does not see SIGTERM before it is continued.
            self._starts.signal(process, signal.SIGCONT)
            self._killing[process_id] = process
            process.kill_at = time.monotonic() + grace_ms / 1000

    def _forget(self, process_id: bytes) -> None:
        process = self._processes.get(process_id)
        if process is not None and process_id in self._kept:
            process.forgotten = True
            self._sweep_up(process)
        elif process is not None and (process.exit is None or process_id in self._ending):
            process.forgotten = True
        elif process is not None:
            del self._processes[process_id]

    def _end(self, attempt: bytes) -> None:
        lane = self._lanes.withdraw(attempt)
        if lane is not None:
            self._refuse_waiting(attempt, lane)
        for process in self._processes.values():
            if is_of(process.id, attempt) and process.exit is None:
                process.keeps = False
                self._killing.pop(process.id, None)
                self._starts.signal(process, signal.SIGKILL)
        for process in [process for process in self._kept.values() if is_of(process.id, attempt)]:
            self._sweep_up(process)
        self._ends.add(attempt)
        self._answer_ends()

    def _sweep_up(self, process: Process) -> None:
        """Kill from now on what a process that has ended left behind."""
        del self._kept[process.id]
        process.patience_until = time.monotonic() + _SWEEP_PATIENCE_S
        self._ending[process.id] = process
        self._sweep()

    def _answer_ends(self) -> None:
        for attempt in list(self._ends):
            if any(is_of(process.id, attempt) for process in self._running.values()):
                continue
            if not any(is_of(process_id, attempt) for process_id in self._ending):
                self._ends.discard(attempt)
                self._tell(frame(ENDED, attempt))

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for process in [process for process in self._killing.values() if process.kill_at <= now]:
            del self._killing[process.id]
            self._starts.signal(process, signal.SIGKILL)

    def _shut_down(self) -> None:
        self._shutting_down = True
        for lane in self._lanes.full():
            self._give_back(lane)
        for process in self._running.values():
            process.keeps = False
            self._starts.signal(process, signal.SIGKILL)
        for process in list(self._kept.values()):
            self._sweep_up(process)

    def _reap(self) -> None:
        """Take in all children that ended, then what their tasks left behind."""
        # There may be strays that are not known yet, or are no more.
        look = False
        while True:
            pid, said = self._starts.ended_child()
            if not pid:
                break
            if said:
                self._ended(self._running.pop(pid), said)
            else:
                look = self._take_in(pid) or look
        if self._ending or look:
            # A stray's own children are the spawner's now.
            self._sweep()

    def _take_in(self, pid: int) -> bool:
        """Take in a child that has ended; whether there may be strays that are not known yet, or are no more."""
        process = self._running.get(pid)
        if process is not None and process.switching >= 0 and self._starts.answer(process.switching):
            return False
        process = self._running.pop(pid, None)
        if process is not None and not process.keeps:
            # Before it is reaped: until then its number, which is its group's, belongs to nobody else.
            signal_group(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        if process is None:
            self._strays.pop(pid, None)
            return True
        times = f"{time.time():.6f} {usage.ru_utime:.6f} {usage.ru_stime:.6f}"
        self._ended(process, f"{os.waitstatus_to_exitcode(status)} {times}".encode())
        # Looked at now, a child that hides is known by its time.
        return process.keeps

    def _ended(self, process: Process, said: bytes) -> None:
        """It is reaped; `said` is what EXITED says of it."""
        self._killing.pop(process.id, None)
        process.exit = frame(EXITED, process.id, process.began, said)
        process.succeeded = said.startswith(b"0 ")
        if process.keeps:
            self._kept[process.id] = process
            if process.forgotten:
                self._sweep_up(process)
            elif self._client is not None:
                self._client.tell_exit(process)
        else:
            process.patience_until = time.monotonic() + _SWEEP_PATIENCE_S
            self._ending[process.id] = process

    def _sweep(self) -> None:
        """Kill what the ending processes left behind; tell the exit of those that left nothing."""
        haunted: set[bytes] = set()
        children = self._children.pids()
        if len(children) > len(self._running):
            for pid in children:
                if pid not in self._running and pid not in self._strays:
                    self._strays[pid] = self._identify(pid)
            alive = self._ending.keys() | self._kept.keys() | {process.id for process in self._running.values()}
            for pid, stray in self._strays.items():
                stray.suspects &= alive
                if stray.suspects <= self._ending.keys():
                    haunted |= stray.suspects
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        (os.killpg if stray.leads_group else os.kill)(pid, signal.SIGKILL)
        now = time.monotonic() if haunted else 0.0
        for process in list(self._ending.values()):
            if process.id not in haunted or now >= process.patience_until:
                del self._ending[process.id]
                if process.forgotten:
                    del self._processes[process.id]
                elif self._client is not None:
                    self._client.tell_exit(process)
                if process.lane is not None:
                    self._over_in(process.lane, well=process.succeeded)
        if self._ends:
            self._answer_ends()

    def _identify(self, pid: int) -> Stray:
        """Whose a child is that the spawner did not start: by its marker, else by its session or group."""
        everyone = {process.id: process.pid for process in self._running.values()}
        everyone.update((process.id, process.pid) for process in (*self._ending.values(), *self._kept.values()))
        suspects = set(everyone)
        leads_group = False
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, group, session = read_family(pid)
            leads_group = group == pid
            by_session = {process_id for process_id, leader in everyone.items() if leader in (group, session)}
            suspects = by_session or suspects
        with contextlib.suppress(OSError):
            marker = read_marker(pid)
            token, _, process_id = marker.partition(b":")
            if token == self._token and process_id:
                # Unless it has ended: then the stray has no suspect, and is killed at once.
                suspects = {process_id}
        return Stray(suspects, leads_group)
