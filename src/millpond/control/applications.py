"""The account's applications: kept, uploaded to, activated, and turned into what nodes are told to unpack.

They belong to no pool, so no engine owns them: this is their one writer. All of them are in memory too (they are few), for
references are resolved whenever a task or a node starts.
"""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from millpond.domain.application import (
    PACKAGE_FORMAT,
    Application,
    ApplicationPackage,
    PackageReference,
    PackageState,
    Resolved,
    is_application_id,
    is_version,
    reference_of,
    resolve,
)
from millpond.domain.durations import Timestamp, later_than
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.ids import id_key
from millpond.domain.pool import Pool
from millpond.staging.account_storage import AccountStorage, StorageError
from millpond.staging.archives import ArchiveError, inspect
from millpond.store.base import Store

CONTAINER: Final = "millpond-packages"
UPLOAD_S: Final = 4 * 3600.0
"""How long a URL to upload to is good."""
DOWNLOAD_S: Final = 86400.0
"""How long the URLs are good that nodes are told."""

_REFERENCES: Final = "applicationPackageReferences"
_DIRECTIVES: Final = "applicationPackages"
_MARK: Final = f'"{_REFERENCES}"'.encode()

_log: Final = logging.getLogger(__name__)


class ApplicationLimits(msgspec.Struct, frozen=True):
    """How many there may be; None is no limit."""

    applications: int | None = 20
    packages: int | None = 40
    """Of one application."""


class ApplicationChanges(msgspec.Struct, frozen=True):
    """What a request says of an application; None leaves it as it is."""

    display_name: str | None = None
    allow_updates: bool | None = None
    default_version: str | None = None
    """Empty takes the default away."""
    tags: dict[str, str] | None = None


class Applications:
    """Operations on applications and packages. Those that change something raise BatchError (ApplicationNotFound,
    ApplicationPackageNotFound, Conflict …) and StoreUnavailable; what they return is on disk."""

    def __init__(
        self,
        store: Store,
        storage: AccountStorage | None,
        account: str,
        clock: Callable[[], Timestamp],
        *,
        limits: ApplicationLimits = ApplicationLimits(),
        pools: Callable[[], Iterable[Pool]] = tuple,
        scratch: str | None = None,
    ) -> None:
        """`pools` are those there are now; `scratch` is where a zip is looked at (None: where the system likes it)."""
        self._store = store
        self._storage = storage
        self._account = account
        self._clock = clock
        self._limits = limits
        self._pools = pools
        self._scratch = scratch
        self._known: dict[str, Application] = {}
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read what is in the store, once it is open."""
        self._known = {id_key(application.id): application for application in await self._store.load_applications()}

    def find(self, application_id: str) -> Application:
        """Raises BatchError ApplicationNotFound."""
        application = self._known.get(id_key(application_id))
        if application is None:
            raise BatchError(
                ErrorCode.APPLICATION_NOT_FOUND,
                f"The application '{application_id[:64]}' does not exist.",
                ApplicationId=application_id[:64],
            )
        return application

    def find_package(self, application_id: str, version: str) -> tuple[Application, ApplicationPackage]:
        """Raises BatchError ApplicationNotFound, ApplicationPackageNotFound."""
        application = self.find(application_id)
        package = application.package(version)
        if package is None:
            raise BatchError(
                ErrorCode.APPLICATION_PACKAGE_NOT_FOUND,
                f"The application '{application.id}' has no version '{version[:64]}'.",
                ApplicationId=application.id,
                Version=version[:64],
            )
        return application, package

    # --- applications ---

    async def put(self, application_id: str, changes: ApplicationChanges) -> Application:
        """Make an application; of one that exists, change what is given."""
        if not is_application_id(application_id):
            raise invalid_property(
                "applicationName", application_id, "it has 1 to 64 letters, digits, hyphens and underscores"
            )
        async with self._changing:
            known = self._known.get(id_key(application_id))
            if known is None:
                limit = self._limits.applications
                if limit is not None and len(self._known) >= limit:
                    raise _conflict(
                        f"There are {limit} applications, which is the limit: delete one, or raise "
                        "account.max_applications in the configuration."
                    )
                at = self._clock()
                known = Application(application_id, at, at)
            return await self._save(_changed(known, changes))

    async def update(self, application_id: str, changes: ApplicationChanges) -> Application:
        async with self._changing:
            return await self._save(_changed(self.find(application_id), changes))

    async def delete(self, application_id: str) -> bool:
        """Delete an application that has no packages; False when there is none."""
        async with self._changing:
            application = self._known.get(id_key(application_id))
            if application is None:
                return False
            if application.packages:
                versions = ", ".join(package.version for package in application.packages[:5])
                raise _conflict(
                    f"The application '{application.id}' has {len(application.packages)} packages ({versions}): "
                    "delete them first."
                )
            await _to_its_end(self._forget(application))
            return True

    # --- packages ---

    async def create_package(
        self, application_id: str, version: str, tags: dict[str, str] | None = None
    ) -> tuple[Application, ApplicationPackage, str]:
        """Make a package, or have an active one made anew, and a URL to upload its zip to. One that is active stays
        what it is until the new zip is activated."""
        storage = self._required_storage()
        if not is_version(version):
            raise invalid_property(
                "versionName", version, "it has 1 to 64 letters, digits, hyphens, underscores and periods"
            )
        await storage.make_container(CONTAINER)
        async with self._changing:
            application = self.find(application_id)
            package = application.package(version)
            at = self._clock()
            if package is None:
                limit = self._limits.packages
                if limit is not None and len(application.packages) >= limit:
                    raise _conflict(
                        f"The application '{application.id}' has {limit} packages, which is the limit: delete one, or "
                        "raise account.max_application_packages in the configuration."
                    )
                package = ApplicationPackage(version, at, at)
            elif package.state is PackageState.ACTIVE and not application.allow_updates:
                raise _conflict(
                    f"Version '{package.version}' of '{application.id}' is active, and the application's allowUpdates is "
                    "false: give the new package another version."
                )
            package = msgspec.structs.replace(
                package,
                last_modified=later_than(package.last_modified, at),
                upload_blob=package.upload_blob or _blob_name(application.id, version),
                storage_url_expiry=float(int(at + UPLOAD_S)),
                tags=package.tags if tags is None else tags,
            )
            application = await self._save(application.with_package(package))
        url = storage.sign(CONTAINER, package.upload_blob, "rw", package.storage_url_expiry or at)
        return application, package, url

    def download_url(self, package: ApplicationPackage) -> tuple[str, Timestamp]:
        """Where its zip, or the one uploaded first, can be read, and until when."""
        expiry = float(int(self._clock() + UPLOAD_S))
        return self._required_storage().sign(CONTAINER, package.blob or package.upload_blob, "r", expiry), expiry

    async def activate(self, application_id: str, version: str, form: str) -> tuple[Application, ApplicationPackage]:
        """Look at what was uploaded, and have it used from now on. Activating again without an upload looks again."""
        if form.lower() != PACKAGE_FORMAT:
            raise invalid_property("format", form, f"it must be {PACKAGE_FORMAT}")
        _, package = self.find_package(application_id, version)
        blob = package.upload_blob or package.blob
        size, etag, sha256 = await self._examine(blob)
        async with self._changing:
            application, package = self.find_package(application_id, version)
            if blob not in (package.upload_blob, package.blob):
                raise _conflict("The package was changed while it was looked at: activate it again.")
            at = self._clock()
            replaced = package.blob if package.blob != blob else ""
            package = msgspec.structs.replace(
                package,
                state=PackageState.ACTIVE,
                last_modified=later_than(package.last_modified, at),
                last_activation_time=at,
                blob=blob,
                upload_blob="" if blob == package.upload_blob else package.upload_blob,
                replaced_blobs=(*package.replaced_blobs, replaced) if replaced else package.replaced_blobs,
                size=size,
                etag=etag,
                sha256=sha256,
            )
            return await self._save(application.with_package(package)), package

    async def delete_package(self, application_id: str, version: str) -> bool:
        """Delete a package that nothing relies on, with its zip; False when there is none."""
        async with self._changing:
            application = self.find(application_id)
            package = application.package(version)
            if package is None:
                return False
            default = application.default_version
            if default is not None and id_key(default) == id_key(version):
                raise _conflict(
                    f"Version '{package.version}' is the default of '{application.id}': make another the default first."
                )
            users = [pool.id for pool in self._pools() if self._refers(pool, application, package)]
            if users:
                raise _conflict(
                    f"Version '{package.version}' of '{application.id}' is referenced by the pool "
                    f"{', '.join(users[:5])}: its nodes need it whenever they start. Change the pool first."
                )
            await self._save(application.without_package(version))
        await self._delete_blobs((package.blob, package.upload_blob, *package.replaced_blobs))
        return True

    def _refers(self, pool: Pool, application: Application, package: ApplicationPackage) -> bool:
        for reference in self.references_of(pool.spec):
            resolved = self._resolve(reference)
            if isinstance(resolved, Resolved) and (resolved.application.id, resolved.package.version) == (
                application.id,
                package.version,
            ):
                return True
        return False

    # --- references ---

    def references_of(self, spec: dict[str, Any]) -> list[PackageReference]:
        """Those of a pool or task in wire form."""
        entries = spec.get(_REFERENCES) or ()
        return [reference_of(entry["applicationId"], entry.get("version"), self._account) for entry in entries]

    def check(self, spec: dict[str, Any]) -> None:
        """Check the references of a pool in wire form. Raises BatchError InvalidApplicationPackageReferences, whose
        values name each that cannot be satisfied, and why."""
        problems: dict[str, str] = {}
        for reference in self.references_of(spec):
            resolved = self._resolve(reference)
            if isinstance(resolved, str):
                problems[reference.label[:256]] = resolved
        if problems:
            raise BatchError(ErrorCode.INVALID_APPLICATION_PACKAGE_REFERENCES, **problems)

    def _resolve(self, reference: PackageReference) -> Resolved | str:
        return resolve(self._known.get(id_key(reference.application_id)), reference)

    def prepare_spec(self, spec: bytes) -> bytes:
        """A specification as a node takes it: its references resolved, each with a URL to download from, or with what is
        wrong with it. Others pass as they are."""
        if _MARK not in spec:
            return spec
        decoded: dict[str, Any] = msgspec.json.decode(spec)
        decoded[_DIRECTIVES] = [self._directive(reference) for reference in self.references_of(decoded)]
        decoded.pop(_REFERENCES, None)
        return msgspec.json.encode(decoded)

    def _directive(self, reference: PackageReference) -> dict[str, Any]:
        resolved = self._resolve(reference)
        if isinstance(resolved, str) or self._storage is None:
            problem = resolved if isinstance(resolved, str) else "The account has no storage."
            return {"id": reference.application_id, "version": reference.version or "", "problem": problem}
        package = resolved.package
        return {
            "id": resolved.application.id,
            "version": package.version,
            "isDefault": resolved.is_default,
            "createdAt": package.creation_time,
            "url": self._storage.sign(CONTAINER, package.blob, "r", self._clock() + DOWNLOAD_S),
            "size": package.size,
            "sha256": package.sha256,
        }

    # --- within ---

    def _required_storage(self) -> AccountStorage:
        if self._storage is None:
            raise _conflict("The account has no auto-storage, which application packages are kept in.")
        return self._storage

    async def _save(self, application: Application) -> Application:
        application = msgspec.structs.replace(
            application, last_modified=later_than(application.last_modified, self._clock())
        )
        await _to_its_end(self._keep(application))
        return application

    async def _keep(self, application: Application) -> None:
        await self._store.save_application(application)
        self._known[id_key(application.id)] = application

    async def _forget(self, application: Application) -> None:
        await self._store.delete_application(application.id)
        self._known.pop(id_key(application.id), None)

    async def _examine(self, blob: str) -> tuple[int, str, str]:
        """(size, ETag, SHA-256) of an uploaded zip that nodes can unpack. Raises BatchError."""
        storage = self._required_storage()
        digest = hashlib.sha256()
        try:
            facts = await storage.stat(CONTAINER, blob)
            with tempfile.NamedTemporaryFile(dir=self._scratch, prefix="package-") as copy:
                size = 0
                async for chunk in storage.read(CONTAINER, blob, offset=0, length=facts.size):
                    digest.update(chunk)
                    size += len(chunk)
                    await asyncio.to_thread(copy.write, chunk)
                await asyncio.to_thread(copy.flush)
                await asyncio.to_thread(inspect, copy.name)
            after = await storage.stat(CONTAINER, blob)
        except StorageError as error:
            if error.status == 404:
                raise _conflict(
                    "There is nothing where the package's storageUrl leads to: upload the zip before you activate it."
                ) from error
            _log.warning("the zip of a package cannot be read: %s", error)
            raise BatchError(ErrorCode.SERVER_BUSY, f"The account's storage cannot be read: {error.message}") from error
        except ArchiveError as error:
            raise invalid_property("format", PACKAGE_FORMAT, f"what was uploaded cannot be used: {error}") from error
        if size != facts.size or after.etag != facts.etag:
            raise _conflict("The package was uploaded again while it was looked at: activate it again.")
        return size, facts.etag, digest.hexdigest()

    async def _delete_blobs(self, blobs: Sequence[str]) -> None:
        storage = self._required_storage()
        for blob in blobs:
            if blob:
                try:
                    await storage.delete(CONTAINER, blob)
                except StorageError as error:
                    _log.warning("the blob %s/%s of a deleted package is left over: %s", CONTAINER, blob, error)


def _changed(application: Application, changes: ApplicationChanges) -> Application:
    if changes.display_name is not None:
        if len(changes.display_name) > 1024:
            raise invalid_property("displayName", changes.display_name, "it is longer than 1024 characters")
        application = msgspec.structs.replace(application, display_name=changes.display_name)
    if changes.allow_updates is not None:
        application = msgspec.structs.replace(application, allow_updates=changes.allow_updates)
    if changes.tags is not None:
        application = msgspec.structs.replace(application, tags=changes.tags)
    if changes.default_version is not None:
        package = application.package(changes.default_version)
        if changes.default_version and package is None:
            raise invalid_property(
                "defaultVersion",
                changes.default_version,
                f"the application '{application.id}' has no such version: make the package first",
            )
        application = msgspec.structs.replace(application, default_version=package.version if package else None)
    return application


def _blob_name(application_id: str, version: str) -> str:
    """Flat, as some clients take the part after the last slash for the blob."""
    return f"{id_key(application_id)}-{id_key(version)}-{secrets.token_hex(6)}.zip"


def _conflict(message: str) -> BatchError:
    return BatchError(ErrorCode.CONFLICT, message)


async def _to_its_end(work: Any) -> None:
    """Do it also when the caller gives up meanwhile: disk and memory agree."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise
