"""Pages: how many items, where they start, and the link to the next."""

import base64
import binascii
import re
from typing import Any, Final

from millpond.api.http import Request
from millpond.domain.errors import BatchError, ErrorCode

MAX_RESULTS: Final = 1000
_SKIPTOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,4096}\Z")


def integer_parameter(request: Request, name: str) -> int | None:
    """A whole number from the query, or None. Raises BatchError InvalidQueryParameterValue."""
    text = request.query.get(name)
    if text is None:
        return None
    if len(text) > 10 or not text.removeprefix("-").isdecimal() or not text.isascii():
        raise invalid_parameter(name, text, "it must be a whole number")
    return int(text)


def boolean_parameter(request: Request, name: str) -> bool:
    """A boolean from the query; absent is false. Raises BatchError InvalidQueryParameterValue."""
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise invalid_parameter(name, text, "it must be true or false")
    return text == "true"


def invalid_parameter(name: str, value: str, reason: str) -> BatchError:
    """400 InvalidQueryParameterValue naming the parameter, its value and the reason."""
    return BatchError(
        ErrorCode.INVALID_QUERY_PARAMETER_VALUE,
        f"The value of query parameter '{name}' is invalid: {reason}.",
        QueryParameterName=name,
        QueryParameterValue=value[:256],
        Reason=reason,
    )


def page_size(request: Request) -> int:
    """`maxresults`, 1 to 1000 (the default). Raises BatchError Invalid- or OutOfRangeQueryParameterValue."""
    value = integer_parameter(request, "maxresults")
    if value is None:
        return MAX_RESULTS
    if not 1 <= value <= MAX_RESULTS:
        raise BatchError(
            ErrorCode.OUT_OF_RANGE_QUERY_PARAMETER_VALUE,
            QueryParameterName="maxresults",
            QueryParameterValue=str(value),
            MinimumAllowed="1",
            MaximumAllowed=str(MAX_RESULTS),
        )
    return value


def page_start(request: Request) -> str | None:
    """Where the page starts: what an earlier page gave as `next`. Raises BatchError for a token not of our making."""
    token = request.query.get("$skiptoken")
    if token is None:
        return None
    if _SKIPTOKEN.match(token) is None:
        raise bad_skiptoken(token)
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise bad_skiptoken(token) from None


def bad_skiptoken(token: str) -> BatchError:
    """400: the token does not come from a link of this listing."""
    return invalid_parameter("$skiptoken", token, "it was not made by this service")


def next_link(request: Request, next_start: str) -> str:
    """The absolute URL of the next page: the request's own, in scheme, host, prefix and query, with a new skip token.

    The token has only URL-safe characters: clients differ in how they encode it again.
    """
    token = base64.urlsafe_b64encode(next_start.encode()).rstrip(b"=").decode()
    query: bytes = request.scope["query_string"]
    kept = [part for part in query.decode("latin-1").split("&") if part and not _is_skiptoken(part)]
    prefix_and_path = request.raw_path.decode("latin-1")
    base = request.base_url
    host_end = base.find("/", base.index("//") + 2)
    origin = base if host_end < 0 else base[:host_end]
    return f"{origin}{prefix_and_path}?{'&'.join([*kept, '$skiptoken=' + token])}"


def _is_skiptoken(part: str) -> bool:
    return part.partition("=")[0].lower() in ("$skiptoken", "%24skiptoken")


def page_of(request: Request, metadata: str, items: list[Any], next_start: str | None) -> dict[str, Any]:
    """The body of a listing."""
    body: dict[str, Any] = {"odata.metadata": f"{request.base_url}/$metadata#{metadata}", "value": items}
    if next_start is not None:
        body["odata.nextLink"] = next_link(request, next_start)
    return body
