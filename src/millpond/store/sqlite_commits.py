"""What is to be written to the SQLite file, in order: by a thread of this process, or by a process once that is worth it.

Writing takes the interpreter from the event loop for moments, and getting it takes each of them a wait; where commits
follow one another a process does it for both (`sqlite_write_process`). A service with little to write has none.

Two connections never write at the same time: what the other is to do waits until the one has ended all it was given.
"""

import asyncio
import functools
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from millpond.domain.errors import StoreUnavailable
from millpond.domain.ids import id_key
from millpond.store.base import Fence
from millpond.store.sqlite_rows import Rows
from millpond.store.sqlite_write_process import WriteProcess
from millpond.store.sqlite_write_thread import WriteThread
from millpond.store.sqlite_writer import Commit, ForgetNames, Outcome, Request, SettleNodes, WatchNames, Writer

_log: Final = logging.getLogger(__name__)

MAX_JOB_RECORDS: Final = 1000
BUSY_COMMITS: Final = 20
"""So many within a second, and a process is worth what it costs."""
_BUSY_S: Final = 1.0
_RETRY_S: Final = 30.0
"""After a process ended unasked, or did not start."""

_T = TypeVar("_T")


class JobRecords:
    """The records of jobs that were written lately, as the file has them: the jobs that are worked on are asked for again
    and again, and a reader's thread has to fight for the interpreter."""

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}
        """By id key, what was written last at the end."""
        self._keys: dict[int, str] = {}
        """By number."""

    def get(self, job_id: str) -> bytes | None:
        return self._records.get(id_key(job_id))

    def note(self, rows: Rows) -> None:
        """What has been written."""
        for no in rows.deleted_jobs:
            self._records.pop(self._keys.pop(no, ""), None)
        for row in rows.jobs:
            key = id_key(row[1])
            self._records.pop(key, None)
            self._records[key] = row[-1]
            self._keys[row[0]] = key
        while len(self._records) > MAX_JOB_RECORDS:
            del self._records[next(iter(self._records))]
        if len(self._keys) > 2 * MAX_JOB_RECORDS:
            self._keys = {no: key for no, key in self._keys.items() if key in self._records}


class _Item:
    """A request that somebody waits for."""

    __slots__ = ("done", "request")

    def __init__(self, request: Request, done: "asyncio.Future[None]") -> None:
        self.request = request
        self.done = done


class _Call:
    """Work for the thread's connection that somebody waits for."""

    __slots__ = ("done", "work")

    def __init__(self, work: Callable[[], Any], done: "asyncio.Future[Any]") -> None:
        self.work = work
        self.done = done


_Given: TypeAlias = deque[_Item]


class Commits:
    """The one way to the file. Its methods are called from the event loop, in which it is made."""

    def __init__(
        self, path: str, connection: sqlite3.Connection, queries: Mapping[str, str], busy_commits: int | None
    ) -> None:
        """A process writes from `busy_commits` a second on; never, with None."""
        self._path = path
        self._busy_commits = busy_commits
        self._loop = asyncio.get_running_loop()
        self._thread = WriteThread(Writer(connection, queries), self._thread_told)
        self._process: WriteProcess | None = None
        """Once it is ready."""
        self._starting: asyncio.Task[None] | None = None
        self._reaping: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._waiting: deque[_Item | _Call] = deque()
        self._with_thread: _Given = deque()
        """Given to it, in order, and without an outcome yet."""
        self._calls = 0
        """Given to the thread, and not done yet."""
        self._with_process: _Given = deque()
        self._counted_from = 0.0
        self._counted = 0
        self._idle: asyncio.Future[None] | None = None
        self._are_nodes_behind = True
        """Rows of nodes may be, since what nodes have worked is kept apart; what was told before counts only."""
        self._settling: asyncio.Task[None] | None = None
        self.job_records = JobRecords()

    def start(self) -> None:
        self._thread.start()

    @property
    def process_pid(self) -> int | None:
        """Of the process that writes just now, if there is one."""
        return None if self._process is None else self._process.pid

    async def commit(self, rows: Rows, fence: Fence) -> None:
        """Write the rows durably. Raises LeaseLost, StoreUnavailable, Bug."""
        if self._busy_commits is not None and self._process is None:
            self._count(self._busy_commits)
        await self._ask(Commit(rows, fence))

    async def settle_nodes(self) -> None:
        """Returns when rows of nodes are as the commits have them that were acknowledged before. Raises StoreUnavailable,
        Bug."""
        if self._are_nodes_behind:
            self._are_nodes_behind = False
            self._settling = asyncio.create_task(self._settle_nodes(), name="rows of nodes")
            self._settling.add_done_callback(
                lambda ended: ended.cancelled() or ended.exception()
            )  # the callers' business
        if self._settling is not None:
            await asyncio.shield(self._settling)

    async def _settle_nodes(self) -> None:
        try:
            await self._ask(SettleNodes())
        except BaseException:
            self._are_nodes_behind = True
            raise
        finally:
            if self._settling is asyncio.current_task():
                self._settling = None

    async def watch_names(self) -> None:
        """See `WatchNames`."""
        await self._ask(WatchNames())

    async def forget_names(self, refs: Sequence[int]) -> None:
        """See `ForgetNames`."""
        await self._ask(ForgetNames(list(refs)))

    async def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in a transaction of its own; what it raises undoes it."""
        done: asyncio.Future[_T] = self._loop.create_future()
        writer = self._thread.writer
        self._waiting.append(_Call(lambda: writer.call(work), done))
        self._pass_on()
        return await done

    async def stop(self) -> None:
        """Finish what was asked for, close the file."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._waiting or self._with_thread or self._with_process or self._calls:
            self._idle = self._loop.create_future()
            await self._idle
        if self._process is not None:
            await self._process.stop()
            self._process = None
        if self._reaping is not None:
            await self._reaping
        await asyncio.to_thread(self._thread.stop)

    # --- in order ---

    async def _ask(self, request: Request) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(_Item(request, done))
        self._pass_on()
        await done

    def _pass_on(self) -> None:
        """Give on what waits, as far as that may be."""
        waiting = self._waiting
        while waiting:
            item = waiting[0]
            if isinstance(item, _Call):
                if self._with_process:
                    return
                waiting.popleft()
                self._calls += 1
                self._thread.call(item.work).add_done_callback(functools.partial(self._called, item))
            elif self._process is None:
                waiting.popleft()
                self._with_thread.append(item)
                self._thread.put(item.request)
            elif self._with_thread or self._calls:
                return
            else:
                waiting.popleft()
                self._with_process.append(item)
                self._process.put(item.request)
        if self._idle is not None and not (self._with_thread or self._with_process or self._calls):
            self._idle.set_result(None)
            self._idle = None

    def _called(self, call: _Call, ended: "asyncio.Future[Any]") -> None:
        self._calls -= 1
        # The caller may have been cancelled meanwhile; what was written stays.
        if not call.done.done():
            error = _outcome_of(ended)
            if error is None:
                call.done.set_result(ended.result())
            else:
                call.done.set_exception(error)
        self._pass_on()

    def _thread_told(self, outcomes: Sequence[Outcome]) -> None:
        self._ended(self._with_thread, outcomes)

    def _process_told(self, outcomes: Sequence[Outcome]) -> None:
        self._ended(self._with_process, outcomes)

    def _ended(self, given: _Given, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            item = given.popleft()
            if outcome is None and isinstance(item.request, Commit):
                self.job_records.note(item.request.rows)
                if item.request.rows.node_work:
                    self._are_nodes_behind = True
            if item.done.done():
                continue
            if outcome is None:
                item.done.set_result(None)
            else:
                item.done.set_exception(outcome)
        if self._waiting or self._idle is not None:
            self._pass_on()

    # --- the process ---

    def _count(self, busy_commits: int) -> None:
        now = self._loop.time()
        if now - self._counted_from > _BUSY_S:
            self._counted_from, self._counted = now, 0
        self._counted += 1
        if self._counted >= busy_commits and self._starting is None and now >= self._retry_at:
            self._begin_start()

    async def start_process(self) -> None:
        """Have a process write from now on. Raises StoreUnavailable when it does not start."""
        if self._process is None:
            await asyncio.shield(self._starting or self._begin_start())

    def _begin_start(self) -> "asyncio.Task[None]":
        self._starting = asyncio.create_task(self._start(), name="start of the process that writes")
        self._starting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # logged already
        return self._starting

    async def _start(self) -> None:
        process = WriteProcess(self._process_told, self._lost)
        try:
            await process.start(self._path)
        except BaseException as error:
            if isinstance(error, StoreUnavailable):
                _log.warning("a thread goes on writing: %s", error)
            self._retry_at = self._loop.time() + _RETRY_S
            await process.stop()
            raise
        else:
            # Nothing goes to it before the thread has ended what it was given.
            self._process = process
            self._pass_on()
        finally:
            self._starting = None

    def _lost(self) -> None:
        """It was killed, or failed: what it has not answered for may be on disk or not."""
        process, self._process = self._process, None
        _log.error("the process %s, which wrote, has ended; a thread goes on", None if process is None else process.pid)
        self._retry_at = self._loop.time() + _RETRY_S
        # It did not see what was written since it wrote last.
        self._thread.writer.forget()
        self._are_nodes_behind = True
        lost = StoreUnavailable("the process that writes ended before it answered")
        self._ended(self._with_process, [lost] * len(self._with_process))
        if process is not None:
            self._reaping = asyncio.create_task(process.stop())


def _outcome_of(ended: "asyncio.Future[Any]") -> Outcome:
    error = ended.exception()
    if error is None or isinstance(error, Exception):
        return error
    raise error
