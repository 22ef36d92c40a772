"""The HTTP server: a socket bound by us, and uvicorn behind it under our own signal handling."""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final, TypeAlias, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millpond.config import ServerConfig

_BACKLOG: Final = 2048
_KEEP_ALIVE_S: Final = 120
"""How long an idle connection stays open: longer than clients and nodes pause between two requests, so that they do
not write into a connection that is just being closed."""
_DRAIN_S: Final = 2
"""How long answers in progress may take once the server stops."""
_HELD_BYTES: Final = 1 << 16
"""More is not held back to be written together."""

_Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]
]
"""An ASGI application."""


class _HeaderName(bytes):
    """A name that keeps its capitals through uvicorn, which lowers every name and compares it with its own."""

    __slots__ = ()

    def lower(self) -> bytes:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes) and bytes.lower(self) == bytes.lower(other)

    def __hash__(self) -> int:
        return hash(bytes.lower(self))


_SPELLED: Final = {
    bytes.lower(name): name
    for name in map(
        _HeaderName,
        (
            b"Content-Length",
            b"Content-Type",
            b"DataServiceId",
            b"DataServiceVersion",
            b"ETag",
            b"Last-Modified",
            b"Location",
            b"Retry-After",
            b"WWW-Authenticate",
        ),
    )
}
"""Headers as Azure Batch spells them: the Java client looks `Content-Length` and `ETag` up by exactly these letters."""


def spelled_as_azure(application: Application) -> Application:
    """The application with the names of its answers' headers in Azure's capitals."""

    async def spelled(
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        async def send_spelled(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [(_SPELLED.get(name, name), value) for name, value in message["headers"]]
            await send(message)

        await application(scope, receive, send_spelled)

    return spelled


class _OneWrite:
    """A transport that passes on together what is written in one turn of the event loop.

    uvicorn writes the head of an answer and its body one after the other; each would be a system call and wake the
    client, which costs more than all the rest of a small answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._held:
            self._call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > _HELD_BYTES:
            # Now, so that whoever streams learns that the client is slow.
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _flush(self) -> None:
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", _OneWrite(cast("asyncio.Transport", transport))))


class ListenError(Exception):
    """The address cannot be listened on. The text is one line that says why and what to do."""


def listen(server: ServerConfig) -> socket.socket:
    """The listening socket. Raises ListenError."""
    where = f"port {server.port} on {server.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"{server.host} is not an address of this machine; choose another with --host") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Bound is not enough: two sockets with SO_REUSEADDR may share a port until one of them listens.
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"{where} is in use; choose another with --port (0 takes a free one)") from error
        if error.errno == errno.EACCES:
            raise ListenError(f"{where} may not be used by this user; choose one above 1023 with --port") from error
        raise ListenError(f"cannot listen on {where} ({error.strerror}); choose another address with --host") from error
    return listener


def url_of(listener: socket.socket, *, tls_host: str = "") -> str:
    """The URL by which this machine reaches the socket: https with `tls_host`, by that name."""
    host, port = listener.getsockname()[:2]
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - names the wildcard, does not bind it
    host = tls_host or wildcards.get(host, host)
    scheme = "https" if tls_host else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class HttpServer:
    """Serves an ASGI application on a listening socket until it is stopped: https with a certificate and its key, which
    are PEM files."""

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        *,
        certificate: str | None = None,
        key: str | None = None,
    ) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                spelled_as_azure(application),
                loop="none",
                http=_Protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_DRAIN_S,
                backlog=_BACKLOG,
                ssl_certfile=certificate,
                ssl_keyfile=key,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when connections are taken."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="http-server")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self._task

    async def stop(self) -> None:
        """Take no more connections, give answers in progress a moment, close."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the application's business (`app`), which has more to stop than this server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
