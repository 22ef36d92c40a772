"""The node side: sessions, who listens, reports, silence. What `api/agent_routes` hands the agents' calls to."""

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from millpond.control.engine import Engine
from millpond.control.files import FileRequests
from millpond.control.identities import Identities
from millpond.control.launches import Launches
from millpond.control.listening import Listener, NodeLink
from millpond.control.logs import LogKeeper
from millpond.control.outbox import Outbox
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.durations import Timestamp, whole_microseconds
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import AttemptEnd, Event
from millpond.domain.pool import Pool
from millpond.protocol import messages as m
from millpond.scheduler.state import SchedulerState

log = logging.getLogger(__name__)

_TOLD_TO_NODES = ("enableInterNodeCommunication", "networkConfiguration", "userAccounts")


def node_token(secret: bytes, node_id: str) -> str:
    """A node's own secret for the agent protocol: derived, so that nothing need be stored."""
    return hmac.new(secret, b"node:" + node_id.encode(), hashlib.sha256).hexdigest()


def _pool_spec(pool: Pool | None) -> bytes:
    """What a node gets to know of its pool's definition."""
    spec = pool.spec if pool is not None else {}
    return msgspec.json.encode({name: spec[name] for name in _TOLD_TO_NODES if name in spec})


async def _take_in(engine: Engine, events: list[Event]) -> BatchError | None:
    """Returns when what the events changed is on disk, or with why it is not."""
    try:
        await engine.submit_all(events)
    except BatchError as error:
        return error
    return None


def _event_of(report: m.Started | m.Coordinated | m.Stopped | m.Returned, node_id: str, at: Timestamp) -> Event:
    cause = f"report {report.seq}"
    match report:
        case m.Started(_, key, attempt, start_time):
            return e.TaskStarted(
                at=at,
                cause=cause,
                node_id=node_id,
                key=key,
                attempt=attempt,
                start_time=whole_microseconds(start_time),
            )
        case m.Coordinated(_, key, attempt):
            return e.InstanceCoordinated(at=at, cause=cause, node_id=node_id, key=key, attempt=attempt)
        case m.Stopped(_, key, attempt, exit_code):
            return e.TaskStopped(at=at, cause=cause, node_id=node_id, key=key, attempt=attempt, exit_code=exit_code)
        case m.Returned(_, key, attempt):
            return e.TaskReturned(at=at, cause=cause, node_id=node_id, key=key, attempt=attempt)


def _not_found(node_id: str) -> BatchError:
    return BatchError(ErrorCode.NODE_NOT_FOUND, f"The node '{node_id}' is in no pool of this service.")


def _reply(link: NodeLink, sync: m.Sync, now: float, *, acknowledged: int) -> m.SyncReply:
    """With all that waits for the node."""
    if sync.session != link.session:
        return m.SyncReply(session=sync.session, session_unknown=True, acknowledged=acknowledged)
    link.heard(now)
    outbox = link.outbox
    directives, file_requests = outbox.take()
    if directives and link.ear is not None:
        link.ear.listener.sent([link.ear], now)
    return m.SyncReply(sync.session, False, directives, acknowledged, file_requests, outbox.take_launches())


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


class NodeLinks:
    """All nodes of all pools this control plane owns, by node id; the agents' calls land here."""

    def __init__(
        self,
        secret: bytes,
        account_name: str,
        account_url: Callable[[], str],
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        files: FileRequests,
        identities: Identities,
        logs: LogKeeper,
    ) -> None:
        self._secret = secret
        self._account_name = account_name
        self._account_url = account_url
        self._clock = clock
        self._settings = settings
        self._files = files
        self._identities = identities
        self._logs = logs
        self._launches = Launches(secret, lambda: self)
        self._links: dict[str, NodeLink] = {}
        self._listeners: dict[str, Listener] = {}
        """By the hosts' ids."""
        self._monitor: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._monitor = asyncio.create_task(self._watch(), name="node monitor")

    async def close(self) -> None:
        """Let parked calls answer and end the monitor."""
        self._closing = True
        self._launches.close()
        for listener in self._listeners.values():
            listener.close()
        if self._monitor is not None:
            self._monitor.cancel()
            await asyncio.gather(self._monitor, return_exceptions=True)

    # --- links ---

    def add(self, engine: Engine, node_id: str) -> NodeLink:
        """Know a node; knowing it already is fine."""
        link = self._links.get(node_id)
        if link is None or link.engine is not engine:
            link = self._links[node_id] = NodeLink(node_id, engine, _monotonic())
        return link

    def get(self, node_id: str) -> NodeLink | None:
        return self._links.get(node_id)

    def begin_session(self, node_id: str, session: str) -> None:
        """The scheduler has taken in the hello of that session: directives count again, unless it is past already."""
        link = self._links.get(node_id)
        if link is not None and session and link.session == session:
            link.outbox.open()

    def expect_boot(self, node_id: str) -> None:
        """The node is made, perhaps again: whoever spoke for it before is gone, and its silence is no news."""
        link = self._links.get(node_id)
        if link is not None:
            link.watched = False
            link.given_up = False
            link.unheard = False
            link.end_session()

    def give_up(self, node_id: str) -> None:
        """The node is of no use, whatever its agent says: it is not listened to."""
        link = self._links.get(node_id)
        if link is not None:
            link.unheard = True
            link.end_session()

    def expect_word(self, node_id: str) -> None:
        """The node was given up, and is well after all: its agent is to say hello again."""
        link = self._links.get(node_id)
        if link is not None:
            link.unheard = False

    def release(self, node_id: str) -> None:
        """The node is to leave: tell its agent to shut down, should it listen."""
        link = self._links.get(node_id)
        if link is not None:
            link.watched = False
            link.outbox.put(m.Shutdown(link.outbox.next_revision()))

    def remove(self, node_id: str) -> None:
        link = self._links.pop(node_id, None)
        if link is not None:
            link.end_session()

    def expect_hello(self, engine: Engine) -> None:
        """The engine's memory is new: every node of it must say hello before it counts as connected."""
        now = _monotonic()
        for link in self._links.values():
            if link.engine is engine:
                link.end_session()
        for node_id in engine.nodes_expected():
            link = self.add(engine, node_id)
            link.heard(now)
            link.watched = True
            link.given_up = False

    # --- the agents' calls ---

    def token(self, node_id: str) -> str:
        return node_token(self._secret, node_id)

    def authenticate(self, node_id: str, token: str) -> bool:
        link = self._links.get(node_id)
        if link is None:
            expected = self.token(node_id).encode()
        else:
            expected = link.token = link.token or self.token(node_id).encode()
        return hmac.compare_digest(expected, token.encode())

    async def hello(self, hello: m.Hello) -> m.Welcome:
        link = self._link(hello.node_id)
        if hello.protocol_version != m.PROTOCOL_VERSION:
            raise BatchError(
                ErrorCode.INVALID_HEADER_VALUE,
                f"The node's agent speaks protocol {hello.protocol_version}, this service {m.PROTOCOL_VERSION}: "
                "run the same version of Millpond on both.",
            )
        if link.unheard:
            raise BatchError(
                ErrorCode.NODE_STATE_UNUSABLE,
                f"The provider says that the node '{hello.node_id}' is of no use; it is given no work.",
            )
        # What the scheduler decides after it has seen the inventory must reach the new session (`begin_session`), and
        # what it decided before is in that comparison: it must not, also when it is carried out only now.
        session = secrets.token_urlsafe(12)
        link.begin_session(session)
        await link.engine.submit(
            e.NodeConnected(
                at=self._clock(),
                cause=f"hello {session}",
                node_id=hello.node_id,
                boot_time=whole_microseconds(hello.boot_time),
                ip_address=hello.ip_address,
                agent_version=hello.agent_version,
                inventory=hello.inventory,
                session=session,
                disk_time=hello.disk_time or None,
                capabilities=hello.capabilities,
            )
        )
        state = link.engine.state
        node = state.nodes.get(hello.node_id) if state is not None else None
        if state is None or node is None:
            raise BatchError(ErrorCode.NODE_NOT_FOUND, f"The node '{hello.node_id}' has left its pool.")
        link.heard(_monotonic())
        link.watched = True
        link.given_up = False
        return m.Welcome(
            session=session,
            pool_id=state.pool_id,
            account_name=self._account_name,
            account_url=self._account_url(),
            is_dedicated=node.row.is_dedicated,
            task_slots=node.slots,
            park_s=self._settings.park_s,
            pool_spec=_pool_spec(state.pool),
            storage_options=self._storage_options(state.pool),
            kept_log_bytes=self._logs.file_bytes,
        )

    def _storage_options(self, pool: Pool | None) -> bytes:
        options = self._identities.options_for(pool)
        return msgspec.json.encode(options) if options else b"{}"

    async def sync_all(self, syncs: Sequence[m.Sync]) -> list[m.SyncReply | BatchError]:
        answers: list[m.SyncReply | BatchError | None] = [None] * len(syncs)
        """None: not yet."""
        reporting: dict[Engine, list[tuple[int, NodeLink, m.Sync]]] = {}
        links = self._links
        now = _monotonic()
        for index, sync in enumerate(syncs):
            link = links.get(sync.node_id)
            if link is None:
                answers[index] = _not_found(sync.node_id)
            elif not link.session or sync.session != link.session:
                answers[index] = m.SyncReply(session=sync.session, session_unknown=True)
            else:
                link.heard(now)
                ear = link.ear
                if ear is None or ear.is_deaf:
                    link.outbox.seen(sync.seen)
                else:
                    ear.seen(sync.seen)
                    ear.told_busy(now, busy=sync.busy)
                if not sync.reports:
                    answers[index] = _reply(link, sync, now, acknowledged=0)
                else:
                    reporting.setdefault(link.engine, []).append((index, link, sync))
                    link.outbox.expect_answer()
        try:
            # In one go to each engine: what each node would wait with by itself is a third of what its sync takes.
            errors = await asyncio.gather(
                *(
                    _take_in(engine, self._events_of([sync for _, _, sync in several]))
                    for engine, several in reporting.items()
                )
            )
            now = _monotonic()
            for why, several in zip(errors, reporting.values(), strict=True):
                if why is None:
                    for index, link, sync in several:
                        acknowledged = max([report.seq for report in sync.reports])
                        answers[index] = _reply(link, sync, now, acknowledged=acknowledged)
                elif why.code not in (ErrorCode.SERVER_BUSY, ErrorCode.INTERNAL_ERROR):
                    for index, _, _ in several:
                        answers[index] = why
        finally:
            for several in reporting.values():
                for _, link, _ in several:
                    link.outbox.answered()
        retry_after_s = self._settings.store_retry_s
        return [
            m.SyncReply(session=sync.session, retry_after_s=retry_after_s) if answer is None else answer
            for sync, answer in zip(syncs, answers, strict=True)
        ]

    def _link(self, node_id: str) -> NodeLink:
        link = self._links.get(node_id)
        if link is None:
            raise _not_found(node_id)
        return link

    async def listen(self, call: m.Listen, *, park: bool = True) -> m.News:
        """The nodes named have proved who they are."""
        listener = self._listeners.get(call.id)
        if listener is None:
            if not call.begins:
                return m.News(unknown=True)
            listener = Listener(self._settings.resend_s)
        if call.number <= listener.number:
            return m.News(overtaken=True)
        listener.heard(call.number)
        listener.leave(call.left)
        listener.seen(call.seen)
        refused = self._listen_for(listener, call.nodes)
        if call.metrics is not None:
            at = self._clock()
            for link in listener.links():
                link.metrics, link.measured = call.metrics, at
        if listener:
            self._listeners[call.id] = listener
            if park and not refused and not self._closing:
                await listener.wait(self._settings.park_s)
                if call.number != listener.number:
                    return m.News()
        return m.News((*refused, *listener.collect()))

    def _listen_for(self, listener: Listener, nodes: Sequence[m.Listening]) -> list[m.NodeNews]:
        """Those that it cannot be listened for, and why."""
        refused: list[m.NodeNews] = []
        for node in nodes:
            try:
                link = self._link(node.node_id)
            except BatchError as error:
                refused.append(m.NodeNews(node.place, status=error.status, error=error.code.value))
                continue
            if not link.session or node.session != link.session:
                refused.append(m.NodeNews(node.place, m.SyncReply(node.session, session_unknown=True)))
                continue
            link.outbox.seen(node.seen)
            listener.add(node.place, link, node.session)
        return refused

    def _events_of(self, syncs: Sequence[m.Sync]) -> list[Event]:
        """Each node's in their order. Nodes that tell of ends and nothing else do so together."""
        at = self._clock()
        told: list[tuple[str, Sequence[AttemptEnd]]] = []
        events: list[Event] = []
        for sync in syncs:
            node_id = sync.node_id
            ends: list[AttemptEnd] = []
            """Those that were told one after the other."""
            for report in sync.reports:
                if isinstance(report, m.Ended):
                    ends.append(report)
                    continue
                if ends:
                    events.append(e.TasksEnded(at=at, cause=f"report {ends[0].seq}", told=((node_id, ends),)))
                    ends = []
                events.append(_event_of(report, node_id, at))
            if ends:
                told.append((node_id, ends))
        if told:
            # Behind all others, so that what a node had told before its last ends is before them.
            events.append(e.TasksEnded(at=at, cause=f"report {told[0][1][0].seq} and others", told=told))
        return events

    async def file_reply(self, node_id: str, request_id: str, reply: m.FileReply, body: AsyncIterator[bytes]) -> None:
        await self._files.answer(node_id, request_id, reply, body)

    async def keep_logs(self, logs: m.Logs) -> None:
        await self._logs.keep(logs)

    async def launch(self, token: str, call: m.LaunchCall) -> m.LaunchAnswer:
        return await self._launches.launch(token, call)

    def launch_reply(self, node_id: str, request_id: str, reply: m.LaunchReply) -> None:
        self._launches.answer(node_id, request_id, reply)

    def state_of(self, node_id: str) -> SchedulerState | None:
        link = self._links.get(node_id)
        if link is None:
            return None
        if link.engine.state is None:
            raise BatchError(ErrorCode.SERVER_BUSY)
        return link.engine.state

    def connected(self, node_id: str) -> Outbox | None:
        link = self._links.get(node_id)
        return link.outbox if link is not None and link.session and not self._closing else None

    def ask_node(self, node_id: str, request: m.FileRequest) -> bool:
        link = self._links.get(node_id)
        if link is None or not link.session:
            return False
        link.outbox.ask(request)
        return True

    def pool_of_node(self, node_id: str) -> str | None:
        link = self._links.get(node_id)
        return link.engine.pool_id if link is not None else None

    # --- silence ---

    async def _watch(self) -> None:
        """Notice nodes that fell silent, and give up those that stay so."""
        interval_s = max(0.05, min(1.0, self._settings.silent_after_s / 5))
        while True:
            pause_s = self._look_for_silence() - _monotonic()
            await asyncio.sleep(max(interval_s, pause_s))

    def _look_for_silence(self) -> float:
        """When the next node is silent unless it is heard of: whoever is heard of, or comes, is so no earlier."""
        now, at = _monotonic(), self._clock()
        silent_after_s, lost_after_s = self._settings.silent_after_s, self._settings.lost_after_s
        earliest = now + silent_after_s
        for link in list(self._links.values()):
            if not link.watched or link.given_up:
                continue
            last_heard = link.last_heard
            limit_s = silent_after_s if link.session else lost_after_s
            if last_heard + limit_s > now:
                earliest = min(earliest, last_heard + limit_s)
                continue
            earliest = now
            if link.engine.available:
                self._silent(link, now - last_heard, at)
        for host, listener in list(self._listeners.items()):
            if now - listener.last_heard >= lost_after_s + self._settings.park_s:
                listener.drop_all()
                del self._listeners[host]
        return earliest

    def _silent(self, link: NodeLink, quiet_s: float, at: Timestamp) -> None:
        event: Event
        cause = f"silent for {quiet_s:.0f} s"
        if quiet_s >= self._settings.lost_after_s:
            event = e.NodeLost(at=at, cause=cause, node_id=link.node_id)
        else:
            event = e.NodeSilent(at=at, cause=cause, node_id=link.node_id)
        try:
            link.engine.submit(event)
        except BatchError:
            # The engine is busy: as if it had not been noticed yet.
            return
        link.given_up = isinstance(event, e.NodeLost)
        link.end_session()
