"""Operations on nodes."""

from collections.abc import Sequence

from millpond.api.context import Context
from millpond.api.decode import body_decoder, drain, read_optional_json
from millpond.api.handlers.pools import require_pool
from millpond.api.http import Request, Response
from millpond.api.intake.pools import deallocation_option
from millpond.api.options import filter_of, select_of, shown
from millpond.api.paging import bad_skiptoken, page_of, page_size, page_start
from millpond.api.render.common import name_values, node_url
from millpond.api.render.nodes import PROPERTIES, node_object
from millpond.api.replies import encode_json, json_reply, not_found, written_reply
from millpond.api.schema.enums import DeallocationOption
from millpond.api.schema.node import NodeDeallocate, NodeDisableScheduling, NodeReboot, NodeReimage
from millpond.domain.errors import ErrorCode
from millpond.domain.events import (
    NodeEvent,
    NodeOperationRequested,
    NodeSchedulingDisableRequested,
    NodeSchedulingEnableRequested,
    NodeStartRequested,
)
from millpond.domain.ids import id_key
from millpond.domain.node import Node
from millpond.domain.states import NodeDeallocationOption, NodeOperation
from millpond.domain.task import Task
from millpond.odata import properties

_reboot_decoder = body_decoder(NodeReboot)
_reimage_decoder = body_decoder(NodeReimage)
_deallocate_decoder = body_decoder(NodeDeallocate)
_disable_decoder = body_decoder(NodeDisableScheduling)


async def get_node(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    pool = await require_pool(context, request.params["poolId"])
    node = await require_node(context, pool.id, request.params["nodeId"])
    recent = await _recent_tasks(context, [node], select)
    body = shown(node_object(node, pool, request.base_url, recent[node.id]), select)
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
    recent = await _recent_tasks(context, page.items, select)
    items = [shown(node_object(node, pool, request.base_url, recent[node.id]), select) for node in page.items]
    return json_reply(request, encode_json(page_of(request, "nodes", items, page.next)))


async def _recent_tasks(
    context: Context, nodes: Sequence[Node], select: frozenset[str] | None
) -> dict[str, list[tuple[str, Task]]]:
    """(job id, task) by node id: of the tasks that began there lately those that are still that node's, the latest
    change of state first. One that was taken off it since, say by a reboot, is not shown."""
    keys = [key for node in nodes for key in node.recent_tasks] if select is None or "recentTasks" in select else []
    tasks = await context.control.store.tasks_of_keys(keys) if keys else {}
    recent: dict[str, list[tuple[str, Task]]] = {}
    for node in nodes:
        own = [tasks[key] for key in node.recent_tasks if key in tasks and tasks[key][1].node_id == node.id]
        recent[node.id] = sorted(own, key=lambda one: (one[1].state_time, one[1].key), reverse=True)
    return recent


async def reboot_node(context: Context, request: Request) -> Response:
    body = await read_optional_json(request, _reboot_decoder)
    return await _operate(context, request, NodeOperation.REBOOT, None if body is None else body.node_reboot_option)


async def reimage_node(context: Context, request: Request) -> Response:
    body = await read_optional_json(request, _reimage_decoder)
    return await _operate(context, request, NodeOperation.REIMAGE, None if body is None else body.node_reimage_option)


async def deallocate_node(context: Context, request: Request) -> Response:
    body = await read_optional_json(request, _deallocate_decoder)
    option = None if body is None else body.node_deallocate_option
    return await _operate(context, request, NodeOperation.DEALLOCATE, option)


async def _operate(
    context: Context, request: Request, operation: NodeOperation, option: DeallocationOption | None
) -> Response:
    event = NodeOperationRequested(
        at=context.control.now(),
        cause=request.request_id,
        node_id=id_key(request.params["nodeId"]),
        operation=operation,
        option=deallocation_option(option),
    )
    return await _change(context, request, event)


async def start_node(context: Context, request: Request) -> Response:
    await drain(request)
    event = NodeStartRequested(
        at=context.control.now(), cause=request.request_id, node_id=id_key(request.params["nodeId"])
    )
    return await _change(context, request, event)


async def disable_node_scheduling(context: Context, request: Request) -> Response:
    body = await read_optional_json(request, _disable_decoder)
    option = None if body is None else body.node_disable_scheduling_option
    event = NodeSchedulingDisableRequested(
        at=context.control.now(),
        cause=request.request_id,
        node_id=id_key(request.params["nodeId"]),
        option=NodeDeallocationOption.REQUEUE if option is None else NodeDeallocationOption(option.value),
    )
    return await _change(context, request, event)


async def enable_node_scheduling(context: Context, request: Request) -> Response:
    await drain(request)
    event = NodeSchedulingEnableRequested(
        at=context.control.now(), cause=request.request_id, node_id=id_key(request.params["nodeId"])
    )
    return await _change(context, request, event)


async def preempt_node(context: Context, request: Request) -> Response:
    """Millpond's own: take the machine of a spot node away, as a cloud does when it wants its capacity back."""
    await drain(request)
    await context.control.preempt_node(request.params["poolId"], id_key(request.params["nodeId"]))
    return await _written(context, request)


async def _change(context: Context, request: Request, event: NodeEvent) -> Response:
    await context.control.to_pool(request.params["poolId"], event)
    return await _written(context, request)


async def _written(context: Context, request: Request) -> Response:
    """The answer to a change, with the node's tag as it is now on disk."""
    pool_id, node_id = request.params["poolId"], request.params["nodeId"]
    node = await context.control.store.get_node(pool_id, node_id)
    url = node_url(request.base_url, pool_id, node_id)
    return written_reply(request, url, None if node is None else node.state_time)
