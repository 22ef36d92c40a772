"""Job schedules: when their jobs are made, and what becomes of them. Events in, effects out; one state for all.

The rules (Azure Batch: JobScheduleConfiguration). Jobs are due at a first moment (creation, or doNotRunUntil) and then
every recurrenceInterval. At most one job is active: one that is due while another still runs is made when that ends,
if it may still be made then, and is lost otherwise. It may be made within startWindow of its due time, and in any case
only until the next one is due, so a startWindow longer than the interval is none. What is lost is never made up for.
A schedule without an interval makes one job.

The row that names the next job is written before the job is made, and making it again is harmless: a crash in between
repeats it. The only deadline of a schedule follows from its row (`deadline_of`), so a rebuild arms it again.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.durations import Timestamp, later_than
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, Bug, ErrorCode
from millpond.domain.ids import id_key, make_auto_pool_id
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.preconditions import Precondition
from millpond.domain.states import JOB_SCHEDULE_MOVES, JobScheduleState, PoolLifetimeOption

_EARLY_S = 0.01
"""A timer that rings less than this before its deadline rings for it."""

_CLOSED = {
    JobScheduleState.COMPLETED: ErrorCode.JOB_SCHEDULE_COMPLETED,
    JobScheduleState.TERMINATING: ErrorCode.JOB_SCHEDULE_BEING_TERMINATED,
    JobScheduleState.DELETING: ErrorCode.JOB_SCHEDULE_BEING_DELETED,
}


class JobSchedulesState:
    """All job schedules of the account: the rows themselves."""

    def __init__(self) -> None:
        self.rows: dict[str, JobSchedule] = {}
        """By id key."""


def apply(state: JobSchedulesState, event: e.JobScheduleEvent) -> list[Effect]:
    """Apply one event: the effects it has. The only way to change the state.

    Raises BatchError for an event the rules forbid, which leaves no trace."""
    effects: list[Effect] = []
    _HANDLERS[type(event)](state, event, effects)
    return effects


def rebuild(rows: Iterable[JobSchedule], at: Timestamp) -> tuple[JobSchedulesState, list[Effect]]:
    """The state the rows describe, and the effects that pick up what was under way. What came due meanwhile is made or
    lost as if the moment had only just come."""
    state = JobSchedulesState()
    effects: list[Effect] = []
    for row in rows:
        state.rows[id_key(row.id)] = row
        before = copy.copy(row)
        match row.state:
            case JobScheduleState.DELETING:
                effects.append(f.DeleteScheduledJobs(copy.copy(row)))
            case JobScheduleState.TERMINATING if row.recent_job_active:
                effects.append(f.TerminateScheduledJob(copy.copy(row)))
            case JobScheduleState.COMPLETED:
                _let_pool_go(row, effects)
            case _:
                if row.recent_job_active:
                    effects.append(f.CreateScheduledJob(copy.copy(row)))
                _move_on(row, at, effects)
        if row != before:
            effects.append(f.SaveJobSchedule(row))
        if row.state is JobScheduleState.ACTIVE:
            effects.append(f.SetJobScheduleTimer(row.id, deadline_of(row)))
    return state, effects


def deadline_of(row: JobSchedule) -> Timestamp | None:
    """The next moment at which something happens to the schedule by itself: a job is due, the opportunity for one is
    lost, or no more are to come."""
    if row.state is not JobScheduleState.ACTIVE:
        return None
    due, last = row.next_run_time, row.recurrence.do_not_run_after
    if due is not None and (last is None or due <= last):
        return _lost_from(row.recurrence, due) if row.recent_job_active else due
    return None if row.recent_job_active else last


def _lost_from(recurrence: Recurrence, due: Timestamp) -> Timestamp | None:
    """From when on the job due then can no longer be made; None is never."""
    limits = [limit for limit in (recurrence.start_window_s, recurrence.interval_s) if limit is not None]
    return round(due + min(limits), 6) if limits else None


# --- events ---------------------------------------------------------------------------------------------------------


def _on_added(state: JobSchedulesState, event: e.JobScheduleAdded, effects: list[Effect]) -> None:
    row, at = event.schedule, event.at
    key = id_key(row.id)
    known = state.rows.get(key)
    if known is not None:
        deleting = known.state is JobScheduleState.DELETING
        code = ErrorCode.JOB_SCHEDULE_BEING_DELETED if deleting else ErrorCode.JOB_SCHEDULE_EXISTS
        raise BatchError(code, JobScheduleId=row.id)
    row.state = JobScheduleState.ACTIVE
    row.creation_time = row.last_modified = row.state_time = at
    row.next_run_time = _first_moment(row.recurrence, at)
    state.rows[key] = row
    _finish(row, at, effects)


def _on_updated(state: JobSchedulesState, event: e.JobScheduleUpdated, effects: list[Effect]) -> None:
    row = _find_open(state, event.schedule_id, event.condition)
    row.spec = {name: value for name, value in {**row.spec, **event.spec}.items() if value is not None}
    if event.recurrence is not None:
        row.next_run_time = _next_run_after_update(row, event.recurrence, event.at)
        row.recurrence = event.recurrence
    row.last_modified = later_than(row.last_modified, event.at)
    _finish(row, event.at, effects)


def _on_disable_requested(
    state: JobSchedulesState, event: e.JobScheduleDisableRequested, effects: list[Effect]
) -> None:
    row = _find_open(state, event.schedule_id, event.condition)
    if row.state is JobScheduleState.DISABLED:
        raise BatchError(ErrorCode.JOB_SCHEDULE_DISABLED, JobScheduleId=row.id)
    _set_state(row, JobScheduleState.DISABLED, event.at)
    row.last_modified = later_than(row.last_modified, event.at)
    _finish(row, event.at, effects)


def _on_enable_requested(state: JobSchedulesState, event: e.JobScheduleEnableRequested, effects: list[Effect]) -> None:
    row = _find_open(state, event.schedule_id, event.condition)
    if row.state is not JobScheduleState.DISABLED:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"Job schedule '{row.id}' is not disabled; it is {row.state}.",
            JobScheduleId=row.id,
        )
    _set_state(row, JobScheduleState.ACTIVE, event.at)
    row.last_modified = later_than(row.last_modified, event.at)
    _finish(row, event.at, effects)


def _on_terminate_requested(
    state: JobSchedulesState, event: e.JobScheduleTerminateRequested, effects: list[Effect]
) -> None:
    row = _find_open(state, event.schedule_id, event.condition)
    _set_state(row, JobScheduleState.TERMINATING, event.at)
    row.last_modified = later_than(row.last_modified, event.at)
    row.next_run_time = None
    if row.recent_job_active:
        effects.append(f.TerminateScheduledJob(copy.copy(row)))
    _finish(row, event.at, effects)


def _on_delete_requested(state: JobSchedulesState, event: e.JobScheduleDeleteRequested, effects: list[Effect]) -> None:
    row = _find(state, event.schedule_id)
    if row.state is JobScheduleState.DELETING:
        raise BatchError(ErrorCode.JOB_SCHEDULE_BEING_DELETED, JobScheduleId=row.id)
    if event.condition is not None:
        event.condition.require(row.last_modified)
    _set_state(row, JobScheduleState.DELETING, event.at)
    row.last_modified = later_than(row.last_modified, event.at)
    row.next_run_time = None
    effects.append(f.DeleteScheduledJobs(copy.copy(row)))
    _finish(row, event.at, effects)


def _on_due(state: JobSchedulesState, event: e.JobScheduleDue, effects: list[Effect]) -> None:
    row = state.rows.get(id_key(event.schedule_id))
    if row is None or deadline_of(row) != event.deadline:
        return
    # Before the deadline by more than a timer's inaccuracy: the clock was set back, and there is a new deadline.
    early_s = event.deadline - event.at
    _finish(row, event.deadline if 0 < early_s < _EARLY_S else event.at, effects)


def _on_job_completed(state: JobSchedulesState, event: e.ScheduledJobCompleted, effects: list[Effect]) -> None:
    row = state.rows.get(id_key(event.schedule_id))
    if row is None or not row.recent_job_active or row.recent_job_id is None:
        return
    if id_key(row.recent_job_id) != id_key(event.job_id):
        return
    row.recent_job_active = False
    _finish(row, event.at, effects)


def _on_jobs_deleted(state: JobSchedulesState, event: e.ScheduledJobsDeleted, effects: list[Effect]) -> None:
    key = id_key(event.schedule_id)
    row = state.rows.get(key)
    if row is None or row.state is not JobScheduleState.DELETING:
        return
    del state.rows[key]
    effects.append(f.DeleteJobSchedule(row))


_HANDLERS: dict[type, Callable[[JobSchedulesState, Any, list[Effect]], None]] = {
    e.JobScheduleAdded: _on_added,
    e.JobScheduleUpdated: _on_updated,
    e.JobScheduleDisableRequested: _on_disable_requested,
    e.JobScheduleEnableRequested: _on_enable_requested,
    e.JobScheduleTerminateRequested: _on_terminate_requested,
    e.JobScheduleDeleteRequested: _on_delete_requested,
    e.JobScheduleDue: _on_due,
    e.ScheduledJobCompleted: _on_job_completed,
    e.ScheduledJobsDeleted: _on_jobs_deleted,
}


# --- rules ----------------------------------------------------------------------------------------------------------


def _find(state: JobSchedulesState, schedule_id: str) -> JobSchedule:
    """The row. Raises JobScheduleNotFound."""
    row = state.rows.get(id_key(schedule_id))
    if row is None:
        raise BatchError(
            ErrorCode.JOB_SCHEDULE_NOT_FOUND,
            f"The job schedule '{schedule_id}' does not exist.",
            JobScheduleId=schedule_id,
        )
    return row


def _find_open(state: JobSchedulesState, schedule_id: str, condition: Precondition | None) -> JobSchedule:
    """The row of a schedule that still takes changes and meets the condition. Raises BatchError else."""
    row = _find(state, schedule_id)
    code = _CLOSED.get(row.state)
    if code is not None:
        raise BatchError(code, JobScheduleId=row.id)
    if condition is not None:
        condition.require(row.last_modified)
    return row


def _set_state(row: JobSchedule, to: JobScheduleState, at: Timestamp) -> None:
    """Raises Bug for a move that does not exist."""
    if to not in JOB_SCHEDULE_MOVES[row.state]:
        raise Bug(f"job schedule {row.id} cannot go from {row.state} to {to}")
    row.previous_state = row.state
    row.previous_state_time = row.state_time
    row.state = to
    row.state_time = at


def _finish(row: JobSchedule, at: Timestamp, effects: list[Effect]) -> None:
    """After any change: what follows from it at once, the row, the next deadline."""
    _move_on(row, at, effects)
    effects.append(f.SaveJobSchedule(row))
    effects.append(f.SetJobScheduleTimer(row.id, deadline_of(row)))


def _move_on(row: JobSchedule, at: Timestamp, effects: list[Effect]) -> None:
    """Make the job that is due, or complete the schedule when no more are to come."""
    if row.state is JobScheduleState.TERMINATING:
        if not row.recent_job_active:
            _complete(row, at, effects)
        return
    if row.state is not JobScheduleState.ACTIVE:
        return
    row.next_run_time = _opportunity(row, at)
    if row.recent_job_active:
        return
    due, last = row.next_run_time, row.recurrence.do_not_run_after
    if due is not None and due <= at and (last is None or at <= last):
        _make_job(row, due, effects)
    elif due is None or (last is not None and at >= last):
        _complete(row, at, effects)


def _first_moment(recurrence: Recurrence, at: Timestamp) -> Timestamp:
    """When a job can be made at the earliest, seen from `at`."""
    return at if recurrence.do_not_run_until is None else max(at, recurrence.do_not_run_until)


def _opportunity(row: JobSchedule, at: Timestamp) -> Timestamp | None:
    """The due time of the job that can be made now, or next; None when there is none. Those before it are lost."""
    due = row.next_run_time
    if due is None:
        return None
    interval, window = row.recurrence.interval_s, row.recurrence.start_window_s
    if interval is None:
        return None if window is not None and at >= round(due + window, 6) else due
    if at >= round(due + interval, 6):
        due += math.floor((at - due) / interval) * interval
    elif due - at > 2 * interval:
        # The clock was set back: the rhythm stays, the years until then need not be waited for. By less than an
        # interval it is not made up for, or a job that has just been made would be made again.
        skipped = math.ceil((due - at) / interval) - 2
        earliest = row.recurrence.do_not_run_until
        if earliest is not None:
            skipped = max(0, min(skipped, math.floor((due - earliest) / interval)))
        due -= skipped * interval
    if window is not None and at >= due + window:
        due += interval
    return round(due, 6)


def _next_run_after_update(row: JobSchedule, new: Recurrence, at: Timestamp) -> Timestamp | None:
    """When the next job is due under a changed schedule: the rhythm goes on from the job made last.

    A schedule that becomes one for a single job makes one more; one that was that, and has made it, makes none.
    """
    old, due = row.recurrence, row.next_run_time
    if (new.interval_s, new.do_not_run_until) == (old.interval_s, old.do_not_run_until):
        return due
    first = _first_moment(new, at)
    if row.recent_job_id is None:
        return first
    if new.interval_s is None:
        if old.interval_s is not None:
            return first
        return None if due is None else max(due, new.do_not_run_until or due)
    if old.interval_s is None or due is None:
        due = at + new.interval_s
    else:
        due += new.interval_s - old.interval_s
    return round(due if new.do_not_run_until is None else max(due, new.do_not_run_until), 6)


def _make_job(row: JobSchedule, due: Timestamp, effects: list[Effect]) -> None:
    interval = row.recurrence.interval_s
    row.next_run_time = None if interval is None else round(due + interval, 6)
    row.recent_job_id = f"{row.id}:job-{row.next_job_number}"
    row.recent_job_active = True
    row.next_job_number += 1
    auto_pool = row.auto_pool
    if row.pool_id is None and auto_pool is not None and auto_pool.lifetime is PoolLifetimeOption.JOB_SCHEDULE:
        row.pool_id = make_auto_pool_id(row.auto_pool_prefix, row.no, id_key(row.id), row.creation_time)
    effects.append(f.CreateScheduledJob(copy.copy(row)))


def _complete(row: JobSchedule, at: Timestamp, effects: list[Effect]) -> None:
    _set_state(row, JobScheduleState.COMPLETED, at)
    row.end_time = at
    row.next_run_time = None
    _let_pool_go(row, effects)


def _let_pool_go(row: JobSchedule, effects: list[Effect]) -> None:
    if row.pool_id is not None and not row.keeps_pool:
        effects.append(f.DeleteScheduleAutoPool(copy.copy(row)))
