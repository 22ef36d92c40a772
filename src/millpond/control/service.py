"""The control plane as a whole: engines by pool id, the directory of jobs, and everything engines act on."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from millpond.control.applications import ApplicationLimits, Applications
from millpond.control.autoscaling import AutoScaling
from millpond.control.base import JobMaker, NewJob
from millpond.control.engine import Engine
from millpond.control.events_feed import EventsFeed
from millpond.control.files import FileRequests, NodeFilesService
from millpond.control.identities import Identities
from millpond.control.job_schedules import JobScheduleKeeper
from millpond.control.leases import LeaseKeeper
from millpond.control.logs import LogKeeper
from millpond.control.nodes import NodeLinks
from millpond.control.outbox import Outbox
from millpond.control.provisioning import Provisioning
from millpond.control.retention import Purger, Sweeper
from millpond.control.settings import ControlSettings
from millpond.control.start_directives import PrepareSpec, StartDirectives
from millpond.control.timers import Timers, wall_clock
from millpond.control.tokens import TaskClaim, read_task_token
from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.autoscale import AutoScaleRun
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, Bug, ErrorCode, LeaseLost, StoreUnavailable
from millpond.domain.events import Event, JobScheduleEvent
from millpond.domain.explanation import Explanation
from millpond.domain.ids import id_key, is_valid_id
from millpond.domain.job import Job, SchedulingError
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.pool import Pool
from millpond.domain.states import IN_SERVICE_NODE_STATES, ErrorCategory, JobState, NodeState, TaskState
from millpond.domain.task import NameValue, NewTask
from millpond.protocol import messages as m
from millpond.providers.base import NodeProvider, VmSize
from millpond.scheduler import explain, explain_nodes
from millpond.scheduler.state import SchedulerState
from millpond.staging.account_storage import AccountStorage
from millpond.store.base import Fence, Store
from millpond.store.changes import ChangeSet

log = logging.getLogger(__name__)

_WITHOUT_MACHINE: Final = frozenset(
    {NodeState.PREEMPTED, NodeState.DEALLOCATING, NodeState.DEALLOCATED, NodeState.LEAVING_POOL}
)


_MOVE_PATIENCE_S = 20.0
"""How long a request waits for a job that is being moved to another pool."""


class _JobEntry(msgspec.Struct):
    no: int
    pool_id: str
    arrival: asyncio.Future[None] | None = None
    """While it is being moved: done when the engine of its new pool knows it."""


def _no_job_maker(schedule: JobSchedule, job_id: str) -> NewJob:
    raise Bug(f"job {job_id}: this control plane was not given what makes the jobs of job schedules")


def _details_of(error: BatchError) -> tuple[NameValue, ...]:
    return tuple(NameValue(name, value) for name, value in error.values.items())


def _pool_not_found(pool_id: str) -> BatchError:
    return BatchError(ErrorCode.POOL_NOT_FOUND, f"The pool '{pool_id}' does not exist.", PoolId=pool_id)


def _memory_of(engine: Engine) -> SchedulerState:
    if engine.state is None:
        raise BatchError(ErrorCode.SERVER_BUSY, "The pool's memory is being rebuilt; try again shortly.")
    return engine.state


class ControlService:
    """`control.base.ControlPlane`, and the `Surroundings` of its engines. Made and used in one event loop."""

    def __init__(
        self,
        account_name: str,
        store: Store,
        provider: NodeProvider,
        vm_sizes: dict[str, VmSize],
        *,
        secret: bytes,
        account_url: Callable[[], str],
        settings: ControlSettings | None = None,
        prepare_spec: PrepareSpec = lambda spec, _: spec,
        identities: Identities | None = None,
        make_job: JobMaker = _no_job_maker,
        storage: AccountStorage | None = None,
        scratch: str | None = None,
        clock: Callable[[], Timestamp] = wall_clock,
    ) -> None:
        """`secret` derives the nodes' tokens; `account_url` is what tasks see as AZ_BATCH_ACCOUNT_URL; `prepare_spec`
        turns a stored specification into one a node can use (signs URLs); `identities` says what credentials the agents
        of a pool are told; `make_job` makes the jobs of job schedules; `storage` is the account's auto-storage (None:
        there is none); `scratch` is a directory for files of the moment."""
        self._storage = storage
        self._settings = settings or ControlSettings()
        self._secret = secret
        self._account_name = account_name
        self._store = store
        self._vm_sizes = vm_sizes
        self._clock = clock
        self._file_requests = FileRequests()
        self._files = NodeFilesService(lambda: self, self._file_requests, self._settings)
        self._logs = LogKeeper(store, storage, clock, self._settings)
        self._links = NodeLinks(
            secret,
            account_name,
            account_url,
            clock,
            self._settings,
            self._file_requests,
            identities or Identities(),
            self._logs,
        )
        self._provisioning = Provisioning(provider, vm_sizes, self._links, clock, self._settings)
        self._purger = Purger(store, clock, self._settings)
        self._sweeper = Sweeper(store, self._settings)
        self._timers = Timers(clock)
        self._engines: dict[str, Engine] = {}
        self._autoscaling = AutoScaling(store, clock, self._settings, self._timers, self._links, self._engines.values)
        self._schedules = JobScheduleKeeper(store, clock, self._settings, self._timers, self, make_job)
        self._applications = Applications(
            store,
            storage,
            account_name,
            clock,
            limits=ApplicationLimits(self._settings.max_applications, self._settings.max_application_packages),
            pools=self._pools,
            scratch=scratch,
        )
        self._directives = StartDirectives(
            store,
            secret,
            lambda spec, pool: prepare_spec(self._applications.prepare_spec(spec), pool),
            self._settings,
        )
        self._leases = LeaseKeeper(store, clock, self._settings, self._fences)
        self._feed = EventsFeed(clock, self._tell_tasks, self._settings.events_file)
        self._starting: dict[str, asyncio.Task[Engine]] = {}
        self._jobs: dict[str, _JobEntry] = {}
        self._moves: set[asyncio.Task[None]] = set()
        self._next_pool_no = 1
        self._next_job_no = 1
        self._started = False

    # --- life ---

    async def start(self) -> None:
        """Open the store, take over every pool it knows, begin to listen to nodes.

        Raises StoreUnavailable, ValueError (data of a newer version), LeaseLost (another service holds a pool).
        """
        facts = await self._store.open()
        await self._applications.load()
        self._next_pool_no = facts.next_pool_no
        self._next_job_no = facts.next_job_no
        self._jobs = {id_key(job_id): _JobEntry(no, pool_id) for job_id, no, pool_id in facts.jobs}
        self._schedules.know(facts.job_schedules, facts.next_job_schedule_no)
        await self._logs.start()
        self._leases.start()
        self._feed.start()
        self._links.start()
        self._provisioning.start()
        self._autoscaling.start()
        # Of a pool id that nothing names any more, or yet, a last commit of the service before may be on its way.
        pool_ids = {key: key for key in facts.leased if is_valid_id(key)}
        pool_ids.update({id_key(pool_id): pool_id for _, _, pool_id in facts.jobs})
        pool_ids.update({id_key(pool_id): pool_id for pool_id, _ in facts.pools})
        for pool_id in pool_ids.values():
            await self._engine(pool_id)
        await self._schedules.start()
        self._sweeper.start()
        self._started = True

    async def stop(self) -> None:
        """Stop taking changes, finish what is being committed, close the store. Nodes and tasks stay as they are."""
        self._started = False
        await self._links.close()
        await self._logs.close()
        await self._provisioning.close()
        await self._schedules.stop()
        await self._autoscaling.stop()
        await self._purger.close()
        await self._sweeper.close()
        for move in self._moves:
            move.cancel()
        await asyncio.gather(*self._moves, return_exceptions=True)
        self._timers.clear()
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        await self._leases.stop()
        for engine in self._engines.values():
            await engine.stop()
        await self._feed.stop()
        await self._store.close()

    # --- what the API sees ---

    @property
    def account_name(self) -> str:
        return self._account_name

    @property
    def store(self) -> Store:
        return self._store

    @property
    def storage(self) -> AccountStorage | None:
        return self._storage

    @property
    def applications(self) -> Applications:
        return self._applications

    @property
    def files(self) -> NodeFilesService:
        return self._files

    @property
    def logs(self) -> LogKeeper:
        return self._logs

    @property
    def agents(self) -> NodeLinks:
        return self._links

    @property
    def events_feed(self) -> EventsFeed:
        return self._feed

    @property
    def vm_sizes(self) -> dict[str, VmSize]:
        return self._vm_sizes

    @property
    def ready(self) -> bool:
        return (
            self._started and self._schedules.available and all(engine.available for engine in self._engines.values())
        )

    def now(self) -> Timestamp:
        return self._clock()

    async def add_pool(self, pool: Pool, cause: str) -> Pool:
        engine = await self._engine(pool.id)
        if self._quota_is_reached(pool.id):
            raise BatchError(
                ErrorCode.POOL_QUOTA_REACHED,
                f"There are {self._settings.pool_quota} pools, which is the limit: delete one, or raise "
                "account.pool_quota in the configuration.",
            )
        pool.no = self._next_pool_no
        self._next_pool_no += 1
        await engine.submit(e.PoolAdded(at=self.now(), cause=cause, pool=pool))
        return pool

    def _quota_is_reached(self, pool_id: str) -> bool:
        """Whether a pool would be one too many; one that exists is none of them."""
        quota = self._settings.pool_quota
        if quota is None:
            return False
        key = id_key(pool_id)
        pools = [other for other, engine in self._engines.items() if engine.state is not None and engine.state.pool]
        return key not in pools and len(pools) >= quota

    def _pools(self) -> list[Pool]:
        memories = (engine.state for engine in self._engines.values())
        return [memory.pool for memory in memories if memory is not None and memory.pool is not None]

    def _auto_pool_problem(self, pool: Pool) -> SchedulingError | None:
        """Why an auto pool cannot be made, as far as can be told beforehand."""
        if pool.vm_size.lower() not in self._vm_sizes:
            text = f"The VM size '{pool.vm_size}' of the auto pool is not in this service's catalogue"
            return SchedulingError(ErrorCategory.USER_ERROR, "InvalidAutoPoolSettings", text)
        if pool.auto_scale is not None:
            try:
                self.check_auto_scale(pool.auto_scale.formula, None)
            except BatchError as error:
                code = "InvalidAutoScaleFormulaInAutoPool"
                return SchedulingError(ErrorCategory.USER_ERROR, code, error.message, _details_of(error))
            try:
                self.check_auto_scale(None, pool.auto_scale.interval_s)
            except BatchError as error:
                return SchedulingError(
                    ErrorCategory.USER_ERROR, "InvalidAutoPoolSettings", error.message, _details_of(error)
                )
        try:
            self._applications.check(pool.spec)
        except BatchError as error:
            code = "InvalidApplicationPackageReferencesInAutoPool"
            return SchedulingError(ErrorCategory.USER_ERROR, code, error.message, _details_of(error))
        if self._quota_is_reached(pool.id):
            text = f"The auto pool would be one more than the {self._settings.pool_quota} pools the account may have"
            return SchedulingError(ErrorCategory.USER_ERROR, "AutoPoolCreationFailedWithQuotaReached", text)
        return None

    async def add_job(
        self, job: Job, cause: str, *, manager: NewTask | None = None, auto_pool: Pool | None = None
    ) -> Job:
        key = id_key(job.id)
        if key in self._jobs:
            raise BatchError(self._taken_id(key), JobId=job.id)
        if self._schedules.knows(key):
            raise BatchError(ErrorCode.JOB_SCHEDULE_WITH_SAME_ID_EXISTS, JobId=job.id)
        if job.schedule_id is None:
            self._require_job_quota()
        job.no = self._next_job_no
        self._next_job_no += 1
        if auto_pool is not None:
            auto_pool.no = self._next_pool_no
            self._next_pool_no += 1
            job.scheduling_error = self._auto_pool_problem(auto_pool)
        # The id is reserved before the first suspension: of two that race, one is told that it exists.
        self._jobs[key] = _JobEntry(job.no, job.pool_id)
        try:
            engine = await self._engine(job.pool_id)
            added = engine.submit(e.JobAdded(at=self.now(), cause=cause, job=job, manager=manager, auto_pool=auto_pool))
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

    def _require_job_quota(self) -> None:
        """Raises BatchError ActiveJobAndScheduleQuotaReached when one more job or schedule would be too many. A job that
        a schedule makes is counted and never refused: its schedule was let in."""
        quota = self._settings.active_job_quota
        if quota is None:
            return
        # Those that are being added are not in any state yet; of an engine that is being rebuilt all are counted.
        active = self._schedules.active_count()
        for key, entry in self._jobs.items():
            engine = self._engines.get(id_key(entry.pool_id))
            job = engine.state.jobs.get(key) if engine is not None and engine.state is not None else None
            active += job is None or job.row.state is not JobState.COMPLETED
        if active >= quota:
            raise BatchError(
                ErrorCode.ACTIVE_JOB_AND_SCHEDULE_QUOTA_REACHED,
                f"There are {active} active jobs and job schedules, and {quota} are the limit: delete or terminate one, or "
                "raise account.active_job_and_job_schedule_quota in the configuration.",
            )

    def _taken_id(self, key: str) -> ErrorCode:
        engine = self._engines.get(id_key(self._jobs[key].pool_id))
        job = engine.state.jobs.get(key) if engine is not None and engine.state is not None else None
        deleting = job is not None and job.row.state is JobState.DELETING
        return ErrorCode.JOB_BEING_DELETED if deleting else ErrorCode.JOB_EXISTS

    async def add_job_schedule(self, schedule: JobSchedule, cause: str) -> JobSchedule:
        if id_key(schedule.id) in self._jobs:
            raise BatchError(ErrorCode.JOB_WITH_SAME_ID_EXISTS, JobScheduleId=schedule.id)
        if not self._schedules.knows(schedule.id):
            self._require_job_quota()
        return await self._schedules.add(schedule, cause)

    async def to_job_schedules(self, event: JobScheduleEvent) -> Any:
        return await self._schedules.submit(event)

    def knows_job(self, job_id: str) -> bool:
        return id_key(job_id) in self._jobs

    def jobs_of_schedule(self, schedule_id: str) -> list[str]:
        prefix = f"{id_key(schedule_id)}:"
        return [key for key in self._jobs if key.startswith(prefix)]

    async def to_pool(self, pool_id: str, event: Event) -> Any:
        engine = self._engines.get(id_key(pool_id))
        if engine is None:
            raise _pool_not_found(pool_id)
        return await engine.submit(event)

    async def preempt_node(self, pool_id: str, node_id: str) -> None:
        engine = self._engines.get(id_key(pool_id))
        if engine is not None and engine.state is None:
            raise BatchError(ErrorCode.SERVER_BUSY)
        if engine is None or engine.state is None or engine.state.pool is None:
            raise BatchError(ErrorCode.POOL_NOT_FOUND, f"The pool '{pool_id}' does not exist.", PoolId=pool_id)
        node = engine.state.nodes.get(node_id)
        if node is None:
            raise BatchError(ErrorCode.NODE_NOT_FOUND, f"The node '{node_id[:80]}' does not exist.")
        row = node.row
        if row.is_dedicated:
            raise BatchError(
                ErrorCode.OPERATION_NOT_VALID_ON_NODE,
                "Only spot (low-priority) nodes are preempted; this is a dedicated one.",
            )
        if not row.handle or row.state in _WITHOUT_MACHINE:
            raise BatchError(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
                f"A node that is {row.state} cannot be preempted: it has no machine, or is losing it already.",
                NodeState=row.state.value,
            )
        await self._provisioning.preempt(row)

    async def to_job(self, job_id: str, event: Event) -> Any:
        while True:
            entry = self._jobs.get(id_key(job_id))
            if entry is None:
                raise BatchError(ErrorCode.JOB_NOT_FOUND, f"The job '{job_id}' does not exist.", JobId=job_id)
            if entry.arrival is not None:
                await self._wait_for_arrival(job_id, entry.arrival)
                continue
            pool_id = entry.pool_id
            engine = await self._engine(pool_id)
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

    def _move(self, job: Job) -> None:
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
            engine = await self._engine(entry.pool_id)
            rows = await self._store.load_job(entry.no)
            if rows is not None:
                await engine.submit(
                    e.JobArrived(
                        at=self.now(),
                        cause="move",
                        job=rows.job,
                        tasks=tuple(rows.tasks),
                        satisfied=tuple(rows.satisfied),
                        job_nodes=tuple(rows.job_nodes),
                    )
                )
        except (BatchError, LeaseLost, StoreUnavailable) as error:
            log.info("the move of job %s waits: %s", job_id, error)
            return False
        return True

    async def _delete_task(self, engine: Engine, event: e.TaskDeleteRequested) -> Any:
        """Memory has let go of the tasks of completed jobs: those are deleted by their rows."""
        if not self._is_completed(engine, event.job_id):
            try:
                return await engine.submit(event)
            except BatchError as error:
                if error.code is not ErrorCode.TASK_NOT_FOUND:
                    raise
                if engine.state is None:
                    raise BatchError(ErrorCode.SERVER_BUSY) from error
                # The job may have completed, or memory been rebuilt, since it was looked at.
                if not self._is_completed(engine, event.job_id):
                    raise
        row = await self._store.get_task(event.job_id, event.task_id)
        if row is None:
            raise BatchError(ErrorCode.TASK_NOT_FOUND, JobId=event.job_id, TaskId=event.task_id)
        return await engine.submit(msgspec.structs.replace(event, row=row.task))

    @staticmethod
    def _is_completed(engine: Engine, job_id: str) -> bool:
        job = engine.state.jobs.get(id_key(job_id)) if engine.state is not None else None
        return job is not None and job.row.state is JobState.COMPLETED

    def claim_of_token(self, token: str) -> TaskClaim | None:
        claim = read_task_token(self._secret, token)
        entry = self._jobs.get(id_key(claim.job_id)) if claim is not None else None
        engine = self._engines.get(id_key(entry.pool_id)) if entry is not None else None
        if claim is None or engine is None:
            return None
        if engine.state is None:
            raise BatchError(ErrorCode.SERVER_BUSY)
        job = engine.state.jobs.get(id_key(claim.job_id))
        task = job.tasks.get(id_key(claim.task_id)) if job is not None else None
        current = task is not None and task.attempt == claim.attempt and task.state is not TaskState.COMPLETED
        return claim if current else None

    # --- automatic scaling ---

    def check_auto_scale(self, formula: str | None, interval_s: float | None) -> None:
        self._autoscaling.check(formula, interval_s)

    async def evaluate_auto_scale(self, pool_id: str, formula: str) -> AutoScaleRun:
        engine = self._engines.get(id_key(pool_id))
        if engine is None:
            raise _pool_not_found(pool_id)
        return await self._autoscaling.evaluate(engine, formula)

    # --- why something waits: a look at an engine's memory, which changes nothing ---

    async def explain_task(self, job_id: str, task_id: str) -> Explanation:
        state = await self._memory_of_job(job_id)
        try:
            return explain.explain_task(state, job_id, task_id)
        except BatchError as error:
            if error.code is not ErrorCode.TASK_NOT_FOUND:
                raise
            # Memory lets go of the tasks of jobs that are over.
            row = await self._store.get_task(job_id, task_id)
            if row is None:
                raise
            return explain.explain_task(await self._memory_of_job(job_id), job_id, task_id, row.task)

    async def explain_job(self, job_id: str) -> Explanation:
        return explain.explain_job(await self._memory_of_job(job_id), job_id)

    async def explain_pool(self, pool_id: str) -> Explanation:
        return explain_nodes.explain_pool(self._memory_of_pool(pool_id))

    async def explain_node(self, pool_id: str, node_id: str) -> Explanation:
        state = self._memory_of_pool(pool_id)
        if state.pool is None:
            raise _pool_not_found(pool_id)
        return explain_nodes.explain_node(state, node_id)

    async def _memory_of_job(self, job_id: str) -> SchedulerState:
        entry = self._jobs.get(id_key(job_id))
        if entry is None:
            raise BatchError(ErrorCode.JOB_NOT_FOUND, f"The job '{job_id}' does not exist.", JobId=job_id)
        return _memory_of(await self._engine(entry.pool_id))

    def _memory_of_pool(self, pool_id: str) -> SchedulerState:
        engine = self._engines.get(id_key(pool_id))
        if engine is None:
            raise _pool_not_found(pool_id)
        return _memory_of(engine)

    # --- engines ---

    async def _engine(self, pool_id: str) -> Engine:
        """The engine of a pool id, started when it is first asked for."""
        key = id_key(pool_id)
        engine = self._engines.get(key)
        if engine is not None:
            return engine
        starting = self._starting.get(key)
        if starting is None:
            starting = self._starting[key] = asyncio.create_task(self._start_engine(pool_id))
            starting.add_done_callback(lambda _: self._starting.pop(key, None))
        return await asyncio.shield(starting)

    async def _start_engine(self, pool_id: str) -> Engine:
        engine = Engine(self._account_name, pool_id, self._store, self._clock, self._settings, self)
        await engine.start()
        self._engines[engine.pool_key] = engine
        return engine

    def _fences(self) -> list[Fence | None]:
        return [*(engine.fence for engine in self._engines.values()), self._schedules.fence]

    def _tell_tasks(self, wanted: bool) -> None:
        for engine in self._engines.values():
            if engine.state is not None:
                engine.state.tells_tasks = wanted

    def _learn_from(self, state: SchedulerState) -> None:
        """Jobs and numbers that were not on disk yet when this service looked: a commit of the service before it may
        have been on its way then. From now on the lease keeps such commits out."""
        for key, job in state.jobs.items():
            self._jobs.setdefault(key, _JobEntry(job.row.no, job.row.pool_id))
            self._next_job_no = max(self._next_job_no, job.row.no + 1)
        if state.pool is not None:
            self._next_pool_no = max(self._next_pool_no, state.pool.no + 1)

    def queue_changed(self, engine: Engine) -> None:
        self._autoscaling.queue_changed(engine)

    def engine_rebuilt(self, engine: Engine) -> None:
        self._links.expect_hello(engine)
        if engine.state is not None:
            engine.state.tells_tasks = self._feed.wants_tasks
            self._learn_from(engine.state)
            for node in engine.state.nodes.values():
                self._links.add(engine, node.row.id)
                self._provisioning.watch(engine, node.row)

    # --- effects ---

    async def carry_out(self, engine: Engine, effects: Sequence[Effect], changes: ChangeSet) -> None:
        if changes.specs:
            self._directives.keep({key: spec for key, spec in changes.specs.items() if key in changes.tasks})
        starts: list[f.StartTask] = []
        for effect in effects:
            if type(effect) is f.StartTask:
                starts.append(effect)
            elif type(effect) is f.MoveJob:
                # Before anything is waited for: whoever this engine has told that it knows no such job looks again.
                self._move(effect.job)
        specs = await self._directives.specs_of(starts) if starts else {}
        for effect in effects:
            match effect:
                case f.StartTask(node_id):
                    spec = specs.get(effect.task.key)
                    link = self._links.get(node_id)
                    # Without a specification the task has just been deleted, and a stop is on its way.
                    if link is not None and spec is not None:
                        self._directives.start(link, effect, spec)
                case f.StartSpecialTask(node_id) if link := self._links.get(node_id):
                    self._directives.start_special(link, effect)
                case f.Proceed(node_id, key, attempt) if box := self._outbox(node_id):
                    box.put(m.Proceed(box.next_revision(), key, attempt))
                case f.RestartNode(_, node, wipe) if box := self._outbox(node.id):
                    box.put(m.Restart(box.next_revision(), wipe))
                case f.BeginSession(node_id, session):
                    self._links.begin_session(node_id, session)
                case f.StopTask(node_id, key, attempt) if box := self._outbox(node_id):
                    box.put(m.Stop(box.next_revision(), key, attempt))
                case f.ReturnTask(node_id, key, attempt) if box := self._outbox(node_id):
                    box.put(m.Return(box.next_revision(), key, attempt))
                case f.RemoveTaskDirectory(node_id, job_id, task_id) if box := self._outbox(node_id):
                    box.put(m.RemoveDirectory(box.next_revision(), job_id, task_id))
                case f.RemoveJobDirectories(node_id, job_id) if box := self._outbox(node_id):
                    box.put(m.RemoveDirectory(box.next_revision(), job_id))
                case f.CreateNode(pool, node):
                    self._links.add(engine, node.id)
                    if node.state not in IN_SERVICE_NODE_STATES:
                        self._links.expect_boot(node.id)
                    self._provisioning.create(engine, pool, node)
                case f.ReleaseNode(pool, node):
                    self._links.release(node.id)
                    self._provisioning.release(engine, pool, node)
                case f.DeleteNode(node):
                    self._links.remove(node.id)
                    self._provisioning.forget(node.id)
                case f.DeleteJob(job):
                    self._jobs.pop(id_key(job.id), None)
                case f.PurgeJob(job):
                    self._purge(engine, job)
                case f.TellJobCompleted(job):
                    self._schedules.job_completed(job)
                case f.Publish(event):
                    self._feed.add(event)
                case f.SetResizeTimer(deadline):
                    self._set_timer(engine, f"resize {engine.pool_key}", deadline, self._resize_timed_out)
                case f.SetAutoScaleTimer(deadline):
                    self._autoscaling.set_timer(engine, deadline)
                case f.SetJobTimer(job_id, deadline):
                    self._set_timer(engine, f"job {id_key(job_id)}", deadline, self._job_timed_out(job_id))
                case f.SetGangTimer(deadline):
                    self._set_timer(engine, f"gang {engine.pool_key}", deadline, self._gang_timed_out)
                case f.SetNodeRetentionTimer(node_id, deadline):
                    self._set_timer(engine, f"retention {node_id}", deadline, self._retention_passed(node_id))

    def _purge(self, engine: Engine, job: Job) -> None:
        if job.schedule_id is None:
            self._purger.purge(engine, job)
        else:
            # As long as its rows are there, its schedule does not take it for one that has yet to be made.
            self._schedules.job_goes(job, lambda: self._purger.purge(engine, job))

    def _outbox(self, node_id: str) -> Outbox | None:
        link = self._links.get(node_id)
        return link.outbox if link is not None else None

    def _set_timer(
        self,
        engine: Engine,
        key: str,
        deadline: Timestamp | None,
        event_at: Callable[[Timestamp, Timestamp], Event],
    ) -> None:
        def fire() -> None:
            if deadline is None:
                return
            try:
                engine.submit(event_at(self.now(), deadline))
            except BatchError:
                self._timers.set(key, self.now() + 1.0, fire)

        self._timers.set(key, deadline, fire)

    @staticmethod
    def _resize_timed_out(at: Timestamp, deadline: Timestamp) -> Event:
        return e.PoolResizeTimedOut(at=at, cause="timer", deadline=deadline)

    @staticmethod
    def _gang_timed_out(at: Timestamp, deadline: Timestamp) -> Event:
        return e.GangReservationTimedOut(at=at, cause="timer", deadline=deadline)

    @staticmethod
    def _retention_passed(node_id: str) -> Callable[[Timestamp, Timestamp], Event]:
        return lambda at, deadline: e.NodeRetentionPassed(at=at, cause="timer", node_id=node_id, deadline=deadline)

    @staticmethod
    def _job_timed_out(job_id: str) -> Callable[[Timestamp, Timestamp], Event]:
        return lambda at, deadline: e.JobTimedOut(at=at, cause="timer", job_id=job_id, deadline=deadline)

    # --- reaching nodes ---

    def ask_node(self, node_id: str, request: m.FileRequest) -> bool:
        link = self._links.get(node_id)
        if link is None or not link.session:
            return False
        link.outbox.ask(request)
        return True

    def pool_of_node(self, node_id: str) -> str | None:
        link = self._links.get(node_id)
        return link.engine.pool_id if link is not None else None
