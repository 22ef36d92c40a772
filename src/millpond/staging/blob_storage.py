"""Auto-storage as an account of Azure Blob storage, or of Azurite.

Every call carries a signature of its own that the account's key makes for it and that ends soon; the key is never sent.
"""

import asyncio
import contextlib
import io
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from millpond.domain.durations import Timestamp
from millpond.staging.account_storage import BlobFacts, StorageError
from millpond.staging.base import RemoteFile
from millpond.staging.blob_protocol import (
    BLOB_VERSION,
    block_id,
    block_list,
    check_blob,
    check_container,
    parse_error,
    parse_listing,
)
from millpond.staging.shared_access import StorageAccount

BLOCK_BYTES: Final = 8 << 20
"""What is longer is uploaded in pieces of this size."""
_CHUNK: Final = 1 << 18
_OWN_SIGNATURE_S: Final = 3600.0
"""How long the signatures live that the calls made here carry."""
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})


class BlobStorage:
    """Implements `AccountStorage`. The session is made on first use, in the running loop; `close` ends it.

    A call that fails for a reason that may pass is tried `attempts` times, after `backoff_s`, then twice that, and so
    on. A connection may be silent for `silence_s`.
    """

    def __init__(
        self,
        account: StorageAccount,
        *,
        clock: Callable[[], Timestamp] = time.time,
        attempts: int = 6,
        backoff_s: float = 0.25,
        silence_s: float = 30.0,
    ) -> None:
        self._account = account
        self._clock = clock
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=silence_s)
        self._session: aiohttp.ClientSession | None = None

    @property
    def account(self) -> StorageAccount:
        return self._account

    async def check(self, *, attempts: int = 3) -> None:
        """That the account answers and takes the key. Raises StorageError."""
        query = self._account.account_query("l", "s", self._clock() + _OWN_SIGNATURE_S)
        await self._answer("GET", f"{self._account.endpoint}/?comp=list&maxresults=1&{query}", attempts=attempts)

    async def make_container(self, container: str) -> None:
        """See `AccountStorage.make_container`."""
        query = self._account.account_query("cw", "c", self._clock() + _OWN_SIGNATURE_S)
        url = f"{self._account.url(check_container(container))}?restype=container&{query}"
        try:
            await self._call("PUT", url, body=b"")
        except StorageError as error:
            if error.code != "ContainerAlreadyExists":
                raise

    async def put(self, container: str, blob: str, content: bytes | AsyncIterator[bytes]) -> BlobFacts:
        """See `AccountStorage.put`."""
        url = self._own_url(container, blob, "w")
        blocks: list[str] = []
        upload = uuid.uuid4().hex
        rest = b""
        async for piece in _pieces(content):
            if rest:
                blocks.append(await self._put_block(url, block_id(upload, len(blocks)), rest))
            rest = piece
        if not blocks:
            headers = await self._call("PUT", url, body=rest, headers={"x-ms-blob-type": "BlockBlob"})
            return _facts(headers, len(rest))
        blocks.append(await self._put_block(url, block_id(upload, len(blocks)), rest))
        size = (len(blocks) - 1) * BLOCK_BYTES + len(rest)
        return _facts(await self._call("PUT", f"{url}&comp=blocklist", body=block_list(blocks)), size)

    async def _put_block(self, url: str, block: str, content: bytes) -> str:
        await self._call("PUT", f"{url}&comp=block&blockid={quote(block, safe='')}", body=content)
        return block

    async def read(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `AccountStorage.read`. A connection that breaks is made again where it broke, unless the blob is another
        by then."""
        end = None if length is None else offset + length
        etag = ""
        if end is not None and end <= offset:
            await self.stat(container, blob)
            return
        tried = 1
        while True:
            headers = {"x-ms-range": f"bytes={offset}-{'' if end is None else end - 1}"} if offset or end else {}
            if etag:
                headers["If-Match"] = etag
            got = False
            try:
                async with self._open("GET", self._own_url(container, blob, "r"), headers=headers) as response:
                    if response.status == 416:
                        return
                    await _check(response)
                    etag = response.headers.get("ETag", "")
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        got = True
                        offset += len(chunk)
                        yield chunk
                    break
            except StorageError as error:
                if error.status not in _TRANSIENT:
                    raise
                problem = error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = self._unreachable(error)
            tried = 1 if got else tried + 1
            if tried > self._attempts:
                raise problem
            await asyncio.sleep(self._backoff_s * 2 ** (tried - 1))

    async def stat(self, container: str, blob: str) -> BlobFacts:
        """See `AccountStorage.stat`."""
        headers = await self._call("HEAD", self._own_url(container, blob, "r"))
        return _facts(headers, int(headers.get("Content-Length", "0")))

    async def delete(self, container: str, blob: str) -> None:
        """See `AccountStorage.delete`."""
        try:
            await self._call("DELETE", self._own_url(container, blob, "d"))
        except StorageError as error:
            if error.status != 404:
                raise

    async def list(self, container: str, prefix: str = "") -> "list[RemoteFile]":
        """See `AccountStorage.list`."""
        found: list[RemoteFile] = []
        marker = ""
        while True:
            query = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
            url = f"{self._own_url(container, None, 'l')}&{urlencode(query, quote_via=quote)}"
            _, text = await self._answer("GET", url)
            page, marker = parse_listing(text)
            found += page
            if not marker:
                return sorted(found, key=lambda file: file.name)

    def sign(self, container: str, blob: str | None, permissions: str, expires_at: Timestamp) -> str:
        """See `AccountStorage.sign`."""
        try:
            name = None if blob is None else check_blob(blob)
            return self._account.sign(check_container(container), name, permissions, expires_at)
        except StorageError as error:
            what = "container" if error.code == "InvalidResourceName" else "blob"
            raise ValueError(
                f"{container if what == 'container' else blob!r} is no {what} name: {error.message}"
            ) from error

    async def close(self) -> None:
        """See `AccountStorage.close`."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- calls ---

    def _own_url(self, container: str, blob: str | None, permission: str) -> str:
        name = None if blob is None else check_blob(blob)
        return self._account.sign(check_container(container), name, permission, self._clock() + _OWN_SIGNATURE_S)

    async def _call(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Mapping[str, str]:
        return (await self._answer(method, url, body=body, headers=headers))[0]

    async def _answer(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = 0,
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of a success. Raises StorageError."""
        attempts = attempts or self._attempts
        for tried in range(1, attempts + 1):
            try:
                async with self._open(method, url, body=body, headers=headers) as response:
                    await _check(response)
                    return response.headers, await response.content.read(-1)
            except StorageError as error:
                if error.status not in _TRANSIENT:
                    raise
                problem = error
            except aiohttp.ClientSSLError as error:
                raise self._unreachable(error) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = self._unreachable(error)
            if tried < attempts:
                await asyncio.sleep(self._backoff_s * 2 ** (tried - 1))
        raise problem

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            # aiohttp's own reads the certificates once, when it is imported.
            tls = ssl.create_default_context() if self._account.endpoint.startswith("https:") else True
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "millpond", "x-ms-version": BLOB_VERSION},
                connector=aiohttp.TCPConnector(limit=64, ssl=tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        sent = {"Content-Type": "application/octet-stream", **(headers or {})} if body is not None else headers
        async with self._session.request(
            method, URL(url, encoded=True), data=io.BytesIO(body) if body else body, headers=sent, allow_redirects=False
        ) as response:
            yield response

    def _unreachable(self, error: Exception) -> StorageError:
        text = str(error)
        reason = text if text and "sig=" not in text else type(error).__name__
        return StorageError(
            503, "StorageUnavailable", f"The storage account at {self._account.endpoint} does not answer: {reason}"
        )


async def _pieces(content: bytes | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The content in pieces of BLOCK_BYTES; the last may be shorter."""
    if isinstance(content, bytes):
        for first in range(0, len(content), BLOCK_BYTES):
            yield content[first : first + BLOCK_BYTES]
        return
    gathered = bytearray()
    async for chunk in content:
        gathered += chunk
        while len(gathered) >= BLOCK_BYTES:
            yield bytes(gathered[:BLOCK_BYTES])
            del gathered[:BLOCK_BYTES]
    if gathered:
        yield bytes(gathered)


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise for an answer that is not a success."""
    if 200 <= response.status < 300:
        return
    code = response.headers.get("x-ms-error-code", "")
    told, message = parse_error(await response.content.read(4096))
    code = code or told
    if response.status == 404 and not code:
        code = "BlobNotFound"
    if response.status == 403:
        message = "The storage account refuses its key, or lets nobody in from here. " + message
    elif not message:
        message = f"The storage account answered {response.status} {response.reason or ''}".rstrip() + "."
    raise StorageError(response.status, code or "StorageError", message.strip())


def _facts(headers: Mapping[str, str], size: int) -> BlobFacts:
    try:
        modified = parsedate_to_datetime(headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError):
        modified = 0.0
    return BlobFacts(size, modified, headers.get("ETag", ""))
