"""Automatic scaling: formulas are evaluated when they are due, and their outcomes handed to the pools' engines.

A few pools at a time: their formulas are evaluated one after the other with a turn of the loop between them, their
outcomes handed over together, which makes one transaction of them; then the others have their turn. So a thousand
formulas due at once hold nothing up.
When a formula is due next is on the pool's row; a timer that was lost with an engine's memory is set again when that is
rebuilt. An outcome counts only if the pool's settings are still those it was begun under: the scheduler sees to that.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from millpond.autoscale.errors import FormulaError
from millpond.autoscale.parser import parse
from millpond.autoscale.tree import Formula
from millpond.control import formulas
from millpond.control.engine import Engine
from millpond.control.nodes import NodeLinks
from millpond.control.sampling import Sampler
from millpond.control.settings import ControlSettings
from millpond.control.timers import Timers
from millpond.domain import events as e
from millpond.domain.autoscale import AutoScale, AutoScaleRun
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, PoolState
from millpond.scheduler.autoscaled_pools import targets_of
from millpond.scheduler.state import SchedulerState, TaskLoad
from millpond.store.base import Store, StoredRun

log = logging.getLogger(__name__)

KEPT_RUNS: Final = 100
"""Of each pool."""
_DEBOUNCE_S: Final = 0.2
"""From a change of the queue to the evaluation it leads to: more tasks may be on their way."""
_SPACING_S: Final = 1.0
"""The least time between two evaluations of a pool because its queue has changed."""
_AT_A_TIME: Final = 16
"""Formulas evaluated before their outcomes are handed over."""
_REST_S: Final = 0.01
"""Between one such group and the next, while more are due than go together."""
_PAUSE_S: Final = 0.05
"""After the last that is due: what becomes due meanwhile goes together."""
_GATHER_S: Final = 0.2
"""Runs wait so long for others to be written with them."""
_MOST_UNWRITTEN: Final = 10_000
_RETRY_S: Final = 1.0


class Trigger(StrEnum):
    """What led to an evaluation."""

    INTERVAL = "interval"
    QUEUE = "queue"


class _Seen(NamedTuple):
    """What an evaluation found, for those that a change of the queue asks for."""

    at: Timestamp
    active: int
    running: int
    active_slots: int
    running_slots: int


class _Outcome(NamedTuple):
    """An evaluation that is to be handed over."""

    engine: Engine
    trigger: Trigger
    pool: Pool
    event: e.PoolAutoScaled
    record: bytes = b""


class AutoScaling:
    """See the module. Made and used in one event loop."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        timers: Timers,
        links: NodeLinks,
        engines: Callable[[], Iterable[Engine]],
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._timers = timers
        self._sampler = Sampler(store, clock, settings, links, engines)
        self._due: dict[str, tuple[Engine, Trigger]] = {}
        """By pool key, in the order in which they became due."""
        self._wake = asyncio.Event()
        self._parsed: dict[str, tuple[str, Formula]] = {}
        """By pool key: the formula last read."""
        self._seen: dict[str, _Seen] = {}
        self._awaited: set[str] = set()
        """Keys of pools whose queue has changed, and that are about to be looked at."""
        self._runs: list[StoredRun] = []
        """Not on disk yet."""
        self._new_runs = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._sampler.start()
        self._tasks = [
            asyncio.create_task(self._evaluate_due(), name="automatic scaling"),
            asyncio.create_task(self._keep_runs(), name="runs of automatic scaling"),
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sampler.stop()
        await self._write_runs()

    # --- settings ---

    def check(self, formula: str | None, interval_s: float | None) -> None:
        """Raises BatchError for settings that are not allowed."""
        if formula is not None:
            formulas.read_formula(formula)
        if interval_s is not None:
            formulas.check_interval(interval_s, self._settings.auto_scale_min_interval_s)

    async def evaluate(self, engine: Engine, text: str) -> AutoScaleRun:
        """What a formula would say of a pool that scales itself; nothing comes of it.

        Raises BatchError: of the formula, PoolNotFound, PoolBeingDeleted, OperationInvalidForCurrentState, ServerBusy.
        """
        formula = formulas.read_formula(text)
        state, pool = self._pool_of(engine)
        try:
            history = await self._sampler.history(engine, pool)
        except StoreUnavailable as error:
            raise BatchError(ErrorCode.SERVER_BUSY) from error
        state, pool = self._pool_of(engine)
        evaluation = formulas.evaluate_for(pool, formula, self._clock(), history, self._sampler.values(state, pool))
        return formulas.run_of(evaluation)

    @staticmethod
    def _pool_of(engine: Engine) -> tuple[SchedulerState, Pool]:
        state = engine.state
        if state is None:
            raise BatchError(ErrorCode.SERVER_BUSY, "The pool's memory is being rebuilt; try again shortly.")
        pool = state.pool
        if pool is None:
            raise BatchError(ErrorCode.POOL_NOT_FOUND, PoolId=engine.pool_id)
        if pool.state is PoolState.DELETING:
            raise BatchError(ErrorCode.POOL_BEING_DELETED)
        if pool.auto_scale is None:
            raise BatchError(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
                f"Pool '{pool.id}' does not scale itself: enable automatic scaling first.",
            )
        return state, pool

    # --- what becomes due ---

    def set_timer(self, engine: Engine, deadline: Timestamp | None) -> None:
        """Evaluate the pool's formula then; None is never."""
        self._timers.set(f"autoscale {engine.pool_key}", deadline, lambda: self._is_due(engine, Trigger.INTERVAL))
        if deadline is None:
            self._due.pop(engine.pool_key, None)

    def _is_due(self, engine: Engine, trigger: Trigger) -> None:
        known = self._due.get(engine.pool_key)
        if known is None or trigger is Trigger.INTERVAL:
            self._due[engine.pool_key] = (engine, trigger)
        self._wake.set()

    def queue_changed(self, engine: Engine) -> None:
        """Called after every batch that changed jobs or tasks, so it returns at once in nearly all cases."""
        if not self._settings.auto_scale_on_queue_change:
            return
        state, key = engine.state, engine.pool_key
        if state is None or state.pool is None or state.pool.auto_scale is None or key in self._awaited:
            return
        seen = self._seen.get(key)
        now = self._clock()
        if seen is not None and _look(seen.at, state.load) == seen:
            return
        self._awaited.add(key)
        earliest = now if seen is None else min(seen.at, now) + _SPACING_S

        def look() -> None:
            self._awaited.discard(key)
            self._is_due(engine, Trigger.QUEUE)

        self._timers.set(f"queue {key}", max(now + _DEBOUNCE_S, earliest), look)

    # --- evaluating ---

    async def _evaluate_due(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                await self._evaluate_some()
                await asyncio.sleep(_REST_S if self._due else _PAUSE_S)

    async def _evaluate_some(self) -> None:
        outcomes: list[_Outcome] = []
        for key in list(itertools.islice(self._due, _AT_A_TIME)):
            if (due := self._due.pop(key, None)) is None:
                continue  # switched off meanwhile
            engine, trigger = due
            with self._trying(engine, trigger):
                outcome = await self._evaluate(engine, trigger)
                if outcome is not None:
                    outcomes.append(outcome)
            await asyncio.sleep(0)
        for outcome in outcomes:
            with self._trying(outcome.engine, outcome.trigger):
                self._hand_over(outcome)

    @contextlib.contextmanager
    def _trying(self, engine: Engine, trigger: Trigger) -> Iterator[None]:
        """What goes wrong with one pool is tried again, and is nothing to the others."""
        try:
            yield
        except (BatchError, StoreUnavailable) as error:
            log.info("the formula of pool %s waits: %s", engine.pool_id, error)
            self._again(engine, trigger)
        except Exception:
            log.exception("the formula of pool %s could not be evaluated", engine.pool_id)
            self._again(engine, trigger)

    def _again(self, engine: Engine, trigger: Trigger) -> None:
        if trigger is Trigger.INTERVAL:
            self.set_timer(engine, self._clock() + _RETRY_S)

    async def _evaluate(self, engine: Engine, trigger: Trigger) -> "_Outcome | None":
        """None where nothing follows. Raises BatchError (ServerBusy), StoreUnavailable."""
        # An engine that is rebuilt sets its timers again.
        if (found := _scaling(engine)) is None:
            return None
        history = await self._sampler.history(engine, found[1])
        if (found := _scaling(engine)) is None:
            return None
        state, pool, scale = found
        now = self._clock()
        self._seen[engine.pool_key] = _look(now, state.load)
        try:
            formula = self._read(engine.pool_key, scale.formula)
        except FormulaError as error:
            run = formulas.unreadable(pool, error, now)
            failed = e.PoolAutoScaled(at=now, cause="formula", pool_no=pool.no, since=scale.since, run=run)
            return _Outcome(engine, trigger, pool, failed)
        evaluation = formulas.evaluate_for(pool, formula, now, history, self._sampler.values(state, pool))
        targets = (evaluation.target_dedicated_nodes, evaluation.target_low_priority_nodes)
        if trigger is Trigger.QUEUE and (
            evaluation.error is not None or targets == (pool.target_dedicated_nodes, pool.target_low_priority_nodes)
        ):
            return None  # looked at only to see whether anything follows; nothing does
        event = e.PoolAutoScaled(
            at=now,
            cause=f"formula ({trigger})",
            pool_no=pool.no,
            since=scale.since,
            run=formulas.run_of(evaluation),
            target_dedicated_nodes=evaluation.target_dedicated_nodes,
            target_low_priority_nodes=evaluation.target_low_priority_nodes,
            node_deallocation_option=evaluation.node_deallocation_option,
            max_nodes=self._settings.auto_scale_max_nodes,
        )
        return _Outcome(engine, trigger, pool, event, formulas.record_of(scale.formula, trigger, evaluation))

    def _read(self, key: str, text: str) -> Formula:
        known = self._parsed.get(key)
        if known is None or known[0] != text:
            known = self._parsed[key] = (text, parse(text))
        return known[1]

    def _hand_over(self, outcome: "_Outcome") -> None:
        """Raises BatchError ServerBusy."""
        pool, event = outcome.pool, outcome.event
        run = StoredRun(event.pool_no, event.run.timestamp, outcome.record)
        # Of the pool as it was evaluated: when the outcome is on disk, the next event may have changed it again.
        before = (pool.target_dedicated_nodes, pool.target_low_priority_nodes)
        is_taken = pool.allocation_state is not AllocationState.STOPPING

        def committed(future: "asyncio.Future[bool]") -> None:
            # What was refused or lost with the engine's memory is evaluated anew.
            if future.cancelled() or future.exception() is not None or not future.result():
                return
            if event.run.error is not None or (is_taken and targets_of(event) != before):
                _tell(pool.id, event, before)
            if run.record:
                self._runs.append(run)
                self._new_runs.set()

        outcome.engine.submit(event).add_done_callback(committed)

    # --- runs ---

    async def _keep_runs(self) -> None:
        while True:
            await self._new_runs.wait()
            self._new_runs.clear()
            await asyncio.sleep(_GATHER_S)
            if not await self._write_runs():
                await asyncio.sleep(self._settings.store_retry_s)
                self._new_runs.set()

    async def _write_runs(self) -> bool:
        runs, self._runs = self._runs, []
        if not runs:
            return True
        try:
            await self._store.save_auto_scale_runs(runs, KEPT_RUNS)
        except StoreUnavailable as error:
            log.warning("%d runs of formulas are not on disk yet: %s", len(runs), error)
            self._runs = [*runs, *self._runs][-_MOST_UNWRITTEN:]
            return False
        return True


def _tell(pool_id: str, event: e.PoolAutoScaled, before: tuple[int, int]) -> None:
    """One record in the log of a run that changed its pool's targets, or failed; (dedicated, low-priority) nodes. The
    facts are also fields of the record."""
    error = event.run.error
    if error is not None:
        log.info(
            "the formula of pool %s failed: %s; its targets stay %d dedicated and %d low-priority nodes",
            *(pool_id, error.code, *before),
            extra={"pool": pool_id, "targets": before, "error_code": error.code},
        )
        return
    targets = targets_of(event)
    log.info(
        "the formula of pool %s set its targets to %d dedicated and %d low-priority nodes, from %d and %d: %s",
        *(pool_id, *targets, *before, event.run.results),
        extra={"pool": pool_id, "targets": targets, "result": event.run.results},
    )


def _look(at: Timestamp, load: TaskLoad) -> _Seen:
    return _Seen(at, load.active, load.running, load.active_slots, load.running_slots)


def _scaling(engine: Engine) -> tuple[SchedulerState, Pool, AutoScale] | None:
    """The engine's memory, its pool and how it scales itself, if it does."""
    state = engine.state
    pool = state.pool if state is not None else None
    if state is None or pool is None or pool.state is PoolState.DELETING or pool.auto_scale is None:
        return None
    return state, pool, pool.auto_scale
