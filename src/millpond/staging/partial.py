"""A file while it is downloaded: beside its place, under another name, until it is whole."""

import asyncio
import contextlib
import os
import uuid
from typing import Final

from millpond.domain.errors import TaskFailureCode
from millpond.staging.failures import local
from millpond.staging.threads import finish_in_thread

_BATCH: Final = 1 << 20
_SMALL: Final = 1 << 18
"""What is written at once, without a thread: the disk's cache takes it."""


class PartialFile:
    """A context manager: what was not `place`d is gone at its end. The file is made by the first write.

    Methods raise TaskFailure (ResourceFileCreateFailed, ResourceFileWriteFailed, DiskFull).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._partial = f"{path}.{uuid.uuid4().hex}.part"
        self._descriptor = -1

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(OSError):
                os.unlink(self._partial)

    def place(self, size: int) -> None:
        """Give the file its size and its name, in place of an older one."""
        self._open()
        with local(TaskFailureCode.RESOURCE_FILE_WRITE_FAILED):
            if os.fstat(self._descriptor).st_size != size:
                os.ftruncate(self._descriptor, size)
        with local(TaskFailureCode.RESOURCE_FILE_CREATE_FAILED):
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            try:
                os.replace(self._partial, self._path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(self._partial)
                raise

    def write(self, data: bytes, position: int) -> None:
        """Blocks on the disk."""
        self._open()
        with local(TaskFailureCode.RESOURCE_FILE_WRITE_FAILED), memoryview(data) as view:
            written = 0
            while written < len(view):
                written += os.pwrite(self._descriptor, view[written:], position + written)

    def _open(self) -> None:
        if self._descriptor < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with local(TaskFailureCode.RESOURCE_FILE_CREATE_FAILED):
                self._descriptor = os.open(self._partial, flags, 0o660)


class Writer:
    """Writes what comes in order from `position` on: a batch in a thread while the next one comes.

    `position` is where the next byte goes, those that wait to be written included.
    """

    def __init__(self, file: PartialFile, position: int) -> None:
        self.position = position
        self._file = file
        self._waiting: list[bytes] = []
        self._size = 0
        self._job: asyncio.Task[None] | None = None

    async def add(self, chunk: bytes) -> None:
        self._waiting.append(chunk)
        self._size += len(chunk)
        self.position += len(chunk)
        if self._size >= _BATCH:
            batch, position = self._take()
            await self._finish_job()
            self._job = asyncio.ensure_future(finish_in_thread(self._file.write, batch, position))

    async def finish(self) -> None:
        """Write the rest. Nothing of this writer runs any more when it returns or raises."""
        try:
            await self._finish_job()
            batch, position = self._take()
            if not batch:
                return
            if len(batch) <= _SMALL:
                self._file.write(batch, position)
            else:
                await finish_in_thread(self._file.write, batch, position)
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Wait for what is being written; its error, if any, is dropped."""
        job, self._job = self._job, None
        if job is not None:
            # A cancelled wait ends only with the job: it writes to a descriptor that is closed next.
            job.cancel()
            await asyncio.wait([job])
            if not job.cancelled():
                job.exception()

    def _take(self) -> tuple[bytes, int]:
        batch = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        position = self.position - self._size
        self._waiting, self._size = [], 0
        return batch, position

    async def _finish_job(self) -> None:
        if self._job is not None:
            job = self._job
            await asyncio.wait([job])
            self._job = None
            job.result()
