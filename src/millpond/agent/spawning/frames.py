"""What an agent host and its spawner say to each other.

Frames, both ways: payload length and operation (`HEADER`), then fields separated by NUL bytes. Argument vectors,
environments and paths cannot hold a NUL byte, so nothing is escaped.
"""

import struct

VERSION = 5
HEADER = struct.Struct("<IB")
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
MAKES_DIRECTORY = b"m"
"""Flag: the directory, and the one it is in, are made first."""
KILL = 2
"""id, milliseconds between SIGTERM and SIGKILL (0: SIGKILL at once)"""
FORGET = 3
"""ids. Of one that runs nothing more is told, and it is gone once it has ended; what it has left behind is killed."""
SHUTDOWN = 4
"""Kill everything and end. Its number never changes: it is also said to a spawner of another version."""
END = 5
"""id of an attempt: kill all processes of that id, or that begins with it and a slash, and all they left behind."""
LAUNCH_AS = 6
"""path of the switch (`agent/switch.py`) or of setpriv; uid, gid and groups with commas between; control groups'
directories with newlines between; then as LAUNCH"""
COMPILED = 7
"""path of the starter in C, to be used from now on"""
IN_LANE = 8
"""name of the lane, its width, its generation as the client knows it, LAUNCH or LAUNCH_AS as a number; then as that. It waits until fewer processes of the lane
run than its width, and is started as soon as one has ended, first come first started; with width 0 at once. See `lanes`
for when it is given back instead (REFUSED `waiting`)."""

# spawner to client
HELLO = 16
"""version. Said once, then RUNNING and EXITED for all that is known and GIVEN_BACK for what waited, then READY."""
RUNNING = 17
"""id, time at which it began. Also the answer to LAUNCH, unless EXITED comes before."""
EXITED = 18
"""id; time at which it began; then with blanks between: exit code, end time, user CPU seconds, kernel CPU seconds; and where that was looked at,
the inode of the directory its own is in, and of its files for output, both: inode (0: there is none), size, time of the
last change, mode"""
READY = 19
REFUSED = 20
"""id, errno, step that failed (`making`, `directory`, `log`, `program`, `exec`, `cgroup`, `shutdown`; `waiting`: none has
failed, it has only waited in its lane; the lane's name and generation follow). The answer to LAUNCH."""
ENDED = 21
"""id of an attempt: of it nothing runs any more. The answer to END."""
GIVEN_BACK = 22
"""id. It has waited in its lane for a client before, and was not started."""


def frame(operation: int, *fields: bytes) -> bytes:
    """One frame, ready to be written."""
    payload = b"\0".join(fields)
    return HEADER.pack(len(payload), operation) + payload
