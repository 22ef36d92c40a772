"""What a transfer has to say while it goes on, for whoever began it: that a try failed, and there is another."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

_listener: Final[ContextVar[Callable[[str], None] | None]] = ContextVar("millpond_transfer_listener", default=None)


@contextlib.contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """What transfers begun within, in this task, have to say goes to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(text: str) -> None:
    """Say it to whoever listens, if anybody does. Never a URL's signature."""
    listener = _listener.get()
    if listener is not None:
        listener(text)
