"""Tokens for the management plane that who holds an account key makes: for the commands, for development and tests.

They have the form of a JSON Web Token (RFC 7519, HS256), as some clients look into what they are given, and are told from
those of issuers by their algorithm.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Any, Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.identity.base import TokenRefused

TOKEN_S: Final = 86400.0
"""How long a token is good, unless said otherwise."""
SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000000"
"""There are no subscriptions: any is taken, and this one is given to clients that need one."""

_HEADER: Final = {"alg": "HS256", "typ": "JWT"}
_AUDIENCE: Final = "https://management.azure.com/"


def make_token(account: str, key: bytes, at: Timestamp, good_for_s: float = TOKEN_S) -> str:
    """A token that lets its bearer manage the account, until it expires or the key changes."""
    claims = {
        "aud": _AUDIENCE,
        "iss": _issuer(account),
        "sub": account,
        "tid": SUBSCRIPTION,
        "iat": int(at),
        "exp": int(at + good_for_s),
    }
    signed = f"{_encode(msgspec.json.encode(_HEADER))}.{_encode(msgspec.json.encode(claims))}"
    return f"{signed}.{_encode(_signature(key, signed))}"


def is_of_that_kind(token: str) -> bool:
    """Whether it is one of these by its form; that it is good is for `check_token` to say."""
    return _object(token.partition(".")[0]).get("alg") == _HEADER["alg"]


def account_of_token(token: str) -> str:
    """The account whose key it says it was made with; empty when it names none. That it was is for `check_token` to say."""
    named = _object(token.partition(".")[2].partition(".")[0]).get("iss")
    prefix = _issuer("")
    return named.removeprefix(prefix) if isinstance(named, str) and named.startswith(prefix) else ""


def check_token(token: str, account: str, keys: tuple[bytes, ...], at: Timestamp) -> None:
    """Raises TokenRefused."""
    signed, _, signature = token.rpartition(".")
    given = _decode(signature)
    if not any(hmac.compare_digest(_signature(key, signed), given) for key in keys if key):
        raise TokenRefused("it was not made with a key of this account")
    claims = _object(signed.partition(".")[2])
    expires = claims.get("exp")
    if claims.get("iss") != _issuer(account) or not isinstance(expires, int):
        raise TokenRefused("it is not for this account")
    if expires <= at:
        raise TokenRefused("it has expired; millpond env --arm prints another")


def _issuer(account: str) -> str:
    return f"millpond:{account}"


def _signature(key: bytes, signed: str) -> bytes:
    # A key of its own, so that nothing signed here means anything to SharedKey or to storage, nor theirs here.
    own = hmac.digest(key, b"millpond-management-1", hashlib.sha256)
    return hmac.digest(own, signed.encode("utf-8", "replace"), hashlib.sha256)


def _object(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(_decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
