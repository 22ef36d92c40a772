"""From ten nodes to ten thousand: what they cost when they have nothing to do, and what a task costs on them."""

import asyncio
import time
from typing import Final, NamedTuple

from bench.cluster import running
from bench.figures import Chart, Figure, Outcome, Series, figure
from bench.workload import Site, Sizes, Workload

_SLOTS: Final = 4
_NODES_A_PROCESS: Final = 2500
"""The least number of processes: each node has two connections when it is busy."""


class NodeSizes(NamedTuple):
    nodes: tuple[int, ...]
    tasks: int
    idle_s: float
    """The heartbeat's ten seconds, a few times."""
    repeats: int


class _Measured(NamedTuple):
    nodes: int
    up_s: float
    idle_cores: float
    agents_idle_cores: float
    resident_mb: float
    rates: tuple[float, ...]
    costs_us: tuple[float, ...]


async def run(site: Site, sizes: NodeSizes) -> Outcome:
    measured = [await _measure(site, sizes, nodes) for nodes in sizes.nodes]
    figures = [each for one in measured for each in _figures(one, is_last=one is measured[-1])]
    first = measured[0]
    for one in measured[1:]:
        ratio = tuple(100 * a / b for a, b in zip(one.costs_us, first.costs_us, strict=True))
        figures.append(
            figure(
                f"a task on {one.nodes:,} nodes, to one on {first.nodes:,}: processor time", "%", *ratio, at_most=120.0
            )
        )
    places = tuple(float(one.nodes) for one in measured)
    chart = Chart(
        title="Processor time of the service for a task, by the number of nodes",
        unit="µs",
        place_name="nodes",
        places=places,
        series=(
            Series(
                name="a task",
                values=tuple(sorted(one.costs_us)[len(one.costs_us) // 2] for one in measured),
                least=tuple(min(one.costs_us) for one in measured),
                most=tuple(max(one.costs_us) for one in measured),
            ),
        ),
    )
    return Outcome(figures=tuple(figures), charts=(chart,))


async def _measure(site: Site, sizes: NodeSizes, nodes: int) -> _Measured:
    processes = str(-(-nodes // _NODES_A_PROCESS))
    begun = time.perf_counter()
    async with running(
        site, f"nodes{nodes}", "--zero-processes", processes, nodes=nodes, slots=_SLOTS, warm_up=0
    ) as cluster:
        up_s = time.perf_counter() - begun
        await cluster.run_commands("warm-up", sizes.tasks // 4)
        await asyncio.sleep(sizes.idle_s / 2)
        cpu_s, agents_s, at = cluster.service.cpu_s(), cluster.agents_cpu_s(), time.perf_counter()
        await asyncio.sleep(sizes.idle_s)
        passed_s = time.perf_counter() - at
        idle, agents_idle = cluster.service.cpu_s() - cpu_s, cluster.agents_cpu_s() - agents_s
        resident = cluster.service.rss_bytes() / 1e6
        rans = [await cluster.run_commands(f"job{repeat}", sizes.tasks) for repeat in range(sizes.repeats)]
    return _Measured(
        nodes,
        up_s,
        idle / passed_s,
        agents_idle / passed_s,
        resident,
        tuple(ran.rate for ran in rans),
        tuple(ran.cpu_s / ran.tasks * 1e6 for ran in rans),
    )


def _figures(one: _Measured, *, is_last: bool) -> list[Figure]:
    nodes = f"{one.nodes:,} nodes"
    return [
        figure(f"{nodes}: service started to all of them up", "s", one.up_s, less_is_better=True),
        figure(f"{nodes} idle: service", "cores", one.idle_cores, at_most=0.5 if is_last else None),
        figure(f"{nodes} idle: their agents", "cores", one.agents_idle_cores, less_is_better=True),
        figure(f"{nodes}: memory of the service", "MB", one.resident_mb, at_most=500.0 if is_last else None),
        figure(f"{nodes}: tasks added and run", "tasks/s", *one.rates),
        figure(f"{nodes}: processor time of the service for a task", "µs", *one.costs_us, less_is_better=True),
    ]


WORKLOAD: Final = Workload(
    name="nodes",
    title="From ten nodes to ten thousand",
    about=(
        f"Simulated nodes of {_SLOTS} slots: the true agent with its true protocol over HTTP, thousands of them to a process, with "
        "journals in memory. What they cost with nothing to do but say every ten seconds that they are there, and what a task "
        "costs the service, by the number of nodes."
    ),
    run=run,
    sizes=Sizes(
        full=NodeSizes((10, 100, 1_000, 10_000), 20_000, 15.0, 3),
        quick=NodeSizes((10, 300), 2_000, 2.0, 1),
        tiny=NodeSizes((2, 5), 50, 0.2, 1),
    ),
)
