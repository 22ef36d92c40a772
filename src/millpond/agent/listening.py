"""A host's call that is always parked at the control plane: it brings what there is for any of the host's nodes.

Each node in a session has a place. A call tells what has changed since the last one that was answered: places that are new
or left, and what was seen where. While a call is parked, changes go with another, which takes its place there; those that
come close together go with one. The answer to any of them counts, however late. When the control plane is away the call
is tried again with growing pauses (`pauses`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

from millpond.agent.pauses import MAX_PAUSE_S, Pauses
from millpond.protocol.messages import Listen, Listening, News, NodeMetrics, NodeNews, SyncReply

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 30.0
"""How much longer than it is parked a call may take."""
_GATHER_S: Final = 0.05
"""Between two calls of which the first is not answered yet."""
_EMPTY_ANSWER_S: Final = 0.02
"""A call that is answered sooner than this, with nothing in it, was not parked."""

Send: TypeAlias = Callable[[Listen], Awaitable[News]]
"""Raises TransportError."""


class TransportError(Exception):
    """The call may or may not have arrived, and has no answer."""


class Listens(Protocol):
    """A node in one session, as it hears of what there is for it."""

    def hear(self, reply: SyncReply) -> None:
        """What the control plane says; also that it does not know the session."""
        ...

    def refused(self, why: str) -> None:
        """It is not listened for."""
        ...

    def seen(self) -> int:
        """The highest directive revision of the session that was taken in, which is written down."""
        ...


class _Place(NamedTuple):
    node_id: str
    token: str
    session: str
    node: Listens


class HostListening:
    """What the nodes of a host are told comes in here. `close` ends it."""

    def __init__(
        self, send: Send, *, host_id: str, chance: Callable[[], float], max_pause_s: float = MAX_PAUSE_S
    ) -> None:
        """`host_id` is made up at random, and nobody else's to know. `chance` and `max_pause_s` are those of
        `Pauses`."""
        self._send = send
        self._host_id = host_id
        self._pauses = Pauses(chance, max_pause_s)
        self._park_s = 0.0
        self._last_place = 0
        self._places: dict[int, _Place] = {}
        self._untold: dict[int, None] = {}
        """Places that no call told of that was answered."""
        self._left: dict[int, None] = {}
        """The same for places that were left."""
        self._heard: dict[int, int] = {}
        """Where directives were heard → the latest call at that time: what was seen there is to be told with the next."""
        self._has_more = False
        """A place has joined since the latest call."""
        self._metrics: NodeMetrics | None = None
        self._begins = True
        self._number = 0
        self._void = 0
        """The latest call when the service was last found to know nothing."""
        self._asked_at = 0.0
        self._failures = 0
        self._running: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[bool]] = set()
        self._wake = asyncio.Event()
        self.last_heard: float | None = None
        """Event loop time of the last answer."""

    def join(self, node_id: str, token: str, session: str, park_s: float, node: Listens) -> int:
        """Listen for the node in that session; the place to `leave` at its end."""
        self._last_place += 1
        place = self._last_place
        self._park_s = park_s
        self._places[place] = _Place(node_id, token, session, node)
        self._untold[place] = None
        self._has_more = True
        self._wake.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return place

    def leave(self, place: int) -> None:
        """The next call says so."""
        if self._places.pop(place, None) is not None:
            self._untold.pop(place, None)
            self._heard.pop(place, None)
            self._left[place] = None
            if not self._places:
                self._wake.set()

    def tell(self, metrics: NodeMetrics) -> None:
        """How busy the machine is: told with the next call."""
        self._metrics = metrics

    def nudge(self) -> None:
        """The service may have moved: pause no longer."""
        self._pauses.end()

    async def close(self) -> None:
        tasks = [*self._calls, *([self._running] if self._running is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- calls ---

    async def _run(self) -> None:
        """Keep a call parked as long as there is a node to listen for."""
        try:
            # What joins in the same turn of the loop goes with the first call.
            await asyncio.sleep(0)
            while self._places:
                latest = self._begin_call()
                while self._places and not (latest.done() or self._has_more):
                    self._wake.clear()
                    await self._wake.wait()
                if latest.done():
                    self._failures = 0 if latest.result() else self._failures + 1
                    if self._failures:
                        await self._pauses.after(self._failures)
                elif self._places:
                    await asyncio.sleep(max(0.0, self._asked_at + _GATHER_S - asyncio.get_running_loop().time()))
        finally:
            self._running = None
            for call in self._calls:
                call.cancel()

    def _begin_call(self) -> asyncio.Task[bool]:
        self._number += 1
        self._has_more = False
        self._asked_at = asyncio.get_running_loop().time()
        metrics, self._metrics = self._metrics, None
        call = Listen(
            self._host_id,
            self._number,
            self._begins,
            tuple([self._listening(place) for place in self._untold]),
            tuple(self._left),
            tuple([(place, self._places[place].node.seen()) for place in self._heard]),
            metrics,
        )
        task = asyncio.create_task(self._call(call))
        self._calls.add(task)
        task.add_done_callback(self._called)
        return task

    def _listening(self, place: int) -> Listening:
        it = self._places[place]
        return Listening(place, it.node_id, it.token, it.session, it.node.seen())

    def _called(self, task: asyncio.Task[bool]) -> None:
        self._calls.discard(task)
        self._wake.set()

    async def _call(self, call: Listen) -> bool:
        """Whether it was answered as it should be."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._park_s + _ANSWER_S):
                news = await self._send(call)
        except (TransportError, TimeoutError) as error:
            if not self._failures:
                _log.info("the host's nodes: no answer: %s", error or "in time")
            return False
        self.last_heard = loop.time()
        if not news.overtaken:
            self._confirmed(call, unknown=news.unknown)
        for one in news.nodes:
            self._hear(one)
        return bool(news.nodes) or news.unknown or self.last_heard - self._asked_at > _EMPTY_ANSWER_S

    def _confirmed(self, call: Listen, *, unknown: bool) -> None:
        """The service knows what the call told, or nothing at all. Then answers to calls of before say nothing of what it
        knows now."""
        if call.number <= self._void:
            return
        if unknown:
            self._void = self._number
            self._begins = True
            self._untold = dict.fromkeys(self._places)
            self._left.clear()
            self._heard.clear()
            return
        if call.begins:
            self._begins = False
        for node in call.nodes:
            self._untold.pop(node.place, None)
        for place in call.left:
            self._left.pop(place, None)
        for place, _ in call.seen:
            if self._heard.get(place, call.number) < call.number:
                del self._heard[place]

    def _hear(self, news: NodeNews) -> None:
        it = self._places.get(news.place)
        if it is None:
            return
        try:
            if news.reply is None:
                it.node.refused(f"HTTP {news.status}: {news.error}")
            else:
                if news.reply.directives:
                    self._heard[news.place] = self._number
                it.node.hear(news.reply)
        except Exception:
            # One node that fails is no other's business; what it was told comes again.
            _log.exception("node %s: what it was told", it.node_id)
