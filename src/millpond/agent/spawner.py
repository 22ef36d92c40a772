"""The spawner: a small process of its own that is the parent of all task processes of one agent host.

Tasks and their exit codes survive a crash of the agent host, because the host is not their parent. The host talks to
the spawner over a unix socket in the host's directory (`executors/process.py` is the client); when the connection
breaks, tasks run on, exits are kept until they are forgotten, and whoever connects next is told all of it.

It is small because starting a process costs more the bigger the parent is (as soon as a fork is involved), so it runs
as `python -I -S spawner.py DIRECTORY LINGER_S`, on the standard library alone, in one thread. It is a subreaper:
processes that detach from their parent become its children, where they are found and killed once their task ends.

Frames, both ways: payload length and operation (`HEADER`), then fields separated by NUL bytes. Argument vectors,
environments and paths cannot hold a NUL byte, so nothing is escaped.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import sys
import time

VERSION = 2
HEADER = struct.Struct("<IB")
_ANSWER = struct.Struct("=II")
"""What a switch says that failed: errno, and whether it was the user already."""
MAX_FRAME = 16 * 1024 * 1024
SOCKET_NAME = "spawner.sock"
LOCK_NAME = "spawner.lock"
LOG_NAME = "spawner.log"
MARKER = "MILLPOND_PROCESS"
"""Environment variable of every process: `<directory token>:<process id>`. Stragglers are found by it."""

# client to spawner
LAUNCH = 1
"""id, directory, stdout path, stderr path, flags, number of arguments, arguments …, NAME=value …"""
KEEPS = b"k"
"""Flag: what the process leaves behind lives on, until END."""
PRIVATE_LOGS = b"p"
"""In the flags of LAUNCH_AS: the files for its output are opened as the spawner, not as the user."""
APPENDS = b"a"
"""Flag: its output is added to what the files hold."""
KILL = 2
"""id, milliseconds between SIGTERM and SIGKILL (0: SIGKILL at once)"""
FORGET = 3
"""id. Of one that runs nothing more is told, and it is gone once it has ended; what it has left behind is killed."""
SHUTDOWN = 4
"""Kill everything and end. Its number never changes: it is also said to a spawner of another version."""
END = 5
"""id of an attempt: kill all processes of that id, or that begins with it and a slash, and all they left behind."""
LAUNCH_AS = 6
"""path of the switch (`agent/switch.py`) or of setpriv; uid, gid and groups with commas between; control groups'
directories with newlines between; then as LAUNCH"""

# spawner to client
HELLO = 16
"""version. Said once, then RUNNING and EXITED for all that is known, then READY."""
RUNNING = 17
"""id. Also the answer to LAUNCH."""
EXITED = 18
"""id, exit code, end time, user CPU seconds, kernel CPU seconds"""
READY = 19
REFUSED = 20
"""id, errno, step that failed (`directory`, `log`, `program`, `exec`, `cgroup`, `shutdown`). The answer to LAUNCH."""
ENDED = 21
"""id of an attempt: of it nothing runs any more. The answer to END."""

_PR_SET_CHILD_SUBREAPER = 36
_NO_UID = ctypes.c_uint(0xFFFFFFFF)
"""No valid one: asks only which it is."""
_MAX_CGROUPS = 512
_SWITCH_S = 2.0
"""How long a process may take to become another user's when that cannot be waited for in the loop."""
_PF_KTHREAD = 0x00200000
_SWEEP_INTERVAL_S = 0.05
_SWEEP_PATIENCE_S = 10.0
"""After that a task's end is told although something it left behind cannot be killed (it hangs in the kernel, or runs
as another user)."""
_NAMELESS_ROUNDS = 20
"""A process that has wiped out its own arguments and environment for good is waited for no longer than that."""
_ORPHAN_CHECK_S = 2.0
_FIRST_CLIENT_S = 30.0
"""However short it is to linger, whoever started the spawner has that long to connect."""
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
_libc = ctypes.CDLL(None, use_errno=True)
_DEFAULT_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]


def frame(operation: int, *fields: bytes) -> bytes:
    """One frame, ready to be written."""
    payload = b"\0".join(fields)
    return HEADER.pack(len(payload), operation) + payload


def directory_token(directory: str) -> str:
    """What tells the processes of one spawner directory from those of another on the same machine."""
    facts = os.stat(directory)
    return f"{facts.st_dev:x}-{facts.st_ino:x}"


class _Process:
    """A process that was launched, until it is forgotten."""

    __slots__ = ("exit", "forgotten", "id", "keeps", "kill_at", "patience_until", "pid", "switching")

    def __init__(self, process_id: bytes, pid: int, keeps: bool) -> None:
        self.id = process_id
        self.pid = pid
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


class _Stray:
    """A process that lost its parent and became the spawner's child. Its pid is safe to use until it is reaped."""

    __slots__ = ("leads_group", "suspects")

    def __init__(self, suspects: set[bytes], leads_group: bool) -> None:
        self.suspects = suspects
        """Processes it may stem from: one if it carries the marker or is in the session, otherwise all that lived when
        it was first seen. It is killed when the last of them has ended, so never while its task may still run."""
        self.leads_group = leads_group


class _CgroupError(OSError):
    """A process could not be put into its control groups, or told who to be: the node's trouble."""


class _Switch:
    """How a process becomes another user's."""

    __slots__ = ("_gid", "_groups", "_inside", "_uid", "cgroups", "path")

    def __init__(self, path: bytes, numbers: bytes, cgroups: bytes) -> None:
        self._uid, self._gid, *self._groups = (int(number) for number in numbers.split(b","))
        self._inside = False
        self.path = path
        self.cgroups = cgroups.split(b"\n") if cgroups else []

    @property
    def is_ours(self) -> bool:
        return not self.path.endswith(b"/setpriv")

    @property
    def message(self) -> bytes:
        """What the switch reads."""
        count = len(self._groups)
        return struct.pack(f"={4 + count}I", self._uid, self._gid, len(self.cgroups), count, *self._groups)

    def options(self) -> list[bytes]:
        """For setpriv."""
        groups = b",".join(b"%d" % group for group in self._groups)
        return [
            b"--reuid=%d" % self._uid,
            b"--regid=%d" % self._gid,
            b"--groups=" + groups if groups else b"--clear-groups",
        ]

    def enter(self) -> None:
        """Open files as the user from here on. Only the ids that count for files: nobody can signal the spawner or
        attach to it meanwhile. Raises OSError."""
        if self._inside:
            return
        self._inside = True
        os.setgroups(self._groups)
        _libc.setfsgid(self._gid)
        _libc.setfsuid(self._uid)
        if _libc.setfsuid(_NO_UID) != self._uid:
            raise PermissionError(errno.EPERM, "setfsuid")

    def leave(self) -> None:
        """Be root again."""
        if self._inside:
            self._inside = False
            _libc.setfsuid(0)
            _libc.setfsgid(0)
            os.setgroups([])


class Spawner:
    """The loop: a listening socket, at most one client, SIGCHLD."""

    def __init__(self, listener: socket.socket, directory: str, linger_s: float) -> None:
        self._listener = listener
        self._directory = directory
        self._linger_s = linger_s
        self._token = os.fsencode(directory_token(directory))
        self._processes: dict[bytes, _Process] = {}
        self._running: dict[int, _Process] = {}
        """By pid: launched and not reaped."""
        self._ending: dict[bytes, _Process] = {}
        """Reaped, and being swept up behind."""
        self._kept: dict[bytes, _Process] = {}
        """Reaped, but what they left behind is not to be swept up yet."""
        self._ends: set[bytes] = set()
        """Attempts whose END is to be answered."""
        self._strays: dict[int, _Stray] = {}
        self._killing: dict[bytes, _Process] = {}
        """Between SIGTERM and SIGKILL."""
        self._switching: dict[int, tuple[socket.socket, _Process]] = {}
        """By descriptor: processes that are about to become another user's, and what they say of it."""
        self._cgroups: dict[bytes, int] = {}
        """Open `cgroup.procs` files by directory, a few."""
        self._client: socket.socket | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        self._writing = False
        self._shutting_down = False
        self._checked_at = time.monotonic()
        self._alone_since = self._checked_at + _FIRST_CLIENT_S
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._children_file = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._children_file = -1
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._epoll.register(self._wake_receiver.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """Run until told to shut down, or until nobody has come for long and nothing runs."""
        signal.set_wakeup_fd(self._wake_sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._shut_down())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while not self._is_done():
            for descriptor, events in self._epoll.poll(self._timeout()):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._wake_receiver.fileno():
                    with contextlib.suppress(BlockingIOError):
                        self._wake_receiver.recv(65536)
                elif self._client is not None and descriptor == self._client.fileno():
                    if events & ~select.EPOLLOUT:
                        self._receive()
                    if events & select.EPOLLOUT:
                        self._flush()
                elif descriptor in self._switching:
                    self._switched(descriptor)
            self._reap()
            if self._killing:
                self._kill_overdue()
            if self._unsent and not self._writing:
                self._flush()
        if self._client is not None:
            self._client.close()

    def _timeout(self) -> float:
        """Seconds the loop may sleep."""
        timeout = -1.0 if self._client is not None else min(_ORPHAN_CHECK_S, self._linger_s + 0.01)
        if self._ending or self._shutting_down:
            timeout = _SWEEP_INTERVAL_S
        if self._killing:
            until = min(process.kill_at for process in self._killing.values()) - time.monotonic()
            timeout = max(0.001, until if timeout < 0 else min(timeout, until))
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

    # --- the client ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Take a new client; it takes the place of the old one, which is a host that hangs or has died."""
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        # What the old one still said counts (a FORGET of an exit that was taken in): it came before the new one.
        while self._client is not None and self._receive():
            pass
        self._drop_client()
        for descriptor, (answer, _) in list(self._switching.items()):
            # The new one is told what became of them.
            answer.settimeout(_SWITCH_S)
            self._switched(descriptor)
        client.setblocking(False)
        self._client = client
        self._epoll.register(client.fileno(), select.EPOLLIN)
        self._unsent += frame(HELLO, str(VERSION).encode())
        for process in self._processes.values():
            if not process.forgotten:
                self._unsent += self._news(process)
        self._unsent += frame(READY)

    def _news(self, process: _Process) -> bytes:
        """What there is to tell of a process."""
        if process.exit is None or process.id in self._ending:
            return frame(RUNNING, process.id)
        return process.exit

    def _drop_client(self) -> None:
        if self._client is not None:
            self._epoll.unregister(self._client.fileno())
            self._client.close()
        self._client = None
        self._received.clear()
        self._unsent.clear()
        self._writing = False
        # Whoever comes next asks for what it wants to know.
        self._ends.clear()
        self._alone_since = time.monotonic()

    def _receive(self) -> bool:
        """Take in what the client sent; whether it is still there and there may be more."""
        assert self._client is not None
        try:
            data = self._client.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._drop_client()
            return False
        received = self._received
        received += data
        try:
            position = self._take_frames(received)
        except (ValueError, IndexError):
            # Not our protocol: whoever it is may connect again.
            self._drop_client()
            return False
        del received[:position]
        return True

    def _take_frames(self, received: bytearray) -> int:
        """Handle the whole frames in `received`; where the rest begins."""
        position = 0
        while len(received) - position >= HEADER.size:
            length, operation = HEADER.unpack_from(received, position)
            if length > MAX_FRAME:
                raise ValueError(length)
            end = position + HEADER.size + length
            if end > len(received):
                break
            self._handle(operation, bytes(received[position + HEADER.size : end]).split(b"\0"))
            position = end
        return position

    def _handle(self, operation: int, fields: list[bytes]) -> None:
        if operation == LAUNCH:
            self._launch(fields)
        elif operation == LAUNCH_AS:
            self._launch(fields[3:], _Switch(fields[0], fields[1], fields[2]))
        elif operation == KILL:
            self._kill(fields[0], int(fields[1]))
        elif operation == FORGET:
            process = self._processes.get(fields[0])
            if process is not None and process.id in self._kept:
                process.forgotten = True
                self._sweep_up(process)
            elif process is not None and (process.exit is None or process.id in self._ending):
                process.forgotten = True
            elif process is not None:
                del self._processes[fields[0]]
        elif operation == END:
            self._end(fields[0])
        elif operation == SHUTDOWN:
            self._shut_down()
        else:
            raise ValueError(operation)

    def _send(self, data: bytes) -> None:
        if self._client is not None:
            self._unsent += data

    def _flush(self) -> None:
        if self._client is None:
            return
        try:
            sent = self._client.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop_client()
            return
        del self._unsent[:sent]
        if bool(self._unsent) != self._writing:
            self._writing = bool(self._unsent)
            self._epoll.modify(self._client.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))

    # --- starting -----------------------------------------------------------------------------------------------

    def _launch(self, fields: list[bytes], switch: "_Switch | None" = None) -> None:
        process_id, directory, stdout_path, stderr_path, flags = fields[:5]
        arguments_end = 6 + int(fields[5])
        known = self._processes.get(process_id)
        if known is not None:
            self._send(self._news(known))
            return
        environment = {MARKER.encode(): self._token + b":" + process_id}
        for field in fields[arguments_end:]:
            name, _, value = field.partition(b"=")
            environment[name] = value
        if self._shutting_down:
            self._send(frame(REFUSED, process_id, str(errno.ESHUTDOWN).encode(), b"shutdown"))
            return
        logs: list[int] = []
        log_flags = _LOG_FLAGS if APPENDS in flags else _LOG_FLAGS | os.O_TRUNC
        # The step that failed is told with the error.
        step = b"directory"
        try:
            if switch is not None:
                # As far as files go the spawner is that user now: what it opens, the user may open.
                switch.enter()
            # The spawner has one thread, so its own working directory can stand in for the child's: posix_spawn
            # cannot be given one, and the way that can (subprocess) is private or slower.
            os.chdir(directory)
            step = b"log"
            if switch is not None and PRIVATE_LOGS in flags:
                switch.leave()
            logs.append(os.open(stdout_path, log_flags, 0o644))
            logs.append(logs[0] if stderr_path == stdout_path else os.open(stderr_path, log_flags, 0o644))
            step = b"program"
            if switch is not None:
                switch.enter()
            program = find_program(fields[6], environment.get(b"PATH", b""))
            step = b"exec"
            files = [
                (os.POSIX_SPAWN_DUP2, self._null, 0),
                (os.POSIX_SPAWN_DUP2, logs[0], 1),
                (os.POSIX_SPAWN_DUP2, logs[1], 2),
            ]
            answer: socket.socket | None = None
            if switch is None:
                pid = os.posix_spawn(
                    program,
                    fields[6:arguments_end],
                    environment,
                    file_actions=files,
                    setsid=True,
                    setsigmask=[],
                    setsigdef=_DEFAULT_SIGNALS,
                )
            else:
                switch.leave()
                pid, answer = self._switch(switch, program, fields[6:arguments_end], environment, files)
        except _CgroupError as error:
            self._send(frame(REFUSED, process_id, str(error.errno or errno.EINVAL).encode(), b"cgroup"))
            return
        except OSError as error:
            self._send(frame(REFUSED, process_id, str(error.errno or errno.EINVAL).encode(), step))
            return
        finally:
            if switch is not None:
                switch.leave()
            for log in set(logs):
                os.close(log)
            os.fchdir(self._root)
        process = _Process(process_id, pid, KEEPS in flags)
        self._processes[process_id] = self._running[pid] = process
        if answer is None:
            self._send(frame(RUNNING, process_id))
        else:
            process.switching = answer.fileno()
            self._switching[process.switching] = (answer, process)
            self._epoll.register(process.switching, select.EPOLLIN)

    def _switch(
        self,
        switch: "_Switch",
        program: bytes,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
        files: list[tuple[int, int, int]],
    ) -> tuple[int, socket.socket | None]:
        """Start a process that becomes another user's: its pid, and where it says how that went (8 bytes, or just the
        end when it is the task's program). Raises OSError as posix_spawn does, and _CgroupError."""
        if not switch.is_ours:
            # It says nothing of what goes wrong but in the task's own output, and is gone before it is in its groups.
            pid = os.posix_spawn(
                switch.path,
                [b"setpriv", *switch.options(), b"--", program, *arguments[1:]],
                environment,
                file_actions=files,
                setsid=True,
                setsigmask=[],
                setsigdef=_DEFAULT_SIGNALS,
            )
            for directory in switch.cgroups:
                with contextlib.suppress(OSError):
                    os.write(self._cgroup(directory), b"%d" % pid)
            return pid, None
        # Descriptors of the spawner's that live long have the low numbers, so none of these sources is a target too.
        for number, directory in enumerate(switch.cgroups, 4):
            files.append((os.POSIX_SPAWN_DUP2, self._cgroup(directory), number))
        ours, theirs = socket.socketpair()
        try:
            files.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), 3))
            ours.send(switch.message)
            ours.setblocking(False)
            pid = os.posix_spawn(
                switch.path,
                [b"switch", program, *arguments],
                environment,
                file_actions=files,
                setsid=True,
                setsigmask=[],
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours

    def _switched(self, descriptor: int) -> None:
        """Take in what a process says of becoming another user's."""
        answer, process = self._switching[descriptor]
        try:
            said = answer.recv(_ANSWER.size)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        del self._switching[descriptor]
        self._epoll.unregister(descriptor)
        answer.close()
        process.switching = -1
        if len(said) < _ANSWER.size:
            # It is the task's program now; or was killed.
            self._send(frame(RUNNING, process.id))
            return
        number, was_user = _ANSWER.unpack(said)
        # It is about to end, and is no process of the task's.
        del self._processes[process.id]
        del self._running[process.pid]
        self._killing.pop(process.id, None)
        os.waitpid(process.pid, 0)
        if not was_user:
            self._close_cgroups()
        self._send(frame(REFUSED, process.id, str(number).encode(), b"exec" if was_user else b"cgroup"))

    def _cgroup(self, directory: bytes) -> int:
        """The open `cgroup.procs` of a control group. Raises _CgroupError."""
        file = self._cgroups.get(directory)
        if file is None:
            if len(self._cgroups) >= _MAX_CGROUPS:
                self._close_cgroups()
            try:
                file = os.open(directory + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            except OSError as error:
                raise _CgroupError(error.errno, "cgroup") from error
            self._cgroups[directory] = file
        return file

    def _close_cgroups(self) -> None:
        """Let go of all: some may be gone by now, or new ones of the same names."""
        for file in self._cgroups.values():
            os.close(file)
        self._cgroups.clear()

    # --- ending -------------------------------------------------------------------------------------------------

    def _kill(self, process_id: bytes, grace_ms: int) -> None:
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
            _signal_group(process.pid, signal.SIGKILL)
            return
        if process_id not in self._killing:
            _signal_group(process.pid, signal.SIGTERM)
            # A stopped process does not see SIGTERM before it is continued.
            _signal_group(process.pid, signal.SIGCONT)
            self._killing[process_id] = process
            process.kill_at = time.monotonic() + grace_ms / 1000

    def _end(self, attempt: bytes) -> None:
        for process in self._processes.values():
            if is_of(process.id, attempt) and process.exit is None:
                process.keeps = False
                self._killing.pop(process.id, None)
                _signal_group(process.pid, signal.SIGKILL)
        for process in [process for process in self._kept.values() if is_of(process.id, attempt)]:
            self._sweep_up(process)
        self._ends.add(attempt)
        self._answer_ends()

    def _sweep_up(self, process: _Process) -> None:
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
                self._send(frame(ENDED, attempt))

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for process in [process for process in self._killing.values() if process.kill_at <= now]:
            del self._killing[process.id]
            _signal_group(process.pid, signal.SIGKILL)

    def _shut_down(self) -> None:
        self._shutting_down = True
        for pid, process in self._running.items():
            process.keeps = False
            _signal_group(pid, signal.SIGKILL)
        for process in list(self._kept.values()):
            self._sweep_up(process)

    def _reap(self) -> None:
        """Take in all children that ended, then what their tasks left behind."""
        # There may be strays that are not known yet, or are no more.
        look = False
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            pid = ended.si_pid
            process = self._running.get(pid)
            if process is not None and process.switching >= 0:
                self._switched(process.switching)
                if pid not in self._running:
                    continue
            process = self._running.pop(pid, None)
            if process is not None and not process.keeps:
                # Before it is reaped: until then its number, which is its group's, belongs to nobody else.
                _signal_group(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            if process is None:
                self._strays.pop(pid, None)
                look = True
                continue
            self._killing.pop(process.id, None)
            process.exit = frame(
                EXITED,
                process.id,
                str(os.waitstatus_to_exitcode(status)).encode(),
                f"{time.time():.6f}".encode(),
                f"{usage.ru_utime:.6f}".encode(),
                f"{usage.ru_stime:.6f}".encode(),
            )
            if process.keeps:
                # Looked at now, a child that hides is known by its time.
                look = True
                self._kept[process.id] = process
                if process.forgotten:
                    self._sweep_up(process)
                else:
                    self._send(process.exit)
            else:
                process.patience_until = time.monotonic() + _SWEEP_PATIENCE_S
                self._ending[process.id] = process
        if self._ending or look:
            # A stray's own children are the spawner's now.
            self._sweep()

    def _sweep(self) -> None:
        """Kill what the ending processes left behind; tell the exit of those that left nothing."""
        haunted: set[bytes] = set()
        children = self._children()
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
                else:
                    self._send(self._news(process))
        if self._ends:
            self._answer_ends()

    def _identify(self, pid: int) -> _Stray:
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
        return _Stray(suspects, leads_group)

    def _children(self) -> list[int]:
        """Pids of all direct children. Exact: they leave the list only when reaped, which happens in this thread."""
        if self._children_file >= 0:
            os.lseek(self._children_file, 0, os.SEEK_SET)
            text = b""
            while chunk := os.read(self._children_file, 1 << 16):
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


def _signal_group(pid: int, number: int) -> None:
    """Signal a leader that has not been reaped, and its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def is_of(process_id: bytes, attempt: bytes) -> bool:
    """Whether the process is one of that attempt."""
    return process_id.startswith(attempt) and process_id[len(attempt) : len(attempt) + 1] in (b"", b"/")


def find_program(name: bytes, path: bytes) -> bytes:
    """The file to execute: `name` itself when it has a slash, else the first executable on the PATH given.

    Raises OSError: ENOENT when there is none, EACCES when there are only files that may not be executed.
    """
    if b"/" in name:
        os.stat(name)
        return name
    number = errno.ENOENT
    for directory in path.split(b":") if name else ():
        candidate = (directory or b".") + b"/" + name
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        number = errno.EACCES
    raise OSError(number, os.strerror(number))


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


def main(arguments: list[str]) -> int:
    """Start: returns in the calling process once the spawner, a process of its own, can be connected to."""
    directory, linger_s = os.path.realpath(arguments[0]), float(arguments[1])
    os.umask(0o022)
    os.chdir(directory)
    lock = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # One is there already, or is just about to end: the caller tries to connect again.
        return 0
    kill_leftovers(directory_token(directory))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET_NAME)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Relative, as a socket's path may have no more than 107 bytes. Nobody but its owner may connect.
    os.umask(0o177)
    listener.bind(SOCKET_NAME)
    os.umask(0o022)
    listener.listen(8)
    listener.setblocking(False)
    log = os.open(LOG_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.fork():
        # Not through the interpreter's exit: the child shares all that it would tidy up.
        os._exit(0)
    os.setsid()
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.chdir("/")
    try:
        Spawner(listener, directory, linger_s).serve()
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, SOCKET_NAME))
        listener.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
