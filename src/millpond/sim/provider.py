"""The node provider of a simulated cluster: the fake one, reached over a slow and unsure connection."""

import asyncio
from collections.abc import Sequence
from random import Random

from millpond.providers.base import NodeCreated, NodeRefused, NodeRequest, NodeStatus
from millpond.providers.fake import FakeProvider


class SlowProvider:
    """A `NodeProvider` that takes its time before and after the deed, and sometimes gives no answer."""

    name = "slow"

    def __init__(self, inner: FakeProvider, random: Random) -> None:
        self._inner = inner
        self._random = random
        self.latency_s = 0.05
        self.no_answer = 0.0
        """How likely `observe` says UNKNOWN of a node."""

    async def create(self, requests: Sequence[NodeRequest]) -> list[NodeCreated | NodeRefused]:
        await self._wait()
        answers = await self._inner.create(requests)
        await self._wait()
        return answers

    async def observe(self, handles: Sequence[str]) -> list[NodeStatus]:
        await self._wait()
        statuses = await self._inner.observe(handles)
        self._inner.calls.clear()
        await self._wait()
        if not self.no_answer:
            return statuses
        return [NodeStatus.UNKNOWN if self._random.random() < self.no_answer else status for status in statuses]

    async def delete(self, handles: Sequence[str]) -> None:
        await self._wait()
        await self._inner.delete(handles)
        await self._wait()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _wait(self) -> None:
        await asyncio.sleep(self._random.uniform(0.1, 1.0) * self.latency_s)
