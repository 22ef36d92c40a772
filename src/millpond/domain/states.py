"""The states of pools, nodes, jobs, job schedules, tasks and subtasks, and which moves between them exist.

The tables say *which* moves exist (Azure Batch: state machines); the handlers in `scheduler/` say *when*. Values are
spelled as on the wire.
"""

from enum import StrEnum
from typing import Final


class PoolState(StrEnum):
    ACTIVE = "active"
    DELETING = "deleting"


class AllocationState(StrEnum):
    STEADY = "steady"
    RESIZING = "resizing"
    STOPPING = "stopping"


class NodeState(StrEnum):
    IDLE = "idle"
    REBOOTING = "rebooting"
    REIMAGING = "reimaging"
    RUNNING = "running"
    UNUSABLE = "unusable"
    CREATING = "creating"
    STARTING = "starting"
    WAITING_FOR_START_TASK = "waitingforstarttask"
    START_TASK_FAILED = "starttaskfailed"
    UNKNOWN = "unknown"
    LEAVING_POOL = "leavingpool"
    OFFLINE = "offline"
    PREEMPTED = "preempted"
    UPGRADING_OS = "upgradingos"
    DEALLOCATED = "deallocated"
    DEALLOCATING = "deallocating"


class SchedulingState(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"


class JobState(StrEnum):
    ACTIVE = "active"
    DISABLING = "disabling"
    DISABLED = "disabled"
    ENABLING = "enabling"
    TERMINATING = "terminating"
    COMPLETED = "completed"
    DELETING = "deleting"


class TaskState(StrEnum):
    ACTIVE = "active"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"


class SubtaskState(StrEnum):
    """Of one instance of a multi-instance task."""

    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"


class SpecialTaskState(StrEnum):
    """Of a start, job preparation or job release task on one node; `running` includes retries."""

    RUNNING = "running"
    COMPLETED = "completed"


class JobScheduleState(StrEnum):
    ACTIVE = "active"
    COMPLETED = "completed"
    DISABLED = "disabled"
    TERMINATING = "terminating"
    DELETING = "deleting"


class TaskKind(StrEnum):
    """What a node is asked to run. The user's own tasks are `task` (job manager tasks too)."""

    TASK = "task"
    NODE_SETUP = "nodesetup"
    """No command: what the pool has its nodes ready with before anything runs there (application packages)."""
    START_TASK = "starttask"
    JOB_PREPARATION = "jobpreparation"
    JOB_RELEASE = "jobrelease"
    INSTANCE = "instance"
    """One instance of a multi-instance task: the primary (index 0) or a subtask."""


class NodeOperation(StrEnum):
    """What a node waits to undergo, once the tasks on it have been dealt with."""

    REMOVE = "remove"
    REBOOT = "reboot"
    REIMAGE = "reimage"
    DEALLOCATE = "deallocate"


class PoolLifetimeOption(StrEnum):
    """How long an auto pool lives."""

    JOB = "job"
    JOB_SCHEDULE = "jobschedule"


class JobDefaultOrder(StrEnum):
    """Which of several jobs of equal priority comes first."""

    NONE = "none"
    CREATION_TIME = "creationtime"


class TaskResult(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"


class ErrorCategory(StrEnum):
    USER_ERROR = "usererror"
    SERVER_ERROR = "servererror"


class NodeFillType(StrEnum):
    SPREAD = "spread"
    PACK = "pack"


class NodeDeallocationOption(StrEnum):
    REQUEUE = "requeue"
    TERMINATE = "terminate"
    TASK_COMPLETION = "taskcompletion"
    RETAINED_DATA = "retaineddata"


class DisableJobOption(StrEnum):
    REQUEUE = "requeue"
    TERMINATE = "terminate"
    WAIT = "wait"


class OnAllTasksComplete(StrEnum):
    NO_ACTION = "noaction"
    TERMINATE_JOB = "terminatejob"


class OnTaskFailure(StrEnum):
    NO_ACTION = "noaction"
    PERFORM_EXIT_OPTIONS_JOB_ACTION = "performexitoptionsjobaction"


class JobAction(StrEnum):
    NONE = "none"
    DISABLE = "disable"
    TERMINATE = "terminate"


class DependencyAction(StrEnum):
    SATISFY = "satisfy"
    BLOCK = "block"


_N = NodeState
_J = JobState

POOL_MOVES: Final[dict[PoolState, frozenset[PoolState]]] = {
    PoolState.ACTIVE: frozenset({PoolState.DELETING}),
    PoolState.DELETING: frozenset(),
}

ALLOCATION_MOVES: Final[dict[AllocationState, frozenset[AllocationState]]] = {
    AllocationState.STEADY: frozenset({AllocationState.RESIZING}),
    AllocationState.RESIZING: frozenset({AllocationState.STEADY, AllocationState.STOPPING}),
    AllocationState.STOPPING: frozenset({AllocationState.STEADY, AllocationState.RESIZING}),
}
"""Pool delete turns a stop into a resize to zero, hence stopping → resizing."""

_FROM_SERVICE: Final = frozenset(
    {
        _N.CREATING,
        _N.WAITING_FOR_START_TASK,
        _N.STARTING,
        _N.UNKNOWN,
        _N.UNUSABLE,
        _N.LEAVING_POOL,
        _N.PREEMPTED,
        _N.REBOOTING,
        _N.REIMAGING,
        _N.DEALLOCATING,
    }
)
"""Where a node that was in service can go, besides from one such state to another."""

NODE_MOVES: Final[dict[NodeState, frozenset[NodeState]]] = {
    _N.CREATING: frozenset({_N.STARTING, _N.UNUSABLE, _N.LEAVING_POOL, _N.PREEMPTED}),
    _N.STARTING: frozenset(
        {
            _N.CREATING,
            _N.IDLE,
            _N.RUNNING,
            _N.OFFLINE,
            _N.WAITING_FOR_START_TASK,
            _N.UNKNOWN,
            _N.UNUSABLE,
            _N.LEAVING_POOL,
            _N.PREEMPTED,
            _N.DEALLOCATED,
        }
    ),
    _N.WAITING_FOR_START_TASK: frozenset(
        {
            _N.CREATING,
            _N.STARTING,
            _N.IDLE,
            _N.OFFLINE,
            _N.START_TASK_FAILED,
            _N.REBOOTING,
            _N.REIMAGING,
            _N.DEALLOCATING,
            _N.UNKNOWN,
            _N.UNUSABLE,
            _N.LEAVING_POOL,
            _N.PREEMPTED,
        }
    ),
    _N.START_TASK_FAILED: frozenset(
        {
            _N.CREATING,
            _N.STARTING,
            _N.WAITING_FOR_START_TASK,
            _N.REBOOTING,
            _N.REIMAGING,
            _N.DEALLOCATING,
            _N.LEAVING_POOL,
            _N.PREEMPTED,
            _N.UNKNOWN,
        }
    ),
    _N.IDLE: _FROM_SERVICE | {_N.RUNNING, _N.OFFLINE},
    _N.RUNNING: _FROM_SERVICE | {_N.IDLE, _N.OFFLINE},
    _N.OFFLINE: _FROM_SERVICE | {_N.IDLE, _N.RUNNING},
    _N.UNKNOWN: frozenset(
        {
            _N.CREATING,
            _N.STARTING,
            _N.WAITING_FOR_START_TASK,
            _N.START_TASK_FAILED,
            _N.IDLE,
            _N.RUNNING,
            _N.OFFLINE,
            _N.UNUSABLE,
            _N.DEALLOCATING,
            _N.LEAVING_POOL,
            _N.PREEMPTED,
        }
    ),
    _N.UNUSABLE: frozenset(
        {
            _N.STARTING,
            _N.WAITING_FOR_START_TASK,
            _N.IDLE,
            _N.OFFLINE,
            _N.REBOOTING,
            _N.REIMAGING,
            _N.DEALLOCATING,
            _N.LEAVING_POOL,
            _N.PREEMPTED,
            _N.CREATING,
            _N.UNKNOWN,
        }
    ),
    _N.REBOOTING: frozenset({_N.STARTING, _N.CREATING, _N.UNKNOWN, _N.UNUSABLE, _N.LEAVING_POOL, _N.PREEMPTED}),
    _N.REIMAGING: frozenset({_N.STARTING, _N.CREATING, _N.UNKNOWN, _N.UNUSABLE, _N.LEAVING_POOL, _N.PREEMPTED}),
    _N.UPGRADING_OS: frozenset({_N.STARTING, _N.UNUSABLE, _N.LEAVING_POOL}),
    _N.PREEMPTED: frozenset({_N.CREATING, _N.LEAVING_POOL}),
    _N.DEALLOCATING: frozenset({_N.DEALLOCATED, _N.LEAVING_POOL}),
    _N.DEALLOCATED: frozenset({_N.STARTING, _N.LEAVING_POOL}),
    _N.LEAVING_POOL: frozenset(),
}
"""Back to `creating` is service healing: the machine vanished, and is made again under the same node id. Back to
`deallocated` goes a node that the provider refuses to start."""

JOB_MOVES: Final[dict[JobState, frozenset[JobState]]] = {
    _J.ACTIVE: frozenset({_J.DISABLING, _J.DISABLED, _J.TERMINATING, _J.COMPLETED, _J.DELETING}),
    _J.DISABLING: frozenset({_J.DISABLED, _J.TERMINATING, _J.DELETING}),
    _J.DISABLED: frozenset({_J.DISABLING, _J.ENABLING, _J.TERMINATING, _J.DELETING}),
    _J.ENABLING: frozenset({_J.ACTIVE, _J.TERMINATING, _J.DELETING}),
    _J.TERMINATING: frozenset({_J.COMPLETED, _J.DELETING}),
    _J.COMPLETED: frozenset({_J.DELETING}),
    _J.DELETING: frozenset(),
}

TASK_MOVES: Final[dict[TaskState, frozenset[TaskState]]] = {
    TaskState.ACTIVE: frozenset({TaskState.PREPARING, TaskState.RUNNING, TaskState.COMPLETED}),
    TaskState.PREPARING: frozenset({TaskState.ACTIVE, TaskState.RUNNING, TaskState.COMPLETED}),
    TaskState.RUNNING: frozenset({TaskState.ACTIVE, TaskState.COMPLETED}),
    TaskState.COMPLETED: frozenset({TaskState.ACTIVE}),
}

_S = JobScheduleState

JOB_SCHEDULE_MOVES: Final[dict[JobScheduleState, frozenset[JobScheduleState]]] = {
    _S.ACTIVE: frozenset({_S.COMPLETED, _S.DISABLED, _S.TERMINATING, _S.DELETING}),
    _S.DISABLED: frozenset({_S.ACTIVE, _S.COMPLETED, _S.TERMINATING, _S.DELETING}),
    _S.TERMINATING: frozenset({_S.COMPLETED, _S.DELETING}),
    _S.COMPLETED: frozenset({_S.DELETING}),
    _S.DELETING: frozenset(),
}

SUBTASK_MOVES: Final[dict[SubtaskState, frozenset[SubtaskState]]] = {
    SubtaskState.PREPARING: frozenset({SubtaskState.RUNNING, SubtaskState.COMPLETED}),
    SubtaskState.RUNNING: frozenset({SubtaskState.COMPLETED}),
    SubtaskState.COMPLETED: frozenset(),
}

SCHEDULABLE_NODE_STATES: Final = frozenset({NodeState.IDLE, NodeState.RUNNING})
"""Node states in which a node may be given tasks."""

IN_SERVICE_NODE_STATES: Final = frozenset({NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE})
"""Node states that only say what a connected node does; it moves between them by itself."""
