"""Tokens of an issuer: which are taken, and what is asked of the issuer."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest

from millpond.identity import oidc
from millpond.identity.base import MANAGEMENT_AUDIENCES, IssuerAway, TokenRefused
from millpond.identity.oidc import PublishedKeys, TokenVerifier
from tests.unit.identity.issuer import Issuer

KEY = "k" * 64


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    await issuer.start()
    yield issuer
    await issuer.stop()


@pytest.fixture
async def verifier(issuer: Issuer) -> AsyncIterator[TokenVerifier]:
    verifier = TokenVerifier([PublishedKeys(issuer.url + "/")], time.time, audiences=("api://mine",))
    yield verifier
    await verifier.close()


@pytest.mark.parametrize(
    "audience",
    ["https://batch.core.windows.net", "https://batch.core.windows.net/", ["x", "api://mine/"], "api://mine"],
)
async def test_a_good_token(issuer: Issuer, verifier: TokenVerifier, audience: Any) -> None:
    claims = await verifier.verify(issuer.token(aud=audience, roles=["reader"]))
    assert (claims["sub"], claims["roles"]) == ("jane", ["reader"])


async def test_keys_of_the_management_plane_are_others(issuer: Issuer, verifier: TokenVerifier) -> None:
    token = issuer.token(aud="https://management.azure.com/")
    with pytest.raises(TokenRefused, match="another audience than"):
        await verifier.verify(token)
    assert (await verifier.verify(token, MANAGEMENT_AUDIENCES))["sub"] == "jane"


REFUSED: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "expired": (lambda issuer: issuer.token(exp=int(time.time()) - 301), "it has expired"),
    "early": (lambda issuer: issuer.token(nbf=int(time.time()) + 330), "not good yet; do the clocks differ"),
    "no end": (lambda issuer: issuer.token(exp=None), "exp"),
    "an end that is none": (lambda issuer: issuer.token(exp=True), "expired|integer|exp"),
    "for others": (lambda issuer: issuer.token(aud="https://graph.example"), "another audience than"),
    "by others": (lambda issuer: issuer.token(iss="https://elsewhere.example"), "its issuer is not http://127"),
    "no issuer": (lambda issuer: issuer.token(iss=None), "its issuer is not"),
    "unsigned": (lambda issuer: issuer.token(algorithm="none"), "of a kind that is not accepted"),
    "symmetric": (lambda issuer: issuer.token(algorithm="HS256", key=KEY), "of a kind that is not accepted"),
    "another key": (lambda issuer: issuer.token(key=Issuer().private["first"]), "signature does not match"),
    "an unknown key": (lambda issuer: issuer.token("second", key=issuer.private["first"]), "has not published the key"),
    "no token": (lambda issuer: "ey.nonsense.at-all", "no JSON Web Token"),
    "endless": (lambda issuer: "ey" * 20_000, "too long"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_token(issuer: Issuer, verifier: TokenVerifier, case: str) -> None:
    make, message = REFUSED[case]
    token = make(issuer)
    with pytest.raises(TokenRefused, match=message) as refused:
        await verifier.verify(token)
    assert token not in str(refused.value)


async def test_a_payload_exchanged_under_a_good_signature(issuer: Issuer, verifier: TokenVerifier) -> None:
    header, _, signature = issuer.token().split(".")
    payload = issuer.token(sub="root").split(".")[1]
    with pytest.raises(TokenRefused, match="signature does not match"):
        await verifier.verify(f"{header}.{payload}.{signature}")


async def test_clocks_may_differ_a_little(issuer: Issuer, verifier: TokenVerifier) -> None:
    now = int(time.time())
    assert await verifier.verify(issuer.token(exp=now - 240, nbf=now - 900))
    assert await verifier.verify(issuer.token(nbf=now + 240, exp=now + 600))


async def test_a_remembered_token_expires_all_the_same(issuer: Issuer) -> None:
    now = [time.time()]
    verifier = TokenVerifier([PublishedKeys(issuer.url)], lambda: now[0])
    token = issuer.token()
    assert await verifier.verify(token)
    now[0] += 10_000
    with pytest.raises(TokenRefused, match="expired"):
        await verifier.verify(token)
    await verifier.close()


async def test_the_issuer_is_asked_once(issuer: Issuer, verifier: TokenVerifier) -> None:
    for sub in ("a", "b", "c"):
        await verifier.verify(issuer.token(sub=sub))
    assert issuer.asked == ["configuration", "keys"]
    # Whatever tokens name, it is not asked again and again.
    for _ in range(5):
        with pytest.raises(TokenRefused):
            await verifier.verify(issuer.token("made-up", key=issuer.private["first"]))
    assert issuer.asked == ["configuration", "keys"]


async def test_a_new_key_is_found(issuer: Issuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    await verifier.verify(issuer.token())
    issuer.make_key("second", elliptic=True)
    monkeypatch.setattr(oidc, "_ASK_AGAIN_S", 0.0)
    assert await verifier.verify(issuer.token("second", algorithm="ES256"))


async def test_an_issuer_that_is_away(issuer: Issuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer.down = True
    for _ in range(3):
        with pytest.raises(IssuerAway, match=r"the keys of http://127\.0\.0\.1:.* cannot be had: 503"):
            await verifier.verify(issuer.token())
    assert issuer.asked == ["configuration"]
    monkeypatch.setattr(oidc, "_AFTER_FAILURE_S", 0.0)
    issuer.down = False
    assert await verifier.verify(issuer.token())
    # Keys that were good stay good while it is away, also when they have become old.
    issuer.down = True
    monkeypatch.setattr(oidc, "_KEYS_LIVE_S", -1.0)
    monkeypatch.setattr(oidc, "_ASK_AGAIN_S", 0.0)
    assert await verifier.verify(issuer.token(sub="joe"))


async def test_an_issuer_that_says_it_is_another(issuer: Issuer, verifier: TokenVerifier) -> None:
    issuer.named = "https://elsewhere.example"
    with pytest.raises(IssuerAway, match="it says it is another issuer"):
        await verifier.verify(issuer.token())


def test_the_algorithms_are_asymmetric() -> None:
    assert not [name for name in oidc._ALGORITHMS if name.startswith("HS") or name == "none"]
    assert set(oidc._ALGORITHMS) <= set(jwt.algorithms.get_default_algorithms())
