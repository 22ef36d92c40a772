"""Tokens with which tasks call the service about their own job (Azure Batch: authenticationTokenSettings).

A token names a job, a task and its attempt, and is signed with the service's secret; nothing is stored. It is good while
that attempt is the task's current one and has not ended.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final

import msgspec

_PREFIX: Final = "mptask"


class TaskClaim(msgspec.Struct, frozen=True, array_like=True):
    """What a token says of its bearer."""

    job_id: str
    task_id: str
    attempt: int


def task_token(secret: bytes, claim: TaskClaim) -> str:
    """A token for an `Authorization: Bearer` header."""
    body = _text(msgspec.msgpack.encode(claim))
    return f"{_PREFIX}.{body}.{_text(_signature(secret, body))}"


def read_task_token(secret: bytes, token: str) -> TaskClaim | None:
    """The claim of a token this service signed; None for anything else."""
    prefix, _, rest = token.partition(".")
    body, _, signature = rest.partition(".")
    if prefix != _PREFIX or not token.isascii():
        return None
    if not hmac.compare_digest(_text(_signature(secret, body)), signature):
        return None
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=TaskClaim)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def _signature(secret: bytes, body: str) -> bytes:
    return hmac.digest(secret, b"task:" + body.encode(), hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
