"""Millpond's own operation: a file of a task as it is written, as server-sent events.

Events, each with a JSON object as its data:

- `state`: the task is not running yet, or not any more: `state`.
- `attempt`: what follows is of this `attempt`, on `nodeId`, from byte `offset` on. A second one means that the task runs
  again; its file begins anew.
- `data`: `offset`, and the bytes as `text`, or as `base64` where they are not UTF-8. Its id, `<attempt>:<offset of what
  comes next>`, is what a client that was cut off sends as `Last-Event-ID` (or as the parameters `attempt` and `offset`).
- `end`: nothing more will come: `exitCode`, and `reason`: `completed`, `deleted` (the task was), or `unavailable` with
  the `code` of what stands in the way.
"""

import asyncio
import base64
import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from millpond.api.context import Context
from millpond.api.handlers.files import file_name, task_place
from millpond.api.http import Request, Response
from millpond.api.paging import invalid_parameter
from millpond.api.replies import encode_json
from millpond.domain.errors import BatchError, ErrorCode, LeaseLost, StoreUnavailable
from millpond.domain.ids import task_directory
from millpond.domain.states import TaskState
from millpond.domain.task import Task
from millpond.store.base import TaskRow

_LOOK_S: Final = 0.1
"""How often a task that does not run is looked at."""
_SOON_S: Final = 0.02
"""The same when its attempt has just ended: how is on its way."""
_LOOKS_SOON: Final = 50
_RETRY_S: Final = 0.5
_PATIENT_TRIES: Final = 20
_ALIVE_S: Final = 10.0
_ALIVE: Final = b": still there\n\n"
_EVENT_ID: Final = re.compile(r"(\d{1,9}):(\d{1,18})\Z", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,18}\Z", re.ASCII)
_DEFAULT_FILE: Final = "stdout.txt"


async def follow_task_file(context: Context, request: Request) -> Response:
    """Raises BatchError JobNotFound, TaskNotFound, FileNotFound (a name that cannot be), and for bad parameters."""
    name = file_name(request.query.get("filepath", _DEFAULT_FILE))
    attempt, offset = _start_of(request)
    await task_place(context, request)
    follower = _Follower(context, request, name, attempt, offset)
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
    events = follower.events()
    return Response(request.operation.success, headers, events, close=events.aclose, live=True)


def _start_of(request: Request) -> tuple[int, int]:
    """(attempt, offset); attempt 0 is whichever it is."""
    found = _EVENT_ID.match(request.header(b"last-event-id") or "")
    if found is not None:
        return int(found[1]), int(found[2])
    attempt, offset = (request.query.get(name, "0") for name in ("attempt", "offset"))
    for name, value in (("attempt", attempt), ("offset", offset)):
        if not _NUMBER.match(value):
            raise invalid_parameter(name, value[:256], "it must be a whole number, not negative")
    return int(attempt), int(offset)


class _Follower:
    """One client's way along one file."""

    def __init__(self, context: Context, request: Request, name: str, attempt: int, offset: int) -> None:
        self._context = context
        self._request = request
        self._name = name
        self._attempt = attempt
        self._offset = offset
        self._announced = 0
        """The attempt the client was told of."""
        self._through = 0
        """The attempt whose node has said that it is over."""
        self._state = ""
        self._said_at = 0.0
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._job_id = request.params["jobId"]
        self._task_id = request.params["taskId"]

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            async for event in self._events():
                self._said_at = asyncio.get_running_loop().time()
                yield event
        except (StoreUnavailable, LeaseLost) as error:
            # The service stops, or its disk fails: the client comes back.
            raise ConnectionResetError(str(error)) from error

    async def _events(self) -> AsyncIterator[bytes]:
        yield _ALIVE
        looks = 0
        while True:
            row = await self._context.control.store.get_task(self._job_id, self._task_id)
            if row is None:
                yield _event("end", {"reason": "deleted"})
                return
            task = row.task
            if task.state is TaskState.COMPLETED:
                async for event in self._rest_of(task):
                    yield event
                return
            if task.state is TaskState.RUNNING and task.node_id is not None and not self._is_through(task):
                looks = 0
                for event in self._begin(task):
                    yield event
                async for event in self._grows(row):
                    yield event
                continue
            if task.state.value != self._state and not self._is_through(task):
                self._state = task.state.value
                yield _event("state", {"state": self._state})
            elif self._is_silent():
                yield _ALIVE
            looks += 1
            await asyncio.sleep(_SOON_S if self._is_through(task) and looks < _LOOKS_SOON else _LOOK_S)

    def _is_silent(self) -> bool:
        return asyncio.get_running_loop().time() - self._said_at > _ALIVE_S

    def _is_through(self, task: Task) -> bool:
        return task.attempt == self._through and task.state is TaskState.RUNNING

    def _begin(self, task: Task) -> list[bytes]:
        """The client is told of a new attempt, once."""
        if self._announced == task.attempt:
            return []
        if self._attempt not in (0, task.attempt):
            self._offset = 0
        self._attempt = self._announced = task.attempt
        self._state = ""
        self._text.reset()
        about = {"attempt": task.attempt, "offset": self._offset}
        return [_event("attempt", about | ({"nodeId": task.node_id} if task.node_id else {}))]

    # --- while it runs ---

    async def _grows(self, row: TaskRow) -> AsyncIterator[bytes]:
        """What the node sends, to the end of the attempt or of the connection."""
        task = row.task
        attempt = task.attempt
        assert task.node_id is not None
        job = await self._context.control.store.get_job(self._job_id)
        directory = task_directory(job.id if job is not None else self._job_id, task.id)
        try:
            chunks = await self._context.control.files.follow(
                task.node_id, f"{directory}/{self._name}", key=task.key, attempt=attempt, offset=self._offset
            )
            try:
                async for chunk in chunks:
                    if chunk:
                        yield self._data(chunk)
                    elif self._is_silent():
                        yield _ALIVE
            finally:
                close = getattr(chunks, "aclose", None)
                if close is not None:
                    await close()
        except (BatchError, OSError):
            # The node is away: it comes back, or the task goes elsewhere.
            yield _ALIVE
            await asyncio.sleep(_RETRY_S)
        else:
            self._through = attempt

    def _data(self, chunk: bytes, *, final: bool = False) -> bytes:
        """The bytes as text as far as they are whole characters; the rest of one waits for what comes next."""
        begins = self._offset - len(self._text.getstate()[0])
        self._offset += len(chunk)
        held = self._text.getstate()[0]
        body: dict[str, Any] = {"offset": begins}
        try:
            body["text"] = self._text.decode(chunk, final)
        except UnicodeDecodeError:
            self._text.reset()
            body["base64"] = base64.b64encode(held + chunk).decode()
        following = self._offset - len(self._text.getstate()[0])
        return _event("data", body, f"{self._attempt}:{following}")

    # --- when it is over ---

    async def _rest_of(self, task: Task) -> AsyncIterator[bytes]:
        """What of a completed task's file was not sent, and the end."""
        end: dict[str, Any] = {"reason": "completed"}
        if task.exit_code is not None:
            end["exitCode"] = task.exit_code
        for event in self._begin(task):
            yield event
        for tries in range(_PATIENT_TRIES):
            place = await task_place(self._context, self._request)
            try:
                entry = await place.stat(self._name)
                size = entry.original_size or entry.size
                if self._offset < size:
                    # Of a file of which the middle is missing, offsets count from the end.
                    begin = max(0, entry.size - (size - self._offset))
                    content = await place.read(self._name, offset=begin, length=None)
                    self._offset = size - (entry.size - begin)
                    async for chunk in content.chunks:
                        yield self._data(chunk)
            except OSError:
                continue
            except BatchError as error:
                if error.code is ErrorCode.NODE_NOT_READY and tries < _PATIENT_TRIES - 1:
                    yield _ALIVE
                    await asyncio.sleep(_RETRY_S)
                    continue
                end |= {"reason": "unavailable", "code": error.code.value, "message": error.message}
            break
        if self._text.getstate()[0]:
            yield self._data(b"", final=True)
        yield _event("end", end)


def _event(name: str, data: dict[str, Any], event_id: str = "") -> bytes:
    head = f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "")
    return head.encode() + b"data: " + encode_json(data) + b"\n\n"
