"""Operations on jobs."""

from typing import Any

from millpond.api.context import Context
from millpond.api.decode import body_decoder, drain, read_json, read_optional_json
from millpond.api.http import Request, Response
from millpond.api.intake.images import check_supported_of_job
from millpond.api.intake.jobs import new_job, patch_of, replacement_of, terminate_reason
from millpond.api.options import filter_of, select_of, shown, wants_stats
from millpond.api.paging import bad_skiptoken, boolean_parameter, page_of, page_size, page_start
from millpond.api.preconditions import precondition_of
from millpond.api.render.common import job_url
from millpond.api.render.jobs import PROPERTIES, job_object, task_counts_object
from millpond.api.render.special_tasks import STATUS_PROPERTIES, preparation_and_release_object
from millpond.api.render.statistics import job_statistics
from millpond.api.replies import done_reply, encode_json, json_reply, not_found, unmet_read, written_reply
from millpond.api.schema.job import JobCreate, JobDisable, JobPatch, JobReplace, JobTerminate
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import (
    JobDeleteRequested,
    JobDisableRequested,
    JobEnableRequested,
    JobTerminateRequested,
    JobUpdated,
)
from millpond.domain.job import Job, JobChanges
from millpond.domain.states import DisableJobOption
from millpond.odata import properties

_create_decoder = body_decoder(JobCreate)
_patch_decoder = body_decoder(JobPatch)
_replace_decoder = body_decoder(JobReplace)
_disable_decoder = body_decoder(JobDisable)
_terminate_decoder = body_decoder(JobTerminate)


async def require_job(context: Context, job_id: str) -> Job:
    """The job. Raises BatchError JobNotFound."""
    job = await context.control.store.get_job(job_id)
    if job is None:
        raise not_found(ErrorCode.JOB_NOT_FOUND, "job", job_id)
    return job


async def create_job(context: Context, request: Request) -> Response:
    body = await read_json(request, _create_decoder)
    new = new_job(body, context.control.vm_sizes, context.control.now())
    if context.strict_images:
        check_supported_of_job(body.pool_info)
    job = await context.control.add_job(new.job, request.request_id, manager=new.manager, auto_pool=new.auto_pool)
    return written_reply(request, job_url(request.base_url, job.id), job.last_modified, location=True)


async def get_job(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    condition = precondition_of(request)
    job = await require_job(context, request.params["jobId"])
    unmet = unmet_read(condition, job.last_modified)
    if unmet is not None:
        return unmet
    body = shown_job(context, request, job, select)
    metadata = f"{request.base_url}/$metadata#jobs/@Element"
    return json_reply(request, encode_json({"odata.metadata": metadata, **body}), job.last_modified)


def shown_job(context: Context, request: Request, job: Job, select: frozenset[str] | None) -> dict[str, Any]:
    whole = job_object(job, request.base_url)
    if wants_stats(request, select):
        whole["stats"] = job_statistics(job, whole["url"], context.control.now())
    return shown(whole, select)


async def list_jobs(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    where = filter_of(request, properties.JOBS)
    limit = page_size(request)
    after = page_start(request)
    try:
        page = await context.control.store.list_jobs(where, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    items = [shown_job(context, request, job, select) for job in page.items]
    return json_reply(request, encode_json(page_of(request, "jobs", items, page.next)))


async def update_job(context: Context, request: Request) -> Response:
    body = await read_json(request, _patch_decoder)
    job = await require_job(context, request.params["jobId"])
    return await _update(context, request, patch_of(body, job, context.control.vm_sizes, context.control.now()))


async def replace_job(context: Context, request: Request) -> Response:
    body = await read_json(request, _replace_decoder)
    job = await require_job(context, request.params["jobId"])
    changes = replacement_of(body, job, context.control.vm_sizes, context.control.now())
    return await _update(context, request, changes)


async def _update(context: Context, request: Request, changes: JobChanges) -> Response:
    event = JobUpdated(
        at=context.control.now(),
        cause=request.request_id,
        job_id=request.params["jobId"],
        changes=changes,
        condition=precondition_of(request),
    )
    await context.control.to_job(event.job_id, event)
    return await _written(context, request)


async def disable_job(context: Context, request: Request) -> Response:
    body = await read_json(request, _disable_decoder)
    event = JobDisableRequested(
        at=context.control.now(),
        cause=request.request_id,
        job_id=request.params["jobId"],
        option=DisableJobOption(body.disable_tasks.value),
        condition=precondition_of(request),
    )
    await context.control.to_job(event.job_id, event)
    return await _written(context, request)


async def enable_job(context: Context, request: Request) -> Response:
    await drain(request)
    event = JobEnableRequested(
        at=context.control.now(),
        cause=request.request_id,
        job_id=request.params["jobId"],
        condition=precondition_of(request),
    )
    await context.control.to_job(event.job_id, event)
    return await _written(context, request)


async def terminate_job(context: Context, request: Request) -> Response:
    boolean_parameter(request, "force")
    body = await read_optional_json(request, _terminate_decoder)
    event = JobTerminateRequested(
        at=context.control.now(),
        cause=request.request_id,
        job_id=request.params["jobId"],
        reason=terminate_reason(None if body is None else body.terminate_reason),
        condition=precondition_of(request),
    )
    await context.control.to_job(event.job_id, event)
    return await _written(context, request)


async def delete_job(context: Context, request: Request) -> Response:
    boolean_parameter(request, "force")
    await drain(request)
    event = JobDeleteRequested(
        at=context.control.now(),
        cause=request.request_id,
        job_id=request.params["jobId"],
        condition=precondition_of(request),
    )
    await context.control.to_job(event.job_id, event)
    return done_reply(request)


async def list_job_preparation_and_release_task_status(context: Context, request: Request) -> Response:
    select = select_of(request, STATUS_PROPERTIES)
    where = filter_of(request, properties.JOB_NODES)
    limit = page_size(request)
    after = page_start(request)
    job = await require_job(context, request.params["jobId"])
    if job.preparation is None:
        raise BatchError(ErrorCode.JOB_PREPARATION_TASK_NOT_SPECIFIED, JobId=job.id)
    try:
        page = await context.control.store.list_job_nodes(job.no, where, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    items = [shown(preparation_and_release_object(row, job, request.base_url), select) for row in page.items]
    metadata = "jobpreparationandreleasetaskstatuslist"
    return json_reply(request, encode_json(page_of(request, metadata, items, page.next)))


async def get_job_task_counts(context: Context, request: Request) -> Response:
    job = await require_job(context, request.params["jobId"])
    metadata = f"{request.base_url}/$metadata#taskcountsresult/@Element"
    return json_reply(request, encode_json({"odata.metadata": metadata, **task_counts_object(job.counts)}))


async def _written(context: Context, request: Request) -> Response:
    """The answer to a change, with the job's tag as it is now on disk."""
    job = await context.control.store.get_job(request.params["jobId"])
    if job is None:
        return written_reply(request, job_url(request.base_url, request.params["jobId"]))
    return written_reply(request, job_url(request.base_url, job.id), job.last_modified)
