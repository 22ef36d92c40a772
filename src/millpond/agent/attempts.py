"""The attempts a node holds, where they wait and what they take up: the part of `agent.state` about them."""

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain, takewhile
from typing import TypeAlias

import msgspec

from millpond.agent.base import Outcome
from millpond.agent.directory_use import DirectoryUse
from millpond.agent.records import Accepted, Launched, Proceeded, Record, Reported, StopAsked
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailureCode
from millpond.domain.states import ErrorCategory
from millpond.domain.task import FailureInfo
from millpond.protocol.messages import Coordinated, Ended, Start, Started, Stopped

AttemptRef: TypeAlias = tuple[int, int]
"""(task key, attempt)"""


class Phase(Enum):
    QUEUED = auto()
    LAUNCHED = auto()
    ENDED = auto()
    """The report that ends it is due."""


class Held(msgspec.Struct, eq=False):
    """An attempt from its `Start` until its last report is acknowledged."""

    start: Start
    ref: AttemptRef
    phase: Phase = Phase.QUEUED
    started: bool = False
    coordinated: bool = False
    began: Timestamp = 0.0
    """When it was launched; of one handed ahead, when it began."""
    ahead: bool = False
    """It is with the runner, and is not known to have begun."""
    width: int = 0
    """Of the lane it runs in; 0: in none."""
    has_slots: bool = False
    """What it needs of the node's slots is its own."""
    returned: bool = False
    """If it has not begun, it is to be given back to the control plane."""
    number: int = 0
    """Attempts were accepted in the order of it."""
    proceeds: bool = False
    stop_asked: bool = False
    started_seq: int = 0
    """Number of its `Started`; 0 when there is none, or it was reported in an earlier life of the agent."""
    exit_code: int | None = None
    end_seq: int = 0
    """Number of the report that ended it."""


class Attempts:
    """Bookkeeping only: what is to be reported or done is for the caller."""

    def __init__(self) -> None:
        self.held: dict[AttemptRef, Held] = {}
        """In the order they were accepted."""
        self.queue: deque[Held] = deque()
        """Attempts that wait for slots, in the order they start in."""
        self._slotless: deque[Held] = deque()
        """Attempts that need no slots, and wait for their directory only."""
        self.latest: dict[int, int] = {}
        """Task key → its highest attempt held."""
        self.used_slots = 0
        self.ahead: deque[Held] = deque()
        """Launched beyond the node's slots, in order: each has the slots of one that is to end. All that have slots are
        in a lane then, and need as many slots as these."""
        self._kinds: dict[int, int] = {}
        """Slots of an attempt in a lane, 0 for any other → how many such have slots now."""
        self._number = 0
        self.directories = DirectoryUse()

    @property
    def launched(self) -> list[AttemptRef]:
        """Those that have yet to begin come first: ended in that order, none begins meanwhile."""
        launched = [held for held in self.held.values() if held.phase is Phase.LAUNCHED]
        return [held.ref for held in sorted(launched, key=lambda held: not held.ahead)]

    def may_follow(self, slots: int) -> bool:
        """Whether an attempt in a lane, of so many slots, can have those of any that has some now."""
        return len(self._kinds) == 1 and slots in self._kinds

    @property
    def waiting(self) -> Iterator[Held]:
        return chain(self._slotless, self.queue)

    def accept(self, start: Start) -> None:
        self._number += 1
        key, attempt = ref = start.key, start.attempt
        held = self.held[ref] = Held(start, ref, number=self._number)
        self.latest[key] = max(attempt, self.latest.get(key, 0))
        self._line(start).append(held)

    def leave_line(self, held: Held) -> None:
        """It waits no longer."""
        self._line(held.start).remove(held)

    def launch(self, held: Held, at: Timestamp) -> None:
        """It stands in no line any more."""
        held.phase = Phase.LAUNCHED
        held.began = at
        self._take_slots(held)
        self.directories.take(held.start)

    def hand_ahead(self, held: Held) -> None:
        """It stands in no line any more, and has no slots yet."""
        held.phase = Phase.LAUNCHED
        held.ahead = True
        self.ahead.append(held)
        self.directories.take(held.start)

    def has_room(self, slots: int, of: int) -> bool:
        """Whether so many of the node's slots are nobody's, and are owed to nobody."""
        return not self.ahead and slots <= of - self.used_slots

    @property
    def has_not_begun(self) -> bool:
        """Something was launched ahead, and is not known to have begun."""
        return any(held.ahead for held in self.held.values())

    def put_back(self, held: Held) -> None:
        """It has not begun, and waits again where it did."""
        held.phase = Phase.QUEUED
        held.width = 0
        # Near the front: what waits in a lane is given back in order, and came before the rest.
        earlier = takewhile(lambda other: other.number < held.number, self.queue)
        self.queue.insert(sum(1 for _ in earlier), held)

    def make_room(self, held: Held) -> None:
        """What was launched is over. Its slots are those of the first that was handed ahead, if there is one."""
        held.ahead = False
        self.directories.leave(held.start)
        if not held.has_slots:
            self.ahead.remove(held)
            return
        held.has_slots = False
        slots = held.start.slots
        if self.ahead and held.width and self.ahead[0].width and self.ahead[0].start.slots == slots:
            # Nearly always: they go from one to the other.
            self.ahead.popleft().has_slots = True
            return
        self.used_slots -= slots
        kind = _kind(held)
        if kind >= 0:
            self._kinds[kind] -= 1
            if not self._kinds[kind]:
                del self._kinds[kind]
        if self.ahead:
            self.follow()

    def follow(self) -> None:
        """The first that was handed ahead gets its slots."""
        self._take_slots(self.ahead.popleft())

    def _take_slots(self, held: Held) -> None:
        held.has_slots = True
        self.used_slots += held.start.slots
        kind = _kind(held)
        if kind >= 0:
            self._kinds[kind] = self._kinds.get(kind, 0) + 1

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
        for held in waiting:
            if self.directories.is_free(held.start):
                yield held
            else:
                self._slotless.append(held)

    def drop_all_but_launched(self) -> None:
        """And the removals of directories."""
        self.queue.clear()
        self._slotless.clear()
        self.directories.removals.clear()
        for held in [held for held in self.held.values() if held.phase is not Phase.LAUNCHED]:
            self.forget(held)

    def _line(self, start: Start) -> deque[Held]:
        """Where such an attempt waits."""
        return self.queue if start.slots else self._slotless

    # --- the journal ---

    def records(self) -> list[Record]:
        """The shortest journal that gives again what is launched and what waits."""
        records: list[Record] = []
        for (key, attempt), held in self.held.items():
            if held.phase is Phase.LAUNCHED:
                launched = Launched(
                    key=key,
                    attempt=attempt,
                    started=held.started,
                    coordinated=held.coordinated,
                    began=held.began,
                    ahead=held.ahead or not held.has_slots,
                )
                records += (Accepted(held.start), launched)
                if held.proceeds:
                    records.append(Proceeded(key=key, attempt=attempt))
                if held.stop_asked:
                    records.append(StopAsked(key=key, attempt=attempt))
        records.extend(Accepted(held.start) for held in self.waiting)
        return records

    def replay_launch(self, launched: Launched, task_slots: int) -> None:
        """`task_slots` are all that the node has."""
        # In no lane: what follows one that is picked up waits for all that is done at its end.
        held = self.held[launched.key, launched.attempt]
        self.leave_line(held)
        if launched.ahead:
            has_room = self.has_room(held.start.slots, task_slots)
            self.hand_ahead(held)
            held.began = launched.began
            held.ahead = not held.began
            if has_room:
                self.follow()
        else:
            self.launch(held, launched.began)
        held.started = launched.started
        held.coordinated = launched.coordinated

    def replay_report(self, due: Reported) -> None:
        report = due.report
        ref = (report.key, report.attempt)
        held = self.held.get(ref)
        if isinstance(report, Started | Coordinated):
            if held is not None and isinstance(report, Started):
                held.started = True
                held.began = report.start_time
                held.ahead = False
            elif held is not None:
                held.coordinated = True
            return
        if held is None:
            if due.slots is None:
                return  # a Stop of an attempt that was never held
            bare = Start(0, report.key, report.attempt, job_id="", task_id="", slots=due.slots, spec=b"")
            held = self.held[ref] = Held(bare, ref)
        elif held.phase is Phase.LAUNCHED:
            self.make_room(held)
        elif held.phase is Phase.QUEUED:
            self.leave_line(held)
        held.phase = Phase.ENDED
        held.end_seq = report.seq
        if isinstance(report, Ended | Stopped):
            held.exit_code = report.exit_code
        held.stop_asked = isinstance(report, Stopped)


def _kind(held: Held) -> int:
    if held.width:
        return held.start.slots
    # What needs no slots is in nobody's way.
    return 0 if held.start.slots else -1


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
