"""The answers that operations have in common."""

import msgspec

from millpond.api.http import Headers, Request, Response
from millpond.domain.durations import Timestamp, etag_of, format_http_date
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.preconditions import Precondition

CONTENT_TYPE = (b"content-type", b"application/json; odata=minimalmetadata")
encode_json = msgspec.json.Encoder().encode


def entity_headers(last_modified: Timestamp) -> Headers:
    """ETag (without quotes, as the service sends it) and Last-Modified."""
    return [
        (b"etag", etag_of(last_modified).encode()),
        (b"last-modified", format_http_date(last_modified).encode()),
    ]


def json_reply(
    request: Request, body: bytes, last_modified: Timestamp | None = None, *, of_tasks: bool = False
) -> Response:
    """Success with a JSON body, and the entity's headers when it has a time. `of_tasks`: see `Response`."""
    headers = [CONTENT_TYPE]
    if last_modified is not None:
        headers += entity_headers(last_modified)
    return Response(request.operation.success, headers, body, of_tasks=of_tasks)


def written_reply(
    request: Request, url: str, last_modified: Timestamp | None = None, *, location: bool = False
) -> Response:
    """Success of a change, without a body: DataServiceId, the new ETag, and Location for what was created."""
    headers: Headers = [(b"dataserviceid", url.encode())]
    if location:
        headers.append((b"location", url.encode()))
    if last_modified is not None:
        headers += entity_headers(last_modified)
    return Response(request.operation.success, headers)


def done_reply(request: Request) -> Response:
    """Success that says nothing more."""
    return Response(request.operation.success)


def unmet_read(condition: Precondition | None, last_modified: Timestamp) -> Response | None:
    """304 when a read's condition does not hold, else None."""
    if condition is None or condition.holds(last_modified):
        return None
    return Response(304, entity_headers(last_modified))


def not_found(code: ErrorCode, noun: str, entity_id: str, **values: str) -> BatchError:
    """404 naming what is not there."""
    return BatchError(code, f"The {noun} '{entity_id[:256]}' does not exist.", **values)
