"""When the attempts of a node entered `running`: kept on disk, for an agent that is restarted while they run."""

import os
from collections.abc import Iterable
from typing import Final

from millpond.agent.runner.attempt import Attempt
from millpond.domain.durations import Timestamp

_MAX_SIZE: Final = 1 << 20


class AttemptLog:
    """A file of lines `key attempt time`, one appended per attempt; begun anew with what runs when it has grown.

    A disk that cannot be written to costs the record, not the attempt.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self._size = 0
        self._earlier: dict[tuple[int, int], Timestamp] | None = None

    def start_time(self, key: int, attempt: int) -> Timestamp | None:
        """The time written down by this or an earlier life of the agent, if any."""
        if self._earlier is None:
            self._earlier = self._read()
        return self._earlier.get((key, attempt))

    def append(self, key: int, attempt: int, start_time: Timestamp, running: Iterable[Attempt]) -> None:
        """Write one down. `running` are the attempts whose times must not be lost."""
        line = b"%d %d %.6f\n" % (key, attempt, start_time)
        try:
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = self._open(flags)
                self._size = os.fstat(self._file).st_size
                if self._size and self._earlier is None:
                    self._earlier = self._read()
            if self._size > _MAX_SIZE:
                self._begin_anew(running)
            self._size += os.write(self._file, line)
        except OSError:
            return

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin_anew(self, running: Iterable[Attempt]) -> None:
        text = b"".join(
            b"%d %d %.6f\n" % (attempt.start.key, attempt.start.attempt, attempt.start_time) for attempt in running
        )
        new = os.open(f"{self._path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(new, text)
            os.rename(f"{self._path}.new", self._path)
        except OSError:
            os.close(new)
            raise
        self.close()
        self._file, self._size = new, len(text)

    def _open(self, flags: int) -> int:
        try:
            return os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path), mode=0o770, exist_ok=True)
            return os.open(self._path, flags, 0o600)

    def _read(self) -> dict[tuple[int, int], Timestamp]:
        found: dict[tuple[int, int], Timestamp] = {}
        try:
            with open(self._path, encoding="ascii", errors="replace") as file:
                for line in file:
                    words = line.split()
                    if len(words) == 3 and line.endswith("\n"):
                        found[int(words[0]), int(words[1])] = float(words[2])
        except (OSError, ValueError):
            # The rest is about later attempts than a broken line's; at worst their time starts anew.
            return found
        return found
