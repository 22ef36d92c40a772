"""A scripted control plane, and a runner that ends attempts when told to."""

import asyncio
from collections.abc import AsyncIterator, Callable

from millpond.agent.base import NodeFacts, Outcome, Runner
from millpond.agent.link import NodeLink
from millpond.agent.listening import HostListening, Listens, TransportError
from millpond.agent.local_state import MemoryJournal
from millpond.agent.node import NodeAgent
from millpond.domain.durations import Timestamp
from millpond.protocol.messages import (
    Directive,
    FileReply,
    FileRequest,
    Hello,
    LaunchReply,
    LaunchRequest,
    Listen,
    Listening,
    News,
    NodeNews,
    Report,
    Start,
    Sync,
    SyncReply,
    Welcome,
)


def start(revision: int, key: int, attempt: int = 1, *, slots: int = 1) -> Start:
    return Start(revision, key, attempt, job_id="j", task_id=f"t{key}", slots=slots, spec=b"{}")


class FakeRunner(Runner):
    """Attempts run until `end`; those of `at_once` end by themselves."""

    def __init__(self) -> None:
        self.facts: list[NodeFacts] = []
        self.launches: list[tuple[int, int, bool]] = []
        self.running: dict[tuple[int, int], asyncio.Future[Outcome]] = {}
        self.stops: list[tuple[int, int]] = []
        self.removed: list[tuple[str, str]] = []
        self.at_once = False
        self.closed = 0
        self.coordinates: dict[tuple[int, int], Callable[[], None]] = {}
        self.proceeded: list[tuple[int, int]] = []

    def make(self, facts: NodeFacts) -> "FakeRunner":
        self.facts.append(facts)
        return self

    async def run(
        self,
        start: Start,
        started: Callable[[Timestamp], None],
        *,
        resumed: bool,
        began: Timestamp | None = None,
        coordinated: Callable[[], None] = lambda: None,
        width: int = 0,
        ahead: bool = False,
    ) -> Outcome:
        ref = (start.key, start.attempt)
        self.launches.append((*ref, resumed))
        self.coordinates[ref] = coordinated
        end = self.running[ref] = asyncio.get_running_loop().create_future()
        started(1.0)
        if self.at_once:
            end.set_result(Outcome(1.0, 2.0, 0))
        try:
            return await end
        finally:
            del self.running[ref]

    def end(self, key: int, attempt: int = 1, exit_code: int = 0) -> None:
        self.running[key, attempt].set_result(Outcome(1.0, 2.0, exit_code))

    def proceed(self, key: int, attempt: int) -> None:
        self.proceeded.append((key, attempt))

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        if request.command == "broken":
            raise RuntimeError("broken")
        return LaunchReply(exit_code=len(request.command))

    async def stop(self, key: int, attempt: int) -> None:
        self.stops.append((key, attempt))
        end = self.running.get((key, attempt))
        if end is not None and not end.done():
            end.set_result(Outcome(1.0, 2.0, -9))

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        self.removed.append((job_id, task_id))

    async def close(self) -> None:
        self.closed += 1


class FakeListener:
    """Calls that listen for the nodes of one host, each with a control of its own."""

    def __init__(self, control_of: Callable[[str], "FakeControl"]) -> None:
        self.control_of = control_of
        self.calls: list[Listen] = []
        self.parked = 0
        self.parks = True
        self._host_id = ""
        self._number = 0
        self._places: dict[int, Listening] = {}
        self._news = asyncio.Event()

    def poke(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def forget(self) -> None:
        """As after a restart."""
        self._host_id = ""

    async def listen(self, call: Listen) -> News:
        self.calls.append(call)
        if call.id != self._host_id:
            if not call.begins:
                return News(unknown=True)
            self._host_id, self._number, self._places = call.id, 0, {}
        if call.number <= self._number:
            return News(overtaken=True)
        self._number = call.number
        self._places |= {node.place: node for node in call.nodes}
        for place in call.left:
            self._places.pop(place, None)
        for place, revision in (*call.seen, *((node.place, node.seen) for node in call.nodes)):
            if place in self._places:
                self.control_of(self._places[place].node_id).seen(revision)
        self.poke()  # what is parked has no more to wait for
        while not (news := self._collect()) and self.parks and call.number == self._number:
            self.parked += 1
            try:
                await self._news.wait()
            finally:
                self.parked -= 1
            if any(self.control_of(node.node_id).down for node in self._places.values()):
                raise TransportError("connection reset")
        return News(news if call.number == self._number else ())

    def _collect(self) -> tuple[NodeNews, ...]:
        found = ((place, self.control_of(it.node_id).news(it.session)) for place, it in self._places.items())
        return tuple(NodeNews(place, reply) for place, reply in found if reply is not None)


class FakeControl:
    """The other end of a node: directives until they are seen, reports acknowledged when `acknowledges`."""

    def __init__(self, listener: FakeListener | None = None) -> None:
        """The `listener` of a host of several nodes; without, the node is alone on its own."""
        self.listener = listener or FakeListener(lambda node_id: self)
        self.pool_id = "p"
        self.sessions = 0
        self.session = ""
        self.down = False
        self.deaf = False
        """Calls never come back."""
        self.acknowledges = True
        self.retry_after_s = 0.0
        self.hellos: list[Hello] = []
        self.syncs: list[Sync] = []
        self.reports: dict[int, Report] = {}
        self.directives: list[Directive] = []
        self.file_requests: list[FileRequest] = []
        self.file_replies: list[tuple[str, FileReply, bytes]] = []
        self.launch_requests: list[LaunchRequest] = []
        self.launch_replies: dict[str, LaunchReply] = {}
        self.account_url = "http://a"
        self.park_s = 60.0
        self.task_slots = 4
        self._listening: HostListening | None = None

    def tell(self, *directives: Directive) -> None:
        self.directives += directives
        self.poke()

    def ask(self, request: FileRequest) -> None:
        self.file_requests.append(request)
        self.poke()

    def poke(self) -> None:
        self.listener.poke()

    @property
    def parked(self) -> int:
        return self.listener.parked

    def seen(self, revision: int) -> None:
        self.directives = [directive for directive in self.directives if directive.revision > revision]

    def news(self, session: str) -> SyncReply | None:
        """What there is to say to that session."""
        if session != self.session:
            return SyncReply(session=session, session_unknown=True)
        if not (self.directives or self.file_requests or self.launch_requests):
            return None
        return self._reply(0)

    def _reply(self, acknowledged: int) -> SyncReply:
        requests, self.file_requests = tuple(self.file_requests), []
        launches, self.launch_requests = tuple(self.launch_requests), []
        return SyncReply(
            session=self.session,
            directives=tuple(self.directives),
            acknowledged=acknowledged,
            file_requests=requests,
            launch_requests=launches,
        )

    def forget(self) -> None:
        """As after a restart of the control plane."""
        self.session = ""
        self.listener.forget()
        self.directives.clear()

    async def hello(self, hello: Hello) -> Welcome:
        await self._reach()
        self.hellos.append(hello)
        self.sessions += 1
        self.session = f"s{self.sessions}"
        if self.sessions > 1:
            # They were for the session before.
            self.directives.clear()
        return Welcome(
            session=self.session,
            pool_id=self.pool_id,
            account_name="a",
            account_url=self.account_url,
            is_dedicated=True,
            task_slots=self.task_slots,
            park_s=self.park_s,
        )

    async def sync(self, sync: Sync) -> SyncReply:
        await self._reach()
        self.syncs.append(sync)
        if sync.session != self.session:
            return SyncReply(session=sync.session, session_unknown=True)
        self.seen(sync.seen)
        acknowledged = 0
        if sync.reports:
            if self.retry_after_s:
                return SyncReply(session=self.session, retry_after_s=self.retry_after_s)
            if self.acknowledges:
                self.reports |= {report.seq: report for report in sync.reports}
                acknowledged = sync.reports[-1].seq
        return self._reply(acknowledged)

    def listen(self, session: str, park_s: float, node: Listens) -> Callable[[], None]:
        if self._listening is None:
            host_id = f"host {self.sessions}"
            self._listening = HostListening(self._listen, host_id=host_id, chance=lambda: 0.5, max_pause_s=0.05)
        listening = self._listening
        place = listening.join("n1", "", session, park_s, node)
        return lambda: listening.leave(place)

    async def close(self) -> None:
        """The node's process ends."""
        if self._listening is not None:
            await self._listening.close()
            self._listening = None

    async def _listen(self, call: Listen) -> News:
        await self._reach()
        return await self.listener.listen(call)

    async def send_file_reply(self, request_id: str, reply: FileReply, body: AsyncIterator[bytes] | None) -> None:
        await self._reach()
        content = b"".join([chunk async for chunk in body]) if body is not None else b""
        self.file_replies.append((request_id, reply, content))

    async def send_launch_reply(self, request_id: str, reply: LaunchReply) -> None:
        await self._reach()
        self.launch_replies[request_id] = reply

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.deaf:
            await asyncio.Event().wait()
        if self.down:
            raise TransportError("connection refused")


class FakeFiles:
    def __init__(self) -> None:
        self.closed = 0

    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        if request.path == "broken":
            raise RuntimeError("broken")
        return FileReply(message=request.path), self._content() if request.operation == "read" else None

    async def _content(self) -> AsyncIterator[bytes]:
        try:
            yield b"one "
            yield b"two"
        finally:
            self.closed += 1


class Node:
    """A node with fakes all around, its link running between `begin` and `close`."""

    def __init__(self, control: FakeControl, runner: FakeRunner | None = None) -> None:
        self.control = control
        self.runner = runner or FakeRunner()
        self.journal = MemoryJournal()
        self.files = FakeFiles()
        self.at = 100.0
        self.wipes = 0
        self.wipe_fails = False

    def wipe(self) -> None:
        self.wipes += 1
        if self.wipe_fails:
            raise OSError("the disk is busy")

    def begin(self) -> None:
        self.agent = NodeAgent(
            "n1",
            root="/nowhere",
            task_slots=4,
            journal=self.journal,
            runner_factory=self.runner.make,
            clock=lambda: self.at,
            wipe=self.wipe,
        )
        self.agent.begin()
        self.link = NodeLink(self.agent, self.control, self.files, chance=lambda: 0.5, max_pause_s=0.05)
        self.task = asyncio.create_task(self.link.run())

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.control.close()
        await self.agent.close()

    async def crash(self) -> None:
        """The process dies: nothing more is written down."""
        records = list(self.journal.records)
        await self.close()
        self.journal.records = records
