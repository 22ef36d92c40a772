"""Millpond's own operation: what happens, as events of the service log."""

import re
from typing import Final

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.paging import invalid_parameter
from millpond.api.replies import encode_json, json_reply
from millpond.control.events_feed import MAX_WAIT_S

_NUMBER: Final = re.compile(r"[0-9]{1,18}\Z")
_SECONDS: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?\Z")


async def list_events(context: Context, request: Request) -> Response:
    """`after`: the `next` of the answer before; without it, all that are kept. `wait`: seconds to wait for an event
    where there is none."""
    after, wait = request.query.get("after"), request.query.get("wait", "0")
    if after is not None and not _NUMBER.match(after):
        raise invalid_parameter("after", after, "it must be what an answer before gave as 'next'")
    if not _SECONDS.match(wait) or float(wait) > MAX_WAIT_S:
        raise invalid_parameter("wait", wait, f"it must be a number of seconds from 0 to {MAX_WAIT_S:.0f}")
    answer = await context.control.events_feed.read(None if after is None else int(after), float(wait))
    body = {"value": answer.events, "next": answer.next, "missed": answer.missed}
    return json_reply(request, encode_json(body))
