"""A proxy for one command: clients with Azure's host names built in reach the local service instead.

The command is given a proxy on loopback and a certificate authority made for it alone, both by environment variables;
nothing else of the machine is touched, and both are gone with the command. Connections to the hosts of Azure Batch, of
Azure Resource Manager and of the sign-in service are answered by the local service; all others are refused, but for
those allowed by name.
"""

import asyncio
import contextlib
import datetime
import logging
import os
import re
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from millpond.tls import TRUSTSTORE_PASSWORD, Authority

HOSTS: Final = (
    r"[a-z0-9-]+(\.[a-z0-9-]+)?\.batch\.azure\.com",
    r"management\.azure\.com",
    r"login\.microsoftonline\.com",
    r"login\.microsoft\.com",
    r"login\.windows\.net",
    r"sts\.windows\.net",
)
"""What is answered by the local service."""

_HEAD_LIMIT: Final = 16 * 1024
_CHUNK: Final = 64 * 1024
_log: Final = logging.getLogger(__name__)
_ANSWERED: Final = re.compile("|".join(HOSTS), re.IGNORECASE)
_CONNECT: Final = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}):(\d{1,5}) HTTP/1\.[01]\r\n")


class Upstream(NamedTuple):
    """The local service."""

    host: str
    port: int
    bundle: str
    """A file of certificates to trust; empty: the machine's own."""

    @classmethod
    def of(cls, url: str, bundle: str) -> "Upstream":
        """Of an https URL."""
        parts = urlsplit(url)
        assert parts.scheme == "https"
        assert parts.hostname is not None
        return cls(parts.hostname, parts.port or 443, bundle)


class Intercept:
    """The proxy. `refused` are the hosts it turned away, in order."""

    def __init__(self, upstream: Upstream, directory: Path, allowed: Sequence[str] = ()) -> None:
        """`directory` is for certificates, `allowed` are hosts that are reached as they are. Raises OSError when the
        service's certificates cannot be read."""
        self._upstream = upstream
        self._directory = directory
        self._allowed = {host.lower() for host in allowed}
        self._authority = Authority.of(directory, datetime.datetime.now(datetime.UTC))
        self._trust = ssl.create_default_context(cafile=upstream.bundle or None)
        # The command reaches the service by its own address as well.
        self._authority.write_trust(directory, Path(upstream.bundle).read_bytes() if upstream.bundle else b"")
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refused: list[str] = []

    @property
    def url(self) -> str:
        """Of the proxy."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def environment(self) -> dict[str, str]:
        """The variables by which a command finds the proxy and trusts what it answers."""
        bundle, truststore = str(self._directory / "ca-bundle.pem"), self._directory / "truststore.p12"
        java = {
            "https.proxyHost": "127.0.0.1",
            "https.proxyPort": self.url.rpartition(":")[2],
            "javax.net.ssl.trustStore": str(truststore),
            "javax.net.ssl.trustStorePassword": TRUSTSTORE_PASSWORD,
        }
        own = "localhost,127.0.0.1,::1"
        return {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), self.url),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), own),
            **dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE"), bundle),
            "NODE_EXTRA_CA_CERTS": bundle,
            "NODE_USE_ENV_PROXY": "1",
            "JAVA_TOOL_OPTIONS": " ".join(f"-D{name}={value}" for name, value in java.items()),
        }

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=_HEAD_LIMIT)

    async def stop(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.debug("a connection ended: %s", error)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        match = _CONNECT.match(head)
        if match is None:
            await _answer(writer, "405 Method Not Allowed", "Only HTTPS is passed on by millpond intercept.")
            return
        host, port = match[1].decode().lower(), int(match[2])
        if host in self._allowed:
            await self._pass(reader, writer, host, port)
        elif port == 443 and _ANSWERED.fullmatch(host):
            await self._replace(reader, writer, host)
        else:
            self.refused.append(host)
            _log.info("refused: %s", host)
            await _answer(
                writer,
                "403 Forbidden",
                f"{host} is not a host that millpond intercept answers for; let it through with --allow {host}",
            )

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError as error:
            await _answer(writer, "502 Bad Gateway", f"{host} cannot be reached: {error}")
            return
        await _established(writer)
        await _relay(reader, writer, far_reader, far_writer)

    async def _replace(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        upstream = self._upstream
        try:
            far_reader, far_writer = await asyncio.open_connection(upstream.host, upstream.port, ssl=self._trust)
        except OSError as error:
            await _answer(writer, "502 Bad Gateway", f"the local service cannot be reached: {error}")
            return
        try:
            await _established(writer)
            await writer.start_tls(await asyncio.to_thread(self._context, host))
        except BaseException:
            far_writer.close()
            raise
        await _relay(reader, writer, far_reader, far_writer)

    def _context(self, host: str) -> ssl.SSLContext:
        context = self._contexts.get(host)
        if context is None:
            directory = self._directory / host
            directory.mkdir(mode=0o700, exist_ok=True)
            self._authority.issue(directory, [host], datetime.datetime.now(datetime.UTC))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(directory / "server.crt", directory / "server.key")
            self._contexts[host] = context
        return context


async def run(
    command: Sequence[str], url: str, bundle: str, *, allowed: Sequence[str] = (), environment: Mapping[str, str]
) -> tuple[int, list[str]]:
    """Run a command behind a proxy for the service at `url`: its exit code (that of a shell), and the hosts refused.

    `environment` is added to the process's own, and to what the proxy needs. Raises OSError when the command cannot be
    started.
    """
    async with _proxy(url, bundle, allowed) as proxy:
        whole = {**os.environ, **proxy.environment(), **environment}
        process = await asyncio.create_subprocess_exec(*command, env=whole)
        # Ctrl-C reaches the command as well, which decides what comes of it.
        code = await process.wait()
        return (128 - code if code < 0 else code), proxy.refused


@contextlib.asynccontextmanager
async def _proxy(url: str, bundle: str, allowed: Sequence[str]) -> AsyncIterator[Intercept]:
    with tempfile.TemporaryDirectory(prefix="millpond-intercept-") as directory:
        proxy = Intercept(Upstream.of(url, bundle), Path(directory), allowed)
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.stop()


async def _established(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await writer.drain()


async def _answer(writer: asyncio.StreamWriter, status: str, text: str) -> None:
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Pass bytes on both ways until both sides have ended."""
    try:
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
    finally:
        far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK):
            writer.write(chunk)
            await writer.drain()
    finally:
        # Over TLS there is no half-closing: the end of one way is the end of both.
        writer.close()
