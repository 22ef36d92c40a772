"""Races the simulation found and that few seeds meet: each brought about on purpose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.states import DisableJobOption, JobState, NodeState, TaskState
from millpond.domain.task import NewTask
from millpond.protocol import messages as m
from millpond.providers.base import VmSize
from millpond.providers.fake import FakeProvider
from millpond.store.base import PoolContents, StoreFacts
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from tests.listening import hear, tell
from tests.unit.scheduler.world import World, new_job, new_pool
from tests.waiting import PATIENCE_S


class GatedStore(MemoryStore):
    """A store whose reads can be held back."""

    def __init__(self) -> None:
        super().__init__()
        self.specs_gate = asyncio.Event()
        self.load_gate = asyncio.Event()
        self.specs_gate.set()
        self.load_gate.set()
        self.reading_specs = asyncio.Event()

    async def task_specs(self, keys: Sequence[int]) -> dict[int, bytes]:
        self.reading_specs.set()
        await self.specs_gate.wait()
        return await super().task_specs(keys)

    async def load_pool(self, pool_key: str) -> PoolContents:
        await self.load_gate.wait()
        return await super().load_pool(pool_key)


@pytest.fixture
async def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
async def control(store: GatedStore) -> AsyncIterator[ControlService]:
    control = ControlService(
        "account",
        store,
        FakeProvider(),
        {"local": VmSize("local", 2, 4096, 0.1)},
        secret=b"secret",
        account_url=lambda: "http://here/",
        settings=ControlSettings(store_retry_s=0.0, park_s=0.01, observe_interval_s=0.05),
    )
    await control.start()
    await control.add_pool(new_pool(nodes=1), "test")
    await control.add_job(new_job(), "test")
    await control.to_job(
        "job", e.TasksAdded(at=control.now(), job_id="job", tasks=(NewTask("t", b"{}"), NewTask("u", b"{}")))
    )
    yield control
    store.specs_gate.set()
    store.load_gate.set()
    await control.stop()


async def _node_id(store: MemoryStore) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            page = await store.list_nodes("pool", None, 1, None)
            if page.items and page.items[0].handle:
                return page.items[0].id
            await asyncio.sleep(0)


def _hello(node_id: str, *held: e.HeldAttempt) -> m.Hello:
    return m.Hello(node_id, m.PROTOCOL_VERSION, "1", 1.0, "127.0.0.1", inventory=held)


async def test_a_stale_hello_does_not_start_an_attempt_again(control: ControlService, store: GatedStore) -> None:
    node_id = await _node_id(store)
    welcome = await control.agents.hello(_hello(node_id))
    start = (await hear(control.agents, node_id, welcome.session, 0)).directives[0]
    assert isinstance(start, m.Start)
    # An old hello comes late: the attempt is handed out again, and its specification takes a while to read.
    store.reading_specs.clear()
    store.specs_gate.clear()
    await control.agents.hello(_hello(node_id))
    await asyncio.wait_for(store.reading_specs.wait(), PATIENCE_S)
    # Meanwhile the node has run it to its end, finds its session gone, and says so.
    true_hello = asyncio.create_task(
        control.agents.hello(_hello(node_id, e.HeldAttempt(start.key, 1, slots=1, ended=True)))
    )
    await asyncio.sleep(0)
    store.specs_gate.set()
    welcome = await asyncio.wait_for(true_hello, PATIENCE_S)
    now = control.now()
    ended = m.Ended(1, start.key, 1, now, now, 0)
    reply = await tell(control.agents, m.Sync(node_id, welcome.session, 0, (ended,)))
    assert reply.acknowledged == 1
    assert start.key not in [directive.key for directive in reply.directives if isinstance(directive, m.Start)]


async def test_deleting_a_task_of_a_completed_job_while_memory_is_rebuilt(
    control: ControlService, store: GatedStore
) -> None:
    await control.to_job("job", e.JobTerminateRequested(at=control.now(), job_id="job", reason="UserTerminate"))
    node_id = await _node_id(store)
    await control.agents.hello(_hello(node_id))
    store.load_gate.clear()
    store.fail_next_commit = StoreUnavailable("disk full")
    with pytest.raises(BatchError):
        await control.to_pool(
            "pool", e.PoolResizeRequested(at=control.now(), target_dedicated_nodes=2, resize_timeout_s=300.0)
        )
    deleting = asyncio.create_task(
        control.to_job("job", e.TaskDeleteRequested(at=control.now(), job_id="job", task_id="u"))
    )
    await asyncio.sleep(0)
    store.load_gate.set()
    await asyncio.wait_for(deleting, PATIENCE_S)
    assert await store.get_task("job", "u") is None
    assert await store.get_task("job", "t") is not None


async def test_deleting_again_what_is_being_deleted_from_a_job_that_completes(
    control: ControlService, store: GatedStore
) -> None:
    """The job is completed in memory, and the task's row still there, while the first deletion is written."""

    async def delete() -> None:
        await control.to_job("job", e.TaskDeleteRequested(at=control.now(), job_id="job", task_id="t"))

    terminate = e.JobTerminateRequested(at=control.now(), job_id="job", reason="UserTerminate")
    committing, go_on = asyncio.Event(), asyncio.Event()

    async def hold(changes: ChangeSet) -> None:
        committing.set()
        await go_on.wait()

    store.before_commit = hold
    first = asyncio.gather(delete(), control.to_job("job", terminate))
    await asyncio.wait_for(committing.wait(), PATIENCE_S)
    second = asyncio.create_task(delete())
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait_for(first, PATIENCE_S)
    with pytest.raises(BatchError) as refused:
        await asyncio.wait_for(second, PATIENCE_S)
    assert refused.value.code is ErrorCode.TASK_NOT_FOUND
    row = await store.get_job("job")
    assert row is not None
    assert row.state is JobState.COMPLETED
    assert row.counts.active + row.counts.failed == 1, "the other task"


def test_a_task_that_stands_twice_in_its_queue_is_placed_once() -> None:
    world = World()
    world.add_pool(nodes=3)
    world.add_job()
    world.do(e.JobDisableRequested(at=world.tick(), job_id="job", option=DisableJobOption.REQUEUE))
    world.add_tasks("before", "t")
    world.do(e.TaskTerminateRequested(at=world.tick(), job_id="job", task_id="t"))
    world.do(e.TaskReactivateRequested(at=world.tick(), job_id="job", task_id="t"))
    world.do(e.JobEnableRequested(at=world.tick(), job_id="job"))
    started = [(effect.task.id, effect.attempt) for effect in world.effects if isinstance(effect, f.StartTask)]
    assert started == [("before", 1), ("t", 1)]


def test_a_rebuilt_memory_learns_the_order_of_the_node() -> None:
    """Rows do not say in which order attempts were handed to a node: what it begins first holds the slots."""
    world = World()
    world.add_pool(nodes=1, slots=1)
    world.add_job()
    world.add_tasks("a", "b")
    world.state = world.rebuilt()
    (node_id,) = world.state.nodes
    held = [e.HeldAttempt(task.key, task.attempt, 1) for task in world.tasks.values() if task.node_id]
    assert len(held) == 2, "the second is handed out ahead"
    world.connect(node_id, *reversed(held))
    world.start("b")
    assert world.task("b").state is TaskState.RUNNING
    world.end("b")
    world.start("a")
    world.end("a")
    assert world.task("a").state is TaskState.COMPLETED


async def test_a_node_that_its_provider_called_useless_is_heard_again_once_it_is_not() -> None:
    store, provider = GatedStore(), FakeProvider()
    settings = ControlSettings(store_retry_s=0.0, park_s=0.01, observe_interval_s=0.02)
    sizes = {"local": VmSize("local", 2, 4096, 0.1)}
    control = ControlService(
        "account", store, provider, sizes, secret=b"s", account_url=lambda: "http://here/", settings=settings
    )
    await control.start()
    try:
        await control.add_pool(new_pool(nodes=1), "test")
        node_id = await _node_id(store)
        welcome = await control.agents.hello(_hello(node_id))

        async def until(*states: NodeState) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while (row := await store.get_node("pool", node_id)) is None or row.state not in states:
                    await asyncio.sleep(0.01)

        await until(NodeState.IDLE)
        provider.fail(node_id)
        await until(NodeState.UNKNOWN)
        # Its agent runs on, in the session it had; what it says does not count.
        assert (await hear(control.agents, node_id, welcome.session, 0)).session_unknown
        with pytest.raises(BatchError) as refused:
            await control.agents.hello(_hello(node_id))
        assert refused.value.code is ErrorCode.NODE_STATE_UNUSABLE
        provider.recover(node_id)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(BatchError):
                    await control.agents.hello(_hello(node_id))
                    break
                await asyncio.sleep(0.01)
        await until(NodeState.IDLE)
    finally:
        await control.stop()


async def test_a_commit_of_the_service_before_lands_after_the_next_has_looked() -> None:
    """Its job is known, and its number is not given to another."""
    store = MemoryStore()
    sizes = {"local": VmSize("local", 2, 4096, 0.1)}

    def service() -> ControlService:
        return ControlService(
            "account", store, FakeProvider(), sizes, secret=b"s", account_url=lambda: "", settings=ControlSettings()
        )

    first = service()
    await first.start()
    await first.add_pool(new_pool(), "test")
    late = asyncio.Event()

    async def on_its_way(_: ChangeSet) -> None:
        await late.wait()

    store.before_commit = on_its_way
    adding = asyncio.create_task(first.add_job(new_job("late"), "test"))
    second = service()
    looked = store.open

    async def look() -> StoreFacts:
        facts = await looked()
        late.set()
        await adding
        store.before_commit = None
        return facts

    store.open = look
    await second.start()
    try:
        assert (await second.add_job(new_job("other"), "test")).no == 2
        with pytest.raises(BatchError) as refused:
            await second.add_job(new_job("late"), "test")
        assert refused.value.code is ErrorCode.JOB_EXISTS
        rows = await store.list_jobs(None, 10, None)
        assert sorted((job.id, job.no) for job in rows.items) == [("late", 1), ("other", 2)]
    finally:
        await second.stop()
        await store.open()
        await first.stop()
