"""The feed of service log events: the last of them in memory for whoever reads on, all of them in a file where the
configuration names one.

Events of pools are always taken down. Those of tasks cost every task something, so the scheduler tells them only while
there is somebody to read: a file, or a reader that has asked within the last minute. What happened before a reader's
first request, or between the commit of a change and a crash, nobody is told: the truth is in the store, not here.
"""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp, format_timestamp
from millpond.domain.service_log import ServiceLogEvent

log = logging.getLogger(__name__)

KEPT_EVENTS: Final = 10_000
MAX_EVENTS: Final = 1_000
"""Of one answer."""
MAX_WAIT_S: Final = 60.0
_READER_STAYS_S: Final = 60.0
"""After its last request ended."""
_GATHER_S: Final = 0.2
"""Events wait so long for others to be written with them."""
_MOST_UNWRITTEN: Final = 100_000

_encode: Final = msgspec.json.Encoder().encode


class FedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event of the feed; encoded as JSON, it is a line of the file."""

    sequence: int
    """Rises from event to event, also over restarts of the service."""
    time: str
    """When it was on disk, as on the wire."""
    name: str
    body: ServiceLogEvent


class Events(msgspec.Struct, frozen=True):
    """One reading."""

    events: Sequence[FedEvent]
    next: int
    """Read on after this sequence number."""
    missed: bool
    """There were events after the one asked for that are not kept any more, or the service has been restarted."""


class EventsFeed:
    """See the module. Made and used in one event loop."""

    def __init__(
        self, clock: Callable[[], Timestamp], on_demand: Callable[[bool], None], path: str | None = None
    ) -> None:
        """`on_demand` is told when events of tasks begin to be wanted, and when they cease to."""
        self._clock = clock
        self._on_demand = on_demand
        self._path = Path(path) if path else None
        self._kept: deque[FedEvent] = deque(maxlen=KEPT_EVENTS)
        # A number for each microsecond: those of the next service begin above those of this one.
        self._last = self._begin = int(clock() * 1e6)
        self._news = asyncio.Event()
        self._stopped = False
        self._readers = 0
        self._until = 0.0
        """By the loop's clock: so long a reader is expected back."""
        self._unwritten: list[FedEvent] = []
        self._to_write = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.wants_tasks = self._path is not None

    def start(self) -> None:
        if self._path is not None:
            self._task = asyncio.create_task(self._keep_file(self._path), name="service log")

    async def stop(self) -> None:
        self._stopped = True
        self._news.set()  # whoever waits is answered
        if self._task is not None and self._path is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._write(self._path)

    def add(self, event: ServiceLogEvent) -> None:
        self._last += 1
        fed = FedEvent(self._last, format_timestamp(self._clock()), type(event).__name__, event)
        self._kept.append(fed)
        self._news.set()
        if self._path is not None:
            self._unwritten.append(fed)
            self._to_write.set()

    # --- reading ---

    async def read(self, after: int | None, wait_s: float) -> Events:
        """Events after that number, at most `MAX_EVENTS`; all that are kept for None. Where there are none, waits so
        long for the first."""
        self._readers += 1
        self._set_demand()
        try:
            # A number that is yet to come is from another life of the service, whose clock was ahead.
            known = after is not None and after <= self._last
            start = after if after is not None and known else self._begin
            if start == self._last and wait_s > 0:
                await self._wait(wait_s)
            return self._after(start, missed=after is not None and (not known or after < self._oldest()))
        finally:
            self._readers -= 1
            loop = asyncio.get_running_loop()
            self._until = loop.time() + _READER_STAYS_S
            loop.call_later(_READER_STAYS_S + 0.01, self._set_demand)

    def _oldest(self) -> int:
        """The number before the first that is kept."""
        return self._kept[0].sequence - 1 if self._kept else self._last

    async def _wait(self, wait_s: float) -> None:
        if not self._stopped:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_s)

    def _after(self, start: int, *, missed: bool) -> Events:
        skip = max(0, start - self._oldest())
        events = list(itertools.islice(self._kept, skip, skip + MAX_EVENTS))
        return Events(events, events[-1].sequence if events else self._last, missed)

    def _set_demand(self) -> None:
        wanted = self._path is not None or self._readers > 0 or asyncio.get_running_loop().time() < self._until
        if wanted is not self.wants_tasks:
            self.wants_tasks = wanted
            self._on_demand(wanted)

    # --- the file ---

    async def _keep_file(self, path: Path) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            await asyncio.sleep(_GATHER_S)
            if not await self._write(path):
                await asyncio.sleep(1.0)
                self._to_write.set()

    async def _write(self, path: Path) -> bool:
        """Opened anew each time: whoever moves the file away finds the next events in a new one."""
        events, self._unwritten = self._unwritten, []
        if not events:
            return True
        lines = b"".join(_encode(event) + b"\n" for event in events)
        try:
            await asyncio.to_thread(_append, path, lines)
        except OSError as error:
            log.warning("%d events are not in %s yet: %s", len(events), path, error.strerror)
            self._unwritten = [*events, *self._unwritten][-_MOST_UNWRITTEN:]
            return False
        return True


def _append(path: Path, lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(lines)
