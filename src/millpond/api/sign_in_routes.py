"""The development issuer over HTTP: the endpoints of Microsoft Entra ID and of managed identities that clients use.

Sources: OpenID Connect Discovery, RFC 6749, what azure-identity and `az login` ask for.
"""

import base64
import binascii
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from millpond.api.http import ClientDisconnected, Receive, Request, Response, Scope, Send, route_path, send_response
from millpond.domain.errors import BatchError
from millpond.identity.base import SignInRefused
from millpond.identity.development import DevelopmentIssuer

MANAGED_IDENTITY_PATHS: Final = frozenset({b"/MSI/token", b"/msi/token"})
CLOUD_PATH: Final = b"/metadata/endpoints"
_BELOW_TENANT: Final = frozenset(
    {
        b".well-known/openid-configuration",
        b"v2.0/.well-known/openid-configuration",
        b"discovery/keys",
        b"discovery/v2.0/keys",
        b"oauth2/token",
        b"oauth2/v2.0/token",
    }
)
_INSTANCE_DISCOVERY: Final = b"/common/discovery/instance"
_MAX_FORM: Final = 64 * 1024


class SignInRoutes:
    """Discovery, keys, tokens; the managed-identity endpoint; the description of this cloud for `az cloud register`."""

    def __init__(self, issuer: DevelopmentIssuer) -> None:
        self._issuer = issuer

    @staticmethod
    def serves(path: bytes) -> bool:
        """Whether a path is one of these."""
        if path in MANAGED_IDENTITY_PATHS or path in (CLOUD_PATH, _INSTANCE_DISCOVERY):
            return True
        _, _, below = path[1:].partition(b"/")
        return below in _BELOW_TENANT

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, "")
        try:
            response = await self._answer(request, route_path(scope))
        except ClientDisconnected:
            return
        response.headers += [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send_response(send, receive, response, head=request.method == "HEAD")

    async def _answer(self, request: Request, path: bytes) -> Response:
        try:
            request.read_query()
            return Response(200, [], msgspec.json.encode(await self._found(request, path)))
        except SignInRefused as error:
            status = 401 if error.code == "invalid_client" else 400
            body = {"error": error.code, "error_description": str(error), "error_codes": []}
            return Response(status, [], msgspec.json.encode(body))
        except BatchError as error:
            body = {"error": "invalid_request", "error_description": error.message}
            return Response(error.status, [], msgspec.json.encode(body))

    async def _found(self, request: Request, path: bytes) -> dict[str, Any]:
        if path in MANAGED_IDENTITY_PATHS:
            secret = request.header(b"x-identity-header") or ""
            return self._issuer.managed_identity(secret, request.query.get("resource", ""))
        if path == CLOUD_PATH:
            return self._cloud(request.base_url)
        if path == _INSTANCE_DISCOVERY:
            own = f"{request.base_url}/{self._issuer.tenant}"
            return {"tenant_discovery_endpoint": f"{own}/v2.0/.well-known/openid-configuration", "metadata": []}
        tenant, _, below = path[1:].partition(b"/")
        if below.endswith(b"openid-configuration"):
            return self._issuer.configuration(tenant.decode("latin-1"), request.base_url)
        if below.endswith(b"keys"):
            return self._issuer.keys()
        if request.method != "POST":
            raise SignInRefused("invalid_request", "tokens are asked for by POST")
        form = dict(parse_qsl((await request.body(_MAX_FORM)).decode(errors="replace"), keep_blank_values=True))
        return self._issuer.sign_in(form, _basic(request))

    def _cloud(self, url: str) -> dict[str, Any]:
        """What `az cloud register --endpoint-resource-manager` asks for."""
        return {
            "name": "Millpond",
            "authentication": {
                "loginEndpoint": url,
                "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
                "tenant": self._issuer.tenant,
                "identityProvider": "AAD",
            },
            "resourceManager": url,
            "portal": url,
            "batch": "https://batch.core.windows.net/",
            "graphAudience": f"{url}/",
            "graph": f"{url}/",
            "suffixes": {"storage": "localhost", "keyVaultDns": "localhost", "sqlServerHostname": "localhost"},
        }


def _basic(request: Request) -> tuple[str, str] | None:
    scheme, _, text = (request.header(b"authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, _, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise SignInRefused("invalid_request", "the Authorization header cannot be read") from None
    return client_id, secret
