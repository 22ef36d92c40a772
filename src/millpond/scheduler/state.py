"""The scheduler's memory of one pool id: the pool (which may not exist), its nodes, the jobs that name it, their tasks.

The records (`domain.Pool`, `Node`, `Job`, `Task`) are the rows; what stands beside them here is derived from rows, and
`rebuild` makes it again. Only two things are known to memory alone, and a node's inventory brings them back: which
stopped attempts a node has not confirmed yet (`NodeMemory.stopping`), and whether a node is connected.
"""

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect, SaveJob, SaveNode, SaveNodeWork, SaveRest
from millpond.domain.errors import Bug
from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import (
    JOB_MOVES,
    NODE_MOVES,
    SCHEDULABLE_NODE_STATES,
    JobAction,
    JobState,
    NodeState,
    SchedulingState,
    SubtaskState,
    TaskKind,
    TaskState,
)
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task, TaskCounts
from millpond.domain.task_array import TaskArray
from millpond.scheduler.task_queue import TaskQueue


class Assignment(msgspec.Struct, gc=False):
    """An attempt a node has been handed."""

    task: Task
    attempt: int
    slots: int
    holds: bool
    """It occupies its slots; else it was handed out ahead and starts when slots become free, first come first."""
    returning: bool = False
    """The node was asked to give it back."""
    sent: bool = True
    """The node has been told. Else it waits for the job's preparation task there, and nobody need be told when it is
    taken back."""
    index: int = 0
    """Which instance of a multi-instance task it is; 0 is the primary, and every ordinary task."""


class Stopping(msgspec.Struct, gc=False):
    """An attempt a node was told to stop."""

    slots: int
    """What it still occupies."""
    task: Task | None
    """Its record, to note the exit code on; None when that is gone or not known."""


class SpecialRun(msgspec.Struct):
    """A start, preparation or release task a node has been told to run."""

    kind: TaskKind
    key: int
    attempt: int
    job: "JobMemory | None" = None
    """Whose preparation or release task it is."""


class NodeMemory:
    """A node, and what it is busy with."""

    __slots__ = (
        "ahead",
        "alone",
        "assigned",
        "connected",
        "filed",
        "free",
        "reserved",
        "retention_timer",
        "row",
        "slots",
        "specials",
        "stopping",
    )

    def __init__(self, row: Node, slots: int) -> None:
        self.row = row
        self.slots = slots
        self.free = slots
        """Slots neither held by an assignment nor by an attempt that is being stopped."""
        self.connected = False
        """Its agent has said hello since this memory was built, and has been heard of since."""
        self.assigned: dict[int, Assignment] = {}
        """By task key, in the order of hand-over."""
        self.ahead = 0
        """Assignments that hold no slots yet."""
        self.stopping: dict[tuple[int, int], Stopping] = {}
        """By (task key, attempt): attempts told to stop and not confirmed gone."""
        self.specials: dict[int, SpecialRun] = {}
        """By key: the special tasks that run."""
        self.retention_timer: Timestamp | None = None
        """When the timer rings that the node's removal or restart with `retaineddata` waits for."""
        self.alone = False
        """What it was handed is to have it to itself: nothing is handed to it ahead."""
        self.reserved = False
        """It is kept for `SchedulerState.reservation`, and filed nowhere."""
        self.filed = False
        """It took tasks when it was last filed."""

    @property
    def takes_tasks(self) -> bool:
        row = self.row
        return (
            self.connected
            and row.state in SCHEDULABLE_NODE_STATES
            and row.scheduling_state is SchedulingState.ENABLED
            and row.pending is None
        )


class Gang(msgspec.Struct):
    """The current attempt of a multi-instance task."""

    task: Task
    instances: list[Subtask]
    """By index, as the rows have them: those not completed are assigned to their nodes."""

    @property
    def is_coordinated(self) -> bool:
        """Every instance has coordinated: the primary may proceed."""
        return all(instance.state is not SubtaskState.PREPARING for instance in self.instances)


class Reservation(msgspec.Struct):
    """Nodes kept free of other work for one task that needs whole nodes (see `reservations`)."""

    job: "JobMemory"
    task: Task
    since: Timestamp
    deadline: Timestamp
    nodes: dict[str, NodeMemory] = msgspec.field(default_factory=dict)


class Waiting(msgspec.Struct, gc=False):
    """A task with unmet dependencies."""

    task: Task
    remaining: int
    """Parents (ids, and members of ranges) not yet satisfied."""


class TaskLoad(msgspec.Struct, gc=False):
    """The tasks a pool has to do, does, and has done; see `load`."""

    active: int = 0
    active_slots: int = 0
    running: int = 0
    running_slots: int = 0
    succeeded: int = 0
    failed: int = 0


class DependencyIndex:
    """Who waits for whom in one job. Parents are named by id or by integer; both may name tasks that do not exist."""

    __slots__ = (
        "by_id",
        "by_number",
        "satisfied_ids",
        "satisfied_numbers",
        "waiting",
        "waiting_instances",
        "waiting_slots",
        "wide",
    )

    def __init__(self) -> None:
        self.waiting: dict[int, Waiting] = {}
        """By key of the dependent."""
        self.waiting_instances = 0
        """Of all tasks that wait: 1 each, or the instances of a multi-instance task."""
        self.waiting_slots = 0
        """What all these instances need."""
        self.by_id: dict[str, list[int]] = {}
        self.by_number: dict[int, list[int]] = {}
        """For the members of short ranges."""
        self.wide: list[tuple[int, int, int]] = []
        """(first, last, key of the dependent) of long ranges."""
        self.satisfied_ids: set[str] = set()
        """Id keys of satisfied parents, deleted ones included (Azure Batch remembers them by id)."""
        self.satisfied_numbers: set[int] = set()
        """Integers some satisfied parent's id stands for: `4`, `04` and `004` are one."""


class ArrayMemory:
    """A task array of which some items have no record yet."""

    __slots__ = ("array", "rest")

    def __init__(self, array: TaskArray, rest: Iterable[tuple[int, int]]) -> None:
        self.array = array
        self.rest = list(rest)
        """See `task_array.Rest`."""


class Line(msgspec.Struct):
    """Items of an array that stand one behind the other in a queue: only the first of them is there, as `head`."""

    memory: ArrayMemory
    head: Task
    """It has no row, and is not among the job's tasks, as long as its index is in the array's rest."""
    last: int
    """Index of the last."""


class JobMemory:
    """A job, its live tasks, and its queues: one for each number of required slots (the request class)."""

    __slots__ = (
        "arrays",
        "assigned",
        "barred",
        "deleted",
        "dependencies",
        "extra",
        "first",
        "gangs",
        "lines",
        "load",
        "on_nodes",
        "purging",
        "ready",
        "row",
        "specials",
        "stopping",
        "tasks",
    )

    def __init__(self, row: Job) -> None:
        self.row = row
        self.tasks: dict[str, Task] = {}
        """By id key; empty once the job is completed or deleting."""
        self.arrays: dict[str, ArrayMemory] = {}
        """By id key; kept when the job is completed, empty once it is deleting."""
        self.lines: dict[int, Line] = {}
        """By the key of the head that stands in a queue of `ready`."""
        self.ready: dict[int, TaskQueue] = {}
        """Tasks that could be placed. Entries go stale when a task leaves otherwise; `is_ready` tells."""
        self.first = TaskQueue()
        """The job manager, when it could be placed; stale entries as in `ready`."""
        self.gangs: dict[int, TaskQueue] = {}
        """Multi-instance tasks that could be placed, by number of instances; stale entries as in `ready`."""
        self.dependencies: DependencyIndex | None = DependencyIndex() if row.uses_task_dependencies else None
        self.assigned: dict[int, str] = {}
        """Task key → node id of the current attempts."""
        self.deleted: set[int] = set()
        """Keys of tasks deleted since the job completed: their rows may have been read before that."""
        self.stopping = 0
        """Attempts of this job told to stop and not confirmed gone."""
        self.on_nodes: dict[str, JobNode] = {}
        """By node id, gone nodes among them: what preparation and release tasks did there."""
        self.purging = False
        """It is being deleted and nothing of it is waited for any more: its rows are going."""
        self.barred: set[str] = set()
        """Ids of nodes where the preparation task failed: nothing of the job runs there."""
        self.specials = 0
        """Preparation and release tasks that run."""
        self.extra = TaskCounts()
        """The instances beside the primary of the multi-instance tasks, those active and those on nodes."""
        self.load = TaskLoad()
        """What `SchedulerState.load` has of it."""


class SchedulerState:
    """Everything the scheduler of one pool id knows. Changed only by `core.apply` and `core.place`."""

    def __init__(self, account: str, pool_id: str) -> None:
        self.account = account
        self.pool_id = pool_id
        self.pool: Pool | None = None
        self.nodes: dict[str, NodeMemory] = {}
        self.jobs: dict[str, JobMemory] = {}
        """By id key."""
        self.jobs_by_no: dict[int, JobMemory] = {}
        self.ready_jobs: dict[int, JobMemory] = {}
        """By number: jobs that have (or had) entries in `ready`."""
        self.apart: dict[int, JobMemory] = {}
        """By number: jobs that have (or had) entries in `first` or `gangs`."""
        self.gangs: dict[int, Gang] = {}
        """By task key: the multi-instance tasks that are on nodes."""
        self.preemptible: dict[int, JobMemory] = {}
        """By number: jobs with allowTaskPreemption that have had something to place."""
        self.reservation: Reservation | None = None
        self.unreserved_until: dict[int, Timestamp] = {}
        """By task key: reservations that came to nothing; until then the task gets no other."""
        self.unfit: tuple[int, int, int] | None = None
        """(task key, `usable_changes`, barred nodes) when a reservation was last found impossible."""
        self.yielding: tuple[int, int] | None = None
        """(priority, tasks): one of that priority has been placed by reservation, so that many others come next."""
        self.reservation_timer: Timestamp | None = None
        self.usable_changes = 0
        """Counts how often some node began or ceased to take tasks."""
        # Taken from at the front and added to at the back: an ordinary dict would walk over all that were taken, again
        # and again.
        self.free_nodes: list[OrderedDict[str, NodeMemory]] = [OrderedDict()]
        """Index n: nodes that take tasks and have n free slots."""
        self.hungry: OrderedDict[str, NodeMemory] = OrderedDict()
        """Nodes that take tasks, have none free, and could be handed more ahead."""
        self.with_ahead: dict[str, NodeMemory] = {}
        """Nodes that hold assignments ahead of their slots."""
        self.dirty_jobs: dict[int, JobMemory] = {}
        self.dirty_nodes: dict[str, NodeMemory] = {}
        self.worked_nodes: dict[str, NodeMemory] = {}
        """Those of which `Node.work` changed; they may be among the dirty ones, too."""
        self.dirty_arrays: dict[int, ArrayMemory] = {}
        """By key: those whose rest changed."""
        self.unsettled_jobs: dict[int, JobMemory] = {}
        """Jobs in `disabling` or `terminating` that may be able to move on: looked at, and cleared, by `place`."""
        self.follow_ups: list[tuple[JobMemory, JobAction, str]] = []
        """(job, action, reason) that the tasks of the event being applied ask of their jobs."""
        self.pool_unsettled = False
        """The pool is resizing, stopping or deleting, and nodes changed."""
        self.turn = 0
        """Rotates the start among jobs of equal priority."""
        self.load = TaskLoad()
        """Of all jobs, as of the last batch."""
        self.tells_tasks = False
        """Somebody reads in the service log what becomes of tasks. Set from outside; not part of the truth."""
        self.run_time_s: float | None = None
        """Smoothed run time of recent tasks: how far ahead nodes are fed. A hint only: not part of the truth."""

    # --- filing: call after any change to what a node can take ---

    def refile(self, node: NodeMemory, free_before: int) -> None:
        """Move the node to the bucket of its free slots."""
        node_id = node.row.id
        buckets = self.free_nodes
        if 0 <= free_before < len(buckets):
            buckets[free_before].pop(node_id, None)
        takes = node.takes_tasks
        if takes is not node.filed:
            node.filed = takes
            self.usable_changes += 1
        takes = takes and not node.reserved
        if takes and node.free > 0 and not node.ahead:
            while len(buckets) <= node.free:
                buckets.append(OrderedDict())
            buckets[node.free][node_id] = node
            self.hungry.pop(node_id, None)
        elif takes and not node.alone:
            self.hungry[node_id] = node
        else:
            self.hungry.pop(node_id, None)
        if node.ahead:
            self.with_ahead[node_id] = node
        else:
            self.with_ahead.pop(node_id, None)

    def unfile(self, node: NodeMemory) -> None:
        """Forget a node that is being deleted."""
        self.usable_changes += 1
        node_id = node.row.id
        for bucket in self.free_nodes:
            bucket.pop(node_id, None)
        self.hungry.pop(node_id, None)
        self.with_ahead.pop(node_id, None)

    def file_job(self, job: JobMemory) -> None:
        """Have the next pass look at the job again."""
        if any(job.ready.values()):
            self.ready_jobs[job.row.no] = job
        if job.first or any(job.gangs.values()):
            self.apart[job.row.no] = job

    def touch_node(self, node: NodeMemory) -> None:
        self.dirty_nodes[node.row.id] = node

    def touch_work(self, node: NodeMemory) -> None:
        """As `touch_node`, where nothing has changed but what `Node.work` has."""
        self.worked_nodes[node.row.id] = node

    def touch_job(self, job: JobMemory) -> None:
        self.dirty_jobs[job.row.no] = job

    def touch_unsettled(self, job: JobMemory) -> None:
        """A task of the job left its node: a job being disabled or terminated may be able to move on."""
        if job.row.state in (JobState.DISABLING, JobState.TERMINATING, JobState.DELETING):
            self.unsettled_jobs[job.row.no] = job

    def flush_rows(self) -> list[Effect]:
        """Rows of jobs and nodes changed since the last flush: once a batch, however many tasks moved."""
        effects: list[Effect] = [SaveJob(job.row) for job in self.dirty_jobs.values()]
        dirty = self.dirty_nodes
        effects.extend(SaveNode(node.row) for node in dirty.values())
        if self.worked_nodes:
            effects.append(
                SaveNodeWork([node.row for node_id, node in self.worked_nodes.items() if node_id not in dirty])
            )
            self.worked_nodes.clear()
        if self.dirty_arrays:
            effects.extend(SaveRest(key, tuple(memory.rest)) for key, memory in self.dirty_arrays.items())
            self.dirty_arrays.clear()
        self.dirty_jobs.clear()
        self.dirty_nodes.clear()
        return effects


def set_node_state(state: SchedulerState, node: NodeMemory, to: NodeState, at: Timestamp) -> None:
    """Move a node to another state and file it where it now belongs. Raises Bug for a move that does not exist."""
    if node.row.state is not to:
        _check_node_move(node.row, to)
        node.row.state = to
        node.row.state_time = at
        state.touch_node(node)
    state.refile(node, node.free)


def _check_node_move(row: Node, to: NodeState) -> None:
    if to not in NODE_MOVES[row.state]:
        raise Bug(f"node {row.id} cannot go from {row.state} to {to}")


def settle_node_state(state: SchedulerState, node: NodeMemory, at: Timestamp) -> None:
    """The state of a connected node that is in service, by what it does: running, idle, or offline."""
    set_node_state(state, node, _state_by_work(node), at)


def settle_filed_node_state(state: SchedulerState, node: NodeMemory, at: Timestamp) -> None:
    """`settle_node_state` where the node has just been filed: nothing is to be done if that is its state already."""
    to = _state_by_work(node)
    row = node.row
    if to is not row.state:
        _check_node_move(row, to)
        row.state = to
        row.state_time = at
        state.touch_work(node)
        state.refile(node, node.free)


def _state_by_work(node: NodeMemory) -> NodeState:
    if node.row.running_tasks > 0:
        return NodeState.RUNNING
    return NodeState.OFFLINE if node.row.scheduling_state is SchedulingState.DISABLED else NodeState.IDLE


def set_job_state(state: SchedulerState, job: JobMemory, to: JobState, at: Timestamp) -> None:
    """Move a job to another state. Raises Bug for a move that does not exist."""
    row = job.row
    if to not in JOB_MOVES[row.state]:
        raise Bug(f"job {row.id} cannot go from {row.state} to {to}")
    row.previous_state = row.state
    row.previous_state_time = row.state_time
    row.state = to
    row.state_time = at
    state.touch_job(job)
    state.touch_unsettled(job)


def is_ready(task: Task) -> bool:
    """Whether an entry of a ready queue still stands: the task is active and not handed out."""
    return task.node_id is None and task.state is TaskState.ACTIVE
