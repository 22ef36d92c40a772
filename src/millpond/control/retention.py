"""Getting rid of rows without holding anything up: the tasks of deleted jobs, a few at a time."""

import asyncio
import logging
from collections.abc import Callable

from millpond.control.engine import Engine
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, LeaseLost, StoreUnavailable
from millpond.domain.events import JobPurged
from millpond.domain.job import Job
from millpond.store.base import Fence, Store

log = logging.getLogger(__name__)


class Purger:
    """Deletes the task rows of deleting jobs in the background, then tells the engine."""

    def __init__(self, store: Store, clock: Callable[[], Timestamp], settings: ControlSettings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def purge(self, engine: Engine, job: Job) -> None:
        """Begin (or go on) purging; asking again for a job under way changes nothing."""
        if job.no in self._tasks:
            return
        task = asyncio.create_task(self._purge(engine, job.no, job.id), name=f"purge {job.id}")
        self._tasks[job.no] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.no, None))

    async def _purge(self, engine: Engine, job_no: int, job_id: str) -> None:
        while True:
            try:
                fence = engine.fence
                if fence is not None and await self._purge_all(job_no, fence):
                    await engine.submit(JobPurged(at=self._clock(), cause=f"purge {job_id}", job_id=job_id))
                    return
            except (BatchError, LeaseLost, StoreUnavailable) as error:
                log.info("purge of job %s waits: %s", job_id, error)
            await asyncio.sleep(self._settings.store_retry_s)

    async def _purge_all(self, job_no: int, fence: Fence) -> bool:
        chunk = self._settings.purge_chunk
        deleted = chunk
        while deleted == chunk:
            # One transaction each, so that commits of the living come between.
            deleted = await self._store.purge_tasks(job_no, chunk, fence)
        return True

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Sweeper:
    """Looks for rows that nothing refers to any more, now and then, a few at a time."""

    def __init__(self, store: Store, settings: ControlSettings) -> None:
        self._store = store
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sweep")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_interval_s)
            try:
                await self._sweep()
            except StoreUnavailable as error:
                log.info("rows that are left over stay for now: %s", error)

    async def _sweep(self) -> None:
        await self._store.forget_node_names(self._settings.sweep_chunk)
