"""Every operation, in every version that has it: it is served as the coverage table says, and what it answers is what
the specification says."""

from pathlib import Path
from typing import Any

import pytest

from millpond.api.coverage import Claim, Served, claims, page
from millpond.api.operations import OPERATIONS
from millpond.api.versions import API_VERSIONS
from tests.api.calls import BODIES, IN_OTHER_STATES, PARAMS, QUERIES, furnish
from tests.api.client import Answer
from tests.api.conftest import World
from tests.api.specification import VERSIONS, Specification, at_hand, or_left_out, specification

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = claims()
OF_NO_ENTITY = ("get_job_task_counts", "create_task_collection", "list_subtasks")
"""Operations whose answers are of no one entity, and so have no entity tag, whatever headers a client looks for."""


@pytest.fixture
async def furnished(world: World) -> World:
    await furnish(world)
    return world


async def call(world: World, claim: Claim, version: str) -> Answer:
    operation = claim.operation
    if operation.name in IN_OTHER_STATES:
        await world.call("POST", IN_OTHER_STATES[operation.name])
    body = BODIES.get(operation.name)
    return await world.call(
        operation.method,
        operation.path.format(**PARAMS),
        body,
        version=version,
        query=QUERIES.get(operation.name, ""),
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.operation.name)
async def test_every_operation_is_served_as_the_table_says(tmp_path: Path, claim: Claim) -> None:
    for version in API_VERSIONS:
        world = World(tmp_path / version)
        await furnish(world)
        answer = await call(world, claim, version)
        head = claim.operation.method == "HEAD"
        if not claim.operation.span.has(version):
            assert (answer.status, answer.code) == (400, "InvalidUri"), version
            assert version in answer.json()["message"]["value"]
        elif claim.served is Served.REFUSED:
            assert claim.code is not None
            assert answer.status >= 400
            assert head or answer.code == claim.code, (version, answer.body)
        else:
            assert answer.status == claim.operation.success, (version, answer.body)


def of_specification() -> list[Any]:
    found = [
        pytest.param(claim, spec, id=f"{version} {claim.operation.name}")
        for version in VERSIONS
        if (spec := specification(version)) is not None
        for claim in CLAIMS
        if spec.facts(claim.operation.method, claim.operation.path) is not None
    ]
    return or_left_out(found, 2)


@pytest.mark.parametrize(("claim", "spec"), of_specification())
async def test_every_answer_is_what_the_specification_says(furnished: World, claim: Claim, spec: Specification) -> None:
    facts = spec.facts(claim.operation.method, claim.operation.path)
    assert facts is not None
    assert claim.operation.span.has(spec.version)
    answer = await call(furnished, claim, spec.version)
    response = facts["responses"].get(str(answer.status), facts["responses"]["default"])
    schema = response.get("schema")
    if claim.operation.method == "HEAD":
        assert answer.body == b""
    elif schema is None or schema.get("type") == "file":
        assert answer.body == b"" or claim.operation.name.startswith("download_")
    elif answer.headers["content-type"].startswith("application/json"):
        # A word for the state of a node that an old version does not know is told all the same: any other is untrue.
        problems = [one for one in spec.problems(schema, answer.json()) if "'deallocat" not in one]
        assert problems == []
        empty = answer.status < 400 and answer.json().get("value") == []
        assert empty is claim.note.startswith("Always empty"), "an empty list shows nothing"
    headers = response.get("headers", {}) if claim.operation.name not in OF_NO_ENTITY else {}
    for name in headers:
        if name not in ("client-request-id", "ocp-creation-time"):
            assert name.lower() in answer.headers, name


@pytest.mark.parametrize("version", VERSIONS)
def test_the_table_has_the_operations_of_the_specification_and_no_others(version: str) -> None:
    spec = at_hand(version)
    theirs = {(method, path) for method, path, _ in spec.operations()}
    ours = {(one.method, one.path) for one in OPERATIONS if not one.extension and one.span.has(version)}
    assert theirs == ours


def test_the_page_is_what_the_tables_say() -> None:
    assert (ROOT / "docs" / "reference" / "coverage.md").read_text() == page(), "run python tools/write_coverage.py"
