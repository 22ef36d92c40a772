"""What was measured: kept as JSON, part by part, and printed.

Parts can be measured one after another: each is put in the place of what the file had of it, with its own time and commit.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from bench import machine
from bench.figures import Figure, Outcome, quantity
from bench.workload import Scale

FORMAT: Final = 1


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One workload's outcome, and when and on what it was measured."""

    name: str
    scale: Scale
    outcome: Outcome
    at: str
    commit: str
    seconds: float
    load: float
    """Of the machine when it began: how many processes wanted a processor."""


class Report(msgspec.Struct, kw_only=True):
    """The file."""

    parts: dict[str, Part] = {}
    machine: dict[str, str] = {}
    format: int = FORMAT


def read(path: Path) -> Report:
    """Empty when there is none. Raises ValueError when it is of another format."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except FileNotFoundError:
        return Report()
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} cannot be read ({error}); remove it or name another with --json") from error
    if report.format != FORMAT:
        raise ValueError(f"{path} is of format {report.format}, not {FORMAT}; remove it or name another with --json")
    return report


def put(path: Path, part: Part) -> Report:
    """Add a part to the file, or put it in the place of an older one. What another machine measured is forgotten."""
    report = read(path)
    facts = machine.facts()
    if report.machine != facts:
        report = Report(machine=facts)
    report.parts[part.name] = part
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    os.replace(new, path)
    return report


def show(part: Part) -> None:
    """Print one part as a table."""
    figures = part.outcome.figures
    width = max((len(each.name) for each in figures), default=0)
    print(f"\n{part.name}: {part.seconds:.0f} s, {part.scale}, load {part.load:.1f} when it began")
    print(f"  {'':{width}}  {'median':>10}  {'min':>10}  {'max':>10}  {'unit':<12}  bar")
    for each in figures:
        values = "  ".join(f"{quantity(v):>10}" for v in (each.value, min(each.samples), max(each.samples)))
        print(f"  {each.name:{width}}  {values}  {each.unit:<12}  {verdict(each)}")
    for note in part.outcome.notes:
        print(f"  {note}")
    print(flush=True)


def verdict(figure: Figure) -> str:
    """The bar, and whether it is met; empty without one."""
    if figure.bar is None:
        return ""
    return f"{figure.bar} {'met' if figure.is_met else 'MISSED'}"
