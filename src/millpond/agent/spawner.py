"""The spawner: a small process of its own that is the parent of all task processes of one agent host.

Tasks and their exit codes survive a crash of the agent host, because the host is not their parent. The host talks to
the spawner over a unix socket in the host's directory (`executors/process.py` is the client); when the connection
breaks, tasks run on, exits are kept until they are forgotten, and whoever connects next is told all of it.

It is small because starting a process costs more the bigger the parent is (as soon as a fork is involved), so it runs
as `python -I -S spawner.py DIRECTORY LINGER_S OPEN_FILES`, on the standard library alone, in one thread. It is a subreaper:
processes that detach from their parent become its children, where they are found and killed once their task ends.

This file is only the program; its parts are in `spawning`. Being modules they are compiled once, not at each start: as
one file the spawner held 6.4 MB of its own instead of 4.6, and started no sooner.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import socket
import sys

if __name__ == "__main__":
    # Last: the standard library is found before whatever lies beside this package.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from millpond.agent.spawning.frames import LOCK_NAME, LOG_NAME, SOCKET_NAME
from millpond.agent.spawning.loop import Spawner
from millpond.agent.spawning.processes import directory_token, kill_leftovers

_PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> int:
    """Start: returns in the calling process once the spawner, a process of its own, can be connected to."""
    directory, linger_s = os.path.realpath(arguments[0]), float(arguments[1])
    if open_files := int(arguments[2]):
        # The agent has raised its own.
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
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
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
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
