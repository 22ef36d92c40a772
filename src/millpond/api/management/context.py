"""What handlers of the management plane are given."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.management.account import Account


class ManagementContext(Context, frozen=True, kw_only=True):
    """The surroundings of a handler, and the account it manages."""

    account: Account


ManagementHandler: TypeAlias = Callable[[ManagementContext, Request], Awaitable[Response]]
