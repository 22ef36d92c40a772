"""The true control plane on virtual time, killed and started again at will."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from millpond.control.base import NewJob
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError
from millpond.domain.job import AutoPool
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.states import PoolLifetimeOption
from millpond.providers.base import VmSize
from millpond.providers.fake import FakeProvider
from millpond.sim.loop import Process, VirtualLoop
from millpond.store.base import Fence
from millpond.store.changes import ChangeSet
from millpond.store.memory import MemoryStore
from tests.unit.scheduler.world import new_job, new_pool

EPOCH = 1_700_000_000.0
SIZES = {"local": VmSize("local", 2, 4096, 0.1)}
SETTINGS = ControlSettings(store_retry_s=0.5, observe_interval_s=60.0, lease_ttl_s=3000.0)

_T = TypeVar("_T")


class Crashed(Exception):
    """The process that was asked is dead: whether it did what was asked is not known."""


class CrashStore(MemoryStore):
    """Kills the process that commits: before a certain commit is written, or after."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0
        self.crash_at = -1
        self.written_first = False
        self.crash: Callable[[], None] = lambda: None

    async def commit(self, changes: ChangeSet, fence: Fence) -> None:
        self.attempts += 1
        doomed = self.attempts == self.crash_at
        if not doomed or self.written_first:
            await super().commit(changes, fence)
        if doomed:
            self.crash()
            await asyncio.Event().wait()


def make_job(schedule: JobSchedule, job_id: str) -> NewJob:
    """Jobs without tasks that last until somebody ends them, in the pool that the specification asks for."""
    job = new_job(job_id)
    job.schedule_id = schedule.id
    job.auto_pool = schedule.auto_pool
    if job.auto_pool is None:
        job.pool_id = schedule.spec["jobSpecification"]["poolInfo"]["poolId"]
        return NewJob(job)
    job.pool_id = schedule.pool_id or f"{job_id.replace(':', '_')}_pool"
    assert job.auto_pool == AutoPool(job.auto_pool.keep_alive, job.auto_pool.lifetime)
    assert (schedule.pool_id is not None) == (job.auto_pool.lifetime is PoolLifetimeOption.JOB_SCHEDULE)
    pool = new_pool(1, pool_id=job.pool_id)
    pool.vm_size = schedule.spec["jobSpecification"].get("vmSize", "local")
    return NewJob(job, None, pool)


class Lab:
    """One store and one provider; control planes come and go."""

    def __init__(self, settings: ControlSettings = SETTINGS) -> None:
        self.loop = VirtualLoop()
        self.store = CrashStore()
        self.store.crash = self.kill
        self.provider = FakeProvider()
        self.settings = settings
        self.skew_s = 0.0
        """How far the wall clock was set."""
        self.lives = 0
        self.crashes: list[int] = []
        """After how many of its callbacks each of the next control planes dies."""
        self._one_at_a_time = asyncio.Lock()
        self.process: Process | None = None
        self.control: ControlService | None = None

    def clock(self) -> Timestamp:
        return EPOCH + self.loop.time() + self.skew_s

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Run a test's coroutine, outside of every process, until it ends."""
        asyncio.set_event_loop(self.loop)
        try:
            return self.loop.run_until_complete(self.loop.world_task(main))
        finally:
            self.loop.bury()
            self.loop.close()
            asyncio.set_event_loop(None)

    async def start(self) -> None:
        self.lives += 1
        self.process = self.loop.process(f"control {self.lives}")
        if self.crashes:
            self.process.light_fuse(self.crashes.pop(), self.kill)
        self.control = ControlService(
            "account",
            self.store,
            self.provider,
            SIZES,
            secret=b"secret",
            account_url=lambda: "http://here/",
            settings=self.settings,
            make_job=make_job,
            clock=self.clock,
        )
        await self.call(lambda control: control.start())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    async def restart(self) -> None:
        self.kill()
        await self.keep_alive()

    async def call(self, ask: Callable[[ControlService], Coroutine[Any, Any, _T]]) -> _T:
        """Ask the control plane within its process. Raises Crashed when that dies."""
        assert self.process is not None
        assert self.control is not None
        process = self.process
        asked = process.spawn(ask(self.control))
        while not asked.done():
            if not process.alive:
                raise Crashed
            await asyncio.sleep(0.01)
        return asked.result()

    async def insist(self, ask: Callable[[ControlService], Coroutine[Any, Any, _T]]) -> _T | BatchError:
        """Ask until there is an answer, starting the control plane again when it has died. A refusal is an answer."""
        while True:
            try:
                await self.keep_alive()
                return await self.call(ask)
            except Crashed:
                await asyncio.sleep(1.0)
            except BatchError as error:
                if error.status < 500:
                    return error
                await asyncio.sleep(1.0)

    async def until(self, look: Callable[[], Awaitable[bool]], *, patience_s: float = 3600.0) -> None:
        """Wait for a condition on virtual time; the control plane is kept alive."""
        deadline = self.loop.time() + patience_s
        while not await look():
            assert self.loop.time() < deadline, "it never came about"
            await asyncio.sleep(0.5)
            await self.keep_alive()

    async def keep_alive(self) -> None:
        async with self._one_at_a_time:
            while self.process is None or not self.process.alive:
                try:
                    await self.start()
                except Crashed:
                    await asyncio.sleep(1.0)
