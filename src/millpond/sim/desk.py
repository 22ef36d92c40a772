"""Where users ask for things: calls that may be refused or lost, and what must be so when one is answered."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import TypeVar

import msgspec

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import Event, JobScheduleEvent
from millpond.domain.ids import id_key
from millpond.domain.states import JobState
from millpond.sim.api import Api, NoAnswer
from millpond.sim.audit import Audit
from millpond.sim.control import SimControl
from millpond.sim.habits import Habits
from millpond.sim.ledger import Ledger
from millpond.sim.story import Story

_T = TypeVar("_T")

_MISSING = (ErrorCode.TASK_NOT_FOUND, ErrorCode.JOB_NOT_FOUND)


class Known(msgspec.Struct):
    """A task whose addition was acknowledged to its user."""

    job_no: int
    job_id: str
    task_id: str
    deleting: bool = False
    """Somebody has asked to delete it, or its job."""
    completed: bool = False
    """A reader has seen it completed, and nobody has asked to reactivate it since."""


class Desk:
    """See the module. Users know only what was acknowledged to them."""

    def __init__(self, api: Api, random: Random, habits: Habits, audit: Audit, ledger: Ledger, story: Story) -> None:
        self.api = api
        self.random = random
        self.habits = habits
        self.audit = audit
        self.ledger = ledger
        self.story = story
        self.jobs: dict[str, int] = {}
        """Job ids that users have heard of → number of the job as acknowledged."""
        self.known: list[Known] = []

    # --- calls ---

    async def ask(
        self,
        what: str,
        make: Callable[[SimControl], Awaitable[_T]],
        check: Callable[[_T], None],
        exists: Callable[[], bool] = lambda: False,
    ) -> _T | None:
        """The answer, or None when it was refused or never came. What `exists` says is there must be found."""
        existed = exists()
        try:
            value = await self.api.call(make, check)
        except BatchError as error:
            self.story.add("user", f"{what}: {error.code.value}")
            if error.code in _MISSING and existed and exists():
                self.audit.fail(f"{what}: {error.code.value}, and it was acknowledged")
            return None
        except NoAnswer as error:
            self.story.add("user", f"{what}: {error}")
            return None
        self.story.add("user", f"{what}: ok")
        return value

    def job_exists(self, job_id: str) -> bool:
        """Whether its addition was acknowledged, and nobody has ever asked to delete a job of that id."""
        return self.jobs.get(job_id, 0) > 0 and not self.job_goes(job_id)

    def job_goes(self, job_id: str) -> bool:
        """Whether anybody has ever asked to delete a job of that id, or the schedule that makes it."""
        of_schedule = ":" in job_id and id_key(job_id.partition(":")[0]) in self.audit.deleted_schedules
        return of_schedule or (id_key(job_id), "") in self.audit.deletes

    def a_job(self) -> str | None:
        """One of those that users have heard of."""
        return self.random.choice(sorted(self.jobs)) if self.jobs else None

    def going(self, job_id: str) -> None:
        """Somebody has asked to delete the job: nobody may count on its tasks any more."""
        for known in self.known:
            if id_key(known.job_id) == id_key(job_id):
                known.deleting = True

    @contextlib.contextmanager
    def found(self, job_id: str, task_id: str) -> Iterator[None]:
        """What is on disk all the while a call takes is not said to be missing, whoever knows of it."""

        def rows() -> tuple[int, int]:
            job = self.ledger.job_named(job_id)
            task = self.ledger.task_named(job.no, task_id) if job is not None and task_id else None
            return job.no if job is not None else 0, task.key if task is not None else 0

        before = rows()
        try:
            yield
        except BatchError as error:
            job_no, key = rows()
            if (error.code is ErrorCode.JOB_NOT_FOUND and job_no and job_no == before[0]) or (
                error.code is ErrorCode.TASK_NOT_FOUND and key and key == before[1]
            ):
                self.audit.fail(f"{job_id}/{task_id}: {error.code.value}, and it is on disk")
            raise

    async def to_job(
        self,
        job_id: str,
        what: str,
        make: Callable[[float, str], Event],
        task: Known | None = None,
        *,
        sure: bool = True,
    ) -> bool:
        """Send an event to a job, perhaps about a task of it; whether it was taken in. Something of the job must then
        be on disk. `sure`: nobody has asked to delete it before, so that it must be found."""
        deletes = "delete" in what

        def exists() -> bool:
            return sure and self.job_exists(job_id) and (task is None or deletes or not task.deleting)

        before = 0

        async def send(control: SimControl) -> int:
            nonlocal before
            before = self.ledger.commits
            job = self.ledger.job_named(job_id)
            number = job.no if job is not None else -1
            with self.found(job_id, task.task_id if task is not None else ""):
                await control.to_job(job_id, make(control.now(), what))
            return number

        def check(number: int) -> None:
            job = self.ledger.jobs.get(number)
            if job is not None and self.ledger.written_at.get(("job", number), 0) <= before:
                if "disable" in what and job.state is JobState.DISABLED:
                    return
                if what.startswith("update task"):
                    return
                self.audit.fail(f"{what} of {job_id} is acknowledged: nothing is on disk")

        return await self.ask(f"{what} ({job_id})", send, check, exists) is not None

    async def to_pool(self, pool_id: str, what: str, make: Callable[[float], Event], *, changes: bool = True) -> bool:
        """Send an event to a pool; whether it was taken in. `changes`: something of the pool must then be on disk."""
        before = 0

        async def send(control: SimControl) -> bool:
            nonlocal before
            before = self.ledger.commits
            await control.to_pool(pool_id, make(control.now()))
            return True

        def check(_: bool) -> None:
            if changes and self.ledger.written_at.get(("pool", id_key(pool_id)), 0) <= before:
                self.audit.fail(f"{what} of pool {pool_id} is acknowledged: nothing is on disk")

        return await self.ask(f"{what} (pool {pool_id})", send, check) is not None

    async def to_job_schedules(self, schedule_id: str, what: str, make: Callable[[float], JobScheduleEvent]) -> bool:
        before = 0

        async def send(control: SimControl) -> bool:
            nonlocal before
            before = self.ledger.commits
            await control.to_job_schedules(make(control.now()))
            return True

        def check(_: bool) -> None:
            if self.ledger.written_at.get(("schedule", id_key(schedule_id)), 0) <= before:
                self.audit.fail(f"{what} of job schedule {schedule_id} is acknowledged: nothing is on disk")

        return await self.ask(f"{what} (job schedule {schedule_id})", send, check) is not None
