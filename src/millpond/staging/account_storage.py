"""The account's auto-storage as the service itself uses it: the contract.

Nodes and users reach the same blobs by signed URLs (`sign`); what the service keeps for itself lies in containers whose
names begin with `millpond-`.
"""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from millpond.domain.durations import Timestamp
from millpond.staging.base import RemoteFile


class StorageError(Exception):
    """A storage request that cannot be served: HTTP status, code, message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class BlobFacts(msgspec.Struct, frozen=True):
    """A blob's size, time and entity tag (with quotes)."""

    size: int
    last_modified: Timestamp
    etag: str


class AccountStorage(Protocol):
    """Blobs in containers. Everything streams; a blob is there as a whole or not at all.

    Raises StorageError: 400 for names that cannot be, 404 (ContainerNotFound, BlobNotFound), 403 when the storage does
    not let the service in, 503 when it cannot be reached; transport errors only after retries.
    """

    async def make_container(self, container: str) -> None:
        """One that exists is no error."""
        ...

    async def put(self, container: str, blob: str, content: bytes | AsyncIterator[bytes]) -> BlobFacts:
        """Store a blob, replacing one of that name."""
        ...

    def read(self, container: str, blob: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `offset`, at most `length` of them (None: to the end); fewer where the blob ends before.
        Errors are raised by the first chunk asked for."""
        ...

    async def stat(self, container: str, blob: str) -> BlobFacts: ...

    async def delete(self, container: str, blob: str) -> None:
        """One that is not there is no error."""
        ...

    async def list(self, container: str, prefix: str = "") -> list[RemoteFile]:
        """All blobs whose names begin with `prefix`, in order of name."""
        ...

    def sign(self, container: str, blob: str | None, permissions: str, expires_at: Timestamp) -> str:
        """A URL of a blob, or of a whole container (`blob` None), that gives `permissions` (letters of `rwdl`: read,
        write, delete, list) until `expires_at`, epoch seconds. Raises ValueError for what cannot be signed."""
        ...

    async def close(self) -> None: ...
