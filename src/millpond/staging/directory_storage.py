"""Auto-storage as a directory, for the service itself; nodes and users reach it by signed URLs of the service."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import IO, Final

from millpond.domain.durations import Timestamp
from millpond.staging.account_storage import BlobFacts, StorageError
from millpond.staging.auto_storage import AutoStorage
from millpond.staging.base import RemoteFile
from millpond.staging.threads import finish_in_thread

_CHUNK: Final = 1 << 18


class DirectoryStorage:
    """Implements `AccountStorage`. `endpoint` gives the service's base URL, under which blobs are served."""

    def __init__(self, storage: AutoStorage, endpoint: Callable[[], str]) -> None:
        self._storage = storage
        self._endpoint = endpoint

    async def make_container(self, container: str) -> None:
        """See `AccountStorage.make_container`."""
        await asyncio.to_thread(self._storage.make_container, container)

    async def put(self, container: str, blob: str, content: bytes | AsyncIterator[bytes]) -> BlobFacts:
        """See `AccountStorage.put`. Raises StorageError 409 where a directory of that name holds other blobs."""
        if isinstance(content, bytes):
            return await finish_in_thread(self._put_whole, container, blob, content)
        file, path = await finish_in_thread(self._storage.begin_upload)
        kept = False
        try:
            async for chunk in content:
                await finish_in_thread(file.write, chunk)
            facts = await finish_in_thread(self._storage.finish_upload, file, path, container, blob)
            kept = True
        finally:
            if not kept:
                self._storage.abandon_upload(file, path)
        return facts

    def _put_whole(self, container: str, blob: str, content: bytes) -> BlobFacts:
        file, path = self._storage.begin_upload()
        try:
            file.write(content)
            return self._storage.finish_upload(file, path, container, blob)
        except BaseException:
            self._storage.abandon_upload(file, path)
            raise

    async def read(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """See `AccountStorage.read`."""
        file, facts = await finish_in_thread(self._storage.open_file, container, blob)
        try:
            left = max(facts.size - offset, 0) if length is None else length
            while left > 0:
                chunk = await finish_in_thread(_read_at, file, min(left, _CHUNK), offset)
                if not chunk:
                    return
                offset += len(chunk)
                left -= len(chunk)
                yield chunk
        finally:
            file.close()

    async def stat(self, container: str, blob: str) -> BlobFacts:
        """See `AccountStorage.stat`."""
        return await asyncio.to_thread(self._storage.stat, container, blob)

    async def delete(self, container: str, blob: str) -> None:
        """See `AccountStorage.delete`."""
        try:
            await asyncio.to_thread(self._storage.delete, container, blob)
        except StorageError as error:
            if error.status != 404:
                raise

    async def list(self, container: str, prefix: str = "") -> "list[RemoteFile]":
        """See `AccountStorage.list`."""
        found: list[RemoteFile] = []
        marker: str | None = None
        while True:
            page = await asyncio.to_thread(self._storage.list, container, prefix, marker)
            found += page.blobs
            marker = page.next
            if marker is None:
                return found

    def sign(self, container: str, blob: str | None, permissions: str, expires_at: Timestamp) -> str:
        """See `AccountStorage.sign`."""
        return self._storage.sign(self._endpoint(), container, blob, permissions, expires_at)

    async def close(self) -> None:
        """See `AccountStorage.close`."""


def _read_at(file: IO[bytes], length: int, offset: int) -> bytes:
    return os.pread(file.fileno(), length, offset)
