"""A development issuer: signs in the clients of this one service, in the ways of Microsoft Entra ID, without a cloud.

It has one tenant, and an application for each role, whose client secret is derived from a secret of the service: with
one of them `ClientSecretCredential`, `EnvironmentCredential` and `az login --service-principal` get tokens; with the
managed-identity secret `ManagedIdentityCredential` and `az login --identity` do. It is for development and tests, and
off unless asked for: whoever has one of the secrets is who it says.
"""

import base64
import hashlib
import hmac
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from millpond.domain.durations import Timestamp
from millpond.identity.applications import NAMESPACE, Application, applications, managed_identity_secret, tenant_of
from millpond.identity.base import SignInRefused, TokenRefused

LIFE_S: Final = 3600.0
_ALGORITHM: Final = "RS256"


def make_key() -> bytes:
    """A new key to sign with (PEM)."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class DevelopmentIssuer:
    """Signs tokens. `url` is the service's base URL, below which it is reached."""

    def __init__(
        self, account: str, secret: bytes, key_pem: bytes, url: Callable[[], str], clock: Callable[[], Timestamp]
    ) -> None:
        self.tenant = tenant_of(account)
        self._applications = {each.client_id: each for each in applications(secret, account).values()}
        self._identities = {
            managed_identity_secret(secret, each.role).encode(): each for each in self._applications.values()
        }
        key = serialization.load_pem_private_key(key_pem, None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._key = key
        public = key.public_key()
        body = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self._key_id = base64.urlsafe_b64encode(hashlib.sha256(body).digest()[:15]).decode()
        self._public = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
        self._url = url
        self._clock = clock

    @property
    def issuer(self) -> str:
        """The claim `iss` of its tokens."""
        return f"{self._url()}/{self.tenant}/v2.0"

    def configuration(self, tenant: str, url: str) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0); `url` is the base URL it was asked for by."""
        base = f"{url}/{tenant}"
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_types_supported": ["token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "grant_types_supported": ["client_credentials"],
        }

    def keys(self) -> dict[str, Any]:
        """The key set (RFC 7517)."""
        return {"keys": [{**self._public, "kid": self._key_id, "use": "sig", "alg": _ALGORITHM, "issuer": self.issuer}]}

    async def key(self, key_id: str) -> jwt.PyJWK:
        """See `oidc.KeySource`: nobody needs to ask itself over HTTP."""
        if key_id != self._key_id:
            raise TokenRefused("it was signed by another development issuer; sign in again")
        return jwt.PyJWK({**self._public, "alg": _ALGORITHM})

    def sign_in(self, form: Mapping[str, str], basic: tuple[str, str] | None) -> dict[str, Any]:
        """The answer to a call of the token endpoint: `form` is its body, `basic` its Authorization header's id and
        secret. Raises SignInRefused."""
        if form.get("grant_type") != "client_credentials":
            raise SignInRefused(
                "unsupported_grant_type", "only client_credentials is there: a client id and its secret"
            )
        client_id, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        application = self._applications.get(client_id)
        if application is None or not hmac.compare_digest(application.client_secret.encode(), secret.encode()):
            raise SignInRefused(
                "invalid_client", "no such client id, or not its secret; millpond env --entra prints both"
            )
        audience = form.get("resource") or _resource_of(form.get("scope", ""))
        if not audience:
            raise SignInRefused(
                "invalid_scope", "scope must name one resource, such as https://batch.core.windows.net/.default"
            )
        return self._answer(application, audience)

    def managed_identity(self, secret: str, resource: str) -> dict[str, Any]:
        """The answer of the managed-identity endpoint (App Service form, 2019-08-01). Raises SignInRefused."""
        given = secret.encode()
        application = next((each for own, each in self._identities.items() if hmac.compare_digest(own, given)), None)
        if application is None:
            raise SignInRefused(
                "invalid_client", "the header X-IDENTITY-HEADER is not IDENTITY_HEADER of millpond env --entra"
            )
        if not resource:
            raise SignInRefused("invalid_request", "the query names no resource")
        answer = self._answer(application, resource)
        expires_on = str(int(self._clock() + LIFE_S))
        return {**answer, "expires_on": expires_on, "resource": resource, "client_id": application.client_id}

    def _answer(self, application: Application, audience: str) -> dict[str, Any]:
        return {
            "token_type": "Bearer",
            "expires_in": int(LIFE_S),
            "ext_expires_in": int(LIFE_S),
            "access_token": self.token(application, audience),
        }

    def token(self, application: Application, audience: str) -> str:
        """An access token for an application."""
        now = int(self._clock())
        claims = {
            "aud": audience,
            "iss": self.issuer,
            "iat": now,
            "nbf": now,
            "exp": now + int(LIFE_S),
            "tid": self.tenant,
            "oid": str(uuid.uuid5(NAMESPACE, application.client_id)),
            "sub": str(uuid.uuid5(NAMESPACE, application.client_id)),
            "appid": application.client_id,
            "azp": application.client_id,
            "idtyp": "app",
            "roles": [application.role.name.lower()],
            "ver": "2.0",
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._key_id})


def _resource_of(scope: str) -> str:
    """The resource of `https://resource/.default`; empty for anything else. Of two slashes one is the resource's."""
    resources = [each.removesuffix("/.default") for each in scope.split() if each.endswith("/.default")]
    return resources[0] if len(resources) == 1 else ""
