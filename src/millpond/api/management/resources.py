"""What resources have in common: their ids, their pages, their answers."""

from typing import Any, Final
from urllib.parse import quote

import msgspec

from millpond.api.http import Request, Response
from millpond.api.management.account import Account
from millpond.api.paging import next_link
from millpond.domain.durations import Timestamp, etag_of

DEFAULT_GROUP: Final = "millpond"
"""What the first account's group is called where a client has not said."""
RETRY_AFTER: Final = (b"retry-after", b"1")


def account_id(request: Request, account: Account) -> str:
    """The account's resource id. The service's first account is in every group of every subscription: in the one the
    client has named."""
    settings = account.settings
    group = settings.group or request.params.get("resourceGroupName", DEFAULT_GROUP)
    subscription = settings.subscription or request.params["subscriptionId"]
    name = account.keys.name
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Batch/batchAccounts/{name}"


def accepted(request: Request, path: str) -> Response:
    """202: what was asked for goes on, and `path` says how far it is."""
    version = request.query["api-version"]
    location = f"{request.base_url}{quote(path)}?api-version={version}"
    return Response(202, [(b"location", location.encode()), RETRY_AFTER])


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
