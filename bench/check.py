"""Whether something has become slower: ratios of now against those stored.

Only ratios to limits and peers of the same run are compared, so that a slow or busy machine matters little. Where one has
lost more than is allowed its workload is run once more, and the better of the two counts.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.figures import Outcome, quantity
from bench.machine import ROOT
from bench.workload import AnyWorkload

BASELINE: Final = ROOT / "bench" / "baseline.json"
PEER: Final = "xargs"
"""The only one whose ratio is stored: it is everywhere, and as quick as can be."""
ALLOWED: Final = 0.2
"""The part of a ratio that may be lost."""

Measure = Callable[[AnyWorkload], Awaitable[Outcome]]


class Gate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored ratio."""

    value: float
    less_is_better: bool = False


def gates(outcome: Outcome) -> dict[str, Gate]:
    """By name; what has no value is left out."""
    return {
        each.name: Gate(value=round(each.value, 2), less_is_better=each.less_is_better)
        for each in outcome.figures
        if each.is_gate
    }


def read(path: Path = BASELINE) -> dict[str, dict[str, Gate]]:
    """Workload → gate → ratio. Raises FileNotFoundError, ValueError."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Gate]])


def write(baseline: dict[str, dict[str, Gate]], path: Path = BASELINE) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=2) + b"\n")


def lost(stored: Gate, now: float) -> float:
    """The part of the stored ratio that is lost; negative when it is better."""
    if stored.less_is_better:
        return 1 - stored.value / now if now else -1.0
    return 1 - now / stored.value if stored.value else -1.0


async def compare(
    workloads: Sequence[AnyWorkload], baseline: dict[str, dict[str, Gate]], measure: Measure
) -> list[str]:
    """What is worse, a line each; prints every comparison."""
    worse = []
    for workload in workloads:
        stored = baseline.get(workload.name, {})
        now = gates(await measure(workload))
        if any(_is_worse(gate, now.get(name)) for name, gate in stored.items()):
            print(f"{workload.name}: worse than before; once more")
            again = gates(await measure(workload))
            now |= {name: gate for name, gate in again.items() if name not in now or _is_better(gate, now[name])}
        for name, gate in stored.items():
            line = f"{workload.name}: {name}: {_shown(now.get(name))}, stored {quantity(gate.value)}"
            print(line)
            if _is_worse(gate, now.get(name)):
                worse.append(line)
        for name in now.keys() - stored.keys():
            print(f"{workload.name}: {name}: {_shown(now[name])}, not stored (make bench-baseline)")
    return worse


def _is_worse(stored: Gate, now: Gate | None) -> bool:
    return now is None or lost(stored, now.value) > ALLOWED


def _is_better(one: Gate, other: Gate) -> bool:
    return one.value < other.value if one.less_is_better else one.value > other.value


def _shown(gate: Gate | None) -> str:
    return "not measured" if gate is None else quantity(gate.value)
