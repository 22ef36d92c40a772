"""Tokens with which tasks call the service: about their own job (Azure Batch: authenticationTokenSettings), or to launch
commands on the nodes of the other instances of a multi-instance task.

A token names a task and its attempt, and is signed with the service's secret; nothing is stored. It is good while that
attempt is the task's current one and has not ended.
"""

import base64
import binascii
import hashlib
import hmac
from typing import Final, TypeVar

import msgspec

_T = TypeVar("_T")

_PREFIX: Final = "mptask"
_LAUNCH_PREFIX: Final = "mplaunch"


class TaskClaim(msgspec.Struct, frozen=True, array_like=True):
    """What a token says of its bearer."""

    job_id: str
    task_id: str
    attempt: int


class LaunchClaim(msgspec.Struct, frozen=True, array_like=True):
    """What the token of an instance of a multi-instance task says of its bearer."""

    node_id: str
    key: int
    attempt: int


def task_token(secret: bytes, claim: TaskClaim) -> str:
    """A token for an `Authorization: Bearer` header."""
    return _signed(secret, _PREFIX, claim)


def read_task_token(secret: bytes, token: str) -> TaskClaim | None:
    """The claim of a token this service signed; None for anything else."""
    return _read(secret, _PREFIX, token, TaskClaim)


def launch_token(secret: bytes, claim: LaunchClaim) -> str:
    """A token for an `Authorization: Bearer` header."""
    return _signed(secret, _LAUNCH_PREFIX, claim)


def read_launch_token(secret: bytes, token: str) -> LaunchClaim | None:
    """The claim of a token this service signed; None for anything else."""
    return _read(secret, _LAUNCH_PREFIX, token, LaunchClaim)


def _signed(secret: bytes, prefix: str, claim: msgspec.Struct) -> str:
    body = _text(msgspec.msgpack.encode(claim))
    return f"{prefix}.{body}.{_text(_signature(secret, prefix, body))}"


def _read(secret: bytes, prefix: str, token: str, type_: type[_T]) -> _T | None:
    found, _, rest = token.partition(".")
    body, _, signature = rest.partition(".")
    if found != prefix or not token.isascii():
        return None
    if not hmac.compare_digest(_text(_signature(secret, prefix, body)), signature):
        return None
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=type_)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None


def _signature(secret: bytes, prefix: str, body: str) -> bytes:
    # Which kind of token it is, is signed with it.
    return hmac.digest(secret, f"{prefix}:{body}".encode(), hashlib.sha256)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
