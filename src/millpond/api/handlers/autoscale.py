"""Operations on the automatic scaling of pools."""

import asyncio

import msgspec

from millpond.api.context import Context
from millpond.api.decode import body_decoder, drain, read_json
from millpond.api.handlers.pools import require_pool, written
from millpond.api.http import Request, Response
from millpond.api.intake.autoscale import enable_of
from millpond.api.preconditions import precondition_of
from millpond.api.render.autoscale import run_object, samples_object, stored_run_object
from millpond.api.replies import CONTENT_TYPE, encode_json, json_reply
from millpond.api.schema.pool import PoolEnableAutoScale, PoolEvaluateAutoScale
from millpond.autoscale.samples import History, HistoryData
from millpond.domain.events import PoolAutoScaleDisableRequested

_enable_decoder = body_decoder(PoolEnableAutoScale)
_evaluate_decoder = body_decoder(PoolEvaluateAutoScale)

_read_block = msgspec.msgpack.Decoder(HistoryData).decode
"""Of what `control.sampling` writes."""

_LISTED_RUNS = 100
_SHOWN_SAMPLES_S = 86_400.0
_BLOCKS_AT_A_TIME = 4


async def enable_pool_auto_scale(context: Context, request: Request) -> Response:
    body = await read_json(request, _enable_decoder)
    event = enable_of(body, context.control.now(), request.request_id, precondition_of(request))
    context.control.check_auto_scale(event.formula, event.interval_s)
    await context.control.to_pool(request.params["poolId"], event)
    return await written(context, request)


async def disable_pool_auto_scale(context: Context, request: Request) -> Response:
    await drain(request)
    event = PoolAutoScaleDisableRequested(
        at=context.control.now(), cause=request.request_id, condition=precondition_of(request)
    )
    await context.control.to_pool(request.params["poolId"], event)
    return await written(context, request)


async def evaluate_pool_auto_scale(context: Context, request: Request) -> Response:
    body = await read_json(request, _evaluate_decoder)
    run = await context.control.evaluate_auto_scale(request.params["poolId"], body.auto_scale_formula)
    metadata = f"{request.base_url}/$metadata#Microsoft.Azure.Batch.Protocol.Entities.AutoScaleRun"
    # Whoever evaluates may go on to enable what was evaluated, on the pool as it was then.
    head = await written(context, request)
    return Response(
        head.status, [CONTENT_TYPE, *head.headers], encode_json({"odata.metadata": metadata, **run_object(run)})
    )


async def list_auto_scale_runs(context: Context, request: Request) -> Response:
    """Millpond's own: the last evaluations of the pool's formula and all they looked at, the latest first."""
    pool = await require_pool(context, request.params["poolId"])
    runs = await context.control.store.list_auto_scale_runs(pool.no, _LISTED_RUNS)
    return json_reply(request, encode_json({"value": [stored_run_object(run) for run in runs]}))


async def list_auto_scale_samples(context: Context, request: Request) -> Response:
    """Millpond's own: what was sampled of the pool in the last day, for formulas to be tried on elsewhere."""
    pool = await require_pool(context, request.params["poolId"])
    blocks = await context.control.store.load_samples(pool.no, context.control.now() - _SHOWN_SAMPLES_S)
    history: History | None = None
    for index, block in enumerate(blocks):
        data = _read_block(block.data)
        if history is None:
            history = History(period_s=data.period_s, keep_s=2 * _SHOWN_SAMPLES_S)
        for at, values in History.restore(data).times(block.start - 1):
            history.add(at, values)
        if index % _BLOCKS_AT_A_TIME == _BLOCKS_AT_A_TIME - 1:
            await asyncio.sleep(0)  # others have their turn
    return json_reply(request, encode_json(samples_object(history)))
