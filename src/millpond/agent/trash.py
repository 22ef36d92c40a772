"""Deleting whole nodes' directories slowly, in the background.

Names vanish at once (a rename); the files go in small batches with pauses, because file systems create new files many
times slower right after a mass delete (ext4: 10 to 40 times), and tasks make files all the time.
"""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

_log = logging.getLogger(__name__)

_BATCH: Final = 100
_PAUSE_S: Final = 0.05
_SLICE_S: Final = 0.02
_MAX_DEPTH: Final = 12
"""With names of 255 bytes, a path of that many still is well below the longest that can be named (4096 bytes)."""


class Trash:
    """A directory whose contents are on their way out, across restarts too."""

    def __init__(self, directory: str) -> None:
        """`directory` must be on the file system of what will be put into it; made when needed."""
        self._directory = directory
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def put(self, path: str) -> None:
        """Take `path` away; its name is free at once. Raises OSError when it cannot be moved."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        while True:
            self._count += 1
            target = os.path.join(self._directory, f"{os.getpid()}-{self._count}")
            if not os.path.lexists(target):
                break
        os.rename(path, target)
        self.empty()

    def empty(self) -> None:
        """Begin to delete whatever is in the trash."""
        self._again = True
        if self._task is None and os.path.isdir(self._directory):
            self._task = asyncio.create_task(self._empty())

    async def close(self) -> None:
        """Stop deleting; the rest goes next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _empty(self) -> None:
        try:
            while self._again:
                self._again = False
                deletion = _delete_all(self._directory)
                while True:
                    if not await asyncio.to_thread(_some_of, deletion):
                        break
                    await asyncio.sleep(_PAUSE_S)
        finally:
            self._task = None


def _some_of(deletion: Iterator[None]) -> bool:
    """Go on with a deletion for a moment; False when it is through."""
    begun = time.monotonic()
    return any(count >= _BATCH or time.monotonic() - begun > _SLICE_S for count, _ in enumerate(deletion, start=1))


def _delete_all(trash: str) -> Iterator[None]:
    """Delete all below the trash, yielding after every entry. What cannot be deleted is logged and left."""
    moved = [0]
    while True:
        before = moved[0]
        yield from _delete_below(trash, trash, 0, moved)
        if moved[0] == before:
            return


def _delete_below(directory: str, trash: str, depth: int, moved: list[int]) -> Iterator[None]:
    try:
        entries = _entries(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        _log.warning("cannot delete %s: %s", directory, error)
        return
    for entry in entries:
        try:
            if not entry.is_dir(follow_symlinks=False):
                _insist(os.unlink, entry.path, directory)
            elif depth < _MAX_DEPTH:
                yield from _delete_below(entry.path, trash, depth + 1, moved)
                _insist(os.rmdir, entry.path, directory)
            else:
                # Deeper than a path can name, perhaps: it gets a turn of its own.
                moved[0] += 1
                os.rename(entry.path, os.path.join(trash, f"deep-{os.getpid()}-{moved[0]}"))
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("cannot delete %s: %s", entry.path, error)
        yield


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except PermissionError:
        # A task may have taken its own directory's rights away.
        os.chmod(directory, stat.S_IRWXU)
        with os.scandir(directory) as found:
            return list(found)


def _insist(delete: Callable[[str], None], path: str, parent: str) -> None:
    try:
        delete(path)
    except PermissionError:
        os.chmod(parent, stat.S_IRWXU)
        delete(path)
