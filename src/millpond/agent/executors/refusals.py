"""Why a process was not started, in words for whoever runs the task."""

import errno
import os
import shutil
import stat
from typing import Final

from millpond.agent.base import DirectoryNotMade, ProcessSpec, RunAs
from millpond.domain.errors import TaskFailure, TaskFailureCode

_MAX_INTERPRETERS: Final = 4
_MAX_LINKS: Final = 40
_NODE_FAULTS: Final = frozenset(
    {
        errno.EAGAIN,
        errno.ENOMEM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.EROFS,
        errno.ESHUTDOWN,
    }
)
"""The machine's trouble, not the task's."""


def refusal(process: ProcessSpec, number: int, step: str) -> TaskFailure | DirectoryNotMade:
    """The failure for an errno of the spawner."""
    if step == "making":
        return DirectoryNotMade(number, os.strerror(number), process.directory)
    program = process.argv[0]
    reason = os.strerror(number)
    user_error = number not in _NODE_FAULTS
    code = TaskFailureCode.COMMAND_LAUNCH_FAILED
    if step == "program":
        if number in (errno.ENOENT, errno.ENOTDIR):
            code = TaskFailureCode.COMMAND_PROGRAM_NOT_FOUND
            message = f"The program {program!r} of the command line was not found"
        else:
            message = f"The program {program!r} of the command line cannot be executed: {reason}"
            message += _barred(process)
    elif step == "exec":
        if number == errno.ENOENT:
            reason = "the interpreter it names was not found"
        elif number == errno.ENOEXEC:
            reason = "it is neither a program of this machine nor a script that begins with '#!'"
        message = f"The program {program!r} of the command line could not be started: {reason}"
        if number == errno.EACCES:
            message += _barred(process)
    elif step == "cgroup":
        user_error = False
        message = f"The process could not be put into the node's control groups: {reason}"
    elif step == "shutdown":
        message = "The node is shutting down"
    else:
        user_error = False
        what = (
            f"working directory {process.directory!r}" if step == "directory" else "files for standard output and error"
        )
        message = f"The {what} could not be used: {reason}"
    return TaskFailure(code, message, user_error=user_error, Program=program, Reason=reason)


def _barred(process: ProcessSpec) -> str:
    """Where another user than the agent's own is stopped on the way to its program, or to that program's interpreter:
    typically at an interpreter below somebody's home directory."""
    run_as = process.run_as
    if run_as is None or run_as.uid == 0:
        return ""
    path = os.path.join(process.directory, process.argv[0])
    if "/" not in process.argv[0]:
        path = shutil.which(process.argv[0], path=process.environment.get("PATH", "")) or path
    for _ in range(_MAX_INTERPRETERS):
        place = _closed_place(os.path.abspath(path), run_as)
        if place:
            return (
                f"; the task's user (uid {run_as.uid}) may not enter or execute {place!r}: use a program that every "
                "user can reach, or open that path to others"
            )
        path = _interpreter_of(path)
        if not path:
            break
    return ""


def _closed_place(path: str, run_as: RunAs) -> str:
    """The first directory on the way to a file, through all links, that the user may not search; or the file, if that
    may not be executed."""
    place, names, links = "/", path.split("/")[::-1], 0
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        step = os.path.normpath(os.path.join(place, name))
        try:
            facts = os.lstat(step)
            if stat.S_ISLNK(facts.st_mode):
                target = os.readlink(step)
                place = "/" if target.startswith("/") else place
                names += target.split("/")[::-1]
                links += 1
                if links > _MAX_LINKS:
                    return ""
                continue
        except OSError:
            return ""
        if facts.st_uid == run_as.uid:
            bit = 0o100
        elif facts.st_gid == run_as.gid or facts.st_gid in run_as.groups:
            bit = 0o010
        else:
            bit = 0o001
        if not facts.st_mode & bit:
            return step
        place = step
    return ""


def _interpreter_of(path: str) -> str:
    """What the first line of a script names."""
    try:
        # The path is the task's: it may lead to a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:
        line = file.readline(256) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    words = line[2:].split() if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""
