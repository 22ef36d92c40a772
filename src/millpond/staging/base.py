"""Moving bytes between a node and storage: the contract."""

from collections.abc import Mapping
from typing import Protocol

import msgspec


class RemoteFile(msgspec.Struct, frozen=True):
    """One file of a container listing."""

    name: str
    """Path within the container, `/` separated."""
    size: int
    etag: str = ""
    """As the server says it, with its quotes; empty when it says none."""


class Fetched(msgspec.Struct, frozen=True):
    """What was downloaded."""

    size: int
    etag: str = ""
    """As in `RemoteFile`."""


class Staging(Protocol):
    """Fetch, put, list. URLs carry their own authority (a signature). Everything streams.

    Raises TaskFailure with the codes of semantics 2.11 (BlobNotFound, BlobAccessDenied, ResourceContainer…,
    FileUpload…), transport errors only after retries with back-off.
    """

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        """Download to a local file: first beside it, then renamed, so that a partial file is never seen.

        With `known_etag` the file is only downloaded if it is another by now: None is returned, and nothing is written,
        when that is still its ETag. The server has then checked the URL's authority as for a download.
        """
        ...

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        """Upload a local file under `name` in the container; an existing one is replaced."""
        ...

    async def list(self, container_url: str, prefix: str) -> list[RemoteFile]: ...

    def file_url(self, container_url: str, name: str) -> str:
        """The URL of a file of the container, with the container URL's authority."""
        ...

    async def close(self) -> None: ...
