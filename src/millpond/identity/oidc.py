"""Bearer tokens of an OpenID Connect issuer, Microsoft Entra ID among them: signature, issuer, audience, times.

An issuer's keys come from what it publishes (`/.well-known/openid-configuration`, then `jwks_uri`), are kept, and are
asked for again when a token names one that is not among them or they have become old. While the issuer is away, keys
that were good stay good.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import aiohttp
import jwt
import msgspec

from millpond.domain.durations import Timestamp
from millpond.identity.base import AUDIENCES, IssuerAway, TokenRefused

_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Asymmetric ones only: who verifies cannot also sign."""
_CHECKS: Final[jwt.types.Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "require": ["exp", "iss", "aud"],
}
"""Times and audience are checked at each use, also of a token that is remembered."""
_KEYS_LIVE_S: Final = 3600.0
_ASK_AGAIN_S: Final = 30.0
"""The least time between two questions to an issuer, whatever tokens name."""
_AFTER_FAILURE_S: Final = 3.0
"""The same when there was no answer."""
_TIMEOUT_S: Final = 10.0
_MAX_ANSWER: Final = 1 << 20
_MAX_TOKEN: Final = 32 * 1024
_REMEMBERED: Final = 1024


class KeySource(Protocol):
    """The keys of one issuer."""

    @property
    def issuer(self) -> str:
        """As in the claim `iss`; a slash at the end does not count."""
        ...

    async def key(self, key_id: str) -> jwt.PyJWK:
        """Raises TokenRefused when the issuer has no such key, IssuerAway when that cannot be told."""
        ...


class PublishedKeys:
    """The keys an issuer publishes. `close` in the loop it was used in."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked = self._got = -1e9
        self._failure = ""
        """Why the last question was in vain."""
        self._asking = asyncio.Lock()

    @property
    def issuer(self) -> str:
        return self._issuer

    async def key(self, key_id: str) -> jwt.PyJWK:
        """See `KeySource`."""
        if key_id not in self._keys or time.monotonic() - self._got > _KEYS_LIVE_S:
            async with self._asking:
                await self._renew(key_id)
        found = self._keys.get(key_id)
        if found is None:
            raise TokenRefused("its issuer has not published the key it is signed with")
        return found

    async def _renew(self, key_id: str) -> None:
        now = time.monotonic()
        if key_id in self._keys and now - self._got <= _KEYS_LIVE_S:
            return
        if now - self._asked < (_AFTER_FAILURE_S if self._failure else _ASK_AGAIN_S):
            if self._failure and key_id not in self._keys:
                raise IssuerAway(self._failure)
            return
        self._asked = now
        try:
            keys = await self._ask(await self._keys_url())
            self._keys = {key.key_id: key for key in _readable(keys) if key.key_id}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
            self._failure = f"the keys of {self.issuer} cannot be had: {str(error) or type(error).__name__}"
            if key_id not in self._keys:
                raise IssuerAway(self._failure) from error
        else:
            self._got, self._failure = now, ""

    async def _keys_url(self) -> str:
        configuration = await self._ask(f"{self.issuer}/.well-known/openid-configuration")
        if str(configuration.get("issuer", "")).rstrip("/") != self.issuer:
            raise ValueError("it says it is another issuer")
        return str(configuration["jwks_uri"])

    async def _ask(self, url: str) -> dict[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=True, cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.get(url, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as answer:
            answer.raise_for_status()
            text = await answer.content.read(_MAX_ANSWER)
            while not answer.content.at_eof() and len(text) < _MAX_ANSWER:
                text += await answer.content.read(_MAX_ANSWER - len(text))
        return msgspec.json.decode(text, type=dict[str, Any])

    async def close(self) -> None:
        """Close what was opened."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _readable(keys: Mapping[str, Any]) -> Sequence[jwt.PyJWK]:
    """Those of a key set that can be used; there may be others in it."""
    found = []
    for key in keys["keys"]:
        try:
            found.append(jwt.PyJWK(key))
        except jwt.PyJWTError:
            continue
    return found


class TokenVerifier:
    """Implements `Verifier` over some issuers. `audiences` are taken beside those an operation asks for; `skew_s` is how
    far the issuers' clocks and ours may be apart."""

    def __init__(
        self,
        sources: Sequence[KeySource],
        clock: Callable[[], Timestamp],
        *,
        audiences: Sequence[str] = (),
        skew_s: float = 300.0,
    ) -> None:
        self._sources = sources
        self._audiences = tuple(audiences)
        self._skew_s = skew_s
        self._clock = clock
        self._remembered: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    async def verify(self, token: str, audiences: Sequence[str] = AUDIENCES) -> Mapping[str, Any]:
        """See `Verifier.verify`."""
        if len(token) > _MAX_TOKEN:
            raise TokenRefused("it is too long")
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        claims = self._remembered.get(digest)
        if claims is None:
            claims = await self._signed_claims(token)
            self._remembered[digest] = claims
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        self._check(claims, audiences)
        return claims

    async def _signed_claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError as error:
            raise TokenRefused("it is no JSON Web Token") from error
        issuer = str(unverified.get("iss", "")).rstrip("/")
        source = next((each for each in self._sources if each.issuer.rstrip("/") == issuer), None)
        if source is None:
            raise TokenRefused(f"its issuer is not {' or '.join(each.issuer for each in self._sources)}")
        if header.get("alg") not in _ALGORITHMS:
            raise TokenRefused("its signature is of a kind that is not accepted")
        key = await source.key(str(header.get("kid", "")))
        try:
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=list(_ALGORITHMS), options=_CHECKS)
        except jwt.InvalidSignatureError as error:
            raise TokenRefused("its signature does not match") from error
        except jwt.PyJWTError as error:
            raise TokenRefused(str(error)) from error
        return claims

    def _check(self, claims: Mapping[str, Any], audiences: Sequence[str]) -> None:
        now, skew_s = self._clock(), self._skew_s
        if not _is_number(claims["exp"]) or claims["exp"] + skew_s <= now:
            raise TokenRefused("it has expired")
        begins = claims.get("nbf", 0)
        if not _is_number(begins) or begins - skew_s > now:
            raise TokenRefused("it is not good yet; do the clocks differ?")
        named = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        wanted = {audience.rstrip("/") for audience in (*audiences, *self._audiences)}
        if not any(isinstance(audience, str) and audience.rstrip("/") in wanted for audience in named):
            raise TokenRefused(f"it is for another audience than {' or '.join(sorted(wanted))}")

    async def close(self) -> None:
        """Close what the issuers' keys were got by."""
        for source in self._sources:
            if isinstance(source, PublishedKeys):
                await source.close()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
