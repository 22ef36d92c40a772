"""The keeper of pools: their numbers, how many there may be, and what is asked of one."""

from collections.abc import Callable
from typing import Any, Final

from millpond.control.applications import Applications
from millpond.control.autoscaling import AutoScaling
from millpond.control.engines import Engines, memory_of, pool_not_found
from millpond.control.provisioning import Provisioning
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.autoscale import AutoScaleRun
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import Event
from millpond.domain.ids import id_key
from millpond.domain.job import SchedulingError
from millpond.domain.pool import Pool
from millpond.domain.states import ErrorCategory, NodeState
from millpond.domain.task import NameValue
from millpond.providers.base import VmSize
from millpond.scheduler.state import SchedulerState

_WITHOUT_MACHINE: Final = frozenset(
    {NodeState.PREEMPTED, NodeState.DEALLOCATING, NodeState.DEALLOCATED, NodeState.LEAVING_POOL}
)


class PoolKeeper:
    """What `control.base.ControlPlane` says of pools. Made and used in one event loop."""

    def __init__(
        self,
        engines: Engines,
        provisioning: Provisioning,
        autoscaling: AutoScaling,
        applications: Applications,
        vm_sizes: dict[str, VmSize],
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
    ) -> None:
        self._engines = engines
        self._provisioning = provisioning
        self._autoscaling = autoscaling
        self._applications = applications
        self._vm_sizes = vm_sizes
        self._clock = clock
        self._settings = settings
        self._next_no = 1

    def know(self, next_no: int) -> None:
        """What the store says; before engines are started."""
        self._next_no = next_no

    def learn_from(self, memory: SchedulerState) -> None:
        """See `jobs.JobKeeper.learn_from`."""
        if memory.pool is not None:
            self._next_no = max(self._next_no, memory.pool.no + 1)

    async def add(self, pool: Pool, cause: str) -> Pool:
        engine = await self._engines.started(pool.id)
        if self._quota_is_reached(pool.id):
            raise BatchError(
                ErrorCode.POOL_QUOTA_REACHED,
                f"There are {self._settings.pool_quota} pools, which is the limit: delete one, or raise "
                "account.pool_quota in the configuration.",
            )
        self._number(pool)
        await engine.submit(e.PoolAdded(at=self._clock(), cause=cause, pool=pool))
        return pool

    def _number(self, pool: Pool) -> None:
        pool.no = self._next_no
        self._next_no += 1

    def _quota_is_reached(self, pool_id: str) -> bool:
        """Whether a pool would be one too many; one that exists is none of them."""
        quota = self._settings.pool_quota
        keys = {id_key(pool.id) for pool in self._engines.pools()}
        return quota is not None and id_key(pool_id) not in keys and len(keys) >= quota

    def take_auto_pool(self, pool: Pool) -> SchedulingError | None:
        """Number a pool that a job is to have; why it cannot be made, as far as can be told beforehand."""
        self._number(pool)
        user_error = ErrorCategory.USER_ERROR
        if pool.vm_size.lower() not in self._vm_sizes:
            text = f"The VM size '{pool.vm_size}' of the auto pool is not in this service's catalogue"
            return SchedulingError(user_error, "InvalidAutoPoolSettings", text)
        checks: list[tuple[str, Callable[[], None]]] = []
        if (scale := pool.auto_scale) is not None:
            checks += [
                ("InvalidAutoScaleFormulaInAutoPool", lambda: self._autoscaling.check(scale.formula, None)),
                ("InvalidAutoPoolSettings", lambda: self._autoscaling.check(None, scale.interval_s)),
            ]
        checks.append(("InvalidApplicationPackageReferencesInAutoPool", lambda: self._applications.check(pool.spec)))
        for code, check in checks:
            try:
                check()
            except BatchError as error:
                details = tuple(NameValue(name, value) for name, value in error.values.items())
                return SchedulingError(user_error, code, error.message, details)
        if self._quota_is_reached(pool.id):
            text = f"The auto pool would be one more than the {self._settings.pool_quota} pools the account may have"
            return SchedulingError(user_error, "AutoPoolCreationFailedWithQuotaReached", text)
        return None

    async def submit(self, pool_id: str, event: Event) -> Any:
        return await self._engines.of_pool(pool_id).submit(event)

    async def evaluate_auto_scale(self, pool_id: str, formula: str) -> AutoScaleRun:
        return await self._autoscaling.evaluate(self._engines.of_pool(pool_id), formula)

    async def preempt_node(self, pool_id: str, node_id: str) -> None:
        memory = memory_of(self._engines.of_pool(pool_id))
        if memory.pool is None:
            raise pool_not_found(pool_id)
        node = memory.nodes.get(node_id)
        if node is None:
            raise BatchError(ErrorCode.NODE_NOT_FOUND, f"The node '{node_id[:80]}' does not exist.")
        row = node.row
        if row.is_dedicated:
            raise BatchError(
                ErrorCode.OPERATION_NOT_VALID_ON_NODE,
                "Only spot (low-priority) nodes are preempted; this is a dedicated one.",
            )
        if not row.handle or row.state in _WITHOUT_MACHINE:
            raise BatchError(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
                f"A node that is {row.state} cannot be preempted: it has no machine, or is losing it already.",
                NodeState=row.state.value,
            )
        await self._provisioning.preempt(row)
