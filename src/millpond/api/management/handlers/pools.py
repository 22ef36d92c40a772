"""Pools, by the management plane: the same pools, changed by the same events as those of the data plane."""

from typing import Any, Final

import msgspec

from millpond.api.decode import body_decoder, convert, drain, missing_property, read_management_json
from millpond.api.handlers.pools import require_pool
from millpond.api.http import Request, Response
from millpond.api.intake.autoscale import enable_of
from millpond.api.intake.pool_changes import patch_of
from millpond.api.intake.pools import new_pool, resize_of
from millpond.api.management.context import ManagementContext
from millpond.api.management.filters import POOLS
from millpond.api.management.pool_forms import (
    check_scale,
    data_plane_form,
    named_as_here,
    pool_identity,
    pool_properties,
    scale_form,
)
from millpond.api.management.pool_schema import FixedScale, PoolBody
from millpond.api.management.resources import accepted, account_id, page_reply, quoted_etag, resource_reply
from millpond.api.options import filter_of
from millpond.api.paging import bad_skiptoken, invalid_parameter, page_size, page_start
from millpond.api.preconditions import precondition_of
from millpond.api.render.pools import current_nodes, pool_object
from millpond.api.schema.base import JsonObject
from millpond.api.schema.pool import PoolCreate, PoolEnableAutoScale, PoolPatch, PoolResize
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import (
    Event,
    PoolAutoScaleDisableRequested,
    PoolDeleteRequested,
    PoolResizeStopRequested,
    PoolUpdated,
)
from millpond.domain.pool import Pool, PoolChanges
from millpond.domain.preconditions import Precondition
from millpond.domain.states import PoolState
from millpond.odata import properties
from millpond.odata.evaluate import matches
from millpond.odata.parse import parse_filter

_decoder = body_decoder(PoolBody)

_REPLACED: Final = frozenset(PoolPatch.__struct_encode_fields__) - {"odata.metadata", "certificateReferences"}
_TAKEN_AWAY_AT_ANY_TIME: Final = ("startTask", "applicationPackageReferences", "metadata")


async def list_account_pools(context: ManagementContext, request: Request) -> Response:
    where = filter_of(request, POOLS)
    if "$select" in request.query:
        raise invalid_parameter("$select", request.query["$select"], "pools are shown whole here")
    limit = page_size(request)
    after = page_start(request)
    items: list[JsonObject] = []
    while True:
        try:
            page = await context.control.store.list_pools(None, limit - len(items), after)
        except ValueError:
            raise bad_skiptoken(request.query["$skiptoken"]) from None
        for pool in page.items:
            item = await _object(context, request, pool)
            if where is None or matches(where, _filtered(item)):
                items.append(item)
        after = page.next
        if after is None or len(items) >= limit:
            return page_reply(request, items, after)


async def get_account_pool(context: ManagementContext, request: Request) -> Response:
    return await _shown(context, request)


async def create_account_pool(context: ManagementContext, request: Request) -> Response:
    """A pool that is there becomes like that; scale settings that are not given stay."""
    body = await read_management_json(request, _decoder)
    condition = precondition_of(request)
    pool_id = request.params["poolName"]
    there = await context.control.store.get_pool(pool_id)
    if there is not None:
        return await _update(context, request, there, body, condition, whole=True)
    if condition is not None and condition.if_match:
        raise BatchError(ErrorCode.CONDITION_NOT_MET)
    with named_as_here():
        form = {"id": pool_id, **data_plane_form(body), **scale_form(body.properties)}
        given = new_pool(convert(form, PoolCreate), context.control.vm_sizes, context.control.now())
        if given.auto_scale is not None:
            context.control.check_auto_scale(given.auto_scale.formula, given.auto_scale.interval_s)
        context.control.applications.check(given.spec)
    await context.control.add_pool(given, request.request_id)
    return await _shown(context, request)


async def update_account_pool(context: ManagementContext, request: Request) -> Response:
    body = await read_management_json(request, _decoder)
    pool = await require_pool(context, request.params["poolName"])
    return await _update(context, request, pool, body, precondition_of(request), whole=False)


async def delete_account_pool(context: ManagementContext, request: Request) -> Response:
    """202 until it is gone: see `get_pool_deletion`."""
    await drain(request)
    pool_id = request.params["poolName"]
    event = PoolDeleteRequested(at=context.control.now(), cause=request.request_id, condition=precondition_of(request))
    try:
        await context.control.to_pool(pool_id, event)
    except BatchError as error:
        if error.code == ErrorCode.POOL_NOT_FOUND:
            return Response(204)
        if error.code != ErrorCode.POOL_BEING_DELETED:
            raise
    return await _deletion(context, request, pool_id)


async def get_pool_deletion(context: ManagementContext, request: Request) -> Response:
    return await _deletion(context, request, request.params["poolName"])


async def disable_account_pool_auto_scale(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    at, condition = context.control.now(), precondition_of(request)
    event = PoolAutoScaleDisableRequested(at=at, cause=request.request_id, condition=condition)
    await context.control.to_pool(request.params["poolName"], event)
    return await _shown(context, request)


async def stop_account_pool_resize(context: ManagementContext, request: Request) -> Response:
    await drain(request)
    at, condition = context.control.now(), precondition_of(request)
    event = PoolResizeStopRequested(at=at, cause=request.request_id, condition=condition)
    await context.control.to_pool(request.params["poolName"], event)
    return await _shown(context, request)


async def _deletion(context: ManagementContext, request: Request, pool_id: str) -> Response:
    pool = await context.control.store.get_pool(pool_id)
    if pool is None or pool.state is not PoolState.DELETING:
        return Response(200 if request.method == "GET" else 204)
    return accepted(request, f"{account_id(request, context.account)}/poolOperationResults/{pool.id}")


async def _update(
    context: ManagementContext,
    request: Request,
    pool: Pool,
    body: PoolBody,
    condition: Precondition | None,
    *,
    whole: bool,
) -> Response:
    """Make what is there like the body: its definition in one step, then its size. A condition holds for the first."""
    if condition is not None:
        condition.require(pool.last_modified)
    with named_as_here():
        changes = _changes(context, request, pool, data_plane_form(body), whole=whole)
        scaling = _scaling(context, request, pool, body)
        events: list[Event] = []
        if changes.spec:
            context.control.applications.check(changes.spec)
            events.append(
                PoolUpdated(at=context.control.now(), cause=request.request_id, changes=changes, condition=condition)
            )
        for event in (*events, *scaling):
            await context.control.to_pool(pool.id, event)
    return await _shown(context, request)


def _changes(context: ManagementContext, request: Request, pool: Pool, form: JsonObject, *, whole: bool) -> PoolChanges:
    """What a body changes: what it says as it is already is no change, so that a pool with nodes can be sent back as it
    was read. Raises BatchError."""
    shown = pool_object(pool, request.base_url, (0, 0))
    for name in ("vmSize", "virtualMachineConfiguration"):
        if whole and form.get(name) is None:
            raise missing_property(name)
    _require_same(form, "identity", pool)
    _require_same(form, "applicationLicenses", pool)
    given = msgspec.to_builtins(convert({n: v for n, v in form.items() if n in _REPLACED or n in _REFUSED}, PoolPatch))
    if whole:
        given = {"taskSlotsPerNode": 1, "enableInterNodeCommunication": False, **given}
        given.setdefault("taskSchedulingPolicy", {"nodeFillType": "spread"})
    changed = {
        name: value
        for name, value in given.items()
        if value != pool.spec.get(name) and value != shown.get(name) and (value or name in shown or name in pool.spec)
    }
    changes = patch_of(convert(changed, PoolPatch), pool, context.control.vm_sizes)
    if not whole:
        return changes
    gone = [name for name, value in pool.spec.items() if value and name in _REPLACED and name not in given]
    return msgspec.structs.replace(
        changes,
        spec={**changes.spec, **dict.fromkeys(gone)},
        remove_start_task="startTask" in gone,
        needs_empty_pool=(*changes.needs_empty_pool, *(n for n in gone if n not in _TAKEN_AWAY_AT_ANY_TIME)),
    )


_REFUSED: Final = ("certificateReferences",)


def _require_same(form: JsonObject, name: str, pool: Pool) -> None:
    """Raises BatchError for a change of what is set for good when a pool is made."""
    given = form.get(name)
    if given is not None and given != pool.spec.get(name):
        raise BatchError(
            ErrorCode.INVALID_PROPERTY_VALUE,
            f"The value of property '{name}' is invalid: it cannot be changed once the pool '{pool.id}' is there.",
            PropertyName=name,
        )


def _scaling(context: ManagementContext, request: Request, pool: Pool, body: PoolBody) -> list[Event]:
    """The events that make the pool's size what the body says. Raises BatchError."""
    check_scale(body.properties)
    scale = body.properties.scale_settings
    if scale is None:
        return []
    at, cause = context.control.now(), request.request_id
    own = pool.auto_scale
    if scale.auto_scale is not None:
        given = PoolEnableAutoScale(
            auto_scale_formula=scale.auto_scale.formula,
            auto_scale_evaluation_interval=scale.auto_scale.evaluation_interval,
        )
        enable = enable_of(given, at, cause, None)
        if own is not None and own.formula == enable.formula and enable.interval_s in (None, own.interval_s):
            return []
        context.control.check_auto_scale(enable.formula, enable.interval_s)
        return [enable]
    fixed = scale.fixed_scale
    if fixed is None:
        return []
    events: list[Event] = []
    if own is not None:
        events.append(PoolAutoScaleDisableRequested(at=at, cause=cause))
    if _is_resize(pool, fixed):
        resize = PoolResize(
            target_dedicated_nodes=fixed.target_dedicated_nodes,
            target_low_priority_nodes=fixed.target_low_priority_nodes,
            resize_timeout=fixed.resize_timeout,
            node_deallocation_option=fixed.node_deallocation_option,
        )
        events.append(resize_of(resize, at, cause, None))
    return events


def _is_resize(pool: Pool, fixed: FixedScale) -> bool:
    dedicated, spot = fixed.target_dedicated_nodes, fixed.target_low_priority_nodes
    return (dedicated is not None and dedicated != pool.target_dedicated_nodes) or (
        spot is not None and spot != pool.target_low_priority_nodes
    )


async def _shown(context: ManagementContext, request: Request) -> Response:
    pool = await require_pool(context, request.params["poolName"])
    return resource_reply(await _object(context, request, pool))


async def _object(context: ManagementContext, request: Request, pool: Pool) -> JsonObject:
    # An id of the store has only letters, digits, hyphens and underscores, so it can stand in a filter as it is.
    counts = await context.control.store.node_counts(parse_filter(f"poolId eq '{pool.id}'", properties.NODE_COUNTS))
    form = pool_object(pool, request.base_url, current_nodes(counts))
    return {
        "id": f"{account_id(request, context.account)}/pools/{pool.id}",
        "name": pool.id,
        "type": "Microsoft.Batch/batchAccounts/pools",
        "etag": quoted_etag(pool.last_modified),
        "tags": form.get("resourceTags", {}),
        "identity": pool_identity(form),
        "properties": pool_properties(pool, form),
    }


def _filtered(item: JsonObject) -> dict[str, Any]:
    own = item["properties"]
    values = {f"properties/{name}": own.get(name) for name in ("vmSize", "displayName")}
    states = {f"properties/{name}": own[name] for name in ("allocationState", "provisioningState")}
    return {"name": item["name"], **values, **states}
