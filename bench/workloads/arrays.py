"""Many tasks by one request: added, counted, listed, kept over a crash, and run."""

import json
import time
from typing import Final, NamedTuple

from bench import load
from bench.client import Connection
from bench.cluster import POOL
from bench.figures import Outcome, figure, quantile
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
        async with service.connect() as connection:
            rate, life_us = await _run(service, connection, sizes.run)
    name = f"{sizes.tasks:,} tasks in one request"
    return Outcome(
        figures=(
            figure(f"{name}, p50", "ms", quantile(added_ms, 0.5), at_most=100.0),
            figure(f"{name}, processor time of the service", "ms", quantile(cpu_ms, 0.5), at_most=100.0),
            figure("… their counts right after, p50", "ms", quantile(counted_ms, 0.5), less_is_better=True),
            figure("… a page of 1,000 of them right after, p50", "ms", quantile(listed_ms, 0.5), less_is_better=True),
            figure("… memory of the service for one of them", "bytes", grown, less_is_better=True),
            figure(f"… start of the service with {sizes.reads} times as many", "s", restart_s, less_is_better=True),
            figure(f"{sizes.run:,} of an array run on simulated nodes", "tasks/s", rate),
            figure("… processor time of the service for one", "µs", life_us, less_is_better=True),
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


async def _run(service: Service, connection: Connection, tasks: int) -> tuple[float, float]:
    """Tasks a second from the request to the last one's end, and the processor time of one in microseconds."""
    await connection.add_pool(POOL, nodes=_NODES, slots=_SLOTS)
    await connection.wait_for_nodes(POOL, _NODES)
    await connection.add_job("runs", POOL)
    cpu_s = service.cpu_s()
    begun = time.perf_counter()
    await load.send(service, [_add("runs", tasks)], 1)
    await connection.wait_completed("runs", tasks, 600.0)
    return tasks / (time.perf_counter() - begun), (service.cpu_s() - cpu_s) / tasks * 1e6


WORKLOAD: Final = Workload(
    name="arrays",
    title="Many tasks by one request",
    about=(
        "An array of tasks (`addtaskarray`), added to a job whose pool has no nodes, and what its tasks cost when they run on "
        "simulated nodes; beside it stands what tasks cost that are added one by one, under the full lives."
    ),
    run=run,
    sizes=Sizes(
        full=ArraySizes(1_000_000, 100_000, 5), quick=ArraySizes(1_000_000, 5_000, 2), tiny=ArraySizes(1000, 100, 1)
    ),
)
