"""The account's auto-storage over its signed URLs."""

import asyncio
import errno
import os
from pathlib import Path
from typing import IO, Any

import pytest

from millpond.staging.auto_storage import AutoStorage, is_blob_name, is_container_name, sign_url
from tests.api.client import ACCOUNT, KEY, Answer, send
from tests.api.conftest import World

ENDPOINT = "http://127.0.0.1:10010"


def url(world: World, container: str, blob: str | None, permissions: str = "rwdl", *, seconds: float = 60) -> str:
    whole = sign_url(ENDPOINT + "/", ACCOUNT, KEY, container, blob, permissions, world.now + seconds)
    assert whole == world.storage.sign(ENDPOINT, container, blob, permissions, world.now + seconds)
    assert whole.startswith(ENDPOINT + "/storage/")
    return whole.removeprefix(ENDPOINT)


async def put(world: World, target: str, content: bytes | list[bytes], **headers: str) -> Answer:
    size = len(content) if isinstance(content, bytes) else sum(map(len, content))
    return await send(world.app, "PUT", target, {"content-length": str(size), **headers}, content)


async def test_put_get_head_delete(world: World) -> None:
    target = url(world, "files", "dir/my file é.txt")
    answer = await put(world, target, [b"hello", b" ", b"world"], **{"x-ms-blob-type": "BlockBlob"})
    assert (answer.status, answer.body) == (201, b"")
    head = await send(world.app, "HEAD", target, {})
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "11")
    assert head.headers["etag"] == answer.headers["etag"]
    got = await send(world.app, "GET", target, {})
    assert (got.status, got.body) == (200, b"hello world")
    assert got.headers["accept-ranges"] == "bytes"
    assert await put(world, target, b"again")
    got = await send(world.app, "GET", target, {})
    assert (got.body, got.headers["etag"] != answer.headers["etag"]) == (b"again", True)
    assert (await send(world.app, "DELETE", target, {})).status == 202
    missing = await send(world.app, "GET", target, {})
    assert (missing.status, missing.code) == (404, "BlobNotFound")
    assert (await send(world.app, "DELETE", target, {})).code == "BlobNotFound"
    assert (await send(world.app, "HEAD", target, {})).status == 404


async def test_a_container_is_made_by_the_first_write(world: World, tmp_path: Path) -> None:
    target = url(world, "fresh", "a/b")
    assert (await send(world.app, "GET", target, {})).code == "ContainerNotFound"
    assert (await put(world, target, b"x")).status == 201
    assert (tmp_path / "storage" / "fresh" / "a" / "b").read_bytes() == b"x"
    assert os.listdir(tmp_path / "storage" / ".partial") == []
    await send(world.app, "DELETE", target, {})
    assert os.listdir(tmp_path / "storage" / "fresh") == []


async def test_a_blob_that_is_known_already(world: World) -> None:
    target = url(world, "files", "x")
    etag = (await put(world, target, b"0123456789")).headers["etag"]
    answer = await send(world.app, "GET", target, {"If-None-Match": etag})
    assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert (await send(world.app, "GET", target, {"If-None-Match": '"other"'})).body == b"0123456789"


async def test_the_rest_of_a_blob_only_if_it_is_the_same(world: World) -> None:
    target = url(world, "files", "x")
    etag = (await put(world, target, b"0123456789")).headers["etag"]
    answer = await send(world.app, "GET", target, {"Range": "bytes=7-", "If-Range": etag})
    assert (answer.status, answer.body) == (206, b"789")
    await put(world, target, b"abcdefghij")
    answer = await send(world.app, "GET", target, {"Range": "bytes=7-", "If-Range": etag})
    assert (answer.status, answer.body) == (200, b"abcdefghij")


@pytest.mark.parametrize(
    ("span", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, b"56789", "bytes 5-9/10"),
        ("bytes=5-4", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
    ],
)
async def test_ranges(world: World, span: str, status: int, body: bytes | None, content_range: str | None) -> None:
    target = url(world, "files", "x")
    await put(world, target, b"0123456789")
    answer = await send(world.app, "GET", target, {"Range": span})
    assert answer.status == status
    assert answer.headers.get("content-range") == content_range
    if body is not None:
        assert answer.body == body


async def test_a_large_blob(world: World) -> None:
    target = url(world, "files", "large")
    pieces = [os.urandom(100_000) for _ in range(20)]
    assert (await put(world, target, pieces)).status == 201
    assert (await send(world.app, "GET", target, {})).body == b"".join(pieces)
    part = await send(world.app, "GET", target, {"Range": "bytes=1234567-1999999"})
    assert part.body == b"".join(pieces)[1234567:2000000]


async def test_permissions(world: World) -> None:
    await put(world, url(world, "files", "x"), b"1")
    for permission, allowed in {"r": {"GET", "HEAD"}, "w": {"PUT"}, "d": {"DELETE"}, "l": set[str]()}.items():
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            answer = await send(world.app, method, url(world, "files", "x", permission), {})
            assert (answer.status == 403) is (method not in allowed), (permission, method)


async def test_signatures(world: World) -> None:
    target = url(world, "files", "x")
    await put(world, target, b"1")
    path, _, query = target.partition("?")
    bad = [
        path,
        f"{path}?{query}x",
        f"{path}?{query.replace('sp=rwdl', 'sp=rwd')}",
        f"{path}?{query.replace('sr=b', 'sr=c')}",
        f"{path}?{query.replace('se=', 'se=9')}",
        f"{path}y?{query}",
        f"/storage/other/x?{query}",
        f"{path}?sp=r&se=x&sr=b&sig=y",
        f"{path}?sp=r&se=%C2%B2&sr=b&sig=%C3%A9",
        url(world, "files", "x", seconds=0),
        sign_url("", ACCOUNT, b"other key", "files", "x", "r", world.now + 60),
        sign_url("", "other", KEY, "files", "x", "r", world.now + 60),
    ]
    for target in bad:
        answer = await send(world.app, "GET", target, {})
        assert (answer.status, answer.code) == (403, "AuthenticationFailed"), target
        assert set(answer.json()) == {"code", "message"}


async def test_a_container_signature_reaches_every_blob_in_it_and_no_other(world: World) -> None:
    query = url(world, "files", None).partition("?")[2]
    stored = await put(world, f"/storage/files/a/b?{query}", b"1")
    assert stored.status == 201
    assert (await send(world.app, "GET", f"/storage/files/a%2Fb?{query}", {})).body == b"1"
    assert (await send(world.app, "GET", f"/storage/other/a?{query}", {})).status == 403
    listing = await send(world.app, "GET", f"/storage/files?{query}&comp=list", {})
    assert listing.json() == {
        "blobs": [{"name": "a/b", "size": 1, "etag": stored.headers["etag"]}],
        "next": None,
    }
    blob_query = url(world, "files", "a").partition("?")[2]
    assert (await send(world.app, "GET", f"/storage/files?{blob_query}&comp=list", {})).status == 403
    reader = url(world, "files", None, "r").partition("?")[2]
    assert (await send(world.app, "GET", f"/storage/files/?{reader}&comp=list", {})).status == 403


async def test_listing_is_in_order_and_paged(world: World) -> None:
    names = [f"d{index % 3}/f{index:04d}" for index in range(2300)] + ["d0.txt", "d0-", "a", "z/y/x", "d1"[:1] + "/q"]
    storage = world.storage
    for name in names:
        file, path = storage.begin_upload()
        file.close()
        os.rename(path, storage._path("files", name, make=True))
    query = url(world, "files", None, "l").partition("?")[2]

    async def everything(prefix: str) -> tuple[list[str], int]:
        found: list[str] = []
        marker, pages = "", 0
        while True:
            target = f"/storage/files?{query}&comp=list&prefix={prefix}&marker={marker}"
            page = (await send(world.app, "GET", target, {})).json()
            found += [blob["name"] for blob in page["blobs"]]
            pages += 1
            if page["next"] is None:
                return found, pages
            marker = page["next"]

    assert await everything("") == (sorted(names), 3)
    assert await everything("d0") == (sorted(name for name in names if name.startswith("d0")), 1)
    assert await everything("d1/f000") == ([f"d1/f{index:04d}" for index in (1, 4, 7)], 1)
    assert await everything("none/") == ([], 1)
    bad = await send(world.app, "GET", f"/storage/files?{query}&comp=list&marker=!!", {})
    assert bad.status == 400
    other = url(world, "nothing", None, "l").partition("?")[2]
    answer = await send(world.app, "GET", f"/storage/nothing?{other}&comp=list", {})
    assert (answer.status, answer.code) == (404, "ContainerNotFound")


@pytest.mark.parametrize(
    "path",
    [
        "/storage/files/../secret",
        "/storage/files/%2e%2e/secret",
        "/storage/files/a%2F..%2F..%2Fsecret",
        "/storage/files//etc/passwd",
        "/storage/files/%2Fetc/passwd",
        "/storage/files/a%00b",
        "/storage/files/a/",
        "/storage/files/./a",
        "/storage/files/%ff",
        "/storage/.partial/x",
        "/storage/../x",
        "/storage/Up/x",
        "/storage/ab/x",
        "/storage/a--b/x",
        "/storage/-ab/x",
        "/storage/" + "a" * 64 + "/x",
        "/storage/files/" + "a" * 256,
        "/storage/files/" + "a/" * 600 + "a",
        "/storage/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_names_that_cannot_be(world: World, method: str, path: str) -> None:
    query = url(world, "files", None).partition("?")[2]
    answer = await send(world.app, method, f"{path}?{query}", {})
    assert answer.status == 400


async def test_links_lead_nowhere(world: World, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("hidden")
    await put(world, url(world, "files", "x"), b"1")
    (tmp_path / "storage" / "files" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "storage" / "files" / "file").symlink_to(tmp_path / "secret" / "x")
    (tmp_path / "storage" / "linked").symlink_to(tmp_path / "secret")
    for container, blob in (("files", "out/x"), ("files", "file"), ("linked", "x")):
        for method in ("GET", "HEAD", "DELETE"):
            assert (await send(world.app, method, url(world, container, blob), {})).status == 404
    for container, blob in (("files", "out/y"), ("linked", "y")):
        assert (await put(world, url(world, container, blob), b"1")).status == 404
    assert sorted(os.listdir(tmp_path / "secret")) == ["x"]
    query = url(world, "files", None).partition("?")[2]
    listing = await send(world.app, "GET", f"/storage/files?{query}&comp=list", {})
    assert [blob["name"] for blob in listing.json()["blobs"]] == ["x"]
    query = url(world, "linked", None).partition("?")[2]
    assert (await send(world.app, "GET", f"/storage/linked?{query}&comp=list", {})).status == 404


async def test_blobs_that_exclude_each_other(world: World) -> None:
    await put(world, url(world, "files", "a"), b"1")
    answer = await put(world, url(world, "files", "a/b"), b"1")
    assert (answer.status, answer.code) == (409, "BlobConflict")
    await put(world, url(world, "files", "d/e"), b"1")
    assert (await put(world, url(world, "files", "d"), b"1")).status == 409
    assert (await send(world.app, "GET", url(world, "files", "d"), {})).status == 404
    assert (await send(world.app, "DELETE", url(world, "files", "d"), {})).status == 404


async def test_an_upload_that_breaks_off_leaves_what_was_there(world: World, tmp_path: Path) -> None:
    target = url(world, "files", "x")
    await put(world, target, b"old")
    answer = await send(world.app, "PUT", target, {"content-length": "10"}, b"new", hang_up=True)
    assert answer.status == 0
    short = await send(world.app, "PUT", target, {"content-length": "10"}, b"new")
    assert (short.status, short.code) == (400, "InvalidInput")
    assert (await send(world.app, "PUT", target, {"content-length": "ten"}, b"new")).status == 400
    assert (await send(world.app, "GET", target, {})).body == b"old"
    assert os.listdir(tmp_path / "storage" / ".partial") == []


async def test_a_full_disk_is_507(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile:
        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def writelines(self, lines: Any) -> None:
            raise OSError(errno.ENOSPC, "no space")

        def close(self) -> None:
            self.file.close()

    begin = AutoStorage.begin_upload

    def full(self: AutoStorage) -> Any:
        file, path = begin(self)
        return FullFile(file), path

    monkeypatch.setattr(AutoStorage, "begin_upload", full)
    answer = await put(world, url(world, "files", "x"), b"1")
    assert (answer.status, answer.code) == (507, "InsufficientStorage")
    assert os.listdir(tmp_path / "storage" / ".partial") == []


async def test_other_verbs(world: World) -> None:
    assert (await send(world.app, "POST", url(world, "files", "x"), {})).status == 405
    query = url(world, "files", None).partition("?")[2]
    assert (await send(world.app, "PUT", f"/storage/files?{query}", {})).status == 405
    assert (await send(world.app, "GET", f"/storage/files?{query}", {})).status == 405


async def test_deletes_and_writes_side_by_side(world: World) -> None:
    """A delete removes the directory it leaves empty, a write needs it."""

    async def churn(name: str) -> None:
        target = url(world, "files", f"deep/down/{name}")
        for _ in range(25):
            assert (await put(world, target, b"1")).status == 201
            assert (await send(world.app, "DELETE", target, {})).status == 202

    await asyncio.gather(*(churn(f"n{index}") for index in range(4)))


@pytest.mark.parametrize(
    ("container", "blob", "permissions"), [("X", "a", "r"), ("abc", "../a", "r"), ("abc", "a", ""), ("abc", "a", "rx")]
)
def test_what_cannot_be_signed(container: str, blob: str, permissions: str) -> None:
    with pytest.raises(ValueError, match=r"is no|are no"):
        sign_url(ENDPOINT, ACCOUNT, KEY, container, blob, permissions, 0)


def test_names() -> None:
    assert is_container_name("abc")
    assert is_container_name("a-b-c" * 12)
    assert not is_container_name("abc-")
    assert is_blob_name("a/..b/...")
    assert not is_blob_name("\ud800")
