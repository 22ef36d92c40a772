"""Tasks that write much to their standard output, with all of it on the node's disk."""

from typing import Final, NamedTuple

from bench import limits
from bench.cluster import running
from bench.figures import Outcome, figure, ratios
from bench.workload import Site, Sizes, Workload

_MIB: Final = 1 << 20


class OutputSizes(NamedTuple):
    tasks: int
    mib: int
    """Of each."""
    repeats: int


async def run(site: Site, sizes: OutputSizes) -> Outcome:
    command = ("/usr/bin/head", "-c", str(sizes.mib * _MIB), "/dev/zero")
    limit, ours = [], []
    async with running(site, "output", nodes=2, slots=1) as cluster:
        for repeat in range(sizes.repeats):
            limit.append(limits.spawn_rate(site.fresh("spawned"), sizes.tasks, command) * sizes.mib)
            ran = await cluster.run_commands(f"output{repeat}", sizes.tasks, " ".join(command))
            ours.append(ran.rate * sizes.mib)
    return Outcome(
        figures=(
            figure("the limit", "MiB/s", *limit),
            figure("Millpond", "MiB/s", *ours),
            figure("Millpond to the limit", "%", *ratios(ours, limit)),
        )
    )


WORKLOAD: Final = Workload(
    name="output",
    title="Tasks that write much",
    about=(
        "Tasks that write some MiB each to their standard output, two at a time; the first MiB of it is kept beside the node, as "
        "always. The limit is the process of the commands above with the same command."
    ),
    run=run,
    sizes=Sizes(full=OutputSizes(200, 4, 3), quick=OutputSizes(40, 4, 2), tiny=OutputSizes(4, 1, 1)),
)
