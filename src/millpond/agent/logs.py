"""Logs that outlive the node: the files of attempts that ended are sent to the service, in the background.

The runner says when an attempt has ended (`ended`): that costs two looks at the disk, and a line in a file, so that an
agent that is killed sends after its restart what it had not sent. A task of its own gathers for a moment, reads the
files, and sends many tasks' in one message. Nothing waits for it but a node that leaves its pool, and that not for long.
"""

import asyncio
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from millpond.agent.base import FileFacts
from millpond.agent.file_names import shown
from millpond.agent.listening import TransportError
from millpond.agent.runner.file_patterns import find_files, parse_pattern
from millpond.domain.durations import Timestamp
from millpond.protocol.messages import LogFile, Logs, TaskLogs
from millpond.staging.threads import finish_in_thread

LOG_FILES: Final = ("stdout.txt", "stderr.txt")
UPLOAD_LOG_FILES: Final = ("fileuploadout.txt", "fileuploaderr.txt")
PATTERNS_VARIABLE: Final = "MILLPOND_KEEP_FILES"
"""In a task's environment settings: patterns of further files to keep, as those of output files, `;` between them."""
MAX_FILES: Final = 32
"""Of one task, further files."""
MAX_TASK_BYTES: Final = 8 << 20
"""Of one task, of further files."""
PACK_BYTES: Final = 4 << 20
PACK_TASKS: Final = 2000
MAX_WAITING: Final = 200_000
"""Attempts that wait; what ends while there are so many is not kept."""

_GATHER_S: Final = 0.5
_WRITE_S: Final = 0.05
_FEW_BYTES: Final = 1 << 16
"""So much is read in the event loop's own thread."""
_SLICE: Final = 64
"""Attempts looked at before others get their turn."""
_ANSWER_S: Final = 60.0
_MIN_PAUSE_S: Final = 0.2
_MAX_PAUSE_S: Final = 15.0
_HEAD_PART: Final = 4
"""Of a file that is too long this part is kept of its head, the rest of its tail."""

_log = logging.getLogger(__name__)


class LogTransport(Protocol):
    """How logs reach the service."""

    async def send_logs(self, logs: Logs) -> None:
        """Returns when they are safe. Raises TransportError: they are to be sent again; LogsRefused: they are not."""
        ...


class LogsRefused(Exception):
    """The service does not take these logs, now or later."""


class OpenFiles(Protocol):
    """How the files of tasks are opened: `files.NodeFiles`, which follows nothing out of the node's root."""

    def open(self, path: str) -> tuple[int, os.stat_result] | None:
        """A descriptor for reading and its facts; None when there is no such regular file, or it is not to be read."""
        ...

    def open_directly(self, path: str) -> tuple[int, os.stat_result] | None:
        """The same for a log of a task: the way there is the agent's own."""
        ...


class _Seen(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A file as it was when its attempt ended."""

    name: str
    inode: int
    size: int
    last_modified: Timestamp
    mode: int


class _Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An attempt that ended."""

    key: int
    attempt: int
    directory: str
    files: tuple[_Seen, ...]
    patterns: str = ""


class _Segment(msgspec.Struct, eq=False):
    """Entries of one file on disk, which goes when all of them are sent."""

    path: str
    entries: deque[_Entry]


_encode_line: Final = msgspec.json.Encoder().encode
_decode_line: Final = msgspec.json.Decoder(_Entry).decode
_encode_files: Final = msgspec.msgpack.Encoder().encode


class NodeLogs:
    """What of one node's logs is still to be sent. Used in one event loop."""

    def __init__(self, root: str, files: OpenFiles, *, gather_s: float = _GATHER_S) -> None:
        self._root = root
        self._directory = f"{root}/volatile/logs"
        self.files = files
        self._gather_s = gather_s
        self.live: set[tuple[int, int]] = set()
        """(key, attempt) of the attempts whose directory is made, and that are not over."""
        self._limit: int | None = None
        """Bytes of each file; None until the service has said."""
        self._current: list[_Entry] = []
        self._lines = bytearray()
        self._file: int | None = None
        self._number: int | None = None
        """Of the file that is written to."""
        self._segments: deque[_Segment] = deque()
        self._count = 0
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._sent_all = asyncio.Event()
        self._sent_all.set()
        self._sending: asyncio.Task[None] | None = None
        self._takes_up = True
        """What an earlier life of the agent left is still to be looked for."""

    # --- what the runner says ---

    def begun(self, key: int, attempt: int) -> None:
        """Its directory is made."""
        self.live.add((key, attempt))

    def is_used_by_another(self, attempt: tuple[int, int]) -> bool:
        """Whether another attempt of the same task is in its directory."""
        return any(key == attempt[0] and number != attempt[1] for key, number in self.live)

    def over(self, key: int, attempt: int) -> None:
        """The attempt is over, its processes are gone: nothing is written to its files any more."""
        self.live.discard((key, attempt))

    def ended(
        self,
        key: int,
        attempt: int,
        directory: str,
        *,
        more: Iterable[str] = (),
        patterns: str = "",
        outputs: Sequence[FileFacts] = (),
    ) -> None:
        """The files of an attempt that is over are to be kept. `directory` is relative to the node's root, `more` are names of
        further files in it; `outputs` are what is known of `LOG_FILES`, if anything is."""
        if self._limit == 0:
            return
        if self._count >= MAX_WAITING:
            self._lost += 1
            if self._lost == 1:
                _log.warning("%s: too many logs wait to be sent; those of further tasks are not kept", self._root)
            return
        seen = [
            _Seen(name, facts.inode, facts.size, facts.last_modified, facts.mode)
            for name, facts in zip(LOG_FILES, outputs, strict=False)
            if stat.S_ISREG(facts.mode)
        ]
        path = f"{self._root}/{directory}"
        for name in (*(() if outputs else LOG_FILES), *more):
            try:
                found = os.lstat(f"{path}/{name}")
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                seen.append(_Seen(name, found.st_ino, found.st_size, found.st_mtime, found.st_mode))
        if not seen and not patterns:
            return
        entry = _Entry(key, attempt, directory, tuple(seen), patterns)
        self._current.append(entry)
        self._count += 1
        self._lines += _encode_line(entry) + b"\n"
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_S, self._write)
        self._sent_all.clear()
        self._work.set()

    def configure(self, limit: int) -> None:
        """The service keeps so many bytes of each file; 0: nothing is to be sent."""
        self._limit = limit
        if limit == 0:
            self._drop()
        self._work.set()

    # --- life ---

    def begin(self, transport: LogTransport) -> None:
        """Send from now on over that transport, in the background."""
        if self._sending is not None:
            self._sending.cancel()
        self._sending = asyncio.create_task(self._send(transport))

    async def flush(self, timeout_s: float) -> None:
        """Send all there is at once, but wait no longer than that."""
        if self._sending is None or self._limit is None:
            return
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._sent_all.wait()
        except TimeoutError:
            _log.warning("%s: the logs of %d tasks could not be sent in time", self._root, self._count)
        finally:
            self._hurry.clear()

    async def close(self) -> None:
        """Stop sending; what was not sent is on disk for the agent's next life."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
            self._sending = None
        self._write()
        self._close_file()

    def wiped(self) -> None:
        """The node's root is new and empty: what was not sent is gone."""
        self._close_file()
        self._drop(on_disk=False)

    # --- the file of what is still to be sent ---

    def _write(self) -> None:
        """A disk that takes nothing costs what an agent that is killed would not send."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._lines:
            return
        try:
            if self._file is None:
                os.makedirs(self._directory, mode=0o700, exist_ok=True)
                if self._number is None:
                    self._number = max((int(name) for name in os.listdir(self._directory) if name.isdigit()), default=0)
                self._number += 1
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                self._file = os.open(f"{self._directory}/{self._number}", flags, 0o600)
            os.write(self._file, self._lines)
        except OSError as error:
            _log.warning("%s: logs to be sent are not written down: %s", self._root, error)
        self._lines.clear()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _rotate(self) -> None:
        """What has gathered becomes a segment to be sent."""
        self._write()
        if self._current:
            path = f"{self._directory}/{self._number}" if self._file is not None else ""
            self._segments.append(_Segment(path, deque(self._current)))
            self._current = []
        self._close_file()

    def _take_up(self) -> None:
        """Find what an earlier life of the agent did not send."""
        self._takes_up = False
        try:
            numbers = sorted(int(name) for name in os.listdir(self._directory) if name.isdigit())
        except FileNotFoundError:
            return
        for number in numbers:
            path = f"{self._directory}/{number}"
            if self._file is not None and number == self._number:
                continue
            entries = _read_entries(path)
            self._count += len(entries)
            self._segments.append(_Segment(path, entries))

    def _drop(self, *, on_disk: bool = True) -> None:
        if on_disk:
            self._rotate()
            for segment in self._segments:
                _remove(segment.path)
        self._segments.clear()
        self._current = []
        self._lines.clear()
        self._count = 0
        self._sent_all.set()

    # --- sending ---

    async def _send(self, transport: LogTransport) -> None:
        while True:
            try:
                await self._send_next(transport)
            except Exception:
                _log.exception("%s: logs were not sent", self._root)
                await asyncio.sleep(_MAX_PAUSE_S)

    async def _send_next(self, transport: LogTransport) -> None:
        await self._work.wait()
        if self._limit is None:
            self._work.clear()
            return
        if self._takes_up and self._limit:
            self._take_up()
        if not self._segments:
            if not self._current:
                self._work.clear()
                self._sent_all.set()
                return
            await self._pause(self._gather_s)
            self._rotate()
        while self._segments:
            segment = self._segments[0]
            while segment.entries:
                done, logs = await self._pack(segment.entries, self._limit)
                if logs.tasks:
                    await self._deliver(transport, logs)
                for _ in range(min(done, len(segment.entries))):
                    segment.entries.popleft()
                self._count = max(0, self._count - done)
            if self._segments and self._segments[0] is segment:
                self._segments.popleft()
            _remove(segment.path)

    async def _deliver(self, transport: LogTransport, logs: Logs) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await transport.send_logs(logs)
            except LogsRefused as error:
                _log.warning("%s: the logs of %d tasks are not kept: %s", self._root, len(logs.tasks), error)
                return
            except (TransportError, TimeoutError) as error:
                failures += 1
                if failures == 1:
                    _log.info("%s: logs wait to be sent: %s", self._root, error or "no answer")
                if self._hurry.is_set():
                    await asyncio.sleep(_MIN_PAUSE_S)
                else:
                    await self._pause(min(_MAX_PAUSE_S, _MIN_PAUSE_S * 2.0 ** min(failures - 1, 16)))
            else:
                return

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._hurry.wait()
        except TimeoutError:
            pass

    # --- reading ---

    async def _pack(self, entries: Sequence[_Entry], limit: int) -> tuple[int, Logs]:
        """How many of the entries are done with it, and the message."""
        tasks: list[TaskLogs] = []
        parts: list[bytes] = []
        size = done = 0
        for entry in list(entries)[:PACK_TASKS]:
            if size >= PACK_BYTES:
                break
            done += 1
            if done % _SLICE == 0:
                await asyncio.sleep(0)
            files, contents = await self._read(entry, limit)
            if files:
                tasks.append(TaskLogs(entry.key, entry.attempt, size, _encode_files(files)))
                parts += contents
                size += sum(map(len, contents))
        return done, Logs(tuple(tasks), b"".join(parts))

    async def _read(self, entry: _Entry, limit: int) -> tuple[list[LogFile], list[bytes]]:
        """The files of an attempt that can be read, and their contents."""
        files: list[LogFile] = []
        contents: list[bytes] = []
        size = 0
        for seen in entry.files:
            content = b""
            original = 0
            if seen.size:
                opened = self.files.open_directly(f"{entry.directory}/{seen.name}")
                if opened is None:
                    continue
                try:
                    if opened[1].st_ino != seen.inode:
                        # The next attempt is in the directory already: it has its own say.
                        return [], []
                    content, original = await _ends_of(opened[0], opened[1].st_size, limit)
                finally:
                    os.close(opened[0])
            files.append(LogFile(seen.name, len(content), size, seen.last_modified, seen.mode, original))
            if content:
                contents.append(content)
                size += len(content)
        if entry.patterns:
            await self._read_more(entry, limit, files, contents)
        return files, contents

    async def _read_more(self, entry: _Entry, limit: int, files: list[LogFile], contents: list[bytes]) -> None:
        """The files a task asked to be kept besides."""
        directory = f"{self._root}/{entry.directory}"
        known = {file.name for file in files}
        offset = sum(map(len, contents))
        size = 0
        for name in (await finish_in_thread(_matching, directory, entry.patterns))[:MAX_FILES]:
            if name in known:
                continue
            opened = self.files.open(f"{entry.directory}/{name}")
            if opened is None:
                continue
            known.add(name)
            descriptor, facts = opened
            try:
                left = max(0, MAX_TASK_BYTES - size)
                content, original = await _ends_of(descriptor, facts.st_size, min(limit, left))
            except OSError:
                continue
            finally:
                os.close(descriptor)
            files.append(LogFile(name, len(content), offset + size, facts.st_mtime, facts.st_mode, original))
            if content:
                contents.append(content)
                size += len(content)


def _matching(directory: str, patterns: str) -> list[str]:
    """Files of a task that match, by their names relative to its directory."""
    working_directory = f"{directory}/wd"
    names: dict[str, None] = {}
    for pattern in filter(None, (pattern.strip() for pattern in patterns.split(";"))):
        if pattern.startswith("/"):
            continue
        for found in find_files(parse_pattern(pattern, working_directory), directory):
            name = os.path.relpath(found.path, directory)
            if not name.startswith("../"):
                names[shown(name)] = None
    return list(names)


async def _ends_of(descriptor: int, size: int, limit: int) -> tuple[bytes, int]:
    """(what is kept, the size if that is not all)"""
    if size <= _FEW_BYTES and size <= limit:
        return os.pread(descriptor, size, 0), 0
    return await finish_in_thread(_read_ends, descriptor, size, limit)


def _read_ends(descriptor: int, size: int, limit: int) -> tuple[bytes, int]:
    if size <= limit:
        return _pread(descriptor, size, 0), 0
    head = limit // _HEAD_PART
    tail = limit - head
    mark = f"\n[... {size - head - tail} bytes were not kept ...]\n".encode() if limit else b""
    return _pread(descriptor, head, 0) + mark + _pread(descriptor, tail, size - tail), size


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    parts = []
    while length > 0 and (part := os.pread(descriptor, length, offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def _read_entries(path: str) -> deque[_Entry]:
    entries: deque[_Entry] = deque()
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    entries.append(_decode_line(line))
                except msgspec.DecodeError:
                    # Cut short when the agent was killed.
                    continue
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error)
    return entries


def _remove(path: str) -> None:
    if path:
        try:
            os.unlink(path)
        except OSError as error:
            _log.debug("%s cannot be removed: %s", path, error)


LogsFactory = Callable[[str], NodeLogs]
"""By the node's root directory: the same one each time."""
