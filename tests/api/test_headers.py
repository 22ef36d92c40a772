"""The headers every answer has, and the status of every success, by the specification."""

import re
from pathlib import Path

import pytest

from millpond.api.coverage import Served, claims
from millpond.api.operations import OPERATIONS, Operation
from tests.api.calls import BODIES, IN_OTHER_STATES, PARAMS, QUERIES, furnish
from tests.api.client import Answer, send
from tests.api.conftest import World
from tests.api.specification import VERSIONS, at_hand

SERVED = [claim.operation for claim in claims() if claim.served is not Served.REFUSED]
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ASKED = {"client-request-id": "11111111-2222-3333-4444-555555555555", "return-client-request-id": "True"}


def has_common_headers(answer: Answer) -> bool:
    headers = answer.headers
    return (
        GUID.fullmatch(headers["request-id"]) is not None
        and headers["dataserviceversion"] == "3.0"
        and headers["x-content-type-options"] == "nosniff"
        and headers["server"] == "Millpond"
    )


@pytest.mark.parametrize("operation", SERVED, ids=lambda one: one.name)
async def test_every_success_has_its_status_and_headers(tmp_path: Path, operation: Operation) -> None:
    seen = set()
    for number, headers in enumerate(({}, {**ASKED, "return-client-request-id": "false"}, ASKED)):
        world = World(tmp_path / str(number))
        await furnish(world)
        if operation.name in IN_OTHER_STATES:
            await world.call("POST", IN_OTHER_STATES[operation.name])
        path = operation.path.format(**PARAMS)
        query = QUERIES.get(operation.name, "")
        body = BODIES.get(operation.name)
        answer = await world.call(
            operation.method, path, body, query=query, headers=headers, version=operation.span.last
        )
        assert answer.status == operation.success, answer.body
        assert has_common_headers(answer)
        assert answer.headers.get("client-request-id") == (headers["client-request-id"] if number == 2 else None)
        seen.add(answer.headers["request-id"])
        if answer.status == 201:
            # Some creations answer with what they made.
            assert answer.headers["location"] == answer.headers["dataserviceid"]
        if operation.method != "GET" and answer.body == b"":
            assert "content-type" not in answer.headers or operation.method == "HEAD"
        if answer.status == 204:
            assert "content-length" not in answer.headers
    assert len(seen) == 3


@pytest.mark.parametrize("version", VERSIONS)
def test_the_status_of_success_is_that_of_the_specification(version: str) -> None:
    spec = at_hand(version)
    ours = {(one.method, one.path): one for one in OPERATIONS}
    for method, path, facts in spec.operations():
        good = [int(status) for status in facts["responses"] if status.isdigit() and int(status) < 300]
        assert good == [ours[method, path].success], (method, path)


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/pools/none", {}, 404),
        ("HEAD", "/pools/none", {}, 404),
        ("GET", "/pools/p1", {"If-None-Match": "*"}, 304),
        ("HEAD", "/pools/p1", {"If-None-Match": "*"}, 304),
        ("DELETE", "/pools/p1", {"If-None-Match": "*"}, 412),
        ("POST", "/pools", {}, 400),
        ("GET", "/nothing", {}, 400),
        ("PATCH", "/pools", {}, 405),
    ],
)
async def test_every_failure_has_them_too(
    busy: World, method: str, path: str, more: dict[str, str], status: int
) -> None:
    answer = await busy.call(method, path, headers={**more, **ASKED})
    assert answer.status == status
    assert has_common_headers(answer)
    assert answer.headers["client-request-id"] == ASKED["client-request-id"]
    if answer.body:
        assert "RequestId:" + answer.headers["request-id"] in answer.json()["message"]["value"]


async def test_who_is_not_let_in_is_told_his_request_id(world: World) -> None:
    answer = await send(world.app, "GET", "/pools?api-version=2025-06-01", dict(ASKED))
    assert answer.status in (401, 403)
    assert has_common_headers(answer)
    assert answer.headers["client-request-id"] == ASKED["client-request-id"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("timeout=-1", "OutOfRangeQueryParameterValue"),
        ("timeOut=0", "OutOfRangeQueryParameterValue"),
        ("timeout=1.5", "InvalidQueryParameterValue"),
        ("timeout=%D9%A3", "InvalidQueryParameterValue"),
        ("maxresults=-1", "OutOfRangeQueryParameterValue"),
        ("maxresults=1e2", "InvalidQueryParameterValue"),
        ("$select=executionInfo/poolId", "InvalidQueryParameterValue"),
        ("$select=ID", "InvalidQueryParameterValue"),
        ("$select=id,,state", "InvalidQueryParameterValue"),
        ("$expand=stats,executionInfo", "InvalidQueryParameterValue"),
        ("$filter=id%20eq", "InvalidQueryParameterValue"),
        ("$filter=metadata/any(m:%20m/name%20eq%20'a')", "InvalidQueryParameterValue"),
    ],
)
async def test_bounds_of_query_parameters(world: World, query: str, code: str) -> None:
    answer = await world.call("GET", "/jobs", query=query)
    assert (answer.status, answer.code) == (400, code)
    assert answer.values()["QueryParameterName"].lower() == query.partition("=")[0].lower()
    if query.startswith("$"):
        assert re.search(r"\(at character \d+\)", answer.values()["Reason"])


@pytest.mark.parametrize("query", ["timeout=1", "timeout=30", "timeout=31", "timeout=9999999999", "maxresults=1000"])
async def test_within_the_bounds(world: World, query: str) -> None:
    assert (await world.call("GET", "/jobs", query=query)).status == 200


@pytest.mark.parametrize("path", ["/jobs/j1", "/pools/p1", "/jobs/j1/tasks/t1", "/jobschedules/s1"])
async def test_select_and_expand_go_together(busy: World, path: str) -> None:
    await busy.add_job_schedule()
    listing, _, entity_id = path.rpartition("/")
    for query, names in (
        ("$select=id", {"id"}),
        ("$select=id,url,id", {"id", "url"}),
        ("$expand=stats&$select=id", {"id", "stats"}),
        ("$select=stats", {"stats"}),
        ("$select=id,stats&$expand=stats", {"id", "stats"}),
    ):
        one = (await busy.call("GET", path, query=query)).json()
        assert one.keys() - {"odata.metadata"} == names, query
        listed = (await busy.call("GET", listing, query=query)).json()["value"]
        assert next(item for item in listed if item.get("id", entity_id) == entity_id).keys() == names, query
    whole = (await busy.call("GET", path)).json()
    assert "stats" not in whole
    assert "stats" in (await busy.call("GET", path, query="$expand=stats")).json()
    every = ",".join(name for name in whole if name != "odata.metadata")
    assert (await busy.call("GET", path, query=f"$select={every}")).json() == whole
