"""Engines: they take events, let a pure machine decide, commit, and only then let anything out.

Take the inbox, `apply` each event, `place` once, commit one `ChangeSet`, release replies and directives, again. There
is no timer in the loop: what arrives during a commit is the next batch, so batches grow with the load by themselves.

While a batch is on its way to the disk the next one is open already: what is added and what nodes report (`_ahead`) is
applied to it as it comes. It is placed and committed when the one before is on disk and carried out: what is written
never rests on what is not, and nothing of it gets out sooner. Memory is ahead of the disk during every commit; what is
one batch further ahead concerns nobody who may look at it, but for these:

- The rows of the batch on its way do not follow their records: the store read them before it first suspended.
- Its effects are carried out on records that later events may have changed. The kinds that go ahead change nothing that
  directives are made of: no definition, no session, nothing of an attempt that nobody has been told of. The first
  event of another kind waits for the disk, and so does all that came after it.
- Its commit fails: memory is dropped, and with it both batches.
- The machine fails over an event that went ahead: memory is dropped, and the open batch. The batch on its way ends as its
  commit says, and is carried out. Links have no session then, so nodes are told none of it before they have said hello to
  a rebuilt memory, which tells them anew.

`BaseEngine` is the loop; `Engine` runs it for one pool id with the scheduler as its machine.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from millpond.control.commit import Batch
from millpond.control.settings import ControlSettings
from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, Bug, ErrorCode, LeaseLost, StoreUnavailable
from millpond.domain.events import Event, JobScheduleEvent, TaskEnded, TasksAdded, TasksEnded, TaskStarted
from millpond.domain.ids import id_key
from millpond.domain.states import IN_SERVICE_NODE_STATES, NodeState
from millpond.scheduler.core import apply, place
from millpond.scheduler.rebuild import rebuild
from millpond.scheduler.state import SchedulerState
from millpond.store.base import Fence, Store
from millpond.store.changes import ChangeSet

log = logging.getLogger(__name__)

_State = TypeVar("_State")
_Event = TypeVar("_Event", Event, JobScheduleEvent)

_STORY_LENGTH = 100
_TOLD_TASKS = 5
_BATCH_WEIGHT = 2000
"""Tasks and events of one batch, the last entry going in whole."""
_WEIGHT_AT_ONCE = 200
"""Tasks and events that are applied before others have their turn: a few milliseconds."""
_SILENCE_TELLS = IN_SERVICE_NODE_STATES | {
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
    NodeState.REBOOTING,
    NodeState.REIMAGING,
}
"""Node states in which an agent is there, or is about to be."""
_TOLD = (
    "pool_id",
    "node_id",
    "schedule_id",
    "job_id",
    "task_id",
    "key",
    "attempt",
    "exit_code",
    "deadline",
    "reason",
    "option",
)
_STOPPING = "The service is stopping."
_BUSY = "The service cannot take changes just now; try again shortly."


def _busy(reason: str) -> BatchError:
    """The store's reason is told: it is seldom one that passes by itself, such as a full disk."""
    if not reason:
        return BatchError(ErrorCode.SERVER_BUSY, _BUSY)
    return BatchError(ErrorCode.SERVER_BUSY, f"The service cannot take changes just now: {reason}.", Reason=reason)


def _line_of(event: Event | JobScheduleEvent) -> str:
    """An event as a line of a story: without the specifications, which may hold secrets."""
    if isinstance(event, TasksAdded):
        return f"{event.at:.6f} [{event.cause}] TasksAdded({event.job_id}, {[task.id for task in event.tasks[:_TOLD_TASKS]]} …)"
    if isinstance(event, TasksEnded):
        ends = [(node_id, end.key, end.attempt, end.exit_code) for node_id, told in event.told for end in told]
        return f"{event.at:.6f} [{event.cause}] TasksEnded({len(ends)}: {ends[:5]} …)"
    parts = ", ".join(f"{name}={getattr(event, name)}" for name in _TOLD if hasattr(event, name))
    return f"{event.at:.6f} [{event.cause}] {type(event).__name__}({parts})"


def _weight_of(event: Event | JobScheduleEvent) -> int:
    if isinstance(event, TasksAdded):
        return len(event.tasks)
    return sum([len(ends) for _, ends in event.told]) if isinstance(event, TasksEnded) else 1


def _for_the_story(event: _Event) -> _Event:
    """The event as far as `_line_of` tells it: tasks that were added need not stay in memory for that."""
    return msgspec.structs.replace(event, tasks=event.tasks[:_TOLD_TASKS]) if isinstance(event, TasksAdded) else event


class Surroundings(Protocol):
    """What an engine acts on: the rest of the control plane."""

    async def carry_out(self, engine: "Engine", effects: Sequence[Effect], changes: ChangeSet) -> None:
        """Effects whose batch is on disk: directives to outboxes, wishes to the provider, timers, purges."""
        ...

    def queue_changed(self, engine: "Engine") -> None:
        """Jobs or tasks changed, and that is on disk. Called after every such batch: to return at once."""
        ...

    def engine_rebuilt(self, engine: "Engine") -> None:
        """The engine's memory was built anew: its nodes must say hello again before they count as connected."""
        ...


def _monotonic() -> float:
    return asyncio.get_running_loop().time()


class Entry:
    """Events submitted together, and who waits for them."""

    __slots__ = ("answer", "events", "future", "weight")

    def __init__(self, events: Sequence[Any], future: asyncio.Future[Any], weight: int) -> None:
        self.events = events
        self.future = future
        self.weight = weight
        self.answer: Any = None
        """Once they are applied: the reply to the last one, or the BatchError it was refused with."""

    def release(self) -> None:
        """Let the answer out."""
        if self.future.done():
            return
        if isinstance(self.answer, BatchError):
            self.refuse(self.answer)
        else:
            self.future.set_result(self.answer)

    def refuse(self, error: BatchError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # seen: whoever asked may be gone


class _OpenBatch:
    """What has been applied and is not with the store yet."""

    __slots__ = ("decided", "entries", "weight")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.decided = Batch()
        self.weight = 0


class BaseEngine(ABC, Generic[_State, _Event]):
    """The owner of all rows under one lease. `submit` from the loop it runs in; everything else is its own business.

    What it owns and how that is decided is for the subclass: `_load`, `_apply`, `_place`; what becomes of decisions
    too: `_carry_out`, `_rebuilt`.
    """

    _ahead: ClassVar[frozenset[type]] = frozenset()
    """Kinds of events that are applied while the batch before is on its way: see the module."""

    def __init__(
        self, lease_key: str, name: str, store: Store, clock: Callable[[], Timestamp], settings: ControlSettings
    ) -> None:
        """`name` is what messages call it."""
        self._lease_key = lease_key
        self._name = name
        self._store = store
        self._clock = clock
        self._settings = settings
        self._inbox: deque[Entry] = deque()
        self._weight = 0
        """Of what is in the inbox."""
        self._open = _OpenBatch()
        self._is_writing = False
        """A batch is on its way to the disk, or is being carried out."""
        self._turn: asyncio.Handle | None = None
        """Of `_go_ahead`, once it is wanted."""
        self._wake = asyncio.Event()
        self._state: _State | None = None
        self._fence: Fence | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._failed_until = 0.0
        """By the loop's clock, which nobody sets."""
        self._trouble = ""
        """What the store said when it was last written to or read; empty when all went well."""
        self._stopped = False
        self._recent: deque[_Event] = deque(maxlen=_STORY_LENGTH)
        """The last events applied, with their causes: told when the machine fails."""

    # --- the machine ---

    @abstractmethod
    async def _load(self) -> tuple[_State, list[Effect]]:
        """The memory as the store's rows have it, and the effects that pick up what was under way.

        Raises StoreUnavailable."""

    @abstractmethod
    def _apply(self, state: _State, event: _Event) -> list[Effect]:
        """Apply one event. Raises BatchError for one the rules forbid, which leaves no trace."""

    @abstractmethod
    def _place(self, state: _State, at: Timestamp) -> list[Effect]:
        """What follows from a whole batch of events."""

    @abstractmethod
    async def _carry_out(self, effects: Sequence[Effect], changes: ChangeSet) -> None:
        """Effects whose batch is on disk."""

    def _committed(self, changes: ChangeSet) -> None:
        """The rows of a batch are on disk."""

    @abstractmethod
    def _rebuilt(self) -> None:
        """The memory was dropped, or has been built anew."""

    # --- life ---

    async def start(self) -> None:
        """Take the lease, build the memory, pick up what was under way. Raises LeaseLost when another owner holds it,
        StoreUnavailable when the store cannot be read or written."""
        await self._take_over()
        self._loop_task = asyncio.create_task(self._run(), name=f"engine of {self._name}")

    async def stop(self) -> None:
        """Finish the batch in hand, refuse the rest, give the lease back."""
        self._stopped = True
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        for entry in self._open.entries:
            entry.refuse(BatchError(ErrorCode.SERVER_BUSY, _STOPPING))
        self._open = _OpenBatch()
        self._refuse_inbox()
        if self._fence is not None:
            try:
                await self._store.release_lease(self._fence)
            except (LeaseLost, StoreUnavailable):
                log.warning("the lease of %s could not be released; it will expire", self._name)
            self._fence = None

    @property
    def state(self) -> _State | None:
        """The machine's memory, to look at only; None while it is being rebuilt."""
        return self._state

    @property
    def fence(self) -> Fence | None:
        """The lease it holds. `control.leases` keeps it."""
        return self._fence

    @property
    def trouble(self) -> str:
        """Why changes cannot be taken, where the store said why."""
        return self._trouble

    @property
    def available(self) -> bool:
        return self._state is not None

    # --- events ---

    def submit(self, event: _Event) -> asyncio.Future[Any]:
        """Put an event in the inbox. The future ends when its batch is on disk: with the machine's reply, or with the
        BatchError of its refusal. Raises ServerBusy when the inbox is full."""
        return self.submit_all((event,))

    def submit_all(self, events: Sequence[_Event]) -> asyncio.Future[Any]:
        """Events that go into one batch, in order; the future carries the reply of the last one."""
        if self._stopped:
            # Nobody would ever answer: agents report to the last, and their requests would hold up the server's end.
            raise BatchError(ErrorCode.SERVER_BUSY, _STOPPING)
        weight = sum([_weight_of(event) for event in events])
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._weight + weight > self._settings.inbox_limit and self._inbox:
            raise BatchError(ErrorCode.SERVER_BUSY, f"The queue of changes of {self._name} is full; try again shortly.")
        self._weight += weight
        self._inbox.append(Entry(events, future, weight))
        if not self._is_writing:
            self._wake.set()
        elif self._ahead and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._go_ahead)
        return future

    async def _run(self) -> None:
        while True:
            if self._state is None:
                if not self._inbox:
                    await self._wake_or_retry()
                self._wake.clear()
                if not await self._recover():
                    self._refuse_inbox()
            elif not (self._inbox or self._open.entries):
                await self._wake.wait()
                self._wake.clear()
            else:
                await self._next_batch()

    async def _next_batch(self) -> None:
        """What came first, and not more than is placed in some milliseconds: nothing else happens meanwhile. What comes
        while it is applied is for the batch after it."""
        waiting = len(self._inbox)
        while waiting and (taken := self._take_in(waiting)):
            waiting -= taken
            if waiting:
                await asyncio.sleep(0)
        if self._state is not None and self._open.entries:
            await self._process()

    def _go_ahead(self) -> None:
        """Apply to the open batch what may be, while the one before is on its way; a piece at each turn of the loop."""
        self._turn = None
        if self._is_writing and self._take_in(len(self._inbox), ahead=True) and self._inbox:
            self._turn = asyncio.get_running_loop().call_soon(self._go_ahead)

    def _take_in(self, most: int, *, ahead: bool = False) -> int:
        """Apply to the open batch of what came first as much as goes at once, and as the batch has room for: how many
        entries, of at `most` so many. Between two events the memory is whole."""
        state, batch, inbox = self._state, self._open, self._inbox
        taken = held = 0
        while state is not None and taken < most and batch.weight < _BATCH_WEIGHT:
            entry = inbox[0]
            if taken and held + entry.weight > _WEIGHT_AT_ONCE:
                break
            if ahead and not all(type(event) in self._ahead for event in entry.events):
                break
            del inbox[0]
            taken += 1
            held += entry.weight
            batch.weight += entry.weight
            self._weight -= entry.weight
            batch.entries.append(entry)
            try:
                for event in entry.events:
                    self._recent.append(_for_the_story(event))
                    try:
                        entry.answer = batch.decided.take(self._apply(state, event))
                    except BatchError as refusal:
                        entry.answer = refusal
            except Exception:
                self._fail([])
                return 0
        return taken

    async def _wake_or_retry(self) -> None:
        """Without memory the engine does not wait to be asked: timers, wishes and purges that were lost with it must
        come back also where nobody calls and no node is left to say hello."""
        try:
            async with asyncio.timeout(max(0.0, self._failed_until - _monotonic())):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _process(self) -> None:
        """The open batch. Replies, refusals included, wait for the commit: they may rest on what is not on disk yet."""
        state = self._state
        if state is None:
            raise Bug("an engine without memory was given a batch")
        batch, self._open = self._open, _OpenBatch()
        entries, changes = batch.entries, batch.decided.changes
        try:
            batch.decided.take(self._place(state, self._clock()))
        except Exception:
            self._fail(entries)
            return
        self._is_writing = True
        try:
            if changes and not await self._commit(changes, entries):
                return
            for entry in entries:
                entry.release()
            await self._pass_on(batch.decided)
        except asyncio.CancelledError:
            for entry in entries:
                entry.refuse(BatchError(ErrorCode.SERVER_BUSY, _STOPPING))
            raise
        finally:
            self._is_writing = False

    async def _pass_on(self, decided: Batch) -> None:
        try:
            self._committed(decided.changes)
            if decided.after or decided.changes.specs:
                await self._carry_out(decided.after, decided.changes)
        except Exception:
            # Some of what is on disk was not passed on. A rebuilt memory passes on everything that is due.
            log.exception("what follows from a batch of %s failed; its memory is rebuilt", self._name)
            self._drop([], BatchError(ErrorCode.INTERNAL_ERROR), retry_s=0.0)

    def _fail(self, entries: list[Entry], what: str = "scheduler", *, retry_s: float = 0.0) -> None:
        """The machine failed, or the store in a way it must not: memory may be half changed, or ahead of the disk, and only
        what is on disk is to be trusted now."""
        log.exception(
            "the %s of %s failed; its memory is rebuilt from the store. What led there, latest last:\n%s",
            what,
            self._name,
            "\n".join(_line_of(event) for event in self._recent),
        )
        self._drop(entries, BatchError(ErrorCode.INTERNAL_ERROR), retry_s=retry_s)

    async def _commit(self, changes: ChangeSet, entries: list[Entry]) -> bool:
        if self._fence is None:
            raise Bug("an engine without a lease was to commit")
        try:
            await self._store.commit(changes, self._fence)
        except LeaseLost:
            log.error("%s was taken over by another owner", self._name)  # noqa: TRY400 (expected, no trace needed)
            self._drop(entries, BatchError(ErrorCode.SERVER_BUSY, _BUSY), retry_s=self._settings.store_retry_s)
        except StoreUnavailable as error:
            log.error("%s: nothing was written: %s", self._name, error)  # noqa: TRY400 (as above)
            self._trouble = str(error)
            self._drop(entries, _busy(self._trouble), retry_s=self._settings.store_retry_s)
        except Exception:
            self._fail(entries, "store", retry_s=self._settings.store_retry_s)
        else:
            return True
        return False

    def _drop(self, entries: list[Entry], error: BatchError, *, retry_s: float) -> None:
        """A batch came to nothing, and with it what was open: forget the memory, answer everyone so, and rebuild before
        the next batch."""
        self._state = None
        self._failed_until = _monotonic() + retry_s
        behind = self._open
        self._open = _OpenBatch()
        for entry in entries + behind.entries:
            entry.refuse(error)
        self._rebuilt()

    def _refuse_inbox(self) -> None:
        entries, self._inbox, self._weight = self._inbox, deque(), 0
        for entry in entries:
            entry.refuse(_busy(self._trouble))

    # --- taking over ---

    async def _recover(self) -> bool:
        """Rebuild after a failure, not more often than the settings say."""
        if _monotonic() < self._failed_until:
            return False
        self._trouble = ""
        try:
            await self._take_over()
        except (LeaseLost, StoreUnavailable) as error:
            log.warning("%s cannot be rebuilt yet: %s", self._name, error)
            if isinstance(error, StoreUnavailable):
                self._trouble = str(error)
        except Exception:
            log.exception("%s cannot be rebuilt; that is tried again", self._name)
        else:
            return True
        self._failed_until = _monotonic() + self._settings.store_retry_s
        return False

    async def _take_over(self) -> None:
        now = self._clock()
        fence = await self._store.acquire_lease(self._lease_key, self._settings.owner, now, self._settings.lease_ttl_s)
        if fence is None:
            raise LeaseLost(f"another owner holds {self._name}")
        state, effects = await self._load()
        batch = Batch()
        batch.take(effects)
        batch.take(self._place(state, self._clock()))
        if batch.changes:
            await self._store.commit(batch.changes, fence)
        self._fence = fence
        self._state = state
        self._rebuilt()
        await self._carry_out(batch.after, batch.changes)


class Engine(BaseEngine[SchedulerState, Event]):
    """One pool id's owner."""

    _ahead = frozenset({TasksAdded, TaskStarted, TaskEnded, TasksEnded})

    def __init__(
        self,
        account: str,
        pool_id: str,
        store: Store,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
        surroundings: Surroundings,
    ) -> None:
        self.pool_id = pool_id
        self.pool_key = id_key(pool_id)
        super().__init__(self.pool_key, f"pool {pool_id}", store, clock, settings)
        self._account = account
        self._surroundings = surroundings

    async def _load(self) -> tuple[SchedulerState, list[Effect]]:
        contents = await self._store.load_pool(self.pool_key)
        return rebuild(
            self._account,
            self.pool_id,
            self._clock(),
            pool=contents.pool,
            nodes=contents.nodes,
            job_rows=contents.jobs,
            task_rows=contents.tasks,
            satisfied=contents.satisfied,
            job_nodes=contents.job_nodes,
            subtasks=contents.subtasks,
            arrays=contents.task_arrays,
        )

    def _apply(self, state: SchedulerState, event: Event) -> list[Effect]:
        return apply(state, event)

    def _place(self, state: SchedulerState, at: Timestamp) -> list[Effect]:
        return place(state, at)

    async def _carry_out(self, effects: Sequence[Effect], changes: ChangeSet) -> None:
        await self._surroundings.carry_out(self, effects, changes)

    def _committed(self, changes: ChangeSet) -> None:
        if changes.jobs:
            self._surroundings.queue_changed(self)

    def _rebuilt(self) -> None:
        self._surroundings.engine_rebuilt(self)

    def nodes_expected(self) -> list[str]:
        """Ids of nodes that were in service when last heard of: they are given up when they stay silent."""
        if self._state is None:
            return []
        return [
            node.row.id
            for node in self._state.nodes.values()
            if node.row.state in _SILENCE_TELLS or node.assigned or node.specials
        ]
