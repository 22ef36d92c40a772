"""`make bench`, `make bench-check`, `make bench-baseline`: see docs/reference/performance.md."""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import uvloop

from bench import check, machine, report
from bench.figures import Outcome
from bench.registry import WORKLOADS
from bench.workload import AnyWorkload, Scale, Site

_OUT = machine.ROOT / "out"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Measure Millpond on this machine.")
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--list", action="store_true", help="say which parts there are")
    parser.add_argument("--only", action="append", choices=names, metavar="PART", help="this part; may be repeated")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--quick", action="store_const", const=Scale.QUICK, dest="scale", help="see that all of it runs")
    scale.add_argument("--tiny", action="store_const", const=Scale.TINY, dest="scale", help="for a test of the suite")
    parser.set_defaults(scale=Scale.FULL)
    parser.add_argument("--peers", metavar="A,B", help="the peers to measure, or none; default: all that can be had")
    parser.add_argument("--json", type=Path, help="where results are kept; default: out/bench.json, bench-quick.json …")
    parser.add_argument("--out", type=Path, default=_OUT, help="where files of the run are left")
    parser.add_argument("--write-docs", action="store_true", help="write the page though not every part ran")
    parser.add_argument("--render", action="store_true", help="measure nothing: write the page from the JSON")
    parser.add_argument("--check", action="store_true", help="compare a few ratios with those stored")
    parser.add_argument("--store-baseline", action="store_true", help="measure those ratios and store them")
    return parser.parse_args(arguments)


class Run:
    """One run of the suite."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._scale: Scale = arguments.scale
        peers = arguments.peers
        if peers is None and (arguments.check or arguments.store_baseline):
            peers = check.PEER
        self._peers = None if peers is None else frozenset(peers.split(",")) - {"none"}
        arguments.out.mkdir(parents=True, exist_ok=True)
        # It stays (`make clean` removes it): what runs right after a removal is slowed by it.
        self._directory = Path(tempfile.mkdtemp(prefix="bench-", dir=arguments.out.resolve()))

    async def measure(self, workload: AnyWorkload) -> Outcome:
        print(f"{workload.name} …", flush=True)
        site = Site(Path(tempfile.mkdtemp(prefix=f"{workload.name}-", dir=self._directory)), self._scale, self._peers)
        return await workload.run(site, workload.sizes.at(self._scale))

    async def part(self, workload: AnyWorkload) -> report.Part:
        at, load, begun = machine.now(), machine.load(), time.perf_counter()
        outcome = await self.measure(workload)
        return report.Part(
            name=workload.name,
            scale=self._scale,
            outcome=outcome,
            at=at,
            commit=machine.commit(),
            seconds=time.perf_counter() - begun,
            load=load,
        )


async def _bench(arguments: argparse.Namespace, chosen: Sequence[AnyWorkload], path: Path) -> int:
    run = Run(arguments)
    failed = []
    for workload in chosen:
        try:
            part = await run.part(workload)
        except Exception:  # the other parts are still of use
            traceback.print_exc()
            failed.append(workload.name)
            continue
        report.put(path, part)
        report.show(part)
    print(f"results: {path}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
        return 1
    is_whole = len(chosen) == len(WORKLOADS) and arguments.scale is Scale.FULL
    return _render(path) if is_whole or arguments.write_docs else 0


def _render(path: Path) -> int:
    # With it comes matplotlib, which takes a while and much memory.
    from bench import page  # noqa: PLC0415

    missing = page.write(report.read(path), WORKLOADS)
    print(f"written: {page.PAGE.relative_to(machine.ROOT)}")
    if missing:
        print(f"not in it, as not measured in full: {', '.join(missing)}")
    return 0


async def _check(arguments: argparse.Namespace, chosen: Sequence[AnyWorkload]) -> int:
    run = Run(arguments)
    workloads = [workload for workload in chosen if workload.is_checked]
    if arguments.store_baseline:
        baseline = check.read() if check.BASELINE.exists() else {}
        for workload in workloads:
            baseline[workload.name] = check.gates(await run.measure(workload))
            check.write(baseline)
        print(f"stored: {check.BASELINE.relative_to(machine.ROOT)}")
        return 0
    if not check.BASELINE.exists():
        print(f"there is no {check.BASELINE.relative_to(machine.ROOT)}: make bench-baseline stores one")
        return 1
    worse = await check.compare(workloads, check.read(), run.measure)
    for line in worse:
        print(f"WORSE by more than {check.ALLOWED:.0%}: {line}")
    return 1 if worse else 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.list:
        for workload in WORKLOADS:
            print(f"{workload.name:18} {workload.title}")
        return 0
    chosen = [workload for workload in WORKLOADS if not arguments.only or workload.name in arguments.only]
    name = "bench.json" if arguments.scale is Scale.FULL else f"bench-{arguments.scale}.json"
    path = arguments.json or arguments.out / name
    try:
        # Now, not when the first part has been measured.
        report.read(path)
    except ValueError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if arguments.render:
        return _render(path)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.check or arguments.store_baseline:
            return runner.run(_check(arguments, chosen))
        return runner.run(_bench(arguments, chosen, path))


if __name__ == "__main__":
    sys.exit(main())
