"""The common shape of a part of the suite, and what it is given to work with."""

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench.figures import Outcome
from bench.served import Service

S = TypeVar("S")


class Scale(StrEnum):
    """How much work: for the page; to see that all runs, and for the check; for a test of the suite itself."""

    FULL = "full"
    QUICK = "quick"
    TINY = "tiny"


@dataclass(frozen=True)
class Sizes(Generic[S]):
    """A workload's numbers of tasks, repeats … at each scale."""

    full: S
    quick: S
    tiny: S

    def at(self, scale: Scale) -> S:
        return {Scale.FULL: self.full, Scale.QUICK: self.quick, Scale.TINY: self.tiny}[scale]


@dataclass(frozen=True)
class Site:
    """Where one workload is measured. Nothing is deleted in it: what ran right after that would be slowed by it."""

    directory: Path
    scale: Scale
    peers: frozenset[str] | None = None
    """The peers to measure; None is all that can be had."""
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def fresh(self, name: str) -> Path:
        """A new directory."""
        path = self.directory / f"{name}-{next(self._numbers)}"
        path.mkdir(parents=True)
        return path

    @contextlib.contextmanager
    def service(self, name: str, *arguments: str) -> Iterator[Service]:
        """A service of its own process over an empty data directory; see `bench/service.py` for the arguments."""
        running = Service(self.fresh(name), arguments=arguments)
        running.start()
        try:
            yield running
        finally:
            running.stop()


@dataclass(frozen=True)
class Workload(Generic[S]):
    """A part of the suite."""

    name: str
    """As `--only` knows it."""
    title: str
    about: str
    """What is measured, and what the limit or peer beside it is: for the page."""
    run: Callable[[Site, S], Awaitable[Outcome]]
    sizes: Sizes[S]
    is_checked: bool = False
    """Whether `make bench-check` runs it, for its gates."""


AnyWorkload = Workload[Any]
Registry = Sequence[AnyWorkload]
