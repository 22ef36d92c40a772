"""Request bodies: JSON into wire types, and what is wrong with those that are not."""

import re
from typing import Final, TypeVar

import msgspec

from millpond.api.http import Request
from millpond.api.schema.base import JsonObject, Wire
from millpond.api.versions import check_body
from millpond.domain.errors import BatchError, ErrorCode

MAX_BODY_BYTES: Final = 4 * 1024 * 1024

_W = TypeVar("_W", bound=Wire)
_AT: Final = re.compile(r" - at `\$\.?(.*)`\Z", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`\Z", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_NULL: Final = re.compile(r"Expected `.*`, got `null`\Z")


def body_decoder(kind: type[_W]) -> "msgspec.json.Decoder[_W]":
    """A decoder for a wire type; numbers and booleans may come as strings (`az` sends them so)."""
    return msgspec.json.Decoder(kind, strict=False)


async def read_json(request: Request, decoder: "msgspec.json.Decoder[_W]", limit: int = MAX_BODY_BYTES) -> _W:
    """The body of a Batch operation, decoded; properties that its api-version has not are refused.

    Raises BatchError: InvalidRequestBody (not JSON, or empty), UnsupportedProperty, MissingRequiredProperty,
    InvalidPropertyValue (wrong type), RequestBodyTooLarge.
    """
    return decode_json(request, decoder, await read_body(request, limit))


def decode_json(request: Request, decoder: "msgspec.json.Decoder[_W]", body: bytes) -> _W:
    """The rest of `read_json` for a body that was read by itself."""
    check_body(request.version, request.operation.name, body)
    return decode(decoder, body)


async def read_management_json(request: Request, decoder: "msgspec.json.Decoder[_W]") -> _W:
    """The body of an operation of the management plane, whose versions are others. Raises as `read_json` does."""
    return decode(decoder, await read_body(request, MAX_BODY_BYTES))


async def read_body(request: Request, limit: int) -> bytes:
    """The body of an operation that needs one. Raises BatchError: InvalidRequestBody (empty), RequestBodyTooLarge."""
    body = await request.body(limit)
    if not body or body.isspace():
        raise BatchError(ErrorCode.INVALID_REQUEST_BODY, "The request body is empty, but the operation needs one.")
    return body


async def read_optional_json(request: Request, decoder: "msgspec.json.Decoder[_W]") -> _W | None:
    """The same for an operation that can do without: None when the body is empty."""
    body = await request.body(MAX_BODY_BYTES)
    return decode(decoder, body) if body and not body.isspace() else None


async def drain(request: Request) -> None:
    """Read the body of an operation that takes none; what it says is of no matter."""
    await request.body(MAX_BODY_BYTES)


def decode(decoder: "msgspec.json.Decoder[_W]", body: bytes) -> _W:
    """See `read_json`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(str(error)[:256]) from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None


def decode_if(decoder: "msgspec.json.Decoder[_W]", body: bytes) -> _W | None:
    """What a body means, or None: it is not of that kind, or not anything."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def convert(value: JsonObject, kind: type[_W]) -> _W:
    """What a body, or a part of one, means that is decoded already. Raises BatchError as `read_json` does."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None


def _not_json(reason: str) -> BatchError:
    return BatchError(ErrorCode.INVALID_REQUEST_BODY, f"The request body is not valid JSON: {reason}", Reason=reason)


def _explain(text: str) -> BatchError:
    at = _AT.search(text)
    path = at[1] if at else ""
    reason = text[: at.start()] if at else text
    if missing := _MISSING.match(reason):
        return missing_property(_join(path, missing[1]))
    if unknown := _UNKNOWN.match(reason):
        name = _join(path, unknown[1])[:256]
        return BatchError(
            ErrorCode.UNSUPPORTED_PROPERTY, f"The property '{name}' is not supported here.", PropertyName=name
        )
    if not path:
        return BatchError(
            ErrorCode.INVALID_REQUEST_BODY, f"The request body is not what the operation takes: {reason}", Reason=reason
        )
    if _NULL.match(reason) and not path.endswith("]"):
        return missing_property(path)
    return BatchError(
        ErrorCode.INVALID_PROPERTY_VALUE,
        f"The value of property '{path}' is invalid: {reason}",
        PropertyName=path,
        Reason=reason,
    )


def missing_property(name: str) -> BatchError:
    """400 MissingRequiredProperty naming it."""
    return BatchError(
        ErrorCode.MISSING_REQUIRED_PROPERTY, f"The required property '{name}' is missing.", PropertyName=name
    )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
