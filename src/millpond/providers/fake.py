"""A node provider for tests and the simulation: no machines, no real time, everything on demand.

It makes nodes by calling back, after delays that the owner's clock measures, and it can be slow, refuse, break, lose
nodes, and give no answer: each node by its `Fate`, and all at once by `outage`.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import msgspec

from millpond.domain.errors import ProviderError
from millpond.providers.base import NodeCreated, NodeRefused, NodeRequest, NodeStatus

CallLater: TypeAlias = Callable[[float, Callable[[], None]], object]
"""(delay in seconds, what to call): the owner's timer."""


class Fate(msgspec.Struct, frozen=True):
    """What becomes of one node."""

    refuse: str = ""
    """Refuse it with this resize error code."""
    retryable: bool = True
    """Of the refusal."""
    boot_s: float | None = 0.0
    """From `create` to UP; None never comes up."""
    fails: bool = False
    """It becomes FAILED instead of UP."""
    life_s: float | None = None
    """From UP until it vanishes by itself."""
    preempted_s: float | None = None
    """From UP until its machine is taken back."""
    removal_s: float = 0.0
    """From `delete` to GONE."""


class _FakeNode(msgspec.Struct):
    request: NodeRequest
    fate: Fate
    status: NodeStatus = NodeStatus.PENDING
    leaving: bool = False
    was_up: bool = False


def _at_once(delay_s: float, call: Callable[[], None]) -> None:
    if delay_s > 0:
        raise ValueError("a delay needs a `call_later`")
    call()


def _ignore(_: object) -> None:
    pass


class FakeProvider:
    """See the module. `calls` records every call as (method, node ids) in order."""

    name = "fake"

    def __init__(
        self,
        *,
        fate: Callable[[NodeRequest], Fate] = lambda _: Fate(),
        call_later: CallLater = _at_once,
        on_up: Callable[[NodeRequest], None] = _ignore,
        on_gone: Callable[[str], None] = _ignore,
    ) -> None:
        """`on_up` is called when a node's agent should begin, `on_gone` (with the node id) when it should be no more,
        once each, and `on_gone` only after `on_up`."""
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.outage = False
        """`create` and `delete` raise a retryable ProviderError, `observe` says UNKNOWN; what runs runs on."""
        self.has_spot_capacity = True
        """Else spot nodes are refused for the time being."""
        self.mute: set[str] = set()
        """Ids of nodes that `observe` says UNKNOWN about."""
        self._fate = fate
        self._call_later = call_later
        self._on_up = on_up
        self._on_gone = on_gone
        self._nodes: dict[str, _FakeNode] = {}
        self._preempted: set[str] = set()

    @property
    def node_ids(self) -> list[str]:
        """Nodes there are, in any condition, in the order they were made."""
        return list(self._nodes)

    async def create(self, requests: Sequence[NodeRequest]) -> list[NodeCreated | NodeRefused]:
        self._enter("create", tuple(request.node_id for request in requests))
        return [self._create(request) for request in requests]

    async def observe(self, handles: Sequence[str]) -> list[NodeStatus]:
        self.calls.append(("observe", tuple(_node_id(handle) for handle in handles)))
        return [self._observe(_node_id(handle)) for handle in handles]

    async def delete(self, handles: Sequence[str]) -> None:
        node_ids = tuple(_node_id(handle) for handle in handles)
        self._enter("delete", node_ids)
        for node_id in node_ids:
            self._preempted.discard(node_id)
            node = self._nodes.get(node_id)
            if node is not None and not node.leaving:
                node.leaving = True
                self._call_later(node.fate.removal_s, partial(self._vanish, node))

    async def preempt(self, handles: Sequence[str]) -> None:
        node_ids = tuple(_node_id(handle) for handle in handles)
        self._enter("preempt", node_ids)
        for node_id in node_ids:
            if node_id in self._nodes:
                self._preempt(self._nodes[node_id])

    async def close(self) -> None:
        pass

    # --- what a test makes happen ---

    def vanish(self, node_id: str) -> None:
        """The node is gone, just like that."""
        self._vanish(self._nodes[node_id])

    def take_back(self, node_id: str) -> None:
        """The machine of a spot node is taken back, with no word to anybody: it is PREEMPTED."""
        self._preempt(self._nodes[node_id])

    def fail(self, node_id: str) -> None:
        """The node is there, and of no use."""
        self._nodes[node_id].status = NodeStatus.FAILED

    def recover(self, node_id: str) -> None:
        """A node that failed is of use again."""
        self._nodes[node_id].status = NodeStatus.UP

    # ---

    def _enter(self, method: str, node_ids: tuple[str, ...]) -> None:
        self.calls.append((method, node_ids))
        if self.outage:
            raise ProviderError("ProviderUnreachable", "The provider does not answer.", retryable=True)

    def _create(self, request: NodeRequest) -> NodeCreated | NodeRefused:
        node = self._nodes.get(request.node_id)
        if node is None:
            if not self.has_spot_capacity and not request.is_dedicated:
                message = "There is no spot capacity just now."
                return NodeRefused(request.node_id, "AllocationFailed", message, retryable=True)
            fate = self._fate(request)
            if fate.refuse:
                message = f"The provider refuses to make the node: {fate.refuse}."
                return NodeRefused(request.node_id, fate.refuse, message, fate.retryable)
            node = self._nodes[request.node_id] = _FakeNode(request, fate)
            self._preempted.discard(request.node_id)
            if fate.boot_s is not None:
                self._call_later(fate.boot_s, partial(self._boot, node))
        elif node.leaving:
            message = "The node of that id is still being removed."
            return NodeRefused(request.node_id, "AllocationFailed", message, retryable=True)
        return NodeCreated(request.node_id, json.dumps({"node_id": request.node_id}))

    def _observe(self, node_id: str) -> NodeStatus:
        if self.outage or node_id in self.mute:
            return NodeStatus.UNKNOWN
        if node_id in self._preempted:
            return NodeStatus.PREEMPTED
        node = self._nodes.get(node_id)
        return NodeStatus.GONE if node is None else node.status

    def _boot(self, node: _FakeNode) -> None:
        if self._nodes.get(node.request.node_id) is not node or node.leaving or node.status is not NodeStatus.PENDING:
            return
        if node.fate.fails:
            node.status = NodeStatus.FAILED
            return
        node.status = NodeStatus.UP
        node.was_up = True
        self._on_up(node.request)
        if node.fate.life_s is not None:
            self._call_later(node.fate.life_s, partial(self._vanish, node))
        if node.fate.preempted_s is not None:
            self._call_later(node.fate.preempted_s, partial(self._preempt, node))

    def _preempt(self, node: _FakeNode) -> None:
        node_id = node.request.node_id
        if self._nodes.get(node_id) is node and not node.leaving:
            self._vanish(node)
            self._preempted.add(node_id)

    def _vanish(self, node: _FakeNode) -> None:
        node_id = node.request.node_id
        if self._nodes.get(node_id) is node:
            del self._nodes[node_id]
            if node.was_up:
                self._on_gone(node_id)


def _node_id(handle: str) -> str:
    try:
        return str(json.loads(handle)["node_id"])
    except (ValueError, TypeError, KeyError):
        return ""
