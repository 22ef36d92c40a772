"""The account's auto-storage over HTTP: what its signed URLs lead to. Disk work is done in threads."""

import asyncio
import errno
import logging
import re
from collections.abc import AsyncIterator
from typing import IO, Any, Final

import msgspec

from millpond.api.http import (
    BodyStream,
    ClientDisconnected,
    Headers,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    route_path,
    send_response,
)
from millpond.api.percent import decode_component
from millpond.domain.durations import format_http_date
from millpond.domain.errors import BatchError
from millpond.staging.account_storage import BlobFacts, StorageError
from millpond.staging.auto_storage import (
    PATH_PREFIX,
    AutoStorage,
    is_blob_name,
    is_container_name,
)

CHUNK_BYTES: Final = 256 * 1024
_log: Final = logging.getLogger(__name__)
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})\Z")
_PERMISSIONS: Final = {"GET": "r", "HEAD": "r", "PUT": "w", "DELETE": "d"}
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageRoutes:
    """GET, HEAD, PUT, DELETE of blobs and GET of listings. An error is a small JSON object: `code`, `message`."""

    def __init__(self, storage: AutoStorage) -> None:
        self._storage = storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, "")
        stream = BodyStream(receive)
        try:
            response = await self._answer(request, stream)
        except ClientDisconnected:
            return
        if request.method == "PUT" and not stream.complete:
            response.headers.append((b"connection", b"close"))
        await send_response(send, receive, response, head=request.method == "HEAD")

    async def _answer(self, request: Request, stream: BodyStream) -> Response:
        try:
            return await self._perform(request, stream)
        except StorageError as error:
            return _failure(error)
        except BatchError as error:
            return _failure(StorageError(error.status, error.code.value, error.message))
        except OSError as error:
            if error.errno in _FULL:
                return _failure(StorageError(507, "InsufficientStorage", "The storage is full."))
            _log.exception("storage request %s %r failed", request.method, request.raw_path)
            return _failure(StorageError(500, "InternalError", "The storage could not be read or written."))

    async def _perform(self, request: Request, stream: BodyStream) -> Response:
        request.read_query()
        container, blob = _names(request)
        if blob is None:
            if request.method != "GET" or request.query.get("comp") != "list":
                raise StorageError(405, "UnsupportedHttpVerb", "Of a container there is only GET with comp=list.")
            return await self._list(request, container)
        permission = _PERMISSIONS.get(request.method)
        if permission is None:
            raise StorageError(405, "UnsupportedHttpVerb", "A blob takes GET, HEAD, PUT and DELETE.")
        self._storage.authorize(container, blob, request.query, permission)
        if request.method == "PUT":
            return await self._put(request, stream, container, blob)
        if request.method == "DELETE":
            await asyncio.to_thread(self._storage.delete, container, blob)
            return Response(202)
        return await self._get(request, container, blob)

    async def _list(self, request: Request, container: str) -> Response:
        self._storage.authorize(container, None, request.query, "l")
        prefix, marker = request.query.get("prefix", ""), request.query.get("marker")
        page = await asyncio.to_thread(self._storage.list, container, prefix, marker)
        body: dict[str, Any] = {"blobs": page.blobs, "next": page.next}
        return Response(200, [(b"content-type", b"application/json")], msgspec.json.encode(body))

    async def _get(self, request: Request, container: str, blob: str) -> Response:
        if request.method == "HEAD":
            facts = await asyncio.to_thread(self._storage.stat, container, blob)
            return Response(200, _blob_headers(facts), length=facts.size)
        file, facts = await asyncio.to_thread(self._storage.open_file, container, blob)
        if request.header(b"if-none-match") == facts.etag:
            file.close()
            return Response(304, _blob_headers(facts))
        try:
            span = _range_of(request, facts)
        except StorageError as error:
            file.close()
            response = _failure(error)
            response.headers.append((b"content-range", b"bytes */%d" % facts.size))
            return response
        first, end = span or (0, facts.size)
        headers = _blob_headers(facts)
        if span is not None:
            headers.append((b"content-range", f"bytes {first}-{end - 1}/{facts.size}".encode()))

        async def close() -> None:
            await asyncio.to_thread(file.close)

        status = 200 if span is None else 206
        return Response(status, headers, _read(file, first, end - first), end - first, close)

    async def _put(self, request: Request, stream: BodyStream, container: str, blob: str) -> Response:
        declared = _content_length(request)
        file, path = await asyncio.to_thread(self._storage.begin_upload)
        kept = False
        try:
            size = await _write(file, stream)
            if declared is not None and size != declared:
                raise StorageError(400, "InvalidInput", f"{declared} bytes were announced, {size} came.")
            facts = await asyncio.to_thread(self._storage.finish_upload, file, path, container, blob)
            kept = True
        finally:
            if not kept:
                self._storage.abandon_upload(file, path)
        return Response(201, [(b"etag", facts.etag.encode()), _last_modified(facts)])


def _names(request: Request) -> tuple[str, str | None]:
    """Container and blob of the path, split first and decoded after. Raises StorageError 400."""
    rest = route_path(request.scope)[len(PATH_PREFIX) :]
    raw_container, slash, raw_blob = rest.partition(b"/")
    try:
        container = decode_component(raw_container).decode()
        blob = decode_component(raw_blob).decode() if slash and raw_blob else None
    except UnicodeDecodeError:
        raise StorageError(400, "InvalidUri", "The path is not UTF-8 text.") from None
    if not is_container_name(container):
        raise StorageError(400, "InvalidResourceName", "A container's name has 3 to 63 a-z, 0-9, single hyphens.")
    if blob is not None and not is_blob_name(blob):
        raise StorageError(400, "InvalidUri", "A blob's name is a relative path without '..' and empty parts.")
    return container, blob


def _content_length(request: Request) -> int | None:
    text = request.header(b"content-length")
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise StorageError(400, "InvalidHeaderValue", "Content-Length is not a number.")
    return int(text)


def _range_of(request: Request, facts: BlobFacts) -> tuple[int, int] | None:
    """(first, end) of the bytes asked for, `end` exclusive; None is the whole blob, also for a Range that is none, has
    several parts, or is of what the blob was before (If-Range, RFC 9110). Raises StorageError 416."""
    size = facts.size
    text = request.header(b"range") or request.header(b"x-ms-range")
    if request.header(b"if-range") not in (None, facts.etag, format_http_date(facts.last_modified)):
        return None
    match = _RANGE.match(text.strip()) if text else None
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        wanted = int(match[2])
        first, end = max(size - wanted, 0), size
        unsatisfiable = wanted == 0 or size == 0
    else:
        first = int(match[1])
        if match[2] and int(match[2]) < first:
            return None
        end = min(int(match[2]) + 1, size) if match[2] else size
        unsatisfiable = first >= size
    if unsatisfiable:
        raise StorageError(416, "InvalidRange", f"The blob has {size} bytes.")
    return first, end


async def _write(file: IO[bytes], stream: BodyStream) -> int:
    """Write the body, gathered into larger pieces; how many bytes came."""
    size = 0
    gathered: list[bytes] = []
    waiting = 0
    async for chunk in stream:
        gathered.append(chunk)
        waiting += len(chunk)
        if waiting >= CHUNK_BYTES:
            await asyncio.to_thread(file.writelines, gathered)
            size += waiting
            gathered, waiting = [], 0
    if gathered:
        await asyncio.to_thread(file.writelines, gathered)
    return size + waiting


async def _read(file: IO[bytes], first: int, length: int) -> AsyncIterator[bytes]:
    left = length
    if first:
        file.seek(first)
    while left > 0:
        chunk = await asyncio.to_thread(file.read, min(left, CHUNK_BYTES))
        if not chunk:
            raise ConnectionResetError("the blob is shorter than it was")
        left -= len(chunk)
        yield chunk


def _blob_headers(facts: BlobFacts) -> Headers:
    return [
        (b"content-type", b"application/octet-stream"),
        (b"accept-ranges", b"bytes"),
        (b"etag", facts.etag.encode()),
        _last_modified(facts),
    ]


def _last_modified(facts: BlobFacts) -> tuple[bytes, bytes]:
    return (b"last-modified", format_http_date(facts.last_modified).encode())


def _failure(error: StorageError) -> Response:
    body = msgspec.json.encode({"code": error.code, "message": error.message})
    return Response(error.status, [(b"content-type", b"application/json")], body)
