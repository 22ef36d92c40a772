"""The engines of a service, by pool id."""

import asyncio
from collections.abc import Callable, Iterator

from millpond.control.engine import Engine
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.ids import id_key
from millpond.domain.pool import Pool
from millpond.scheduler.state import JobMemory, SchedulerState


def pool_not_found(pool_id: str) -> BatchError:
    return BatchError(ErrorCode.POOL_NOT_FOUND, f"The pool '{pool_id}' does not exist.", PoolId=pool_id)


def memory_of(engine: Engine) -> SchedulerState:
    """Raises BatchError ServerBusy while it is being rebuilt."""
    if engine.state is None:
        if engine.trouble:
            raise BatchError(
                ErrorCode.SERVER_BUSY, f"The pool's memory cannot be rebuilt: {engine.trouble}.", Reason=engine.trouble
            )
        raise BatchError(ErrorCode.SERVER_BUSY, "The pool's memory is being rebuilt; try again shortly.")
    return engine.state


class Engines:
    """One engine for each pool id that was ever asked for; a job may name a pool that does not exist yet."""

    def __init__(self, make: Callable[[str], Engine]) -> None:
        self._make = make
        self._engines: dict[str, Engine] = {}
        self._starting: dict[str, asyncio.Task[Engine]] = {}

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines.values())

    def get(self, pool_id: str) -> Engine | None:
        return self._engines.get(id_key(pool_id))

    def of_pool(self, pool_id: str) -> Engine:
        """Raises BatchError PoolNotFound."""
        engine = self.get(pool_id)
        if engine is None:
            raise pool_not_found(pool_id)
        return engine

    async def started(self, pool_id: str) -> Engine:
        """The engine of a pool id, started when it is first asked for.

        Raises what `Engine.start` raises: LeaseLost, StoreUnavailable."""
        engine = self.get(pool_id)
        if engine is not None:
            return engine
        key = id_key(pool_id)
        starting = self._starting.get(key)
        if starting is None:
            starting = self._starting[key] = asyncio.create_task(self._start(pool_id))
            starting.add_done_callback(lambda _: self._starting.pop(key, None))
        return await asyncio.shield(starting)

    async def _start(self, pool_id: str) -> Engine:
        engine = self._make(pool_id)
        await engine.start()
        self._engines[engine.pool_key] = engine
        return engine

    async def stop_starting(self) -> None:
        for task in self._starting.values():
            task.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Finish what is being committed."""
        for engine in self:
            await engine.stop()

    def pools(self) -> list[Pool]:
        """Those that memory has just now."""
        return [engine.state.pool for engine in self if engine.state is not None and engine.state.pool is not None]

    def job(self, pool_id: str, job_id: str) -> JobMemory | None:
        """A job of the pool id as memory has it just now."""
        engine = self.get(pool_id)
        return engine.state.jobs.get(id_key(job_id)) if engine is not None and engine.state is not None else None
