"""A thread that writes to the SQLite file."""

import asyncio
import logging
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from millpond.store.sqlite_writer import Outcome, Request, Writer

_log: Final = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0001
"""How long a thread waits before it asks for the interpreter.

With Python's own 5 ms, a thread starves for seconds beside a busy event loop: the loop lets go of the interpreter at
each poll, the thread wakes too late to get it, and begins to wait anew without ever asking. Measured with a loop that
polls every 0.3 or 3 ms: 5 s and 2.8 s without a turn; with 0.1 ms the worst was 7 ms, and the loop was no slower.
"""

Told: TypeAlias = Callable[[Sequence[Outcome]], None]
"""Is told in the event loop how requests ended, in their order."""


class _Call(msgspec.Struct, eq=False):
    work: Callable[[], Any]
    done: "asyncio.Future[Any]"


class WriteThread:
    """Lets a `Writer` work in a thread of its own, in the order of what is asked for. What waits while a transaction is on
    its way to the disk is written in the next one, all together. Its methods are called from the event loop."""

    def __init__(self, writer: Writer, told: Told) -> None:
        self.writer = writer
        self._told = told
        self._inbox: queue.SimpleQueue[Request | _Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="millpond-store-writer", daemon=True)
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._thread.start()

    def put(self, request: Request) -> None:
        self._inbox.put(request)

    def call(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """Have something else done by the thread: once what was put in before is written."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._inbox.put(_Call(work, done))
        return done

    def stop(self) -> None:
        """Finish what was asked for, close the connection, end the thread. Blocks."""
        self._inbox.put(None)
        self._thread.join()

    # --- in the thread ---

    def _run(self) -> None:
        waiting: list[Request] = []
        while True:
            item = self._inbox.get()
            while True:
                if item is None or isinstance(item, _Call):
                    # Order is kept: what was asked for before a lease changes hands is written before.
                    self._do(waiting)
                    waiting = []
                    if item is None:
                        self.writer.close()
                        return
                    self._call(item)
                else:
                    waiting.append(item)
                try:
                    item = self._inbox.get_nowait()
                except queue.Empty:
                    break
            self._do(waiting)
            waiting = []

    def _do(self, requests: list[Request]) -> None:
        if requests:
            self._tell(self._told, self.writer.do(requests))

    def _call(self, call: _Call) -> None:
        try:
            result = call.work()
        except Exception as error:  # the caller's, whatever it is
            self._tell(_set_exception, call.done, error)
        else:
            self._tell(_set_result, call.done, result)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            _log.warning("the event loop ended before the store could answer it")


# The caller may have been cancelled meanwhile; what was written stays.


def _set_result(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
