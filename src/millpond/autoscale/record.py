"""What an evaluation leaves behind: plain data, fit to be stored, shown and compared."""

from enum import StrEnum

import msgspec

from millpond.autoscale.errors import FormulaErrorCode
from millpond.autoscale.variables import Metric
from millpond.domain.durations import Timestamp
from millpond.domain.states import NodeDeallocationOption


class SampleMethod(StrEnum):
    """How samples were looked at."""

    GET_SAMPLE = "GetSample"
    GET_SAMPLE_PERCENT = "GetSamplePercent"
    COUNT = "Count"
    HISTORY_BEGIN_TIME = "HistoryBeginTime"
    CURRENT = "current"
    """The variable by itself, used as a number."""


class SampleWindow(msgspec.Struct, frozen=True, gc=False):
    """Samples of one metric that the formula looked at."""

    metric: Metric
    method: SampleMethod
    line: int
    column: int
    after: Timestamp | None
    """The window is later than this …; None when it has no beginning (the newest samples, however old)."""
    until: Timestamp
    """… up to and including this."""
    available: int
    """How many samples are in it; of `GetSample(count)` how many there were."""
    possible: int
    """How many there would be without gaps; of `GetSample(count)` the count."""
    wanted_percent: float | None = None
    """The samplePercent asked for."""

    @property
    def percent(self) -> float:
        """Available of possible samples, 0 to 100."""
        return percent(self.available, self.possible)


def percent(available: int, possible: int) -> float:
    return min(100.0, 100.0 * available / possible) if possible else 0.0


class NamedValue(msgspec.Struct, frozen=True, gc=False):
    """A variable of the formula's own and its last value."""

    name: str
    type: str
    """`double`, `doubleVec`, `string`, `timestamp`, `timeinterval` or `deallocation option`."""
    text: str
    """As results print it; a long doubleVec is cut short."""
    number: float | None = None
    """The value of a double."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """An expression that was evaluated; what stands inside it comes before it."""

    start: int
    end: int
    """Its text is `formula.text[start:end]`."""
    line: int
    column: int
    depth: int
    """How many expressions it stands inside of."""
    type: str
    text: str


class StatementTrace(msgspec.Struct, frozen=True, gc=False):
    """A statement that was reached. One that failed has no value."""

    start: int
    end: int
    line: int
    column: int
    target: str | None
    type: str | None
    text: str | None
    steps: tuple[Step, ...]


class Warned(msgspec.Struct, frozen=True, gc=False):
    """Something that was put right, and where it came from; line and column are 0 when from no one place."""

    message: str
    line: int
    column: int


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why an evaluation has no result: `autoScaleRun.error`."""

    code: FormulaErrorCode
    message: str
    detail: str
    line: int
    column: int

    @property
    def values(self) -> tuple[tuple[str, str], ...]:
        """Names and values beside the message, as the service has them: one, with the place."""
        return (("Message", f"Line {self.line}, Col {self.column}: {self.detail}"),)


class Evaluation(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one evaluation. With an error the targets are the pool's present ones."""

    at: Timestamp
    results: str
    """`autoScaleRun.results`."""
    target_dedicated_nodes: int
    target_low_priority_nodes: int
    node_deallocation_option: NodeDeallocationOption
    variables: tuple[NamedValue, ...]
    """The formula's own, by name; with an error, those assigned before it."""
    windows: tuple[SampleWindow, ...]
    """In the order in which they were looked at."""
    warnings: tuple[Warned, ...] = ()
    error: Failure | None = None
    stopped: bool = False
    """`stop()` ended it: what came after was not evaluated."""
    trace: tuple[StatementTrace, ...] = ()
    """Only when asked for."""
