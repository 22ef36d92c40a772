"""Jobs: from the body of a request to a record, or to changes of one."""

from typing import Any, Final

import msgspec

from millpond.api.decode import missing_property
from millpond.api.intake.common import (
    check_display_name,
    check_environment,
    check_id,
    check_metadata,
    check_retry_count,
    time_limit_s,
)
from millpond.api.schema.base import NameValueItem
from millpond.api.schema.job import JobConstraints, JobCreate, JobPatch, JobReplace, PoolInfo
from millpond.api.support import refuse_if_used
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.ids import id_key
from millpond.domain.job import Job, JobChanges
from millpond.domain.states import JobState, OnAllTasksComplete, OnTaskFailure

MIN_PRIORITY: Final = -1000
MAX_PRIORITY: Final = 1000
MAX_REASON: Final = 1024


def new_job(body: JobCreate, at: Timestamp) -> Job:
    """The job's record; its number is set by the control plane, its states by the scheduler. Raises BatchError."""
    check_id("id", body.id)
    check_display_name("displayName", body.display_name)
    _check_common(body.priority, body.max_parallel_tasks, body.metadata)
    check_environment("commonEnvironmentSettings", body.common_environment_settings)
    refuse_if_used("job", "jobManagerTask", body.job_manager_task)
    refuse_if_used("job", "jobPreparationTask", body.job_preparation_task)
    refuse_if_used("job", "jobReleaseTask", body.job_release_task)
    wall_clock, retries = _constraints(body.constraints)
    return Job(
        no=0,
        id=body.id,
        pool_id=_pool_id(body.pool_info),
        state=JobState.ACTIVE,
        creation_time=at,
        last_modified=at,
        state_time=at,
        spec=msgspec.to_builtins(body),
        priority=body.priority or 0,
        max_parallel_tasks=-1 if body.max_parallel_tasks is None else body.max_parallel_tasks,
        max_wall_clock_s=wall_clock,
        max_task_retry_count=retries,
        uses_task_dependencies=bool(body.uses_task_dependencies),
        on_all_tasks_complete=OnAllTasksComplete(body.on_all_tasks_complete or OnAllTasksComplete.NO_ACTION),
        on_task_failure=OnTaskFailure(body.on_task_failure or OnTaskFailure.NO_ACTION),
    )


def patch_of(body: JobPatch, job: Job) -> JobChanges:
    """The changes of a PATCH: what is not given stays. Raises BatchError."""
    _check_common(body.priority, body.max_parallel_tasks, body.metadata)
    constraints = None if body.constraints is None else _constraints(body.constraints)
    body.odata_metadata = None
    return JobChanges(
        spec=msgspec.to_builtins(body),
        priority=body.priority,
        max_parallel_tasks=body.max_parallel_tasks,
        constraints=constraints,
        on_all_tasks_complete=_completion(body.on_all_tasks_complete),
        pool_id=None if body.pool_info is None else _other_pool(body.pool_info, job),
    )


def replacement_of(body: JobReplace, job: Job) -> JobChanges:
    """The changes of a PUT: what is not given becomes the default. Raises BatchError."""
    _check_common(body.priority, body.max_parallel_tasks, body.metadata)
    body.odata_metadata = None
    constraints = _constraints(body.constraints)
    spec: dict[str, Any] = {"allowTaskPreemption": False, "metadata": [], **msgspec.to_builtins(body)}
    return JobChanges(
        spec=spec,
        priority=body.priority or 0,
        max_parallel_tasks=-1 if body.max_parallel_tasks is None else body.max_parallel_tasks,
        constraints=constraints,
        on_all_tasks_complete=_completion(body.on_all_tasks_complete) or OnAllTasksComplete.NO_ACTION,
        pool_id=_other_pool(body.pool_info, job),
    )


def _completion(value: str | None) -> OnAllTasksComplete | None:
    return None if value is None else OnAllTasksComplete(value)


def _check_common(priority: int | None, parallel: int | None, metadata: list[NameValueItem] | None) -> None:
    if priority is not None and not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise BatchError(
            ErrorCode.OUT_OF_RANGE_PRIORITY,
            PropertyName="priority",
            PropertyValue=str(priority),
            MinimumAllowed=str(MIN_PRIORITY),
            MaximumAllowed=str(MAX_PRIORITY),
        )
    if parallel is not None and parallel != -1 and parallel < 1:
        raise invalid_property("maxParallelTasks", parallel, "it must be -1 (no limit) or more than 0")
    check_metadata(metadata)


def _constraints(body: JobConstraints | None) -> tuple[float | None, int]:
    """(max_wall_clock_s, max_task_retry_count), what is not given by default; durations are normalised in place."""
    if body is None:
        return None, 0
    wall_clock = None
    if body.max_wall_clock_time is not None:
        wall_clock = time_limit_s("constraints.maxWallClockTime", body.max_wall_clock_time)
        body.max_wall_clock_time = format_duration(wall_clock)
    check_retry_count("constraints.maxTaskRetryCount", body.max_task_retry_count)
    return wall_clock, body.max_task_retry_count or 0


def _pool_id(info: PoolInfo) -> str:
    if info.pool_id is not None and info.auto_pool_specification is not None:
        raise invalid_property("poolInfo", info.pool_id, "poolId and autoPoolSpecification exclude each other")
    refuse_if_used("job", "poolInfo.autoPoolSpecification", info.auto_pool_specification)
    if info.pool_id is None:
        raise missing_property("poolInfo.poolId")
    check_id("poolInfo.poolId", info.pool_id)
    return info.pool_id


def _other_pool(info: PoolInfo, job: Job) -> str | None:
    pool_id = _pool_id(info)
    return None if id_key(pool_id) == id_key(job.pool_id) else pool_id


def terminate_reason(text: str | None) -> str:
    """The reason a user gives for ending a job, or the service's own. Raises BatchError."""
    if text is not None and len(text) > MAX_REASON:
        raise invalid_property("terminateReason", text, f"it is longer than {MAX_REASON} characters")
    return text or "UserTerminate"
