"""Files on nodes: a request goes out with the node's next sync, the answer comes back as a POST of its own."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from millpond.control.base import FileContent
from millpond.control.settings import ControlSettings
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.ids import id_key
from millpond.protocol.frames import unframed
from millpond.protocol.messages import FileEntry, FileReply, FileRequest, NodeOrder


class _Asked(msgspec.Struct):
    node_id: str
    answer: "asyncio.Future[tuple[FileReply, AsyncIterator[bytes]]]"
    taken: asyncio.Event
    """The asker has taken the body, or does not want it."""


class FileRequests:
    """The requests that wait for their answer."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}

    def open(self, node_id: str) -> tuple[str, _Asked]:
        request_id = secrets.token_urlsafe(16)
        asked = _Asked(node_id, asyncio.get_running_loop().create_future(), asyncio.Event())
        self._asked[request_id] = asked
        return request_id, asked

    def close(self, request_id: str) -> None:
        asked = self._asked.pop(request_id, None)
        if asked is not None:
            asked.taken.set()
            asked.answer.cancel()

    async def answer(self, node_id: str, request_id: str, reply: FileReply, body: AsyncIterator[bytes]) -> None:
        """A node's answer. Returns when its body has been taken; an answer nobody waits for is dropped."""
        asked = self._asked.get(request_id)
        if asked is None or asked.node_id != node_id or asked.answer.done():
            return
        asked.answer.set_result((reply, body))
        await asked.taken.wait()


class _Reach(Protocol):
    """How a node is reached: see `nodes.NodeLinks`."""

    def ask_node(self, node_id: str, request: FileRequest) -> bool:
        """Hand the request to the node's next sync; False when the node is not connected."""
        ...

    def pool_of_node(self, node_id: str) -> str | None: ...


class NodeFilesService:
    """`control.base.NodeFiles` over the agents."""

    def __init__(self, reach: _Reach, requests: FileRequests, settings: ControlSettings) -> None:
        self._reach = reach
        self._requests = requests
        self._settings = settings

    async def list(
        self, pool_id: str | None, node_id: str, path: str, *, recursive: bool, after: str = "", limit: int = 0
    ) -> list[FileEntry]:
        request = FileRequest("", "list", path, recursive=recursive, after=after, limit=limit)
        request_id, reply, _ = await self._open(pool_id, node_id, request)
        self._requests.close(request_id)
        return [*reply.entries]

    async def stat(self, pool_id: str | None, node_id: str, path: str) -> FileEntry:
        reply, _ = await self._ask(pool_id, node_id, "stat", path)
        return _only(reply)

    async def delete(self, pool_id: str | None, node_id: str, path: str, *, recursive: bool) -> None:
        await self._ask(pool_id, node_id, "delete", path, recursive=recursive)

    async def order(self, pool_id: str, node_id: str, order: NodeOrder) -> bytes:
        request = FileRequest("", "order", "", content=msgspec.json.encode(order))
        request_id, reply, _ = await self._open(pool_id, node_id, request)
        self._requests.close(request_id)
        return reply.content

    async def read(
        self, pool_id: str | None, node_id: str, path: str, *, offset: int, length: int | None
    ) -> FileContent:
        request_id, reply, body = await self._open(
            pool_id, node_id, FileRequest("", "read", path, offset=offset, length=length)
        )
        try:
            entry = _only(reply)
        except BatchError:
            self._requests.close(request_id)
            raise
        return FileContent(entry, _Body(body, lambda: self._requests.close(request_id)))

    async def follow(self, node_id: str, path: str, *, key: int, attempt: int, offset: int) -> AsyncIterator[bytes]:
        request = FileRequest("", "follow", path, offset=offset, key=key, attempt=attempt)
        request_id, _, body = await self._open(None, node_id, request)
        return unframed(_Body(body, lambda: self._requests.close(request_id)))

    async def _ask(
        self, pool_id: str | None, node_id: str, operation: str, path: str, *, recursive: bool = False
    ) -> tuple[FileReply, AsyncIterator[bytes]]:
        request_id, reply, body = await self._open(
            pool_id, node_id, FileRequest("", operation, path, recursive=recursive)
        )
        self._requests.close(request_id)
        return reply, body

    async def _open(
        self, pool_id: str | None, node_id: str, request: FileRequest
    ) -> tuple[str, FileReply, AsyncIterator[bytes]]:
        owner = self._reach.pool_of_node(node_id)
        if owner is None or (pool_id is not None and id_key(owner) != id_key(pool_id)):
            where = "" if pool_id is None else f" in pool '{pool_id}'"
            raise BatchError(ErrorCode.NODE_NOT_FOUND, f"The node '{node_id}' does not exist{where}.")
        request_id, asked = self._requests.open(node_id)
        kept = False
        try:
            if not self._reach.ask_node(node_id, msgspec.structs.replace(request, id=request_id)):
                raise BatchError(ErrorCode.NODE_NOT_READY)
            try:
                async with asyncio.timeout(self._settings.file_timeout_s):
                    reply, body = await asked.answer
            except TimeoutError:
                raise BatchError(ErrorCode.NODE_NOT_READY, "The node did not answer in time.") from None
            if reply.error:
                raise _error_of(reply)
            kept = True
            return request_id, reply, body
        finally:
            if not kept:
                self._requests.close(request_id)


class _Body(AsyncIterator[bytes]):
    """The content of a file on its way from a node. Whatever way it ends, also unread, the node is let go."""

    def __init__(self, chunks: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        self._chunks = chunks
        self._close = close

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except BaseException:
            self._close()
            raise

    async def aclose(self) -> None:
        self._close()


def _error_of(reply: FileReply) -> BatchError:
    try:
        code = ErrorCode(reply.error)
    except ValueError:
        return BatchError(ErrorCode.INTERNAL_ERROR, reply.message or f"The node answered {reply.error}.")
    return BatchError(code, reply.message or None)


def _only(reply: FileReply) -> FileEntry:
    if not reply.entries:
        raise BatchError(ErrorCode.INTERNAL_ERROR, "The node's answer names no file.")
    return reply.entries[0]
