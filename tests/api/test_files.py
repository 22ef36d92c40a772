"""Files of nodes and tasks over the wire."""

from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from millpond.control.base import FileContent
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.states import TaskState
from tests.api.conftest import NODE, World

TASK_DIRECTORY = "workitems/j1/job-1/t1"
FILES = "/jobs/j1/tasks/t1/files"


@pytest.fixture
async def ran(busy: World) -> World:
    """The task ran on the node and left files."""
    task = busy.control.store.task_of("j1", "t1").task
    task.node_id, task.state, task.start_time, task.end_time = NODE, TaskState.COMPLETED, busy.now, busy.now
    files = busy.control.files.files
    for name, content in {
        "stdout.txt": b"0123456789",
        "stderr.txt": b"",
        "wd": None,
        "wd/my dir": None,
        "wd/my dir/ü.bin": b"x" * 7,
    }.items():
        files[NODE, f"{TASK_DIRECTORY}/{name}"] = content
    files[NODE, "startup"] = None
    return busy


async def test_list_of_a_task(ran: World) -> None:
    body = (await ran.call("GET", FILES)).json()
    base = "http://127.0.0.1:10010"
    assert body["odata.metadata"] == f"{base}/$metadata#files"
    assert body["value"] == [
        {
            "name": name,
            "url": f"{base}{FILES}/{name}",
            "isDirectory": False,
            "properties": {
                "lastModified": "2026-11-21T03:00:00Z",
                "contentLength": length,
                "contentType": "text/plain",
                "fileMode": "0o100644",
            },
        }
        for name, length in (("stderr.txt", "0"), ("stdout.txt", "10"))
    ] + [{"name": "wd", "url": f"{base}{FILES}/wd", "isDirectory": True}]


async def test_list_recursive_with_pages_and_filter(ran: World) -> None:
    names = []
    query = "recursive=true&maxresults=2"
    while query:
        page = (await ran.call("GET", FILES, query=query)).json()
        names += [item["name"] for item in page["value"]]
        query = page.get("odata.nextLink", "").partition("api-version=2025-06-01&")[2]
    assert names == ["stderr.txt", "stdout.txt", "wd", "wd/my dir", "wd/my dir/ü.bin"]
    last = (await ran.call("GET", FILES, query="recursive=True&$filter=startswith(name,'wd/')")).json()["value"]
    assert [item["name"] for item in last] == ["wd/my dir", "wd/my dir/ü.bin"]
    assert last[1]["url"].endswith("/files/wd/my%20dir/%C3%BC.bin")
    assert (await ran.call("GET", FILES, query="recursive=maybe")).code == "InvalidQueryParameterValue"


async def test_a_filter_looks_through_many_files_a_part_at_a_time(ran: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millpond.api.handlers.files.MAX_RESULTS", 10)
    monkeypatch.setattr("millpond.api.handlers.files._MAX_ROUNDS", 3)
    for number in range(100):
        ran.control.files.files[NODE, f"{TASK_DIRECTORY}/f{number:03}"] = b""
    names, lengths = [], []
    query = "$filter=startswith(name,'f09')&maxresults=4"
    while query:
        page = (await ran.call("GET", FILES, query=query)).json()
        names += [item["name"] for item in page["value"]]
        lengths.append(len(page["value"]))
        query = page.get("odata.nextLink", "").partition("api-version=2025-06-01&")[2]
    assert names == [f"f{number:03}" for number in range(90, 100)]
    assert lengths[0] == 0, "a page may be empty and have a next one"
    assert max(lengths) == 4


async def test_list_of_a_node(ran: World) -> None:
    body = (await ran.call("GET", f"/pools/p1/nodes/{NODE}/files")).json()
    assert [item["name"] for item in body["value"]] == ["startup"]
    assert (await ran.call("GET", "/pools/p1/nodes/none/files")).code == "NodeNotFound"


@pytest.mark.parametrize("path", [FILES, f"/pools/p1/nodes/{NODE}/files/workitems%2Fj1%2Fjob-1%2Ft1"])
async def test_properties_and_content(ran: World, path: str) -> None:
    separator = "/" if path == FILES else "%2F"
    target = f"{path}{separator}stdout.txt"
    head = await ran.call("HEAD", target)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == "10"
    assert head.headers["content-type"] == "text/plain"
    assert head.headers["last-modified"] == "Sat, 21 Nov 2026 03:00:00 GMT"
    assert head.headers["ocp-batch-file-isdirectory"] == "False"
    assert head.headers["ocp-batch-file-mode"] == "0o100644"
    assert unquote(unquote(head.headers["ocp-batch-file-url"])) == "http://127.0.0.1:10010" + unquote(target)
    got = await ran.call("GET", target)
    assert (got.status, got.body) == (200, b"0123456789")
    assert {name: got.headers[name] for name in head.headers if name != "request-id"} == {
        name: value for name, value in head.headers.items() if name != "request-id"
    }
    assert ran.control.files.closed == 1


@pytest.mark.parametrize("path", ["wd%2Fmy%20dir%2F%C3%BC.bin", "wd/my%20dir/%C3%BC.bin", "wd%2fmy%20dir/%C3%BC.bin"])
async def test_encoded_and_literal_slashes(ran: World, path: str) -> None:
    answer = await ran.call("GET", f"{FILES}/{path}")
    assert (answer.status, answer.body) == (200, b"x" * 7)
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("span", "body", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
        ("bytes=9-9", b"9", "bytes 9-9/10"),
    ],
)
@pytest.mark.parametrize("header", ["ocp-range", "Range"])
async def test_ranges_are_answered_200(ran: World, header: str, span: str, body: bytes, content_range: str) -> None:
    answer = await ran.call("GET", f"{FILES}/stdout.txt", headers={header: span})
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-range"] == content_range


@pytest.mark.parametrize(
    ("span", "status", "code"),
    [
        ("bytes=10-", 416, "InvalidRange"),
        ("bytes=5-4", 416, "InvalidRange"),
        ("bytes=-4", 400, "InvalidHeaderValue"),
        ("bytes=1-2,4-5", 400, "InvalidHeaderValue"),
        ("lines=1-2", 400, "InvalidHeaderValue"),
        ("bytes=9999999999999999999-", 400, "InvalidHeaderValue"),
    ],
)
async def test_bad_ranges(ran: World, span: str, status: int, code: str) -> None:
    answer = await ran.call("GET", f"{FILES}/stdout.txt", headers={"ocp-range": span})
    assert (answer.status, answer.code) == (status, code)


async def test_an_empty_file(ran: World) -> None:
    answer = await ran.call("GET", f"{FILES}/stderr.txt")
    assert (answer.status, answer.body) == (200, b"")
    answer = await ran.call("GET", f"{FILES}/stderr.txt", headers={"ocp-range": "bytes=0-9"})
    assert answer.code == "InvalidRange"


async def test_directories(ran: World) -> None:
    head = await ran.call("HEAD", f"{FILES}/wd")
    assert (head.headers["ocp-batch-file-isdirectory"], head.headers["content-length"]) == ("True", "0")
    answer = await ran.call("GET", f"{FILES}/wd")
    assert (answer.status, answer.code) == (409, "OperationInvalidForCurrentState")


@pytest.mark.parametrize(
    "path", ["..%2Fx", "wd/../../x", "%2e%2e/x", "/etc/passwd", "%2Fetc", "a%00b", "none", "wd//x", "", "%2E"]
)
async def test_paths_that_lead_elsewhere_are_not_found(ran: World, path: str) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        answer = await ran.call(method, f"{FILES}/{path}")
        assert answer.status == 404
        if method != "HEAD":
            assert answer.code == "FileNotFound"
    assert not ran.control.files.deleted


async def test_conditions(ran: World) -> None:
    stamp, earlier = "Sat, 21 Nov 2026 03:00:00 GMT", "Sat, 21 Nov 2026 02:00:00 GMT"
    for method in ("GET", "HEAD"):
        unmet = await ran.call(method, f"{FILES}/stdout.txt", headers={"If-Modified-Since": stamp})
        assert (unmet.status, unmet.body) == (304, b"")
        assert (await ran.call(method, f"{FILES}/stdout.txt", headers={"If-Modified-Since": earlier})).status == 200
        tagged = await ran.call(method, f"{FILES}/stdout.txt", headers={"If-Match": "*"})
        assert tagged.status == 400


async def test_delete(ran: World) -> None:
    answer = await ran.call("DELETE", f"{FILES}/wd", query="recursive=true")
    assert (answer.status, answer.body) == (200, b"")
    assert (await ran.call("DELETE", f"/pools/p1/nodes/{NODE}/files/startup")).status == 200
    assert ran.control.files.deleted == [(NODE, f"{TASK_DIRECTORY}/wd", True), (NODE, "startup", False)]


async def test_a_task_that_has_not_run(busy: World) -> None:
    answer = await busy.call("GET", FILES)
    assert (answer.status, answer.code) == (409, "TaskFilesUnavailable")
    answer = await busy.call("GET", f"{FILES}/stdout.txt")
    assert (answer.status, answer.code) == (404, "FileNotFound")
    assert (await busy.call("GET", "/jobs/j1/tasks/none/files")).code == "TaskNotFound"
    assert (await busy.call("GET", "/jobs/none/tasks/none/files/x")).code == "JobNotFound"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ErrorCode.NODE_NOT_FOUND, "TaskFilesUnavailable"),
        (ErrorCode.NODE_NOT_READY, "NodeNotReady"),
        (ErrorCode.FILE_NOT_FOUND, "FileNotFound"),
    ],
)
async def test_what_the_node_says_of_a_tasks_files(ran: World, error: ErrorCode, code: str) -> None:
    ran.control.files.error = BatchError(error)
    for method, path in (("GET", ""), ("GET", "/stdout.txt"), ("DELETE", "/stdout.txt")):
        assert (await ran.call(method, FILES + path)).code == code
    assert (await ran.call("GET", f"/pools/p1/nodes/{NODE}/files/x")).code == error.value


async def test_a_missing_file_is_named(ran: World) -> None:
    ran.control.files.error = BatchError(ErrorCode.FILE_NOT_FOUND)
    answer = await ran.call("GET", f"{FILES}/wd%2Fsome%20file")
    assert answer.json()["values"] == [{"key": "FilePath", "value": "wd/some file"}]


async def test_files_past_their_retention(ran: World) -> None:
    ran.control.files.error = BatchError(ErrorCode.FILE_NOT_FOUND)
    ran.now += 7 * 86400 - 1
    assert (await ran.call("GET", f"{FILES}/stdout.txt")).code == "FileNotFound"
    ran.now += 2
    answer = await ran.call("GET", f"{FILES}/stdout.txt")
    assert (answer.status, answer.code) == (409, "TaskFilesCleanedup")
    await ran.call("PUT", "/jobs/j1/tasks/t1", {"constraints": {"retentionTime": "P30D"}})
    assert (await ran.call("GET", f"{FILES}/stdout.txt")).code == "FileNotFound"


async def test_a_node_that_stops_in_the_middle_leaves_the_answer_unfinished(ran: World) -> None:
    ran.control.files.break_after = 2
    answer = await ran.call("GET", f"{FILES}/stdout.txt")
    assert (answer.complete, answer.body) == (False, b"012345")
    assert answer.headers["content-length"] == "10"
    assert ran.control.files.closed == 1


async def test_a_client_that_leaves_stops_the_reading(ran: World) -> None:
    ran.control.files.files[NODE, f"{TASK_DIRECTORY}/stdout.txt"] = b"x" * 30000
    answer = await ran.call("GET", f"{FILES}/stdout.txt", hang_up=True)
    assert not answer.complete
    assert ran.control.files.read_chunks < 100
    assert ran.control.files.closed == 1


async def test_a_file_that_shrinks_while_it_is_read(ran: World) -> None:
    read = ran.control.files.read

    async def shrunk(*place: Any, **span: Any) -> FileContent:
        content: FileContent = await read(*place, **span)
        content.entry = msgspec.structs.replace(content.entry, size=500)
        return content

    ran.control.files.read = shrunk
    answer = await ran.call("GET", f"{FILES}/stdout.txt")
    assert not answer.complete
    assert answer.headers["content-length"] == "500"


async def test_a_task_keeps_its_files_when_its_job_moves_to_another_pool(ran: World) -> None:
    ran.control.store.jobs["j1"].pool_id = "elsewhere"
    assert (await ran.call("GET", f"{FILES}/stdout.txt")).body == b"0123456789"
    assert (await ran.call("GET", f"/pools/p1/nodes/{NODE}/files/{TASK_DIRECTORY}/stdout.txt")).status == 200
    assert ran.control.files.pools == [None, "p1"], "of its node in whatever pool, and of a node of that pool"


async def test_the_files_of_special_tasks_are_below_their_node(ran: World) -> None:
    files = ran.control.files.files
    for directory in ("startup", "workitems/j1/job-1/jobpreparation", "workitems/Nightly/job-3/jobrelease"):
        files[NODE, f"{directory}/stdout.txt"] = directory.encode()
        path = f"/pools/p1/nodes/{NODE}/files/{directory}/stdout.txt"
        assert (await ran.call("GET", path)).body == directory.encode()
        assert (await ran.call("HEAD", path)).status == 200
