"""The call that a host has parked for all of its nodes, as the control plane answers it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from millpond.control.listening import Listener, NodeLink
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain.node import Node
from millpond.protocol import messages as m
from millpond.providers.fake import FakeProvider
from millpond.store.memory import MemoryStore
from tests.listening import tell
from tests.unit.control.test_service import SIZES
from tests.unit.scheduler.world import new_pool
from tests.waiting import PATIENCE_S

NODES = 3


class Host:
    """Nodes of a pool in their sessions, and their host. Places are 1, 2, 3."""

    async def begin(self, settings: ControlSettings) -> None:
        store = MemoryStore()
        self.control = ControlService(
            "account", store, FakeProvider(), SIZES, secret=b"s", account_url=lambda: "", settings=settings
        )
        await self.control.start()
        await self.control.add_pool(new_pool(nodes=NODES), "test")
        self.number = 0
        self.links: list[NodeLink] = []
        async with asyncio.timeout(PATIENCE_S):
            nodes = await self._nodes(store)
            while not all(node.handle for node in nodes):
                await asyncio.sleep(0)
                nodes = await self._nodes(store)
        for node in nodes:
            await self.say_hello(node.id)
            link = self.control.agents.get(node.id)
            assert link is not None
            self.links.append(link)

    async def _nodes(self, store: MemoryStore) -> list[Node]:
        return (await store.list_nodes("pool", None, NODES, None)).items

    async def say_hello(self, node_id: str) -> None:
        await self.control.agents.hello(m.Hello(node_id, m.PROTOCOL_VERSION, "1", 1.0, "127.0.0.1"))

    def entry(self, place: int) -> m.Listening:
        link = self.links[place - 1]
        return m.Listening(place, link.node_id, "", link.session, 0)

    async def listen_for_all(self) -> m.News:
        """Answered at once."""
        self.number += 1
        entries = tuple(self.entry(place) for place in range(1, NODES + 1))
        return await self.control.agents.listen(m.Listen("host", self.number, True, entries), park=False)

    def call(self, *seen: tuple[int, int], left: tuple[int, ...] = ()) -> "asyncio.Task[m.News]":
        self.number += 1
        return asyncio.create_task(self.control.agents.listen(m.Listen("host", self.number, left=left, seen=seen)))

    async def parked(self) -> "asyncio.Task[m.News]":
        call = self.call()
        await asyncio.sleep(0)
        assert not call.done()
        return call

    def tell(self, place: int, key: int) -> None:
        outbox = self.links[place - 1].outbox
        outbox.put(m.Stop(outbox.next_revision(), key, 1))

    def listener(self) -> Listener:
        ear = self.links[0].ear
        assert ear is not None
        return ear.listener


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    await host.begin(ControlSettings(park_s=PATIENCE_S, resend_s=PATIENCE_S))
    yield host
    await host.control.stop()


@pytest.fixture
async def impatient() -> AsyncIterator[Host]:
    host = Host()
    await host.begin(ControlSettings(park_s=PATIENCE_S, resend_s=0.02))
    yield host
    await host.control.stop()


async def news(call: "asyncio.Task[m.News]") -> dict[int, list[int]]:
    """Place → keys of what it is told to stop."""
    answer = await asyncio.wait_for(call, PATIENCE_S)
    assert not answer.unknown
    return {
        one.place: [directive.key for directive in one.reply.directives if isinstance(directive, m.Stop)]
        for one in answer.nodes
        if one.reply is not None
    }


async def unknown(call: "asyncio.Task[m.News]") -> list[int]:
    """Places whose sessions are over."""
    answer = await asyncio.wait_for(call, PATIENCE_S)
    return [one.place for one in answer.nodes if one.reply is not None and one.reply.session_unknown]


async def test_one_call_brings_what_there_is_for_all(host: Host) -> None:
    assert await host.listen_for_all() == m.News()
    parked = await host.parked()
    for place, key in ((1, 5), (3, 6), (3, 7)):
        host.tell(place, key)
    assert await news(parked) == {1: [5], 3: [6, 7]}
    again = host.call((3, 1))
    await asyncio.sleep(0)
    assert not again.done(), "what was sent is no news"
    host.tell(3, 8)
    assert await news(again) == {3: [7, 8]}


async def test_what_was_sent_and_not_seen_is_sent_again_after_a_while(impatient: Host) -> None:
    await impatient.listen_for_all()
    for place in (1, 2):
        impatient.tell(place, 1)
    assert await news(impatient.call()) == {1: [1], 2: [1]}
    assert await news(impatient.call((1, 1))) == {2: [1]}
    # The same goes for what went with the answer to a report.
    link = impatient.links[2]
    impatient.tell(3, 1)
    reply = await tell(impatient.control.agents, m.Sync(link.node_id, link.session, 0))
    assert len(reply.directives) == 1
    assert await news(impatient.call((2, 1))) == {3: [1]}


async def test_a_call_has_no_more_to_wait_for_when_the_next_has_come(host: Host) -> None:
    await host.listen_for_all()
    first = await host.parked()
    second = await host.parked()
    assert await first == m.News()
    host.number -= 1
    assert await host.call() == m.News(overtaken=True), "the same call again, or one that was overtaken"
    host.number -= 2
    assert await host.call(left=(1, 2, 3)) == m.News(overtaken=True)
    host.number += 1
    host.tell(1, 1)
    assert await news(second) == {1: [1]}


async def test_a_host_that_is_not_known_is_to_begin(host: Host) -> None:
    answer = await host.call()
    assert answer == m.News(unknown=True)
    host.tell(2, 1)
    assert [one.place for one in (await host.listen_for_all()).nodes] == [2]
    # It has begun again, as its answer was lost: it may have missed anything.
    assert [one.place for one in (await host.listen_for_all()).nodes] == [2]


async def test_a_session_that_ends_is_told_of_until_its_place_is_left(impatient: Host) -> None:
    host = impatient
    await host.listen_for_all()
    parked = await host.parked()
    host.control.agents.give_up(host.links[1].node_id)
    assert await unknown(parked) == [2]
    assert await unknown(host.call()) == [2]
    assert len(host.listener()) == NODES
    await host.parked()
    left = host.call(left=(2,))
    await asyncio.sleep(0)
    assert len(host.listener()) == NODES - 1
    host.tell(1, 1)
    assert await news(left) == {1: [1]}


async def test_a_new_session_is_a_new_place(host: Host) -> None:
    await host.listen_for_all()
    parked = await host.parked()
    await host.say_hello(host.links[0].node_id)
    assert await unknown(parked) == [1]
    host.tell(1, 1)
    entry = m.Listening(4, host.links[0].node_id, "", host.links[0].session, 0)
    host.number += 1
    answer = await host.control.agents.listen(m.Listen("host", host.number, nodes=(entry,), left=(1,)))
    assert [(one.place, len(one.reply.directives)) for one in answer.nodes if one.reply] == [(4, 1)]


async def test_who_cannot_be_listened_for_is_told_at_once(host: Host) -> None:
    false = (m.Listening(8, "tvmps_unknown_d", "", "s", 0), m.Listening(9, host.links[0].node_id, "", "another", 0))
    answer = await host.control.agents.listen(m.Listen("host", 1, True, (*false, host.entry(2))))
    unknown_session = m.SyncReply("another", session_unknown=True)
    assert answer.nodes == (m.NodeNews(8, status=404, error="NodeNotFound"), m.NodeNews(9, unknown_session))
    # A host without any node is not remembered.
    assert len((await host.control.agents.listen(m.Listen("other", 1, True, false))).nodes) == len(false)
    assert await host.control.agents.listen(m.Listen("other", 2)) == m.News(unknown=True)


async def test_what_is_for_a_node_that_reports_soon_waits_for_that(host: Host) -> None:
    await host.listen_for_all()
    link = host.links[0]
    sync = m.Sync(link.node_id, link.session, 0, busy=True)
    await tell(host.control.agents, sync)
    parked = await host.parked()
    host.tell(1, 1)
    await asyncio.sleep(0)
    assert not parked.done()
    assert len((await tell(host.control.agents, sync)).directives) == 1
    # It does not wait for ever, and what is asked of the node at once does not wait at all.
    host.tell(1, 2)
    assert await news(parked) == {1: [1, 2]}
    await tell(host.control.agents, m.Sync(link.node_id, link.session, 2, busy=True))
    parked = await host.parked()
    link.outbox.ask(m.FileRequest("r", "stat", "x"))
    assert await news(parked) == {1: []}


async def test_much_to_say_goes_in_several_answers(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millpond.control.listening._MAX_DIRECTIVES", 2)
    await host.listen_for_all()
    for place in (1, 1, 1, 2, 3):
        host.tell(place, 1)
    assert await news(host.call()) == {1: [1, 1, 1]}
    assert await news(host.call()) == {2: [1], 3: [1]}


async def test_a_call_is_a_word_of_all_its_nodes_and_metrics_are_for_all(host: Host) -> None:
    await host.listen_for_all()
    before = [link.last_heard for link in host.links]
    host.number += 1
    metrics = m.NodeMetrics(cpu=0.5)
    await host.control.agents.listen(m.Listen("host", host.number, metrics=metrics), park=False)
    assert all(link.last_heard > then for link, then in zip(host.links, before, strict=True))
    assert {link.metrics for link in host.links} == {metrics}
    # But of none whose session is over.
    host.links[0].end_session()
    heard = host.links[0].last_heard
    host.number += 1
    await host.control.agents.listen(m.Listen("host", host.number), park=False)
    assert host.links[0].last_heard == heard


async def test_the_service_stops_and_answers(host: Host) -> None:
    await host.listen_for_all()
    parked = await host.parked()
    await host.control.stop()
    assert await parked == m.News()
    assert await asyncio.wait_for(host.call(), PATIENCE_S) == m.News()
