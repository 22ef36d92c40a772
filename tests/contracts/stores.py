"""The stores under contract, and rows to put into them."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from millpond.domain import ids
from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.states import (
    AllocationState,
    ErrorCategory,
    JobAction,
    JobState,
    NodeState,
    PoolState,
    TaskState,
)
from millpond.domain.task import (
    ExitConditions,
    ExitOptions,
    FailureInfo,
    NameValue,
    ResourceUse,
    Task,
    TaskRules,
)
from millpond.store.base import Fence, Page, Store, StoreFacts
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from millpond.store.sqlite import SqliteStore

T0 = 1_700_000_000.123457


class Place(Protocol):
    """Where data lives while stores come and go."""

    def store(self) -> Store:
        """A store on that data, not yet open."""
        ...


class MemoryPlace:
    def __init__(self, directory: Path) -> None:
        self._store = MemoryStore()

    def store(self) -> Store:
        return self._store


class SqlitePlace:
    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "store.db")

    def store(self) -> Store:
        return SqliteStore(self._path)


class BusySqlite(SqliteStore):
    """One whose process writes from the first commit on."""

    async def open(self) -> StoreFacts:
        facts = await super().open()
        await self.write_by_process()
        return facts


class BusySqlitePlace(SqlitePlace):
    def store(self) -> Store:
        return BusySqlite(self._path)


PLACES: dict[str, Callable[[Path], Place]] = {
    "memory": MemoryPlace,
    "sqlite": SqlitePlace,
    "sqlite-process": BusySqlitePlace,
}


async def lease(store: Store, pool_key: str = "pool", owner: str = "me", at: float = T0) -> Fence:
    fence = await store.acquire_lease(pool_key, owner, at, 30.0)
    assert fence is not None
    return fence


def a_pool(no: int = 1, pool_id: str = "Pool", **fields: object) -> Pool:
    defaults = {
        "state": PoolState.ACTIVE,
        "allocation_state": AllocationState.STEADY,
        "creation_time": T0,
        "last_modified": T0 + 1,
        "state_time": T0 + 2,
        "allocation_state_time": T0 + 3,
        "spec": {"vmSize": "Standard_D2s_v3", "metadata": [{"name": "a", "value": "\u00e4"}]},
        "vm_size": "Standard_D2s_v3",
    }
    return Pool(no=no, id=pool_id, **(defaults | fields))


def a_node(number: int = 1, pool_no: int = 1, **fields: object) -> Node:
    defaults = {"state": NodeState.IDLE, "state_time": T0, "allocation_time": T0 - 1}
    node_id = ids.make_node_id("account", pool_no, number, dedicated=bool(fields.get("is_dedicated", True)))
    return Node(id=node_id, pool_no=pool_no, **(defaults | fields))


def a_job(no: int = 1, job_id: str = "Job-1", pool_id: str = "Pool", **fields: object) -> Job:
    defaults = {
        "state": JobState.ACTIVE,
        "creation_time": T0,
        "last_modified": T0,
        "state_time": T0,
        "spec": {"id": job_id, "poolInfo": {"poolId": pool_id}},
    }
    return Job(no=no, id=job_id, pool_id=pool_id, **(defaults | fields))


def a_task(number: int = 1, job_no: int = 1, task_id: str | None = None, **fields: object) -> Task:
    defaults = {"state": TaskState.ACTIVE, "creation_time": T0, "last_modified": T0, "state_time": T0}
    return Task(key=ids.task_key(job_no, number), id=task_id or f"Task-{number}", **(defaults | fields))


def a_wide_task(number: int = 1, job_no: int = 1) -> Task:
    """Every field differs from its default."""
    return a_task(
        number,
        job_no,
        state=TaskState.COMPLETED,
        creation_time=T0,
        last_modified=T0 + 0.000001,
        state_time=T0 + 5,
        required_slots=3,
        max_retry_count=-1,
        previous_state=TaskState.RUNNING,
        previous_state_time=T0 + 4,
        attempt=7,
        node_id=a_node().id,
        retry_count=2,
        requeue_count=1,
        last_retry_time=T0 + 2.5,
        last_requeue_time=T0 + 2.25,
        start_time=T0 + 4.125,
        end_time=T0 + 4.9999,
        exit_code=-9,
        failure=FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", "it failed: \u2713", (NameValue("a", "b"),)),
        satisfies=True,
        use=ResourceUse(1.5, 0.25, 60.0, 3.0, 2),
        rules=TaskRules(
            depends_on_ids=("a", "b"),
            depends_on_ranges=((1, 4),),
            exit_conditions=ExitConditions(
                exit_codes=((1, ExitOptions(JobAction.TERMINATE)),), exit_code_ranges=((2, 3, ExitOptions()),)
            ),
            affinity_node_id="tvmps_x_d",
        ),
    )


def with_tasks(*tasks: Task, new: bool = True) -> ChangeSet:
    return ChangeSet(
        tasks={task.key: task for task in tasks},
        new_tasks={task.key for task in tasks} if new else set(),
        specs={task.key: b'{"id":"%s"}' % task.id.encode() for task in tasks} if new else {},
    )


def with_jobs(*jobs: Job) -> ChangeSet:
    return ChangeSet(jobs={job.no: job for job in jobs})


async def all_pages(list_page, limit: int) -> list:
    """Everything a listing has, and that no page is longer than asked for."""
    items: list = []
    token: str | None = None
    for _ in range(10_000):
        page: Page = await list_page(limit, token)
        assert len(page.items) <= limit
        items += page.items
        token = page.next
        if token is None:
            return items
        assert token.replace("-", "").replace("_", "").isalnum()
        assert token.isascii()
    raise AssertionError("the listing does not end")
