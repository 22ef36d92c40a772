"""Trying again: exponential back-off with jitter, and what the server asks for."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from millpond.staging.failures import Transient
from millpond.staging.telling import tell

_Result = TypeVar("_Result")


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often and when something is tried again."""

    attempts: int = 6
    """Tries that bring nothing, in a row."""
    backoff_s: float = 0.5
    """Before the second try; doubled for each further one."""
    longest_s: float = 60.0
    """No pause is longer, whatever the server asks for."""

    def begin(self) -> "Tries":
        return Tries(self)

    async def run(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """The work's result. Raises its last failure when no try succeeds."""
        tries = self.begin()
        while True:
            try:
                return await work()
            except Transient as transient:
                await tries.pause(transient)


class Tries:
    """The tries of one piece of work."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._failed = 0

    def progressed(self) -> None:
        """The last try brought something: the count begins anew."""
        self._failed = 0

    async def pause(self, transient: Transient) -> None:
        """Wait for the next try. Raises the failure instead when there is none."""
        self._failed += 1
        if self._failed >= self._retries.attempts:
            raise transient.failure from transient
        tell(f"try {self._failed} failed, there is another: {transient.failure.message}")
        # Half of the pause is chance: many nodes that fail together shall not come back together.
        longest_s = self._retries.backoff_s * 2 ** (self._failed - 1)
        pause_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311  no secret
        await asyncio.sleep(min(max(pause_s, transient.retry_after_s), self._retries.longest_s))
