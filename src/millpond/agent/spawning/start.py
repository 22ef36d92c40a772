"""Starting a process: its directory, the files for its output, its program."""

import contextlib
import errno
import os
import signal
import socket
import stat

from millpond.agent.spawning.frames import APPENDS, MAKES_DIRECTORY, PRIVATE_LOGS
from millpond.agent.spawning.switch import CgroupError, Cgroups, Switch

_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
_DEFAULT_SIGNALS = [
    number
    for number in signal.valid_signals()
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < signal.SIGRTMIN
]


_DIRECTORY_MODE = 0o770


class StartError(Exception):
    """A process was not started: errno, and the step that failed (see `frames.REFUSED`)."""

    def __init__(self, number: int, step: bytes) -> None:
        super().__init__(number, step)
        self.number = number
        self.step = step


class Starter:
    """Starts processes, in one thread."""

    def __init__(self) -> None:
        self.cgroups = Cgroups()
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def start(
        self,
        directory: bytes,
        stdout_path: bytes,
        stderr_path: bytes,
        flags: bytes,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
        switch: Switch | None,
    ) -> tuple[int, socket.socket | None]:
        """Its pid, and where it says how it became another user's (8 bytes, or just the end when it is the task's
        program); None where it says nothing. Raises StartError."""
        logs: list[int] = []
        log_flags = _LOG_FLAGS if APPENDS in flags else _LOG_FLAGS | os.O_TRUNC
        # The step that failed is told with the error.
        step = b"making"
        try:
            if MAKES_DIRECTORY in flags:
                make_directory(directory, switch)
            step = b"directory"
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
            program = find_program(arguments[0], environment.get(b"PATH", b""))
            step = b"exec"
            files = [
                (os.POSIX_SPAWN_DUP2, self._null, 0),
                (os.POSIX_SPAWN_DUP2, logs[0], 1),
                (os.POSIX_SPAWN_DUP2, logs[1], 2),
            ]
            if switch is None:
                return _spawn(program, arguments, environment, files), None
            switch.leave()
            return self._switched(switch, program, arguments, environment, files)
        except CgroupError as error:
            raise StartError(error.errno or errno.EINVAL, b"cgroup") from error
        except OSError as error:
            raise StartError(error.errno or errno.EINVAL, step) from error
        finally:
            if switch is not None:
                switch.leave()
            for log in set(logs):
                os.close(log)
            os.fchdir(self._root)

    def _switched(
        self,
        switch: Switch,
        program: bytes,
        arguments: list[bytes],
        environment: dict[bytes, bytes],
        files: list[tuple[int, int, int]],
    ) -> tuple[int, socket.socket | None]:
        """Start a process that becomes another user's: its pid, and where it says how that went (8 bytes, or just the
        end when it is the task's program). Raises OSError as posix_spawn does, and CgroupError."""
        if not switch.is_ours:
            # It says nothing of what goes wrong but in the task's own output, and is gone before it is in its groups.
            command = [b"setpriv", *switch.options(), b"--", program, *arguments[1:]]
            pid = _spawn(switch.path, command, environment, files)
            for directory in switch.cgroups:
                with contextlib.suppress(OSError), open(directory + b"/cgroup.procs", "wb", buffering=0) as file:
                    file.write(b"%d" % pid)
            return pid, None
        # Descriptors of the spawner's that live long have the low numbers, so none of these sources is a target too.
        for number, directory in enumerate(switch.cgroups, 4):
            files.append((os.POSIX_SPAWN_DUP2, self.cgroups.file_of(directory), number))
        ours, theirs = socket.socketpair()
        try:
            files.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), 3))
            ours.send(switch.message)
            ours.setblocking(False)
            pid = _spawn(switch.path, [b"switch", program, *arguments], environment, files)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours


def _spawn(
    program: bytes, arguments: list[bytes], environment: dict[bytes, bytes], files: list[tuple[int, int, int]]
) -> int:
    return os.posix_spawn(
        program,
        arguments,
        environment,
        file_actions=files,
        setsid=True,
        setsigmask=[],
        setsigdef=_DEFAULT_SIGNALS,
    )


def make_directory(directory: bytes, switch: Switch | None) -> None:
    """A task's working directory and the one it is in, both new, and closed to others than its user. Raises OSError."""
    parent = os.path.dirname(directory)
    os.mkdir(parent, _DIRECTORY_MODE)
    os.mkdir(directory, _DIRECTORY_MODE)
    if switch is not None:
        # From within, so that nobody can change what is in it before it is whole.
        for path in (directory, parent):
            os.chmod(path, _DIRECTORY_MODE)
            os.chown(path, switch.uid, switch.gid)


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
