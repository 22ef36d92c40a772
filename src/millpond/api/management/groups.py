"""The resource groups that were made, and kept.

The group `millpond` is there without being made. The service's first account is in that one, in every group that was not
made, and in those it was put into.
"""

import asyncio
from typing import Any, Protocol

import msgspec

from millpond.api.management.resources import DEFAULT_GROUP


class ResourceGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group of a subscription."""

    subscription: str
    name: str
    location: str
    tags: dict[str, str] = {}
    has_first_account: bool = False
    """A client has put the service's first account into it."""

    def is_it(self, subscription: str, name: str) -> bool:
        """Both are compared without case."""
        return (self.subscription.lower(), self.name.lower()) == (subscription.lower(), name.lower())


class GroupKeeper(Protocol):
    """Where groups are kept. A write returns when it is on disk; it blocks."""

    def groups(self) -> list[dict[str, Any]]:
        """What was last written; nothing at first."""
        ...

    def write_groups(self, groups: list[dict[str, Any]]) -> None: ...


class MemoryGroups:
    """Keeps them as long as the process lives."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def groups(self) -> list[dict[str, Any]]:
        return self.kept

    def write_groups(self, groups: list[dict[str, Any]]) -> None:
        self.kept = groups


class ResourceGroups:
    """The groups of all subscriptions."""

    def __init__(self, keeper: GroupKeeper) -> None:
        """Raises ValueError where what was kept cannot be read."""
        self._keeper = keeper
        self._groups = msgspec.convert(keeper.groups(), list[ResourceGroup])
        self._changing = asyncio.Lock()

    def of(self, subscription: str) -> list[ResourceGroup]:
        """Those made in a subscription, by name."""
        found = [group for group in self._groups if group.subscription.lower() == subscription.lower()]
        return sorted(found, key=lambda group: group.name.lower())

    def subscriptions(self) -> list[str]:
        """Those in which groups were made."""
        return list(dict.fromkeys(group.subscription for group in self._groups))

    def get(self, subscription: str, name: str) -> ResourceGroup | None:
        """One that was made."""
        return next((group for group in self._groups if group.is_it(subscription, name)), None)

    def is_there(self, subscription: str, name: str) -> bool:
        """Whether accounts can be made in it."""
        return name.lower() == DEFAULT_GROUP or self.get(subscription, name) is not None

    def has_first_account(self, subscription: str, name: str) -> bool:
        """Whether the service's first account is in it."""
        group = self.get(subscription, name)
        return group is None or group.has_first_account or name.lower() == DEFAULT_GROUP

    async def put(self, group: ResourceGroup) -> None:
        """Make it, or replace the one of that name."""
        async with self._changing:
            await self._write([*self._without(group), group])

    async def remove(self, group: ResourceGroup) -> None:
        async with self._changing:
            await self._write(self._without(group))

    def _without(self, group: ResourceGroup) -> list[ResourceGroup]:
        return [each for each in self._groups if not each.is_it(group.subscription, group.name)]

    async def _write(self, groups: list[ResourceGroup]) -> None:
        await asyncio.to_thread(self._keeper.write_groups, msgspec.to_builtins(groups))
        self._groups = groups
