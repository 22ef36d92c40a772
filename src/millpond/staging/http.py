"""Staging over HTTP: files by URL, Azure-style signed container URLs, and Millpond's own auto-storage.

A container URL is `https://host/path?signature`: a file of it is a further path segment, a listing `comp=list` in the
query. Listings are understood as JSON (`{"blobs": [{"name", "size"}], "next": marker or null}`, auto-storage) and as
Azure's XML.
"""

import asyncio
import contextlib
import errno
import functools
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from xml.etree import ElementTree as ET

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Fetched, RemoteFile
from millpond.staging.threads import finish_in_thread

_CHUNK: Final = 1 << 18
_ATTEMPTS: Final = 3
_STORAGE_VERSION: Final = "2021-08-06"
"""Of the Azure Blob protocol: any that knows block blobs."""
_MAX_LISTING: Final = 64 << 20
_MAX_PAGES: Final = 10_000
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_BEFORE_XML: Final = b"\xef\xbb\xbf \r\n\t"
"""A byte order mark, or blanks."""

_Result = TypeVar("_Result")
_C = TaskFailureCode


class _Codes(msgspec.Struct, frozen=True):
    """The failure codes of one kind of transfer."""

    what: str
    not_found: TaskFailureCode
    access_denied: TaskFailureCode
    timed_out: TaskFailureCode
    other: TaskFailureCode
    conflict: TaskFailureCode | None = None


_FETCH: Final = _Codes(
    "download", _C.BLOB_NOT_FOUND, _C.BLOB_ACCESS_DENIED, _C.BLOB_DOWNLOAD_TIMED_OUT, _C.BLOB_DOWNLOAD_MISC_ERROR
)
_LIST: Final = _Codes(
    "listing",
    _C.RESOURCE_CONTAINER_NOT_FOUND,
    _C.RESOURCE_CONTAINER_ACCESS_DENIED,
    _C.RESOURCE_CONTAINER_LIST_MISC_ERROR,
    _C.RESOURCE_CONTAINER_LIST_MISC_ERROR,
)
_PUT: Final = _Codes(
    "upload",
    _C.FILE_UPLOAD_CONTAINER_NOT_FOUND,
    _C.FILE_UPLOAD_ACCESS_DENIED,
    _C.FILE_UPLOAD_TIMED_OUT,
    _C.FILE_UPLOAD_MISC_ERROR,
    _C.FILE_UPLOAD_CONFLICT,
)


class _Blob(msgspec.Struct, frozen=True):
    name: str
    size: int = 0
    etag: str = ""


class _Page(msgspec.Struct, frozen=True):
    blobs: tuple[_Blob, ...] = ()
    next: str | None = None


class _Transient(Exception):
    """A failure that may pass: tried again, then told as its cause."""

    def __init__(self, failure: TaskFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class HttpStaging:
    """Implements `staging.base.Staging`.

    `backoff_s` is the pause before the second try, doubled for each further one. `connect_s` and `silence_s` are how
    long a connection may take to be made, and may then carry nothing. The session is made on first use, in the running
    loop; `close` ends it.
    """

    def __init__(self, *, backoff_s: float = 0.5, connect_s: float = 30.0, silence_s: float = 60.0) -> None:
        self._backoff_s = backoff_s
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silence_s)
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        """See `Staging.fetch`. The bytes are stored as they come, also when the server calls them compressed."""
        return await self._retried(_FETCH, url, lambda: self._fetch(url, path, known_etag))

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        """See `Staging.put`."""
        url = self.file_url(container_url, name)
        await self._retried(_PUT, url, lambda: self._put(path, url, headers))

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        """See `Staging.list`."""
        found: list[RemoteFile] = []
        marker = ""
        for _ in range(_MAX_PAGES):
            url = _with_query(
                container_url, {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
            )
            page = await self._retried(_LIST, url, functools.partial(self._page, url))
            found += [
                RemoteFile(blob.name, blob.size, blob.etag) for blob in page.blobs if blob.name.startswith(prefix)
            ]
            if not page.next or page.next == marker:
                return found
            marker = page.next
        raise _failure(_LIST, _LIST.other, container_url, "the listing does not end")

    def file_url(self, container_url: str, name: str) -> str:
        """See `Staging.file_url`."""
        parts = urlsplit(container_url)
        path = f"{parts.path.rstrip('/')}/{quote(name.lstrip('/'), safe='/~')}"
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    async def close(self) -> None:
        """See `Staging.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- one try ------------------------------------------------------------------------------------------------

    async def _fetch(self, url: str, path: str, known_etag: str) -> Fetched | None:
        partial = f"{path}.{uuid.uuid4().hex}.part"
        try:
            async with self._open(
                "GET", url, headers={"If-None-Match": known_etag} if known_etag else None
            ) as response:
                if known_etag and response.status == 304:
                    return None
                await _check(response, _FETCH, url)
                with _local(_C.RESOURCE_FILE_CREATE_FAILED):
                    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
                try:
                    await _copy(response.content, descriptor)
                    fetched = Fetched(os.fstat(descriptor).st_size, response.headers.get("ETag", ""))
                finally:
                    os.close(descriptor)
            with _local(_C.RESOURCE_FILE_CREATE_FAILED):
                os.replace(partial, path)
            return fetched
        finally:
            with contextlib.suppress(OSError):
                os.unlink(partial)

    async def _put(self, path: str, url: str, headers: Mapping[str, str]) -> None:
        with _local(_PUT.other):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            sent = CIMultiDict({"Content-Type": "application/octet-stream", "x-ms-version": _STORAGE_VERSION})
            sent.update(headers)
            sent.update({"x-ms-blob-type": "BlockBlob", "Content-Length": str(size)})
            async with self._open("PUT", url, headers=sent, data=_read(descriptor, size)) as response:
                await _check(response, _PUT, url)
        finally:
            os.close(descriptor)

    async def _page(self, url: str) -> _Page:
        async with self._open("GET", url) as response:
            await _check(response, _LIST, url)
            text = await response.content.read(_MAX_LISTING)
            while not response.content.at_eof():
                if len(text) >= _MAX_LISTING:
                    raise _failure(_LIST, _LIST.other, url, "a page of the listing is too long")
                text += await response.content.read(_MAX_LISTING - len(text))
        try:
            return _parse_xml(text) if text.lstrip(_BEFORE_XML).startswith(b"<") else _parse_json(text)
        except (msgspec.MsgspecError, ET.ParseError, ValueError) as error:
            raise _failure(_LIST, _LIST.other, url, f"the answer is not a listing ({error})") from error

    def _open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: AsyncIterator[bytes] | None = None,
    ) -> "aiohttp.client._RequestContextManager":
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                auto_decompress=False,
                requote_redirect_url=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "millpond-agent"},
                connector=aiohttp.TCPConnector(limit=64, limit_per_host=32),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        return self._session.request(method, _url(url), headers=headers, data=data)

    # --- trying again -------------------------------------------------------------------------------------------

    async def _retried(self, codes: _Codes, url: str, work: Callable[[], Awaitable[_Result]]) -> _Result:
        for tried in range(1, _ATTEMPTS + 1):
            try:
                return await self._told(codes, url, work)
            except _Transient as transient:
                if tried == _ATTEMPTS:
                    raise transient.failure from transient
            await asyncio.sleep(self._backoff_s * 2 ** (tried - 1))
        raise AssertionError("the last try returns or raises")

    async def _told(self, codes: _Codes, url: str, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """The work, with the transport's errors told as failures."""
        try:
            return await work()
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
            raise _failure(codes, codes.other, url, "it is, or leads to, no URL that can be used") from error
        except TimeoutError as error:
            raise _Transient(_failure(codes, codes.timed_out, url, "the server did not answer in time")) from error
        except (aiohttp.TooManyRedirects, aiohttp.ClientSSLError) as error:
            raise _failure(codes, codes.other, url, _reason(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Transient(_failure(codes, codes.other, url, _reason(error))) from error


async def _copy(content: aiohttp.StreamReader, descriptor: int) -> None:
    """Small files are written at once, big ones in a thread: the disk may make a writer wait."""
    pending = bytearray()
    threaded = False
    async for chunk in content.iter_any():
        pending += chunk
        if len(pending) >= _CHUNK:
            threaded = True
            await finish_in_thread(_write, descriptor, pending)
            pending.clear()
    if threaded:
        await finish_in_thread(_write, descriptor, pending)
    else:
        _write(descriptor, pending)


def _write(descriptor: int, data: bytearray) -> None:
    with _local(_C.RESOURCE_FILE_WRITE_FAILED), memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])


async def _read(descriptor: int, size: int) -> AsyncIterator[bytes]:
    """The first `size` bytes of a file, by position, so that a second try begins at the start again."""
    position = 0
    while position < size:
        length = min(_CHUNK, size - position)
        if size <= _CHUNK:
            data = os.pread(descriptor, length, position)
        else:
            data = await finish_in_thread(os.pread, descriptor, length, position)
        if not data:
            raise TaskFailure(_C.FILE_UPLOAD_MISC_ERROR, "A file got shorter while it was uploaded")
        position += len(data)
        yield data


async def _check(response: aiohttp.ClientResponse, codes: _Codes, url: str) -> None:
    """Raise for an answer that is not a success."""
    status = response.status
    if 200 <= status < 300:
        return
    # A server that is asked for no more than its error may keep the connection.
    text = (await response.content.read(512)).decode(errors="replace")
    details = {"HttpStatus": str(status)}
    if reason := response.headers.get("x-ms-error-code", ""):
        details["ErrorCode"] = reason
    message = f"the server answered {status} {response.reason or ''}".rstrip()
    code = {
        401: codes.access_denied,
        403: codes.access_denied,
        404: codes.not_found,
        410: codes.not_found,
        408: codes.timed_out,
        504: codes.timed_out,
        409: codes.conflict or codes.other,
        412: codes.conflict or codes.other,
    }.get(status, codes.other)
    if text and not reason:
        details["Answer"] = text
    failure = _failure(codes, code, url, message, **details)
    raise _Transient(failure) if status in _TRANSIENT else failure


def _failure(codes: _Codes, code: TaskFailureCode, url: str, reason: str, **details: str) -> TaskFailure:
    shown = without_authority(url)
    failure = TaskFailure(code, f"The {codes.what} of {shown} failed: {reason}", FilePath=shown)
    failure.details.update(details)
    return failure


def _reason(error: Exception) -> str:
    """What an error says, unless it says a URL: that would tell its signature."""
    text = str(error)
    return text if text and "?" not in text and "://" not in text else type(error).__name__


def without_authority(url: str) -> str:
    """A URL as it may be shown: without its query, which holds the signature, and without user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextlib.contextmanager
def _local(code: TaskFailureCode) -> Iterator[None]:
    """Tell errors of the local disk as failures, not to be mistaken for the transport's."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise TaskFailure(_C.DISK_FULL, "There is not enough disk space on the node for a file") from error
        reason = error.strerror or type(error).__name__
        raise TaskFailure(code, f"A local file could not be used: {reason}", Reason=reason) from error


def _url(text: str) -> URL:
    """A URL as given: a signature is over its exact text. One with characters no URL may hold is quoted."""
    url = URL(text, encoded=text.isascii() and text.isprintable() and " " not in text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("it must begin with http:// or https:// and name a host")
    return url


def _with_query(url: str, more: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, urlencode(more, quote_via=quote)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def _parse_json(text: bytes) -> _Page:
    return msgspec.json.decode(text, type=_Page)


def _parse_xml(text: bytes) -> _Page:
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError("it has a document type")
    root = ET.fromstring(text)  # noqa: S314  entities need a document type, refused above
    if root.tag != "EnumerationResults":
        raise ValueError(f"its root is {root.tag!r}")
    blobs = [
        _Blob(
            blob.findtext("Name") or "",
            int(blob.findtext("Properties/Content-Length") or 0),
            _quoted(blob.findtext("Properties/Etag") or ""),
        )
        for blob in root.iterfind("Blobs/Blob")
    ]
    return _Page(tuple(blob for blob in blobs if blob.name), root.findtext("NextMarker") or None)


def _quoted(etag: str) -> str:
    """Listings say ETags without the quotes they have in headers."""
    return f'"{etag}"' if etag and not etag.endswith('"') else etag
