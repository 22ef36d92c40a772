"""What staging does, against a real server on the loopback interface."""

import asyncio
import gzip
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import Fetched, RemoteFile
from millpond.staging.http import HttpStaging, without_authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SIGNATURE = "sv=2021&sig=a%2Bb%2Fc%3D&se=2030-01-01T00%3A00%3A00Z"
XML = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ContainerName="c"><Blobs>
<Blob><Name>x/é &amp; b.txt</Name><Properties><Content-Length>12</Content-Length></Properties></Blob>
<Blob><Name>x/empty</Name><Properties/></Blob>
</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"""


class Storage:
    """A storage server whose answers are scripted: the last one of a path goes on for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        """(method, path and query as sent, headers, body)"""
        self.answers: dict[str, list[Handler]] = {}
        self.url = ""

    def on(self, path: str, *answers: Handler) -> str:
        self.answers[path] = list(answers)
        return f"{self.url}{path}?{SIGNATURE}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, dict(request.headers), body))
        answers = self.answers.get(request.path)
        if not answers:
            return web.Response(status=404)
        return await (answers.pop(0) if len(answers) > 1 else answers[0])(request)


def status(code: int, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text="said the server", headers=headers)

    return answer


def body(data: bytes, **headers: str) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data, headers=headers)

    return answer


async def broken(request: web.Request) -> web.StreamResponse:
    """Promises more than it sends, and hangs up."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(b"x" * 1000)
    assert request.transport is not None
    request.transport.close()
    return response


async def refused(request: web.Request) -> web.StreamResponse:
    """Hangs up without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(600)
    return web.Response()


async def stalling(request: web.Request) -> web.StreamResponse:
    """Begins, and then sends nothing more."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(b"x" * 1000)
    await asyncio.sleep(600)
    return response


async def slow(request: web.Request) -> web.StreamResponse:
    """Takes longer than silence is borne, but is never silent that long."""
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(8):
        await response.write(b"%d" % number)
        await asyncio.sleep(0.1)
    return response


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", storage.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    storage.url = f"http://127.0.0.1:{port}"
    yield storage
    await runner.cleanup()


@pytest.fixture
async def staging() -> AsyncIterator[HttpStaging]:
    staging = HttpStaging(backoff_s=0.001, silence_s=0.3)
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
async def test_fetch_tries_again(storage: Storage, staging: HttpStaging, tmp_path: Path, trouble: Handler) -> None:
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
    storage: Storage, staging: HttpStaging, tmp_path: Path, answer: Handler, code: TaskFailureCode, tries: int
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
    task = asyncio.ensure_future(staging.fetch(storage.on("/c/a", slow), str(tmp_path / "a")))
    deadline = time.monotonic() + 20
    while not os.listdir(tmp_path):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(tmp_path) == []


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
    storage: Storage, staging: HttpStaging, tmp_path: Path, answer: Handler, code: TaskFailureCode, tries: int
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
        (silent, TaskFailureCode.RESOURCE_CONTAINER_LIST_MISC_ERROR, 3),
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
    storage: Storage, staging: HttpStaging, answer: Handler, code: TaskFailureCode, tries: int
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
