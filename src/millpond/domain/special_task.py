"""Special tasks: start task, job preparation task, job release task. What they are to do, and how a run of one went.

They run on a node for the node's or the job's sake; they take no slots, and no task list shows them.
"""

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.states import SpecialTaskState, TaskResult
from millpond.domain.task import FailureInfo


class SpecialTaskInfo(msgspec.Struct):
    """How a special task fares on one node (Azure Batch: StartTaskInfo, JobPreparationTaskExecutionInformation …)."""

    attempt: int
    """Counts every run on that node; reports of any other are dropped."""
    start_time: Timestamp
    state: SpecialTaskState = SpecialTaskState.RUNNING
    end_time: Timestamp | None = None
    """Of the last run; also there between retries."""
    exit_code: int | None = None
    failure: FailureInfo | None = None
    retry_count: int = 0
    last_retry_time: Timestamp | None = None
    lost: bool = False
    """Its node was lost while it ran: what it was to do counts as not done."""

    @property
    def result(self) -> TaskResult | None:
        """Of the last run that ended; None before one has."""
        if self.end_time is None:
            return None
        return TaskResult.SUCCESS if self.failure is None else TaskResult.FAILURE


class StartTaskRules(msgspec.Struct, frozen=True):
    """What the scheduler must know of a pool's start task; the whole of it is in the pool's `spec`."""

    max_retry_count: int = 0
    """-1 retries for ever."""
    wait_for_success: bool = True
    """The node takes no tasks before it has succeeded, and none if it fails."""


class JobPreparationRules(msgspec.Struct, frozen=True):
    """What the scheduler must know of a job's preparation task; the whole of it is in the job's `spec`."""

    id: str = "jobpreparation"
    max_retry_count: int = 0
    wait_for_success: bool = True
    """Tasks of the job wait on the node for it to succeed, and do not run there if it fails."""
    rerun_on_reboot: bool = True
    """rerunOnNodeRebootAfterSuccess"""


class JobReleaseRules(msgspec.Struct, frozen=True):
    """What the scheduler must know of a job's release task; the whole of it is in the job's `spec`."""

    id: str = "jobrelease"
    max_wall_clock_s: float = 900.0
    """Seconds a run may take; 15 minutes at most."""


class JobNode(msgspec.Struct):
    """What the preparation and release tasks of one job did on one node: one row of the `job_node` table.

    The row outlives the node: the list of preparation and release status names nodes since removed.
    """

    job_no: int
    node_id: str
    pool_id: str
    disk_time: Timestamp | None = None
    """Of the disk it all happened on: on another one nothing has happened yet."""
    boot_time: Timestamp | None = None
    """Of the boot the preparation task last ran under."""
    preparation: SpecialTaskInfo | None = None
    release: SpecialTaskInfo | None = None
