"""The pools, jobs, tasks and job schedules that users of a run think of: at random, as far as their habits go."""

from random import Random
from typing import Any

import msgspec

from millpond.control.base import NewJob
from millpond.domain.autoscale import AutoScale
from millpond.domain.ids import id_key, make_auto_pool_id
from millpond.domain.job import AutoPool, Job
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules, StartTaskRules
from millpond.domain.states import (
    AllocationState,
    DependencyAction,
    JobAction,
    JobDefaultOrder,
    JobScheduleState,
    JobState,
    NodeFillType,
    OnAllTasksComplete,
    OnTaskFailure,
    PoolLifetimeOption,
    PoolState,
)
from millpond.domain.task import (
    ExitConditions,
    ExitOptions,
    JobManagerRules,
    JsonObject,
    NewTask,
    TaskRules,
)
from millpond.domain.task_array import ItemTemplate, Override, ParameterSet, TaskArray
from millpond.sim.habits import Habits
from millpond.sim.plans import TaskPlan

ENDLESS_S = 1e9
MOST_NODES = 8
"""That a formula may ask for."""
CALM_FORMULA = "$TargetDedicatedNodes = min(5, max(1, $PendingTasks.GetSample(1))); $TargetLowPriorityNodes = 0;"
"""Gets everything done, and comes to rest."""
_FORMULAS = (
    "$TargetDedicatedNodes = min(4, $PendingTasks.GetSample(1));",
    "$TargetDedicatedNodes = min(3, $PendingTasks.GetSample(1)); $TargetLowPriorityNodes = min(1, $ActiveTasks);",
    """few = $PendingTasks.GetSamplePercent(TimeInterval_Minute * 2) < 50;
    $TargetDedicatedNodes = min(5, few ? $PendingTasks.GetSample(1) : max($PendingTasks.GetSample(TimeInterval_Minute * 2)));
    """,
    "$TargetLowPriorityNodes = min(3, $PendingTasks.GetSample(1)); $TargetDedicatedNodes = 1;",
    # of no sense: too many, too few samples, now and then an error, up and down
    "$TargetDedicatedNodes = 5; $TargetLowPriorityNodes = 1000;",
    "$TargetDedicatedNodes = max($PendingTasks.GetSample(TimeInterval_Hour, 99));",
    "$TargetDedicatedNodes = 2 / ($PendingTasks.GetSample(1) % 2);",
    "$TargetDedicatedNodes = 3 - $TargetDedicatedNodes;",
)


class Maker:
    """See the module. `now` is needed for the times of job schedules."""

    def __init__(self, random: Random, habits: Habits) -> None:
        self._random = random
        self._habits = habits

    # --- pools ---

    def pool(self, pool_id: str, nodes: int) -> Pool:
        random = self._random
        gangs = self._habits.gangs > 0 and random.random() < 0.9
        pool = Pool(
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
            inter_node_communication=gangs,
            job_default_order=random.choice((JobDefaultOrder.NONE, JobDefaultOrder.CREATION_TIME)),
        )
        if self._habits.start_tasks and random.random() < 0.8:
            pool.spec["startTask"] = self._special_plan()
            pool.start_task = StartTaskRules(
                max_retry_count=random.choice((0, 1, 3)), wait_for_success=random.random() < 0.7
            )
        return pool

    def auto_scale(self) -> AutoScale:
        """How a pool scales itself: mostly in a way that gets its work done, at times in one that makes no sense."""
        random = self._random
        option = random.choice(("requeue", "terminate", "taskcompletion"))
        if self._habits.retention and random.random() < 0.3:
            option = "retaineddata"
        formula = f"{random.choice(_FORMULAS)} $NodeDeallocationOption = {option};"
        return AutoScale(formula, random.choice((5.0, 20.0, 60.0)), 0.0, 0.0)

    def _special_plan(self) -> JsonObject:
        """What a start, preparation or release task does: mostly it succeeds, at the first try or at a later one."""
        random = self._random
        plan = TaskPlan(
            run_s=random.choice((0.01, 0.5, 5.0)) * random.random(),
            prepare_s=random.choice((0.0, 0.0, 0.05)),
            exit_codes=random.choice(((0,), (0,), (0,), (1, 0), (0, 1), (1, 1, 0))),
        )
        return msgspec.json.decode(msgspec.json.encode(plan), type=JsonObject)

    # --- jobs ---

    def job(self, job_id: str, pool_id: str) -> NewJob:
        random = self._random
        dice = random.random
        habits = self._habits
        job = Job(
            no=0,
            id=job_id,
            pool_id=pool_id,
            state=JobState.ACTIVE,
            creation_time=0.0,
            last_modified=0.0,
            state_time=0.0,
            spec={},
            priority=random.choice((0, 0, 5, -5)),
            max_parallel_tasks=random.choice((-1, -1, -1, 1, 3)),
            max_wall_clock_s=random.choice((None, None, None, 60.0, 300.0)),
            max_task_retry_count=random.choice((0, 0, 1, 3)),
            uses_task_dependencies=dice() < habits.dependencies,
            on_all_tasks_complete=(OnAllTasksComplete.TERMINATE_JOB if dice() < 0.1 else OnAllTasksComplete.NO_ACTION),
            on_task_failure=(
                OnTaskFailure.PERFORM_EXIT_OPTIONS_JOB_ACTION
                if dice() < habits.job_actions
                else OnTaskFailure.NO_ACTION
            ),
            allow_task_preemption=dice() < habits.preemption,
        )
        if dice() < habits.preparations:
            job.spec["jobPreparationTask"] = self._special_plan()
            job.preparation = JobPreparationRules(
                max_retry_count=random.choice((0, 1, 3)),
                wait_for_success=dice() < 0.8,
                rerun_on_reboot=dice() < 0.6,
            )
            if dice() < 0.7:
                job.spec["jobReleaseTask"] = self._special_plan()
                job.release = JobReleaseRules(max_wall_clock_s=random.choice((30.0, 900.0)))
        auto_pool: Pool | None = None
        if dice() < habits.auto_pools:
            job.pool_id = make_auto_pool_id("auto", job_id, random.randint(0, 1 << 30))
            job.auto_pool = AutoPool(keep_alive=dice() < 0.2, lifetime=PoolLifetimeOption.JOB)
            auto_pool = self.pool(job.pool_id, random.randint(1, 2))
            auto_pool.auto_pool = True
        return NewJob(job, self._manager() if dice() < habits.managers else None, auto_pool)

    def _manager(self) -> NewTask:
        random = self._random
        rules = TaskRules(
            job_manager=JobManagerRules(
                kill_job_on_completion=random.random() < 0.5,
                run_exclusive=random.random() < 0.5,
                allow_low_priority_node=random.random() < 0.7,
            )
        )
        plan = TaskPlan(run_s=random.uniform(0.1, 60.0), exit_codes=random.choice(((0,), (1, 0), (1,))))
        return NewTask(
            id="manager",
            spec=msgspec.json.encode(plan),
            required_slots=1,
            max_retry_count=random.choice((None, 0, 2)),
            rules=rules,
        )

    # --- tasks ---

    def task_id(self) -> str:
        random = self._random
        return random.choice((str(random.randint(1, 40)), f"0{random.randint(1, 9)}", f"T{random.randint(1, 199)}"))

    def task(self, node_ids: list[str]) -> NewTask:
        """`node_ids` are those it may wish for."""
        random = self._random
        habits = self._habits
        has_dependencies = random.random() < habits.dependencies
        gang = random.random() < habits.gangs
        retries = random.choice((None, None, 0, 2, -1))
        codes = tuple(random.choice((0, 0, 0, 1, 3)) for _ in range(random.randint(1, 4)))
        if retries == -1:
            codes = (*codes, 0)
        plan = TaskPlan(
            run_s=random.uniform(*habits.run_s),
            prepare_s=random.choice((0.0, 0.0, 0.05)),
            exit_codes=codes,
            upload_fails=random.random() < 0.05,
            coordination_s=random.choice((0.0, 0.02, 2.0)) if gang else 0.0,
            coordination_fails=random.choice((0, 0, 0, 1, 2)) if gang else 0,
        )
        if not gang and random.random() < habits.endless:
            plan = TaskPlan(run_s=ENDLESS_S)
        return NewTask(
            id=self.task_id(),
            spec=msgspec.json.encode(plan),
            required_slots=1 if gang else random.choice((1, 1, 1, 2, 4)),
            max_retry_count=retries,
            rules=self._rules(has_dependencies, random.randint(1, 3) if gang else 0, node_ids),
        )

    def array(self, node_ids: list[str]) -> TaskArray:
        """Its tasks have the ids of others, too, and those that others wait for."""
        random = self._random
        template = self._template(node_ids)
        count = random.choice((1, 5, 40))
        overrides: tuple[Override, ...] = ()
        if random.random() < 0.4:
            first = random.randrange(count)
            overrides = (Override(first, random.randrange(first, count), self._template(node_ids)),)
        return TaskArray(
            random.choice(("", "Sweep", f"A{random.randint(1, 9)}")), (ParameterSet(1, count),), template, overrides
        )

    def _template(self, node_ids: list[str]) -> ItemTemplate:
        """What a task is that waits for no other and has one instance."""
        task = self.task(node_ids)
        slots, rules = task.required_slots, task.rules
        if rules is not None:
            rules = msgspec.structs.replace(rules, depends_on_ids=(), depends_on_ranges=(), instances=0)
        return ItemTemplate(task.spec.decode(), slots, task.max_retry_count, rules)

    def _rules(self, has_dependencies: bool, instances: int, node_ids: list[str]) -> TaskRules | None:
        random = self._random
        depends = has_dependencies and random.random() < 0.6
        conditions: ExitConditions | None = None
        if random.random() < 0.15:
            option = ExitOptions(
                random.choice((None, None, JobAction.DISABLE, JobAction.TERMINATE, JobAction.NONE))
                if random.random() < self._habits.job_actions
                else None,
                random.choice((None, DependencyAction.SATISFY, DependencyAction.BLOCK)) if has_dependencies else None,
            )
            conditions = ExitConditions(exit_codes=((3, option),), default=option)
        wish = random.choice(node_ids) if node_ids and random.random() < 0.1 else None
        retention = random.uniform(1.0, 60.0) if self._habits.retention else None
        if not depends and conditions is None and not instances and wish is None and retention is None:
            return None
        first = random.randint(1, 30)
        ranges = ((first, first + random.choice((0, 2, 3, 70))),) if random.random() < 0.3 else ()
        return TaskRules(
            depends_on_ids=tuple(id_key(self.task_id()) for _ in range(random.randint(0, 2))) if depends else (),
            depends_on_ranges=ranges if depends else (),
            exit_conditions=conditions,
            affinity_node_id=wish,
            instances=instances,
            retention_s=retention,
        )

    # --- job schedules ---

    def job_schedule(self, schedule_id: str, at: float) -> JobSchedule:
        random = self._random
        pool_info: dict[str, Any] = {"poolId": random.choice(self._habits.pools)}
        if random.random() < self._habits.auto_pools:
            pool_info = {
                "autoPoolSpecification": {
                    "autoPoolIdPrefix": "auto",
                    "poolLifetimeOption": random.choice(("job", "jobschedule")),
                    "keepAlive": random.random() < 0.2,
                }
            }
        return JobSchedule(
            no=0,
            id=schedule_id,
            state=JobScheduleState.ACTIVE,
            creation_time=at,
            last_modified=at,
            state_time=at,
            spec={"jobSpecification": {"poolInfo": pool_info, "seed": random.randint(0, 1 << 30)}},
            recurrence=self.recurrence(at),
        )

    def recurrence(self, at: float) -> Recurrence:
        random = self._random
        return Recurrence(
            do_not_run_until=random.choice((None, None, at + random.uniform(0.0, 60.0))),
            do_not_run_after=random.choice((None, None, at + random.uniform(60.0, 400.0))),
            start_window_s=random.choice((None, 60.0)),
            interval_s=random.choice((None, 60.0, 60.0, 100.0)),
        )


def make_scheduled_job(schedule: JobSchedule, job_id: str, habits: Habits) -> NewJob:
    """`control.base.JobMaker`: the same job for the same id, as often as it is asked for."""
    spec = schedule.spec["jobSpecification"]
    maker = Maker(Random(f"{spec['seed']}/{job_id}"), habits)
    info = spec["poolInfo"]
    new = maker.job(job_id, info.get("poolId", ""))
    job = new.job
    job.schedule_id = schedule.id
    job.auto_pool = schedule.auto_pool
    auto_pool: Pool | None = None
    if job.auto_pool is not None:
        job.pool_id = schedule.pool_id or make_auto_pool_id("auto", schedule.no, job_id)
        auto_pool = maker.pool(job.pool_id, 1)
        auto_pool.auto_pool = True
    else:
        job.pool_id = info["poolId"]
    # Most end by themselves: by their manager, for want of tasks, or by time.
    if new.manager is None:
        job.max_wall_clock_s = job.max_wall_clock_s or 90.0
    return NewJob(job, new.manager, auto_pool)
