"""Random events on the scheduler: no invariant breaks, memory equals what rows rebuild, replay gives the same."""

import contextlib
import random

import pytest

from millpond.domain import events as e
from millpond.domain.autoscale import AutoScaleRun, AutoScaleRunError
from millpond.domain.errors import BatchError
from millpond.domain.ids import is_special_key
from millpond.domain.job import JobChanges
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules, StartTaskRules
from millpond.domain.states import (
    AllocationState,
    DependencyAction,
    DisableJobOption,
    ErrorCategory,
    JobAction,
    JobDefaultOrder,
    JobState,
    NodeDeallocationOption,
    NodeFillType,
    NodeOperation,
    NodeState,
    SchedulingState,
    TaskState,
)
from millpond.domain.task import ExitConditions, ExitOptions, FailureInfo, JobManagerRules, NewTask, Task, TaskRules
from millpond.domain.task_array import ItemTemplate, Override, ParameterSet, TaskArray
from millpond.scheduler.apart import fits_pool, manager_rules, nodes_wanted
from millpond.scheduler.check import digest
from millpond.scheduler.gangs import is_gang, is_running
from tests.unit.scheduler.world import World, new_job, new_pool

_TRANSITIONAL = (JobState.DISABLING, JobState.ENABLING, JobState.TERMINATING, JobState.DELETING)
_UPLOAD = FailureInfo(ErrorCategory.USER_ERROR, "FileUploadMiscError", "no")
_DOWNLOAD = FailureInfo(ErrorCategory.USER_ERROR, "BlobNotFound", "no")


class Monkey:
    """Plays users, nodes and the provider at random; every step is checked by `World`."""

    def __init__(self, seed: int, *, gangs: float = 0.25) -> None:
        """`gangs`: how many of the tasks are multi-instance tasks and nothing else."""
        self.random = random.Random(seed)
        self.gangs = gangs
        self.world = World()
        self.story: list[object] = []
        self.held: dict[str, dict[tuple[int, int], int]] = {}
        """What each node really holds: (key, attempt) → slots."""
        self.boots: dict[str, tuple[float, float]] = {}
        """When each node booted last, and its disk was made."""
        self.serial = 0
        self.is_calm = False
        self.proceeding: set[tuple[str, int, int]] = set()
        """(node, key, attempt) of primaries that were told to proceed."""

    def do(self, event: e.Event) -> None:
        self.story.append(event)
        with contextlib.suppress(BatchError):
            self.world.do(event)
        self._deliver()

    def _deliver(self) -> None:
        """Nodes take in what they were told; sometimes a directive is lost with the connection."""
        world = self.world
        for start in world.started:
            self.held.setdefault(start.node_id, {})[start.task.key, start.attempt] = start.slots
        world.started.clear()
        for special in world.specials:
            self.held.setdefault(special.node_id, {})[special.key, special.attempt] = 0
        world.specials.clear()
        for proceed in world.proceeded:
            if (proceed.key, proceed.attempt) in self.held.get(proceed.node_id, {}):
                self.proceeding.add((proceed.node_id, proceed.key, proceed.attempt))
        world.proceeded.clear()

    def step(self) -> None:
        self.world.tick(self.random.choice((0.0, 0.001, 1.0, 30.0)))
        actions = (
            (6, self.add_tasks),
            (1, self.add_array),
            (8, self.start_some),
            (10, self.end_some),
            (6, self.end_several),
            (6, self.coordinate_some),
            (3, self.confirm_stops),
            (2, self.give_back),
            (2, self.provision),
            (2, self.release),
            (1, self.reconnect),
            (1, self.lose_node),
            (2, self.lie),
            (2, self.job_change),
            (2, self.task_change),
            (1, self.resize),
            (1, self.scale),
            (1, self.remove_nodes),
            (2, self.operate),
            (2, self.restart),
            (1, self.preempt),
            (1, self.pool_change),
            (1, self.purge),
            (1, self.fire_timer),
        )
        weights = [weight for weight, _ in actions]
        self.random.choices([action for _, action in actions], weights)[0]()

    def a_job(self) -> str:
        return f"job{self.random.randint(1, 4)}"

    def a_task(self) -> str:
        number = self.random.randint(0, 30)
        return self.random.choice((str(number), f"0{number % 9 + 1}", f"T{number % 9 + 1}", f"sweep-{number}"))

    def add_array(self) -> None:
        """Its ids are those of ordinary tasks, too, and those that others wait for."""
        pick = self.random.random
        rules = TaskRules(retention_s=20.0, affinity_node_id=self.random.choice([None, *self.world.state.nodes]))
        first = self.random.randint(0, 5)
        array = TaskArray(
            id=self.random.choice(("", "Sweep")),
            parameter_sets=(ParameterSet(1, self.random.randint(1, 12)),),
            template=ItemTemplate("{}", max_retry_count=1, rules=rules if pick() < 0.5 else None),
            overrides=(Override(first, first + 2, ItemTemplate("{}", required_slots=2)),) if pick() < 0.3 else (),
        )
        if not array.overrides or array.overrides[-1].last < array.count:
            self.do(e.TaskArrayAdded(at=self.world.now, job_id=self.a_job(), array=array))

    def add_tasks(self) -> None:
        if self.random.random() < 0.3:
            job = self.a_job()
            if job not in self.world.state.jobs:
                pick = self.random.random
                self.serial += 1
                row = new_job(
                    job,
                    self.serial,
                    priority=self.random.choice((0, 0, 5)),
                    retries=self.random.choice((0, 1, -1)),
                    dependencies=pick() < 0.6,
                    terminate_when_done=pick() < 0.2,
                    exit_actions=pick() < 0.2,
                    max_parallel=self.random.choice((-1, -1, 1, 2)),
                    wall_clock_s=self.random.choice((None, None, 100.0)),
                    preemptible=pick() < 0.4,
                )
                if pick() < 0.4:
                    row.preparation = JobPreparationRules(
                        max_retry_count=self.random.choice((0, 1)),
                        wait_for_success=pick() < 0.7,
                        rerun_on_reboot=pick() < 0.5,
                    )
                    row.release = JobReleaseRules() if pick() < 0.6 else None
                manager = None
                if pick() < 0.15:
                    rules = TaskRules(
                        job_manager=JobManagerRules(
                            kill_job_on_completion=pick() < 0.5,
                            run_exclusive=pick() < 0.6,
                            allow_low_priority_node=pick() < 0.7,
                        )
                    )
                    manager = NewTask("manager", b"{}", max_retry_count=1, rules=rules)
                self.do(e.JobAdded(at=self.world.now, job=row, manager=manager))
                return
        tasks = tuple(
            NewTask(
                id=self.a_task(),
                spec=b"{}",
                required_slots=1 if rules is not None and rules.instances else self.random.choice((1, 1, 1, 2, 3, 9)),
                max_retry_count=self.random.choice((None, 0, 2)),
                rules=rules,
            )
            for rules in (self.some_rules() for _ in range(self.random.randint(1, 6)))
        )
        self.do(e.TasksAdded(at=self.world.now, job_id=self.a_job(), tasks=tasks))

    def some_rules(self) -> TaskRules | None:
        pick = self.random.random()
        if pick < self.gangs:
            return TaskRules(instances=self.random.choice((1, 2, 2, 3)))
        if pick < self.gangs + 0.4 * (1 - self.gangs):
            return None
        first = self.random.randint(1, 20)
        option = ExitOptions(
            self.random.choice((None, JobAction.NONE, JobAction.DISABLE)),
            self.random.choice((None, DependencyAction.SATISFY, DependencyAction.BLOCK)),
        )
        return TaskRules(
            depends_on_ids=tuple(self.a_task().lower() for _ in range(self.random.randint(0, 2))),
            depends_on_ranges=((first, first + self.random.choice((0, 2, 100))),) if self.random.random() < 0.3 else (),
            exit_conditions=ExitConditions(exit_codes=((3, option),), default=option)
            if self.random.random() < 0.4
            else None,
            affinity_node_id=self.random.choice([None, *self.world.state.nodes]),
            retention_s=self.random.choice((None, 0.0, 20.0)),
            instances=self.random.choice((0, 0, 1, 2, 2, 3)),
        )

    def an_attempt(self) -> tuple[str, int, int] | None:
        choices = [(node, key, attempt) for node, held in sorted(self.held.items()) for key, attempt in sorted(held)]
        return self.random.choice(choices) if choices else None

    def start_some(self) -> None:
        """Nodes start strictly in the order of hand-over, as far as their slots go."""
        for node_id, node in list(self.world.state.nodes.items()):
            for assignment in list(node.assigned.values()):
                held = (assignment.task.key, assignment.attempt) in self.held.get(node_id, {})
                if (
                    assignment.holds
                    and held
                    and not is_running(self.world.state, assignment)
                    and self.random.random() < 0.7
                ):
                    self.do(
                        e.TaskStarted(
                            at=self.world.now,
                            node_id=node_id,
                            key=assignment.task.key,
                            attempt=assignment.attempt,
                            start_time=self.world.now - 0.5,
                        )
                    )

    def coordinate_some(self, likely: float = 0.7) -> None:
        """Instances that have begun coordinate."""
        for gang in list(self.world.state.gangs.values()):
            for instance in gang.instances:
                node_id, key, attempt = instance.node_id, instance.task_key, instance.attempt
                held = (key, attempt) in self.held.get(node_id, {})
                if held and instance.start_time is not None and self.random.random() < likely:
                    self.do(e.InstanceCoordinated(at=self.world.now, node_id=node_id, key=key, attempt=attempt))

    def end_some(self) -> None:
        found = self.an_attempt()
        if found is None:
            return
        node_id, key, attempt = found
        node = self.world.state.nodes.get(node_id)
        assignment = node.assigned.get(key) if node is not None else None
        if assignment is not None and not assignment.holds:
            return  # it cannot have begun
        del self.held[node_id][key, attempt]
        exit_code, failure = self.random.choice(
            ((0, None), (0, None), (1, None), (3, None), (0, _UPLOAD), (None, _DOWNLOAD))
        )
        self.do(
            e.TaskEnded(
                at=self.world.now,
                node_id=node_id,
                key=key,
                attempt=attempt,
                start_time=self.world.now - 0.1,
                end_time=self.world.now,
                exit_code=exit_code,
                failure=failure,
                retryable=failure is not None and self.random.random() < 0.3,
            )
        )

    def end_several(self) -> None:
        """Some of what a node has begun ends before it reports again, in its order."""
        node_id = self.a_node()
        node = self.world.state.nodes.get(node_id) if node_id is not None else None
        if node is None or node_id is None:
            return
        now = self.world.now
        ends: list[e.AttemptEnd] = []
        for key, assignment in node.assigned.items():
            if (key, assignment.attempt) not in self.held.get(node_id, {}) or self.random.random() < 0.2:
                continue
            exit_code, failure = self.random.choice(((0, None),) * 8 + ((1, None), (0, _UPLOAD)))
            started = None if self.random.random() < 0.1 else now - self.random.random()
            del self.held[node_id][key, assignment.attempt]
            ends.append(e.AttemptEnd(len(ends), key, assignment.attempt, started, now, exit_code, failure))
        if ends:
            self.do(e.TasksEnded(at=now, told=[(node_id, ends)]))

    def confirm_stops(self) -> None:
        stops, self.world.stopped = self.world.stopped, []
        for stop in stops:
            if not self.is_calm and self.random.random() < 0.1:
                continue  # lost: the next hello settles it
            self.held.get(stop.node_id, {}).pop((stop.key, stop.attempt), None)
            self.do(
                e.TaskStopped(at=self.world.now, node_id=stop.node_id, key=stop.key, attempt=stop.attempt, exit_code=-9)
            )

    def give_back(self) -> None:
        wishes, self.world.returned = self.world.returned, []
        for wish in wishes:
            if self.held.get(wish.node_id, {}).pop((wish.key, wish.attempt), None) is not None:
                self.do(e.TaskReturned(at=self.world.now, node_id=wish.node_id, key=wish.key, attempt=wish.attempt))

    def provision(self) -> None:
        wanted, self.world.to_create = self.world.to_create, []
        for node_id in wanted:
            node = self.world.state.nodes.get(node_id)
            if node is not None and node.row.state is NodeState.PREEMPTED and self.random.random() < 0.3:
                self.world.to_create.append(node_id)  # no capacity yet
                continue
            if self.random.random() < 0.1:
                self.do(
                    e.NodeProvisionFailed(at=self.world.now, node_id=node_id, code="AllocationFailed", message="no")
                )
                continue
            self.do(e.NodeProvisioned(at=self.world.now, node_id=node_id, handle="h"))
            self.boot(node_id, wipe=True)
            self.connect(node_id)

    def boot(self, node_id: str, *, wipe: bool) -> None:
        """The node comes up anew, holding nothing."""
        now = self.world.now
        self.held.pop(node_id, None)
        self.boots[node_id] = (now, now if wipe else self.boots[node_id][1])

    def connect(self, node_id: str) -> None:
        inventory = tuple(
            e.HeldAttempt(key, attempt, slots, ended=False)
            for (key, attempt), slots in self.held.get(node_id, {}).items()
        )
        # What was said in the session before may not have arrived.
        self.proceeding = {told for told in self.proceeding if told[0] != node_id}
        boot_time, disk_time = self.boots.setdefault(node_id, (self.world.now, self.world.now))
        self.do(
            e.NodeConnected(
                at=self.world.now,
                node_id=node_id,
                boot_time=boot_time,
                ip_address="",
                agent_version="1",
                inventory=inventory,
                disk_time=disk_time,
            )
        )

    def release(self) -> None:
        gone, self.world.to_release = self.world.to_release, []
        for node_id in gone:
            self.held.pop(node_id, None)
            self.do(e.NodeGone(at=self.world.now, node_id=node_id))

    def a_node(self) -> str | None:
        return self.random.choice(sorted(self.world.state.nodes)) if self.world.state.nodes else None

    def reconnect(self) -> None:
        node_id = self.a_node()
        if node_id is not None and self.world.state.nodes[node_id].row.handle:
            held = self.held.get(node_id, {})
            for attempt in [attempt for attempt in held if self.random.random() < 0.2]:
                del held[attempt]  # the directive never arrived
            if node_id in self.boots and self.random.random() < 0.3:
                self.boot(node_id, wipe=self.random.random() < 0.3)
            self.connect(node_id)

    def lose_node(self) -> None:
        node_id = self.a_node()
        if node_id is None:
            return
        kind = self.random.choice((e.NodeSilent, e.NodeLost, e.NodeGone))
        if kind is e.NodeGone:
            self.held.pop(node_id, None)
            self.boots.pop(node_id, None)
        self.do(kind(at=self.world.now, node_id=node_id))

    def lie(self) -> None:
        """Reports of attempts that never were, from nodes that are not concerned."""
        node_id = self.a_node() or "tvmps_0_d"
        key = self.random.choice([*self.world.tasks, 1 << 32, 99])
        attempt = self.random.choice((0, 99, -1))
        self.do(e.TaskStarted(at=self.world.now, node_id=node_id, key=key, attempt=attempt, start_time=0.0))
        self.do(
            e.TaskEnded(
                at=self.world.now, node_id=node_id, key=key, attempt=attempt, start_time=0.0, end_time=1.0, exit_code=0
            )
        )
        self.do(e.TaskStopped(at=self.world.now, node_id="tvmps_1_d", key=key, attempt=1))
        self.do(e.TaskReturned(at=self.world.now, node_id=node_id, key=key, attempt=attempt))

    def job_change(self) -> None:
        job, now = self.a_job(), self.world.now
        pick = self.random.randint(0, 6)
        if pick == 0:
            self.do(e.JobDisableRequested(at=now, job_id=job, option=self.random.choice(list(DisableJobOption))))
        elif pick in (1, 2):
            self.do(e.JobEnableRequested(at=now, job_id=job))
        elif pick == 3:
            self.do(e.JobTerminateRequested(at=now, job_id=job, reason="UserTerminate"))
        elif pick == 4:
            self.do(e.JobDeleteRequested(at=now, job_id=job))
        elif pick == 5:
            self.move_and_return(job)
        else:
            self.do(e.JobUpdated(at=now, job_id=job, changes=JobChanges({}, priority=self.random.randint(-5, 5))))

    def move_and_return(self, job: str) -> None:
        """A disabled job goes to another pool and comes back before anything happened to it there."""
        self.do(e.JobUpdated(at=self.world.now, job_id=job, changes=JobChanges({}, pool_id="other")))
        moved, self.world.moved = self.world.moved, []
        for arrived in moved:
            arrived.job.pool_id = "pool"
            self.story.append(arrived.job.id)
            self.world.take_in(arrived)

    def task_change(self) -> None:
        job, task, now = self.a_job(), self.a_task(), self.world.now
        memory = self.world.state.jobs.get(job)
        if memory is not None and memory.tasks and self.random.random() < 0.8:
            task = self.random.choice(sorted(memory.tasks))
        if memory is not None and memory.row.state is JobState.COMPLETED:
            return
        kind = self.random.choice((e.TaskTerminateRequested, e.TaskDeleteRequested, e.TaskReactivateRequested))
        self.do(kind(at=now, job_id=job, task_id=task))

    def resize(self) -> None:
        self.do(
            e.PoolResizeRequested(
                at=self.world.now,
                target_dedicated_nodes=self.random.randint(0, 3),
                target_low_priority_nodes=self.random.choice((None, 0, 1)),
                resize_timeout_s=300.0,
                node_deallocation_option=self.an_option(),
            )
        )

    def scale(self) -> None:
        """Automatic scaling is enabled or disabled, or a formula has been evaluated: the pool's own, or one it had."""
        now, pool = self.world.now, self.world.state.pool
        pick = self.random.random()
        if pick < 0.25:
            self.do(
                e.PoolAutoScaleEnableRequested(
                    at=now,
                    formula=self.random.choice(("a", "b", None)),
                    interval_s=self.random.choice((None, 5.0, 300.0)),
                )
            )
        elif pick < 0.35:
            self.do(e.PoolAutoScaleDisableRequested(at=now))
        elif pool is not None:
            self.do(
                e.PoolAutoScaled(
                    at=now,
                    pool_no=pool.no,
                    since=pool.auto_scale.since if pool.auto_scale is not None else 7.0,
                    run=AutoScaleRun(now, "", AutoScaleRunError("x", "y") if pick < 0.4 else None),
                    target_dedicated_nodes=self.random.randint(0, 4),
                    target_low_priority_nodes=self.random.randint(0, 1),
                    node_deallocation_option=self.an_option(),
                    max_nodes=self.random.choice((None, 2)),
                )
            )

    def an_option(self) -> NodeDeallocationOption:
        return self.random.choice(list(NodeDeallocationOption))

    def remove_nodes(self) -> None:
        nodes = sorted(self.world.state.nodes)
        chosen = self.random.sample(nodes, self.random.randint(0, min(2, len(nodes))))
        now = self.world.now
        self.do(
            e.NodesRemoveRequested(
                at=now, node_ids=tuple(chosen), resize_timeout_s=300.0, node_deallocation_option=self.an_option()
            )
        )

    def operate(self) -> None:
        node_id, now = self.a_node() or "tvmps_0_d", self.world.now
        node = self.world.state.nodes.get(node_id)
        if node is not None and node.row.state is NodeState.DEALLOCATED and self.random.random() < 0.5:
            self.do(e.NodeStartRequested(at=now, node_id=node_id))
            return
        pick = self.random.randint(0, 6)
        if pick <= 3:
            operation = self.random.choice((NodeOperation.REBOOT, NodeOperation.REIMAGE, NodeOperation.DEALLOCATE))
            self.do(e.NodeOperationRequested(at=now, node_id=node_id, operation=operation, option=self.an_option()))
        elif pick == 4:
            option = self.random.choice(
                (
                    NodeDeallocationOption.REQUEUE,
                    NodeDeallocationOption.TERMINATE,
                    NodeDeallocationOption.TASK_COMPLETION,
                )
            )
            self.do(e.NodeSchedulingDisableRequested(at=now, node_id=node_id, option=option))
        elif pick == 5:
            self.do(e.NodeSchedulingEnableRequested(at=now, node_id=node_id))
        else:
            self.do(e.NodeStartRequested(at=now, node_id=node_id))

    def restart(self) -> None:
        """Nodes told to restart do, or say hello without having heard of it."""
        told, self.world.restarts = self.world.restarts, []
        for node_id, wipe in dict.fromkeys((restart.node.id, restart.wipe) for restart in told):
            if node_id not in self.boots:
                continue
            if self.random.random() < 0.8:
                self.world.tick(0.1)
                self.boot(node_id, wipe=wipe and self.random.random() < 0.9)
            self.connect(node_id)

    def preempt(self) -> None:
        spot = [node_id for node_id, node in self.world.state.nodes.items() if not node.row.is_dedicated]
        if spot and self.random.random() < 0.7:
            node_id = self.random.choice(spot)
            if self.world.state.nodes[node_id].row.handle:
                self.held.pop(node_id, None)
                self.boots.pop(node_id, None)
                self.do(e.NodePreempted(at=self.world.now, node_id=node_id))

    def pool_change(self) -> None:
        now = self.world.now
        if self.world.state.pool is None:
            fill = self.random.choice((NodeFillType.SPREAD, NodeFillType.PACK))
            start_task = self.random.choice(
                (None, StartTaskRules(max_retry_count=1), StartTaskRules(wait_for_success=False))
            )
            slots = self.random.choice((1, 1, 3))
            order = self.random.choice(list(JobDefaultOrder))
            pool = new_pool(2, slots, spot=1, fill=fill, start_task=start_task, inter_node=slots == 1, order=order)
            self.do(e.PoolAdded(at=now, pool=pool))
        elif self.random.random() < 0.3:
            self.do(e.PoolDeleteRequested(at=now))
        else:
            self.do(e.PoolResizeStopRequested(at=now))

    def purge(self) -> None:
        self.world.purge_all()

    def fire_timer(self) -> None:
        world = self.world
        for key, deadline in list(world.timers.items()):
            if deadline is not None and deadline <= world.now:
                world.timers[key] = None
                if key == "gang":
                    self.do(e.GangReservationTimedOut(at=world.now, deadline=deadline))
                elif key == "autoscale":
                    self.scale()
                elif key == "resize":
                    self.do(e.PoolResizeTimedOut(at=world.now, deadline=deadline))
                elif key.startswith("retention "):
                    node_id = key.removeprefix("retention ")
                    self.do(e.NodeRetentionPassed(at=world.now, node_id=node_id, deadline=deadline))
                else:
                    self.do(e.JobTimedOut(at=world.now, job_id=key, deadline=deadline))

    def calm(self) -> None:
        """Faults and users stop: nodes work honestly until nothing moves."""
        world = self.world
        self.is_calm = True
        if world.state.pool is None:
            self.do(e.PoolAdded(at=world.now, pool=new_pool(2, 3)))
        self.do(e.PoolAutoScaleDisableRequested(at=world.now))
        for node_id, node in list(world.state.nodes.items()):
            if node.row.handle:
                self.connect(node_id)  # what was lost before comes out now
        for turn in range(600):
            world.tick(1.0)
            if turn % 50 == 0:
                # What special tasks have spoilt, a fresh disk mends.
                for node_id, node in list(world.state.nodes.items()):
                    failed = node.row.state is NodeState.START_TASK_FAILED
                    if node.row.handle and (failed or any(node_id in job.barred for job in world.state.jobs.values())):
                        self.boot(node_id, wipe=True)
                        self.connect(node_id)
            if turn == 300:
                world.tick(8 * 86400.0)  # nothing is retained any longer
            self.fire_timer()
            self.mend()
            self.provision()
            self.release()
            self.purge()
            self.confirm_stops()
            self.give_back()
            for node_id, node in list(world.state.nodes.items()):
                if not node.connected and node.row.handle:
                    self.connect(node_id)
            self.start_some()
            self.coordinate_some(1.0)
            for node_id, held in list(self.held.items()):
                node_memory = world.state.nodes.get(node_id)
                for key, attempt in list(held):
                    assignment = node_memory.assigned.get(key) if node_memory is not None else None
                    if is_special_key(key) or (
                        assignment is not None
                        and assignment.attempt == attempt
                        and assignment.task.state is TaskState.RUNNING
                        and (not is_gang(assignment.task) or (node_id, key, attempt) in self.proceeding)
                    ):
                        del held[key, attempt]
                        self.do(
                            e.TaskEnded(
                                at=world.now,
                                node_id=node_id,
                                key=key,
                                attempt=attempt,
                                start_time=world.now,
                                end_time=world.now,
                                exit_code=0,
                            )
                        )
            pool = world.state.pool
            if pool is not None and pool.allocation_state is AllocationState.STEADY and not world.state.nodes:
                self.do(e.PoolResizeRequested(at=world.now, target_dedicated_nodes=2, resize_timeout_s=300.0))
            if pool is None:
                self.do(e.PoolAdded(at=world.now, pool=new_pool(2, 3)))

    def mend(self) -> None:
        """What users did to nodes is undone, and what they wait for happens."""
        world = self.world
        self.restart()
        for node_id, node in list(world.state.nodes.items()):
            row = node.row
            if row.scheduling_state is SchedulingState.DISABLED:
                self.do(e.NodeSchedulingEnableRequested(at=world.now, node_id=node_id))
            if row.state is NodeState.DEALLOCATED:
                self.do(e.NodeStartRequested(at=world.now, node_id=node_id))
            elif row.state in (NodeState.REBOOTING, NodeState.REIMAGING) and not world.restarts:
                self.connect(node_id)
            elif node.stopping and not world.stopped:
                self.connect(node_id)  # what was lost on the way is said again

    def unfinished(self) -> list[str]:
        """Tasks that could run and did not."""
        pool = self.world.state.pool
        nodes = list(self.world.state.nodes.values())

        def could_run(task: Task) -> bool:
            rules = manager_rules(task)
            usable = [n for n in nodes if rules is None or rules.allow_low_priority_node or n.row.is_dedicated]
            return pool is not None and fits_pool(pool, task) and len(usable) >= nodes_wanted(task)

        return [
            f"{job.row.id}/{task.id}: {task}"
            for job in self.world.state.jobs.values()
            if job.row.state is JobState.ACTIVE
            for task in job.tasks.values()
            if task.state is not TaskState.COMPLETED
            and could_run(task)
            and (job.dependencies is None or task.key not in job.dependencies.waiting)
        ]


def _play(monkey: Monkey, *, gangs: bool) -> None:
    monkey.do(e.PoolAdded(at=monkey.world.now, pool=new_pool(3, 1, inter_node=True) if gangs else new_pool(2, 3)))
    for _ in range(250):
        monkey.step()
    monkey.calm()
    assert monkey.unfinished() == []
    waiting = [node for node in monkey.world.state.nodes.values() if node.row.pending is not None]
    assert waiting == []
    stuck = [job.row.id for job in monkey.world.state.jobs.values() if job.row.state in _TRANSITIONAL]
    assert stuck == []


@pytest.mark.parametrize("seed", range(40))
def test_random_events_keep_every_invariant(seed: int) -> None:
    _play(Monkey(seed), gangs=seed % 2 == 0)


@pytest.mark.parametrize("seed", range(1000, 1015))
def test_random_events_with_many_gangs_keep_every_invariant(seed: int) -> None:
    _play(Monkey(seed, gangs=0.7), gangs=True)


def test_replaying_the_story_gives_the_same_memory() -> None:
    first = Monkey(7)
    first.do(e.PoolAdded(at=first.world.now, pool=new_pool(2, 3)))
    for _ in range(200):
        first.step()
    second = Monkey(7)
    second.do(e.PoolAdded(at=second.world.now, pool=new_pool(2, 3)))
    for _ in range(200):
        second.step()
    assert second.story == first.story
    assert digest(second.world.state) == digest(first.world.state)
