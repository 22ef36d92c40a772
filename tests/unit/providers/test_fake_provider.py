"""The fake provider's misbehaviour."""

from collections.abc import Callable

import pytest

from millpond.domain.errors import ProviderError
from millpond.providers.base import NodeCreated, NodeRefused, NodeRequest, NodeStatus, VmSize
from millpond.providers.fake import FakeProvider, Fate

SIZE = VmSize("local", 1, 1024, 0.0)


class Clock:
    """Timers that fire when told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now + delay_s, len(self.timers), call))

    def run_to(self, at: float) -> None:
        while due := sorted(timer for timer in self.timers if timer[0] <= at):
            self.timers.remove(due[0])
            self.now = due[0][0]
            due[0][2]()
        self.now = at


class World:
    def __init__(self, **fates: Fate) -> None:
        self.clock = Clock()
        self.story: list[tuple[str, str, float]] = []
        self.provider = FakeProvider(
            fate=lambda request: fates.get(request.node_id, Fate()),
            call_later=self.clock.call_later,
            on_up=lambda request: self.story.append(("up", request.node_id, self.clock.now)),
            on_gone=lambda node_id: self.story.append(("gone", node_id, self.clock.now)),
        )

    async def create(self, node_id: str) -> NodeCreated | NodeRefused:
        (answer,) = await self.provider.create([NodeRequest(node_id, "p", SIZE, 1, True, "t")])
        return answer

    async def made(self, node_id: str) -> str:
        answer = await self.create(node_id)
        assert isinstance(answer, NodeCreated)
        return answer.handle

    async def status(self, handle: str) -> NodeStatus:
        (status,) = await self.provider.observe([handle])
        return status


async def test_slow_to_come_and_slow_to_go() -> None:
    world = World(a=Fate(boot_s=60, removal_s=10))
    handle = await world.made("a")
    world.clock.run_to(59)
    assert await world.status(handle) is NodeStatus.PENDING
    world.clock.run_to(60)
    assert await world.status(handle) is NodeStatus.UP
    await world.provider.delete([handle])
    world.clock.run_to(69)
    assert await world.status(handle) is NodeStatus.UP
    world.clock.run_to(70)
    assert await world.status(handle) is NodeStatus.GONE
    assert world.story == [("up", "a", 60), ("gone", "a", 70)]


async def test_deleted_while_it_boots_it_never_comes_up() -> None:
    world = World(a=Fate(boot_s=60, removal_s=100))
    handle = await world.made("a")
    await world.provider.delete([handle])
    world.clock.run_to(1000)
    assert await world.status(handle) is NodeStatus.GONE
    assert world.story == []


async def test_refusal() -> None:
    world = World(a=Fate(refuse="UnsupportedVMSize", retryable=False))
    answer = await world.create("a")
    assert isinstance(answer, NodeRefused)
    assert (answer.code, answer.retryable) == ("UnsupportedVMSize", False)
    assert world.provider.node_ids == []


async def test_one_that_fails_and_one_that_never_comes() -> None:
    world = World(a=Fate(boot_s=1, fails=True), b=Fate(boot_s=None))
    first, second = await world.made("a"), await world.made("b")
    world.clock.run_to(1e9)
    assert await world.provider.observe([first, second]) == [NodeStatus.FAILED, NodeStatus.PENDING]
    assert world.story == []


async def test_vanishing_by_itself_or_by_hand() -> None:
    world = World(a=Fate(life_s=5))
    first, second = await world.made("a"), await world.made("b")
    world.clock.run_to(4)
    world.provider.vanish("b")
    world.clock.run_to(5)
    assert await world.provider.observe([first, second]) == [NodeStatus.GONE, NodeStatus.GONE]
    assert world.story == [("up", "a", 0), ("up", "b", 0), ("gone", "b", 4), ("gone", "a", 5)]


async def test_a_second_life_is_not_ended_by_the_timers_of_the_first() -> None:
    world = World(a=Fate(life_s=5))
    await world.made("a")
    world.clock.run_to(1)
    world.provider.vanish("a")
    handle = await world.made("a")
    world.clock.run_to(5.5)
    assert await world.status(handle) is NodeStatus.UP


async def test_outage_and_silence() -> None:
    world = World()
    handle = await world.made("a")
    world.clock.run_to(1)
    world.provider.outage = True
    assert await world.status(handle) is NodeStatus.UNKNOWN
    with pytest.raises(ProviderError) as error:
        await world.provider.delete([handle])
    assert error.value.retryable
    with pytest.raises(ProviderError):
        await world.create("b")
    world.provider.outage = False
    world.provider.mute.add("a")
    assert await world.status(handle) is NodeStatus.UNKNOWN
    world.provider.fail("a")
    world.provider.mute.clear()
    assert await world.status(handle) is NodeStatus.FAILED
    assert [call for call, _ in world.provider.calls].count("delete") == 1


async def test_a_delay_needs_a_timer() -> None:
    provider = FakeProvider(fate=lambda _: Fate(boot_s=1))
    with pytest.raises(ValueError, match="call_later"):
        await provider.create([NodeRequest("a", "p", SIZE, 1, True, "t")])


async def test_spot_nodes_are_taken_back_and_refused_while_there_is_no_capacity() -> None:
    world = World(a=Fate(preempted_s=5))
    handle = await world.made("a")
    world.clock.run_to(5)
    assert await world.status(handle) is NodeStatus.PREEMPTED
    assert world.story == [("up", "a", 0), ("gone", "a", 5)]
    world.provider.has_spot_capacity = False
    (answer,) = await world.provider.create([NodeRequest("a", "p", SIZE, 1, False, "t")])
    assert isinstance(answer, NodeRefused)
    assert answer.retryable
    assert await world.status(handle) is NodeStatus.PREEMPTED
    assert isinstance(await world.create("dedicated"), NodeCreated)
    world.provider.has_spot_capacity = True
    (answer,) = await world.provider.create([NodeRequest("a", "p", SIZE, 1, False, "t")])
    assert isinstance(answer, NodeCreated)
    world.clock.run_to(5)
    assert await world.status(handle) is NodeStatus.UP
