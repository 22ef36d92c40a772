"""Deleting whole nodes' directories slowly, in the background.

Names vanish at once (a rename); the files go in small batches with pauses, because file systems create new files many
times slower right after a mass delete (ext4: 10 to 40 times), and tasks make files all the time.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from typing import Final

from millpond.agent.deletion import Deletion

_log = logging.getLogger(__name__)

_BATCH: Final = 100
_PAUSE_S: Final = 0.05
_SLICE_S: Final = 0.02


class Trash:
    """A directory whose contents are on their way out, across restarts too."""

    def __init__(self, directory: str) -> None:
        """`directory` must be on the file system of what will be put into it; made when needed."""
        self._directory = directory
        self._life = time.time_ns()
        self._numbers = itertools.count(1)
        self._deletion = Deletion(directory, self._new_name)
        self._task: asyncio.Task[None] | None = None
        self._again = asyncio.Event()

    def put(self, path: str) -> None:
        """Take `path` away; its name is free at once. Raises OSError when it cannot be moved."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        os.rename(path, os.path.join(self._directory, self._new_name()))
        self.empty()

    def empty(self) -> None:
        """Begin to delete whatever is in the trash."""
        self._again.set()
        if self._task is None and os.path.isdir(self._directory):
            self._task = asyncio.create_task(self._empty())

    async def close(self) -> None:
        """Stop deleting; the rest goes next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _new_name(self) -> str:
        return f"{self._life:x}-{next(self._numbers)}"

    async def _empty(self) -> None:
        try:
            while True:
                self._again.clear()
                try:
                    while await asyncio.to_thread(self._deletion.go_on, _BATCH, _SLICE_S):  # noqa: ASYNC110  it is paced
                        await asyncio.sleep(_PAUSE_S)
                except OSError as error:
                    _log.warning("the trash %s cannot be read: %s", self._directory, error)
                    return
                if not self._again.is_set():
                    pause_s = self._deletion.next_try_s()
                    if pause_s is None:
                        return
                    # Not wait_for: a cancellation that meets the event being set is lost in it (Python 3.11).
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(1.0, pause_s)):
                            await self._again.wait()
        finally:
            self._task = None
