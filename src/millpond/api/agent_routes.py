"""The node side: the calls of node agents, in MessagePack, with the node's own token; and those of launch agents in
multi-instance tasks, in JSON, with the attempt's."""

import base64
import binascii
import logging
from collections.abc import AsyncIterator, Sequence
from itertools import compress
from typing import Any, Final

import msgspec

from millpond.api.http import (
    BodyStream,
    ClientDisconnected,
    Headers,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    route_path,
    send_response,
)
from millpond.api.wire_errors import error_headers
from millpond.control.base import ControlPlane
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.protocol.messages import (
    CONTENT_TYPE,
    FILE_REPLY_HEADER,
    FILE_REPLY_PATH,
    HELLO_PATH,
    LAUNCH_PATH,
    LAUNCH_REPLY_PATH,
    LISTEN_PATH,
    LOGS_PATH,
    MAX_SYNCS,
    NODE_HEADER,
    SYNCS_PATH,
    FileReply,
    Hello,
    LaunchCall,
    LaunchReply,
    Listen,
    Logs,
    News,
    NodeNews,
    NodeReply,
    NodeSync,
    SyncReplies,
    Syncs,
)

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_LOGS_BYTES: Final = 40 * 1024 * 1024
"""Above what an agent sends at a time: a message with one task too many, whose files are all as long as is kept."""
_log: Final = logging.getLogger(__name__)
_decode_hello: Final = msgspec.msgpack.Decoder(Hello).decode
_decode_syncs: Final = msgspec.msgpack.Decoder(Syncs).decode
_decode_listen: Final = msgspec.msgpack.Decoder(Listen).decode
_decode_reply: Final = msgspec.msgpack.Decoder(FileReply).decode
_decode_launch_reply: Final = msgspec.msgpack.Decoder(LaunchReply).decode
_decode_logs: Final = msgspec.msgpack.Decoder(Logs).decode
_decode_launch: Final = msgspec.json.Decoder(LaunchCall).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class AgentRoutes:
    """hello, listen, syncs, files/<request id>, logs, launch, launches/<request id>. An error is a small JSON object with `code` and `message`."""

    def __init__(self, control: ControlPlane) -> None:
        self._agents = control.agents
        self._prefix = FILE_REPLY_PATH.encode()
        self._launch_prefix = LAUNCH_REPLY_PATH.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, "")
        try:
            response = await self._answer(request, route_path(scope), receive)
        except ClientDisconnected:
            return
        await send_response(send, receive, response, head=False)

    async def _answer(self, request: Request, path: bytes, receive: Receive) -> Response:
        try:
            return await self._perform(request, path, receive)
        except BatchError as error:
            return _failure(error, error_headers(error))
        except StoreUnavailable:
            busy = BatchError(ErrorCode.SERVER_BUSY)
            return _failure(busy, error_headers(busy))
        except ClientDisconnected:
            raise
        except Exception:
            _log.exception("the call %r of node %r failed", path, request.headers.get(NODE_HEADER.encode()))
            return _failure(BatchError(ErrorCode.INTERNAL_ERROR), [])

    async def _perform(self, request: Request, path: bytes, receive: Receive) -> Response:
        if request.method != "POST":
            raise BatchError(ErrorCode.UNSUPPORTED_HTTP_VERB)
        if path == LAUNCH_PATH.encode():
            call = _decoded(_decode_launch, await request.body(MAX_MESSAGE_BYTES))
            answer = await self._agents.launch(_bearer(request), call)
            return Response(200, [(b"content-type", b"application/json")], msgspec.json.encode(answer))
        if path == SYNCS_PATH.encode():
            syncs = _decoded(_decode_syncs, await request.body(MAX_MESSAGE_BYTES)).syncs
            if len(syncs) > MAX_SYNCS:
                raise BatchError(ErrorCode.INVALID_REQUEST_BODY, Reason=f"more than {MAX_SYNCS} nodes")
            return _reply(SyncReplies(await self._sync_all(syncs)))
        if path == LISTEN_PATH.encode():
            return _reply(await self._listen(_decoded(_decode_listen, await request.body(MAX_MESSAGE_BYTES))))
        node_id = self._authenticated(request)
        if path == LOGS_PATH.encode():
            await self._agents.keep_logs(_decoded(_decode_logs, await request.body(MAX_LOGS_BYTES)))
            return Response(200, [])
        if path == HELLO_PATH.encode():
            hello = _decoded(_decode_hello, await request.body(MAX_MESSAGE_BYTES))
            _check_node(node_id, hello.node_id)
            return _reply(await self._agents.hello(hello))
        if path.startswith(self._prefix) and b"/" not in path[len(self._prefix) :]:
            return await self._file_reply(request, node_id, path[len(self._prefix) :].decode("latin-1"), receive)
        if path.startswith(self._launch_prefix):
            reply = _decoded(_decode_launch_reply, await request.body(MAX_MESSAGE_BYTES))
            self._agents.launch_reply(node_id, path[len(self._launch_prefix) :].decode("latin-1"), reply)
            return Response(200, [])
        raise BatchError(ErrorCode.RESOURCE_NOT_FOUND)

    async def _sync_all(self, parts: Sequence[NodeSync]) -> tuple[NodeReply, ...]:
        """What is wrong with one is no other's business."""
        authenticate = self._agents.authenticate
        sound = [authenticate(one.sync.node_id, one.token) for one in parts]
        answers = iter(await self._agents.sync_all([one.sync for one in compress(parts, sound)]))
        false = BatchError(ErrorCode.AUTHENTICATION_FAILED)
        told = [next(answers) if is_sound else false for is_sound in sound]
        return tuple([_refusal(it) if isinstance(it, BatchError) else NodeReply(it) for it in told])

    async def _listen(self, call: Listen) -> News:
        """A call that names nodes proves for each that it may; one that does not goes by the id that such a call had."""
        if not call.nodes:
            return await self._agents.listen(call)
        sound = tuple(node for node in call.nodes if self._agents.authenticate(node.node_id, node.token))
        if len(sound) == len(call.nodes):
            return await self._agents.listen(call)
        news = await self._agents.listen(msgspec.structs.replace(call, nodes=sound), park=False)
        known = {node.place for node in sound}
        error = BatchError(ErrorCode.AUTHENTICATION_FAILED)
        refused = [
            NodeNews(node.place, status=error.status, error=error.code.value)
            for node in call.nodes
            if node.place not in known
        ]
        return msgspec.structs.replace(news, nodes=(*refused, *news.nodes))

    async def _file_reply(self, request: Request, node_id: str, request_id: str, receive: Receive) -> Response:
        head = request.headers.get(FILE_REPLY_HEADER.encode())
        if head is None:
            whole = _decoded(_decode_reply, await request.body(MAX_MESSAGE_BYTES))
            await self._agents.file_reply(node_id, request_id, whole, _nothing())
            return Response(200, [])
        try:
            packed = base64.b64decode(head + b"=" * (-len(head) % 4), altchars=b"-_", validate=True)
        except binascii.Error:
            raise BatchError(ErrorCode.INVALID_HEADER_VALUE, HeaderName=FILE_REPLY_HEADER) from None
        reply = _decoded(_decode_reply, packed)
        stream = BodyStream(receive)
        await self._agents.file_reply(node_id, request_id, reply, _from_node(stream))
        # What nobody took is not read: the connection cannot be used again.
        return Response(200, [] if stream.complete else [(b"connection", b"close")])

    def _authenticated(self, request: Request) -> str:
        """The node that calls. Raises BatchError AuthenticationFailed."""
        node_id = request.header(NODE_HEADER.encode())
        if not node_id or not self._agents.authenticate(node_id, _bearer(request)):
            raise BatchError(ErrorCode.AUTHENTICATION_FAILED)
        return node_id


def _refusal(error: BatchError) -> NodeReply:
    return NodeReply(status=error.status, error=error.code.value)


def _bearer(request: Request) -> str:
    """The token of the call. Raises BatchError AuthenticationFailed when there is none."""
    scheme, _, token = (request.header(b"authorization") or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise BatchError(ErrorCode.AUTHENTICATION_FAILED)
    return token


async def _nothing() -> AsyncIterator[bytes]:
    """The content of an answer that has none."""
    return
    yield b""


async def _from_node(stream: BodyStream) -> AsyncIterator[bytes]:
    """The body, for whoever asked for the file: to them a node that hangs up is a broken connection."""
    try:
        async for chunk in stream:
            yield chunk
    except ClientDisconnected:
        raise ConnectionResetError("the node stopped in the middle of a file") from None


def _check_node(caller: str, named: str) -> None:
    if caller != named:
        raise BatchError(ErrorCode.AUTHENTICATION_FAILED, "The message is from another node than the token.")


def _decoded(decode: Any, body: bytes) -> Any:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BatchError(ErrorCode.INVALID_REQUEST_BODY, Reason=str(error)[:256]) from None


def _reply(message: msgspec.Struct) -> Response:
    return Response(200, [(b"content-type", CONTENT_TYPE.encode())], _encode(message))


def _failure(error: BatchError, headers: Headers) -> Response:
    body = msgspec.json.encode({"code": error.code.value, "message": error.message})
    return Response(error.status, [(b"content-type", b"application/json"), *headers], body)
