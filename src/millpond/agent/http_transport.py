"""The node's calls over HTTP, with one aiohttp session for all nodes of the process."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Final, TypeVar

import aiohttp
import msgspec

from millpond.agent.link import TransportError
from millpond.agent.logs import LogsRefused
from millpond.protocol.messages import (
    CONTENT_TYPE,
    FILE_REPLY_HEADER,
    FILE_REPLY_PATH,
    HELLO_PATH,
    LAUNCH_REPLY_PATH,
    LOGS_PATH,
    NODE_HEADER,
    SYNC_PATH,
    FileReply,
    Hello,
    LaunchReply,
    Logs,
    Sync,
    SyncReply,
    Welcome,
)

_T = TypeVar("_T")

_KEEP_ALIVE_S: Final = 4.0
"""Below the 5 s after which the usual servers close an idle connection: else a call could be sent into the closing."""
_CONNECT_S: Final = 10.0
_ERROR_TEXT: Final = 200
_REFUSALS: Final = frozenset({400, 404, 413})
"""Sent again, the same would be answered the same."""

_encoder: Final = msgspec.msgpack.Encoder()
_welcome_decoder: Final = msgspec.msgpack.Decoder(Welcome)
_reply_decoder: Final = msgspec.msgpack.Decoder(SyncReply)


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


class HttpTransport:
    """One node's calls."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: EndpointFile, *, node_id: str, token: str) -> None:
        self._session = session
        self._endpoint = endpoint
        self._headers = {NODE_HEADER: node_id, "Authorization": f"Bearer {token}", "Content-Type": CONTENT_TYPE}

    async def hello(self, hello: Hello) -> Welcome:
        return await self._call(HELLO_PATH, _encoder.encode(hello), _welcome_decoder)

    async def sync(self, sync: Sync) -> SyncReply:
        return await self._call(SYNC_PATH, _encoder.encode(sync), _reply_decoder)

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

    async def _call(self, path: str, body: bytes, decoder: "msgspec.msgpack.Decoder[_T]") -> _T:
        url = self._endpoint.url() + path
        try:
            async with self._session.post(url, data=body, headers=self._headers) as answer:
                await _check(answer)
                return decoder.decode(await answer.read())
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
            self._endpoint.forget()
            raise TransportError(f"{type(error).__name__}: {error}") from error
        except (TransportError, asyncio.CancelledError):
            # Cancelled: the answer did not come in time, or the service is said to have moved.
            self._endpoint.forget()
            raise


class HttpError(TransportError):
    """The service answered, but not as hoped."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"HTTP {status}: {text}")
        self.status = status


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status not in {200, 202, 204}:
        text = (await answer.content.read(_ERROR_TEXT)).decode("utf-8", "replace")
        raise HttpError(answer.status, text)
