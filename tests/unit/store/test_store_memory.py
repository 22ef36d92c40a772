"""What the in-memory store offers the simulation beyond the contract: failures, delays, survival."""

import asyncio

import pytest

from millpond.domain import ids
from millpond.domain.errors import StoreUnavailable
from millpond.domain.job import Job
from millpond.domain.states import JobState, TaskState
from millpond.domain.task import Task
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore


def with_task(number: int) -> ChangeSet:
    task = Task(ids.task_key(1, number), f"task-{number}", TaskState.ACTIVE, 1.0, 1.0, 1.0)
    return ChangeSet(tasks={task.key: task}, new_tasks={task.key}, specs={task.key: b"{}"})


@pytest.fixture
async def store():
    store = MemoryStore()
    await store.open()
    return store


@pytest.fixture
async def fence(store):
    return await store.acquire_lease("pool", "me", 0.0, 30.0)


async def _ids(store):
    return [row.task.id for row in (await store.list_tasks(1, None, 100, None)).items]


async def test_the_next_commit_can_be_made_to_fail_once(store, fence):
    store.fail_next_commit = StoreUnavailable("disk full")
    with pytest.raises(StoreUnavailable, match="disk full"):
        await store.commit(with_task(1), fence)
    assert await _ids(store) == []
    await store.commit(with_task(1), fence)
    assert await _ids(store) == ["task-1"]
    assert store.commits == 1


async def test_a_commit_can_be_made_to_take_time(store, fence):
    gate = asyncio.Event()
    seen: list[ChangeSet] = []

    async def slow_disk(changes: ChangeSet) -> None:
        seen.append(changes)
        await gate.wait()

    store.before_commit = slow_disk
    changes = with_task(1)
    commit = asyncio.ensure_future(store.commit(changes, fence))
    await asyncio.sleep(0)
    changes.tasks[ids.task_key(1, 1)].attempt = 9
    assert len(seen) == 1
    assert await _ids(store) == []
    gate.set()
    await commit
    assert (await store.list_tasks(1, None, 1, None)).items[0].task.attempt == 0


async def test_a_crash_while_the_disk_is_busy_writes_nothing(store, fence):
    async def never(changes: ChangeSet) -> None:
        await asyncio.Event().wait()

    store.before_commit = never
    commit = asyncio.ensure_future(store.commit(with_task(1), fence))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait([commit])
    store.before_commit = None
    assert await _ids(store) == []


async def test_a_new_engine_finds_what_the_old_one_left(store, fence):
    changes = with_task(1)
    changes.jobs[4] = Job(4, "job", "pool", JobState.ACTIVE, 1.0, 1.0, 1.0, {"id": "job"})
    await store.commit(changes, fence)
    await store.close()
    facts = await store.open()
    assert (facts.next_job_no, facts.jobs) == (5, [("job", 4, "pool")])
    assert await _ids(store) == ["task-1"]


async def test_a_specification_that_is_no_json_fails_as_it_would_on_disk(store, fence):
    job = Job(1, "job", "pool", JobState.ACTIVE, 1.0, 1.0, 1.0, {"id": object()})
    with pytest.raises(TypeError):
        await store.commit(ChangeSet(jobs={1: job}), fence)
    assert await store.get_job("job") is None
