"""The attempts a node holds, where they wait and what they take up: the part of `agent.state` about them."""

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain
from typing import TypeAlias

import msgspec

from millpond.agent.base import Outcome
from millpond.agent.directory_use import DirectoryUse
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailureCode
from millpond.domain.states import ErrorCategory
from millpond.domain.task import FailureInfo
from millpond.protocol.messages import Start

AttemptRef: TypeAlias = tuple[int, int]
"""(task key, attempt)"""


class Phase(Enum):
    QUEUED = auto()
    LAUNCHED = auto()
    ENDED = auto()
    """The report that ends it is due."""


class Held(msgspec.Struct):
    """An attempt from its `Start` until its last report is acknowledged."""

    start: Start
    phase: Phase = Phase.QUEUED
    started: bool = False
    coordinated: bool = False
    began: Timestamp = 0.0
    """When it was launched."""
    proceeds: bool = False
    stop_asked: bool = False
    started_seq: int = 0
    """Number of its `Started`; 0 when there is none, or it was reported in an earlier life of the agent."""
    exit_code: int | None = None
    end_seq: int = 0
    """Number of the report that ended it."""

    @property
    def ref(self) -> AttemptRef:
        return self.start.key, self.start.attempt


class Attempts:
    """Bookkeeping only: what is to be reported or done is for the caller."""

    def __init__(self) -> None:
        self.held: dict[AttemptRef, Held] = {}
        """In the order they were accepted."""
        self.queue: deque[AttemptRef] = deque()
        """Attempts that wait for slots, in the order they start in."""
        self._slotless: deque[AttemptRef] = deque()
        """Attempts that need no slots, and wait for their directory only."""
        self.latest: dict[int, int] = {}
        """Task key → its highest attempt held."""
        self.used_slots = 0
        self.directories = DirectoryUse()

    @property
    def launched(self) -> list[AttemptRef]:
        return [ref for ref, held in self.held.items() if held.phase is Phase.LAUNCHED]

    @property
    def waiting(self) -> Iterator[AttemptRef]:
        return chain(self._slotless, self.queue)

    def accept(self, start: Start) -> None:
        held = Held(start)
        self.held[held.ref] = held
        self.latest[start.key] = max(start.attempt, self.latest.get(start.key, 0))
        self._line(start).append(held.ref)

    def leave_line(self, held: Held) -> None:
        """It waits no longer."""
        self._line(held.start).remove(held.ref)

    def launch(self, held: Held, at: Timestamp) -> None:
        """It stands in no line any more."""
        held.phase = Phase.LAUNCHED
        held.began = at
        self.used_slots += held.start.slots
        self.directories.take(held.start)

    def make_room(self, held: Held) -> None:
        """What was launched is over."""
        self.used_slots -= held.start.slots
        self.directories.leave(held.start)

    def forget(self, held: Held) -> None:
        key, attempt = ref = held.ref
        del self.held[ref]
        if self.latest.get(key) == attempt:
            del self.latest[key]

    def ready_without_slots(self) -> Iterator[Held]:
        """Those that need no slots and whose directory is free. Each one must be launched before the next is asked
        for; it is out of its line then."""
        waiting = self._slotless
        self._slotless = deque()
        for ref in waiting:
            held = self.held[ref]
            if self.directories.is_free(held.start):
                yield held
            else:
                self._slotless.append(ref)

    def drop_all_but_launched(self) -> None:
        """And the removals of directories."""
        self.queue.clear()
        self._slotless.clear()
        self.directories.removals.clear()
        for held in [held for held in self.held.values() if held.phase is not Phase.LAUNCHED]:
            self.forget(held)

    def _line(self, start: Start) -> deque[AttemptRef]:
        """Where such an attempt waits."""
        return self.queue if start.slots else self._slotless


def interrupted(outcome: Outcome) -> Outcome:
    """The outcome of an attempt that ended while the agent was being stopped: unless it succeeded, it was killed."""
    if outcome.exit_code == 0 and outcome.failure is None:
        return outcome
    failure = FailureInfo(
        category=ErrorCategory.SERVER_ERROR,
        code=TaskFailureCode.UNKNOWN,
        message="The node agent was stopped while the task ran.",
    )
    return msgspec.structs.replace(outcome, failure=failure, retryable=True)


def does_not_fit(slots: int, task_slots: int, at: Timestamp) -> Outcome:
    failure = FailureInfo(
        category=ErrorCategory.SERVER_ERROR,
        code=TaskFailureCode.UNKNOWN,
        message=f"The task needs {slots} task slots; the node has {task_slots}.",
    )
    return Outcome(start_time=None, end_time=at, exit_code=None, failure=failure, retryable=True)
