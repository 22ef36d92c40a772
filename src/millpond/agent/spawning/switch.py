"""How a process becomes another user's, in control groups of its own: by the switch (`agent/switch.py`) or setpriv."""

import contextlib
import ctypes
import errno
import os
import struct

ANSWER = struct.Struct("=II")
"""What a switch says that failed: errno, and whether it was the user already."""
_NO_UID = ctypes.c_uint(0xFFFFFFFF)
"""No valid one: asks only which it is."""
_MAX_CGROUPS = 512
_libc = ctypes.CDLL(None, use_errno=True)


class CgroupError(OSError):
    """A process could not be put into its control groups, or told who to be: the node's trouble."""


class Switch:
    """How a process becomes another user's."""

    __slots__ = ("_inside", "cgroups", "gid", "groups", "path", "uid")

    def __init__(self, path: bytes, numbers: bytes, cgroups: bytes) -> None:
        self.uid, self.gid, *self.groups = (int(number) for number in numbers.split(b","))
        self._inside = False
        self.path = path
        self.cgroups = cgroups.split(b"\n") if cgroups else []

    @property
    def is_ours(self) -> bool:
        return not self.path.endswith(b"/setpriv")

    @property
    def message(self) -> bytes:
        """What the switch reads."""
        count = len(self.groups)
        return struct.pack(f"={4 + count}I", self.uid, self.gid, len(self.cgroups), count, *self.groups)

    def options(self) -> list[bytes]:
        """For setpriv."""
        groups = b",".join(b"%d" % group for group in self.groups)
        return [
            b"--reuid=%d" % self.uid,
            b"--regid=%d" % self.gid,
            b"--groups=" + groups if groups else b"--clear-groups",
        ]

    def enter(self) -> None:
        """Open files as the user from here on. Only the ids that count for files: nobody can signal the spawner or
        attach to it meanwhile. Raises OSError."""
        if self._inside:
            return
        self._inside = True
        os.setgroups(self.groups)
        _libc.setfsgid(self.gid)
        _libc.setfsuid(self.uid)
        if _libc.setfsuid(_NO_UID) != self.uid:
            raise PermissionError(errno.EPERM, "setfsuid")

    def leave(self) -> None:
        """Be root again."""
        if self._inside:
            self._inside = False
            _libc.setfsuid(0)
            _libc.setfsgid(0)
            os.setgroups([])


class Cgroups:
    """The files by which a process of one thread joins control groups: open, by directory, a few.

    In version 1 a thread that joins by itself holds up nothing. A whole process (`cgroup.procs`) waits, with every other
    that begins or ends, until the kernel knows of no more in the middle of that: up to 16 ms if it was not asked just before.
    """

    def __init__(self) -> None:
        self._files: dict[bytes, int] = {}
        self.times_closed = 0
        """Descriptors given out before are good as long as this stays."""

    def file_of(self, directory: bytes) -> int:
        """Where to write "0". Raises CgroupError."""
        file = self._files.get(directory)
        if file is None:
            if len(self._files) >= _MAX_CGROUPS:
                self.close()
            try:
                file = self._open(directory)
            except OSError as error:
                raise CgroupError(error.errno, "cgroup") from error
            self._files[directory] = file
        return file

    def _open(self, directory: bytes) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.open(directory + b"/tasks", os.O_WRONLY | os.O_CLOEXEC)
        return os.open(directory + b"/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of all: some may be gone by now, or new ones of the same names."""
        self.times_closed += 1
        for file in self._files.values():
            os.close(file)
        self._files.clear()
