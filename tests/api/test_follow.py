"""Following a task's file over the wire: the events, their order, and where a client goes on."""

import asyncio
import base64
import json
from typing import Any

import pytest

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.states import TaskState
from tests.api.conftest import NODE, World
from tests.waiting import PATIENCE_S

FOLLOW = "/jobs/j1/tasks/t1/follow"
DIRECTORY = "workitems/j1/job-1/t1"


def task_of(world: World) -> Any:
    return world.control.store.task_of("j1", "t1").task


def run(world: World, attempt: int = 1) -> None:
    task = task_of(world)
    task.node_id, task.state, task.attempt, task.start_time = NODE, TaskState.RUNNING, attempt, world.now


def complete(world: World, content: bytes, exit_code: int = 0) -> None:
    task = task_of(world)
    task.state, task.exit_code, task.end_time = TaskState.COMPLETED, exit_code, world.now
    files = world.control.files
    files.files[NODE, f"{DIRECTORY}/stdout.txt"] = content
    files.grows_by, files.chunk = b"", 1000


async def events(world: World, query: str = "", **headers: str) -> list[tuple[str, dict[str, Any], str]]:
    """(event, data, id) of the whole answer."""
    answer = await world.call("GET", FOLLOW, query=query, headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer.complete
    found = []
    for block in answer.body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"]), fields.get("id", "")))
    return found


async def test_from_before_it_runs_to_its_end(busy: World) -> None:
    async def later() -> None:
        await asyncio.sleep(0.05)
        run(busy)

    busy.control.files.follows = [[b"", b"one\n", b"", lambda: complete(busy, b"one\ntwo\n", 3)]]
    starting = asyncio.create_task(later())
    assert await events(busy) == [
        ("state", {"state": "active"}, ""),
        ("attempt", {"attempt": 1, "nodeId": NODE, "offset": 0}, ""),
        ("data", {"offset": 0, "text": "one\n"}, "1:4"),
        # The node's connection was closed before it had sent that.
        ("data", {"offset": 4, "text": "two\n"}, "1:8"),
        ("end", {"reason": "completed", "exitCode": 3}, ""),
    ]
    await starting
    assert busy.control.files.followed == [(NODE, f"{DIRECTORY}/stdout.txt", 1, 0)]


async def test_a_task_that_runs_again_begins_anew(busy: World) -> None:
    run(busy)
    busy.control.files.follows = [[b"try\n", lambda: run(busy, 2)], [b"again", lambda: complete(busy, b"again")]]
    assert [(event, data.get("text", data.get("attempt"))) for event, data, _ in await events(busy)] == [
        ("attempt", 1),
        ("data", "try\n"),
        ("attempt", 2),
        ("data", "again"),
        ("end", None),
    ]
    assert [offset for _, _, _, offset in busy.control.files.followed] == [0, 0]


async def test_a_node_that_is_cut_off_goes_on_where_it_was(busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millpond.api.handlers.follow._RETRY_S", 0.01)
    run(busy)
    busy.control.files.follows = [
        [b"0123", ConnectionResetError("gone")],
        [b"45", lambda: complete(busy, b"012345")],
    ]
    assert [data.get("text") for _, data, _ in await events(busy)] == [None, "0123", "45", None]
    assert [offset for _, _, _, offset in busy.control.files.followed] == [0, 4]


async def test_text_is_cut_between_characters_and_other_bytes_are_base64(busy: World) -> None:
    run(busy)
    word = "zwölf".encode()
    chunks = [word[:3], word[3:], b"\xff\x00", b"\xe2\x82"]
    busy.control.files.follows = [[*chunks, lambda: complete(busy, b"".join(chunks))]]
    found = [
        (data["offset"], data.get("text"), data.get("base64"), at) for e, data, at in await events(busy) if e == "data"
    ]
    assert found == [
        (0, "zw", None, "1:2"),
        (2, "ölf", None, "1:6"),
        (6, None, base64.b64encode(b"\xff\x00").decode(), "1:8"),
        (8, "", None, "1:8"),
        (8, None, base64.b64encode(b"\xe2\x82").decode(), "1:10"),
    ]


@pytest.mark.parametrize("how", ["header", "query"])
async def test_a_client_that_comes_back_goes_on_where_it_was(busy: World, how: str) -> None:
    run(busy)
    complete(busy, b"0123456789")
    if how == "header":
        found = await events(busy, **{"last-event-id": "1:10"})
    else:
        found = await events(busy, "attempt=1&offset=10")
    assert [event for event, _, _ in found] == ["attempt", "end"]
    # Of another attempt the offset means nothing.
    again = await events(busy, "attempt=7&offset=4")
    assert again[1][1] == {"offset": 0, "text": "0123456789"}
    # Of no attempt that it names, it is meant for whichever there is.
    assert (await events(busy, "offset=4"))[1][1]["text"] == "456789"


async def test_what_was_kept_of_a_task_whose_node_is_gone(busy: World) -> None:
    run(busy)
    complete(busy, b"")
    busy.control.files.error = BatchError(ErrorCode.NODE_NOT_FOUND)
    busy.control.logs.kept[task_of(busy).key] = 1, {"stdout.txt": b"head [...] tail"}
    assert (await events(busy))[1][1]["text"] == "head [...] tail"
    # 100 bytes, of which the last five are the last five kept.
    busy.control.logs.original_size = 100
    assert (await events(busy, "offset=95"))[1][1] == {"offset": 95, "text": " tail"}


async def test_files_that_are_not_to_be_had(busy: World) -> None:
    run(busy)
    complete(busy, b"")
    (*_, (event, data, _)) = await events(busy, "filePath=wd%2Fnone")
    assert (event, data["reason"], data["code"]) == ("end", "unavailable", "FileNotFound")


async def test_what_is_asked_wrongly(busy: World) -> None:
    for query, code in (
        ("offset=-1", "InvalidQueryParameterValue"),
        ("attempt=x", "InvalidQueryParameterValue"),
        ("filePath=..%2Fx", "FileNotFound"),
        ("tail=3", "UnsupportedQueryParameter"),
    ):
        assert (await busy.call("GET", FOLLOW, query=query)).code == code
    assert (await busy.call("GET", "/jobs/j1/tasks/none/follow")).code == "TaskNotFound"
    assert (await busy.call("GET", "/jobs/none/tasks/none/follow")).code == "JobNotFound"


async def test_a_client_that_hangs_up_lets_the_node_go(busy: World) -> None:
    run(busy)
    forever = asyncio.Event()
    busy.control.files.follows = [[b"one", forever.wait]]
    answer = await asyncio.wait_for(busy.call("GET", FOLLOW, hang_up=True), PATIENCE_S)
    assert not answer.complete
    async with asyncio.timeout(PATIENCE_S):
        while busy.control.files.followed and not busy.control.files.closed:
            await asyncio.sleep(0.01)


async def test_a_task_that_is_deleted(busy: World) -> None:
    def delete() -> None:
        del busy.control.store.tasks[task_of(busy).key]

    run(busy)
    busy.control.files.follows = [[b"one", delete]]
    assert (await events(busy))[-1][1] == {"reason": "deleted"}
