"""Request bodies about jobs."""

import msgspec

from millpond.api.schema.base import Int32, JsonObject, NameValueItem, RoundTrip, Wire
from millpond.api.schema.enums import AllTasksCompleteMode, DisableTasks, TaskFailureMode
from millpond.api.schema.task import EnvironmentSetting


class JobConstraints(Wire):
    max_wall_clock_time: str | None = None
    max_task_retry_count: Int32 | None = None


class PoolInfo(Wire):
    pool_id: str | None = None
    auto_pool_specification: JsonObject | None = None


class JobNetworkConfiguration(Wire):
    subnet_id: str
    skip_withdraw_from_vnet: bool | None = msgspec.field(name="skipWithdrawFromVNet", default=None)


class JobCreate(Wire, kw_only=True):
    """POST /jobs (BatchJobCreateOptions; JobAddParameter in 2024-02-01.19.0)."""

    id: str
    display_name: str | None = None
    uses_task_dependencies: bool | None = None
    priority: Int32 | None = None
    allow_task_preemption: bool | None = None
    max_parallel_tasks: Int32 | None = None
    constraints: JobConstraints | None = None
    job_manager_task: JsonObject | None = None
    job_preparation_task: JsonObject | None = None
    job_release_task: JsonObject | None = None
    common_environment_settings: list[EnvironmentSetting] | None = None
    pool_info: PoolInfo
    on_all_tasks_complete: AllTasksCompleteMode | None = None
    on_task_failure: TaskFailureMode | None = None
    network_configuration: JobNetworkConfiguration | None = None
    metadata: list[NameValueItem] | None = None


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
