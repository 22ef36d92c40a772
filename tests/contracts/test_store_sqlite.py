"""What only a file can suffer: kills, full disks, damage, other versions; and the writing of many at once."""

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.domain import ids
from millpond.domain.errors import LeaseLost, StoreUnavailable
from millpond.domain.job import Job
from millpond.domain.node import PendingOperation
from millpond.domain.special_task import SpecialTaskInfo
from millpond.domain.states import (
    ErrorCategory,
    JobDefaultOrder,
    JobState,
    NodeDeallocationOption,
    NodeOperation,
    TaskState,
)
from millpond.domain.task import FailureInfo, Task
from millpond.odata import properties
from millpond.odata.parse import parse_filter
from millpond.store import sqlite_file, sqlite_listing, sqlite_tasks
from millpond.store.base import Fence
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from millpond.store.sql_files import load_migrations
from millpond.store.sqlite import SqliteStore

T0 = 1_700_000_000.0


def a_task(number: int, job_no: int = 1, **fields: object) -> Task:
    return Task(
        key=ids.task_key(job_no, number),
        id=str(fields.pop("id", f"task-{number}")),
        state=fields.pop("state", TaskState.ACTIVE),
        creation_time=T0,
        last_modified=T0,
        state_time=T0,
        **fields,
    )


def with_tasks(*tasks: Task, spec: bytes = b"{}") -> ChangeSet:
    keys = {task.key for task in tasks}
    return ChangeSet(tasks={task.key: task for task in tasks}, new_tasks=keys, specs=dict.fromkeys(keys, spec))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.db")


@pytest.fixture
async def store(path):
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def fence(store):
    return await store.acquire_lease("pool", "me", T0, 30.0)


@pytest.mark.parametrize("at_once", [1, 3, 7, 9, 100])
async def test_a_pool_is_loaded_in_parts(store, fence, monkeypatch, at_once):
    monkeypatch.setattr(sqlite_tasks, "_ADDED_AT_ONCE", at_once)
    tasks = [
        a_task(number, max_retry_count=number if number % 4 else None) for number in (*range(1, 6), *range(20, 24))
    ]
    tasks[3].state = TaskState.COMPLETED
    changes = with_tasks(*tasks)
    changes.jobs = {1: Job(1, "job", "pool", JobState.ACTIVE, T0, T0, T0, {})}
    await store.commit(changes, fence)
    assert (await store.load_pool("pool")).tasks == tasks


def _connection_of(store: SqliteStore) -> sqlite3.Connection:
    """The one that is written with."""
    return store._commits._thread.writer._connection


# --- crashes ---------------------------------------------------------------------------------------------------------

WRITING_CHILD = """
import asyncio, sys
from millpond.domain import ids
from millpond.domain.job import Job
from millpond.domain.states import TaskState
from millpond.domain.task import Task
from millpond.store.changes import ChangeSet
from millpond.store.sqlite import SqliteStore

async def engine(store, job_no):
    fence = await store.acquire_lease(f"pool-{job_no}", "child", 0.0, 1e9)
    for batch in range(1_000_000):
        tasks = [
            Task(ids.task_key(job_no, batch * 7 + n), f"t{batch * 7 + n}", TaskState.ACTIVE, 1.0, 1.0, 1.0)
            for n in range(1, 8)
        ]
        changes = ChangeSet(tasks={t.key: t for t in tasks}, new_tasks={t.key for t in tasks},
                            specs={t.key: b"{}" for t in tasks})
        await store.commit(changes, fence)
        print(job_no, batch, flush=True)

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await asyncio.gather(*(engine(store, job_no) for job_no in range(1, 5)))

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_it_was_told_is_written(path):
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITING_CHILD, path, stdout=asyncio.subprocess.PIPE
    )
    lines = [await asyncio.wait_for(child.stdout.readline(), 30) for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    rest, _ = await child.communicate()
    lines += rest.splitlines(keepends=True)
    acknowledged = {tuple(map(int, line.split())) for line in lines if line.endswith(b"\n")}
    assert len(acknowledged) >= 200

    store = SqliteStore(path)
    await store.open()
    found: dict[int, list[int]] = {}
    for job_no in range(1, 5):
        token = None
        while True:
            page = await store.list_tasks(job_no, None, 1000, token)
            found.setdefault(job_no, []).extend(ids.task_number_of(row.task.key) for row in page.items)
            assert all(row.spec == b"{}" for row in page.items)
            token = page.next
            if token is None:
                break
    for job_no, batch in acknowledged:
        assert {batch * 7 + n for n in range(1, 8)} <= set(found[job_no])
    for numbers in found.values():
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) % 7 == 0  # whole commits only
    await store.close()


async def test_the_files_of_a_running_store_hold_all_that_was_acknowledged(store, fence, path, tmp_path):
    await store.commit(with_tasks(*(a_task(number) for number in range(1, 400))), fence)
    copy = str(tmp_path / "copy.db")
    for ending in ("", "-wal"):
        shutil.copy(path + ending, copy + ending)
    twin = SqliteStore(copy)
    await twin.open()
    assert await twin.load_pool("pool") == await store.load_pool("pool")
    assert len((await twin.list_tasks(1, None, 1000, None)).items) == 399
    await twin.close()


async def test_two_owners_of_one_file_are_told_apart_by_epoch(store, fence, path):
    """A process that was thought dead: its commits are refused, whatever it still remembers."""
    await store.commit(with_tasks(a_task(1, node_id="node-a")), fence)
    other = SqliteStore(path)
    await other.open()
    assert await other.acquire_lease("pool", "you", T0 + 1, 30.0) is None
    taken = await other.acquire_lease("pool", "you", T0 + 31, 30.0)
    await other.commit(with_tasks(a_task(2, node_id="node-b")), taken)
    with pytest.raises(LeaseLost):
        await store.commit(with_tasks(a_task(3, node_id="node-c")), fence)
    found = [row.task.node_id for row in (await store.list_tasks(1, None, 10, None)).items]
    assert found == ["node-a", "node-b"]
    await other.close()


# --- the disk's troubles ---------------------------------------------------------------------------------------------


async def test_a_full_disk_is_reported_and_got_over(store, fence, path):
    await store.commit(with_tasks(a_task(1)), fence)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = b"x" * 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path + "-wal").st_size + 20_000, hard))
    try:
        with pytest.raises(StoreUnavailable):
            await store.commit(with_tasks(*(a_task(number) for number in range(2, 50)), spec=big), fence)
        failed = await asyncio.gather(
            *(store.commit(with_tasks(a_task(number), spec=big * 10), fence) for number in range(50, 54)),
            return_exceptions=True,
        )
        assert all(isinstance(failure, StoreUnavailable) for failure in failed)
        assert [row.task.id for row in (await store.list_tasks(1, None, 10, None)).items] == ["task-1"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.commit(with_tasks(*(a_task(number) for number in range(2, 50)), spec=big), fence)
    assert len((await store.load_pool("pool")).tasks) == 0
    assert len((await store.list_tasks(1, None, 100, None)).items) == 49


async def test_a_full_database_is_reported_and_got_over(store, fence, path):
    """Numbers and node names that were rolled back are not taken for written."""
    node_id = ids.make_node_id("account", 1, 1, dedicated=True)
    (pages,) = _connection_of(store).execute("PRAGMA page_count").fetchone()
    _connection_of(store).execute(f"PRAGMA max_page_count = {pages + 2}")
    changes = with_tasks(*(a_task(number, node_id=node_id) for number in range(1, 50)), spec=b"x" * 4096)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit(changes, fence)
    _connection_of(store).execute("PRAGMA max_page_count = 1073741823")
    await store.commit(changes, fence)
    rows = (await store.list_tasks(1, None, 100, None)).items
    assert [row.task.node_id for row in rows] == [node_id] * 49


async def test_another_process_writing_for_too_long_is_reported(store, fence, path, monkeypatch):
    _connection_of(store).execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.commit(with_tasks(a_task(1)), fence)
    with pytest.raises(StoreUnavailable, match="locked"):
        await store.acquire_lease("other", "me", T0, 1.0)
    other.execute("ROLLBACK")
    other.close()
    await store.commit(with_tasks(a_task(1)), fence)


def _rewrite(path, change):
    file = Path(path)
    file.write_bytes(change(file.read_bytes() if file.exists() else b""))


# --- files that will not do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 5000])
async def test_a_file_that_is_no_database(path, size):
    _rewrite(path, lambda _: b"rubbish!!!" * (size // 10))
    with pytest.raises(StoreUnavailable, match="not a database"):
        await SqliteStore(path).open()


async def test_a_damaged_file(path):
    store = SqliteStore(path)
    await store.open()
    await store.close()
    _rewrite(path, lambda contents: contents[:100] + b"\xff" * 3900 + contents[4000:])
    with pytest.raises(StoreUnavailable, match=r"store\.db cannot be opened: .*malformed"):
        await SqliteStore(path).open()


async def test_a_directory_and_a_place_that_is_not_there(tmp_path):
    for wrong in (str(tmp_path), str(tmp_path / "no" / "store.db")):
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            await SqliteStore(wrong).open()


async def test_a_database_of_something_else(path):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE cat (name)")
    other.commit()
    other.close()
    with pytest.raises(ValueError, match="not one of Millpond's"):
        await SqliteStore(path).open()


async def test_a_file_written_by_a_newer_millpond(path):
    store = SqliteStore(path)
    await store.open()
    await store.close()
    newer = sqlite3.connect(path)
    newer.execute("INSERT INTO schema_version VALUES (999)")
    newer.commit()
    newer.close()
    with pytest.raises(ValueError, match="newer Millpond: its schema is version 999, this Millpond knows up to"):
        await SqliteStore(path).open()


async def test_the_file_is_for_the_owner_only(store, fence, path):
    await store.commit(with_tasks(a_task(1)), fence)
    for ending in ("", "-wal", "-shm"):
        assert stat.S_IMODE(os.stat(path + ending).st_mode) == 0o600


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_what_waits_together_is_written_together(store, path):
    fences = [await store.acquire_lease(f"pool-{number}", "me", T0, 30.0) for number in range(20)]
    fences[7] = Fence("pool-7", 0)
    await store.commit(with_tasks(a_task(1, job_no=9)), fences[9])
    statements: list[str] = []
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    first = asyncio.ensure_future(store.commit(with_tasks(a_task(1, job_no=100)), fences[0]))
    await asyncio.sleep(0)
    _connection_of(store).set_trace_callback(statements.append)
    rest = [
        asyncio.ensure_future(store.commit(with_tasks(a_task(1, job_no=number)), fences[number]))
        for number in range(1, 20)
    ]
    await asyncio.sleep(0)
    blocker.execute("ROLLBACK")
    blocker.close()
    await first
    outcomes = await asyncio.gather(*rest, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes, 1) if outcome is not None] == [7, 9]
    assert isinstance(outcomes[6], LeaseLost)
    for number in range(1, 20):
        rows = (await store.list_tasks(number, None, 10, None)).items
        assert len(rows) == (0 if number == 7 else 1)

    # Without a wrong row among them it is one transaction, or two when the first was begun alone.
    statements.clear()
    await asyncio.gather(
        *(store.commit(with_tasks(a_task(2, job_no=number)), fences[number]) for number in range(20) if number != 7)
    )
    assert statements.count("COMMIT") <= 3


# --- filtered listings -----------------------------------------------------------------------------------------------


async def test_a_filtered_page_looks_at_so_many_rows_and_no_more(store, fence, monkeypatch):
    monkeypatch.setattr(sqlite_listing, "SCAN_ROWS", 100)
    tasks = [a_task(number, id="needle" if number == 250 else f"t{number}") for number in range(1, 301)]
    await store.commit(with_tasks(*tasks), fence)
    where = parse_filter("id eq 'needle'", properties.TASKS)
    pages = []
    token = None
    while True:
        page = await store.list_tasks(1, where, 10, token)
        pages.append([row.task.id for row in page.items])
        token = page.next
        if token is None:
            break
    assert pages[:3] == [[], [], ["needle"]]
    assert len(pages) <= 4


# --- the same as in memory -------------------------------------------------------------------------------------------

NUMBERS = st.integers(1, 12)
FIELDS = st.fixed_dictionaries(
    {
        "state": st.sampled_from(TaskState),
        "node_id": st.none() | st.sampled_from(["node-1", "node-2"]),
        "attempt": st.integers(0, 3),
        "exit_code": st.none() | st.integers(-1, 1),
        "failure": st.none() | st.just(FailureInfo(ErrorCategory.USER_ERROR, "c", "m")),
        "end_time": st.none() | st.sampled_from([T0, T0 + 1e-6]),
    }
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.lists(st.tuples(NUMBERS, FIELDS), max_size=6)),
        st.tuples(st.just("delete"), st.lists(NUMBERS, max_size=4)),
        st.tuples(st.just("purge"), NUMBERS),
        st.tuples(st.just("lease"), st.booleans()),
    ),
    max_size=8,
)
FILTERS = [
    None,
    "state eq 'completed' and executionInfo/result ne 'failure'",
    "executionInfo/exitCode ge 0 or startswith(id,'task-1')",
    "executionInfo/endTime gt datetime'2023-11-14T22:13:20Z'",
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_both_stores_agree(steps, tmp_path_factory):
    asyncio.run(_run_both(steps, str(tmp_path_factory.mktemp("both") / "store.db")))


async def _run_both(steps, path):
    stores = [MemoryStore(), SqliteStore(path)]
    for store in stores:
        await store.open()
    fences = [await store.acquire_lease("pool", "me", T0, 30.0) for store in stores]
    present: set[int] = set()
    job = Job(1, "job", "pool", JobState.ACTIVE, T0, T0, T0, {})
    for store, fence in zip(stores, fences, strict=True):
        await store.commit(ChangeSet(jobs={1: job}), fence)
    for kind, what in steps:
        changes = ChangeSet()
        if kind == "save":
            for number, fields in what:
                changes.tasks[ids.task_key(1, number)] = a_task(number, **fields)
            changes.new_tasks = changes.tasks.keys() - present
            present |= changes.tasks.keys()
        elif kind == "delete":
            changes.deleted_tasks = {ids.task_key(1, number) for number in what}
            changes.satisfied = {(1, f"task-{number}") for number in what}
            present -= changes.deleted_tasks
        elif kind == "purge":
            gone = [await store.purge_tasks(1, what, fence) for store, fence in zip(stores, fences, strict=True)]
            assert gone[0] == gone[1]
            present = set(sorted(present)[gone[0] :])
        else:
            taken = [await store.acquire_lease("pool", "me" if what else "you", T0 + 1, 30.0) for store in stores]
            assert taken[0] == taken[1]
            fences = taken if taken[0] is not None else fences
        outcomes = await asyncio.gather(
            *(store.commit(changes, fence) for store, fence in zip(stores, fences, strict=True))
        )
        assert outcomes == [None, None]
    answers = []
    for store in stores:
        answer = [
            await store.load_pool("pool"),
            await store.tasks_of_keys([ids.task_key(1, number) for number in range(50)]),
        ]
        for text in FILTERS:
            where = None if text is None else parse_filter(text, properties.TASKS)
            answer.append(await store.list_tasks(1, where, 3, None))
        answers.append(answer)
        await store.close()
    assert answers[0] == answers[1]


# --- data of older versions ------------------------------------------------------------------------------------------


async def test_data_of_the_first_schema_is_opened_and_upgraded(path):
    """Rows as the first Millpond wrote them."""
    first = sqlite3.connect(path)
    (script,) = [text for number, text in load_migrations() if number == 1]
    first.executescript(script)
    first.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
    first.execute("INSERT INTO schema_version VALUES (1)")
    first.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
    pool = (
        b'{"no":1,"id":"pool","state":"active","allocation_state":"steady","creation_time":1.5,"last_modified":1.5,'
        b'"state_time":1.5,"allocation_state_time":1.5,"spec":{"enableInterNodeCommunication":true,'
        b'"taskSchedulingPolicy":{"jobDefaultOrder":"creationtime","nodeFillType":"pack"}},"vm_size":"small","task_slots_per_node":1,'
        b'"fill_type":"spread","target_dedicated_nodes":1,"target_low_priority_nodes":0,"resize_timeout_s":900.0,'
        b'"resize_deadline":null,"node_deallocation_option":"requeue","resize_errors":[],"next_node_number":2}'
    )
    first.execute(
        "INSERT INTO pool VALUES (1, 'pool', 'active', 1.5, 'steady', 1.5, 1.5, 1.5, 0, 1, 'small', ?)", (pool,)
    )
    for number, removal in ((1, b"null"), (2, b'"taskcompletion"')):
        node = (
            b'{"id":"node-%d","pool_no":1,"state":"running","state_time":1700000000.123457,"allocation_time":2.25,'
            b'"is_dedicated":true,"scheduling_state":"enabled","last_boot_time":3.5,"ip_address":"","agent_version":"1",'
            b'"handle":"{\\"pid\\": 7}","removal":%s,"running_tasks":1,"running_task_slots":1,"total_tasks_run":0,'
            b'"total_tasks_succeeded":0,"errors":[]}' % (number, removal)
        )
        first.execute("INSERT INTO node VALUES (?, 1, 1, 'running', 2.5, 3.5, 2.25, ?)", (f"node-{number}", node))
    job = (
        b'{"no":1,"id":"job","pool_id":"pool","state":"active","creation_time":1.0,"last_modified":1.0,"state_time":1.0,'
        b'"spec":{"id":"job","allowTaskPreemption":true},"priority":0,"next_task_number":2,"counts":{"active":1}}'
    )
    first.execute("INSERT INTO job VALUES (1, 'job', 'pool', 'active', 1.0, 1.0, 1.0, NULL, NULL, ?)", (job,))
    first.execute(
        "INSERT INTO task (key, id, state, creation_time, last_modified, state_time, required_slots, attempt,"
        " retry_count, requeue_count, satisfies, rules) VALUES (?, 't', 'active', 1.0, 1.0, 1.0, 1, 0, 0, 0, 0, ?)",
        (ids.task_key(1, 1), b'{"depends_on_ids":["a"],"depends_on_ranges":[]}'),
    )
    first.execute("UPDATE counter SET next = 2")
    first.commit()
    first.close()

    store = SqliteStore(path)
    facts = await store.open()
    assert (facts.next_pool_no, facts.next_job_no, facts.next_job_schedule_no) == (2, 2, 1)
    contents = await store.load_pool("pool")
    stays, leaves = contents.nodes
    assert stays.pending is None
    assert leaves.pending == PendingOperation(NodeOperation.REMOVE, NodeDeallocationOption.TASK_COMPLETION)
    assert leaves.removal is NodeDeallocationOption.TASK_COMPLETION
    assert (leaves.state_time, leaves.handle, leaves.start_task) == (1700000000.123457, '{"pid": 7}', None)
    assert contents.jobs[0].schedule_id is None
    assert contents.jobs[0].allow_task_preemption is True
    assert contents.pool.inter_node_communication is True
    assert contents.pool.job_default_order is JobDefaultOrder.CREATION_TIME
    assert contents.tasks[0].rules.depends_on_ids == ("a",)
    fence = await store.acquire_lease("pool", "me", T0, 30.0)
    leaves.start_task = SpecialTaskInfo(1, T0)
    job = Job(2, "nightly:job-1", "pool", JobState.ACTIVE, T0, T0, T0, {}, schedule_id="nightly")
    await store.commit(ChangeSet(nodes={leaves.id: leaves}, jobs={2: job}), fence)
    where = parse_filter("startTaskInfo/state eq 'running'", properties.NODES)
    assert (await store.list_nodes("pool", where, 10, None)).items == [leaves]
    assert len((await store.list_jobs(None, 10, None, schedule_id="nightly")).items) == 1
    await store.close()
    store = SqliteStore(path)
    await store.open()
    assert len((await store.load_pool("pool")).nodes) == 2
    await store.close()


async def test_names_of_nodes_that_nothing_bears_are_forgotten(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    store = SqliteStore(path)
    await store.open()
    fence = await store.acquire_lease("pool", "me", T0, 30.0)
    assert fence is not None
    for number in range(1, 501):
        await store.commit(with_tasks(a_task(number, node_id=f"tvmps_{number}_d")), fence)
    await store.commit(ChangeSet(deleted_tasks={a_task(number).key for number in range(1, 500)}), fence)
    await store.forget_node_names(100)
    await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT id FROM node_name").fetchall() == [("tvmps_500_d",)]
    connection.close()
