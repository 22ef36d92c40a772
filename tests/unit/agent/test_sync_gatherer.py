"""The reports of several nodes in one call."""

import asyncio

import pytest

from millpond.agent import sync_gatherer
from millpond.agent.listening import TransportError
from millpond.agent.sync_gatherer import SyncGatherer
from millpond.protocol.messages import MAX_SYNCS, NodeReply, NodeSync, Started, Sync, SyncReply
from tests.waiting import until_true


class Service:
    """Answers when told; remembers which nodes came in which call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.broken: set[str] = set()
        self.down = False

    async def send(self, syncs: list[NodeSync]) -> tuple[NodeReply, ...]:
        self.calls.append([f"{one.token} {one.sync.node_id}" for one in syncs])
        await self.go_on.wait()
        if self.down:
            raise TransportError("no route")
        return tuple(
            NodeReply(status=403, error="AuthenticationFailed")
            if one.sync.node_id in self.broken
            else NodeReply(SyncReply(one.sync.session))
            for one in syncs
        )


def sync(name: str, reports: int = 1) -> Sync:
    return Sync(name, f"session of {name}", 0, tuple(Started(seq, seq, 1, 1.0) for seq in range(reports)))


async def test_what_is_told_in_the_same_turn_goes_together() -> None:
    service = Service()
    gatherer = SyncGatherer(service.send)
    service.broken.add("b")
    answers = await asyncio.gather(*(gatherer.sync(sync(name), f"of {name}") for name in "abc"), return_exceptions=True)
    assert service.calls == [["of a a", "of b b", "of c c"]]
    assert (answers[0], answers[2]) == (SyncReply("session of a"), SyncReply("session of c"))
    assert isinstance(answers[1], TransportError)
    assert "403" in str(answers[1])
    assert await gatherer.sync(sync("a"), "of a") == SyncReply("session of a")
    assert service.calls[1:] == [["of a a"]]
    await gatherer.close()


async def test_what_comes_while_calls_are_on_their_way_waits_for_one_of_them() -> None:
    service = Service()
    gatherer = SyncGatherer(service.send)
    service.go_on.clear()
    told: list[asyncio.Task[SyncReply]] = []
    for number in range(2):
        told.append(asyncio.create_task(gatherer.sync(sync(f"first{number}"), "t")))
        await until_true(lambda: len(service.calls) == len(told))
    told += [asyncio.create_task(gatherer.sync(sync(f"n{number}"), "t")) for number in range(MAX_SYNCS + 1)]
    given_up = asyncio.create_task(gatherer.sync(sync("given up"), "t"))
    await asyncio.sleep(0)
    given_up.cancel()
    service.go_on.set()
    assert len(await asyncio.gather(*told)) == MAX_SYNCS + 3
    assert [len(call) for call in service.calls] == [1, 1, MAX_SYNCS, 1]
    await gatherer.close()


async def test_who_has_more_to_tell_when_all_calls_end_at_once_is_heard() -> None:
    service = Service()
    gatherer = SyncGatherer(service.send)

    async def tell(name: str, times: int) -> None:
        for _ in range(times):
            await gatherer.sync(sync(name), "t")

    service.go_on.clear()
    telling = [asyncio.create_task(tell("a", 2))]
    await until_true(lambda: len(service.calls) == 1)
    telling.append(asyncio.create_task(tell("b", 1)))
    await until_true(lambda: len(service.calls) == 2)
    service.go_on.set()
    async with asyncio.timeout(60.0):
        await asyncio.gather(*telling)
    assert service.calls == [["t a"], ["t b"], ["t a"]]
    await gatherer.close()


async def test_a_call_is_not_too_large() -> None:
    service = Service()
    gatherer = SyncGatherer(service.send)
    await asyncio.gather(*(gatherer.sync(sync(f"n{number}", 500), "t") for number in range(10)))
    assert [len(call) for call in service.calls] == [8, 2]
    await gatherer.sync(sync("alone", 5000), "t")
    assert service.calls[-1] == ["t alone"]
    await gatherer.close()


async def test_no_answer_is_none_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_gatherer, "_ANSWER_S", 0.01)
    service = Service()
    gatherer = SyncGatherer(service.send)
    service.down = True
    answers = await asyncio.gather(*(gatherer.sync(sync(name), "t") for name in "ab"), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["no route", "no route"]
    service.go_on.clear()
    answers = await asyncio.gather(*(gatherer.sync(sync(name), "t") for name in "ab"), return_exceptions=True)
    assert all(isinstance(answer, TransportError) for answer in answers)
    service.go_on.set()
    service.down = False
    assert await gatherer.sync(sync("a"), "t") == SyncReply("session of a")
    waits = asyncio.create_task(gatherer.sync(sync("a"), "t"))
    await gatherer.close()
    waits.cancel()
