"""The embedded store: one SQLite file.

One thread or process writes (`sqlite_commits`), a few threads read, each with its own connection; in WAL mode they do not wait for one
another. Full sync: a commit is answered when the disk has it.
"""

import asyncio
import contextlib
import functools
import gc
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from millpond.domain import ids
from millpond.domain.application import Application
from millpond.domain.durations import Timestamp
from millpond.domain.errors import Bug, StoreUnavailable
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import JobState
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.odata.filters import Filter
from millpond.odata.sql import Parameter
from millpond.store import paging, sqlite_logs, sqlite_rows
from millpond.store.base import (
    Fence,
    JobContents,
    KeptLog,
    LogPack,
    NodeCounts,
    Page,
    PoolContents,
    SampleBlock,
    StoredRun,
    StoreFacts,
    TaskRow,
)
from millpond.store.changes import ChangeSet
from millpond.store.sql_files import load_queries
from millpond.store.sqlite_autoscale import AutoScaleTables
from millpond.store.sqlite_commits import Commits
from millpond.store.sqlite_file import Readers, open_file, transaction
from millpond.store.sqlite_listing import Condition, condition_of, page_of
from millpond.store.sqlite_tasks import TaskTables, range_of_job

PURGE_ROWS: Final = 1000
"""Tasks deleted in one transaction: commits of others go in between."""
OBSERVATIONS: Final = 64
"""Samples or runs of automatic scaling written in one transaction, for the same reason."""
_T = TypeVar("_T")


class SqliteStore:
    """A `Store` in one file (and SQLite's two beside it). One process at a time may have it open."""

    def __init__(self, path: str, busy_commits: int | None = None) -> None:
        """From `busy_commits` a second on a process of its own writes; None: never."""
        self._path = path
        self._busy_commits = busy_commits
        self._queries = load_queries()
        self._kept_logs = sqlite_logs.KeptLogs(self._queries)
        self._autoscale = AutoScaleTables(self._queries)
        self._tasks = TaskTables(self._queries)
        self._commits: Commits | None = None
        self._readers: Readers | None = None

    async def open(self) -> StoreFacts:
        """See `Store.open`. Raises ValueError also for a database that is not Millpond's.

        Shortens the interpreter's switch interval for the whole process, see `sqlite_write_thread.SWITCH_INTERVAL_S`.
        """
        if self._commits is not None:
            raise Bug(f"the store {self._path} is open already")
        connection = await asyncio.to_thread(open_file, self._path)
        readers = Readers(self._path)
        try:
            facts = await readers.call(self._facts)
        except BaseException:
            await readers.close()
            connection.close()
            raise
        self._readers = readers
        self._commits = Commits(self._path, connection, self._queries, self._busy_commits)
        self._commits.start()
        return facts

    async def close(self) -> None:
        """Finish the commits under way and close the file. Further calls raise StoreUnavailable."""
        readers, self._readers = self._readers, None
        commits, self._commits = self._commits, None
        if readers is not None:
            await readers.close()
        if commits is not None:
            await commits.stop()

    async def write_by_process(self) -> None:
        """Have a process write from now on, however little there is to write. Raises StoreUnavailable when it does not
        start."""
        if self._commits is None:
            raise _closed()
        await self._commits.start_process()

    @property
    def process_pid(self) -> int | None:
        """Of the process that writes, if one does."""
        return None if self._commits is None else self._commits.process_pid

    # --- leases and changes ---

    async def acquire_lease(self, pool_key: str, owner: str, at: Timestamp, ttl_s: float) -> Fence | None:
        def acquire(connection: sqlite3.Connection) -> Fence | None:
            row = connection.execute(self._queries["get_lease"], (pool_key,)).fetchone()
            epoch, holder, expires = row or (0, None, 0.0)
            if holder is not None and holder != owner and expires > at:
                return None
            connection.execute(self._queries["save_lease"], (pool_key, epoch + 1, owner, at + ttl_s))
            return Fence(pool_key, epoch + 1)

        return await self._write(acquire)

    async def renew_leases(self, fences: Sequence[Fence], owner: str, at: Timestamp, ttl_s: float) -> list[Fence]:
        epochs = sqlite_rows.json_of({fence.pool_key: fence.epoch for fence in fences})

        def renew(connection: sqlite3.Connection) -> list[Fence]:
            renewed = connection.execute(self._queries["renew_leases"], (at + ttl_s, owner, epochs)).rowcount
            if renewed == len(fences):
                return []
            held = {key for (key,) in connection.execute(self._queries["held_leases"], (owner, epochs))}
            return [fence for fence in fences if fence.pool_key not in held]

        return await self._write(renew)

    async def release_lease(self, fence: Fence) -> None:
        def release(connection: sqlite3.Connection) -> None:
            connection.execute(self._queries["release_lease"], (fence.pool_key, fence.epoch))

        await self._write(release)

    async def commit(self, changes: ChangeSet, fence: Fence) -> None:
        if self._commits is None:
            raise _closed()
        await self._commits.commit(sqlite_rows.rows_of(changes), fence)

    async def purge_tasks(self, job_no: int, limit: int, fence: Fence) -> int:
        deleted = 0
        while deleted < limit:
            wanted = min(limit - deleted, PURGE_ROWS)
            gone = await self._write(functools.partial(self._tasks.purge, job_no=job_no, wanted=wanted, fence=fence))
            deleted += gone
            if gone < wanted:
                break
        return deleted

    async def forget_node_names(self, chunk: int) -> None:
        if self._commits is None:
            raise _closed()
        await self._commits.watch_names()
        free = {ref for (ref,) in await self._read(lambda connection: self._all(connection, "names_without_node"))}
        key: int | None = 0
        while free and key is not None:
            key, borne = await self._read(functools.partial(self._tasks.nodes_after, key=key, chunk=chunk))
            free -= borne
        numbers = sorted(free)
        for start in range(0, len(numbers), chunk):
            some = numbers[start : start + chunk]
            await self._commits.forget_names(some)

    # --- what the scheduler reads ---

    async def load_pool(self, pool_key: str) -> PoolContents:
        await self._settle_nodes()
        return await self._read(lambda connection: self._load_pool(connection, pool_key))

    def _load_pool(self, connection: sqlite3.Connection, pool_key: str) -> PoolContents:
        queries = self._queries
        # One transaction, hence one moment; without the collector, which would look at a million new tuples for nothing.
        with transaction(connection), _collector_off():
            row = connection.execute(queries["get_pool"], (pool_key,)).fetchone()
            pool = None if row is None else sqlite_rows.pool_of_record(row[0])
            nodes: list[Node] = []
            if pool is not None:
                records = connection.execute(queries["load_nodes"], (pool.no,))
                nodes = [sqlite_rows.node_of_record(record) for (record,) in records]
            jobs = [sqlite_rows.job_of_record(row[0]) for row in connection.execute(queries["load_jobs"], (pool_key,))]
            tasks: list[Task] = []
            satisfied: list[tuple[int, str]] = []
            job_nodes: list[JobNode] = []
            subtasks: list[Subtask] = []
            for job in jobs:
                satisfied += connection.execute(queries["load_satisfied"], (job.no,))
                if job.state is not JobState.COMPLETED:
                    tasks += self._tasks.of_job(connection, job.no)
                    job_nodes += self._job_nodes(connection, job.no)
                    records = connection.execute(queries["load_subtasks"], range_of_job(job.no))
                    subtasks += [sqlite_rows.subtask_of_record(record) for (record,) in records]
            arrays = [pair for job in jobs for pair in self._tasks.arrays.of_job(connection, job.no)]
        return PoolContents(pool, nodes, jobs, tasks, satisfied, job_nodes, subtasks, arrays)

    async def load_job(self, job_no: int) -> JobContents | None:
        def read(connection: sqlite3.Connection) -> JobContents | None:
            with transaction(connection), _collector_off():
                rows = self._all(connection, "load_job", job_no)
                if not rows:
                    return None
                return JobContents(
                    job=sqlite_rows.job_of_record(rows[0][0]),
                    tasks=self._tasks.of_job(connection, job_no),
                    satisfied=[id_key for _, id_key in self._all(connection, "load_satisfied", job_no)],
                    job_nodes=self._job_nodes(connection, job_no),
                    task_arrays=list(self._tasks.arrays.of_job(connection, job_no)),
                )

        return await self._read(read)

    async def task_specs(self, keys: Sequence[int]) -> dict[int, bytes]:
        return await self._read(lambda it: self._tasks.specs(it, keys))

    def _job_nodes(self, connection: sqlite3.Connection, job_no: int) -> list[JobNode]:
        return [sqlite_rows.job_node_of_record(row[0]) for row in self._all(connection, "load_job_nodes", job_no)]

    # --- automatic scaling ---

    async def save_samples(self, blocks: Sequence[SampleBlock], forget_before: Mapping[int, Timestamp]) -> None:
        for some in _observations(blocks):
            await self._write(functools.partial(self._autoscale.save_samples, blocks=some))
        for numbers in _observations(list(forget_before)):
            forget = {number: forget_before[number] for number in numbers}
            await self._write(functools.partial(self._autoscale.forget_samples, before=forget))

    async def load_samples(self, pool_no: int, since: Timestamp) -> list[SampleBlock]:
        return await self._read(lambda it: self._autoscale.load_samples(it, pool_no, since))

    async def save_auto_scale_runs(self, runs: Sequence[StoredRun], keep: int) -> None:
        for some in _observations(runs):
            await self._write(functools.partial(self._autoscale.save_runs, runs=some, keep=keep))

    async def list_auto_scale_runs(self, pool_no: int, limit: int) -> list[StoredRun]:
        return await self._read(lambda it: self._autoscale.list_runs(it, pool_no, limit))

    # --- applications ---

    async def save_application(self, application: Application) -> None:
        row = sqlite_rows.application_row(application)

        def save(connection: sqlite3.Connection) -> None:
            connection.execute(self._queries["save_application"], row)

        await self._write(save)

    async def delete_application(self, application_id: str) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            connection.execute(self._queries["delete_application"], (application_id,))

        await self._write(delete)

    async def load_applications(self) -> list[Application]:
        rows = await self._read(lambda connection: self._all(connection, "load_applications"))
        return [sqlite_rows.application_of_record(record) for (record,) in rows]

    async def get_application(self, application_id: str) -> Application | None:
        return await self._get("get_application", sqlite_rows.application_of_record, application_id)

    async def list_applications(self, limit: int, after: str | None, *, active: bool = False) -> Page[Application]:
        start = paging.id_after(after)
        rows = await self._read(lambda it: self._all(it, "list_applications", start, int(active), limit + 1))
        token = paging.token_of_id(rows[limit - 1][0]) if len(rows) > limit else None
        return Page([sqlite_rows.application_of_record(record) for _, record in rows[:limit]], token)

    # --- logs of tasks ---

    async def save_kept_logs(self, logs: Sequence[KeptLog], pack: LogPack | None = None) -> None:
        await self._write(lambda it: self._kept_logs.save(it, logs, pack))

    async def change_kept_log(self, log: KeptLog) -> None:
        await self._write(lambda it: self._kept_logs.change(it, log))

    async def get_kept_log(self, key: int) -> KeptLog | None:
        return await self._read(lambda it: self._kept_logs.get(it, key))

    async def kept_log_bytes(self) -> int:
        return await self._read(self._kept_logs.size)

    async def list_log_packs(self, after: int, limit: int) -> list[LogPack]:
        return await self._read(lambda it: self._kept_logs.packs(it, after, limit))

    async def unused_log_packs(self, after: int, limit: int) -> tuple[list[LogPack], int | None]:
        return await self._read(lambda it: self._kept_logs.unused(it, after, limit))

    async def drop_kept_logs(self, packs: Sequence[int]) -> None:
        await self._write(lambda it: self._kept_logs.drop(it, packs))

    async def delete_log_packs(self, packs: Sequence[int]) -> None:
        await self._write(lambda it: self._kept_logs.delete_packs(it, packs))

    # --- what the API reads ---

    async def get_pool(self, pool_id: str) -> Pool | None:
        return await self._get("get_pool", sqlite_rows.pool_of_record, pool_id)

    async def list_pools(self, where: Filter | None, limit: int, after: str | None) -> Page[Pool]:
        condition = condition_of(where, sqlite_rows.POOL_COLUMNS)
        return await self._page("pools", sqlite_rows.pool_of_record, condition, limit, after)

    async def get_node(self, pool_id: str, node_id: str) -> Node | None:
        await self._settle_nodes()
        return await self._get("get_node", sqlite_rows.node_of_record, pool_id, node_id)

    async def list_nodes(self, pool_id: str, where: Filter | None, limit: int, after: str | None) -> Page[Node]:
        condition = condition_of(where, sqlite_rows.NODE_COLUMNS)
        start = paging.id_after(after)

        def read(connection: sqlite3.Connection) -> tuple[list[Any], str | None]:
            pool = self._all(connection, "pool_number", pool_id)
            if not pool:
                return [], None
            return page_of(connection, self._queries, "nodes", condition, after=start, limit=limit, scope=pool[0])

        await self._settle_nodes()
        rows, token = await self._read(read)
        return Page([sqlite_rows.node_of_record(record) for _, record in rows], token)

    async def node_counts(self, where: Filter | None) -> list[NodeCounts]:
        condition = condition_of(where, sqlite_rows.NODE_COUNTS_COLUMNS)
        await self._settle_nodes()
        sql = self._queries["node_counts"].replace("/*where*/", condition.text)
        rows = await self._read(lambda connection: connection.execute(sql, condition.parameters).fetchall())
        return [
            NodeCounts(pool_id, is_dedicated == 1, sqlite_rows.NODE_STATES[state], count)
            for pool_id, is_dedicated, state, count in rows
        ]

    async def get_job(self, job_id: str) -> Job | None:
        if self._commits is None:
            raise _closed()
        record = self._commits.job_records.get(job_id)
        if record is not None:
            return sqlite_rows.job_of_record(record)
        return await self._get("get_job", sqlite_rows.job_of_record, job_id)

    async def list_jobs(
        self, where: Filter | None, limit: int, after: str | None, *, schedule_id: str | None = None
    ) -> Page[Job]:
        condition = condition_of(where, sqlite_rows.JOB_COLUMNS)
        noun, scope = ("jobs", ()) if schedule_id is None else ("jobs_of_schedule", (schedule_id,))
        return await self._page(noun, sqlite_rows.job_of_record, condition, limit, after, scope)

    async def get_job_schedule(self, schedule_id: str) -> JobSchedule | None:
        return await self._get("get_job_schedule", sqlite_rows.job_schedule_of_record, schedule_id)

    async def list_job_schedules(self, where: Filter | None, limit: int, after: str | None) -> Page[JobSchedule]:
        condition = condition_of(where, sqlite_rows.JOB_SCHEDULE_COLUMNS)
        return await self._page("job_schedules", sqlite_rows.job_schedule_of_record, condition, limit, after)

    async def list_job_nodes(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[JobNode]:
        condition = condition_of(where, sqlite_rows.JOB_NODE_COLUMNS)
        return await self._page("job_nodes", sqlite_rows.job_node_of_record, condition, limit, after, (job_no,))

    async def list_subtasks(self, task_key: int) -> list[Subtask]:
        rows = await self._read(lambda connection: self._all(connection, "list_subtasks", task_key))
        return [sqlite_rows.subtask_of_record(record) for (record,) in rows]

    async def get_task(self, job_id: str, task_id: str) -> TaskRow | None:
        return await self._read(lambda it: self._tasks.get(it, job_id, task_id))

    async def list_tasks(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[TaskRow]:
        start = paging.task_after(job_no, after)
        condition = condition_of(where, sqlite_rows.TASK_COLUMNS)
        return await self._read(lambda it: self._tasks.page(it, job_no, where, condition, limit, start))

    async def tasks_of_keys(self, keys: Sequence[int]) -> dict[int, tuple[str, Task]]:
        return await self._read(lambda it: self._tasks.of_keys(it, keys))

    async def pools_of_jobs(self, job_ids: Iterable[str]) -> dict[str, str]:
        encoded = sqlite_rows.json_of(list(job_ids))
        rows = await self._read(lambda connection: self._all(connection, "pools_of_jobs", encoded))
        return {ids.id_key(job_id): pool_id for job_id, pool_id in rows}

    # --- how ---

    def _facts(self, connection: sqlite3.Connection) -> StoreFacts:
        counters = dict(self._all(connection, "get_counters"))
        jobs = [_job_facts(record) for (record,) in connection.execute(self._queries["job_facts"])]
        pools = [_pool_facts(record) for (record,) in connection.execute(self._queries["pool_facts"])]
        schedules = self._all(connection, "load_job_schedules")
        return StoreFacts(
            next_pool_no=counters["pool"],
            next_job_no=counters["job"],
            jobs=[(job.id, job.no, job.pool_id) for job in jobs],
            pools=[(pool.id, pool.no) for pool in pools],
            next_job_schedule_no=counters["job_schedule"],
            job_schedules=[sqlite_rows.job_schedule_of_record(record) for (record,) in schedules],
            leased=[key for (key,) in self._all(connection, "leased")],
        )

    async def _settle_nodes(self) -> None:
        """Before rows of nodes are read."""
        if self._commits is None:
            raise _closed()
        await self._commits.settle_nodes()

    async def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._commits is None:
            raise _closed()
        return await self._commits.call(work)

    async def _read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._readers is None:
            raise _closed()
        return await self._readers.call(work)

    def _all(self, connection: sqlite3.Connection, query: str, *parameters: Parameter) -> list[Any]:
        return connection.execute(self._queries[query], parameters).fetchall()

    async def _get(self, query: str, of_record: Callable[[bytes], _T], *parameters: Parameter) -> _T | None:
        rows = await self._read(lambda connection: self._all(connection, query, *parameters))
        return of_record(rows[0][0]) if rows else None

    async def _page(
        self,
        noun: str,
        of_record: Callable[[bytes], _T],
        condition: Condition,
        limit: int,
        after: str | None,
        scope: Sequence[Parameter] = (),
    ) -> Page[_T]:
        start = paging.id_after(after)
        rows, token = await self._read(
            lambda it: page_of(it, self._queries, noun, condition, after=start, limit=limit, scope=scope)
        )
        return Page([of_record(record) for _, record in rows], token)


class _PoolFacts(msgspec.Struct):
    id: str
    no: int


class _JobFacts(msgspec.Struct):
    id: str
    no: int
    pool_id: str


_pool_facts: Final = msgspec.json.Decoder(_PoolFacts).decode
_job_facts: Final = msgspec.json.Decoder(_JobFacts).decode


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the store is not open")


def _observations(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + OBSERVATIONS] for start in range(0, len(items), OBSERVATIONS))


class _Collector:
    """The garbage collector is one for all threads: the last who wants it off turns it on again."""

    lock = threading.Lock()
    off = 0
    was_on = False


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    with _Collector.lock:
        if _Collector.off == 0:
            _Collector.was_on = gc.isenabled()
            gc.disable()
        _Collector.off += 1
    try:
        yield
    finally:
        with _Collector.lock:
            _Collector.off -= 1
            if _Collector.off == 0 and _Collector.was_on:
                gc.enable()
