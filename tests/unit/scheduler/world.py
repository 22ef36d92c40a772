"""A scheduler with a truth beside it: rows as the store would have them, and nodes that do what they are told."""

import copy
from collections.abc import Iterable, Iterator

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError
from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode, JobPreparationRules, JobReleaseRules, StartTaskRules
from millpond.domain.states import (
    AllocationState,
    JobDefaultOrder,
    JobState,
    NodeFillType,
    OnAllTasksComplete,
    OnTaskFailure,
    PoolState,
    TaskKind,
    TaskState,
)
from millpond.domain.subtask import Subtask
from millpond.domain.task import FailureInfo, NewTask, Task, TaskRules
from millpond.domain.task_array import Rest, TaskArray
from millpond.scheduler.check import digest, violations
from millpond.scheduler.core import apply, place
from millpond.scheduler.rebuild import rebuild
from millpond.scheduler.state import SchedulerState


def new_pool(
    nodes: int = 0,
    slots: int = 1,
    *,
    spot: int = 0,
    fill: NodeFillType = NodeFillType.SPREAD,
    pool_id: str = "pool",
    start_task: StartTaskRules | None = None,
    inter_node: bool = False,
    order: JobDefaultOrder = JobDefaultOrder.NONE,
    packages: bool = False,
) -> Pool:
    return Pool(
        no=1,
        id=pool_id,
        state=PoolState.ACTIVE,
        allocation_state=AllocationState.STEADY,
        creation_time=0.0,
        last_modified=0.0,
        state_time=0.0,
        allocation_state_time=0.0,
        spec={"applicationPackageReferences": [{"applicationId": "a"}]} if packages else {},
        vm_size="local",
        task_slots_per_node=slots,
        fill_type=fill,
        start_task=start_task,
        inter_node_communication=inter_node,
        job_default_order=order,
        target_dedicated_nodes=nodes,
        target_low_priority_nodes=spot,
    )


def new_job(
    job_id: str = "job",
    no: int = 1,
    *,
    priority: int = 0,
    retries: int = 0,
    dependencies: bool = False,
    terminate_when_done: bool = False,
    exit_actions: bool = False,
    max_parallel: int = -1,
    wall_clock_s: float | None = None,
    preparation: JobPreparationRules | None = None,
    release: JobReleaseRules | None = None,
    preemptible: bool = False,
) -> Job:
    return Job(
        no=no,
        id=job_id,
        pool_id="pool",
        state=JobState.ACTIVE,
        creation_time=0.0,
        last_modified=0.0,
        state_time=0.0,
        spec={},
        priority=priority,
        max_task_retry_count=retries,
        max_parallel_tasks=max_parallel,
        uses_task_dependencies=dependencies,
        max_wall_clock_s=wall_clock_s,
        preparation=preparation,
        release=release,
        allow_task_preemption=preemptible,
        on_all_tasks_complete=OnAllTasksComplete.TERMINATE_JOB if terminate_when_done else OnAllTasksComplete.NO_ACTION,
        on_task_failure=OnTaskFailure.PERFORM_EXIT_OPTIONS_JOB_ACTION if exit_actions else OnTaskFailure.NO_ACTION,
    )


def _differences(path: str, was: object, now: object) -> Iterator[str]:
    """What two digests differ in, leaf by leaf."""
    if was == now:
        return
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}, key=str):
            yield from _differences(f"{path}/{key}", was.get(key), now.get(key))
    elif isinstance(was, tuple) and isinstance(now, tuple) and len(was) == len(now):
        for index, (left, right) in enumerate(zip(was, now, strict=True)):
            yield from _differences(f"{path}[{index}]", left, right)
    else:
        yield f"{path}\n  rows   {was}\n  memory {now}"


class World:
    """Drives the scheduler as an engine does, and keeps rows and directives to look at."""

    def __init__(self, pool_id: str = "pool") -> None:
        self.now = 1000.0
        self.pool_id = pool_id
        self.state = SchedulerState("account", pool_id)
        self.pool: Pool | None = None
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[int, Job] = {}
        self.tasks: dict[int, Task] = {}
        self.arrays: dict[int, TaskArray] = {}
        self.rests: dict[int, Rest] = {}
        self.satisfied: set[tuple[int, str]] = set()
        self.job_nodes: dict[tuple[int, str], JobNode] = {}
        self.subtasks: dict[tuple[int, int], Subtask] = {}
        self.to_create: list[str] = []
        self.to_release: list[str] = []
        self.restarts: list[f.RestartNode] = []
        self.to_purge: list[str] = []
        self.started: list[f.StartTask] = []
        self.specials: list[f.StartSpecialTask] = []
        self.proceeded: list[f.Proceed] = []
        self.stopped: list[f.StopTask] = []
        self.returned: list[f.ReturnTask] = []
        self.effects: list[Effect] = []
        self.moved: list[e.JobArrived] = []
        """Jobs that went to other pools, as their new engines are told of them."""
        self.told_completed: list[str] = []
        """Ids of jobs whose schedules were told."""
        self.timers: dict[str, float | None] = {}
        self.disk_times: dict[str, float] = {}
        """Of the disk each node said hello with last."""

    # --- the engine's part ---

    def do(self, *events: e.Event) -> object:
        """One batch: apply all, place once, take the rows, check. The last event's reply; its refusal is raised."""
        reply: object = None
        refusal: BatchError | None = None
        for event in events:
            reply, refusal = None, None
            before = digest(self.state) if len(events) == 1 else None
            try:
                reply = self._take(apply(self.state, event))
            except BatchError as error:
                refusal = error
                if before is not None:
                    assert digest(self.state) == before, "a refused event left a trace"
        self._take(place(self.state, self.now))
        self.check()
        if refusal is not None:
            raise refusal
        return reply

    def _take(self, effects: Iterable[Effect]) -> object:
        reply: object = None
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case f.SavePool(pool):
                    self.pool = copy.deepcopy(pool)
                case f.DeletePool():
                    self.pool = None
                case f.SaveNode(node):
                    self.nodes[node.id] = copy.deepcopy(node)
                case f.SaveNodeWork(nodes):
                    for node in nodes:
                        self.nodes[node.id].take_work(node.work())
                case f.DeleteNode(node):
                    self.nodes.pop(node.id, None)
                case f.SaveJob(job):
                    self.jobs[job.no] = job
                case f.DeleteJob(job):
                    del self.jobs[job.no]
                case f.AddTasks(tasks):
                    for task in tasks:
                        assert task.key not in self.tasks
                        self.tasks[task.key] = task
                case f.SaveTasks(tasks):
                    for task in tasks:
                        assert task.key in self.tasks, "an update of a row that is not there"
                        self.tasks[task.key] = task
                case f.SaveTask(task):
                    assert task.key in self.tasks, "an update of a row that is not there"
                    self.tasks[task.key] = task
                case f.DeleteTask(task):
                    del self.tasks[task.key]
                case f.AddTaskArray(array):
                    self.arrays[array.key] = array
                    self.rests[array.key] = ((0, array.count - 1),)
                case f.SaveRest(key, rest):
                    self.rests[key] = rest
                    if not rest:
                        del self.rests[key], self.arrays[key]
                case f.RememberSatisfied(job_no, key):
                    self.satisfied.add((job_no, key))
                case f.CreateNode(_, node):
                    self.to_create.append(node.id)
                case f.ReleaseNode(_, node):
                    self.to_release.append(node.id)
                case f.RestartNode():
                    self.restarts.append(effect)
                case f.MoveJob(job):
                    self.moved.append(self._take_out(job))
                case f.TellJobCompleted(job):
                    self.told_completed.append(job.id)
                case f.PurgeJob(job):
                    self.to_purge.append(job.id)
                case f.StartTask():
                    self.started.append(effect)
                case f.SaveJobNode(job_node):
                    self.job_nodes[job_node.job_no, job_node.node_id] = copy.deepcopy(job_node)
                case f.SaveSubtask(subtask):
                    self.subtasks[subtask.task_key, subtask.index] = copy.deepcopy(subtask)
                case f.DeleteSubtasks(task_key):
                    self.subtasks = {key: row for key, row in self.subtasks.items() if key[0] != task_key}
                case f.Proceed():
                    self.proceeded.append(effect)
                case f.SetGangTimer(deadline):
                    self.timers["gang"] = deadline
                case f.StartSpecialTask():
                    self.specials.append(effect)
                case f.StopTask():
                    self.stopped.append(effect)
                case f.ReturnTask():
                    self.returned.append(effect)
                case f.SetJobTimer(job_id, deadline):
                    self.timers[job_id] = deadline
                case f.SetResizeTimer(deadline):
                    self.timers["resize"] = deadline
                case f.SetAutoScaleTimer(deadline):
                    self.timers["autoscale"] = deadline
                case f.SetNodeRetentionTimer(node_id, deadline):
                    self.timers[f"retention {node_id}"] = deadline
                case f.Reply(value):
                    reply = value
        return reply

    def _take_out(self, job: Job) -> e.JobArrived:
        """The rows of a job that is another pool's now."""
        del self.jobs[job.no]
        keys = [key for key in self.tasks if key >> 32 == job.no]
        nodes = [key for key in self.job_nodes if key[0] == job.no]
        arrived = e.JobArrived(
            at=self.now,
            job=copy.deepcopy(job),
            tasks=tuple(copy.deepcopy(self.tasks.pop(key)) for key in sorted(keys)),
            satisfied=tuple(key for no, key in sorted(self.satisfied) if no == job.no),
            job_nodes=tuple(copy.deepcopy(self.job_nodes.pop(key)) for key in sorted(nodes)),
            task_arrays=tuple(
                (self.arrays.pop(key), self.rests.pop(key)) for key in sorted(self.arrays) if key >> 32 == job.no
            ),
        )
        self.satisfied = {entry for entry in self.satisfied if entry[0] != job.no}
        return arrived

    def take_in(self, arrived: e.JobArrived) -> None:
        """The rows of a job that is this pool's now, and the event that says so."""
        self.jobs[arrived.job.no] = copy.deepcopy(arrived.job)
        self.tasks.update((task.key, copy.deepcopy(task)) for task in arrived.tasks)
        self.satisfied.update((arrived.job.no, key) for key in arrived.satisfied)
        self.job_nodes.update(((row.job_no, row.node_id), copy.deepcopy(row)) for row in arrived.job_nodes)
        self.arrays.update((array.key, array) for array, _ in arrived.task_arrays)
        self.rests.update((array.key, rest) for array, rest in arrived.task_arrays)
        event = copy.deepcopy(arrived)
        self.do(event)
        # From here on rows and memory are one, as they are for jobs added here.
        self.jobs[arrived.job.no] = self.job(arrived.job.id)
        self.tasks.update((task.key, task) for task in self.state.jobs[arrived.job.id.lower()].tasks.values())

    def check(self) -> None:
        assert violations(self.state) == []
        rebuilt = self.rebuilt()
        assert violations(rebuilt) == []
        was, now = digest(rebuilt), digest(self.state)
        assert was == now, "rows tell another story:\n" + "\n".join(_differences("", was, now))

    def rebuilt(self) -> SchedulerState:
        """A memory built from copies of the rows."""
        return self._rebuild()[0]

    def rebuilt_timers(self) -> list[tuple[str, float | None]]:
        """The timers for the pool that a rebuilt memory sets."""
        names: dict[type, str] = {f.SetResizeTimer: "resize", f.SetAutoScaleTimer: "autoscale"}
        return [(names[type(effect)], effect.deadline) for effect in self._rebuild()[1] if type(effect) in names]

    def _rebuild(self) -> tuple[SchedulerState, list[Effect]]:
        live = {no for no, job in self.jobs.items() if job.state not in (JobState.COMPLETED, JobState.DELETING)}
        return rebuild(
            "account",
            self.pool_id,
            self.now,
            pool=copy.deepcopy(self.pool),
            nodes=[copy.deepcopy(node) for node in self.nodes.values()],
            job_rows=[copy.deepcopy(self.jobs[no]) for no in sorted(self.jobs)],
            task_rows=[copy.deepcopy(self.tasks[key]) for key in sorted(self.tasks) if key >> 32 in live],
            satisfied=sorted(self.satisfied),
            job_nodes=[
                copy.deepcopy(row)
                for (job_no, _), row in self.job_nodes.items()
                if self.jobs[job_no].state is not JobState.COMPLETED
            ],
            subtasks=[
                copy.deepcopy(row)
                for (key, _), row in sorted(self.subtasks.items())
                if key >> 32 in live and self.tasks[key].state is not TaskState.COMPLETED
            ],
            arrays=[(self.arrays[key], self.rests[key]) for key in sorted(self.arrays)],
        )

    # --- shorthands ---

    def tick(self, seconds: float = 1.0) -> float:
        self.now += seconds
        return self.now

    def add_pool(self, nodes: int = 1, slots: int = 1, *, connect: bool = True, **more: object) -> None:
        self.do(e.PoolAdded(at=self.now, pool=new_pool(nodes, slots, **more)))
        if connect:
            self.connect_all()

    def connect_all(self) -> list[str]:
        """Provision and connect every node that is wanted."""
        made, self.to_create = self.to_create, []
        for node_id in made:
            self.do(e.NodeProvisioned(at=self.now, node_id=node_id, handle=f"handle-{node_id[-6:]}"))
            self.connect(node_id)
        return made

    def connect(
        self,
        node_id: str,
        *inventory: e.HeldAttempt,
        boot_time: float | None = None,
        disk_time: float | None = None,
    ) -> None:
        """A hello: of a node under the boot (and disk) it had, unless other times are given."""
        row = self.state.nodes[node_id].row if node_id in self.state.nodes else None
        known = row.last_boot_time if row is not None else None
        known_disk = row.disk_time if row is not None else None
        boot_time = boot_time or known or self.now
        self.disk_times[node_id] = disk_time or known_disk or boot_time
        self.do(
            e.NodeConnected(
                at=self.now,
                node_id=node_id,
                boot_time=boot_time,
                ip_address="127.0.0.1",
                agent_version="1",
                inventory=inventory,
                disk_time=self.disk_times[node_id],
            )
        )

    def run_special(self, kind: TaskKind, exit_code: int | None = 0, **more: object) -> None:
        """Start and end every special task of the kind that nodes were told to run and have not."""
        told = [special for special in self.specials if special.kind is kind]
        self.specials = [special for special in self.specials if special.kind is not kind]
        for special in told:
            common = {"at": self.now, "node_id": special.node_id, "key": special.key, "attempt": special.attempt}
            self.do(e.TaskStarted(start_time=self.now, **common))
            self.do(e.TaskEnded(start_time=self.now, end_time=self.now, exit_code=exit_code, **common, **more))

    def restart_all(self) -> None:
        """Nodes that were told to restart come up anew."""
        told, self.restarts = self.restarts, []
        for restart in told:
            disk_time = None if restart.wipe else self.disk_times.get(restart.node.id)
            self.connect(restart.node.id, boot_time=self.tick(), disk_time=disk_time or self.now)

    def release_all(self) -> None:
        gone, self.to_release = self.to_release, []
        for node_id in gone:
            self.do(e.NodeGone(at=self.now, node_id=node_id))

    def add_job(self, job_id: str = "job", *, manager: NewTask | None = None, **more: object) -> None:
        number = max(self.jobs, default=0) + 1
        self.do(e.JobAdded(at=self.now, job=new_job(job_id, number, **more), manager=manager))

    def add_tasks(
        self,
        *task_ids: str,
        job: str = "job",
        slots: int = 1,
        retries: int | None = None,
        rules: TaskRules | None = None,
    ) -> object:
        tasks = tuple(
            NewTask(id=task_id, spec=b"{}", required_slots=slots, max_retry_count=retries, rules=rules)
            for task_id in task_ids
        )
        return self.do(e.TasksAdded(at=self.now, job_id=job, tasks=tasks))

    def task(self, task_id: str, job: str = "job") -> Task:
        return self.state.jobs[job.lower()].tasks[task_id.lower()]

    def job(self, job_id: str = "job") -> Job:
        return self.state.jobs[job_id.lower()].row

    def start(self, task_id: str, job: str = "job") -> None:
        task = self.task(task_id, job)
        assert task.node_id is not None
        self.do(
            e.TaskStarted(at=self.now, node_id=task.node_id, key=task.key, attempt=task.attempt, start_time=self.now)
        )

    def end(
        self,
        task_id: str,
        exit_code: int | None = 0,
        *,
        job: str = "job",
        failure: FailureInfo | None = None,
        retryable: bool = False,
    ) -> None:
        task = self.task(task_id, job)
        assert task.node_id is not None
        self.do(
            e.TaskEnded(
                at=self.now,
                node_id=task.node_id,
                key=task.key,
                attempt=task.attempt,
                start_time=self.now,
                end_time=self.now,
                exit_code=exit_code,
                failure=failure,
                retryable=retryable,
            )
        )

    def members(self, task_id: str, job: str = "job") -> list[str]:
        """Ids of the nodes the instances of a task are on, in order of index."""
        return [instance.node_id for instance in self.state.gangs[self.task(task_id, job).key].instances]

    def subtask(self, task_id: str, index: int, job: str = "job") -> Subtask:
        """The row of an instance."""
        return self.subtasks[self.task(task_id, job).key, index]

    def start_all(self, task_id: str, job: str = "job") -> None:
        """Every instance begins."""
        task = self.task(task_id, job)
        for node_id in self.members(task_id, job):
            self.do(
                e.TaskStarted(at=self.now, node_id=node_id, key=task.key, attempt=task.attempt, start_time=self.now)
            )

    def coordinate(self, task_id: str, *indexes: int, job: str = "job") -> None:
        """Instances coordinate; all of them, unless some are named."""
        task = self.task(task_id, job)
        nodes = self.members(task_id, job)
        for index in indexes or range(len(nodes)):
            self.do(e.InstanceCoordinated(at=self.now, node_id=nodes[index], key=task.key, attempt=task.attempt))

    def end_instance(
        self,
        task_id: str,
        index: int,
        exit_code: int | None = 0,
        *,
        job: str = "job",
        failure: FailureInfo | None = None,
        retryable: bool = False,
    ) -> None:
        """One instance ends by itself."""
        task = self.task(task_id, job)
        self.do(
            e.TaskEnded(
                at=self.now,
                node_id=self.members(task_id, job)[index],
                key=task.key,
                attempt=task.attempt,
                start_time=self.now,
                end_time=self.now,
                exit_code=exit_code,
                failure=failure,
                retryable=retryable,
            )
        )

    def fire_gang_timer(self) -> None:
        """The time of the reservation, or of the pause after one, is over."""
        deadline = self.timers["gang"]
        assert deadline is not None
        self.now = max(self.now, deadline)
        self.do(e.GangReservationTimedOut(at=self.now, deadline=deadline))

    def confirm_stops(self) -> None:
        stops, self.stopped = self.stopped, []
        for stop in stops:
            self.do(e.TaskStopped(at=self.now, node_id=stop.node_id, key=stop.key, attempt=stop.attempt, exit_code=-9))

    def purge_all(self) -> None:
        purges, self.to_purge = self.to_purge, []
        for job_id in purges:
            job = self.job(job_id)
            for key in [key for key in self.tasks if key >> 32 == job.no]:
                del self.tasks[key]
            for key in [key for key in self.arrays if key >> 32 == job.no]:
                del self.arrays[key], self.rests[key]
            self.satisfied = {entry for entry in self.satisfied if entry[0] != job.no}
            self.job_nodes = {key: row for key, row in self.job_nodes.items() if key[0] != job.no}
            self.subtasks = {key: row for key, row in self.subtasks.items() if key[0] >> 32 != job.no}
            self.do(e.JobPurged(at=self.now, job_id=job_id))
