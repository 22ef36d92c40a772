"""Pauses between calls to the control plane that fail: doubling, half of each chance, over at once when something has changed.

Only the event loop's time is used, and chance is injected, so the same code runs on virtual time.
"""

import asyncio
from collections.abc import Callable
from typing import Final

_MIN_PAUSE_S: Final = 0.05
MAX_PAUSE_S: Final = 5.0


class Pauses:
    """Those of one that calls."""

    def __init__(
        self, chance: Callable[[], float], max_s: float = MAX_PAUSE_S, *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """`chance` gives numbers from 0 up to 1; no pause is longer than `max_s`, and none begins when `unless` says so."""
        self._chance = chance
        self._max_s = max_s
        self._unless = unless
        self._ended = asyncio.Event()

    async def after(self, failures: int) -> None:
        """The pause after so many failures in a row, at least one."""
        pause_s = min(self._max_s, _MIN_PAUSE_S * 2.0 ** min(failures - 1, 16))
        await self.last(pause_s * (0.5 + 0.5 * self._chance()))

    async def last(self, pause_s: float) -> None:
        """A pause of so many seconds, unless it is ended."""
        if self._unless():
            return
        self._ended.clear()
        try:
            async with asyncio.timeout(pause_s):
                await self._ended.wait()
        except TimeoutError:
            pass

    def end(self) -> None:
        """The pause under way, if there is one, is over: it is worth a try."""
        self._ended.set()
