"""One download by HTTP: resumed where it broke, and over several connections when it is big.

A download can be taken up again, or split, only when the server says by what the bytes are known to be of the same file:
a strong ETag, or a Last-Modified that is old enough to be one (RFC 9110, 8.8.2.2). Every further range is asked for with
`If-Range`: a server whose file has changed answers with the whole of it, and the download begins anew.
"""

import asyncio
import email.utils
import re
from typing import Final

import aiohttp
import msgspec

from millpond.staging.base import Fetched
from millpond.staging.failures import FETCH, Transient, failed
from millpond.staging.http_client import HttpClient, check, told
from millpond.staging.partial import PartialFile, Writer
from millpond.staging.retries import Retries

_PROGRESS: Final = 1 << 20
"""Bytes by which a broken try counts as one that brought something."""
_STRONG_AFTER_S: Final = 60.0
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """When and how a transfer goes over several connections. Sizes in bytes."""

    big: int = 64 << 20
    """From this size on."""
    part: int = 16 << 20
    """What a connection takes on at a time."""
    connections: int = 4


class _Changed(Exception):
    """The file at the URL is another than the one begun with."""


class _File(msgspec.Struct, frozen=True):
    """What the first answer says of the file."""

    size: int | None
    etag: str
    validator: str
    """For If-Range; empty: nothing but the whole can be asked for."""


class Download:
    """`run` once. The bytes are stored as they come, also when the server calls them compressed."""

    def __init__(self, client: HttpClient, retries: Retries, split: Split, url: str, known_etag: str) -> None:
        self._client = client
        self._retries = retries
        self._split = split
        self._url = url
        self._known_etag = known_etag
        self._remote = _File(None, "", "")
        self._position = 0
        """What the first connection has read up to."""
        # It has taken [0, low) on itself; [high, size) is that of the others.
        self._low = 0
        self._high = 0

    async def run(self, file: PartialFile) -> Fetched | None:
        """None when `known_etag` is still the file's; else the file is written, not yet placed. See `Staging.fetch`."""
        tries = self._retries.begin()
        while True:
            try:
                return await self._of_one_version(file)
            except _Changed:
                reason = "the file changed again and again while it was read"
                await tries.pause(Transient(failed(FETCH, FETCH.other, self._url, reason)))

    async def _of_one_version(self, file: PartialFile) -> Fetched | None:
        self._position = self._low = self._high = 0
        others: list[asyncio.Task[None]] = []
        try:
            if not await self._first_connection(file, others):
                return None
            for other in others:
                await other
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        size = self._position if self._remote.size is None else self._remote.size
        return Fetched(size, self._remote.etag)

    # --- the first connection: from the first byte on, until the others have the rest -------------------------------

    async def _first_connection(self, file: PartialFile, others: "list[asyncio.Task[None]]") -> bool:
        tries = self._retries.begin()
        while True:
            before = self._position
            try:
                with told(FETCH, self._url):
                    return await self._read_on(file, others)
            except Transient as transient:
                if self._position - before >= _PROGRESS:
                    tries.progressed()
                if not self._remote.validator:
                    self._position = self._low = self._high = 0
                await tries.pause(transient)

    async def _read_on(self, file: PartialFile, others: "list[asyncio.Task[None]]") -> bool:
        headers = {}
        resumed = self._position > 0
        if resumed:
            if self._position == self._low == self._high:
                return True
            headers = {"Range": f"bytes={self._position}-", "If-Range": self._remote.validator}
        elif self._known_etag:
            headers = {"If-None-Match": self._known_etag}
        async with self._client.open("GET", self._url, headers=headers) as response:
            if response.status == 304 and self._known_etag and not resumed:
                return False
            if resumed and (response.status != 200 or others):
                await self._check_range(response, self._position)
            else:
                # Also a server that does not know ranges: from the start again, then.
                await check(response, FETCH, self._url)
                self._begin(response, file, others)
            writer = Writer(file, self._position)
            try:
                await self._pour(response, writer)
            finally:
                await writer.finish()
                self._position = writer.position
        if self._remote.size is not None:
            self._must_reach(self._position, self._low)
        return True

    def _begin(self, response: aiohttp.ClientResponse, file: PartialFile, others: "list[asyncio.Task[None]]") -> None:
        if response.status == 206:
            raise failed(FETCH, FETCH.other, self._url, "the server sent a part of it where the whole was asked for")
        size, validator = response.content_length, _validator(response)
        self._remote = _File(size, response.headers.get("ETag", ""), validator)
        self._position = 0
        self._low = self._high = size or 0
        split = self._split
        if (
            size is not None
            and size >= split.big
            and validator
            and response.headers.get("Accept-Ranges", "").lower() == "bytes"
        ):
            self._low = min(split.part, size)
            others += [asyncio.ensure_future(self._other_connection(file)) for _ in range(split.connections - 1)]

    async def _pour(self, response: aiohttp.ClientResponse, writer: Writer) -> None:
        async for received in response.content.iter_any():
            chunk = received
            while chunk:
                if self._remote.size is None:
                    room = len(chunk)
                elif (room := self._low - writer.position) <= 0:
                    if self._low == self._high:
                        return
                    self._low = min(self._low + self._split.part, self._high)
                    continue
                await writer.add(chunk[:room])
                chunk = chunk[room:]

    # --- the others: parts from the end on --------------------------------------------------------------------------

    async def _other_connection(self, file: PartialFile) -> None:
        while self._low < self._high:
            end = self._high
            self._high = start = max(self._low, end - self._split.part)
            await self._part(file, start, end)

    async def _part(self, file: PartialFile, start: int, end: int) -> None:
        tries = self._retries.begin()
        while start < end:
            writer = Writer(file, start)
            try:
                with told(FETCH, self._url):
                    headers = {"Range": f"bytes={start}-{end - 1}", "If-Range": self._remote.validator}
                    async with self._client.open("GET", self._url, headers=headers) as response:
                        await self._check_range(response, start)
                        try:
                            async for chunk in response.content.iter_any():
                                await writer.add(chunk[: end - writer.position])
                        finally:
                            await writer.finish()
                self._must_reach(writer.position, end)
            except Transient as transient:
                if writer.position - start >= _PROGRESS:
                    tries.progressed()
                await tries.pause(transient)
            start = writer.position

    def _must_reach(self, position: int, end: int) -> None:
        if position < end:
            raise Transient(failed(FETCH, FETCH.other, self._url, "the answer ended too early"))

    async def _check_range(self, response: aiohttp.ClientResponse, start: int) -> None:
        """Raises _Changed when the answer is no range of the file begun with."""
        if response.status in (200, 416):
            raise _Changed
        await check(response, FETCH, self._url)
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start or int(found[3]) != self._remote.size:
            raise _Changed
        if response.headers.get("ETag", self._remote.etag) != self._remote.etag:
            raise _Changed


def _validator(response: aiohttp.ClientResponse) -> str:
    """What proves that two answers are of the same file: a strong ETag, or else a Last-Modified a minute before Date."""
    etag = response.headers.get("ETag", "")
    if response.content_length is None:
        return ""
    if etag:
        return etag if etag.startswith('"') else ""
    try:
        modified = response.headers["Last-Modified"]
        age = email.utils.parsedate_to_datetime(response.headers["Date"]) - email.utils.parsedate_to_datetime(modified)
    except (KeyError, ValueError, TypeError):
        return ""
    return modified if age.total_seconds() >= _STRONG_AFTER_S else ""
