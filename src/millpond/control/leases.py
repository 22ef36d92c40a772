"""The leases of all engines are renewed together: one transaction, however many pools there are."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.errors import StoreUnavailable
from millpond.store.base import Fence, Store

log = logging.getLogger(__name__)


class LeaseKeeper:
    """See the module. That a lease was lost is only told: the engine learns it by its next commit, which is fenced."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        fences: Callable[[], Iterable[Fence | None]],
    ) -> None:
        """`fences` are those of all engines; None for one that holds no lease just now."""
        self._store = store
        self._clock = clock
        self._settings = settings
        self._fences = fences
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="leases")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        settings = self._settings
        while True:
            await asyncio.sleep(settings.lease_ttl_s / 3)
            held = [fence for fence in self._fences() if fence is not None]
            try:
                lost = await self._store.renew_leases(held, settings.owner, self._clock(), settings.lease_ttl_s)
            except StoreUnavailable as error:
                log.warning("%d leases could not be renewed: %s", len(held), error)
                continue
            for fence in lost:
                log.warning("the lease of %s was lost", fence.pool_key)
