"""Task arrays: a million tasks by one request, beside tasks added one by one."""

import time
from typing import Final, NamedTuple

from bench.cluster import POOL, running
from bench.figures import Outcome, figure, ratios
from bench.workload import Site, Sizes, Workload

NODES: Final = 10
SLOTS: Final = 4


class ArraySizes(NamedTuple):
    tasks: int
    """Of the array that waits."""
    run: int
    """Of those that run."""
    repeats: int


async def run(site: Site, sizes: ArraySizes) -> Outcome:
    alone, arrays, costs, alone_costs = [], [], [], []
    async with running(site, "arrays", "--zero", nodes=NODES, slots=SLOTS) as cluster:
        service, connection = cluster.service, cluster.connection
        await connection.add_job("waits", "none")
        before = service.rss_bytes()
        begun = time.perf_counter()
        await connection.json("POST", "/jobs/waits/addtaskarray", _array(sizes.tasks))
        accepted_s = time.perf_counter() - begun
        counts = await connection.counts("waits")
        if counts["active"] != sizes.tasks:
            raise RuntimeError(f"not every task is there: {counts}")
        grown = service.rss_bytes() - before
        for repeat in range(sizes.repeats):
            ran = await cluster.run_commands(f"alone{repeat}", sizes.run)
            alone.append(ran.rate)
            alone_costs.append(ran.cpu_s / sizes.run * 1e6)
            job_id = f"array{repeat}"
            await connection.add_job(job_id, POOL)
            cpu_s, begun = service.cpu_s(), time.perf_counter()
            await connection.json("POST", f"/jobs/{job_id}/addtaskarray", _array(sizes.run))
            counts = await connection.wait_completed(job_id, sizes.run, deadline_s=600.0)
            if counts["succeeded"] != sizes.run:
                raise RuntimeError(f"not every task succeeded: {counts}")
            arrays.append(sizes.run / (time.perf_counter() - begun))
            costs.append((service.cpu_s() - cpu_s) / sizes.run * 1e6)
    return Outcome(
        figures=(
            figure(f"an array of {sizes.tasks:,} tasks accepted", "ms", accepted_s * 1e3, less_is_better=True),
            figure("memory of the service for a task of it", "bytes", grown / sizes.tasks, at_most=600.0),
            figure(f"{sizes.run:,} tasks added 100 a call, and run", "tasks/s", *alone),
            figure("as many in an array", "tasks/s", *arrays),
            figure("the array, to 100 a call", "%", *ratios(arrays, alone), is_gate=True),
            figure("processor time of the service for a task added 100 a call", "µs", *alone_costs),
            figure("processor time of the service for a task of an array", "µs", *costs),
        )
    )


def _array(count: int) -> dict[str, object]:
    return {
        "id": "sweep",
        "taskFactory": {
            "type": "parametricSweep",
            "parameterSets": [{"start": 1, "end": count}],
            "repeatTask": {"commandLine": "/bin/echo {0}"},
        },
    }


WORKLOAD: Final = Workload(
    name="arrays",
    title="Task arrays",
    about=(
        "An array of a million tasks added by one request to a job whose pool does not exist; and arrays that run on simulated "
        f"nodes ({NODES} of {SLOTS} slots), beside as many tasks added 100 a call."
    ),
    run=run,
    sizes=Sizes(
        full=ArraySizes(1_000_000, 30_000, 3), quick=ArraySizes(50_000, 3_000, 1), tiny=ArraySizes(500, 100, 1)
    ),
    is_checked=True,
)
