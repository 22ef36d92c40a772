"""The application: every request comes in here."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from millpond.api import status_routes
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
from millpond.api.management.context import ManagementContext
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

Face = Callable[[Scope, Receive, Send], Awaitable[None]]


def create_app(
    control: ControlPlane,
    account: AccountKeys,
    auto_storage: AutoStorage,
    sign_in: SignIn | None = None,
    sign_in_routes: "SignInRoutes | None" = None,
    *,
    management: str = LOOPBACK,
    strict_images: bool = False,
    keeper: AccountKeeper | None = None,
    quotas: AccountQuotas | None = None,
) -> AsgiApp:
    """The ASGI application over a control plane. It serves HTTP only; start-up and shutdown are the caller's.

    `sign_in_routes` are those of a development issuer, if there is one; `management` says from where management tokens
    are taken (`management.auth`); `strict_images` refuses pools with images that are not in the list; `keeper` keeps what
    is changed of the account, `quotas` are shown of it. Raises ValueError for settings of the account that cannot be
    read.
    """
    gate = Gate(control, account, sign_in or SignIn())
    context = Context(control, auto_storage, strict_images)
    batch = BatchRoutes(context, gate)
    agents = AgentRoutes(control)
    storage = StorageRoutes(auto_storage)
    status = status_routes.StatusRoutes(control)
    own = Account(
        account, gate, keeper or MemoryKeeper(), control.now, auto_storage.replace_key, quotas or AccountQuotas()
    )
    managers = ManagementRoutes(
        ManagementContext(control, auto_storage, strict_images, account=own),
        ManagementGate(gate, account, control.now, management),
    )

    def face_of(path: bytes) -> Face:
        if path.startswith(b"/agent/"):
            return agents
        if path.startswith(b"/storage/"):
            return storage
        if path in status_routes.PATHS:
            return status
        if sign_in_routes is not None and sign_in_routes.serves(path):
            return sign_in_routes
        if is_management(path):
            return managers
        return batch

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await face_of(route_path(scope))(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return application


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
        response.headers += self._own_headers(request)
        await send_response(send, receive, response, head=head)

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._perform(request)
        except BatchError as error:
            return self._failure(request, error)
        except (StoreUnavailable, LeaseLost) as error:
            _log.warning("request %s: %s", request.request_id, error)
            return self._failure(request, BatchError(ErrorCode.SERVER_BUSY))
        except ClientDisconnected:
            raise
        except Exception:
            _log.exception("request %s (%s %r) failed", request.request_id, request.method, request.raw_path)
            return self._failure(request, BatchError(ErrorCode.INTERNAL_ERROR))

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

    def _failure(self, request: Request, error: BatchError) -> Response:
        headers = error_headers(error)
        if request.method == "HEAD":
            return Response(error.status, headers)
        try:
            base_url = request.base_url
        except BatchError:
            base_url = ""
        body = error_body(error, base_url, request.request_id, self._control.now())
        return Response(error.status, [CONTENT_TYPE, *headers], body)

    @staticmethod
    def _own_headers(request: Request) -> list[tuple[bytes, bytes]]:
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
