"""Full lives of tasks on simulated nodes: added, started, ended and on disk each time, without any process."""

from typing import Final, NamedTuple

from bench import limits
from bench.cluster import running
from bench.figures import Outcome, figure, quantile, ratios
from bench.workload import Site, Sizes, Workload

NODES: Final = 10
SLOTS: Final = 4


class LifeSizes(NamedTuple):
    tasks: int
    repeats: int


async def run(site: Site, sizes: LifeSizes) -> Outcome:
    tasks, repeats = sizes
    alone, whole = [], []
    async with running(site, "lives", "--zero", nodes=NODES, slots=SLOTS) as cluster:
        for repeat in range(repeats):
            alone.append(limits.plain_lives(site.fresh("plain"), tasks))
            whole.append(await cluster.run_commands(f"lives{repeat}", tasks))
    rates = [ran.rate for ran in whole]
    return Outcome(
        figures=(
            figure("the store alone: a row put in and changed twice", "tasks/s", *alone),
            figure("Millpond", "tasks/s", *rates, at_least=20_000),
            figure("Millpond to the store alone", "%", *ratios(rates, alone), is_gate=True),
            figure(
                "a call that adds 100 while others run, p99",
                "ms",
                *(quantile(ran.calls_s, 0.99) * 1e3 for ran in whole),
                less_is_better=True,
            ),
            figure("processor time of the service for a task", "µs", *(ran.cpu_s / ran.tasks * 1e6 for ran in whole)),
            figure(
                "processor time of all agents for a task", "µs", *(ran.agents_cpu_s / ran.tasks * 1e6 for ran in whole)
            ),
        )
    )


WORKLOAD: Final = Workload(
    name="lives",
    title="Lives of tasks on simulated nodes",
    about=(
        f"Tasks added over HTTP while {NODES} nodes of {SLOTS} slots run them: the true agents with their journals, and a runner "
        "that ends every task at once. Beside it the store alone: SQLite with a row put in and changed twice for each task, a "
        "hundred to a synchronous commit, by a process that does nothing else."
    ),
    run=run,
    sizes=Sizes(full=LifeSizes(50_000, 5), quick=LifeSizes(8_000, 4), tiny=LifeSizes(200, 1)),
    is_checked=True,
)
