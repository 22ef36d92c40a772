"""Deadlines: one timer per key, on the loop's clock."""

import asyncio
from collections.abc import Callable

from millpond.domain.durations import Timestamp


class Timers:
    """Calls back at a deadline of the wall clock. Setting a key again replaces its timer."""

    _MAX_SLEEP_S = 3600.0
    """Long waits are cut up, so that a clock that was set is noticed."""

    def __init__(self, clock: Callable[[], Timestamp]) -> None:
        self._clock = clock
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def set(self, key: str, deadline: Timestamp | None, fire: Callable[[], None]) -> None:
        """Call `fire` at the deadline (at once when it has passed); None cancels."""
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.cancel()
        if deadline is not None:
            self._arm(key, deadline, fire)

    def _arm(self, key: str, deadline: Timestamp, fire: Callable[[], None]) -> None:
        wait_s = max(0.0, deadline - self._clock())

        def ring() -> None:
            if self._clock() < deadline - 1e-3:
                self._arm(key, deadline, fire)
            else:
                self._handles.pop(key, None)
                fire()

        self._handles[key] = asyncio.get_running_loop().call_later(min(wait_s, self._MAX_SLEEP_S), ring)

    def clear(self) -> None:
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
