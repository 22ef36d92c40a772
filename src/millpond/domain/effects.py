"""Effects: what the scheduler wants done. Names are imperative.

Rows (`Save…`, `Delete…`) go into the batch's one `ChangeSet`, the last per key winning; directives (`StartTask` …) and
replies leave only after that commit; provider wishes and timers are carried out after it too.
"""

from typing import Any, TypeAlias

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.service_log import ServiceLogEvent
from millpond.domain.special_task import JobNode
from millpond.domain.states import TaskKind
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task
from millpond.domain.task_array import Rest, TaskArray


class _Effect(msgspec.Struct, frozen=True, gc=False):
    pass


# --- rows -----------------------------------------------------------------------------------------------------------


class SavePool(_Effect, frozen=True, gc=False):
    pool: Pool


class DeletePool(_Effect, frozen=True, gc=False):
    pool: Pool


class SaveNode(_Effect, frozen=True, gc=False):
    node: Node


class SaveNodeWork(_Effect, frozen=True, gc=False):
    """Of these nodes nothing has changed since they were saved last but what `Node.work` has."""

    nodes: list[Node]


class DeleteNode(_Effect, frozen=True, gc=False):
    node: Node


class SaveJob(_Effect, frozen=True, gc=False):
    job: Job


class DeleteJob(_Effect, frozen=True, gc=False):
    """The job's own row (its task rows are gone already)."""

    job: Job


class SaveTask(_Effect, frozen=True, gc=False):
    task: Task


class SaveTasks(_Effect, frozen=True, gc=False):
    """As many `SaveTask`."""

    tasks: list[Task]


class AddTasks(_Effect, frozen=True, gc=False):
    """New rows and their specifications, one each."""

    tasks: list[Task]
    specs: list[bytes]
    alike: bool = False
    """They differ in key, id and specification alone, have no rules, and their keys follow one another."""


class HandOver(SaveTask, frozen=True, gc=False):
    """The task has been handed to its node as its current attempt; nothing else of it has changed."""


class SaveTaskSpec(_Effect, frozen=True, gc=False):
    """A new specification of an existing task."""

    key: int
    spec: bytes


class DeleteTask(_Effect, frozen=True, gc=False):
    """The task's row and specification."""

    task: Task


class AddTaskArray(_Effect, frozen=True, gc=False):
    """A new array, no item of which has a row."""

    array: TaskArray


class SaveRest(_Effect, frozen=True, gc=False):
    """What items of an array have no row now; with none left the array is no more."""

    key: int
    """The array's."""
    rest: Rest


class RememberSatisfied(_Effect, frozen=True, gc=False):
    """A deleted task had released its dependents: the job remembers it by id (Azure Batch: task dependencies)."""

    job_no: int
    id_key: str


class SaveJobNode(_Effect, frozen=True, gc=False):
    job_node: JobNode


class SaveSubtask(_Effect, frozen=True, gc=False):
    """The row of that task and index, whatever attempt it showed before."""

    subtask: Subtask


class DeleteSubtasks(_Effect, frozen=True, gc=False):
    """All rows of instances of that task (rows of deleted jobs go with their tasks)."""

    task_key: int


class SaveJobSchedule(_Effect, frozen=True, gc=False):
    schedule: JobSchedule


class DeleteJobSchedule(_Effect, frozen=True, gc=False):
    schedule: JobSchedule


class PurgeJob(_Effect, frozen=True, gc=False):
    """Delete all task rows of a deleting job, a few at a time; answer with `JobPurged`."""

    job: Job


# --- directives to nodes --------------------------------------------------------------------------------------------


class BeginSession(_Effect, frozen=True, gc=False):
    """The node's inventory has been compared: only directives after this one are for the new session. Those before it
    have gone into the comparison, and would make a node that has run an attempt to its end run it again."""

    node_id: str
    session: str


class GangMember(msgspec.Struct, frozen=True, gc=False):
    """Where one instance of a multi-instance task runs."""

    node_id: str
    ip_address: str


class StartTask(_Effect, frozen=True, gc=False):
    node_id: str
    job: Job
    task: Task
    attempt: int
    slots: int
    """What it occupies on the node: the task's required slots, or all of the node's where it runs alone."""
    members: tuple[GangMember, ...] = ()
    """Of a multi-instance task: the nodes of its instances, in order of index."""
    index: int = 0
    """Which instance this is."""


class StartSpecialTask(_Effect, frozen=True, gc=False):
    """Set a node up, or run a start, preparation or release task there. Its specification is in the pool's or the job's
    `spec`."""

    node_id: str
    kind: TaskKind
    key: int
    attempt: int
    pool: Pool | None = None
    """For setup and start task."""
    job: Job | None = None
    """For a preparation or release task."""


class Proceed(_Effect, frozen=True, gc=False):
    """All instances of the multi-instance task have coordinated: its primary may run the command line."""

    node_id: str
    key: int
    attempt: int


class RestartNode(_Effect, frozen=True, gc=False):
    """Have the node end all it runs and come up again, with its disk made anew (`wipe`) or as it is. The next
    `NodeConnected` has a new boot time (and disk time)."""

    pool: Pool
    node: Node
    wipe: bool


class StopTask(_Effect, frozen=True, gc=False):
    """Kill the attempt and say so (`TaskStopped`)."""

    node_id: str
    key: int
    attempt: int


class ReturnTask(_Effect, frozen=True, gc=False):
    """Give the attempt back if it has not started (`TaskReturned`); else carry on."""

    node_id: str
    key: int
    attempt: int


class RemoveTaskDirectory(_Effect, frozen=True, gc=False):
    """The task was deleted: its directory on the node may go, whatever its retention time."""

    node_id: str
    job_id: str
    task_id: str


class RemoveJobDirectories(_Effect, frozen=True, gc=False):
    """The job was deleted: the directories of its tasks on the node may go."""

    node_id: str
    job_id: str


# --- provider wishes ------------------------------------------------------------------------------------------------


class CreateNode(_Effect, frozen=True, gc=False):
    """Make this node; answered by `NodeProvisioned` or `NodeProvisionFailed`."""

    pool: Pool
    node: Node


class ReleaseNode(_Effect, frozen=True, gc=False):
    """Give the node back; answered by `NodeGone`. The handle may be empty when it was never provisioned."""

    pool: Pool
    node: Node


# --- timers, replies -----------------------------------------------------------------------------------------------


class SetResizeTimer(_Effect, frozen=True, gc=False):
    """`PoolResizeTimedOut` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    deadline: Timestamp | None


class SetAutoScaleTimer(_Effect, frozen=True, gc=False):
    """Evaluate the pool's formula at the deadline and answer with `PoolAutoScaled`. Setting it again replaces it; a
    deadline of None cancels it."""

    deadline: Timestamp | None


class SetJobTimer(_Effect, frozen=True, gc=False):
    """`JobTimedOut` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    job_id: str
    deadline: Timestamp | None


class SetGangTimer(_Effect, frozen=True, gc=False):
    """`GangReservationTimedOut` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    deadline: Timestamp | None


class SetNodeRetentionTimer(_Effect, frozen=True, gc=False):
    """`NodeRetentionPassed` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    node_id: str
    deadline: Timestamp | None


# --- between the owners of pools, and of job schedules --------------------------------------------------------------


class MoveJob(_Effect, frozen=True, gc=False):
    """The job's row names another pool now, and this engine has let go of it: have the other pool's engine take it."""

    job: Job


class TellJobCompleted(_Effect, frozen=True, gc=False):
    """A job made by a schedule is completed: answered by nothing. (Of one that is deleted the schedule learns before
    its rows go.)"""

    job: Job


class SetJobScheduleTimer(_Effect, frozen=True, gc=False):
    """`JobScheduleDue` at the deadline. Setting it again replaces it; a deadline of None cancels it."""

    schedule_id: str
    deadline: Timestamp | None


class CreateScheduledJob(_Effect, frozen=True, gc=False):
    """Make the job `recent_job_id` of the schedule; that it exists already is fine. What cannot be made counts as
    completed."""

    schedule: JobSchedule


class TerminateScheduledJob(_Effect, frozen=True, gc=False):
    """End the schedule's job with the reason TerminateJobSchedule; answered by `ScheduledJobCompleted` in the end."""

    schedule: JobSchedule


class DeleteScheduledJobs(_Effect, frozen=True, gc=False):
    """Delete all jobs of the schedule and its auto pool; answered by `ScheduledJobsDeleted`."""

    schedule: JobSchedule


class DeleteScheduleAutoPool(_Effect, frozen=True, gc=False):
    """The schedule is over and its auto pool (`pool_id`) was not to be kept."""

    schedule: JobSchedule


# --- those who watch ------------------------------------------------------------------------------------------------


class Publish(_Effect, frozen=True, gc=False):
    """Tell it in the service log."""

    event: ServiceLogEvent


class Reply(_Effect, frozen=True, gc=False):
    """The answer to the event's sender (at most one for an event; without one the answer is None)."""

    value: Any


RowEffect: TypeAlias = (
    SavePool
    | DeletePool
    | SaveNode
    | SaveNodeWork
    | DeleteNode
    | SaveJob
    | DeleteJob
    | AddTasks
    | SaveTask
    | SaveTasks
    | HandOver
    | SaveTaskSpec
    | DeleteTask
    | AddTaskArray
    | SaveRest
    | RememberSatisfied
    | SaveJobNode
    | SaveSubtask
    | DeleteSubtasks
    | SaveJobSchedule
    | DeleteJobSchedule
)
DirectiveEffect: TypeAlias = (
    BeginSession
    | StartTask
    | StartSpecialTask
    | Proceed
    | StopTask
    | ReturnTask
    | RemoveTaskDirectory
    | RemoveJobDirectories
    | RestartNode
)
TimerEffect: TypeAlias = (
    SetResizeTimer | SetAutoScaleTimer | SetJobTimer | SetGangTimer | SetNodeRetentionTimer | SetJobScheduleTimer
)
JobScheduleEffect: TypeAlias = CreateScheduledJob | TerminateScheduledJob | DeleteScheduledJobs | DeleteScheduleAutoPool
Effect: TypeAlias = (
    RowEffect
    | DirectiveEffect
    | TimerEffect
    | JobScheduleEffect
    | PurgeJob
    | CreateNode
    | ReleaseNode
    | MoveJob
    | TellJobCompleted
    | Publish
    | Reply
)
