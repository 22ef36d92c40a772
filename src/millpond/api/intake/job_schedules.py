"""Job specifications: what a job schedule makes its jobs of."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from millpond.api.decode import convert
from millpond.api.intake.common import within
from millpond.api.intake.jobs import job_of
from millpond.api.schema.base import JsonObject
from millpond.api.schema.job import JobSpecification
from millpond.control.base import JobMaker, NewJob
from millpond.domain.durations import Timestamp
from millpond.domain.ids import id_key, make_auto_pool_id
from millpond.domain.job_schedule import JobSchedule
from millpond.providers.base import VmSize

PATH: Final = "jobSpecification"


def decode_job_specification(body: JsonObject) -> JobSpecification:
    """A `jobSpecification` from JSON that is decoded already. Raises BatchError naming properties from there on."""
    with within(PATH):
        return convert(body, JobSpecification)


def checked_specification(body: JobSpecification, vm_sizes: Mapping[str, VmSize], at: Timestamp) -> JsonObject:
    """The specification in the form in which a schedule keeps it, secrets included. Raises BatchError for what would
    be no job, naming properties from `jobSpecification` on."""
    with within(PATH):
        job_of(body, "schedule:job-1", lambda prefix: make_auto_pool_id(prefix, 1), vm_sizes, at)
    specification: JsonObject = msgspec.to_builtins(body)
    return specification


def job_maker(vm_sizes: Mapping[str, VmSize], clock: Callable[[], Timestamp]) -> JobMaker:
    """See `control.base.JobMaker`. The same schedule and id make the same job, with an auto pool of the same id."""

    def make_job(schedule: JobSchedule, job_id: str) -> NewJob:
        def pool_id(prefix: str) -> str:
            # That of the schedule, where all jobs share one.
            return schedule.pool_id or make_auto_pool_id(prefix, schedule.no, id_key(job_id), schedule.creation_time)

        body = decode_job_specification(schedule.spec[PATH])
        with within(PATH):
            made = job_of(body, job_id, pool_id, vm_sizes, clock())
        made.job.schedule_id = schedule.id
        return made

    return make_job
