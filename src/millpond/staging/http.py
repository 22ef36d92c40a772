"""Staging over HTTP: files by URL, signed container URLs of Azure Blob, and Millpond's own auto-storage.

A container URL is `https://host/path?signature`: a file of it is a further path segment, a listing `comp=list` in the
query. A container URL with a SAS (`sv` and `sig` in its query) is Azure's: a big file goes there in blocks.
"""

import asyncio
import base64
import functools
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

from multidict import CIMultiDict

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Fetched, RemoteFile
from millpond.staging.download import Download, Split
from millpond.staging.failures import LIST, PUT, failed, local
from millpond.staging.http_client import HttpClient, check, told
from millpond.staging.listings import Page, parse_page
from millpond.staging.partial import PartialFile
from millpond.staging.retries import Retries
from millpond.staging.threads import finish_in_thread
from millpond.staging.upload_headers import with_block_list, with_each_block, with_put_blob

_CHUNK: Final = 1 << 18
_STORAGE_VERSION: Final = "2021-08-06"
"""Of the Azure Blob protocol: blobs of up to 50,000 blocks of up to 4,000 MiB."""
_MAX_BLOCKS: Final = 50_000
_MAX_LISTING: Final = 64 << 20
_MAX_PAGES: Final = 10_000

DOWNLOADS: Final = Split(big=64 << 20, part=16 << 20, connections=4)
UPLOADS: Final = Split(big=32 << 20, part=8 << 20, connections=4)


class HttpStaging:
    """Implements `staging.base.Staging`.

    `connect_s` and `silence_s` are how long a connection may take to be made, and may then carry nothing; `ca_file`
    holds certificates to trust beside those of the machine; `downloads` and `uploads` say when a file is big.
    """

    def __init__(
        self,
        *,
        retries: Retries = Retries(),
        connect_s: float = 30.0,
        silence_s: float = 60.0,
        ca_file: str = "",
        downloads: Split = DOWNLOADS,
        uploads: Split = UPLOADS,
    ) -> None:
        self._retries = retries
        self._downloads = downloads
        self._uploads = uploads
        self._client = HttpClient(connect_s=connect_s, silence_s=silence_s, ca_file=ca_file)

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        """See `Staging.fetch`."""
        with PartialFile(path) as file:
            fetched = await Download(self._client, self._retries, self._downloads, url, known_etag).run(file)
            if fetched is not None:
                file.place(fetched.size)
        return fetched

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        """See `Staging.put`. `headers` are those of Put Blob; others raise TaskFailure FileUploadMiscError."""
        url = self.file_url(container_url, name)
        sent = with_put_blob(headers)
        with local(PUT.other):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size >= self._uploads.big and _has_sas(url) and "x-ms-content-crc64" not in sent:
                await self._put_blocks(descriptor, size, url, sent)
            else:
                await self._retries.run(lambda: self._put_blob(descriptor, size, url, sent))
        finally:
            os.close(descriptor)

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        """See `Staging.list`."""
        found: list[RemoteFile] = []
        marker = ""
        for _ in range(_MAX_PAGES):
            page = await self._page(container_url, prefix, marker)
            found += [
                RemoteFile(blob.name, blob.size, blob.etag) for blob in page.blobs if blob.name.startswith(prefix)
            ]
            if not page.next or page.next == marker:
                return found
            marker = page.next
        raise failed(LIST, LIST.other, container_url, "the listing does not end")

    def file_url(self, container_url: str, name: str) -> str:
        """See `Staging.file_url`."""
        parts = urlsplit(container_url)
        path = f"{parts.path.rstrip('/')}/{quote(name.lstrip('/'), safe='/~')}"
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    async def close(self) -> None:
        """See `Staging.close`."""
        await self._client.close()

    # --- put --------------------------------------------------------------------------------------------------------

    async def _put_blob(self, descriptor: int, size: int, url: str, headers: CIMultiDict[str]) -> None:
        headers = CIMultiDict(headers)
        headers.setdefault("Content-Type", "application/octet-stream")
        headers.update({"x-ms-version": _STORAGE_VERSION, "x-ms-blob-type": "BlockBlob"})
        await self._send(url, headers, descriptor, 0, size)

    async def _put_blocks(self, descriptor: int, size: int, url: str, headers: CIMultiDict[str]) -> None:
        length = max(self._uploads.part, -(-size // _MAX_BLOCKS))
        # Two uploads of one name at once must not mix.
        upload = uuid.uuid4().hex
        blocks = [
            (start, base64.b64encode(f"{upload}{start:016x}".encode()).decode()) for start in range(0, size, length)
        ]
        with_block = with_each_block(headers)
        with_block["x-ms-version"] = _STORAGE_VERSION
        waiting = iter(blocks)

        async def connection() -> None:
            for start, block in waiting:
                block_url = _with_query(url, {"comp": "block", "blockid": block})
                end = min(start + length, size)
                await self._retries.run(functools.partial(self._send, block_url, with_block, descriptor, start, end))

        connections = [asyncio.ensure_future(connection()) for _ in range(min(self._uploads.connections, len(blocks)))]
        try:
            await asyncio.gather(*connections)
        finally:
            for one in connections:
                one.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
        text = "".join(f"<Latest>{block}</Latest>" for _, block in blocks)
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{text}</BlockList>'.encode()
        with_list = with_block_list(headers)
        with_list.update({"x-ms-version": _STORAGE_VERSION, "Content-Type": "application/xml"})
        list_url = _with_query(url, {"comp": "blocklist"})
        await self._retries.run(lambda: self._send_bytes(list_url, with_list, body))

    async def _send(self, url: str, headers: CIMultiDict[str], descriptor: int, start: int, end: int) -> None:
        sent = CIMultiDict(headers)
        sent["Content-Length"] = str(end - start)
        if end - start <= _CHUNK:
            # In one piece: it goes out with the headers.
            with local(PUT.other):
                data = os.pread(descriptor, end - start, start)
            if len(data) < end - start:
                raise _shorter()
            await self._send_bytes(url, sent, data)
            return
        with told(PUT, url):
            async with self._client.open("PUT", url, headers=sent, data=_read(descriptor, start, end)) as response:
                await check(response, PUT, url)

    async def _send_bytes(self, url: str, headers: CIMultiDict[str], body: bytes) -> None:
        with told(PUT, url):
            async with self._client.open("PUT", url, headers=headers, data=body) as response:
                await check(response, PUT, url)

    # --- list -------------------------------------------------------------------------------------------------------

    async def _page(self, container_url: str, prefix: str, marker: str) -> Page:
        url = _with_query(container_url, {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker})

        async def get() -> bytes:
            with told(LIST, url):
                async with self._client.open("GET", url) as response:
                    await check(response, LIST, url)
                    text = bytearray()
                    async for chunk in response.content.iter_any():
                        text += chunk
                        if len(text) > _MAX_LISTING:
                            raise failed(LIST, LIST.other, url, "a page of the listing is too long")
            return bytes(text)

        text = await self._retries.run(get)
        try:
            return parse_page(text)
        except ValueError as error:
            raise failed(LIST, LIST.other, url, f"the answer is not a listing ({error})") from error


async def _read(descriptor: int, start: int, end: int) -> AsyncIterator[bytes]:
    """Bytes of a file, by position, so that a second try begins at the start again."""
    while start < end:
        data = await finish_in_thread(os.pread, descriptor, min(_CHUNK, end - start), start)
        if not data:
            raise _shorter()
        start += len(data)
        yield data


def _shorter() -> TaskFailure:
    return TaskFailure(TaskFailureCode.FILE_UPLOAD_MISC_ERROR, "A file got shorter while it was uploaded")


def _has_sas(url: str) -> bool:
    query = parse_qs(urlsplit(url).query)
    return "sv" in query and "sig" in query


def _with_query(url: str, more: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    query = "&".join(part for part in (parts.query, urlencode(more, quote_via=quote)) if part)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
