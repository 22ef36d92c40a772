"""What it costs that logs of tasks are kept: the same tasks with and without, in turn."""

import asyncio
from typing import Final, NamedTuple

from bench.cluster import Cluster, Ran, running
from bench.figures import Figure, Outcome, figure, ratios
from bench.workload import Site, Sizes, Workload

_ON_ITS_WAY_S: Final = 1.5
"""What is kept is sent some time after the tasks have ended."""


class LogSizes(NamedTuple):
    tasks: int
    repeats: int


async def run(site: Site, sizes: LogSizes) -> Outcome:
    figures: list[Figure] = []
    async with (
        running(site, "logs-kept", nodes=2, slots=1) as kept,
        running(site, "logs-not-kept", "--no-kept-logs", nodes=2, slots=1) as plain,
    ):
        for name, command in (("no output", "/bin/true"), ("a line of output", "/bin/echo hello")):
            rans: dict[Cluster, list[tuple[Ran, float]]] = {kept: [], plain: []}
            for repeat in range(sizes.repeats):
                for cluster in (kept, plain) if repeat % 2 else (plain, kept):
                    job_id = f"{command.rpartition('/')[2].split()[0]}{repeat}"
                    rans[cluster].append(await _run(cluster, job_id, sizes.tasks, command))
            rates = {cluster: [ran.rate for ran, _ in of_it] for cluster, of_it in rans.items()}
            costs = {cluster: [cpu_s for _, cpu_s in of_it] for cluster, of_it in rans.items()}
            figures += [
                figure(f"tasks with {name}, logs not kept", "tasks/s", *rates[plain]),
                figure(f"tasks with {name}, logs kept", "tasks/s", *rates[kept]),
                figure(
                    f"tasks with {name}: the rate, to that without",
                    "%",
                    *ratios(rates[kept], rates[plain]),
                    at_least=95.0,
                ),
                figure(
                    f"tasks with {name}: processor time, to that without",
                    "%",
                    *ratios(costs[kept], costs[plain]),
                    less_is_better=True,
                ),
            ]
    return Outcome(figures=tuple(figures))


async def _run(cluster: Cluster, job_id: str, tasks: int, command: str) -> tuple[Ran, float]:
    """And the processor time of service and agents, until all that is kept is there."""
    before = cluster.service.cpu_s() + cluster.agents_cpu_s()
    ran = await cluster.run_commands(job_id, tasks, command)
    await asyncio.sleep(_ON_ITS_WAY_S)
    return ran, cluster.service.cpu_s() + cluster.agents_cpu_s() - before


WORKLOAD: Final = Workload(
    name="logs",
    title="Logs that are kept",
    about=(
        "Real tasks with logs kept beside the node and without, in turns. The rate is what counts; on a machine that has other "
        "things to do, processor time says it more quietly."
    ),
    run=run,
    sizes=Sizes(full=LogSizes(3_000, 4), quick=LogSizes(500, 2), tiny=LogSizes(20, 1)),
)
