"""`python -m millpond.sim.run`: simulate many seeds, say what was seen, fail when an invariant broke."""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter

import click

from millpond.sim.cluster import Cluster, Result


def simulate(seed: int, minutes: float, keep: int | None = 400) -> Result:
    """One run."""
    return Cluster(seed, minutes=minutes, keep=keep).run()


def first_failure(first: int, seeds: int, minutes: float) -> Result | None:
    """The first of these seeds, one after the other, in which an invariant breaks."""
    for seed in range(first, first + seeds):
        result = simulate(seed, minutes)
        if result.violation:
            return result
    return None


def _line(result: Result) -> str:
    faults = sum(result.faults.values())
    return (
        f"seed {result.seed:6}  {result.virtual_s / 60:6.1f} min  {result.steps:7} steps  {result.events:6} events  "
        f"{result.tasks:5} tasks  {faults:3} faults  {result.real_s:5.2f} s  {result.hash[:12]}"
    )


def _failure(result: Result) -> str:
    return (
        f"\nseed {result.seed} FAILED at {result.virtual_s:.6f} s: {result.violation}\n\n"
        f"The story (last events):\n{result.story}\n\n"
        f"seed {result.seed} FAILED: {result.violation}\n"
        f"Again, with the whole story: python -m millpond.sim.run --seed {result.seed} --story\n"
    )


@click.command()
@click.option("--seeds", default=1000, show_default=True, help="How many seeds to run.")
@click.option("--first", default=1, show_default=True, help="The first of them.")
@click.option("--seed", type=int, default=None, help="Run just this seed.")
@click.option("--story", is_flag=True, help="With --seed: print all that happened.")
@click.option("--minutes", default=8.0, show_default=True, help="Virtual minutes of users and faults.")
@click.option("--jobs", default=os.cpu_count() or 2, show_default="one a processor", help="Processes.")
@click.option("--verbose", is_flag=True, help="A line for every run.")
def main(*, seeds: int, first: int, seed: int | None, story: bool, minutes: float, jobs: int, verbose: bool) -> None:
    """Simulate the whole cluster on virtual time, with faults, over many seeds."""
    if seed is not None:
        result = simulate(seed, minutes, None if story else 400)
        if story:
            click.echo(result.story)
        click.echo(_line(result))
        if result.violation:
            click.echo(_failure(result) if not story else f"FAILED: {result.violation}")
            sys.exit(1)
        return
    begun = perf_counter()
    chosen = range(first, first + seeds)
    failed: list[Result] = []
    totals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    met: Counter[str] = Counter()
    virtual_s = 0.0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for result in pool.map(simulate, chosen, [minutes] * seeds, chunksize=4):
            totals.update(steps=result.steps, events=result.events, tasks=result.tasks, checks=result.checks)
            faults.update(result.faults)
            met.update(result.met)
            virtual_s += result.virtual_s
            if verbose:
                click.echo(_line(result))
            if result.violation:
                failed.append(result)
                click.echo(_failure(result) if len(failed) == 1 else f"seed {result.seed} FAILED: {result.violation}")
    took_s = perf_counter() - begun
    click.echo(
        f"{seeds} seeds in {took_s:.1f} s: {totals['steps']} steps ({totals['steps'] / took_s:.0f}/s), "
        f"{totals['events']} events, {totals['tasks']} tasks run, {totals['checks']} checks, "
        f"{virtual_s / 3600:.1f} virtual hours ({virtual_s / took_s:.0f} times as fast as a clock)"
    )
    click.echo("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    click.echo("met: " + ", ".join(f"{name} {count}" for name, count in sorted(met.items())))
    if failed:
        click.echo(f"{len(failed)} seeds FAILED: " + " ".join(str(result.seed) for result in failed))
        sys.exit(1)


if __name__ == "__main__":
    main()
