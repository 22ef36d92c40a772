"""The application packages of a node: fetched, unpacked once for all tasks, and told to tasks (semantics 4.1, 5.4).

A package lies in `applications/<id><version><time it was made>-<its content>`, the last two so that a version made anew
is another directory: what is there is whole, and never changes. The zip, and what is being unpacked, is in `volatile`.
"""

import asyncio
import hashlib
import itertools
import logging
import os
import shutil
import weakref
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.replacement import replace_file
from millpond.agent.runner.attempt import node_failure
from millpond.agent.runner.spec import ApplicationPackage
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.archives import ArchiveError, unpack
from millpond.staging.base import Staging
from millpond.staging.threads import finish_in_thread

PREFIX: Final = "AZ_BATCH_APP_PACKAGE_"

_WORK: Final = "volatile/packages"
_POOL_RECORD: Final = "volatile/pool-packages.json"
_CLEAN: Final = str.maketrans(".-#", "___")
_log: Final = logging.getLogger(__name__)


class Deployed(msgspec.Struct, frozen=True):
    """A package as tasks are told of it."""

    id: str
    version: str
    is_default: bool
    directory: str
    """Name, below `applications`."""


_pool_record: Final = msgspec.json.Decoder(tuple[Deployed, ...])


class NodePackages:
    """The packages below one node's root. One for all runners of a root: see `of`."""

    def __init__(self, directories: NodeDirectories) -> None:
        self._directories = directories
        self._root = directories.root
        self._flights: dict[str, _Flight] = {}
        self._numbers = itertools.count()
        self._pool: tuple[Deployed, ...] | None = None
        self._tidied = False

    @classmethod
    def of(cls, directories: NodeDirectories) -> "NodePackages":
        """Those of that root in this process, see `NodeDirectories.of`."""
        found = _shared.get(directories)
        if found is None:
            found = _shared[directories] = cls(directories)
        return found

    # --- what tasks are told ---

    @property
    def pool(self) -> tuple[Deployed, ...]:
        """The packages the node was set up with when it booted last: all its tasks are told of them."""
        if self._pool is None:
            try:
                with open(f"{self._root}/{_POOL_RECORD}", "rb") as file:
                    self._pool = _pool_record.decode(file.read())
            except (FileNotFoundError, msgspec.DecodeError):
                self._pool = ()
        return self._pool

    def environment(self, packages: Iterable[ApplicationPackage]) -> dict[str, str]:
        """The variables of the pool's packages and of a task's own, which win."""
        if not packages and not self.pool:
            return {}
        variables: dict[str, str] = {}
        for one in (*self.pool, *(_deployed(package) for package in packages if not package.problem)):
            path = f"{self._root}/applications/{one.directory}"
            names = [f"{one.id}_{one.version}", *([one.id] if one.is_default else [])]
            for name in names:
                clean = PREFIX + name.translate(_CLEAN)
                variables[clean] = variables[clean.upper()] = path
        return variables

    # --- getting them there ---

    async def set_up(self, packages: Sequence[ApplicationPackage], staging: Staging) -> None:
        """Deploy the pool's packages, and have all tasks told of them from now on. Raises TaskFailure."""
        await self.deploy(packages, staging)
        pool = tuple(_deployed(package) for package in packages)
        try:
            self._note(pool)
        except OSError as error:
            raise node_failure(
                TaskFailureCode.APPLICATION_PACKAGE_ERROR, "The pool's packages could not be noted", error
            ) from error
        self._pool = pool

    def _note(self, pool: tuple[Deployed, ...]) -> None:
        replace_file(f"{self._root}/{_POOL_RECORD}", msgspec.json.encode(pool))

    def _is_there(self, name: str) -> bool:
        return os.path.isdir(f"{self._root}/applications/{name}")

    async def deploy(self, packages: Iterable[ApplicationPackage], staging: Staging) -> None:
        """Have these packages on the node; those that are there already stay as they are. Raises TaskFailure
        ApplicationPackageError (DiskFull when there is no room)."""
        self._directories.create()
        for package in packages:
            if package.problem:
                raise _failure(package, package.problem)
            name = directory_of(package)
            if not self._is_there(name):
                await self._join(name, package, staging)

    async def _join(self, name: str, package: ApplicationPackage, staging: Staging) -> None:
        """Wait for the one deployment of that package, which ends early when nobody waits for it any more."""
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(asyncio.create_task(self._deploy(name, package, staging)))
            flight.work.add_done_callback(lambda _: self._flights.pop(name, None))
        flight.waiting += 1
        try:
            await asyncio.shield(flight.work)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.work.done():
                flight.work.cancel()
                self._flights.pop(name, None)

    async def _deploy(self, name: str, package: ApplicationPackage, staging: Staging) -> None:
        work = f"{self._root}/{_WORK}"
        file = f"{work}/{next(self._numbers)}.zip"
        folder = file.removesuffix(".zip")
        try:
            if not self._tidied:
                # What an earlier life of the agent was in the middle of.
                self._tidied = True
                await finish_in_thread(shutil.rmtree, work, ignore_errors=True)
            os.makedirs(work, mode=0o700, exist_ok=True)
            await staging.fetch(package.url, file)
            await finish_in_thread(_unpack, package, file, folder, f"{self._root}/applications/{name}")
        except TaskFailure as failure:
            if failure.code in (TaskFailureCode.APPLICATION_PACKAGE_ERROR, TaskFailureCode.DISK_FULL):
                raise
            raise _failure(
                package,
                f"its zip could not be downloaded: {failure.message}",
                user_error=failure.user_error,
                Cause=failure.code.value,
            ) from failure
        except OSError as error:
            raise node_failure(
                TaskFailureCode.APPLICATION_PACKAGE_ERROR, f"{_name(package)} could not be deployed", error
            ) from error
        finally:
            await finish_in_thread(_discard, file, folder)


class _Flight:
    """A deployment, and how many wait for it."""

    def __init__(self, work: "asyncio.Task[None]") -> None:
        self.work = work
        self.waiting = 0


def directory_of(package: ApplicationPackage) -> str:
    """The name of its directory, below `applications`."""
    made = datetime.fromtimestamp(package.created_at, UTC)
    return f"{package.id}{package.version}{made:%Y-%m-%d-%H-%M}-{package.sha256[:12]}"


def _deployed(package: ApplicationPackage) -> Deployed:
    return Deployed(package.id, package.version, package.is_default, directory_of(package))


def _unpack(package: ApplicationPackage, file: str, folder: str, target: str) -> None:
    """In a thread. Raises TaskFailure, OSError."""
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != package.sha256:
        raise _failure(package, "its zip is not the one that was activated: activate the package again")
    os.mkdir(folder, 0o700)
    try:
        unpack(file, folder)
    except ArchiveError as error:
        raise _failure(package, f"its zip cannot be used: {error}") from error
    os.unlink(file)
    os.rename(folder, target)


def _discard(file: str, folder: str) -> None:
    try:
        os.unlink(file)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s is left over: %s", file, error)
    shutil.rmtree(folder, ignore_errors=True)


def _name(package: ApplicationPackage) -> str:
    version = f" version '{package.version}'" if package.version else ""
    return f"The application package '{package.id}'{version}"


def _failure(package: ApplicationPackage, what: str, *, user_error: bool = True, **details: str) -> TaskFailure:
    return TaskFailure(
        TaskFailureCode.APPLICATION_PACKAGE_ERROR,
        f"{_name(package)} could not be deployed: {what}",
        user_error=user_error,
        ApplicationId=package.id,
        **({"Version": package.version} if package.version else {}),
        **details,
    )


_shared: weakref.WeakKeyDictionary[NodeDirectories, NodePackages] = weakref.WeakKeyDictionary()
