"""Whether a thousand pools that scale themselves disturb one that is at work: the true control plane over SQLite.

One process, one event loop. The busy pool is given a task every few milliseconds, by the clock, so that a loop that
stands still is held against every task that waited for it; its nodes end every task at once. First it is alone. Then
there are a thousand other pools, whose formulas are switched off and on in turn, so that with and without are measured
in the same minutes: every five minutes (Azure Batch's least interval), every few seconds (sixty times that), and every
few seconds with all of them due at the same moment.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from bench.figures import Figure, Outcome, figure, quantile
from bench.workload import Site, Sizes, Workload
from millpond import collector
from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.errors import BatchError
from millpond.domain.task import NewTask
from millpond.protocol import messages as m
from millpond.providers.base import VmSize
from millpond.providers.fake import FakeProvider
from millpond.store.base import SampleBlock, StoredRun
from millpond.store.sqlite import SqliteStore
from tests.unit.scheduler.world import new_job, new_pool

POOLS = 1000
INTERVAL_S = 5.0
AZURES_INTERVAL_S = 300.0
FORMULA = """
samples = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 5);
tasks = samples < 70 ? max(0, $PendingTasks.GetSample(1)) :
    max($PendingTasks.GetSample(1), avg($PendingTasks.GetSample(TimeInterval_Minute * 5)));
$TargetDedicatedNodes = min(20, tasks);
$NodeDeallocationOption = taskcompletion;
"""
TASK_EVERY_S = 0.01
NODES, SLOTS = 4, 4
_PLACE = 1
"""Of a node that is its host's only one."""
PAUSE_S = 1.0
"""After switching, before measuring."""
CONDITIONS = {
    "azure": (AZURES_INTERVAL_S, True),
    "spread": (INTERVAL_S, True),
    "at once": (INTERVAL_S, False),
}
"""(interval, whether due times are spread over it)"""
BAR_MS = 100.0
"""That of a real task on an idle node."""


class PoolSizes(NamedTuple):
    pools: int
    rounds: int
    phase_s: float = 2 * INTERVAL_S


class CountingStore(SqliteStore):
    """Takes down when formulas were evaluated."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.runs: list[float] = []

    async def save_auto_scale_runs(self, runs: Sequence[StoredRun], keep: int) -> None:
        await super().save_auto_scale_runs(runs, keep)
        self.runs += [run.at for run in runs]


class Phase:
    """What was measured while the formulas were in one condition; seconds."""

    def __init__(self) -> None:
        self.replies: list[float] = []
        self.starts: list[float] = []
        """From when a task was due to be added until its node had it to run."""
        self.lags: list[float] = []
        """By how much the loop was late to a timer."""
        self.runs: list[float] = []
        """When formulas were evaluated."""
        self.rounds: list[float] = []
        """From the moment when all formulas were due until the last was evaluated."""
        self.measured_s = 0.0
        self.cpu_s = 0.0
        """Of the whole process: the busy pool's nodes and clients are in it, too."""


class Agent:
    """A node whose every task ends at once."""

    def __init__(self, control: ControlService, node_id: str, begun: Callable[[str], None]) -> None:
        self._control = control
        self._node_id = node_id
        self._begun = begun
        self._calls = 0

    async def run(self) -> None:
        agents = self._control.agents
        hello = m.Hello(self._node_id, m.PROTOCOL_VERSION, "1", time.time(), "127.0.0.1")
        session = (await agents.hello(hello)).session
        seen = seq = 0
        reports: tuple[m.Report, ...] = ()
        while True:
            reply = await self._told(m.Sync(self._node_id, session, seen, reports))
            if reply.session_unknown or reply.retry_after_s:
                raise RuntimeError(f"node {self._node_id} is not listened to")
            reports = tuple(report for report in reports if report.seq > reply.acknowledged)
            for directive in reply.directives:
                if directive.revision <= seen:
                    continue
                seen = directive.revision
                if isinstance(directive, m.Start):
                    self._begun(directive.task_id)
                    now, key, attempt = time.time(), directive.key, directive.attempt
                    ended = m.Ended(seq + 2, key, attempt, now, now, 0)
                    reports += (m.Started(seq + 1, key, attempt, now), ended)
                    seq += 2

    async def _told(self, sync: m.Sync) -> m.SyncReply:
        """The answer to what it reports; with nothing to report, what there is for it in the end."""
        if sync.reports:
            (reply,) = await self._control.agents.sync_all((sync,))
            if isinstance(reply, BatchError):
                raise reply
            return reply
        self._calls += 1
        begins = self._calls == 1
        node = m.Listening(_PLACE, sync.node_id, "", sync.session, sync.seen)
        news = await self._control.agents.listen(
            m.Listen(sync.node_id, self._calls, begins, (node,) if begins else (), seen=((_PLACE, sync.seen),))
        )
        return next((one.reply for one in news.nodes if one.reply is not None), m.SyncReply(sync.session))


class Load:
    """The busy pool, its tasks and what they met with."""

    def __init__(self, control: ControlService) -> None:
        self._control = control
        self._due: dict[str, tuple[float, Phase]] = {}
        self._number = 0

    def begun(self, task_id: str) -> None:
        due, phase = self._due.pop(task_id)
        phase.starts.append(time.perf_counter() - due)

    async def measure(self, phase: Phase, seconds: float) -> None:
        """Add tasks by the clock for so long, until the last of them runs."""
        watch = asyncio.create_task(_watch_loop(phase))
        adding: list[asyncio.Task[None]] = []
        begin, cpu_s = time.perf_counter(), time.process_time()
        for tick in range(int(seconds / TASK_EVERY_S)):
            due = begin + tick * TASK_EVERY_S
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            adding.append(asyncio.create_task(self._add(due, phase)))
        await asyncio.gather(*adding)
        while self._due:
            await asyncio.sleep(TASK_EVERY_S)
        phase.measured_s += time.perf_counter() - begin
        phase.cpu_s += time.process_time() - cpu_s
        watch.cancel()

    async def _add(self, due: float, phase: Phase) -> None:
        task_id = f"t{self._number}"
        self._number += 1
        self._due[task_id] = (due, phase)
        task = NewTask(task_id, b'{"commandLine":"/bin/true"}')
        await self._control.to_job("job", e.TasksAdded(at=self._control.now(), job_id="job", tasks=(task,)))
        phase.replies.append(time.perf_counter() - due)


async def _watch_loop(phase: Phase, tick_s: float = 0.002) -> None:
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(tick_s)
        phase.lags.append(max(0.0, time.perf_counter() - begun - tick_s))


class Pools:
    """The pools that scale themselves."""

    def __init__(self, control: ControlService, store: CountingStore) -> None:
        self._control = control
        self._store = store
        self._ids: list[str] = []

    async def add(self, count: int, period_s: float) -> None:
        """Make pools without nodes or tasks that have been sampled for ten minutes."""
        added = [await self._control.add_pool(new_pool(pool_id=f"scaled{number}"), "bench") for number in range(count)]
        now = self._control.now()
        history = History(period_s=period_s)
        for tick in range(20, 0, -1):
            history.add(now - tick * period_s, dict.fromkeys(Metric, 0.0))
        data = msgspec.msgpack.encode(history.snapshot())
        blocks = [SampleBlock(pool.no, now - 20 * period_s, data) for pool in added]
        await self._store.save_samples(blocks, {})
        self._ids = [pool.id for pool in added]

    async def enable(self, interval_s: float, *, spread: bool) -> float:
        """Switch the formulas on, due for the first time after a second. Returns when that is."""
        first = self._control.now() + 1.0
        step_s = interval_s / len(self._ids) if spread else 0.0
        for engine in self._control._engines:
            if engine.state is not None and engine.state.pool is not None:
                # That a pool may be enabled only now and then is of no interest here.
                engine.state.pool.auto_scale_enabled = None
        await asyncio.gather(
            *(
                self._control.to_pool(
                    pool_id,
                    e.PoolAutoScaleEnableRequested(
                        at=first - interval_s + number * step_s, formula=FORMULA, interval_s=interval_s
                    ),
                )
                for number, pool_id in enumerate(self._ids)
            )
        )
        return first

    async def disable(self) -> None:
        now = self._control.now()
        await asyncio.gather(
            *(self._control.to_pool(pool_id, e.PoolAutoScaleDisableRequested(at=now)) for pool_id in self._ids)
        )


async def _measure(path: str, sizes: PoolSizes) -> dict[str, Phase]:
    pools, rounds, phase_s = sizes
    phases = {name: Phase() for name in ("alone", "off", *CONDITIONS)}
    store, provider = CountingStore(path), FakeProvider()
    settings = ControlSettings(auto_scale_min_interval_s=INTERVAL_S)
    vm_sizes = {"local": VmSize("local", SLOTS, 4096, 0.1)}
    control = ControlService(
        "bench", store, provider, vm_sizes, secret=b"bench", account_url=lambda: "http://bench/", settings=settings
    )
    thresholds = gc.get_threshold()
    collector.settle_in()  # as the service does
    await control.start()
    load, scaled = Load(control), Pools(control, store)
    agents: list[asyncio.Task[None]] = []
    try:
        await control.add_pool(new_pool(nodes=NODES, slots=SLOTS), "bench")
        await control.add_job(new_job(), "bench")
        while len(node_ids := await _node_ids(store)) < NODES:
            await asyncio.sleep(0.01)
        agents = [asyncio.create_task(Agent(control, node_id, load.begun).run()) for node_id in node_ids]
        await load.measure(Phase(), PAUSE_S)
        await load.measure(phases["alone"], rounds * phase_s)
        await scaled.add(pools, settings.sample_s)
        # Samples are read from the disk at a pool's first evaluation: that is a start, not what is measured here.
        await scaled.enable(INTERVAL_S, spread=True)
        await load.measure(Phase(), phase_s)
        await scaled.disable()
        for _ in range(rounds):
            for name, (interval_s, spread) in CONDITIONS.items():
                await load.measure(phases["off"], phase_s)
                first = await scaled.enable(interval_s, spread=spread)
                await asyncio.sleep(first - control.now())
                await load.measure(phases[name], phase_s - 0.2)
                until = control.now()
                await scaled.disable()
                await asyncio.sleep(PAUSE_S)  # runs are written together, some time after
                _take_runs(phases[name], [at for at in store.runs if first <= at < until], first, spread=spread)
        for agent in agents:
            if agent.done():
                agent.result()
    finally:
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
        await control.stop()
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    return phases


async def _node_ids(store: CountingStore) -> list[str]:
    page = await store.list_nodes("pool", None, NODES, None)
    return [node.id for node in page.items if node.handle]


def _take_runs(phase: Phase, runs: list[float], first: float, *, spread: bool) -> None:
    phase.runs += runs
    if spread:
        return
    beats: dict[int, float] = {}
    for at in runs:
        beat = int((at - first) // INTERVAL_S)
        beats[beat] = max(beats.get(beat, 0.0), at - first - beat * INTERVAL_S)
    phase.rounds += beats.values()


def _at(values: list[float], part: float) -> float:
    """A quantile, in milliseconds."""
    return quantile(values, part) * 1e3


async def run(site: Site, sizes: PoolSizes) -> Outcome:
    path = site.fresh("autoscaled-pools") / "store.db"
    phases = await _measure(str(path), sizes)
    conditions = {
        "alone": "no other pool",
        "off": f"{sizes.pools:,} pools, no formula",
        "azure": f"{sizes.pools:,} formulas every {AZURES_INTERVAL_S:g} s",
        "spread": f"{sizes.pools:,} formulas every {INTERVAL_S:g} s",
        "at once": f"{sizes.pools:,} formulas every {INTERVAL_S:g} s, at once",
    }
    alone = phases["alone"]
    figures: list[Figure] = []
    for name, words in conditions.items():
        phase = phases[name]
        judged = name in CONDITIONS
        figures += [
            figure(f"add → reply, p50: {words}", "ms", _at(phase.replies, 0.5)),
            figure(f"add → reply, p99: {words}", "ms", _at(phase.replies, 0.99)),
            figure(f"add → running, p50: {words}", "ms", _at(phase.starts, 0.5)),
            figure(f"add → running, p99: {words}", "ms", _at(phase.starts, 0.99), at_most=BAR_MS if judged else None),
            figure(f"event loop late, p99: {words}", "ms", _at(phase.lags, 0.99)),
            figure(f"event loop late, worst: {words}", "ms", _at(phase.lags, 1.0)),
            figure(f"processor, whole process: {words}", "%", 100 * phase.cpu_s / phase.measured_s),
        ]
        if phase is not alone:
            for part, called in ((0.5, "p50"), (0.99, "p99")):
                ratio = _at(phase.starts, part) / _at(alone.starts, part)
                figures.append(figure(f"add → running, {called}, to no other pool: {words}", "times", ratio))
        if judged:
            figures.append(figure(f"evaluations: {words}", "per s", len(phase.runs) / phase.measured_s))
    if worst := phases["at once"].rounds:
        what = f"{sizes.pools:,} formulas due at once: the last evaluated after"
        figures.append(figure(what, "ms", *(each * 1e3 for each in worst), less_is_better=True))
    return Outcome(figures=tuple(figures))


WORKLOAD: Final = Workload(
    name="autoscaled-pools",
    title="A thousand pools that scale themselves",
    about=(
        "Whether their formulas disturb one pool that is at work: the true control plane over SQLite in one process, a task "
        "every 10 ms by the clock, nodes that end every task at once. Formulas are switched on and off in turn: every five "
        "minutes as Azure Batch does at most, every five seconds, and every five seconds all at the same moment."
    ),
    run=run,
    sizes=Sizes(full=PoolSizes(1000, 1), quick=PoolSizes(100, 1, INTERVAL_S), tiny=PoolSizes(3, 1, 1.0)),
)
