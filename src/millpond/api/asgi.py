"""The application: every request comes in here."""

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Final

from millpond.api import status_routes
from millpond.api.accounts import AccountParts, Accounts, AccountState, AccountWorks, LiveAccount
from millpond.api.agent_routes import AgentRoutes
from millpond.api.auth import AccountKeys
from millpond.api.context import Context
from millpond.api.gate import Gate, SignIn, allow
from millpond.api.handlers import HANDLERS
from millpond.api.http import (
    AsgiApp,
    ClientDisconnected,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    route_path,
    send_response,
)
from millpond.api.management.account import Account, AccountKeeper, AccountQuotas, MemoryKeeper
from millpond.api.management.auth import LOOPBACK, ManagementGate
from millpond.api.management.groups import GroupKeeper, MemoryGroups, ResourceGroups
from millpond.api.management.operations import is_management
from millpond.api.management.routes import ManagementRoutes
from millpond.api.operations import Router
from millpond.api.paging import integer_parameter
from millpond.api.preconditions import refuse_conditions
from millpond.api.replies import CONTENT_TYPE
from millpond.api.storage_routes import StorageRoutes
from millpond.api.versions import API_VERSIONS, QUERY_PARAMETERS, answer_for
from millpond.api.wire_errors import error_body, error_headers
from millpond.control.base import ControlPlane
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, LeaseLost, StoreUnavailable
from millpond.staging.auto_storage import AutoStorage

if TYPE_CHECKING:
    from millpond.api.sign_in_routes import SignInRoutes

_log: Final = logging.getLogger(__name__)

MAX_TIMEOUT_S: Final = 30
SERVER: Final = b"Millpond"
_COMMON_QUERY: Final = frozenset({"api-version", "timeout"})
_COMMON_HEADERS: Final = (
    (b"server", SERVER),
    (b"dataserviceversion", b"3.0"),
    (b"x-content-type-options", b"nosniff"),
)


class ServiceApp:
    """The ASGI application of a service: the accounts' surfaces, the management plane over all of them, and what is the
    service's own. It serves HTTP only; start-up and shutdown are the caller's."""

    def __init__(
        self,
        first: AccountParts,
        sign_in: SignIn | None = None,
        sign_in_routes: "SignInRoutes | None" = None,
        *,
        management: str = LOOPBACK,
        works: AccountWorks | None = None,
        account_quota: int | None = None,
        groups: GroupKeeper | None = None,
    ) -> None:
        """`first` is the account that is always there; `works` makes others, `account_quota` of them in a subscription
        and location (None: any number), and `groups` keeps the resource groups they are in. `sign_in_routes` are those of
        a development issuer, if there is one; `management` says from where management tokens are taken
        (`management.auth`). Raises ValueError for settings of the first account that cannot be read."""
        self._sign_in = sign_in or SignIn()
        self._sign_in_routes = sign_in_routes
        self.accounts = Accounts(self._opened(first, AccountState.SUCCEEDED), self._opened, works, account_quota)
        self._managers = ManagementRoutes(
            self.accounts,
            ResourceGroups(groups or MemoryGroups()),
            ManagementGate(self.accounts, first.control.now, management),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            account, scope = self.accounts.of_request(scope)
        except BatchError as error:
            await refuse(scope, receive, send, error, self.accounts.first.context.control.now())
            return
        path = route_path(scope)
        if self._sign_in_routes is not None and self._sign_in_routes.serves(path):
            await self._sign_in_routes(scope, receive, send)
        elif is_management(path):
            await self._managers(scope, receive, send)
        elif account.state is not AccountState.SUCCEEDED and (refusal := account.refusal()) is not None:
            await refuse(scope, receive, send, refusal, account.context.control.now())
        else:
            await account.face_of(path)(scope, receive, send)

    def _opened(self, parts: AccountParts, state: AccountState) -> LiveAccount:
        """An account with its REST face. Raises ValueError for settings of it that cannot be read."""
        control, auto_storage = parts.control, parts.auto_storage
        gate = Gate(control, parts.keys, self._sign_in)
        account = Account(parts.keys, gate, parts.keeper, control.now, auto_storage.replace_key, parts.quotas)
        context = Context(control, auto_storage, parts.strict_images)
        batch = BatchRoutes(context, gate)
        agents = AgentRoutes(control)
        storage = StorageRoutes(auto_storage)
        status = status_routes.StatusRoutes(control)

        def face_of(path: bytes) -> AsgiApp:
            if path.startswith(b"/agent/"):
                return agents
            if path.startswith(b"/storage/"):
                return storage
            if path in status_routes.PATHS:
                return status
            return batch

        return LiveAccount(account, context, gate, face_of, state)


def create_app(
    control: ControlPlane,
    account: AccountKeys,
    auto_storage: AutoStorage,
    sign_in: SignIn | None = None,
    *,
    management: str = LOOPBACK,
    strict_images: bool = False,
    keeper: AccountKeeper | None = None,
    quotas: AccountQuotas | None = None,
) -> AsgiApp:
    """The application of a service that is one account: see `ServiceApp`, `AccountParts`."""
    parts = AccountParts(
        control, account, auto_storage, keeper or MemoryKeeper(), quotas or AccountQuotas(), strict_images
    )
    return ServiceApp(parts, sign_in, management=management)


async def refuse(scope: Scope, receive: Receive, send: Send, error: BatchError, at: Timestamp) -> None:
    """Answer a request that is for no account that serves it."""
    request = Request(scope, receive, str(uuid.uuid4()))
    response = failure(request, error, at)
    response.headers += own_headers(request)
    await send_response(send, receive, response, head=request.method == "HEAD")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


class BatchRoutes:
    """The Batch operations."""

    def __init__(self, context: Context, gate: Gate) -> None:
        self._control = context.control
        self._gate = gate
        self._context = context
        self._router = Router()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, str(uuid.uuid4()))
        head = request.method == "HEAD"
        try:
            response = await self._answer(request)
        except ClientDisconnected:
            return
        response.headers += own_headers(request)
        await send_response(send, receive, response, head=head)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._perform(request)
        except BatchError as error:
            return failure(request, error, self._control.now())
        except (StoreUnavailable, LeaseLost) as error:
            _log.warning("request %s: %s", request.request_id, error)
            return failure(request, BatchError(ErrorCode.SERVER_BUSY), self._control.now())
        except ClientDisconnected:
            raise
        except Exception:
            _log.exception("request %s (%s %r) failed", request.request_id, request.method, request.raw_path)
            return failure(request, BatchError(ErrorCode.INTERNAL_ERROR), self._control.now())

    async def _perform(self, request: Request) -> Response:
        request.read_query()
        grant = await self._gate.admit(request)
        request.operation, request.params = self._router.find(request.method, route_path(request.scope))
        allow(grant, request.operation, request.params)
        version = request.version = _checked_version(request)
        limit_s = _timeout_s(request)
        for name in request.query:
            known = name in _COMMON_QUERY or name in request.operation.query
            if not known or (name in QUERY_PARAMETERS and not QUERY_PARAMETERS[name].has(version)):
                raise BatchError(ErrorCode.UNSUPPORTED_QUERY_PARAMETER, QueryParameterName=name[:256])
        if not request.operation.conditional and request.method not in ("GET", "HEAD"):
            refuse_conditions(request)
        request.require_host()
        handler = HANDLERS[request.operation.name]
        try:
            async with asyncio.timeout(limit_s):
                response = await handler(self._context, request)
        except TimeoutError:
            raise BatchError(ErrorCode.OPERATION_TIMED_OUT) from None
        if CONTENT_TYPE in response.headers and isinstance(response.body, bytes):
            response.body = answer_for(version, response.body, tasks=response.of_tasks)
        return response


def failure(request: Request, error: BatchError, at: Timestamp) -> Response:
    """What a caller of the data plane is told of an error."""
    headers = error_headers(error)
    if request.method == "HEAD":
        return Response(error.status, headers)
    try:
        base_url = request.base_url
    except BatchError:
        base_url = ""
    body = error_body(error, base_url, request.request_id, at)
    return Response(error.status, [CONTENT_TYPE, *headers], body)


def own_headers(request: Request) -> list[tuple[bytes, bytes]]:
    """What every answer of the data plane has."""
    headers = [(b"request-id", request.request_id.encode()), *_COMMON_HEADERS]
    client_id = request.headers.get(b"client-request-id")
    if client_id and request.headers.get(b"return-client-request-id", b"").lower() == b"true":
        headers.append((b"client-request-id", client_id))
    return headers


def _checked_version(request: Request) -> str:
    """The api-version, which has the operation. Raises BatchError."""
    version = request.query.get("api-version")
    if version is None:
        raise BatchError(ErrorCode.MISSING_REQUIRED_QUERY_PARAMETER, QueryParameterName="api-version")
    if version not in API_VERSIONS:
        raise BatchError(
            ErrorCode.UNSUPPORTED_REQUEST_VERSION,
            QueryParameterName="api-version",
            QueryParameterValue=version[:256],
            Supported=", ".join(API_VERSIONS),
        )
    operation = request.operation
    if not operation.span.has(version):
        raise BatchError(
            ErrorCode.INVALID_URI,
            f"api-version {version} has no operation {operation.method} {operation.path}: it is in "
            f"{operation.span.first} to {operation.span.last}.",
        )
    return version


def _timeout_s(request: Request) -> float:
    """How long the operation may take: `timeout`, at most (and by default) 30 s."""
    value = integer_parameter(request, "timeout")
    if value is None:
        return MAX_TIMEOUT_S
    if value < 1:
        raise BatchError(
            ErrorCode.OUT_OF_RANGE_QUERY_PARAMETER_VALUE,
            QueryParameterName="timeout",
            QueryParameterValue=str(value),
            MinimumAllowed="1",
        )
    return min(value, MAX_TIMEOUT_S)
