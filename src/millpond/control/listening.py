"""One call for all nodes of a host: who is listened for, and for whom there is news.

Host and service go by places: a place is a node in one session, and a `Listener` all places of one host. Directives and
requests stay in each node's outbox; what is noted here is where to look.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from millpond.control.engine import Engine
from millpond.control.outbox import Outbox
from millpond.domain.durations import Timestamp
from millpond.protocol import messages as m

_BUSY_S: Final = 0.1
"""How long the directives for a node that is busy, and reports soon, wait for the answer to that."""
_MAX_DIRECTIVES: Final = 4096
"""In one answer, the last node's going in whole; the rest goes with the next."""


class NodeLink:
    """One node as the control plane reaches it."""

    __slots__ = (
        "_heard_at",
        "ear",
        "engine",
        "given_up",
        "measured",
        "metrics",
        "node_id",
        "outbox",
        "session",
        "token",
        "unheard",
        "watched",
    )

    def __init__(self, node_id: str, engine: Engine, now: float) -> None:
        """`now` is by the loop's clock, which nobody sets, as all times of silence are."""
        self.node_id = node_id
        self.engine = engine
        self.outbox = Outbox(self._note)
        self.token = b""
        """What it proves itself with, once it was asked for."""
        self.session = ""
        """Empty until the agent has said hello to this control plane, and after it fell silent."""
        self.ear: Ear | None = None
        """Where its host listens for it; None while it does not."""
        self._heard_at = now
        self.watched = False
        """Its silence means something: it has been in service."""
        self.given_up = False
        self.unheard = False
        """Its provider says that it is of no use: what its agent says does not count."""
        self.metrics: m.NodeMetrics | None = None
        """The last the agent told."""
        self.measured: Timestamp = 0.0
        """When it did."""

    @property
    def last_heard(self) -> float:
        """A call in which its host listens for it is a word of the node."""
        ear = self.ear
        if ear is None or ear.session != self.session:
            return self._heard_at
        return max(self._heard_at, ear.listener.last_heard)

    def heard(self, now: float) -> None:
        self._heard_at = now

    def end_session(self) -> None:
        """The agent is to say hello before it counts again."""
        self._heard_at = self.last_heard
        self.session = ""
        self._note()

    def begin_session(self, session: str) -> None:
        self.end_session()
        self.session = session
        self.outbox.reset()

    def _note(self) -> None:
        if self.ear is not None:
            self.ear.listener.note(self.ear)


class Ear:
    """A place: a node in the session in which it is listened for."""

    __slots__ = ("busy_until", "link", "listener", "place", "resend_at", "session")

    def __init__(self, listener: "Listener", place: int, link: NodeLink, session: str) -> None:
        self.listener = listener
        self.place = place
        self.link = link
        self.session = session
        self.busy_until = 0.0
        """It reports again before that, presumably."""
        self.resend_at = 0.0
        """When what was sent to it is to be sent again unless it was seen; 0 when all was."""

    def seen(self, revision: int) -> None:
        """The node has taken in all directives up to that revision."""
        outbox = self.link.outbox
        outbox.seen(revision)
        if not outbox.has_unseen:
            self.resend_at = 0.0

    def told_busy(self, now: float, *, busy: bool) -> None:
        """Whether the node, as it says, has more to report soon."""
        self.busy_until = now + _BUSY_S if busy else 0.0

    @property
    def is_deaf(self) -> bool:
        """The session is over. The host is told until it leaves the place."""
        return self.link.session != self.session


class Listener:
    """The nodes that one host listens for, and its call that is parked."""

    def __init__(self, resend_s: float) -> None:
        """A directive that was sent and not confirmed as seen is sent again after `resend_s`."""
        self.number = 0
        """Of the latest call."""
        self.last_heard = asyncio.get_running_loop().time()
        """When it came, or was answered."""
        self._resend_s = resend_s
        self._ears: dict[int, Ear] = {}
        self._due: dict[int, Ear] = {}
        """Those for which there may be something to say."""
        self._later: dict[int, Ear] = {}
        """The same, where it may wait."""
        self._later_at = 0.0
        self._sent: deque[tuple[float, list[Ear]]] = deque()
        """(when it is to be sent again unless it was seen, to whom something went out), the earliest first."""
        self._wake = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._ears)

    def links(self) -> Iterator[NodeLink]:
        return (ear.link for ear in self._ears.values())

    def heard(self, number: int) -> None:
        """A call has come: one that is parked has no more to wait for."""
        self.number = number
        self.last_heard = asyncio.get_running_loop().time()
        self._wake.set()

    def close(self) -> None:
        """Have what is parked answered, and park no more."""
        self._closed = True
        self._wake.set()

    # --- who is listened for ---

    def add(self, place: int, link: NodeLink, session: str) -> None:
        before = link.ear
        if before is not None and not before.is_deaf:
            before.listener.drop(before)
        ear = link.ear = self._ears[place] = Ear(self, place, link, session)
        if link.outbox.has_unseen or link.outbox.has_news:
            link.outbox.repeat()
            self.note(ear)

    def leave(self, places: Iterable[int]) -> None:
        for place in places:
            ear = self._ears.get(place)
            if ear is not None:
                self.drop(ear)

    def drop(self, ear: Ear) -> None:
        link = ear.link
        for known in (self._ears, self._due, self._later):
            known.pop(ear.place, None)
        ear.resend_at = 0.0
        if link.ear is ear:
            link.heard(link.last_heard)
            link.ear = None

    def drop_all(self) -> None:
        for ear in list(self._ears.values()):
            self.drop(ear)

    # --- what they are told ---

    def seen(self, seen: Iterable[tuple[int, int]]) -> None:
        """(place, revision up to which the node there has taken in everything)"""
        for place, revision in seen:
            ear = self._ears.get(place)
            if ear is not None and not ear.is_deaf:
                ear.seen(revision)

    def note(self, ear: Ear) -> None:
        """There may be something to say to the node."""
        place = ear.place
        if ear.busy_until and not (ear.is_deaf or ear.link.outbox.has_requests):
            now = asyncio.get_running_loop().time()
            if ear.busy_until > now:
                if not self._later:
                    self._later_at = now + _BUSY_S
                    self._wake.set()
                self._later[place] = ear
                return
        self._due[place] = ear
        self._wake.set()

    def sent(self, ears: list[Ear], now: float) -> None:
        """Something has gone out to these nodes, by whatever way: it is sent again unless that is confirmed."""
        resend_at = now + self._resend_s
        for ear in ears:
            ear.resend_at = resend_at
        self._sent.append((resend_at, ears))

    async def wait(self, park_s: float) -> None:
        """Return when there may be news, when the next call has come, or after `park_s`."""
        loop = asyncio.get_running_loop()
        number = self.number
        until = loop.time() + park_s
        while not self._closed and number == self.number:
            now = loop.time()
            self._look(now)
            if self._due or now >= until:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout_at(min(until, self._next_look(until))):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _next_look(self, until: float) -> float:
        if self._later:
            until = min(until, self._later_at)
        return min(until, self._sent[0][0]) if self._sent else until

    def _look(self, now: float) -> None:
        """What has waited long enough is due."""
        if self._later and now >= self._later_at:
            self._due.update(self._later)
            self._later.clear()
        while self._sent and self._sent[0][0] <= now:
            for ear in self._sent.popleft()[1]:
                if not 0.0 < ear.resend_at <= now:
                    continue  # it was seen, or more has gone out since
                if not ear.is_deaf:
                    ear.link.outbox.repeat()
                self._due[ear.place] = ear
        # All of it may have gone out by another way.
        if self._due and not any(ear.is_deaf or ear.link.outbox.has_news for ear in self._due.values()):
            self._due.clear()

    def collect(self) -> list[m.NodeNews]:
        """What there is to say, as far as it fits one answer."""
        news: list[m.NodeNews] = []
        told: list[Ear] = []
        due, self._due = self._due, {}
        room = _MAX_DIRECTIVES
        now = self.last_heard = asyncio.get_running_loop().time()
        for place, ear in due.items():
            if room <= 0:
                self._due[place] = ear
                continue
            if ear.is_deaf:
                told.append(ear)
                news.append(m.NodeNews(place, m.SyncReply(ear.session, session_unknown=True)))
                continue
            outbox = ear.link.outbox
            if not outbox.has_news:
                continue
            directives, file_requests = outbox.take()
            room -= len(directives)
            if directives:
                told.append(ear)
            # In the order of the fields: by name takes twice as long.
            reply = m.SyncReply(ear.session, False, directives, 0, file_requests, outbox.take_launches())
            news.append(m.NodeNews(place, reply))
        if told:
            self.sent(told, now)
        return news
