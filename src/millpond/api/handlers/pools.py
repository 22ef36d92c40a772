"""Operations on pools."""

from millpond.api.context import Context
from millpond.api.decode import body_decoder, drain, read_json
from millpond.api.handlers.statistics import stats_of_pool
from millpond.api.http import Request, Response
from millpond.api.intake.images import check_supported
from millpond.api.intake.pool_changes import patch_of, replacement_of
from millpond.api.intake.pools import new_pool, removal_of, resize_of
from millpond.api.options import filter_of, select_of, shown, wants_stats
from millpond.api.paging import bad_skiptoken, page_of, page_size, page_start
from millpond.api.preconditions import precondition_of
from millpond.api.render.common import pool_url
from millpond.api.render.pools import PROPERTIES, current_nodes, pool_object
from millpond.api.replies import (
    done_reply,
    encode_json,
    entity_headers,
    json_reply,
    not_found,
    unmet_read,
    written_reply,
)
from millpond.api.schema.node import NodeRemove
from millpond.api.schema.pool import PoolCreate, PoolPatch, PoolReplace, PoolResize
from millpond.domain.durations import Timestamp
from millpond.domain.errors import ErrorCode
from millpond.domain.events import PoolDeleteRequested, PoolResizeStopRequested, PoolUpdated
from millpond.domain.ids import id_key
from millpond.domain.pool import Pool, PoolChanges
from millpond.odata import properties
from millpond.odata.parse import parse_filter
from millpond.store.base import NodeCounts

_create_decoder = body_decoder(PoolCreate)
_patch_decoder = body_decoder(PoolPatch)
_replace_decoder = body_decoder(PoolReplace)
_resize_decoder = body_decoder(PoolResize)
_remove_decoder = body_decoder(NodeRemove)


async def require_pool(context: Context, pool_id: str) -> Pool:
    """The pool. Raises BatchError PoolNotFound."""
    pool = await context.control.store.get_pool(pool_id)
    if pool is None:
        raise not_found(ErrorCode.POOL_NOT_FOUND, "pool", pool_id)
    return pool


async def create_pool(context: Context, request: Request) -> Response:
    body = await read_json(request, _create_decoder)
    pool = new_pool(body, context.control.vm_sizes, context.control.now())
    if context.strict_images:
        check_supported(body.virtual_machine_configuration)
    if pool.auto_scale is not None:
        context.control.check_auto_scale(pool.auto_scale.formula, pool.auto_scale.interval_s)
    context.control.applications.check(pool.spec)
    pool = await context.control.add_pool(pool, request.request_id)
    return written_reply(request, pool_url(request.base_url, pool.id), pool.last_modified, location=True)


async def get_pool(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    condition = precondition_of(request)
    pool = await require_pool(context, request.params["poolId"])
    unmet = unmet_read(condition, pool.last_modified)
    if unmet is not None:
        return unmet
    # An id of the store has only letters, digits, hyphens and underscores, so it can stand in a filter as it is.
    of_pool = parse_filter(f"poolId eq '{pool.id}'", properties.NODE_COUNTS)
    counts = await context.control.store.node_counts(of_pool)
    whole = pool_object(pool, request.base_url, current_nodes(counts))
    if wants_stats(request, select):
        whole["stats"] = await stats_of_pool(context, request, pool)
    body = shown(whole, select)
    metadata = f"{request.base_url}/$metadata#pools/@Element"
    return json_reply(request, encode_json({"odata.metadata": metadata, **body}), pool.last_modified)


async def pool_exists(context: Context, request: Request) -> Response:
    condition = precondition_of(request)
    pool = await require_pool(context, request.params["poolId"])
    unmet = unmet_read(condition, pool.last_modified)
    return unmet or Response(request.operation.success, entity_headers(pool.last_modified))


async def list_pools(context: Context, request: Request) -> Response:
    select = select_of(request, PROPERTIES)
    where = filter_of(request, properties.POOLS)
    limit = page_size(request)
    after = page_start(request)
    try:
        page = await context.control.store.list_pools(where, limit, after)
    except ValueError:
        raise bad_skiptoken(request.query["$skiptoken"]) from None
    counts: dict[str, list[NodeCounts]] = {}
    if page.items and (select is None or not select.isdisjoint(("currentDedicatedNodes", "currentLowPriorityNodes"))):
        for entry in await context.control.store.node_counts(None):
            counts.setdefault(id_key(entry.pool_id), []).append(entry)
    items = []
    for pool in page.items:
        whole = pool_object(pool, request.base_url, current_nodes(counts.get(id_key(pool.id), ())))
        if wants_stats(request, select):
            whole["stats"] = await stats_of_pool(context, request, pool)
        items.append(shown(whole, select))
    return json_reply(request, encode_json(page_of(request, "pools", items, page.next)))


async def update_pool(context: Context, request: Request) -> Response:
    body = await read_json(request, _patch_decoder)
    pool = await require_pool(context, request.params["poolId"])
    changes = patch_of(body, pool, context.control.vm_sizes)
    if context.strict_images:
        check_supported(body.virtual_machine_configuration)
    return await _update(context, request, changes)


async def replace_pool_properties(context: Context, request: Request) -> Response:
    body = await read_json(request, _replace_decoder)
    return await _update(context, request, replacement_of(body))


async def _update(context: Context, request: Request, changes: PoolChanges) -> Response:
    context.control.applications.check(changes.spec)
    event = PoolUpdated(
        at=context.control.now(), cause=request.request_id, changes=changes, condition=precondition_of(request)
    )
    await context.control.to_pool(request.params["poolId"], event)
    return await written(context, request)


async def delete_pool(context: Context, request: Request) -> Response:
    await drain(request)
    event = PoolDeleteRequested(at=context.control.now(), cause=request.request_id, condition=precondition_of(request))
    await context.control.to_pool(request.params["poolId"], event)
    return done_reply(request)


async def resize_pool(context: Context, request: Request) -> Response:
    body = await read_json(request, _resize_decoder)
    event = resize_of(body, context.control.now(), request.request_id, precondition_of(request))
    await context.control.to_pool(request.params["poolId"], event)
    return await written(context, request)


async def stop_pool_resize(context: Context, request: Request) -> Response:
    await drain(request)
    event = PoolResizeStopRequested(
        at=context.control.now(), cause=request.request_id, condition=precondition_of(request)
    )
    await context.control.to_pool(request.params["poolId"], event)
    return await written(context, request)


async def remove_nodes(context: Context, request: Request) -> Response:
    body = await read_json(request, _remove_decoder)
    event = removal_of(body, context.control.now(), request.request_id, precondition_of(request))
    await context.control.to_pool(request.params["poolId"], event)
    return await written(context, request)


async def written(context: Context, request: Request) -> Response:
    """The answer to a change, with the pool's tag as it is now on disk."""
    pool = await context.control.store.get_pool(request.params["poolId"])
    last_modified: Timestamp | None = None if pool is None else pool.last_modified
    pool_id = request.params["poolId"] if pool is None else pool.id
    return written_reply(request, pool_url(request.base_url, pool_id), last_modified)
