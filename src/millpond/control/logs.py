"""Logs of tasks that outlive their node: nodes send the files of attempts that ended, and they are kept in auto-storage.

What nodes send within a moment becomes one blob, a *pack*, and a row per task that says where in it the task's files
are. The blob is written before its rows, and deleted after them, so that no row promises what is not there. Everything
here is beside the truth: nothing of it holds up a commit, and what is lost is a log.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import msgspec

from millpond.control.base import FileContent
from millpond.control.kept_files import KeptFiles, encode, entry_of, packed, unpacked
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.protocol.messages import LogFile, Logs
from millpond.staging.account_storage import AccountStorage, StorageError
from millpond.store.base import KeptLog, LogPack, Store

log = logging.getLogger(__name__)

CONTAINER: Final = "millpond-logs"
_GATHER_S: Final = 0.25
"""So long what nodes send is gathered for one pack."""
_MAX_WAITING: Final = 64 << 20
"""Bytes that wait to be written; above that nodes are told to come again."""
_MAX_PACK: Final = 32 << 20
_SWEEP_S: Final = 60.0
_SWEEP_PACKS: Final = 500
_NUMBER_SHIFT: Final = 20
"""A pack's number is its time in milliseconds, and so many bits of chance."""
_ORPHAN_S: Final = 3600.0


class _Waiting(msgspec.Struct, eq=False):
    logs: Logs
    done: "asyncio.Future[None]"


class LogKeeper:
    """Takes in what nodes send, finds it again, and lets go of what is too old or too much."""

    def __init__(
        self, store: Store, storage: AccountStorage | None, clock: Callable[[], Timestamp], settings: ControlSettings
    ) -> None:
        """Without `storage` nothing is kept."""
        self._store = store
        self._storage = storage
        self._clock = clock
        self._settings = settings
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._has_container = False
        self._total = 0
        """Bytes in all packs."""
        self._closed = False

    @property
    def file_bytes(self) -> int:
        """How much of each file nodes are to send; 0 is nothing."""
        return self._settings.kept_log_file_bytes if self._storage is not None else 0

    async def start(self) -> None:
        """The store is open. Raises StoreUnavailable."""
        if self._storage is not None:
            self._total = await self._store.kept_log_bytes()
            self._tasks = [
                asyncio.create_task(self._write_all(self._storage), name="kept logs"),
                asyncio.create_task(self._tend(self._storage), name="old logs"),
            ]

    async def close(self) -> None:
        """What waits is not written: its nodes have it still, and send it again."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refuse(self._waiting)
        self._waiting = []

    # --- taking in ---

    async def keep(self, logs: Logs) -> None:
        """Returns when they are safe. Raises BatchError ServerBusy when they are to be sent again."""
        if self._storage is None or self._settings.kept_log_file_bytes == 0:
            return
        if self._closed or self._waiting_bytes > _MAX_WAITING:
            raise BatchError(ErrorCode.SERVER_BUSY)
        waiting = _Waiting(logs, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += len(logs.data)
        self._work.set()
        await waiting.done

    async def _write_all(self, storage: AccountStorage) -> None:
        while True:
            await self._work.wait()
            await asyncio.sleep(_GATHER_S)
            taken = self._take()
            try:
                await self._write(storage, taken)
            except (StorageError, OSError, StoreUnavailable) as error:
                log.warning("logs of tasks cannot be kept just now: %s", error)
                self._refuse(taken)
            except Exception:
                log.exception("logs of tasks were not kept")
                self._refuse(taken)
            except BaseException:
                self._refuse(taken)
                raise

    def _take(self) -> list[_Waiting]:
        """As much as goes into one pack."""
        size = count = 0
        for waiting in self._waiting:
            size += len(waiting.logs.data)
            if count and size > _MAX_PACK:
                size -= len(waiting.logs.data)
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= size
        if not self._waiting:
            self._work.clear()
        return taken

    async def _write(self, storage: AccountStorage, taken: list[_Waiting]) -> None:
        size = sum(len(waiting.logs.data) for waiting in taken)
        pack = None
        if size:
            pack = LogPack(self._next_number(), size)
            if not self._has_container:
                await storage.make_container(CONTAINER)
                self._has_container = True
            await storage.put(CONTAINER, blob_name(pack.no), b"".join(waiting.logs.data for waiting in taken))
        rows: list[KeptLog] = []
        base = 0
        for waiting in taken:
            number = None if pack is None or not waiting.logs.data else pack.no
            rows += [
                KeptLog(one.key, one.attempt, number, packed(base + one.offset, one.files))
                for one in waiting.logs.tasks
            ]
            base += len(waiting.logs.data)
        await self._store.save_kept_logs(rows, pack)
        self._total += size
        for waiting in taken:
            if not waiting.done.done():
                waiting.done.set_result(None)

    def _next_number(self) -> int:
        return int(self._clock() * 1000) << _NUMBER_SHIFT | secrets.randbits(_NUMBER_SHIFT)

    @staticmethod
    def _refuse(taken: Sequence[_Waiting]) -> None:
        for waiting in taken:
            if not waiting.done.done():
                waiting.done.set_exception(BatchError(ErrorCode.SERVER_BUSY))

    # --- giving back ---

    async def of(self, key: int) -> KeptFiles | None:
        """What is kept of a task's files. Raises StoreUnavailable."""
        row = await self._store.get_kept_log(key)
        if row is None:
            return None
        offset, files = unpacked(row.data)
        return KeptFiles(row, offset, files)

    async def read(self, kept: KeptFiles, name: str, *, offset: int, length: int | None) -> FileContent:
        """Raises BatchError FileNotFound, InvalidRange."""
        file = kept.find(name)
        if file is None:
            if kept.stat(name) is not None:
                raise BatchError(ErrorCode.FILE_NOT_FOUND, "The specified path is not a regular file.")
            raise BatchError(ErrorCode.FILE_NOT_FOUND)
        if offset > file.size or (offset == file.size and file.size > 0):
            raise BatchError(ErrorCode.INVALID_RANGE)
        end = file.size if length is None else min(file.size, offset + length)
        return FileContent(entry_of(file), self._content(kept, file, offset, end))

    async def _content(self, kept: KeptFiles, file: LogFile, offset: int, end: int) -> AsyncIterator[bytes]:
        if offset >= end or kept.row.pack is None or self._storage is None:
            return
        first = kept.offset + file.offset + offset
        try:
            async for chunk in self._storage.read(
                CONTAINER, blob_name(kept.row.pack), offset=first, length=end - offset
            ):
                yield chunk
        except StorageError as error:
            raise ConnectionResetError(f"a kept log cannot be read: {error}") from error

    async def remove(self, kept: KeptFiles, name: str, *, recursive: bool) -> None:
        """Forget a file, or a directory of files. Raises BatchError FileNotFound, OperationInvalidForCurrentState."""
        gone = {file.name for file in kept.files if file.name == name or file.name.startswith(f"{name}/")}
        if not gone:
            raise BatchError(ErrorCode.FILE_NOT_FOUND)
        if name not in gone and not recursive:
            raise BatchError(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
                "The directory is not empty: it can only be deleted recursively.",
            )
        row = kept.row
        data = packed(kept.offset, encode([file for file in kept.files if file.name not in gone]))
        await self._store.change_kept_log(KeptLog(row.key, row.attempt, row.pack, data))

    # --- letting go ---

    async def _tend(self, storage: AccountStorage) -> None:
        has_orphans = True
        while True:
            try:
                await self.sweep()
                if has_orphans:
                    await self._sweep_orphans(storage)
                    has_orphans = False
            except (StorageError, OSError, StoreUnavailable) as error:
                log.info("old logs of tasks cannot be let go of just now: %s", error)
            except Exception:
                log.exception("old logs of tasks were not let go of")
            await asyncio.sleep(_SWEEP_S)

    async def sweep(self) -> None:
        """Let go of packs that are too old, or too many, and of those no task names any more."""
        oldest = int((self._clock() - self._settings.kept_log_s) * 1000) << _NUMBER_SHIFT
        while True:
            packs = await self._store.list_log_packs(0, _SWEEP_PACKS)
            total = self._total
            gone: list[LogPack] = []
            for pack in packs:
                if pack.no >= oldest and total <= self._settings.kept_log_total_bytes:
                    break
                gone.append(pack)
                total -= pack.size
            if not gone:
                break
            await self._store.drop_kept_logs([pack.no for pack in gone])
            await self._delete(gone)
        after: int | None = 0
        while after is not None:
            unused, after = await self._store.unused_log_packs(after, _SWEEP_PACKS)
            await self._delete(unused)

    async def _delete(self, packs: Sequence[LogPack]) -> None:
        if not packs or self._storage is None:
            return
        for pack in packs:
            await self._storage.delete(CONTAINER, blob_name(pack.no))
        await self._store.delete_log_packs([pack.no for pack in packs])
        self._total -= sum(pack.size for pack in packs)

    async def _sweep_orphans(self, storage: AccountStorage) -> None:
        """Blobs whose rows were never written: the service ended in between."""
        try:
            blobs = await storage.list(CONTAINER)
        except StorageError as error:
            if error.status != 404:
                raise
            return
        recent = int((self._clock() - _ORPHAN_S) * 1000) << _NUMBER_SHIFT
        known: set[int] = set()
        while packs := await self._store.list_log_packs(max(known, default=0), _SWEEP_PACKS):
            known.update(pack.no for pack in packs)
        for blob in blobs:
            number = _number_of(blob.name)
            if number is not None and number < recent and number not in known:
                await storage.delete(CONTAINER, blob.name)


def blob_name(no: int) -> str:
    """By day, so that no directory gets too long."""
    return f"{(no >> _NUMBER_SHIFT) // 86_400_000}/{no:016x}"


def _number_of(name: str) -> int | None:
    try:
        return int(name.rpartition("/")[2], 16)
    except ValueError:
        return None
