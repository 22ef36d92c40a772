"""Who may call the management plane: holders of a role by an issuer's token, and of a management token.

A management token is made with an account key (`identity.management_token`). With a key of the service's first account it
is good for all accounts, with one of another for that one only. It is taken from this machine only, unless the
configuration says otherwise (`server.management`).
"""

import ipaddress
from collections.abc import Callable
from typing import Final

from millpond.api.accounts import Accounts, LiveAccount
from millpond.api.auth import bearer_token
from millpond.api.gate import AuthenticationMode, Grant
from millpond.api.http import Request, Scope
from millpond.api.management.errors import ArmError
from millpond.api.operations import Operation
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.identity.base import MANAGEMENT_AUDIENCES, TokenRefused
from millpond.identity.management_token import account_of_token, check_token, is_of_that_kind
from millpond.identity.roles import Caller, Role

LOOPBACK: Final = "loopback"
ANYWHERE: Final = "anywhere"
OFF: Final = "off"


class ManagementGate:
    """Lets callers in, and to operations."""

    def __init__(self, accounts: Accounts, clock: Callable[[], Timestamp], access: str = LOOPBACK) -> None:
        """`access` says from where management tokens are taken."""
        self._accounts = accounts
        self._clock = clock
        self._access = access

    async def authenticate(self, request: Request) -> tuple[Grant, LiveAccount | None]:
        """Who calls, and the only account they may manage (None: all). Raises ArmError 401, 403, and BatchError where an
        issuer's token is not good."""
        token = bearer_token(request.headers)
        if token is None:
            raise ArmError(
                401,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or is no Bearer token: "
                "`millpond env --arm` prints one.",
            )
        first = self._accounts.first
        if not is_of_that_kind(token):
            # By what is configured: whoever turned Entra ID off for the data plane must be able to turn it on again.
            return await first.gate.admit(request, MANAGEMENT_AUDIENCES, first.gate.sign_in.modes), None
        self._require_place(request.scope)
        live = self._accounts.get(account_of_token(token)) or first
        keys = live.account.keys
        try:
            check_token(token, keys.name, (keys.primary, keys.secondary), self._clock())
        except TokenRefused as error:
            raise ArmError(401, "InvalidAuthenticationToken", f"The access token is invalid: {error}.") from None
        live.gate.require(AuthenticationMode.SHARED_KEY)
        return Grant(Caller("the account's key", Role.ADMIN)), None if live is first else live

    def allow(self, grant: Grant, operation: Operation, needed: Role) -> None:
        """Raises BatchError InsufficientAccountPermissions for who has less than the role needed."""
        if grant.claim is not None or grant.caller.role < needed:
            raise BatchError(
                ErrorCode.INSUFFICIENT_ACCOUNT_PERMISSIONS,
                f"{operation.name} needs the role {needed.name.lower()}, which {grant.caller.name} has not.",
            )

    def _require_place(self, scope: Scope) -> None:
        if self._access == ANYWHERE:
            return
        client = scope.get("client")
        if self._access == OFF or (client is not None and not _is_loopback(client[0])):
            raise ArmError(
                403,
                "AuthorizationFailed",
                f"Management tokens are not taken from here: server.management is '{self._access}' in the configuration.",
            )


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
