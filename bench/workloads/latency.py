"""How long one task waits: from its addition, and from the end of what it depends on, until it runs."""

import datetime as dt
import json
import statistics
import time
from itertools import pairwise
from typing import Final, NamedTuple

from bench import limits, load
from bench.client import Connection, bodies_of, task_bodies
from bench.cluster import POOL, running
from bench.figures import Chart, Figure, Outcome, Series, figure, quantile
from bench.workload import Site, Sizes, Workload

BAR_MS: Final = 30.0
_POLL_S: Final = 0.004


class LatencySizes(NamedTuple):
    adds: int
    steps: int
    """Of the chain."""
    chains: int


async def run(site: Site, sizes: LatencySizes) -> Outcome:
    with limits.plain_server(site.fresh("plain")) as plain:
        requests = load.adds("job", task_bodies(0, sizes.adds, "/bin/true", per_call=1))
        plain_ms = [each * 1e3 for each in (await load.send(plain, requests, 1)).latencies]
    spawn_ms = [1e3 / limits.spawn_rate(site.fresh("spawned"), sizes.steps, in_flight=1) for _ in range(sizes.chains)]
    async with running(site, "latency", nodes=2, slots=1) as cluster:
        connection = cluster.connection
        adds_ms = await _adds(connection, sizes.adds)
        releases_ms, step_ms = [], []
        for chain in range(sizes.chains):
            ran, released_ms = await _chain(connection, f"chain{chain}", sizes.steps)
            step_ms.append(ran * 1e3 / sizes.steps)
            releases_ms += released_ms
    bare_ms = quantile(plain_ms, 0.5) + statistics.median(spawn_ms)
    figures = [
        *_quantiles("one add to the plain server", plain_ms),
        figure("one process from its start to its end", "ms", *spawn_ms),
        *_quantiles("add → running on an idle node", adds_ms, BAR_MS),
        figure(
            "add → running, p50, to the plain add and the process",
            "times",
            quantile(adds_ms, 0.5) / bare_ms,
            is_gate=True,
            less_is_better=True,
        ),
        *_quantiles("end of a task → the next of a chain runs", releases_ms, BAR_MS),
        figure(f"a step of a chain of {sizes.steps}", "ms", *step_ms, less_is_better=True),
        figure(
            "a step of a chain, to the process alone",
            "times",
            statistics.median(step_ms) / statistics.median(spawn_ms),
            is_gate=True,
            less_is_better=True,
        ),
    ]
    kinds = {"plain add": plain_ms, "add → running": adds_ms, "end → next runs": releases_ms}
    chart = Chart(
        title="How long one task waits",
        unit="ms",
        places=tuple(kinds),
        series=tuple(
            Series(name=name, values=tuple(quantile(values, part) for values in kinds.values()))
            for name, part in (("p50", 0.5), ("p99", 0.99))
        ),
        limit=BAR_MS,
    )
    return Outcome(figures=tuple(figures), charts=(chart,))


def _quantiles(what: str, values_ms: list[float], bar_ms: float | None = None) -> list[Figure]:
    return [
        figure(f"{what}, p50", "ms", quantile(values_ms, 0.5), less_is_better=True),
        figure(f"{what}, p99", "ms", quantile(values_ms, 0.99), at_most=bar_ms),
    ]


async def _adds(connection: Connection, count: int) -> list[float]:
    """Milliseconds from each task's addition to its start, by the service's own times, one at a time on an idle pool."""
    await connection.add_job("adds", POOL)
    waits = []
    for number in range(count):
        body = json.dumps({"id": f"t{number}", "commandLine": "/bin/true"}).encode()
        await connection.request("POST", "/jobs/adds/tasks", body)
        await connection.wait_completed("adds", number + 1, poll_s=_POLL_S)
        task = await connection.json("GET", f"/jobs/adds/tasks/t{number}")
        waits.append((_time(task, "executionInfo", "startTime") - _time(task, "creationTime")) * 1e3)
    return waits


async def _chain(connection: Connection, job_id: str, steps: int) -> tuple[float, list[float]]:
    """Seconds of the whole chain, from its addition; milliseconds from each end to the start of the next."""
    await connection.add_job(job_id, POOL, usesTaskDependencies=True)
    tasks = [
        {"id": str(step), "commandLine": "/bin/true", **({"dependsOn": {"taskIds": [str(step - 1)]}} if step else {})}
        for step in range(steps)
    ]
    begun = time.perf_counter()
    for body in bodies_of(tasks):
        await connection.request("POST", f"/jobs/{job_id}/addtaskcollection", body)
    await connection.wait_completed(job_id, steps, poll_s=0.02)
    taken_s = time.perf_counter() - begun
    times = []
    for step in range(steps):
        task = await connection.json("GET", f"/jobs/{job_id}/tasks/{step}")
        times.append((_time(task, "executionInfo", "startTime"), _time(task, "executionInfo", "endTime")))
    return taken_s, [(after[0] - before[1]) * 1e3 for before, after in pairwise(times)]


def _time(task: dict[str, object], *names: str) -> float:
    value: object = task
    for name in names:
        assert isinstance(value, dict)
        value = value[name]
    return dt.datetime.fromisoformat(str(value)).timestamp()


WORKLOAD: Final = Workload(
    name="latency",
    title="How long one task waits",
    about=(
        "Real tasks that do nothing, one at a time on idle nodes, by the service's own times: from the addition of a task until "
        "it runs, and from the end of a task until the next of a chain runs. Beside it one add to the plain server of the adds, "
        "and one process started and waited for, by themselves."
    ),
    run=run,
    sizes=Sizes(full=LatencySizes(400, 100, 3), quick=LatencySizes(100, 50, 2), tiny=LatencySizes(5, 5, 1)),
    is_checked=True,
)
