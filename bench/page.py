"""The page of figures, docs/reference/performance.md, made of what a run measured, with its pictures."""

from collections.abc import Sequence
from typing import Final

from bench import plots
from bench.figures import Figure, quantity
from bench.machine import ROOT
from bench.report import Part, Report
from bench.workload import AnyWorkload, Scale

PAGE: Final = ROOT / "docs" / "reference" / "performance.md"
IMAGES: Final = ROOT / "docs" / "images"

_HEAD: Final = """# Performance

<!-- Written by `make bench` from what a run measured: change `bench/page.py`, not this page. -->

Control plane, nodes, peers and the load they are under share one machine. The service is durable (what it answers for is
on disk) and every call is authenticated. A figure is the median of its repeats, with the least and the most beside it;
what is compared was measured in turns in the same run, each time with a process of its own as the limit or the peer.
Bars are what we want on two cores.

## How to measure

| | |
| --- | --- |
| `make bench` | everything, about 35 minutes on two cores; `out/bench.json`, and this page |
| `make bench BENCH_ARGS="--quick"` | a little of everything, in about five minutes: whether it runs |
| `make bench BENCH_ARGS="--list"` | the parts |
| `make bench BENCH_ARGS="--only commands --only adds"` | some parts; they take the place of what the JSON has of them |
| `make bench BENCH_ARGS="--render"` | this page anew from the JSON |
| `make bench-check` | a few minutes: ratios to limits and peers, against those in `bench/baseline.json`; a loss of more than 20 % that is there again at a second look fails |
| `make bench-baseline` | store the ratios of now; on a quiet machine, for a change that is meant |

The check runs each limit and peer in turns with Millpond, compares medians, and stores ratios only: a slower machine changes
both sides. A busy one shows in the spread; look at it before you believe a loss, and before you store new ratios.

Nothing else should run meanwhile. Peers come from packages, each into an environment of its own below `.cache/bench`
(Slurm and GNU parallel from Debian, which takes root); one that cannot be had is left out, and the run says so. Runs leave
their files below `out/`, since a file system that has just freed many makes new ones slowly; `make clean` removes them.
The load comes from a process of its own that prepares and signs its requests before the clock starts; what it costs stands
with the adds. A new part is a module in `bench/workloads` and a line in `bench/registry.py`.
"""

_WHY: Final = "Where the time goes, stage by stage, and why what is missed is missed: [waterfall](waterfall.md)."
_NOTHING: Final = "No figures are kept here yet: they depend on the machine. `make bench` measures yours."


def write(report: Report, workloads: Sequence[AnyWorkload]) -> list[str]:
    """Write the page of the parts there are, at full size. Returns the names of those that are missing."""
    parts = {name: part for name, part in report.parts.items() if part.scale is Scale.FULL}
    if not parts:
        PAGE.write_text(f"{_HEAD}\n{_NOTHING}\n", encoding="utf-8")
        return [workload.name for workload in workloads]
    lines = [_HEAD, "## The machine", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in report.machine.items()]
    lines += ["", *_summary(parts, workloads)]
    for workload in workloads:
        if workload.name in parts:
            lines += _section(workload, parts[workload.name])
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [workload.name for workload in workloads if workload.name not in parts]


def _summary(parts: dict[str, Part], workloads: Sequence[AnyWorkload]) -> list[str]:
    lines = ["## Bars", "", "| part | figure | median | bar | |", "| --- | --- | ---: | --- | --- |"]
    for workload in workloads:
        if workload.name in parts:
            for figure in parts[workload.name].outcome.figures:
                if figure.bar is not None:
                    value = f"{quantity(figure.value)} {figure.unit}"
                    lines.append(f"| {workload.name} | {figure.name} | {value} | {figure.bar} | {_verdict(figure)} |")
    return [*lines, "", _WHY, ""]


def _section(workload: AnyWorkload, part: Part) -> list[str]:
    lines = [f"## {workload.title}", "", workload.about, ""]
    for number, chart in enumerate(part.outcome.charts, start=1):
        name = f"bench-{part.name}-{number}.svg"
        plots.draw(chart, IMAGES / name)
        lines += [f"![{chart.title}](../images/{name})", ""]
    lines += ["| figure | median | least | most | unit | bar | |", "| --- | ---: | ---: | ---: | --- | --- | --- |"]
    for figure in part.outcome.figures:
        cells = [figure.name, *(quantity(v) for v in (figure.value, min(figure.samples), max(figure.samples)))]
        cells += [figure.unit, "" if figure.bar is None else str(figure.bar), _verdict(figure)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(line for note in part.outcome.notes for line in (note, ""))]
    repeats = max(len(figure.samples) for figure in part.outcome.figures)
    at_commit = f" at commit {part.commit}" if part.commit else ""
    lines += [f"Measured {part.at}{at_commit}, up to {repeats} repeats, {part.seconds:.0f} s.", ""]
    return lines


def _verdict(figure: Figure) -> str:
    return {None: "", True: "met", False: "**missed**"}[figure.is_met]
