"""The store's contract: what is on disk is the truth.

One `ChangeSet` is one transaction. Implementations: `memory` (tests, simulation) and `sqlite` (the embedded default);
`tests/contracts/test_store.py` is the contract suite that every one passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from millpond.domain.application import Application
from millpond.domain.durations import Timestamp
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import NodeState
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray
from millpond.odata.filters import Filter
from millpond.store.changes import ChangeSet


class Fence(msgspec.Struct, frozen=True):
    """The right to commit for one pool id: the lease's epoch when it was taken."""

    pool_key: str
    """The pool's id in comparison form (`ids.id_key`)."""
    epoch: int


class PoolContents(msgspec.Struct):
    """All the scheduler needs to rebuild itself for one pool id; the pool itself may not exist."""

    pool: Pool | None
    nodes: list[Node]
    jobs: list[Job]
    """Every job that names the pool, in order of number, completed ones included."""
    tasks: list[Task]
    """The tasks of those jobs that are not completed (JobState), in key order."""
    satisfied: list[tuple[int, str]]
    """(job number, id key) of deleted tasks that had released their dependents."""
    job_nodes: list[JobNode] = msgspec.field(default_factory=list)
    """Of the jobs that are not completed (JobState)."""
    subtasks: list[Subtask] = msgspec.field(default_factory=list)
    """Of the tasks above that are not completed (TaskState)."""
    task_arrays: list[tuple[TaskArray, Rest]] = msgspec.field(default_factory=list)
    """Of all those jobs, in key order: those of which items have no row."""


class JobContents(msgspec.Struct):
    """All the scheduler needs to take one job over from another pool."""

    job: Job
    tasks: list[Task]
    """In key order."""
    satisfied: list[str]
    """Id keys of deleted tasks that had released their dependents."""
    job_nodes: list[JobNode]
    task_arrays: list[tuple[TaskArray, Rest]] = msgspec.field(default_factory=list)
    """In key order."""


class TaskRow(msgspec.Struct, frozen=True, gc=False):
    """A task as it is read: the hot record and its specification (wire form, JSON)."""

    task: Task
    spec: bytes


_T = TypeVar("_T")


class Page(msgspec.Struct, Generic[_T], frozen=True):
    """One page of a listing, and where the next one starts (opaque to callers; None: this is the last)."""

    items: list[_T]
    next: str | None


class NodeCounts(msgspec.Struct, frozen=True):
    """How many nodes of a pool are in a state."""

    pool_id: str
    is_dedicated: bool
    state: NodeState
    count: int


class SampleBlock(msgspec.Struct, frozen=True):
    """Some samples of one pool, taken one after the other; the store knows nothing of what is in it."""

    pool_no: int
    start: Timestamp
    """When the first was taken."""
    data: bytes


class StoredRun(msgspec.Struct, frozen=True):
    """One evaluation of a pool's formula, with all that it looked at."""

    pool_no: int
    at: Timestamp
    record: bytes
    """JSON"""


class KeptLog(msgspec.Struct, frozen=True):
    """What is kept of one task's files; the store knows nothing of what is in `data`."""

    key: int
    """The task's."""
    attempt: int
    pack: int | None
    """The pack that holds their content; None when there is none."""
    data: bytes


class LogPack(msgspec.Struct, frozen=True):
    """A blob that holds files of many tasks."""

    no: int
    size: int
    """Bytes."""


class StoreFacts(msgspec.Struct, frozen=True):
    """What the control plane reads at start."""

    next_pool_no: int
    """Above every pool number ever used."""
    next_job_no: int
    jobs: list[tuple[str, int, str]]
    """(id, number, pool id) of every job."""
    pools: list[tuple[str, int]]
    """(id, number) of every pool."""
    next_job_schedule_no: int = 1
    """Above every job schedule number ever used."""
    job_schedules: list[JobSchedule] = msgspec.field(default_factory=list)
    """Every job schedule."""
    leased: list[str] = msgspec.field(default_factory=list)
    """Keys of leases that were not given back: commits of whoever had them may still be on their way. In order."""


class Store(Protocol):
    """Where the truth lives. Every method may be called from one event loop at any time, reads and commits in parallel.

    Reads see every commit that was acknowledged before they began. A commit that raises wrote nothing.
    """

    async def open(self) -> StoreFacts:
        """Open or create the store and bring its schema up to date. Raises StoreUnavailable, or ValueError when the
        data was written by a newer Millpond."""
        ...

    async def close(self) -> None: ...

    async def acquire_lease(self, pool_key: str, owner: str, at: Timestamp, ttl_s: float) -> Fence | None:
        """Take the pool id's lease: None while another owner's has not expired. Taking it raises the epoch, also when
        the owner stays the same; from then on commits with an older epoch raise LeaseLost."""
        ...

    async def renew_leases(self, fences: Sequence[Fence], owner: str, at: Timestamp, ttl_s: float) -> list[Fence]:
        """Extend the leases; returns those that were lost."""
        ...

    async def release_lease(self, fence: Fence) -> None: ...

    async def commit(self, changes: ChangeSet, fence: Fence) -> None:
        """Write the whole batch durably, or nothing.

        Raises LeaseLost when the fence's epoch is not the current one, StoreUnavailable when it could not be written
        (disk full, I/O error). The records in `changes` are read before the first suspension and may change after.
        """
        ...

    async def load_pool(self, pool_key: str) -> PoolContents: ...

    async def load_job(self, job_no: int) -> JobContents | None: ...

    async def task_specs(self, keys: Sequence[int]) -> dict[int, bytes]:
        """Specifications by task key; keys that do not exist are missing from the answer."""
        ...

    async def purge_tasks(self, job_no: int, limit: int, fence: Fence) -> int:
        """Delete up to `limit` task rows (with specifications, rows of instances and remembered ids) of a job; how many
        were deleted. Its arrays go at once. When no more are left, the job's rows of nodes go too."""
        ...

    async def forget_node_names(self, chunk: int) -> None:
        """Of the names of nodes that are kept because tasks name them, those that neither a node nor a task bears any
        more go. Looks through all tasks, `chunk` rows at a time, so that others get their turn. For stores that keep no
        such names: nothing."""
        ...

    # --- automatic scaling: observations beside the truth, hence not fenced; they go with their pool ---

    async def save_samples(self, blocks: Sequence[SampleBlock], forget_before: Mapping[int, Timestamp]) -> None:
        """Insert blocks, or replace those of the same pool and start, but for pools there are not. `forget_before`: by
        pool number, blocks that start before that time go. Raises StoreUnavailable."""
        ...

    async def load_samples(self, pool_no: int, since: Timestamp) -> list[SampleBlock]:
        """The pool's blocks that start at `since` or later, in order."""
        ...

    async def save_auto_scale_runs(self, runs: Sequence[StoredRun], keep: int) -> None:
        """Add runs, but for pools there are not; of each of their pools the latest `keep` stay. Raises
        StoreUnavailable."""
        ...

    async def list_auto_scale_runs(self, pool_no: int, limit: int) -> list[StoredRun]:
        """The latest first."""
        ...

    # --- applications: of the account, not of a pool, hence not fenced ---

    async def save_application(self, application: Application) -> None:
        """Insert the application with its packages, or replace what is there of that id. Raises StoreUnavailable."""
        ...

    async def delete_application(self, application_id: str) -> None:
        """One that is not there is no error. Raises StoreUnavailable."""
        ...

    async def load_applications(self) -> list[Application]:
        """All, in order of id key."""
        ...

    async def get_application(self, application_id: str) -> Application | None: ...

    async def list_applications(self, limit: int, after: str | None, *, active: bool = False) -> Page[Application]:
        """In order of id key; with `active` only those that have an active package."""

    # --- logs of tasks: kept beside the truth, hence not fenced; they go with their task ---

    async def save_kept_logs(self, logs: Sequence[KeptLog], pack: LogPack | None = None) -> None:
        """Insert or replace, but for tasks there are not, and for attempts earlier than what is there. `pack` is new,
        and its blob written. Raises StoreUnavailable."""
        ...

    async def change_kept_log(self, log: KeptLog) -> None:
        """Change the data of a row; one that is gone, or of another attempt or pack by now, is left alone."""
        ...

    async def get_kept_log(self, key: int) -> KeptLog | None: ...

    async def kept_log_bytes(self) -> int:
        """Of all packs together."""
        ...

    async def list_log_packs(self, after: int, limit: int) -> list[LogPack]:
        """The next after number `after`, in order of number, which is that of time."""
        ...

    async def unused_log_packs(self, after: int, limit: int) -> tuple[list[LogPack], int | None]:
        """Of the next `limit` packs after number `after` those that no row names, and where to go on (None: that was
        all)."""
        ...

    async def drop_kept_logs(self, packs: Sequence[int]) -> None:
        """Delete all rows that name one of these packs."""
        ...

    async def delete_log_packs(self, packs: Sequence[int]) -> None:
        """Forget packs; their blobs are deleted."""
        ...

    # --- reads for the API ---

    async def get_pool(self, pool_id: str) -> Pool | None: ...

    async def list_pools(self, where: Filter | None, limit: int, after: str | None) -> Page[Pool]:
        """In order of id key. `after` is a previous page's `next`; an `after` that is none raises ValueError."""
        ...

    async def get_node(self, pool_id: str, node_id: str) -> Node | None: ...

    async def list_nodes(self, pool_id: str, where: Filter | None, limit: int, after: str | None) -> Page[Node]: ...

    async def node_counts(self, where: Filter | None) -> list[NodeCounts]:
        """Counts over all pools (pools without nodes are absent), in order of pool id key."""
        ...

    async def get_job(self, job_id: str) -> Job | None: ...

    async def list_jobs(
        self, where: Filter | None, limit: int, after: str | None, *, schedule_id: str | None = None
    ) -> Page[Job]:
        """With `schedule_id`, only the jobs of that job schedule."""
        ...

    async def get_job_schedule(self, schedule_id: str) -> JobSchedule | None: ...

    async def list_job_schedules(self, where: Filter | None, limit: int, after: str | None) -> Page[JobSchedule]: ...

    async def list_job_nodes(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[JobNode]:
        """In order of node id; nodes since removed are among them."""
        ...

    async def list_subtasks(self, task_key: int) -> list[Subtask]:
        """The rows of all instances of the task's latest attempt, the primary (index 0) among them, in order of index."""
        ...

    async def get_task(self, job_id: str, task_id: str) -> TaskRow | None:
        """None when the job or the task does not exist. An item of an array that has no row is a task like others."""
        ...

    async def list_tasks(self, job_no: int, where: Filter | None, limit: int, after: str | None) -> Page[TaskRow]:
        """In key order. Flat in cost over any number of rows when there is no filter; with one, rows are filtered in
        SQL and a page may come back short (even empty) with a `next`, so that one call never scans without bound. Items
        of arrays that have no rows stand among them."""
        ...

    async def tasks_of_keys(self, keys: Sequence[int]) -> dict[int, tuple[str, Task]]:
        """(job id, task) by key, of those that are still there."""
        ...

    async def pools_of_jobs(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Job id key → pool id, of the jobs that exist."""
        ...
