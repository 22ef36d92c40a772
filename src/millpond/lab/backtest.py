"""What a formula would have done: a load replayed through the true scheduler and the true evaluator, in virtual time.

The pool is sampled and its formula evaluated as the service does both; machines boot, are given back and evicted as the
`Site` says. The same load, site and seed always give the same report.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Final

import msgspec

from millpond.autoscale.functions import percentile
from millpond.autoscale.parser import parse
from millpond.autoscale.samples import DEFAULT_PERIOD_S, History
from millpond.autoscale.tree import Formula, Service, walk
from millpond.autoscale.variables import Metric
from millpond.control.formulas import evaluate_for, run_of
from millpond.domain import events as e
from millpond.domain.autoscale import MIN_INTERVAL_S, AutoScale
from millpond.domain.durations import Timestamp, parse_timestamp
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, NodeFillType, PoolState
from millpond.lab.loads import Load, LoadError
from millpond.lab.metrics import metrics_of
from millpond.providers.base import VmSize
from millpond.providers.catalogue import CATALOGUE
from millpond.sim.virtual_pool import Machines, TaskStory, VirtualPool, Work

__all__ = ["START", "FormulaFailure", "Machines", "Moment", "Report", "Site", "backtest", "compare"]

START: Final = parse_timestamp("2026-01-05T00:00:00Z")
"""A Monday."""
HISTORY_S: Final = 2 * 86_400.0
"""How long samples are kept, as in the service."""
QUEUE_DELAY_S: Final = 0.2
"""From a change of the queue to the evaluation it leads to."""
QUEUE_SPACING_S: Final = 1.0
"""The least time between two such evaluations."""
MIN_PERIOD_S: Final = 0.01
_HOUR: Final = 3600.0
_NEVER: Final = math.inf


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The pool that formulas are tried on."""

    slots: int = 1
    """taskSlotsPerNode."""
    vm_size: str = "Standard_D2s_v3"
    """A name of the catalogue: what a node costs."""
    fill_type: NodeFillType = NodeFillType.SPREAD
    interval_s: float = MIN_INTERVAL_S
    """autoScaleEvaluationInterval."""
    on_queue_change: bool = False
    """The formula is evaluated whenever the queue changes, too (a setting of the service)."""
    sample_s: float = DEFAULT_PERIOD_S
    machines: Machines = Machines()
    start: Timestamp = START
    """When the load begins: for formulas that look at the time."""
    after_s: float = _HOUR
    """How long the replay goes on after the end of the load. It is the same for every formula, so that what they cost
    can be compared."""
    max_nodes: int = 100_000
    """Most nodes a formula gets."""
    spot_price: float = 0.3
    """The price of a spot node, as a share of that of a dedicated one. The catalogue has no prices of spot nodes, which
    change by the hour."""
    seed: int = 1
    """For boot times, evictions and `rand()`."""

    def size(self) -> VmSize:
        """Raises ValueError for a size the catalogue does not have."""
        size = CATALOGUE.get(self.vm_size.lower())
        if size is None:
            raise ValueError(f"the catalogue has no VM size {self.vm_size!r}")
        return size

    def check(self) -> None:
        """Raises ValueError for what makes no sense."""
        self.size()
        for name, least in (("slots", 1), ("interval_s", 1.0), ("sample_s", MIN_PERIOD_S), ("start", 0.0)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}: it must be {least:g} or more")
        for name in ("after_s", "max_nodes", "spot_price"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}: it must be 0 or more")
        problem = self.machines.problem()
        if problem is not None:
            raise ValueError(problem)


class Moment(msgspec.Struct, frozen=True, gc=False):
    """How the pool stood; it holds until the next one."""

    at: float
    """Seconds from the beginning."""
    target: int
    """Nodes wanted, of both kinds."""
    nodes: int
    """Nodes that take tasks."""
    active: int
    """Tasks that wait."""
    running: int


class FormulaFailure(msgspec.Struct, frozen=True):
    """Evaluations that failed in one way."""

    code: str
    message: str
    """With line and column."""
    count: int
    first: Timestamp


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a formula did with a load."""

    formula: str
    """Its name."""
    load: str
    seconds: float
    """How long was replayed."""
    tasks: int
    done: int
    requeued: int
    """Runs that came to nothing because their node was taken away."""
    lost_hours: float
    """Hours of such runs."""
    evicted: int
    """Spot nodes that were taken back."""
    dedicated_hours: float
    """Hours of dedicated nodes, from when they were asked for until they were given back."""
    spot_hours: float
    cost: float
    """US dollars by the catalogue."""
    utilisation: float
    """The share of the slots paid for that did work which counted, 0 to 1."""
    wait_p50: float
    """Seconds from a task's arrival to its first start, at the median. Tasks that never started count with as long as
    they have waited."""
    wait_p90: float
    wait_p95: float
    wait_p99: float
    wait_max: float
    most_nodes: int
    """That took tasks at one time."""
    evaluations: int
    failures: tuple[FormulaFailure, ...]
    series: tuple[Moment, ...]

    @property
    def node_hours(self) -> float:
        return self.dedicated_hours + self.spot_hours

    @property
    def unfinished(self) -> int:
        return self.tasks - self.done

    @property
    def failed_evaluations(self) -> int:
        return sum(failure.count for failure in self.failures)


def compare(formulas: Mapping[str, str], load: Load, site: Site | None = None) -> list[Report]:
    """Several formulas, by name, on the same load. Raises as `backtest`."""
    parsed = {name: parse(text) for name, text in formulas.items()}
    return [backtest(formula, load, site, name=name) for name, formula in parsed.items()]


def backtest(formula: str | Formula, load: Load, site: Site | None = None, *, name: str = "formula") -> Report:
    """Replay the load under the formula.

    Raises FormulaError for a formula that cannot be read, LoadError for a load with tasks that need more slots than a
    node has, ValueError for a site that makes no sense. Evaluations that fail are in the report.
    """
    return _Backtest(parse(formula) if isinstance(formula, str) else formula, load, site or Site(), name).report()


class _Backtest:
    def __init__(self, formula: Formula, load: Load, site: Site, name: str) -> None:
        site.check()
        if load.largest_slots > site.slots:
            raise LoadError(
                f"load {load.name} has tasks of {load.largest_slots} slots, and nodes have {site.slots}: they would "
                "never run"
            )
        self._formula = formula
        self._load = load
        self._site = site
        self._name = name
        self._end = site.start + load.span_s + site.after_s
        moves = tuple((site.start + at, share) for at, share in site.machines.evictions)
        machines = msgspec.structs.replace(site.machines, evictions=moves)
        self._pool = VirtualPool(_pool(formula.text, site), machines, site.start, site.seed)
        self._history = History(period_s=site.sample_s, keep_s=HISTORY_S)
        self._looked_at = {
            node.variable.metric
            for statement in formula.statements
            for node in walk(statement.value)
            if isinstance(node, Service)
        }
        """Metrics of the formula: samples of others would never be looked at."""
        self._sampled: dict[Metric, float] = {}
        self._values: dict[Metric, float] = {}
        self._values_of = -1
        self._series: list[Moment] = []
        self._noted = -1
        """The number of changes at the last look for the series."""
        self._evaluations = 0
        self._failures: Counter[tuple[str, str]] = Counter()
        self._first_failure: dict[tuple[str, str], Timestamp] = {}
        self._seen: tuple[float, float] = (0.0, 0.0)
        """Active and running tasks at the last evaluation."""
        self._evaluated: Timestamp = -_NEVER
        self._queue_due: Timestamp = _NEVER

    def report(self) -> Report:
        pool, site = self._pool, self._site
        arrivals = self._load.arrivals
        index = 0
        beat = 0
        while True:
            arrival = site.start + arrivals[index].at if index < len(arrivals) else _NEVER
            sample = site.start + beat * site.sample_s
            now = min(
                arrival,
                sample,
                _or_never(pool.next_moment),
                _or_never(pool.evaluation_due),
                self._queue_due,
                self._end,
            )
            now = max(now, pool.now)
            pool.advance(now)
            if arrival <= now:
                first = index
                while index < len(arrivals) and site.start + arrivals[index].at <= now:
                    index += 1
                pool.add(Work(one.duration_s, one.slots) for one in arrivals[first:index])
            if sample <= now:
                self._present()
                self._history.add(now, self._sampled)
                beat += 1
            if _or_never(pool.evaluation_due) <= now:
                self._evaluate(on_queue=False)
            elif self._queue_due <= now:
                self._evaluate(on_queue=True)
            if site.on_queue_change:
                self._watch_queue()
            self._note()
            if now >= self._end:
                return self._result()

    def _present(self) -> dict[Metric, float]:
        if self._values_of != self._pool.changes:
            self._values_of = self._pool.changes
            self._values = metrics_of(self._pool)
            self._sampled = {metric: value for metric, value in self._values.items() if metric in self._looked_at}
        return self._values

    def _watch_queue(self) -> None:
        load = self._pool.state.load
        if self._queue_due == _NEVER and (load.active, load.running) != self._seen:
            self._queue_due = max(self._pool.now + QUEUE_DELAY_S, self._evaluated + QUEUE_SPACING_S)

    def _evaluate(self, *, on_queue: bool) -> None:
        virtual = self._pool
        pool, now = virtual.pool, virtual.now
        values = self._present()
        self._queue_due = _NEVER
        self._evaluated = now
        self._seen = (virtual.state.load.active, virtual.state.load.running)
        evaluation = evaluate_for(pool, self._formula, now, self._history, values)
        self._evaluations += 1
        failure = evaluation.error
        if failure is not None:
            key = (failure.code.value, f"Line {failure.line}, Col {failure.column}: {failure.detail}")
            self._failures[key] += 1
            self._first_failure.setdefault(key, now)
        targets = (evaluation.target_dedicated_nodes, evaluation.target_low_priority_nodes)
        unchanged = targets == (pool.target_dedicated_nodes, pool.target_low_priority_nodes)
        if on_queue and (failure is not None or unchanged):
            return
        assert pool.auto_scale is not None
        virtual.do(
            e.PoolAutoScaled(
                at=now,
                pool_no=pool.no,
                since=pool.auto_scale.since,
                run=run_of(evaluation),
                target_dedicated_nodes=evaluation.target_dedicated_nodes,
                target_low_priority_nodes=evaluation.target_low_priority_nodes,
                node_deallocation_option=evaluation.node_deallocation_option,
                max_nodes=self._site.max_nodes,
            )
        )

    def _note(self) -> None:
        """A line of the series, where something is otherwise."""
        if self._noted == self._pool.changes:
            return
        self._noted = self._pool.changes
        pool = self._pool.pool
        values = self._present()
        moment = Moment(
            self._pool.now - self._site.start,
            pool.target_dedicated_nodes + pool.target_low_priority_nodes,
            int(values[Metric.USABLE_NODE_COUNT]),
            int(values[Metric.ACTIVE_TASKS]),
            int(values[Metric.RUNNING_TASKS]),
        )
        if self._series:
            last = self._series[-1]
            if (last.target, last.nodes, last.active, last.running) == (
                moment.target,
                moment.nodes,
                moment.active,
                moment.running,
            ):
                return
            if last.at == moment.at:
                self._series.pop()
        self._series.append(moment)

    def _result(self) -> Report:
        pool, site = self._pool, self._site
        stories = pool.stories
        waits = sorted(_wait(story, pool.now) for story in stories)
        dedicated_h = pool.cost_seconds(dedicated=True) / _HOUR
        spot_h = pool.cost_seconds(dedicated=False) / _HOUR
        useful_h = math.fsum(story.duration_s * story.slots for story in stories if story.end is not None) / _HOUR
        paid_h = (dedicated_h + spot_h) * site.slots

        def wait(rank: float) -> float:
            return percentile(waits, rank) if waits else 0.0

        return Report(
            formula=self._name,
            load=self._load.name,
            seconds=pool.now - site.start,
            tasks=len(stories),
            done=pool.done,
            requeued=pool.requeued,
            lost_hours=math.fsum(story.lost_s for story in stories) / _HOUR,
            evicted=pool.evicted,
            dedicated_hours=dedicated_h,
            spot_hours=spot_h,
            cost=(dedicated_h + spot_h * site.spot_price) * site.size().price_per_hour,
            utilisation=useful_h / paid_h if paid_h else 0.0,
            wait_p50=wait(50),
            wait_p90=wait(90),
            wait_p95=wait(95),
            wait_p99=wait(99),
            wait_max=wait(100),
            most_nodes=max((moment.nodes for moment in self._series), default=0),
            evaluations=self._evaluations,
            failures=tuple(
                FormulaFailure(code, message, count, self._first_failure[code, message])
                for (code, message), count in self._failures.items()
            ),
            series=tuple(self._series),
        )


def _or_never(at: Timestamp | None) -> Timestamp:
    return _NEVER if at is None else at


def _wait(story: TaskStory, now: Timestamp) -> float:
    return (now if story.first_start is None else story.first_start) - story.added


def _pool(formula: str, site: Site) -> Pool:
    at = site.start
    return Pool(
        no=site.seed,
        id="lab",
        state=PoolState.ACTIVE,
        allocation_state=AllocationState.STEADY,
        creation_time=at,
        last_modified=at,
        state_time=at,
        allocation_state_time=at,
        spec={},
        vm_size=site.vm_size,
        task_slots_per_node=site.slots,
        fill_type=site.fill_type,
        auto_scale=AutoScale(formula, site.interval_s, at, at),
    )
