"""Operations on the files of nodes and of tasks. The files are on the nodes; their agents are asked. Of tasks whose node
or directory is gone, what the service kept of their logs is shown."""

import asyncio
import contextlib
import mimetypes
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from millpond.api.context import Context
from millpond.api.decode import drain
from millpond.api.handlers.jobs import require_job
from millpond.api.handlers.nodes import require_node
from millpond.api.handlers.pools import require_pool
from millpond.api.handlers.tasks import require_task
from millpond.api.http import Headers, Request, Response
from millpond.api.options import filter_of
from millpond.api.paging import MAX_RESULTS, boolean_parameter, page_of, page_size, page_start
from millpond.api.preconditions import dates_only
from millpond.api.render.common import node_url, path_quoted, quoted, task_url, timestamp_text
from millpond.api.replies import done_reply, encode_json, entity_headers, json_reply, unmet_read
from millpond.control.base import FileContent
from millpond.control.kept_files import KeptFiles
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
_MAX_ROUNDS: Final = 10
"""Questions to a node for one page of a listing with a filter; the page is short then."""
_PATIENCE_S: Final = 3.0
_KEPT: Final = (b"x-millpond-kept", b"true")
"""The files are not the node's, but what was kept of them."""
_ORIGINAL_SIZE: Final = b"x-millpond-original-length"
"""Of a kept file of which only the two ends are there."""
# Only what Python itself knows: the answer does not depend on the machine's own tables.
_TYPES: Final = mimetypes.MimeTypes(filenames=())
_T = TypeVar("_T")


class _Place:
    """Where the files of a request are: a directory on a node, and the URL they are shown under."""

    def __init__(
        self, context: Context, pool_id: str | None, node_id: str | None, directory: str, files_url: str
    ) -> None:
        """`pool_id` is None for a task's files: its job may have moved to another pool since. `directory` is relative to
        the node's root; empty is the root itself."""
        self._files = context.control.files
        self._pool_id = pool_id
        self._node_id = node_id or ""
        self._directory = directory
        self.files_url = files_url

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}" if self._directory and name else self._directory or name

    async def list(self, *, recursive: bool, after: str, limit: int) -> "list[FileEntry]":
        return await self._files.list(
            self._pool_id, self._node_id, self._directory, recursive=recursive, after=after, limit=limit
        )

    async def stat(self, name: str) -> FileEntry:
        return await self._files.stat(self._pool_id, self._node_id, self._path(name))

    async def read(self, name: str, *, offset: int, length: int | None) -> FileContent:
        return await self._files.read(self._pool_id, self._node_id, self._path(name), offset=offset, length=length)

    async def delete(self, name: str, *, recursive: bool) -> None:
        await self._files.delete(self._pool_id, self._node_id, self._path(name), recursive=recursive)

    def headers(self) -> Headers:
        """What the answer says besides, once it is known where the files came from."""
        return []


class TaskPlace(_Place):
    """The files of a task: on its node, or what was kept of them where the node or the task's directory is gone."""

    def __init__(self, context: Context, row: TaskRow, directory: str, files_url: str, kept: KeptFiles | None) -> None:
        super().__init__(context, None, row.task.node_id, directory, files_url)
        self._control = context.control
        self._row = row
        self._kept = kept
        self._was_kept = False

    @property
    def _is_current(self) -> bool:
        """Whether what is kept is of the attempt that the node had last."""
        return self._kept is not None and self._kept.attempt == self._row.task.attempt

    async def list(self, *, recursive: bool, after: str, limit: int) -> "list[FileEntry]":
        async def kept(files: KeptFiles) -> list[FileEntry]:
            return files.entries(recursive=recursive)

        return await self._found(
            lambda: super(TaskPlace, self).list(recursive=recursive, after=after, limit=limit), kept
        )

    async def stat(self, name: str) -> FileEntry:
        async def kept(files: KeptFiles) -> FileEntry:
            entry = files.stat(name)
            if entry is None:
                raise BatchError(ErrorCode.FILE_NOT_FOUND)
            return entry

        return await self._found(lambda: super(TaskPlace, self).stat(name), kept, name)

    async def read(self, name: str, *, offset: int, length: int | None) -> FileContent:
        return await self._found(
            lambda: super(TaskPlace, self).read(name, offset=offset, length=length),
            lambda files: self._control.logs.read(files, name, offset=offset, length=length),
            name,
        )

    async def delete(self, name: str, *, recursive: bool) -> None:
        async def remove(files: KeptFiles) -> None:
            await self._control.logs.remove(files, name, recursive=recursive)

        await self._found(lambda: super(TaskPlace, self).delete(name, recursive=recursive), remove, name)
        if self._kept is not None and not self._was_kept:
            with contextlib.suppress(BatchError):
                await self._control.logs.remove(self._kept, name, recursive=True)

    def headers(self) -> Headers:
        return [_KEPT] if self._was_kept else []

    async def _found(
        self,
        on_node: Callable[[], Awaitable[_T]],
        kept: Callable[[KeptFiles], Awaitable[_T]],
        name: str = "",
    ) -> _T:
        """The answer of the node, or else from what is kept."""
        task = self._row.task
        if task.node_id is None:
            error = BatchError(
                ErrorCode.FILE_NOT_FOUND if name else ErrorCode.TASK_FILES_UNAVAILABLE,
                "The task has no files: it has not run yet.",
            )
        else:
            try:
                # A node that died a moment ago is still thought to be there; where there is another way, it is tried soon.
                async with asyncio.timeout(_PATIENCE_S if self._is_current else None):
                    return await on_node()
            except TimeoutError:
                error = BatchError(ErrorCode.NODE_NOT_READY)
            except BatchError as failed:
                error = failed
            if not self._is_current or not await self._is_gone(error):
                raise self._explained(error)
        if self._kept is None:
            raise self._explained(error)
        self._was_kept = True
        try:
            return await kept(self._kept)
        except BatchError as failed:
            raise self._explained(error) if failed.code is ErrorCode.FILE_NOT_FOUND else failed from None

    async def _is_gone(self, error: BatchError) -> bool:
        """Whether the task's directory is gone, and not just one file of it."""
        if error.code in (ErrorCode.NODE_NOT_FOUND, ErrorCode.NODE_NOT_READY):
            return True
        if error.code is not ErrorCode.FILE_NOT_FOUND:
            return False
        try:
            await super().stat("")
        except BatchError as failed:
            return failed.code in (ErrorCode.FILE_NOT_FOUND, ErrorCode.NODE_NOT_FOUND, ErrorCode.NODE_NOT_READY)
        return False

    def _explained(self, error: BatchError) -> BatchError:
        """What an error about files means when they are a task's."""
        if error.code is ErrorCode.NODE_NOT_FOUND:
            return BatchError(ErrorCode.TASK_FILES_UNAVAILABLE)
        if error.code is ErrorCode.FILE_NOT_FOUND and _is_past_retention(self._row, self._control.now()):
            return BatchError(ErrorCode.TASK_FILES_CLEANED_UP)
        return error


async def _node_place(context: Context, request: Request) -> _Place:
    pool: Pool = await require_pool(context, request.params["poolId"])
    node = await require_node(context, pool.id, request.params["nodeId"])
    return _Place(context, pool.id, node.id, "", f"{node_url(request.base_url, pool.id, node.id)}/files")


async def task_place(context: Context, request: Request) -> TaskPlace:
    """Raises BatchError JobNotFound, TaskNotFound."""
    row = await require_task(context, request.params["jobId"], request.params["taskId"])
    job = await require_job(context, request.params["jobId"])
    url = f"{task_url(request.base_url, job.id, row.task.id)}/files"
    kept = await context.control.logs.of(row.task.key)
    return TaskPlace(context, row, task_directory(job.id, row.task.id), url, kept)


def _named(error: BatchError, name: str) -> BatchError:
    """With the name of the file it is about."""
    if error.code in _ABOUT_ONE_FILE:
        error.values.setdefault("FilePath", name[:256])
    return error


def _is_past_retention(row: TaskRow, now: float) -> bool:
    task = row.task
    if task.state is not TaskState.COMPLETED or task.end_time is None:
        return False
    text = msgspec.json.decode(row.spec).get("constraints", {}).get("retentionTime")
    kept_s = _DEFAULT_RETENTION_S if text is None else parse_duration(text)
    return kept_s is not None and now > task.end_time + kept_s


def file_name(path: str) -> str:
    """The file asked for. Raises BatchError FileNotFound for a name that leads elsewhere."""
    name = path.removesuffix("/")
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise BatchError(ErrorCode.FILE_NOT_FOUND)
    return name


async def list_node_files(context: Context, request: Request) -> Response:
    return await _list(context, request, await _node_place(context, request))


async def list_task_files(context: Context, request: Request) -> Response:
    return await _list(context, request, await task_place(context, request))


async def _list(context: Context, request: Request, place: _Place) -> Response:
    recursive = boolean_parameter(request, "recursive")
    where = filter_of(request, properties.FILES)
    limit = page_size(request)
    after = page_start(request) or ""
    chosen: list[FileEntry] = []
    following = None
    # Enough to fill a page and to know whether there is another; with a filter some more at a time.
    wanted = limit + 1 if where is None else MAX_RESULTS
    for _ in range(_MAX_ROUNDS):
        found = await place.list(recursive=recursive, after=after, limit=wanted)
        entries = sorted((entry for entry in found if entry.name > after), key=_name_of)
        passing = [entry for entry in entries if where is None or matches(where, {"name": entry.name})]
        chosen += passing
        if len(chosen) > limit or len(entries) < wanted:
            break
        after = following = entries[-1].name
    else:
        chosen = chosen[:limit]
    if len(chosen) > limit:
        following = chosen[limit - 1].name
    elif len(entries) < wanted:
        following = None
    items = [_file_object(entry, place.files_url) for entry in chosen[:limit]]
    reply = json_reply(request, encode_json(page_of(request, "files", items, following)))
    reply.headers += place.headers()
    return reply


def _name_of(entry: FileEntry) -> str:
    return entry.name


def _file_object(entry: FileEntry, files_url: str) -> dict[str, Any]:
    """Azure Batch: NodeFile. Directories have no properties. `originalContentLength` is ours: of a kept file that is cut."""
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
        if entry.original_size:
            body["properties"]["originalContentLength"] = str(entry.original_size)
    return body


def content_type(name: str) -> str:
    """By the name's ending; `application/octet-stream` when it says nothing."""
    return _TYPES.guess_type(name)[0] or "application/octet-stream"


def _mode_text(mode: int) -> str:
    return f"0o{mode:o}"


async def get_node_file_properties(context: Context, request: Request) -> Response:
    return await _properties(context, request, await _node_place(context, request))


async def get_task_file_properties(context: Context, request: Request) -> Response:
    return await _properties(context, request, await task_place(context, request))


async def _properties(context: Context, request: Request, place: _Place) -> Response:
    name = file_name(request.params["filePath"])
    condition = dates_only(request)
    try:
        entry = await place.stat(name)
    except BatchError as error:
        raise _named(error, name) from None
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
        *place.headers(),
        *([(_ORIGINAL_SIZE, b"%d" % entry.original_size)] if entry.original_size else []),
    ]


async def download_node_file(context: Context, request: Request) -> Response:
    return await _download(context, request, await _node_place(context, request))


async def download_task_file(context: Context, request: Request) -> Response:
    return await _download(context, request, await task_place(context, request))


async def _download(context: Context, request: Request, place: _Place) -> Response:
    """A range is answered 200 with the part of the file: the SDKs take a 206 for an error."""
    name = file_name(request.params["filePath"])
    condition = dates_only(request)
    span = _range_of(request)
    first, last = span or (0, None)
    try:
        if condition is not None:
            entry = await place.stat(name)
            unmet = unmet_read(condition, entry.last_modified)
            if unmet is not None:
                return unmet
        content = await place.read(name, offset=first, length=None if last is None else last - first + 1)
    except BatchError as error:
        raise _named(error, name) from None
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
    return await _delete(context, request, await task_place(context, request))


async def _delete(context: Context, request: Request, place: _Place) -> Response:
    name = file_name(request.params["filePath"])
    recursive = boolean_parameter(request, "recursive")
    await drain(request)
    try:
        await place.delete(name, recursive=recursive)
    except BatchError as error:
        raise _named(error, name) from None
    return done_reply(request)
