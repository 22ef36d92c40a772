"""Errors as JSON: the only place where a `BatchError` takes its wire form."""

from typing import Any, Final

import msgspec

from millpond.domain.durations import Timestamp, format_timestamp
from millpond.domain.errors import CATALOGUE, BatchError, ErrorCode

_METADATA: Final = "Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element"
RETRY_AFTER_S: Final = 1


def error_object(error: BatchError, request_id: str, at: Timestamp) -> dict[str, Any]:
    """`code`, `message` and `values`: the error of one item, or of a whole request."""
    body: dict[str, Any] = {
        "code": error.code.value,
        "message": {
            "lang": "en-US",
            "value": f"{error.message}\nRequestId:{request_id}\nTime:{format_timestamp(at)}",
        },
    }
    if error.values:
        body["values"] = [{"key": key, "value": value} for key, value in error.values.items()]
    return body


def error_body(error: BatchError, base_url: str, request_id: str, at: Timestamp) -> bytes:
    """The whole body of an answer that is not a success."""
    return msgspec.json.encode(
        {"odata.metadata": f"{base_url}/$metadata#{_METADATA}", **error_object(error, request_id, at)}
    )


def error_headers(error: BatchError) -> list[tuple[bytes, bytes]]:
    """Headers that go with some errors: when to try again, how to authenticate."""
    if error.status == CATALOGUE[ErrorCode.SERVER_BUSY][0]:
        return [(b"retry-after", b"%d" % RETRY_AFTER_S)]
    if error.status == 401:
        return [(b"www-authenticate", b"SharedKey")]
    if error.status == CATALOGUE[ErrorCode.REQUEST_BODY_TOO_LARGE][0]:
        return [(b"connection", b"close")]  # the rest of the body is not read
    return []
