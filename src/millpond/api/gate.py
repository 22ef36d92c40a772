"""Who is let in: account keys, tokens of tasks, tokens of people and programs from an OpenID Connect issuer."""

from typing import Final

import msgspec

from millpond.api.auth import AccountKeys, SharedKeyAuth, bearer_token, unauthenticated
from millpond.api.http import Request
from millpond.api.operations import Operation
from millpond.api.schema.base import WireEnum
from millpond.control.base import ControlPlane
from millpond.control.tokens import TaskClaim
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.ids import id_key
from millpond.identity.base import AUDIENCES, IssuerAway, TokenRefused, Verifier
from millpond.identity.roles import Caller, Role, RoleRules, name_of, needed_role


class AuthenticationMode(WireEnum):
    """Ways to sign in (Azure Batch: the account's allowedAuthenticationModes)."""

    SHARED_KEY = "SharedKey"
    AAD = "AAD"
    TASK_AUTHENTICATION_TOKEN = "TaskAuthenticationToken"  # noqa: S105  the name of a way to sign in


class SignIn(msgspec.Struct, frozen=True):
    """How callers may show who they are. Without a `verifier` no issuer's tokens are taken."""

    modes: tuple[str, ...] = tuple(AuthenticationMode)
    verifier: Verifier | None = None
    rules: RoleRules = RoleRules()


class Grant(msgspec.Struct, frozen=True):
    """What a caller was let in for: a role, or the one job of a task."""

    caller: Caller
    claim: TaskClaim | None = None


_KEY_HOLDER: Final = Grant(Caller("the account's key", Role.ADMIN))


class Gate:
    """Lets callers of one account in."""

    def __init__(self, control: ControlPlane, account: AccountKeys, sign_in: SignIn) -> None:
        self._control = control
        self._shared_key = SharedKeyAuth(account, control.now)
        self._sign_in = sign_in
        self.modes = sign_in.modes
        """How callers may sign in just now: some of those configured."""

    @property
    def sign_in(self) -> SignIn:
        """As configured."""
        return self._sign_in

    async def admit(
        self, request: Request, audiences: tuple[str, ...] = AUDIENCES, modes: tuple[str, ...] | None = None
    ) -> Grant:
        """Let a caller in by one of `modes`, the account's own unless given. Raises BatchError: AuthenticationFailed (401
        without credentials that could be good, else 403), InvalidAuthenticationInfo, InsufficientAccountPermissions,
        ServerBusy while an issuer's keys cannot be had."""
        token = bearer_token(request.headers)
        if token is None:
            self._shared_key.check(request.method, request.raw_path, request.headers, request.query_pairs)
            self.require(AuthenticationMode.SHARED_KEY, modes)
            return _KEY_HOLDER
        claim = self._control.claim_of_token(token)
        if claim is not None:
            self.require(AuthenticationMode.TASK_AUTHENTICATION_TOKEN, modes)
            return Grant(Caller(f"task {claim.task_id}", Role.SUBMITTER), claim)
        verifier = self._sign_in.verifier
        if verifier is None or token.count(".") != 2 or not token.startswith("ey"):
            raise unauthenticated("The bearer token is not that of a task that runs: it ends with the task's attempt.")
        self.require(AuthenticationMode.AAD, modes)
        return Grant(await self._verified(verifier, token, audiences))

    async def _verified(self, verifier: Verifier, token: str, audiences: tuple[str, ...]) -> Caller:
        try:
            claims = await verifier.verify(token, audiences)
        except TokenRefused as error:
            raise unauthenticated(f"The bearer token is refused: {error}.") from None
        except IssuerAway as error:
            raise BatchError(ErrorCode.SERVER_BUSY, f"The bearer token cannot be verified just now: {error}.") from None
        role = self._sign_in.rules.role_of(claims)
        if role is None:
            raise BatchError(
                ErrorCode.INSUFFICIENT_ACCOUNT_PERMISSIONS,
                f"{name_of(claims)} has signed in, but has no role here: none of the token's claims "
                f"{', '.join(self._sign_in.rules.claims)} gives one.",
            )
        return Caller(name_of(claims), role)

    def require(self, mode: str, modes: tuple[str, ...] | None = None) -> None:
        """Raises BatchError AuthenticationFailed unless callers may sign in that way."""
        allowed = self.modes if modes is None else modes
        if mode not in allowed:
            raise BatchError(
                ErrorCode.AUTHENTICATION_FAILED,
                AuthenticationErrorDetail=f"The account does not take {mode}; it takes {', '.join(allowed)}.",
            )


def allow(grant: Grant, operation: Operation, params: dict[str, str]) -> None:
    """Raises BatchError InsufficientAccountPermissions for an operation that the grant does not cover."""
    claim = grant.claim
    if claim is not None:
        # Azure Batch: access `job`. A task may do anything with its own job, and nothing else.
        job_id = params.get("jobId")
        if job_id is None or id_key(job_id) != id_key(claim.job_id):
            raise BatchError(
                ErrorCode.INSUFFICIENT_ACCOUNT_PERMISSIONS,
                f"The token of task '{claim.task_id}' is good for operations on its own job '{claim.job_id}' only.",
            )
        return
    caller = grant.caller
    if caller.role is Role.ADMIN:
        return
    needed = needed_role(operation.method, operation.path)
    if caller.role < needed:
        raise BatchError(
            ErrorCode.INSUFFICIENT_ACCOUNT_PERMISSIONS,
            f"{operation.name} needs the role {needed.name.lower()}; {caller.name} has {caller.role.name.lower()}.",
        )
