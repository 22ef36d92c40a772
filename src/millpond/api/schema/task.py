"""Request bodies about tasks."""

import msgspec

from millpond.api.schema.base import Int32, JsonObject, RoundTrip, Wire
from millpond.api.schema.enums import (
    AccessScope,
    AutoUserScope,
    DependencyActionKind,
    ElevationLevel,
    JobActionKind,
    OutputFileUploadCondition,
)
from millpond.api.schema.vm import ResourceReference


class EnvironmentSetting(Wire):
    name: str
    value: str | None = None


class ResourceFile(Wire):
    auto_storage_container_name: str | None = None
    storage_container_url: str | None = None
    http_url: str | None = None
    blob_prefix: str | None = None
    file_path: str | None = None
    file_mode: str | None = None
    identity_reference: ResourceReference | None = None


class UploadHeader(Wire):
    """Azure Batch: OutputFileUploadHeader."""

    name: str
    value: str | None = None


class OutputFileContainer(Wire, kw_only=True):
    """Azure Batch: OutputFileBlobContainerDestination."""

    path: str | None = None
    container_url: str
    identity_reference: ResourceReference | None = None
    upload_headers: list[UploadHeader] | None = None


class OutputFileDestination(Wire):
    container: OutputFileContainer | None = None


class OutputFileUploadOptions(Wire):
    upload_condition: OutputFileUploadCondition


class OutputFile(Wire):
    file_pattern: str
    destination: OutputFileDestination
    upload_options: OutputFileUploadOptions


class AffinityInfo(Wire):
    affinity_id: str


class AutoUser(Wire):
    """Azure Batch: AutoUserSpecification."""

    scope: AutoUserScope | None = None
    elevation_level: ElevationLevel | None = None


class UserIdentity(Wire):
    username: str | None = None
    auto_user: AutoUser | None = None


class ExitOptionsBody(Wire):
    """Azure Batch: ExitOptions."""

    job_action: JobActionKind | None = None
    dependency_action: DependencyActionKind | None = None


class ExitCodeMapping(Wire):
    code: Int32
    exit_options: ExitOptionsBody


class ExitCodeRangeMapping(Wire):
    start: Int32
    end: Int32
    exit_options: ExitOptionsBody


class ExitConditionsBody(Wire):
    """Azure Batch: ExitConditions."""

    exit_codes: list[ExitCodeMapping] | None = None
    exit_code_ranges: list[ExitCodeRangeMapping] | None = None
    pre_processing_error: ExitOptionsBody | None = None
    file_upload_error: ExitOptionsBody | None = None
    default: ExitOptionsBody | None = None


class TaskIdRange(Wire):
    start: Int32
    end: Int32


class TaskDependencies(Wire):
    task_ids: list[str] | None = None
    task_id_ranges: list[TaskIdRange] | None = None


class TaskConstraints(Wire):
    max_wall_clock_time: str | None = None
    retention_time: str | None = None
    max_task_retry_count: Int32 | None = None


class MultiInstanceSettings(Wire, kw_only=True):
    number_of_instances: Int32 | None = None
    coordination_command_line: str
    common_resource_files: list[ResourceFile] | None = None


class ApplicationPackageReference(Wire):
    """Azure Batch: BatchApplicationPackageReference."""

    application_id: str
    version: str | None = None


class AuthenticationTokenSettings(Wire):
    """What a token given to the task is good for (up to 2024-02-01.19.0)."""

    access: list[AccessScope] | None = None


class TaskCreate(Wire, kw_only=True):
    """POST /jobs/{jobId}/tasks (BatchTaskCreateOptions; TaskAddParameter in 2024-02-01.19.0).

    `constraints` comes last: a listing completes it with defaults by cutting it off the end of the stored JSON.
    """

    id: str
    display_name: str | None = None
    command_line: str
    container_settings: JsonObject | None = None
    exit_conditions: ExitConditionsBody | None = None
    resource_files: list[ResourceFile] | None = None
    output_files: list[OutputFile] | None = None
    environment_settings: list[EnvironmentSetting] | None = None
    affinity_info: AffinityInfo | None = None
    required_slots: Int32 | None = None
    user_identity: UserIdentity | None = None
    multi_instance_settings: MultiInstanceSettings | None = None
    depends_on: TaskDependencies | None = None
    application_package_references: list[ApplicationPackageReference] | None = None
    authentication_token_settings: AuthenticationTokenSettings | None = None
    constraints: TaskConstraints | None = None


class TaskGroup(Wire):
    """POST /jobs/{jobId}/addtaskcollection (BatchTaskGroup)."""

    value: list[TaskCreate]


class PlainTask(Wire, kw_only=True, gc=False):
    """A task with nothing but what it must have, as most tasks are: read and written as `TaskCreate` is, in less time."""

    id: str
    command_line: str


class PlainTaskGroup(Wire):
    """A `TaskGroup` of plain tasks alone."""

    value: list[PlainTask]


class TaskUpdate(RoundTrip):
    """PUT /jobs/{jobId}/tasks/{taskId}: only the constraints can be replaced."""

    constraints: TaskConstraints | None = None


class StoredTask(msgspec.Struct, rename="camel"):
    """The parts of a stored task specification that a listing completes with defaults, unparsed."""

    required_slots: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    user_identity: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    constraints: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
