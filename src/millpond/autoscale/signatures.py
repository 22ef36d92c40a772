"""Functions, sample methods and members by name: how they are spelled and how many arguments they take."""

from typing import Final, NamedTuple

from millpond.autoscale.values import MEMBERS

MANY: Final = 10_000
"""No bound: more than fit into a formula."""


class Signature(NamedTuple):
    name: str
    least: int
    most: int
    usage: str

    @property
    def complaint(self) -> str:
        return f"{self.name} is used as {self.usage}"


def _table(*signatures: Signature) -> dict[str, Signature]:
    return {signature.name.lower(): signature for signature in signatures}


FUNCTIONS: Final = _table(
    *(
        Signature(name, 1, MANY, f"{name}(numbers and doubleVecs, …)")
        for name in ("avg", "len", "lg", "ln", "log", "max", "min", "norm", "range", "std", "sum")
    ),
    *(Signature(name, 1, 1, f"{name}(double)") for name in ("ceil", "floor", "round")),
    Signature("percentile", 2, 2, "percentile(doubleVec, double from 0 to 100)"),
    Signature("rand", 0, 0, "rand()"),
    Signature("stop", 0, 0, "stop()"),
    Signature("time", 0, 1, "time() or time(string)"),
    Signature("val", 2, 2, "val(doubleVec, index from 0)"),
)
"""Lower case → what Azure Batch's functions are. `ceil`, `floor` and `round` are in newer versions of the service."""

METHODS: Final = _table(
    Signature(
        "GetSample",
        1,
        3,
        "GetSample(count), GetSample(start[, samplePercent]) or GetSample(start, end[, samplePercent])",
    ),
    Signature("GetSamplePercent", 1, 2, "GetSamplePercent(start[, end])"),
    Signature("GetSamplePeriod", 0, 0, "GetSamplePeriod()"),
    Signature("Count", 0, 0, "Count()"),
    Signature("HistoryBeginTime", 0, 0, "HistoryBeginTime()"),
)

MEMBER_NAMES: Final = frozenset(MEMBERS)
