"""What an agent remembers over its own restarts: the journal of a node.

An append-only file of frames: 4 bytes of length and 4 of CRC-32, both little-endian, then in MessagePack one record
(`records`), or an array of records that were flushed together. It is there to outlive the agent's process (also its kill -9), so what the kernel has taken is safe and
nothing is synced to disk; after a crash of the whole machine the processes are gone too, and whatever part of the
journal survived is true.
"""

import logging
import os
import struct
import zlib
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from millpond.agent.records import Record

_log = logging.getLogger(__name__)

_FRAME: Final = struct.Struct("<II")
_MAX_FRAME: Final = 128 << 20
_FRAME_RECORDS: Final = 8
"""Records of one frame where all would be too long for one: so many are not, also with the largest of specifications."""
_MIN_COMPACT: Final = 1 << 20


class Journal(Protocol):
    """Where one node's records go. `append` gathers; `flush` makes all that was gathered outlive the process."""

    def load(self) -> list[Record]:
        """All records there are. Called once, first."""
        ...

    def append(self, record: Record) -> None: ...

    def flush(self) -> None:
        """Raises OSError when it cannot be written; everything gathered is kept for the next try."""
        ...

    @property
    def wants_rewrite(self) -> bool:
        """Whether most of the journal is about things long past."""
        ...

    def rewrite(self, records: Iterable[Record]) -> None:
        """Put these records in the place of all others. Raises OSError; the journal is then as before."""
        ...

    def close(self) -> None:
        """Flush (as far as that works) and let go of the file."""
        ...


class FileJournal:
    """The journal in a file. One process at a time (the host's lock sees to that)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._encoder = msgspec.msgpack.Encoder()
        self._pending: list[Record] = []
        self._fd = -1
        self._size = 0
        """Bytes of whole frames in the file."""
        self._rewritten_size = 0

    def load(self) -> list[Record]:
        """Read the file, cut off a torn tail, and open it for appending. Raises OSError."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        records, self._size = _parse(data)
        if self._size < len(data):
            _log.warning("journal %s: %d bytes of a torn tail dropped", self._path, len(data) - self._size)
            os.ftruncate(self._fd, self._size)
        os.lseek(self._fd, self._size, os.SEEK_SET)
        return records

    def append(self, record: Record) -> None:
        self._pending.append(record)

    def flush(self) -> None:
        pending = self._pending
        if not pending:
            return
        encode = self._encoder.encode
        payload = encode(pending)
        if len(payload) <= _MAX_FRAME:
            data = _framed(payload)
        else:
            parts = [pending[start : start + _FRAME_RECORDS] for start in range(0, len(pending), _FRAME_RECORDS)]
            data = b"".join([_framed(encode(part)) for part in parts])
        try:
            _write_all(self._fd, data)
        except OSError:
            # Half a record in the middle would hide all that follows it.
            os.ftruncate(self._fd, self._size)
            os.lseek(self._fd, self._size, os.SEEK_SET)
            raise
        self._size += len(data)
        pending.clear()

    @property
    def wants_rewrite(self) -> bool:
        return self._size > _MIN_COMPACT and self._size > 4 * self._rewritten_size

    def rewrite(self, records: Iterable[Record]) -> None:
        data = b"".join(_framed(self._encoder.encode(record)) for record in records)
        path = f"{self._path}.new"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
            os.replace(path, self._path)
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd = fd
        self._size = self._rewritten_size = len(data)
        self._pending.clear()

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            self.flush()
        except OSError as error:
            _log.warning("journal %s: %s", self._path, error)
        os.close(self._fd)
        self._fd = -1


class MemoryJournal:
    """A journal for the simulation and for tests: what was flushed is there again for the next `load`."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._pending: list[Record] = []
        self._rewritten = 0

    def load(self) -> list[Record]:
        self._pending.clear()
        return list(self.records)

    def append(self, record: Record) -> None:
        self._pending.append(record)

    def flush(self) -> None:
        self.records += self._pending
        self._pending.clear()

    @property
    def wants_rewrite(self) -> bool:
        return len(self.records) > 256 and len(self.records) > 4 * self._rewritten

    def rewrite(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self._rewritten = len(self.records)
        self._pending.clear()

    def close(self) -> None:
        self.flush()


_decoder: Final[msgspec.msgpack.Decoder[Record | list[Record]]] = msgspec.msgpack.Decoder(Record | list[Record])


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _parse(data: bytes) -> tuple[list[Record], int]:
    """The records up to the first frame that is not whole, and the length of those."""
    records: list[Record] = []
    offset = 0
    while offset + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, offset)
        end = offset + _FRAME.size + length
        if length > _MAX_FRAME or end > len(data):
            break
        payload = data[offset + _FRAME.size : end]
        if zlib.crc32(payload) != checksum:
            break
        try:
            entry = _decoder.decode(payload)
        except msgspec.DecodeError:
            break
        if isinstance(entry, list):
            records += entry
        else:
            records.append(entry)
        offset = end
    return records, offset


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
