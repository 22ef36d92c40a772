"""Jobs that move to another pool, through the true control plane, with crashes."""

import asyncio
import random

import pytest

from millpond.domain import events as e
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.domain.job import JobChanges
from millpond.domain.states import DisableJobOption, JobState
from millpond.domain.task import NewTask
from millpond.store.base import JobContents
from tests.unit.control.lab import Lab
from tests.unit.scheduler.world import new_job, new_pool


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def add_tasks(lab: Lab, *names: str) -> object:
    tasks = tuple(NewTask(name, b"{}") for name in names)
    return await lab.insist(lambda c: c.to_job("job", e.TasksAdded(at=lab.clock(), job_id="job", tasks=tasks)))


async def disable(lab: Lab) -> None:
    event = e.JobDisableRequested(at=lab.clock(), job_id="job", option=DisableJobOption.REQUEUE)
    await lab.insist(lambda c: c.to_job("job", event))


async def enable(lab: Lab) -> object:
    return await lab.insist(lambda c: c.to_job("job", e.JobEnableRequested(at=lab.clock(), job_id="job")))


async def move(lab: Lab, pool_id: str) -> object:
    changes = JobChanges(spec={"poolInfo": {"poolId": pool_id}}, pool_id=pool_id)
    return await lab.insist(lambda c: c.to_job("job", e.JobUpdated(at=lab.clock(), job_id="job", changes=changes)))


async def where(lab: Lab) -> tuple[str, JobState]:
    job = await lab.store.get_job("job")
    assert job is not None
    return job.pool_id, job.state


def knowers(lab: Lab) -> list[str]:
    """Pools whose engines have the job in their memory."""
    assert lab.control is not None
    engines = lab.control._engines
    return [engine.pool_key for engine in engines if engine.state is not None and "job" in engine.state.jobs]


async def set_up(lab: Lab) -> None:
    await lab.keep_alive()
    await lab.insist(lambda c: c.add_pool(new_pool(), "test"))
    await lab.insist(lambda c: c.add_job(new_job(), "test"))
    await add_tasks(lab, "a", "b")
    await disable(lab)


async def journey(lab: Lab) -> None:
    """From pool to other (which is there already) and on to later (which is not), with users who keep asking."""
    await set_up(lab)
    await lab.insist(lambda c: c.add_pool(new_pool(pool_id="other"), "test"))
    answers: list[object] = []

    async def user(number: int) -> None:
        for turn in range(10):
            answers.append(await add_tasks(lab, f"{number}-{turn}"))
            await asyncio.sleep(random.Random(number * 100 + turn).random() / 10)

    users = asyncio.gather(*(user(number) for number in range(4)))
    for pool_id in ("other", "later"):
        await move(lab, pool_id)
    await users
    assert not [answer for answer in answers if isinstance(answer, BatchError)], "requests wait, none is refused"
    assert await where(lab) == ("later", JobState.DISABLED)
    assert knowers(lab) == ["later"]
    await lab.restart()
    assert knowers(lab) == ["later"]
    assert await enable(lab) is None or (await where(lab))[1] is JobState.ACTIVE
    page = await lab.store.list_tasks(1, None, 1000, None)
    assert {row.task.id for row in page.items} == {"a", "b", *(f"{n}-{t}" for n in range(4) for t in range(10))}


def test_a_journey(lab: Lab) -> None:
    lab.run(journey(lab))


@pytest.mark.parametrize("written_first", [False, True], ids=["before", "after"])
def test_a_crash_at_any_commit_leaves_the_job_in_one_pool(*, written_first: bool) -> None:
    first = Lab()
    first.run(journey(first))
    for number in range(1, first.store.attempts + 1):
        lab = Lab()
        lab.store.crash_at, lab.store.written_first = number, written_first
        lab.run(journey(lab))


def test_a_crash_anywhere() -> None:
    for seed in range(40):
        lab = Lab()
        dice = random.Random(seed)
        lab.crashes = [dice.randint(1, 300) for _ in range(4)]
        lab.run(journey(lab))


def test_an_engine_that_forgets_everything_while_the_job_is_under_way(lab: Lab) -> None:
    """The new pool's engine is rebuilt, and finds the job among its rows, before the job is handed over to it."""
    held = asyncio.Event()
    load_job = lab.store.load_job

    async def slow(job_no: int) -> JobContents | None:
        contents = await load_job(job_no)
        await held.wait()
        return contents

    lab.store.load_job = slow

    async def story() -> None:
        await set_up(lab)
        await lab.insist(lambda c: c.add_pool(new_pool(pool_id="other"), "test"))
        await move(lab, "other")
        asked = asyncio.ensure_future(enable(lab))
        await asyncio.sleep(0.5)
        assert not asked.done(), "it waits for the hand-over"

        async def fail(_: object) -> None:
            raise StoreUnavailable("the disk is full")

        lab.store.before_commit = fail
        refused = await lab.call(
            lambda c: asyncio.wait_for(
                asyncio.gather(
                    c.to_pool("other", e.PoolDeleteRequested(at=lab.clock())),
                    return_exceptions=True,
                ),
                5,
            )
        )
        assert isinstance(refused[0], BatchError)
        lab.store.before_commit = None
        await asyncio.sleep(5.0)
        assert knowers(lab) == ["other"]
        held.set()
        assert await asked is None
        assert await where(lab) == ("other", JobState.ACTIVE)

    lab.run(story())


def test_requests_are_told_to_come_back_when_it_takes_too_long(lab: Lab) -> None:
    async def never(job_no: int) -> JobContents | None:
        raise StoreUnavailable("reads fail")

    async def story() -> None:
        await set_up(lab)
        load_job = lab.store.load_job
        lab.store.load_job = never
        await move(lab, "other")
        with pytest.raises(BatchError) as caught:
            await lab.call(lambda c: c.to_job("job", e.JobEnableRequested(at=lab.clock(), job_id="job")))
        assert caught.value.code is ErrorCode.SERVER_BUSY
        lab.store.load_job = load_job
        assert await enable(lab) is None

    lab.run(story())


def test_a_job_that_is_not_there_is_not_waited_for(lab: Lab) -> None:
    async def story() -> None:
        await set_up(lab)
        await lab.insist(lambda c: c.to_job("job", e.JobDeleteRequested(at=lab.clock(), job_id="job")))
        await asyncio.sleep(5.0)
        answer = await enable(lab)
        assert isinstance(answer, BatchError)
        assert answer.code is ErrorCode.JOB_NOT_FOUND
        assert lab.control is not None
        assert not lab.control.knows_job("job")

    lab.run(story())


def test_a_time_limit_goes_with_the_job(lab: Lab) -> None:
    async def story() -> None:
        await lab.start()
        await lab.insist(lambda c: c.add_pool(new_pool(), "test"))
        await lab.insist(lambda c: c.add_job(new_job(wall_clock_s=600.0), "test"))
        await disable(lab)
        await move(lab, "later")
        await asyncio.sleep(599.0)
        assert await where(lab) == ("later", JobState.DISABLED)
        await asyncio.sleep(2.0)
        assert await where(lab) == ("later", JobState.COMPLETED)

    lab.run(story())
