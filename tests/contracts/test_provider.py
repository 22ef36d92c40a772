"""What every node provider does: one suite for all of them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import millpond
from millpond.providers.base import CanPreempt, NodeCreated, NodeProvider, NodeRequest, NodeStatus, VmSize
from millpond.providers.fake import FakeProvider, Fate
from millpond.providers.local import LocalProvider
from tests.waiting import PATIENCE_S

SIZE = VmSize("standard_d2_v3", 2, 8192, 0.096)
REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = str(Path(millpond.__file__).resolve().parents[1])


def request(node_id: str) -> NodeRequest:
    return NodeRequest(node_id, "pool", SIZE, 2, True, f"token of {node_id}")


def slow_fake() -> FakeProvider:
    """Nodes take a while to come and to go."""

    def call_later(delay_s: float, call: object) -> object:
        return asyncio.get_running_loop().call_later(delay_s, call)  # called with callables

    return FakeProvider(fate=lambda _: Fate(boot_s=0.02, removal_s=0.02), call_later=call_later)


@pytest.fixture(params=["local", "fake", "slow fake"])
async def provider(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NodeProvider]:
    match request.param:
        case "local":
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([SOURCE, str(REPOSITORY)]))
            command = (sys.executable, "-m", "tests.process.simple_host")
            local = LocalProvider(str(tmp_path / "nodes"), endpoint="http://127.0.0.1:9", command=command)
            yield local
            await local.close()
            await local.stop_host()
        case "fake":
            yield FakeProvider()
        case _:
            yield slow_fake()


async def create(provider: NodeProvider, *node_ids: str) -> dict[str, str]:
    """Make nodes that must be made; their handles."""
    answers = await provider.create([request(node_id) for node_id in node_ids])
    handles = {answer.node_id: answer.handle for answer in answers if isinstance(answer, NodeCreated)}
    assert set(handles) == set(node_ids)
    assert len(answers) == len(node_ids)
    return handles


async def wait_for(provider: NodeProvider, handles: list[str], *expected: NodeStatus) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await provider.observe(handles) == list(expected):
                return
            await asyncio.sleep(0.01)


async def test_nodes_come_up(provider: NodeProvider) -> None:
    handles = await create(provider, "a", "b")
    assert set(await provider.observe(list(handles.values()))) <= {NodeStatus.PENDING, NodeStatus.UP}
    await wait_for(provider, [handles["b"], handles["a"]], NodeStatus.UP, NodeStatus.UP)


async def test_a_handle_is_json(provider: NodeProvider) -> None:
    handles = await create(provider, "a")
    assert isinstance(json.loads(handles["a"]), dict)


async def test_creating_again_answers_the_same_handle(provider: NodeProvider) -> None:
    first = await create(provider, "a")
    assert (await create(provider, "a", "b"))["a"] == first["a"]
    await wait_for(provider, [first["a"]], NodeStatus.UP)
    assert (await create(provider, "a"))["a"] == first["a"]


async def test_deleted_nodes_go_and_the_others_stay(provider: NodeProvider) -> None:
    handles = await create(provider, "a", "b")
    await wait_for(provider, list(handles.values()), NodeStatus.UP, NodeStatus.UP)
    await provider.delete([handles["a"]])
    await wait_for(provider, [handles["a"], handles["b"]], NodeStatus.GONE, NodeStatus.UP)
    await provider.delete([handles["a"]])
    await wait_for(provider, [handles["a"], handles["b"]], NodeStatus.GONE, NodeStatus.UP)


async def test_a_node_deleted_before_it_was_up_goes(provider: NodeProvider) -> None:
    handles = await create(provider, "a")
    await provider.delete(list(handles.values()))
    await wait_for(provider, list(handles.values()), NodeStatus.GONE)


async def test_a_node_of_the_same_id_can_be_made_again(provider: NodeProvider) -> None:
    handles = await create(provider, "a")
    await provider.delete([handles["a"]])
    await wait_for(provider, [handles["a"]], NodeStatus.GONE)
    again = await create(provider, "a")
    await wait_for(provider, [again["a"]], NodeStatus.UP)


async def test_while_a_node_goes_its_id_is_refused_for_the_time_being(provider: NodeProvider) -> None:
    handles = await create(provider, "a")
    await wait_for(provider, [handles["a"]], NodeStatus.UP)
    await provider.delete([handles["a"]])
    async with asyncio.timeout(PATIENCE_S):
        while True:
            (answer,) = await provider.create([request("a")])
            if isinstance(answer, NodeCreated):
                break
            assert answer.retryable
            assert answer.code == "AllocationFailed"
            await asyncio.sleep(0.01)
    await wait_for(provider, [answer.handle], NodeStatus.UP)


async def test_unknown_handles_are_gone_and_deleted_already(provider: NodeProvider) -> None:
    unknown = ["", "nonsense", "{}", "[1]", '{"node_id": 7}', '{"node_id": "../.."}', '{"node_id": "never-made"}']
    assert await provider.observe(unknown) == [NodeStatus.GONE] * len(unknown)
    await provider.delete(unknown)


async def test_nothing_asked_nothing_done(provider: NodeProvider) -> None:
    assert await provider.create([]) == []
    assert await provider.observe([]) == []
    await provider.delete([])


async def test_nodes_stay_when_the_provider_is_closed(provider: NodeProvider) -> None:
    handles = await create(provider, "a")
    await wait_for(provider, [handles["a"]], NodeStatus.UP)
    await provider.close()
    assert await provider.observe([handles["a"]]) == [NodeStatus.UP]


async def preempted(provider: NodeProvider, *node_ids: str) -> dict[str, str]:
    """Nodes that are up, but for the first, which is preempted; their handles."""
    handles = await create(provider, *node_ids)
    await wait_for(provider, list(handles.values()), *[NodeStatus.UP] * len(node_ids))
    assert isinstance(provider, CanPreempt)
    first, *others = handles.values()
    await provider.preempt([first])
    await wait_for(provider, [first, *others], NodeStatus.PREEMPTED, *[NodeStatus.UP] * len(others))
    return handles


async def test_a_preempted_node_says_so_until_it_is_made_again(provider: NodeProvider) -> None:
    handles = await preempted(provider, "a", "b")
    assert isinstance(provider, CanPreempt)
    await provider.preempt([handles["a"]])
    assert await provider.observe([handles["a"]]) == [NodeStatus.PREEMPTED]
    again = await create(provider, "a")
    await wait_for(provider, [again["a"], handles["b"]], NodeStatus.UP, NodeStatus.UP)


async def test_a_preempted_node_can_be_deleted(provider: NodeProvider) -> None:
    handles = await preempted(provider, "a")
    await provider.delete([handles["a"]])
    await wait_for(provider, [handles["a"]], NodeStatus.GONE)


async def test_made_again_and_deleted_it_is_not_preempted(provider: NodeProvider) -> None:
    await preempted(provider, "a")
    again = await create(provider, "a")
    await wait_for(provider, [again["a"]], NodeStatus.UP)
    await provider.delete([again["a"]])
    await wait_for(provider, [again["a"]], NodeStatus.GONE)


async def test_a_node_that_is_being_deleted_is_not_preempted(provider: NodeProvider) -> None:
    handles = await create(provider, "a")
    await wait_for(provider, [handles["a"]], NodeStatus.UP)
    await provider.delete([handles["a"]])
    assert isinstance(provider, CanPreempt)
    await provider.preempt([handles["a"]])
    await wait_for(provider, [handles["a"]], NodeStatus.GONE)


async def test_what_is_not_there_is_not_preempted(provider: NodeProvider) -> None:
    unknown = ["", "nonsense", '{"node_id": "../.."}', '{"node_id": "never-made"}']
    assert isinstance(provider, CanPreempt)
    await provider.preempt(unknown)
    assert await provider.observe(unknown) == [NodeStatus.GONE] * len(unknown)
