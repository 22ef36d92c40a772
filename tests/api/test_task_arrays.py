"""Task arrays over the wire: what is asked for, and what is refused."""

from typing import Any

import pytest

from tests.api.client import Answer
from tests.api.conftest import World


def sweep(*sets: tuple[int, ...], **repeat: Any) -> dict[str, Any]:
    names = ("start", "end", "step")
    return {
        "type": "parametricSweep",
        "parameterSets": [dict(zip(names, values, strict=False)) for values in sets or ((1, 3),)],
        "repeatTask": {"commandLine": "run {0}", **repeat},
    }


async def add(world: World, factory: dict[str, Any], job: str = "j1", **more: Any) -> Answer:
    return await world.call("POST", f"/jobs/{job}/addtaskarray", {"taskFactory": factory, **more})


async def shown(world: World, task_id: str, *names: str) -> list[Any]:
    body = (await world.call("GET", f"/jobs/j1/tasks/{task_id}")).json()
    return [body[name] for name in names]


async def test_an_array_is_added_and_said(busy: World) -> None:
    answer = await add(busy, sweep((5, 10, 3), (1, 2)), id="Sweep")
    assert answer.status == 201
    assert answer.json() == {
        "odata.metadata": "http://127.0.0.1:10010/$metadata#taskarrays/@Element",
        "id": "Sweep",
        "count": 4,
        "firstTaskId": "Sweep-0",
        "lastTaskId": "Sweep-3",
        "creationTime": "2026-11-21T04:30:48Z",
    }
    assert answer.headers["location"] == "http://127.0.0.1:10010/jobs/j1/tasks"
    got = await busy.call("GET", "/jobs/j1/tasks/sweep-3")
    assert got.headers["etag"] == answer.headers["etag"]


async def test_without_an_id_tasks_have_numbers(busy: World) -> None:
    answer = (await add(busy, sweep((1, 3)))).json()
    assert (answer["firstTaskId"], answer["lastTaskId"], "id" in answer) == ("0", "2", False)


async def test_placeholders_go_anywhere_texts_do(busy: World) -> None:
    factory = sweep(
        (7, 8),
        (100, 101),
        commandLine="/bin/sh -c 'for i in {{a,b}}; do echo ${{i}} {0:4} {1} {0}; done'",
        displayName="piece {1:2}",
        environmentSettings=[{"name": "INDEX", "value": "{0}"}],
        resourceFiles=[{"httpUrl": "https://h/in{0:3}", "filePath": "in/{1}"}],
        outputFiles=[
            {
                "filePattern": "*.txt",
                "destination": {"container": {"containerUrl": "https://h/c?sig=x", "path": "out/{0}-{1}"}},
                "uploadOptions": {"uploadCondition": "TaskSuccess"},
            }
        ],
        constraints={"maxWallClockTime": "PT01H", "maxTaskRetryCount": "2"},
        requiredSlots=2,
    )
    assert (await add(busy, factory, id="s")).status == 201
    names = ("commandLine", "displayName", "environmentSettings", "resourceFiles", "outputFiles", "requiredSlots")
    command, display, environment, inputs, outputs, slots = await shown(busy, "s-3", *names)
    assert command == "/bin/sh -c 'for i in {a,b}; do echo ${i} 0008 101 8; done'"
    assert (display, slots) == ("piece 101", 2)
    assert environment == [{"name": "INDEX", "value": "8"}]
    assert inputs == [{"httpUrl": "https://h/in008", "filePath": "in/101"}]
    assert outputs[0]["destination"]["container"]["path"] == "out/8-101"
    assert outputs[0]["uploadOptions"] == {"uploadCondition": "tasksuccess"}
    (constraints,) = await shown(busy, "s-3", "constraints")
    assert constraints == {"maxWallClockTime": "PT1H", "retentionTime": "P7D", "maxTaskRetryCount": 2}


async def test_overrides_replace_properties(busy: World) -> None:
    overrides = [
        {"start": 4, "end": 5, "repeatTask": {"requiredSlots": 3, "displayName": "big {0}"}},
        {"start": 1, "repeatTask": {"commandLine": "other {0}", "constraints": {"maxTaskRetryCount": 9}}},
    ]
    assert (await add(busy, sweep((10, 15), displayName="d"), id="s", overrides=overrides)).status == 201
    seen = [await shown(busy, f"s-{index}", "commandLine", "displayName", "requiredSlots") for index in range(6)]
    assert seen == [
        ["run 10", "d", 1],
        ["other 11", "d", 1],
        ["run 12", "d", 1],
        ["run 13", "d", 1],
        ["run 14", "big 14", 3],
        ["run 15", "big 15", 3],
    ]
    ((constraints,), array) = await shown(busy, "s-1", "constraints"), busy.control.events[-1].array
    assert constraints["maxTaskRetryCount"] == array.task(1).max_retry_count == 9
    assert [array.task(index).required_slots for index in (0, 4)] == [1, 3]


REPEAT = "taskFactory.repeatTask"
SETS = "taskFactory.parameterSets"
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "a b"}, "InvalidPropertyValue", "id"),
    ({"id": "x" * 63}, "InvalidPropertyValue", "id"),
    ({"taskFactory": sweep() | {"type": "taskPerFile"}}, "InvalidPropertyValue", "taskFactory.type"),
    ({"taskFactory": sweep() | {"parameterSets": []}}, "InvalidPropertyValue", SETS),
    ({"taskFactory": sweep((1, 2, 0))}, "InvalidPropertyValue", f"{SETS}[0].step"),
    ({"taskFactory": sweep((1, 2), (1, 5, -1))}, "InvalidPropertyValue", f"{SETS}[1].step"),
    ({"taskFactory": sweep((1, 1001), (1, 1000))}, "InvalidPropertyValue", SETS),
    ({"taskFactory": {"type": "parametricSweep", "repeatTask": {}}}, "MissingRequiredProperty", SETS),
    ({"taskFactory": sweep() | {"mergeTask": {}}}, "UnsupportedProperty", "taskFactory.mergeTask"),
    ({"taskFactory": sweep(id="x")}, "UnsupportedProperty", f"{REPEAT}.id"),
    ({"taskFactory": sweep(dependsOn={"taskIds": ["a"]})}, "UnsupportedProperty", f"{REPEAT}.dependsOn"),
    (
        {"taskFactory": sweep(multiInstanceSettings={"coordinationCommandLine": "x"})},
        "UnsupportedProperty",
        f"{REPEAT}.multiInstanceSettings",
    ),
    ({"taskFactory": sweep(unknown=1)}, "UnsupportedProperty", f"{REPEAT}.unknown"),
    ({"taskFactory": sweep(commandLine=None)}, "MissingRequiredProperty", f"{REPEAT}.commandLine"),
    ({"taskFactory": sweep(commandLine=" ")}, "InvalidPropertyValue", f"{REPEAT}.commandLine"),
    ({"taskFactory": sweep(commandLine="{1}")}, "InvalidPropertyValue", f"{REPEAT}.commandLine"),
    ({"taskFactory": sweep(commandLine="${HOME}")}, "InvalidPropertyValue", f"{REPEAT}.commandLine"),
    ({"taskFactory": sweep(commandLine="a\ue000b")}, "InvalidPropertyValue", f"{REPEAT}.commandLine"),
    ({"taskFactory": sweep(requiredSlots="{0}")}, "InvalidPropertyValue", f"{REPEAT}.requiredSlots"),
    (
        {"taskFactory": sweep(constraints={"maxWallClockTime": "PT{0}M"})},
        "InvalidPropertyValue",
        f"{REPEAT}.constraints.maxWallClockTime",
    ),
    (
        {"taskFactory": sweep(environmentSettings=[{"name": "A{", "value": "x"}])},
        "InvalidPropertyValue",
        f"{REPEAT}.environmentSettings[0].name",
    ),
    ({"taskFactory": sweep(containerSettings={"imageName": "x"})}, "NotImplemented", f"{REPEAT}.containerSettings"),
    # Only the last of them is too long.
    ({"taskFactory": sweep((9, 10), displayName="x" * 1023 + "{0}")}, "InvalidPropertyValue", f"{REPEAT}.displayName"),
    # Neither the first nor the last.
    (
        {"taskFactory": sweep((1, 2), (-10, 3), displayName="x" * 1022 + "{1}")},
        "InvalidPropertyValue",
        f"{REPEAT}.displayName",
    ),
    ({"overrides": [{"start": 3, "repeatTask": {}}]}, "InvalidPropertyValue", "overrides[0]"),
    ({"overrides": [{"start": 1, "end": 0, "repeatTask": {}}]}, "InvalidPropertyValue", "overrides[0]"),
    (
        {"overrides": [{"start": 1, "end": 2, "repeatTask": {}}, {"start": 0, "end": 1, "repeatTask": {}}]},
        "InvalidPropertyValue",
        "overrides[1]",
    ),
    (
        {"overrides": [{"start": 2, "repeatTask": {}}, {"start": 1, "repeatTask": {"requiredSlots": 0}}]},
        "InvalidPropertyValue",
        "overrides[1].repeatTask.requiredSlots",
    ),
    (
        {"overrides": [{"start": 1, "repeatTask": {"dependsOn": {}}}]},
        "UnsupportedProperty",
        "overrides[0].repeatTask.dependsOn",
    ),
    ({"overrides": [{"start": 0, "repeatTask": {}}] * 1001}, "InvalidPropertyValue", "overrides"),
]


@pytest.mark.parametrize(("changes", "code", "name"), BAD)
async def test_what_is_wrong_is_named(busy: World, changes: dict[str, Any], code: str, name: str) -> None:
    body = {"id": "s", "taskFactory": sweep(), **changes}
    answer = await busy.call("POST", "/jobs/j1/addtaskarray", body)
    assert answer.code == code
    assert answer.values()["PropertyName"] == name
    assert (await busy.call("GET", "/jobs/j1/tasks/s-0")).status == 404


async def test_the_task_that_is_wrong_is_named(busy: World) -> None:
    answer = await add(busy, sweep((99, 100), displayName="x" * 1022 + "{0}"), id="s")
    assert "s-1" in answer.json()["message"]["value"]


async def test_a_job_action_needs_a_job_that_performs_it(busy: World) -> None:
    conditions = {"default": {"jobAction": "terminate"}}
    answer = await add(busy, sweep(exitConditions=conditions))
    assert answer.code == "InvalidPropertyValue"
    await busy.add_job("acts", onTaskFailure="performexitoptionsjobaction")
    assert (await add(busy, sweep(exitConditions=conditions), job="acts")).status == 201


async def test_no_job(busy: World) -> None:
    assert (await add(busy, sweep(), job="none")).code == "JobNotFound"


async def test_an_id_that_is_taken(busy: World) -> None:
    await busy.add_task("s-1")
    assert (await add(busy, sweep(), id="S")).code == "TaskExists"
