"""A tiny ASGI client that signs as the SDKs do, by an implementation of its own."""

import asyncio
import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qs

import msgspec

from millpond.api.http import AsgiApp
from millpond.domain.durations import format_http_date

ACCOUNT = "labacct"
KEY = b"k" * 64
SECONDARY = b"s" * 64
VERSION = "2025-06-01"
NOW = 1795235448.0  # Sat, 21 Nov 2026 04:30:48 GMT

_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code."""
        return str(self.json()["code"])

    def values(self) -> dict[str, str]:
        """The error's details."""
        return {item["key"]: item["value"] for item in self.json().get("values", [])}


def sign(method: str, raw_path: str, query: str, headers: dict[str, str], key: bytes, account: str = ACCOUNT) -> str:
    """The Authorization header, as the reference check of the public client writes it."""
    text = method + "\n" + "\n".join(headers.get(name, "") for name in _SIGNED) + "\n"
    for name in sorted(name for name in headers if name.startswith("ocp-")):
        text += f"{name}:{headers[name]}\n"
    text += f"/{account}{raw_path}"
    parameters = parse_qs(query)
    for name in sorted(parameters):
        text += f"\n{name}:{parameters[name][0]}"
    signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
    return f"SharedKey {account}:{signature}"


async def send(
    app: AsgiApp,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes | list[bytes] = b"",
    *,
    host: str = "127.0.0.1:10010",
    root_path: str = "",
    hang_up: bool = False,
) -> Answer:
    """One request; with `hang_up` the client is gone after the chunks of `body`."""
    raw_path, _, query = target.partition("?")
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": chunk, "more_body": hang_up or index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": raw_path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": [(b"host", host.encode()), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
        "server": ("127.0.0.1", 10010),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not messages and not hang_up:
            await asyncio.Event().wait()  # a client that waits for its answer
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def take(message: Any) -> None:
        sent.append(dict(message))

    await app(scope, receive, take)
    if not sent:
        return Answer(0, {}, b"")
    start, rest = sent[0], sent[1:]
    assert start["type"] == "http.response.start"
    assert all(message["type"] == "http.response.body" for message in rest)
    complete = bool(rest) and not rest[-1].get("more_body")
    answer = Answer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message.get("body", b"") for message in rest),
    )
    answer.complete = complete
    if complete and method != "HEAD" and "content-length" in answer.headers:
        assert int(answer.headers["content-length"]) == len(answer.body)
    return answer


class Api:
    """Signed calls of Batch operations on an app."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self.now = NOW

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        version: str | None = VERSION,
        key: bytes = KEY,
        root_path: str = "",
        hang_up: bool = False,
    ) -> Answer:
        """`body` is JSON to be, or bytes; `query` goes behind the api-version, encoded already."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.lower(): value for name, value in (headers or {}).items()}
        given.setdefault("ocp-date", format_http_date(self.now))
        if content or method in ("POST", "PUT", "PATCH", "DELETE"):
            given.setdefault("content-length", str(len(content)))
        if content:
            given.setdefault("content-type", "application/json; odata=minimalmetadata")
        whole_query = "&".join(filter(None, (f"api-version={version}" if version else "", query)))
        path = root_path + path
        given["authorization"] = sign(method, path, whole_query, given, key)
        return await send(
            self.app, method, f"{path}?{whole_query}", given, content, root_path=root_path, hang_up=hang_up
        )
