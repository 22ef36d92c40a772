"""The control plane of a simulated cluster: the true service, its batches and answers watched."""

from collections.abc import Callable

import msgspec

from millpond.control.base import JobMaker
from millpond.control.engine import Engine, Entry
from millpond.control.job_schedules import JobScheduleKeeper
from millpond.control.service import ControlService
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, LeaseLost, StoreUnavailable
from millpond.domain.events import Event
from millpond.protocol.messages import Hello, Listen, Sync, SyncReply
from millpond.providers.base import VmSize
from millpond.scheduler.state import SchedulerState
from millpond.sim.audit import Audit
from millpond.sim.disk import SimDisk
from millpond.sim.loop import Process
from millpond.sim.provider import SlowProvider
from millpond.sim.story import Story
from millpond.store.changes import ChangeSet

ACCOUNT = "sim"

_encoder = msgspec.msgpack.Encoder()
_hello_decoder = msgspec.msgpack.Decoder(Hello)
_listen_decoder = msgspec.msgpack.Decoder(Listen)
_sync_decoder = msgspec.msgpack.Decoder(Sync)


class SimEngine(Engine):
    """The true engine; tells the story, and has every batch checked."""

    def watch(self, audit: Audit, story: Story) -> None:
        self._audit = audit
        self._story = story

    async def _run(self) -> None:
        try:
            await super()._run()
        except Exception as error:
            self._audit.fail(f"the engine of pool {self.pool_id} has died: {error!r}")
            raise

    def _apply(self, state: SchedulerState, event: Event) -> list[Effect]:
        ahead = " ahead" if self._is_writing else ""
        self._story.add(f"engine {self.pool_key}", f"{type(event).__name__}{ahead} {describe(event)}")
        return super()._apply(state, event)

    async def _commit(self, changes: ChangeSet, entries: list[Entry]) -> bool:
        state = self._state
        assert state is not None
        self._audit.announce(changes, [event for entry in entries for event in entry.events])
        decided = self._audit.before_batch(state, changes)
        written = await super()._commit(changes, entries)
        if written:
            self._audit.after_batch(decided)
            if self._open.entries:
                self._audit.met["batch written with the next one open"] += 1
        return written

    def _drop(self, entries: list[Entry], error: BatchError, *, retry_s: float) -> None:
        if self._open.entries:
            self._audit.met["memory dropped with a batch open"] += 1
        super()._drop(entries, error, retry_s=retry_s)

    @property
    def at_rest(self) -> bool:
        """Nothing is on its way to the disk, or about to be."""
        return not (self._is_writing or self._inbox or self._open.entries)

    async def _take_over(self) -> None:
        await super()._take_over()
        if self._state is not None:
            self._audit.after_batch(self._audit.before_batch(self._state))


_QUIET = {
    "at",
    "session",
    "condition",
    "tasks",
    "row",
    "spec",
    "inventory",
    "agent_version",
    "ip_address",
    "capabilities",
    "boot_time",
    "handle",
}


def describe(event: msgspec.Struct) -> str:
    """The telling fields of an event, without what differs from run to run (session tokens)."""
    parts: list[str] = []
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name in _QUIET or value is None:
            continue
        if name == "cause" and str(value).startswith("hello "):
            value = "hello"
        elif name == "node_id":
            value = str(value).removeprefix("tvmps_")[:6]
        elif name == "key":
            value = f"{value >> 32}.{value & 0xFFFFFFFF}"
        elif name in ("job", "pool"):
            value = value.id
        parts.append(f"{name}={value}")
    tasks = getattr(event, "tasks", None)
    if tasks is not None:
        parts.append("tasks=" + ",".join(task.id for task in tasks))
    inventory = getattr(event, "inventory", None)
    if inventory is not None:
        held = (f"{h.key >> 32}.{h.key & 0xFFFFFFFF}#{h.attempt}{' ended' if h.ended else ''}" for h in inventory)
        parts.append("holds " + ", ".join(held))
    return " ".join(parts)


class SimControl(ControlService):
    """The true service, with watched engines."""

    def watch(self, audit: Audit, story: Story) -> None:
        self._audit = audit
        self._story = story

    def _new_engine(self, pool_id: str) -> Engine:
        engine = SimEngine(self._account_name, pool_id, self._store, self._clock, self._settings, self)
        engine.watch(self._audit, self._story)
        return engine

    @property
    def engines(self) -> list[SimEngine]:
        return [engine for engine in self._engines if isinstance(engine, SimEngine)]

    @property
    def job_schedules(self) -> JobScheduleKeeper:
        return self._schedules


class ControlServer:
    """One life of the control plane, as a process."""

    def __init__(
        self,
        process: Process,
        disk: SimDisk,
        provider: SlowProvider,
        vm_sizes: dict[str, VmSize],
        settings: ControlSettings,
        clock: Callable[[], Timestamp],
        make_job: JobMaker,
        audit: Audit,
        story: Story,
    ) -> None:
        self.process = process
        self.serving = False
        self._audit = audit
        self._story = story
        self.service = SimControl(
            ACCOUNT,
            disk,
            provider,
            vm_sizes,
            secret=b"secret",
            account_url=lambda: "http://sim",
            settings=settings,
            make_job=make_job,
            clock=clock,
        )
        self.service.watch(audit, story)

    async def start(self) -> bool:
        """Whether it is up."""
        try:
            await self.service.start()
        except (StoreUnavailable, LeaseLost) as error:
            self._story.add("control", f"cannot start: {error}")
            return False
        self.serving = True
        return True

    async def stop(self) -> None:
        await self.service.stop()

    async def serve(self, node_id: str, path: str, body: bytes) -> bytes:
        """One call of an agent, as the agent routes of the API do it."""
        if not self.serving:
            raise ConnectionError("not listening yet")
        agents = self.service.agents
        if path == "hello":
            hello = _hello_decoder.decode(body)
            try:
                welcome = await agents.hello(hello)
            except BatchError as error:
                self._story.add(f"node {node_id[6:12]}", f"hello is refused: {error}")
                raise
            return _encoder.encode(welcome)
        if path == "listen":
            call = _listen_decoder.decode(body)
            news = await agents.listen(call)
            for one in news.nodes:
                if one.reply is not None:
                    self._leaves(node_id, Sync(node_id, one.reply.session, 0), one.reply)
            return _encoder.encode(news)
        sync = _sync_decoder.decode(body)
        (reply,) = await agents.sync_all((sync,))
        if isinstance(reply, BatchError):
            raise reply
        self._leaves(node_id, sync, reply)
        return _encoder.encode(reply)

    def _leaves(self, node_id: str, sync: Sync, reply: SyncReply) -> None:
        """What a node is told is about to leave."""
        if reply.directives or sync.reports:
            told = [f"{type(d).__name__} r{d.revision}" for d in reply.directives]
            said = [f"{type(r).__name__} {r.key >> 32}.{r.key & 0xFFFFFFFF}#{r.attempt}" for r in sync.reports]
            self._story.add(f"node {node_id[6:12]}", f"sync seen={sync.seen} {said} -> {told} ack={reply.acknowledged}")
        self._audit.on_reply(node_id, sync, reply)
