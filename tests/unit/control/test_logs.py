"""What the service keeps of logs, and how it lets go of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millpond.control import logs as logs_module
from millpond.control.logs import CONTAINER, LogKeeper
from millpond.control.settings import ControlSettings
from millpond.domain import ids
from millpond.domain.errors import BatchError, ErrorCode
from millpond.protocol.messages import LogFile, Logs, TaskLogs
from millpond.staging.account_storage import StorageError
from millpond.staging.auto_storage import AutoStorage
from millpond.staging.directory_storage import DirectoryStorage
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from tests.contracts.stores import a_task
from tests.waiting import PATIENCE_S

DAY_S = 86400.0


def key(number: int) -> int:
    return ids.task_key(1, number)


def logs_of(*tasks: tuple[int, dict[str, bytes]], attempt: int = 1) -> Logs:
    """A message as a node sends it."""
    sent, data = [], b""
    for number, contents in tasks:
        files, offset = [], 0
        for name, content in contents.items():
            files.append(LogFile(name, len(content), offset, 5.0, 0o100644))
            offset += len(content)
        sent.append(TaskLogs(key(number), attempt, len(data), msgspec.msgpack.encode(files)))
        data += b"".join(contents.values())
    return Logs(tuple(sent), data)


class World:
    def __init__(self, directory: Path, **settings: Any) -> None:
        self.now = 1_800_000_000.0
        self.store = MemoryStore()
        self.directory = directory
        self.storage = DirectoryStorage(
            AutoStorage(str(directory), "account", b"key", lambda: self.now), lambda: "http://here"
        )
        self.keeper = LogKeeper(self.store, self.storage, lambda: self.now, ControlSettings(**settings))

    async def begin(self) -> None:
        await self.store.open()
        self.fence = await self.store.acquire_lease("p", "test", self.now, 1e9)
        assert self.fence is not None
        rows = {key(number): a_task(number) for number in range(1, 10)}
        await self.store.commit(ChangeSet(tasks=rows, new_tasks=set(rows)), self.fence)
        await self.keeper.start()

    async def content(self, number: int, name: str, offset: int = 0, length: int | None = None) -> bytes:
        kept = await self.keeper.of(key(number))
        assert kept is not None
        content = await self.keeper.read(kept, name, offset=offset, length=length)
        return b"".join([chunk async for chunk in content.chunks])

    def blobs(self) -> list[Path]:
        return sorted(path for path in (self.directory / CONTAINER).glob("*/*") if path.is_file())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, kept_log_s=30 * DAY_S, kept_log_total_bytes=100)
    await world.begin()
    yield world
    await world.keeper.close()


async def test_what_comes_within_a_moment_is_one_blob(world: World) -> None:
    await asyncio.gather(
        world.keeper.keep(logs_of((1, {"stdout.txt": b"one", "stderr.txt": b"err"}), (2, {"stdout.txt": b""}))),
        world.keeper.keep(logs_of((3, {"stdout.txt": b"three", "wd/x": b"xyz"}))),
    )
    assert len(world.blobs()) == 1
    assert await world.content(1, "stderr.txt") == b"err"
    assert await world.content(2, "stdout.txt") == b""
    assert await world.content(3, "wd/x") == b"xyz"
    assert await world.content(3, "stdout.txt", 1, 3) == b"hre"
    for name, offset, code in (("none", 0, ErrorCode.FILE_NOT_FOUND), ("stdout.txt", 9, ErrorCode.INVALID_RANGE)):
        with pytest.raises(BatchError) as caught:
            await world.content(3, name, offset)
        assert caught.value.code is code
    assert await world.keeper.of(key(9)) is None


async def test_nothing_but_empty_files_makes_no_blob(world: World) -> None:
    await world.keeper.keep(logs_of((1, {"stdout.txt": b"", "stderr.txt": b""})))
    assert world.blobs() == []
    assert await world.content(1, "stdout.txt") == b""


async def test_storage_that_fails_refuses_and_keeps_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(*_: object) -> None:
        raise StorageError(503, "ServerBusy", "full")

    with monkeypatch.context() as patch:
        patch.setattr(world.storage, "put", put)
        with pytest.raises(BatchError) as caught:
            await world.keeper.keep(logs_of((1, {"stdout.txt": b"one"})))
        assert caught.value.code is ErrorCode.SERVER_BUSY
    assert await world.keeper.of(key(1)) is None
    await world.keeper.keep(logs_of((1, {"stdout.txt": b"one"})))
    assert await world.content(1, "stdout.txt") == b"one"


async def test_too_much_at_once_is_to_come_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "_MAX_WAITING", 10)
    first = asyncio.create_task(world.keeper.keep(logs_of((1, {"stdout.txt": b"x" * 20}))))
    await asyncio.sleep(0)
    with pytest.raises(BatchError):
        await world.keeper.keep(logs_of((2, {"stdout.txt": b"y"})))
    await first


async def test_one_pack_is_not_more_than_so_much(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "_MAX_PACK", 10)
    await asyncio.gather(*(world.keeper.keep(logs_of((n, {"stdout.txt": b"%d" % n * 6}))) for n in (1, 2, 3)))
    assert [blob.stat().st_size for blob in world.blobs()] == [6, 6, 6]
    assert await world.content(3, "stdout.txt") == b"333333"


async def test_what_is_too_old_goes_first_and_then_what_is_too_much(world: World) -> None:
    for number in range(1, 4):
        await world.keeper.keep(logs_of((number, {"stdout.txt": b"x" * 40})))
        world.now += DAY_S
    await world.keeper.sweep()
    assert await world.keeper.of(key(1)) is None, "120 bytes are more than 100"
    assert len(world.blobs()) == 2
    world.now += 28.5 * DAY_S
    await world.keeper.sweep()
    assert await world.keeper.of(key(2)) is None
    assert await world.content(3, "stdout.txt") == b"x" * 40
    world.now += DAY_S
    await world.keeper.sweep()
    assert (world.blobs(), await world.store.kept_log_bytes()) == ([], 0)


async def test_a_pack_goes_when_no_task_of_it_is_left(world: World) -> None:
    await world.keeper.keep(logs_of((1, {"stdout.txt": b"a"}), (2, {"stdout.txt": b"b"})))
    await world.store.commit(ChangeSet(deleted_tasks={key(1)}), world.fence)
    await world.keeper.sweep()
    assert len(world.blobs()) == 1
    await world.keeper.keep(logs_of((2, {"stdout.txt": b"again"}), attempt=2))
    await world.keeper.sweep()
    (blob,) = world.blobs()
    assert blob.read_bytes() == b"again"


async def test_a_blob_without_its_row_goes_at_the_next_start_but_not_what_is_not_ours(world: World) -> None:
    await world.keeper.keep(logs_of((1, {"stdout.txt": b"a"})))
    await world.keeper.close()
    orphan = logs_module.blob_name(int((world.now - 7200) * 1000) << 20)
    young = logs_module.blob_name(int((world.now - 60) * 1000) << 20)
    for name in (orphan, young, "0/notes.txt"):
        await world.storage.put(CONTAINER, name, b"x")
    again = LogKeeper(world.store, world.storage, lambda: world.now, ControlSettings())
    await again.start()
    async with asyncio.timeout(PATIENCE_S):
        while len(world.blobs()) > 3:
            await asyncio.sleep(0.01)
    assert not (world.directory / CONTAINER / orphan).exists()
    assert await world.content(1, "stdout.txt") == b"a"
    await again.close()


async def test_files_are_forgotten_one_by_one(world: World) -> None:
    await world.keeper.keep(logs_of((1, {"stdout.txt": b"out", "wd/a": b"a", "wd/b": b"b"})))

    async def remove(name: str, *, recursive: bool = False) -> None:
        kept = await world.keeper.of(key(1))
        assert kept is not None
        await world.keeper.remove(kept, name, recursive=recursive)

    for name, code in (("wd", ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE), ("none", ErrorCode.FILE_NOT_FOUND)):
        with pytest.raises(BatchError) as caught:
            await remove(name)
        assert caught.value.code is code
    await remove("stdout.txt")
    assert await world.content(1, "wd/b") == b"b"
    await remove("wd", recursive=True)
    kept = await world.keeper.of(key(1))
    assert kept is not None
    assert kept.entries(recursive=True) == []


async def test_a_service_that_stops_takes_nothing_more(world: World) -> None:
    waiting = asyncio.create_task(world.keeper.keep(logs_of((1, {"stdout.txt": b"a"}))))
    await asyncio.sleep(0)
    await world.keeper.close()
    with pytest.raises(BatchError):
        await waiting
    with pytest.raises(BatchError):
        await world.keeper.keep(logs_of((1, {"stdout.txt": b"a"})))


async def test_without_storage_nothing_is_asked_for(tmp_path: Path) -> None:
    keeper = LogKeeper(MemoryStore(), None, lambda: 0.0, ControlSettings())
    await keeper.start()
    assert keeper.file_bytes == 0
    await keeper.keep(logs_of((1, {"stdout.txt": b"a"})))
    await keeper.close()
