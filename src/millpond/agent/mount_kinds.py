"""How each kind of mount is made: the program, its arguments, and how secrets get to it (never as an argument).

NFS and CIFS are the kernel's, by `mount`. Blob containers and Azure file shares come through FUSE, by `rclone mount`.
A directory of the host's, `file:///data`, stands where an NFS source would.
"""

import os
import shlex
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.shared_access import account_at

BLOB_ENDPOINT: Final = "https://{account}.blob.core.windows.net"
_ALWAYS: Final = "nosuid,nodev"
_REMOTE: Final = "STORE"
_RCLONE_KEYS: Final = frozenset({"attr_timeout"})
_SIGNED_S: Final = 5 * 365 * 86400.0
"""A container stays mounted as long as its node is up."""
_READ_ONLY: Final = frozenset({"ro"})
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Wire(msgspec.Struct, frozen=True, rename="camel"):
    relative_mount_path: str


class BlobContainer(_Wire, frozen=True, rename="camel"):
    """Azure Batch: AzureBlobFileSystemConfiguration, its identity turned into a signature."""

    account_name: str
    container_name: str
    account_key: str | None = None
    sas_key: str | None = None
    container_url: str | None = None
    """Ours, for an identity: the container with its signature."""
    blobfuse_options: str | None = None


class FileShare(_Wire, frozen=True, rename="camel"):
    """Azure Batch: AzureFileShareConfiguration."""

    account_name: str
    account_key: str
    azure_file_url: str
    mount_options: str | None = None


class Nfs(_Wire, frozen=True, rename="camel"):
    """Azure Batch: NfsMountConfiguration."""

    source: str
    mount_options: str | None = None


class Cifs(_Wire, frozen=True, rename="camel"):
    """Azure Batch: CifsMountConfiguration."""

    username: str
    password: str
    source: str
    mount_options: str | None = None


class Mount(msgspec.Struct, frozen=True, rename="camel"):
    """Azure Batch: MountConfiguration; exactly one of them is given."""

    azure_blob_file_system_configuration: BlobContainer | None = None
    azure_file_share_configuration: FileShare | None = None
    nfs_mount_configuration: Nfs | None = None
    cifs_mount_configuration: Cifs | None = None

    @property
    def kind(self) -> BlobContainer | FileShare | Nfs | Cifs:
        """The one that is given. Raises TaskFailure MountConfigurationError."""
        for kind in (
            self.azure_blob_file_system_configuration,
            self.azure_file_share_configuration,
            self.nfs_mount_configuration,
            self.cifs_mount_configuration,
        ):
            if kind is not None:
                return kind
        raise failure("", "a mount configuration has no kind")


class MountSettings(msgspec.Struct, frozen=True):
    """What the operator says of mounts; see docs/how-to/mounts.md."""

    allow: tuple[str, ...] = ()
    """Directories of the host that pools may mount, with all below them."""
    endpoints: dict[str, str] = {}
    """Blob endpoint by storage account, for those that are not Azure's."""
    timeout_s: float = 60.0
    """How long one try to mount may take."""
    tries: int = 3
    pause_s: float = 2.0
    """Between tries."""


class Place(msgspec.Struct, frozen=True):
    """Where a mount goes, and whose its files are to be."""

    target: str
    private: str
    """A directory for what only the agent may read; the mount may use it while it lasts."""
    uid: int
    group: int | None
    """That of the node's users, who are to use the mount; None where all run as the agent."""


class Making(msgspec.Struct, frozen=True):
    """What is to be run to mount something."""

    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str] = {}
    secret_files: Mapping[str, str] = {}
    """Path → content; they are gone once the commands have ended."""
    link: str = ""
    """Not mounted but linked to: for an agent that may not mount."""
    notes: tuple[str, ...] = ()
    """For the mount's log."""
    obscured: Mapping[str, str] = {}
    """Further environment, whose values rclone is to obscure first."""


def failure(path: str, message: str) -> TaskFailure:
    """What becomes the node's error."""
    return TaskFailure(TaskFailureCode.MOUNT_CONFIGURATION_ERROR, message, MountConfigurationPath=path)


def making_of(kind: BlobContainer | FileShare | Nfs | Cifs, place: Place, settings: MountSettings) -> Making:
    """How it is mounted. Raises TaskFailure MountConfigurationError."""
    match kind:
        case BlobContainer():
            return _blob(kind, place, settings)
        case FileShare():
            return _share(kind, place)
        case Nfs():
            if kind.source.startswith("file:"):
                return _directory(kind, place, settings)
            return Making((_kernel("nfs", kind.source, kind, place),))
        case Cifs():
            path = f"{place.private}/credentials"
            text = f"username={kind.username}\npassword={kind.password}\n"
            source = kind.source.replace("\\", "/")
            return Making((_kernel("cifs", source, kind, place, f"credentials={path}"),), secret_files={path: text})


def is_linked(kind: BlobContainer | FileShare | Nfs | Cifs) -> bool:
    """Whether it is not mounted but linked to: a directory of the host, for an agent that may not mount."""
    return isinstance(kind, Nfs) and kind.source.startswith("file:") and os.geteuid() != 0


def options_of(kind: _Wire, text: str | None) -> list[str]:
    """The options in `-o a,b -o c`, or in `a,b`. Raises TaskFailure for anything else: they are root's to `mount`."""
    options: list[str] = []
    try:
        words = iter(shlex.split(text or ""))
    except ValueError as error:
        raise failure(kind.relative_mount_path, f"the mount options {text!r} cannot be read: {error}") from error
    for word in words:
        listed = next(words, "") if word == "-o" else word.removeprefix("-o")
        if not listed or listed.startswith("-"):
            raise failure(
                kind.relative_mount_path, f"the mount options {text!r} are not understood: they are -o a,b or a,b"
            )
        options += listed.split(",")
    return options


def _kernel(program: str, source: str, kind: Nfs | Cifs, place: Place, *own: str) -> tuple[str, ...]:
    options = [*options_of(kind, kind.mount_options), *own, *_ALWAYS.split(",")]
    return ("mount", "-t", program, "-o", ",".join(options), "--", source, place.target)


def _directory(kind: Nfs, place: Place, settings: MountSettings) -> Making:
    parts = urlsplit(kind.source)
    source = os.path.realpath(unquote(parts.path))
    if parts.netloc not in ("", "localhost") or not unquote(parts.path).startswith("/"):
        raise failure(
            kind.relative_mount_path, f"{kind.source} names no directory of the host: write file:///directory"
        )
    if not any(_is_within(source, os.path.realpath(allowed)) for allowed in settings.allow):
        raise failure(
            kind.relative_mount_path,
            f"{source} is not a directory this host lends to pools; its operator allows it in nodes.mount_allow",
        )
    if not os.path.isdir(source):
        raise failure(kind.relative_mount_path, f"there is no directory {source} on this host")
    options = options_of(kind, kind.mount_options)
    if is_linked(kind):
        if options and options != ["rw"]:
            raise failure(kind.relative_mount_path, "mount options need an agent that runs as root")
        return Making((), link=source, notes=("linked, as the agent does not run as root",))
    flags = ",".join(["remount", "bind", *options, *_ALWAYS.split(",")])
    return Making((("mount", "--bind", "--", source, place.target), ("mount", "-o", flags, "--", place.target)))


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _blob(kind: BlobContainer, place: Place, settings: MountSettings) -> Making:
    endpoint = settings.endpoints.get(kind.account_name)
    remote = {"TYPE": "azureblob"}
    if kind.container_url:
        remote["SAS_URL"] = kind.container_url
    elif kind.sas_key:
        base = endpoint or BLOB_ENDPOINT.format(account=kind.account_name)
        remote["SAS_URL"] = f"{base.rstrip('/')}/{kind.container_name}?{kind.sas_key.lstrip('?')}"
    elif kind.account_key and endpoint is None:
        remote |= {"ACCOUNT": kind.account_name, "KEY": kind.account_key}
    elif kind.account_key and endpoint is not None:
        # Accounts elsewhere may have their name in the path, of which rclone knows only within a signed URL.
        remote["SAS_URL"] = _signed(kind, endpoint, kind.account_key)
    else:
        raise failure(kind.relative_mount_path, "the node was given nothing to open the container with")
    return _rclone(kind, place, kind.container_name, remote, kind.blobfuse_options)


def _signed(kind: BlobContainer, endpoint: str, key: str) -> str:
    try:
        account = account_at(endpoint, key, kind.account_name)
    except ValueError as error:
        raise failure(kind.relative_mount_path, f"the account {kind.account_name} cannot be used: {error}") from error
    return account.sign(kind.container_name, None, "rwdl", time.time() + _SIGNED_S)


def _share(kind: FileShare, place: Place) -> Making:
    try:
        parts = urlsplit(kind.azure_file_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    share = unquote(parts.path).strip("/") if host else ""
    if not host or not share:
        raise failure(kind.relative_mount_path, f"{kind.azure_file_url} is not the URL of a file share")
    remote = {"TYPE": "smb", "HOST": host, "USER": kind.account_name}
    if port:
        remote["PORT"] = str(port)
    return _rclone(kind, place, share, remote, kind.mount_options, password=kind.account_key)


def _rclone(
    kind: BlobContainer | FileShare,
    place: Place,
    path: str,
    remote: Mapping[str, str],
    options: str | None,
    *,
    password: str = "",
) -> Making:
    taken, notes = _rclone_options(options)
    shared = ("--allow-other", "--gid", str(place.group)) if place.group is not None else ()
    command = (
        "rclone",
        "mount",
        f"{_REMOTE.lower()}:{path}",
        place.target,
        "--config=",
        "--daemon",
        "--cache-dir",
        f"{place.private}/cache",
        # Files can be written in any way; each is stored when it is closed.
        "--vfs-cache-mode=writes",
        "--vfs-write-back=0s",
        "--dir-cache-time=5s",
        "--uid",
        str(place.uid),
        "--umask=0",
        "--dir-perms=0770",
        "--file-perms=0770",
        "--option=nosuid,nodev",
        *shared,
        *taken,
    )
    environment = {f"RCLONE_CONFIG_{_REMOTE}_{name}": value for name, value in remote.items()}
    obscured = {f"RCLONE_CONFIG_{_REMOTE}_PASS": password} if password else {}
    # Mounted, a container that is not there looks empty, and one that may not be read is found out when it is used.
    probe = (
        "rclone",
        "lsf",
        f"{_REMOTE.lower()}:{path}",
        "--config=",
        "--max-depth=1",
        "--retries=1",
        "--low-level-retries=3",
    )
    return Making((probe, command), environment=environment, notes=notes, obscured=obscured)


def _rclone_options(text: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(arguments for rclone, what is to be said of the others): those of blobfuse and of SMB that mean something here."""
    taken: list[str] = []
    left: list[str] = []
    try:
        words = shlex.split(text or "")
    except ValueError:
        words = (text or "").split()
    for word in words:
        if word == "-o":
            continue
        for option in word.removeprefix("-o").split(","):
            name, _, value = option.partition("=")
            if option in _READ_ONLY or option == "--read-only":
                taken.append("--read-only")
            elif name in _RCLONE_KEYS and value.isdigit():
                taken.append(f"--{name.replace('_', '-')}={value}s")
            elif option:
                left.append(option)
    notes = (f"options that mean nothing to rclone: {' '.join(left)}",) if left else ()
    return tuple(taken), notes


def program_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a program that mounts."""
    return {"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8", **more}
