"""The store of a simulated cluster: a `MemoryStore` that takes its time and fails, with the ledger beside it.

It outlives the control plane. A commit on its way when its process is killed may still be written, as with a database
server: fencing must see to it that it does no harm.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from millpond.domain.application import Application
from millpond.domain.durations import Timestamp
from millpond.domain.errors import Bug, LeaseLost, StoreUnavailable
from millpond.domain.events import Event
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.sim.audit import Audit
from millpond.sim.ledger import Ledger
from millpond.sim.loop import VirtualLoop
from millpond.sim.names import named, short
from millpond.sim.story import Story, Violation
from millpond.store import copies
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
from millpond.store.memory import MemoryStore


class SimDisk:
    """A `Store`. The audit sees changes just before they are written, and just after."""

    def __init__(
        self,
        loop: VirtualLoop,
        random: Random,
        story: Story,
        ledger: Ledger,
        audit: Audit,
    ) -> None:
        self._loop = loop
        self._random = random
        self._story = story
        self._ledger = ledger
        self._audit = audit
        self._inner = MemoryStore()
        self.latency_s = 0.002
        self.hiccups = random.choice((0.0, 0.0, 0.03, 0.15))
        """How likely a write takes seconds."""
        self.ambush: Callable[[], None] | None = None
        """Called once, when the next commit begins: it may kill who commits. What is on its way then is written after a
        while, or never."""
        self.commits_fail = 0.0
        """How likely a commit fails."""
        self.reads_fail = 0.0
        """How likely a read of the control plane fails."""

    def _delay(self) -> float:
        return self._random.uniform(0.1, 1.0) * self.latency_s

    async def _read(self) -> None:
        await asyncio.sleep(self._delay())
        if self.reads_fail and self._random.random() < self.reads_fail:
            raise StoreUnavailable("simulated read error")

    async def open(self) -> StoreFacts:
        await self._read()
        return await self._inner.open()

    async def close(self) -> None:
        """The object lives on, and so do the rows."""

    async def acquire_lease(self, pool_key: str, owner: str, at: Timestamp, ttl_s: float) -> Fence | None:
        await self._read()
        fence = await self._inner.acquire_lease(pool_key, owner, at, ttl_s)
        self._story.add("store", f"lease of {pool_key}: epoch {fence.epoch if fence else None}")
        return fence

    async def take_lease(self, at: Timestamp) -> None:
        """Take the lease of some pool, as another process of the same name would."""
        pool_keys = sorted({id_key(pool.id) for pool in self._ledger.pools.values()})
        if pool_keys:
            await self._inner.acquire_lease(self._random.choice(pool_keys), "local", at, 1.0)

    async def renew_leases(self, fences: Sequence[Fence], owner: str, at: Timestamp, ttl_s: float) -> list[Fence]:
        await self._read()
        return await self._inner.renew_leases(fences, owner, at, ttl_s)

    async def release_lease(self, fence: Fence) -> None:
        await self._read()
        await self._inner.release_lease(fence)

    async def commit(self, changes: ChangeSet, fence: Fence) -> None:
        snapshot = copies.copy_changes(changes)
        events = self._audit.events_of(changes)
        hold_s: float | None = 0.0
        if self.ambush is not None:
            ambush, self.ambush = self.ambush, None
            ambush()
            hold_s = self._random.choice((None, 0.0, self._random.uniform(0.0, 0.1), self._random.uniform(0.0, 4.0)))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._loop.world_task(self._write(snapshot, events, fence, done, hold_s), name="commit")
        await done

    async def _write(
        self,
        changes: ChangeSet,
        events: list[Event],
        fence: Fence,
        done: "asyncio.Future[None]",
        hold_s: float | None,
    ) -> None:
        """`hold_s` of None: it never gets there, and nobody is told."""
        if hold_s is None:
            return
        await asyncio.sleep(hold_s)
        await asyncio.sleep(self._delay())
        if self.hiccups and self._random.random() < self.hiccups:
            await asyncio.sleep(self._random.uniform(0.0, 4.0))
        error: Exception | None = None
        if self.commits_fail and self._random.random() < self.commits_fail:
            # A disk that fails may take its time to say so: what comes meanwhile is decided on memory that is in vain.
            await asyncio.sleep(self._random.choice((0.0, self._random.uniform(0.0, 4.0))))
            error = StoreUnavailable("simulated write error")
        else:
            try:
                await self._inner.commit(changes, fence)
            except LeaseLost as lost:
                error = lost
            except Bug as bug:
                self._loop.failure = Violation(str(bug))
                return
        if error is None:
            self._audit.on_write(changes, events)
            self._ledger.write(changes)
            self._audit.after_write(changes)
            self._story.add("store", f"commit {self._ledger.commits} of {fence.pool_key}: {_summary(changes)}")
        else:
            self._story.add("store", f"commit of {fence.pool_key} fails: {error}: {_summary(changes)}")
        await asyncio.sleep(self._delay())
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    async def purge_tasks(self, job_no: int, limit: int, fence: Fence) -> int:
        await self._read()
        keys = sorted(self._ledger.tasks.get(job_no, {}))[:limit]
        deleted = await self._inner.purge_tasks(job_no, limit, fence)
        self._audit.on_purge(job_no, keys)
        self._ledger.purge(job_no, keys, last=deleted < limit)
        self._story.add("store", f"purged {deleted} tasks of job {job_no}")
        await asyncio.sleep(self._delay())
        return deleted

    async def forget_node_names(self, chunk: int) -> None:
        await self._inner.forget_node_names(chunk)

    async def load_pool(self, pool_key: str) -> PoolContents:
        await self._read()
        contents = await self._inner.load_pool(pool_key)
        await self._read()
        return contents

    async def load_job(self, job_no: int) -> JobContents | None:
        await self._read()
        contents = await self._inner.load_job(job_no)
        await self._read()
        return contents

    async def task_specs(self, keys: Sequence[int]) -> dict[int, bytes]:
        await self._read()
        specs = await self._inner.task_specs(keys)
        await self._read()
        return specs

    async def get_pool(self, pool_id: str) -> Pool | None:
        await self._read()
        return await self._inner.get_pool(pool_id)

    async def list_pools(self, where: Any, limit: int, after: str | None) -> Page[Pool]:
        await self._read()
        return await self._inner.list_pools(where, limit, after)

    async def get_node(self, pool_id: str, node_id: str) -> Node | None:
        await self._read()
        return await self._inner.get_node(pool_id, node_id)

    async def list_nodes(self, pool_id: str, where: Any, limit: int, after: str | None) -> Page[Node]:
        await self._read()
        return await self._inner.list_nodes(pool_id, where, limit, after)

    async def node_counts(self, where: Any) -> list[NodeCounts]:
        await self._read()
        return await self._inner.node_counts(where)

    async def get_job(self, job_id: str) -> Job | None:
        await self._read()
        return await self._inner.get_job(job_id)

    async def list_jobs(
        self, where: Any, limit: int, after: str | None, *, schedule_id: str | None = None
    ) -> Page[Job]:
        await self._read()
        return await self._inner.list_jobs(where, limit, after, schedule_id=schedule_id)

    async def get_job_schedule(self, schedule_id: str) -> JobSchedule | None:
        await self._read()
        return await self._inner.get_job_schedule(schedule_id)

    async def list_job_schedules(self, where: Any, limit: int, after: str | None) -> Page[JobSchedule]:
        await self._read()
        return await self._inner.list_job_schedules(where, limit, after)

    async def list_job_nodes(self, job_no: int, where: Any, limit: int, after: str | None) -> Page[JobNode]:
        await self._read()
        return await self._inner.list_job_nodes(job_no, where, limit, after)

    async def list_subtasks(self, task_key: int) -> list[Subtask]:
        await self._read()
        return await self._inner.list_subtasks(task_key)

    # Observations take their time but no chance: with them or without, a seed tells the same story.

    async def save_samples(self, blocks: Sequence[SampleBlock], forget_before: Mapping[int, Timestamp]) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.save_samples(blocks, forget_before)

    async def load_samples(self, pool_no: int, since: Timestamp) -> list[SampleBlock]:
        await asyncio.sleep(self.latency_s)
        return await self._inner.load_samples(pool_no, since)

    async def save_kept_logs(self, logs: Sequence[KeptLog], pack: LogPack | None = None) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.save_kept_logs(logs, pack)

    async def change_kept_log(self, log: KeptLog) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.change_kept_log(log)

    async def get_kept_log(self, key: int) -> KeptLog | None:
        await asyncio.sleep(self.latency_s)
        return await self._inner.get_kept_log(key)

    async def kept_log_bytes(self) -> int:
        await asyncio.sleep(self.latency_s)
        return await self._inner.kept_log_bytes()

    async def list_log_packs(self, after: int, limit: int) -> list[LogPack]:
        await asyncio.sleep(self.latency_s)
        return await self._inner.list_log_packs(after, limit)

    async def unused_log_packs(self, after: int, limit: int) -> tuple[list[LogPack], int | None]:
        await asyncio.sleep(self.latency_s)
        return await self._inner.unused_log_packs(after, limit)

    async def drop_kept_logs(self, packs: Sequence[int]) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.drop_kept_logs(packs)

    async def delete_log_packs(self, packs: Sequence[int]) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.delete_log_packs(packs)

    async def save_auto_scale_runs(self, runs: Sequence[StoredRun], keep: int) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.save_auto_scale_runs(runs, keep)

    async def list_auto_scale_runs(self, pool_no: int, limit: int) -> list[StoredRun]:
        await asyncio.sleep(self.latency_s)
        return await self._inner.list_auto_scale_runs(pool_no, limit)

    async def save_application(self, application: Application) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.save_application(application)

    async def delete_application(self, application_id: str) -> None:
        await asyncio.sleep(self.latency_s)
        await self._inner.delete_application(application_id)

    async def load_applications(self) -> list[Application]:
        return await self._inner.load_applications()

    async def get_application(self, application_id: str) -> Application | None:
        await asyncio.sleep(self.latency_s)
        return await self._inner.get_application(application_id)

    async def list_applications(self, limit: int, after: str | None, *, active: bool = False) -> Page[Application]:
        await asyncio.sleep(self.latency_s)
        return await self._inner.list_applications(limit, after, active=active)

    async def get_task(self, job_id: str, task_id: str) -> TaskRow | None:
        await self._read()
        row = await self._inner.get_task(job_id, task_id)
        await self._read()
        return row

    async def list_tasks(self, job_no: int, where: Any, limit: int, after: str | None) -> Page[TaskRow]:
        await self._read()
        return await self._inner.list_tasks(job_no, where, limit, after)

    async def tasks_of_keys(self, keys: Sequence[int]) -> dict[int, tuple[str, Task]]:
        await self._read()
        return await self._inner.tasks_of_keys(keys)

    async def pools_of_jobs(self, job_ids: Iterable[str]) -> dict[str, str]:
        await self._read()
        return await self._inner.pools_of_jobs(job_ids)


def _summary(changes: ChangeSet) -> str:
    """The rows in short, for the story."""
    parts = [f"pool {pool.id} {pool.state} {pool.allocation_state}" for pool in changes.pools.values()]
    for node in changes.nodes.values():
        pending = f" {node.pending.operation} {node.pending.option}" if node.pending is not None else ""
        parts.append(f"node {short(node.id)} {node.state}{pending}")
    parts.extend(f"job {job.id} {job.state}" for job in changes.jobs.values())
    for task in changes.tasks.values():
        where = f" on {short(task.node_id)}" if task.node_id is not None else ""
        new = "+" if task.key in changes.new_tasks else ""
        parts.append(f"task {new}{named(task.key)}#{task.attempt} {task.state}{where}")
    for (job_no, node_id), known in changes.job_nodes.items():
        done = [
            f"{kind} {info.state}" for kind, info in (("prep", known.preparation), ("release", known.release)) if info
        ]
        parts.append(f"job {job_no} on {short(node_id)} {' '.join(done)}")
    for (key, index), subtask in changes.subtasks.items():
        parts.append(f"instance {named(key)}#{subtask.attempt}.{index} {subtask.state} on {short(subtask.node_id)}")
    parts.extend(f"schedule {schedule.id} {schedule.state}" for schedule in changes.job_schedules.values())
    parts.extend(f"-instances {named(key)}" for key in sorted(changes.deleted_subtasks))
    parts.extend(f"-schedule {no}" for no in sorted(changes.deleted_job_schedules))
    parts.extend(f"-pool {no}" for no in sorted(changes.deleted_pools))
    parts.extend(f"-node {short(node_id)}" for node_id in sorted(changes.deleted_nodes))
    parts.extend(f"-job {no}" for no in sorted(changes.deleted_jobs))
    parts.extend(f"-task {named(key)}" for key in sorted(changes.deleted_tasks))
    return ", ".join(parts)
