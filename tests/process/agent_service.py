"""The service as agents see it, in the test's own process: a `FakeControl` for each node, over real HTTP."""

from collections import defaultdict

import msgspec
from aiohttp import web

from millpond.agent.listening import TransportError
from millpond.protocol.messages import (
    HELLO_PATH,
    LISTEN_PATH,
    NODE_HEADER,
    SYNCS_PATH,
    Hello,
    Listen,
    NodeReply,
    SyncReplies,
    Syncs,
)
from tests.unit.agent.fakes import FakeControl, FakeListener


class AgentService:
    def __init__(self) -> None:
        self._listener = FakeListener(lambda node_id: self.nodes[node_id])
        self.nodes: defaultdict[str, FakeControl] = defaultdict(lambda: FakeControl(self._listener))
        self._runner: web.AppRunner | None = None

    async def begin(self) -> str:
        """Serve on a free port; the URL."""
        app = web.Application()
        app.router.add_post(HELLO_PATH, self._hello)
        app.router.add_post(LISTEN_PATH, self._listen)
        app.router.add_post(SYNCS_PATH, self._syncs)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def end(self) -> None:
        """Gone, without a word; the next `begin` knows no session."""
        for control in self.nodes.values():
            control.forget()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _hello(self, request: web.Request) -> web.Response:
        hello = msgspec.msgpack.decode(await request.read(), type=Hello)
        assert request.headers[NODE_HEADER] == hello.node_id
        return self._answer(await self.nodes[hello.node_id].hello(hello))

    async def _listen(self, request: web.Request) -> web.Response:
        call = msgspec.msgpack.decode(await request.read(), type=Listen)
        try:
            return self._answer(await self._listener.listen(call))
        except TransportError as error:
            return web.Response(status=503, text=str(error))

    async def _syncs(self, request: web.Request) -> web.Response:
        syncs = msgspec.msgpack.decode(await request.read(), type=Syncs).syncs
        try:
            replies = [NodeReply(await self.nodes[one.sync.node_id].sync(one.sync)) for one in syncs]
        except TransportError as error:
            return web.Response(status=503, text=str(error))
        return self._answer(SyncReplies(tuple(replies)))

    def _answer(self, message: object) -> web.Response:
        return web.Response(body=msgspec.msgpack.encode(message))
