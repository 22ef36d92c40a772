"""The node provider of a simulated cluster: the fake one, reached over a slow and unsure connection."""

import asyncio
from collections.abc import Sequence
from random import Random

from millpond.domain.errors import ProviderError
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
        self.lies = 0.0
        """How likely `observe` says of a node that is there that it is of no use, or that it is still up when it is
        not; and how likely `create` and `delete` fail after the deed."""

    async def create(self, requests: Sequence[NodeRequest]) -> list[NodeCreated | NodeRefused]:
        await self._wait()
        answers = await self._inner.create(requests)
        await self._wait()
        self._deny()
        return answers

    async def observe(self, handles: Sequence[str]) -> list[NodeStatus]:
        await self._wait()
        statuses = await self._inner.observe(handles)
        self._inner.calls.clear()
        await self._wait()
        if not self.no_answer and not self.lies:
            return statuses
        return [self._told(status) for status in statuses]

    def _told(self, status: NodeStatus) -> NodeStatus:
        if self._random.random() < self.no_answer:
            return NodeStatus.UNKNOWN
        if self._random.random() < self.lies:
            return NodeStatus.FAILED if status is NodeStatus.UP else NodeStatus.UP
        return status

    def _deny(self) -> None:
        if self.lies and self._random.random() < self.lies:
            raise ProviderError("AnswerLost", "simulated: the answer was lost", retryable=True)

    async def delete(self, handles: Sequence[str]) -> None:
        await self._wait()
        await self._inner.delete(handles)
        await self._wait()
        self._deny()

    async def preempt(self, handles: Sequence[str]) -> None:
        await self._wait()
        await self._inner.preempt(handles)
        await self._wait()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def _wait(self) -> None:
        await asyncio.sleep(self._random.uniform(0.1, 1.0) * self.latency_s)
