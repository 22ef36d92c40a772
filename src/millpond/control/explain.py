"""Why something waits: a look at an engine's memory, which changes nothing."""

from millpond.control.engines import Engines, memory_of, pool_not_found
from millpond.control.jobs import JobKeeper
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.explanation import Explanation
from millpond.scheduler import explain, explain_nodes
from millpond.store.base import Store


class Explainer:
    """What `control.base.ControlPlane` says of explanations."""

    def __init__(self, store: Store, engines: Engines, jobs: JobKeeper) -> None:
        self._store = store
        self._engines = engines
        self._jobs = jobs

    async def task(self, job_id: str, task_id: str) -> Explanation:
        state = await self._jobs.memory(job_id)
        try:
            return explain.explain_task(state, job_id, task_id)
        except BatchError as error:
            if error.code is not ErrorCode.TASK_NOT_FOUND:
                raise
            # Memory lets go of the tasks of jobs that are over.
            row = await self._store.get_task(job_id, task_id)
            if row is None:
                raise
            return explain.explain_task(await self._jobs.memory(job_id), job_id, task_id, row.task)

    async def job(self, job_id: str) -> Explanation:
        return explain.explain_job(await self._jobs.memory(job_id), job_id)

    async def pool(self, pool_id: str) -> Explanation:
        return explain_nodes.explain_pool(memory_of(self._engines.of_pool(pool_id)))

    async def node(self, pool_id: str, node_id: str) -> Explanation:
        state = memory_of(self._engines.of_pool(pool_id))
        if state.pool is None:
            raise pool_not_found(pool_id)
        return explain_nodes.explain_node(state, node_id)
