"""Carrying the scheduler's wishes for nodes to the provider, and the provider's news back."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from millpond.control.core_quotas import CoreQuotas
from millpond.control.engine import Engine
from millpond.control.settings import ControlSettings
from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, ProviderError
from millpond.domain.events import Event
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.providers.base import (
    CanPreempt,
    NodeCreated,
    NodeProvider,
    NodeRefused,
    NodeRequest,
    NodeStatus,
    VmSize,
)

log = logging.getLogger(__name__)

_MIN_POLL_S = 0.02
_MAX_RELEASE_POLL_S = 0.5


class _Wish(msgspec.Struct):
    engine: Engine
    request: NodeRequest
    leaving: bool = False
    """Wished for only to have its handle, or to know that it does not exist."""
    refusal: str = ""
    """What the provider said last: told once, however often it is asked again."""


class _Known(msgspec.Struct):
    engine: Engine
    handle: str
    leaving: bool = False
    delete_sent: bool = False
    changing: bool = False
    """Something was asked for that shows soon."""
    failed: bool = False
    """It was said to be of no use, and its engine told so."""


class Nodes(Protocol):
    """What is asked of the nodes' side of the control plane."""

    def token(self, node_id: str) -> str: ...

    def give_up(self, node_id: str) -> None:
        """The node is of no use, whatever its agent says: it is not listened to."""
        ...

    def expect_word(self, node_id: str) -> None:
        """The node was given up, and is well after all: its agent may say hello again."""
        ...


class Provisioning:
    """Creates, watches and releases nodes through one provider. Nothing here is truth: after a restart the engines
    repeat their wishes and name the nodes they have."""

    def __init__(
        self,
        provider: NodeProvider,
        vm_sizes: dict[str, VmSize],
        nodes: Nodes,
        clock: Callable[[], Timestamp],
        settings: ControlSettings,
    ) -> None:
        self._provider = provider
        self._vm_sizes = vm_sizes
        self._nodes = nodes
        self._clock = clock
        self._settings = settings
        self._quotas = CoreQuotas(settings)
        self._wishes: dict[str, _Wish] = {}
        """Nodes to create, by id."""
        self._known: dict[str, _Known] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._next_observe = 0.0
        """By the loop's clock, which nobody sets."""
        self._release_poll_s = _MIN_POLL_S

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="provisioning")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- wishes ---

    def create(self, engine: Engine, pool: Pool, node: Node, *, leaving: bool = False) -> None:
        """`leaving`: see `_Wish`."""
        self._known.pop(node.id, None)
        size = self._vm_sizes.get(pool.vm_size.lower())
        if size is None:
            message = f"The VM size '{pool.vm_size}' is not in this service's catalogue"
            self._refuse(engine, node, "UnsupportedVMSize", message)
            return
        refusal = self._quotas.take(node.id, size.cores, is_dedicated=node.is_dedicated, force=leaving)
        if refusal is not None:
            self._refuse(engine, node, *refusal)
            return
        request = NodeRequest(
            node_id=node.id,
            pool_id=pool.id,
            vm_size=size,
            task_slots=pool.task_slots_per_node,
            is_dedicated=node.is_dedicated,
            token=self._nodes.token(node.id),
            handle=node.handle,
        )
        self._wishes[node.id] = _Wish(engine, request, leaving)
        self._news.set()

    def _refuse(self, engine: Engine, node: Node, code: str, message: str) -> None:
        self._tell(engine, e.NodeProvisionFailed(at=self._clock(), node_id=node.id, code=code, message=message))

    def release(self, engine: Engine, pool: Pool, node: Node) -> None:
        if node.handle:
            self._wishes.pop(node.id, None)
            self._known[node.id] = _Known(engine, node.handle, leaving=True)
            self._release_poll_s = _MIN_POLL_S
        else:
            # Perhaps it was created and the answer never reached the disk, or is on its way, or is an error: creating
            # is idempotent and tells the handle, by which the scheduler will release it again, or that there is none.
            if node.id not in self._wishes:
                self.create(engine, pool, node, leaving=True)
            if wish := self._wishes.get(node.id):
                wish.leaving = True
        self._news.set()

    async def preempt(self, node: Node) -> None:
        """Have the provider take the node's machine away: it is told of like any other preemption.

        Raises BatchError: NotImplemented, ServerBusy.
        """
        if not isinstance(self._provider, CanPreempt):
            raise BatchError(
                ErrorCode.NOT_IMPLEMENTED,
                f"Nodes of the provider '{self._provider.name}' cannot be preempted on purpose.",
            )
        try:
            await self._provider.preempt([node.handle])
        except ProviderError as error:
            raise BatchError(ErrorCode.SERVER_BUSY, f"The node could not be preempted: {error}") from error
        if known := self._known.get(node.id):
            known.changing = True
            self._release_poll_s = _MIN_POLL_S
        self._news.set()

    def watch(self, engine: Engine, pool: Pool, node: Node) -> None:
        """A node that exists already (after a restart)."""
        size = self._vm_sizes.get(pool.vm_size.lower())
        if node.handle and size is not None:
            self._quotas.take(node.id, size.cores, is_dedicated=node.is_dedicated, force=True)
        if node.handle and node.id not in self._known:
            self._known[node.id] = _Known(engine, node.handle)

    def forget(self, node_id: str) -> None:
        self._known.pop(node_id, None)
        self._wishes.pop(node_id, None)
        self._quotas.give_back(node_id)

    # --- the loop ---

    async def _run(self) -> None:
        while True:
            try:
                await self._create_wished()
                await self._delete_leaving()
                await self._observe()
                pause_s = self._pause()
            except ProviderError as error:
                log.warning("provider %s: %s", self._provider.name, error)
                pause_s = self._settings.provider_retry_s
            except Exception:
                log.exception("provider %s failed; trying again", self._provider.name)
                pause_s = self._settings.provider_retry_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    def _pause(self) -> float:
        if self._wishes:
            return self._settings.provider_retry_s
        if any(known.leaving or known.changing for known in self._known.values()):
            self._release_poll_s = min(_MAX_RELEASE_POLL_S, self._release_poll_s * 1.5)
            return self._release_poll_s
        return max(_MIN_POLL_S, self._next_observe - asyncio.get_running_loop().time())

    async def _create_wished(self) -> None:
        wishes = dict(self._wishes)
        if not wishes:
            return
        answers = await self._provider.create([wish.request for wish in wishes.values()])
        for answer in answers:
            wish = wishes.get(answer.node_id)
            if wish is None:
                continue
            match answer:
                case NodeCreated(node_id, handle):
                    event: Event = e.NodeProvisioned(at=self._clock(), node_id=node_id, handle=handle)
                    if self._tell(wish.engine, event):
                        self._wishes.pop(node_id, None)
                        self._known[node_id] = _Known(wish.engine, handle)
                case NodeRefused(node_id) if (current := self._wishes.get(node_id)) and current.leaving:
                    if self._tell(wish.engine, e.NodeGone(at=self._clock(), cause="never created", node_id=node_id)):
                        self._wishes.pop(node_id, None)
                case NodeRefused(node_id, code, message, retryable) if not retryable:
                    event = e.NodeProvisionFailed(at=self._clock(), node_id=node_id, code=code, message=message)
                    if self._tell(wish.engine, event):
                        self._wishes.pop(node_id, None)
                case NodeRefused(node_id, _, message) if message != wish.refusal:
                    wish.refusal = message
                    log.info("node %s: %s; trying again", node_id, message)

    async def _delete_leaving(self) -> None:
        leaving = [known for known in self._known.values() if known.leaving and not known.delete_sent]
        if leaving:
            await self._provider.delete([known.handle for known in leaving])
            for known in leaving:
                known.delete_sent = True

    async def _observe(self) -> None:
        now = asyncio.get_running_loop().time()
        everything = now >= self._next_observe
        if everything:
            asked = dict(self._known)
            self._next_observe = now + self._settings.observe_interval_s
        else:
            asked = {node_id: known for node_id, known in self._known.items() if known.leaving or known.changing}
        if not asked:
            return
        statuses = await self._provider.observe([known.handle for known in asked.values()])
        self._take_statuses(asked, statuses)

    def _take_statuses(self, asked: Mapping[str, _Known], statuses: Sequence[NodeStatus]) -> None:
        for (node_id, known), status in zip(asked.items(), statuses, strict=True):
            if status is NodeStatus.UP and not known.failed:
                continue
            if self._known.get(node_id) is not known:
                continue
            if status is NodeStatus.GONE:
                if self._tell(known.engine, e.NodeGone(at=self._clock(), cause="provider", node_id=node_id)):
                    del self._known[node_id]
            elif status is NodeStatus.PREEMPTED and not known.leaving:
                if self._tell(known.engine, e.NodePreempted(at=self._clock(), cause="provider", node_id=node_id)):
                    del self._known[node_id]
            elif status is NodeStatus.FAILED and not known.leaving:
                lost = e.NodeLost(at=self._clock(), cause="provider", node_id=node_id)
                if self._tell(known.engine, lost):
                    known.failed = True
                    self._nodes.give_up(node_id)
            elif status is NodeStatus.UP:
                # It recovered, or was never so bad.
                known.failed = False
                self._nodes.expect_word(node_id)

    def _tell(self, engine: Engine, event: Event) -> bool:
        """Whether the engine took the event in. What it loses after that (a failed commit) it asks for again when it is
        rebuilt."""
        try:
            engine.submit(event)
        except BatchError:
            return False
        return True
