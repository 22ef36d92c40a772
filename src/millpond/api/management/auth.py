"""Who may call the management plane: holders of a role by an issuer's token, and of a management token.

A management token is made with an account key (`identity.management_token`). It is taken from this machine only, unless
the configuration says otherwise (`server.management`).
"""

import ipaddress
from collections.abc import Callable
from typing import Final

from millpond.api.auth import AccountKeys, bearer_token
from millpond.api.gate import SHARED_KEY, Gate, Grant
from millpond.api.http import Request, Scope
from millpond.api.management.errors import ArmError
from millpond.api.operations import Operation
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.identity.base import MANAGEMENT_AUDIENCES, TokenRefused
from millpond.identity.management_token import check_token, is_of_that_kind
from millpond.identity.roles import Caller, Role

LOOPBACK: Final = "loopback"
ANYWHERE: Final = "anywhere"
OFF: Final = "off"


class ManagementGate:
    """Lets callers in, and to operations."""

    def __init__(
        self, gate: Gate, account: AccountKeys, clock: Callable[[], Timestamp], access: str = LOOPBACK
    ) -> None:
        """`access` says from where management tokens are taken."""
        self._gate = gate
        self._account = account
        self._clock = clock
        self._access = access

    async def authenticate(self, request: Request) -> Grant:
        """Who calls. Raises ArmError 401, 403, and BatchError where an issuer's token is not good."""
        token = bearer_token(request.headers)
        if token is None:
            raise ArmError(
                401,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or is no Bearer token: "
                "`millpond env --arm` prints one.",
            )
        if not is_of_that_kind(token):
            # By what is configured: whoever turned Entra ID off for the data plane must be able to turn it on again.
            return await self._gate.admit(request, MANAGEMENT_AUDIENCES, self._gate.sign_in.modes)
        self._require_place(request.scope)
        account = self._account
        try:
            check_token(token, account.name, (account.primary, account.secondary), self._clock())
        except TokenRefused as error:
            raise ArmError(401, "InvalidAuthenticationToken", f"The access token is invalid: {error}.") from None
        self._gate.require(SHARED_KEY)
        return Grant(Caller("the account's key", Role.ADMIN))

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
