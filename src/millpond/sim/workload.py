"""Seeded random users of a simulated cluster. They know only what was acknowledged to them."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, TypeVar

import msgspec

from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import Event
from millpond.domain.ids import id_key
from millpond.domain.job import Job, JobChanges
from millpond.domain.pool import Pool
from millpond.domain.states import (
    AllocationState,
    DependencyAction,
    DisableJobOption,
    JobAction,
    JobState,
    NodeDeallocationOption,
    NodeFillType,
    OnAllTasksComplete,
    OnTaskFailure,
    PoolState,
    TaskState,
)
from millpond.domain.task import ExitConditions, ExitOptions, NewTask, TaskAddOutcome, TaskRules
from millpond.sim.api import Api, NoAnswer
from millpond.sim.audit import Audit
from millpond.sim.control import SimControl
from millpond.sim.ledger import Ledger
from millpond.sim.nodes import TaskPlan
from millpond.sim.story import Story

_T = TypeVar("_T")

_MISSING = (ErrorCode.TASK_NOT_FOUND, ErrorCode.JOB_NOT_FOUND)
_OPTIONS = (
    NodeDeallocationOption.REQUEUE,
    NodeDeallocationOption.TERMINATE,
    NodeDeallocationOption.TASK_COMPLETION,
)


class Habits(msgspec.Struct, frozen=True):
    """What the users of one run are like."""

    pools: tuple[str, ...]
    jobs_at_most: int
    nodes_at_most: int
    task_slots: tuple[int, ...]
    batch_at_most: int
    run_s: tuple[float, float]
    pause_s: float
    dependencies: float
    weights: tuple[float, ...]
    """How often users add tasks, add jobs, read, change pools, change jobs, change tasks."""

    @staticmethod
    def of(random: Random) -> "Habits":
        shortest = random.choice((0.001, 0.02, 0.5, 5.0))
        return Habits(
            pools=random.choice((("red",), ("red",), ("red", "Blue"))),
            jobs_at_most=random.randint(2, 5),
            nodes_at_most=random.randint(1, 5),
            task_slots=random.choice(((1,), (1,), (2,), (4,), (1, 3))),
            batch_at_most=random.choice((3, 10, 25, 80)),
            run_s=(shortest, shortest * random.choice((2.0, 20.0, 60.0))),
            pause_s=random.choice((1.0, 3.0, 8.0, 15.0)),
            dependencies=random.choice((0.0, 0.5, 0.8)),
            weights=(
                6.0,
                random.choice((0.5, 1.5)),
                4.0,
                random.choice((0.1, 0.5, 1.0, 4.0)),
                random.choice((0.1, 0.5, 1.0, 4.0)),
                random.choice((0.2, 1.0, 3.0, 6.0)),
            ),
        )


class Known(msgspec.Struct):
    """A task whose addition was acknowledged to its user."""

    job_no: int
    job_id: str
    task_id: str
    deleting: bool = False
    """Somebody has asked to delete it, or its job."""
    completed: bool = False
    """A reader has seen it completed, and nobody has asked to reactivate it since."""


class Users:
    """All users of a run. `run` acts until told to stop; `calm` brings things into a state in which all can end."""

    def __init__(self, api: Api, random: Random, habits: Habits, audit: Audit, ledger: Ledger, story: Story) -> None:
        self._api = api
        self._random = random
        self._habits = habits
        self._audit = audit
        self._ledger = ledger
        self._story = story
        self._serial = 0
        self.jobs: dict[str, int] = {}
        """Job ids that users have heard of → number of the job as acknowledged."""
        self.known: list[Known] = []

    # --- calls ---

    async def _ask(
        self,
        what: str,
        make: Callable[[SimControl], Awaitable[_T]],
        check: Callable[[_T], None],
        exists: Callable[[], bool] = lambda: False,
    ) -> _T | None:
        """The answer, or None when it was refused or never came. What `exists` says is there must be found."""
        existed = exists()
        try:
            value = await self._api.call(make, check)
        except BatchError as error:
            self._story.add("user", f"{what}: {error.code.value}")
            if error.code in _MISSING and existed and exists():
                self._audit.fail(f"{what}: {error.code.value}, and it was acknowledged")
            return None
        except NoAnswer as error:
            self._story.add("user", f"{what}: {error}")
            return None
        self._story.add("user", f"{what}: ok")
        return value

    def _job_exists(self, job_id: str) -> bool:
        """Whether its addition was acknowledged, and nobody has ever asked to delete a job of that id."""
        return self.jobs.get(job_id, 0) > 0 and (id_key(job_id), "") not in self._audit.deletes

    @contextlib.contextmanager
    def _found(self, job_id: str, task_id: str) -> Iterator[None]:
        """What is on disk all the while a call takes is not said to be missing, whoever knows of it."""

        def rows() -> tuple[int, int]:
            job = self._ledger.job_named(job_id)
            task = self._ledger.task_named(job.no, task_id) if job is not None and task_id else None
            return job.no if job is not None else 0, task.key if task is not None else 0

        before = rows()
        try:
            yield
        except BatchError as error:
            job_no, key = rows()
            if (error.code is ErrorCode.JOB_NOT_FOUND and job_no and job_no == before[0]) or (
                error.code is ErrorCode.TASK_NOT_FOUND and key and key == before[1]
            ):
                self._audit.fail(f"{job_id}/{task_id}: {error.code.value}, and it is on disk")
            raise

    async def _to_job(
        self,
        job_id: str,
        what: str,
        make: Callable[[float, str], Event],
        task: Known | None = None,
        *,
        sure: bool = True,
    ) -> bool:
        """Send an event to a job, perhaps about a task of it; whether it was taken in. Something of the job must then
        be on disk. `sure`: nobody has asked to delete it before, so that it must be found."""
        deletes = "delete" in what

        def exists() -> bool:
            return sure and self._job_exists(job_id) and (task is None or deletes or not task.deleting)

        before = 0

        async def send(control: SimControl) -> int:
            nonlocal before
            before = self._ledger.commits
            job = self._ledger.job_named(job_id)
            number = job.no if job is not None else -1
            with self._found(job_id, task.task_id if task is not None else ""):
                await control.to_job(job_id, make(control.now(), what))
            return number

        def check(number: int) -> None:
            job = self._ledger.jobs.get(number)
            if job is not None and self._ledger.written_at.get(("job", number), 0) <= before:
                if "disable" in what and job.state is JobState.DISABLED:
                    return
                if what.startswith("update task"):
                    return
                self._audit.fail(f"{what} of {job_id} is acknowledged: nothing is on disk")

        return await self._ask(f"{what} ({job_id})", send, check, exists) is not None

    async def _to_pool(self, pool_id: str, what: str, make: Callable[[float], Event]) -> bool:
        before = 0

        async def send(control: SimControl) -> bool:
            nonlocal before
            before = self._ledger.commits
            await control.to_pool(pool_id, make(control.now()))
            return True

        def check(_: bool) -> None:
            if self._ledger.written_at.get(("pool", id_key(pool_id)), 0) <= before:
                self._audit.fail(f"{what} of pool {pool_id} is acknowledged: nothing is on disk")

        return await self._ask(f"{what} (pool {pool_id})", send, check) is not None

    # --- pools ---

    def _new_pool(self, pool_id: str, nodes: int) -> Pool:
        random = self._random
        return Pool(
            no=0,
            id=pool_id,
            state=PoolState.ACTIVE,
            allocation_state=AllocationState.STEADY,
            creation_time=0.0,
            last_modified=0.0,
            state_time=0.0,
            allocation_state_time=0.0,
            spec={},
            vm_size="small",
            task_slots_per_node=random.choice(self._habits.task_slots),
            fill_type=random.choice((NodeFillType.SPREAD, NodeFillType.PACK)),
            target_dedicated_nodes=nodes,
            target_low_priority_nodes=random.choice((0, 0, 1)),
        )

    async def add_pool(self, pool_id: str, nodes: int) -> bool:
        pool = self._new_pool(pool_id, nodes)

        def check(pool: Pool) -> None:
            if ("pool", id_key(pool_id)) not in self._ledger.written_at:
                self._audit.fail(f"pool {pool.id} is acknowledged: not on disk")

        return await self._ask(f"add pool {pool_id}", lambda control: control.add_pool(pool, "user"), check) is not None

    async def resize(self, pool_id: str, dedicated: int, spot: int | None = None) -> bool:
        option = self._random.choice(_OPTIONS)
        return await self._to_pool(
            pool_id,
            f"resize to {dedicated}+{spot} {option}",
            lambda at: e.PoolResizeRequested(
                at=at,
                cause="user",
                target_dedicated_nodes=dedicated,
                target_low_priority_nodes=spot,
                resize_timeout_s=self._random.choice((300.0, 900.0)),
                node_deallocation_option=option,
            ),
        )

    async def _change_pool(self) -> None:
        random = self._random
        pool_id = random.choice(self._habits.pools)
        dice = random.random()
        if dice < 0.08:
            await self._to_pool(pool_id, "delete", lambda at: e.PoolDeleteRequested(at=at, cause="user"))
        elif dice < 0.25:
            await self._to_pool(pool_id, "stop resize", lambda at: e.PoolResizeStopRequested(at=at, cause="user"))
        elif dice < 0.5:
            await self.add_pool(pool_id.swapcase(), random.randint(0, self._habits.nodes_at_most))
        else:
            nodes = random.randint(0, self._habits.nodes_at_most)
            await self.resize(pool_id, nodes, random.choice((None, 0, 1)))

    # --- jobs ---

    def _a_job(self) -> str | None:
        return self._random.choice(sorted(self.jobs)) if self.jobs else None

    async def _add_job(self) -> None:
        random = self._random
        job_id = f"job{random.randint(1, self._habits.jobs_at_most)}"
        dice = random.random
        job = Job(
            no=0,
            id=job_id,
            pool_id=random.choice(self._habits.pools),
            state=JobState.ACTIVE,
            creation_time=0.0,
            last_modified=0.0,
            state_time=0.0,
            spec={},
            priority=random.choice((0, 0, 5, -5)),
            max_parallel_tasks=random.choice((-1, -1, -1, 1, 3)),
            max_wall_clock_s=random.choice((None, None, None, 60.0, 300.0)),
            max_task_retry_count=random.choice((0, 0, 1, 3)),
            uses_task_dependencies=dice() < self._habits.dependencies,
            on_all_tasks_complete=(OnAllTasksComplete.TERMINATE_JOB if dice() < 0.1 else OnAllTasksComplete.NO_ACTION),
            on_task_failure=(
                OnTaskFailure.PERFORM_EXIT_OPTIONS_JOB_ACTION if dice() < 0.1 else OnTaskFailure.NO_ACTION
            ),
        )

        def check(job: Job) -> None:
            if ("job", job.no) not in self._ledger.written_at:
                self._audit.fail(f"job {job.id} is acknowledged: not on disk")

        self.jobs.setdefault(job_id, 0)
        added = await self._ask(f"add job {job_id}", lambda control: control.add_job(job, "user"), check)
        if added is not None:
            self.jobs[job_id] = added.no

    async def _change_job(self) -> None:
        job_id = self._a_job()
        if job_id is None:
            return
        random = self._random
        pick = random.randint(0, 6)
        if pick == 0:
            option = random.choice(list(DisableJobOption))
            await self._to_job(
                job_id,
                f"disable {option}",
                lambda at, _: e.JobDisableRequested(at=at, cause="user", job_id=job_id, option=option),
            )
        elif pick in (1, 2):
            await self._to_job(job_id, "enable", lambda at, _: e.JobEnableRequested(at=at, cause="user", job_id=job_id))
        elif pick == 3:
            await self._to_job(
                job_id,
                "terminate",
                lambda at, _: e.JobTerminateRequested(at=at, cause="user", job_id=job_id, reason="UserTerminate"),
            )
        elif pick == 4:
            await self._delete_job(job_id)
        else:
            changes = JobChanges({}, priority=random.randint(-5, 5), max_parallel_tasks=random.choice((None, -1, 2)))
            await self._to_job(
                job_id, "update", lambda at, _: e.JobUpdated(at=at, cause="user", job_id=job_id, changes=changes)
            )

    async def _delete_job(self, job_id: str) -> None:
        for known in self.known:
            if id_key(known.job_id) == id_key(job_id):
                known.deleting = True
        self._audit.deletes.add((id_key(job_id), ""))
        await self._to_job(job_id, "delete", lambda at, _: e.JobDeleteRequested(at=at, cause="user", job_id=job_id))

    # --- tasks ---

    def _a_task_id(self) -> str:
        random = self._random
        return random.choice((str(random.randint(1, 40)), f"0{random.randint(1, 9)}", f"T{random.randint(1, 199)}"))

    def _new_task(self, job_has_dependencies: bool) -> NewTask:
        random = self._random
        shortest, longest = self._habits.run_s
        retries = random.choice((None, None, 0, 2, -1))
        codes = tuple(random.choice((0, 0, 0, 1, 3)) for _ in range(random.randint(1, 4)))
        if retries == -1:
            codes = (*codes, 0)
        plan = TaskPlan(
            run_s=random.uniform(shortest, longest),
            prepare_s=random.choice((0.0, 0.0, 0.05)),
            exit_codes=codes,
            upload_fails=random.random() < 0.05,
        )
        return NewTask(
            id=self._a_task_id(),
            spec=msgspec.json.encode(plan),
            required_slots=random.choice((1, 1, 1, 2, 4)),
            max_retry_count=retries,
            rules=self._some_rules(job_has_dependencies),
        )

    def _some_rules(self, job_has_dependencies: bool) -> TaskRules | None:
        random = self._random
        depends = job_has_dependencies and random.random() < 0.6
        conditions: ExitConditions | None = None
        if random.random() < 0.15:
            option = ExitOptions(
                random.choice((None, None, JobAction.DISABLE)),
                random.choice((None, DependencyAction.SATISFY, DependencyAction.BLOCK))
                if job_has_dependencies
                else None,
            )
            conditions = ExitConditions(exit_codes=((3, option),), default=option)
        if not depends and conditions is None:
            return None
        first = random.randint(1, 30)
        ranges = ((first, first + random.choice((0, 2, 3, 70))),) if random.random() < 0.3 else ()
        return TaskRules(
            depends_on_ids=tuple(id_key(self._a_task_id()) for _ in range(random.randint(0, 2))) if depends else (),
            depends_on_ranges=ranges if depends else (),
            exit_conditions=conditions,
        )

    async def _add_tasks(self) -> None:
        job_id = self._a_job()
        if job_id is None:
            await self._add_job()
            return
        random = self._random
        tasks = tuple(
            self._new_task(random.random() < self._habits.dependencies)
            for _ in range(random.randint(1, self._habits.batch_at_most))
        )
        before = 0

        async def send(control: SimControl) -> tuple[int, list[TaskAddOutcome]]:
            nonlocal before
            before = self._ledger.commits
            with self._found(job_id, ""):
                outcomes = await control.to_job(
                    job_id, e.TasksAdded(at=control.now(), cause="user", job_id=job_id, tasks=tasks)
                )
            job = self._ledger.job_named(job_id)
            return (job.no if job is not None else 0), outcomes

        def check(answer: tuple[int, list[TaskAddOutcome]]) -> None:
            job_no, outcomes = answer
            if not job_no or (id_key(job_id), "") in self._audit.deletes:
                return
            for outcome in outcomes:
                if outcome.error_code is not None or (id_key(job_id), id_key(outcome.id)) in self._audit.deletes:
                    continue
                task = self._ledger.task_named(job_no, outcome.id)
                if task is None:
                    self._audit.fail(f"task {outcome.id} of {job_id} is acknowledged: not on disk")

        answer = await self._ask(f"add {len(tasks)} tasks to {job_id}", send, check, lambda: self._job_exists(job_id))
        if answer is None:
            return
        job_no, outcomes = answer
        deleted = (id_key(job_id), "") in self._audit.deletes
        for outcome in outcomes:
            if outcome.error_code is None and job_no:
                gone = deleted or (id_key(job_id), id_key(outcome.id)) in self._audit.deletes
                self.known.append(Known(job_no, job_id, outcome.id, deleting=gone))

    async def _change_task(self) -> None:
        random = self._random
        known = [one for one in self.known if not one.deleting or random.random() < 0.1]
        if not known:
            return
        task = random.choice(known[-60:])
        job_id, task_id = task.job_id, task.task_id
        name = (id_key(job_id), id_key(task_id))
        pick = random.randint(0, 5)
        sure = not task.deleting
        if pick == 0:
            for one in self.known:
                if (id_key(one.job_id), id_key(one.task_id)) == name:
                    one.deleting = True
            self._audit.deletes.add(name)
            # Some are impatient and ask again before the answer: then either of the two may find it gone.
            times = random.choice((1, 1, 2, 3))
            await asyncio.gather(
                *(
                    self._to_job(
                        job_id,
                        f"delete task {task_id}",
                        lambda at, _: e.TaskDeleteRequested(at=at, cause="user", job_id=job_id, task_id=task_id),
                        task,
                        sure=sure and times == 1,
                    )
                    for _ in range(times)
                )
            )
        elif pick in (1, 2):
            await self._to_job(
                job_id,
                f"terminate task {task_id}",
                lambda at, _: e.TaskTerminateRequested(at=at, cause="user", job_id=job_id, task_id=task_id),
                task,
                sure=sure,
            )
        elif pick == 3:
            task.completed = False
            self._audit.reactivations[name] = self._audit.reactivations.get(name, 0) + 1
            await self._to_job(
                job_id,
                f"reactivate task {task_id}",
                lambda at, _: e.TaskReactivateRequested(at=at, cause="user", job_id=job_id, task_id=task_id),
                task,
                sure=sure,
            )
        else:
            plan = json.loads(msgspec.json.encode(TaskPlan(run_s=random.uniform(*self._habits.run_s))))
            await self._to_job(
                job_id,
                f"update task {task_id}",
                lambda at, _: e.TaskUpdated(
                    at=at,
                    cause="user",
                    job_id=job_id,
                    task_id=task_id,
                    max_retry_count=random.choice((None, 1)),
                    spec=json.dumps(plan).encode(),
                ),
                task,
                sure=sure,
            )

    # --- reading ---

    async def _read(self) -> None:
        known = [one for one in self.known if not one.deleting]
        if not known:
            return
        task = self._random.choice(known)

        async def read(control: SimControl) -> Any:
            return await control.store.get_task(task.job_id, task.task_id)

        was_completed = task.completed
        try:
            row = await self._api.call(read, lambda _: None)
        except (NoAnswer, BatchError):
            return
        if task.deleting:
            return
        if row is None:
            self._audit.fail(f"task {task.task_id} of {task.job_id} was acknowledged, and is lost")
            return
        completed = row.task.state is TaskState.COMPLETED
        if was_completed and task.completed and not completed:
            self._audit.fail(f"task {task.task_id} of {task.job_id} was completed, and is {row.task.state}")
        task.completed = task.completed or (completed and task.completed == was_completed and not self._doubt(task))

    def _doubt(self, task: Known) -> bool:
        """Whether a reactivation that was asked for may still come."""
        return self._audit.reactivations.get((id_key(task.job_id), id_key(task.task_id)), 0) > 0

    # --- the day ---

    async def run(self, until: float) -> None:
        """Act until the loop's time."""
        loop = asyncio.get_running_loop()
        random = self._random
        for pool_id in self._habits.pools:
            if random.random() < 0.9:
                await self.add_pool(pool_id, random.randint(1, self._habits.nodes_at_most))
        await self._add_job()
        while loop.time() < until:
            await asyncio.sleep(random.expovariate(1.0 / self._habits.pause_s))
            actions: list[Callable[[], Awaitable[None]]] = [
                self._add_tasks,
                self._add_job,
                self._read,
                self._change_pool,
                self._change_job,
                self._change_task,
            ]
            await random.choices(actions, self._habits.weights)[0]()

    async def calm(self) -> None:
        """Give every pool nodes again, as far as there is work for it. Repeats itself until all was taken in."""
        for pool_id in self._habits.pools:
            while True:
                pool = self._ledger.pool_named(pool_id)
                if pool is None:
                    await self.add_pool(pool_id, 2)
                elif pool.state is PoolState.DELETING or pool.allocation_state is not AllocationState.STEADY:
                    pass
                elif pool.target_dedicated_nodes == 0 or pool.resize_errors:
                    await self.resize(pool_id, max(1, pool.target_dedicated_nodes))
                else:
                    break
                await asyncio.sleep(2.0)
