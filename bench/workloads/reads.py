"""Reads while tasks are added and run, and what reads cost the adds."""

from typing import Final, NamedTuple

from bench import load
from bench.cluster import running
from bench.figures import Outcome, figure, quantile, ratios
from bench.workload import Site, Sizes, Workload

_PAUSE_S: Final = 0.02
"""Of each reader."""


class ReadSizes(NamedTuple):
    tasks: int
    repeats: int


async def run(site: Site, sizes: ReadSizes) -> Outcome:
    tasks, repeats = sizes
    alone: list[float] = []
    beside: dict[str, list[float]] = {}
    quiet_ms: dict[str, list[float]] = {}
    busy_ms: dict[str, list[float]] = {}
    async with running(site, "reads", "--zero", nodes=10, slots=4, warm_up=1000) as cluster:
        reads = {
            "a page of 1,000 tasks": load.Request("GET", "/jobs/warm-up/tasks", None, {"maxresults": "1000"}),
            "one task": load.Request("GET", "/jobs/warm-up/tasks/task-0000001"),
            "counts of a job": load.Request("GET", "/jobs/warm-up/taskcounts"),
        }
        for repeat in range(repeats):
            for name, read in reads.items():
                report = await load.send(cluster.service, [read] * 30, 1)
                quiet_ms.setdefault(name, []).extend(each * 1e3 for each in report.latencies)
            ran = await cluster.run_commands(f"alone{repeat}", tasks)
            alone.append(ran.rate)
            for name, read in reads.items():
                # It stops reading a little before the tasks are done.
                for_s = 0.8 * tasks / alone[-1]
                async with load.loading(cluster.service, [read], 1, pause_s=_PAUSE_S, for_s=for_s) as reading:
                    reading.begin()
                    ran = await cluster.run_commands(f"beside-{read.path.rpartition('/')[2]}{repeat}", tasks)
                    busy_ms.setdefault(name, []).extend(each * 1e3 for each in (await reading.report()).latencies)
                beside.setdefault(name, []).append(ran.rate)
    figures = [figure("tasks added and run, no reads", "tasks/s", *alone)]
    for name, quiet in quiet_ms.items():
        busy = busy_ms[name]
        figures += [
            figure(f"{name}, nothing else going on, p50", "ms", quantile(quiet, 0.5), less_is_better=True),
            figure(f"{name}, nothing else going on, p99", "ms", quantile(quiet, 0.99), less_is_better=True),
            figure(f"{name}, while tasks are added and run, p50", "ms", quantile(busy, 0.5), less_is_better=True),
            figure(f"{name}, while tasks are added and run, p99", "ms", quantile(busy, 0.99), less_is_better=True),
            figure(f"tasks added and run meanwhile, to no reads: {name}", "%", *ratios(beside[name], alone)),
        ]
    return Outcome(figures=tuple(figures))


WORKLOAD: Final = Workload(
    name="reads",
    title="Reads while tasks are added and run",
    about=(
        "One client that reads fifty times a second, with nothing else going on and while tasks are added and run on simulated "
        "nodes at full speed, and what that costs the tasks."
    ),
    run=run,
    sizes=Sizes(full=ReadSizes(20_000, 3), quick=ReadSizes(3_000, 1), tiny=ReadSizes(200, 1)),
)
