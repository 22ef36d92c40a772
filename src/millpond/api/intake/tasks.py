"""Tasks: from the body of a request to what the scheduler is given."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import astuple, fields

from millpond.api.decode import missing_property
from millpond.api.intake.common import (
    MAX_DURATION_S,
    check_display_name,
    check_environment,
    check_id,
    check_relative_path,
    check_retry_count,
    check_url,
    duration_s,
    time_limit_s,
    within,
)
from millpond.api.intake.output_files import check_output_files
from millpond.api.intake.packages import check_package_references
from millpond.api.schema.enums import AccessScope
from millpond.api.schema.task import (
    ExitConditionsBody,
    ExitOptionsBody,
    MultiInstanceSettings,
    PlainTask,
    ResourceFile,
    TaskConstraints,
    TaskCreate,
    TaskDependencies,
    UserIdentity,
)
from millpond.api.support import refuse_if_used
from millpond.domain.durations import format_duration, parse_duration
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.ids import are_valid_ids, id_key, is_valid_id
from millpond.domain.job import Job
from millpond.domain.states import DependencyAction, JobAction, OnTaskFailure
from millpond.domain.task import ExitConditions, ExitOptions, NewTask, TaskRules

MAX_REQUIRED_SLOTS: Final = 256
DEFAULT_RETENTION: Final = "P7D"
MAX_DEPENDENCY_CHARACTERS: Final = 64000
"""Of all taskIds together, and of all numbers in taskIdRanges together."""
_AFFINITY_PREFIX: Final = "TVM:"
_FILE_MODE: Final = re.compile(r"0?[0-7]{3,4}\Z")
_BLOB_CONTAINER: Final = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}\Z")

_NO_RULES: Final = TaskRules()
_OPTIONAL: Final = sum(not field.required for field in fields(TaskCreate))
"""Properties a task may have beside those it must have."""

encode_spec = msgspec.json.Encoder().encode


def new_task(body: TaskCreate) -> NewTask:
    """The task, checked by itself. Raises BatchError naming what is wrong.

    Durations are written back in the service's own form, so `body` is changed.
    """
    if not is_valid_id(body.id):
        check_id("id", body.id)
    check_command_line("commandLine", body.command_line)
    if astuple(body).count(None) == _OPTIONAL:
        return NewTask(body.id, encode_spec(body))
    if body.container_settings is not None:
        refuse_if_used("task", "containerSettings", body.container_settings)
    if body.application_package_references:
        check_package_references(body.application_package_references)
    if body.user_identity is not None:
        check_user_identity(body.user_identity)
    check_display_name("displayName", body.display_name)
    slots = body.required_slots
    if slots is not None and not 1 <= slots <= MAX_REQUIRED_SLOTS:
        raise invalid_property("requiredSlots", slots, f"it must be between 1 and {MAX_REQUIRED_SLOTS}")
    if body.environment_settings:
        check_environment("environmentSettings", body.environment_settings)
    if body.resource_files:
        check_resource_files("resourceFiles", body.resource_files)
    if body.output_files:
        check_output_files("outputFiles", body.output_files)
    if body.multi_instance_settings is not None:
        _check_instances(body.multi_instance_settings, slots)
    retries = None
    if body.constraints is not None:
        check_constraints(body.constraints)
        retries = body.constraints.max_task_retry_count
    return NewTask(body.id, encode_spec(body), 1 if slots is None else slots, retries, _rules(body))


def plain_tasks(bodies: Sequence[PlainTask]) -> list[NewTask] | None:
    """`new_task` of each; None when something is wrong with one of them, which `new_task` can tell."""
    ids = [body.id for body in bodies]
    lines = [body.command_line for body in bodies]
    # Stripped, an empty line and one of blanks are both nothing.
    if not are_valid_ids(ids) or not all(map(str.strip, lines)) or "\0" in "".join(lines):
        return None
    return list(map(NewTask, ids, map(encode_spec, bodies)))


def check_command_line(name: str, text: str) -> None:
    if not text or text.isspace():
        raise invalid_property(name, text, "it is empty")
    if "\0" in text:
        raise invalid_property(name, text, "it has a NUL character")


def check_user_identity(identity: UserIdentity) -> None:
    """A named user account, or an auto user: one of them."""
    if identity.username is not None and identity.auto_user is not None:
        raise invalid_property("userIdentity", identity.username, "username and autoUser exclude each other")
    if identity.username is None and identity.auto_user is None:
        raise invalid_property("userIdentity", "", "it has neither username nor autoUser")
    if identity.username == "":
        raise invalid_property("userIdentity.username", "", "it is empty")


def _check_instances(settings: MultiInstanceSettings, slots: int | None) -> None:
    with within("multiInstanceSettings"):
        count = settings.number_of_instances
        if count is not None and count < 1:
            raise invalid_property("numberOfInstances", count, "it must be 1 or more")
        check_command_line("coordinationCommandLine", settings.coordination_command_line)
        check_resource_files("commonResourceFiles", settings.common_resource_files)
    if slots is not None and slots != 1:
        raise invalid_property("requiredSlots", slots, "it must be 1 for a multi-instance task")


def check_constraints(constraints: TaskConstraints) -> None:
    """Check the constraints and write their durations in the service's own form."""
    if constraints.max_wall_clock_time is not None:
        limit = time_limit_s("constraints.maxWallClockTime", constraints.max_wall_clock_time)
        constraints.max_wall_clock_time = format_duration(limit)
    if constraints.retention_time is not None:
        kept = duration_s("constraints.retentionTime", constraints.retention_time)
        constraints.retention_time = format_duration(kept)
    check_retry_count("constraints.maxTaskRetryCount", constraints.max_task_retry_count)


def retention_s(constraints: TaskConstraints | None) -> float | None:
    """`TaskRules.retention_s` of checked constraints: only what is not the default anyway."""
    text = None if constraints is None else constraints.retention_time
    if text is None or text == DEFAULT_RETENTION:
        return None
    kept = parse_duration(text)
    return MAX_DURATION_S if kept is None else kept


def names_job_action(body: TaskCreate) -> bool:
    """Whether an exit condition says what happens to the job."""
    conditions = body.exit_conditions
    if conditions is None:
        return False
    options = [mapping.exit_options for mapping in conditions.exit_codes or ()]
    options += [mapping.exit_options for mapping in conditions.exit_code_ranges or ()]
    options += [o for o in (conditions.pre_processing_error, conditions.file_upload_error, conditions.default) if o]
    return any(option.job_action is not None for option in options)


def check_job_action(body: TaskCreate, job: Job) -> None:
    """A job action needs a job that performs it. Raises BatchError InvalidPropertyValue."""
    if job.on_task_failure is OnTaskFailure.NO_ACTION and names_job_action(body):
        raise invalid_property(
            "exitConditions",
            "jobAction",
            "a jobAction needs onTaskFailure to be performexitoptionsjobaction on the job, where it is noaction",
        )


def _rules(body: TaskCreate) -> TaskRules | None:
    depends = body.depends_on
    conditions = body.exit_conditions
    affinity = body.affinity_info
    settings = body.multi_instance_settings
    token = body.authentication_token_settings
    retention = None if body.constraints is None else retention_s(body.constraints)
    if (
        depends is None
        and conditions is None
        and affinity is None
        and settings is None
        and token is None
        and retention is None
    ):
        return None
    ids, ranges = _dependencies(depends) if depends is not None else ((), ())
    node_id = None
    if affinity is not None and affinity.affinity_id.startswith(_AFFINITY_PREFIX):
        node_id = affinity.affinity_id.removeprefix(_AFFINITY_PREFIX)
    exits = _exit_conditions(conditions) if conditions is not None else None
    rules = TaskRules(
        depends_on_ids=ids,
        depends_on_ranges=ranges,
        exit_conditions=exits,
        affinity_node_id=node_id,
        instances=0 if settings is None else settings.number_of_instances or 1,
        job_access=token is not None and AccessScope.JOB in (token.access or ()),
        retention_s=retention,
    )
    return None if rules == _NO_RULES else rules


def _dependencies(depends: TaskDependencies) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    ids = depends.task_ids or []
    if sum(map(len, ids)) > MAX_DEPENDENCY_CHARACTERS:
        raise BatchError(
            ErrorCode.TASK_DEPENDENCY_LIST_TOO_LONG,
            PropertyName="dependsOn.taskIds",
            MaxLimit=str(MAX_DEPENDENCY_CHARACTERS),
        )
    for index, parent in enumerate(ids):
        check_id(f"dependsOn.taskIds[{index}]", parent)
    ranges = depends.task_id_ranges or []
    for index, span in enumerate(ranges):
        if not 0 <= span.start <= span.end:
            raise invalid_property(
                f"dependsOn.taskIdRanges[{index}]", f"{span.start}-{span.end}", "start must be 0 or more, end not less"
            )
    if sum(len(str(span.start)) + len(str(span.end)) for span in ranges) > MAX_DEPENDENCY_CHARACTERS:
        raise BatchError(
            ErrorCode.TASK_DEPENDENCY_RANGES_TOO_LONG,
            PropertyName="dependsOn.taskIdRanges",
            MaxLimit=str(MAX_DEPENDENCY_CHARACTERS),
        )
    return tuple(id_key(parent) for parent in ids), tuple((span.start, span.end) for span in ranges)


def _exit_conditions(body: ExitConditionsBody) -> ExitConditions:
    for index, span in enumerate(body.exit_code_ranges or ()):
        if span.start > span.end:
            raise invalid_property(
                f"exitConditions.exitCodeRanges[{index}]", f"{span.start}-{span.end}", "end is less than start"
            )
    return ExitConditions(
        exit_codes=tuple((one.code, _exit_options(one.exit_options)) for one in body.exit_codes or ()),
        exit_code_ranges=tuple(
            (span.start, span.end, _exit_options(span.exit_options)) for span in body.exit_code_ranges or ()
        ),
        pre_processing_error=_optional_exit_options(body.pre_processing_error),
        file_upload_error=_optional_exit_options(body.file_upload_error),
        default=_optional_exit_options(body.default),
    )


def _exit_options(body: ExitOptionsBody) -> ExitOptions:
    return ExitOptions(
        job_action=None if body.job_action is None else JobAction(body.job_action.value),
        dependency_action=None if body.dependency_action is None else DependencyAction(body.dependency_action.value),
    )


def _optional_exit_options(body: ExitOptionsBody | None) -> ExitOptions | None:
    return None if body is None else _exit_options(body)


def check_resource_files(name: str, resources: Sequence[ResourceFile] | None) -> None:
    for index, resource in enumerate(resources or ()):
        _check_resource_file(f"{name}[{index}]", resource)


def _check_resource_file(name: str, resource: ResourceFile) -> None:
    sources = [resource.http_url, resource.storage_container_url, resource.auto_storage_container_name]
    if sum(source is not None for source in sources) != 1:
        raise invalid_property(
            name, "", "exactly one of httpUrl, storageContainerUrl and autoStorageContainerName must be given"
        )
    if resource.http_url is not None:
        check_url(f"{name}.httpUrl", resource.http_url)
        if resource.file_path is None:
            raise missing_property(f"{name}.filePath")
        if resource.blob_prefix is not None:
            raise invalid_property(f"{name}.blobPrefix", resource.blob_prefix, "it goes with a container, not httpUrl")
    if resource.storage_container_url is not None:
        check_url(f"{name}.storageContainerUrl", resource.storage_container_url)
    container = resource.auto_storage_container_name
    if container is not None and (len(container) > 63 or _BLOB_CONTAINER.match(container) is None):
        raise invalid_property(
            f"{name}.autoStorageContainerName",
            container,
            "a container's name has 3 to 63 lower-case letters, digits and single hyphens",
        )
    if resource.file_path is not None:
        check_relative_path(f"{name}.filePath", resource.file_path, empty=resource.http_url is None)
        if resource.http_url is not None and resource.file_path.endswith("/"):
            raise invalid_property(f"{name}.filePath", resource.file_path, "it names a directory, not a file")
    if resource.file_mode is not None and _FILE_MODE.match(resource.file_mode) is None:
        raise invalid_property(f"{name}.fileMode", resource.file_mode, "it must be an octal mode such as 0770")
