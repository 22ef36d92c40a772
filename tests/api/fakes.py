"""A control plane in memory: enough of one to show what the REST face asks of it and does with the answers."""

import asyncio
import fnmatch
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from millpond.autoscale.samples import History
from millpond.control import formulas
from millpond.control.applications import ApplicationLimits, Applications
from millpond.control.base import FileContent, NewJob
from millpond.control.events_feed import EventsFeed
from millpond.control.kept_files import KeptFiles, entry_of
from millpond.control.tokens import TaskClaim
from millpond.domain import events as e
from millpond.domain.application import Application
from millpond.domain.autoscale import AutoScale, AutoScaleRun
from millpond.domain.durations import Timestamp, later_than
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.explanation import Cause, Explanation, Reference
from millpond.domain.ids import id_key, task_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import AllocationState, JobState, PoolState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import NewTask, Task, TaskAddOutcome
from millpond.odata.evaluate import matches
from millpond.odata.filters import Filter, Literal
from millpond.protocol.messages import (
    FileEntry,
    FileReply,
    Hello,
    LaunchAnswer,
    LaunchCall,
    LaunchReply,
    Listen,
    LogFile,
    Logs,
    News,
    NodeNews,
    NodeOrder,
    Sync,
    SyncReply,
    UploadLogs,
    Welcome,
)
from millpond.providers.base import VmSize
from millpond.scheduler.job_schedules import JobSchedulesState
from millpond.scheduler.job_schedules import apply as apply_to_schedules
from millpond.staging.account_storage import BlobFacts, StorageError
from millpond.staging.base import RemoteFile
from millpond.store.base import KeptLog, NodeCounts, Page, SampleBlock, StoredRun, TaskRow

_T = TypeVar("_T")
_Values = Callable[[_T], dict[str, Literal | None]]


class FakeStore:
    def __init__(self) -> None:
        self.pools: dict[str, Pool] = {}
        self.nodes: dict[str, tuple[str, Node]] = {}
        self.jobs: dict[str, Job] = {}
        self.schedules = JobSchedulesState()
        self.tasks: dict[int, TaskRow] = {}
        self.job_nodes: list[JobNode] = []
        self.subtasks: list[Subtask] = []
        self.runs: list[StoredRun] = []
        self.unmade_jobs: set[str] = set()
        self.samples: list[SampleBlock] = []
        self.applications: dict[str, Application] = {}

    async def save_application(self, application: Application) -> None:
        self.applications[id_key(application.id)] = application

    async def delete_application(self, application_id: str) -> None:
        self.applications.pop(id_key(application_id), None)

    async def load_applications(self) -> list[Application]:
        return [application for _, application in sorted(self.applications.items())]

    async def get_application(self, application_id: str) -> Application | None:
        return self.applications.get(id_key(application_id))

    async def list_applications(self, limit: int, after: str | None, *, active: bool = False) -> Page[Application]:
        rows = [one for one in await self.load_applications() if one.active_versions or not active]
        return self._page(rows, None, lambda one: {"id": one.id}, limit, after)

    async def pools_of_jobs(self, job_ids: Iterable[str]) -> dict[str, str]:
        return {id_key(job_id): "p1" for job_id in job_ids if id_key(job_id) not in self.unmade_jobs}

    def task_of(self, job_id: str, task_id: str) -> TaskRow | None:
        job = self.jobs.get(id_key(job_id))
        if job is None:
            return None
        return next(
            (row for key, row in self.tasks.items() if key >> 32 == job.no and id_key(row.task.id) == id_key(task_id)),
            None,
        )

    @staticmethod
    def _page(items: list[_T], where: Filter | None, values: _Values[_T], limit: int, after: str | None) -> Page[_T]:
        start = int(after or "0")  # raises ValueError for what is no token, as a store does
        chosen = [item for item in items if where is None or matches(where, values(item))]
        end = start + limit
        return Page(chosen[start:end], str(end) if end < len(chosen) else None)

    async def get_pool(self, pool_id: str) -> Pool | None:
        return self.pools.get(id_key(pool_id))

    async def list_pools(self, where: Filter | None, limit: int, after: str | None) -> Page[Pool]:
        return self._page(
            [self.pools[key] for key in sorted(self.pools)],
            where,
            lambda pool: {"id": pool.id, "state": pool.state.value},
            limit,
            after,
        )

    async def list_auto_scale_runs(self, pool_no: int, limit: int) -> list[StoredRun]:
        return [run for run in self.runs if run.pool_no == pool_no][:limit]

    async def load_samples(self, pool_no: int, since: float) -> list[SampleBlock]:
        return [block for block in self.samples if block.pool_no == pool_no and block.start >= since]

    async def get_node(self, pool_id: str, node_id: str) -> Node | None:
        found = self.nodes.get(node_id)
        return found[1] if found is not None and found[0] == id_key(pool_id) else None

    async def list_nodes(self, pool_id: str, where: Filter | None, limit: int, after: str | None) -> Page[Node]:
        nodes = [node for pool, node in self.nodes.values() if pool == id_key(pool_id)]
        return self._page(nodes, where, lambda node: {"state": node.state.value}, limit, after)

    async def node_counts(self, where: Filter | None) -> list[NodeCounts]:
        counts: dict[tuple[str, bool, Any], int] = {}
        for pool, node in self.nodes.values():
            key = (self.pools[pool].id, node.is_dedicated, node.state)
            counts[key] = counts.get(key, 0) + 1
        return [
            NodeCounts(*key, count)
            for key, count in counts.items()
            if where is None or matches(where, {"poolId": key[0]})
        ]

    async def get_job(self, job_id: str) -> Job | None:
        return self.jobs.get(id_key(job_id))

    async def get_job_schedule(self, schedule_id: str) -> JobSchedule | None:
        return self.schedules.rows.get(id_key(schedule_id))

    async def list_job_schedules(self, where: Filter | None, limit: int, after: str | None) -> Page[JobSchedule]:
        rows = [row for _, row in sorted(self.schedules.rows.items())]
        return self._page(rows, where, lambda row: {"id": row.id, "state": row.state.value}, limit, after)

    async def list_jobs(
        self, where: Filter | None, limit: int, after: str | None, *, schedule_id: str | None = None
    ) -> Page[Job]:
        jobs = [self.jobs[key] for key in sorted(self.jobs)]
        return self._page(
            [job for job in jobs if schedule_id is None or job.schedule_id == schedule_id],
            where,
            lambda job: {"id": job.id, "state": job.state.value},
            limit,
            after,
        )

    async def list_job_nodes(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[JobNode]:
        rows = sorted((row for row in self.job_nodes if row.job_no == job_no), key=lambda row: row.node_id)
        return self._page(rows, where, lambda row: {"nodeId": row.node_id, "poolId": row.pool_id}, limit, after)

    async def list_subtasks(self, task_key: int) -> list[Subtask]:
        return [row for row in self.subtasks if row.task_key == task_key]

    async def get_task(self, job_id: str, task_id: str) -> TaskRow | None:
        return self.task_of(job_id, task_id)

    async def list_tasks(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[TaskRow]:
        rows = [row for key, row in self.tasks.items() if key >> 32 == job_no]
        return self._page(rows, where, lambda row: {"id": row.task.id, "state": row.task.state.value}, limit, after)

    async def tasks_of_keys(self, keys: Sequence[int]) -> dict[int, tuple[str, Task]]:
        by_no = {job.no: job.id for job in self.jobs.values()}
        return {key: (by_no[key >> 32], self.tasks[key].task) for key in keys if key in self.tasks}


class MemoryStorage:
    """`staging.account_storage.AccountStorage` in memory."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.containers: set[str] = set()
        self.error: StorageError | None = None

    def _find(self, container: str, blob: str) -> bytes:
        if self.error is not None:
            raise self.error
        if (container, blob) not in self.blobs:
            raise StorageError(404, "BlobNotFound", "There is no such blob.")
        return self.blobs[container, blob]

    async def make_container(self, container: str) -> None:
        self.containers.add(container)

    async def put(self, container: str, blob: str, content: bytes | AsyncIterator[bytes]) -> BlobFacts:
        assert isinstance(content, bytes)
        self.blobs[container, blob] = content
        return await self.stat(container, blob)

    async def read(
        self, container: str, blob: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        content = self._find(container, blob)[offset:][:length]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    async def stat(self, container: str, blob: str) -> BlobFacts:
        content = self._find(container, blob)
        return BlobFacts(len(content), 0.0, f'"{zlib.crc32(content):x}"')

    async def delete(self, container: str, blob: str) -> None:
        if self.error is not None:
            raise self.error
        self.blobs.pop((container, blob), None)

    async def list(self, container: str, prefix: str = "") -> "list[RemoteFile]":
        return [
            RemoteFile(name, len(content))
            for (holder, name), content in sorted(self.blobs.items())
            if holder == container and name.startswith(prefix)
        ]

    def sign(self, container: str, blob: str | None, permissions: str, expires_at: float) -> str:
        return f"https://storage/{container}/{blob}?sp={permissions}&se={expires_at:.0f}"

    async def close(self) -> None:
        self.blobs.clear()


class FakeFiles:
    """Files by (node id, path): content, or None for a directory."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes | None] = {}
        self.modified: Timestamp = 1795230000.0
        self.error: BatchError | None = None
        self.closed = 0
        self.grows_by = b"more"
        self.chunk = 3
        self.follows: list[list[Any]] = []
        self.followed: list[tuple[str, str, int, int]] = []
        self.read_chunks = 0
        self.break_after: int | None = None
        self.deleted: list[tuple[str, str, bool]] = []
        self.pools: list[str | None] = []
        """The pool of each read."""
        self.orders: list[NodeOrder] = []

    def _entry(self, node_id: str, path: str, name: str) -> FileEntry:
        if self.error is not None:
            raise self.error
        if (node_id, path) not in self.files:
            raise BatchError(ErrorCode.FILE_NOT_FOUND)
        content = self.files[node_id, path]
        if content is None:
            return FileEntry(name, is_directory=True, last_modified=self.modified, mode=0o40770)
        return FileEntry(name, is_directory=False, size=len(content), last_modified=self.modified, mode=0o100644)

    async def list(
        self, pool_id: str | None, node_id: str, path: str, *, recursive: bool, after: str = "", limit: int = 0
    ) -> list[FileEntry]:
        if self.error is not None:
            raise self.error
        prefix = path + "/" if path else ""
        pattern = "*" if recursive else "[!/]*"
        names = [
            full[len(prefix) :]
            for node, full in self.files
            if node == node_id and full.startswith(prefix) and fnmatch.fnmatch(full[len(prefix) :], pattern)
        ]
        if not names:
            raise BatchError(ErrorCode.FILE_NOT_FOUND)
        wanted = sorted(name for name in names if (recursive or "/" not in name) and name > after)
        return [self._entry(node_id, prefix + name, name) for name in wanted[: limit or None]]

    async def stat(self, pool_id: str | None, node_id: str, path: str) -> FileEntry:
        return self._entry(node_id, path, path)

    async def read(
        self, pool_id: str | None, node_id: str, path: str, *, offset: int, length: int | None
    ) -> FileContent:
        self.pools.append(pool_id)
        entry = self._entry(node_id, path, path)
        content = self.files[node_id, path] or b""
        # The file goes on growing while it is read.
        part = content[offset:] + self.grows_by if length is None else content[offset : offset + length]

        async def chunks() -> AsyncIterator[bytes]:
            try:
                for index, start in enumerate(range(0, len(part), self.chunk)):
                    if index == self.break_after:
                        raise ConnectionResetError("the node stopped in the middle of a file")
                    self.read_chunks += 1
                    yield part[start : start + self.chunk]
                    await asyncio.sleep(0)
            finally:
                self.closed += 1

        return FileContent(entry, chunks())

    async def follow(self, node_id: str, path: str, *, key: int, attempt: int, offset: int) -> AsyncIterator[bytes]:
        """`follows` says what comes; ConnectionResetError and functions among it are raised and called."""
        if self.error is not None:
            raise self.error
        self.followed.append((node_id, path, attempt, offset))
        script = self.follows.pop(0)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                for step in script:
                    if isinstance(step, Exception):
                        raise step
                    if isinstance(step, bytes):
                        yield step
                    elif (wait := step()) is not None:
                        await wait
            finally:
                self.closed += 1

        return chunks()

    async def order(self, pool_id: str, node_id: str, order: NodeOrder) -> bytes:
        if self.error is not None:
            raise self.error
        self.orders.append(order)
        return b'{"files":2}' if isinstance(order, UploadLogs) else b""

    async def delete(self, pool_id: str | None, node_id: str, path: str, *, recursive: bool) -> None:
        self._entry(node_id, path, path)
        self.deleted.append((node_id, path, recursive))


class FakeLogs:
    """What is kept, by task key."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, dict[str, bytes]]] = {}
        """Attempt, and contents by name."""
        self.original_size = 0

    async def of(self, key: int) -> KeptFiles | None:
        if key not in self.kept:
            return None
        attempt, contents = self.kept[key]
        files = [
            LogFile(name, len(content), 0, 1795230000.0, 0o100644, self.original_size)
            for name, content in contents.items()
        ]
        return KeptFiles(KeptLog(key, attempt, 1, b""), 0, files)

    async def read(self, kept: KeptFiles, name: str, *, offset: int, length: int | None) -> FileContent:
        file = kept.find(name)
        if file is None:
            raise BatchError(ErrorCode.FILE_NOT_FOUND)
        content = self.kept[kept.row.key][1][name][offset:]

        async def chunks() -> AsyncIterator[bytes]:
            yield content if length is None else content[:length]

        return FileContent(entry_of(file), chunks())

    async def remove(self, kept: KeptFiles, name: str, *, recursive: bool) -> None:
        if self.kept[kept.row.key][1].pop(name, None) is None:
            raise BatchError(ErrorCode.FILE_NOT_FOUND)


class FakeAgents:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.bodies: dict[str, bytes] = {}
        self.take_body = True
        self.overtaken = False
        """A later call of the host has come."""
        self.error: Exception | None = None

    def authenticate(self, node_id: str, token: str) -> bool:
        return token == "token-of-" + node_id

    async def hello(self, hello: Hello) -> Welcome:
        if self.error is not None:
            raise self.error
        self.calls.append(hello)
        return Welcome("s1", "p1", "labacct", "http://127.0.0.1:10010", True, 2, 15.0)

    async def sync_all(self, syncs: Sequence[Sync]) -> list[SyncReply | BatchError]:
        if self.error is not None:
            raise self.error
        self.calls += syncs
        return [SyncReply(sync.session, acknowledged=7) for sync in syncs]

    async def listen(self, call: Listen, *, park: bool = True) -> News:
        if self.error is not None:
            raise self.error
        self.calls.append((call, park))
        if self.overtaken:
            return News(overtaken=True)
        return News(tuple(NodeNews(node.place, SyncReply(node.session)) for node in call.nodes))

    async def file_reply(self, node_id: str, request_id: str, reply: FileReply, body: AsyncIterator[bytes]) -> None:
        self.calls.append((node_id, request_id, reply))
        if self.take_body:
            self.bodies[request_id] = b"".join([chunk async for chunk in body])

    async def keep_logs(self, logs: Logs) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(logs)

    async def launch(self, token: str, call: LaunchCall) -> LaunchAnswer:
        if token != "launch-token":
            raise BatchError(ErrorCode.AUTHENTICATION_FAILED)
        self.calls.append(call)
        return LaunchAnswer(3, b"out", b"")

    def launch_reply(self, node_id: str, request_id: str, reply: LaunchReply) -> None:
        self.calls.append((node_id, request_id, reply))


class FakeControl:
    """`control.base.ControlPlane`, with a scheduler that does the least that will do."""

    def __init__(self, clock: Callable[[], Timestamp]) -> None:
        self.account_name = "labacct"
        self.store: Any = FakeStore()
        self.storage: Any = MemoryStorage()
        self.applications = Applications(
            self.store,
            self.storage,
            self.account_name,
            clock,
            limits=ApplicationLimits(3, 3),
            pools=self.store.pools.values,
        )
        self.files: Any = FakeFiles()
        self.agents: Any = FakeAgents()
        self.logs: Any = FakeLogs()
        self.vm_sizes = {
            "standard_d2s_v3": VmSize("standard_d2s_v3", 2, 8192, 0.1),
            "standard_a1_v2": VmSize("standard_a1_v2", 1, 2048, 0.05),
        }
        self.ready = True
        self.events: list[Any] = []
        self.added: list[NewJob] = []
        self.preempted: list[str] = []
        self.events_feed = EventsFeed(clock, lambda wanted: None)
        self.error: BaseException | None = None
        self._clock = clock

    def now(self) -> Timestamp:
        return self._clock()

    def claim_of_token(self, token: str) -> TaskClaim | None:
        return TaskClaim("j1", "t1", 1) if token == "good" else None

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    async def add_pool(self, pool: Pool, cause: str) -> Pool:
        self._fail()
        if id_key(pool.id) in self.store.pools:
            raise BatchError(ErrorCode.POOL_EXISTS)
        pool.no = len(self.store.pools) + 1
        self.store.pools[id_key(pool.id)] = pool
        return pool

    async def add_job(
        self, job: Job, cause: str, *, manager: NewTask | None = None, auto_pool: Pool | None = None
    ) -> Job:
        self._fail()
        if id_key(job.id) in self.store.jobs:
            raise BatchError(ErrorCode.JOB_EXISTS)
        self.added.append(NewJob(job, manager, auto_pool))
        if auto_pool is not None:
            await self.add_pool(auto_pool, cause)
        job.no = len(self.store.jobs) + 1
        job.start_time = job.creation_time
        self.store.jobs[id_key(job.id)] = job
        if manager is not None:
            self._add_tasks(job, e.TasksAdded(at=self.now(), job_id=job.id, tasks=(manager,), single=True))
        return job

    async def add_job_schedule(self, schedule: JobSchedule, cause: str) -> JobSchedule:
        self._fail()
        schedule.no = len(self.store.schedules.rows) + 1
        self.to_schedules(e.JobScheduleAdded(at=self.now(), cause=cause, schedule=schedule))
        return schedule

    async def to_job_schedules(self, event: Any) -> Any:
        self._fail()
        self.to_schedules(event)

    def to_schedules(self, event: Any) -> None:
        """The true rules; nothing comes of what they wish for."""
        self.events.append(event)
        apply_to_schedules(self.store.schedules, event)

    async def to_pool(self, pool_id: str, event: Any) -> Any:
        self._fail()
        self.events.append(event)
        pool = self.store.pools.get(id_key(pool_id))
        if pool is None:
            raise BatchError(ErrorCode.POOL_NOT_FOUND)
        if hasattr(event, "node_id"):
            if event.node_id not in self.store.nodes:
                raise BatchError(ErrorCode.NODE_NOT_FOUND)
            return
        if event.condition is not None:
            event.condition.require(pool.last_modified)
        pool.last_modified = later_than(pool.last_modified, event.at)
        match event:
            case e.PoolUpdated(changes=changes):
                pool.spec = {name: value for name, value in {**pool.spec, **changes.spec}.items() if value is not None}
                pool.inter_node_communication |= changes.inter_node_communication or False
                pool.task_slots_per_node = changes.task_slots_per_node or pool.task_slots_per_node
                pool.fill_type = changes.fill_type or pool.fill_type
            case e.PoolDeleteRequested():
                pool.state = PoolState.DELETING
            case e.PoolResizeRequested():
                pool.allocation_state = AllocationState.RESIZING
                if event.target_dedicated_nodes is not None:
                    pool.target_dedicated_nodes = event.target_dedicated_nodes
            case e.PoolAutoScaleEnableRequested(formula=str() as formula):
                pool.auto_scale = AutoScale(formula, event.interval_s or 900.0, event.at, event.at)
            case e.PoolAutoScaleDisableRequested():
                pool.auto_scale = None
            case e.PoolResizeStopRequested():
                pool.allocation_state = AllocationState.STOPPING

    async def preempt_node(self, pool_id: str, node_id: str) -> None:
        self._fail()
        if id_key(pool_id) not in self.store.pools:
            raise BatchError(ErrorCode.POOL_NOT_FOUND)
        self.preempted.append(node_id)

    def check_auto_scale(self, formula: str | None, interval_s: float | None) -> None:
        if formula is not None:
            formulas.read_formula(formula)
        if interval_s is not None:
            formulas.check_interval(interval_s, 300.0)

    async def evaluate_auto_scale(self, pool_id: str, formula: str) -> AutoScaleRun:
        self._fail()
        pool = self.store.pools.get(id_key(pool_id))
        if pool is None:
            raise BatchError(ErrorCode.POOL_NOT_FOUND)
        read = formulas.read_formula(formula)
        return formulas.run_of(formulas.evaluate_for(pool, read, self.now(), History(), {}))

    async def explain_task(self, job_id: str, task_id: str) -> Explanation:
        self._fail()
        if self.store.task_of(job_id, task_id) is None:
            raise BatchError(ErrorCode.TASK_NOT_FOUND)
        return self._explanation(Reference("task", task_id, job_id))

    async def explain_job(self, job_id: str) -> Explanation:
        return self._explanation(Reference("job", job_id))

    async def explain_pool(self, pool_id: str) -> Explanation:
        return self._explanation(Reference("pool", pool_id))

    async def explain_node(self, pool_id: str, node_id: str) -> Explanation:
        return self._explanation(Reference("node", node_id))

    def _explanation(self, subject: Reference) -> Explanation:
        behind = Cause("dependencyFailed", "blocked", "reactivate it", self.now(), never=True)
        cause = Cause("dependencyPending", "it waits", references=(Reference("task", "t9", "j1"),), causes=(behind,))
        return Explanation(subject, "active", self.now(), "It waits.", (cause,))

    async def to_job(self, job_id: str, event: Any) -> Any:
        self._fail()
        self.events.append(event)
        job = self.store.jobs.get(id_key(job_id))
        if job is None:
            raise BatchError(ErrorCode.JOB_NOT_FOUND)
        if isinstance(event, e.TasksAdded):
            return self._add_tasks(job, event)
        if isinstance(event, e.TaskArrayAdded):
            array = event.array
            new = tuple(array.new_task(index) for index in range(array.count))
            self._add_tasks(job, e.TasksAdded(at=event.at, job_id=job_id, tasks=new, single=True))
            return msgspec.structs.replace(array, creation_time=event.at)
        if hasattr(event, "task_id"):
            self._change_task(job, event)
            return None
        if event.condition is not None:
            event.condition.require(job.last_modified)
        job.last_modified = later_than(job.last_modified, event.at)
        match event:
            case e.JobUpdated(changes=changes):
                job.spec = {**job.spec, **changes.spec}
                for name in (
                    "priority",
                    "max_parallel_tasks",
                    "on_all_tasks_complete",
                    "pool_id",
                    "allow_task_preemption",
                ):
                    value = getattr(changes, name)
                    if value is not None:
                        setattr(job, name, value)
                if changes.keep_alive is not None:
                    job.auto_pool = msgspec.structs.replace(job.auto_pool, keep_alive=changes.keep_alive)
                if changes.constraints is not None:
                    job.max_wall_clock_s, job.max_task_retry_count = changes.constraints
            case e.JobDisableRequested():
                job.state = JobState.DISABLING
            case e.JobEnableRequested():
                job.state = JobState.ENABLING
            case e.JobTerminateRequested():
                job.state = JobState.TERMINATING
            case e.JobDeleteRequested():
                job.state = JobState.DELETING
        return None

    def _add_tasks(self, job: Job, event: e.TasksAdded) -> list[TaskAddOutcome]:
        outcomes = []
        for new in event.tasks:
            if self.store.task_of(job.id, new.id) is not None:
                if event.single:
                    raise BatchError(ErrorCode.TASK_EXISTS)
                outcomes.append(TaskAddOutcome(new.id, ErrorCode.TASK_EXISTS))
                continue
            key = task_key(job.no, job.next_task_number)
            job.next_task_number += 1
            task = Task(
                key,
                new.id,
                TaskState.ACTIVE,
                event.at,
                event.at,
                event.at,
                required_slots=new.required_slots,
                max_retry_count=new.max_retry_count,
                rules=new.rules,
            )
            self.store.tasks[key] = TaskRow(task, new.spec)
            outcomes.append(TaskAddOutcome(new.id, None, event.at))
        return outcomes

    def _change_task(self, job: Job, event: Any) -> None:
        row = self.store.task_of(job.id, event.task_id)
        if row is None:
            raise BatchError(ErrorCode.TASK_NOT_FOUND)
        task = row.task
        if event.condition is not None:
            event.condition.require(task.last_modified)
        match event:
            case e.TaskUpdated():
                task.last_modified = later_than(task.last_modified, event.at)
                task.max_retry_count = event.max_retry_count
                self.store.tasks[task.key] = TaskRow(task, event.spec)
            case e.TaskDeleteRequested():
                del self.store.tasks[task.key]
