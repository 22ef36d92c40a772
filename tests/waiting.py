"""Waiting for what other processes do: for a condition, with a deadline that a machine under load does not reach."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

PATIENCE_S: Final = 60.0
"""It costs nothing when all goes well. The limit of a whole test (`timeout` in pyproject.toml) is well above it."""


def until(look: Callable[[], _T], wanted: Callable[[_T], Any] = bool, *, limit_s: float = PATIENCE_S) -> _T:
    """Look again and again until what is seen is wanted; what was seen. Raises AssertionError."""
    deadline = time.monotonic() + limit_s
    while True:
        seen = look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"not in {limit_s:g} s; last seen: {seen}"
        time.sleep(0.02)


async def until_true(condition: Callable[[], object], what: str = "it", *, limit_s: float = PATIENCE_S) -> None:
    """Let others run until the condition holds. Raises AssertionError."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {limit_s:g} s: {what}"
        await asyncio.sleep(0.001)


async def until_unconnected() -> None:
    """Wait until the loop has no connection open any more.

    TLS takes a moment to say goodbye, also when its session is closed. A loop that ends meanwhile leaves the socket to
    the garbage collector, and whichever test runs then fails over it.
    """
    # Besides connections a loop selects on what wakes it up.
    selector = asyncio.get_running_loop()._selector
    await until_true(lambda: len(selector.get_map()) <= 1, "all connections are closed")
