"""Applications and their packages: the records, their limits, and how references to them are resolved.

An application has versions, each a zip that nodes unpack (Azure Batch: application packages). A pool or task refers to
an application, and to a version of it or else to the default one.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.ids import id_key

MAX_POOL_REFERENCES: Final = 10
"""Of one pool (Azure Batch: quotas and limits)."""
PACKAGE_FORMAT: Final = "zip"

_APPLICATION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_VERSION: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_QUALIFIED: Final = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Batch/batchAccounts/([^/]+)/applications/([^/]+)\Z",
    re.IGNORECASE,
)

NO_PACKAGE: Final = "The specified application package does not exist."
NO_DEFAULT: Final = "The specified application package does not have a default version set."


class PackageState(StrEnum):
    PENDING = "pending"
    """Known, but its zip was not yet looked at."""
    ACTIVE = "active"


class ApplicationPackage(msgspec.Struct, frozen=True):
    """One version of an application."""

    version: str
    creation_time: Timestamp
    last_modified: Timestamp
    blob: str = ""
    """Where the zip that was activated is, in the account's own storage; empty before."""
    upload_blob: str = ""
    """Where the next one is uploaded to; empty when none is expected."""
    replaced_blobs: tuple[str, ...] = ()
    """Of zips that were activated before: nodes may be downloading them still, so they go with the package."""
    state: PackageState = PackageState.PENDING
    storage_url_expiry: Timestamp | None = None
    """Of the URL to upload to that was handed out last."""
    last_activation_time: Timestamp | None = None
    size: int = 0
    """Of the zip that was activated, in bytes; so are the next two."""
    etag: str = ""
    sha256: str = ""
    tags: dict[str, str] = {}


class Application(msgspec.Struct, frozen=True):
    """One row of the `application` table: an application with all its packages."""

    id: str
    creation_time: Timestamp
    last_modified: Timestamp
    display_name: str | None = None
    allow_updates: bool = True
    """Whether a version that is active may be made anew."""
    default_version: str | None = None
    """The version meant by who names none; one of `packages`."""
    packages: tuple[ApplicationPackage, ...] = ()
    """In order of version, compared without case."""
    tags: dict[str, str] = {}

    def package(self, version: str) -> ApplicationPackage | None:
        key = id_key(version)
        return next((package for package in self.packages if id_key(package.version) == key), None)

    @property
    def active_versions(self) -> list[str]:
        return [package.version for package in self.packages if package.state is PackageState.ACTIVE]

    def with_package(self, package: ApplicationPackage) -> "Application":
        """With this package added, or in place of the one of that version."""
        others = [other for other in self.packages if id_key(other.version) != id_key(package.version)]
        packages = sorted([*others, package], key=lambda one: id_key(one.version))
        return msgspec.structs.replace(self, packages=tuple(packages))

    def without_package(self, version: str) -> "Application":
        others = tuple(other for other in self.packages if id_key(other.version) != id_key(version))
        return msgspec.structs.replace(self, packages=others)


class PackageReference(msgspec.Struct, frozen=True):
    """What a pool or task asks for."""

    application_id: str
    version: str | None = None

    @property
    def label(self) -> str:
        """How errors name it: `id` or `id:version` (as the service does)."""
        return self.application_id if self.version is None else f"{self.application_id}:{self.version}"


def is_application_id(text: str) -> bool:
    """1 to 64 letters, digits, hyphens and underscores (Azure Batch management: ^[a-zA-Z0-9_-]+$)."""
    return _APPLICATION_ID.match(text) is not None


def is_version(text: str) -> bool:
    """1 to 64 letters, digits, hyphens, underscores and periods; `.` and `..` are none."""
    return _VERSION.match(text) is not None and text.strip(".") != ""


def reference_of(application_id: str, version: str | None, account: str) -> PackageReference:
    """A reference as clients write it: the application's id, or its whole resource id in this account. One of another
    account stays as it is, and so names nothing."""
    match = _QUALIFIED.match(application_id)
    if match is not None and id_key(match[1]) == id_key(account):
        application_id = match[2]
    return PackageReference(application_id, version or None)


class Resolved(msgspec.Struct, frozen=True):
    """The package a reference means just now."""

    application: Application
    package: ApplicationPackage

    @property
    def is_default(self) -> bool:
        default = self.application.default_version
        return default is not None and id_key(default) == id_key(self.package.version)


def resolve(application: Application | None, reference: PackageReference) -> Resolved | str:
    """The active package that is meant, or what is wrong with the reference, in the service's words."""
    if application is None:
        return NO_PACKAGE
    version = reference.version or application.default_version
    if version is None:
        return NO_DEFAULT
    package = application.package(version)
    if package is None or package.state is not PackageState.ACTIVE:
        return NO_PACKAGE
    return Resolved(application, package)
