"""Waiting until a file is written to: inotify where the kernel has it for us, else the caller's own looks."""

import asyncio
import ctypes
import logging
import os
import struct
from typing import Final

_NONBLOCK: Final = os.O_NONBLOCK
_CLOEXEC: Final = os.O_CLOEXEC
_MODIFY: Final = 0x2
_EVENT: Final = struct.Struct("iIII")
_BUFFER: Final = 1 << 14

_log = logging.getLogger(__name__)


class Watch:
    """One file that is watched. `changed` is set when it was written to."""

    def __init__(self, watches: "Watches", number: int) -> None:
        self.changed = asyncio.Event()
        self._watches = watches
        self._number = number

    async def wait(self, timeout_s: float) -> None:
        """Until it is written to, at most that long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.changed.wait()
        except TimeoutError:
            pass
        self.changed.clear()

    def close(self) -> None:
        self._watches.end(self._number, self)


class Watches:
    """The files this process watches, over one inotify descriptor that is there only as long as it is needed. Used in
    one event loop."""

    def __init__(self) -> None:
        self._descriptor = -1
        self._libc: ctypes.CDLL | None = None
        self._watches: dict[int, set[Watch]] = {}

    def begin(self, descriptor: int) -> Watch | None:
        """Watch an open file, to be closed; None where that cannot be done."""
        try:
            libc = self._open()
            number = libc.inotify_add_watch(self._descriptor, b"/proc/self/fd/%d" % descriptor, _MODIFY)
        except (OSError, AttributeError) as error:
            _log.debug("no inotify: %s", error)
            return None
        if number < 0:
            # Too many files are watched on this machine.
            self._close_if_unused()
            return None
        watch = Watch(self, number)
        self._watches.setdefault(number, set()).add(watch)
        return watch

    def end(self, number: int, watch: Watch) -> None:
        """The watch is not needed any more; ending it twice is fine."""
        watches = self._watches.get(number)
        if watches is None or watch not in watches:
            return
        watches.discard(watch)
        if not watches:
            del self._watches[number]
            assert self._libc is not None
            self._libc.inotify_rm_watch(self._descriptor, number)
            self._close_if_unused()

    def _open(self) -> ctypes.CDLL:
        if self._libc is None:
            self._libc = ctypes.CDLL(None, use_errno=True)
        if self._descriptor < 0:
            descriptor = self._libc.inotify_init1(_NONBLOCK | _CLOEXEC)
            if descriptor < 0:
                raise OSError(ctypes.get_errno(), "inotify_init1")
            self._descriptor = descriptor
            asyncio.get_running_loop().add_reader(descriptor, self._read)
        return self._libc

    def _close_if_unused(self) -> None:
        if not self._watches and self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, _BUFFER)
        except OSError:
            return
        position = 0
        while position + _EVENT.size <= len(data):
            number, _, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            if number < 0:
                # The queue ran over: anything may have changed.
                for watches in self._watches.values():
                    for watch in watches:
                        watch.changed.set()
            for watch in self._watches.get(number, ()):
                watch.changed.set()
