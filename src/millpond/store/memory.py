"""The store that lives in memory, for tests and the simulation.

It outlives a simulated crash of the control plane: the object stays, a new engine loads from it. Deterministic: no
threads, no clock, nothing depends on the order of a set.
"""

import copy
from bisect import bisect_right, insort
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from millpond.domain import ids
from millpond.domain.application import Application
from millpond.domain.durations import Timestamp
from millpond.domain.errors import Bug, LeaseLost, StoreUnavailable
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import JobState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray
from millpond.odata.filters import Filter
from millpond.store import copies, filterable, paging, task_arrays
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
from millpond.store.changes import ChangeSet, check_together, check_worked

_T = TypeVar("_T")


class _Lease(msgspec.Struct):
    epoch: int = 0
    owner: str | None = None
    expires: Timestamp = 0.0


class _JobTasks(msgspec.Struct):
    """The tasks of one job number."""

    rows: dict[int, Task] = msgspec.field(default_factory=dict)
    keys: list[int] = msgspec.field(default_factory=list)
    """Sorted."""
    by_id: dict[str, int] = msgspec.field(default_factory=dict)
    """Id key → key."""


class MemoryStore:
    """A `Store` without a disk. Records are copied on their way in and out."""

    def __init__(self) -> None:
        self.fail_next_commit: Exception | None = None
        """Raised by the next commit instead of writing, once. For the simulation: StoreUnavailable, LeaseLost …"""
        self.before_commit: Callable[[ChangeSet], Awaitable[None]] | None = None
        """Awaited by each commit between reading its records and writing them: the time the disk takes. What it raises
        is raised by the commit, and nothing is written."""
        self.commits = 0
        """How many were written."""
        self._is_open = False
        self._leases: dict[str, _Lease] = {}
        self._next_pool_no = 1
        self._next_job_no = 1
        self._next_job_schedule_no = 1
        self._pools: dict[int, Pool] = {}
        self._nodes: dict[str, Node] = {}
        self._jobs: dict[int, Job] = {}
        self._pool_nos: dict[str, int] = {}
        self._job_nos: dict[str, int] = {}
        self._tasks: dict[int, _JobTasks] = {}
        self._specs: dict[int, bytes] = {}
        self._task_arrays: dict[int, TaskArray] = {}
        """By key; each has a rest."""
        self._rests: dict[int, Rest] = {}
        self._satisfied: dict[int, set[str]] = {}
        self._job_nodes: dict[int, dict[str, JobNode]] = {}
        """Job number → id key of the node → row."""
        self._subtasks: dict[int, dict[int, Subtask]] = {}
        """Task key → index → row."""
        self._samples: dict[int, dict[Timestamp, bytes]] = {}
        """Pool number → start of the block → data."""
        self._runs: dict[int, dict[Timestamp, bytes]] = {}
        self._kept_logs: dict[int, KeptLog] = {}
        self._log_packs: dict[int, int] = {}
        """Number → size."""
        self._job_schedules: dict[int, JobSchedule] = {}
        self._job_schedule_nos: dict[str, int] = {}
        self._applications: dict[str, Application] = {}
        """By id key."""

    async def open(self) -> StoreFacts:
        self._is_open = True
        return StoreFacts(
            next_pool_no=self._next_pool_no,
            next_job_no=self._next_job_no,
            jobs=[(job.id, no, job.pool_id) for no, job in sorted(self._jobs.items())],
            pools=[(pool.id, no) for no, pool in sorted(self._pools.items())],
            next_job_schedule_no=self._next_job_schedule_no,
            job_schedules=[copies.copy_job_schedule(schedule) for _, schedule in sorted(self._job_schedules.items())],
            leased=[key for key, lease in sorted(self._leases.items()) if lease.owner is not None],
        )

    async def close(self) -> None:
        """The rows stay; `open` finds them again."""
        self._is_open = False

    # --- leases and changes ---

    async def acquire_lease(self, pool_key: str, owner: str, at: Timestamp, ttl_s: float) -> Fence | None:
        self._check_open()
        lease = self._leases.setdefault(pool_key, _Lease())
        if lease.owner is not None and lease.owner != owner and lease.expires > at:
            return None
        lease.epoch += 1
        lease.owner = owner
        lease.expires = at + ttl_s
        return Fence(pool_key, lease.epoch)

    async def renew_leases(self, fences: Sequence[Fence], owner: str, at: Timestamp, ttl_s: float) -> list[Fence]:
        self._check_open()
        lost: list[Fence] = []
        for fence in fences:
            lease = self._leases.get(fence.pool_key)
            if lease is None or lease.epoch != fence.epoch or lease.owner != owner:
                lost.append(fence)
            else:
                lease.expires = max(lease.expires, at + ttl_s)
        return lost

    async def release_lease(self, fence: Fence) -> None:
        """The epoch moves on, so that a commit of the former owner still on its way is void."""
        self._check_open()
        lease = self._leases.get(fence.pool_key)
        if lease is not None and lease.epoch == fence.epoch:
            self._leases[fence.pool_key] = _Lease(epoch=lease.epoch + 1)

    async def commit(self, changes: ChangeSet, fence: Fence) -> None:
        self._check_open()
        check_together(changes)
        changes = copies.copy_changes(changes)
        failure, self.fail_next_commit = self.fail_next_commit, None
        if self.before_commit is not None:
            await self.before_commit(changes)
        if failure is not None:
            raise failure
        self._check_open()
        self._check_fence(fence)
        self._check_rows(changes)
        self._apply(changes)
        self.commits += 1

    async def purge_tasks(self, job_no: int, limit: int, fence: Fence) -> int:
        self._check_open()
        self._check_fence(fence)
        for array, _ in self._arrays_of(job_no):
            self._save_rest(array.key, ())
        keys = self._job_tasks(job_no).keys[:limit]
        for key in keys:
            self._delete_task(key)
        if len(keys) < limit:
            self._satisfied.pop(job_no, None)
            self._job_nodes.pop(job_no, None)
        elif (satisfied := self._satisfied.get(job_no)) is not None:
            satisfied.difference_update(sorted(satisfied)[:limit])
        return len(keys)

    async def forget_node_names(self, chunk: int) -> None:
        pass

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the store is not open")

    def _check_fence(self, fence: Fence) -> None:
        lease = self._leases.get(fence.pool_key)
        if lease is None or lease.epoch != fence.epoch:
            raise LeaseLost(f"the lease of pool {fence.pool_key!r} is another's")

    def _check_rows(self, changes: ChangeSet) -> None:
        """Raises Bug for rows that cannot be, before anything is written."""
        new_ids: set[tuple[int, str]] = set()
        for key, task in changes.tasks.items():
            tasks = self._job_tasks(ids.job_no_of(key))
            if (key in changes.new_tasks) == (key in tasks.rows):
                story = "is there already" if key in tasks.rows else "is not there"
                raise Bug(f"rows that cannot be: task {key} ({task.id}) {story}")
            if key in changes.new_tasks:
                identity = (ids.job_no_of(key), ids.id_key(task.id))
                twin = tasks.by_id.get(identity[1])
                if identity in new_ids or (twin is not None and twin not in changes.deleted_tasks):
                    raise Bug(f"rows that cannot be: a second task {task.id} in job {identity[0]}")
                new_ids.add(identity)
        task_arrays.check(changes, self._task_arrays)
        _check_unique(changes.pools, self._pool_nos, changes.deleted_pools)
        _check_unique(changes.jobs, self._job_nos, changes.deleted_jobs)
        _check_unique(changes.job_schedules, self._job_schedule_nos, changes.deleted_job_schedules)

    def _apply(self, changes: ChangeSet) -> None:
        for key in changes.deleted_tasks:
            self._delete_task(key)
        for key in changes.deleted_subtasks:
            self._subtasks.pop(key, None)
        for node_id in changes.deleted_nodes:
            self._nodes.pop(ids.id_key(node_id), None)
        for no in changes.deleted_jobs:
            if (job := self._jobs.pop(no, None)) is not None:
                del self._job_nos[ids.id_key(job.id)]
            self._satisfied.pop(no, None)
            self._job_nodes.pop(no, None)
        for no in changes.deleted_job_schedules:
            if (schedule := self._job_schedules.pop(no, None)) is not None:
                del self._job_schedule_nos[ids.id_key(schedule.id)]
        for no in changes.deleted_pools:
            if (pool := self._pools.pop(no, None)) is not None:
                del self._pool_nos[ids.id_key(pool.id)]
            self._samples.pop(no, None)
            self._runs.pop(no, None)
        for no, pool in changes.pools.items():
            self._pools[no] = pool
            self._pool_nos[ids.id_key(pool.id)] = no
            self._next_pool_no = max(self._next_pool_no, no + 1)
        for no, job in changes.jobs.items():
            self._jobs[no] = job
            self._job_nos[ids.id_key(job.id)] = no
            self._next_job_no = max(self._next_job_no, no + 1)
        check_worked(changes, self._nodes)
        for node_id, node in changes.nodes.items():
            self._nodes[ids.id_key(node_id)] = node
        for key, task in changes.tasks.items():
            tasks = self._tasks.setdefault(ids.job_no_of(key), _JobTasks())
            if key in changes.new_tasks:
                insort(tasks.keys, key)
                tasks.by_id[ids.id_key(task.id)] = key
            tasks.rows[key] = task
        self._specs.update(changes.specs)
        self._task_arrays.update(changes.task_arrays)
        for key, rest in changes.rests.items():
            self._save_rest(key, rest)
        for job_no, id_key in changes.satisfied:
            self._satisfied.setdefault(job_no, set()).add(id_key)
        for (job_no, node_id), job_node in changes.job_nodes.items():
            self._job_nodes.setdefault(job_no, {})[ids.id_key(node_id)] = job_node
        for (key, index), subtask in changes.subtasks.items():
            self._subtasks.setdefault(key, {})[index] = subtask
        for no, schedule in changes.job_schedules.items():
            self._job_schedules[no] = schedule
            self._job_schedule_nos[ids.id_key(schedule.id)] = no
            self._next_job_schedule_no = max(self._next_job_schedule_no, no + 1)

    def _delete_task(self, key: int) -> None:
        tasks = self._job_tasks(ids.job_no_of(key))
        task = tasks.rows.pop(key, None)
        if task is not None:
            tasks.keys.pop(bisect_right(tasks.keys, key) - 1)
            del tasks.by_id[ids.id_key(task.id)]
        self._specs.pop(key, None)
        self._subtasks.pop(key, None)
        self._kept_logs.pop(key, None)

    def _job_tasks(self, job_no: int) -> _JobTasks:
        return self._tasks.get(job_no) or _JobTasks()

    def _save_rest(self, key: int, rest: Rest) -> None:
        self._rests[key] = rest
        if not rest:
            del self._rests[key], self._task_arrays[key]

    def _arrays_of(self, job_no: int) -> list[tuple[TaskArray, Rest]]:
        """In key order."""
        arrays = [array for _, array in sorted(self._task_arrays.items()) if ids.job_no_of(array.key) == job_no]
        return [(array, self._rests[array.key]) for array in arrays]

    # --- what the scheduler reads ---

    async def load_pool(self, pool_key: str) -> PoolContents:
        self._check_open()
        pool_no = self._pool_nos.get(pool_key)
        jobs = [job for _, job in sorted(self._jobs.items()) if ids.id_key(job.pool_id) == pool_key]
        live_jobs = [job for job in jobs if job.state is not JobState.COMPLETED]
        live = [self._job_tasks(job.no) for job in live_jobs]
        tasks = [tasks.rows[key] for tasks in live for key in tasks.keys]
        return PoolContents(
            pool=None if pool_no is None else copies.copy_pool(self._pools[pool_no]),
            nodes=[copies.copy_node(node) for node in self._nodes_of(pool_no)],
            jobs=[copies.copy_job(job) for job in jobs],
            tasks=[copy.copy(task) for task in tasks],
            satisfied=[(job.no, id_key) for job in jobs for id_key in sorted(self._satisfied.get(job.no, ()))],
            job_nodes=[copies.copy_job_node(job_node) for job in live_jobs for job_node in self._job_nodes_of(job.no)],
            subtasks=[
                copy.copy(subtask)
                for task in tasks
                if task.state is not TaskState.COMPLETED
                for subtask in self._subtasks_of(task.key)
            ],
            task_arrays=[pair for job in jobs for pair in self._arrays_of(job.no)],
        )

    async def load_job(self, job_no: int) -> JobContents | None:
        self._check_open()
        job = self._jobs.get(job_no)
        if job is None:
            return None
        tasks = self._job_tasks(job_no)
        return JobContents(
            job=copies.copy_job(job),
            tasks=[copy.copy(tasks.rows[key]) for key in tasks.keys],
            satisfied=sorted(self._satisfied.get(job_no, ())),
            job_nodes=[copies.copy_job_node(job_node) for job_node in self._job_nodes_of(job_no)],
            task_arrays=self._arrays_of(job_no),
        )

    def _job_nodes_of(self, job_no: int) -> list[JobNode]:
        """In order of the node's id key."""
        return [job_node for _, job_node in sorted(self._job_nodes.get(job_no, {}).items())]

    def _subtasks_of(self, key: int) -> list[Subtask]:
        """In order of index."""
        return [subtask for _, subtask in sorted(self._subtasks.get(key, {}).items())]

    async def task_specs(self, keys: Sequence[int]) -> dict[int, bytes]:
        self._check_open()
        return {key: self._specs[key] for key in keys if key in self._specs}

    # --- automatic scaling ---

    async def save_samples(self, blocks: Sequence[SampleBlock], forget_before: Mapping[int, Timestamp]) -> None:
        self._check_open()
        for block in blocks:
            if block.pool_no in self._pools:
                self._samples.setdefault(block.pool_no, {})[block.start] = block.data
        for pool_no, oldest in forget_before.items():
            known = self._samples.get(pool_no, {})
            for start in [start for start in known if start < oldest]:
                del known[start]

    async def load_samples(self, pool_no: int, since: Timestamp) -> list[SampleBlock]:
        self._check_open()
        known = sorted(self._samples.get(pool_no, {}).items())
        return [SampleBlock(pool_no, start, data) for start, data in known if start >= since]

    async def save_auto_scale_runs(self, runs: Sequence[StoredRun], keep: int) -> None:
        self._check_open()
        for run in runs:
            if run.pool_no in self._pools:
                known = self._runs.setdefault(run.pool_no, {})
                known[run.at] = run.record
                for at in sorted(known)[: max(0, len(known) - keep)]:
                    del known[at]

    async def list_auto_scale_runs(self, pool_no: int, limit: int) -> list[StoredRun]:
        self._check_open()
        known = sorted(self._runs.get(pool_no, {}).items(), reverse=True)
        return [StoredRun(pool_no, at, record) for at, record in known[:limit]]

    # --- applications (immutable, all of them) ---

    async def save_application(self, application: Application) -> None:
        self._check_open()
        self._applications[ids.id_key(application.id)] = application

    async def delete_application(self, application_id: str) -> None:
        self._check_open()
        self._applications.pop(ids.id_key(application_id), None)

    async def load_applications(self) -> list[Application]:
        self._check_open()
        return [application for _, application in sorted(self._applications.items())]

    async def get_application(self, application_id: str) -> Application | None:
        self._check_open()
        return self._applications.get(ids.id_key(application_id))

    async def list_applications(self, limit: int, after: str | None, *, active: bool = False) -> Page[Application]:
        self._check_open()
        start = paging.id_after(after)
        rows = (application for id_key, application in sorted(self._applications.items()) if id_key > start)
        found = (application for application in rows if application.active_versions or not active)
        return _page(found, limit, lambda application: paging.token_of_id(application.id))

    # --- logs of tasks ---

    async def save_kept_logs(self, logs: Sequence[KeptLog], pack: LogPack | None = None) -> None:
        self._check_open()
        if pack is not None:
            self._log_packs[pack.no] = pack.size
        for log in logs:
            known = self._kept_logs.get(log.key)
            if log.key in self._job_tasks(ids.job_no_of(log.key)).rows and not (known and known.attempt > log.attempt):
                self._kept_logs[log.key] = log

    async def change_kept_log(self, log: KeptLog) -> None:
        self._check_open()
        known = self._kept_logs.get(log.key)
        if known is not None and (known.attempt, known.pack) == (log.attempt, log.pack):
            self._kept_logs[log.key] = log

    async def get_kept_log(self, key: int) -> KeptLog | None:
        self._check_open()
        return self._kept_logs.get(key)

    async def kept_log_bytes(self) -> int:
        self._check_open()
        return sum(self._log_packs.values())

    async def list_log_packs(self, after: int, limit: int) -> list[LogPack]:
        self._check_open()
        return [LogPack(no, size) for no, size in sorted(self._log_packs.items()) if no > after][:limit]

    async def unused_log_packs(self, after: int, limit: int) -> tuple[list[LogPack], int | None]:
        self._check_open()
        packs = [LogPack(no, size) for no, size in sorted(self._log_packs.items()) if no > after][:limit]
        used = {log.pack for log in self._kept_logs.values()}
        return [pack for pack in packs if pack.no not in used], packs[-1].no if any(
            no > packs[-1].no for no in self._log_packs
        ) else None

    async def drop_kept_logs(self, packs: Sequence[int]) -> None:
        self._check_open()
        self._kept_logs = {key: log for key, log in self._kept_logs.items() if log.pack not in packs}

    async def delete_log_packs(self, packs: Sequence[int]) -> None:
        self._check_open()
        for no in packs:
            self._log_packs.pop(no, None)

    # --- what the API reads ---

    async def get_pool(self, pool_id: str) -> Pool | None:
        self._check_open()
        no = self._pool_nos.get(ids.id_key(pool_id))
        return None if no is None else copies.copy_pool(self._pools[no])

    async def list_pools(self, where: Filter | None, limit: int, after: str | None) -> Page[Pool]:
        self._check_open()
        start = paging.id_after(after)
        rows = (self._pools[no] for id_key, no in sorted(self._pool_nos.items()) if id_key > start)
        found = (copies.copy_pool(pool) for pool in rows if filterable.passes(where, pool, filterable.POOL))
        return _page(found, limit, lambda pool: paging.token_of_id(pool.id))

    async def get_node(self, pool_id: str, node_id: str) -> Node | None:
        self._check_open()
        node = self._nodes.get(ids.id_key(node_id))
        pool_no = self._pool_nos.get(ids.id_key(pool_id))
        return None if node is None or node.pool_no != pool_no else copies.copy_node(node)

    async def list_nodes(self, pool_id: str, where: Filter | None, limit: int, after: str | None) -> Page[Node]:
        self._check_open()
        start = paging.id_after(after)
        rows = (node for node in self._nodes_of(self._pool_nos.get(ids.id_key(pool_id))) if ids.id_key(node.id) > start)
        found = (copies.copy_node(node) for node in rows if filterable.passes(where, node, filterable.NODE))
        return _page(found, limit, lambda node: paging.token_of_id(node.id))

    def _nodes_of(self, pool_no: int | None) -> list[Node]:
        """In order of id key."""
        return [node for _, node in sorted(self._nodes.items(), key=lambda one: one[0]) if node.pool_no == pool_no]

    async def node_counts(self, where: Filter | None) -> list[NodeCounts]:
        self._check_open()
        answer: list[NodeCounts] = []
        for _, pool_no in sorted(self._pool_nos.items()):
            pool_id = self._pools[pool_no].id
            if filterable.passes(where, pool_id, filterable.NODE_COUNTS):
                counts: dict[tuple[bool, str], int] = {}
                first: dict[tuple[bool, str], Node] = {}
                for node in self._nodes_of(pool_no):
                    group = (not node.is_dedicated, node.state.value)
                    counts[group] = counts.get(group, 0) + 1
                    first.setdefault(group, node)
                answer += [
                    NodeCounts(pool_id, first[group].is_dedicated, first[group].state, counts[group])
                    for group in sorted(counts)
                ]
        return answer

    async def get_job(self, job_id: str) -> Job | None:
        self._check_open()
        no = self._job_nos.get(ids.id_key(job_id))
        return None if no is None else copies.copy_job(self._jobs[no])

    async def list_jobs(
        self, where: Filter | None, limit: int, after: str | None, *, schedule_id: str | None = None
    ) -> Page[Job]:
        self._check_open()
        start = paging.id_after(after)
        schedule_key = None if schedule_id is None else ids.id_key(schedule_id)
        rows = (self._jobs[no] for id_key, no in sorted(self._job_nos.items()) if id_key > start)
        found = (
            copies.copy_job(job)
            for job in rows
            if schedule_key is None or (job.schedule_id is not None and ids.id_key(job.schedule_id) == schedule_key)
            if filterable.passes(where, job, filterable.JOB)
        )
        return _page(found, limit, lambda job: paging.token_of_id(job.id))

    async def get_job_schedule(self, schedule_id: str) -> JobSchedule | None:
        self._check_open()
        no = self._job_schedule_nos.get(ids.id_key(schedule_id))
        return None if no is None else copies.copy_job_schedule(self._job_schedules[no])

    async def list_job_schedules(self, where: Filter | None, limit: int, after: str | None) -> Page[JobSchedule]:
        self._check_open()
        start = paging.id_after(after)
        rows = (self._job_schedules[no] for id_key, no in sorted(self._job_schedule_nos.items()) if id_key > start)
        passing = (schedule for schedule in rows if filterable.passes(where, schedule, filterable.JOB_SCHEDULE))
        found = (copies.copy_job_schedule(schedule) for schedule in passing)
        return _page(found, limit, lambda schedule: paging.token_of_id(schedule.id))

    async def list_job_nodes(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[JobNode]:
        self._check_open()
        start = paging.id_after(after)
        rows = (job_node for job_node in self._job_nodes_of(job_no) if ids.id_key(job_node.node_id) > start)
        found = (copies.copy_job_node(row) for row in rows if filterable.passes(where, row, filterable.JOB_NODE))
        return _page(found, limit, lambda job_node: paging.token_of_id(job_node.node_id))

    async def list_subtasks(self, task_key: int) -> list[Subtask]:
        self._check_open()
        return [copy.copy(subtask) for subtask in self._subtasks_of(task_key)]

    async def get_task(self, job_id: str, task_id: str) -> TaskRow | None:
        self._check_open()
        job_no = self._job_nos.get(ids.id_key(job_id), -1)
        tasks = self._job_tasks(job_no)
        key = tasks.by_id.get(ids.id_key(task_id))
        if key is None:
            return task_arrays.named(self._arrays_of(job_no), ids.id_key(task_id))
        return self._task_row(tasks.rows[key])

    async def list_tasks(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[TaskRow]:
        self._check_open()
        tasks = self._job_tasks(job_no)
        after_key = paging.task_after(job_no, after)
        start = bisect_right(tasks.keys, after_key)
        rows = (tasks.rows[tasks.keys[place]] for place in range(start, len(tasks.keys)))
        found = (self._task_row(task) for task in rows if filterable.passes(where, task, filterable.TASK))
        page = task_arrays.Page(self._arrays_of(job_no), where, after_key, limit)
        return page.with_rows(list(islice(found, limit + 1)), None)

    def _task_row(self, task: Task) -> TaskRow:
        return TaskRow(copy.copy(task), self._specs.get(task.key, b"{}"))

    async def tasks_of_keys(self, keys: Sequence[int]) -> dict[int, tuple[str, Task]]:
        self._check_open()
        found: dict[int, tuple[str, Task]] = {}
        for key in keys:
            job = self._jobs.get(ids.job_no_of(key))
            task = self._job_tasks(ids.job_no_of(key)).rows.get(key)
            if job is not None and task is not None:
                found[key] = (job.id, copy.copy(task))
        return found

    async def pools_of_jobs(self, job_ids: Iterable[str]) -> dict[str, str]:
        self._check_open()
        keys = [ids.id_key(job_id) for job_id in job_ids]
        return {key: self._jobs[self._job_nos[key]].pool_id for key in keys if key in self._job_nos}


def _check_unique(
    saved: Mapping[int, Pool] | Mapping[int, Job] | Mapping[int, JobSchedule],
    numbers: Mapping[str, int],
    deleted: set[int],
) -> None:
    for no, record in saved.items():
        twin = numbers.get(ids.id_key(record.id), no)
        if twin != no and twin not in deleted:
            raise Bug(f"rows that cannot be: {record.id} is number {twin} and {no}")


def _page(found: Iterator[_T], limit: int, token_of: Callable[[_T], str]) -> Page[_T]:
    items: list[_T] = []
    for item in found:
        if len(items) == limit:
            return Page(items, token_of(items[-1]))
        items.append(item)
    return Page(items, None)
