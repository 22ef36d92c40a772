"""Operations on tasks."""

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

import msgspec

from millpond.api.context import Context
from millpond.api.decode import body_decoder, decode_if, decode_json, drain, read_body, read_json
from millpond.api.handlers.jobs import require_job
from millpond.api.http import Request, Response
from millpond.api.intake.tasks import (
    check_constraints,
    check_job_action,
    encode_spec,
    names_job_action,
    new_task,
    plain_tasks,
    retention_s,
)
from millpond.api.options import filter_of, select_of, shown, wants_stats
from millpond.api.paging import bad_skiptoken, next_link, page_of, page_size, page_start
from millpond.api.preconditions import precondition_of
from millpond.api.render.common import etag_text, job_url, task_url, timestamp_text
from millpond.api.render.subtasks import PROPERTIES as SUBTASK_PROPERTIES
from millpond.api.render.subtasks import subtask_object
from millpond.api.render.tasks import PROPERTIES, TaskRenderer
from millpond.api.replies import done_reply, encode_json, json_reply, not_found, unmet_read, written_reply
from millpond.api.schema.task import PlainTaskGroup, TaskCreate, TaskGroup, TaskUpdate
from millpond.api.wire_errors import error_object
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.events import (
    TaskDeleteRequested,
    TaskReactivateRequested,
    TasksAdded,
    TaskTerminateRequested,
    TaskUpdated,
)
from millpond.domain.task import NewTask, TaskAddOutcome
from millpond.odata import properties
from millpond.store.base import TaskRow

MAX_COLLECTION_TASKS: Final = 100
MAX_COLLECTION_BYTES: Final = 1024 * 1024

_RENDERED_AT_ONCE: Final = 250
_error_code: Final = attrgetter("error_code")

_create_decoder = body_decoder(TaskCreate)
_group_decoder = body_decoder(TaskGroup)
_plain_decoder = body_decoder(PlainTaskGroup)
_update_decoder = body_decoder(TaskUpdate)
_stored_decoder: Final = msgspec.json.Decoder(TaskCreate)


async def require_task(context: Context, job_id: str, task_id: str) -> TaskRow:
    """The task. Raises BatchError JobNotFound, TaskNotFound."""
    row = await context.control.store.get_task(job_id, task_id)
    if row is None:
        await require_job(context, job_id)
        raise not_found(ErrorCode.TASK_NOT_FOUND, "task", task_id)
    return row


async def create_task(context: Context, request: Request) -> Response:
    body = await read_json(request, _create_decoder)
    task = new_task(body)
    job_id = request.params["jobId"]
    if names_job_action(body):
        check_job_action(body, await require_job(context, job_id))
    event = TasksAdded(at=context.control.now(), cause=request.request_id, job_id=job_id, tasks=(task,), single=True)
    outcomes: list[TaskAddOutcome] = await context.control.to_job(job_id, event)
    url = task_url(request.base_url, job_id, outcomes[0].id)
    return written_reply(request, url, outcomes[0].last_modified, location=True)


async def create_task_collection(context: Context, request: Request) -> Response:
    """Each task by itself: one that will not do is an error of its own, the others are added."""
    body = await read_body(request, MAX_COLLECTION_BYTES)
    # Nothing of a plain task is a matter of api-versions.
    plain = decode_if(_plain_decoder, body)
    if plain is not None and 1 <= len(plain.value) <= MAX_COLLECTION_TASKS:
        tasks = plain_tasks(plain.value)
        if tasks is not None:
            return await _add_plain(context, request, tasks)
    return await _add_any(context, request, decode_json(request, _group_decoder, body).value)


async def _add_plain(context: Context, request: Request, tasks: list[NewTask]) -> Response:
    job_id = request.params["jobId"]
    at = context.control.now()
    event = TasksAdded(at=at, cause=request.request_id, job_id=job_id, tasks=tuple(tasks))
    outcomes: list[TaskAddOutcome] = await context.control.to_job(job_id, event)
    return _collection_reply(request, _Results(request, job_id, at).of_all(outcomes))


async def _add_any(context: Context, request: Request, bodies: list[TaskCreate]) -> Response:
    if not 1 <= len(bodies) <= MAX_COLLECTION_TASKS:
        raise invalid_property("value", len(bodies), f"a collection has 1 to {MAX_COLLECTION_TASKS} tasks")
    job_id = request.params["jobId"]
    job = await require_job(context, job_id) if any(map(names_job_action, bodies)) else None
    good: list[NewTask] = []
    refused: dict[int, BatchError] = {}
    for index, body in enumerate(bodies):
        try:
            task = new_task(body)
            if job is not None:
                check_job_action(body, job)
        except BatchError as error:
            refused[index] = error
        else:
            good.append(task)
    at = context.control.now()
    outcomes: list[TaskAddOutcome] = []
    if good:
        event = TasksAdded(at=at, cause=request.request_id, job_id=job_id, tasks=tuple(good))
        outcomes = await context.control.to_job(job_id, event)
    else:
        await require_job(context, job_id)
    added = iter(outcomes)
    results = _Results(request, job_id, at)
    texts = []
    for index, body in enumerate(bodies):
        failure = refused.get(index)
        texts.append(results.of(next(added)) if failure is None else results.of_refused(body.id, failure))
    return _collection_reply(request, texts)


def _collection_reply(request: Request, results: list[str]) -> Response:
    metadata = f"{request.base_url}/$metadata#taskaddresult"
    text = f'{{"odata.metadata":"{metadata}","value":[{",".join(results)}]}}'
    return json_reply(request, text.encode(), of_tasks=True)


class _Results:
    """The texts of a collection's results. What they have in common is written once."""

    def __init__(self, request: Request, job_id: str, at: Timestamp) -> None:
        self._request = request
        self._at = at
        self._tasks_url = f"{job_url(request.base_url, job_id)}/tasks/"
        self._added_at: Timestamp | None = None
        self._middle = ""
        self._errors: dict[str, str] = {}

    def of(self, outcome: TaskAddOutcome) -> str:
        """Of a task that the scheduler has seen: its id is one that a task may have, and needs no escaping."""
        task_id, code, at = outcome.id, outcome.error_code, outcome.last_modified
        if code is not None:
            told = self._errors.get(code)
            if told is None:
                told = self._errors[code] = self._error_text(BatchError(ErrorCode(code)))
            return f'{{"status":"clienterror","taskId":"{task_id}","error":{told}}}'
        if at != self._added_at:
            self._added_at = at
            self._middle = self._middle_text(at)
        return f'{{"status":"success","taskId":"{task_id}{self._middle}{task_id}"}}'

    def of_all(self, outcomes: Sequence[TaskAddOutcome]) -> list[str]:
        """`of` each, quicker where all were added."""
        if any(map(_error_code, outcomes)):
            return [self.of(outcome) for outcome in outcomes]
        middle = self._middle_text(outcomes[0].last_modified)  # they came with one event
        return [f'{{"status":"success","taskId":"{it.id}{middle}{it.id}"}}' for it in outcomes]

    def _middle_text(self, at: Timestamp) -> str:
        return f'","eTag":"{etag_text(at)}","lastModified":"{timestamp_text(at)}","location":"{self._tasks_url}'

    def of_refused(self, task_id: str, error: BatchError) -> str:
        """Of a task that could not be given to the scheduler."""
        quoted_id = encode_json(task_id).decode()
        return f'{{"status":"clienterror","taskId":{quoted_id},"error":{self._error_text(error)}}}'

    def _error_text(self, error: BatchError) -> str:
        return encode_json(error_object(error, self._request.request_id, self._at)).decode()


async def get_task(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    condition = precondition_of(request)
    row = await require_task(context, request.params["jobId"], request.params["taskId"])
    unmet = unmet_read(condition, row.task.last_modified)
    if unmet is not None:
        return unmet
    job = await require_job(context, request.params["jobId"])
    metadata = f"{request.base_url}/$metadata#tasks/@Element"
    stats_at = context.control.now() if wants_stats(request, select) else None
    body = TaskRenderer(job, request.base_url, select, stats_at).render(row, metadata=metadata)
    response = json_reply(request, body, row.task.last_modified)
    response.headers.append((b"dataserviceid", task_url(request.base_url, job.id, row.task.id).encode()))
    return response


async def list_tasks(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    where = filter_of(request, properties.TASKS)
    limit = page_size(request)
    after = page_start(request)
    job = await require_job(context, request.params["jobId"])
    try:
        page = await context.control.store.list_tasks(job.no, where, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    stats_at = context.control.now() if wants_stats(request, select) else None
    render = TaskRenderer(job, request.base_url, select, stats_at).render
    texts = await _rendered(page.items, render) or [b""]
    ending = b"]}" if page.next is None else b'],"odata.nextLink":%b}' % encode_json(next_link(request, page.next))
    # Joined once: the whole is half a megabyte and more.
    texts[0] = b'{"odata.metadata":"%b/$metadata#tasks","value":[%b' % (request.base_url.encode(), texts[0])
    texts[-1] += ending
    return json_reply(request, b",".join(texts), of_tasks=True)


async def _rendered(rows: Sequence[TaskRow], render: Callable[[TaskRow], bytes]) -> list[bytes]:
    """The rows' texts. Others have their turn in between: a page of a thousand may take milliseconds."""
    texts: list[bytes] = []
    for start in range(0, len(rows), _RENDERED_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        texts += map(render, rows[start : start + _RENDERED_AT_ONCE])
    return texts


async def list_subtasks(context: Context, request: Request) -> Response:
    """All instances but the primary, which is the task itself; none for an ordinary task. Always one page."""
    select = select_of(request, SUBTASK_PROPERTIES)
    page_start(request)
    row = await require_task(context, request.params["jobId"], request.params["taskId"])
    job = await require_job(context, request.params["jobId"])
    subtasks = await context.control.store.list_subtasks(row.task.key)
    items = [
        shown(subtask_object(subtask, job, row.task, request.base_url), select)
        for subtask in subtasks
        if subtask.index > 0
    ]
    return json_reply(request, encode_json(page_of(request, "subtasks", items, None)))


async def replace_task(context: Context, request: Request) -> Response:
    body = await read_json(request, _update_decoder)
    if body.constraints is not None:
        check_constraints(body.constraints)
    job_id, task_id = request.params["jobId"], request.params["taskId"]
    row = await require_task(context, job_id, task_id)
    stored = _stored_decoder.decode(row.spec)
    stored.constraints = body.constraints
    event = TaskUpdated(
        at=context.control.now(),
        cause=request.request_id,
        job_id=job_id,
        task_id=task_id,
        max_retry_count=None if body.constraints is None else body.constraints.max_task_retry_count,
        spec=encode_spec(stored),
        retention_s=retention_s(body.constraints),
        condition=precondition_of(request),
    )
    await context.control.to_job(job_id, event)
    return await _written(context, request)


async def terminate_task(context: Context, request: Request) -> Response:
    await _ask(context, request, TaskTerminateRequested)
    return await _written(context, request)


async def reactivate_task(context: Context, request: Request) -> Response:
    await _ask(context, request, TaskReactivateRequested)
    return await _written(context, request)


async def delete_task(context: Context, request: Request) -> Response:
    await _ask(context, request, TaskDeleteRequested)
    return done_reply(request)


async def _ask(
    context: Context,
    request: Request,
    kind: type[TaskTerminateRequested | TaskReactivateRequested | TaskDeleteRequested],
) -> None:
    """Hand the engine a wish for one task that needs no body."""
    await drain(request)
    event = kind(
        at=context.control.now(),
        cause=request.request_id,
        job_id=request.params["jobId"],
        task_id=request.params["taskId"],
        condition=precondition_of(request),
    )
    await context.control.to_job(event.job_id, event)


async def _written(context: Context, request: Request) -> Response:
    """The answer to a change, with the task's tag as it is now on disk."""
    job_id, task_id = request.params["jobId"], request.params["taskId"]
    row = await context.control.store.get_task(job_id, task_id)
    last_modified: Timestamp | None = None if row is None else row.task.last_modified
    return written_reply(request, task_url(request.base_url, job_id, task_id), last_modified)
