"""Operations on nodes."""

from typing import Any, Final

from millpond.api.context import Context
from millpond.api.handlers.pools import require_pool
from millpond.api.http import Request, Response
from millpond.api.options import filter_of, select_of, shown
from millpond.api.paging import bad_skiptoken, page_of, page_size, page_start
from millpond.api.render.common import name_values
from millpond.api.render.nodes import PROPERTIES, node_object
from millpond.api.replies import encode_json, json_reply, not_found
from millpond.domain.errors import ErrorCode
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.odata import properties

RECENT_TASKS: Final = 10
"""How many tasks a node shows of those it ran."""


async def get_node(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    pool = await require_pool(context, request.params["poolId"])
    node = await require_node(context, pool.id, request.params["nodeId"])
    body = await _shown(context, request, pool, node, select)
    metadata = f"{request.base_url}/$metadata#nodes/@Element"
    return json_reply(request, encode_json({"odata.metadata": metadata, **body}), node.state_time)


async def get_node_properties(context: Context, request: Request) -> Response:
    """An extension: what the node's agent says it can and cannot do (isolation, limits). Azure's Node has no place for
    it, and stays as it is."""
    pool = await require_pool(context, request.params["poolId"])
    node = await require_node(context, pool.id, request.params["nodeId"])
    body = {"id": node.id, "properties": name_values(node.capabilities)}
    return json_reply(request, encode_json(body), node.state_time)


async def require_node(context: Context, pool_id: str, node_id: str) -> Node:
    """The node. Raises BatchError NodeNotFound."""
    node = await context.control.store.get_node(pool_id, node_id)
    if node is None:
        raise not_found(ErrorCode.NODE_NOT_FOUND, "node", node_id)
    return node


async def list_nodes(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    where = filter_of(request, properties.NODES)
    limit = page_size(request)
    after = page_start(request)
    pool = await require_pool(context, request.params["poolId"])
    try:
        page = await context.control.store.list_nodes(pool.id, where, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    items = [await _shown(context, request, pool, node, select) for node in page.items]
    return json_reply(request, encode_json(page_of(request, "nodes", items, page.next)))


async def _shown(
    context: Context, request: Request, pool: Pool, node: Node, select: frozenset[str] | None
) -> dict[str, Any]:
    wanted = (select is None or "recentTasks" in select) and (node.total_tasks_run or node.running_tasks)
    recent = await context.control.store.recent_tasks(node.id, RECENT_TASKS) if wanted else []
    return shown(node_object(node, pool, request.base_url, recent), select)
