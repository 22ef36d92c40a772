"""An HTTP server whose answers a test scripts, faults among them. It runs in a thread: for sync and async tests."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from tests.waiting import PATIENCE_S

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Request(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    """Path and query, as sent."""
    headers: dict[str, str]
    body: bytes


class HttpServer:
    """Answers by path; a path nobody scripted is 404. A context manager: listens within it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """In the order of their arrival, each once its body is there."""
        self.url = ""
        """`http://127.0.0.1:port`"""
        self._answers: dict[str, list[Answer]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-server")
        self._runner: web.AppRunner | None = None

    def on(self, path: str, *answers: Answer, query: str = "") -> str:
        """Script the answers to a path, one for each request, the last for all further ones. The URL of it."""
        self._answers[path] = list(answers)
        return f"{self.url}{path}{'?' if query else ''}{query}"

    def __enter__(self) -> "HttpServer":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(PATIENCE_S)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Request(request.method, request.raw_path, dict(request.headers), body))
        answers = self._answers.get(request.path)
        if not answers:
            return web.Response(status=404)
        return await (answers.pop(0) if len(answers) > 1 else answers[0])(request)


# --- answers --------------------------------------------------------------------------------------------------------


def status(code: int, text: str = "said the server", **headers: str) -> Answer:
    """An answer with a status, such as `status(503, **{"Retry-After": "1"})`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=text, headers=headers)

    return answer


def body(data: bytes, **headers: str) -> Answer:
    """All of the bytes, whatever range was asked for."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data, headers=headers)

    return answer


def file(data: bytes, *, drop_after: int | None = None, **headers: str) -> Answer:
    """The bytes as a file server gives them: ranges, If-Range, If-None-Match (by the ETag among the headers), HEAD.

    `drop_after` n: the connection is closed when n bytes of the answer's body are sent.
    """
    etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")

    async def answer(request: web.Request) -> web.StreamResponse:
        if etag and request.headers.get("If-None-Match", "") in (etag, "*"):
            return web.Response(status=304, headers=headers)
        first, last, code = 0, len(data), 200
        more = {"Accept-Ranges": "bytes", **headers}
        asked, condition = request.headers.get("Range", ""), request.headers.get("If-Range", "")
        if asked and condition in ("", etag, modified):
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end) + 1 if end else len(data), len(data))
            if first >= len(data):
                return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
            code = 206
            more["Content-Range"] = f"bytes {first}-{last - 1}/{len(data)}"
        part = data[first:last]
        response = web.StreamResponse(status=code, headers={**more, "Content-Length": str(len(part))})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        await response.write(part if drop_after is None else part[:drop_after])
        if drop_after is not None and drop_after < len(part):
            hang_up(request)
        return response

    return answer


def hang_up(request: web.Request) -> None:
    """Close the connection, whatever was promised."""
    if request.transport is not None:
        request.transport.close()


async def broken(request: web.Request) -> web.StreamResponse:
    """Promises more than it sends, and hangs up."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(b"x" * 1000)
    hang_up(request)
    return response


async def refused(request: web.Request) -> web.StreamResponse:
    """Hangs up without a word."""
    hang_up(request)
    return web.Response()


async def silent(request: web.Request) -> web.StreamResponse:
    """Says nothing."""
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
    """`01234567` in 0.8 s, a byte at a time."""
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(8):
        await response.write(b"%d" % number)
        await asyncio.sleep(0.1)
    return response
