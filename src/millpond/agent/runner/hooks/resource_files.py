"""Resource files: fetched into `wd` before the command line runs (semantics 5.1).

Those common to the instances of a multi-instance task go into the task's directory, above `wd`, on each node; its own
only where its command line runs (semantics 3.5).

They are gathered in a directory of the agent's own, and moved to the task's when all are there. So whatever happens on
the way, a task's directory has all of them or none; what an earlier life of the agent left there is swept when the next
begins.
"""

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from millpond.agent.content_cache import ContentCache, Listed
from millpond.agent.content_key import content_key
from millpond.agent.node_dirs import DIRECTORY_MODE
from millpond.agent.runner.attempt import Attempt, TaskHook, node_failure
from millpond.agent.runner.input_plan import InputPlan, PlannedFile
from millpond.agent.runner.spec import ResourceFile
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import RemoteFile, Staging
from millpond.staging.failures import without_authority
from millpond.staging.threads import finish_in_thread

_PARALLEL: Final = 16
"""Downloads of one node at a time."""
_INLINE_DIRECTORIES: Final = 32
_NOT_EMPTY: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST})

_C: Final = TaskFailureCode


class ResourceFiles(TaskHook):
    def __init__(self, staging: Staging, cache: ContentCache | None = None, pool_id: str = "") -> None:
        self._staging = staging
        self._cache = cache or ContentCache("")
        self._pool_id = pool_id
        self._slots = asyncio.Semaphore(_PARALLEL)

    def prestart(self, attempt: Attempt) -> Awaitable[None] | None:
        spec = attempt.spec
        if (not spec.resource_files and spec.multi_instance_settings is None) or attempt.resumed:
            return None
        return self._bring_all(attempt)

    async def _bring_all(self, attempt: Attempt) -> None:
        own, instances = attempt.spec.resource_files, attempt.spec.multi_instance_settings
        common = instances.common_resource_files if instances is not None else None
        if common and attempt.start.instance is not None:
            await self._bring(attempt, common, attempt.task_directory)
        if own and attempt.is_primary:
            await self._bring(attempt, own, attempt.working_directory)

    async def _bring(self, attempt: Attempt, resources: Sequence[ResourceFile], target: str) -> None:
        """All of the files into a directory, or none of them."""
        plan = await self._plan(resources)
        if not plan.files and not plan.directories:
            return
        with _disk(_C.RESOURCE_DIRECTORY_CREATE_FAILED, "The directory for resource files could not be made"):
            tree = attempt.directories.new_inputs()
        try:
            if len(plan.directories) <= _INLINE_DIRECTORIES:
                _make_directories(tree, plan.directories)
            else:
                await finish_in_thread(_make_directories, tree, plan.directories)
            await self._fill(tree, plan, resources)
            with _disk(_C.RESOURCE_FILE_CREATE_FAILED, "The resource files could not be moved to the task"):
                _move_in(tree, target)
        except TaskFailure as failure:
            if failure.code is _C.DISK_FULL:
                # At once, so that there is room again.
                await finish_in_thread(partial(shutil.rmtree, tree, ignore_errors=True))
            raise
        finally:
            with contextlib.suppress(OSError):
                attempt.directories.discard_inputs(tree)

    # --- what there is to fetch ---------------------------------------------------------------------------------

    async def _plan(self, resources: Sequence[ResourceFile]) -> InputPlan:
        plan = InputPlan()
        listings: dict[int, list[RemoteFile]] = {}

        async def read(number: int, resource: ResourceFile) -> None:
            async with self._slots:
                listings[number] = await self._listing(resource)

        await all_or_none(
            read(number, resource) for number, resource in enumerate(resources) if resource.storage_container_url
        )
        for number, resource in enumerate(resources):
            if resource.storage_container_url:
                plan.add_listing(number, resource, listings.pop(number))
            elif resource.http_url:
                plan.add_file(number, resource)
            else:
                raise TaskFailure(
                    _C.RESOURCE_FILE_CREATE_FAILED,
                    "A resource file has neither an httpUrl nor a container this node can read",
                    FilePath=resource.file_path or "",
                )
        plan.check()
        return plan

    async def _listing(self, resource: ResourceFile) -> list[RemoteFile]:
        url, prefix = resource.storage_container_url or "", resource.blob_prefix or ""
        try:
            return await self._staging.list(url, prefix)
        except TaskFailure as failure:
            failure.details["StorageContainerUrl"] = without_authority(url)
            failure.details.pop("FilePath", None)
            if prefix:
                failure.details["BlobPrefix"] = prefix
            raise

    # --- fetching -----------------------------------------------------------------------------------------------

    async def _fill(self, tree: str, plan: InputPlan, resources: Sequence[ResourceFile]) -> None:
        """Fetch all files into the tree, but for those the cache has as they are listed."""
        files = plan.files
        if self._cache.limit:
            files = dict(files)
            for number, resource in enumerate(resources):
                if resource.storage_container_url:
                    await self._copy_known(tree, files, number, resource.storage_container_url)
        waiting = iter(files.values())

        async def fetch_waiting() -> None:
            for file in waiting:
                await self._fetch(tree, file, resources[file.resource])

        await all_or_none(fetch_waiting() for _ in range(min(_PARALLEL, len(files))))

    async def _copy_known(self, tree: str, files: dict[str, PlannedFile], number: int, container_url: str) -> None:
        """Take out of `files` what could be copied from the cache."""
        known: list[Listed] = []
        for file in files.values():
            if file.resource == number and file.etag:
                key = content_key(self._staging.file_url(container_url, file.blob))
                if self._cache.has(self._pool_id, key, file.etag):
                    known.append(Listed(key, file.etag, file.size or 0, f"{tree}/{file.path}", file.mode))
        if not known:
            return
        # Who may list may not read yet: one of them is asked for. What the server says of that goes for all, as the URL's
        # authority is over the whole container.
        known.sort(key=lambda one: one.size)
        first = files.pop(known[0].path[len(tree) + 1 :])
        resource = ResourceFile(storage_container_url=container_url)
        await self._fetch(tree, first, resource)
        async with self._slots:
            missing = await self._copy_listed(known[1:])
        for one in known[1:]:
            if one.path not in missing:
                del files[one.path[len(tree) + 1 :]]

    async def _copy_listed(self, known: list[Listed]) -> set[str]:
        """The paths of those that have to be fetched after all."""
        try:
            return {one.path for one in await self._cache.copy_listed(self._pool_id, known)}
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise node_failure(
                    _C.RESOURCE_FILE_WRITE_FAILED, "Resource files could not be copied", error
                ) from error
            await self._cache.free()
            return {one.path for one in await asyncio.to_thread(_not_there, known)}

    async def _fetch(self, tree: str, file: PlannedFile, resource: ResourceFile) -> None:
        url = resource.http_url or self._staging.file_url(resource.storage_container_url or "", file.blob)
        path = f"{tree}/{file.path}"
        freed = self._cache.freed
        try:
            try:
                await self._get(url, path, file)
            except TaskFailure as failure:
                # The cache gives way to what is needed; another download may have had it do so meanwhile.
                if failure.code is not _C.DISK_FULL or not (await self._cache.free() or self._cache.freed != freed):
                    raise
                await self._get(url, path, file)
        except TaskFailure as failure:
            failure.details["FilePath"] = file.blob or file.path
            failure.details["BlobSource"] = without_authority(url)
            raise
        with _disk(_C.RESOURCE_FILE_CREATE_FAILED, f"The mode of {file.path!r} could not be set"):
            os.chmod(path, file.mode)

    async def _get(self, url: str, path: str, file: PlannedFile) -> None:
        with _disk(_C.RESOURCE_FILE_WRITE_FAILED, f"The resource file {file.path!r} could not be written"):
            await self._cache.fetch(
                self._pool_id,
                self._staging,
                url,
                path,
                self._slots,
                size=file.size,
                listed=bool(file.blob and file.etag),
            )


@contextlib.contextmanager
def _disk(code: TaskFailureCode, message: str) -> Iterator[None]:
    """Tell errors of the node's disk as failures."""
    try:
        yield
    except OSError as error:
        raise node_failure(code, message, error) from error


def _not_there(files: Iterable[Listed]) -> list[Listed]:
    return [file for file in files if not os.path.lexists(file.path)]


def _make_directories(tree: str, directories: Iterable[str]) -> None:
    """In order. Raises TaskFailure ResourceDirectoryCreateFailed."""
    for directory in directories:
        try:
            os.mkdir(f"{tree}/{directory}", DIRECTORY_MODE)
        except OSError as error:
            failure = node_failure(
                _C.RESOURCE_DIRECTORY_CREATE_FAILED,
                f"The directory {directory!r} of a resource file could not be made",
                error,
            )
            failure.details["FilePath"] = directory
            raise failure from error


def _move_in(tree: str, target: str) -> None:
    """Move what is in a tree into a directory of the same file system, at one stroke where that is empty. Raises OSError."""
    try:
        os.rename(tree, target)
    except OSError as error:
        if error.errno not in _NOT_EMPTY:
            raise
        _merge(tree, target)


def _merge(tree: str, target: str) -> None:
    with os.scandir(tree) as entries:
        for entry in list(entries):
            place = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False) and os.path.isdir(place):
                _move_in(entry.path, place)
            else:
                os.rename(entry.path, place)


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
