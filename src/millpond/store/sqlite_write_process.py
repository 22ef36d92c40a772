"""A process that writes to the SQLite file.

    python -m millpond.store.sqlite_write_process PATH FD

A thread beside a busy event loop spends more time on getting the interpreter than on writing, and the loop waits for it
in turn. What is to be written goes to a process over a socket instead, as MessagePack behind its length, and outcomes
come back in the same order. The process ends with whoever started it.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, cast

import msgspec

from millpond.domain.errors import Bug, LeaseLost, StoreUnavailable
from millpond.store.sql_files import load_queries
from millpond.store.sqlite_file import open_writable
from millpond.store.sqlite_write_thread import Told
from millpond.store.sqlite_writer import Outcome, Request, Writer

_log: Final = logging.getLogger(__name__)

_HEAD: Final = struct.Struct("<I")
_READ_BYTES: Final = 1 << 20
_QUIET_S: Final = 60.0
"""After so long without a commit the memory that SQLite caches pages in is given back."""
_STOP_S: Final = 30.0
_ERRORS: Final = (LeaseLost, StoreUnavailable, Bug)


_Answer: TypeAlias = tuple[int, str] | None
"""Which of `_ERRORS`, and its text."""

_encode: Final = msgspec.msgpack.Encoder().encode
_request_of: Final = msgspec.msgpack.Decoder(Request).decode
_answers_of: Final = msgspec.msgpack.Decoder(list[_Answer]).decode


def _framed(content: bytes) -> bytes:
    return _HEAD.pack(len(content)) + content


class _Frames:
    """Cuts what is read into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now."""
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start = 0
        while len(buffer) - start >= _HEAD.size:
            end = start + _HEAD.size + int.from_bytes(buffer[start : start + _HEAD.size], "little")
            if len(buffer) < end:
                break
            frames.append(bytes(buffer[start + _HEAD.size : end]))
            start = end
        del buffer[:start]
        return frames


# --- in the process that has it written -----------------------------------------------------------------------------


class WriteProcess(asyncio.Protocol):
    """The process, from the event loop's side. `told` hears the outcomes, `lost` when the process has ended unasked; its
    requests without an outcome have None by then."""

    def __init__(self, told: Told, lost: Callable[[], None]) -> None:
        self._told = told
        self._lost = lost
        self._frames = _Frames()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._stopped = False

    async def start(self, path: str) -> None:
        """Returns when it is ready to write. Raises StoreUnavailable."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                self._process = await asyncio.to_thread(_started, path, theirs.fileno())
            await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        except BaseException as error:
            ours.close()
            if isinstance(error, OSError):
                raise StoreUnavailable(f"the process that writes cannot be started: {error}") from error
            raise
        await self._ready

    def put(self, request: Request) -> None:
        """Have it done, in the order of the requests."""
        if self._transport is not None:
            self._transport.write(_framed(_encode(request)))

    async def stop(self) -> None:
        """Wait for its end, which comes when it has done what was asked for. `lost` is not called any more."""
        self._stopped = True
        if self._transport is not None:
            self._transport.close()
        process = self._process
        if process is None:
            return
        try:
            await asyncio.to_thread(process.wait, _STOP_S)
        except subprocess.TimeoutExpired:
            _log.error("the process %d, which writes, does not end; it is killed", process.pid)
            process.kill()
            await asyncio.to_thread(process.wait)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            answers = _answers_of(frame)
            if not self._ready.done():
                self._ready.set_result(None)
            self._told([None if answer is None else _ERRORS[answer[0]](answer[1]) for answer in answers])

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._ready.done():
            self._ready.set_exception(StoreUnavailable("the process that writes ended before it was ready"))
            self._ready.exception()  # whoever waited may be gone
        elif not self._stopped:
            self._lost()


def _started(path: str, fd: int) -> "subprocess.Popen[bytes]":
    # Not by the event loop: uvloop lets descriptors through. A session of its own: what a terminal's Ctrl-C ends is
    # who started it, and then it ends too, after what it has in hand.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __spec__.name, path, str(fd)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(fd,),
        start_new_session=True,
    )


# --- in the process that writes -------------------------------------------------------------------------------------


class _Served:
    """Does what comes over the socket."""

    def __init__(self, connection: sqlite3.Connection, channel: socket.socket) -> None:
        self._connection = connection
        self._writer = Writer(connection, load_queries())
        self._channel = channel
        self._frames = _Frames()
        self._parent = os.getppid()

    def run(self) -> None:
        """Until the other side is gone."""
        self._answer([])  # ready
        # Not `select`, which takes no descriptor above 1023: a service with many nodes has that many.
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            if not poll.poll(_QUIET_S * 1000):
                self._connection.execute("PRAGMA shrink_memory")
            requests, is_over = self._received()
            # Nobody waits for what a process asked for that is gone, and the next one may be at work already.
            if requests and os.getppid() == self._parent:
                self._answer(self._writer.do(map(_request_of, requests)))
            if is_over:
                return

    def _received(self) -> tuple[list[bytes], bool]:
        """What has come so far, and whether that was all: they are written together."""
        frames: list[bytes] = []
        while True:
            try:
                data = self._channel.recv(_READ_BYTES, 0 if not frames else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return frames, False
            if not data:
                return frames, True
            frames += self._frames.feed(data)

    def _answer(self, outcomes: Sequence[Outcome]) -> None:
        self._channel.sendall(_framed(_encode([None if it is None else _answer_of(it) for it in outcomes])))


def _answer_of(error: Exception) -> _Answer:
    for number, kind in enumerate(_ERRORS):
        if isinstance(error, kind):
            return number, str(error)
    _log.error("rows could not be written", exc_info=error)
    return _ERRORS.index(Bug), f"rows that cannot be written: {error!r}"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    path, fd = sys.argv[1], int(sys.argv[2])
    with socket.socket(fileno=fd) as channel, contextlib.closing(open_writable(path)) as connection:
        channel.setblocking(True)
        with contextlib.suppress(ConnectionError):
            _Served(connection, channel).run()


if __name__ == "__main__":
    main()
