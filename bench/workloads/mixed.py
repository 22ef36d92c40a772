"""Tasks of many priorities and sizes at once, and graphs: what a scheduler has to think about."""

import time
from typing import Final, NamedTuple

from bench import load
from bench.client import bodies_of
from bench.cluster import POOL, Cluster, running
from bench.figures import Outcome, figure, ratios
from bench.workload import Site, Sizes, Workload

NODES: Final = 10
SLOTS: Final = 4
_PRIORITIES: Final = range(-1000, 1000, 200)
_POLL_S: Final = 0.05


class MixedSizes(NamedTuple):
    tasks: int
    graph: int
    repeats: int


async def run(site: Site, sizes: MixedSizes) -> Outcome:
    tasks, graph, repeats = sizes
    alike, mixed, flat, fanned = [], [], [], []
    async with running(site, "mixed", "--zero", nodes=NODES, slots=SLOTS) as cluster:
        for repeat in range(repeats):
            alike.append((await cluster.run_commands(f"alike{repeat}", tasks)).rate)
            mixed.append(await _mixed(cluster, f"mixed{repeat}", tasks))
        flat.append((await cluster.run_commands("flat", graph)).rate)
        fanned.append(
            (await cluster.run("fan", graph, bodies_of(_fan(graph)), connections=4, usesTaskDependencies=True)).rate
        )
    return Outcome(
        figures=(
            figure(f"{tasks:,} tasks all alike, in one job", "tasks/s", *alike),
            figure("ten jobs of ten priorities, tasks of one to four slots", "tasks/s", *mixed),
            figure("mixed, to all alike", "%", *ratios(mixed, alike), is_gate=True),
            figure(f"{graph:,} tasks that depend on nothing", "tasks/s", *flat),
            figure("as many, all after a first one and before a last one", "tasks/s", *fanned),
            figure("the graph, to no dependencies", "%", *ratios(fanned, flat), is_gate=True),
        )
    )


async def _mixed(cluster: Cluster, prefix: str, tasks: int) -> float:
    """Tasks a second."""
    requests = []
    each = tasks // len(_PRIORITIES)
    for priority in _PRIORITIES:
        job_id = f"{prefix}-{priority + 1000}"
        await cluster.connection.add_job(job_id, POOL, priority=priority)
        wanted = [
            {"id": f"t{number}", "commandLine": "/bin/true", "requiredSlots": 1 + number % SLOTS}
            for number in range(each)
        ]
        requests.append(load.adds(job_id, bodies_of(wanted)))
    # A call for each job in turn, so that they fill up together.
    mingled = [call for calls in zip(*requests, strict=True) for call in calls]
    async with load.loading(cluster.service, mingled, connections=2) as loading:
        begun = time.perf_counter()
        await loading.run()
        for priority in _PRIORITIES:
            await cluster.connection.wait_completed(f"{prefix}-{priority + 1000}", each, poll_s=_POLL_S)
        return each * len(_PRIORITIES) / (time.perf_counter() - begun)


def _fan(count: int) -> list[dict[str, object]]:
    """One task, then all others, then one more."""
    middle = range(1, count - 1)
    on: dict[int, object] = {number: {"taskIds": ["0"]} for number in middle}
    on[count - 1] = {"taskIdRanges": [{"start": middle[0], "end": middle[-1]}]}
    first: dict[str, object] = {"id": "0", "commandLine": "/bin/true"}
    return [first, *({"id": str(n), "commandLine": "/bin/true", "dependsOn": on[n]} for n in range(1, count))]


WORKLOAD: Final = Workload(
    name="mixed",
    title="Priorities, sizes and graphs",
    about=(
        f"Simulated nodes ({NODES} of {SLOTS} slots) as above. Ten jobs of ten priorities whose tasks need one to four slots, "
        "beside as many tasks that are all alike; and a graph that fans out from one task and in to another, beside as many "
        "tasks without dependencies."
    ),
    run=run,
    sizes=Sizes(full=MixedSizes(30_000, 100_000, 3), quick=MixedSizes(4_000, 4_000, 1), tiny=MixedSizes(100, 50, 1)),
)
