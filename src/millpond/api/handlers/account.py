"""Operations on the account: supported images, node counts."""

from typing import Any, Final

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.options import filter_of
from millpond.api.paging import bad_skiptoken, page_of, page_size, page_start
from millpond.api.render.pools import node_counts_object
from millpond.api.replies import encode_json, json_reply
from millpond.domain.ids import id_key
from millpond.odata import properties
from millpond.odata.evaluate import matches
from millpond.store.base import NodeCounts

_LINUX: Final = (
    ("canonical", "ubuntu-24_04-lts", "server", "batch.node.ubuntu 24.04"),
    ("canonical", "0001-com-ubuntu-server-jammy", "22_04-lts", "batch.node.ubuntu 22.04"),
    ("microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04"),
    ("debian", "debian-12", "12", "batch.node.debian 12"),
    ("almalinux", "almalinux-x86_64", "9-gen2", "batch.node.el 9"),
)
SUPPORTED_IMAGES: Final[tuple[dict[str, Any], ...]] = tuple(
    {
        "nodeAgentSKUId": sku_id,
        "imageReference": {"publisher": publisher, "offer": offer, "sku": sku, "version": "latest"},
        "osType": "linux",
        "verificationType": "verified",
    }
    for publisher, offer, sku, sku_id in _LINUX
)
"""Images clients may ask for. Nodes run what their host runs; the list lets clients that choose from it work."""


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
    limit = page_size(request)
    after = page_start(request)
    store = context.control.store
    try:
        page = await store.list_pools(None, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    counts: dict[str, list[NodeCounts]] = {}
    for entry in await store.node_counts(where):
        counts.setdefault(id_key(entry.pool_id), []).append(entry)
    items = [
        node_counts_object(pool.id, counts.get(id_key(pool.id), ()))
        for pool in page.items
        if where is None or matches(where, {"poolId": pool.id})
    ]
    return json_reply(request, encode_json(page_of(request, "poolnodecounts", items, page.next)))
