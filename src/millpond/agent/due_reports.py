"""What a node has to report and has not been told to be taken in: the part of `agent.state` about it."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from millpond.agent.records import Reported
from millpond.protocol.messages import Report


class DueReports:
    """Reports that are not acknowledged, in order of number. Numbers go on when all of them are dropped."""

    def __init__(self) -> None:
        self.next_seq = 1
        """Of the report made next."""
        self._due: deque[Reported] = deque()
        self._said_later: dict[int, int] = {}
        """Number of a report among them → of the later one that says all it says."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def __iter__(self) -> Iterator[Reported]:
        return iter(self._due)

    def first(self, limit: int) -> tuple[Report, ...]:
        """At most so many of the first, without those that a later one among them makes needless."""
        first = tuple(due.report for due in islice(self._due, limit))
        if not first or not self._said_later:
            return first
        last, said_later = first[-1].seq, self._said_later
        return tuple(report for report in first if said_later.get(report.seq, last + 1) > last)

    def add(self, due: Reported) -> None:
        """The report numbered `next_seq`."""
        self._due.append(due)
        self.next_seq = due.report.seq + 1

    def restore(self, due: Reported) -> None:
        """One of an earlier life of the agent, which may have made more since."""
        self._due.append(due)
        self.next_seq = max(self.next_seq, due.report.seq + 1)

    def say_later(self, seq: int, later: int) -> None:
        """The report numbered `later` says all that the other says, if that has not been taken in."""
        if self._due and self._due[0].report.seq <= seq:
            self._said_later[seq] = later

    def acknowledge(self, seq: int) -> list[Report]:
        """Those up to that number, which are due no longer."""
        taken_in: list[Report] = []
        due = self._due
        while due and due[0].report.seq <= seq:
            report = due.popleft().report
            self._said_later.pop(report.seq, None)
            taken_in.append(report)
        return taken_in

    def clear(self) -> None:
        self._due.clear()
        self._said_later.clear()
