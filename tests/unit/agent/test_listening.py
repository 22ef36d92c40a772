"""One call for all nodes of a host: what is told arrives, whatever becomes of calls and answers."""

import asyncio
from random import Random

import pytest

from millpond.agent.listening import HostListening, TransportError
from millpond.control.engine import Engine
from millpond.control.listening import Listener, NodeLink
from millpond.protocol.messages import Directive, Listen, News, NodeNews, Stop, SyncReply
from millpond.sim.loop import VirtualLoop

RESEND_S = 1.0
PARK_S = 5.0


class Service:
    """The true listener over a network that loses, doubles and delays; it is restarted now and then."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lossy = True
        self.links: dict[str, NodeLink] = {}
        self.hosts: dict[str, Listener] = {}
        self.calls = 0

    def link(self, node_id: str, engine: Engine) -> NodeLink:
        link = self.links[node_id] = NodeLink(node_id, engine, 0.0)
        link.session = f"{node_id} 1"
        return link

    async def send(self, call: Listen) -> News:
        self.calls += 1
        answers = [asyncio.create_task(self._carry(call)) for _ in range(2 if self._happens(0.1) else 1)]
        for answer in answers:
            answer.add_done_callback(lambda it: it.cancelled() or it.exception())  # of the other nobody hears
        done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        return min(done, key=answers.index).result()

    def _happens(self, chance: float) -> bool:
        return self.lossy and self.random.random() < chance

    async def _pass(self) -> None:
        await asyncio.sleep(self.random.uniform(0.0, 3.0) if self._happens(0.2) else 0.001)
        if self._happens(0.15):
            if self._happens(0.5):
                await asyncio.sleep(1e6)
            raise TransportError("lost")

    async def _carry(self, call: Listen) -> News:
        await self._pass()
        news = await self._answer(call)
        await self._pass()
        return news

    async def _answer(self, call: Listen) -> News:
        """As `control.nodes` does it."""
        if self._happens(0.03):
            for listener in self.hosts.values():
                listener.drop_all()
            self.hosts.clear()
        if call.id not in self.hosts and not call.begins:
            return News(unknown=True)
        listener = self.hosts.setdefault(call.id, Listener(RESEND_S))
        if call.number <= listener.number:
            return News(overtaken=True)
        listener.heard(call.number)
        listener.leave(call.left)
        listener.seen(call.seen)
        unknown: list[NodeNews] = []
        for node in call.nodes:
            link = self.links[node.node_id]
            if node.session != link.session:
                unknown.append(NodeNews(node.place, SyncReply(node.session, session_unknown=True)))
                continue
            link.outbox.seen(node.seen)
            listener.add(node.place, link, node.session)
        if not unknown:
            await listener.wait(PARK_S)
        return News((*unknown, *listener.collect())) if call.number == listener.number else News()


class Node:
    """Takes directives in order of revision, once; goes on in a new session when its own is unknown."""

    def __init__(self, host: HostListening, link: NodeLink) -> None:
        self.host = host
        self.link = link
        self.revision = 0
        self.taken: list[int] = []
        self.begin()

    def begin(self) -> None:
        self.session = self.link.session
        self.revision = 0
        self.place = self.host.join(self.link.node_id, "", self.session, PARK_S, self)

    def hear(self, reply: SyncReply) -> None:
        if reply.session != self.session:
            return
        if reply.session_unknown:
            self.host.leave(self.place)
            asyncio.get_running_loop().call_later(0.1, self.begin)
            return
        for directive in reply.directives:
            self._take(directive)

    def _take(self, directive: Directive) -> None:
        if directive.revision > self.revision and isinstance(directive, Stop):
            assert directive.revision == self.revision + 1, "one was left out"
            self.revision = directive.revision
            self.taken.append(directive.key)

    def refused(self, why: str) -> None:
        raise AssertionError(why)

    def seen(self) -> int:
        return self.revision


@pytest.mark.parametrize("seed", range(12))
def test_everything_arrives_once_over_a_network_that_does_what_it_wants(seed: int, engine: Engine) -> None:
    loop = VirtualLoop()
    random = Random(seed)

    async def run() -> None:
        service = Service(random)
        host = HostListening(service.send, host_id="host", chance=random.random)
        links = [service.link(f"n{number}", engine) for number in range(9)]
        nodes = [Node(host, link) for link in links[:4]]
        told: dict[str, list[int]] = {link.node_id: [] for link in links}
        """Since the node's session began."""
        for turn in range(200):
            await asyncio.sleep(random.uniform(0.0, 0.5))
            if turn % 40 == 20:
                nodes.append(Node(host, links[len(nodes)]))
            link = random.choice(links[: len(nodes)])
            if random.random() < 0.05:
                # The session ends, with all that waits in it, and another begins.
                link.begin_session(f"{link.node_id} {turn + 2}")
                link.outbox.open()
                told[link.node_id] = []
                continue
            told[link.node_id].append(turn)
            link.outbox.put(Stop(link.outbox.next_revision(), turn, 1))
        service.lossy = False
        await asyncio.sleep(120.0)
        for node in nodes:
            assert node.session == node.link.session
            expected = told[node.link.node_id]
            assert node.taken[len(node.taken) - len(expected) :] == expected
            assert node.revision == len(expected)
            assert not node.link.outbox.has_unseen
        # Nothing happens: a call every while, for all of them.
        calls = service.calls
        await asyncio.sleep(10 * PARK_S)
        assert service.calls <= calls + 11
        await host.close()

    loop.run_until_complete(run())
    loop.close()


@pytest.fixture
def engine() -> Engine:
    """Nobody asks it anything here."""
    return Engine.__new__(Engine)
