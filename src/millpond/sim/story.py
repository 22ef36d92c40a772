"""What happened in a run, in order: the story a failing seed prints, and the hash that tells two runs apart."""

import hashlib
from collections import deque
from collections.abc import Callable


class Violation(Exception):
    """An invariant is broken; the text says which and how."""


class Story:
    """Lines of what happened, each with its virtual time and who it happened to."""

    def __init__(self, clock: Callable[[], float], keep: int | None = 400) -> None:
        """`keep` lines are kept for printing (None: all); the hash covers all of them."""
        self._clock = clock
        self._digest = hashlib.blake2b(digest_size=16)
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=keep)
        self.count = 0

    def add(self, who: str, what: str) -> None:
        at = self._clock()
        self.count += 1
        self._digest.update(f"{at!r}\t{who}\t{what}\n".encode())
        self._lines.append((at, who, what))

    @property
    def hash(self) -> str:
        return self._digest.hexdigest()

    def text(self, last: int | None = None) -> str:
        lines = list(self._lines)[-last:] if last else list(self._lines)
        return "\n".join(f"{at:12.6f}  {who:<14}  {what}" for at, who, what in lines)
