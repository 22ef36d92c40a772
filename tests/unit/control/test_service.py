"""The control plane over the memory store and fake nodes: what callers and agents are told when things go wrong."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from millpond.control import engine
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.states import NodeState, TaskState
from millpond.domain.task import JobManagerRules, NewTask, TaskRules
from millpond.protocol import messages as m
from millpond.providers.base import VmSize
from millpond.providers.fake import FakeProvider
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from tests.listening import hear, tell
from tests.unit.scheduler.world import new_job, new_pool
from tests.waiting import PATIENCE_S

SIZES = {"local": VmSize("local", 2, 4096, 0.1)}
SETTINGS = ControlSettings(inbox_limit=100, store_retry_s=0.01, park_s=5.0, observe_interval_s=0.05)


class Cluster:
    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.control = ControlService(
            "account",
            store,
            FakeProvider(),
            SIZES,
            secret=b"secret",
            account_url=lambda: "http://here/",
            settings=SETTINGS,
        )

    async def until_node(self) -> str:
        """The id of the pool's one node, once the provider has made it."""
        while True:
            page = await self.store.list_nodes("pool", None, 10, None)
            if page.items and page.items[0].handle:
                return page.items[0].id
            await asyncio.sleep(0)

    async def hello(self, node_id: str, *inventory: e.HeldAttempt) -> m.Welcome:
        return await self.control.agents.hello(
            m.Hello(node_id, m.PROTOCOL_VERSION, "1", 1.0, "127.0.0.1", inventory=inventory)
        )

    async def add(self, *ids: str) -> object:
        tasks = tuple(NewTask(i, b'{"commandLine":"true"}') for i in ids)
        return await self.control.to_job("job", e.TasksAdded(at=self.control.now(), job_id="job", tasks=tasks))

    async def state(self, task_id: str) -> TaskState:
        row = await self.store.get_task("job", task_id)
        assert row is not None
        return row.task.state


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(MemoryStore())
    await cluster.control.start()
    await cluster.control.add_pool(new_pool(nodes=1), "test")
    await cluster.control.add_job(new_job(), "test")
    yield cluster
    await cluster.control.stop()


async def refusal(awaitable: object) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        await awaitable
    return caught.value.code


async def test_a_task_runs_through_hello_sync_and_reports(cluster: Cluster) -> None:
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    assert (welcome.pool_id, welcome.task_slots, welcome.account_name) == ("pool", 1, "account")
    await cluster.add("t")
    reply = await hear(cluster.control.agents, node_id, welcome.session, 0)
    (start,) = reply.directives
    assert isinstance(start, m.Start)
    assert (start.job_id, start.task_id, start.attempt, start.spec) == ("job", "t", 1, b'{"commandLine":"true"}')
    now = cluster.control.now()
    reports = (m.Started(1, start.key, 1, now), m.Ended(2, start.key, 1, now, now, 0))
    reply = await tell(cluster.control.agents, m.Sync(node_id, welcome.session, start.revision, reports))
    assert reply.acknowledged == 2
    assert await cluster.state("t") is TaskState.COMPLETED


async def test_a_node_knows_whether_a_run_that_fails_will_be_repeated(cluster: Cluster) -> None:
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    tasks = (NewTask("t", b"{}", max_retry_count=1),)
    await cluster.control.to_job("job", e.TasksAdded(at=cluster.control.now(), job_id="job", tasks=tasks))
    seen, sequence = 0, 0
    told: list[tuple[int, bool]] = []
    while len(told) < 2:
        reply = await hear(cluster.control.agents, node_id, welcome.session, seen)
        reports: tuple[m.Report, ...] = ()
        for start in reply.directives:
            assert isinstance(start, m.Start)
            told.append((start.attempt, start.will_retry))
            seen, sequence = start.revision, sequence + 1
            now = cluster.control.now()
            reports += (m.Ended(sequence, start.key, start.attempt, now, now, 1),)
        await tell(cluster.control.agents, m.Sync(node_id, welcome.session, seen, reports))
    assert told == [(1, True), (2, False)]


async def test_what_a_lying_agent_says_changes_nothing(cluster: Cluster) -> None:
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    await cluster.add("t")
    await hear(cluster.control.agents, node_id, welcome.session, 0)
    key = (1 << 32) | 1
    lies = (
        m.Ended(1, key, 2, 0.0, 1.0, 0),
        m.Ended(2, key, 0, 0.0, 1.0, 0),
        m.Ended(3, key + 7, 1, 0.0, 1.0, 0),
        m.Started(4, -5, 1, 0.0),
        m.Stopped(5, key, 9),
        m.Returned(6, 1 << 62, 1),
    )
    reply = await tell(cluster.control.agents, m.Sync(node_id, welcome.session, 0, lies))
    assert reply.acknowledged == 6, "acknowledged, so that it stops saying so"
    assert await cluster.state("t") is TaskState.ACTIVE
    assert (await tell(cluster.control.agents, m.Sync(node_id, "another session", 0, lies))).session_unknown
    assert await refusal(cluster.hello("tvmps_unknown_d")) is ErrorCode.NODE_NOT_FOUND
    assert await refusal(tell(cluster.control.agents, m.Sync("tvmps_unknown_d", "s", 0))) is ErrorCode.NODE_NOT_FOUND
    token = cluster.control.agents.token(node_id)
    assert cluster.control.agents.authenticate(node_id, token)
    assert not cluster.control.agents.authenticate("tvmps_other_d", token)
    assert not cluster.control.agents.authenticate(node_id, token[:-1] + "é")


async def test_a_failed_commit_is_busy_and_loses_nothing(cluster: Cluster) -> None:
    assert await cluster.add("before")
    cluster.store.fail_next_commit = StoreUnavailable("the disk is full")
    assert await refusal(cluster.add("refused")) is ErrorCode.SERVER_BUSY
    added = False
    while not added:
        try:
            await cluster.add("after")
            added = True
        except BatchError:
            await asyncio.sleep(0)
    assert await cluster.store.get_task("job", "refused") is None
    assert await cluster.state("before") is await cluster.state("after") is TaskState.ACTIVE
    assert cluster.control.ready


async def test_reports_that_cannot_be_written_are_not_acknowledged(cluster: Cluster) -> None:
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    await cluster.add("t")
    cluster.store.fail_next_commit = StoreUnavailable("the disk is full")
    now = cluster.control.now()
    reply = await tell(
        cluster.control.agents, m.Sync(node_id, welcome.session, 0, (m.Ended(1, (1 << 32) | 1, 1, now, now, 0),))
    )
    assert (reply.acknowledged, reply.retry_after_s > 0 or reply.session_unknown) == (0, True)
    assert await cluster.state("t") is TaskState.ACTIVE


async def test_a_failing_scheduler_tells_its_story_and_goes_on(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.add("before")

    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as planted:
        planted.setattr("millpond.control.engine.place", broken)
        assert await refusal(cluster.add("lost")) is ErrorCode.INTERNAL_ERROR
    assert "TasksAdded(job, ['before']" in caplog.text
    assert "planted" in caplog.text
    await cluster.add("after")
    assert await cluster.store.get_task("job", "lost") is None
    assert await cluster.state("before") is await cluster.state("after") is TaskState.ACTIVE


async def test_what_comes_all_at_once_is_decided_bit_by_bit(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop is for everybody: a long inbox is more than one batch, in order, and nothing is left behind."""
    monkeypatch.setattr(engine, "_BATCH_WEIGHT", 10)
    batches: list[list[str]] = []

    async def note(changes: ChangeSet) -> None:
        batches.append([task.id for task in changes.tasks.values() if task.key in changes.new_tasks])

    cluster.store.before_commit = note
    calls = [[f"{call}-{number}" for number in range(4)] for call in range(9)]
    await asyncio.gather(*(cluster.add(*ids) for ids in calls))
    cluster.store.before_commit = None
    assert [task_id for batch in batches for task_id in batch] == [task_id for ids in calls for task_id in ids]
    assert max(map(len, batches)) <= 12, "the entry that fills it goes in whole"


async def test_a_full_inbox_is_busy(cluster: Cluster) -> None:
    released = asyncio.Event()

    async def slow_disk(_: ChangeSet) -> None:
        await released.wait()

    cluster.store.before_commit = slow_disk
    waiting = [asyncio.ensure_future(cluster.add(*(f"{call}-{n}" for n in range(40)))) for call in range(4)]
    while not any(call.done() for call in waiting):
        await asyncio.sleep(0)
    refused = [call for call in waiting if call.done()]
    assert {await refusal(call) for call in refused} == {ErrorCode.SERVER_BUSY}
    released.set()
    cluster.store.before_commit = None
    accepted = [call for call in waiting if call not in refused]
    assert accepted
    await asyncio.gather(*accepted)
    await cluster.add("and goes on")


async def test_the_same_job_added_twice_at_once(cluster: Cluster) -> None:
    answers = await asyncio.gather(
        cluster.control.add_job(new_job("twin"), "a"),
        cluster.control.add_job(new_job("TWIN"), "b"),
        return_exceptions=True,
    )
    (error,) = [answer for answer in answers if isinstance(answer, BatchError)]
    assert error.code is ErrorCode.JOB_EXISTS


async def test_a_job_may_name_a_pool_that_does_not_exist_yet(cluster: Cluster) -> None:
    job = new_job("early")
    job.pool_id = "later"
    await cluster.control.add_job(job, "test")
    await cluster.control.to_job(
        "early", e.TasksAdded(at=cluster.control.now(), job_id="early", tasks=(NewTask("t", b"{}"),))
    )
    assert await refusal(cluster.control.to_pool("nowhere", e.PoolDeleteRequested(at=0.0))) is ErrorCode.POOL_NOT_FOUND
    await cluster.control.add_pool(new_pool(pool_id="Later"), "test")
    found = await cluster.store.get_pool("LATER")
    assert found is not None


async def test_a_restart_finds_everything_and_a_deleted_job_goes(cluster: Cluster) -> None:
    await cluster.add("a", "b")
    again = Cluster(cluster.store)
    await again.control.start()
    assert await again.state("b") is TaskState.ACTIVE
    assert await refusal(again.control.add_job(new_job(), "test")) is ErrorCode.JOB_EXISTS
    await again.control.to_job("job", e.JobDeleteRequested(at=again.control.now(), job_id="job"))
    while await again.store.get_job("job") is not None:
        await asyncio.sleep(0)
    await again.control.add_job(new_job(), "test")
    await again.control.stop()


async def test_a_silent_node_becomes_unknown_and_its_tasks_run_elsewhere() -> None:
    settings = ControlSettings(silent_after_s=0.05, lost_after_s=0.15, park_s=0.01)
    store = MemoryStore()
    cluster = Cluster(store)
    cluster.control = ControlService(
        "account", store, FakeProvider(), SIZES, secret=b"s", account_url=lambda: "", settings=settings
    )
    await cluster.control.start()
    await cluster.control.add_pool(new_pool(nodes=1), "test")
    await cluster.control.add_job(new_job(), "test")
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    await cluster.add("t")
    row = await store.get_task("job", "t")
    assert row is not None
    assert row.task.node_id == node_id
    async with asyncio.timeout(PATIENCE_S):
        while (node := await store.get_node("pool", node_id)) is None or node.state is not NodeState.UNKNOWN:
            await asyncio.sleep(0.01)
        while (row := await store.get_task("job", "t")) is None or row.task.node_id is not None:
            await asyncio.sleep(0.01)
    assert (await hear(cluster.control.agents, node_id, welcome.session, 0)).session_unknown
    await cluster.hello(node_id)
    row = await store.get_task("job", "t")
    assert row is not None
    assert (row.task.node_id, row.task.attempt, row.task.retry_count) == (node_id, 2, 0)
    await cluster.control.stop()


async def test_a_job_comes_with_its_manager_and_its_pool(cluster: Cluster) -> None:
    job, pool = new_job(job_id="managed"), new_pool(pool_id="auto")
    manager = NewTask("manager", b'{"commandLine":"true"}', rules=TaskRules(job_manager=JobManagerRules()))
    await cluster.control.add_job(job, "test", manager=manager, auto_pool=pool)
    assert (job.no, pool.no) == (2, 2)
    row = await cluster.store.get_task("managed", "manager")
    assert row is not None
    assert row.spec == manager.spec
    another = new_pool(pool_id="another")
    await cluster.control.add_pool(another, "test")
    assert another.no == 3


async def test_files_are_found_by_node_where_the_pool_is_not_said(cluster: Cluster) -> None:
    node_id = await cluster.until_node()
    files = cluster.control.files
    # It has not said hello, so it cannot be asked; but it is known.
    for pool_id in ("pool", "POOL", None):
        assert await refusal(files.stat(pool_id, node_id, "f")) is ErrorCode.NODE_NOT_READY
    assert await refusal(files.stat("other", node_id, "f")) is ErrorCode.NODE_NOT_FOUND
    assert await refusal(files.stat(None, "tvmps_unknown_d", "f")) is ErrorCode.NODE_NOT_FOUND


async def test_why_something_waits_is_told_from_memory_and_of_jobs_that_are_over_from_rows() -> None:
    cluster = Cluster(MemoryStore())
    control = cluster.control
    await control.start()
    try:
        with pytest.raises(BatchError, match="The pool 'pool' does not exist"):
            await control.explain_pool("pool")
        with pytest.raises(BatchError, match="The job 'job' does not exist"):
            await control.explain_task("job", "a")
        await control.add_job(new_job(), "test")
        await cluster.add("a")
        assert [cause.code for cause in (await control.explain_task("JOB", "A")).causes] == ["poolMissing"]
        with pytest.raises(BatchError, match="The pool 'pool' does not exist"):
            await control.explain_node("pool", "n")
        await control.add_pool(new_pool(1), "test")
        node_id = await cluster.until_node()
        assert (await control.explain_pool("pool")).subject.id == "pool"
        assert (await control.explain_node("pool", node_id)).subject.id == node_id
        await control.to_job("job", e.JobTerminateRequested(at=control.now(), job_id="job", reason="UserTerminate"))
        over = await control.explain_task("job", "a")
        assert [cause.code for cause in over.causes] == ["jobOver"]
        assert (await control.explain_job("job")).subject.id == "job"
        with pytest.raises(BatchError) as missing:
            await control.explain_task("job", "b")
        assert missing.value.code is ErrorCode.TASK_NOT_FOUND
    finally:
        await control.stop()


async def test_what_nodes_report_while_the_service_stops_is_refused_at_once(cluster: Cluster) -> None:
    """An answer that never came held up the server's end, which then cut it off with a traceback in the log."""
    node_id = await cluster.until_node()
    welcome = await cluster.hello(node_id)
    await cluster.add("t")
    reply = await hear(cluster.control.agents, node_id, welcome.session, 0)
    (start,) = reply.directives
    assert isinstance(start, m.Start)
    await cluster.control.stop()
    now = cluster.control.now()
    reports = (m.Started(1, start.key, 1, now), m.Ended(2, start.key, 1, now, now, 0))
    async with asyncio.timeout(PATIENCE_S):
        reply = await tell(cluster.control.agents, m.Sync(node_id, welcome.session, start.revision, reports))
    assert (reply.acknowledged, reply.retry_after_s) == (0, SETTINGS.store_retry_s), "the node keeps them"
