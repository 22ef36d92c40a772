"""What handlers of the management plane are given."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from millpond.api.accounts import Accounts, LiveAccount
from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.management.account import Account
from millpond.api.management.groups import ResourceGroups


class ManagementContext(Context, frozen=True, kw_only=True):
    """The surroundings of a handler, and the account it manages: the service's first where it is about none."""

    live: LiveAccount
    accounts: Accounts
    groups: ResourceGroups
    only: LiveAccount | None = None
    """The one account the caller may know of; None: all."""

    @property
    def account(self) -> Account:
        return self.live.account

    def about(self, live: LiveAccount) -> "ManagementContext":
        """The same for another account."""
        own = live.context
        return ManagementContext(
            own.control,
            own.storage,
            own.strict_images,
            live=live,
            accounts=self.accounts,
            groups=self.groups,
            only=self.only,
        )

    def seen(self, subscription: str, group: str | None = None) -> list[LiveAccount]:
        """The accounts of a subscription, or of one of its groups, that the caller may know of."""
        return [live for live in self.accounts if self._is_in(live, subscription, group) and self.may_know(live)]

    def may_know(self, live: LiveAccount) -> bool:
        """Whether the caller may know of it."""
        return self.only is None or self.only is live

    def found(self, subscription: str, group: str, name: str) -> LiveAccount | None:
        """The account of a resource id, if the caller may know of it. The service's first is in every group."""
        live = self.accounts.get(name)
        if live is None or not self.may_know(live):
            return None
        if live is not self.accounts.first and not self._is_in(live, subscription, group):
            return None
        return live

    def _is_in(self, live: LiveAccount, subscription: str, group: str | None) -> bool:
        if live is self.accounts.first:
            return group is None or self.groups.has_first_account(subscription, group)
        settings = live.settings
        if settings.subscription.lower() != subscription.lower():
            return False
        return group is None or settings.group.lower() == group.lower()


ManagementHandler: TypeAlias = Callable[[ManagementContext, Request], Awaitable[Response]]
