"""Commands, by Millpond, by its peers, and as quickly as the machine starts processes at all."""

import contextlib
import itertools
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import check, limits
from bench.cluster import running
from bench.figures import Chart, Figure, Outcome, Series, figure, ratios
from bench.peers.base import SLOTS, Contender, RunMany
from bench.peers.known import PEERS
from bench.workload import Scale, Site, Sizes, Workload

OURS: Final = "millpond"
LIMIT: Final = "limit"


class Command(NamedTuple):
    """One kind of command."""

    name: str
    argv: tuple[str, ...]
    counts: Mapping[str, int]
    """How many by whom; `""` is everybody else. Those who are slow are given fewer, so that all take about as long."""
    repeats: int


class CommandSizes(NamedTuple):
    commands: Sequence[Command]
    repeats: Mapping[str, int]
    """Of those who have fewer than the commands say: Slurm takes a second for what others do in a thousandth, and what
    needs seconds to start is not started often to see whether it runs."""


_NO_OP: Final = ("/bin/true",)
_TEN: Final = ("/bin/sleep", "0.01")
_HUNDRED: Final = ("/bin/sleep", "0.1")

SIZES: Final = Sizes(
    full=CommandSizes(
        [
            Command(
                "no-op",
                _NO_OP,
                {
                    "": 10_000,
                    "xargs-sh": 2_000,
                    "ray": 2_000,
                    "hyperqueue": 1_500,
                    "distributed": 1_500,
                    "parallel": 1_000,
                    "slurm": 50,
                },
                5,
            ),
            Command("10 ms", _TEN, {"": 600, "slurm": 16}, 3),
            Command("100 ms", _HUNDRED, {"": 60, "slurm": 16}, 3),
        ],
        {"slurm": 2},
    ),
    quick=CommandSizes(
        [
            Command(
                "no-op",
                _NO_OP,
                {
                    "": 1_000,
                    "xargs-sh": 300,
                    "ray": 300,
                    "hyperqueue": 300,
                    "distributed": 300,
                    "parallel": 100,
                    "slurm": 4,
                },
                3,
            ),
            Command("10 ms", _TEN, {"": 200, "slurm": 4}, 2),
        ],
        {"ray": 1, "hyperqueue": 1, "distributed": 1, "parallel": 1, "slurm": 1},
    ),
    tiny=CommandSizes(
        [Command("no-op", _NO_OP, {"": 50, "slurm": 2}, 1), Command("10 ms", _TEN, {"": 20, "slurm": 2}, 1)],
        {"slurm": 1},
    ),
)


class _AlwaysHere:
    """Who needs nothing installed, and whose version the page says elsewhere."""

    def why_not(self) -> str:
        return ""

    def version(self) -> str:
        return ""


class Limit(_AlwaysHere):
    """See `bench.spawn`."""

    name = LIMIT

    @contextlib.asynccontextmanager
    async def started(self, directory: Path) -> AsyncIterator[RunMany]:
        async def run(command: Sequence[str], count: int) -> float:
            made = directory / f"{count}-{command[-1].rpartition('/')[2]}"
            made.mkdir()
            return count / limits.spawn_rate(made, count, command)

        yield run


class Millpond(_AlwaysHere):
    """Tasks over REST: authenticated, durable, each with its directories and logs. See `base.Contender`."""

    name = OURS

    @contextlib.asynccontextmanager
    async def started(self, directory: Path) -> AsyncIterator[RunMany]:
        numbers = itertools.count()
        async with running(Site(directory, Scale.FULL), "service", nodes=SLOTS, slots=1) as cluster:

            async def run(command: Sequence[str], count: int) -> float:
                return (await cluster.run_commands(f"job{next(numbers)}", count, " ".join(command))).seconds

            yield run


async def run(site: Site, sizes: CommandSizes) -> Outcome:
    contenders, notes = _contenders(site)
    rates: dict[tuple[str, str], list[float]] = {}
    repeats = max(command.repeats for command in sizes.commands)
    for repeat in range(repeats):
        # In turns, forward and back, so that what the machine does meanwhile falls on everybody.
        for contender in contenders if repeat % 2 == 0 else reversed(contenders):
            if repeat >= sizes.repeats.get(contender.name, repeats):
                continue
            try:
                async with contender.started(site.fresh(contender.name)) as run_many:
                    for command in sizes.commands:
                        if repeat < command.repeats:
                            count = _count(command, contender.name)
                            rate = count / await run_many(command.argv, count)
                            rates.setdefault((command.name, contender.name), []).append(rate)
            except (RuntimeError, OSError) as error:
                if contender.name in {OURS, LIMIT}:
                    raise
                notes.append(f"{contender.name}: {error}")
    figures, charts = [], []
    for command in sizes.commands:
        figures += _figures(command, rates)
        charts.append(_chart(command, rates))
    return Outcome(figures=tuple(figures), charts=tuple(charts), notes=tuple(notes))


def _contenders(site: Site) -> tuple[list[Contender], list[str]]:
    contenders: list[Contender] = [Limit(), Millpond()]
    notes, versions = [], []
    for peer in PEERS:
        if site.peers is not None and peer.name not in site.peers:
            continue
        if reason := peer.why_not():
            notes.append(f"{peer.name} was not measured: {reason}.")
        else:
            contenders.append(peer)
            versions.append(f"{peer.name} {peer.version().removeprefix(peer.name).strip()}")
    if versions:
        notes.insert(0, f"Peers: {', '.join(versions)}.")
    return contenders, notes


def _count(command: Command, name: str) -> int:
    return command.counts.get(name, command.counts[""])


def _figures(command: Command, rates: Mapping[tuple[str, str], list[float]]) -> list[Figure]:
    ours, limit = rates[command.name, OURS], rates[command.name, LIMIT]
    is_no_op = command.argv == _NO_OP
    figures = [
        figure(f"{command.name}: limit, {_count(command, LIMIT):,} processes", "per s", *limit),
        figure(f"{command.name}: Millpond, {_count(command, OURS):,} tasks", "per s", *ours),
        figure(
            f"{command.name}: of the limit",
            "%",
            *ratios(ours, limit),
            at_least=85.0 if is_no_op else None,
            is_gate=True,
        ),
    ]
    if not is_no_op:
        ideal = SLOTS / float(command.argv[1])
        figures.append(
            figure(
                f"{command.name}: of {ideal:g} a second, no overhead at all",
                "%",
                *(100 * rate / ideal for rate in ours),
            )
        )
    for peer in PEERS:
        if theirs := rates.get((command.name, peer.name)):
            pairs = ours[: len(theirs)]
            figures.append(
                figure(f"{command.name}: {peer.name}, {_count(command, peer.name):,} commands", "per s", *theirs)
            )
            figures.append(
                figure(
                    f"{command.name}: Millpond to {peer.name}",
                    "%",
                    *ratios(pairs, theirs),
                    at_least=100.0 if is_no_op else None,
                    is_gate=peer.name == check.PEER,
                )
            )
    return figures


def _chart(command: Command, rates: Mapping[tuple[str, str], list[float]]) -> Chart:
    names = [name for kind, name in rates if kind == command.name]
    names.sort(key=lambda name: -statistics.median(rates[command.name, name]))
    return Chart(
        title=f"{command.name} commands, {SLOTS} at a time",
        unit="commands per s",
        places=tuple(names),
        series=(
            Series(
                name="median, least to most",
                values=tuple(statistics.median(rates[command.name, name]) for name in names),
                least=tuple(min(rates[command.name, name]) for name in names),
                most=tuple(max(rates[command.name, name]) for name in names),
            ),
        ),
    )


WORKLOAD: Final = Workload(
    name="commands",
    title="Commands, against peers and the machine's limit",
    about=(
        "Commands that do nothing, and that sleep for 10 and 100 ms, two at a time, from handing them over to the end of the "
        "last. Millpond's are tasks over REST: authenticated, durable, each with its own directories and log files. The "
        "limit is one small process that makes the same directories and files and does nothing but `posix_spawn`. Peers run "
        "as they do by default, tuned for speed where that is a setting: they make no directory and keep no output. "
        "`xargs-sh` is xargs with a shell around each command that does, as Millpond and the limit do."
    ),
    run=run,
    sizes=SIZES,
    is_checked=True,
)
