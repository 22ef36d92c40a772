"""constraints.maxWallClockTime (semantics 2.7)."""

import asyncio
from collections.abc import Callable
from typing import Final

from millpond.agent.runner.attempt import Attempt, TaskHook, failure_info
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import TaskKind

MAX_RELEASE_S: Final = 900.0
"""A job release task has no more time than that, whatever it asked for (semantics 3.3)."""
_MARGIN_S: Final = 0.001
"""Timers may fire a little early; an end by the wall clock is never before its deadline."""


class WallClock(TaskHook):
    """Ends the attempt when its time is up. The time counts from entry to running, so downloads are within it."""

    def __init__(self, clock: Callable[[], Timestamp]) -> None:
        self._clock = clock

    def prestart(self, attempt: Attempt) -> None:
        if not attempt.waits:
            self.began(attempt)

    def began(self, attempt: Attempt) -> None:
        limit_s = _limit_s(attempt)
        if limit_s is not None:
            delay = attempt.start_time + limit_s - self._clock() + _MARGIN_S
            attempt.deadline_timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._expire, attempt)

    def _expire(self, attempt: Attempt) -> None:
        if attempt.interruption is None:
            attempt.timed_out = True
            attempt.interrupt(failure_info(_expired(attempt)))

    def exited(self, attempt: Attempt) -> None:
        """Output files have no limit: the timer is off before they are uploaded."""
        attempt.disarm()
        limit_s = _limit_s(attempt)
        timed_out = attempt.timed_out
        if attempt.resumed and limit_s is not None and attempt.exit is not None:
            # It may have ended, or been killed, while no agent was there.
            timed_out = attempt.exit.end_time >= attempt.start_time + limit_s
        if timed_out:
            raise _expired(attempt)


def _limit_s(attempt: Attempt) -> float | None:
    limit_s = attempt.spec.max_wall_clock_s
    if attempt.start.kind is TaskKind.JOB_RELEASE:
        return MAX_RELEASE_S if limit_s is None else min(limit_s, MAX_RELEASE_S)
    return limit_s


def _expired(attempt: Attempt) -> TaskFailure:
    limit = format_duration(_limit_s(attempt))
    return TaskFailure(
        TaskFailureCode.TASK_ENDED,
        f"The task was ended because it exceeded its maximum wall clock time of {limit}",
        user_error=False,
        MaxWallClockTime=limit,
    )
