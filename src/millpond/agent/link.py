"""The asyncio loop of one node: hello, then listen and report, over a `Transport`.

What there is for the node comes with the call that its host has parked for all of its nodes (`listening`). Reports go in
syncs of their own, at once: while one is on its way, further reports gather and go in the next, and while work is queued
on the node they gather a little longer, so that a busy node sends large batches and an idle one none. The answers to them
bring all that is new, too. When the control plane is away calls are tried again with growing pauses (`pauses`); the node's
tasks run on meanwhile.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final, Protocol, runtime_checkable

from millpond.agent.listening import Listens, TransportError
from millpond.agent.node import NodeAgent
from millpond.agent.pauses import MAX_PAUSE_S, Pauses
from millpond.domain.errors import ErrorCode
from millpond.protocol.messages import (
    FileEntry,
    FileReply,
    FileRequest,
    Hello,
    LaunchReply,
    LaunchRequest,
    Sync,
    SyncReply,
    Welcome,
)

_log = logging.getLogger(__name__)

_ANSWER_S: Final = 30.0
"""How long the answer to a call may take."""
_MAX_FILE_ANSWERS: Final = 32
_MAX_FOLLOWED: Final = 256
_GATHER_S: Final = 0.05
"""The time between two syncs with reports while the node has work queued: a busy node need not hurry. Well below
`FEED_AHEAD_S` of the scheduler, so that the answer comes before the queue is empty."""


class Transport(Protocol):
    """How a node's calls reach the control plane. Every call raises TransportError when there is no proper answer."""

    async def hello(self, hello: Hello) -> Welcome: ...

    async def sync(self, sync: Sync) -> SyncReply: ...

    def listen(self, session: str, park_s: float, node: Listens) -> Callable[[], None]:
        """Have the node hear what there is for it in that session, until what is returned is called. Calls are parked
        for `park_s`."""
        ...

    async def send_file_reply(self, request_id: str, reply: FileReply, body: AsyncIterator[bytes] | None) -> None: ...

    async def send_launch_reply(self, request_id: str, reply: LaunchReply) -> None: ...


class Follow(Protocol):
    """Answers a request to follow a file, with its content as it grows."""

    def __call__(self, request: FileRequest, runs: Callable[[], bool]) -> AsyncIterator[bytes]: ...


class Files(Protocol):
    """Answers file requests below one node's root."""

    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        """The head of the answer, and the content of the file for a `read`. Never raises but for cancellation."""
        ...


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class NodeLink:
    """Keeps one node in touch with the control plane."""

    def __init__(
        self,
        agent: NodeAgent,
        transport: Transport,
        files: Files,
        *,
        chance: Callable[[], float],
        max_pause_s: float = MAX_PAUSE_S,
        welcomed: Callable[[Welcome], None] = lambda welcome: None,
        follow: Follow | None = None,
    ) -> None:
        """`follow` answers requests to follow a file; `welcomed` is told of every new session; `chance` and `max_pause_s` are
        those of `Pauses`."""
        self._agent = agent
        self._transport = transport
        self._files = files
        self._pauses = Pauses(chance, max_pause_s, unless=lambda: agent.leaving)
        self._max_pause_s = max_pause_s
        self._welcomed = welcomed
        self._follow = follow
        self._followed = 0
        self._park_s = 0.0
        self._refused = False
        """The control plane does not let the node listen: a reason to pause."""
        self._over = asyncio.Event()
        """It has ended that the node listens."""
        self._restarted = asyncio.Event()
        self._reporting: asyncio.Task[None] | None = None
        self._reported_at = 0.0
        """Event loop time of the last sync with reports."""
        self._hungry = asyncio.Event()
        """Nothing is queued any more: what has gathered must go now."""
        self._answers: set[asyncio.Task[None]] = set()
        self._answer_slots = asyncio.Semaphore(_MAX_FILE_ANSWERS)
        self.last_heard: float | None = None
        """Event loop time of the last answer to a call of its own, or with news for it."""

    async def run(self) -> None:
        """Stay in touch until the node leaves its pool; ends what it began when cancelled."""
        self._agent.on_reports = self._begin_reporting
        self._agent.on_restarted = self._restarted.set
        try:
            while not self._agent.leaving:
                if self._agent.restarting:
                    await self._wait_for_restart()
                elif self._agent.session:
                    await self._listen()
                else:
                    await self._hello()
        finally:
            self._agent.on_reports = self._agent.on_restarted = _nothing
            helpers = [*self._answers, *([self._reporting] if self._reporting else [])]
            for helper in helpers:
                helper.cancel()
            if helpers:
                await asyncio.wait(helpers)

    def nudge(self) -> None:
        """Something has changed (the node leaves, the service has moved): look at once, pause no longer."""
        self._pauses.end()
        self._hungry.set()
        if self._agent.leaving:
            self._restarted.set()
        if self._agent.leaving or not self._agent.session:
            self._over.set()

    # --- the session ---

    async def _wait_for_restart(self) -> None:
        self._restarted.clear()
        if self._agent.restarting:
            await self._restarted.wait()

    async def _hello(self) -> None:
        failures = 0
        while not self._agent.leaving:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    welcome = await self._transport.hello(self._agent.hello())
            except (TransportError, TimeoutError) as error:
                failures += 1
                if failures == 1:
                    _log.info("node %s: no hello: %s", self._agent.node_id, error or "no answer")
                await self._pauses.after(failures)
            else:
                self._heard()
                self._park_s = welcome.park_s
                self._agent.welcomed(welcome)
                self._welcomed(welcome)
                return

    async def _listen(self) -> None:
        """Until the session is lost or the node leaves."""
        failures = 0
        session = self._agent.session
        while self._agent.session == session and not self._agent.leaving:
            self._over.clear()
            self._refused = False
            leave = self._transport.listen(session, self._park_s, _Heard(self, session))
            begun = asyncio.get_running_loop().time()
            try:
                await self._over.wait()
            finally:
                leave()
            if self._refused:
                lasted_s = asyncio.get_running_loop().time() - begun
                failures = 1 if lasted_s > self._max_pause_s else failures + 1
                await self._pauses.after(failures)

    def stop_listening(self, why: str) -> None:
        """The control plane wants nothing of it."""
        _log.info("node %s: it is not listened for: %s", self._agent.node_id, why)
        self._refused = True
        self._over.set()

    def seen(self) -> int:
        return self._agent.seen()

    def take(self, session: str, reply: SyncReply) -> None:
        """What the control plane says to that session."""
        self._heard()
        self._agent.replied(session, reply)
        for request in reply.file_requests:
            self._begin_answer(self._answer_follow(request) if request.operation == "follow" else self._answer(request))
        for launch in reply.launch_requests:
            self._begin_answer(self._answer_launch(launch))
        if not self._agent.session or self._agent.leaving:
            self.nudge()

    def _heard(self) -> None:
        self.last_heard = asyncio.get_running_loop().time()

    # --- reports ---

    def _begin_reporting(self) -> None:
        if not self._agent.has_queued:
            self._hungry.set()
        if self._reporting is None and self._agent.session and not self._agent.leaving:
            self._reporting = asyncio.create_task(self._report())

    async def _report(self) -> None:
        failures = 0
        try:
            # What ends in the same turn of the loop goes in the same sync.
            await asyncio.sleep(0)
            while self._agent.has_reports and self._agent.session and not self._agent.leaving:
                await self._gather()
                sync = self._agent.report()
                self._reported_at = asyncio.get_running_loop().time()
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        reply = await self._transport.sync(sync)
                except (TransportError, TimeoutError):
                    failures += 1
                    await self._pauses.after(failures)
                    continue
                self.take(sync.session, reply)
                if reply.retry_after_s > 0:
                    await self._pauses.last(reply.retry_after_s)
                elif sync.reports and reply.acknowledged < sync.reports[-1].seq:
                    failures += 1
                    await self._pauses.after(failures)
                else:
                    failures = 0
        except Exception:
            _log.exception("node %s: reporting failed; it goes on with the next report", self._agent.node_id)
        finally:
            self._reporting = None

    async def _gather(self) -> None:
        """Let reports gather while the node is busy; return at once when it has nothing queued to go on with.

        It ends at a whole multiple of the time, which is the same for all nodes of a host: what they have to tell goes
        in one call.
        """
        until = math.ceil(self._reported_at / _GATHER_S + 0.5) * _GATHER_S
        if until <= asyncio.get_running_loop().time() or not self._agent.has_queued:
            return
        self._hungry.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._hungry.wait()
        except TimeoutError:
            pass

    # --- what is asked besides ---

    def _begin_answer(self, answering: Coroutine[None, None, None]) -> None:
        answer = asyncio.create_task(answering)
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer_launch(self, request: LaunchRequest) -> None:
        try:
            reply = await self._agent.launch(request)
        except Exception:
            _log.exception("node %s: a command of task %d", self._agent.node_id, request.key)
            reply = LaunchReply(error=ErrorCode.INTERNAL_ERROR, message="The node agent failed.")
        try:
            await self._transport.send_launch_reply(request.id, reply)
        except TransportError as error:
            # It is asked for again.
            _log.info("node %s: answer %s not delivered: %s", self._agent.node_id, request.id, error)

    async def _answer(self, request: FileRequest) -> None:
        async with self._answer_slots:
            try:
                reply, body = await self._files.handle(request)
            except Exception:
                _log.exception("node %s: %s of %s", self._agent.node_id, request.operation, request.path)
                reply, body = FileReply(error=ErrorCode.INTERNAL_ERROR, message="The node agent failed."), None
            await self._send_answer(request, reply, body)

    async def _answer_follow(self, request: FileRequest) -> None:
        """In no queue with the others: it may last for days."""
        if self._follow is None or self._followed >= _MAX_FOLLOWED:
            code = ErrorCode.NOT_IMPLEMENTED if self._follow is None else ErrorCode.SERVER_BUSY
            message = f"No more than {_MAX_FOLLOWED} files of a node are followed at a time." if self._follow else ""
            await self._send_answer(request, FileReply(error=code, message=message), None)
            return
        self._followed += 1
        try:
            body = self._follow(request, lambda: self._agent.runs(request.key, request.attempt))
            await self._send_answer(request, FileReply(entries=(FileEntry(request.path, is_directory=False),)), body)
        finally:
            self._followed -= 1

    async def _send_answer(self, request: FileRequest, reply: FileReply, body: AsyncIterator[bytes] | None) -> None:
        try:
            await self._transport.send_file_reply(request.id, reply, body)
        except TransportError as error:
            # The asker gives up by itself, or has done so.
            _log.info("node %s: file answer %s not delivered: %s", self._agent.node_id, request.id, error)
        finally:
            if isinstance(body, _Closable):
                await body.aclose()


def _nothing() -> None:
    pass


class _Heard:
    """`Listens` of a link in one session."""

    def __init__(self, link: NodeLink, session: str) -> None:
        self._link = link
        self._session = session

    def hear(self, reply: SyncReply) -> None:
        self._link.take(self._session, reply)

    def refused(self, why: str) -> None:
        self._link.stop_listening(why)

    def seen(self) -> int:
        return self._link.seen()
