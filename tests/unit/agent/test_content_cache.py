"""The content cache on a real disk, before a pretended storage server."""

import asyncio
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.agent import content_cache
from millpond.agent.content_cache import CacheSettings, ContentCache, Listed
from millpond.agent.content_key import content_key
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Fetched, RemoteFile
from tests.unit.runner.staging import etag_of
from tests.waiting import until_true

MIB = 1 << 20
GIB = 1 << 30
SIZE = 100_000
SIGNED = "?sv=1&se=2030&sp=r&sig="


class Origin:
    """A storage server behind `Staging`: content by path, who asks by the signature."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tells_etags = True
        self.weak = ""
        self.refused: set[str] = set()
        """Signatures."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.downloads: list[str] = []
        self.asked: list[str] = []
        """URLs: downloaded, and asked about and found unchanged."""

    async def fetch(self, url: str, path: str, *, known_etag: str = "") -> Fetched | None:
        parts = urlsplit(url)
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if any(parts.query.endswith(f"sig={one}") for one in self.refused):
            raise TaskFailure(TaskFailureCode.BLOB_ACCESS_DENIED, "no")
        data = self.files.get(parts.path)
        if data is None:
            raise TaskFailure(TaskFailureCode.BLOB_NOT_FOUND, "not there")
        etag = self.weak + etag_of(data) if self.tells_etags else ""
        if etag and known_etag == etag:
            self.asked.append(url)
            return None
        await asyncio.sleep(0)
        self.downloads.append(url)
        Path(path).write_bytes(data)
        return Fetched(len(data), etag)

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        raise NotImplementedError

    async def list(self, container_url: str, prefix: str) -> "list[RemoteFile]":
        raise NotImplementedError

    def file_url(self, container_url: str, name: str) -> str:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to close."""


class Shop:
    """A cache, an origin, and tasks that ask."""

    def __init__(self, directory: Path, mib: int = 4) -> None:
        self.directory = directory / "cache"
        self.trash = directory / "trash"
        self.trash.mkdir(exist_ok=True)
        self.out = directory / "out"
        self.out.mkdir(exist_ok=True)
        self.origin = Origin()
        self.slots = asyncio.Semaphore(16)
        self.count = 0
        self.cache = self.next_life(mib)

    def next_life(self, mib: int = 4, *, pools: set[str] | None = None) -> ContentCache:
        self.cache = ContentCache(str(self.directory), CacheSettings(input_cache_mib=mib))
        self.cache.open(self.discard, pools)
        return self.cache

    def discard(self, path: str) -> None:
        self.count += 1
        os.rename(path, self.trash / str(self.count))

    def cut_short(self, size: int) -> None:
        """The first file that is kept, as a fault of the disk or root may: it is not to be written to."""
        path = self.files()[0]
        mode = path.stat().st_mode
        path.chmod(0o600)
        os.truncate(path, size)
        path.chmod(mode)

    async def get(self, path: str, sig: str = "a", *, pool: str = "p", listed: bool = False) -> bytes:
        """What a task is given, which then spoils its copy."""
        self.count += 1
        out = self.out / str(self.count)
        await self.cache.fetch(pool, self.origin, f"https://h{path}{SIGNED}{sig}", str(out), self.slots, listed=listed)
        data = out.read_bytes()
        with out.open("r+b") as file:
            file.write(b"spoiled")
        return data

    def files(self) -> list[Path]:
        return [path for path in self.directory.rglob("*") if path.is_file() and path.name != "boot"]

    def on_disk(self) -> int:
        return sum((path.stat().st_size + 4095) // 4096 * 4096 + 4096 for path in self.files())


@pytest.fixture
async def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


async def test_fetched_once(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    assert [await shop.get("/c/a", sig) for sig in "abc"] == [data] * 3
    assert len(shop.origin.downloads) == 1
    # Each has shown its own authority.
    assert [url[-1] for url in shop.origin.asked] == ["b", "c"]


async def test_nobody_but_the_agent_may_look_into_it(shop: Shop) -> None:
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    assert stat.S_IMODE(shop.directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in shop.files()] == [0o400]


async def test_who_may_not_read_gets_nothing(shop: Shop) -> None:
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    shop.origin.refused = {"evil"}
    with pytest.raises(TaskFailure, match="no"):
        await shop.get("/c/a", "evil")
    assert not (shop.out / str(shop.count)).exists()


async def test_what_has_changed_is_fetched_anew(shop: Shop) -> None:
    for _ in range(3):
        data = shop.origin.files["/c/a"] = os.urandom(SIZE)
        assert await shop.get("/c/a") == data
        assert await shop.get("/c/a") == data
    assert len(shop.origin.downloads) == 3
    assert len(shop.files()) == 1


async def test_what_is_gone_is_not_given_out(shop: Shop) -> None:
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    del shop.origin.files["/c/a"]
    with pytest.raises(TaskFailure, match="not there"):
        await shop.get("/c/a")


async def test_pools_do_not_share(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    assert await shop.get("/c/a", pool="p") == data
    assert await shop.get("/c/a", pool="q") == data
    assert len(shop.origin.downloads) == 2


async def test_one_downloads_and_the_others_wait(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    shop.origin.gate.clear()
    shop.origin.files["/c/b"] = b"b"
    tasks = [asyncio.create_task(shop.get("/c/a", str(number))) for number in range(20)]
    await until_true(lambda: shop.origin.waiting)
    # Who waits for the first takes nobody's slot.
    other = asyncio.create_task(shop.get("/c/b"))
    await until_true(lambda: shop.origin.waiting > 1)
    assert shop.origin.waiting == 2
    shop.origin.gate.set()
    assert await asyncio.gather(*tasks) == [data] * 20
    assert await other == b"b"
    shop.origin.downloads.remove(f"https://h/c/b{SIGNED}a")
    assert len(shop.origin.downloads) == 1
    assert len(shop.origin.asked) == 19


async def test_when_it_is_cancelled_the_next_takes_over(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    shop.origin.gate.clear()
    tasks = [asyncio.create_task(shop.get("/c/a", str(number))) for number in range(5)]
    await until_true(lambda: shop.origin.waiting)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    await until_true(lambda: shop.origin.waiting)
    shop.origin.gate.set()
    assert await asyncio.gather(*tasks[1:]) == [data] * 4
    assert len(shop.origin.downloads) == 1


async def test_when_it_fails_the_next_takes_over(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    shop.origin.refused = {"0"}
    shop.origin.gate.clear()
    tasks = [asyncio.create_task(shop.get("/c/a", str(number))) for number in range(5)]
    await until_true(lambda: shop.origin.waiting)
    shop.origin.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], TaskFailure)
    assert results[1:] == [data] * 4
    assert len(shop.origin.downloads) == 1


@pytest.mark.parametrize("kind", ["no etag", "weak etag", "small", "large", "off"])
async def test_what_is_not_worth_it_goes_straight(shop: Shop, kind: str) -> None:
    size = {"small": 1000, "large": 2 * MIB}.get(kind, SIZE)
    data = shop.origin.files["/c/a"] = os.urandom(size)
    shop.origin.tells_etags = kind != "no etag"
    shop.origin.weak = "W/" if kind == "weak etag" else ""
    if kind == "off":
        shop.next_life(0)
    assert await shop.get("/c/a") == data
    shop.origin.gate.clear()
    tasks = [asyncio.create_task(shop.get("/c/a")) for _ in range(5)]
    # They do not wait for each other.
    await until_true(lambda: shop.origin.waiting == 5)
    shop.origin.gate.set()
    assert await asyncio.gather(*tasks) == [data] * 5
    assert len(shop.origin.downloads) == 6
    assert shop.files() == []


async def test_the_longest_unused_go(shop: Shop) -> None:
    for name in "abcdefgh":
        shop.origin.files[f"/c/{name}"] = name.encode() * 900_000
    for name in "abcd":
        await shop.get(f"/c/{name}")
    await shop.get("/c/a")
    await shop.get("/c/e")
    assert shop.on_disk() == shop.cache.used <= 4 * MIB
    shop.origin.downloads.clear()
    for name in "acde":
        await shop.get(f"/c/{name}")
    assert shop.origin.downloads == []
    await shop.get("/c/b")
    assert len(shop.origin.downloads) == 1


async def test_a_small_file_of_a_listing_is_kept(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = b"small"
    await shop.get("/c/a", listed=True)
    key, etag = content_key("https://h/c/a"), etag_of(data)
    assert shop.cache.has("p", key, etag)
    assert not shop.cache.has("p", key, '"other"')
    assert not shop.cache.has("q", key, etag)
    wanted = [
        Listed(key, etag, len(data), str(shop.out / "x"), 0o640),
        Listed(key, '"other"', len(data), str(shop.out / "y"), 0o640),
        Listed(content_key("https://h/c/b"), etag, 5, str(shop.out / "z"), 0o640),
    ]
    assert await shop.cache.copy_listed("p", wanted) == wanted[1:]
    assert (shop.out / "x").read_bytes() == data
    assert stat.S_IMODE((shop.out / "x").stat().st_mode) == 0o640
    assert len(shop.origin.downloads) == 1


async def test_a_cache_whose_files_were_tampered_with(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    shop.cut_short(1000)
    assert await shop.get("/c/a") == data
    shop.files()[0].unlink()
    assert await shop.get("/c/a") == data
    assert len(shop.origin.downloads) == 3
    listed = [Listed(content_key("https://h/c/a"), etag_of(data), SIZE, str(shop.out / "x"), 0o640)]
    shop.cut_short(1000)
    assert await shop.cache.copy_listed("p", listed) == listed
    assert not (shop.out / "x").exists()
    assert shop.files() == []


async def test_a_disk_that_fails_costs_the_task_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)

    def fail(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(content_cache, "_copy_some", fail)
        patch.setattr(content_cache._Copy, "_clone", lambda self: False)
        assert await shop.get("/c/a") == data
    assert shop.files() == []
    assert await shop.get("/c/a") == data
    with monkeypatch.context() as patch:
        patch.setattr(content_cache, "_copy_some", fail)
        patch.setattr(content_cache._Copy, "_clone", lambda self: False)
        with pytest.raises(OSError, match="No space"):
            await shop.get("/c/a")
    assert not (shop.out / str(shop.count)).exists()
    assert await shop.cache.free() == 1
    assert shop.files() == []
    assert shop.cache.used == 0


async def test_where_the_file_system_shares_blocks_nothing_is_copied(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)

    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        return os.pwrite(target, os.pread(source, SIZE, 0), 0)

    def fail(*args: object) -> int:
        raise AssertionError("copied")

    monkeypatch.setattr(content_cache.fcntl, "ioctl", clone)
    monkeypatch.setattr(content_cache, "_copy_some", fail)
    assert await shop.get("/c/a") == data
    assert await shop.get("/c/a") == data
    assert len(shop.origin.downloads) == 1


async def test_where_the_kernel_does_not_copy_it_is_done_by_hand(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(3 * SIZE)

    def refuse(*args: object) -> int:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(content_cache.os, "copy_file_range", refuse)
    assert await shop.get("/c/a") == data
    assert await shop.get("/c/a") == data
    assert len(shop.origin.downloads) == 1


@pytest.mark.parametrize(
    ("disk", "free", "kept"),
    [
        (10 * GIB, 10 * GIB // 21, False),
        (10 * GIB, 10 * GIB // 19, True),
        (1000 * GIB, GIB, False),
        (1000 * GIB, GIB + MIB, True),
    ],
)
async def test_nothing_is_kept_that_would_fill_the_disk(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, disk: int, free: int, kept: bool
) -> None:
    """Of a small disk a twentieth stays free, of a big one 1 GiB, however little of it that is."""
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    block = 4096
    facts = os.statvfs_result((block, block, disk // block, free // block, free // block, 0, 0, 0, 0, 255))
    monkeypatch.setattr(content_cache.os, "statvfs", lambda path: facts)
    await shop.get("/c/a")
    assert bool(shop.files()) is kept


# --- across lives ---------------------------------------------------------------------------------------------------


async def test_it_outlives_the_agent(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    shop.next_life()
    assert await shop.get("/c/a") == data
    assert len(shop.origin.downloads) == 1


async def test_what_an_earlier_life_left_unfinished_is_swept(shop: Shop) -> None:
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    pool = shop.directory / "p"
    (pool / "new-0123").write_bytes(b"half")
    (pool / "what.ever").write_bytes(b"else")
    (pool / "link").symlink_to("/etc/passwd")
    shop.next_life()
    assert len(list(pool.iterdir())) == 1
    # One cut short by the disk.
    shop.cut_short(10)
    shop.next_life()
    assert shop.files() == []
    assert shop.cache.used == 0


async def test_with_less_room_the_longest_unused_go(shop: Shop) -> None:
    for number, name in enumerate("abcd"):
        shop.origin.files[f"/c/{name}"] = name.encode() * 200_000
        await shop.get(f"/c/{name}")
        newest = max(shop.files(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    shop.next_life(1)
    shop.next_life(1)
    assert shop.on_disk() == shop.cache.used <= MIB
    await shop.cache.free()
    assert shop.files() == []


async def test_which_was_used_last_is_known_to_the_next_life(shop: Shop) -> None:
    for name in "abcd":
        shop.origin.files[f"/c/{name}"] = name.encode() * 900_000
        await shop.get(f"/c/{name}")
    for path in shop.files():
        os.utime(path, (1000, 1000))
    shop.next_life()
    await shop.get("/c/a")
    shop.next_life()
    shop.origin.files["/c/f"] = b"f" * 900_000
    await shop.get("/c/f")
    shop.origin.downloads.clear()
    await shop.get("/c/a")
    assert shop.origin.downloads == []


async def test_after_a_boot_nothing_is_believed(shop: Shop) -> None:
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    (shop.directory / "boot").write_text("another")
    shop.next_life()
    assert shop.files() == []
    await shop.get("/c/a")
    assert len(shop.files()) == 1


async def test_switched_off_it_leaves_nothing(shop: Shop) -> None:
    shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    assert shop.next_life(0).limit == 0
    assert not shop.directory.exists()


async def test_a_pool_is_dropped(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    for pool in ("P", "q"):
        await shop.get("/c/a", pool=pool)
    shop.cache.drop("P", shop.discard)
    shop.cache.drop("P", shop.discard)
    assert [path.name for path in shop.directory.iterdir() if path.is_dir()] == ["q"]
    assert await shop.get("/c/a", pool="P") == data
    shop.next_life(pools={"Q"})
    assert [path.name for path in shop.directory.iterdir() if path.is_dir()] == ["q"]
    assert shop.on_disk() == shop.cache.used


async def test_a_pool_dropped_while_it_is_copied(shop: Shop) -> None:
    data = shop.origin.files["/c/a"] = os.urandom(SIZE)
    await shop.get("/c/a")
    shop.origin.gate.clear()
    task = asyncio.create_task(shop.get("/c/a"))
    await until_true(lambda: shop.origin.waiting)
    shop.cache.drop("p", shop.discard)
    assert shop.cache.used > 0
    shop.origin.gate.set()
    assert await task == data
    assert shop.on_disk() == shop.cache.used


async def test_without_a_disk_it_is_off(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shutil.rmtree(shop.directory)
    (tmp_path / "file").touch()
    shop.directory = tmp_path / "file/cache"
    shop.next_life()
    shop.origin.files["/c/a"] = b"a" * SIZE
    assert shop.cache.limit == 0
    assert await shop.get("/c/a") == b"a" * SIZE


async def test_by_itself_it_takes_a_tenth_of_the_disk(tmp_path: Path) -> None:
    shop = Shop(tmp_path, -1)
    assert shop.cache.limit == min(10 << 30, shutil.disk_usage(tmp_path).total // 10)


async def test_no_descriptor_is_left_open(shop: Shop) -> None:
    before = len(os.listdir("/proc/self/fd"))
    data = shop.origin.files["/c/a"] = os.urandom(600_000)
    for _ in range(3):
        assert await shop.get("/c/a") == data
    shop.origin.gate.clear()
    tasks = [asyncio.create_task(shop.get("/c/a")) for _ in range(10)]
    await until_true(lambda: shop.origin.waiting)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    shop.cut_short(1)
    shop.origin.gate.set()
    await shop.get("/c/a")
    assert len(os.listdir("/proc/self/fd")) == before


# --- at random ------------------------------------------------------------------------------------------------------

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.integers(0, 4), st.integers(1, 4)),
        st.tuples(st.just("change"), st.integers(0, 4), st.integers(0, 700_000)),
        st.tuples(st.sampled_from(["life", "free", "drop", "cancel"]), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=_STEPS)
def test_never_stale_never_shared_never_too_much(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    async def live(shop: Shop) -> None:
        shop.next_life(1)
        versions = 0
        for name in range(5):
            shop.origin.files[f"/c/{name}"] = b"%d" % name * 50_000
        for step, number, amount in steps:
            path = f"/c/{number}"
            if step == "get":
                got = await asyncio.gather(*(shop.get(path, str(one), listed=True) for one in range(amount)))
                assert got == [shop.origin.files[path]] * amount
            elif step == "change":
                versions += 1
                shop.origin.files[path] = (b"%08d" % versions * (amount // 8 + 1))[:amount]
            elif step == "life":
                shop.next_life(1)
            elif step == "free":
                await shop.cache.free()
            elif step == "drop":
                shop.cache.drop("p", shop.discard)
            else:
                task = asyncio.create_task(shop.get(path))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            assert shop.on_disk() == shop.cache.used <= MIB

    directory = tmp_path_factory.mktemp("shop")
    with asyncio.Runner() as runner:
        runner.run(live(Shop(directory)))
    shutil.rmtree(directory)
