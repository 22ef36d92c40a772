"""What can be asked without a key: who is here, and whether it is well."""

import html
from typing import Final

import msgspec

from millpond import __version__
from millpond.api.http import Receive, Request, Response, Scope, Send, route_path, send_response
from millpond.control.base import ControlPlane
from millpond.domain.errors import BatchError

PATHS: Final = frozenset({b"", b"/", b"/healthz"})
_PAGE: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Millpond</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:40rem;padding:0 1rem}}
dt{{font-weight:600}}dd{{margin:0 0 .6rem}}</style></head>
<body><h1>Millpond</h1><p>{summary}</p>
<dl><dt>Version</dt><dd>{version}</dd><dt>Account</dt><dd>{account}</dd><dt>Endpoint</dt><dd>{endpoint}</dd></dl>
</body></html>
"""


class StatusRoutes:
    """`GET /` and `GET /healthz`. Nothing secret is told."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, "")
        response = self._answer(request, route_path(scope))
        response.headers.append((b"x-content-type-options", b"nosniff"))
        await send_response(send, receive, response, head=request.method == "HEAD")

    def _answer(self, request: Request, path: bytes) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, [(b"allow", b"GET, HEAD")])
        ready = self._control.ready
        if path == b"/healthz":
            return Response(200 if ready else 503, [(b"content-type", b"text/plain")], b"ok" if ready else b"not ready")
        try:
            endpoint = request.base_url
        except BatchError:
            return Response(400)
        facts = {
            "service": "Millpond",
            "version": __version__,
            "account": self._control.account_name,
            "endpoint": endpoint,
            "ready": ready,
        }
        if "text/html" in (request.header(b"accept") or ""):
            page = _PAGE.format(
                summary="Ready." if ready else "Not ready: changes cannot be committed just now.",
                version=html.escape(__version__),
                account=html.escape(self._control.account_name),
                endpoint=html.escape(endpoint),
            )
            return Response(200, [(b"content-type", b"text/html; charset=utf-8")], page.encode())
        return Response(200, [(b"content-type", b"application/json")], msgspec.json.encode(facts))
