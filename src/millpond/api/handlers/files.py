"""Operations on the files of nodes and of tasks. The files are on the nodes; their agents are asked."""

import mimetypes
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from millpond.api.context import Context
from millpond.api.decode import drain
from millpond.api.handlers.jobs import require_job
from millpond.api.handlers.nodes import require_node
from millpond.api.handlers.pools import require_pool
from millpond.api.handlers.tasks import require_task
from millpond.api.http import Headers, Request, Response
from millpond.api.options import filter_of
from millpond.api.paging import boolean_parameter, page_of, page_size, page_start
from millpond.api.preconditions import dates_only
from millpond.api.render.common import node_url, path_quoted, quoted, task_url, timestamp_text
from millpond.api.replies import done_reply, encode_json, entity_headers, json_reply, unmet_read
from millpond.control.base import FileContent
from millpond.domain.durations import parse_duration
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.ids import task_directory
from millpond.domain.pool import Pool
from millpond.domain.states import TaskState
from millpond.odata import properties
from millpond.odata.evaluate import matches
from millpond.protocol.messages import FileEntry
from millpond.store.base import TaskRow

_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?\Z")
_DEFAULT_RETENTION_S: Final = 7 * 86400.0
_ABOUT_ONE_FILE: Final = frozenset({ErrorCode.FILE_NOT_FOUND, ErrorCode.INVALID_RANGE})
# Only what Python itself knows: the answer does not depend on the machine's own tables.
_TYPES: Final = mimetypes.MimeTypes(filenames=())


class _Place(msgspec.Struct, frozen=True):
    """Where the files of a request are: a directory on a node, and the URL they are shown under."""

    pool_id: str | None
    """None for a task's files: its job may have moved to another pool since."""
    node_id: str
    directory: str
    """Relative to the node's root; empty is the root itself."""
    files_url: str
    row: TaskRow | None = None
    """The task whose directory it is."""

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}" if self.directory and name else self.directory or name


async def _node_place(context: Context, request: Request) -> _Place:
    pool: Pool = await require_pool(context, request.params["poolId"])
    node = await require_node(context, pool.id, request.params["nodeId"])
    return _Place(pool.id, node.id, "", f"{node_url(request.base_url, pool.id, node.id)}/files")


async def _task_place(context: Context, request: Request) -> _Place:
    """Raises BatchError TaskFilesUnavailable, or FileNotFound for one file, while the task has been on no node."""
    row = await require_task(context, request.params["jobId"], request.params["taskId"])
    job = await require_job(context, request.params["jobId"])
    if row.task.node_id is None:
        if "filePath" in request.params:
            raise BatchError(ErrorCode.FILE_NOT_FOUND, "The task has no files: it has not run yet.")
        raise BatchError(ErrorCode.TASK_FILES_UNAVAILABLE, "The task has no files: it has not run yet.")
    url = f"{task_url(request.base_url, job.id, row.task.id)}/files"
    return _Place(None, row.task.node_id, task_directory(job.id, row.task.id), url, row)


def _explained(error: BatchError, place: _Place, context: Context, name: str = "") -> BatchError:
    """What an error about files means when they are a task's; with the name of the file it is about."""
    if name and error.code in _ABOUT_ONE_FILE:
        error.values.setdefault("FilePath", name[:256])
    if place.row is None:
        return error
    if error.code is ErrorCode.NODE_NOT_FOUND:
        return BatchError(ErrorCode.TASK_FILES_UNAVAILABLE)
    if error.code is ErrorCode.FILE_NOT_FOUND and _is_past_retention(place.row, context.control.now()):
        return BatchError(ErrorCode.TASK_FILES_CLEANED_UP)
    return error


def _is_past_retention(row: TaskRow, now: float) -> bool:
    task = row.task
    if task.state is not TaskState.COMPLETED or task.end_time is None:
        return False
    text = msgspec.json.decode(row.spec).get("constraints", {}).get("retentionTime")
    kept_s = _DEFAULT_RETENTION_S if text is None else parse_duration(text)
    return kept_s is not None and now > task.end_time + kept_s


def _file_name(request: Request) -> str:
    """The file asked for. Raises BatchError FileNotFound for a name that leads elsewhere."""
    name = request.params["filePath"].removesuffix("/")
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise BatchError(ErrorCode.FILE_NOT_FOUND)
    return name


async def list_node_files(context: Context, request: Request) -> Response:
    return await _list(context, request, await _node_place(context, request))


async def list_task_files(context: Context, request: Request) -> Response:
    return await _list(context, request, await _task_place(context, request))


async def _list(context: Context, request: Request, place: _Place) -> Response:
    recursive = boolean_parameter(request, "recursive")
    where = filter_of(request, properties.FILES)
    limit = page_size(request)
    after = page_start(request)
    try:
        entries = await context.control.files.list(place.pool_id, place.node_id, place.directory, recursive=recursive)
    except BatchError as error:
        raise _explained(error, place, context) from None
    entries = sorted(entries, key=_name_of)
    chosen = [
        entry
        for entry in entries
        if (after is None or entry.name > after) and (where is None or matches(where, {"name": entry.name}))
    ]
    items = [_file_object(entry, place.files_url) for entry in chosen[:limit]]
    following = chosen[limit - 1].name if len(chosen) > limit else None
    return json_reply(request, encode_json(page_of(request, "files", items, following)))


def _name_of(entry: FileEntry) -> str:
    return entry.name


def _file_object(entry: FileEntry, files_url: str) -> dict[str, Any]:
    """Azure Batch: NodeFile. Directories have no properties."""
    body: dict[str, Any] = {
        "name": entry.name,
        "url": f"{files_url}/{path_quoted(entry.name)}",
        "isDirectory": entry.is_directory,
    }
    if not entry.is_directory:
        body["properties"] = {
            "lastModified": timestamp_text(entry.last_modified),
            "contentLength": str(entry.size),
            "contentType": content_type(entry.name),
            "fileMode": _mode_text(entry.mode),
        }
    return body


def content_type(name: str) -> str:
    """By the name's ending; `application/octet-stream` when it says nothing."""
    return _TYPES.guess_type(name)[0] or "application/octet-stream"


def _mode_text(mode: int) -> str:
    return f"0o{mode:o}"


async def get_node_file_properties(context: Context, request: Request) -> Response:
    return await _properties(context, request, await _node_place(context, request))


async def get_task_file_properties(context: Context, request: Request) -> Response:
    return await _properties(context, request, await _task_place(context, request))


async def _properties(context: Context, request: Request, place: _Place) -> Response:
    name = _file_name(request)
    condition = dates_only(request)
    try:
        entry = await context.control.files.stat(place.pool_id, place.node_id, place.path(name))
    except BatchError as error:
        raise _explained(error, place, context, name) from None
    unmet = unmet_read(condition, entry.last_modified)
    if unmet is not None:
        return unmet
    length = 0 if entry.is_directory else entry.size
    return Response(request.operation.success, _file_headers(entry, place, name), length=length)


def _file_headers(entry: FileEntry, place: _Place, name: str) -> Headers:
    kind = "application/octet-stream" if entry.is_directory else content_type(name)
    return [
        (b"content-type", kind.encode()),
        (b"ocp-batch-file-isdirectory", b"True" if entry.is_directory else b"False"),
        (b"ocp-batch-file-mode", _mode_text(entry.mode).encode()),
        # The service encodes the URL as a whole once more.
        (b"ocp-batch-file-url", quoted(f"{place.files_url}/{path_quoted(name)}").encode()),
        *entity_headers(entry.last_modified),
    ]


async def download_node_file(context: Context, request: Request) -> Response:
    return await _download(context, request, await _node_place(context, request))


async def download_task_file(context: Context, request: Request) -> Response:
    return await _download(context, request, await _task_place(context, request))


async def _download(context: Context, request: Request, place: _Place) -> Response:
    """A range is answered 200 with the part of the file: the SDKs take a 206 for an error."""
    name = _file_name(request)
    condition = dates_only(request)
    span = _range_of(request)
    first, last = span or (0, None)
    files = context.control.files
    path = place.path(name)
    try:
        if condition is not None:
            entry = await files.stat(place.pool_id, place.node_id, path)
            unmet = unmet_read(condition, entry.last_modified)
            if unmet is not None:
                return unmet
        content = await files.read(
            place.pool_id, place.node_id, path, offset=first, length=None if last is None else last - first + 1
        )
    except BatchError as error:
        raise _explained(error, place, context, name) from None
    entry = content.entry
    problem = _unreadable(entry, first, ranged=span is not None)
    if problem is not None:
        await _close(content)
        raise problem
    end = entry.size if last is None else min(last + 1, entry.size)
    headers = _file_headers(entry, place, name)
    if span is not None:
        headers.append((b"content-range", f"bytes {first}-{end - 1}/{entry.size}".encode()))
    body = _exactly(content, end - first)
    return Response(request.operation.success, headers, body, end - first, lambda: _close(content, body))


def _unreadable(entry: FileEntry, first: int, *, ranged: bool) -> BatchError | None:
    if entry.is_directory:
        return BatchError(ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE, "The path names a directory, not a file.")
    if ranged and first >= entry.size:
        return BatchError(ErrorCode.INVALID_RANGE, ContentLength=str(entry.size))
    return None


def _range_of(request: Request) -> tuple[int, int | None] | None:
    """(first, last) bytes asked for by `ocp-range` (or Range), both inclusive. Raises BatchError InvalidHeaderValue,
    InvalidRange."""
    name = b"ocp-range" if b"ocp-range" in request.headers else b"range"
    text = request.header(name)
    if text is None:
        return None
    match = _RANGE.match(text.replace(" ", ""))
    if match is None:
        raise BatchError(
            ErrorCode.INVALID_HEADER_VALUE,
            HeaderName=name.decode(),
            HeaderValue=text[:256],
            Reason="it must look like bytes=0-99 or bytes=100-",
        )
    first = int(match[1])
    last = None if match[2] is None else int(match[2])
    if last is not None and last < first:
        raise BatchError(ErrorCode.INVALID_RANGE, HeaderValue=text[:256])
    return first, last


async def _exactly(content: FileContent, length: int) -> AsyncIterator[bytes]:
    """The chunks, cut at the length that was promised: a file may grow while it is read."""
    left = length
    async for chunk in content.chunks:
        if left <= 0:
            break
        yield chunk[:left]
        left -= len(chunk)
    if left > 0:
        raise ConnectionResetError("the file is shorter than it was")


async def _close(content: FileContent, body: AsyncIterator[bytes] | None = None) -> None:
    """Let the node's answer go, whether or not it was read."""
    for stream in (body, content.chunks):
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


async def delete_node_file(context: Context, request: Request) -> Response:
    return await _delete(context, request, await _node_place(context, request))


async def delete_task_file(context: Context, request: Request) -> Response:
    return await _delete(context, request, await _task_place(context, request))


async def _delete(context: Context, request: Request, place: _Place) -> Response:
    name = _file_name(request)
    recursive = boolean_parameter(request, "recursive")
    await drain(request)
    try:
        await context.control.files.delete(place.pool_id, place.node_id, place.path(name), recursive=recursive)
    except BatchError as error:
        raise _explained(error, place, context, name) from None
    return done_reply(request)
