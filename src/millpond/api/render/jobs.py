"""Jobs in wire form."""

from typing import Any, Final

from millpond.api.render.common import etag_text, job_url, name_values, put_time, timestamp_text, words
from millpond.api.schema.secrets import job_without_secrets
from millpond.domain.durations import format_duration
from millpond.domain.job import Job, SchedulingError
from millpond.domain.task import TaskCounts

PROPERTIES: Final = words(
    "id displayName usesTaskDependencies url eTag lastModified creationTime state stateTransitionTime previousState "
    "previousStateTransitionTime priority allowTaskPreemption maxParallelTasks constraints jobManagerTask "
    "jobPreparationTask jobReleaseTask commonEnvironmentSettings poolInfo onAllTasksComplete onTaskFailure "
    "networkConfiguration metadata executionInfo stats"
)
"""What `$select` may name."""


def job_object(job: Job, base_url: str) -> dict[str, Any]:
    """The job. What the scheduler reads is shown as the scheduler has it, the rest as it was given."""
    spec = job.spec
    execution: dict[str, Any] = {}
    put_time(execution, "startTime", job.creation_time if job.start_time is None else job.start_time)
    put_time(execution, "endTime", job.end_time)
    execution["poolId"] = job.pool_id
    if job.scheduling_error is not None:
        execution["schedulingError"] = scheduling_error_object(job.scheduling_error)
    if job.terminate_reason is not None and job.end_time is not None:
        execution["terminateReason"] = job.terminate_reason
    body: dict[str, Any] = {
        **{name: value for name, value in job_without_secrets(spec).items() if value != []},
        "url": job_url(base_url, job.id),
        "eTag": etag_text(job.last_modified),
        "lastModified": timestamp_text(job.last_modified),
        "creationTime": timestamp_text(job.creation_time),
        "state": job.state.value,
        "stateTransitionTime": timestamp_text(job.state_time),
        "priority": job.priority,
        "maxParallelTasks": job.max_parallel_tasks,
        "allowTaskPreemption": job.allow_task_preemption,
        "usesTaskDependencies": job.uses_task_dependencies,
        "constraints": {
            "maxWallClockTime": format_duration(job.max_wall_clock_s),
            "maxTaskRetryCount": job.max_task_retry_count,
        },
        "onAllTasksComplete": job.on_all_tasks_complete.value,
        "onTaskFailure": job.on_task_failure.value,
        "executionInfo": execution,
    }
    if job.auto_pool is None:
        body["poolInfo"] = {"poolId": job.pool_id}
    if job.previous_state is not None:
        body["previousState"] = job.previous_state.value
        put_time(body, "previousStateTransitionTime", job.previous_state_time)
    return body


def scheduling_error_object(error: SchedulingError) -> dict[str, Any]:
    """Azure Batch: JobSchedulingError."""
    body: dict[str, Any] = {"category": error.category.value, "code": error.code, "message": error.message}
    if error.details:
        body["details"] = name_values(error.details)
    return body


def task_counts_object(counts: TaskCounts) -> dict[str, Any]:
    """Azure Batch: TaskCountsResult."""
    return {
        "taskCounts": {
            "active": counts.active,
            "running": counts.running,
            "completed": counts.completed,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
        },
        "taskSlotCounts": {
            "active": counts.active_slots,
            "running": counts.running_slots,
            "completed": counts.completed_slots,
            "succeeded": counts.succeeded_slots,
            "failed": counts.failed_slots,
        },
    }
