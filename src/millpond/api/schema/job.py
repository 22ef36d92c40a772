"""Request bodies about jobs."""

import msgspec

from millpond.api.schema.base import Int32, NameValueItem, RoundTrip, Wire
from millpond.api.schema.enums import AllTasksCompleteMode, DisableTasks, PoolLifetime, TaskFailureMode
from millpond.api.schema.pool import PoolSpecification
from millpond.api.schema.special_task import JobManagerTask, JobPreparationTask, JobReleaseTask
from millpond.api.schema.task import EnvironmentSetting


class JobConstraints(Wire):
    max_wall_clock_time: str | None = None
    max_task_retry_count: Int32 | None = None


class AutoPoolSpecification(Wire, kw_only=True):
    auto_pool_id_prefix: str | None = None
    pool_lifetime_option: PoolLifetime
    keep_alive: bool | None = None
    pool: PoolSpecification | None = None


class PoolInfo(Wire):
    pool_id: str | None = None
    auto_pool_specification: AutoPoolSpecification | None = None


class JobNetworkConfiguration(Wire):
    subnet_id: str
    skip_withdraw_from_vnet: bool | None = msgspec.field(name="skipWithdrawFromVNet", default=None)


class JobSpecification(Wire, kw_only=True):
    """What a job is like: the `jobSpecification` of a job schedule (BatchJobSpecification)."""

    display_name: str | None = None
    uses_task_dependencies: bool | None = None
    priority: Int32 | None = None
    allow_task_preemption: bool | None = None
    max_parallel_tasks: Int32 | None = None
    constraints: JobConstraints | None = None
    job_manager_task: JobManagerTask | None = None
    job_preparation_task: JobPreparationTask | None = None
    job_release_task: JobReleaseTask | None = None
    common_environment_settings: list[EnvironmentSetting] | None = None
    pool_info: PoolInfo
    on_all_tasks_complete: AllTasksCompleteMode | None = None
    on_task_failure: TaskFailureMode | None = None
    network_configuration: JobNetworkConfiguration | None = None
    metadata: list[NameValueItem] | None = None


class JobCreate(JobSpecification, kw_only=True):
    """POST /jobs (BatchJobCreateOptions; JobAddParameter in 2024-02-01.19.0)."""

    id: str


class JobPatch(RoundTrip):
    """PATCH /jobs/{jobId}: what is not given stays as it is."""

    priority: Int32 | None = None
    allow_task_preemption: bool | None = None
    max_parallel_tasks: Int32 | None = None
    constraints: JobConstraints | None = None
    pool_info: PoolInfo | None = None
    on_all_tasks_complete: AllTasksCompleteMode | None = None
    network_configuration: JobNetworkConfiguration | None = None
    metadata: list[NameValueItem] | None = None


class JobReplace(RoundTrip, kw_only=True):
    """PUT /jobs/{jobId}: what is not given becomes the default."""

    priority: Int32 | None = None
    allow_task_preemption: bool | None = None
    max_parallel_tasks: Int32 | None = None
    constraints: JobConstraints | None = None
    pool_info: PoolInfo
    on_all_tasks_complete: AllTasksCompleteMode | None = None
    metadata: list[NameValueItem] | None = None


class JobDisable(Wire):
    """POST /jobs/{jobId}/disable."""

    disable_tasks: DisableTasks


class JobTerminate(Wire):
    """POST /jobs/{jobId}/terminate: the body is optional."""

    terminate_reason: str | None = None
