"""An OpenID Connect issuer on loopback, with keys of its own, that can be told to misbehave."""

import time
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa


class Issuer:
    def __init__(self) -> None:
        self.url = ""
        self.named = ""
        """What it says it is called, if not `url`."""
        self.asked: list[str] = []
        self.down = False
        self.private: dict[str, Any] = {}
        self.make_key("first")

    def make_key(self, key_id: str, *, elliptic: bool = False) -> None:
        self.private[key_id] = (
            ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
        )

    def token(self, key_id: str = "first", *, algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
        now = int(time.time())
        whole = {
            "iss": self.url,
            "aud": "https://batch.core.windows.net/",
            "exp": now + 600,
            "nbf": now,
            "sub": "jane",
            **claims,
        }
        whole = {name: value for name, value in whole.items() if value is not None}
        signed_with = None if algorithm == "none" else key or self.private[key_id]
        return jwt.encode(whole, signed_with, algorithm=algorithm, headers={"kid": key_id})

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/.well-known/openid-configuration", self._configuration)
        application.router.add_get("/keys", self._keys)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _configuration(self, request: web.Request) -> web.Response:
        self.asked.append("configuration")
        if self.down:
            return web.Response(status=503)
        return web.json_response({"issuer": self.named or self.url, "jwks_uri": f"{self.url}/keys"})

    async def _keys(self, request: web.Request) -> web.Response:
        self.asked.append("keys")
        keys: list[Any] = [{"kty": "nonsense", "kid": "odd"}]
        for key_id, private in self.private.items():
            public = private.public_key()
            kind = (
                jwt.algorithms.ECAlgorithm
                if isinstance(private, ec.EllipticCurvePrivateKey)
                else jwt.algorithms.RSAAlgorithm
            )
            keys.append({**kind.to_jwk(public, as_dict=True), "kid": key_id, "use": "sig"})
        return web.json_response({"keys": keys})
