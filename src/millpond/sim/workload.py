"""Seeded random users of a simulated cluster. They know only what was acknowledged to them."""

import asyncio
from collections.abc import Awaitable, Callable

from millpond.control.base import NewJob
from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.ids import id_key
from millpond.domain.job import Job, JobChanges
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.states import (
    AllocationState,
    DisableJobOption,
    JobScheduleState,
    JobState,
    NodeDeallocationOption,
    NodeOperation,
    NodeState,
    PoolState,
    SchedulingState,
)
from millpond.sim.control import SimControl
from millpond.sim.desk import Desk, Known
from millpond.sim.making import CALM_FORMULA, Maker
from millpond.sim.tasks import TaskUsers

_OPTIONS = (
    NodeDeallocationOption.REQUEUE,
    NodeDeallocationOption.TERMINATE,
    NodeDeallocationOption.TASK_COMPLETION,
)


class Users:
    """All users of a run. `run` acts until told to stop; `calm` brings things into a state in which all can end."""

    def __init__(self, desk: Desk, clock: Callable[[], Timestamp]) -> None:
        self._desk = desk
        self._clock = clock
        self._random = desk.random
        self._habits = desk.habits
        self._maker = Maker(desk.random, desk.habits)
        self._tasks = TaskUsers(desk, self._maker)
        self._schedules: list[str] = []
        self.pools_have_nodes = False

    @property
    def known(self) -> list[Known]:
        """Tasks whose addition was acknowledged."""
        return self._desk.known

    def _option(self) -> NodeDeallocationOption:
        options = (*_OPTIONS, NodeDeallocationOption.RETAINED_DATA) if self._habits.retention else _OPTIONS
        return self._random.choice(options)

    # --- pools ---

    async def add_pool(self, pool_id: str, nodes: int) -> bool:
        desk = self._desk
        pool = self._maker.pool(pool_id, nodes)
        if desk.habits.scaled and self._random.random() < desk.habits.scaled:
            pool.auto_scale = self._maker.auto_scale()
            pool.target_dedicated_nodes = pool.target_low_priority_nodes = 0

        def check(pool: Pool) -> None:
            if ("pool", id_key(pool_id)) not in desk.ledger.written_at:
                desk.audit.fail(f"pool {pool.id} is acknowledged: not on disk")

        return await desk.ask(f"add pool {pool_id}", lambda control: control.add_pool(pool, "user"), check) is not None

    async def resize(self, pool_id: str, dedicated: int, spot: int | None = None) -> bool:
        option = self._option()
        timeout_s = self._random.choice((300.0, 900.0))
        return await self._desk.to_pool(
            pool_id,
            f"resize to {dedicated}+{spot} {option}",
            lambda at: e.PoolResizeRequested(
                at=at,
                cause="user",
                target_dedicated_nodes=dedicated,
                target_low_priority_nodes=spot,
                resize_timeout_s=timeout_s,
                node_deallocation_option=option,
            ),
        )

    async def enable_scaling(self, pool_id: str, formula: str | None, interval_s: float | None) -> bool:
        return await self._desk.to_pool(
            pool_id,
            "enable automatic scaling",
            lambda at: e.PoolAutoScaleEnableRequested(at=at, cause="user", formula=formula, interval_s=interval_s),
        )

    async def _change_scaling(self, pool_id: str) -> None:
        if self._random.random() < 0.3:
            await self._desk.to_pool(
                pool_id,
                "disable automatic scaling",
                lambda at: e.PoolAutoScaleDisableRequested(at=at, cause="user"),
                changes=False,
            )
            return
        scale = self._maker.auto_scale()
        await self.enable_scaling(pool_id, scale.formula, self._random.choice((None, scale.interval_s)))

    async def _change_pool(self) -> None:
        random = self._random
        pool_id = random.choice(self._habits.pools)
        if self._habits.scaled and random.random() < 0.4:
            await self._change_scaling(pool_id)
            return
        dice = random.random()
        if dice < 0.08:
            await self._desk.to_pool(pool_id, "delete", lambda at: e.PoolDeleteRequested(at=at, cause="user"))
        elif dice < 0.25:
            await self._desk.to_pool(pool_id, "stop resize", lambda at: e.PoolResizeStopRequested(at=at, cause="user"))
        elif dice < 0.5:
            await self.add_pool(pool_id.swapcase(), random.randint(0, self._habits.nodes_at_most))
        else:
            nodes = random.randint(0, self._habits.nodes_at_most)
            await self.resize(pool_id, nodes, random.choice((None, 0, 1)))

    # --- nodes ---

    def _a_node(self) -> tuple[str, Node] | None:
        """Pool id and row of some node."""
        ledger = self._desk.ledger
        found = [(pool.id, node) for pool in ledger.pools.values() for node in ledger.nodes_of(pool)]
        return self._random.choice(sorted(found, key=lambda one: one[1].id)) if found else None

    async def operate(self, pool_id: str, node_id: str, operation: NodeOperation) -> bool:
        option = self._option()
        return await self._to_node(
            pool_id,
            f"{operation} {option}",
            lambda at: e.NodeOperationRequested(
                at=at, cause="user", node_id=node_id, operation=operation, option=option
            ),
        )

    async def _to_node(self, pool_id: str, what: str, make: Callable[[float], e.Event]) -> bool:
        desk = self._desk

        async def send(control: SimControl) -> bool:
            await control.to_pool(pool_id, make(control.now()))
            return True

        return await desk.ask(f"{what} (node of {pool_id})", send, lambda _: None) is not None

    async def _change_node(self) -> None:
        found = self._a_node()
        if found is None:
            return
        pool_id, node = found
        random = self._random
        node_id = node.id
        pick = random.randint(0, 8)
        if pick <= 1:
            await self.operate(pool_id, node_id, NodeOperation.REBOOT)
        elif pick == 2:
            await self.operate(pool_id, node_id, NodeOperation.REIMAGE)
        elif pick == 3:
            await self.operate(pool_id, node_id, NodeOperation.DEALLOCATE)
        elif pick == 4:
            await self.start(pool_id, node_id)
        elif pick == 5:
            option = random.choice(_OPTIONS)
            await self._to_node(
                pool_id,
                f"disable scheduling {option}",
                lambda at: e.NodeSchedulingDisableRequested(at=at, cause="user", node_id=node_id, option=option),
            )
        elif pick == 6:
            await self.enable(pool_id, node_id)
        else:
            option = self._option()
            await self._to_node(
                pool_id,
                f"remove {option}",
                lambda at: e.NodesRemoveRequested(
                    at=at,
                    cause="user",
                    node_ids=(node_id,),
                    resize_timeout_s=300.0,
                    node_deallocation_option=option,
                ),
            )

    async def start(self, pool_id: str, node_id: str) -> bool:
        return await self._to_node(
            pool_id, "start", lambda at: e.NodeStartRequested(at=at, cause="user", node_id=node_id)
        )

    async def enable(self, pool_id: str, node_id: str) -> bool:
        return await self._to_node(
            pool_id,
            "enable scheduling",
            lambda at: e.NodeSchedulingEnableRequested(at=at, cause="user", node_id=node_id),
        )

    # --- jobs ---

    async def _add_job(self) -> None:
        desk = self._desk
        random = self._random
        job_id = f"job{random.randint(1, self._habits.jobs_at_most)}"
        new = self._maker.job(job_id, random.choice(self._habits.pools))

        def check(job: Job) -> None:
            if ("job", job.no) not in desk.ledger.written_at:
                desk.audit.fail(f"job {job.id} is acknowledged: not on disk")
            if new.manager is not None and job.scheduling_error is None and not self._is_known(job, new):
                desk.audit.fail(f"job {job.id} is acknowledged, its manager is not on disk")

        desk.jobs.setdefault(job_id, 0)
        added = await desk.ask(
            f"add job {job_id}",
            lambda control: control.add_job(new.job, "user", manager=new.manager, auto_pool=new.auto_pool),
            check,
        )
        if added is not None:
            desk.jobs[job_id] = added.no
            if new.manager is not None and added.scheduling_error is None:
                gone = (id_key(job_id), "") in desk.audit.deletes or (id_key(job_id), "manager") in desk.audit.deletes
                desk.known.append(Known(added.no, job_id, new.manager.id, deleting=gone))

    def _is_known(self, job: Job, new: NewJob) -> bool:
        desk = self._desk
        name = id_key(job.id)
        asked = {(name, ""), (name, id_key(new.manager.id if new.manager is not None else ""))}
        return bool(asked & desk.audit.deletes) or desk.ledger.task_named(job.no, "manager") is not None

    async def _change_job(self) -> None:
        desk = self._desk
        job_id = desk.a_job()
        if job_id is None:
            return
        random = self._random
        pick = random.randint(0, 7)
        if pick == 0:
            option = random.choice(list(DisableJobOption))
            await desk.to_job(
                job_id,
                f"disable {option}",
                lambda at, _: e.JobDisableRequested(at=at, cause="user", job_id=job_id, option=option),
            )
        elif pick in (1, 2):
            await desk.to_job(job_id, "enable", lambda at, _: e.JobEnableRequested(at=at, cause="user", job_id=job_id))
        elif pick == 3:
            await desk.to_job(
                job_id,
                "terminate",
                lambda at, _: e.JobTerminateRequested(at=at, cause="user", job_id=job_id, reason="UserTerminate"),
            )
        elif pick == 4:
            desk.going(job_id)
            desk.audit.deletes.add((id_key(job_id), ""))
            await desk.to_job(job_id, "delete", lambda at, _: e.JobDeleteRequested(at=at, cause="user", job_id=job_id))
        elif pick == 5 and self._habits.moves:
            await self._move(job_id)
        else:
            changes = JobChanges({}, priority=random.randint(-5, 5), max_parallel_tasks=random.choice((None, -1, 2)))
            await self._update(job_id, "update", changes)

    async def _update(self, job_id: str, what: str, changes: JobChanges) -> bool:
        return await self._desk.to_job(
            job_id, what, lambda at, _: e.JobUpdated(at=at, cause="user", job_id=job_id, changes=changes)
        )

    async def _move(self, job_id: str) -> None:
        """Move a job to another pool, as users do it: disable, wait a little, update, enable."""
        desk = self._desk
        pool_id = self._random.choice((*self._habits.pools, "Green"))
        option = self._random.choice((DisableJobOption.REQUEUE, DisableJobOption.TERMINATE))
        await desk.to_job(
            job_id,
            f"disable {option}",
            lambda at, _: e.JobDisableRequested(at=at, cause="user", job_id=job_id, option=option),
        )
        for _ in range(5):
            await asyncio.sleep(self._random.uniform(0.5, 4.0))
            row = desk.ledger.job_named(job_id)
            if row is None or row.state is not JobState.DISABLING:
                break
        await self._update(job_id, f"move to {pool_id}", JobChanges({"poolInfo": {"poolId": pool_id}}, pool_id=pool_id))
        await desk.to_job(job_id, "enable", lambda at, _: e.JobEnableRequested(at=at, cause="user", job_id=job_id))

    # --- job schedules ---

    async def _change_schedule(self) -> None:
        random = self._random
        if not self._schedules or random.random() < 0.3:
            await self._add_schedule()
            return
        desk = self._desk
        schedule_id = random.choice(self._schedules)
        row = next((row for row in desk.ledger.job_schedules.values() if row.id == schedule_id), None)
        if row is not None and row.recent_job_id is not None and random.random() < 0.5:
            # Somebody has read of its job.
            desk.jobs.setdefault(row.recent_job_id, 0)
        pick = random.randint(0, 5)
        if pick <= 1:
            await desk.to_job_schedules(
                schedule_id,
                "disable",
                lambda at: e.JobScheduleDisableRequested(at=at, cause="user", schedule_id=schedule_id),
            )
        elif pick == 2:
            await desk.to_job_schedules(
                schedule_id,
                "enable",
                lambda at: e.JobScheduleEnableRequested(at=at, cause="user", schedule_id=schedule_id),
            )
        elif pick == 3:
            await self._end_schedule(schedule_id, delete=random.random() < 0.5)
        else:
            recurrence = self._maker.recurrence(self._clock())
            await desk.to_job_schedules(
                schedule_id,
                "update",
                lambda at: e.JobScheduleUpdated(
                    at=at, cause="user", schedule_id=schedule_id, spec={}, recurrence=recurrence
                ),
            )

    async def _add_schedule(self) -> None:
        desk = self._desk
        # An id is used once: its jobs are called alike, and nobody could tell them apart.
        schedule_id = f"Plan{len(self._schedules) + 1}"
        self._schedules.append(schedule_id)
        schedule = self._maker.job_schedule(schedule_id, self._clock())

        def check(row: JobSchedule) -> None:
            if ("schedule", id_key(schedule_id)) not in desk.ledger.written_at:
                desk.audit.fail(f"job schedule {row.id} is acknowledged: not on disk")

        await desk.ask(
            f"add job schedule {schedule_id}", lambda control: control.add_job_schedule(schedule, "user"), check
        )

    async def _end_schedule(self, schedule_id: str, *, delete: bool) -> None:
        desk = self._desk
        if delete:
            desk.audit.deleted_schedules.add(id_key(schedule_id))
            for job_id in list(desk.jobs):
                if id_key(job_id).startswith(f"{id_key(schedule_id)}:"):
                    desk.going(job_id)
            await desk.to_job_schedules(
                schedule_id,
                "delete",
                lambda at: e.JobScheduleDeleteRequested(at=at, cause="user", schedule_id=schedule_id),
            )
        else:
            await desk.to_job_schedules(
                schedule_id,
                "terminate",
                lambda at: e.JobScheduleTerminateRequested(at=at, cause="user", schedule_id=schedule_id),
            )

    # --- the day ---

    async def run(self, until: float) -> None:
        """Act until the loop's time."""
        loop = asyncio.get_running_loop()
        random = self._random
        for pool_id in self._habits.pools:
            if random.random() < 0.9:
                await self.add_pool(pool_id, random.randint(1, self._habits.nodes_at_most))
        await self._add_job()
        actions: list[Callable[[], Awaitable[None]]] = [
            self._add_tasks,
            self._add_job,
            self._tasks.read,
            self._change_pool,
            self._change_job,
            self._tasks.change,
            self._change_node,
            self._change_schedule,
        ]
        while loop.time() < until:
            await asyncio.sleep(random.expovariate(1.0 / self._habits.pause_s))
            await random.choices(actions, self._habits.weights)[0]()

    async def _add_tasks(self) -> None:
        await (self._tasks.add() if self._desk.jobs else self._add_job())

    # --- the calm ---

    async def calm(self, end_endless: Callable[[], None]) -> None:
        """Give every pool nodes again, as far as there is work for it (`pools_have_nodes` says when), and from then on
        bring nodes back to work that do not come back by themselves. Goes on until it is cancelled."""
        for schedule_id in self._schedules:
            while self._goes_on(schedule_id):
                await self._end_schedule(schedule_id, delete=False)
                await asyncio.sleep(2.0)
        fewest = 3 if self._habits.gangs else 1
        for pool_id in self._habits.pools:
            while True:
                pool = self._desk.ledger.pool_named(pool_id)
                if pool is None:
                    await self.add_pool(pool_id, max(2, fewest))
                elif pool.state is PoolState.DELETING:
                    pass
                elif pool.allocation_state is not AllocationState.STEADY:
                    if pool.auto_scale is not None:
                        # Nodes may drain for ever: no formula's resize has a timeout.
                        await self._desk.to_pool(
                            pool_id, "stop resize", lambda at: e.PoolResizeStopRequested(at=at, cause="user")
                        )
                elif pool.auto_scale is not None:
                    if pool.auto_scale.formula == CALM_FORMULA:
                        break
                    await self.enable_scaling(pool_id, CALM_FORMULA, 20.0)
                elif pool.target_dedicated_nodes < fewest or pool.resize_errors:
                    await self.resize(pool_id, max(fewest, pool.target_dedicated_nodes))
                else:
                    break
                await asyncio.sleep(2.0)
        end_endless()
        self.pools_have_nodes = True
        while True:
            await self._bring_back()
            await asyncio.sleep(5.0)

    def _goes_on(self, schedule_id: str) -> bool:
        rows = self._desk.ledger.job_schedules.values()
        return any(
            row.id == schedule_id and row.state in (JobScheduleState.ACTIVE, JobScheduleState.DISABLED) for row in rows
        )

    async def _bring_back(self) -> None:
        """Ask for what brings nodes back that do not work by themselves any more."""
        ledger = self._desk.ledger
        failed = {
            node_id
            for (job_no, node_id), known in ledger.job_nodes.items()
            if known.preparation is not None
            and known.preparation.failure is not None
            and (job := ledger.jobs.get(job_no)) is not None
            and job.state is JobState.ACTIVE
            and (node := ledger.nodes.get(node_id)) is not None
            and node.disk_time == known.disk_time
        }
        for pool in sorted(ledger.pools.values(), key=lambda pool: pool.no):
            if pool.state is PoolState.DELETING:
                continue
            for node in sorted(ledger.nodes_of(pool), key=lambda node: node.id):
                if node.scheduling_state is SchedulingState.DISABLED:
                    await self.enable(pool.id, node.id)
                elif node.state is NodeState.DEALLOCATED:
                    await self.start(pool.id, node.id)
                elif node.pending is not None:
                    pass
                elif node.state is NodeState.START_TASK_FAILED:
                    await self.operate(pool.id, node.id, NodeOperation.REBOOT)
                elif node.id in failed:
                    await self.operate(pool.id, node.id, NodeOperation.REIMAGE)
