"""Who may call the management plane.

For now: who holds a development token, which who holds an account key makes. It has the form of a JSON Web Token, as
clients look into what they are given. Tokens of real identities will be looked at in `authenticate`, and nowhere else.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millpond.api.auth import AccountKeys, bearer_token
from millpond.api.http import Scope
from millpond.api.management.errors import ArmError
from millpond.domain.durations import Timestamp

TOKEN_S: Final = 86400.0
"""How long a development token is good, unless said otherwise."""
LOOPBACK: Final = "loopback"
ANYWHERE: Final = "anywhere"
OFF: Final = "off"
AUDIENCE: Final = "https://management.azure.com/"
SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000000"
"""There are no subscriptions: any is taken, and this one is given to clients that need one."""

_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def development_token(account: AccountKeys, at: Timestamp, good_for_s: float = TOKEN_S) -> str:
    """A token that lets its bearer manage the account, until it expires or the primary key changes."""
    claims = {
        "aud": AUDIENCE,
        "iss": f"millpond:{account.name}",
        "sub": account.name,
        "tid": SUBSCRIPTION,
        "iat": int(at),
        "exp": int(at + good_for_s),
    }
    signed = f"{_encode(msgspec.json.encode(_HEADER))}.{_encode(msgspec.json.encode(claims))}"
    return f"{signed}.{_encode(_signature(account.primary, signed))}"


def authenticate(account: AccountKeys, headers: Mapping[bytes, bytes], at: Timestamp) -> None:
    """Raises ArmError 401 unless the request may manage the account."""
    token = bearer_token(headers)
    if token is None:
        raise ArmError(
            401,
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing or is no Bearer token: "
            "`millpond env --arm` prints one.",
        )
    signed, _, signature = token.rpartition(".")
    given = _decode(signature)
    if not any(hmac.compare_digest(_signature(key, signed), given) for key in (account.primary, account.secondary)):
        raise ArmError(
            401, "InvalidAuthenticationToken", "The access token is invalid: it was not made with this account's key."
        )
    claims = _claims(signed)
    expires = claims.get("exp")
    if claims.get("iss") != f"millpond:{account.name}" or not isinstance(expires, int):
        raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid: it is not for this account.")
    if expires <= at:
        raise ArmError(
            401, "ExpiredAuthenticationToken", "The access token has expired: `millpond env --arm` prints another."
        )


def require_place(access: str, scope: Scope) -> None:
    """Raises ArmError 403 for a caller that is not where callers may be (`server.management` in the configuration)."""
    if access == ANYWHERE:
        return
    client = scope.get("client")
    if access == OFF or (client is not None and not _is_loopback(client[0])):
        raise ArmError(
            403,
            "AuthorizationFailed",
            f"The management plane is not open to this caller: server.management is '{access}' in the configuration.",
        )


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _signature(key: bytes, signed: str) -> bytes:
    # A key of its own, so that nothing signed here means anything to SharedKey or to storage, nor theirs here.
    own = hmac.digest(key, b"millpond-management-1", hashlib.sha256)
    return hmac.digest(own, signed.encode("utf-8", "replace"), hashlib.sha256)


def _claims(signed: str) -> dict[str, Any]:
    try:
        claims = msgspec.json.decode(_decode(signed.partition(".")[2]))
    except msgspec.DecodeError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
