"""Condition headers: If-Match and its kin, read into a domain `Precondition`."""

from email.utils import parsedate_to_datetime
from typing import Final

from millpond.api.http import Request
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.preconditions import Precondition

HEADERS: Final = (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
_CONFLICTS: Final = ((b"if-match", b"if-none-match"), (b"if-modified-since", b"if-unmodified-since"))


def precondition_of(request: Request) -> Precondition | None:
    """The request's condition, None when it has none.

    Raises BatchError: MultipleConditionHeadersNotSupported for two headers that contradict each other,
    InvalidHeaderValue for a date that cannot be read. Tags lose their quotes and `W/`.
    """
    headers = request.headers
    if not any(name in headers for name in HEADERS):
        return None
    for one, other in _CONFLICTS:
        if one in headers and other in headers:
            raise BatchError(ErrorCode.MULTIPLE_CONDITION_HEADERS_NOT_SUPPORTED)
    return Precondition(
        if_match=_tags(request, b"if-match"),
        if_none_match=_tags(request, b"if-none-match"),
        if_modified_since=_date(request, b"if-modified-since"),
        if_unmodified_since=_date(request, b"if-unmodified-since"),
    )


def refuse_conditions(request: Request) -> None:
    """For a change that takes no condition: one who sets a condition is not to have the change without it. (A read is
    answered in full: that is never wrong.) Raises BatchError UnsupportedHeader."""
    for name in HEADERS:
        if name in request.headers:
            reason = "this operation takes no conditions"
            raise BatchError(ErrorCode.UNSUPPORTED_HEADER, HeaderName=_spelled(name), Reason=reason)


def dates_only(request: Request) -> Precondition | None:
    """The condition of an operation that takes only the two date headers (files): tags are refused.

    Raises BatchError UnsupportedHeader, InvalidHeaderValue, MultipleConditionHeadersNotSupported.
    """
    for name in (b"if-match", b"if-none-match"):
        if name in request.headers:
            reason = "this operation takes If-Modified-Since and If-Unmodified-Since only"
            raise BatchError(ErrorCode.UNSUPPORTED_HEADER, HeaderName=_spelled(name), Reason=reason)
    return precondition_of(request)


def _tags(request: Request, name: bytes) -> tuple[str, ...]:
    value = request.header(name)
    if value is None:
        return ()
    tags = tuple(
        tag for tag in (part.strip().removeprefix("W/").strip('"').strip() for part in value.split(",")) if tag
    )
    if not tags:
        raise _invalid(request, name, "it names no entity tag")
    return tags


def _date(request: Request, name: bytes) -> Timestamp | None:
    value = request.header(name)
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        raise _invalid(request, name, "it must be a date such as Sat, 21 Nov 2026 04:30:48 GMT") from None


def _invalid(request: Request, name: bytes, reason: str) -> BatchError:
    return BatchError(
        ErrorCode.INVALID_HEADER_VALUE,
        HeaderName=_spelled(name),
        HeaderValue=(request.header(name) or "")[:256],
        Reason=reason,
    )


def _spelled(name: bytes) -> str:
    return "-".join(part.capitalize() for part in name.decode().split("-"))
