"""Spot nodes, deallocated nodes and restarts through the whole control plane, over fake nodes."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from millpond.control.service import ControlService
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.node import Node
from millpond.domain.states import NodeOperation, NodeState, TaskState
from millpond.domain.task import NewTask
from millpond.protocol import messages as m
from millpond.providers.base import NodeProvider
from millpond.providers.fake import FakeProvider
from millpond.store.memory import MemoryStore
from tests.listening import hear, tell
from tests.unit.control.test_service import SETTINGS, SIZES
from tests.unit.scheduler.world import new_job, new_pool
from tests.waiting import PATIENCE_S


class Nodes:
    """A pool of one spot and one dedicated node, and agents that are played by hand."""

    def __init__(self, store: MemoryStore, provider: NodeProvider) -> None:
        self.store = store
        self.control = ControlService(
            "account",
            store,
            provider,
            SIZES,
            secret=b"secret",
            account_url=lambda: "http://here/",
            settings=SETTINGS,
        )
        self.boots = 0.0

    async def rows(self) -> list[Node]:
        return (await self.store.list_nodes("pool", None, 10, None)).items

    async def find(self, *, dedicated: bool) -> Node:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for node in await self.rows():
                    if node.is_dedicated is dedicated and node.handle:
                        return node
                await asyncio.sleep(0)

    async def until(self, node_id: str, condition: Callable[[Node], bool]) -> Node:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                node = await self.store.get_node("pool", node_id)
                assert node is not None
                if condition(node):
                    return node
                await asyncio.sleep(0.001)

    async def until_state(self, node_id: str, state: NodeState) -> Node:
        return await self.until(node_id, lambda node: node.state is state)

    async def boot(self, node_id: str) -> m.Welcome:
        self.boots += 1
        return await self.hello(node_id, self.boots)

    async def hello(self, node_id: str, boot_time: float) -> m.Welcome:
        return await self.control.agents.hello(m.Hello(node_id, m.PROTOCOL_VERSION, "1", boot_time, "127.0.0.1"))

    async def directives(self, node_id: str, session: str) -> tuple[m.Directive, ...]:
        return (await hear(self.control.agents, node_id, session, 0)).directives

    async def to_node(self, event: e.Event) -> None:
        await self.control.to_pool("pool", event)


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
async def nodes(provider: FakeProvider) -> AsyncIterator[Nodes]:
    nodes = Nodes(MemoryStore(), provider)
    await nodes.control.start()
    await nodes.control.add_pool(new_pool(nodes=1, spot=1), "test")
    await nodes.control.add_job(new_job(), "test")
    yield nodes
    await nodes.control.stop()


async def refusal(awaitable: object) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        await awaitable
    return caught.value.code


async def test_a_preempted_node_waits_for_capacity_and_runs_its_task_again(
    nodes: Nodes, provider: FakeProvider
) -> None:
    node_id = (await nodes.find(dedicated=False)).id
    welcome = await nodes.boot(node_id)
    tasks = (NewTask("t", b"{}"),)
    await nodes.control.to_job("job", e.TasksAdded(at=nodes.control.now(), job_id="job", tasks=tasks))
    (start,) = await nodes.directives(node_id, welcome.session)
    assert isinstance(start, m.Start)
    reports = (m.Started(1, start.key, 1, nodes.control.now()),)
    await tell(nodes.control.agents, m.Sync(node_id, welcome.session, start.revision, reports))
    provider.has_spot_capacity = False
    await nodes.control.preempt_node("POOL", node_id)
    await nodes.until_state(node_id, NodeState.PREEMPTED)
    row = await nodes.store.get_task("job", "t")
    assert row is not None
    assert (row.task.state, row.task.retry_count, row.task.requeue_count) == (TaskState.ACTIVE, 0, 0)
    assert await refusal(nodes.control.preempt_node("pool", node_id)) is (ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE)
    assert (await hear(nodes.control.agents, node_id, welcome.session, 0)).session_unknown
    provider.has_spot_capacity = True
    await nodes.until_state(node_id, NodeState.STARTING)
    welcome = await nodes.boot(node_id)
    (start,) = await nodes.directives(node_id, welcome.session)
    assert isinstance(start, m.Start)
    assert (start.task_id, start.attempt) == ("t", 2)


async def test_only_spot_nodes_are_preempted_and_only_those_there_are(nodes: Nodes, provider: FakeProvider) -> None:
    dedicated = await nodes.find(dedicated=True)
    assert await refusal(nodes.control.preempt_node("pool", dedicated.id)) is ErrorCode.OPERATION_NOT_VALID_ON_NODE
    assert await refusal(nodes.control.preempt_node("pool", "tvmps_0_p")) is ErrorCode.NODE_NOT_FOUND
    assert await refusal(nodes.control.preempt_node("none", dedicated.id)) is ErrorCode.POOL_NOT_FOUND
    assert await refusal(nodes.control.preempt_node("pool", "x" * 1000)) is ErrorCode.NODE_NOT_FOUND
    spot = await nodes.find(dedicated=False)
    provider.outage = True
    assert await refusal(nodes.control.preempt_node("pool", spot.id)) is ErrorCode.SERVER_BUSY


class PlainProvider:
    """Has the powers every provider has, and no other."""

    name = "plain"

    def __init__(self) -> None:
        provider = FakeProvider()
        self.create, self.observe, self.delete, self.close = (
            provider.create,
            provider.observe,
            provider.delete,
            provider.close,
        )


async def test_a_provider_that_cannot_preempt_says_so() -> None:
    nodes = Nodes(MemoryStore(), PlainProvider())
    await nodes.control.start()
    try:
        await nodes.control.add_pool(new_pool(spot=1), "test")
        spot = await nodes.find(dedicated=False)
        assert await refusal(nodes.control.preempt_node("pool", spot.id)) is ErrorCode.NOT_IMPLEMENTED
    finally:
        await nodes.control.stop()


async def test_a_preemption_while_the_service_was_away_is_noticed(nodes: Nodes, provider: FakeProvider) -> None:
    spot = await nodes.find(dedicated=False)
    await nodes.boot(spot.id)
    await nodes.control.stop()
    provider.has_spot_capacity = False
    await provider.preempt([spot.handle])
    again = Nodes(nodes.store, provider)
    await again.control.start()
    try:
        await again.until_state(spot.id, NodeState.PREEMPTED)
        provider.has_spot_capacity = True
        await again.until_state(spot.id, NodeState.STARTING)
    finally:
        await again.control.stop()
    await nodes.control.start()


async def test_a_reboot_is_told_until_the_node_has_a_new_boot_time(nodes: Nodes) -> None:
    node_id = (await nodes.find(dedicated=True)).id
    welcome = await nodes.boot(node_id)
    now = nodes.control.now()
    await nodes.to_node(e.NodeOperationRequested(at=now, node_id=node_id, operation=NodeOperation.REBOOT))
    assert await nodes.directives(node_id, welcome.session) == (m.Restart(1, False),)
    await nodes.until_state(node_id, NodeState.REBOOTING)
    welcome = await nodes.hello(node_id, nodes.boots)
    assert await nodes.directives(node_id, welcome.session) == (m.Restart(1, False),)
    await nodes.boot(node_id)
    await nodes.until_state(node_id, NodeState.IDLE)


async def test_a_reboot_outlives_the_service(nodes: Nodes, provider: FakeProvider) -> None:
    node_id = (await nodes.find(dedicated=True)).id
    await nodes.boot(node_id)
    now = nodes.control.now()
    await nodes.to_node(e.NodeOperationRequested(at=now, node_id=node_id, operation=NodeOperation.REIMAGE))
    await nodes.control.stop()
    again = Nodes(nodes.store, provider)
    await again.control.start()
    try:
        welcome = await again.hello(node_id, nodes.boots)
        assert await again.directives(node_id, welcome.session) == (m.Restart(1, True),)
    finally:
        await again.control.stop()
    await nodes.control.start()


async def test_a_node_is_deallocated_and_started(nodes: Nodes, provider: FakeProvider) -> None:
    node_id = (await nodes.find(dedicated=True)).id
    await nodes.boot(node_id)
    now = nodes.control.now()
    await nodes.to_node(e.NodeOperationRequested(at=now, node_id=node_id, operation=NodeOperation.DEALLOCATE))
    await nodes.until_state(node_id, NodeState.DEALLOCATED)
    assert node_id not in provider.node_ids
    await nodes.to_node(e.NodeStartRequested(at=nodes.control.now(), node_id=node_id))
    await nodes.until(node_id, lambda node: bool(node.handle))
    await nodes.boot(node_id)
    await nodes.until_state(node_id, NodeState.IDLE)


async def test_files_are_retained_until_the_timer_rings(nodes: Nodes) -> None:
    node_id = (await nodes.find(dedicated=True)).id
    await nodes.boot(node_id)
    state = nodes.control._engines.of_pool("pool").state
    assert state is not None
    state.nodes[node_id].row.retain_until = nodes.control.now() + 0.05
    await nodes.to_node(
        e.NodeOperationRequested(
            at=nodes.control.now(),
            node_id=node_id,
            operation=NodeOperation.REBOOT,
            option=e.NodeDeallocationOption.RETAINED_DATA,
        )
    )
    await nodes.until_state(node_id, NodeState.REBOOTING)
