"""What staging by HTTP does, against a server on the loopback interface whose answers are scripted, faults among them."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Fetched, RemoteFile
from millpond.staging.download import Split
from millpond.staging.failures import without_authority
from millpond.staging.http import HttpStaging
from millpond.staging.retries import Retries
from tests.servers.http import Answer, HttpServer, body, broken, file, refused, silent, slow, stalling, status
from tests.waiting import until_true

SIGNATURE = "sv=2021&sig=a%2Bb%2Fc%3D&se=2030-01-01T00%3A00%3A00Z"
XML = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ContainerName="c"><Blobs>
<Blob><Name>x/é &amp; b.txt</Name><Properties><Content-Length>12</Content-Length></Properties></Blob>
<Blob><Name>x/empty</Name><Properties/></Blob>
</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"""


class Storage:
    """A storage server whose answers are scripted; its URLs are signed."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self.requests = server.requests
        self.url = server.url

    def on(self, path: str, *answers: Answer) -> str:
        return self._server.on(path, *answers, query=SIGNATURE)


@pytest.fixture
def storage(http_server: HttpServer) -> Storage:
    return Storage(http_server)


@pytest.fixture
async def staging() -> AsyncIterator[HttpStaging]:
    staging = HttpStaging(retries=Retries(attempts=3, backoff_s=0.001), silence_s=0.3)
    yield staging
    await staging.close()


async def failure_of(work: Awaitable[object]) -> TaskFailure:
    with pytest.raises(TaskFailure) as caught:
        await work
    shown = [caught.value.message, *caught.value.details.values()]
    assert not [text for text in shown if "sig=" in text], "the signature is told"
    return caught.value


# --- fetch ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_fetch(storage: Storage, staging: HttpStaging, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    await staging.fetch(storage.on("/c/a", body(data)), str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == data
    assert os.listdir(tmp_path) == ["a"]
    # A signature is over the exact text of the URL.
    assert storage.requests[0][:2] == ("GET", f"/c/a?{SIGNATURE}")


async def test_fetch_replaces(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    await staging.fetch(storage.on("/c/a", body(b"new")), str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "new"


async def test_fetch_what_is_known_already(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    url = storage.on("/c/a", body(b"new", ETag='"2"'), status(304))
    assert await staging.fetch(url, str(tmp_path / "a"), known_etag='"1"') == Fetched(3, '"2"')
    assert await staging.fetch(url, str(tmp_path / "b"), known_etag='"2"') is None
    assert os.listdir(tmp_path) == ["a"]
    assert [headers["If-None-Match"] for _, _, headers, _ in storage.requests] == ['"1"', '"2"']


async def test_fetch_stores_what_is_sent(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    data = gzip.compress(b"text")
    await staging.fetch(storage.on("/c/a.gz", body(data, **{"Content-Encoding": "gzip"})), str(tmp_path / "a.gz"))
    assert (tmp_path / "a.gz").read_bytes() == data
    assert storage.requests[0][2]["Accept-Encoding"] == "identity"


async def test_fetch_follows_redirects(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    target = storage.on("/c/target", body(b"here"))
    await staging.fetch(storage.on("/c/a", status(302, Location=target)), str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "here"
    assert storage.requests[1][1] == f"/c/target?{SIGNATURE}"


async def test_fetch_a_url_with_odd_characters(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    storage.on("/c/ein Bär.txt", body(b"brumm"))
    await staging.fetch(f"{storage.url}/c/ein Bär.txt", str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "brumm"


@pytest.mark.parametrize("trouble", [status(500), status(503), status(429), status(408), broken, refused, stalling])
async def test_fetch_tries_again(storage: Storage, staging: HttpStaging, tmp_path: Path, trouble: Answer) -> None:
    await staging.fetch(storage.on("/c/a", trouble, trouble, body(b"at last")), str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "at last"
    assert os.listdir(tmp_path) == ["a"]


async def test_fetch_slowly(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    await staging.fetch(storage.on("/c/a", slow), str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "01234567"


@pytest.mark.parametrize(
    ("answer", "code", "tries"),
    [
        (status(404), TaskFailureCode.BLOB_NOT_FOUND, 1),
        (status(403), TaskFailureCode.BLOB_ACCESS_DENIED, 1),
        (status(401), TaskFailureCode.BLOB_ACCESS_DENIED, 1),
        (status(400), TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR, 1),
        (status(500), TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR, 3),
        (status(408), TaskFailureCode.BLOB_DOWNLOAD_TIMED_OUT, 3),
        (broken, TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR, 3),
        (refused, TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR, 3),
        (silent, TaskFailureCode.BLOB_DOWNLOAD_TIMED_OUT, 3),
        (stalling, TaskFailureCode.BLOB_DOWNLOAD_TIMED_OUT, 3),
    ],
)
async def test_fetch_fails(
    storage: Storage, staging: HttpStaging, tmp_path: Path, answer: Answer, code: TaskFailureCode, tries: int
) -> None:
    failure = await failure_of(staging.fetch(storage.on("/c/a", answer), str(tmp_path / "a")))
    assert failure.code is code
    assert failure.details["FilePath"] == f"{storage.url}/c/a"
    # The library itself tries again when a connection is closed without an answer.
    assert len(storage.requests) == tries or answer is refused
    assert os.listdir(tmp_path) == []


async def test_fetch_redirected_for_ever(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    failure = await failure_of(staging.fetch(storage.on("/c/a", status(302, Location="/c/a")), str(tmp_path / "a")))
    assert failure.code is TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR


@pytest.mark.parametrize(
    "url", ["", "no url", "ftp://host/a", "file:///etc/passwd", "http://", "http://[::1", "http://h:x/"]
)
async def test_what_is_no_url(staging: HttpStaging, tmp_path: Path, url: str) -> None:
    failure = await failure_of(staging.fetch(url, str(tmp_path / "a")))
    assert failure.code is TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR


async def test_nobody_there(staging: HttpStaging, tmp_path: Path, unused_tcp_port: int) -> None:
    failure = await failure_of(staging.fetch(f"http://127.0.0.1:{unused_tcp_port}/a", str(tmp_path / "a")))
    assert failure.code is TaskFailureCode.BLOB_DOWNLOAD_MISC_ERROR


async def test_fetch_to_where_nothing_can_be(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    failure = await failure_of(staging.fetch(storage.on("/c/a", body(b"x")), str(tmp_path / "no" / "a")))
    assert failure.code is TaskFailureCode.RESOURCE_FILE_CREATE_FAILED


async def test_fetch_onto_a_full_disk(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    # /dev/full is a disk without room; the partial file beside the path leads there.
    failure = await failure_of(_fetch_through(staging, storage.on("/c/a", body(b"x")), tmp_path))
    assert failure.code is TaskFailureCode.DISK_FULL


async def _fetch_through(staging: HttpStaging, url: str, tmp_path: Path) -> None:
    real_open = os.open

    def full_open(path: str, flags: int, mode: int = 0o777, **rest: int) -> int:
        if str(path).endswith(".part"):
            return real_open("/dev/full", os.O_WRONLY)
        return real_open(path, flags, mode, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", full_open)
        await staging.fetch(url, str(tmp_path / "a"))


async def test_cancelled_fetch_leaves_nothing(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "9000000"})
        await response.prepare(request)
        await response.write(b"x" * 4_000_000)
        await asyncio.sleep(600)
        return response

    patient = HttpStaging(silence_s=60)
    task = asyncio.ensure_future(patient.fetch(storage.on("/c/a", half), str(tmp_path / "a")))
    await until_true(lambda: os.listdir(tmp_path))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await patient.close()
    assert os.listdir(tmp_path) == []


# --- resumed and split ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}])
async def test_fetch_goes_on_where_it_broke(
    storage: Storage, staging: HttpStaging, tmp_path: Path, headers: dict[str, str]
) -> None:
    data = os.urandom(8_000_000)
    url = storage.on("/c/a", file(data, drop_after=5_000_000, **headers), file(data, **headers))
    assert await staging.fetch(url, str(tmp_path / "a")) == Fetched(8_000_000, headers.get("ETag", ""))
    assert (tmp_path / "a").read_bytes() == data
    first, second = storage.requests
    assert "Range" not in first.headers
    assert 0 < int(second.headers["Range"].removeprefix("bytes=").rstrip("-")) <= 5_000_000
    assert second.headers["If-Range"] in headers.values()


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}])
async def test_fetch_begins_anew_without_proof(
    storage: Storage, staging: HttpStaging, tmp_path: Path, headers: dict[str, str]
) -> None:
    data = os.urandom(8_000_000)
    url = storage.on("/c/a", file(data, drop_after=5_000_000, **headers), file(data, **headers))
    await staging.fetch(url, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == data
    assert "Range" not in storage.requests[1].headers


async def test_fetch_of_a_file_that_changes_meanwhile(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    old, new = os.urandom(8_000_000), os.urandom(6_000_000)
    url = storage.on("/c/a", file(old, drop_after=7_000_000, ETag='"1"'), file(new, ETag='"2"'))
    assert await staging.fetch(url, str(tmp_path / "a")) == Fetched(6_000_000, '"2"')
    assert (tmp_path / "a").read_bytes() == new


async def test_fetch_where_ranges_are_ignored(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    data = os.urandom(6_000_000)
    url = storage.on("/c/a", file(data, drop_after=5_000_000, ETag='"1"'), body(data, ETag='"1"'))
    await staging.fetch(url, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == data


async def test_fetch_that_breaks_often_comes_to_its_end(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    data = os.urandom(30_000_000)
    url = storage.on("/c/a", file(data, drop_after=4_000_000, ETag='"1"'))
    await staging.fetch(url, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == data
    assert len(storage.requests) > 6


@pytest.fixture
async def splitting() -> AsyncIterator[HttpStaging]:
    """For it a megabyte is big."""
    split = Split(big=1_000_000, part=700_000, connections=3)
    staging = HttpStaging(retries=Retries(attempts=6, backoff_s=0.001), silence_s=0.3, downloads=split, uploads=split)
    yield staging
    await staging.close()


@pytest.mark.parametrize("size", [1_000_000, 9_999_999])
async def test_fetch_over_several_connections(
    storage: Storage, splitting: HttpStaging, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    url = storage.on("/c/a", file(data, ETag='"1"'))
    assert await splitting.fetch(url, str(tmp_path / "a")) == Fetched(size, '"1"')
    assert (tmp_path / "a").read_bytes() == data
    assert os.listdir(tmp_path) == ["a"]
    assert {one.headers.get("If-Range") for one in storage.requests} == {None, '"1"'}


async def test_each_connection_tries_again(storage: Storage, splitting: HttpStaging, tmp_path: Path) -> None:
    data = os.urandom(9_999_999)
    good, short = file(data, ETag='"1"'), file(data, drop_after=300_000, ETag='"1"')
    url = storage.on("/c/a", good, short, status(503), short, refused, short, good)
    await splitting.fetch(url, str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == data


async def test_split_fetch_of_a_file_that_changes_meanwhile(
    storage: Storage, splitting: HttpStaging, tmp_path: Path
) -> None:
    old, new = os.urandom(9_999_999), os.urandom(5_000_000)
    url = storage.on("/c/a", file(old, drop_after=2_000_000, ETag='"1"'), file(new, ETag='"2"'))
    assert await splitting.fetch(url, str(tmp_path / "a")) == Fetched(5_000_000, '"2"')
    assert (tmp_path / "a").read_bytes() == new


async def test_split_fetch_that_fails_leaves_nothing(storage: Storage, splitting: HttpStaging, tmp_path: Path) -> None:
    data = os.urandom(9_999_999)
    url = storage.on("/c/a", file(data, drop_after=2_000_000, ETag='"1"'), status(403))
    failure = await failure_of(splitting.fetch(url, str(tmp_path / "a")))
    assert failure.code is TaskFailureCode.BLOB_ACCESS_DENIED
    assert os.listdir(tmp_path) == []


async def test_no_descriptor_is_left_open(storage: Storage, splitting: HttpStaging, tmp_path: Path) -> None:
    data = os.urandom(2_000_000)

    async def once() -> None:
        for answer in (file(data, ETag='"1"'), status(404), broken, file(data, drop_after=1_500_000)):
            with contextlib.suppress(TaskFailure):
                await splitting.fetch(storage.on("/c/a", answer), str(tmp_path / "a"))

    def files() -> list[str]:
        links = []
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{number}"))
        return [link for link in links if link.startswith(str(tmp_path))]

    await once()
    assert files() == []
    assert os.listdir(tmp_path) == ["a"]


async def test_the_server_says_when_to_come_again(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    busy = status(503, **{"Retry-After": "1"})
    begun = time.monotonic()
    await staging.fetch(storage.on("/c/a", busy, body(b"x")), str(tmp_path / "a"))
    # Its own pause would be a millisecond.
    assert time.monotonic() - begun >= 1


# --- put ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 2_000_000])
async def test_put(storage: Storage, staging: HttpStaging, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "a").write_bytes(data)
    storage.on("/c/dir/é b%?.txt", status(201))
    await staging.put(
        str(tmp_path / "a"),
        f"{storage.url}/c?{SIGNATURE}",
        "dir/é b%?.txt",
        {"content-type": "text/plain", "x-ms-meta-Run": "7"},
    )
    ((method, path, headers, sent),) = storage.requests
    assert (method, path) == ("PUT", f"/c/dir/%C3%A9%20b%25%3F.txt?{SIGNATURE}")
    assert sent == data
    assert headers["x-ms-blob-type"] == "BlockBlob"
    assert headers["Content-Length"] == str(size)
    assert [value for name, value in headers.items() if name.lower() == "content-type"] == ["text/plain"]
    assert headers["x-ms-meta-Run"] == "7"
    assert "Transfer-Encoding" not in headers


async def test_put_tries_again_from_the_start(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    storage.on("/c/a", refused, status(503), status(201))
    await staging.put(str(tmp_path / "a"), f"{storage.url}/c", "a", {})
    assert [sent for *_, sent in storage.requests] == [b"abc" * 100_000] * 3


@pytest.mark.parametrize(
    ("answer", "code", "tries"),
    [
        (status(404), TaskFailureCode.FILE_UPLOAD_CONTAINER_NOT_FOUND, 1),
        (status(403), TaskFailureCode.FILE_UPLOAD_ACCESS_DENIED, 1),
        (status(409), TaskFailureCode.FILE_UPLOAD_CONFLICT, 1),
        (status(412), TaskFailureCode.FILE_UPLOAD_CONFLICT, 1),
        (status(413), TaskFailureCode.FILE_UPLOAD_MISC_ERROR, 1),
        (status(500), TaskFailureCode.FILE_UPLOAD_MISC_ERROR, 3),
        (silent, TaskFailureCode.FILE_UPLOAD_TIMED_OUT, 3),
    ],
)
async def test_put_fails(
    storage: Storage, staging: HttpStaging, tmp_path: Path, answer: Answer, code: TaskFailureCode, tries: int
) -> None:
    (tmp_path / "a").write_text("a")
    storage.on("/c/a", answer)
    failure = await failure_of(staging.put(str(tmp_path / "a"), f"{storage.url}/c?{SIGNATURE}", "a", {}))
    assert failure.code is code
    assert len(storage.requests) == tries


async def test_put_what_is_not_there(storage: Storage, staging: HttpStaging, tmp_path: Path) -> None:
    failure = await failure_of(staging.put(str(tmp_path / "a"), f"{storage.url}/c", "a", {}))
    assert failure.code is TaskFailureCode.FILE_UPLOAD_MISC_ERROR
    assert storage.requests == []


async def test_put_in_blocks(storage: Storage, splitting: HttpStaging, tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    url = storage.on("/c/a", status(503), status(201))
    headers = {"Content-Type": "text/plain", "Cache-Control": "no-store", "x-ms-meta-Run": "7", "x-ms-lease-id": "L"}
    await splitting.put(str(tmp_path / "a"), url.replace("/c/a", "/c"), "a", headers)
    blocks: dict[str, bytes] = {}
    for one in storage.requests[:-1]:
        query = parse_qs(one.path.partition("?")[2])
        assert (query["comp"], query["sig"], one.headers["x-ms-lease-id"]) == (["block"], ["a+b/c="], "L")
        assert "x-ms-meta-Run" not in one.headers
        blocks[query["blockid"][0]] = one.body
    last = storage.requests[-1]
    assert parse_qs(last.path.partition("?")[2])["comp"] == ["blocklist"]
    listed = re.findall("<Latest>(.*?)</Latest>", last.body.decode())
    assert b"".join(blocks[block] for block in listed) == data
    assert len({len(block) for block in listed}) == 1
    assert last.headers["x-ms-blob-content-type"] == "text/plain"
    assert last.headers["x-ms-blob-cache-control"] == "no-store"
    assert (last.headers["x-ms-meta-Run"], last.headers["x-ms-lease-id"]) == ("7", "L")


async def test_put_in_blocks_fails_as_one(storage: Storage, splitting: HttpStaging, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3_000_000))
    url = storage.on("/c/a", status(201), status(403))
    failure = await failure_of(splitting.put(str(tmp_path / "a"), url.replace("/c/a", "/c"), "a", {}))
    assert failure.code is TaskFailureCode.FILE_UPLOAD_ACCESS_DENIED
    assert not [one for one in storage.requests if "blocklist" in one.path]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "SharedKey x"),
        ("Content-Length", "1"),
        ("x-ms-version", "2021-08-06"),
        ("X-Custom", "x"),
        ("x-ms-blob-type", "AppendBlob"),
        ("x-ms-meta-no-dash", "x"),
        ("Content-Type", "text/plain\r\nx-ms-meta-a: b"),
        ("x-ms-meta-a", "ä"),
    ],
)
async def test_put_with_a_header_that_cannot_be(
    storage: Storage, staging: HttpStaging, tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "a").write_text("a")
    failure = await failure_of(staging.put(str(tmp_path / "a"), f"{storage.url}/c", "a", {name: value}))
    assert (failure.code, failure.details["Header"]) == (TaskFailureCode.FILE_UPLOAD_MISC_ERROR, name)
    assert storage.requests == []


# --- list -----------------------------------------------------------------------------------------------------------


async def test_list_of_auto_storage(storage: Storage, staging: HttpStaging) -> None:
    first = {"blobs": [{"name": "in/a", "size": 3, "etag": '"0x1"'}, {"name": "out/b", "size": 1}], "next": "in/b c"}
    second = {"blobs": [{"name": "in/b c", "size": 0}], "next": None}
    url = storage.on("/c", body(json.dumps(first).encode()), body(json.dumps(second).encode()))
    # What does not begin with the prefix was not asked for.
    assert await staging.list(url, "in/") == [RemoteFile("in/a", 3, '"0x1"'), RemoteFile("in/b c", 0)]
    queries = [parse_qs(path.partition("?")[2], keep_blank_values=True) for _, path, *_ in storage.requests]
    assert [(query["comp"], query["prefix"], query["marker"], query["sig"]) for query in queries] == [
        (["list"], ["in/"], [""], ["a+b/c="]),
        (["list"], ["in/"], ["in/b c"], ["a+b/c="]),
    ]
    assert all(path.startswith(f"/c?{SIGNATURE}&") for _, path, *_ in storage.requests)


async def test_list_of_azure(storage: Storage, staging: HttpStaging) -> None:
    url = storage.on("/c", body(XML.format(marker="2").encode()), body(XML.format(marker="").encode()))
    page = [RemoteFile("x/é & b.txt", 12), RemoteFile("x/empty", 0)]
    assert await staging.list(url, "x/") == page * 2
    assert "restype=container" in storage.requests[0][1]


@pytest.mark.parametrize(
    ("answer", "code", "tries"),
    [
        (status(404), TaskFailureCode.RESOURCE_CONTAINER_NOT_FOUND, 1),
        (status(403), TaskFailureCode.RESOURCE_CONTAINER_ACCESS_DENIED, 1),
        (status(500), TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR, 3),
        (silent, TaskFailureCode.RESOURCE_CONTAINER_LIST_TIMED_OUT, 3),
        (body(b""), TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR, 1),
        (body(b"<html><body>Sign in</body></html>"), TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR, 1),
        (body(b"<Enum"), TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR, 1),
        (body(b'{"blobs": [{"size": 1}]}'), TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR, 1),
        (
            body(b'<!DOCTYPE x [<!ENTITY a "aaaa">]><EnumerationResults>&a;</EnumerationResults>'),
            TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR,
            1,
        ),
    ],
)
async def test_list_fails(
    storage: Storage, staging: HttpStaging, answer: Answer, code: TaskFailureCode, tries: int
) -> None:
    failure = await failure_of(staging.list(storage.on("/c", answer), ""))
    assert failure.code is code
    assert len(storage.requests) == tries


# --- URLs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "name", "url"),
    [
        ("https://h/c?sig=a%2Bb", "x/y z.txt", "https://h/c/x/y%20z.txt?sig=a%2Bb"),
        ("https://h:8080/storage/c/", "é?#%", "https://h:8080/storage/c/%C3%A9%3F%23%25"),
        ("http://h/c", "/a", "http://h/c/a"),
    ],
)
async def test_file_url(staging: HttpStaging, container: str, name: str, url: str) -> None:
    assert staging.file_url(container, name) == url


def test_what_is_shown_of_a_url() -> None:
    assert without_authority("https://user:secret@host:1/c/a?sig=x#y") == "https://host:1/c/a"
    assert without_authority("http://[broken") == "(not a URL)"
