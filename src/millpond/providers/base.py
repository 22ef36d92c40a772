"""Where nodes come from: the contract of a node provider.

Three bulk calls, idempotent, that never wait for a machine to boot. A provider keeps no memory of its own: what it
needs to find a node again is the `handle` (opaque JSON) that the control plane keeps in the node's row.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec


class VmSize(msgspec.Struct, frozen=True):
    """One row of the catalogue of VM sizes (`config`): what a node of that size offers."""

    name: str
    cores: int
    memory_mib: int
    price_per_hour: float
    """US dollars, dedicated; only used for cost figures."""


class NodeRequest(msgspec.Struct, frozen=True):
    """One node to make."""

    node_id: str
    pool_id: str
    vm_size: VmSize
    task_slots: int
    is_dedicated: bool
    token: str
    """The node's secret for the agent protocol."""
    handle: str = ""
    """Of an earlier `create` of the same node, if any."""


class NodeCreated(msgspec.Struct, frozen=True):
    node_id: str
    handle: str


class NodeRefused(msgspec.Struct, frozen=True):
    """The provider cannot make this node; `code` is a resize error code (AllocationFailed, UnsupportedVMSize …)."""

    node_id: str
    code: str
    message: str
    retryable: bool


class NodeStatus(StrEnum):
    PENDING = "pending"
    """Asked for, not there yet."""
    UP = "up"
    GONE = "gone"
    """Certainly no longer there."""
    PREEMPTED = "preempted"
    """The machine was taken back, with its disk; `create` makes the node again when it can. `delete` makes it GONE."""
    FAILED = "failed"
    """There, and certainly of no use."""
    UNKNOWN = "unknown"
    """No answer. Not the same as gone."""


class NodeProvider(Protocol):
    """Makes, watches and deletes nodes. All calls may be repeated; unknown handles are GONE and deleted already."""

    name: str

    async def create(self, requests: Sequence[NodeRequest]) -> list[NodeCreated | NodeRefused]:
        """Begin to make the nodes; one answer each, in any order. A node that exists already answers its handle; one
        that was preempted is made anew.

        Raises ProviderError when none could be tried.
        """
        ...

    async def observe(self, handles: Sequence[str]) -> list[NodeStatus]:
        """The status of each handle, in order."""
        ...

    async def delete(self, handles: Sequence[str]) -> None:
        """Begin to remove the nodes, with everything they run and all their files. Done when `observe` says GONE.

        Raises ProviderError when it must be tried again.
        """
        ...

    async def close(self) -> None:
        """Let go of the provider's own resources; nodes stay."""
        ...


@runtime_checkable
class CanPreempt(Protocol):
    """A provider that takes the machines of spot nodes back on purpose: somebody wants the capacity, or a test does."""

    async def preempt(self, handles: Sequence[str]) -> None:
        """Begin to take the nodes' machines away, without a word to what runs there, and all their files. Done when
        `observe` says PREEMPTED. Unknown handles, and nodes being deleted, are left alone.

        Raises ProviderError when it must be tried again.
        """
        ...
