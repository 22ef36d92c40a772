"""How transfers fail: the codes of semantics 2.11, by what was done and what the server or the disk said.

No message tells a signature: URLs are shown without their query, and the texts of libraries only where they hold none.
"""

import contextlib
import datetime as dt
import errno
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, urlsplit, urlunsplit

import msgspec

from millpond.domain.errors import TaskFailure, TaskFailureCode

TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may be another the next time."""

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_C = TaskFailureCode


class Codes(msgspec.Struct, frozen=True):
    """The failure codes of one kind of transfer."""

    what: str
    not_found: TaskFailureCode
    access_denied: TaskFailureCode
    timed_out: TaskFailureCode
    other: TaskFailureCode
    conflict: TaskFailureCode | None = None


FETCH: Final = Codes(
    "download", _C.BLOB_NOT_FOUND, _C.BLOB_ACCESS_DENIED, _C.BLOB_DOWNLOAD_TIMED_OUT, _C.BLOB_DOWNLOAD_MISC_ERROR
)
LIST: Final = Codes(
    "listing",
    _C.RESOURCE_CONTAINER_NOT_FOUND,
    _C.RESOURCE_CONTAINER_ACCESS_DENIED,
    _C.RESOURCE_CONTAINER_LIST_TIMED_OUT,
    _C.RESOURCE_CONTAINER_LIST_MISC_ERROR,
)
PUT: Final = Codes(
    "upload",
    _C.FILE_UPLOAD_CONTAINER_NOT_FOUND,
    _C.FILE_UPLOAD_ACCESS_DENIED,
    _C.FILE_UPLOAD_TIMED_OUT,
    _C.FILE_UPLOAD_MISC_ERROR,
    _C.FILE_UPLOAD_CONFLICT,
)


class Transient(Exception):
    """A failure that may pass: tried again, then told as its cause."""

    def __init__(self, failure: TaskFailure, retry_after_s: float = 0.0) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.retry_after_s = retry_after_s
        """How long the server asks to wait; 0 when it does not say."""


def failed(codes: Codes, code: TaskFailureCode, url: str, reason: str, **details: str) -> TaskFailure:
    """A failure that names the URL, without its authority."""
    shown = without_authority(url)
    failure = TaskFailure(code, f"The {codes.what} of {shown} failed: {reason}", FilePath=shown)
    failure.details.update(details)
    return failure


def refused_by_server(
    codes: Codes, url: str, status: int, *, reason: str = "", error_code: str = "", answer: str = ""
) -> TaskFailure:
    """The failure that an HTTP status stands for. `error_code` is the storage's own name for it."""
    code = {
        401: codes.access_denied,
        403: codes.access_denied,
        404: codes.not_found,
        410: codes.not_found,
        408: codes.timed_out,
        504: codes.timed_out,
        409: codes.conflict or codes.other,
        412: codes.conflict or codes.other,
    }.get(status, codes.other)
    message = f"the server answered {status} {reason}".rstrip()
    details = {"HttpStatus": str(status)}
    if error_code:
        message += f" ({error_code})"
        details["ErrorCode"] = error_code
    elif answer:
        details["Answer"] = answer
    if code is codes.access_denied and (expired := _expired(url)):
        message += f"; the URL's signature expired at {expired}"
        details["SignatureExpiry"] = expired
    return failed(codes, code, url, message, **details)


def without_authority(url: str) -> str:
    """A URL as it may be shown: without its query, which holds the signature, and without user and password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def reason_of(error: BaseException) -> str:
    """What an error says, unless it says a URL: that would tell its signature."""
    text = str(error)
    return text if text and "?" not in text and "://" not in text else type(error).__name__


@contextlib.contextmanager
def local(code: TaskFailureCode) -> Iterator[None]:
    """Tell errors of the local disk as failures, not to be mistaken for the transport's."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise TaskFailure(_C.DISK_FULL, "There is not enough disk space on the node for a file") from error
        reason = error.strerror or type(error).__name__
        raise TaskFailure(code, f"A local file could not be used: {reason}", Reason=reason) from error


def _expired(url: str) -> str:
    """When the signature of a URL ended, if it has: `se` of a SAS or of auto-storage. Empty otherwise."""
    try:
        until = parse_qs(urlsplit(url).query).get("se", [""])[0]
        if until.isascii() and until.isdecimal():
            moment = dt.datetime.fromtimestamp(int(until), dt.UTC)
        else:
            moment = dt.datetime.fromisoformat(until)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=dt.UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%SZ}" if moment < dt.datetime.now(dt.UTC) else ""
    except (ValueError, OverflowError, OSError):
        return ""
