"""The contract of staging, for every kind of storage: each by the router that the agent uses."""

import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from millpond.domain.errors import TaskFailure, TaskFailureCode
from tests.contracts.storages import PLACES, Place
from tests.waiting import until_unconnected

C = TaskFailureCode


@pytest.fixture(params=PLACES)
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    place = PLACES[request.param](request.getfixturevalue, tmp_path_factory.mktemp("place"))
    yield place
    await place.staging.close()
    await until_unconnected()


async def put(place: Place, directory: Path, name: str, data: bytes, **headers: str) -> None:
    path = directory / "to-put"
    path.write_bytes(data)
    try:
        await place.staging.put(str(path), place.url, name, {key.replace("_", "-"): headers[key] for key in headers})
    finally:
        path.unlink()


async def failure_of(work: Awaitable[object]) -> TaskFailure:
    with pytest.raises(TaskFailure) as caught:
        await work
    shown = [caught.value.message, *caught.value.details.values()]
    assert not [text for text in shown if "sig=" in text or "Signature=" in text], "the signature is told"
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 100_000, 40_000_000], ids=str)
async def test_what_is_put_is_fetched(place: Place, tmp_path: Path, size: int) -> None:
    data = os.urandom(min(size, 1_000_000)) * max(1, size // 1_000_000)
    await put(place, tmp_path, "a/b.bin", data)
    fetched = await place.staging.fetch(place.staging.file_url(place.url, "a/b.bin"), str(tmp_path / "x"))
    assert fetched is not None
    assert fetched.size == len(data)
    assert fetched.etag.startswith('"')
    assert (tmp_path / "x").read_bytes() == data
    assert os.listdir(tmp_path) == ["x"]


async def test_put_replaces(place: Place, tmp_path: Path) -> None:
    await put(place, tmp_path, "a", b"old and longer")
    await put(place, tmp_path, "a", b"new")
    (tmp_path / "x").write_bytes(b"in the way")
    await place.staging.fetch(place.staging.file_url(place.url, "a"), str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a b.txt", "é/ü.txt", "100%.txt", "a+b&c=d.txt", "q?#.txt", "~x.txt", "%41.txt"])
async def test_names(place: Place, tmp_path: Path, name: str) -> None:
    await put(place, tmp_path, name, name.encode())
    assert [file.name for file in await place.staging.list(place.url, "")] == [name]
    await place.staging.fetch(place.staging.file_url(place.url, name), str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == name.encode()


async def test_list(place: Place, tmp_path: Path) -> None:
    for name in ("in/a", "in/b/c", "inside", "other"):
        await put(place, tmp_path, name, name.encode())
    for prefix, expected in (
        ("", ["in/a", "in/b/c", "inside", "other"]),
        ("in", ["in/a", "in/b/c", "inside"]),
        ("in/", ["in/a", "in/b/c"]),
        ("in/b", ["in/b/c"]),
        ("o", ["other"]),
        ("none", []),
        ("none/x", []),
    ):
        found = await place.staging.list(place.url, prefix)
        assert [(file.name, file.size) for file in found] == [(name, len(name)) for name in expected]
        assert all(file.etag.startswith('"') for file in found)


async def test_fetch_of_what_is_known(place: Place, tmp_path: Path) -> None:
    await put(place, tmp_path, "a", b"first")
    url = place.staging.file_url(place.url, "a")
    (listed,) = await place.staging.list(place.url, "")
    first = await place.staging.fetch(url, str(tmp_path / "x"))
    assert first is not None
    assert first.etag == listed.etag
    assert await place.staging.fetch(url, str(tmp_path / "y"), known_etag=first.etag) is None
    assert os.listdir(tmp_path) == ["x"]
    await put(place, tmp_path, "a", b"second")
    again = await place.staging.fetch(url, str(tmp_path / "x"), known_etag=first.etag)
    assert again is not None
    assert again.etag != first.etag
    assert (tmp_path / "x").read_bytes() == b"second"


@pytest.mark.parametrize("size", [10, 40_000_000], ids=str)
async def test_headers(place: Place, tmp_path: Path, size: int) -> None:
    headers = {"content_type": "text/csv", "Cache_Control": "max-age=60", "x_ms_meta_run": "7"}
    await put(place, tmp_path, "a.csv", bytes(size), **headers)
    if place.keeps_headers:
        assert place.attributes("a.csv") == {"type": "text/csv", "cache": "max-age=60", "run": "7"}


async def test_headers_that_cannot_be(place: Place, tmp_path: Path) -> None:
    failure = await failure_of(put(place, tmp_path, "a", b"x", Authorization="SharedKey x"))
    assert (failure.code, failure.details["Header"]) == (C.FILE_UPLOAD_MISC_ERROR, "Authorization")
    assert await place.staging.list(place.url, "") == []


async def test_what_is_missing(place: Place, tmp_path: Path) -> None:
    staging = place.staging
    url = staging.file_url(place.url, "none.txt")
    failure = await failure_of(staging.fetch(url, str(tmp_path / "x")))
    assert failure.code is C.BLOB_NOT_FOUND
    assert failure.details["FilePath"].endswith("/none.txt")
    failure = await failure_of(staging.fetch(staging.file_url(place.missing_url, "none.txt"), str(tmp_path / "x")))
    assert failure.code is C.BLOB_NOT_FOUND
    if "ErrorCode" in failure.details:
        assert failure.details["ErrorCode"] in ("ContainerNotFound", "NoSuchBucket")
    failure = await failure_of(staging.list(place.missing_url, ""))
    assert failure.code is C.RESOURCE_CONTAINER_NOT_FOUND
    assert os.listdir(tmp_path) == []


async def test_put_into_what_is_missing(place: Place, tmp_path: Path) -> None:
    if "/storage/not-there" in place.missing_url:
        # Auto-storage makes its containers as they are written to.
        return
    (tmp_path / "a").write_bytes(b"x")
    failure = await failure_of(place.staging.put(str(tmp_path / "a"), place.missing_url, "a", {}))
    assert failure.code is C.FILE_UPLOAD_CONTAINER_NOT_FOUND
    assert "not-there" in failure.details["FilePath"]


async def test_what_is_forbidden(place: Place, tmp_path: Path) -> None:
    if not place.forbidden_url:
        return
    (tmp_path / "a").write_bytes(b"x")
    staging = place.staging
    failure = await failure_of(staging.fetch(staging.file_url(place.forbidden_url, "a"), str(tmp_path / "x")))
    assert failure.code is C.BLOB_ACCESS_DENIED
    failure = await failure_of(staging.list(place.forbidden_url, ""))
    assert failure.code is C.RESOURCE_CONTAINER_ACCESS_DENIED
    failure = await failure_of(staging.put(str(tmp_path / "a"), place.forbidden_url, "a", {}))
    assert failure.code is C.FILE_UPLOAD_ACCESS_DENIED
    assert os.listdir(tmp_path) == ["a"]


async def test_put_of_what_is_not_there(place: Place, tmp_path: Path) -> None:
    failure = await failure_of(place.staging.put(str(tmp_path / "none"), place.url, "a", {}))
    assert failure.code is C.FILE_UPLOAD_MISC_ERROR


async def test_fetch_to_where_nothing_can_be(place: Place, tmp_path: Path) -> None:
    await put(place, tmp_path, "a", b"x")
    url = place.staging.file_url(place.url, "a")
    failure = await failure_of(place.staging.fetch(url, str(tmp_path / "no" / "x")))
    assert failure.code is C.RESOURCE_FILE_CREATE_FAILED
