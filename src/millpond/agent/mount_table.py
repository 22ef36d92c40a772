"""What is mounted below a directory, and getting rid of it."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import time
from typing import Final

import msgspec

_UNMOUNT_DETACH: Final = 2
_UNMOUNT_NOFOLLOW: Final = 8
_LOOK_S: Final = 0.1
_TOOL_S: Final = 10.0
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Mounted(msgspec.Struct, frozen=True):
    path: str
    kind: str
    """The file system's type, such as `fuse.rclone`."""


def mounted_below(directory: str) -> list[Mounted]:
    """What is mounted on paths below a directory (or on itself), the innermost and latest first."""
    directory = os.path.realpath(directory)
    found: list[Mounted] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            path = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), before.split(" ")[4])
            if path == directory or path.startswith(f"{directory}/"):
                found.append(Mounted(path, after.split(" ")[0]))
    return found[::-1]


def is_alive(path: str) -> bool:
    """Whether something is mounted there that answers: a FUSE file system whose process died does not."""
    try:
        os.stat(path)
    except OSError:
        return False
    return any(one.path == os.path.realpath(path) for one in mounted_below(path))


def unmount(path: str, patience_s: float) -> bool:
    """Unmount all that is mounted on a path; what is still used after `patience_s` is detached: it is out of the way,
    and goes with its last user. Whether nothing is left. Blocks: not for an event loop."""
    deadline = time.monotonic() + patience_s
    while any(one.path == path for one in mounted_below(path)):
        number = _unmount(path, lazily=False)
        if number == 0:
            continue
        if number == errno.EBUSY and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        elif _unmount(path, lazily=True) != 0:
            return False
    return True


def unmount_below(directory: str, patience_s: float) -> list[str]:
    """Unmount everything below a directory. The paths that are still mounted."""
    deadline = time.monotonic() + patience_s
    return [
        one.path for one in mounted_below(directory) if not unmount(one.path, max(0.0, deadline - time.monotonic()))
    ]


def _unmount(path: str, *, lazily: bool) -> int:
    """The error's number, or 0."""
    if os.geteuid() == 0:
        flags = _UNMOUNT_NOFOLLOW | (_UNMOUNT_DETACH if lazily else 0)
        return 0 if _libc.umount2(os.fsencode(path), flags) == 0 else ctypes.get_errno()
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    if tool is None:
        return errno.EPERM
    try:
        ended = subprocess.run(
            [tool, "-uz" if lazily else "-u", "--", path], capture_output=True, timeout=_TOOL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return errno.EIO
    return errno.EBUSY if ended.returncode else 0
