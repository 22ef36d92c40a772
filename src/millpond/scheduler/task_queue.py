"""A queue of very many tasks."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final

from millpond.domain.task import Task

_BLOCK: Final = 1024


class TaskQueue:
    """First in, first out; what comes back goes to the front.

    The garbage collector walks over everything that a list or a deque holds, whenever it walks over all there is: of a
    million tasks that is 50 to 100 ms in which nothing else happens. Tuples that hold nothing it need look at, and records
    of tasks are such, it leaves alone once it has seen them. So all but the ends are tuples.
    """

    __slots__ = ("_between", "_first", "_last")

    def __init__(self) -> None:
        self._first: deque[Task] = deque()
        """Empty only if all is, but within a call."""
        self._between: deque[tuple[Task, ...]] = deque()
        """Of `_BLOCK` tasks each."""
        self._last: list[Task] = []

    def __len__(self) -> int:
        return len(self._first) + len(self._between) * _BLOCK + len(self._last)

    def __bool__(self) -> bool:
        return bool(self._first)

    def __iter__(self) -> Iterator[Task]:
        return chain(self._first, chain.from_iterable(self._between), self._last)

    @property
    def head(self) -> Task:
        """The first. Raises IndexError when there is none."""
        return self._first[0]

    def popleft(self) -> Task:
        """The first, which leaves. Raises IndexError when there is none."""
        task = self._first.popleft()
        if not self._first:
            if self._between:
                self._first.extend(self._between.popleft())
            elif self._last:
                self._first.extend(self._last)
                self._last = []
        return task

    def appendleft(self, task: Task) -> None:
        self._first.appendleft(task)

    def append(self, task: Task) -> None:
        if not self._first:
            self._first.append(task)
            return
        last = self._last
        last.append(task)
        if len(last) == _BLOCK:
            self._between.append(tuple(last))
            self._last = []

    def extend(self, tasks: Iterable[Task]) -> None:
        rest = iter(tasks)
        if not self._first:
            self._first.extend(islice(rest, _BLOCK))
        last = self._last
        last.extend(rest)
        whole = len(last) - len(last) % _BLOCK
        if whole:
            self._between.extend(tuple(last[start : start + _BLOCK]) for start in range(0, whole, _BLOCK))
            del last[:whole]

    def clear(self) -> None:
        self._first.clear()
        self._between.clear()
        self._last = []
