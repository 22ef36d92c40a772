"""A job schedule: its record, and the typed part of its specification that decides when jobs are made."""

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.job import AutoPool
from millpond.domain.states import JobScheduleState, PoolLifetimeOption
from millpond.domain.task import JsonObject

MIN_RECURRENCE_S = 60.0
MIN_START_WINDOW_S = 60.0


class Recurrence(msgspec.Struct, frozen=True):
    """When jobs are due (Azure Batch: JobScheduleConfiguration). Times are UTC; there is no daylight saving."""

    do_not_run_until: Timestamp | None = None
    """None: at once."""
    do_not_run_after: Timestamp | None = None
    start_window_s: float | None = None
    """Seconds after its due time within which a job may still be made; None is without limit."""
    interval_s: float | None = None
    """Seconds between the start times of two jobs; None makes one job."""


class JobSchedule(msgspec.Struct):
    """One row of the `job_schedule` table.

    At most one job of a schedule is active. `spec` is the wire form of everything the user set; its `jobSpecification`
    becomes the next job. Jobs are called `<schedule id>:job-<n>`.
    """

    no: int
    id: str
    state: JobScheduleState
    creation_time: Timestamp
    last_modified: Timestamp
    """Changes with the definition, not with its jobs; the ETag is made of it."""
    state_time: Timestamp
    spec: JsonObject
    recurrence: Recurrence = Recurrence()
    previous_state: JobScheduleState | None = None
    previous_state_time: Timestamp | None = None
    next_run_time: Timestamp | None = None
    """When the next job is due; it is made then, or when the one before it ends, or not at all."""
    next_job_number: int = 1
    recent_job_id: str | None = None
    """The job made last."""
    recent_job_active: bool = False
    """That job is not known to be completed; written down before the job is made."""
    end_time: Timestamp | None = None
    pool_id: str | None = None
    """The auto pool of the schedule (poolLifetimeOption `jobschedule`), once its first job needed it."""

    @property
    def auto_pool(self) -> AutoPool | None:
        """The auto pool its jobs are to run in, each its own or all the same; None when they name a pool."""
        given = self._auto_pool_spec
        if given is None:
            return None
        lifetime = PoolLifetimeOption(given["poolLifetimeOption"])
        return AutoPool(keep_alive=bool(given.get("keepAlive")), lifetime=lifetime)

    @property
    def auto_pool_prefix(self) -> str:
        given = self._auto_pool_spec
        return "" if given is None else given.get("autoPoolIdPrefix") or ""

    @property
    def keeps_pool(self) -> bool:
        """The pool all its jobs share is left to the user to delete."""
        auto_pool = self.auto_pool
        return auto_pool is not None and auto_pool.lifetime is PoolLifetimeOption.JOB_SCHEDULE and auto_pool.keep_alive

    @property
    def _auto_pool_spec(self) -> JsonObject | None:
        spec = self.spec.get("jobSpecification") or {}
        given: JsonObject | None = (spec.get("poolInfo") or {}).get("autoPoolSpecification")
        return given
