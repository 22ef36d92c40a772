"""The management plane over HTTP: every request to it comes in here."""

import logging
import re
import uuid
from typing import Final

from millpond.api.accounts import Accounts, LiveAccount
from millpond.api.http import ClientDisconnected, Receive, Request, Response, Scope, Send, route_path, send_response
from millpond.api.management.auth import ManagementGate
from millpond.api.management.context import ManagementContext
from millpond.api.management.errors import ArmError, error_body
from millpond.api.management.groups import ResourceGroups
from millpond.api.management.handlers import HANDLERS
from millpond.api.management.operations import API_VERSIONS, ManagementRouter, is_of_batch
from millpond.domain.errors import BatchError, ErrorCode, LeaseLost, StoreUnavailable

_log: Final = logging.getLogger(__name__)
_CONTENT_TYPE: Final = (b"content-type", b"application/json; charset=utf-8")
_ANY_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-[a-z0-9.-]+)?\Z", re.IGNORECASE)
_RETRY_AFTER: Final = (b"retry-after", b"1")
_OF_THE_SERVICE: Final = frozenset(
    {"delete_account", "create_resource_group", "update_resource_group", "delete_resource_group"}
)
"""Not for who holds the key of one of several accounts."""
_OF_NO_ACCOUNT: Final = frozenset({"create_account", "delete_account", "get_account_operation"})
"""What names an account that may not be there."""


class ManagementRoutes:
    """The operations of the management plane."""

    def __init__(self, accounts: Accounts, groups: ResourceGroups, gate: ManagementGate) -> None:
        self._accounts = accounts
        self._groups = groups
        self._gate = gate
        self._router = ManagementRouter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, str(uuid.uuid4()))
        try:
            response = await self._answer(request)
        except ClientDisconnected:
            return
        request_id = request.request_id.encode()
        response.headers += [(b"x-ms-request-id", request_id), (b"x-ms-correlation-request-id", request_id)]
        response.headers += [(b"cache-control", b"no-cache"), (b"x-content-type-options", b"nosniff")]
        client_id = request.headers.get(b"x-ms-client-request-id")
        if client_id and request.headers.get(b"x-ms-return-client-request-id", b"").lower() == b"true":
            response.headers.append((b"x-ms-client-request-id", client_id))
        await send_response(send, receive, response, head=request.method == "HEAD")

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._perform(request)
        except (ArmError, BatchError) as error:
            return _failure(request, error)
        except (StoreUnavailable, LeaseLost) as error:
            _log.warning("request %s: %s", request.request_id, error)
            return _failure(request, BatchError(ErrorCode.SERVER_BUSY))
        except ClientDisconnected:
            raise
        except Exception:
            _log.exception("request %s (%s %r) failed", request.request_id, request.method, request.raw_path)
            return _failure(request, BatchError(ErrorCode.INTERNAL_ERROR))

    async def _perform(self, request: Request) -> Response:
        request.read_query()
        grant, only = await self._gate.authenticate(request)
        request.require_host()
        request.operation, request.params = self._router.find(request.method, route_path(request.scope).rstrip(b"/"))
        _check_version(request)
        self._gate.allow(grant, request.operation, self._router.role_of(request.operation))
        handler = HANDLERS[request.operation.name]
        return await handler(self._context(request, only), request)

    def _context(self, request: Request, only: LiveAccount | None) -> ManagementContext:
        """With the account the request is about. Raises ArmError 404 for one that is not there, 403 for what is not the
        caller's to do."""
        operation = request.operation.name
        if only is not None and operation in _OF_THE_SERVICE:
            raise ArmError(
                403,
                "AuthorizationFailed",
                f"{operation} needs a token of the service's first account: this one is of '{only.name}', and good for "
                "that account only.",
            )
        first = self._accounts.first
        own = first.context
        context = ManagementContext(
            own.control,
            own.storage,
            own.strict_images,
            live=first,
            accounts=self._accounts,
            groups=self._groups,
            only=only,
        )
        name = request.params.get("accountName")
        if name is None:
            return context
        live = context.found(request.params["subscriptionId"], request.params["resourceGroupName"], name)
        if live is not None:
            return context.about(live)
        if operation in _OF_NO_ACCOUNT:
            return context
        raise ArmError(
            404,
            "ResourceNotFound",
            f"The Resource 'Microsoft.Batch/batchAccounts/{name[:64]}' under resource group "
            f"'{request.params['resourceGroupName'][:90]}' was not found.",
        )


def _check_version(request: Request) -> None:
    version = request.query.get("api-version")
    if version is None:
        raise ArmError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    known = version in API_VERSIONS if is_of_batch(request.operation.path) else _ANY_VERSION.match(version)
    if not known:
        raise ArmError(
            400,
            "InvalidApiVersionParameter",
            f"The api-version '{version[:64]}' is invalid. The supported versions are '{','.join(API_VERSIONS)}'.",
        )


def _failure(request: Request, error: ArmError | BatchError) -> Response:
    headers = [_CONTENT_TYPE]
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="millpond"'))
    if error.status == 503:
        headers.append(_RETRY_AFTER)
    return Response(error.status, headers, error_body(error, request.request_id))
