"""Output files: uploaded after the command line ended (semantics 5.2)."""

import asyncio
import contextlib
import errno
import itertools
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import msgspec

from millpond.agent.base import RunAs
from millpond.agent.isolation.as_user import acting_as, open_to_read
from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.agent.runner.environment import expand
from millpond.agent.runner.file_patterns import find_files, parse_pattern
from millpond.agent.runner.spec import OutputFile
from millpond.agent.runner.upload_log import UploadLog
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import TaskKind
from millpond.staging.base import Staging
from millpond.staging.telling import listening

_PARALLEL: Final = 16
"""Uploads of one node at a time."""
_KINDS: Final = frozenset({TaskKind.TASK, TaskKind.INSTANCE})
_STANDARD_FILES: Final = ("stdout.txt", "stderr.txt")


class _Upload(msgspec.Struct, frozen=True):
    path: str
    container_url: str
    name: str
    headers: dict[str, str]


class OutputFiles(TaskHook):
    """Uploads what matches, if the exit code meets the condition: at the end of the run that completes a task, so not
    when the run will be repeated, nor when the attempt was told to stop; and of a multi-instance task only where its
    command line runs. Start, preparation and release tasks upload nothing.

    What was done stands in `fileuploadout.txt` and `fileuploaderr.txt` beside `stdout.txt`.
    """

    def __init__(self, staging: Staging, clock: Callable[[], Timestamp] = time.time) -> None:
        self._staging = staging
        self._clock = clock
        self._slots = asyncio.Semaphore(_PARALLEL)

    def exited(self, attempt: Attempt) -> Awaitable[None] | None:
        if not attempt.spec.output_files or not attempt.is_primary or attempt.start.kind not in _KINDS:
            return None
        return None if _is_repeated(attempt) else self._upload(attempt)

    async def _upload(self, attempt: Attempt) -> None:
        assert attempt.exit is not None
        succeeded = attempt.exit.exit_code == 0
        wanted = [file for file in attempt.spec.output_files or () if _applies(file, succeeded)]
        if not wanted:
            return
        log = UploadLog(attempt.task_directory, attempt.run_as, self._clock)
        try:
            uploads: list[_Upload] = []
            for file in wanted:
                uploads += await asyncio.to_thread(_match, file, attempt, log)
            await self._put_all(uploads, attempt.run_as, log)
            log.say("all uploads are done")
        except TaskFailure as failure:
            log.complain(f"{failure.code}: {failure.message}")
            log.say("the uploads failed: see fileuploaderr.txt")
            raise
        except asyncio.CancelledError:
            log.complain("the uploads were cut short: the task was told to end, or its node's agent was stopped")
            raise
        finally:
            log.close()

    async def _put_all(self, uploads: list[_Upload], run_as: RunAs | None, log: UploadLog) -> None:
        """At the first that fails the others are given up, and its failure is raised."""
        waiting = iter(uploads)
        movers = [
            asyncio.create_task(self._put_each(waiting, run_as, log)) for _ in itertools.islice(uploads, _PARALLEL)
        ]
        try:
            for finished in asyncio.as_completed(movers):
                await finished
        finally:
            for mover in movers:
                mover.cancel()
            await asyncio.gather(*movers, return_exceptions=True)

    async def _put_each(self, waiting: Iterator[_Upload], run_as: RunAs | None, log: UploadLog) -> None:
        for upload in waiting:
            async with self._slots:
                await self._put(upload, run_as, log)

    async def _put(self, upload: _Upload, run_as: RunAs | None, log: UploadLog) -> None:
        try:
            descriptor = await asyncio.to_thread(_open, upload.path, run_as)
        except FileNotFoundError:
            # Somebody took it away: then it matches no more than one that was never there.
            log.say(f"skipped {upload.path}: it is gone")
            return
        except OSError as error:
            reason = error.strerror or str(error)
            who = "the node agent" if run_as is None else "the task's user"
            raise _failure(f"The file {upload.path!r} cannot be read by {who}: {reason}", upload.path) from error
        try:
            size = os.fstat(descriptor).st_size
            log.say(f"uploading {upload.path} ({size} bytes) as {upload.name}")
            # What was opened is what is read, whatever happens to the name meanwhile.
            path = f"/proc/self/fd/{descriptor}"
            with listening(lambda said: log.complain(f"{upload.path}: {said}")):
                await self._staging.put(path, upload.container_url, upload.name, upload.headers)
            log.say(f"uploaded {upload.path} as {upload.name}")
        except TaskFailure as failure:
            failure.details.setdefault("LocalPath", _shown(upload.path))
            log.complain(f"failed {upload.path}: {failure.code}: {failure.message}")
            raise
        finally:
            os.close(descriptor)


def _is_repeated(attempt: Attempt) -> bool:
    """Whether the control plane will have the task run again, for its exit code and nothing else."""
    assert attempt.exit is not None
    if attempt.exit.exit_code == 0 or not attempt.start.will_retry:
        return False
    return attempt.failure is None or attempt.failure.code == TaskFailureCode.FAILURE_EXIT_CODE


def _applies(file: OutputFile, succeeded: bool) -> bool:
    condition = (file.upload_options.upload_condition if file.upload_options else None) or "taskcompletion"
    return condition.lower() in ("taskcompletion", "tasksuccess" if succeeded else "taskfailure")


def _match(file: OutputFile, attempt: Attempt, log: UploadLog) -> list[_Upload]:
    container = file.destination.container
    if container is None:
        raise _failure("An output file names no container to upload to")
    try:
        text = expand(file.file_pattern, attempt.environment.get)
    except TaskFailure as failure:
        raise _failure(f"A file pattern cannot be used: {failure.message}") from failure
    if not text or "\0" in text:
        raise _failure(f"The file pattern {file.file_pattern!r} of an output file is empty")
    pattern = parse_pattern(text, attempt.working_directory)
    # What the task's user cannot see is not there.
    with contextlib.nullcontext() if attempt.run_as is None else acting_as(attempt.run_as):
        found = find_files(pattern, attempt.directories.root)
        mistaken = not found and not text.startswith(("/", "../")) and _names_standard_files(text, attempt)
    log.say(f"{file.file_pattern}: {len(found)} file(s)")
    if mistaken:
        log.say(
            f"{file.file_pattern}: patterns are relative to the working directory, and the files of standard output and"
            f" error lie one level above it: ../{text} would match"
        )
    headers = {header.name: header.value or "" for header in container.upload_headers or ()}
    prefix = (container.path or "").strip("/")
    uploads: list[_Upload] = []
    for one in found:
        name = one.name
        if prefix:
            name = prefix if pattern.is_one_file else f"{prefix}/{name}"
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise _failure(
                f"The name of the file {one.path!r} is not UTF-8, as the name of a blob must be", one.path
            ) from error
        uploads.append(_Upload(one.path, container.container_url, name, headers))
    return uploads


def _names_standard_files(text: str, attempt: Attempt) -> bool:
    """The frequent mistake: `stdout.txt`, without what leads out of the working directory."""
    pattern = parse_pattern(f"../{text}", attempt.working_directory)
    return pattern.base == attempt.task_directory and any(
        one.name in _STANDARD_FILES for one in find_files(pattern, attempt.directories.root)
    )


def _open(path: str, run_as: RunAs | None) -> int:
    """What the task's user may read. Never waits, as opening a pipe would. Raises OSError."""
    if run_as is not None:
        return open_to_read(path, run_as)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EACCES, "it is not a regular file")


def _failure(message: str, path: str = "") -> TaskFailure:
    message = _shown(message)
    failure = TaskFailure(TaskFailureCode.FILE_UPLOAD_MISC_ERROR, message)
    if path:
        failure.details["FilePath"] = _shown(path)
    return failure


def _shown(text: str) -> str:
    """Text that can be sent: names of files may hold bytes that are none."""
    return text.encode(errors="backslashreplace").decode()
