"""HTTP calls of the commands. Standard library only: it is there at once."""

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import Protocol


class Readable(Protocol):
    """A body that is sent as it is read."""

    def read(self, size: int = -1, /) -> bytes: ...


class Refused(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, reason: str, headers: Message, text: bytes) -> None:
        super().__init__(f"the service answered {status} {reason}")
        self.status = status
        self.headers = headers
        self.text = text
        """The body, as far as it could be read."""


class NoAnswer(Exception):
    """There is no answer, or none that is HTTP; the text says why."""


def send(
    url: str,
    method: str = "GET",
    *,
    body: bytes | Readable | None = None,
    headers: Mapping[str, str],
    timeout_s: float,
    trust: ssl.SSLContext | None,
) -> http.client.HTTPResponse:
    """The answer, to be read and closed: reading it may raise OSError and HTTPException. `timeout_s` is how long the
    server may be silent. Raises Refused, NoAnswer."""
    try:
        # All URLs are the service's, or made by these commands from what the operator configured.
        request = urllib.request.Request(url, body, dict(headers), method=method)  # noqa: S310  see above
        answer = urllib.request.urlopen(request, timeout=timeout_s, context=trust)  # noqa: S310  see above
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(error.code, str(error.reason), error.headers, _read(error)) from error
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise NoAnswer(str(getattr(error, "reason", error))) from error
    assert isinstance(answer, http.client.HTTPResponse)
    return answer


def _read(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read()
    except (http.client.HTTPException, OSError):
        return b""
