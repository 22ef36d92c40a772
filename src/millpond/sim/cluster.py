"""One simulated run: the whole cluster, its users and its faults, from a seed."""

import asyncio
import logging
import time
from random import Random

import msgspec

from millpond.control.base import NewJob
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.states import AllocationState, JobScheduleState, JobState, NodeState, PoolState, TaskState
from millpond.domain.task import Task
from millpond.providers.base import NodeRequest, VmSize
from millpond.providers.fake import FakeProvider, Fate
from millpond.sim.api import Api
from millpond.sim.audit import Audit
from millpond.sim.control import ControlServer
from millpond.sim.desk import Desk
from millpond.sim.disk import SimDisk
from millpond.sim.faults import Faults
from millpond.sim.habits import Habits
from millpond.sim.ledger import Ledger
from millpond.sim.loop import VirtualLoop
from millpond.sim.making import MOST_NODES, make_scheduled_job
from millpond.sim.names import named, short
from millpond.sim.network import Network
from millpond.sim.nodes import Launches, Machine
from millpond.sim.provider import SlowProvider
from millpond.sim.story import Story, Violation
from millpond.sim.workload import Users

EPOCH = 1_700_000_000.0
CALM_S = 4000.0
"""How long nothing may come to its end once the last fault is over: more than any resize or task takes."""

OVERDUE_S = 5.0
REST_S = 60.0
"""How long all is at rest before the end where pools scale themselves."""

_SIZES = {"small": VmSize("small", 4, 8192, 0.1)}


class Result(msgspec.Struct, frozen=True):
    """What one run was."""

    seed: int
    steps: int
    """Callbacks run."""
    events: int
    """Lines of the story."""
    checks: int
    virtual_s: float
    real_s: float
    tasks: int
    """Processes started."""
    faults: dict[str, int]
    met: dict[str, int]
    """See `Audit.met`."""
    hash: str
    violation: str = ""
    story: str = ""


class Cluster:
    """See the module."""

    def __init__(self, seed: int, *, minutes: float = 8.0, keep: int | None = 400, rebuild_every: int = 5) -> None:
        """Faults and users stop after `minutes`; `keep` lines of the story are kept (None: all)."""
        self.seed = seed
        self.minutes = minutes
        self.loop = VirtualLoop()
        self.story = Story(self.loop.time, keep)
        self.ledger = Ledger()
        self.audit = Audit(self.loop, self.story, self.ledger, self.clock, rebuild_every=rebuild_every)
        self.disk = SimDisk(self.loop, self.random("disk"), self.story, self.ledger, self.audit)
        self.network = Network(self.loop, self.random("network"), self.story)
        self._provider_random = self.random("provider")
        self._fake = FakeProvider(
            fate=self._fate, call_later=self.loop.in_world, on_up=self._node_up, on_gone=self._node_gone
        )
        self.provider = SlowProvider(self._fake, self._provider_random)
        self.api = Api(self.loop, self.random("api"), self.network)
        self.habits = Habits.of(self.random("habits"))
        self.users = Users(
            Desk(self.api, self.random("users"), self.habits, self.audit, self.ledger, self.story), self.clock
        )
        self.launches = Launches()
        self._machines: dict[str, Machine] = {}
        self._machine_random = self.random("machines")
        settings = self.random("settings")
        self._settings = ControlSettings(
            park_s=settings.choice((3.0, 10.0)),
            observe_interval_s=5.0,
            purge_chunk=7,
            auto_scale_min_interval_s=1.0,
            auto_scale_on_queue_change=settings.choice((False, True)),
            auto_scale_max_nodes=MOST_NODES,
        )
        self.faults = Faults(self, self.random("faults"))
        self._server: ControlServer | None = None
        self._lives = 0
        self._skew_s = 0.0
        self._outages = 0
        self._calm = False

    def random(self, name: str) -> Random:
        return Random(f"{self.seed}/{name}")

    def clock(self) -> Timestamp:
        """The wall clock of the control plane."""
        return EPOCH + self.loop.time() + self._skew_s

    def _true_clock(self) -> Timestamp:
        """That of the machines, which somebody keeps right."""
        return EPOCH + self.loop.time()

    @property
    def machines(self) -> list[Machine]:
        return [self._machines[node_id] for node_id in sorted(self._machines)]

    # --- the control plane ---

    def _start_control(self) -> None:
        self._lives += 1
        process = self.loop.process(f"control {self._lives}")
        self.story.add("control", "starts")
        server = ControlServer(
            process,
            self.disk,
            self.provider,
            _SIZES,
            self._settings,
            self.clock,
            self._make_job,
            self.audit,
            self.story,
        )
        self._server = server
        self.network.server = server
        self.api.server = server
        process.spawn(self._begin(server), name="start")

    async def _begin(self, server: ControlServer) -> None:
        if await server.start():
            self.story.add("control", "is up")
        else:
            self.loop.in_world(1.0, self._replace, server)

    def _replace(self, server: ControlServer) -> None:
        if self._server is server:
            server.process.kill()
            self.network.control_died()
            self._start_control()

    def _make_job(self, schedule: JobSchedule, job_id: str) -> NewJob:
        return make_scheduled_job(schedule, job_id, self.habits)

    def crash_control(self, down_s: float, *, after_steps: int) -> None:
        """kill -9 of the control plane after that many of its callbacks."""
        server = self._server
        if server is None or not server.process.alive:
            return

        def crash() -> None:
            if self._server is server and server.process.alive:
                self.story.add("FAULT", f"the control plane is killed, back in {down_s:.3f} s")
                server.process.kill()
                self.network.control_died()
                self.loop.in_world(down_s, self._replace, server)

        server.process.light_fuse(after_steps, crash)

    def restart_control(self, down_s: float) -> None:
        """Stop it in the proper way, and start it again."""
        server = self._server
        if server is None or not server.process.alive or not server.serving:
            return
        self.story.add("FAULT", "the control plane is asked to stop")
        server.serving = False

        async def stop() -> None:
            await server.stop()
            self.story.add("control", "has stopped")
            self.loop.in_world(down_s, self._replace, server)
            self.network.control_died()
            server.process.kill()

        server.process.spawn(stop(), name="stop")

    def hang_up(self, chance: float) -> None:
        self.api.given_up = chance

    # --- machines ---

    def _fate(self, _: NodeRequest) -> Fate:
        random = self._provider_random
        if not self._calm and random.random() < 0.1:
            return Fate(refuse="AllocationFailed", retryable=random.random() < 0.8)
        return Fate(
            boot_s=random.choice((0.5, 3.0, random.uniform(1.0, 40.0))), removal_s=random.choice((0.0, 1.0, 20.0))
        )

    def _node_up(self, request: NodeRequest) -> None:
        machine = self._machines[request.node_id] = Machine(
            request.node_id,
            request.task_slots,
            self.loop,
            self._machine_random,
            self.network,
            self.audit,
            self.story,
            self.launches,
            self._true_clock,
        )
        machine.boot()

    def _node_gone(self, node_id: str) -> None:
        machine = self._machines.pop(node_id, None)
        if machine is not None:
            machine.die()

    def lose_machine(self, node_id: str) -> None:
        if node_id in self._fake.node_ids:
            self.story.add("FAULT", f"machine {short(node_id)} vanishes")
            self._fake.vanish(node_id)

    def fail_machine(self, node_id: str) -> None:
        if node_id in self._fake.node_ids:
            self.story.add("FAULT", f"machine {short(node_id)} is of no use")
            self._fake.fail(node_id)

    def preempt_machine(self, node_id: str) -> None:
        if node_id in self._fake.node_ids:
            self.story.add("FAULT", f"machine {short(node_id)} is preempted")
            self._fake.take_back(node_id)

    def spot_capacity(self, *, there: bool) -> None:
        self._fake.has_spot_capacity = there

    def set_clock(self, seconds: float) -> None:
        self._skew_s += seconds
        self.story.add("FAULT", f"the clock is set by {seconds:.3f} s")

    def outage(self, seconds: float) -> None:
        self._outages += 1
        number = self._outages
        self._fake.outage = True

        def end() -> None:
            if self._outages == number:
                self._fake.outage = False

        self.loop.in_world(seconds, end)

    # --- the run ---

    async def _main(self) -> None:
        self._start_control()
        until = self.minutes * 60.0
        faults = self.loop.world_task(self.faults.run(until), name="faults")
        users = [self.loop.world_task(self.users.run(until), name=f"user {n}") for n in range(2)]
        await asyncio.gather(faults, *users)
        # What was lit and late may still go off.
        await asyncio.sleep(150.0)
        self._calm = True
        self.faults.stop()
        self._fake.outage = False
        self.story.add("world", "calm")
        if self.habits.scaled:
            # Before anybody enables a formula anew, which would set the timer whatever had become of it.
            await asyncio.sleep(90.0)
            self._check_formulas_due()
        calm = self.loop.world_task(self.users.calm(self._end_endless), name="calm users")
        best: tuple[int, int] | None = None
        deadline = 0.0
        rest_s = REST_S if self.habits.scaled else 0.0
        rest = self.loop.time() + rest_s
        while True:
            await asyncio.sleep(5.0)
            left = self.unfinished()
            if not self.users.pools_have_nodes:
                left.append("users wait for their pools")
            if not left and self.loop.time() >= rest:
                break
            if left:
                # Whatever a formula makes of it, it has had its turn then.
                rest = self.loop.time() + rest_s
            progress = (self._runs_taken_in(), -len(left))
            if best is None or progress > best:
                best, deadline = progress, self.loop.time() + CALM_S
            if self.loop.time() > deadline:
                raise Violation("all is calm, and not finished: " + "; ".join(left[:8]))
        calm.cancel()
        await self._final_checks()

    def _end_endless(self) -> None:
        self.story.add("world", "what runs without end comes to one")
        self.launches.endless_runs = False
        for machine in self.machines:
            machine.end_endless()

    def unfinished(self) -> list[str]:
        """What still has to happen now that nothing goes wrong any more."""
        ledger = self.ledger
        left = [
            f"pool {pool.id} is {pool.state} and {pool.allocation_state}"
            for pool in ledger.pools.values()
            if pool.state is PoolState.DELETING or pool.allocation_state is not AllocationState.STEADY
        ]
        left += [
            f"node {short(node.id)} is {node.state}"
            for node in ledger.nodes.values()
            if node.state not in (NodeState.IDLE, NodeState.RUNNING)
        ]
        now = self.clock()
        for job in ledger.jobs.values():
            if job.state not in (JobState.ACTIVE, JobState.DISABLED, JobState.COMPLETED):
                left.append(f"job {job.id} is {job.state}")
            if (
                job.state in (JobState.ACTIVE, JobState.DISABLED)
                and job.max_wall_clock_s is not None
                and job.creation_time + job.max_wall_clock_s < now - 60.0
            ):
                left.append(f"job {job.id} is {job.state}, and its time is up")
            if job.state is not JobState.ACTIVE:
                continue
            named_pool = ledger.pool_named(job.pool_id)
            for task in (*ledger.tasks.get(job.no, {}).values(), *ledger.items(job.no)):
                if task.state is TaskState.COMPLETED:
                    continue
                if task.node_id is not None or (self._fits(task, named_pool) and not ledger.unmet(task)):
                    left.append(f"task {task.id} ({named(task.key)}#{task.attempt}) of {job.id} is {task.state}")
        for schedule in ledger.job_schedules.values():
            if schedule.state not in (JobScheduleState.COMPLETED, JobScheduleState.DISABLED):
                left.append(f"job schedule {schedule.id} is {schedule.state}")
        left += [f"auto pool {pool.id} is {pool.state}, and nobody needs it" for pool in self._leaked_pools()]
        left += [
            f"{machine.name} is busy: {machine.running}"
            for machine in self.machines
            if not machine.idle and machine.node_id in ledger.nodes
        ]
        return left

    def _runs_taken_in(self) -> int:
        """Tasks completed, and retries counted: what can only grow, and not for ever."""
        tasks = [task for rows in self.ledger.tasks.values() for task in rows.values()]
        return sum((task.state is TaskState.COMPLETED) + task.retry_count for task in tasks)

    def _fits(self, task: Task, pool: Pool | None) -> bool:
        """Whether the pool has nodes that could run the task."""
        if pool is None:
            return False
        nodes = self.ledger.nodes_of(pool)
        rules = task.rules
        if pool.auto_scale is not None:
            # Its nodes come when they are needed: five dedicated ones at most, in the calm.
            return self._fits_scaled(task, pool)
        if rules is not None and rules.instances:
            fits = pool.inter_node_communication and pool.task_slots_per_node == 1 and task.required_slots == 1
            return fits and rules.instances <= len(nodes)
        if rules is not None and rules.job_manager is not None and not rules.job_manager.allow_low_priority_node:
            nodes = [node for node in nodes if node.is_dedicated]
        return bool(nodes) and task.required_slots <= pool.task_slots_per_node

    @staticmethod
    def _fits_scaled(task: Task, pool: Pool) -> bool:
        if task.rules is None or not task.rules.instances:
            return task.required_slots <= pool.task_slots_per_node
        return (
            pool.inter_node_communication
            and pool.task_slots_per_node == 1
            and task.required_slots == 1
            and task.rules.instances <= 5
        )

    def _leaked_pools(self) -> list[Pool]:
        """Auto pools that are not to be kept, and whose job or job schedule is over."""
        ledger = self.ledger
        needed = set(ledger.kept_pools)
        needed |= {id_key(job.pool_id) for job in ledger.jobs.values() if job.auto_pool is not None and _lasts(job)}
        needed |= {
            id_key(schedule.pool_id)
            for schedule in ledger.job_schedules.values()
            if schedule.pool_id is not None and schedule.state is not JobScheduleState.COMPLETED
        }
        return [pool for pool in ledger.pools.values() if pool.auto_pool and id_key(pool.id) not in needed]

    def _check_formulas_due(self) -> None:
        """Every formula has a time to come at which it is due."""
        for pool in self.ledger.pools.values():
            scale = pool.auto_scale
            if pool.state is not PoolState.DELETING and scale is not None and scale.next_run < self.clock() - OVERDUE_S:
                self.audit.fail(f"the formula of pool {pool.id} was due at {scale.next_run}: it is lost")

    async def _final_checks(self) -> None:
        """All is at rest: everybody must agree."""
        await asyncio.sleep(30.0)
        server = self._server
        if server is None:
            raise Violation("there is no control plane")
        for engine in server.service.engines:
            while not engine.at_rest:  # noqa: ASYNC110  time is virtual; a formula may have come due
                await asyncio.sleep(0.001)
            self.audit.compare(engine)
            contents = await self.disk.load_pool(engine.pool_key)
            for task in contents.tasks:
                if self.ledger.task(task.key) != task:
                    self.audit.fail(f"the ledger has {self.ledger.task(task.key)}, the store {task}")
            if engine.state is None:
                self.audit.fail(f"the engine of pool {engine.pool_id} is not available")
                continue
            for node in engine.state.nodes.values():
                self._check_node(node.row, connected=node.connected)
                if node.stopping:
                    self.audit.fail(f"node {short(node.row.id)} still has stopping attempts: {list(node.stopping)}")
        self._check_formulas_due()
        rows = set(self.ledger.nodes)
        for node_id in self._fake.node_ids:
            if node_id not in rows:
                self.audit.fail(f"machine {short(node_id)} is there, and no pool knows it: leaked")
        for known in self.users.known:
            if not known.deleting and self.ledger.task_named(known.job_no, known.task_id) is None:
                self.audit.fail(f"task {known.task_id} of {known.job_id} was acknowledged, and is lost")

    def _check_node(self, row: Node, *, connected: bool) -> None:
        if not connected:
            self.audit.fail(f"node {short(row.id)} is {row.state} and not connected")
        if row.id not in self._machines:
            self.audit.fail(f"node {short(row.id)} is {row.state}, and there is no machine")

    def run(self) -> Result:
        """The whole run. A broken invariant is in the result, with the story."""
        begun = time.perf_counter()
        violation = ""
        handler = _LogWatch(self)
        logger = logging.getLogger("millpond")
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(handler)
        try:
            self.loop.run_until_complete(self._main())
            violation = str(self.loop.failure or "")
        except Exception as error:
            violation = str(error) or repr(error)
        finally:
            logger.removeHandler(handler)
            steps = self.loop.steps
            quiet = logging.NullHandler()
            logger.addHandler(quiet)
            self.loop.bury()
            self.loop.close()
            logger.removeHandler(quiet)
            logger.propagate = propagate
        return Result(
            seed=self.seed,
            steps=steps,
            events=self.story.count,
            checks=self.audit.checks,
            virtual_s=self.loop.time(),
            real_s=time.perf_counter() - begun,
            tasks=len(self.launches.refs),
            faults=dict(sorted(self.faults.done.items())),
            met=dict(sorted(self.audit.met.items())),
            hash=self.story.hash,
            violation=violation,
            story=self.story.text(),
        )


def _lasts(job: Job) -> bool:
    return job.state is not JobState.COMPLETED


class _LogWatch(logging.Handler):
    """An exception that the code only logs is a violation too."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(logging.ERROR)
        self._cluster = cluster

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            self._cluster.audit.fail(f"{record.name}: {record.getMessage()}\n{trace}")
