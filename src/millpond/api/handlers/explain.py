"""Millpond's own operations: why a job, task, pool or node waits. Nothing of the Batch service's wire changes by them."""

from millpond.api.context import Context
from millpond.api.http import Request, Response
from millpond.api.render.explain import explanation_object
from millpond.api.replies import encode_json, json_reply
from millpond.domain.explanation import Explanation


async def explain_job(context: Context, request: Request) -> Response:
    return _reply(request, await context.control.explain_job(request.params["jobId"]))


async def explain_task(context: Context, request: Request) -> Response:
    return _reply(request, await context.control.explain_task(request.params["jobId"], request.params["taskId"]))


async def explain_pool(context: Context, request: Request) -> Response:
    return _reply(request, await context.control.explain_pool(request.params["poolId"]))


async def explain_node(context: Context, request: Request) -> Response:
    return _reply(request, await context.control.explain_node(request.params["poolId"], request.params["nodeId"]))


def _reply(request: Request, explanation: Explanation) -> Response:
    return json_reply(request, encode_json(explanation_object(explanation)))
