"""What else a node offers: how to log in, the agent's logs, extensions."""

import re
from typing import Final

import msgspec

from millpond.api.context import Context
from millpond.api.decode import body_decoder, read_json
from millpond.api.handlers.nodes import require_node
from millpond.api.handlers.pools import require_pool
from millpond.api.http import Request, Response
from millpond.api.intake.common import check_url, timestamp_of
from millpond.api.options import select_of
from millpond.api.paging import page_of, page_size, page_start
from millpond.api.render.common import words
from millpond.api.replies import encode_json, json_reply, not_found
from millpond.api.schema.node import UploadLogs as UploadLogsBody
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.node import Node
from millpond.protocol.messages import UploadedLogs, UploadLogs

_upload_decoder = body_decoder(UploadLogsBody)
_uploaded = msgspec.json.Decoder(UploadedLogs).decode

SSH_PORT: Final = 22
EXTENSION_PROPERTIES: Final = words("provisioningState vmExtension instanceView")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")


async def _node_of(context: Context, request: Request) -> Node:
    pool = await require_pool(context, request.params["poolId"])
    return await require_node(context, pool.id, request.params["nodeId"])


async def get_node_remote_login_settings(context: Context, request: Request) -> Response:
    """Where the node's machine is to be reached; whether an SSH server listens there is the machine's business."""
    node = await _node_of(context, request)
    address = node.ip_address
    if not address:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"The node '{node.id}' is {node.state.value} and has no address yet.",
        )
    body: dict[str, str | int] = {
        "odata.metadata": f"{request.base_url}/$metadata#remoteloginsettings/@Element",
        "remoteLoginIPAddress": address,
        "remoteLoginPort": SSH_PORT,
    }
    if ":" in address:
        body |= {"ipv6RemoteLoginIPAddress": address, "ipv6RemoteLoginPort": SSH_PORT}
    return json_reply(request, encode_json(body), node.state_time)


async def get_node_remote_desktop(context: Context, request: Request) -> Response:
    node = await _node_of(context, request)
    raise BatchError(
        ErrorCode.OPERATION_NOT_VALID_ON_NODE,
        f"The node '{node.id}' runs Linux and has no remote desktop: see its remote login settings.",
    )


async def upload_node_logs(context: Context, request: Request) -> Response:
    body = await read_json(request, _upload_decoder)
    check_url("containerUrl", body.container_url)
    start = timestamp_of("startTime", body.start_time)
    end = None if body.end_time is None else timestamp_of("endTime", body.end_time)
    if end is not None and end < start:
        raise invalid_property("endTime", body.end_time, "it is before startTime")
    node = await _node_of(context, request)
    directory = f"{_NOT_IN_NAMES.sub('-', request.params['poolId'])}/{node.id}/{request.request_id}"
    order = UploadLogs(body.container_url, directory, start, end)
    answer = _uploaded(await context.control.files.order(request.params["poolId"], node.id, order))
    reply = {
        "odata.metadata": f"{request.base_url}/$metadata#uploadbatchservicelogsresult",
        "virtualDirectoryName": directory,
        "numberOfFilesUploaded": answer.files,
    }
    return json_reply(request, encode_json(reply), node.state_time)


async def list_node_extensions(context: Context, request: Request) -> Response:
    """None: extensions are programs for Azure's machines, and those a pool names are not installed."""
    select_of(request, EXTENSION_PROPERTIES)
    page_size(request)
    page_start(request)
    await _node_of(context, request)
    return json_reply(request, encode_json(page_of(request, "extensions", [], None)))


async def get_node_extension(context: Context, request: Request) -> Response:
    select_of(request, EXTENSION_PROPERTIES)
    await _node_of(context, request)
    raise not_found(ErrorCode.RESOURCE_NOT_FOUND, "extension", request.params["extensionName"])
