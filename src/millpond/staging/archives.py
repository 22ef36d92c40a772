"""Zip files of others' making: looked at, and unpacked so that nothing of theirs gets outside or fills the disk.

Calls block on the disk: call them from a thread.
"""

import contextlib
import errno
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Final

import msgspec

_CHUNK: Final = 1 << 20
_RATIO_FREE_BYTES: Final = 1 << 30
"""An archive that unpacks to no more than that may be packed as tightly as it likes."""
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_ENCRYPTED: Final = 0x1
_DOS: Final = 0
_UNIX: Final = 3
_MAX_NAME: Final = 255
"""Bytes of one component of a path."""
_MAX_PATH: Final = 3072
_MAX_LINK: Final = 4095
_MAX_HOPS: Final = 40
"""Symbolic links on the way of one path: as many as the kernel follows."""
_DIRECTORY_SIZE: Final = 5
"""Where zipfile's end record has the size of the archive's directory."""
_MOST_PER_ENTRY: Final = 1024
"""Bytes of that directory an entry takes, on average and at most: 46, its name, and what some tools add."""
_PROGRAMS: Final = (b"\x7fELF", b"#!")
_BROKEN: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    ValueError,
    OverflowError,
)
"""What the standard library raises for bytes that are no zip, or not one it can read."""


class ArchiveError(Exception):
    """The archive cannot be used. The text says what is wrong with it, and where."""


class ArchiveLimits(msgspec.Struct, frozen=True):
    """What an archive may be at most."""

    entries: int = 200_000
    total_bytes: int = 64 << 30
    """Of all files, unpacked."""
    ratio: int = 200
    """Times its own size that it may unpack to, once that is more than a GiB."""


class _Entry(msgspec.Struct, frozen=True):
    info: zipfile.ZipInfo
    parts: tuple[str, ...]
    """Of its path, below the root."""
    mode: int
    """st_mode as the archive has it; 0 when it has none."""

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_directory(self) -> bool:
        slashes = ("/", "\\") if self.info.create_system == _DOS else "/"
        return self.info.orig_filename.endswith(slashes) or stat.S_ISDIR(self.mode)


def inspect(path: str, limits: ArchiveLimits = ArchiveLimits()) -> None:
    """Check what can be told of an archive without unpacking it. Raises ArchiveError, OSError."""
    with _open(path, limits) as archive:
        _links(archive, _entries(archive, os.path.getsize(path), limits))


def unpack(path: str, root: str, limits: ArchiveLimits = ArchiveLimits()) -> None:
    """Unpack an archive into `root`, a new directory nobody else uses yet.

    What is in it then belongs to the caller, may be read by all and written by nobody else. Execute bits are those of
    the archive; where it has none at all (archives made on Windows), programs and scripts get them. Symbolic links
    are kept if they lead to somewhere in the archive. Raises ArchiveError, OSError; what was unpacked is left behind.
    """
    size = os.path.getsize(path)
    with _open(path, limits) as archive:
        entries = _entries(archive, size, limits)
        links = _links(archive, entries)
        files = [entry for entry in entries if not entry.is_directory and not entry.is_link]
        has_bits = any(entry.mode & 0o111 for entry in files)
        budget = _budget(size, limits)
        _make_directories(root, entries)
        for entry in files:
            budget -= _unpack_file(archive, entry, root, budget, looks=not has_bits or not entry.mode)
        # Last, so that nothing is ever written through a link.
        for parts, target in links.items():
            _make_link(f"{root}/{'/'.join(parts)}", target)
    _open_directory(root)


def _open(path: str, limits: ArchiveLimits) -> zipfile.ZipFile:
    """Raises ArchiveError. The directory of an archive is read into memory, so its size is looked at first."""
    try:
        with open(path, "rb") as file:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # the very one the next lines will find
        if end is not None and end[_DIRECTORY_SIZE] > limits.entries * _MOST_PER_ENTRY:
            raise ArchiveError(f"it has more entries than the {limits.entries} that are allowed")
        return zipfile.ZipFile(path)
    except _BROKEN as error:
        raise ArchiveError(f"it is not a zip file: {error}") from error


def _budget(size: int, limits: ArchiveLimits) -> int:
    return min(limits.total_bytes, max(_RATIO_FREE_BYTES, size * limits.ratio))


def _entries(archive: zipfile.ZipFile, size: int, limits: ArchiveLimits) -> list[_Entry]:
    """All entries, checked one by one and together."""
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise ArchiveError(f"it has {len(infos)} entries, and {limits.entries} are allowed")
    entries: list[_Entry] = []
    total = 0
    for info in infos:
        parts = _parts(info)
        if info.flag_bits & _ENCRYPTED:
            raise ArchiveError(f"{_name(info)} is encrypted")
        mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
        kind = stat.S_IFMT(mode)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
            raise ArchiveError(f"{_name(info)} is neither a file nor a directory nor a symbolic link")
        total += info.file_size
        if not parts and not info.is_dir():
            raise ArchiveError(f"{_name(info)} has no name")
        if parts:
            entries.append(_Entry(info, parts, mode))
    budget = _budget(size, limits)
    if total > budget:
        raise ArchiveError(f"its {size} bytes unpack to {total}, and {budget} are allowed")
    _check_together(entries)
    return entries


def _parts(info: zipfile.ZipInfo) -> tuple[str, ...]:
    """The components of an entry's path. Raises ArchiveError for one that leads anywhere but down."""
    name = info.orig_filename
    if "\0" in name:
        raise ArchiveError(f"{_name(info)} has a NUL character in its name")
    if info.create_system == _DOS:
        name = name.replace("\\", "/")
        if _DRIVE.match(name):
            raise ArchiveError(f"{_name(info)} is an absolute path")
    if name.startswith("/"):
        raise ArchiveError(f"{_name(info)} is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "..\\" in name:
        raise ArchiveError(f"{_name(info)} leads out of the archive")
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise ArchiveError(f"{_name(info)} is no text") from None
    if any(length > _MAX_NAME for length in lengths) or sum(lengths) + len(lengths) > _MAX_PATH:
        raise ArchiveError(f"{_name(info)} is too long a path")
    return parts


def _check_together(entries: Iterable[_Entry]) -> None:
    """Every path stands for one thing, and only directories have others in them."""
    kinds: dict[tuple[str, ...], bool] = {}
    for entry in entries:
        is_directory = entry.is_directory
        if entry.parts in kinds and not (is_directory and kinds[entry.parts]):
            raise ArchiveError(f"{_name(entry.info)} is in it twice")
        kinds[entry.parts] = is_directory
    for parts in kinds:
        for depth in range(1, len(parts)):
            if kinds.get(parts[:depth], True) is False:
                raise ArchiveError(f"{'/'.join(parts[:depth])!r} is a file in it, and a directory")


def _name(info: zipfile.ZipInfo) -> str:
    return f"the entry {info.orig_filename[:200]!r}"


def _make_directories(root: str, entries: Iterable[_Entry]) -> None:
    made: set[tuple[str, ...]] = set()
    for entry in entries:
        deepest = len(entry.parts) if entry.is_directory else len(entry.parts) - 1
        for depth in range(1, deepest + 1):
            parts = entry.parts[:depth]
            if parts not in made:
                made.add(parts)
                path = f"{root}/{'/'.join(parts)}"
                try:
                    os.mkdir(path)
                except FileExistsError:
                    # On a disk that does not tell upper from lower case.
                    raise ArchiveError(f"{'/'.join(parts)!r} is in it twice, in other letters") from None
                _open_directory(path)


def _open_directory(path: str) -> None:
    os.chmod(path, 0o755)  # noqa: S103  to be read by the node's users; what leads here is not open to others


def _unpack_file(archive: zipfile.ZipFile, entry: _Entry, root: str, budget: int, *, looks: bool) -> int:
    """Write one file; how many bytes it has. With `looks` what is in it says whether it is a program."""
    path = f"{root}/{entry.path}"
    written = 0
    executable = bool(entry.mode & 0o111)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ArchiveError(f"{_name(entry.info)} is in it twice, in other letters") from None
    with os.fdopen(descriptor, "wb", buffering=0) as target, _content(archive, entry) as source:
        while chunk := _read(source, entry):
            if not written and looks:
                executable = executable or chunk.startswith(_PROGRAMS)
            written += len(chunk)
            if written > budget:
                # The archive lies about its sizes.
                raise ArchiveError(f"{_name(entry.info)} unpacks to more than is allowed")
            view = memoryview(chunk)
            while view:
                view = view[target.write(view) :]
        os.fchmod(target.fileno(), 0o755 if executable else 0o644)
    return written


def _content(archive: zipfile.ZipFile, entry: _Entry) -> IO[bytes]:
    with _reading(entry):
        return archive.open(entry.info)


def _read(source: IO[bytes], entry: _Entry, size: int = _CHUNK) -> bytes:
    with _reading(entry):
        return source.read(size)


@contextlib.contextmanager
def _reading(entry: _Entry) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        raise ArchiveError(f"{_name(entry.info)} cannot be unpacked: {error}") from error
    except OSError as error:
        # It says its entries begin before the file does.
        if error.errno != errno.EINVAL:
            raise
        raise ArchiveError(f"{_name(entry.info)} cannot be unpacked: it is not where the archive says") from error


def _links(archive: zipfile.ZipFile, entries: Iterable[_Entry]) -> dict[tuple[str, ...], str]:
    """Symbolic links by path, with their targets, none of which leads out of the archive."""
    links: dict[tuple[str, ...], str] = {}
    for entry in entries:
        if entry.is_link:
            with _content(archive, entry) as source:
                target = _read(source, entry, _MAX_LINK + 1)
            if not 0 < len(target) <= _MAX_LINK or b"\0" in target:
                raise ArchiveError(f"{_name(entry.info)} is no symbolic link that could be made")
            links[entry.parts] = os.fsdecode(target)
    for parts in links:
        if not _stays_inside(parts, links):
            raise ArchiveError(f"the entry {'/'.join(parts)!r} is a symbolic link that leads out of the archive")
    return links


def _stays_inside(parts: tuple[str, ...], links: Mapping[tuple[str, ...], str]) -> bool:
    """Follow a link as the kernel would, over as many others as there are, and never above the root."""
    at: list[str] = []
    ahead = list(reversed(parts))
    hops = 0
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                return False
            at.pop()
            continue
        at.append(part)
        target = links.get(tuple(at))
        if target is not None:
            hops += 1
            if target.startswith("/") or hops > _MAX_HOPS:
                return False
            at.pop()
            ahead += reversed(target.split("/"))
    return True


def _make_link(path: str, target: str) -> None:
    try:
        os.symlink(target, path)
    except FileExistsError:
        raise ArchiveError(f"{os.path.basename(path)!r} is in it twice, in other letters") from None
