"""Job schedules through the true control plane, on virtual time, with crashes."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from millpond.control.service import ControlService
from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.states import JobScheduleState, JobState, PoolState
from tests.unit.control.lab import EPOCH, SETTINGS, Lab
from tests.unit.scheduler.test_job_schedules import HOUR, MINUTE, SHARED_POOL, new_schedule
from tests.unit.scheduler.world import new_job, new_pool

OWN_POOL = {"autoPoolSpecification": {"poolLifetimeOption": "job", "pool": {}}}


@pytest.fixture
def lab() -> Lab:
    return Lab()


def asks(event: e.JobScheduleEvent) -> Callable[[ControlService], Coroutine[Any, Any, Any]]:
    return lambda control: control.to_job_schedules(event)


async def schedule_of(lab: Lab, schedule_id: str = "daily") -> JobSchedule:
    row = await lab.store.get_job_schedule(schedule_id)
    assert row is not None
    return row


async def jobs_of(lab: Lab, schedule_id: str = "daily") -> list[Job]:
    """In the order of their making."""
    page = await lab.store.list_jobs(None, 1000, None, schedule_id=schedule_id)
    return sorted(page.items, key=lambda job: job.no)


async def end_job(lab: Lab, job_id: str) -> None:
    await lab.insist(
        lambda control: control.to_job(
            job_id, e.JobTerminateRequested(at=lab.clock(), job_id=job_id, reason="UserTerminate")
        )
    )


async def live(lab: Lab, moment: float, job_lasts: float = 10 * MINUTE) -> None:
    """Let time pass until so many seconds after the start; jobs are ended after a while; at most one is active."""
    while lab.loop.time() < moment:
        await lab.keep_alive()
        active = [job for job in await jobs_of(lab) if job.state is not JobState.COMPLETED]
        assert len([job for job in active if job.state is not JobState.DELETING]) <= 1, "two active jobs"
        for job in active:
            assert job.start_time is not None
            if lab.clock() >= job.start_time + job_lasts:
                await end_job(lab, job.id)
        await asyncio.sleep(30.0)


async def whole_life(lab: Lab, pool: dict[str, Any]) -> list[tuple[str, int, str | None]]:
    """A schedule is added, makes four jobs, completes, and is deleted; every request is made until it is answered.
    Tells (job id, hour of its making, how it ended)."""
    await lab.keep_alive()
    await lab.insist(
        lambda control: control.add_job_schedule(
            new_schedule(pool=pool, interval_s=HOUR, do_not_run_after=EPOCH + 3.5 * HOUR), "test"
        )
    )
    await live(lab, 4 * HOUR)
    row = await schedule_of(lab)
    assert (row.state, row.recent_job_id, row.recent_job_active) == (
        JobScheduleState.COMPLETED,
        "daily:job-4",
        False,
    )
    assert row.end_time is not None
    assert row.end_time - EPOCH == pytest.approx(3.5 * HOUR, abs=30.0)

    async def no_pools() -> bool:
        page = await lab.store.list_pools(None, 10, None)
        return not page.items

    await lab.until(no_pools)
    story = [
        (job.id, round((job.start_time or 0.0) - EPOCH) // 3600, job.terminate_reason) for job in await jobs_of(lab)
    ]
    await lab.insist(asks(e.JobScheduleDeleteRequested(at=lab.clock(), schedule_id="daily")))

    async def gone() -> bool:
        return await lab.store.get_job_schedule("daily") is None

    await lab.until(gone)
    assert await jobs_of(lab) == []
    # Its id is free again, for either.
    job = await lab.insist(lambda control: control.add_job(new_job("Daily"), "test"))
    # The first answer may have died with the control plane.
    assert isinstance(job, Job) or (lab.lives > 1 and job.code is ErrorCode.JOB_EXISTS)
    return story


FOUR_JOBS = [(f"daily:job-{n + 1}", n, "UserTerminate") for n in range(4)]


@pytest.mark.parametrize("pool", [SHARED_POOL, OWN_POOL], ids=["shared pool", "own pools"])
def test_a_whole_life(lab: Lab, pool: dict[str, Any]) -> None:
    assert lab.run(whole_life(lab, pool)) == FOUR_JOBS


def commits_of_a_life() -> int:
    lab = Lab()
    lab.run(whole_life(lab, SHARED_POOL))
    return lab.store.attempts


def test_a_crash_anywhere_changes_nothing() -> None:
    """kill -9 at any await, several times in a life."""
    for seed in range(40):
        lab = Lab()
        dice = random.Random(seed)
        lab.crashes = [dice.randint(1, 400) for _ in range(4)]
        story = lab.run(whole_life(lab, OWN_POOL if seed % 2 else SHARED_POOL))
        assert story == FOUR_JOBS, f"seed {seed}"
        assert lab.lives == 5


@pytest.mark.parametrize("written_first", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("part", range(4))
def test_a_crash_at_any_commit_changes_nothing(part: int, *, written_first: bool) -> None:
    """kill -9 just before, or just after, each commit of a schedule's life: the same jobs are made, once each."""
    commits = commits_of_a_life()
    assert commits > 20
    for number in range(1 + part, commits + 1, 4):
        lab = Lab()
        lab.store.crash_at, lab.store.written_first = number, written_first
        story = lab.run(whole_life(lab, SHARED_POOL))
        assert story == FOUR_JOBS, f"crash at commit {number}"
        assert lab.lives == 2, f"crash at commit {number}"


@pytest.mark.parametrize("number", range(1, 30, 4))
def test_a_commit_that_fails_changes_nothing(lab: Lab, number: int) -> None:
    async def failing() -> list[tuple[str, int, str | None]]:
        async def fail(_: object) -> None:
            if lab.store.attempts == number:
                raise StoreUnavailable("the disk is full")

        lab.store.before_commit = fail
        return await whole_life(lab, SHARED_POOL)

    assert lab.run(failing()) == FOUR_JOBS


def test_what_came_due_while_the_service_was_down(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        late = new_schedule("late", interval_s=HOUR)
        lost = new_schedule("lost", interval_s=HOUR, start_window_s=10 * MINUTE)
        await lab.insist(lambda control: control.add_job_schedule(late, "test"))
        await lab.insist(lambda control: control.add_job_schedule(lost, "test"))
        await end_job(lab, "late:job-1")
        await end_job(lab, "lost:job-1")
        await asyncio.sleep(MINUTE)
        lab.kill()
        await asyncio.sleep(5.5 * HOUR)
        await lab.start()
        await asyncio.sleep(1.0)
        assert [job.id for job in await jobs_of(lab, "late")] == ["late:job-1", "late:job-2"]
        assert [job.id for job in await jobs_of(lab, "lost")] == ["lost:job-1"]

    lab.run(story())


def test_a_job_ends_while_the_keeper_does_not_listen(lab: Lab) -> None:
    """The end of a job is told until it has been heard."""

    async def story() -> None:
        await lab.start()
        await lab.insist(lambda control: control.add_job_schedule(new_schedule(interval_s=HOUR), "test"))
        await asyncio.sleep(1.0)

        async def fail(changes: Any) -> None:
            if changes.job_schedules:
                raise StoreUnavailable("the disk is full")

        lab.store.before_commit = fail
        await end_job(lab, "daily:job-1")
        await asyncio.sleep(MINUTE)
        assert (await schedule_of(lab)).recent_job_active
        lab.store.before_commit = None
        await asyncio.sleep(MINUTE)
        assert not (await schedule_of(lab)).recent_job_active

    lab.run(story())


@pytest.mark.parametrize("crash", [False, True])
def test_a_job_that_a_user_deletes_is_over_and_is_not_made_again(lab: Lab, *, crash: bool) -> None:
    async def story() -> None:
        await lab.start()
        await lab.insist(lambda control: control.add_job_schedule(new_schedule(interval_s=HOUR), "test"))
        await asyncio.sleep(1.0)
        if crash:
            # The schedule does not get to write that the job is gone, so the job's rows stay until it has.
            async def fail(changes: Any) -> None:
                if changes.job_schedules:
                    raise StoreUnavailable("the disk is full")

            lab.store.before_commit = fail
        await lab.insist(
            lambda control: control.to_job("daily:job-1", e.JobDeleteRequested(at=lab.clock(), job_id="daily:job-1"))
        )
        if crash:
            await asyncio.sleep(MINUTE)
            (job,) = await jobs_of(lab)
            assert job.state is JobState.DELETING
            lab.kill()
            lab.store.before_commit = None
            await lab.start()
        await asyncio.sleep(10.0)
        assert await jobs_of(lab) == []
        assert not (await schedule_of(lab)).recent_job_active
        await asyncio.sleep(HOUR)
        assert [job.id for job in await jobs_of(lab)] == ["daily:job-2"]

    lab.run(story())


def test_many_jobs_that_are_over_delay_no_start(lab: Lab) -> None:
    """A pool's engine tells of every completed job when it starts: those nobody waits for cost nothing."""

    async def story() -> None:
        await lab.start()
        await lab.insist(lambda control: control.add_job_schedule(new_schedule(interval_s=MINUTE), "test"))
        await live(lab, 60 * MINUTE, job_lasts=0.0)
        assert len(await jobs_of(lab)) > 50
        before = lab.store.attempts
        await lab.restart()
        await asyncio.sleep(1.0)
        assert lab.store.attempts - before <= 1

    lab.run(story())


def test_terminate_gives_the_job_its_reason(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        await lab.insist(lambda control: control.add_job_schedule(new_schedule(interval_s=HOUR), "test"))
        await lab.insist(asks(e.JobScheduleTerminateRequested(at=lab.clock(), schedule_id="daily")))
        await asyncio.sleep(10.0)
        (job,) = await jobs_of(lab)
        assert (job.state, job.terminate_reason) == (JobState.COMPLETED, "TerminateJobSchedule")
        row = await schedule_of(lab)
        assert (row.state, row.previous_state) == (JobScheduleState.COMPLETED, JobScheduleState.TERMINATING)

    lab.run(story())


def test_a_clock_set_back_by_years_is_noticed_while_waiting(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        await lab.insist(lambda control: control.add_job_schedule(new_schedule(interval_s=HOUR), "test"))
        await end_job(lab, "daily:job-1")
        lab.skew_s = -87600 * HOUR
        await asyncio.sleep(2 * HOUR + 2 * MINUTE)
        assert [job.id for job in await jobs_of(lab)] == ["daily:job-1", "daily:job-2"]

    lab.run(story())


def test_jobs_and_schedules_share_their_ids(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        assert isinstance(await lab.insist(lambda c: c.add_job(new_job("Taken"), "test")), Job)
        refused = await lab.insist(lambda c: c.add_job_schedule(new_schedule("taken"), "test"))
        assert isinstance(refused, BatchError)
        assert refused.code is ErrorCode.JOB_WITH_SAME_ID_EXISTS
        both = await asyncio.gather(
            lab.insist(lambda c: c.add_job_schedule(new_schedule("Both"), "test")),
            lab.insist(lambda c: c.add_job(new_job("both"), "test")),
            lab.insist(lambda c: c.add_job_schedule(new_schedule("BOTH"), "test")),
        )
        assert [answer.code if isinstance(answer, BatchError) else None for answer in both] == [
            None,
            ErrorCode.JOB_SCHEDULE_WITH_SAME_ID_EXISTS,
            ErrorCode.JOB_SCHEDULE_EXISTS,
        ]
        await lab.restart()
        again = await lab.insist(lambda c: c.add_job(new_job("both"), "test"))
        assert isinstance(again, BatchError)
        assert again.code is ErrorCode.JOB_SCHEDULE_WITH_SAME_ID_EXISTS
        another = await lab.insist(lambda c: c.add_job_schedule(new_schedule("other"), "test"))
        assert isinstance(another, JobSchedule)
        assert another.no == 2

    lab.run(story())


@pytest.mark.parametrize(
    ("quota", "vm_size", "code"),
    [
        (1, "local", "AutoPoolCreationFailedWithQuotaReached"),
        (None, "no_longer_sold", "InvalidAutoPoolSettings"),
    ],
)
def test_a_pool_that_cannot_be_made_completes_the_job_and_the_schedule_goes_on(
    quota: int | None, vm_size: str, code: str
) -> None:
    lab = Lab(msgspec.structs.replace(SETTINGS, pool_quota=quota))

    async def story() -> None:
        await lab.start()
        await lab.insist(lambda c: c.add_pool(new_pool(), "test"))
        refused = await lab.insist(lambda c: c.add_pool(new_pool(pool_id="second"), "test"))
        assert isinstance(refused, BatchError) is (quota is not None)
        assert quota is None or refused.code == "PoolQuotaReached"
        schedule = new_schedule(pool=SHARED_POOL, interval_s=HOUR)
        schedule.spec["jobSpecification"]["vmSize"] = vm_size
        await lab.insist(lambda c: c.add_job_schedule(schedule, "test"))
        await asyncio.sleep(HOUR + MINUTE)
        jobs = await jobs_of(lab)
        assert [(job.id, job.state) for job in jobs] == [
            ("daily:job-1", JobState.COMPLETED),
            ("daily:job-2", JobState.COMPLETED),
        ]
        assert [job.scheduling_error.code for job in jobs if job.scheduling_error is not None] == [code, code]
        assert (await schedule_of(lab)).state is JobScheduleState.ACTIVE

    lab.run(story())


def test_the_pool_of_a_schedule_is_one_and_goes_with_it(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        schedule = new_schedule(pool=SHARED_POOL, interval_s=HOUR)
        await lab.insist(lambda c: c.add_job_schedule(schedule, "test"))
        await live(lab, 2.5 * HOUR)
        pool_id = (await schedule_of(lab)).pool_id
        assert pool_id is not None
        assert {job.pool_id for job in await jobs_of(lab)} == {pool_id}
        pool = await lab.store.get_pool(pool_id)
        assert pool is not None
        assert (pool.state, pool.auto_pool) == (PoolState.ACTIVE, True)
        await lab.insist(asks(e.JobScheduleDeleteRequested(at=lab.clock(), schedule_id="daily")))
        await asyncio.sleep(MINUTE)
        assert await lab.store.get_pool(pool_id) is None
        assert await lab.store.get_job_schedule("daily") is None

    lab.run(story())


def test_an_update_is_for_later_jobs(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        await lab.insist(lambda c: c.add_job_schedule(new_schedule(interval_s=HOUR), "test"))
        await lab.insist(
            asks(
                e.JobScheduleUpdated(
                    at=lab.clock(),
                    schedule_id="daily",
                    spec={"jobSpecification": {"poolInfo": {"poolId": "other"}}},
                    recurrence=Recurrence(interval_s=30 * MINUTE),
                )
            )
        )
        await live(lab, 35 * MINUTE)
        assert [(job.id, job.pool_id) for job in await jobs_of(lab)] == [
            ("daily:job-1", "pool"),
            ("daily:job-2", "other"),
        ]

    lab.run(story())


def test_active_jobs_and_schedules_have_a_quota_together() -> None:
    lab = Lab(msgspec.structs.replace(SETTINGS, active_job_quota=3))

    async def story() -> None:
        await lab.start()
        await lab.insist(lambda c: c.add_pool(new_pool(), "test"))
        await lab.insist(lambda c: c.add_job_schedule(new_schedule(interval_s=HOUR), "test"))
        # The schedule's own job is the second.
        await asyncio.sleep(HOUR / 2)
        added = await lab.insist(lambda c: c.add_job(new_job("one", no=0), "test"))
        assert not isinstance(added, BatchError)
        refused = await lab.insist(lambda c: c.add_job(new_job("two", no=0), "test"))
        assert isinstance(refused, BatchError)
        assert refused.code == "ActiveJobAndScheduleQuotaReached"
        refused = await lab.insist(lambda c: c.add_job_schedule(new_schedule("other"), "test"))
        assert isinstance(refused, BatchError)
        assert refused.code == "ActiveJobAndScheduleQuotaReached"
        again = await lab.insist(lambda c: c.add_job(new_job("one", no=0), "test"))
        assert isinstance(again, BatchError)
        assert again.code == "JobExists"
        # A completed job is not active.
        event = e.JobTerminateRequested(at=lab.clock(), cause="test", job_id="one", reason="enough")
        await lab.insist(lambda c: c.to_job("one", event))
        added = await lab.insist(lambda c: c.add_job(new_job("two", no=0), "test"))
        assert not isinstance(added, BatchError)

    lab.run(story())
