"""What is kept of one task's files: the row of the store, read."""

import struct
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.protocol.messages import FileEntry, LogFile
from millpond.store.base import KeptLog

_OFFSET: Final = struct.Struct("<Q")
_decode: Final = msgspec.msgpack.Decoder(list[LogFile]).decode
encode: Final = msgspec.msgpack.Encoder().encode


def packed(offset: int, files: bytes) -> bytes:
    """The data of a row: where in the pack the task's contents begin, and its files as the node sent them."""
    return _OFFSET.pack(offset) + files


def unpacked(data: bytes) -> tuple[int, list[LogFile]]:
    """See `packed`."""
    (offset,) = _OFFSET.unpack_from(data)
    return offset, _decode(data[_OFFSET.size :])


class KeptFiles(msgspec.Struct, frozen=True):
    """What is kept of one task's files."""

    row: KeptLog
    offset: int
    """Of the task's contents in the pack."""
    files: list[LogFile]

    @property
    def attempt(self) -> int:
        return self.row.attempt

    def find(self, name: str) -> LogFile | None:
        return next((file for file in self.files if file.name == name), None)

    def entries(self, *, recursive: bool) -> list[FileEntry]:
        """As a node would list them, with the directories they are in."""
        found: dict[str, FileEntry] = {}
        for file in self.files:
            parts = file.name.split("/")
            for depth in range(1, len(parts)):
                name = "/".join(parts[:depth])
                if recursive or depth == 1:
                    found.setdefault(name, _directory(name, file.last_modified))
            if recursive or len(parts) == 1:
                found[file.name] = entry_of(file)
        return [found[name] for name in sorted(found)]

    def stat(self, name: str) -> FileEntry | None:
        """A file, or a directory that files are in."""
        file = self.find(name)
        if file is not None:
            return entry_of(file)
        below = [file for file in self.files if file.name.startswith(f"{name}/")]
        return _directory(name, below[0].last_modified) if below else None


def entry_of(file: LogFile) -> FileEntry:
    return FileEntry(
        name=file.name,
        is_directory=False,
        size=file.size,
        last_modified=file.last_modified,
        mode=file.mode,
        original_size=file.original_size,
    )


def _directory(name: str, last_modified: Timestamp) -> FileEntry:
    return FileEntry(name=name, is_directory=True, last_modified=last_modified, mode=0o40770)
