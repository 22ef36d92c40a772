"""Job schedules in wire form."""

from collections.abc import Collection
from typing import Any, Final

from millpond.api.render.common import etag_text, job_url, put_time, timestamp_text, words
from millpond.api.render.common import job_schedule_url as schedule_url
from millpond.api.schema.secrets import job_without_secrets
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.states import JobScheduleState

PROPERTIES: Final = words(
    "id displayName url eTag lastModified creationTime state stateTransitionTime previousState "
    "previousStateTransitionTime schedule jobSpecification executionInfo metadata stats"
)
"""What `$select` may name."""


def job_schedule_object(schedule: JobSchedule, base_url: str, unmade: Collection[str] = frozenset()) -> dict[str, Any]:
    """The job schedule: as it was given, and how it fares. `unmade` are ids of recent jobs that are not there yet."""
    spec = schedule.spec
    body: dict[str, Any] = {
        **{name: value for name, value in spec.items() if value != []},
        "url": schedule_url(base_url, schedule.id),
        "eTag": etag_text(schedule.last_modified),
        "lastModified": timestamp_text(schedule.last_modified),
        "creationTime": timestamp_text(schedule.creation_time),
        "state": schedule.state.value,
        "stateTransitionTime": timestamp_text(schedule.state_time),
        "schedule": spec.get("schedule") or {},
        "jobSpecification": job_without_secrets(spec["jobSpecification"]),
        "executionInfo": _execution_object(schedule, base_url, unmade),
    }
    if schedule.previous_state is not None:
        body["previousState"] = schedule.previous_state.value
        put_time(body, "previousStateTransitionTime", schedule.previous_state_time)
    return body


def _execution_object(schedule: JobSchedule, base_url: str, unmade: Collection[str]) -> dict[str, Any]:
    """Azure Batch: JobScheduleExecutionInformation. A next job that doNotRunAfter forbids is none."""
    execution: dict[str, Any] = {}
    last = schedule.recurrence.do_not_run_after
    if last is None or schedule.next_run_time is None or schedule.next_run_time <= last:
        put_time(execution, "nextRunTime", schedule.next_run_time)
    if schedule.recent_job_id is not None and schedule.recent_job_id not in unmade:
        execution["recentJob"] = {"id": schedule.recent_job_id, "url": job_url(base_url, schedule.recent_job_id)}
    if schedule.state is JobScheduleState.COMPLETED:
        put_time(execution, "endTime", schedule.end_time)
    return execution
