"""A file of a task that runs, as it grows: the content of the answer to a `follow` request."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from millpond.agent.logs import NodeLogs, OpenFiles
from millpond.agent.watch import Watch, Watches
from millpond.protocol.frames import ALIVE, frame

_LOOK_S: Final = 0.1
"""How often it is looked whether the attempt is over, and (without inotify) whether there is more."""
_ALIVE_S: Final = 10.0
_CHUNK: Final = 1 << 16


class FollowedFile:
    """Frames: first an empty one, then what is in the file from `offset` on and what is added to it, to its end when the
    attempt is over. Ends at once for an attempt that is not, or no longer, the one in its directory."""

    def __init__(
        self,
        files: OpenFiles,
        logs: NodeLogs,
        watches: Watches,
        *,
        path: str,
        offset: int,
        attempt: tuple[int, int],
        runs: Callable[[], bool],
    ) -> None:
        """`path` is relative to the node's root; `attempt` is (key, attempt), `runs` says whether it is with the runner."""
        self._files = files
        self._logs = logs
        self._watches = watches
        self._path = path
        self._position = offset
        self._attempt = attempt
        self._runs = runs
        self._descriptor = -1
        self._watch: Watch | None = None
        self._said_at = 0.0
        self._greeted = False

    def __aiter__(self) -> "FollowedFile":
        return self

    async def __anext__(self) -> bytes:
        loop = asyncio.get_running_loop()
        if not self._greeted:
            self._greeted = True
            self._said_at = loop.time()
            return ALIVE
        while True:
            # Asked before the file is read: what was written before the attempt was over is there then.
            is_over = self._is_over()
            data = self._read()
            if data:
                self._said_at = loop.time()
                return frame(data)
            if is_over:
                await self.aclose()
                raise StopAsyncIteration
            if loop.time() - self._said_at > _ALIVE_S:
                self._said_at = loop.time()
                return ALIVE
            if self._watch is not None:
                await self._watch.wait(_LOOK_S)
            else:
                await asyncio.sleep(_LOOK_S / 2)

    async def aclose(self) -> None:
        """Let go of the file; twice is fine."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_over(self) -> bool:
        return self._attempt not in self._logs.live and not self._runs()

    def _read(self) -> bytes:
        if self._descriptor < 0 and not self._open():
            return b""
        data = os.pread(self._descriptor, _CHUNK, self._position)
        self._position += len(data)
        return data

    def _open(self) -> bool:
        if self._attempt not in self._logs.live and (self._runs() or self._logs.is_used_by_another(self._attempt)):
            # The directory is not made yet, or is a later attempt's: what is there is not this attempt's.
            return False
        opened = self._files.open(self._path)
        if opened is None:
            return False
        self._descriptor = opened[0]
        self._watch = self._watches.begin(self._descriptor)
        return True
