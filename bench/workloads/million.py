"""A million tasks: added, listed, counted, kept over a crash, and run, by one service."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple
from urllib.parse import unquote

from bench import limits, load
from bench.client import Connection, task_bodies
from bench.cluster import POOL, Cluster
from bench.figures import Chart, Figure, Outcome, Series, figure, quantile
from bench.served import Service
from bench.workload import Site, Sizes, Workload

_CONNECTIONS: Final = 8
_PAGE: Final = 1000
_NODES: Final = 10
_SLOTS: Final = 4
_READ_PAUSE_S: Final = 0.05


class MillionSizes(NamedTuple):
    tasks: int
    smaller: tuple[int, ...]
    """Jobs before it, for the cost of a task by the job's size."""
    reads: int


async def run(site: Site, sizes: MillionSizes) -> Outcome:
    with site.service("million", "--zero") as service:
        async with service.connect() as connection:
            await connection.add_pool(POOL, nodes=_NODES, slots=_SLOTS)
            await connection.wait_for_nodes(POOL, _NODES)
            cluster = Cluster(service, connection)
            await cluster.run_commands("warm-up", 500)
            costs_us = {}
            for tasks in sizes.smaller:
                ran = await cluster.run_commands(f"of-{tasks}", tasks)
                costs_us[tasks] = ran.cpu_s / tasks * 1e6
            await connection.add_pool("later", nodes=0, slots=_SLOTS)
            figures, add_cpu_s = await _add(service, connection, sizes)
            figures += await _read(site, service, connection, sizes)
        figures += await _restart(service, sizes.tasks)
        async with service.connect() as connection:
            finish, cpu_s = await _finish(service, connection, sizes.tasks)
        figures.append(finish)
        costs_us[sizes.tasks] = (add_cpu_s + cpu_s) / sizes.tasks * 1e6
    figures += [
        figure(f"processor time of the service for a task of {tasks:,}", "µs", cost, less_is_better=True)
        for tasks, cost in costs_us.items()
    ]
    first, last = min(costs_us), max(costs_us)
    figures.append(
        figure(
            f"processor time for a task of {last:,}, to one of {first:,}",
            "%",
            100 * costs_us[last] / costs_us[first],
            at_most=120.0,
        )
    )
    chart = Chart(
        title="Processor time of the service for a task, by the size of the job",
        unit="µs",
        place_name="tasks",
        places=tuple(float(tasks) for tasks in costs_us),
        series=(Series(name="a task", values=tuple(costs_us.values())),),
    )
    return Outcome(figures=tuple(figures), charts=(chart,))


async def _add(service: Service, connection: Connection, sizes: MillionSizes) -> tuple[list[Figure], float]:
    """And the processor seconds it took."""
    tasks = sizes.tasks
    await connection.add_job("big", "later")
    before, cpu_s = service.rss_bytes(), service.cpu_s()
    taken_s = 0.0
    rates, counts_ms = [], []
    # In ten parts, whose bodies are made while no clock runs.
    for part in range(10):
        first = part * tasks // 10
        adds = load.adds("big", task_bodies(first, (part + 1) * tasks // 10 - first, "/bin/true"))
        counts = load.Request("GET", "/jobs/big/taskcounts")
        async with (
            load.loading(service, adds, _CONNECTIONS) as adding,
            _reading(service, counts, 0.5 * taken_s / max(part, 1)) as reading,
        ):
            reading.begin()
            report = await adding.run()
            counts_ms += [each * 1e3 for each in (await reading.report()).latencies]
        taken_s += report.seconds
        rates.append(tasks / 10 / report.seconds)
    cpu_s = service.cpu_s() - cpu_s
    if (there := await connection.counts("big"))["active"] != tasks:
        raise RuntimeError(f"not every task is there: {there}")
    bytes_each = (service.rss_bytes() - before) / tasks
    return [
        figure(f"{tasks:,} tasks accepted", "s", taken_s, at_most=20.0 * tasks / 1e6),
        figure("adds meanwhile, tenth by tenth", "tasks/s", *rates),
        figure("adds, the last tenth to the first", "%", 100 * rates[-1] / rates[0], at_least=80.0),
        figure("counts of the job meanwhile, p99", "ms", quantile(counts_ms, 0.99), less_is_better=True),
        figure("memory of the service for a task that waits", "bytes", bytes_each, at_most=600.0),
    ], cpu_s


@contextlib.asynccontextmanager
async def _reading(service: Service, read: load.Request, for_s: float) -> AsyncIterator[load.Load]:
    async with load.loading(service, [read], 1, pause_s=_READ_PAUSE_S, for_s=max(for_s, 0.1)) as reading:
        yield reading


async def _read(site: Site, service: Service, connection: Connection, sizes: MillionSizes) -> list[Figure]:
    """Pages all over the job, and counts; beside them pages of the plain server, which has no other columns."""
    pages = []
    query = {"maxresults": str(_PAGE)}
    for _ in range(min(50, sizes.tasks // _PAGE)):
        pages.append(load.Request("GET", "/jobs/big/tasks", None, dict(query)))
        link = (await connection.json("GET", "/jobs/big/tasks", **query)).get("odata.nextLink")
        if not isinstance(link, str):
            break
        query["$skiptoken"] = unquote(link.partition("skiptoken=")[2].partition("&")[0])
    repeated = [pages[number % len(pages)] for number in range(sizes.reads)]
    with limits.plain_server(site.fresh("plain")) as plain:
        few = min(sizes.tasks, 20_000)
        await load.send(plain, load.adds("big", task_bodies(0, few, "/bin/true")), 1)
        read = load.Request("GET", "/jobs/big/tasks", None, {"after": f"task-{few // 2:07d}"})
        plain_ms = [each * 1e3 for each in (await load.send(plain, [read] * sizes.reads, 1)).latencies]
        pages_ms = [each * 1e3 for each in (await load.send(service, repeated, 1)).latencies]
    counts = load.Request("GET", "/jobs/big/taskcounts")
    counts_ms = [each * 1e3 for each in (await load.send(service, [counts] * sizes.reads, 1)).latencies]
    return [
        figure(
            f"a page of {_PAGE:,} tasks of the plain server, p50", "ms", quantile(plain_ms, 0.5), less_is_better=True
        ),
        figure(f"a page of {_PAGE:,} tasks, p50", "ms", quantile(pages_ms, 0.5), less_is_better=True),
        figure(f"a page of {_PAGE:,} tasks, p99", "ms", quantile(pages_ms, 0.99), at_most=15.0),
        figure(
            f"a page of {_PAGE:,} tasks, p50, to the plain server",
            "times",
            quantile(pages_ms, 0.5) / quantile(plain_ms, 0.5),
            less_is_better=True,
        ),
        figure("counts of the job, p50", "ms", quantile(counts_ms, 0.5), less_is_better=True),
        figure("counts of the job, p99", "ms", quantile(counts_ms, 0.99), at_most=2.0),
    ]


async def _restart(service: Service, tasks: int) -> list[Figure]:
    service.kill()
    service.start()
    restart_s = service.start_s
    resident = service.rss_bytes()
    async with service.connect() as connection:
        if (there := await connection.counts("big"))["active"] != tasks:
            raise RuntimeError(f"not every task is there: {there}")
    return [
        figure(f"kill -9 to ready again, {tasks:,} tasks waiting", "s", restart_s, at_most=5.0),
        figure("memory of the service after that", "MB", resident / 1e6, less_is_better=True),
    ]


async def _finish(service: Service, connection: Connection, tasks: int) -> tuple[Figure, float]:
    """Give the pool nodes, and run all of them; the processor seconds of the service."""
    cpu_s, begun = service.cpu_s(), time.perf_counter()
    await connection.json("POST", "/pools/later/resize", {"targetDedicatedNodes": _NODES})
    counts = await connection.wait_completed("big", tasks, deadline_s=900.0, poll_s=0.25)
    if counts["succeeded"] != tasks:
        raise RuntimeError(f"not every task succeeded: {counts}")
    rate = tasks / (time.perf_counter() - begun)
    return figure(f"{tasks:,} tasks run on {_NODES} simulated nodes", "tasks/s", rate), service.cpu_s() - cpu_s


WORKLOAD: Final = Workload(
    name="million",
    title="A million tasks in one job",
    about=(
        f"Added 100 a call over {_CONNECTIONS} connections to a pool without nodes, with counts read meanwhile; listed in pages "
        "of 1,000 and counted while all of them wait; the service killed and started again; then the pool is given "
        f"{_NODES} simulated nodes of {_SLOTS} slots, and all of them run. Pages stand beside pages of the plain server."
    ),
    run=run,
    sizes=Sizes(
        full=MillionSizes(1_000_000, (10_000, 100_000), 400),
        quick=MillionSizes(50_000, (5_000,), 100),
        tiny=MillionSizes(1_000, (100,), 5),
    ),
)
