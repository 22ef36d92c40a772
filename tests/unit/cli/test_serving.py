"""The server: its socket, its errors, its end."""

import asyncio

import aiohttp
import pytest

from millpond.config import ServerConfig
from millpond.serving import HttpServer, ListenError, listen, url_of


def test_a_used_port_is_one_clear_line() -> None:
    with listen(ServerConfig(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            listen(ServerConfig(port=port))
    assert str(caught.value) == f"port {port} on 127.0.0.1 is in use; choose another with --port (0 takes a free one)"


def test_an_address_of_elsewhere_is_refused() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on port 0 on 192\.0\.2\.1 .* --host"):
        listen(ServerConfig(host="192.0.2.1", port=0))
    with pytest.raises(ListenError, match=r"is not an address of this machine; .* --host"):
        listen(ServerConfig(host="no..such..host", port=0))


def test_the_url_names_a_host_that_can_be_reached() -> None:
    with listen(ServerConfig(host="0.0.0.0", port=0)) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_it_answers_until_it_is_stopped_and_lets_answers_end() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def application(scope, receive, send):
        if scope["path"] == "/slow":
            entered.set()
            await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = listen(ServerConfig(port=0))
    url = url_of(listener)
    server = HttpServer(application, listener)
    await server.start()
    async with aiohttp.ClientSession() as session:
        async with session.get(url + "/") as answer:
            assert await answer.text() == "ok"
        slow = asyncio.create_task(session.get(url + "/slow"))
        await entered.wait()
        stopping = asyncio.create_task(server.stop())
        release.set()
        async with await slow as answer:
            assert await answer.text() == "ok"
        await stopping
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url + "/")


async def test_headers_are_spelled_as_azure_spells_them() -> None:
    async def application(scope, receive, send):
        headers = [(b"etag", b"0x1"), (b"request-id", b"r"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = listen(ServerConfig(port=0))
    server = HttpServer(application, listener)
    await server.start()
    reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    await server.stop()
    head, _, body = answer.partition("\r\n\r\n")
    names = [line.partition(":")[0] for line in head.splitlines()[1:]]
    assert [name for name in names if name not in ("date", "connection")] == ["ETag", "request-id", "Content-Length"]
    assert body == "ok"


async def test_what_is_written_at_once_goes_out_before_what_comes_later() -> None:
    seen, parts = asyncio.Event(), [bytes([65 + number % 26]) * (number * 977 % 90_000) for number in range(80)]

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/live":
            await seen.wait()
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    listener = listen(ServerConfig(port=0))
    url = url_of(listener)
    server = HttpServer(application, listener)
    await server.start()
    async with aiohttp.ClientSession() as session:
        async with session.get(url + "/live") as answer:  # the head, while the body is yet to come
            seen.set()
            assert await answer.read() == b"first" + b"".join(parts)
        async with session.get(url + "/", headers={"Connection": "close"}) as answer:
            assert await answer.read() == b"".join(parts)
    await server.stop()
