"""How quick a node's tasks are: whether attempts are handed to the runner ahead, and how many."""

from typing import Final

from millpond.agent.base import Outcome

_AHEAD_S: Final = 0.03
"""So much work is handed ahead: several turns of a busy host, and too little for another node to want it."""
_MOST: Final = 48
_UNKNOWN_S: Final = 1.0
_WEIGHT: Final = 0.25
"""Of the last attempt in the mean."""


class Pace:
    """A mean of how long the node's attempts took. One that took longer than all that is handed ahead counts in full, so
    that a single long task ends it, and some fifteen short ones in a row begin it; others do not, or a single one that was
    held up would leave the node with too little for the next ten."""

    def __init__(self) -> None:
        self._mean_s = _UNKNOWN_S

    def ended(self, outcome: Outcome) -> None:
        """An attempt of the node is over."""
        if outcome.exit_code != 0 or outcome.failure is not None or outcome.start_time is None:
            self.forget()
            return
        took_s = max(0.0, outcome.end_time - outcome.start_time)
        self._mean_s = took_s if took_s > _AHEAD_S else self._mean_s + _WEIGHT * (took_s - self._mean_s)

    def forget(self) -> None:
        """What came next was not as expected."""
        self._mean_s = _UNKNOWN_S

    def ahead(self, width: int) -> int:
        """How many attempts may wait with the runner on a node that runs so many at a time."""
        if self._mean_s > _AHEAD_S:
            return 0
        return min(_MOST, int(width * _AHEAD_S / max(self._mean_s, 0.0001)))
