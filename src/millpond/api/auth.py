"""Who may call: SharedKey, and the bearer tokens of tasks.

The signature covers the verb, eleven headers, every `ocp-` header, the path as it came over the wire (still encoded,
with any prefix) and the decoded query. Clients differ in two points, and both forms are accepted: Python writes
`Content-Length: 0` where others leave it out, and 15.x signs query parameter names as sent where the documentation says
lower-case.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode

MAX_SKEW_S: Final = 15 * 60.0
_CREDENTIALS: Final = re.compile(rb"SharedKey +([^: ]+):([A-Za-z0-9+/]+={0,2}) *\Z", re.IGNORECASE)
_HEADERS_AFTER_LENGTH: Final = (
    b"content-md5",
    b"content-type",
    b"date",
    b"if-modified-since",
    b"if-match",
    b"if-none-match",
    b"if-unmodified-since",
    b"range",
)


class AccountKeys(msgspec.Struct):
    """The account's name and its two keys, decoded; both are valid at once. They may be replaced while the service runs:
    who checks by them asks for them each time."""

    name: str
    primary: bytes
    secondary: bytes

    @classmethod
    def from_base64(cls, name: str, primary: str, secondary: str) -> "AccountKeys":
        """From keys as clients are given them. Raises ValueError."""
        return cls(name, base64.b64decode(primary, validate=True), base64.b64decode(secondary, validate=True))


class SharedKeyAuth:
    """Checks signatures against the account's keys."""

    def __init__(self, account: AccountKeys, clock: Callable[[], Timestamp]) -> None:
        self._account = account.name.encode()
        self._keys = account
        self._clock = clock

    def check(
        self, method: str, raw_path: bytes, headers: Mapping[bytes, bytes], query: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Raises BatchError: AuthenticationFailed (401 without SharedKey credentials, else 403), or
        InvalidAuthenticationInfo when the header cannot be read. `headers` are by lower-case name, `query` decoded."""
        authorization = headers.get(b"authorization")
        if authorization is None or not authorization[:9].lower() == b"sharedkey":
            raise unauthenticated(
                "The request has no Authorization header."
                if authorization is None
                else "Only SharedKey, and Bearer with a task's own token, are accepted."
            )
        match = _CREDENTIALS.match(authorization)
        if match is None:
            raise BatchError(ErrorCode.INVALID_AUTHENTICATION_INFO)
        account, signature = match.groups()
        try:
            given = base64.b64decode(signature, validate=True)
        except binascii.Error:
            raise BatchError(ErrorCode.INVALID_AUTHENTICATION_INFO) from None
        self._check_date(headers)
        # The account name is no secret, the signature is: only the comparison of the latter takes constant time.
        if account != self._account:
            raise _failed("The account name in the Authorization header is not this account's.")
        for text in self._strings_to_sign(method, raw_path, headers, query):
            for key in (self._keys.primary, self._keys.secondary):
                if hmac.compare_digest(hmac.digest(key, text, hashlib.sha256), given):
                    return
        raise _failed("The signature does not match: check the key, and that nothing between changed the request.")

    def _check_date(self, headers: Mapping[bytes, bytes]) -> None:
        date = headers.get(b"ocp-date") or headers.get(b"date")
        if date is None:
            raise _failed("The request has neither an ocp-date nor a Date header.")
        at = _http_date(date)
        if at is None:
            raise _failed("The date header cannot be read: it must look like Sat, 21 Nov 2026 04:30:48 GMT.")
        if abs(self._clock() - at) > MAX_SKEW_S:
            now = formatdate(self._clock(), usegmt=True)
            raise _failed(
                f"The date header is more than 15 minutes off the server's clock: it says {date.decode('latin-1')!r}, "
                f"and the server has {now}."
            )

    def _strings_to_sign(
        self, method: str, raw_path: bytes, headers: Mapping[bytes, bytes], query: Sequence[tuple[bytes, bytes]]
    ) -> Iterable[bytes]:
        """Every form a client may have signed, the likeliest first."""
        get = headers.get
        before = b"%b\n%b\n%b\n" % (
            method.encode(),
            get(b"content-encoding", b""),
            get(b"content-language", b""),
        )
        after = b"\n".join([get(name, b"") for name in _HEADERS_AFTER_LENGTH])
        ocp = sorted([(name, value) for name, value in headers.items() if name.startswith(b"ocp-")])
        tail = b"".join([b"%b\n" % after, *[b"%b:%b\n" % item for item in ocp], b"/", self._account, raw_path])
        lengths = [get(b"content-length", b"")]
        if lengths[0] in (b"", b"0"):
            lengths.append(b"0" if lengths[0] == b"" else b"")
        resources = [_canonical_query(query)]
        if any(name != name.lower() for name, _ in query):
            resources.append(_canonical_query([(name.lower(), value) for name, value in query]))
        for resource in resources:
            for length in lengths:
                yield b"%b%b\n%b%b" % (before, length, tail, resource)


def _canonical_query(query: Sequence[tuple[bytes, bytes]]) -> bytes:
    first: dict[bytes, bytes] = {}
    for name, value in query:
        first.setdefault(name, value)
    return b"".join([b"\n%b:%b" % item for item in sorted(first.items())])


@lru_cache(maxsize=1024)
def _http_date(text: bytes) -> Timestamp | None:
    try:
        return parsedate_to_datetime(text.decode("ascii")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _failed(detail: str) -> BatchError:
    return BatchError(ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail=detail)


def signer_of(headers: Mapping[bytes, bytes]) -> str:
    """The account a SharedKey signature says it is by; empty without one."""
    match = _CREDENTIALS.match(headers.get(b"authorization", b""))
    return match[1].decode("latin-1") if match is not None else ""


def bearer_token(headers: Mapping[bytes, bytes]) -> str | None:
    """The token of an `Authorization: Bearer` header; None when there is none."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else None


def unauthenticated(detail: str) -> BatchError:
    """AuthenticationFailed with status 401: the caller has shown nothing that could be good."""
    error = BatchError(ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail=detail)
    error.status = 401
    return error
