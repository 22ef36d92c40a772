"""Job schedules: from the body of a request to a record, or to changes of one; and from the record to its jobs."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from millpond.api.decode import convert
from millpond.api.intake.common import (
    check_display_name,
    check_id,
    check_metadata,
    duration_s,
    timestamp_of,
    within,
)
from millpond.api.intake.jobs import job_of
from millpond.api.intake.pools import MAX_TASK_SLOTS
from millpond.api.schema.base import JsonObject
from millpond.api.schema.job import JobSpecification
from millpond.api.schema.job_schedule import JobScheduleCreate, JobSchedulePatch, JobScheduleReplace, Schedule
from millpond.control.base import JobMaker, NewJob
from millpond.domain.durations import Timestamp, format_duration, format_timestamp
from millpond.domain.errors import invalid_property
from millpond.domain.events import JobScheduleUpdated
from millpond.domain.ids import id_key, make_auto_pool_id
from millpond.domain.job_schedule import MIN_RECURRENCE_S, MIN_START_WINDOW_S, JobSchedule, Recurrence
from millpond.domain.states import JobScheduleState
from millpond.providers.base import VmSize

PATH: Final = "jobSpecification"


def decode_job_specification(body: JsonObject) -> JobSpecification:
    """A `jobSpecification` from JSON that is decoded already. Raises BatchError naming properties from there on."""
    with within(PATH):
        return convert(body, JobSpecification)


def checked_specification(body: JobSpecification, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> JsonObject:
    """The specification in the form in which a schedule keeps it, secrets included. Raises BatchError for what would
    be no job, naming properties from `jobSpecification` on."""
    with within(PATH):
        job_of(body, "schedule:job-1", lambda prefix: make_auto_pool_id(prefix, 1), vm_sizes, at)
    specification: JsonObject = msgspec.to_builtins(body)
    return specification


def new_job_schedule(body: JobScheduleCreate, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> JobSchedule:
    """The schedule's record; its number is set by the control plane, its states by the machine. Raises BatchError."""
    check_id("id", body.id)
    check_display_name("displayName", body.display_name)
    check_metadata(body.metadata)
    recurrence = _recurrence(body.schedule)
    specification = checked_specification(body.job_specification, vm_sizes, at)
    return JobSchedule(
        no=0,
        id=body.id,
        state=JobScheduleState.ACTIVE,
        creation_time=at,
        last_modified=at,
        state_time=at,
        spec={**msgspec.to_builtins(body), PATH: specification},
        recurrence=recurrence,
    )


def patch_of(
    body: JobSchedulePatch, schedule_id: str, vm_sizes: Mapping[str, VmSize], at: Timestamp
) -> JobScheduleUpdated:
    """The event of a PATCH: what is not given stays. Raises BatchError."""
    return _update_of(body, schedule_id, body.schedule, vm_sizes, at)


def replacement_of(
    body: JobScheduleReplace, schedule_id: str, vm_sizes: Mapping[str, VmSize], at: Timestamp
) -> JobScheduleUpdated:
    """The event of a PUT: what is not given becomes the default. Raises BatchError."""
    event = _update_of(body, schedule_id, body.schedule or Schedule(), vm_sizes, at)
    return msgspec.structs.replace(event, spec={"schedule": {}, "metadata": None, **event.spec})


def _update_of(
    body: JobSchedulePatch | JobScheduleReplace,
    schedule_id: str,
    schedule: Schedule | None,
    vm_sizes: Mapping[str, VmSize],
    at: Timestamp,
) -> JobScheduleUpdated:
    check_metadata(body.metadata)
    body.odata_metadata = None
    recurrence = None if schedule is None else _recurrence(schedule)
    spec: JsonObject = msgspec.to_builtins(body)
    if body.job_specification is not None:
        spec[PATH] = checked_specification(body.job_specification, vm_sizes, at)
    return JobScheduleUpdated(at=at, schedule_id=schedule_id, spec=spec, recurrence=recurrence)


def _recurrence(body: Schedule) -> Recurrence:
    """What the body says of times; they are normalised in place. Raises BatchError."""
    with within("schedule"):
        until = after = window = interval = None
        if body.do_not_run_until is not None:
            until = timestamp_of("doNotRunUntil", body.do_not_run_until)
            body.do_not_run_until = format_timestamp(until)
        if body.do_not_run_after is not None:
            after = timestamp_of("doNotRunAfter", body.do_not_run_after)
            body.do_not_run_after = format_timestamp(after)
        if until is not None and after is not None and after <= until:
            raise invalid_property("doNotRunAfter", body.do_not_run_after, "it must be later than doNotRunUntil")
        if body.start_window is not None:
            window = duration_s("startWindow", body.start_window, minimum_s=MIN_START_WINDOW_S)
            body.start_window = format_duration(window)
        if body.recurrence_interval is not None:
            interval = duration_s("recurrenceInterval", body.recurrence_interval, minimum_s=MIN_RECURRENCE_S)
            body.recurrence_interval = format_duration(interval)
    return Recurrence(do_not_run_until=until, do_not_run_after=after, start_window_s=window, interval_s=interval)


def job_maker(vm_sizes: Mapping[str, VmSize], clock: Callable[[], Timestamp]) -> JobMaker:
    """See `control.base.JobMaker`. The same schedule and id make the same job, with an auto pool of the same id."""

    def make_job(schedule: JobSchedule, job_id: str) -> NewJob:
        def pool_id(prefix: str) -> str:
            # That of the schedule, where all jobs share one.
            return schedule.pool_id or make_auto_pool_id(prefix, schedule.no, id_key(job_id), schedule.creation_time)

        body = decode_job_specification(schedule.spec[PATH])
        with within(PATH):
            made = job_of(body, job_id, pool_id, _with_former_size(vm_sizes, body), clock())
        made.job.schedule_id = schedule.id
        return made

    return make_job


def _with_former_size(vm_sizes: Mapping[str, VmSize], body: JobSpecification) -> Mapping[str, VmSize]:
    """The catalogue, and the size of the auto pool though it is no longer in it: the job is made, and the control plane
    says on it why it cannot be scheduled."""
    auto_pool = body.pool_info.auto_pool_specification
    if auto_pool is None or auto_pool.pool is None or auto_pool.pool.vm_size.lower() in vm_sizes:
        return vm_sizes
    name = auto_pool.pool.vm_size
    return {**vm_sizes, name.lower(): VmSize(name, cores=MAX_TASK_SLOTS // 4, memory_mib=0, price_per_hour=0.0)}
