"""Whatever is sent, the answer is one of the catalogue: never a 500, never an exception."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millpond.api.handlers import HANDLERS
from millpond.api.operations import OPERATIONS, Operation
from millpond.domain.errors import CATALOGUE
from tests.api.calls import PARAMS
from tests.api.conftest import MACHINE, NODE, World

WRITING = [
    operation
    for operation in OPERATIONS
    if operation.name in HANDLERS and operation.method in ("POST", "PUT", "PATCH", "DELETE")
]
LIVE = "follow_task_file"
"""Its answer ends with the task."""
READING = [
    operation
    for operation in OPERATIONS
    if operation.name in HANDLERS and operation.method in ("GET", "HEAD") and operation.name != LIVE
]

NAMES = st.sampled_from(
    [
        "id",
        "displayName",
        "commandLine",
        "value",
        "poolInfo",
        "poolId",
        "autoPoolSpecification",
        "priority",
        "constraints",
        "maxTaskRetryCount",
        "maxWallClockTime",
        "retentionTime",
        "vmSize",
        "virtualMachineConfiguration",
        "imageReference",
        "nodeAgentSKUId",
        "resizeTimeout",
        "targetDedicatedNodes",
        "taskSlotsPerNode",
        "taskSchedulingPolicy",
        "nodeFillType",
        "metadata",
        "name",
        "resourceFiles",
        "httpUrl",
        "filePath",
        "outputFiles",
        "filePattern",
        "destination",
        "container",
        "containerUrl",
        "uploadOptions",
        "uploadCondition",
        "dependsOn",
        "taskIds",
        "taskIdRanges",
        "start",
        "end",
        "exitConditions",
        "exitCodes",
        "code",
        "exitOptions",
        "jobAction",
        "default",
        "disableTasks",
        "terminateReason",
        "requiredSlots",
        "userIdentity",
        "autoUser",
        "scope",
        "environmentSettings",
        "affinityInfo",
        "affinityId",
        "networkConfiguration",
        "extensions",
        "startTask",
        "waitForSuccess",
        "userAccounts",
        "password",
        "linuxUserConfiguration",
        "enableInterNodeCommunication",
        "jobManagerTask",
        "killJobOnCompletion",
        "jobPreparationTask",
        "jobReleaseTask",
        "autoPoolIdPrefix",
        "poolLifetimeOption",
        "keepAlive",
        "pool",
        "multiInstanceSettings",
        "numberOfInstances",
        "coordinationCommandLine",
        "commonResourceFiles",
        "authenticationTokenSettings",
        "access",
        "settings",
        "onAllTasksComplete",
        "onTaskFailure",
        "containerSettings",
        "applicationPackageReferences",
        "applicationId",
        "version",
        "schedule",
        "jobSpecification",
        "doNotRunUntil",
        "doNotRunAfter",
        "startWindow",
        "recurrenceInterval",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["PT15M", "P7D", "PT0S", "-1", "1", "terminate", "job", "spread", "https://h/x", "../x", "t1"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
GOOD: dict[str, Any] = {
    "create_pool": {"id": "p2", "vmSize": "standard_a1_v2", "virtualMachineConfiguration": MACHINE},
    "create_job": {"id": "j2", "poolInfo": {"poolId": "p1"}},
    "replace_job": {"poolInfo": {"poolId": "p1"}},
    "create_job_schedule": {
        "id": "s2",
        "schedule": {"recurrenceInterval": "PT1H"},
        "jobSpecification": {"poolInfo": {"poolId": "p1"}},
    },
    "update_job_schedule": {"schedule": {"startWindow": "PT5M"}},
    "replace_job_schedule": {"jobSpecification": {"poolInfo": {"poolId": "p1"}}},
    "disable_job": {"disableTasks": "wait"},
    "create_task": {"id": "t2", "commandLine": "true"},
    "resize_pool": {"targetDedicatedNodes": 1},
}
CODES = {code.value for code in CATALOGUE}
SLOW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def target_of(operation: Operation) -> str:
    return operation.path.format(**PARAMS)


async def prepared(directory: str) -> World:
    world = World(Path(directory))
    await world.add_pool()
    world.add_node()
    await world.add_job()
    await world.add_task()
    await world.add_job_schedule()
    world.control.files.files[NODE, "wd/x"] = b"x"
    return world


async def check(operation: Operation, bodies: list[Any], query: str = "", headers: Any = None) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = await prepared(directory)
        for body in bodies:
            answer = await world.call(operation.method, target_of(operation), body, query=query, headers=headers)
            assert answer.status != 500, answer.body
            if answer.status >= 400 and operation.method != "HEAD":
                assert answer.code in CODES
                assert answer.json()["message"]["value"].split("\n")[0]
        # What was taken can be read again.
        for path in ("/pools", "/jobs", "/jobs/j1/tasks", "/jobschedules", "/nodecounts"):
            assert (await world.call("GET", path)).status == 200


@pytest.mark.parametrize("operation", WRITING, ids=lambda operation: operation.name)
@given(anything=JSON, change=st.dictionaries(NAMES, JSON, max_size=3), raw=st.binary(max_size=40))
@SLOW
def test_random_bodies(operation: Operation, anything: Any, change: dict[str, Any], raw: bytes) -> None:
    good = GOOD.get(operation.name, {})
    bodies = [anything, {**good, **change}, raw]
    if operation.name == "create_task_collection":
        bodies.append({"value": [{"id": "t3", "commandLine": "x", **change}, {"id": "t4", "commandLine": "y"}]})
    asyncio.run(check(operation, bodies))


@pytest.mark.parametrize("operation", READING, ids=lambda operation: operation.name)
@given(
    option=st.sampled_from(["$filter", "$select", "$expand", "maxresults", "$skiptoken", "recursive", "timeout"]),
    value=st.text(st.characters(codec="ascii", categories=("L", "N")) | st.sampled_from("'()_-/,%20"), max_size=30),
    header=st.sampled_from(["ocp-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]),
    text=st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=30),
)
@SLOW
def test_random_reads(operation: Operation, option: str, value: str, header: str, text: str) -> None:
    asyncio.run(check(operation, [None], query=f"{option}={value}", headers={header: text}))
