"""Jobs: from the body of a request to a record, or to changes of one."""

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec

from millpond.api.decode import missing_property
from millpond.api.intake.auto_pools import PATH as AUTO_POOL_PATH
from millpond.api.intake.auto_pools import PoolNamer, changed_keep_alive, new_auto_pool
from millpond.api.intake.common import (
    check_display_name,
    check_environment,
    check_id,
    check_metadata,
    check_retry_count,
    time_limit_s,
    within,
)
from millpond.api.intake.special_tasks import manager_task, preparation_rules, release_rules
from millpond.api.schema.base import JsonObject, NameValueItem
from millpond.api.schema.enums import PoolLifetime
from millpond.api.schema.job import JobConstraints, JobCreate, JobPatch, JobReplace, JobSpecification, PoolInfo
from millpond.api.schema.secrets import job_without_secrets
from millpond.control.base import NewJob
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.ids import id_key, make_auto_pool_id
from millpond.domain.job import Job, JobChanges
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules
from millpond.domain.states import JobState, OnAllTasksComplete, OnTaskFailure
from millpond.domain.task import NewTask
from millpond.providers.base import VmSize

MIN_PRIORITY: Final = -1000
MAX_PRIORITY: Final = 1000
MAX_REASON: Final = 1024


def new_job(body: JobCreate, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> NewJob:
    """The job, its manager task and its auto pool. Numbers are set by the control plane, states by the scheduler.
    Raises BatchError."""
    check_id("id", body.id)
    auto_pool = body.pool_info.auto_pool_specification
    if auto_pool is not None and auto_pool.pool_lifetime_option is PoolLifetime.JOB_SCHEDULE:
        raise invalid_property(
            f"{AUTO_POOL_PATH}.poolLifetimeOption",
            auto_pool.pool_lifetime_option.value,
            "only the jobs of a job schedule can share a pool; for a job of its own it must be job",
        )
    return job_of(body, body.id, lambda prefix: make_auto_pool_id(prefix, uuid.uuid4()), vm_sizes, at)


def job_of(
    body: JobSpecification, job_id: str, name_pool: PoolNamer, vm_sizes: Mapping[str, VmSize], at: Timestamp
) -> NewJob:
    """A job like that, see `new_job`. What has a default or several spellings is written back into `body` in the
    service's own form."""
    check_display_name("displayName", body.display_name)
    _check_common(body.priority, body.max_parallel_tasks, body.metadata)
    check_environment("commonEnvironmentSettings", body.common_environment_settings)
    wall_clock, retries = _constraints(body.constraints)
    preparation = release = manager = None
    if body.job_preparation_task is not None:
        with within("jobPreparationTask"):
            preparation = preparation_rules(body.job_preparation_task)
    if body.job_release_task is not None:
        with within("jobReleaseTask"):
            release = release_rules(body.job_release_task)
    if body.job_manager_task is not None:
        with within("jobManagerTask"):
            manager = manager_task(body.job_manager_task)
    _check_together(preparation, release, manager)
    info = body.pool_info
    auto_pool = pool = None
    if info.pool_id is None and info.auto_pool_specification is not None:
        auto_pool, pool = new_auto_pool(info.auto_pool_specification, name_pool, vm_sizes, at)
    job = Job(
        no=0,
        id=job_id,
        pool_id=_pool_id(info) if pool is None else pool.id,
        state=JobState.ACTIVE,
        creation_time=at,
        last_modified=at,
        state_time=at,
        # The secrets of an auto pool are kept with the pool.
        spec={"id": job_id, **job_without_secrets(msgspec.to_builtins(body))},
        priority=body.priority or 0,
        max_parallel_tasks=-1 if body.max_parallel_tasks is None else body.max_parallel_tasks,
        max_wall_clock_s=wall_clock,
        max_task_retry_count=retries,
        uses_task_dependencies=bool(body.uses_task_dependencies),
        on_all_tasks_complete=OnAllTasksComplete(body.on_all_tasks_complete or OnAllTasksComplete.NO_ACTION),
        on_task_failure=OnTaskFailure(body.on_task_failure or OnTaskFailure.NO_ACTION),
        allow_task_preemption=bool(body.allow_task_preemption),
        preparation=preparation,
        release=release,
        auto_pool=auto_pool,
    )
    return NewJob(job, manager, pool)


def _check_together(
    preparation: JobPreparationRules | None, release: JobReleaseRules | None, manager: NewTask | None
) -> None:
    """A job's own tasks have ids of their own, and a release task needs a preparation task."""
    if release is not None:
        if preparation is None:
            raise BatchError(
                ErrorCode.MISSING_REQUIRED_PROPERTY,
                "A job release task needs a job preparation task: 'jobPreparationTask' is missing.",
                PropertyName="jobPreparationTask",
            )
        if id_key(release.id) == id_key(preparation.id):
            raise invalid_property("jobReleaseTask.id", release.id, "it is that of the job preparation task")
    if manager is not None:
        if preparation is not None and id_key(manager.id) == id_key(preparation.id):
            raise BatchError(ErrorCode.TASK_ID_SAME_AS_JOB_PREPARATION_TASK, PropertyName="jobManagerTask.id")
        if release is not None and id_key(manager.id) == id_key(release.id):
            raise BatchError(ErrorCode.TASK_ID_SAME_AS_JOB_RELEASE_TASK, PropertyName="jobManagerTask.id")


def patch_of(body: JobPatch, job: Job, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> JobChanges:
    """The changes of a PATCH: what is not given stays. Raises BatchError."""
    _check_common(body.priority, body.max_parallel_tasks, body.metadata)
    constraints = None if body.constraints is None else _constraints(body.constraints)
    changes = JobChanges(
        spec=_spec_of(body),
        priority=body.priority,
        max_parallel_tasks=body.max_parallel_tasks,
        constraints=constraints,
        on_all_tasks_complete=_completion(body.on_all_tasks_complete),
        allow_task_preemption=body.allow_task_preemption,
    )
    return changes if body.pool_info is None else _with_pool(changes, body.pool_info, job, vm_sizes, at)


def replacement_of(body: JobReplace, job: Job, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> JobChanges:
    """The changes of a PUT: what is not given becomes the default. Raises BatchError."""
    _check_common(body.priority, body.max_parallel_tasks, body.metadata)
    constraints = _constraints(body.constraints)
    changes = JobChanges(
        spec={"metadata": [], **_spec_of(body)},
        priority=body.priority or 0,
        max_parallel_tasks=-1 if body.max_parallel_tasks is None else body.max_parallel_tasks,
        constraints=constraints,
        on_all_tasks_complete=_completion(body.on_all_tasks_complete) or OnAllTasksComplete.NO_ACTION,
        allow_task_preemption=bool(body.allow_task_preemption),
    )
    return _with_pool(changes, body.pool_info, job, vm_sizes, at)


def _spec_of(body: JobPatch | JobReplace) -> JsonObject:
    """What goes into the job's wire form as it is: the pool has its own rules."""
    body.odata_metadata = None
    spec: JsonObject = msgspec.to_builtins(body)
    spec.pop("poolInfo", None)
    return spec


def _with_pool(
    changes: JobChanges, info: PoolInfo, job: Job, vm_sizes: Mapping[str, VmSize], at: Timestamp
) -> JobChanges:
    """The changes with those of the pool: another one, or whether the auto pool is kept."""
    if info.pool_id is None and info.auto_pool_specification is not None:
        auto_pool = changed_keep_alive(info.auto_pool_specification, job, vm_sizes, at)
        if auto_pool is None:
            return changes
        spec = {**changes.spec, "poolInfo": {"autoPoolSpecification": auto_pool}}
        return msgspec.structs.replace(changes, spec=spec, keep_alive=auto_pool["keepAlive"])
    pool_id = _pool_id(info)
    if id_key(pool_id) == id_key(job.pool_id):
        return changes
    return msgspec.structs.replace(changes, spec={**changes.spec, "poolInfo": {"poolId": pool_id}}, pool_id=pool_id)


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
    if info.pool_id is None:
        raise missing_property("poolInfo.poolId")
    check_id("poolInfo.poolId", info.pool_id)
    return info.pool_id


def terminate_reason(text: str | None) -> str:
    """The reason a user gives for ending a job, or the service's own. Raises BatchError."""
    if text is not None and len(text) > MAX_REASON:
        raise invalid_property("terminateReason", text, f"it is longer than {MAX_REASON} characters")
    return text or "UserTerminate"
