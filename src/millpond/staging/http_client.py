"""Requests to storage servers: one session, and what its errors mean."""

import contextlib
import email.utils
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

import aiohttp
from yarl import URL

from millpond.staging.failures import TRANSIENT, Codes, Transient, failed, reason_of, refused_by_server
from millpond.staging.xml import parse_xml

_CONNECTIONS: Final = 64
_CONNECTIONS_PER_HOST: Final = 32
_READ_BUFFER: Final = 1 << 18
_MAX_ERROR: Final = 2048


class HttpClient:
    """`connect_s` and `silence_s` are how long a connection may take to be made, and may then carry nothing.

    `ca_file` holds certificates to trust beside those of the machine. The session is made on first use, in the running
    loop; `close` ends it.
    """

    def __init__(self, *, connect_s: float, silence_s: float, ca_file: str) -> None:
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silence_s)
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: AsyncIterator[bytes] | bytes | None = None,
    ) -> "aiohttp.client._RequestContextManager":
        """Send a request; its answer is the context manager's value. Use it within `told`."""
        if self._session is None:
            context = ssl.create_default_context()
            if self._ca_file:
                context.load_verify_locations(self._ca_file)
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                auto_decompress=False,
                requote_redirect_url=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "millpond-agent"},
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, limit_per_host=_CONNECTIONS_PER_HOST, ssl=context),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
                # Looking for a proxy costs every request two hops through a thread.
                trust_env=bool(urllib.request.getproxies()),
            )
        return self._session.request(method, _url(url), headers=headers, data=data)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


@contextlib.contextmanager
def told(codes: Codes, url: str) -> Iterator[None]:
    """Tell the transport's errors as failures: Transient those that may pass, TaskFailure the others."""
    try:
        yield
    except TimeoutError as error:
        raise Transient(failed(codes, codes.timed_out, url, "the server did not answer in time")) from error
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise failed(codes, codes.other, url, _tls_reason(error), Reason="TLS") from error
    except aiohttp.ClientConnectorDNSError as error:
        reason = f"the name of the host {error.host!r} could not be resolved"
        raise Transient(failed(codes, codes.other, url, reason, Reason="NameResolution")) from error
    except aiohttp.ClientConnectorError as error:
        cause = error.os_error.strerror or reason_of(error.os_error)
        reason = f"no connection to {error.host}:{error.port} ({cause})"
        raise Transient(failed(codes, codes.other, url, reason, Reason="Connection")) from error
    except aiohttp.TooManyRedirects as error:
        raise failed(codes, codes.other, url, "it is redirected again and again") from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
        raise failed(codes, codes.other, url, "it is, or leads to, no URL that can be used") from error
    except aiohttp.ClientPayloadError as error:
        raise Transient(failed(codes, codes.other, url, "the connection ended before the answer did")) from error
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(failed(codes, codes.other, url, reason_of(error))) from error


async def check(response: aiohttp.ClientResponse, codes: Codes, url: str) -> None:
    """Raise TaskFailure or Transient for an answer that is not a success."""
    status = response.status
    if 200 <= status < 300:
        return
    # A server that is asked for no more than its error may keep the connection.
    text = await response.content.read(_MAX_ERROR)
    failure = refused_by_server(
        codes,
        url,
        status,
        reason=response.reason or "",
        error_code=response.headers.get("x-ms-error-code", "") or _error_code(text),
        answer=_shown(text),
    )
    if status in TRANSIENT:
        raise Transient(failure, _retry_after_s(response))
    raise failure


def _error_code(text: bytes) -> str:
    """`Code` of the XML that Azure and S3 answer."""
    with contextlib.suppress(ValueError):
        code = parse_xml(text).findtext("Code") or ""
        if code.isascii() and code.isalnum():
            return code
    return ""


def _shown(text: bytes) -> str:
    """The start of an answer as it may be shown: none that repeats a URL, which may be signed."""
    start = text.decode(errors="replace")[:512]
    return "" if "sig=" in start or "Signature" in start else start


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Seconds, or a date (RFC 9110, 10.2.3); 0 for anything else."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _tls_reason(error: Exception) -> str:
    cause: BaseException | None = error
    # aiohttp's own errors are also of OpenSSL's kinds, without what those know.
    while cause is not None and (isinstance(cause, aiohttp.ClientError) or not isinstance(cause, ssl.SSLError)):
        cause = getattr(cause, "os_error", None) or getattr(cause, "certificate_error", None) or cause.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return f"no TLS connection could be made ({cause.reason})"
    return "no TLS connection could be made"


def _url(text: str) -> URL:
    """A URL as given: a signature is over its exact text. One with characters no URL may hold is quoted."""
    url = URL(text, encoded=text.isascii() and text.isprintable() and " " not in text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("it must begin with http:// or https:// and name a host")
    return url
