"""The keeper of job schedules: the one owner of all of them, and what their rules ask of the rest.

Which jobs are due is for the machine (`scheduler.job_schedules`) to say. Jobs belong to the engines of their pools, so
what is wished for here is said again until it is so: a job is made once under its id, however often it is asked for,
and after every rebuild of the memory everything that was under way is asked for anew. The other way round, a pool's
engine says that a job is over until that is on disk here, and a job's rows are not deleted before. So a job that its
schedule calls active, and that the store does not know, has not been made yet.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from millpond.control.base import JobMaker
from millpond.control.engine import BaseEngine
from millpond.control.settings import ControlSettings
from millpond.control.timers import Timers
from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.events import Event, JobScheduleEvent
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.pool import Pool
from millpond.domain.states import JobScheduleState, JobState
from millpond.domain.task import NewTask
from millpond.scheduler.job_schedules import JobSchedulesState, apply, rebuild
from millpond.store.base import Fence, Store
from millpond.store.changes import ChangeSet

log = logging.getLogger(__name__)

LEASE_KEY: Final = ":job-schedules"
"""No pool's id has a colon."""
TERMINATE_REASON: Final = "TerminateJobSchedule"

_PAGE: Final = 1000
_FIRST_PAUSE_S: Final = 0.02
_DELETES_AT_A_TIME: Final = 100

_TRY_AGAIN: Final = frozenset({ErrorCode.SERVER_BUSY, ErrorCode.INTERNAL_ERROR})
_THERE_ALREADY: Final = frozenset({ErrorCode.JOB_EXISTS, ErrorCode.JOB_BEING_DELETED})
_OVER: Final = frozenset({ErrorCode.JOB_NOT_FOUND, ErrorCode.JOB_COMPLETED})
_ENDING: Final = frozenset({ErrorCode.JOB_BEING_TERMINATED, ErrorCode.JOB_BEING_DELETED})
_GOING: Final = frozenset({ErrorCode.JOB_NOT_FOUND, ErrorCode.JOB_BEING_DELETED})
_POOL_GOING: Final = frozenset({ErrorCode.POOL_NOT_FOUND, ErrorCode.POOL_BEING_DELETED})


class Jobs(Protocol):
    """What the keeper asks of the rest of the control plane; see `control.base.ControlPlane`."""

    async def add_job(
        self, job: Job, cause: str, *, manager: NewTask | None = None, auto_pool: Pool | None = None
    ) -> Job: ...

    async def to_job(self, job_id: str, event: Event) -> Any: ...

    async def to_pool(self, pool_id: str, event: Event) -> Any: ...

    def knows_job(self, job_id: str) -> bool:
        """Whether there is such a job, or one is being added."""
        ...

    def jobs_of_schedule(self, schedule_id: str) -> list[str]:
        """Ids of all its jobs, those being added among them."""
        ...


class _Engine(BaseEngine[JobSchedulesState, JobScheduleEvent]):
    """The loop of `control.engine` over the machine of job schedules, under a lease of its own."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        carry_out: Callable[[Effect], None],
        forget: Callable[[], None],
    ) -> None:
        super().__init__(LEASE_KEY, "the job schedules", store, clock, settings)
        self._carry_out_one = carry_out
        self._forget = forget

    async def _load(self) -> tuple[JobSchedulesState, list[Effect]]:
        rows: list[JobSchedule] = []
        after: str | None = None
        while True:
            page = await self._store.list_job_schedules(None, _PAGE, after)
            rows += page.items
            after = page.next
            if after is None:
                return rebuild(rows, self._clock())

    def _apply(self, state: JobSchedulesState, event: JobScheduleEvent) -> list[Effect]:
        return apply(state, event)

    def _place(self, state: JobSchedulesState, at: Timestamp) -> list[Effect]:
        return []

    async def _carry_out(self, effects: Sequence[Effect], changes: ChangeSet) -> None:
        for effect in effects:
            self._carry_out_one(effect)

    def _rebuilt(self) -> None:
        self._forget()


class JobScheduleKeeper:
    """See the module. Made and used in one event loop."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        timers: Timers,
        jobs: Jobs,
        make_job: JobMaker,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._timers = timers
        self._jobs = jobs
        self._make_job = make_job
        self._engine = _Engine(store, clock, settings, self._carry_out, self._drop_work)
        self._numbers: dict[str, int] = {}
        """Id key → number of every schedule, those being added among them."""
        self._next_no = 1
        self._work: dict[str, asyncio.Task[None]] = {}
        """By id key: the last of what is being done for the schedule, one after the other."""
        self._messages: set[asyncio.Task[None]] = set()

    # --- life ---

    def know(self, schedules: Sequence[JobSchedule], next_no: int) -> None:
        """What there is. Comes before the engines of pools begin to tell of jobs."""
        self._numbers = {id_key(schedule.id): schedule.no for schedule in schedules}
        self._next_no = next_no

    async def start(self) -> None:
        """Take over all schedules and pick up what was under way. Raises LeaseLost, StoreUnavailable."""
        await self._engine.start()

    async def stop(self) -> None:
        self._drop_work()
        for message in self._messages:
            message.cancel()
        await asyncio.gather(*self._messages, return_exceptions=True)
        await self._engine.stop()

    @property
    def available(self) -> bool:
        return self._engine.available

    @property
    def fence(self) -> Fence | None:
        return self._engine.fence

    # --- what users ask ---

    def knows(self, schedule_id: str) -> bool:
        """Whether there is such a schedule, or one is being added."""
        return id_key(schedule_id) in self._numbers

    def active_count(self) -> int:
        """How many are not completed, those being added among them."""
        state = self._engine.state
        rows = {} if state is None else state.rows
        return sum(key not in rows or rows[key].state is not JobScheduleState.COMPLETED for key in self._numbers)

    async def add(self, schedule: JobSchedule, cause: str) -> JobSchedule:
        """Raises BatchError JobScheduleExists, JobScheduleBeingDeleted, ServerBusy."""
        key = id_key(schedule.id)
        if key in self._numbers:
            state = self._engine.state
            row = state.rows.get(key) if state is not None else None
            deleting = row is not None and row.state is JobScheduleState.DELETING
            code = ErrorCode.JOB_SCHEDULE_BEING_DELETED if deleting else ErrorCode.JOB_SCHEDULE_EXISTS
            raise BatchError(code, JobScheduleId=schedule.id)
        schedule.no = self._next_no
        added = self._engine.submit(e.JobScheduleAdded(at=self._clock(), cause=cause, schedule=schedule))
        self._next_no += 1
        self._numbers[key] = schedule.no

        def settle(added: asyncio.Future[Any]) -> None:
            if added.cancelled() or added.exception() is not None:
                self._numbers.pop(key, None)

        # Whether the id is taken is for the commit to say: a caller that hangs up first must not set it free.
        added.add_done_callback(settle)
        await asyncio.shield(added)
        return schedule

    async def submit(self, event: JobScheduleEvent) -> Any:
        """Raises the machine's BatchError, or ServerBusy."""
        return await self._engine.submit(event)

    # --- what pools' engines tell ---

    def job_completed(self, job: Job) -> None:
        """A job is completed, which is on disk. Said at least once; here it is said to the machine until it has written
        that down."""
        if self._awaits(job):
            self._message(self._tell_over(job))

    def job_goes(self, job: Job, then: Callable[[], None]) -> None:
        """A job is about to be deleted: `then` is called once its schedule is known not to count on it."""

        async def tell() -> None:
            await self._tell_over(job)
            then()

        self._message(tell())

    def _awaits(self, job: Job) -> bool:
        state = self._engine.state
        if state is None:
            # A memory that is built from now on looks at the jobs of all schedules that have an active one.
            return False
        row = state.rows.get(id_key(job.schedule_id or ""))
        return row is not None and row.recent_job_active and row.recent_job_id == job.id

    async def _tell_over(self, job: Job) -> None:
        schedule_id = job.schedule_id or ""
        key = id_key(schedule_id)
        number = self._numbers.get(key)

        async def tell() -> bool:
            # A schedule of that id may have gone and another have come: its jobs have the same ids.
            return self._numbers.get(key) != number or await self._say_over(schedule_id, job.id)

        await self._again_and_again(f"end of job {job.id}", tell)

    async def _say_over(self, schedule_id: str, job_id: str) -> bool:
        event = e.ScheduledJobCompleted(
            at=self._clock(), cause=f"end of job {job_id}", schedule_id=schedule_id, job_id=job_id
        )
        await self._engine.submit(event)
        return True

    def _message(self, message: Any) -> None:
        task = asyncio.create_task(message, name="message to the job schedules")
        self._messages.add(task)
        task.add_done_callback(self._messages.discard)

    # --- effects ---

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case f.SetJobScheduleTimer(schedule_id, deadline):
                self._set_timer(schedule_id, deadline)
            case f.CreateScheduledJob(schedule):
                self._do(schedule, "making its job", lambda: self._create_job(schedule))
            case f.TerminateScheduledJob(schedule):
                self._do(schedule, "ending its job", lambda: self._terminate_job(schedule))
            case f.DeleteScheduledJobs(schedule):
                asked: set[str] = set()
                self._do(schedule, "deleting its jobs", lambda: self._delete_all(schedule, asked))
            case f.DeleteScheduleAutoPool(schedule):
                self._do(schedule, "deleting its pool", lambda: self._delete_pool(schedule))
            case f.DeleteJobSchedule(schedule):
                self._numbers.pop(id_key(schedule.id), None)
                self._set_timer(schedule.id, None)

    def _set_timer(self, schedule_id: str, deadline: Timestamp | None) -> None:
        key = f"schedule {id_key(schedule_id)}"

        def fire() -> None:
            if deadline is None:
                return
            event = e.JobScheduleDue(at=self._clock(), cause="timer", schedule_id=schedule_id, deadline=deadline)
            try:
                self._engine.submit(event)
            except BatchError:
                self._timers.set(key, self._clock() + 1.0, fire)

        # A clock that was set back: the machine looks at its plans again.
        self._timers.set(key, deadline, fire, set_back=fire)

    def _drop_work(self) -> None:
        """The memory was dropped: what it wished for is wished for again by the next, as far as it is still due."""
        for task in self._work.values():
            task.cancel()
        self._work.clear()

    def _do(self, schedule: JobSchedule, what: str, attempt: Callable[[], Awaitable[bool]]) -> None:
        key = id_key(schedule.id)
        before = self._work.get(key)

        async def work() -> None:
            if before is not None:
                await asyncio.wait([before])
            await self._again_and_again(f"job schedule {schedule.id}: {what}", attempt)

        task = self._work[key] = asyncio.create_task(work(), name=f"job schedule {schedule.id}")

        def done(task: asyncio.Task[None]) -> None:
            if self._work.get(key) is task:
                del self._work[key]

        task.add_done_callback(done)

    async def _again_and_again(self, what: str, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Until it is done: an attempt answers whether it is."""
        pause_s = min(_FIRST_PAUSE_S, self._settings.store_retry_s)
        while True:
            try:
                if await attempt():
                    return
            except (BatchError, StoreUnavailable) as error:
                log.info("%s waits: %s", what, error)
            except Exception:
                log.exception("%s failed; trying again", what)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.store_retry_s)

    # --- carrying out ---

    async def _create_job(self, schedule: JobSchedule) -> bool:
        job_id = schedule.recent_job_id or ""
        known = await self._store.get_job(job_id)
        if known is not None:
            # Of one that is being deleted the pool's engine tells before it goes.
            return known.state is not JobState.COMPLETED or await self._say_over(schedule.id, job_id)
        if self._jobs.knows_job(job_id):
            return False  # it is being added, for whoever asked before
        try:
            new = self._make_job(schedule, job_id)
            cause = f"job schedule {schedule.id}"
            await self._jobs.add_job(new.job, cause, manager=new.manager, auto_pool=new.auto_pool)
        except BatchError as error:
            if error.code in _TRY_AGAIN:
                raise
            if error.code in _THERE_ALREADY:
                return False
            log.warning("job %s cannot be made: %s", job_id, error)
            return await self._say_over(schedule.id, job_id)
        return True

    async def _terminate_job(self, schedule: JobSchedule) -> bool:
        job_id = schedule.recent_job_id or ""
        event = e.JobTerminateRequested(
            at=self._clock(), cause=f"job schedule {schedule.id}", job_id=job_id, reason=TERMINATE_REASON
        )
        try:
            await self._jobs.to_job(job_id, event)
        except BatchError as error:
            if error.code in _OVER:
                return await self._say_over(schedule.id, job_id)
            if error.code not in _ENDING:
                raise
        return True

    async def _delete_all(self, schedule: JobSchedule, asked: set[str]) -> bool:
        """Jobs, then the pool, then the schedule itself; `asked` are the jobs whose deletion has begun."""
        left = self._jobs.jobs_of_schedule(schedule.id)
        fresh = [job_id for job_id in left if job_id not in asked]
        for start in range(0, len(fresh), _DELETES_AT_A_TIME):
            some = fresh[start : start + _DELETES_AT_A_TIME]
            await asyncio.gather(*(self._delete_job(schedule, job_id) for job_id in some))
            asked.update(some)
        if left:
            return False
        if schedule.pool_id is not None and not schedule.keeps_pool:
            await self._delete_pool(schedule)
            if await self._store.get_pool(schedule.pool_id) is not None:
                return False
        await self._engine.submit(
            e.ScheduledJobsDeleted(at=self._clock(), cause="all its jobs are gone", schedule_id=schedule.id)
        )
        return True

    async def _delete_job(self, schedule: JobSchedule, job_id: str) -> None:
        event = e.JobDeleteRequested(at=self._clock(), cause=f"job schedule {schedule.id}", job_id=job_id)
        try:
            await self._jobs.to_job(job_id, event)
        except BatchError as error:
            if error.code not in _GOING:
                raise

    async def _delete_pool(self, schedule: JobSchedule) -> bool:
        event = e.PoolDeleteRequested(at=self._clock(), cause=f"job schedule {schedule.id}")
        try:
            await self._jobs.to_pool(schedule.pool_id or "", event)
        except BatchError as error:
            if error.code not in _POOL_GOING:
                raise
        return True
