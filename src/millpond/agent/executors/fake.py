"""An executor without processes, for simulation and tests: deterministic, on the event loop's own clock."""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from millpond.agent.base import DirectoryNotMade, ProcessExit, ProcessSpec, Watcher
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailure

KILLED: Final = -9
"""Exit code of a process that was killed."""


class FakeRun(msgspec.Struct, frozen=True):
    """What one process is to do."""

    duration_s: float = 0.0
    exit_code: int = 0
    refusal: TaskFailure | None = None
    """It cannot be started: `start` raises this."""


class FakeExecutor:
    """Processes that only last: `plan` says how long, and how they end.

    It outlives the agent that uses it, as a spawner does; `lose` is a spawner that was killed. `clock` gives the time
    of an end; durations pass on the clock of the running event loop.
    """

    def __init__(self, plan: Callable[[ProcessSpec], FakeRun], clock: Callable[[], Timestamp]) -> None:
        self._plan = plan
        self._clock = clock
        self._known: dict[str, ProcessExit | None] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._watchers: dict[str, Watcher] = {}
        self._waiters: dict[str, list[asyncio.Future[ProcessExit | None]]] = {}
        self.started: list[ProcessSpec] = []
        """Every process ever started, in order."""
        self.ended: list[str] = []
        """Every attempt ever ended, in order."""

    async def start(self, process: ProcessSpec) -> None:
        """See `Executor.start`."""
        if process.id in self._known:
            return
        self._start(process)

    @property
    def is_ready(self) -> bool:
        """See `Executor.is_ready`."""
        return True

    def begin(self, process: ProcessSpec, watcher: Watcher) -> None:
        """See `Executor.begin`."""
        loop = asyncio.get_running_loop()
        try:
            self._start(process)
        except (TaskFailure, DirectoryNotMade) as error:
            loop.call_soon(watcher.failed, error)
        else:
            loop.call_soon(watcher.running)
            self._watchers[process.id] = watcher

    def _start(self, process: ProcessSpec) -> None:
        if process.makes_directory:
            try:
                os.mkdir(os.path.dirname(process.directory))
                os.mkdir(process.directory)
            except OSError as error:
                raise DirectoryNotMade(error.errno, error.strerror) from error
        run = self._plan(process)
        if run.refusal is not None:
            raise run.refusal
        self.started.append(process)
        self._known[process.id] = None
        loop = asyncio.get_running_loop()
        self._timers[process.id] = loop.call_later(run.duration_s, self._end, process.id, run.exit_code)

    async def wait(self, process_id: str) -> ProcessExit | None:
        """See `Executor.wait`."""
        if process_id not in self._known:
            return None
        exit_ = self._known[process_id]
        if exit_ is not None:
            return exit_
        waiter: asyncio.Future[ProcessExit | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(process_id, []).append(waiter)
        return await waiter

    async def kill(self, process_id: str) -> None:
        """See `Executor.kill`."""
        if process_id in self._timers:
            self._end(process_id, KILLED)

    async def end(self, attempt_id: str) -> None:
        """See `Executor.end`."""
        for process_id in list(self._timers):
            if process_id == attempt_id or process_id.startswith(f"{attempt_id}/"):
                self._end(process_id, KILLED)
        self.ended.append(attempt_id)

    async def known(self) -> Sequence[str]:
        """See `Executor.known`."""
        return list(self._known)

    async def forget(self, process_id: str) -> None:
        """See `Executor.forget`."""
        self.lose(process_id)

    def lose(self, process_id: str) -> None:
        """Make a process, running or ended, one that nothing is known of."""
        if process_id in self._known:
            del self._known[process_id]
            timer = self._timers.pop(process_id, None)
            if timer is not None:
                timer.cancel()
            self._tell(process_id, None)

    def lose_all(self) -> None:
        """The machine was restarted."""
        for process_id in list(self._known):
            self.lose(process_id)

    def _end(self, process_id: str, exit_code: int) -> None:
        self._timers.pop(process_id).cancel()
        exit_ = ProcessExit(exit_code, self._clock())
        self._known[process_id] = exit_
        self._tell(process_id, exit_)

    def _tell(self, process_id: str, exit_: ProcessExit | None) -> None:
        watcher = self._watchers.pop(process_id, None)
        if watcher is not None:
            asyncio.get_running_loop().call_soon(watcher.ended, exit_)
        for waiter in self._waiters.pop(process_id, ()):
            if not waiter.done():
                waiter.set_result(exit_)
