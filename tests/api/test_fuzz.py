"""Requests made at random from the specification: never a 500, and whatever is answered is what the specification says.

`make fuzz` tries many more (MILLPOND_FUZZ_EXAMPLES for each operation and version).
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.api.coverage import Claim, claims
from millpond.domain.errors import CATALOGUE
from tests.api.bodies import VALUES, WHOLE
from tests.api.calls import BODIES, PARAMS, furnish
from tests.api.conftest import NODE, World
from tests.api.specification import VERSIONS, Json, Specification, or_left_out, specification

EXAMPLES = int(os.environ.get("MILLPOND_FUZZ_EXAMPLES", "6"))
CODES = {code.value for code in CATALOGUE}
DEPTH = 5

TEXT = st.sampled_from(
    ["", "a", "p1", "j1", "t1", "s1", NODE, "true", "x" * 65, "é✓", "a b", "../x", "/x", "\0", "http://h/c?s=1"]
)
DURATIONS = st.sampled_from(
    ["PT0S", "PT1M", "PT5M", "P7D", "P10675199DT2H48M5.4775807S", "-PT1S", "PT", "1h", "P99999999D"]
)
TIMES = st.sampled_from(
    [
        "2026-11-21T04:30:48Z",
        "2027-01-01T00:00:00.1234567+01:00",
        "2027-01-01",
        "0001-01-01T00:00:00Z",
        "soon",
        "9999-12-31T23:59:59Z",
    ]
)
INTEGERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 7, 1000, 2**31 - 1, 2**31, 10**30])
ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1, 1.5, "", "1", [], {}, [None], {"a": 1}])


def values(spec: Specification, schema: Json, name: str, depth: int) -> st.SearchStrategy[Any]:
    """Values of a schema: most as it says, some odd, some known to be good."""
    whole = WHOLE.get(schema.get("$ref", "").rpartition("/")[2])
    resolved = spec.resolve(schema)
    kind = resolved.get("type", "object")
    made: st.SearchStrategy[Any]
    if "enum" in resolved:
        made = st.sampled_from([*resolved["enum"], resolved["enum"][0].upper(), "other"])
    elif kind == "array":
        made = st.lists(values(spec, resolved["items"], name, depth - 1), max_size=2)
    elif kind == "integer":
        made = INTEGERS
    elif kind == "boolean":
        made = st.booleans()
    elif kind == "string":
        made = {"duration": DURATIONS, "date-time": TIMES}.get(resolved.get("format", ""), TEXT)
    elif depth > 0 and "properties" in resolved:
        made = objects(spec, resolved, depth)
    else:
        made = st.just({})
    good = [st.just(value) for value in (whole, VALUES.get(name)) if value is not None]
    return st.one_of(made, made, *good, ODD) if depth < DEPTH else made


def objects(spec: Specification, schema: Json, depth: int) -> st.SearchStrategy[Json]:
    properties: dict[str, Json] = schema["properties"]
    required = set(schema.get("required", ()))

    @st.composite
    def draw_object(draw: st.DrawFn) -> Json:
        others = draw(st.lists(st.sampled_from(sorted(properties)), max_size=3, unique=True))
        names = {*others, *(name for name in required if draw(st.integers(0, 15)))}
        return {name: draw(values(spec, properties[name], name, depth - 1)) for name in sorted(names)}

    return draw_object()


def cases() -> list[Any]:
    found = []
    for version in VERSIONS:
        spec = specification(version)
        for claim in claims():
            facts = None if spec is None else spec.facts(claim.operation.method, claim.operation.path)
            if spec is not None and facts is not None and spec.body_schema(facts) is not None:
                found.append(pytest.param(spec, claim, id=f"{version} {claim.operation.name}"))
    return or_left_out(found, 2)


async def send_all(spec: Specification, claim: Claim, bodies: list[Json]) -> None:
    operation = claim.operation
    facts = spec.facts(operation.method, operation.path)
    assert facts is not None
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        await furnish(world)
        for body in bodies:
            answer = await world.call(operation.method, operation.path.format(**PARAMS), body, version=spec.version)
            assert answer.status != 500, (body, answer.body)
            if answer.status >= 400:
                assert answer.code in CODES
                problems = list(spec.problems({"$ref": "#/definitions/BatchError"}, answer.json()))
                assert problems == [], (body, problems)
            elif answer.body:
                problems = list(spec.problems(facts["responses"][str(answer.status)]["schema"], answer.json()))
                assert problems == [], (body, problems)
        # What was taken is shown as the specification has it.
        for path in ("/pools", "/jobs", "/jobschedules", "/jobs/j1/tasks"):
            template = path.replace("j1", "{jobId}")
            listing = spec.facts("GET", template)
            assert listing is not None
            shown = await world.call("GET", path, version=spec.version)
            assert shown.status == 200
            problems = list(spec.problems(listing["responses"]["200"]["schema"], shown.json()))
            assert problems == [], (bodies, problems)


@pytest.mark.parametrize(("spec", "claim"), cases())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_requests(spec: Specification, claim: Claim, data: st.DataObject) -> None:
    facts = spec.facts(claim.operation.method, claim.operation.path)
    assert facts is not None
    schema = spec.body_schema(facts)
    assert schema is not None
    good = BODIES.get(claim.operation.name, {})
    body = data.draw(values(spec, schema, "", DEPTH))
    asyncio.run(send_all(spec, claim, [body, {**good, **body}]))
