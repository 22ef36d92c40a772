"""Operations on the account: supported images, node counts."""

from typing import Final

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.intake.images import SUPPORTED_IMAGES
from millpond.api.options import filter_of
from millpond.api.paging import bad_skiptoken, page_of, page_size, page_start
from millpond.api.render.pools import node_counts_object
from millpond.api.replies import encode_json, json_reply
from millpond.api.schema.base import JsonObject
from millpond.domain.ids import id_key
from millpond.odata import properties
from millpond.odata.evaluate import matches
from millpond.store.base import NodeCounts

NODE_COUNTS_PAGE: Final = 10
"""Pools on a page of node counts, unless asked otherwise (Azure Batch: the default of maxresults there)."""


async def list_supported_images(context: Context, request: Request) -> Response:
    where = filter_of(request, properties.SUPPORTED_IMAGES)
    limit = page_size(request)
    after = page_start(request)
    images = [image for image in SUPPORTED_IMAGES if where is None or matches(where, image)]
    if after is not None and not after.isdecimal():
        raise bad_skiptoken(request.query["$skiptoken"])
    start = int(after or "0")
    end = start + limit
    following = str(end) if end < len(images) else None
    return json_reply(request, encode_json(page_of(request, "supportedimages", images[start:end], following)))


async def list_pool_node_counts(context: Context, request: Request) -> Response:
    where = filter_of(request, properties.NODE_COUNTS)
    limit = page_size(request, unasked=NODE_COUNTS_PAGE)
    after = page_start(request)
    store = context.control.store
    counts: dict[str, list[NodeCounts]] = {}
    for entry in await store.node_counts(where):
        counts.setdefault(id_key(entry.pool_id), []).append(entry)
    items: list[JsonObject] = []
    while True:
        try:
            page = await store.list_pools(None, limit - len(items), after)
        except ValueError:
            raise bad_skiptoken(request.query["$skiptoken"]) from None
        items += [
            node_counts_object(pool.id, counts.get(id_key(pool.id), ()))
            for pool in page.items
            if where is None or matches(where, {"poolId": pool.id})
        ]
        after = page.next
        if after is None or len(items) >= limit:
            return json_reply(request, encode_json(page_of(request, "poolnodecounts", items, after)))
