"""Operations on job schedules."""

from collections.abc import Sequence
from typing import Any

import msgspec

from millpond.api.context import Context
from millpond.api.decode import body_decoder, drain, read_json
from millpond.api.handlers.jobs import shown_job
from millpond.api.handlers.statistics import stats_of_job_schedule
from millpond.api.http import Request, Response
from millpond.api.intake.common import within
from millpond.api.intake.images import check_supported_of_job
from millpond.api.intake.job_schedules import PATH as SPECIFICATION
from millpond.api.intake.job_schedules import new_job_schedule, patch_of, replacement_of
from millpond.api.options import filter_of, select_of, shown, wants_stats
from millpond.api.paging import bad_skiptoken, boolean_parameter, page_of, page_size, page_start
from millpond.api.preconditions import precondition_of
from millpond.api.render import jobs as render_jobs
from millpond.api.render.common import job_schedule_url
from millpond.api.render.job_schedules import PROPERTIES, job_schedule_object
from millpond.api.replies import (
    done_reply,
    encode_json,
    entity_headers,
    json_reply,
    not_found,
    unmet_read,
    written_reply,
)
from millpond.api.schema.job import JobSpecification
from millpond.api.schema.job_schedule import JobScheduleCreate, JobSchedulePatch, JobScheduleReplace
from millpond.domain.errors import ErrorCode
from millpond.domain.events import (
    JobScheduleDeleteRequested,
    JobScheduleDisableRequested,
    JobScheduleEnableRequested,
    JobScheduleEvent,
    JobScheduleTerminateRequested,
    JobScheduleUpdated,
)
from millpond.domain.ids import id_key
from millpond.domain.job_schedule import JobSchedule
from millpond.odata import properties

_create_decoder = body_decoder(JobScheduleCreate)
_patch_decoder = body_decoder(JobSchedulePatch)
_replace_decoder = body_decoder(JobScheduleReplace)


async def _require_job_schedule(context: Context, schedule_id: str) -> JobSchedule:
    """The job schedule. Raises BatchError JobScheduleNotFound."""
    schedule = await context.control.store.get_job_schedule(schedule_id)
    if schedule is None:
        raise not_found(ErrorCode.JOB_SCHEDULE_NOT_FOUND, "job schedule", schedule_id)
    return schedule


async def _unmade(context: Context, schedules: Sequence[JobSchedule]) -> set[str]:
    """Ids of recent jobs that are written down and not made yet: nobody is to be told of a job that is not there."""
    wanted = [s.recent_job_id for s in schedules if s.recent_job_active and s.recent_job_id is not None]
    if not wanted:
        return set()
    there = await context.control.store.pools_of_jobs(wanted)
    return {job_id for job_id in wanted if id_key(job_id) not in there}


async def create_job_schedule(context: Context, request: Request) -> Response:
    body = await read_json(request, _create_decoder)
    schedule = new_job_schedule(body, context.control.vm_sizes, context.control.now())
    _check_images(context, body.job_specification)
    schedule = await context.control.add_job_schedule(schedule, request.request_id)
    url = job_schedule_url(request.base_url, schedule.id)
    return written_reply(request, url, schedule.last_modified, location=True)


async def get_job_schedule(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    condition = precondition_of(request)
    schedule = await _require_job_schedule(context, request.params["jobScheduleId"])
    unmet = unmet_read(condition, schedule.last_modified)
    if unmet is not None:
        return unmet
    unmade = await _unmade(context, [schedule])
    body = await _shown(context, request, schedule, unmade, select)
    metadata = f"{request.base_url}/$metadata#jobschedules/@Element"
    return json_reply(request, encode_json({"odata.metadata": metadata, **body}), schedule.last_modified)


async def _shown(
    context: Context, request: Request, schedule: JobSchedule, unmade: set[str], select: frozenset[str] | None
) -> dict[str, Any]:
    whole = job_schedule_object(schedule, request.base_url, unmade)
    if wants_stats(request, select):
        whole["stats"] = await stats_of_job_schedule(context, request, schedule)
    return shown(whole, select)


async def job_schedule_exists(context: Context, request: Request) -> Response:
    condition = precondition_of(request)
    schedule = await _require_job_schedule(context, request.params["jobScheduleId"])
    unmet = unmet_read(condition, schedule.last_modified)
    return unmet or Response(request.operation.success, entity_headers(schedule.last_modified))


async def list_job_schedules(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    where = filter_of(request, properties.JOB_SCHEDULES)
    limit = page_size(request)
    after = page_start(request)
    try:
        page = await context.control.store.list_job_schedules(where, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    unmade = await _unmade(context, page.items)
    items = [await _shown(context, request, schedule, unmade, select) for schedule in page.items]
    return json_reply(request, encode_json(page_of(request, "jobschedules", items, page.next)))


async def list_jobs_from_schedule(context: Context, request: Request) -> Response:
    select = select_of(request, render_jobs.PROPERTIES)
    where = filter_of(request, properties.JOBS_OF_SCHEDULE)
    limit = page_size(request)
    after = page_start(request)
    schedule = await _require_job_schedule(context, request.params["jobScheduleId"])
    try:
        page = await context.control.store.list_jobs(where, limit, after, schedule_id=schedule.id)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    items = [shown_job(context, request, job, select) for job in page.items]
    return json_reply(request, encode_json(page_of(request, "jobs", items, page.next)))


async def update_job_schedule(context: Context, request: Request) -> Response:
    body = await read_json(request, _patch_decoder)
    schedule_id = request.params["jobScheduleId"]
    event = patch_of(body, schedule_id, context.control.vm_sizes, context.control.now())
    _check_images(context, body.job_specification)
    return await _update(context, request, event)


async def replace_job_schedule(context: Context, request: Request) -> Response:
    body = await read_json(request, _replace_decoder)
    schedule_id = request.params["jobScheduleId"]
    event = replacement_of(body, schedule_id, context.control.vm_sizes, context.control.now())
    _check_images(context, body.job_specification)
    return await _update(context, request, event)


def _check_images(context: Context, specification: JobSpecification | None) -> None:
    if context.strict_images and specification is not None:
        with within(SPECIFICATION):
            check_supported_of_job(specification.pool_info)


async def _update(context: Context, request: Request, event: JobScheduleUpdated) -> Response:
    event = msgspec.structs.replace(event, cause=request.request_id, condition=precondition_of(request))
    return await _change(context, request, event)


async def disable_job_schedule(context: Context, request: Request) -> Response:
    await drain(request)
    event = JobScheduleDisableRequested(
        at=context.control.now(),
        cause=request.request_id,
        schedule_id=request.params["jobScheduleId"],
        condition=precondition_of(request),
    )
    return await _change(context, request, event)


async def enable_job_schedule(context: Context, request: Request) -> Response:
    await drain(request)
    event = JobScheduleEnableRequested(
        at=context.control.now(),
        cause=request.request_id,
        schedule_id=request.params["jobScheduleId"],
        condition=precondition_of(request),
    )
    return await _change(context, request, event)


async def terminate_job_schedule(context: Context, request: Request) -> Response:
    boolean_parameter(request, "force")
    await drain(request)
    event = JobScheduleTerminateRequested(
        at=context.control.now(),
        cause=request.request_id,
        schedule_id=request.params["jobScheduleId"],
        condition=precondition_of(request),
    )
    return await _change(context, request, event)


async def delete_job_schedule(context: Context, request: Request) -> Response:
    boolean_parameter(request, "force")
    await drain(request)
    event = JobScheduleDeleteRequested(
        at=context.control.now(),
        cause=request.request_id,
        schedule_id=request.params["jobScheduleId"],
        condition=precondition_of(request),
    )
    await context.control.to_job_schedules(event)
    return done_reply(request)


async def _change(context: Context, request: Request, event: JobScheduleEvent) -> Response:
    """Have it done; the answer has the schedule's tag as it is now on disk."""
    await context.control.to_job_schedules(event)
    schedule = await context.control.store.get_job_schedule(request.params["jobScheduleId"])
    if schedule is None:
        return written_reply(request, job_schedule_url(request.base_url, request.params["jobScheduleId"]))
    return written_reply(request, job_schedule_url(request.base_url, schedule.id), schedule.last_modified)
