"""Conditional requests: which operations take them, by the specification, and what each answers."""

from pathlib import Path
from typing import Any

import pytest

from millpond.api.coverage import Served, claims
from millpond.api.operations import OPERATIONS, Operation
from millpond.domain.preconditions import Precondition
from tests.api.calls import BODIES, IN_OTHER_STATES, PARAMS, furnish
from tests.api.client import Answer
from tests.api.conftest import World
from tests.api.specification import VERSIONS, at_hand

HEADERS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
BEYOND = ("disable_pool_auto_scale", "replace_pool_properties")
"""Changes of one pool that take conditions here, and none in the specification."""
SERVED = {claim.operation.name for claim in claims() if claim.served is not Served.REFUSED}
CONDITIONAL = [one for one in OPERATIONS if one.conditional and one.name in SERVED]
OF_FILES = [one for one in CONDITIONAL if "/files/" in one.path]
OF_ENTITIES = [one for one in CONDITIONAL if "/files/" not in one.path]
OTHER_CHANGES = [
    one for one in OPERATIONS if not one.conditional and one.method not in ("GET", "HEAD") and one.name in SERVED
]
OTHER_READS = [
    one for one in OPERATIONS if not one.conditional and one.method in ("GET", "HEAD") and one.name in SERVED
]
NOW = "Sat, 21 Nov 2026 04:30:48 GMT"
EARLIER = "Sat, 21 Nov 2026 04:30:47 GMT"
LATER = "Sat, 21 Nov 2026 04:30:49 GMT"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_specification_says_who_takes_which(version: str) -> None:
    spec = at_hand(version)
    ours = {(one.method, one.path): one for one in OPERATIONS}
    for method, path, facts in spec.operations():
        operation = ours[method, path]
        named = {one["name"].lower() for one in facts["parameters"] if one["in"] == "header"} & set(HEADERS)
        if operation.name in BEYOND:
            assert (operation.conditional, named) == (True, set()), path
        else:
            assert operation.conditional is bool(named), (method, path)
        wanted = HEADERS[2:] if "/files/" in path else HEADERS
        assert not named or named == set(wanted), (method, path)


async def call(world: World, operation: Operation, headers: dict[str, str]) -> Answer:
    path = operation.path.format(**PARAMS)
    version = operation.span.last
    return await world.call(operation.method, path, BODIES.get(operation.name), headers=headers, version=version)


async def tag_of(world: World, operation: Operation) -> str:
    """Of the entity that the operation is on, before and after."""
    path = "/".join(operation.path.split("/")[: 5 if "/tasks/" in operation.path else 3]).format(**PARAMS)
    return (await world.call("GET", path)).headers["etag"]


async def furnished(directory: Path, operation: Operation) -> World:
    world = World(directory)
    await furnish(world)
    if operation.name in IN_OTHER_STATES:
        await world.call("POST", IN_OTHER_STATES[operation.name])
    return world


@pytest.mark.parametrize("operation", OF_ENTITIES, ids=lambda one: one.name)
async def test_conditions_on_entities(tmp_path: Path, operation: Operation) -> None:
    world = await furnished(tmp_path / "unmet", operation)
    tag = await tag_of(world, operation)
    read = operation.method in ("GET", "HEAD")
    for headers in (
        {"If-Match": '"0x1"'},
        {"If-Match": "0x1"},
        {"If-None-Match": tag},
        {"If-None-Match": f'W/"{tag}"'},
        {"If-None-Match": f'"0x1","{tag}"'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": NOW},
        {"If-Modified-Since": LATER},
        {"If-Unmodified-Since": EARLIER},
        {"If-Match": tag, "If-Modified-Since": LATER},
        {"If-None-Match": tag, "If-Modified-Since": EARLIER},
        {"If-None-Match": "0x1", "If-Unmodified-Since": EARLIER},
    ):
        answer = await call(world, operation, headers)
        assert answer.status == (304 if read else 412), (headers, answer.body)
        if read:
            assert (answer.body, answer.headers["etag"]) == (b"", tag)
            assert "last-modified" in answer.headers
            assert "content-length" not in answer.headers
        else:
            assert answer.code == "ConditionNotMet"
        assert await tag_of(world, operation) == tag
    for headers, code in (
        ({"If-Match": tag, "If-None-Match": tag}, "MultipleConditionHeadersNotSupported"),
        ({"If-Modified-Since": EARLIER, "If-Unmodified-Since": NOW}, "MultipleConditionHeadersNotSupported"),
        ({"If-Modified-Since": "soon"}, "InvalidHeaderValue"),
        ({"If-Unmodified-Since": "2026-11-21"}, "InvalidHeaderValue"),
        ({"If-Match": ""}, "InvalidHeaderValue"),
        ({"If-None-Match": '"",'}, "InvalidHeaderValue"),
    ):
        answer = await call(world, operation, headers)
        assert answer.status == 400, headers
        assert operation.method == "HEAD" or answer.code == code
        assert await tag_of(world, operation) == tag
    for number, headers in enumerate(
        (
            {"If-Match": tag},
            {"If-Match": f'"{tag}"'},
            {"If-Match": f'W/"{tag}"'},
            {"If-Match": f'"0x1", "{tag}"'},
            {"If-Match": "*"},
            {"If-None-Match": '"0x1"'},
            {"If-Modified-Since": EARLIER},
            {"If-Unmodified-Since": NOW},
            {"If-Match": tag, "If-Modified-Since": EARLIER},
            {"If-Match": tag, "If-Unmodified-Since": EARLIER},
            {"If-None-Match": "0x1", "If-Modified-Since": LATER},
        )
    ):
        world = await furnished(tmp_path / str(number), operation)
        answer = await call(world, operation, headers)
        assert answer.status == operation.success, (headers, answer.body)


@pytest.mark.parametrize("operation", OF_FILES, ids=lambda one: one.name)
async def test_files_take_dates_only(tmp_path: Path, operation: Operation) -> None:
    world = await furnished(tmp_path, operation)
    stamp = (await call(world, operation, {})).headers["last-modified"]
    for headers, status in (
        ({"If-Modified-Since": stamp}, 304),
        ({"If-Unmodified-Since": "Sat, 21 Nov 2020 00:00:00 GMT"}, 304),
        ({"If-Unmodified-Since": stamp}, 200),
        ({"If-Modified-Since": "Sat, 21 Nov 2020 00:00:00 GMT"}, 200),
        ({"If-Match": "*"}, 400),
        ({"If-None-Match": "*"}, 400),
    ):
        answer = await call(world, operation, headers)
        assert answer.status == status, headers
        assert (answer.body == b"") is (status == 304 or operation.method == "HEAD")
        if status == 400 and operation.method != "HEAD":
            assert answer.code == "UnsupportedHeader"


@pytest.mark.parametrize("operation", OTHER_CHANGES, ids=lambda one: one.name)
async def test_no_change_is_made_without_its_condition(tmp_path: Path, operation: Operation) -> None:
    world = await furnished(tmp_path, operation)
    before = len(world.control.events)
    for name in HEADERS:
        answer = await call(world, operation, {name: NOW if "since" in name else "*"})
        assert (answer.status, answer.code) == (400, "UnsupportedHeader")
        assert answer.values()["HeaderName"].lower() == name
    assert len(world.control.events) == before


@pytest.mark.parametrize("operation", OTHER_READS, ids=lambda one: one.name)
async def test_other_reads_are_answered_in_full(tmp_path: Path, operation: Operation) -> None:
    world = await furnished(tmp_path, operation)
    for name in HEADERS:
        value = LATER if name == "if-modified-since" else EARLIER if "since" in name else "*"
        assert (await call(world, operation, {name: value})).status == operation.success


async def test_what_does_not_exist_meets_no_condition(world: World) -> None:
    for method, path in (("GET", "/pools/none"), ("HEAD", "/jobschedules/none"), ("DELETE", "/jobs/none")):
        for headers in ({"If-Match": "*"}, {"If-None-Match": "*"}):
            assert (await world.call(method, path, headers=headers)).status == 404


@pytest.mark.parametrize(
    ("at", "condition", "holds"),
    [
        (10.9, {"if_unmodified_since": 10.0}, True),
        (11.0, {"if_unmodified_since": 10.0}, False),
        (10.9, {"if_modified_since": 10.0}, False),
        (11.0, {"if_modified_since": 10.0}, True),
        (10.9, {"if_none_match": ("0x1",), "if_modified_since": 10.0}, True),
        (10.9, {"if_match": ("*",), "if_unmodified_since": 1.0}, True),
        (10.9, {"if_match": ("0x1",), "if_unmodified_since": 20.0}, False),
        (10.9, {}, True),
    ],
)
def test_dates_have_whole_seconds_and_tags_come_first(at: float, condition: dict[str, Any], holds: bool) -> None:
    assert Precondition(**condition).holds(at) is holds
