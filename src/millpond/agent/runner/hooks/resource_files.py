"""Resource files: fetched into `wd` before the command line runs (semantics 5.1).

Those common to the instances of a multi-instance task go into the task's directory, above `wd`, on each node; its own
only where its command line runs (semantics 3.5).
"""

import asyncio
import os
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from millpond.agent.runner.attempt import Attempt, TaskHook, node_failure
from millpond.agent.runner.spec import ResourceFile
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Staging

DEFAULT_FILE_MODE: Final = 0o770
_PARALLEL: Final = 16
"""Downloads of one node at a time."""


class ResourceFiles(TaskHook):
    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._slots = asyncio.Semaphore(_PARALLEL)

    async def prestart(self, attempt: Attempt) -> None:
        if attempt.resumed:
            return
        spec = attempt.spec
        common = (
            spec.multi_instance_settings.common_resource_files if spec.multi_instance_settings is not None else None
        )
        if common and attempt.start.instance is not None:
            await all_or_none(self._resource(attempt.task_directory, file) for file in common)
        if spec.resource_files and attempt.is_primary:
            await all_or_none(self._resource(attempt.working_directory, file) for file in spec.resource_files)

    async def _resource(self, directory: str, file: ResourceFile) -> None:
        mode = file_mode(file.file_mode)
        if file.storage_container_url:
            if file.file_path:
                directory = below(directory, file.file_path)
            async with self._slots:
                listed = await self._staging.list(file.storage_container_url, file.blob_prefix or "")
            url = file.storage_container_url
            for remote in listed:
                # Checked before anything is fetched.
                below(directory, remote.name)
            for first in range(0, len(listed), 1000):
                await all_or_none(
                    self._fetch(self._staging.file_url(url, remote.name), directory, remote.name, mode)
                    for remote in listed[first : first + 1000]
                )
        elif file.http_url:
            if not file.file_path:
                raise TaskFailure(
                    TaskFailureCode.RESOURCE_FILE_CREATE_FAILED, "A resource file with an httpUrl needs a filePath"
                )
            await self._fetch(file.http_url, directory, file.file_path, mode)
        else:
            raise TaskFailure(
                TaskFailureCode.RESOURCE_FILE_CREATE_FAILED,
                "A resource file has neither an httpUrl nor a container this node can read",
            )

    async def _fetch(self, url: str, directory: str, name: str, mode: int) -> None:
        path = below(directory, name)
        folder = name.endswith("/")
        make_directory(path if folder else os.path.dirname(path))
        if folder:
            # Some tools mark folders by empty blobs of such a name.
            return
        async with self._slots:
            await self._staging.fetch(url, path)
        try:
            os.chmod(path, mode)
        except OSError as error:
            raise node_failure(
                TaskFailureCode.RESOURCE_FILE_CREATE_FAILED, f"The mode of {name!r} could not be set", error
            ) from error


def below(directory: str, name: str) -> str:
    """The path of `name` in `directory`. Raises TaskFailure ResourceFileCreateFailed when it would not lie in it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        raise TaskFailure(
            TaskFailureCode.RESOURCE_FILE_CREATE_FAILED,
            f"The path {name!r} of a resource file is not within the task's working directory",
            FilePath=name,
        )
    return f"{directory}/{'/'.join(parts)}"


def file_mode(text: str | None) -> int:
    """The octal mode of a resource file; 0770 when none is given. Raises TaskFailure ResourceFileCreateFailed."""
    if not text:
        return DEFAULT_FILE_MODE
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise TaskFailure(
            TaskFailureCode.RESOURCE_FILE_CREATE_FAILED,
            f"The file mode {text!r} of a resource file is not an octal number such as 0755",
            FileMode=text,
        )
    return mode


def make_directory(path: str) -> None:
    """Raises TaskFailure ResourceDirectoryCreateFailed."""
    try:
        os.makedirs(path, mode=0o770, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise TaskFailure(
            TaskFailureCode.RESOURCE_DIRECTORY_CREATE_FAILED,
            f"A resource file needs a directory where there is a file: {os.path.basename(path)!r}",
        ) from error
    except OSError as error:
        raise node_failure(
            TaskFailureCode.RESOURCE_DIRECTORY_CREATE_FAILED,
            f"The directory {os.path.basename(path)!r} of a resource file could not be made",
            error,
        ) from error


async def all_or_none(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once. When one fails, the others are cancelled, and the failure raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    if not tasks:
        return
    try:
        for finished in asyncio.as_completed(tasks):
            await finished
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
