"""The account's auto-storage: a directory of containers, and the signed URLs under which it is served.

A URL is `{endpoint}/storage/{container}/{blob path}?sp=…&se=…&sr=…&sig=…`:

- `sp` the permissions it gives, letters of `rwdl` (read, write, delete, list),
- `se` when it expires, in whole seconds since the epoch,
- `sr` what it is for: `b` this blob, `c` the container and any blob path below it, with the same query,
- `sig` the HMAC-SHA256 of these by the account key, URL-safe base64 without padding.

Who holds the account key signs by itself; nothing is kept of the URLs given out.
"""

import base64
import binascii
import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Final
from urllib.parse import quote

import msgspec

from millpond.domain.durations import Timestamp
from millpond.staging.account_storage import BlobFacts, StorageError
from millpond.staging.base import RemoteFile

PATH_PREFIX: Final = "/storage/"
PERMISSIONS: Final = "rwdl"
MAX_BLOB_NAME: Final = 1024
LIST_PAGE: Final = 1000

_CONTAINER: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}\Z")
_TEMPORARY: Final = ".partial"
"""Holds uploads in progress; no container can be called so."""
_PUT_ATTEMPTS: Final = 16


class BlobList(msgspec.Struct, frozen=True):
    """One page of a container, and where the next begins (None: this is the last)."""

    blobs: list[RemoteFile]
    next: str | None


def is_container_name(text: str) -> bool:
    """Azure's rule: 3 to 63 lower-case letters, digits and single hyphens between them."""
    return len(text) <= 63 and _CONTAINER.match(text) is not None


def is_blob_name(text: str) -> bool:
    """A path of 1 to 1024 characters whose segments are neither empty nor `.` nor `..` nor too long for a file."""
    if not 0 < len(text) <= MAX_BLOB_NAME or "\0" in text:
        return False
    try:
        segments = text.encode().split(b"/")
    except UnicodeEncodeError:
        return False
    return all(segment not in (b"", b".", b"..") and len(segment) <= 255 for segment in segments)


def sign_url(
    endpoint: str,
    account: str,
    key: bytes,
    container: str,
    blob: str | None,
    permissions: str,
    expires_at: Timestamp,
) -> str:
    """A signed URL of a blob, or of a whole container (`blob` None).

    `endpoint` is the service's base URL, `key` the account key, decoded; `permissions` letters of `rwdl`, `expires_at`
    epoch seconds. Raises ValueError for names or permissions that cannot be.
    """
    if not is_container_name(container):
        raise ValueError(f"{container!r} is no container name: 3 to 63 lower-case letters, digits, single hyphens")
    if blob is not None and not is_blob_name(blob):
        raise ValueError(f"{blob!r} is no blob name: a relative path without '..', at most {MAX_BLOB_NAME} characters")
    if not permissions or not set(permissions) <= set(PERMISSIONS):
        raise ValueError(f"{permissions!r} are no permissions: letters of {PERMISSIONS}")
    until = str(int(expires_at))
    scope = "c" if blob is None else "b"
    signature = _signature(account, key, container, blob, permissions, until)
    path = PATH_PREFIX + container + ("" if blob is None else "/" + quote(blob, safe="/"))
    return f"{endpoint.rstrip('/')}{path}?sp={permissions}&se={until}&sr={scope}&sig={signature}"


def _signature(account: str, key: bytes, container: str, blob: str | None, permissions: str, until: str) -> str:
    scope = "c" if blob is None else "b"
    text = "\n".join(("millpond-storage-1", account, scope, container, blob or "", permissions, until))
    digest = hmac.digest(key, text.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class AutoStorage:
    """Containers below a directory. Calls block on the disk: call them from a thread. Safe to use from many."""

    def __init__(self, directory: str, account: str, key: bytes, clock: Callable[[], Timestamp]) -> None:
        self._root = os.path.abspath(directory)
        self._account = account
        self._key = key
        self._clock = clock

    def replace_key(self, key: bytes) -> None:
        """Sign and check with another key from now on: URLs signed with the old one are good no more."""
        self._key = key

    def sign(self, endpoint: str, container: str, blob: str | None, permissions: str, expires_at: Timestamp) -> str:
        """`sign_url` with this account's key."""
        return sign_url(endpoint, self._account, self._key, container, blob, permissions, expires_at)

    def authorize(self, container: str, blob: str | None, query: Mapping[str, str], permission: str) -> None:
        """Whether a URL's query gives a permission. Raises StorageError 403 (bad, expired, or not enough)."""
        permissions, until, scope = query.get("sp", ""), query.get("se", ""), query.get("sr", "")
        if scope not in ("b", "c") or not until.isascii() or not until.isdecimal() or len(until) > 15:
            raise _denied("The URL is not signed.")
        signed_blob = blob if scope == "b" else None
        if scope == "b" and blob is None:
            raise _denied("The signature is for a blob, not for its container.")
        expected = _signature(self._account, self._key, container, signed_blob, permissions, until)
        if not hmac.compare_digest(expected.encode(), query.get("sig", "").encode()):
            raise _denied("The signature does not match the URL.")
        if int(until) <= self._clock():
            raise _denied("The signature has expired.")
        if permission not in permissions:
            raise _denied(f"The signature does not give the permission '{permission}'.")

    def make_container(self, container: str) -> None:
        """Make the container's directory, unless it is there. Raises StorageError 400 for a name that cannot be."""
        if not is_container_name(container):
            raise _bad_container()
        os.makedirs(os.path.join(self._root, container), exist_ok=True)

    def open_file(self, container: str, blob: str) -> tuple[IO[bytes], BlobFacts]:
        """A blob's file, open for reading; the caller closes it. Raises StorageError 404."""
        path = self._path(container, blob)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self._missing(container) from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise self._missing(container) from None
            raise
        facts = self._facts_of(os.fstat(descriptor))
        if facts is None:
            os.close(descriptor)
            raise self._missing(container)
        file = os.fdopen(descriptor, "rb")
        return file, facts

    def stat(self, container: str, blob: str) -> BlobFacts:
        """Raises StorageError 404."""
        try:
            facts = self._facts_of(os.lstat(self._path(container, blob)))
        except (FileNotFoundError, NotADirectoryError):
            facts = None
        if facts is None:
            raise self._missing(container)
        return facts

    def begin_upload(self) -> tuple[IO[bytes], str]:
        """A file to write an upload to, and its path, for `finish_upload` or `abandon_upload`."""
        directory = os.path.join(self._root, _TEMPORARY)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = os.path.join(directory, secrets.token_hex(16))
        return open(path, "xb"), path

    def finish_upload(self, file: IO[bytes], path: str, container: str, blob: str) -> BlobFacts:
        """Make a written upload the blob, replacing one of that name: at once, and only when it is on disk.

        Raises StorageError 409 when the name is taken by a directory, or a blob stands where one is needed.
        """
        file.flush()
        os.fsync(file.fileno())
        facts = self._facts_of(os.fstat(file.fileno()))
        file.close()
        assert facts is not None
        in_the_way: OSError | None = None
        for _ in range(_PUT_ATTEMPTS):
            try:
                os.replace(path, self._path(container, blob, make=True))
            except (IsADirectoryError, NotADirectoryError) as error:
                in_the_way = error
                break
            except (FileNotFoundError, FileExistsError) as error:
                # A delete has just removed the directory, because it was empty; or a blob stands in its place.
                in_the_way = error
            else:
                return facts
        if isinstance(in_the_way, FileNotFoundError):
            raise StorageError(503, "ServerBusy", "The directory is being deleted again and again; try later.")
        raise StorageError(409, "BlobConflict", "The name and that of another blob exclude each other.")

    def abandon_upload(self, file: IO[bytes], path: str) -> None:
        """Throw a started upload away."""
        # Closing may want to write what is left and find the disk full.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def delete(self, container: str, blob: str) -> None:
        """Delete a blob, and the directories it leaves empty. Raises StorageError 404."""
        path = self._path(container, blob)
        try:
            if self._facts_of(os.lstat(path)) is None:
                raise self._missing(container)
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(container) from None
        top = os.path.join(self._root, container)
        directory = os.path.dirname(path)
        while directory != top:
            try:
                os.rmdir(directory)
            except OSError:
                break
            directory = os.path.dirname(directory)

    def list(self, container: str, prefix: str, marker: str | None, limit: int = LIST_PAGE) -> BlobList:
        """Blobs whose names start with `prefix`, in order of name, after those a `marker` of an earlier page stands
        for. Raises StorageError 400 (a marker not of our making), 404 ContainerNotFound."""
        after = "" if not marker else _read_marker(marker)
        top = os.path.join(self._root, container)
        if os.path.islink(top) or not os.path.isdir(top):
            raise _no_container(container)
        blobs: list[RemoteFile] = []
        for name, entry in _walk(top, "", prefix, after):
            if len(blobs) == limit:
                return BlobList(blobs, _make_marker(blobs[-1].name))
            try:
                facts = self._facts_of(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            if facts is not None:
                blobs.append(RemoteFile(name, facts.size, facts.etag))
        return BlobList(blobs, None)

    def _path(self, container: str, blob: str, *, make: bool = False) -> str:
        """The blob's path; its directories are made, or checked to be real ones: no link leads out of the container."""
        if not is_container_name(container):
            raise _bad_container()
        if not is_blob_name(blob):
            raise StorageError(400, "InvalidUri", "A blob's name is a relative path without '..' and empty parts.")
        path = os.path.join(self._root, container, *blob.split("/"))
        directory = os.path.dirname(path)
        if make:
            os.makedirs(directory, exist_ok=True)
        root = os.path.realpath(self._root)
        below = os.path.relpath(directory, self._root)
        if os.path.realpath(directory) != os.path.join(root, below):
            raise self._missing(container)
        return path

    def _missing(self, container: str) -> StorageError:
        if not os.path.isdir(os.path.join(self._root, container)):
            return _no_container(container)
        return StorageError(404, "BlobNotFound", "The specified blob does not exist.")

    @staticmethod
    def _facts_of(status: os.stat_result) -> BlobFacts | None:
        """None for anything but a plain file."""
        if (status.st_mode & 0o170000) != 0o100000:
            return None
        # The inode tells apart what was written twice within one tick of the file system's clock.
        etag = f'"0x{status.st_mtime_ns:X}{status.st_ino:X}{status.st_size:X}"'
        return BlobFacts(status.st_size, status.st_mtime, etag)


def _walk(directory: str, below: str, prefix: str, after: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """(name, entry) of the files below, in order of name, skipping what cannot match."""
    try:
        with os.scandir(directory) as scan:
            entries = [(entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""), entry) for entry in scan]
    except FileNotFoundError:
        return
    for text, entry in sorted(entries, key=lambda item: item[0]):
        name = below + text
        if text.endswith("/"):
            reaches_prefix = name.startswith(prefix) or prefix.startswith(name)
            if reaches_prefix and (name > after or after.startswith(name)):
                yield from _walk(entry.path, name, prefix, after)
        elif name > after and name.startswith(prefix) and entry.is_file(follow_symlinks=False):
            yield name, entry


def _make_marker(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode(errors="surrogateescape")).rstrip(b"=").decode()


def _read_marker(marker: str) -> str:
    try:
        raw = base64.b64decode(marker + "=" * (-len(marker) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise StorageError(400, "InvalidQueryParameterValue", "The marker was not made by this service.") from None
    return raw.decode(errors="surrogateescape")


def _bad_container() -> StorageError:
    return StorageError(400, "InvalidResourceName", "A container's name has 3 to 63 a-z, 0-9, single hyphens.")


def _no_container(container: str) -> StorageError:
    return StorageError(404, "ContainerNotFound", f"The container '{container}' does not exist.")


def _denied(reason: str) -> StorageError:
    return StorageError(403, "AuthenticationFailed", reason)
