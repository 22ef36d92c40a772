"""Which operation a request is, and what is refused before any handler is asked."""

import re
from typing import Any

import pytest

from millpond.api.handlers import HANDLERS
from millpond.api.operations import OPERATIONS, Operation, Router
from millpond.api.versions import API_VERSIONS
from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from tests.api.client import KEY, NOW, send
from tests.api.client import sign as signature
from tests.api.conftest import World
from tests.api.specification import VERSIONS, at_hand


def path_of(operation: Operation) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: "some-" + match[1].lower(), operation.path)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_operation_of_the_specification_is_in_the_table(version: str) -> None:
    ours = {(operation.method, operation.path): operation for operation in OPERATIONS}
    common = {"api-version", "timeout"}
    for method, path, facts in at_hand(version).operations():
        operation = ours.get((method, path))
        assert operation is not None, (method, path)
        assert str(operation.success) in facts["responses"], (method, path)
        takes = {parameter["name"].lower() for parameter in facts["parameters"] if parameter["in"] == "query"}
        assert takes - common <= operation.query, (method, path)


def test_names_are_unique_and_every_operation_has_a_handler() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert set(HANDLERS) == set(names)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_is_found_by_its_path(operation: Operation) -> None:
    found, params = Router().find(operation.method, path_of(operation).encode())
    assert found is operation
    assert set(params) == set(re.findall(r"\{(\w+)\}", operation.path))


@pytest.mark.parametrize(
    ("path", "name", "params"),
    [
        ("/jobs/a%2Fb", "get_job", {"jobId": "a/b"}),
        ("/jobs/s%3Ajob-1/tasks/t", "get_task", {"jobId": "s:job-1", "taskId": "t"}),
        ("/jobs/j/tasks/t/files/wd%2Fmy%20dir%2Fx.txt", "download_task_file", {"filePath": "wd/my dir/x.txt"}),
        ("/jobs/j/tasks/t/files/wd/my%20dir/x.txt", "download_task_file", {"filePath": "wd/my dir/x.txt"}),
        ("/jobs/j/tasks/t/files/wd%252Fx", "download_task_file", {"filePath": "wd%2Fx"}),
        ("/jobs/j/tasks/t/files/a+b", "download_task_file", {"filePath": "a+b"}),
        ("/jobs/j/tasks/t/files", "list_task_files", {}),
        (
            "/certificates(thumbprintAlgorithm=sha1,thumbprint=ab12)",
            "get_certificate",
            {"thumbprintAlgorithm": "sha1", "thumbprint": "ab12"},
        ),
        (
            "/certificates%28thumbprintAlgorithm=sha1%2Cthumbprint=ab12%29",
            "get_certificate",
            {"thumbprintAlgorithm": "sha1", "thumbprint": "ab12"},
        ),
    ],
)
def test_paths_are_split_before_they_are_decoded(path: str, name: str, params: dict[str, str]) -> None:
    found, decoded = Router().find("GET", path.encode())
    assert found.name == name
    assert params.items() <= decoded.items()


@pytest.mark.parametrize(
    "path", ["/nothing", "/jobs/", "/jobs//tasks", "/jobs/j/other", "/pools/p/nodes/n/files/a/../%ff", "/poolsx"]
)
async def test_unknown_paths(world: World, path: str) -> None:
    answer = await world.call("GET", path)
    assert answer.status == 400
    assert answer.code == "InvalidUri"


@pytest.mark.parametrize(("method", "path"), [("PATCH", "/pools"), ("DELETE", "/jobs"), ("TRACE", "/jobs/j")])
async def test_wrong_verb(world: World, method: str, path: str) -> None:
    answer = await world.call(method, path)
    assert answer.status == 405
    assert answer.code == "UnsupportedHttpVerb"


@pytest.mark.parametrize("version", API_VERSIONS)
async def test_versions(world: World, version: str) -> None:
    assert (await world.call("GET", "/pools", version=version)).status == 200


async def test_version_missing_or_unknown(world: World) -> None:
    answer = await world.call("GET", "/pools", version=None)
    assert (answer.status, answer.code) == (400, "MissingRequiredQueryParameter")
    assert answer.values() == {"QueryParameterName": "api-version"}
    answer = await world.call("GET", "/pools", version="2010-01-01")
    assert (answer.status, answer.code) == (400, "UnsupportedRequestVersion")
    assert "2025-06-01" in answer.values()["Supported"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("colour=red", "UnsupportedQueryParameter"),
        ("force=true", "UnsupportedQueryParameter"),
        ("timeout=soon", "InvalidQueryParameterValue"),
        ("timeout=0", "OutOfRangeQueryParameterValue"),
        ("maxresults=0", "OutOfRangeQueryParameterValue"),
        ("maxresults=1001", "OutOfRangeQueryParameterValue"),
        ("maxresults=ten", "InvalidQueryParameterValue"),
        ("maxresults=99999999999999999999", "InvalidQueryParameterValue"),
        ("$skiptoken=!", "InvalidQueryParameterValue"),
        ("$skiptoken=A", "InvalidQueryParameterValue"),
        ("$skiptoken=_w", "InvalidQueryParameterValue"),
        ("$skiptoken=bm8", "InvalidQueryParameterValue"),
        ("$select=id,colour", "InvalidQueryParameterValue"),
        ("$expand=tasks", "InvalidQueryParameterValue"),
        ("$filter=colour%20eq%20'red'", "InvalidQueryParameterValue"),
        ("$filter=(", "InvalidQueryParameterValue"),
        ("maxresults=%ff", "InvalidQueryParameterValue"),
    ],
)
async def test_bad_query_parameters(world: World, query: str, code: str) -> None:
    answer = await world.call("GET", "/pools", query=query)
    assert answer.status == 400
    assert answer.code == code


@pytest.mark.parametrize("query", ["timeOut=20", "TIMEOUT=300", "timeout=1", "MaxResults=7", "$Expand=stats"])
async def test_query_parameter_names_are_case_insensitive(world: World, query: str) -> None:
    assert (await world.call("GET", "/pools", query=query)).status == 200


async def test_common_headers(world: World) -> None:
    answer = await world.call("GET", "/pools", headers={"client-request-id": "c1"})
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.headers["request-id"])
    assert answer.headers["dataserviceversion"] == "3.0"
    assert answer.headers["server"] == "Millpond"
    assert answer.headers["content-type"] == "application/json; odata=minimalmetadata"
    assert "client-request-id" not in answer.headers


@pytest.mark.parametrize(("wanted", "echoed"), [("true", True), ("True", True), ("false", False)])
async def test_client_request_id_is_echoed_on_request(world: World, wanted: str, echoed: bool) -> None:
    headers = {"client-request-id": "c1", "return-client-request-id": wanted}
    answer = await world.call("GET", "/pools", headers=headers)
    assert ("client-request-id" in answer.headers) is echoed


async def test_error_body(world: World) -> None:
    answer = await world.call("GET", "/pools/none")
    body = answer.json()
    assert answer.status == 404
    assert body["odata.metadata"] == (
        "http://127.0.0.1:10010/$metadata#Microsoft.Azure.Batch.Protocol.Entities.Container.errors/@Element"
    )
    assert body["code"] == "PoolNotFound"
    assert body["message"]["lang"] == "en-US"
    text, request_line, time_line = body["message"]["value"].split("\n")
    assert "none" in text
    assert request_line == "RequestId:" + answer.headers["request-id"]
    assert time_line == "Time:2026-11-21T04:30:48Z"


async def test_head_errors_have_no_body(world: World) -> None:
    answer = await world.call("HEAD", "/pools/none")
    assert (answer.status, answer.body) == (404, b"")


@pytest.mark.parametrize("host", ['evil"host', "a b", "x/y"])
async def test_strange_hosts_are_refused(world: World, host: str) -> None:
    headers = {"ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT"}
    headers["authorization"] = signature("GET", "/pools", "api-version=2025-06-01", headers, b"k" * 64)
    answer = await send(world.app, "GET", "/pools?api-version=2025-06-01", headers, host=host)
    assert answer.status == 400
    assert answer.code == "InvalidHeaderValue"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BatchError(ErrorCode.SERVER_BUSY), 503, "ServerBusy"),
        (StoreUnavailable("disk full"), 503, "ServerBusy"),
        (TimeoutError(), 500, "OperationTimedOut"),
        (RuntimeError("boom"), 500, "InternalError"),
    ],
)
async def test_what_goes_wrong_below(
    busy: World, caplog: pytest.LogCaptureFixture, error: Exception, status: int, code: str
) -> None:
    busy.control.error = error
    answer = await busy.call("POST", "/jobs/j1/tasks", {"id": "x", "commandLine": "true"})
    assert (answer.status, answer.code) == (status, code)
    assert (answer.headers.get("retry-after") == "1") is (status == 503)
    assert b"boom" not in answer.body
    assert ("boom" in caplog.text) is (code == "InternalError")


async def test_a_client_that_leaves_is_not_answered(busy: World) -> None:
    body = b'{"id":"late","commandLine":"true"}'
    target, headers = _signed_add(body)
    answer = await send(busy.app, "POST", target, headers, body[:10], hang_up=True)
    assert answer.status == 0
    assert busy.control.store.task_of("j1", "late") is None


def _signed_add(body: bytes) -> tuple[str, dict[str, str]]:
    headers = {"ocp-date": "Sat, 21 Nov 2026 04:30:48 GMT", "content-length": str(len(body))}
    query = "api-version=2025-06-01"
    headers["authorization"] = signature("POST", "/jobs/j1/tasks", query, headers, KEY)
    return f"/jobs/j1/tasks?{query}", headers


async def test_status_page_and_health(world: World) -> None:
    facts = (await send(world.app, "GET", "/", {"Accept": "*/*"})).json()
    assert facts["account"] == "labacct"
    assert facts["endpoint"] == "http://127.0.0.1:10010"
    page = await send(world.app, "GET", "/", {"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert b"labacct" in page.body
    assert (await send(world.app, "GET", "/healthz", {})).status == 200
    assert (await send(world.app, "HEAD", "/healthz", {})).body == b""
    assert (await send(world.app, "POST", "/", {})).status == 405
    world.control.ready = False
    assert (await send(world.app, "GET", "/healthz", {})).status == 503


async def test_lifespan_and_websocket(world: World) -> None:
    sent: list[Any] = []
    steps = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return steps.pop(0)

    async def take(message: Any) -> None:
        sent.append(message["type"])

    await world.app({"type": "lifespan"}, receive, take)
    await world.app({"type": "websocket"}, receive, take)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
    assert world.now == NOW
