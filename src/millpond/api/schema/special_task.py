"""The tasks inside a pool or a job: start task, job preparation, job release and job manager task."""

from millpond.api.schema.base import Int32, JsonObject, Wire
from millpond.api.schema.task import (
    ApplicationPackageReference,
    AuthenticationTokenSettings,
    EnvironmentSetting,
    OutputFile,
    ResourceFile,
    TaskConstraints,
    UserIdentity,
)


class StartTask(Wire, kw_only=True):
    """Azure Batch: BatchStartTask."""

    command_line: str
    container_settings: JsonObject | None = None
    resource_files: list[ResourceFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    user_identity: UserIdentity | None = None
    max_task_retry_count: Int32 | None = None
    wait_for_success: bool | None = None


class JobPreparationTask(Wire, kw_only=True):
    """Azure Batch: BatchJobPreparationTask."""

    id: str | None = None
    command_line: str
    container_settings: JsonObject | None = None
    resource_files: list[ResourceFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    constraints: TaskConstraints | None = None
    wait_for_success: bool | None = None
    user_identity: UserIdentity | None = None
    rerun_on_node_reboot_after_success: bool | None = None


class JobReleaseTask(Wire, kw_only=True):
    """Azure Batch: BatchJobReleaseTask."""

    id: str | None = None
    command_line: str
    container_settings: JsonObject | None = None
    resource_files: list[ResourceFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    max_wall_clock_time: str | None = None
    retention_time: str | None = None
    user_identity: UserIdentity | None = None


class JobManagerTask(Wire, kw_only=True):
    """Azure Batch: BatchJobManagerTask."""

    id: str
    display_name: str | None = None
    command_line: str
    container_settings: JsonObject | None = None
    resource_files: list[ResourceFile] | None = None
    output_files: list[OutputFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    constraints: TaskConstraints | None = None
    required_slots: Int32 | None = None
    kill_job_on_completion: bool | None = None
    user_identity: UserIdentity | None = None
    run_exclusive: bool | None = None
    application_package_references: list[ApplicationPackageReference] | None = None
    authentication_token_settings: AuthenticationTokenSettings | None = None
    allow_low_priority_node: bool | None = None
