"""Counts of tasks and of slots are exact at any moment: whoever looks at the store, whenever, finds the job's counts to
be those of its rows."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.errors import BatchError
from millpond.domain.task import NewTask, TaskCounts
from millpond.protocol import messages as m
from millpond.providers.base import VmSize
from millpond.providers.fake import FakeProvider
from millpond.store.sqlite import SqliteStore
from millpond.store.sqlite_rows import job_of_record
from tests.listening import hear, tell
from tests.unit.scheduler.world import new_job, new_pool

TASKS = 10_000
BATCH = 100
NODES = 4
SLOTS = 100
SETTINGS = ControlSettings(inbox_limit=100_000, observe_interval_s=0.05, park_s=1.0)


class Watcher:
    """Reads job and rows in one transaction, on a connection of its own, over and over."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.looks = 0
        self.seen: set[tuple[int, ...]] = set()

    def look(self) -> TaskCounts:
        self._connection.execute("BEGIN")
        try:
            (record,) = self._connection.execute("SELECT record FROM job WHERE id = 'job'").fetchone()
            rows = self._connection.execute(
                "SELECT state, failure IS NULL, count(*), sum(required_slots) FROM task GROUP BY 1, 2"
            ).fetchall()
        finally:
            self._connection.execute("ROLLBACK")
        counted = TaskCounts()
        for state, well, tasks, slots in rows:
            name = {"active": "active", "completed": "succeeded" if well else "failed"}.get(state, "running")
            setattr(counted, name, getattr(counted, name) + tasks)
            setattr(counted, f"{name}_slots", getattr(counted, f"{name}_slots") + slots)
        counts = job_of_record(record).counts
        assert counts == counted
        self.looks += 1
        self.seen.add((counts.active, counts.running, counts.succeeded, counts.failed))
        return counts

    async def watch(self, added: asyncio.Event) -> None:
        """Until all are added and all are done."""
        while True:
            was_added = added.is_set()
            counts = await asyncio.to_thread(self.look)
            if was_added and counts.completed == counts.total:
                return
            await asyncio.sleep(0.002)

    def close(self) -> None:
        self._connection.close()


class Agent:
    """Runs what it is told in no time, some of it badly."""

    def __init__(self, control: ControlService, node_id: str, chance: random.Random) -> None:
        self._control = control
        self._node_id = node_id
        self._random = chance
        self._serial = 0
        self._reports: list[m.Report] = []
        self._running: dict[tuple[int, int], float] = {}

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def _take(self, directive: m.Directive) -> None:
        match directive:
            case m.Start(key=key, attempt=attempt):
                begun = self._control.now()
                self._reports.append(m.Started(self._next(), key, attempt, begun))
                self._running[key, attempt] = begun
            case m.Stop(key=key, attempt=attempt):
                self._running.pop((key, attempt), None)
                self._reports.append(m.Stopped(self._next(), key, attempt))
            case m.Return(key=key, attempt=attempt):
                if (key, attempt) not in self._running:
                    self._reports.append(m.Returned(self._next(), key, attempt))

    def _end_some(self) -> None:
        for (key, attempt), begun in list(self._running.items()):
            if self._random.random() < 0.7:
                del self._running[key, attempt]
                code = self._random.choice((0, 0, 0, 1))
                self._reports.append(m.Ended(self._next(), key, attempt, begun, self._control.now(), code))

    async def work(self, over: asyncio.Event) -> None:
        hello = m.Hello(self._node_id, m.PROTOCOL_VERSION, "1", 1.0, "127.0.0.1", inventory=())
        welcome = await self._control.agents.hello(hello)
        seen = 0
        while not over.is_set():
            reports = tuple(self._reports)
            idle = not reports and not self._running
            if idle:
                reply = await hear(self._control.agents, self._node_id, welcome.session, seen)
            else:
                sync = m.Sync(self._node_id, welcome.session, seen, reports)
                reply = await tell(self._control.agents, sync)
            self._reports = [one for one in self._reports if one.seq > reply.acknowledged]
            for directive in reply.directives:
                seen = max(seen, directive.revision)
                self._take(directive)
            self._end_some()


class User:
    """Adds tasks, and changes his mind about some."""

    def __init__(self, control: ControlService, chance: random.Random) -> None:
        self._control = control
        self._random = chance
        self.deleted = 0

    async def _ask(self, event: e.Event) -> bool:
        try:
            await self._control.to_job("job", event)
        except BatchError:
            return False
        return True

    async def work(self) -> None:
        for first in range(0, TASKS, BATCH):
            tasks = tuple(
                NewTask(
                    f"t{number}",
                    b'{"commandLine":"true"}',
                    required_slots=self._random.randint(1, 4),
                    max_retry_count=self._random.choice((0, 1)),
                )
                for number in range(first, first + BATCH)
            )
            at = self._control.now()
            assert await self._ask(e.TasksAdded(at=at, job_id="job", tasks=tasks))
            await asyncio.gather(*(self._change_mind(f"t{self._random.randrange(first + BATCH)}") for _ in range(5)))

    async def _change_mind(self, task_id: str) -> None:
        at = self._control.now()
        match self._random.randrange(3):
            case 0:
                await self._ask(e.TaskTerminateRequested(at=at, job_id="job", task_id=task_id))
            case 1:
                await self._ask(e.TaskReactivateRequested(at=at, job_id="job", task_id=task_id))
            case _:
                if await self._ask(e.TaskDeleteRequested(at=at, job_id="job", task_id=task_id)):
                    self.deleted += 1


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[ControlService]:
    service = ControlService(
        "account",
        SqliteStore(str(tmp_path / "store.db")),
        FakeProvider(),
        {"local": VmSize("local", 64, 4096, 0.1)},
        secret=b"secret",
        account_url=lambda: "http://here/",
        settings=SETTINGS,
    )
    await service.start()
    yield service
    await service.stop()


@pytest.mark.timeout(120)
async def test_counts_are_those_of_the_rows_whenever_one_looks(control: ControlService, tmp_path: Path) -> None:
    await control.add_pool(new_pool(NODES, SLOTS), "test")
    await control.add_job(new_job(), "test")
    node_ids: list[str] = []
    while len(node_ids) < NODES:
        page = await control.store.list_nodes("pool", None, 10, None)
        node_ids = [node.id for node in page.items if node.handle]
        await asyncio.sleep(0)
    watcher = Watcher(str(tmp_path / "store.db"))
    added, over = asyncio.Event(), asyncio.Event()
    user = User(control, random.Random(0))
    async with asyncio.TaskGroup() as group:
        for number, node_id in enumerate(node_ids, 1):
            group.create_task(Agent(control, node_id, random.Random(number)).work(over))
        watching = group.create_task(watcher.watch(added))
        await user.work()
        added.set()
        await watching
        over.set()
    counts = watcher.look()
    watcher.close()
    assert counts.total == counts.completed == TASKS - user.deleted
    assert min(counts.succeeded, counts.failed, user.deleted) > 0
    assert watcher.looks > len(watcher.seen) > 10
