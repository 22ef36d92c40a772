"""The node's calls over HTTP, with one aiohttp session for all nodes of the process."""

import asyncio
import base64
import random
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

import aiohttp
import msgspec

from millpond.agent.listening import HostListening, Listens, TransportError
from millpond.agent.logs import LogsRefused
from millpond.agent.sync_gatherer import SyncGatherer
from millpond.protocol.messages import (
    CONTENT_TYPE,
    FILE_REPLY_HEADER,
    FILE_REPLY_PATH,
    HELLO_PATH,
    LAUNCH_REPLY_PATH,
    LISTEN_PATH,
    LOGS_PATH,
    NODE_HEADER,
    SYNCS_PATH,
    FileReply,
    Hello,
    LaunchReply,
    Listen,
    Logs,
    News,
    NodeMetrics,
    NodeReply,
    NodeSync,
    Sync,
    SyncReplies,
    SyncReply,
    Syncs,
    Welcome,
)

_T = TypeVar("_T")

_KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which the usual servers close an idle connection: else a call could be sent into the closing."""
_CONNECT_S: Final = 10.0
_ERROR_TEXT: Final = 200
_REFUSALS: Final = frozenset({400, 404, 413})
"""Sent again, the same would be answered the same."""

_CONTENT: Final = {"Content-Type": CONTENT_TYPE}
_encoder: Final = msgspec.msgpack.Encoder()
_welcome_decoder: Final = msgspec.msgpack.Decoder(Welcome)
_news_decoder: Final = msgspec.msgpack.Decoder(News)
_replies_decoder: Final = msgspec.msgpack.Decoder(SyncReplies)


def open_session() -> aiohttp.ClientSession:
    """The HTTP session to share; close it at the end."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )


class EndpointFile:
    """The URL of the service, from a file that the service writes; read again after every failure, since a restarted
    service may be elsewhere."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._url = ""

    def url(self) -> str:
        """Without a slash at its end. Raises TransportError while there is none."""
        if not self._url:
            try:
                with open(self._path, encoding="utf-8") as file:
                    self._url = file.read().strip().rstrip("/")
            except OSError as error:
                raise TransportError(f"no endpoint: {error}") from error
            if not self._url:
                raise TransportError("no endpoint yet")
        return self._url

    def forget(self) -> None:
        self._url = ""


class HttpHost:
    """What the nodes of a host share: the call that listens for all of them, and their reports, in one call where several
    have some. To be closed before the session is."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: EndpointFile) -> None:
        self.session = session
        self.endpoint = endpoint
        self._gatherer = SyncGatherer(self._send)
        self._listening = HostListening(self._listen, host_id=secrets.token_urlsafe(24), chance=random.random)

    async def sync(self, sync: Sync, token: str) -> SyncReply:
        return await self._gatherer.sync(sync, token)

    def listen(self, node_id: str, token: str, session: str, park_s: float, node: Listens) -> Callable[[], None]:
        place = self._listening.join(node_id, token, session, park_s, node)
        return lambda: self._listening.leave(place)

    @property
    def last_heard(self) -> float | None:
        """Event loop time of the last answer to the call that listens."""
        return self._listening.last_heard

    def tell(self, metrics: NodeMetrics) -> None:
        """How busy the machine is."""
        self._listening.tell(metrics)

    def moved(self) -> None:
        """The endpoint may have changed."""
        self.endpoint.forget()
        self._listening.nudge()

    async def close(self) -> None:
        await self._gatherer.close()
        await self._listening.close()

    async def _listen(self, call: Listen) -> News:
        return await _call(self.session, self.endpoint, LISTEN_PATH, _CONTENT, call, _news_decoder)

    async def _send(self, syncs: list[NodeSync]) -> tuple[NodeReply, ...]:
        message = Syncs(tuple(syncs))
        return (await _call(self.session, self.endpoint, SYNCS_PATH, _CONTENT, message, _replies_decoder)).replies


class HttpTransport:
    """One node's calls, some of them its host's."""

    def __init__(self, host: HttpHost, *, node_id: str, token: str) -> None:
        self._host = host
        self._session = host.session
        self._endpoint = host.endpoint
        self._node_id = node_id
        self._token = token
        self._headers = _headers(node_id, token)

    async def hello(self, hello: Hello) -> Welcome:
        return await _call(self._session, self._endpoint, HELLO_PATH, self._headers, hello, _welcome_decoder)

    async def sync(self, sync: Sync) -> SyncReply:
        return await self._host.sync(sync, self._token)

    def listen(self, session: str, park_s: float, node: Listens) -> Callable[[], None]:
        return self._host.listen(self._node_id, self._token, session, park_s, node)

    async def send_file_reply(self, request_id: str, reply: FileReply, body: AsyncIterator[bytes] | None) -> None:
        packed = _encoder.encode(reply)
        headers = self._headers
        if body is not None:
            head = base64.urlsafe_b64encode(packed).decode("ascii")
            headers = headers | {FILE_REPLY_HEADER: head, "Content-Type": "application/octet-stream"}
        await self._send(f"{FILE_REPLY_PATH}{request_id}", packed if body is None else body, headers)

    async def send_launch_reply(self, request_id: str, reply: LaunchReply) -> None:
        await self._send(f"{LAUNCH_REPLY_PATH}{request_id}", _encoder.encode(reply), self._headers)

    async def send_logs(self, logs: Logs) -> None:
        """See `logs.LogTransport`."""
        try:
            await self._send(LOGS_PATH, _encoder.encode(logs), self._headers)
        except HttpError as error:
            if error.status in _REFUSALS:
                raise LogsRefused(str(error)) from error
            raise

    async def _send(self, path: str, body: bytes | AsyncIterator[bytes], headers: dict[str, str]) -> None:
        url = self._endpoint.url() + path
        try:
            async with self._session.post(url, data=body, headers=headers) as answer:
                await _check(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(f"{type(error).__name__}: {error}") from error


class HttpError(TransportError):
    """The service answered, but not as hoped."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status not in {200, 202, 204}:
        text = (await answer.content.read(_ERROR_TEXT)).decode("utf-8", "replace")
        raise HttpError(answer.status, text)


def _headers(node_id: str, token: str) -> dict[str, str]:
    return {NODE_HEADER: node_id, "Authorization": f"Bearer {token}", "Content-Type": CONTENT_TYPE}


async def _call(
    session: aiohttp.ClientSession,
    endpoint: EndpointFile,
    path: str,
    headers: dict[str, str],
    message: msgspec.Struct,
    decoder: "msgspec.msgpack.Decoder[_T]",
) -> _T:
    """Raises TransportError, and has the endpoint looked up again, when there is no proper answer."""
    url = endpoint.url() + path
    try:
        async with session.post(url, data=_encoder.encode(message), headers=headers) as answer:
            await _check(answer)
            return decoder.decode(await answer.read())
    except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
        endpoint.forget()
        raise TransportError(f"{type(error).__name__}: {error}") from error
    except (TransportError, asyncio.CancelledError):
        # Cancelled: the answer did not come in time, or the service is said to have moved.
        endpoint.forget()
        raise
