"""Pages: how many items, where they start, and the link to the next.

A skip token says where the page starts and for which question: the listing, its filter and whatever else chooses the
rows. Nothing else is kept of a listing, so tokens outlive the service, and the same token gives the same page as long as
its rows stay. `$select`, `$expand` and `maxresults` may change on the way.
"""

import base64
import binascii
import hashlib
import re
from typing import Any, Final

from millpond.api.http import Request
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.ids import id_key

MAX_RESULTS: Final = 1000
_SKIPTOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,8192}\Z")
"""Long enough for the longest path of a file, of 4,096 bytes."""
_DIGEST_BYTES: Final = 6
_OF_NO_ROW: Final = frozenset({"api-version", "timeout", "maxresults", "$select", "$expand", "$skiptoken"})
"""Query parameters that do not choose the rows."""


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


def page_size(request: Request, most: int = MAX_RESULTS, unasked: int | None = None) -> int:
    """`maxresults`, 1 to `most`; without it `unasked`, or else `most`. Raises BatchError Invalid- or
    OutOfRangeQueryParameterValue."""
    value = integer_parameter(request, "maxresults")
    if value is None:
        return most if unasked is None else unasked
    if not 1 <= value <= most:
        raise BatchError(
            ErrorCode.OUT_OF_RANGE_QUERY_PARAMETER_VALUE,
            QueryParameterName="maxresults",
            QueryParameterValue=str(value),
            MinimumAllowed="1",
            MaximumAllowed=str(most),
        )
    return value


def page_start(request: Request) -> str | None:
    """Where the page starts: what an earlier page of the same listing and filter gave as `next`.

    Raises BatchError InvalidQueryParameterValue for a token that is not of our making, or of another question.
    """
    token = request.query.get("$skiptoken")
    if token is None:
        return None
    if _SKIPTOKEN.match(token) is None:
        raise bad_skiptoken(token)
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        start = content[_DIGEST_BYTES:].decode()
    except (binascii.Error, UnicodeDecodeError):
        raise bad_skiptoken(token) from None
    if len(content) <= _DIGEST_BYTES:
        raise bad_skiptoken(token)
    if content[:_DIGEST_BYTES] != _digest(request):
        raise invalid_parameter(
            "$skiptoken",
            token,
            "it is not a token of this listing with this filter: follow the link to the next page as it was given, or "
            "start again without the token",
        )
    return start


def _digest(request: Request) -> bytes:
    """Of the question: ids are the same in either case, as in the store."""
    question = [request.operation.name]
    question += [f"{name}={id_key(value)}" for name, value in sorted(request.params.items())]
    question += [f"{name}={value}" for name, value in sorted(request.query.items()) if name not in _OF_NO_ROW]
    return hashlib.blake2b("\0".join(question).encode(), digest_size=_DIGEST_BYTES).digest()


def bad_skiptoken(token: str) -> BatchError:
    """400: the token does not come from a link of this listing."""
    return invalid_parameter("$skiptoken", token, "it was not made by this service")


def next_link(request: Request, next_start: str) -> str:
    """The absolute URL of the next page: the request's own, in scheme, host, prefix and query, with a new skip token.

    The token has only URL-safe characters: clients differ in how they encode it again.
    """
    token = base64.urlsafe_b64encode(_digest(request) + next_start.encode()).rstrip(b"=").decode()
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
