"""The rows one batch of events changed."""

import copy
from collections.abc import Mapping

import msgspec

from millpond.domain.errors import Bug
from millpond.domain.ids import id_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray


class Together(msgspec.Struct, frozen=True):
    """New tasks whose rows differ in key, id and specification alone; the keys follow one another. Of those that are
    handed over this holds as of before."""

    tasks: list[Task]
    specs: list[bytes]


class ChangeSet(msgspec.Struct):
    """Rows to write and rows to delete, by key: the last effect per key wins.

    A key is in `save_…` or in `delete_…`, never in both. `new_tasks` tells inserts from updates: keys of `tasks` that
    have no row yet (an update of a missing row would be an error, an insert of an existing one too).
    """

    pools: dict[int, Pool] = msgspec.field(default_factory=dict)
    nodes: dict[str, Node] = msgspec.field(default_factory=dict)
    worked: set[str] = msgspec.field(default_factory=set)
    """Ids of `nodes` of which nothing but `Node.work` has changed since their rows were written. A store may keep what is
    new of them apart."""
    jobs: dict[int, Job] = msgspec.field(default_factory=dict)
    tasks: dict[int, Task] = msgspec.field(default_factory=dict)
    new_tasks: set[int] = msgspec.field(default_factory=set)
    together: list[Together] = msgspec.field(default_factory=list)
    """What is known of new tasks that came together. They are in `tasks`, `new_tasks` and `specs` like all others: a store
    may do without this."""
    handed: set[int] = msgspec.field(default_factory=set)
    """Keys of `tasks` that have been handed to a node: of those that are not new, nothing else has changed since their
    rows were written. A store may keep what is new of them apart."""
    specs: dict[int, bytes] = msgspec.field(default_factory=dict)
    task_arrays: dict[int, TaskArray] = msgspec.field(default_factory=dict)
    """New ones, by key."""
    rests: dict[int, Rest] = msgspec.field(default_factory=dict)
    """By key of the array: of new ones, and of those whose rest changed. With an empty one the array goes."""
    satisfied: set[tuple[int, str]] = msgspec.field(default_factory=set)
    job_nodes: dict[tuple[int, str], JobNode] = msgspec.field(default_factory=dict)
    """By (job number, node id); inserted or replaced."""
    subtasks: dict[tuple[int, int], Subtask] = msgspec.field(default_factory=dict)
    """By (task key, index); inserted or replaced, after `deleted_subtasks`."""
    job_schedules: dict[int, JobSchedule] = msgspec.field(default_factory=dict)
    """By number; inserted or replaced."""
    deleted_subtasks: set[int] = msgspec.field(default_factory=set)
    """Task keys whose instances' rows go."""
    deleted_job_schedules: set[int] = msgspec.field(default_factory=set)
    deleted_pools: set[int] = msgspec.field(default_factory=set)
    deleted_nodes: set[str] = msgspec.field(default_factory=set)
    deleted_jobs: set[int] = msgspec.field(default_factory=set)
    deleted_tasks: set[int] = msgspec.field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(
            self.pools
            or self.nodes
            or self.jobs
            or self.tasks
            or self.specs
            or self.rests
            or self.satisfied
            or self.deleted_pools
            or self.deleted_nodes
            or self.deleted_jobs
            or self.deleted_tasks
            or self.job_nodes
            or self.subtasks
            or self.job_schedules
            or self.deleted_subtasks
            or self.deleted_job_schedules
        )


def check_together(changes: ChangeSet) -> None:
    """Raises Bug for what is said of tasks that came together and is not so."""
    for it in changes.together:
        first = it.tasks[0]
        for place, (task, spec) in enumerate(zip(it.tasks, it.specs, strict=True)):
            handed = task.key in changes.handed
            like = Task(
                first.key + place,
                task.id,
                first.state,
                first.creation_time,
                first.last_modified,
                first.state_time,
                first.required_slots,
                first.max_retry_count,
                attempt=int(handed),
                node_id=task.node_id if handed else None,
            )
            if task != like or task.key not in changes.new_tasks or changes.specs.get(task.key) != spec:
                raise Bug(f"rows that cannot be: task {task.key} ({task.id}) is not like those it came with")


def check_worked(changes: ChangeSet, rows: Mapping[str, Node]) -> None:
    """Raises Bug where more of a node has changed than `changes.worked` says. `rows` are the nodes as they are written, by
    id key."""
    for node_id in changes.worked:
        row = rows.get(id_key(node_id))
        if row is None:
            raise Bug(f"rows that cannot be: node {node_id} has worked, and has no row")
        like = copy.copy(row)
        like.take_work(changes.nodes[node_id].work())
        if like != changes.nodes[node_id]:
            raise Bug(f"rows that cannot be: of node {node_id} more has changed than its work")
