"""Mounts of pools, checked (semantics 5.5)."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from millpond.api.intake.common import check_relative_path, check_url
from millpond.api.schema.mounts import (
    AzureBlobFileSystemConfiguration,
    AzureFileShareConfiguration,
    CifsMountConfiguration,
    MountConfiguration,
    NfsMountConfiguration,
)
from millpond.domain.errors import invalid_property

MAX_MOUNTS: Final = 10
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}\Z")
_CONTAINER: Final = re.compile(r"(?:\$root|[a-z0-9](?:-?[a-z0-9]){2,62})\Z")
_NFS_SOURCE: Final = re.compile(r"file:///|(?!file:)[^-/\s][^/\s]*:/")
_SHARE: Final = re.compile(r"(?://|\\\\)[^/\\\s]+[/\\].+")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]")


def check_mounts(mounts: Sequence[MountConfiguration] | None) -> None:
    """Raises BatchError InvalidPropertyValue naming the property."""
    mounts = mounts or ()
    if len(mounts) > MAX_MOUNTS:
        raise invalid_property("mountConfiguration", len(mounts), f"a pool has at most {MAX_MOUNTS} mounts")
    paths: list[str] = []
    for index, mount in enumerate(mounts):
        name = f"mountConfiguration[{index}]"
        given = [(field, value) for field, value in _kinds(mount) if value is not None]
        if len(given) != 1:
            raise invalid_property(name, "", "exactly one kind of mount must be given")
        field, kind = given[0]
        path = _check(f"{name}.{field}", kind)
        for other in paths:
            if path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/"):
                raise invalid_property(
                    f"{name}.{field}.relativeMountPath", kind.relative_mount_path, f"it is in the way of {other}"
                )
        paths.append(path)


def _kinds(mount: MountConfiguration) -> list[tuple[str, "_Kind | None"]]:
    return [
        ("azureBlobFileSystemConfiguration", mount.azure_blob_file_system_configuration),
        ("nfsMountConfiguration", mount.nfs_mount_configuration),
        ("cifsMountConfiguration", mount.cifs_mount_configuration),
        ("azureFileShareConfiguration", mount.azure_file_share_configuration),
    ]


_Kind = AzureBlobFileSystemConfiguration | NfsMountConfiguration | CifsMountConfiguration | AzureFileShareConfiguration


def _check(name: str, kind: _Kind) -> str:
    """The path it is mounted on."""
    for field in msgspec.structs.fields(kind):
        text = getattr(kind, field.name)
        if isinstance(text, str) and _CONTROLS.search(text):
            raise invalid_property(f"{name}.{field.encode_name}", "", "it has control characters")
    check_relative_path(f"{name}.relativeMountPath", kind.relative_mount_path)
    match kind:
        case AzureBlobFileSystemConfiguration():
            _check_blob(name, kind)
        case AzureFileShareConfiguration():
            _check_account(name, kind.account_name)
            check_url(f"{name}.azureFileUrl", kind.azure_file_url)
            if not kind.azure_file_url.partition("://")[2].partition("/")[2].strip("/"):
                raise invalid_property(f"{name}.azureFileUrl", kind.azure_file_url, "it names no file share")
            if not kind.account_key:
                raise invalid_property(f"{name}.accountKey", "", "it is empty")
        case NfsMountConfiguration():
            if _NFS_SOURCE.match(kind.source) is None:
                raise invalid_property(
                    f"{name}.source", kind.source, "it must be host:/directory, or file:///directory of the host's own"
                )
        case CifsMountConfiguration():
            if _SHARE.match(kind.source) is None:
                raise invalid_property(f"{name}.source", kind.source, r"it must be //server/share or \\server\share")
            if not kind.username:
                raise invalid_property(f"{name}.username", "", "it is empty")
    return "/".join(part for part in kind.relative_mount_path.split("/") if part not in ("", "."))


def _check_blob(name: str, blob: AzureBlobFileSystemConfiguration) -> None:
    _check_account(name, blob.account_name)
    if _CONTAINER.match(blob.container_name) is None:
        raise invalid_property(
            f"{name}.containerName",
            blob.container_name,
            "a container's name has 3 to 63 lower-case letters, digits and single hyphens",
        )
    identity = None if blob.identity_reference is None else blob.identity_reference.resource_id
    if sum(bool(one) for one in (blob.account_key, blob.sas_key, identity)) != 1:
        raise invalid_property(name, "", "exactly one of accountKey, sasKey and identityReference must be given")


def _check_account(name: str, account: str) -> None:
    if _ACCOUNT.match(account) is None:
        raise invalid_property(
            f"{name}.accountName", account, "a storage account's name has 3 to 24 lower-case letters and digits"
        )
