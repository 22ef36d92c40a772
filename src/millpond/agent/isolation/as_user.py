"""Looking at files with a task's eyes: the agent is root, and must not read for a task what the task could not.

The kernel checks a thread's file accesses against its own file system user and group, so a link, a hard link or a
directory swapped at the last moment leads no further than the task itself could have gone.
"""

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from typing import Final

from millpond.agent.base import RunAs

_libc: Final = ctypes.CDLL(None, use_errno=True)
_NOBODY: Final = ctypes.c_uint(0xFFFFFFFF)
"""No valid id: asks only what it is now."""
_NOT_FILES: Final = ("/proc/", "/sys/", "/dev/")


@contextlib.contextmanager
def acting_as(user: RunAs) -> Iterator[None]:
    """Within, this thread (and no other) opens files as that user. Nothing may be awaited inside.

    The process must have no supplementary groups (`forget_groups`). The user's first supplementary group, its node's,
    is the one that counts: its own files it owns anyway. Raises PermissionError when the kernel does not let us.
    """
    if user.uid == 0:
        yield
        return
    _libc.setfsgid(user.groups[0] if user.groups else user.gid)
    _libc.setfsuid(user.uid)
    try:
        if _libc.setfsuid(_NOBODY) != user.uid:
            raise PermissionError("the agent cannot look at files as the task's user")
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)


def forget_groups() -> None:
    """Leave all supplementary groups: root's would open files that a task may not read. For the start of a process."""
    os.setgroups([])


def open_to_read(path: str, user: RunAs) -> int:
    """A descriptor of a regular file, opened as that user. Raises OSError."""
    with acting_as(user):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    # What /proc shows of "self" is the agent's.
    place = os.readlink(f"/proc/self/fd/{descriptor}")
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and not place.startswith(_NOT_FILES):
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EACCES, "it is not a regular file")


def give_tree(path: str, uid: int, gid: int, *, itself: bool = True) -> None:
    """Make all below a directory that user's, then (`itself`) the directory: until then nobody else gets in, so nothing
    below changes meanwhile. Links are given, not followed; a file that has other names too stays whose it is, as those
    may be anywhere. Raises OSError."""
    for _, directories, files, descriptor in os.fwalk(path, follow_symlinks=False):
        for name in directories:
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
        for name in files:
            if os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_nlink == 1:
                os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    if itself:
        os.chown(path, uid, gid, follow_symlinks=False)
