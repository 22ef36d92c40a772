"""What every auto-storage promises the service."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond.staging.account_storage import AccountStorage, StorageError
from millpond.staging.auto_storage import AutoStorage
from millpond.staging.directory_storage import DirectoryStorage


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[AccountStorage]:
    files = AutoStorage(str(tmp_path / "storage"), "acct", b"k" * 64, time.time)
    storage = DirectoryStorage(files, lambda: "http://127.0.0.1:1")
    yield storage
    await storage.close()


async def content(storage: AccountStorage, blob: str, *, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in storage.read("box", blob, offset=offset, length=length)])


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_put_read_stat_delete(storage: AccountStorage) -> None:
    await storage.make_container("box")
    await storage.make_container("box")
    facts = await storage.put("box", "a/b c", b"0123456789")
    assert facts.size == 10
    assert await storage.stat("box", "a/b c") == facts
    assert await content(storage, "a/b c") == b"0123456789"
    assert await content(storage, "a/b c", offset=7) == b"789"
    assert await content(storage, "a/b c", offset=2, length=3) == b"234"
    assert await content(storage, "a/b c", offset=8, length=30) == b"89"
    again = await storage.put("box", "a/b c", b"new")
    assert again.etag != facts.etag
    assert await content(storage, "a/b c") == b"new"
    await storage.delete("box", "a/b c")
    await storage.delete("box", "a/b c")
    with pytest.raises(StorageError) as missing:
        await storage.stat("box", "a/b c")
    assert (missing.value.status, missing.value.code) == (404, "BlobNotFound")


async def test_content_that_streams(storage: AccountStorage) -> None:
    await storage.make_container("box")
    size = (await storage.put("box", "big", in_pieces(b"x" * 700_000, b"", b"y" * 700_000))).size
    assert size == 1_400_000
    assert await content(storage, "big", offset=699_999, length=2) == b"xy"


async def test_content_that_breaks_off_leaves_nothing(storage: AccountStorage) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    await storage.make_container("box")
    with pytest.raises(ConnectionResetError):
        await storage.put("box", "a", broken())
    assert await storage.list("box") == []


async def test_list(storage: AccountStorage) -> None:
    await storage.make_container("box")
    assert await storage.list("box") == []
    for name in ("b/2", "a", "b/1"):
        await storage.put("box", name, name.encode())
    listed = await storage.list("box")
    assert [(file.name, file.size) for file in listed] == [("a", 1), ("b/1", 3), ("b/2", 3)]
    assert listed[0].etag == (await storage.stat("box", "a")).etag
    assert [file.name for file in await storage.list("box", "b/")] == ["b/1", "b/2"]


async def test_what_is_not_there(storage: AccountStorage) -> None:
    for call in (storage.list("box"), storage.stat("box", "a"), content(storage, "a")):
        with pytest.raises(StorageError) as missing:
            await call
        assert (missing.value.status, missing.value.code) == (404, "ContainerNotFound")
    await storage.delete("box", "a")


async def test_names_that_cannot_be(storage: AccountStorage) -> None:
    with pytest.raises(StorageError) as refused:
        await storage.make_container("Box")
    assert refused.value.status == 400
    with pytest.raises(ValueError, match="no container name"):
        storage.sign("Box", None, "r", time.time() + 60)
