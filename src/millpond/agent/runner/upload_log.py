"""`fileuploadout.txt` and `fileuploaderr.txt`: what the node says of a task's uploads, beside `stdout.txt`.

They are written while the uploads go on, so that they can be watched.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from typing import Final

from millpond.agent.base import RunAs
from millpond.domain.durations import Timestamp, format_timestamp

OUT_FILE: Final = "fileuploadout.txt"
ERR_FILE: Final = "fileuploaderr.txt"


class UploadLog:
    """Both files, made anew. A disk without room for a line loses the line; it does not make the task fail."""

    def __init__(self, task_directory: str, run_as: RunAs | None, clock: Callable[[], Timestamp]) -> None:
        """The files become the user's of the task."""
        self._clock = clock
        self._out = _make(f"{task_directory}/{OUT_FILE}", run_as)
        self._err = _make(f"{task_directory}/{ERR_FILE}", run_as)

    def say(self, text: str) -> None:
        """A line of progress."""
        self._write(self._out, text)

    def complain(self, text: str) -> None:
        """A line about what went wrong."""
        self._write(self._err, text)

    def close(self) -> None:
        for descriptor in (self._out, self._err):
            if descriptor is not None:
                os.close(descriptor)
        self._out = self._err = None

    def _write(self, descriptor: int | None, text: str) -> None:
        if descriptor is None:
            return
        # Names of files may hold line breaks, and bytes that are no text.
        shown = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        line = f"{format_timestamp(self._clock())} {shown}\n"
        with contextlib.suppress(OSError):
            os.write(descriptor, line.encode(errors="backslashreplace"))


def _make(path: str, run_as: RunAs | None) -> int | None:
    try:
        # The directory is the task's: a link it put there is not followed, a file it linked there not overwritten.
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
        )
    except OSError:
        return None
    try:
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            if run_as is not None:
                os.fchown(descriptor, run_as.uid, run_as.gid)
            os.ftruncate(descriptor, 0)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None
