"""The keeper of jobs: which there are and in which pool, how many there may be, and their moves between pools."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from millpond.control.engine import Engine
from millpond.control.engines import Engines, memory_of
from millpond.control.job_schedules import JobScheduleKeeper
from millpond.control.pools import PoolKeeper
from millpond.control.settings import ControlSettings
from millpond.control.timers import Timers
from millpond.control.tokens import TaskClaim, read_task_token
from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, LeaseLost, StoreUnavailable
from millpond.domain.events import Event
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.pool import Pool
from millpond.domain.states import JobState, TaskState
from millpond.domain.task import NewTask
from millpond.scheduler.state import SchedulerState
from millpond.store.base import Store

log = logging.getLogger(__name__)

_MOVE_PATIENCE_S: Final = 20.0
"""How long a request waits for a job that is being moved to another pool."""


class _JobEntry(msgspec.Struct):
    no: int
    pool_id: str
    arrival: asyncio.Future[None] | None = None
    """While it is being moved: done when the engine of its new pool knows it."""


class JobKeeper:
    """What `control.base.ControlPlane` says of jobs. Made and used in one event loop."""

    def __init__(
        self,
        store: Store,
        engines: Engines,
        pools: PoolKeeper,
        schedules: JobScheduleKeeper,
        timers: Timers,
        secret: bytes,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
    ) -> None:
        """`secret` signs the tokens of tasks."""
        self._store = store
        self._engines = engines
        self._pools = pools
        self._schedules = schedules
        self._timers = timers
        self._secret = secret
        self._clock = clock
        self._settings = settings
        self._jobs: dict[str, _JobEntry] = {}
        """By id key, those being added among them."""
        self._next_no = 1
        self._moves: set[asyncio.Task[None]] = set()

    # --- life ---

    def know(self, jobs: Iterable[tuple[str, int, str]], next_no: int) -> None:
        """What the store says (id, number, id of the pool); before engines are started."""
        self._jobs = {id_key(job_id): _JobEntry(no, pool_id) for job_id, no, pool_id in jobs}
        self._next_no = next_no

    def learn_from(self, memory: SchedulerState) -> None:
        """Jobs and numbers that were not on disk yet when this service looked: a commit of the service before it may
        have been on its way then. From now on the lease keeps such commits out."""
        for key, job in memory.jobs.items():
            self._jobs.setdefault(key, _JobEntry(job.row.no, job.row.pool_id))
            self._next_no = max(self._next_no, job.row.no + 1)

    def forget(self, job: Job) -> None:
        """It is deleted: its id is free."""
        self._jobs.pop(id_key(job.id), None)

    async def stop(self) -> None:
        """Moves that are under way go on when the service starts again: the rows name the new pool."""
        for move in self._moves:
            move.cancel()
        await asyncio.gather(*self._moves, return_exceptions=True)

    # --- what is asked for ---

    def _entry(self, job_id: str) -> _JobEntry:
        entry = self._jobs.get(id_key(job_id))
        if entry is None:
            raise BatchError(ErrorCode.JOB_NOT_FOUND, f"The job '{job_id}' does not exist.", JobId=job_id)
        return entry

    async def memory(self, job_id: str) -> SchedulerState:
        """That of the engine of its pool, to look at only. Raises BatchError JobNotFound, ServerBusy."""
        return memory_of(await self._engines.started(self._entry(job_id).pool_id))

    async def add(self, job: Job, cause: str, *, manager: NewTask | None = None, auto_pool: Pool | None = None) -> Job:
        key = id_key(job.id)
        if key in self._jobs:
            raise BatchError(self._taken_id(key), JobId=job.id)
        if self._schedules.knows(key):
            raise BatchError(ErrorCode.JOB_SCHEDULE_WITH_SAME_ID_EXISTS, JobId=job.id)
        if job.schedule_id is None:
            self.require_quota()
        job.no = self._next_no
        self._next_no += 1
        if auto_pool is not None:
            job.scheduling_error = self._pools.take_auto_pool(auto_pool)
        # The id is reserved before the first suspension: of two that race, one is told that it exists.
        self._jobs[key] = _JobEntry(job.no, job.pool_id)
        try:
            engine = await self._engines.started(job.pool_id)
            added = engine.submit(
                e.JobAdded(at=self._clock(), cause=cause, job=job, manager=manager, auto_pool=auto_pool)
            )
        except BaseException:
            self._jobs.pop(key, None)
            raise

        def settle(added: asyncio.Future[Any]) -> None:
            if added.cancelled() or added.exception() is not None:
                self._jobs.pop(key, None)

        # Whether the id is taken is for the commit to say: a caller that hangs up first must not set it free.
        added.add_done_callback(settle)
        await asyncio.shield(added)
        return job

    def require_quota(self) -> None:
        """Raises BatchError ActiveJobAndScheduleQuotaReached when one more job or schedule would be too many. A job that
        a schedule makes is counted and never refused: its schedule was let in."""
        quota = self._settings.active_job_quota
        if quota is None:
            return
        # Those that are being added are not in any state yet; of an engine that is being rebuilt all are counted.
        active = self._schedules.active_count()
        for key, entry in self._jobs.items():
            job = self._engines.job(entry.pool_id, key)
            active += job is None or job.row.state is not JobState.COMPLETED
        if active >= quota:
            raise BatchError(
                ErrorCode.ACTIVE_JOB_AND_SCHEDULE_QUOTA_REACHED,
                f"There are {active} active jobs and job schedules, and {quota} are the limit: delete or terminate one, or "
                "raise account.active_job_and_job_schedule_quota in the configuration.",
            )

    def _taken_id(self, key: str) -> ErrorCode:
        job = self._engines.job(self._jobs[key].pool_id, key)
        deleting = job is not None and job.row.state is JobState.DELETING
        return ErrorCode.JOB_BEING_DELETED if deleting else ErrorCode.JOB_EXISTS

    def knows(self, job_id: str) -> bool:
        return id_key(job_id) in self._jobs

    def of_schedule(self, schedule_id: str) -> list[str]:
        prefix = f"{id_key(schedule_id)}:"
        return [key for key in self._jobs if key.startswith(prefix)]

    async def submit(self, job_id: str, event: Event) -> Any:
        while True:
            entry = self._entry(job_id)
            if entry.arrival is not None:
                await self._wait_for_arrival(job_id, entry.arrival)
                continue
            pool_id = entry.pool_id
            engine = await self._engines.started(pool_id)
            try:
                if isinstance(event, e.TaskDeleteRequested):
                    return await self._delete_task(engine, event)
                return await engine.submit(event)
            except BatchError as error:
                # The event may have been in the inbox of the engine that the job was just leaving.
                if error.code is not ErrorCode.JOB_NOT_FOUND or entry.pool_id == pool_id:
                    raise

    @staticmethod
    async def _wait_for_arrival(job_id: str, arrival: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(_MOVE_PATIENCE_S):
                await asyncio.shield(arrival)
        except TimeoutError:
            text = f"The job '{job_id}' is being moved to another pool; try again shortly."
            raise BatchError(ErrorCode.SERVER_BUSY, text) from None

    def move(self, job: Job) -> None:
        """Its row names another pool: from now on requests go there, once the engine there knows the job."""
        entry = self._jobs.get(id_key(job.id))
        if entry is None:
            return
        entry.pool_id = job.pool_id
        entry.arrival = asyncio.get_running_loop().create_future()
        self._timers.set(f"job {id_key(job.id)}", None, lambda: None)
        move = asyncio.create_task(self._arrive(job.id, entry, entry.arrival), name=f"move of job {job.id}")
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)

    async def _arrive(self, job_id: str, entry: _JobEntry, arrival: asyncio.Future[None]) -> None:
        try:
            while True:
                if await self._hand_over(job_id, entry):
                    return
                await asyncio.sleep(self._settings.store_retry_s)
        finally:
            # Those who wait look again: at the new engine, or (when the service stops) at one that refuses them.
            entry.arrival = None
            if not arrival.done():
                arrival.set_result(None)

    async def _hand_over(self, job_id: str, entry: _JobEntry) -> bool:
        """Whether the engine of the job's pool knows it now. It does already if it has read the pool's rows since."""
        try:
            engine = await self._engines.started(entry.pool_id)
            rows = await self._store.load_job(entry.no)
            if rows is not None:
                await engine.submit(
                    e.JobArrived(
                        at=self._clock(),
                        cause="move",
                        job=rows.job,
                        tasks=tuple(rows.tasks),
                        satisfied=tuple(rows.satisfied),
                        job_nodes=tuple(rows.job_nodes),
                        task_arrays=tuple(rows.task_arrays),
                    )
                )
        except (BatchError, LeaseLost, StoreUnavailable) as error:
            log.info("the move of job %s waits: %s", job_id, error)
            return False
        return True

    async def _delete_task(self, engine: Engine, event: e.TaskDeleteRequested) -> Any:
        """Memory has let go of the tasks of completed jobs: those are deleted by their rows.

        A row is read once a refusal has come, with which all is on disk that memory knew when it refused; what is deleted
        from a completed job after that is remembered there. A row read earlier may be of a task that is deleted already,
        by what completed the job, say."""
        try:
            return await engine.submit(event)
        except BatchError as error:
            if error.code is not ErrorCode.TASK_NOT_FOUND:
                raise
            if engine.state is None:
                raise BatchError(ErrorCode.SERVER_BUSY) from error
            if not self._is_completed(engine, event.job_id):
                raise
        row = await self._store.get_task(event.job_id, event.task_id)
        if row is None:
            raise BatchError(ErrorCode.TASK_NOT_FOUND, JobId=event.job_id, TaskId=event.task_id)
        return await engine.submit(msgspec.structs.replace(event, row=row.task))

    def _is_completed(self, engine: Engine, job_id: str) -> bool:
        job = self._engines.job(engine.pool_id, job_id)
        return job is not None and job.row.state is JobState.COMPLETED

    def claim_of_token(self, token: str) -> TaskClaim | None:
        claim = read_task_token(self._secret, token)
        entry = self._jobs.get(id_key(claim.job_id)) if claim is not None else None
        engine = self._engines.get(entry.pool_id) if entry is not None else None
        if claim is None or engine is None:
            return None
        job = memory_of(engine).jobs.get(id_key(claim.job_id))
        task = job.tasks.get(id_key(claim.task_id)) if job is not None else None
        current = task is not None and task.attempt == claim.attempt and task.state is not TaskState.COMPLETED
        return claim if current else None
