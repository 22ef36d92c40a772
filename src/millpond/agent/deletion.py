"""Deleting what lies in a trash directory, a little at a time.

Directories are moved up into the trash before they are emptied: no path gets long, nothing recurses however deep a task
nested them, and the next life of the agent goes on where this one was. No link is followed, and nothing that is mounted
is entered: what something is mounted on cannot be moved.
"""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

_FIRST_PAUSE_S: Final = 60.0
_LONGEST_PAUSE_S: Final = 3600.0

_log = logging.getLogger(__name__)


class Deletion:
    """What cannot be deleted (immutable, in use, another user's) is logged once, left, and tried again now and then;
    the pauses grow from a minute to an hour."""

    def __init__(
        self, directory: str, new_name: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`new_name` gives names that nothing in the directory has."""
        self._directory = directory
        self._new_name = new_name
        self._clock = clock
        self._walk: Iterator[None] | None = None
        self._stuck: dict[str, tuple[float, float]] = {}
        """Name → (when to try it again, the pause before that)."""

    def go_on(self, entries: int, seconds: float | None = None) -> bool:
        """Delete so many entries, for so long at most. Whether there is more to do at once. Raises OSError when the
        trash cannot be read."""
        if self._walk is None:
            self._walk = self._delete_all()
        ends = None if seconds is None else time.monotonic() + seconds
        for count, _ in enumerate(self._walk, start=1):
            if count >= entries or (ends is not None and time.monotonic() > ends):
                return True
        self._walk = None
        return bool(self._due())

    def next_try_s(self) -> float | None:
        """How long until something that was left is due again; None when nothing was."""
        return (
            min((at for at, _ in self._stuck.values()), default=self._clock()) - self._clock() if self._stuck else None
        )

    def _due(self) -> list[str]:
        names = os.listdir(self._directory)
        now = self._clock()
        self._stuck = {name: self._stuck[name] for name in names if name in self._stuck}
        return [name for name in names if name not in self._stuck or self._stuck[name][0] <= now]

    def _delete_all(self) -> Iterator[None]:
        for name in self._due():
            try:
                yield from self._delete(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                pause = min(2 * self._stuck[name][1], _LONGEST_PAUSE_S) if name in self._stuck else _FIRST_PAUSE_S
                if name not in self._stuck:
                    _log.warning("%s/%s cannot be deleted; that is tried again: %s", self._directory, name, error)
                self._stuck[name] = (self._clock() + pause, pause)

    def _delete(self, name: str) -> Iterator[None]:
        path = f"{self._directory}/{name}"
        facts = os.lstat(path)
        if not stat.S_ISDIR(facts.st_mode):
            os.unlink(path)
            yield
            return
        if facts.st_dev != os.lstat(self._directory).st_dev:
            raise OSError(f"something is mounted on {path}")
        failure: OSError | None = None
        directory = _open(path)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            self._move_up(directory, entry.name)
                        else:
                            os.unlink(entry.name, dir_fd=directory)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        # The others need not stay for it.
                        failure = failure or error
                    yield
        finally:
            os.close(directory)
        if failure is not None:
            raise failure
        os.rmdir(path)
        yield

    def _move_up(self, directory: int, name: str) -> None:
        target = f"{self._directory}/{self._new_name()}"
        try:
            os.rename(name, target, src_dir_fd=directory)
        except PermissionError:
            # A directory that may not be written to cannot be moved: its `..` changes.
            os.chmod(name, 0o700, dir_fd=directory)
            os.rename(name, target, src_dir_fd=directory)


def _open(path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        directory = os.open(path, flags)
    except PermissionError:
        # A task may have taken its own directory's rights away.
        os.chmod(path, 0o700)
        directory = os.open(path, flags)
    try:
        if os.fstat(directory).st_mode & 0o700 != 0o700:
            os.fchmod(directory, 0o700)
    except OSError:
        os.close(directory)
        raise
    return directory
