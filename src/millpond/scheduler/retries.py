"""What follows from how a task ended: retries, and exit conditions (Azure Batch: ExitConditions, ExitOptions)."""

from typing import Final

from millpond.domain.errors import TaskFailureCode
from millpond.domain.events import TaskEnded
from millpond.domain.job import Job
from millpond.domain.states import DependencyAction, ErrorCategory, JobAction
from millpond.domain.task import ExitOptions, FailureInfo, Task

MAX_INTERNAL_RETRIES: Final = 100
"""Attempts that failed through no fault of the task before it is given up: a bound, not a budget."""
MAX_SETUP_RETRIES: Final = 5
"""Times a node is set up anew, that failed through no fault of its pool's definition, before it is unusable."""

_NO_OPTIONS: Final = ExitOptions()

_PRE_PROCESSING: Final = frozenset(
    code.value
    for code in TaskFailureCode
    if code.name.startswith(("APPLICATION_PACKAGE_", "BLOB_", "COMMAND_", "RESOURCE_"))
    or code is TaskFailureCode.DISK_FULL
)
_FILE_UPLOAD: Final = frozenset(code.value for code in TaskFailureCode if code.name.startswith("FILE_UPLOAD_"))

EXIT_CODE_FAILURE: Final = FailureInfo(
    category=ErrorCategory.USER_ERROR,
    code=TaskFailureCode.FAILURE_EXIT_CODE.value,
    message="The task exited with an exit code representing a failure",
)

ENDED_BY_USER: Final = FailureInfo(
    category=ErrorCategory.USER_ERROR,
    code=TaskFailureCode.TASK_ENDED.value,
    message="The task was ended by user request",
)

ENDED_BY_JOB: Final = FailureInfo(
    category=ErrorCategory.USER_ERROR,
    code=TaskFailureCode.TASK_ENDED.value,
    message="The task was ended because its job was terminated or disabled",
)

ENDED_BY_NODE_REMOVAL: Final = FailureInfo(
    category=ErrorCategory.USER_ERROR,
    code=TaskFailureCode.TASK_ENDED.value,
    message="The task was ended because its node was removed from the pool",
)

NODE_LOST: Final = FailureInfo(
    category=ErrorCategory.SERVER_ERROR,
    code=TaskFailureCode.TASK_ENDED.value,
    message="The node was lost while the task ran",
)

ENDED_WITH_TASK: Final = FailureInfo(
    category=ErrorCategory.USER_ERROR,
    code=TaskFailureCode.TASK_ENDED.value,
    message="The subtask was ended with its task, before its coordination command had succeeded",
)

RELEASE_OVERDUE: Final = FailureInfo(
    category=ErrorCategory.SERVER_ERROR,
    code=TaskFailureCode.TASK_ENDED.value,
    message="The node did not say in time that the job release task had ended",
)

TOO_MANY_INTERNAL_RETRIES: Final = FailureInfo(
    category=ErrorCategory.SERVER_ERROR,
    code=TaskFailureCode.MAX_INTERNAL_RETRY_COUNT_REACHED.value,
    message="The task was given up: its nodes failed to run it too many times",
)


def failed_by_exit_code(event: TaskEnded) -> bool:
    """Whether the command line ran and its exit code is what failed. The node may know more of it (a process was killed
    for want of memory), and then says so in a failure of that code."""
    if event.failure is None:
        return event.exit_code != 0
    return event.failure.code == TaskFailureCode.FAILURE_EXIT_CODE


def may_retry(task: Task, job: Job) -> bool:
    """Whether a run with a non-zero exit code is repeated: the task's limit, else the job's; -1 is for ever."""
    limit = job.max_task_retry_count if task.max_retry_count is None else task.max_retry_count
    return limit < 0 or task.retry_count < limit


def internal_retries(task: Task) -> int:
    """Attempts that count against no limit: neither retries nor requeues."""
    return task.attempt - 1 - task.retry_count - task.requeue_count


def matched_options(task: Task) -> ExitOptions:
    """The exit options of a completed task's condition.

    Order (Azure Batch): exact exit code, range, then file upload or pre-processing error, then default; an exit code
    that is listed beats a later upload error; `default` never covers exit code 0 without a failure.
    """
    conditions = task.rules.exit_conditions if task.rules is not None else None
    if conditions is None:
        return _NO_OPTIONS
    code = task.failure.code if task.failure is not None else ""
    if code in _PRE_PROCESSING:
        return conditions.pre_processing_error or conditions.default or _NO_OPTIONS
    if task.exit_code is not None:
        for exit_code, options in conditions.exit_codes:
            if exit_code == task.exit_code:
                return options
        for first, last, options in conditions.exit_code_ranges:
            if first <= task.exit_code <= last:
                return options
    if code in _FILE_UPLOAD:
        return conditions.file_upload_error or conditions.default or _NO_OPTIONS
    if task.failure is None:
        return _NO_OPTIONS
    return conditions.default or _NO_OPTIONS


def dependency_action(task: Task) -> DependencyAction:
    """Whether a completed task releases its dependents: by default only success does."""
    chosen = matched_options(task).dependency_action
    if chosen is not None:
        return chosen
    return DependencyAction.SATISFY if task.failure is None else DependencyAction.BLOCK


def job_action(task: Task) -> JobAction:
    """What a completed task does to its job, where the job asks for it: by default any failure terminates it."""
    chosen = matched_options(task).job_action
    if chosen is not None:
        return chosen
    return JobAction.NONE if task.failure is None else JobAction.TERMINATE
