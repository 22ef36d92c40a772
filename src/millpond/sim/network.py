"""The network between nodes, users and the control plane: slow, lossy, doubling, reordering, parted.

Agent messages are encoded at one end and decoded at the other. A request may arrive and its answer be lost; a request
doubled is handled twice.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Protocol

import msgspec

from millpond.agent.listening import HostListening, Listens, TransportError
from millpond.protocol.messages import FileReply, Hello, LaunchReply, Listen, News, Sync, SyncReply, Welcome
from millpond.sim.loop import Process, VirtualLoop
from millpond.sim.story import Story

_encoder = msgspec.msgpack.Encoder()
_welcome_decoder = msgspec.msgpack.Decoder(Welcome)
_news_decoder = msgspec.msgpack.Decoder(News)
_reply_decoder = msgspec.msgpack.Decoder(SyncReply)


class Server(Protocol):
    """The control plane's end."""

    @property
    def process(self) -> Process: ...

    async def serve(self, node_id: str, path: str, body: bytes) -> bytes:
        """Handle one call of a node's agent. What it raises becomes an error at the caller."""
        ...


class _Open:
    """A request that has arrived and is not answered yet."""

    __slots__ = ("broken", "node_id")

    def __init__(self, node_id: str, broken: Callable[[], None]) -> None:
        self.node_id = node_id
        self.broken = broken


class Network:
    """See the module. The rates are chances per message."""

    def __init__(self, loop: VirtualLoop, random: Random, story: Story) -> None:
        self._loop = loop
        self._random = random
        self._story = story
        self.server: Server | None = None
        self.latency_s = 0.002
        self.lost = 0.0
        self.doubled = 0.0
        self.late = 0.0
        self.late_s = 20.0
        self.parted: set[str] = set()
        """Nodes that reach nobody and are reached by nobody."""
        self.delivered = 0
        self._open: dict[int, _Open] = {}
        self._next = 0

    def delay(self) -> float:
        delay_s = self.latency_s * self._random.uniform(0.2, 1.8)
        if self.late and self._random.random() < self.late:
            delay_s += self._random.uniform(0.0, self.late_s)
        return delay_s

    def loses(self) -> bool:
        return self.lost > 0 and self._random.random() < self.lost

    def heal(self) -> None:
        self.lost = self.doubled = self.late = 0.0
        self.parted.clear()

    def control_died(self) -> None:
        """The connections of all open requests break; some callers are told."""
        broken = list(self._open.values())
        self._open.clear()
        for request in broken:
            if request.node_id not in self.parted and self._random.random() < 0.8:
                self._loop.in_world(self.delay(), request.broken)

    async def call(self, node_id: str, path: str, body: bytes) -> bytes:
        """One call of a node's agent. Raises TransportError; may never return."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def fail(why: str) -> None:
            if not answer.done():
                answer.set_exception(TransportError(why))

        def succeed(reply: bytes) -> None:
            if node_id in self.parted:
                return
            self.delivered += 1
            if not answer.done():
                answer.set_result(reply)

        def arrive() -> None:
            server = self.server
            if node_id in self.parted:
                return
            if server is None or not server.process.alive:
                self._loop.in_world(self.delay(), fail, "connection refused")
                return
            self.delivered += 1
            self._next += 1
            number = self._next
            self._open[number] = _Open(node_id, lambda: fail("connection reset"))
            server.process.spawn(handle(server, number), name="request")

        async def handle(server: Server, number: int) -> None:
            outcome: Callable[[], None]
            try:
                reply = await server.serve(node_id, path, body)
            except Exception as error:
                text = str(error)

                def outcome() -> None:
                    fail(text)
            else:

                def outcome() -> None:
                    succeed(reply)

            self._open.pop(number, None)
            if not self.loses():
                self._loop.in_world(self.delay(), outcome)

        copies = 2 if self.doubled and self._random.random() < self.doubled else 1
        for _ in range(copies):
            if not self.loses():
                self._loop.in_world(self.delay(), arrive)
        try:
            return await answer
        finally:
            answer.cancel()


class SimTransport:
    """`agent.link.Transport` of one node, which is alone on its host. One for each life of its agent."""

    def __init__(self, network: Network, node_id: str, random: Random) -> None:
        self._network = network
        self._node_id = node_id
        self._listening = HostListening(self._listen, host_id=f"{random.getrandbits(128):x}", chance=random.random)

    async def hello(self, hello: Hello) -> Welcome:
        return _welcome_decoder.decode(await self._network.call(self._node_id, "hello", _encoder.encode(hello)))

    async def sync(self, sync: Sync) -> SyncReply:
        return _reply_decoder.decode(await self._network.call(self._node_id, "sync", _encoder.encode(sync)))

    def listen(self, session: str, park_s: float, node: Listens) -> Callable[[], None]:
        place = self._listening.join(self._node_id, "", session, park_s, node)
        return lambda: self._listening.leave(place)

    async def close(self) -> None:
        await self._listening.close()

    async def _listen(self, call: Listen) -> News:
        return _news_decoder.decode(await self._network.call(self._node_id, "listen", _encoder.encode(call)))

    async def send_file_reply(self, request_id: str, reply: FileReply, body: AsyncIterator[bytes] | None) -> None:
        raise TransportError("no files are asked for in the simulation")

    async def send_launch_reply(self, request_id: str, reply: LaunchReply) -> None:
        raise TransportError("no commands are launched in the simulation")
