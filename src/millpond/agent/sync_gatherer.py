"""Reports of a host's nodes, sent together: a call costs more than what is in it."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Final, TypeAlias, cast

from millpond.agent.listening import TransportError
from millpond.protocol.messages import MAX_SYNCS, NodeReply, NodeSync, Sync, SyncReply

_IN_FLIGHT: Final = 2
"""Calls on their way: while what one brought is written to disk, the next may be read."""
_MAX_REPORTS: Final = 4096
"""In one call."""
_ANSWER_S: Final = 30.0

Send: TypeAlias = Callable[[list[NodeSync]], Awaitable[tuple[NodeReply, ...]]]
"""Raises TransportError."""


class SyncGatherer:
    """What is to be told while all calls are on their way goes with the next; what is alone goes at once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[tuple[NodeSync, asyncio.Future[SyncReply]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def sync(self, sync: Sync, token: str) -> SyncReply:
        """The answer to one node's sync. Raises TransportError."""
        answer: asyncio.Future[SyncReply] = asyncio.get_running_loop().create_future()
        self._waiting.append((NodeSync(token, sync), answer))
        if len(self._calls) < _IN_FLIGHT:
            self._calls.add(asyncio.create_task(self._call()))
        return await answer

    async def close(self) -> None:
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _call(self) -> None:
        try:
            # What is to be told in the same turn of the loop goes together.
            await asyncio.sleep(0)
            while self._waiting:
                await self._send_some()
        finally:
            # Now, and not when the loop notes that the task is done: who has been answered just now may have more to tell
            # before that, and would leave it to a call that looks no more.
            self._calls.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _send_some(self) -> None:
        several = self._take()
        if not several:
            return
        try:
            async with asyncio.timeout(_ANSWER_S):
                replies = await self._send([sync for sync, _ in several])
            failure = f"{len(replies)} answers to {len(several)} nodes"
        except Exception as error:
            replies, failure = (), str(error)
        for (_, answer), reply in zip_longest(several, replies[: len(several)]):
            if answer.done():
                continue
            if reply is None or len(replies) != len(several):
                answer.set_exception(TransportError(failure))
            elif reply.reply is None:
                answer.set_exception(TransportError(f"HTTP {reply.status}: {reply.error}"))
            else:
                answer.set_result(reply.reply)

    def _take(self) -> list[tuple[NodeSync, asyncio.Future[SyncReply]]]:
        """The next to go in one call. Whoever has given up meanwhile sends it again."""
        taken = 0
        reports = 0
        for one, _ in self._waiting[:MAX_SYNCS]:
            if taken and reports + len(one.sync.reports) > _MAX_REPORTS:
                break
            taken += 1
            reports += len(one.sync.reports)
        several, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return [(one, answer) for one, answer in several if not answer.done()]
