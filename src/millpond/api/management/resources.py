"""What resources have in common: their ids, their pages, their answers."""

from typing import Any, Final

import msgspec

from millpond.api.http import Request, Response
from millpond.api.paging import next_link
from millpond.domain.durations import Timestamp, etag_of

DEFAULT_GROUP: Final = "millpond"
"""What the account's group is called where a client has not said."""


def account_id(request: Request, account: str) -> str:
    """The account's resource id. There is one account, in every group of every subscription."""
    group = request.params.get("resourceGroupName", DEFAULT_GROUP)
    subscription = request.params["subscriptionId"]
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Batch/batchAccounts/{account}"


def quoted_etag(last_modified: Timestamp) -> str:
    return f'"{etag_of(last_modified)}"'


def resource_reply(body: dict[str, Any], status: int = 200) -> Response:
    headers = [(b"content-type", b"application/json; charset=utf-8")]
    if "etag" in body:
        headers.append((b"etag", body["etag"].encode()))
    return Response(status, headers, msgspec.json.encode(body))


def page_reply(request: Request, items: list[dict[str, Any]], next_start: str | None) -> Response:
    body: dict[str, Any] = {"value": items}
    if next_start is not None:
        body["nextLink"] = next_link(request, next_start)
    return resource_reply(body)
