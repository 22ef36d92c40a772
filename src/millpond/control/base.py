"""What the control plane offers to the REST face: the seam between `api` and the engines."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from millpond.control.applications import Applications
from millpond.control.events_feed import EventsFeed
from millpond.control.kept_files import KeptFiles
from millpond.control.tokens import TaskClaim
from millpond.domain.autoscale import AutoScaleRun
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError
from millpond.domain.events import Event, JobScheduleEvent
from millpond.domain.explanation import Explanation
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.pool import Pool
from millpond.domain.task import NewTask
from millpond.protocol.messages import (
    FileEntry,
    FileReply,
    Hello,
    LaunchAnswer,
    LaunchCall,
    LaunchReply,
    Listen,
    Logs,
    News,
    NodeOrder,
    Sync,
    SyncReply,
    Welcome,
)
from millpond.providers.base import VmSize
from millpond.staging.account_storage import AccountStorage
from millpond.store.base import Store


class FileContent(msgspec.Struct):
    """A file being read from a node: its properties, and the bytes asked for."""

    entry: FileEntry
    chunks: AsyncIterator[bytes]


class NewJob(msgspec.Struct, frozen=True):
    """A job to be made, and what is made with it: the arguments of `ControlPlane.add_job`."""

    job: Job
    manager: NewTask | None = None
    """The job manager task."""
    auto_pool: Pool | None = None
    """The pool the job is to run in, unless there is one of that id already."""


JobMaker: TypeAlias = Callable[[JobSchedule, str], NewJob]
"""(schedule, id of the job) → the job its `jobSpecification` describes. Raises BatchError when that cannot be made any
more. (An auto pool that cannot is no reason: `add_job` says on the job what stands in its way.)"""


class NodeFiles(Protocol):
    """Files below a node's root, fetched from its agent. Paths are relative to the root, `/` separated, decoded. A pool
    of None is whichever the node is in: that of a task may not be its job's any more.

    Raises BatchError: NodeNotFound, NodeNotReady (the node does not answer), FileNotFound, InvalidRange, and what the
    agent refuses (a path that leaves the root is FileNotFound).
    """

    async def list(
        self, pool_id: str | None, node_id: str, path: str, *, recursive: bool, after: str = "", limit: int = 0
    ) -> list[FileEntry]:
        """In order of name, those after `after`, at most `limit` of them (0: all)."""
        ...

    async def stat(self, pool_id: str | None, node_id: str, path: str) -> FileEntry: ...

    async def read(
        self, pool_id: str | None, node_id: str, path: str, *, offset: int, length: int | None
    ) -> FileContent: ...

    async def delete(self, pool_id: str | None, node_id: str, path: str, *, recursive: bool) -> None: ...

    async def order(self, pool_id: str, node_id: str, order: NodeOrder) -> bytes:
        """Have the node do something at once; the content of its answer. Raises BatchError: NodeNotFound, NodeNotReady,
        and what the agent refuses."""
        ...

    async def follow(self, node_id: str, path: str, *, key: int, attempt: int, offset: int) -> AsyncIterator[bytes]:
        """What is in a task's file from `offset` on and what is added to it, until that attempt is over; empty chunks
        now and then while there is nothing. A file that is not there yet is waited for. ConnectionResetError when the
        node is gone."""
        ...


class KeptLogs(Protocol):
    """Files of tasks that have ended, kept by the service (see `logs.LogKeeper`)."""

    async def of(self, key: int) -> KeptFiles | None:
        """What is kept of a task's files. Raises StoreUnavailable."""
        ...

    async def read(self, kept: KeptFiles, name: str, *, offset: int, length: int | None) -> FileContent:
        """Raises BatchError FileNotFound, InvalidRange."""
        ...

    async def remove(self, kept: KeptFiles, name: str, *, recursive: bool) -> None:
        """Raises BatchError FileNotFound, OperationInvalidForCurrentState."""


class AgentGateway(Protocol):
    """The node side of the protocol: what `api/agent_routes` hands the calls of node agents to."""

    def authenticate(self, node_id: str, token: str) -> bool:
        """Whether the token is that node's own; constant time."""
        ...

    async def hello(self, hello: Hello) -> Welcome:
        """Raises BatchError NodeNotFound for a node that is not (or no longer) in a pool."""
        ...

    async def listen(self, call: Listen, *, park: bool = True) -> News:
        """Returns when there is news for a node, when the host's next call has come, or after a while; unless it is to
        `park`, at once."""
        ...

    async def sync_all(self, syncs: Sequence[Sync]) -> list[SyncReply | BatchError]:
        """What each node is answered, or what is wrong with its sync; once all that was reported is on disk."""
        ...

    async def file_reply(self, node_id: str, request_id: str, reply: FileReply, body: AsyncIterator[bytes]) -> None:
        """Returns when the asker has taken the whole body, or is gone."""
        ...

    async def keep_logs(self, logs: Logs) -> None:
        """Returns when they are safe. Raises BatchError ServerBusy: they are to be sent again."""
        ...

    async def launch(self, token: str, call: LaunchCall) -> LaunchAnswer:
        """Of the launch agent in an instance of a multi-instance task: see `launches.Launches.launch`."""
        ...

    def launch_reply(self, node_id: str, request_id: str, reply: LaunchReply) -> None: ...


class ControlPlane(Protocol):
    """Everything the API handlers may ask for. Reads go to `store`, changes to the engines."""

    @property
    def account_name(self) -> str: ...

    @property
    def store(self) -> Store: ...

    @property
    def storage(self) -> AccountStorage | None:
        """The account's auto-storage; None when it has none."""
        ...

    @property
    def applications(self) -> Applications: ...

    @property
    def files(self) -> NodeFiles: ...

    @property
    def logs(self) -> KeptLogs: ...

    @property
    def agents(self) -> AgentGateway: ...

    @property
    def events_feed(self) -> EventsFeed: ...

    @property
    def vm_sizes(self) -> dict[str, VmSize]:
        """The catalogue, by lower-case name."""
        ...

    @property
    def ready(self) -> bool:
        """Whether changes can be committed just now."""
        ...

    def now(self) -> Timestamp: ...

    def claim_of_token(self, token: str) -> TaskClaim | None:
        """What a task's token says, while the attempt it was given to lasts; None for any other text.

        Raises BatchError ServerBusy when that cannot be told just now.
        """
        ...

    async def add_pool(self, pool: Pool, cause: str) -> Pool:
        """Add a pool (its `no` is set here) and return it as committed. Raises BatchError PoolExists, ServerBusy."""
        ...

    async def add_job(
        self, job: Job, cause: str, *, manager: NewTask | None = None, auto_pool: Pool | None = None
    ) -> Job:
        """Add a job (its `no` is set here) and return it as committed, with its first task and its pool where it has
        such (see `NewJob`). A pool that cannot be made completes the job with a scheduling error.

        Raises BatchError JobExists, JobScheduleWithSameIdExists, ServerBusy."""
        ...

    async def add_job_schedule(self, schedule: JobSchedule, cause: str) -> JobSchedule:
        """Add a job schedule (its `no` is set here) and return it as committed.

        Raises BatchError JobScheduleExists, JobWithSameIdExists (jobs and schedules share their ids), ServerBusy."""
        ...

    async def to_job_schedules(self, event: JobScheduleEvent) -> Any:
        """Hand an event to the owner of all job schedules and wait until it is on disk.

        Raises its BatchError (JobScheduleNotFound …), or ServerBusy."""
        ...

    async def to_pool(self, pool_id: str, event: Event) -> Any:
        """Hand an event to the engine of the pool id and wait until it is on disk; the scheduler's reply.

        Raises the scheduler's BatchError (PoolNotFound …), or ServerBusy when the inbox is full or the store cannot
        commit.
        """
        ...

    async def preempt_node(self, pool_id: str, node_id: str) -> None:
        """Have the provider take the machine of a spot node away. Returns when it has begun to.

        Raises BatchError: PoolNotFound, NodeNotFound, OperationNotValidOnNode (a dedicated node),
        OperationInvalidForCurrentState (there is no machine), NotImplemented (the provider cannot), ServerBusy.
        """
        ...

    async def to_job(self, job_id: str, event: Event) -> Any:
        """The same for the engine of the job's pool. A job that is being moved to another pool is waited for. Raises
        BatchError JobNotFound."""
        ...

    def check_auto_scale(self, formula: str | None, interval_s: float | None) -> None:
        """Check settings of automatic scaling; None is not looked at.

        Raises BatchError: AutoScalingFormulaSyntaxError, AutoScaleFormulaTooLong (with line and column),
        InvalidPropertyValue for an interval that is not allowed."""
        ...

    async def evaluate_auto_scale(self, pool_id: str, formula: str) -> AutoScaleRun:
        """What a formula says of the pool now; nothing comes of it. What fails when it runs is in the answer.

        Raises BatchError: as `check_auto_scale`, PoolNotFound, PoolBeingDeleted, OperationInvalidForCurrentState (the
        pool does not scale itself), ServerBusy."""
        ...

    async def explain_task(self, job_id: str, task_id: str) -> Explanation:
        """Why a task waits, as memory has it now. Raises BatchError JobNotFound, TaskNotFound, ServerBusy."""
        ...

    async def explain_job(self, job_id: str) -> Explanation:
        """Raises BatchError JobNotFound, ServerBusy."""
        ...

    async def explain_pool(self, pool_id: str) -> Explanation:
        """Raises BatchError PoolNotFound, ServerBusy."""
        ...

    async def explain_node(self, pool_id: str, node_id: str) -> Explanation:
        """Raises BatchError PoolNotFound, NodeNotFound, ServerBusy."""
        ...
