"""An executor without processes, for simulation and tests: deterministic, on the event loop's own clock."""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from millpond.agent.base import DirectoryNotMade, GivenBack, ProcessExit, ProcessSpec, Watcher
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
        self._lanes: dict[str, str] = {}
        """Lanes of processes that run, by id."""
        self._waiting: dict[str, tuple[ProcessSpec, Watcher]] = {}
        self.started: list[ProcessSpec] = []
        """Every process ever started, in order."""
        self.ended: list[str] = []
        """Every attempt ever ended, in order."""

    async def start(self, process: ProcessSpec) -> None:
        """See `Executor.start`."""
        if process.id in self._known:
            return
        if self._is_full(process):
            # Only what is begun waits here.
            raise GivenBack(process.id)
        self._start(process)

    @property
    def is_ready(self) -> bool:
        """See `Executor.is_ready`."""
        return True

    def begin(self, process: ProcessSpec, watcher: Watcher) -> None:
        """See `Executor.begin`."""
        if self._is_full(process):
            self._waiting[process.id] = process, watcher
        else:
            self._begin(process, watcher)

    def _begin(self, process: ProcessSpec, watcher: Watcher) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._start(process)
        except (TaskFailure, DirectoryNotMade) as error:
            loop.call_soon(watcher.failed, error)
            self._over(process.lane, well=False)
        else:
            loop.call_soon(partial(watcher.running, self._clock(), is_over=False))
            self._watchers[process.id] = watcher

    def _is_full(self, process: ProcessSpec) -> bool:
        if not process.width:
            return False
        others = sum(lane == process.lane for lane in self._lanes.values())
        waits = any(waiting.lane == process.lane for waiting, _ in self._waiting.values())
        return waits or others >= process.width

    def _over(self, lane: str, *, well: bool) -> None:
        """A process of that lane is over, or was not started."""
        waiting = [(process, watcher) for process, watcher in self._waiting.values() if process.lane == lane]
        if not well:
            for process, _ in waiting:
                self._give_back(process.id)
        elif waiting:
            process, watcher = waiting[0]
            del self._waiting[process.id]
            self._begin(process, watcher)

    def _give_back(self, process_id: str) -> None:
        _, watcher = self._waiting.pop(process_id)
        asyncio.get_running_loop().call_soon(watcher.failed, GivenBack(process_id))

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
        if process.lane:
            self._lanes[process.id] = process.lane
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
        elif process_id in self._waiting:
            self._give_back(process_id)

    async def end(self, attempt_id: str) -> None:
        """See `Executor.end`."""
        if attempt_id in self._waiting:
            self._give_back(attempt_id)
        for process_id in list(self._timers):
            if process_id == attempt_id or process_id.startswith(f"{attempt_id}/"):
                self._end(process_id, KILLED)
        self.ended.append(attempt_id)

    async def known(self) -> Sequence[str]:
        """See `Executor.known`."""
        return list(self._known)

    async def began(self, process_id: str) -> Timestamp:
        """See `Executor.began`."""
        return 0.0

    async def forget(self, *process_ids: str) -> None:
        """See `Executor.forget`."""
        for process_id in process_ids:
            self.lose(process_id)

    def lose(self, process_id: str) -> None:
        """Make a process, running or ended, one that nothing is known of."""
        if process_id in self._known:
            del self._known[process_id]
            timer = self._timers.pop(process_id, None)
            if timer is not None:
                timer.cancel()
            self._tell(process_id, None)
            self._over(self._lanes.pop(process_id, ""), well=False)

    def lose_all(self) -> None:
        """The machine was restarted."""
        for process_id in list(self._known):
            self.lose(process_id)

    def _end(self, process_id: str, exit_code: int) -> None:
        self._timers.pop(process_id).cancel()
        exit_ = ProcessExit(exit_code, self._clock())
        self._known[process_id] = exit_
        self._tell(process_id, exit_)
        lane = self._lanes.pop(process_id, "")
        if lane:
            self._over(lane, well=exit_code == 0)

    def _tell(self, process_id: str, exit_: ProcessExit | None) -> None:
        watcher = self._watchers.pop(process_id, None)
        if watcher is not None:
            asyncio.get_running_loop().call_soon(watcher.ended, exit_)
        for waiter in self._waiters.pop(process_id, ()):
            if not waiter.done():
                waiter.set_result(exit_)
