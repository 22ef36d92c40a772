"""The node's calls over real HTTP, against a small server."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web

from millpond.agent.http_transport import EndpointFile, HttpHost, HttpTransport, open_session
from millpond.agent.listening import TransportError
from millpond.protocol.messages import (
    CONTENT_TYPE,
    FILE_REPLY_HEADER,
    FILE_REPLY_PATH,
    HELLO_PATH,
    LAUNCH_REPLY_PATH,
    LISTEN_PATH,
    NODE_HEADER,
    SYNCS_PATH,
    FileEntry,
    FileReply,
    Hello,
    LaunchReply,
    Listen,
    Listening,
    News,
    NodeMetrics,
    NodeNews,
    NodeReply,
    Sync,
    SyncReplies,
    SyncReply,
    Syncs,
    Welcome,
)
from tests.unit.agent.fakes import start
from tests.waiting import until_true

WELCOME = Welcome("s", "p", "a", "http://a", True, 2, 30.0)
HELLO = Hello("n1", 1, "0", 1.0, "127.0.0.1")


class Service:
    """Answers as told and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.junk = False
        self.seen: list[tuple[str, bytes]] = []
        self.heads: list[FileReply] = []
        self.listens: list[Listen] = []
        self.runner: web.AppRunner | None = None

    async def begin(self) -> str:
        app = web.Application()
        app.router.add_post(HELLO_PATH, self.hello)
        app.router.add_post(LISTEN_PATH, self.listen)
        app.router.add_post(SYNCS_PATH, self.syncs)
        app.router.add_post(FILE_REPLY_PATH + "{id}", self.file_reply)
        app.router.add_post(LAUNCH_REPLY_PATH + "{id}", self.launch_reply)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def end(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def take(self, request: web.Request) -> bytes:
        assert request.headers[NODE_HEADER] == "n1"
        assert request.headers["Authorization"] == "Bearer secret"
        body = await request.read()
        self.seen.append((request.path, body))
        return body

    def answer(self, message: object) -> web.Response:
        body = b"junk" if self.junk else msgspec.msgpack.encode(message)
        return web.Response(status=self.status, body=body, content_type=CONTENT_TYPE)

    async def hello(self, request: web.Request) -> web.Response:
        assert request.content_type == CONTENT_TYPE
        assert msgspec.msgpack.decode(await self.take(request), type=Hello) == HELLO
        return self.answer(WELCOME)

    async def listen(self, request: web.Request) -> web.Response:
        call = msgspec.msgpack.decode(await request.read(), type=Listen)
        self.listens.append(call)
        if not call.nodes:
            await asyncio.Event().wait()
        told = (SyncReply(node.session, directives=(start(4, 1),)) for node in call.nodes)
        return self.answer(News(tuple(NodeNews(node.place, one) for node, one in zip(call.nodes, told, strict=True))))

    async def syncs(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.seen.append((request.path, body))
        syncs = msgspec.msgpack.decode(body, type=Syncs).syncs
        assert {one.token for one in syncs} == {"secret"}
        return self.answer(SyncReplies(tuple(NodeReply(SyncReply(one.sync.session, acknowledged=1)) for one in syncs)))

    async def file_reply(self, request: web.Request) -> web.Response:
        head = request.headers.get(FILE_REPLY_HEADER)
        packed = await self.take(request) if head is None else base64.urlsafe_b64decode(head)
        self.heads.append(msgspec.msgpack.decode(packed, type=FileReply))
        if head is not None:
            await self.take(request)
        return web.Response(status=self.status)

    async def launch_reply(self, request: web.Request) -> web.Response:
        await self.take(request)
        return web.Response(status=self.status)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    yield service
    await service.end()


class Hears:
    """A node that takes in what it is told."""

    def __init__(self) -> None:
        self.heard: list[SyncReply] = []
        self.why = ""

    def hear(self, reply: SyncReply) -> None:
        self.heard.append(reply)

    def refused(self, why: str) -> None:
        self.why = why

    def seen(self) -> int:
        return max((one.revision for reply in self.heard for one in reply.directives), default=0)


def transport_of(session: aiohttp.ClientSession, path: Path) -> HttpTransport:
    return HttpTransport(HttpHost(session, EndpointFile(str(path))), node_id="n1", token="secret")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


async def test_calls_and_answers(service: Service, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    (tmp_path / "endpoint").write_text(await service.begin() + "/\n")
    transport = transport_of(session, tmp_path / "endpoint")
    assert await transport.hello(HELLO) == WELCOME
    assert await transport.sync(Sync("n1", "s9", 0)) == SyncReply(session="s9", acknowledged=1)
    entry = FileEntry("ä/b", False, 3, 1.5, 0o644)

    async def body() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    await transport.send_file_reply("r1", FileReply(entries=(entry,)), body())
    await transport.send_file_reply("r2", FileReply(error="FileNotFound"), None)
    assert service.heads == [FileReply(entries=(entry,)), FileReply(error="FileNotFound")]
    whole = msgspec.msgpack.encode(FileReply(error="FileNotFound"))
    assert service.seen[-2:] == [(f"{FILE_REPLY_PATH}r1", b"abc"), (f"{FILE_REPLY_PATH}r2", whole)]
    await transport.send_launch_reply("r3", LaunchReply(exit_code=1))
    assert service.seen[-1] == (f"{LAUNCH_REPLY_PATH}r3", msgspec.msgpack.encode(LaunchReply(exit_code=1)))


async def test_reports_of_several_nodes_go_in_one_call(
    service: Service, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    endpoint = EndpointFile(str(tmp_path / "endpoint"))
    (tmp_path / "endpoint").write_text(await service.begin())
    host = HttpHost(session, endpoint)
    first, second = (HttpTransport(host, node_id=node_id, token="secret") for node_id in ("n1", "n2"))
    syncs = [Sync("n1", "s1", 0), Sync("n2", "s2", 0)]
    answers = await asyncio.gather(first.sync(syncs[0]), second.sync(syncs[1]))
    assert answers == [SyncReply("s1", acknowledged=1), SyncReply("s2", acknowledged=1)]
    assert [path for path, _ in service.seen] == [SYNCS_PATH]
    service.status = 503
    answers = await asyncio.gather(first.sync(syncs[0]), second.sync(syncs[1]), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TransportError, TransportError]
    await host.close()


async def test_one_call_listens_for_several_nodes(
    service: Service, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "endpoint").write_text(await service.begin())
    host = HttpHost(session, EndpointFile(str(tmp_path / "endpoint")))
    host.tell(NodeMetrics(cpu=0.5))
    nodes = [Hears(), Hears()]
    for number, node in enumerate(nodes, 1):
        HttpTransport(host, node_id=f"n{number}", token="secret").listen(f"s{number}", 30.0, node)
    await until_true(lambda: len(service.listens) > 1 and host.last_heard is not None)
    assert [node.heard for node in nodes] == [[SyncReply(f"s{n}", directives=(start(4, 1),))] for n in (1, 2)]
    first, second = service.listens
    assert first.nodes == tuple(Listening(n, f"n{n}", "secret", f"s{n}", 0) for n in (1, 2))
    assert (first.begins, first.metrics) == (True, NodeMetrics(cpu=0.5))
    assert second == Listen(first.id, 2, seen=((1, 4), (2, 4)))
    await host.close()


@pytest.mark.parametrize("status", [401, 404, 500, 503])
async def test_anything_but_success_is_no_answer(
    service: Service, session: aiohttp.ClientSession, tmp_path: Path, status: int
) -> None:
    (tmp_path / "endpoint").write_text(await service.begin())
    transport = transport_of(session, tmp_path / "endpoint")
    service.status = status
    with pytest.raises(TransportError, match=str(status)):
        await transport.hello(HELLO)
    with pytest.raises(TransportError, match=str(status)):
        await transport.send_file_reply("r1", FileReply(), None)
    with pytest.raises(TransportError, match=str(status)):
        await transport.send_launch_reply("r1", LaunchReply())


async def test_junk_is_no_answer(service: Service, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    (tmp_path / "endpoint").write_text(await service.begin())
    transport = transport_of(session, tmp_path / "endpoint")
    service.junk = True
    with pytest.raises(TransportError):
        await transport.sync(Sync("n1", "s", 0))


async def test_the_endpoint_is_read_again_after_a_failure(
    service: Service, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "endpoint"
    transport = transport_of(session, path)
    with pytest.raises(TransportError, match="no endpoint"):
        await transport.hello(HELLO)
    path.write_text(await service.begin())
    assert await transport.hello(HELLO) == WELCOME
    await service.end()
    with pytest.raises(TransportError):
        await transport.hello(HELLO)
    path.write_text(await service.begin())
    assert await transport.hello(HELLO) == WELCOME
