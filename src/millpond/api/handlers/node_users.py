"""Users who may log in to a node."""

import re
from typing import Final

from millpond.api.context import Context
from millpond.api.decode import body_decoder, drain, missing_property, read_json
from millpond.api.handlers.nodes import require_node
from millpond.api.handlers.pools import require_pool
from millpond.api.http import Request, Response
from millpond.api.intake.common import timestamp_of
from millpond.api.render.common import node_url, quoted
from millpond.api.replies import done_reply, written_reply
from millpond.api.schema.node import NodeUserCreate, NodeUserReplace
from millpond.api.support import refuse_if_used
from millpond.domain.durations import Timestamp
from millpond.domain.errors import BatchError, ErrorCode, invalid_property
from millpond.domain.node import Node
from millpond.domain.states import NodeState
from millpond.protocol.messages import NodeOrder, PutUser, RemoveUser

_create_decoder = body_decoder(NodeUserCreate)
_replace_decoder = body_decoder(NodeUserReplace)

LIFE_S: Final = 86_400.0
"""Of a user whose end was not said."""
_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")
_KEY: Final = re.compile(r"(ssh-|ecdsa-|sk-)[\x21-\x7e]+ [A-Za-z0-9+/=]+( [^\r\n\0]*)?\Z")
_MAX_PASSWORD: Final = 127
_UP: Final = frozenset({NodeState.IDLE, NodeState.RUNNING})


async def create_node_user(context: Context, request: Request) -> Response:
    body = await read_json(request, _create_decoder)
    refuse_if_used("nodeUser", "isAdmin", body.is_admin)
    if _NAME.match(body.name) is None:
        raise invalid_property(
            "name",
            body.name,
            "a user's name has 1 to 32 lower-case letters, digits, '_' and '-', no digit or '-' first",
        )
    order = _order(context, body, body.name, exists=False)
    node = await _do(context, request, order)
    return _written(request, node, body.name)


async def replace_node_user(context: Context, request: Request) -> Response:
    body = await read_json(request, _replace_decoder)
    name = request.params["userName"]
    node = await _do(context, request, _order(context, body, name, exists=True))
    return _written(request, node, name)


async def delete_node_user(context: Context, request: Request) -> Response:
    await drain(request)
    await _do(context, request, RemoveUser(request.params["userName"]))
    return done_reply(request)


def _order(context: Context, body: NodeUserCreate | NodeUserReplace, name: str, *, exists: bool) -> PutUser:
    now = context.control.now()
    expires: Timestamp = now + LIFE_S
    if body.expiry_time is not None:
        expires = timestamp_of("expiryTime", body.expiry_time)
        if expires <= now:
            raise invalid_property("expiryTime", body.expiry_time, "it has passed")
    password, key = body.password or "", (body.ssh_public_key or "").strip()
    if not password and not key:
        raise missing_property("password")
    if len(password) > _MAX_PASSWORD or any(letter in password for letter in "\r\n\0"):
        raise invalid_property("password", "", f"it has more than {_MAX_PASSWORD} characters, or ends a line")
    if key and _KEY.match(key) is None:
        raise invalid_property("sshPublicKey", key, "it is not one line of the form 'ssh-ed25519 AAAA… comment'")
    return PutUser(name, exists=exists, expires=expires, password=password, public_key=key)


async def _do(context: Context, request: Request, order: NodeOrder) -> Node:
    pool = await require_pool(context, request.params["poolId"])
    node = await require_node(context, pool.id, request.params["nodeId"])
    if node.state not in _UP:
        raise BatchError(
            ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
            f"The node '{node.id}' is {node.state.value}: its users can be changed while it is idle or running.",
        )
    await context.control.files.order(pool.id, node.id, order)
    return node


def _written(request: Request, node: Node, name: str) -> Response:
    url = f"{node_url(request.base_url, request.params['poolId'], node.id)}/users/{quoted(name)}"
    return written_reply(request, url, node.state_time, location=request.operation.success == 201)
