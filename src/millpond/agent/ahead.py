"""Which attempts of a node are launched ahead of their slots, and how many: the part of `agent.state` about them (ADR 32)."""

from collections.abc import Callable

from millpond.agent.attempts import Attempts, Held
from millpond.agent.base import Outcome
from millpond.agent.pace import Pace
from millpond.protocol.messages import Start


class Ahead:
    """Of one node."""

    def __init__(self, takes: Callable[[Start], bool] | None, pace: Pace) -> None:
        """See `AgentState`."""
        self._takes = takes
        self._pace = pace
        self._takes_back = False
        """Something was given back: before all is that was handed ahead with it, and has not begun, nothing is."""

    def width(self, start: Start, task_slots: int) -> int:
        """Of the lane such an attempt runs in, on a node of so many slots; 0 when it does in none."""
        if self._takes is None or not start.slots or not self._takes(start):
            return 0
        return max(1, task_slots // start.slots)

    def ended(self, outcome: Outcome) -> None:
        """What was launched is over."""
        if self._takes is not None:
            self._pace.ended(outcome)

    def given_back(self) -> None:
        """What was handed ahead has not begun."""
        self._pace.forget()
        self._takes_back = True

    def hand(self, attempts: Attempts, task_slots: int) -> list[Held]:
        """From the head of the queue what is to begin as soon as others have ended. It stands in the queue no more."""
        handed: list[Held] = []
        if self._takes is None:
            return handed
        if self._takes_back:
            if attempts.has_not_begun:
                return handed
            self._takes_back = False
        queue, is_free = attempts.queue, attempts.directories.is_free
        if not queue or not attempts.may_follow(slots := queue[0].start.slots):
            return handed
        # Those that follow change nothing of it: which slots are whose stays as it is.
        for _ in range(self._pace.ahead(task_slots // slots) - len(attempts.ahead)):
            held = queue[0]
            start = held.start
            if start.slots != slots or not is_free(start) or not (width := self.width(start, task_slots)):
                break
            queue.popleft()
            held.width = width
            attempts.hand_ahead(held)
            handed.append(held)
            if not queue:
                break
        return handed
