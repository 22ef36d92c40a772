"""Storage in memory, for tests of the runner."""

import asyncio
import hashlib
from collections.abc import Mapping

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Fetched, RemoteFile


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def etag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


class MemoryStaging:
    """Implements `Staging`. URLs are `mem://container` and `mem://container/name`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.refuse: TaskFailure | None = None
        """Raised by every `put`."""
        self.gate = asyncio.Event()
        """Transfers wait for it."""
        self.gate.set()
        self.waiting = 0

    async def _pass(self) -> None:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        await self._pass()
        if url not in self.files:
            raise TaskFailure(TaskFailureCode.BLOB_NOT_FOUND, f"{url} is not there")
        data = self.files[url]
        if known_etag == etag_of(data):
            return None
        write(path, data)
        return Fetched(len(data), etag_of(data))

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        await self._pass()
        if self.refuse is not None:
            raise self.refuse
        url = self.file_url(container_url, name)
        self.files[url] = read(path)
        self.headers[url] = dict(headers)

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        await self._pass()
        start = f"{container_url}/"
        names = [url[len(start) :] for url in self.files if url.startswith(start)]
        return [
            RemoteFile(name, len(self.files[start + name]), etag_of(self.files[start + name]))
            for name in names
            if name.startswith(prefix)
        ]

    def file_url(self, container_url: str, name: str) -> str:
        return f"{container_url}/{name}"

    async def close(self) -> None:
        self.files.clear()
