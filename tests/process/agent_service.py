"""The service as agents see it, in the test's own process: a `FakeControl` for each node, over real HTTP."""

from collections import defaultdict

import msgspec
from aiohttp import web

from millpond.agent.link import TransportError
from millpond.protocol.messages import HELLO_PATH, NODE_HEADER, SYNC_PATH, Hello, Sync
from tests.unit.agent.fakes import FakeControl


class AgentService:
    def __init__(self) -> None:
        self.nodes: defaultdict[str, FakeControl] = defaultdict(FakeControl)
        self._runner: web.AppRunner | None = None

    async def begin(self) -> str:
        """Serve on a free port; the URL."""
        app = web.Application()
        app.router.add_post(HELLO_PATH, self._hello)
        app.router.add_post(SYNC_PATH, self._sync)
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

    async def _sync(self, request: web.Request) -> web.Response:
        sync = msgspec.msgpack.decode(await request.read(), type=Sync)
        try:
            return self._answer(await self.nodes[sync.node_id].sync(sync))
        except TransportError as error:
            return web.Response(status=503, text=str(error))

    def _answer(self, message: object) -> web.Response:
        return web.Response(body=msgspec.msgpack.encode(message))
