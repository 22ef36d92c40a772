"""The control plane as a whole: the keepers of pools, jobs and job schedules, and everything engines act on, put
together."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from millpond.control.applications import ApplicationLimits, Applications
from millpond.control.autoscaling import AutoScaling
from millpond.control.base import JobMaker, NewJob
from millpond.control.effects import EffectRouter
from millpond.control.engine import Engine
from millpond.control.engines import Engines
from millpond.control.events_feed import EventsFeed
from millpond.control.explain import Explainer
from millpond.control.files import FileRequests, NodeFilesService
from millpond.control.identities import Identities
from millpond.control.job_schedules import JobScheduleKeeper
from millpond.control.jobs import JobKeeper
from millpond.control.leases import LeaseKeeper
from millpond.control.logs import LogKeeper
from millpond.control.nodes import NodeLinks
from millpond.control.pools import PoolKeeper
from millpond.control.provisioning import Provisioning
from millpond.control.retention import Purger, Sweeper
from millpond.control.settings import ControlSettings
from millpond.control.start_directives import PrepareSpec, StartDirectives
from millpond.control.timers import Timers, wall_clock
from millpond.control.tokens import TaskClaim
from millpond.domain.autoscale import AutoScaleRun
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, Bug, ErrorCode
from millpond.domain.events import Event, JobScheduleEvent
from millpond.domain.explanation import Explanation
from millpond.domain.ids import id_key, is_valid_id
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.pool import Pool
from millpond.domain.task import NewTask
from millpond.providers.base import NodeProvider, VmSize
from millpond.staging.account_storage import AccountStorage
from millpond.store.base import Fence, Store
from millpond.store.changes import ChangeSet

log = logging.getLogger(__name__)


def _no_job_maker(schedule: JobSchedule, job_id: str) -> NewJob:
    raise Bug(f"job {job_id}: this control plane was not given what makes the jobs of job schedules")


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
        self._files = NodeFilesService(self._links, self._file_requests, self._settings)
        self._provisioning = Provisioning(provider, vm_sizes, self._links, clock, self._settings)
        self._purger = Purger(store, clock, self._settings)
        self._sweeper = Sweeper(store, self._settings)
        self._timers = Timers(clock)
        self._engines = Engines(self._new_engine)
        self._autoscaling = AutoScaling(store, clock, self._settings, self._timers, self._links, lambda: self._engines)
        self._schedules = JobScheduleKeeper(store, clock, self._settings, self._timers, self, make_job)
        self._applications = Applications(
            store,
            storage,
            account_name,
            clock,
            limits=ApplicationLimits(self._settings.max_applications, self._settings.max_application_packages),
            pools=self._engines.pools,
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
        self._pools = PoolKeeper(
            self._engines, self._provisioning, self._autoscaling, self._applications, vm_sizes, clock, self._settings
        )
        self._jobs = JobKeeper(
            store, self._engines, self._pools, self._schedules, self._timers, secret, clock, self._settings
        )
        self._explainer = Explainer(store, self._engines, self._jobs)
        self._effects = EffectRouter(
            links=self._links,
            provisioning=self._provisioning,
            directives=self._directives,
            jobs=self._jobs,
            schedules=self._schedules,
            purger=self._purger,
            autoscaling=self._autoscaling,
            timers=self._timers,
            feed=self._feed,
            clock=clock,
        )
        self._started = False

    # --- life ---

    async def start(self) -> None:
        """Open the store, take over every pool it knows, begin to listen to nodes.

        Raises StoreUnavailable, ValueError (data of a newer version), LeaseLost (another service holds a pool).
        """
        facts = await self._store.open()
        await self._applications.load()
        self._pools.know(facts.next_pool_no)
        self._jobs.know(facts.jobs, facts.next_job_no)
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
            await self._engines.started(pool_id)
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
        await self._jobs.stop()
        self._timers.clear()
        await self._engines.stop_starting()
        await self._leases.stop()
        await self._engines.stop()
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
        return self._started and self._schedules.available and all(engine.available for engine in self._engines)

    def now(self) -> Timestamp:
        return self._clock()

    def claim_of_token(self, token: str) -> TaskClaim | None:
        return self._jobs.claim_of_token(token)

    async def add_pool(self, pool: Pool, cause: str) -> Pool:
        return await self._pools.add(pool, cause)

    async def add_job(
        self, job: Job, cause: str, *, manager: NewTask | None = None, auto_pool: Pool | None = None
    ) -> Job:
        return await self._jobs.add(job, cause, manager=manager, auto_pool=auto_pool)

    async def add_job_schedule(self, schedule: JobSchedule, cause: str) -> JobSchedule:
        if self._jobs.knows(schedule.id):
            raise BatchError(ErrorCode.JOB_WITH_SAME_ID_EXISTS, JobScheduleId=schedule.id)
        if not self._schedules.knows(schedule.id):
            self._jobs.require_quota()
        return await self._schedules.add(schedule, cause)

    async def to_pool(self, pool_id: str, event: Event) -> Any:
        return await self._pools.submit(pool_id, event)

    async def to_job(self, job_id: str, event: Event) -> Any:
        return await self._jobs.submit(job_id, event)

    async def to_job_schedules(self, event: JobScheduleEvent) -> Any:
        return await self._schedules.submit(event)

    def knows_job(self, job_id: str) -> bool:
        return self._jobs.knows(job_id)

    def jobs_of_schedule(self, schedule_id: str) -> list[str]:
        return self._jobs.of_schedule(schedule_id)

    async def preempt_node(self, pool_id: str, node_id: str) -> None:
        await self._pools.preempt_node(pool_id, node_id)

    def check_auto_scale(self, formula: str | None, interval_s: float | None) -> None:
        self._autoscaling.check(formula, interval_s)

    async def evaluate_auto_scale(self, pool_id: str, formula: str) -> AutoScaleRun:
        return await self._pools.evaluate_auto_scale(pool_id, formula)

    async def explain_task(self, job_id: str, task_id: str) -> Explanation:
        return await self._explainer.task(job_id, task_id)

    async def explain_job(self, job_id: str) -> Explanation:
        return await self._explainer.job(job_id)

    async def explain_pool(self, pool_id: str) -> Explanation:
        return await self._explainer.pool(pool_id)

    async def explain_node(self, pool_id: str, node_id: str) -> Explanation:
        return await self._explainer.node(pool_id, node_id)

    # --- what engines act on ---

    def _new_engine(self, pool_id: str) -> Engine:
        return Engine(self._account_name, pool_id, self._store, self._clock, self._settings, self)

    async def carry_out(self, engine: Engine, effects: Sequence[Effect], changes: ChangeSet) -> None:
        await self._effects.carry_out(engine, effects, changes)

    def queue_changed(self, engine: Engine) -> None:
        self._autoscaling.queue_changed(engine)

    def engine_rebuilt(self, engine: Engine) -> None:
        self._links.expect_hello(engine)
        if engine.state is not None:
            engine.state.tells_tasks = self._feed.wants_tasks
            self._jobs.learn_from(engine.state)
            self._pools.learn_from(engine.state)
            for node in engine.state.nodes.values():
                self._links.add(engine, node.row.id)
                if engine.state.pool is not None:
                    self._provisioning.watch(engine, engine.state.pool, node.row)

    def _fences(self) -> list[Fence | None]:
        return [*(engine.fence for engine in self._engines), self._schedules.fence]

    def _tell_tasks(self, wanted: bool) -> None:
        for engine in self._engines:
            if engine.state is not None:
                engine.state.tells_tasks = wanted
