"""Request bodies about job schedules."""

from millpond.api.schema.base import NameValueItem, RoundTrip, Wire
from millpond.api.schema.job import JobSpecification


class Schedule(Wire):
    """When jobs are made (BatchJobScheduleConfiguration)."""

    do_not_run_until: str | None = None
    do_not_run_after: str | None = None
    start_window: str | None = None
    recurrence_interval: str | None = None


class JobScheduleCreate(Wire, kw_only=True):
    """POST /jobschedules (BatchJobScheduleCreateOptions; JobScheduleAddParameter in 2024-02-01.19.0)."""

    id: str
    display_name: str | None = None
    schedule: Schedule
    job_specification: JobSpecification
    metadata: list[NameValueItem] | None = None


class JobSchedulePatch(RoundTrip):
    """PATCH /jobschedules/{jobScheduleId}: what is not given stays as it is."""

    schedule: Schedule | None = None
    job_specification: JobSpecification | None = None
    metadata: list[NameValueItem] | None = None


class JobScheduleReplace(RoundTrip, kw_only=True):
    """PUT /jobschedules/{jobScheduleId}: what is not given becomes the default (for `schedule`: one job, at once)."""

    schedule: Schedule | None = None
    job_specification: JobSpecification
    metadata: list[NameValueItem] | None = None
