"""Files of tasks whose node is gone: what the service kept of them."""

import asyncio

import pytest

from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.states import TaskState
from tests.api.conftest import NODE, World

FILES = "/jobs/j1/tasks/t1/files"
DIRECTORY = "workitems/j1/job-1/t1"


@pytest.fixture
async def kept(busy: World) -> World:
    """The task ended on a node that is gone; its logs, and a file below wd, were kept."""
    task = busy.control.store.task_of("j1", "t1").task
    task.node_id, task.state, task.start_time, task.end_time = NODE, TaskState.COMPLETED, busy.now, busy.now
    task.attempt = 2
    busy.control.logs.kept[task.key] = 2, {"stdout.txt": b"0123456789", "stderr.txt": b"", "wd/a/x.log": b"log"}
    busy.control.files.error = BatchError(ErrorCode.NODE_NOT_FOUND)
    return busy


async def test_it_is_served_as_the_node_would(kept: World) -> None:
    answer = await kept.call("GET", FILES)
    assert [item["name"] for item in answer.json()["value"]] == ["stderr.txt", "stdout.txt", "wd"]
    assert answer.headers["x-millpond-kept"] == "true"
    everything = (await kept.call("GET", FILES, query="recursive=true")).json()["value"]
    assert [item["name"] for item in everything] == ["stderr.txt", "stdout.txt", "wd", "wd/a", "wd/a/x.log"]
    got = await kept.call("GET", f"{FILES}/stdout.txt", headers={"ocp-range": "bytes=2-4"})
    assert (got.status, got.body, got.headers["content-range"]) == (200, b"234", "bytes 2-4/10")
    head = await kept.call("HEAD", f"{FILES}/wd%2Fa%2Fx.log")
    assert (head.headers["content-length"], head.headers["ocp-batch-file-mode"]) == ("3", "0o100644")
    assert head.headers["x-millpond-kept"] == "true"
    assert (await kept.call("HEAD", f"{FILES}/wd")).headers["ocp-batch-file-isdirectory"] == "True"


async def test_a_file_that_was_cut_says_so(kept: World) -> None:
    kept.control.logs.original_size = 12345678
    head = await kept.call("HEAD", f"{FILES}/stdout.txt")
    assert head.headers["x-millpond-original-length"] == "12345678"
    (item,) = (await kept.call("GET", FILES, query="$filter=startswith(name,'stdout')")).json()["value"]
    assert item["properties"]["originalContentLength"] == "12345678"


@pytest.mark.parametrize("code", [ErrorCode.NODE_NOT_FOUND, ErrorCode.NODE_NOT_READY, ErrorCode.FILE_NOT_FOUND])
async def test_whatever_the_reason(kept: World, code: ErrorCode) -> None:
    kept.control.files.error = BatchError(code)
    assert (await kept.call("GET", f"{FILES}/stdout.txt")).body == b"0123456789"


async def test_what_was_not_kept_is_what_it_was(kept: World) -> None:
    assert (await kept.call("GET", f"{FILES}/wd%2Fdata")).code == "TaskFilesUnavailable"
    kept.control.files.error = BatchError(ErrorCode.FILE_NOT_FOUND)
    assert (await kept.call("GET", f"{FILES}/wd%2Fdata")).code == "FileNotFound"
    kept.now += 8 * 86400
    assert (await kept.call("GET", f"{FILES}/wd%2Fdata")).code == "TaskFilesCleanedup"
    assert (await kept.call("GET", f"{FILES}/stdout.txt")).body == b"0123456789"


async def test_a_node_that_has_the_directory_has_the_word(kept: World) -> None:
    kept.control.files.error = None
    kept.control.files.files[NODE, DIRECTORY] = None
    kept.control.files.files[NODE, f"{DIRECTORY}/stdout.txt"] = b"from the node"
    answer = await kept.call("GET", f"{FILES}/stdout.txt")
    assert answer.body == b"from the node"
    assert "x-millpond-kept" not in answer.headers
    # Somebody deleted it there.
    assert (await kept.call("GET", f"{FILES}/stderr.txt")).code == "FileNotFound"


async def test_of_an_earlier_attempt_only_while_there_is_no_later_one(kept: World) -> None:
    task = kept.control.store.task_of("j1", "t1").task
    task.attempt = 3
    assert (await kept.call("GET", f"{FILES}/stdout.txt")).code == "TaskFilesUnavailable"
    task.node_id, task.state = None, TaskState.ACTIVE
    assert (await kept.call("GET", f"{FILES}/stdout.txt")).body == b"0123456789"


async def test_a_delete_is_of_both(kept: World) -> None:
    assert (await kept.call("DELETE", f"{FILES}/stdout.txt")).status == 200
    assert (await kept.call("GET", f"{FILES}/stdout.txt")).code == "TaskFilesUnavailable"
    kept.control.files.error = None
    kept.control.files.files[NODE, f"{DIRECTORY}/stderr.txt"] = b""
    assert (await kept.call("DELETE", f"{FILES}/stderr.txt")).status == 200
    assert kept.control.files.deleted == [(NODE, f"{DIRECTORY}/stderr.txt", False)]
    (_, left), *_ = kept.control.logs.kept.values()
    assert list(left) == ["wd/a/x.log"]


async def test_a_node_that_does_not_answer_is_not_waited_for_long(kept: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*place: object, **more: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("millpond.api.handlers.files._PATIENCE_S", 0.05)
    kept.control.files.stat = never
    answer = await kept.call("HEAD", f"{FILES}/stdout.txt")
    assert (answer.status, answer.headers["content-length"]) == (200, "10")
