"""The functions of the language that look at nothing but their arguments.

What they cannot do raises ValueError with the reason; the evaluator adds the place. Results are checked for being
finite by the evaluator, too.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final


def percentile(values: Sequence[float], rank: float) -> float:
    """The element at `rank` of 100 in order, between two elements by linear interpolation; Azure names no method."""
    if not values:
        raise ValueError("the doubleVec is empty")
    if not 0 <= rank <= 100:
        raise ValueError("the second argument is from 0 to 100")
    ordered = sorted(values)
    place = rank / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def element(values: Sequence[float], index: float) -> float:
    """The element at a place counted from 0; a fraction is cut off."""
    if not 0 <= index < len(values):
        raise ValueError(f"there is no element {int(index)} in a doubleVec of {len(values)}")
    return values[int(index)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    """Of a sample (n - 1); of one element it is 0."""
    if len(values) == 1:
        return 0.0
    mean = _mean(values)
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / (len(values) - 1))


REDUCTIONS: Final[dict[str, Callable[[Sequence[float]], float]]] = {
    "avg": _mean,
    "max": max,
    "min": min,
    "norm": lambda values: math.sqrt(sum(value * value for value in values)),
    "range": lambda values: max(values) - min(values),
    "std": _deviation,
}
"""Of at least one number."""

TOTALS: Final[dict[str, Callable[[Sequence[float]], float]]] = {
    "len": lambda values: float(len(values)),
    "sum": lambda values: float(sum(values)),
}
"""Of any number of numbers."""

LOGARITHMS: Final[dict[str, Callable[[float], float]]] = {"lg": math.log2, "ln": math.log, "log": math.log10}

ROUNDINGS: Final[dict[str, Callable[[float], float]]] = {
    "ceil": lambda value: float(math.ceil(value)),
    "floor": lambda value: float(math.floor(value)),
    # .NET's Math.Round: a half goes to the even neighbour.
    "round": lambda value: float(round(value)),
}


class Chance:
    """Numbers in [0, 1) for `rand()`: the same seed gives the same ones, so that an evaluation can be repeated.

    The generator is SplitMix64 (Steele, Lea, Flood 2014).
    """

    def __init__(self, seed: int) -> None:
        self._state = seed & 0xFFFF_FFFF_FFFF_FFFF

    def next(self) -> float:
        self._state = (self._state + 0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF_FFFF
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58_476D_1CE4_E5B9) & 0xFFFF_FFFF_FFFF_FFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & 0xFFFF_FFFF_FFFF_FFFF
        return ((mixed ^ (mixed >> 31)) >> 11) / 2**53
