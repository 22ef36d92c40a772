"""Automatic scaling of a pool: its settings, and what its last run said (Azure Batch: AutoScaleRun)."""

import math
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.task import NameValue

DEFAULT_INTERVAL_S: Final = 15 * 60.0
MIN_INTERVAL_S: Final = 5 * 60.0
"""Unless the service is set to allow less."""
MAX_INTERVAL_S: Final = 168 * 3600.0
ENABLE_PAUSE_S: Final = 30.0
"""The least time between two requests that enable automatic scaling on one pool."""
_EARLY_S: Final = 0.01
MAX_FORMULA: Final = 8192
"""Characters."""


class AutoScaleRunError(msgspec.Struct, frozen=True, gc=False):
    """Why an evaluation came to nothing."""

    code: str
    message: str
    values: tuple[NameValue, ...] = ()


class AutoScaleRun(msgspec.Struct, frozen=True, gc=False):
    """One evaluation of a formula."""

    timestamp: Timestamp
    results: str
    """The variables and their values, `name=value` joined by `;`. With an error, the pool's targets as they are."""
    error: AutoScaleRunError | None = None


class AutoScale(msgspec.Struct, frozen=True, gc=False):
    """How a pool scales itself. Part of the pool's row; replaced as a whole."""

    formula: str
    interval_s: float
    since: Timestamp
    """When the formula or the interval was last given: what an evaluation was begun under tells whether its outcome
    still counts."""
    next_run: Timestamp
    """When the formula is due next."""
    run: AutoScaleRun | None = None
    """The last evaluation."""

    def due_after(self, at: Timestamp) -> Timestamp:
        """When the formula is due next once it has been evaluated at `at`: the schedule keeps its beat, and what was
        missed is not made up for. A timer may ring a moment early, and that must not make two runs of one."""
        beats = math.floor((at + _EARLY_S - self.next_run) / self.interval_s) + 1
        return self.next_run + max(0, beats) * self.interval_s
