"""Sampling: what formulas will look at, of every pool from its first moment, kept for days, also over restarts.

All pools are sampled together at regular times. Each pool has a block of its latest samples in memory, written anew
with every sample until it is full; what is older is only on disk, except for pools that have a formula. The numbers of
tasks are sums the scheduler keeps (`scheduler.load`), so sampling a pool costs the same whatever it has to do.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from millpond.autoscale.samples import History, HistoryData
from millpond.autoscale.variables import Metric
from millpond.control.engine import Engine
from millpond.control.nodes import NodeLinks
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.errors import StoreUnavailable
from millpond.domain.pool import Pool
from millpond.domain.states import SCHEDULABLE_NODE_STATES, NodeState
from millpond.protocol.messages import NodeMetrics
from millpond.scheduler.state import SchedulerState
from millpond.store.base import SampleBlock, Store

log = logging.getLogger(__name__)

BLOCK_SAMPLES: Final = 32
"""Sampling times in a block: written anew with each of them, so not too many; rows to read at a start, so not too few."""
_POOLS_AT_A_TIME: Final = 20
"""Sampled between two turns of the loop."""
_BLOCKS_AT_A_TIME: Final = 4
_MOST_UNWRITTEN: Final = 10_000
"""Full blocks kept for a store that takes nothing."""
_STALE_S: Final = 90.0
"""What a node told of itself that long ago says nothing of now."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(HistoryData).decode


# --- what is sampled ------------------------------------------------------------------------------------------------


def task_values(state: SchedulerState, pool: Pool) -> dict[Metric, float]:
    """What the scheduler's own sums say of the pool's tasks."""
    load = state.load
    return {
        Metric.ACTIVE_TASKS: load.active,
        Metric.RUNNING_TASKS: load.running,
        Metric.PENDING_TASKS: load.active + load.running,
        Metric.SUCCEEDED_TASKS: load.succeeded,
        Metric.FAILED_TASKS: load.failed,
        Metric.ACTIVE_TASK_SLOTS: load.active_slots,
        Metric.RUNNING_TASK_SLOTS: load.running_slots,
        Metric.PENDING_TASK_SLOTS: load.active_slots + load.running_slots,
        Metric.TASK_SLOTS_PER_NODE: pool.task_slots_per_node,
    }


def node_values(state: SchedulerState) -> dict[Metric, float]:
    """Every node there is counts, in whatever state, as in the pool's currentDedicatedNodes."""
    dedicated = spot = preempted = usable = 0
    for node in state.nodes.values():
        row = node.row
        if row.is_dedicated:
            dedicated += 1
        else:
            spot += 1
        if row.state in SCHEDULABLE_NODE_STATES:
            usable += 1
        elif row.state is NodeState.PREEMPTED:
            preempted += 1
    return {
        Metric.CURRENT_DEDICATED_NODES: dedicated,
        Metric.CURRENT_LOW_PRIORITY_NODES: spot,
        Metric.PREEMPTED_NODE_COUNT: preempted,
        Metric.USABLE_NODE_COUNT: usable,
    }


def _mean(values: Iterable[float | None]) -> float:
    """Of those there are; not a number when there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _machine_values(machines: Sequence[NodeMetrics], period_s: float) -> dict[Metric, float]:
    """Means over the nodes; of reading and writing, what a node did in a sampling period."""
    return {
        Metric.CPU_PERCENT: _mean(one.cpu for one in machines),
        Metric.MEMORY_BYTES: _mean(one.memory_bytes for one in machines) / 1e6,
        Metric.DISK_BYTES: _mean(one.disk_bytes for one in machines) / 1e9,
        Metric.DISK_READ_BYTES: _mean(one.disk_read_bytes_s for one in machines) * period_s,
        Metric.DISK_WRITE_BYTES: _mean(one.disk_write_bytes_s for one in machines) * period_s,
        Metric.DISK_READ_OPS: _mean(one.disk_reads_s for one in machines) * period_s,
        Metric.DISK_WRITE_OPS: _mean(one.disk_writes_s for one in machines) * period_s,
        Metric.NETWORK_IN_BYTES: _mean(one.network_in_bytes_s for one in machines) * period_s,
        Metric.NETWORK_OUT_BYTES: _mean(one.network_out_bytes_s for one in machines) * period_s,
    }


# --- histories ------------------------------------------------------------------------------------------------------


class _Sampled:
    """One pool's samples."""

    __slots__ = ("block", "count", "history", "loading", "pool_no", "start")

    def __init__(self, pool_no: int) -> None:
        self.pool_no = pool_no
        self.block: History | None = None
        """The samples of the block being filled."""
        self.start: Timestamp = 0.0
        """Of the block."""
        self.count = 0
        """Sampling times in the block."""
        self.history: History | None = None
        """All samples that are kept; None while nobody asked for them."""
        self.loading: asyncio.Task[History] | None = None


class Sampler:
    """See the module. Made and used in one event loop."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        links: NodeLinks,
        engines: Callable[[], Iterable[Engine]],
    ) -> None:
        """`engines` are those of all pools there are."""
        self._store = store
        self._clock = clock
        self._period_s = settings.sample_s
        self._keep_s = settings.sample_history_s
        self._links = links
        self._engines = engines
        self._pools: dict[str, _Sampled] = {}
        """By pool key."""
        self._unwritten: dict[tuple[int, Timestamp], SampleBlock] = {}
        self._forget_before: dict[int, Timestamp] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sampling")

    async def stop(self) -> None:
        """Write what is not on disk yet, and end."""
        mine = [self._task, *(known.loading for known in self._pools.values())]
        tasks = [task for task in mine if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._write()

    # --- asking ---

    def values(self, state: SchedulerState, pool: Pool) -> dict[Metric, float]:
        """What would be sampled of the pool now."""
        now = self._clock()
        machines: list[NodeMetrics] = []
        up_s = 0.0
        for node_id, node in state.nodes.items():
            link = self._links.get(node_id)
            if link is not None and link.metrics is not None and now - link.measured <= _STALE_S:
                machines.append(link.metrics)
                up_s += max(0.0, now - (node.row.last_boot_time or now))
        values = task_values(state, pool) | node_values(state)
        values[Metric.SAMPLE_NODE_COUNT] = len(machines)
        values[Metric.WALL_CLOCK_SECONDS] = up_s
        if machines:
            measured = _machine_values(machines, self._period_s)
            values.update((metric, value) for metric, value in measured.items() if not math.isnan(value))
        return values

    async def history(self, engine: Engine, pool: Pool) -> History:
        """All samples of the pool. A pool that has none yet is sampled first. Raises StoreUnavailable."""
        known = self._known(engine, pool)
        if known.block is None:
            self._sample(engine)
        if known.history is None:
            if known.loading is None:
                known.loading = asyncio.create_task(self._load(known), name=f"samples of pool {pool.id}")
            await asyncio.shield(known.loading)
        assert known.history is not None
        return known.history

    async def _load(self, known: _Sampled) -> History:
        """Samples of former lives, then those of this one. Few at a time: other work goes in between."""
        try:
            now = self._clock()
            history = History(period_s=self._period_s, keep_s=self._keep_s)
            blocks = await self._store.load_samples(known.pool_no, now - self._keep_s)
            for index, block in enumerate(blocks):
                if block.start <= now:
                    _add_block(history, block)
                if index % _BLOCKS_AT_A_TIME == _BLOCKS_AT_A_TIME - 1:
                    await asyncio.sleep(0)
            if known.block is not None:
                for at, values in known.block.times(history.newest_time or -math.inf):
                    history.add(at, values)
            known.history = history
            return history
        finally:
            known.loading = None

    # --- sampling ---

    async def _run(self) -> None:
        while True:
            due = (math.floor(self._clock() / self._period_s) + 1) * self._period_s
            while (wait_s := due - self._clock()) > 0:
                if wait_s > 2 * self._period_s:
                    break  # the clock was set back: its time, not ours, counts
                await asyncio.sleep(wait_s)
            try:
                await self._sample_all()
                await self._write()
            except Exception:
                log.exception("sampling the pools failed; the next samples may do better")

    async def _sample_all(self) -> None:
        engines = list(self._engines())
        for index, engine in enumerate(engines):
            self._sample(engine)
            if index % _POOLS_AT_A_TIME == _POOLS_AT_A_TIME - 1:
                await asyncio.sleep(0)
        alive = {engine.pool_key for engine in engines if engine.state is None or engine.state.pool is not None}
        for key in self._pools.keys() - alive:
            del self._pools[key]

    def _known(self, engine: Engine, pool: Pool) -> _Sampled:
        known = self._pools.get(engine.pool_key)
        if known is None or known.pool_no != pool.no:
            known = self._pools[engine.pool_key] = _Sampled(pool.no)
        return known

    def _sample(self, engine: Engine) -> None:
        state = engine.state
        pool = state.pool if state is not None else None
        if state is None or pool is None:
            return
        known = self._known(engine, pool)
        now = self._clock()
        values = self.values(state, pool)
        block = known.block
        if block is not None and block.newest_time is not None and now < block.newest_time - self._period_s:
            # The clock was set back: what lies in the future is forgotten, or nothing would count until then.
            block = known.history = None
        if block is None or known.count >= BLOCK_SAMPLES:
            block = known.block = History(period_s=self._period_s, keep_s=self._keep_s)
            known.start = now
            known.count = 0
            self._forget_before[pool.no] = now - self._keep_s - BLOCK_SAMPLES * self._period_s
        if not block.add(now, values):
            return
        known.count += 1
        if known.history is not None:
            known.history.add(now, values)
            if pool.auto_scale is None:
                known.history = None
        self._unwritten[pool.no, known.start] = SampleBlock(pool.no, known.start, _encode(block.snapshot()))

    async def _write(self) -> None:
        """Put the blocks that have changed on disk; those the store does not take are kept for the next time."""
        if not self._unwritten:
            return
        blocks, self._unwritten = self._unwritten, {}
        forget, self._forget_before = self._forget_before, {}
        try:
            await self._store.save_samples(list(blocks.values()), forget)
        except StoreUnavailable as error:
            log.warning("samples of %d pools are not on disk yet: %s", len(blocks), error)
            kept = {**blocks, **self._unwritten}
            self._unwritten = dict(list(kept.items())[-_MOST_UNWRITTEN:])
            self._forget_before = {**forget, **self._forget_before}


def _add_block(history: History, block: SampleBlock) -> None:
    try:
        samples = History.restore(_decode(block.data))
    except (ValueError, msgspec.DecodeError) as error:
        log.warning("samples of pool number %d from %.0f on cannot be read: %s", block.pool_no, block.start, error)
        return
    for at, values in samples.times(history.newest_time or -math.inf):
        history.add(at, values)
