"""Many tasks by one request: added, counted, listed, kept over a crash, and run."""

import json
import time
from typing import Final, NamedTuple

from bench import load
from bench.cluster import POOL, running
from bench.figures import Figure, Outcome, figure, quantile, ratios
from bench.served import Service
from bench.workload import Site, Sizes, Workload

_NODES: Final = 10
_SLOTS: Final = 4


class ArraySizes(NamedTuple):
    tasks: int
    """Of an array that waits."""
    run: int
    """Of one that is run."""
    reads: int
    repeats: int


async def run(site: Site, sizes: ArraySizes) -> Outcome:
    with site.service("arrays", "--zero") as service:
        async with service.connect() as connection:
            await connection.add_pool("later", nodes=0, slots=_SLOTS)
            added_ms, cpu_ms, listed_ms, counted_ms = [], [], [], []
            before = service.rss_bytes()
            for number in range(sizes.reads):
                job = f"waits-{number}"
                await connection.add_job(job, "later")
                cpu_s = service.cpu_s()
                added_ms.append(await _send(service, _add(job, sizes.tasks)))
                cpu_ms.append((service.cpu_s() - cpu_s) * 1e3)
                counted_ms.append(await _send(service, load.Request("GET", f"/jobs/{job}/taskcounts")))
                page = load.Request("GET", f"/jobs/{job}/tasks", None, {"maxresults": "1000"})
                listed_ms.append(await _send(service, page))
            grown = (service.rss_bytes() - before) / sizes.reads / sizes.tasks
        service.kill()
        service.start()
        restart_s = service.start_s
    ran = await _run(site, sizes)
    name = f"{sizes.tasks:,} tasks in one request"
    return Outcome(
        figures=(
            figure(f"{name}, p50", "ms", quantile(added_ms, 0.5), at_most=100.0),
            figure(f"{name}, processor time of the service", "ms", quantile(cpu_ms, 0.5), at_most=100.0),
            figure("… their counts right after, p50", "ms", quantile(counted_ms, 0.5), less_is_better=True),
            figure("… a page of 1,000 of them right after, p50", "ms", quantile(listed_ms, 0.5), less_is_better=True),
            figure("… memory of the service for one of them", "bytes", grown, less_is_better=True),
            figure(f"… start of the service with {sizes.reads} times as many", "s", restart_s, less_is_better=True),
            *ran,
        )
    )


def _add(job: str, tasks: int) -> load.Request:
    factory = {
        "type": "parametricSweep",
        "parameterSets": [{"start": 1, "end": tasks}],
        "repeatTask": {"commandLine": "/bin/true {0}"},
    }
    return load.Request(
        "POST", f"/jobs/{job}/addtaskarray", json.dumps({"id": "sweep", "taskFactory": factory}).encode()
    )


async def _send(service: Service, request: load.Request) -> float:
    """Milliseconds."""
    report = await load.send(service, [request], 1)
    return report.latencies[0] * 1e3


async def _run(site: Site, sizes: ArraySizes) -> list[Figure]:
    """Arrays that are run, and as many tasks added 100 a call, in turns."""
    arrays, alone, arrays_us, alone_us = [], [], [], []
    async with running(site, "runs", "--zero", nodes=_NODES, slots=_SLOTS) as cluster:
        for repeat in range(sizes.repeats):
            ran = await cluster.run_commands(f"alone{repeat}", sizes.run)
            alone.append(ran.rate)
            alone_us.append(ran.cpu_s / ran.tasks * 1e6)
            job = f"array{repeat}"
            await cluster.connection.add_job(job, POOL)
            async with load.loading(cluster.service, [_add(job, sizes.run)], 1) as loading:
                cpu_s, begun = cluster.service.cpu_s(), time.perf_counter()
                await loading.run()
                await cluster.connection.wait_completed(job, sizes.run, 600.0)
                arrays.append(sizes.run / (time.perf_counter() - begun))
            arrays_us.append((cluster.service.cpu_s() - cpu_s) / sizes.run * 1e6)
    return [
        figure(f"{sizes.run:,} tasks added 100 a call, and run", "tasks/s", *alone),
        figure("as many of an array", "tasks/s", *arrays),
        figure("an array, to 100 a call", "%", *ratios(arrays, alone), is_gate=True),
        figure("processor time of the service for a task added 100 a call", "µs", *alone_us, less_is_better=True),
        figure("processor time of the service for one of an array", "µs", *arrays_us, less_is_better=True),
    ]


WORKLOAD: Final = Workload(
    name="arrays",
    title="Many tasks by one request",
    about=(
        "An array of tasks (`addtaskarray`), added to a job whose pool has no nodes, and what its tasks cost when they run on "
        "simulated nodes, beside as many tasks added 100 a call."
    ),
    run=run,
    is_checked=True,
    sizes=Sizes(
        full=ArraySizes(1_000_000, 30_000, 5, 3),
        quick=ArraySizes(1_000_000, 3_000, 2, 2),
        tiny=ArraySizes(1000, 100, 1, 1),
    ),
)
