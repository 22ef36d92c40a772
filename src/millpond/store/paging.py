"""The tokens that say where the next page of a listing starts.

Opaque to clients, and made of letters, digits, hyphens and underscores only, because one client turns `+` into a
space on its way back. A token names the last row seen, so rows added or deleted meanwhile move no page.
"""

import base64
import contextlib
import re
from typing import Final

from millpond.domain import ids

MAX_TOKEN_LENGTH: Final = 512
_TASK_TOKEN: Final = re.compile(r"t([0-9a-f]{1,8})\Z")


def token_of_id(entity_id: str) -> str:
    """The token for what follows this id, in listings in order of id key."""
    return "i" + base64.urlsafe_b64encode(ids.id_key(entity_id).encode()).decode().rstrip("=")


def id_after(token: str | None) -> str:
    """The id key the page follows; empty for the first page. Raises ValueError for what `token_of_id` never made."""
    if token is None:
        return ""
    text = ""
    if len(token) <= MAX_TOKEN_LENGTH and token.isascii() and token.startswith("i"):
        padding = "=" * ((1 - len(token)) % 4)
        with contextlib.suppress(ValueError):
            text = base64.b64decode(token[1:] + padding, altchars=b"-_", validate=True).decode()
    if not text or "\0" in text or token_of_id(text) != token:
        raise _no_token(token)
    return text


def token_of_task(key: int) -> str:
    """The token for what follows this task in the listing of its job."""
    return f"t{ids.task_number_of(key):x}"


def task_after(job_no: int, token: str | None) -> int:
    """The task key the page follows, exclusive. Raises ValueError for what `token_of_task` never made."""
    if token is None:
        return ids.task_key(job_no, 0) - 1
    match = _TASK_TOKEN.match(token)
    if match is None:
        raise _no_token(token)
    return ids.task_key(job_no, int(match[1], 16))


def _no_token(token: str) -> ValueError:
    return ValueError(f"{token[:64]!r} is not where a page of this listing starts")
