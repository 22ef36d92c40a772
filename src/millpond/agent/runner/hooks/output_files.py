"""Output files: uploaded after the command line ended (semantics 5.2)."""

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable
from typing import Final

import msgspec

from millpond.agent.base import RunAs
from millpond.agent.isolation.as_user import acting_as, open_to_read
from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.environment import expand
from millpond.agent.runner.file_patterns import find_files, has_wildcard
from millpond.agent.runner.hooks.resource_files import all_or_none
from millpond.agent.runner.spec import OutputFile
from millpond.domain.durations import Timestamp, format_timestamp
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Staging

_PARALLEL: Final = 8
"""Uploads of one node at a time."""


class _Upload(msgspec.Struct, frozen=True):
    path: str
    container_url: str
    name: str
    headers: dict[str, str]


class OutputFiles(TaskHook):
    """Uploads what matches, if the exit code meets the condition; not when the attempt was told to stop, and of a
    multi-instance task only where its command line runs.

    What was done stands in `fileuploadout.txt` and `fileuploaderr.txt` beside `stdout.txt`.
    """

    def __init__(self, staging: Staging, clock: Callable[[], Timestamp] = time.time) -> None:
        self._staging = staging
        self._clock = clock
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def exited(self, attempt: Attempt) -> None:
        assert attempt.exit is not None
        if not attempt.spec.output_files or not attempt.is_primary:
            return
        succeeded = attempt.exit.exit_code == 0
        wanted = [file for file in attempt.spec.output_files if _applies(file, succeeded)]
        if not wanted:
            return
        out: list[str] = []
        err: list[str] = []
        try:
            uploads: list[_Upload] = []
            for file in wanted:
                uploads += await asyncio.to_thread(self._match, file, attempt, out)
            await all_or_none(self._put(upload, attempt.run_as, out) for upload in uploads)
        except TaskFailure as failure:
            err.append(self._line(f"{failure.code}: {failure.message}"))
            raise
        finally:
            _write(f"{attempt.task_directory}/fileuploadout.txt", out, attempt.run_as)
            _write(f"{attempt.task_directory}/fileuploaderr.txt", err, attempt.run_as)

    def _match(self, file: OutputFile, attempt: Attempt, out: list[str]) -> list[_Upload]:
        container = file.destination.container
        if container is None:
            raise TaskFailure(TaskFailureCode.FILE_UPLOAD_MISC_ERROR, "An output file names no container to upload to")
        pattern = expand(file.file_pattern, attempt.environment.get)
        if not pattern or "\0" in pattern:
            raise TaskFailure(TaskFailureCode.FILE_UPLOAD_MISC_ERROR, "The file pattern of an output file is empty")
        # What the task's user cannot see is not there.
        with contextlib.nullcontext() if attempt.run_as is None else acting_as(attempt.run_as):
            found = find_files(pattern, attempt.working_directory, attempt.directories.root)
        out.append(self._line(f"{file.file_pattern}: {len(found)} file(s)"))
        headers = {header.name: header.value or "" for header in container.upload_headers or ()}
        prefix = (container.path or "").strip("/")
        if not prefix:
            return [_Upload(one.path, container.container_url, one.name, headers) for one in found]
        if has_wildcard(pattern):
            return [_Upload(one.path, container.container_url, f"{prefix}/{one.name}", headers) for one in found]
        return [_Upload(one.path, container.container_url, prefix, headers) for one in found]

    async def _put(self, upload: _Upload, run_as: RunAs | None, out: list[str]) -> None:
        async with self._slots:
            if run_as is None:
                await self._staging.put(upload.path, upload.container_url, upload.name, upload.headers)
            else:
                await self._put_as(run_as, upload)
        out.append(self._line(f"uploaded {upload.path} as {upload.name}"))

    async def _put_as(self, run_as: RunAs, upload: _Upload) -> None:
        """Upload what that user may read: opened as the user, read through the descriptor."""
        try:
            descriptor = await asyncio.to_thread(open_to_read, upload.path, run_as)
        except OSError as error:
            reason = error.strerror or str(error)
            raise TaskFailure(
                TaskFailureCode.FILE_UPLOAD_MISC_ERROR,
                f"The file {upload.path!r} cannot be read by the task's user: {reason}",
                FilePath=upload.path,
            ) from error
        try:
            path = f"/proc/self/fd/{descriptor}"
            await self._staging.put(path, upload.container_url, upload.name, upload.headers)
        finally:
            os.close(descriptor)

    def _line(self, text: str) -> str:
        return f"{format_timestamp(self._clock())} {text}\n"


def _applies(file: OutputFile, succeeded: bool) -> bool:
    condition = (file.upload_options.upload_condition if file.upload_options else None) or "taskcompletion"
    return condition.lower() in ("taskcompletion", "tasksuccess" if succeeded else "taskfailure")


def _write(path: str, lines: list[str], run_as: RunAs | None) -> None:
    """Write a log of the upload. A disk without room for it does not make the task fail."""
    try:
        # The directory is the task's: a link it put there is not followed, a file it linked there not overwritten.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
            return
        try:
            if run_as is not None:
                os.fchown(descriptor, run_as.uid, run_as.gid)
            os.ftruncate(descriptor, 0)
            file.writelines(lines)
            file.flush()
        except OSError:
            return
