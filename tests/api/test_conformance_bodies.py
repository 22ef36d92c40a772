"""Every property of every request body of the specification: taken and shown again, or refused as the table says."""

from typing import Any

import pytest

from millpond.api.support import SUPPORT, Level
from tests.api.bodies import Place, body_with, places, value_at
from tests.api.conftest import MACHINE, World
from tests.api.specification import VERSIONS, WRITE_ONLY, Json, Specification, or_left_out, specification

POOL = {"id": "made", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}
JOB = {"id": "made", "poolInfo": {"poolId": "p1"}}
SCHEDULE = {
    "id": "made",
    "schedule": {"recurrenceInterval": "PT1H"},
    "jobSpecification": {"poolInfo": {"poolId": "p1"}},
}

OPERATIONS: tuple[tuple[str, str, Json, str], ...] = (
    ("POST", "/pools", POOL, "/pools/made"),
    ("PATCH", "/pools/{poolId}", {}, "/pools/p1"),
    (
        "POST",
        "/pools/{poolId}/updateproperties",
        {"applicationPackageReferences": [], "metadata": []},
        "/pools/p1",
    ),
    ("POST", "/jobs", JOB, "/jobs/made"),
    ("PATCH", "/jobs/{jobId}", {}, "/jobs/j1"),
    ("PUT", "/jobs/{jobId}", {"poolInfo": {"poolId": "p1"}}, "/jobs/j1"),
    ("POST", "/jobs/{jobId}/tasks", {"id": "made", "commandLine": "true"}, "/jobs/j1/tasks/made"),
    ("PUT", "/jobs/{jobId}/tasks/{taskId}", {}, "/jobs/j1/tasks/t1"),
    ("POST", "/jobschedules", SCHEDULE, "/jobschedules/made"),
    ("PATCH", "/jobschedules/{jobScheduleId}", {}, "/jobschedules/s1"),
    ("PUT", "/jobschedules/{jobScheduleId}", {"jobSpecification": SCHEDULE["jobSpecification"]}, "/jobschedules/s1"),
)
"""(method, path, the smallest body, where the result is read)"""

REFUSED = {(row.entity, row.path): row for row in SUPPORT if row.level is Level.REFUSED}

SHALLOW = {
    "/pools": frozenset[str](),
    "/jobs": frozenset({"BatchPoolSpecification", "PoolSpecification"}),
    "/jobschedules": frozenset({"BatchJobSpecification", "JobSpecification"}),
}
"""What has been looked into already, under an operation further up."""

NEEDS_MORE = {
    "autoPoolSpecification": "InvalidPropertyValue",
    "applicationPackageReferences": "InvalidApplicationPackageReferences",
}
"""Properties that are taken only together with something else, and the code for when that is not there."""


def refusal_of(place: Place) -> bool:
    """Whether the table has the property, or one it is in, as refused."""
    parts = place.within.split(".")
    return any((place.entity, ".".join(parts[: end + 1])) in REFUSED for end in range(len(parts)))


def cases() -> list[Any]:
    found = []
    for version in VERSIONS:
        spec = specification(version)
        for method, path, base, target in OPERATIONS:
            facts = None if spec is None else spec.facts(method, path)
            if spec is not None and facts is not None and (schema := spec.body_schema(facts)):
                found.append(pytest.param(spec, schema, (method, path, base, target), id=f"{version} {method} {path}"))
    return or_left_out(found, 3)


@pytest.mark.parametrize(("spec", "schema", "operation"), cases())
async def test_every_property_is_taken_and_shown_or_refused(
    spec: Specification, schema: Json, operation: tuple[str, str, Json, str], tmp_path: Any
) -> None:
    method, path, base, target = operation
    wrong = []
    shallow = SHALLOW["/" + path.split("/")[1]]
    if method != "POST":
        shallow |= {"BatchAutoPoolSpecification", "AutoPoolSpecification"}
    for number, place in enumerate(places(spec, schema, shallow)):
        world = World(tmp_path / str(number))
        await world.add_pool()
        await world.add_job(usesTaskDependencies=True, onTaskFailure="performexitoptionsjobaction")
        await world.add_task()
        await world.add_job_schedule()
        body = body_with(spec, place, base)
        where = path.format(poolId="p1", jobId="j1", taskId="t1", jobScheduleId="s1")
        answer = await world.call(method, where, body, version=spec.version)
        if refusal_of(place):
            if (answer.status, answer.code if answer.status >= 400 else "") != (501, "NotImplemented"):
                wrong.append(f"{place}: {answer.status}, but the table says it is refused")
            continue
        if answer.status >= 400:
            if answer.code not in {NEEDS_MORE.get(name) for name in place.path}:
                wrong.append(f"{place}: {answer.status} {answer.json()['message']['value'].splitlines()[0]} {body}")
            continue
        if place.path[-1] in WRITE_ONLY:
            continue
        shown = (await world.call("GET", target, version=spec.version)).json()
        if value_at(body, place.path) is None:
            wrong.append(f"{place}: not in the body {body}")
        elif not same(value_at(body, place.path), value_at(shown, place.path)):
            wrong.append(f"{place}: {value_at(body, place.path)!r} is shown as {value_at(shown, place.path)!r}")
        if place.path[-1] == "stats":
            continue
        answer_schema = spec.facts("GET", generic(target))["responses"]["200"]["schema"]
        wrong += [f"{place}: {problem}" for problem in spec.problems(answer_schema, shown)]
    assert not wrong, "\n".join(wrong)


def generic(target: str) -> str:
    """The path template of where something is read."""
    first, *rest = target.strip("/").split("/")
    template = f"/{first}/{{{ {'pools': 'poolId', 'jobs': 'jobId', 'jobschedules': 'jobScheduleId'}[first] }}}"
    return template + ("/tasks/{taskId}" if len(rest) > 1 else "")


def same(sent: Any, shown: Any) -> bool:
    """Whether what is shown holds what was sent; defaults and the service's own additions may join it, secrets go."""
    if isinstance(sent, dict):
        return isinstance(shown, dict) and all(
            same(value, shown.get(name)) for name, value in sent.items() if name not in WRITE_ONLY
        )
    if isinstance(sent, list):
        return isinstance(shown, list) and len(sent) == len(shown) and all(map(same, sent, shown))
    if isinstance(sent, str) and isinstance(shown, str):
        return sent.lower() == shown.lower()
    return bool(sent == shown)
