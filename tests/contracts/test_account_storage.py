"""What every auto-storage promises the service."""

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from millpond.staging.account_storage import AccountStorage, StorageError
from millpond.staging.auto_storage import AutoStorage
from millpond.staging.blob_storage import BLOCK_BYTES, BlobStorage
from millpond.staging.directory_storage import DirectoryStorage
from millpond.staging.shared_access import StorageAccount
from tests.waiting import until_unconnected

if TYPE_CHECKING:
    from tests.servers.azurite import Azurite


def account_of(server: "Azurite") -> StorageAccount:
    return StorageAccount(server.account, base64.b64decode(server.key), server.endpoint)


@pytest.fixture(params=["directory", "azurite", "azurite_https"])
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AccountStorage]:
    storage: AccountStorage
    if request.param == "directory":
        files = AutoStorage(str(tmp_path / "storage"), "acct", b"k" * 64, time.time)
        storage = DirectoryStorage(files, lambda: "http://127.0.0.1:1")
    else:
        server: Azurite = request.getfixturevalue(request.param)
        if server.ca_path:
            monkeypatch.setenv("SSL_CERT_FILE", server.ca_path)
        storage = BlobStorage(account_of(server))
    yield storage
    await storage.close()
    await until_unconnected()


@pytest.fixture
def box() -> str:
    """A container nobody has yet: a server is used by many tests."""
    return f"box-{uuid.uuid4().hex}"


async def content(
    storage: AccountStorage, container: str, blob: str, *, offset: int = 0, length: int | None = None
) -> bytes:
    return b"".join([chunk async for chunk in storage.read(container, blob, offset=offset, length=length)])


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_put_read_stat_delete(storage: AccountStorage, box: str) -> None:
    await storage.make_container(box)
    await storage.make_container(box)
    facts = await storage.put(box, "a/b c", b"0123456789")
    assert facts.size == 10
    assert await storage.stat(box, "a/b c") == facts
    assert await content(storage, box, "a/b c") == b"0123456789"
    assert await content(storage, box, "a/b c", offset=7) == b"789"
    assert await content(storage, box, "a/b c", offset=2, length=3) == b"234"
    assert await content(storage, box, "a/b c", offset=8, length=30) == b"89"
    again = await storage.put(box, "a/b c", b"new")
    assert again.etag != facts.etag
    assert await content(storage, box, "a/b c") == b"new"
    await storage.delete(box, "a/b c")
    await storage.delete(box, "a/b c")
    with pytest.raises(StorageError) as missing:
        await storage.stat(box, "a/b c")
    assert (missing.value.status, missing.value.code) == (404, "BlobNotFound")


async def test_content_that_streams(storage: AccountStorage, box: str) -> None:
    await storage.make_container(box)
    size = (await storage.put(box, "big", in_pieces(b"x" * 700_000, b"", b"y" * 700_000))).size
    assert size == 1_400_000
    assert await content(storage, box, "big", offset=699_999, length=2) == b"xy"


async def test_content_that_breaks_off_leaves_nothing(storage: AccountStorage, box: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    await storage.make_container(box)
    with pytest.raises(ConnectionResetError):
        await storage.put(box, "a", broken())
    assert await storage.list(box) == []


async def test_list(storage: AccountStorage, box: str) -> None:
    await storage.make_container(box)
    assert await storage.list(box) == []
    for name in ("b/2", "a", "b/1"):
        await storage.put(box, name, name.encode())
    listed = await storage.list(box)
    assert [(file.name, file.size) for file in listed] == [("a", 1), ("b/1", 3), ("b/2", 3)]
    assert listed[0].etag == (await storage.stat(box, "a")).etag
    assert [file.name for file in await storage.list(box, "b/")] == ["b/1", "b/2"]


async def test_what_is_not_there(storage: AccountStorage, box: str) -> None:
    for call in (storage.list(box), storage.stat(box, "a"), content(storage, box, "a")):
        with pytest.raises(StorageError) as missing:
            await call
        assert (missing.value.status, missing.value.code) == (404, "ContainerNotFound")
    await storage.delete(box, "a")


async def test_names_that_cannot_be(storage: AccountStorage) -> None:
    with pytest.raises(StorageError) as refused:
        await storage.make_container("Box")
    assert refused.value.status == 400
    with pytest.raises(ValueError, match="no container name"):
        storage.sign("Box", None, "r", time.time() + 60)


async def test_odd_names_and_empty_blobs(storage: AccountStorage, box: str) -> None:
    await storage.make_container(box)
    names = ["a b%41+#?&=.txt", "Größe/é", "x'y;z", "~tilde/$root"]
    for name in names:
        await storage.put(box, name, b"")
    assert [file.name for file in await storage.list(box)] == sorted(names)
    for name in names:
        assert await content(storage, box, name) == b""
        assert await content(storage, box, name, offset=3) == b""
        await storage.delete(box, name)
    assert await storage.list(box) == []


async def test_content_longer_than_a_block(storage: AccountStorage, box: str) -> None:
    await storage.make_container(box)
    piece = bytes(range(256)) * 4096
    whole = piece * 17 + b"end"
    assert len(whole) > 2 * BLOCK_BYTES
    facts = await storage.put(box, "streamed", in_pieces(*[piece] * 17, b"end"))
    assert facts.size == len(whole)
    assert await content(storage, box, "streamed") == whole
    assert (await storage.put(box, "whole", whole)).size == len(whole)
    assert await content(storage, box, "whole", offset=BLOCK_BYTES - 1, length=3) == whole[BLOCK_BYTES - 1 :][:3]


async def test_long_listings(storage: AccountStorage, box: str) -> None:
    await storage.make_container(box)
    names = [f"n/{number:04}" for number in range(30)]
    await asyncio.gather(*(storage.put(box, name, b"1") for name in names))
    assert [file.name for file in await storage.list(box, "n/")] == names


# --- an account of Azure Blob storage ---------------------------------------------------------------------------------


@pytest.fixture
async def open_storage() -> AsyncIterator[Callable[..., BlobStorage]]:
    made: list[BlobStorage] = []

    def make(account: StorageAccount, attempts: int = 2) -> BlobStorage:
        made.append(BlobStorage(account, attempts=attempts, backoff_s=0.05))
        return made[-1]

    yield make
    for storage in made:
        await storage.close()
    await until_unconnected()


async def test_signed_urls_give_what_they_say_and_no_more(
    azurite: "Azurite", open_storage: Callable[..., BlobStorage], box: str
) -> None:
    storage = open_storage(account_of(azurite))
    await storage.make_container(box)
    await storage.put(box, "in/a b%.txt", b"input")
    soon, past = time.time() + 60, time.time() - 60
    cases = [
        (200, storage.sign(box, "in/a b%.txt", "r", soon), "GET"),
        (403, storage.sign(box, "in/a b%.txt", "r", past), "GET"),
        (403, storage.sign(box, "in/a b%.txt", "r", soon), "DELETE"),
        (200, storage.sign(box, None, "lr", soon) + "&restype=container&comp=list", "GET"),
        (403, storage.sign(box, None, "w", soon) + "&restype=container&comp=list", "GET"),
        (201, storage.sign(box, "out", "w", soon), "PUT"),
        (403, storage.sign(box, "out", "r", soon), "PUT"),
        (202, storage.sign(box, None, "dlwr", soon).replace(f"/{box}?", f"/{box}/out?"), "DELETE"),
    ]
    async with aiohttp.ClientSession() as session:
        for expected, url, method in cases:
            headers = {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
            async with session.request(method, url, headers=headers) as answer:
                assert answer.status == expected, (method, url, await answer.text())
    for permissions in ("", "x", "rr?"):
        with pytest.raises(ValueError, match="no permissions"):
            storage.sign(box, None, permissions, soon)


async def test_blobs_of_others_with_names_of_their_own(
    azurite: "Azurite", open_storage: Callable[..., BlobStorage], box: str
) -> None:
    """Folder markers and doubled slashes, as other clients make them."""
    storage = open_storage(account_of(azurite))
    azurite.new_container(box)
    for name in ("folder/", "a//b", "line\nbreak"):
        azurite.put(box, name, b"1")
    assert [file.name for file in await storage.list(box)] == ["a//b", "folder/", "line\nbreak"]
    assert await content(storage, box, "a//b") == b"1"
    assert (await storage.stat(box, "folder/")).size == 1
    with pytest.raises(StorageError) as refused:
        await storage.stat(box, "a/../b")
    assert refused.value.status == 400


async def test_a_wrong_key(azurite: "Azurite", open_storage: Callable[..., BlobStorage], box: str) -> None:
    storage = open_storage(StorageAccount(azurite.account, b"wrong" * 8, azurite.endpoint))
    for call in (storage.check(), storage.make_container(box), storage.list(box), storage.put(box, "a", b"")):
        with pytest.raises(StorageError) as refused:
            await call
        assert refused.value.status == 403
        assert "refuses its key" in refused.value.message
        assert "sig=" not in refused.value.message


async def test_a_server_that_goes_away_and_comes_back(
    new_azurite: "Callable[[], Azurite]", open_storage: Callable[..., BlobStorage], box: str
) -> None:
    server = new_azurite()
    storage = open_storage(account_of(server), attempts=12)
    await storage.check()
    await storage.make_container(box)
    await storage.put(box, "before", b"kept")
    server.stop()
    waiting = asyncio.gather(storage.put(box, "during", in_pieces(b"wai", b"ted")), content(storage, box, "before"))
    await asyncio.to_thread(server.start)
    _, before = await waiting
    assert before == b"kept"
    assert await content(storage, box, "during") == b"waited"

    server.kill()
    hasty = open_storage(account_of(server))
    for call in (hasty.check(), hasty.stat(box, "before"), hasty.put(box, "a", b""), content(hasty, box, "before")):
        with pytest.raises(StorageError) as gone:
            await call
        assert (gone.value.status, gone.value.code) == (503, "StorageUnavailable")
        assert "sig=" not in gone.value.message


async def test_a_certificate_nobody_vouches_for(
    azurite_https: "Azurite", open_storage: Callable[..., BlobStorage]
) -> None:
    with pytest.raises(StorageError, match="CERTIFICATE_VERIFY_FAILED"):
        await open_storage(account_of(azurite_https), attempts=50).check()
