"""Start, job preparation, job release and job manager tasks: from the body of a request to the scheduler's rules.

Defaults are written into the bodies, so that what a GET shows, and a node is given, says what is in force.
"""

from typing import Final

import msgspec

from millpond.api.intake.common import check_environment, check_id, check_retry_count, duration_s, time_limit_s
from millpond.api.intake.tasks import (
    DEFAULT_RETENTION,
    check_command_line,
    check_constraints,
    check_resource_files,
    check_user_identity,
    new_task,
)
from millpond.api.schema.enums import AutoUserScope, ElevationLevel
from millpond.api.schema.special_task import JobManagerTask, JobPreparationTask, JobReleaseTask, StartTask
from millpond.api.schema.task import AutoUser, TaskConstraints, TaskCreate, UserIdentity
from millpond.api.support import refuse_if_used
from millpond.domain.durations import UNLIMITED_TEXT, format_duration
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.special_task import JobPreparationRules, JobReleaseRules, StartTaskRules
from millpond.domain.task import JobManagerRules, NewTask, TaskRules

MAX_START_TASK_CHARACTERS: Final = 32768
"""Of all of it, in wire form."""
MAX_RELEASE_S: Final = 900.0


def start_task_rules(body: StartTask) -> StartTaskRules:
    """Raises BatchError; properties are named from the start task on."""
    _check(body)
    check_retry_count("maxTaskRetryCount", body.max_task_retry_count)
    size = len(msgspec.json.encode(body).decode())
    if size > MAX_START_TASK_CHARACTERS:
        raise BatchError(
            ErrorCode.REQUEST_ENTITY_TOO_LARGE,
            f"The start task is too large: with its resource files and environment it has {size} characters, and "
            f"{MAX_START_TASK_CHARACTERS} are allowed. Have it fetch a file that says the rest.",
            MaxLimit=str(MAX_START_TASK_CHARACTERS),
        )
    body.max_task_retry_count = body.max_task_retry_count or 0
    body.wait_for_success = body.wait_for_success is not False
    return StartTaskRules(max_retry_count=body.max_task_retry_count, wait_for_success=body.wait_for_success)


def preparation_rules(body: JobPreparationTask) -> JobPreparationRules:
    """Raises BatchError; properties are named from the preparation task on."""
    _check(body)
    body.id = JobPreparationRules().id if body.id is None else body.id
    check_id("id", body.id)
    constraints = body.constraints = body.constraints or TaskConstraints()
    check_constraints(constraints)
    constraints.max_wall_clock_time = constraints.max_wall_clock_time or UNLIMITED_TEXT
    constraints.retention_time = constraints.retention_time or DEFAULT_RETENTION
    constraints.max_task_retry_count = constraints.max_task_retry_count or 0
    body.wait_for_success = body.wait_for_success is not False
    body.rerun_on_node_reboot_after_success = body.rerun_on_node_reboot_after_success is not False
    body.user_identity = body.user_identity or _pool_user()
    return JobPreparationRules(
        id=body.id,
        max_retry_count=constraints.max_task_retry_count,
        wait_for_success=body.wait_for_success,
        rerun_on_reboot=body.rerun_on_node_reboot_after_success,
    )


def release_rules(body: JobReleaseTask) -> JobReleaseRules:
    """Raises BatchError; properties are named from the release task on."""
    _check(body)
    body.id = JobReleaseRules().id if body.id is None else body.id
    check_id("id", body.id)
    limit = MAX_RELEASE_S
    if body.max_wall_clock_time is not None:
        time_limit_s("maxWallClockTime", body.max_wall_clock_time)
        limit = duration_s("maxWallClockTime", body.max_wall_clock_time, maximum_s=MAX_RELEASE_S) or MAX_RELEASE_S
    body.max_wall_clock_time = format_duration(limit)
    kept = duration_s("retentionTime", body.retention_time or DEFAULT_RETENTION)
    body.retention_time = format_duration(kept)
    body.user_identity = body.user_identity or _pool_user()
    return JobReleaseRules(id=body.id, max_wall_clock_s=limit)


def manager_task(body: JobManagerTask) -> NewTask:
    """The job manager as the job's first task. Raises BatchError; properties are named from the manager task on."""
    task = new_task(
        TaskCreate(
            id=body.id,
            display_name=body.display_name,
            command_line=body.command_line,
            container_settings=body.container_settings,
            resource_files=body.resource_files,
            output_files=body.output_files,
            environment_settings=body.environment_settings,
            required_slots=body.required_slots,
            user_identity=body.user_identity,
            application_package_references=body.application_package_references,
            authentication_token_settings=body.authentication_token_settings,
            constraints=body.constraints,
        )
    )
    body.required_slots = task.required_slots
    body.kill_job_on_completion = body.kill_job_on_completion is not False
    body.run_exclusive = body.run_exclusive is not False
    body.allow_low_priority_node = body.allow_low_priority_node is not False
    manager = JobManagerRules(
        kill_job_on_completion=body.kill_job_on_completion,
        run_exclusive=body.run_exclusive,
        allow_low_priority_node=body.allow_low_priority_node,
    )
    rules = msgspec.structs.replace(task.rules or TaskRules(), job_manager=manager)
    return msgspec.structs.replace(task, rules=rules)


def _check(body: StartTask | JobPreparationTask | JobReleaseTask) -> None:
    """What these three have in common."""
    check_command_line("commandLine", body.command_line)
    refuse_if_used("task", "containerSettings", body.container_settings)
    check_environment("environmentSettings", body.environment_settings)
    check_resource_files("resourceFiles", body.resource_files)
    if body.user_identity is not None:
        check_user_identity(body.user_identity)


def _pool_user() -> UserIdentity:
    """The service's default on Linux."""
    return UserIdentity(auto_user=AutoUser(scope=AutoUserScope.POOL, elevation_level=ElevationLevel.NON_ADMIN))
