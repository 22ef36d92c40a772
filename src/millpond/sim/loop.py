"""An asyncio event loop on virtual time, and processes in it that can be killed.

When nothing is ready, time jumps to the next timer; no thread, no socket, no real time. Every callback belongs to the
process in whose context it was scheduled (or to the world, which outlives them all). The callbacks of a killed process
never run: that is `kill -9` at whatever await it had come to, without a `finally` being executed.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any, TypeVar, TypeVarTuple, Unpack
from weakref import WeakSet

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

MAX_STEPS_AT_ONE_TIME = 200_000
"""Callbacks run without time moving on: more is a loop that spins."""


class Stuck(Exception):
    """Nothing is ready and no timer is set, or time does not move on."""


class Process:
    """What can be killed: its tasks, and all that they start."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.name = name
        self.alive = True
        self.steps = 0
        """Callbacks it has run."""
        self._loop = loop
        self._buried = False
        self._fuse = 0
        self._on_fuse: Callable[[], None] = _nothing
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.pinned: list[asyncio.Task[Any]] = []
        """The tasks of a killed process: kept, so that no collector runs their `finally`."""
        self.parked: list[asyncio.Handle] = []

    def spawn(self, coroutine: "Coroutine[Any, Any, _T]", *, name: str = "") -> "asyncio.Task[_T]":
        """Run a coroutine as part of this process. A dead process runs nothing."""
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return self._loop.create_task(coroutine, name=name or self.name, context=context)

    def light_fuse(self, steps: int, then: Callable[[], None]) -> None:
        """Call `then` before the n-th callback from now: it may kill the process at any await."""
        self._fuse = self.steps + steps
        self._on_fuse = then

    def defuse(self) -> None:
        self._fuse = 0

    def kill(self) -> None:
        if self.alive and not self._buried:
            self.alive = False
            self.pinned = sorted((task for task in self.tasks if not task.done()), key=lambda task: task.get_name())

    def bury(self) -> list[asyncio.Handle]:
        """Nobody kills it any more; what it still had to run."""
        self.alive = self._buried = True
        parked, self.parked = self.parked, []
        return parked

    def enter(self) -> bool:
        """Count a callback that is about to run; whether it may."""
        if self.alive:
            self.steps += 1
            if self.steps == self._fuse:
                self._on_fuse()
        return self.alive


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def _process_in(context: contextvars.Context | None) -> Process | None:
    return _PROCESS.get() if context is None else context.get(_PROCESS)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. `failure` ends the run: it is raised before the next callback."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.steps = 0
        """Callbacks run."""
        self.world = contextvars.Context()
        """The context of what belongs to no process."""
        self.processes: list[Process] = []
        self._now = 0.0
        self._due: deque[tuple[asyncio.Handle, Process | None]] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Process | None]] = []
        self._order = count()
        self._moved_at = 0
        self._over = False
        self.set_exception_handler(self._unhandled)

    def process(self, name: str) -> Process:
        process = Process(self, name)
        self.processes.append(process)
        return process

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self.failure is None and error is not None and not isinstance(error, asyncio.CancelledError):
            self.failure = Exception(f"unhandled in the simulation: {context.get('message')}: {error!r}")
            self.failure.__cause__ = error

    # --- what asyncio calls ---

    def time(self) -> float:
        return self._now

    def call_soon(
        self, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._due.append((handle, _process_in(context)))
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), handle, _process_in(context)))
        return handle

    def create_task(
        self,
        coro: "Generator[Any, None, _T] | Coroutine[Any, Any, _T]",
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> "asyncio.Task[_T]":
        task: asyncio.Task[_T] = super().create_task(coro, name=name if name is None else str(name), context=context)
        process = _process_in(context)
        if process is not None:
            process.tasks.add(task)
            if not process.alive:
                process.pinned.append(task)
        return task

    def _run_once(self) -> None:
        """One callback. Called by `run_forever` until the loop is stopped."""
        if self.failure is not None and not self._over:
            raise self.failure
        if not self._due:
            self._advance()
        handle, process = self._due.popleft()
        if handle.cancelled():
            return
        if process is not None and not process.enter():
            process.parked.append(handle)
            return
        self.steps += 1
        if self.steps - self._moved_at > MAX_STEPS_AT_ONE_TIME:
            raise Stuck(f"{MAX_STEPS_AT_ONE_TIME} callbacks at {self._now:.6f} s, last {handle!r}")
        handle._run()

    def _advance(self) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck(f"nothing is ready and no timer is set at {self._now:.6f} s")
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self._moved_at = self.steps
        while timers and timers[0][0] <= self._now:
            _, _, handle, process = heapq.heappop(timers)
            if not handle.cancelled():
                self._due.append((handle, process))

    # --- the world ---

    def in_world(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call back after a delay, whatever process dies meanwhile."""
        return self.call_at(self._now + delay_s, callback, *args, context=self.world)

    def world_task(self, coroutine: "Coroutine[Any, Any, _T]", *, name: str = "world") -> "asyncio.Task[_T]":
        return self.create_task(coroutine, name=name, context=self.world.copy())

    def bury(self) -> None:
        """At the end: let every task that is left, of the dead too, run to its end, so that nothing is left to the
        collector."""
        self._over = True
        self.set_exception_handler(lambda _loop, _context: None)
        for process in self.processes:
            self._due.extend((handle, process) for handle in process.bury())
        # A main task that ended just when the run failed may still stop the loop: let that pass.
        passed = self.create_future()

        def pass_by() -> None:
            passed.set_result(None)
            self.stop()

        self.call_soon(pass_by)
        while not passed.done():
            self.run_forever()
        for _ in range(20):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self._moved_at = self.steps
            self.run_until_complete(asyncio.wait(tasks, timeout=60.0))
        for process in self.processes:
            for task in [*process.pinned, *process.tasks]:
                if task.done() and not task.cancelled():
                    task.exception()


def _nothing() -> None:
    pass
