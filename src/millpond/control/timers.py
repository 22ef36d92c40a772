"""The clock, and deadlines: one timer per key, on the loop's clock."""

import asyncio
import time
from collections.abc import Callable

from millpond.domain.durations import Timestamp, whole_microseconds


def wall_clock() -> Timestamp:
    """The time of everything that happens in the control plane."""
    return whole_microseconds(time.time())


class Timers:
    """Calls back at a deadline of the wall clock. Setting a key again replaces its timer."""

    _MAX_SLEEP_S = 60.0
    """Long waits are cut up, so that a clock that was set, or a machine that slept, is noticed."""
    _SET_BACK_S = 1.0
    """Less is the small correction of a clock that is kept right."""

    def __init__(self, clock: Callable[[], Timestamp]) -> None:
        self._clock = clock
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def set(
        self,
        key: str,
        deadline: Timestamp | None,
        fire: Callable[[], None],
        *,
        set_back: Callable[[], None] | None = None,
    ) -> None:
        """Call `fire` at the deadline (at once when it has passed); None cancels. `set_back` is called instead, once
        and soon, when the clock was set back meanwhile: whoever gives it sets the timer again."""
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.cancel()
        if deadline is not None:
            self._arm(key, deadline, fire, set_back)

    def _arm(
        self, key: str, deadline: Timestamp, fire: Callable[[], None], set_back: Callable[[], None] | None
    ) -> None:
        armed = self._clock()
        wait_s = max(0.0, deadline - armed)

        def ring() -> None:
            now = self._clock()
            if set_back is not None and now < armed - self._SET_BACK_S:
                self._handles.pop(key, None)
                set_back()
            elif now < deadline - 1e-3:
                self._arm(key, deadline, fire, set_back)
            else:
                self._handles.pop(key, None)
                fire()

        self._handles[key] = asyncio.get_running_loop().call_later(min(wait_s, self._MAX_SLEEP_S), ring)

    def clear(self) -> None:
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
