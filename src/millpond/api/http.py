"""One HTTP request and its answer, on bare ASGI."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from millpond.domain.errors import BatchError, ErrorCode

if TYPE_CHECKING:
    from millpond.api.operations import Operation
from millpond.api.percent import decode_component

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

_log: Final = logging.getLogger(__name__)

MAX_QUERY_PARAMETERS: Final = 64
_HOST_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]")


class ClientDisconnected(Exception):
    """The client went away in the middle of its request: there is nobody to answer."""


class Response(msgspec.Struct):
    """What is sent back. A body that is an iterator is streamed; `length` is then its Content-Length."""

    status: int
    headers: Headers = msgspec.field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""
    length: int | None = None
    close: Callable[[], Awaitable[None]] | None = None
    """Lets go of what a streamed body comes from; called in any case, also when the stream was never begun."""
    live: bool = False
    """A streamed body that may be silent for long: its source is let go of as soon as the client is gone."""
    of_tasks: bool = False
    """A JSON body about tasks alone (see `versions.answer_for`)."""


def split_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """The decoded (name, value) pairs of a query string, in order; parameters with an empty value are left out.

    Raises BatchError when there are absurdly many.
    """
    if not query:
        return []
    pieces = query.split(b"&")
    if len(pieces) > MAX_QUERY_PARAMETERS:
        raise BatchError(ErrorCode.INVALID_URI, f"The query has more than {MAX_QUERY_PARAMETERS} parameters.")
    pairs = []
    for piece in pieces:
        name, _, value = piece.partition(b"=")
        if value:
            pairs.append((decode_component(name, plus=True), decode_component(value, plus=True)))
    return pairs


class Request:
    """One request for a Batch operation. `params` are the decoded path parameters, `query` the query by lower-case
    name (the first value of a repeated one)."""

    __slots__ = (
        "_base_url",
        "_receive",
        "headers",
        "method",
        "operation",
        "params",
        "query",
        "query_pairs",
        "raw_path",
        "request_id",
        "scope",
        "version",
    )

    operation: "Operation"
    version: str
    """The api-version, once it is known to be one that has the operation."""

    def __init__(self, scope: Scope, receive: Receive, request_id: str) -> None:
        self.scope = scope
        self._receive = receive
        self.request_id = request_id
        self.method: str = scope["method"]
        self.raw_path = raw_path_of(scope)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.query_pairs: list[tuple[bytes, bytes]] = []
        self.query: dict[str, str] = {}
        self.params: dict[str, str] = {}
        self._base_url: str | None = None

    def read_query(self) -> None:
        """Decode the query into `query_pairs` and `query`. Raises BatchError InvalidUri, InvalidQueryParameterValue."""
        self.query_pairs = split_query(self.scope["query_string"])
        for name, value in self.query_pairs:
            try:
                self.query.setdefault(name.decode().lower(), value.decode())
            except UnicodeDecodeError:
                raise BatchError(
                    ErrorCode.INVALID_QUERY_PARAMETER_VALUE, "A query parameter is not UTF-8 text."
                ) from None

    @property
    def base_url(self) -> str:
        """Scheme, host and prefix as the client used them, without a trailing slash; safe inside a JSON string."""
        if self._base_url is None:
            self._base_url = f"{self.scope.get('scheme', 'http')}://{self._host()}{prefix_of(self.scope)}"
        return self._base_url

    def require_host(self) -> None:
        """Raises BatchError InvalidHeaderValue for a Host no URL can be made of: before anything is changed."""
        self._host()

    def _host(self) -> str:
        host = self.headers.get(b"host", b"")
        if host:
            if not _HOST_BYTES.issuperset(host):
                raise BatchError(
                    ErrorCode.INVALID_HEADER_VALUE,
                    HeaderName="Host",
                    HeaderValue=host[:256].decode("latin-1"),
                )
            return host.decode("ascii")
        server = self.scope.get("server")
        return f"{server[0]}:{server[1]}" if server and server[1] else "localhost"

    def header(self, name: bytes) -> str | None:
        """A header's text (lower-case name), or None."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises BatchError RequestBodyTooLarge above `limit` bytes, ClientDisconnected."""
        declared = self.headers.get(b"content-length")
        if declared is not None and declared.isdigit() and int(declared[:20]) > limit:
            raise _too_large(limit)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            whole: bytes = message.get("body", b"")
            if len(whole) > limit:
                raise _too_large(limit)
            return whole
        chunks = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise ClientDisconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await self._receive()


class BodyStream:
    """A request's body as it comes in. `complete` once all of it was taken."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises ClientDisconnected when the client stops in the middle."""
        while not self.complete:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientDisconnected
            self.complete = not message.get("more_body")
            chunk = message.get("body", b"")
            if chunk:
                yield chunk


def _too_large(limit: int) -> BatchError:
    return BatchError(ErrorCode.REQUEST_BODY_TOO_LARGE, MaxLimit=str(limit))


def raw_path_of(scope: Scope) -> bytes:
    """The path as it came over the wire, still encoded, with any prefix."""
    raw: bytes | None = scope.get("raw_path")
    if raw is None:
        path: str = scope["path"]
        return path.encode()
    return raw.partition(b"?")[0]


def prefix_of(scope: Scope) -> str:
    """The prefix under which the service is mounted (ASGI: root_path), without a trailing slash."""
    root: str = scope.get("root_path", "")
    return root.rstrip("/")


def route_path(scope: Scope) -> bytes:
    """The raw path without the prefix."""
    raw = raw_path_of(scope)
    prefix = prefix_of(scope).encode()
    return raw[len(prefix) :] if prefix and raw.startswith(prefix + b"/") else raw


async def send_response(send: Send, receive: Receive, response: Response, *, head: bool) -> None:
    """Send a response; of an answer to HEAD only the head, its Content-Length saying what GET would have brought.

    A streamed body stops when the client goes away. When its source fails in the middle, the answer is left unfinished,
    which closes the connection: the client sees that it is short.
    """
    body = response.body
    headers = response.headers
    if isinstance(body, bytes):
        if response.status not in (204, 304):
            length = len(body) if response.length is None else response.length
            headers.append((b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else body})
        return
    if response.length is not None:
        headers.append((b"content-length", b"%d" % response.length))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if not head and response.live:
            if not await _send_live(send, body, gone):
                return
        elif not head:
            async for chunk in body:
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except (BatchError, OSError) as error:
        _log.warning("a response was cut short: %s", error)
    finally:
        gone.cancel()
        await asyncio.wait((gone,))
        if response.close is not None:
            await response.close()


async def _send_live(send: Send, body: AsyncIterator[bytes], gone: "asyncio.Future[None]") -> bool:
    """Whether it was sent to its end."""

    async def pump() -> None:
        async for chunk in body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    pumping = asyncio.ensure_future(pump())
    try:
        await asyncio.wait((pumping, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        pumping.cancel()
        await asyncio.wait((pumping,))
    if pumping.cancelled():
        return False
    pumping.result()
    return True


async def _disconnected(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
