"""Start, job preparation, job release and job manager tasks: what is taken, refused, stored and shown."""

import json
from typing import Any

import pytest

from millpond.control.base import NewJob
from millpond.domain.special_task import (
    JobNode,
    JobPreparationRules,
    JobReleaseRules,
    SpecialTaskInfo,
    StartTaskRules,
)
from millpond.domain.states import ErrorCategory, SpecialTaskState
from millpond.domain.task import FailureInfo, JobManagerRules
from tests.api.client import NOW
from tests.api.conftest import MACHINE, NODE, World

POOL = {"id": "p1", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE}
JOB = {"id": "j1", "poolInfo": {"poolId": "p1"}}
UNLIMITED = "P10675199DT2H48M5.4775807S"
POOL_USER = {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}}
PREPARATION = {"commandLine": "prepare"}
RELEASE = {"commandLine": "release"}


def added(world: World) -> NewJob:
    (new,) = world.control.added
    return new


# --- start task ------------------------------------------------------------------------------------------------------


async def test_a_start_task_and_its_defaults(world: World) -> None:
    start_task = {
        "commandLine": "install",
        "environmentSettings": [{"name": "A", "value": "b"}],
        "resourceFiles": [{"httpUrl": "http://s/f", "filePath": "f"}],
        "userIdentity": {"autoUser": {"scope": "Pool", "elevationLevel": "Admin"}},
    }
    await world.add_pool(startTask=start_task)
    assert world.control.store.pools["p1"].start_task == StartTaskRules(max_retry_count=0, wait_for_success=True)
    shown = (await world.call("GET", "/pools/p1")).json()["startTask"]
    assert shown == {
        **start_task,
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
        "maxTaskRetryCount": 0,
        "waitForSuccess": True,
    }
    world.add_node()
    node = (await world.call("GET", f"/pools/p1/nodes/{NODE}")).json()
    assert node["startTask"] == shown
    assert "startTaskInfo" not in node


async def test_a_start_task_as_given(world: World) -> None:
    await world.add_pool(startTask={"commandLine": "x", "maxTaskRetryCount": "-1", "waitForSuccess": False})
    assert world.control.store.pools["p1"].start_task == StartTaskRules(max_retry_count=-1, wait_for_success=False)


@pytest.mark.parametrize(
    ("change", "status", "code", "named"),
    [
        ({"commandLine": " "}, 400, "InvalidPropertyValue", "startTask.commandLine"),
        ({"commandLine": None}, 400, "MissingRequiredProperty", "startTask.commandLine"),
        ({"maxTaskRetryCount": -2}, 400, "InvalidPropertyValue", "startTask.maxTaskRetryCount"),
        ({"constraints": {}}, 400, "UnsupportedProperty", "startTask.constraints"),
        ({"resourceFiles": [{}]}, 400, "InvalidPropertyValue", "startTask.resourceFiles[0]"),
        ({"environmentSettings": [{"name": ""}]}, 400, "InvalidPropertyValue", "startTask.environmentSettings[0].name"),
        ({"userIdentity": {}}, 400, "InvalidPropertyValue", "startTask.userIdentity"),
        ({"containerSettings": {"imageName": "i"}}, 501, "NotImplemented", "startTask.containerSettings"),
        (
            {"environmentSettings": [{"name": "A", "value": "\u00e4" * 32_800}]},
            413,
            "RequestEntityTooLarge",
            "startTask",
        ),
    ],
)
async def test_bad_start_tasks(world: World, change: dict[str, Any], status: int, code: str, named: str) -> None:
    answer = await world.call("POST", "/pools", {**POOL, "startTask": {"commandLine": "x", **change}})
    assert (answer.status, answer.code) == (status, code)
    assert answer.values()["PropertyName"] == named
    if code != "RequestEntityTooLarge":
        assert f"'{named}'" in answer.json()["message"]["value"]
    assert not world.control.store.pools


async def test_a_start_task_of_just_the_size(world: World) -> None:
    """Characters count, not bytes."""
    start_task = {"commandLine": "x", "environmentSettings": [{"name": "A", "value": ""}]}
    room = 32_768 - len(json.dumps(start_task, separators=(",", ":")))
    start_task["environmentSettings"] = [{"name": "A", "value": "\u00e4" * room}]
    assert (await world.call("POST", "/pools", {**POOL, "startTask": start_task})).status == 201
    start_task["environmentSettings"] = [{"name": "A", "value": "\u00e4" * (room + 1)}]
    assert (await world.call("POST", "/pools", {**POOL, "id": "p2", "startTask": start_task})).status == 413


FAILURE = FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", "it failed")


async def test_how_a_start_task_fares(world: World) -> None:
    await world.add_pool(startTask={"commandLine": "x"})
    node = world.add_node(start_task=SpecialTaskInfo(1, NOW))

    async def shown() -> Any:
        return (await world.call("GET", f"/pools/p1/nodes/{NODE}", query="$select=startTaskInfo")).json()[
            "startTaskInfo"
        ]

    start = "2026-11-21T04:30:48Z"
    assert await shown() == {"state": "running", "startTime": start, "retryCount": 0}
    info = node.start_task
    assert info is not None
    # Between retries the end of the last run is there, and not how it went.
    info.end_time, info.exit_code, info.failure = NOW + 1, 3, FAILURE
    info.retry_count, info.last_retry_time = 1, NOW + 2
    assert await shown() == {
        "state": "running",
        "startTime": start,
        "endTime": "2026-11-21T04:30:49Z",
        "retryCount": 1,
        "lastRetryTime": "2026-11-21T04:30:50Z",
    }
    info.state = SpecialTaskState.COMPLETED
    body = await shown()
    assert (body["state"], body["exitCode"], body["result"]) == ("completed", 3, "failure")
    assert body["failureInfo"] == {"category": "usererror", "code": "FailureExitCode", "message": "it failed"}
    info.exit_code, info.failure = 0, None
    body = await shown()
    assert (body["exitCode"], body["result"]) == (0, "success")
    assert "failureInfo" not in body


# --- preparation and release -----------------------------------------------------------------------------------------


async def test_preparation_and_release_and_their_defaults(world: World) -> None:
    await world.add_job(jobPreparationTask=PREPARATION, jobReleaseTask=RELEASE)
    job = world.control.store.jobs["j1"]
    assert job.preparation == JobPreparationRules("jobpreparation", 0, True, True)
    assert job.release == JobReleaseRules("jobrelease", 900.0)
    body = (await world.call("GET", "/jobs/j1")).json()
    assert body["jobPreparationTask"] == {
        "id": "jobpreparation",
        "commandLine": "prepare",
        "constraints": {"maxWallClockTime": UNLIMITED, "retentionTime": "P7D", "maxTaskRetryCount": 0},
        "waitForSuccess": True,
        "userIdentity": POOL_USER,
        "rerunOnNodeRebootAfterSuccess": True,
    }
    assert body["jobReleaseTask"] == {
        "id": "jobrelease",
        "commandLine": "release",
        "maxWallClockTime": "PT15M",
        "retentionTime": "P7D",
        "userIdentity": POOL_USER,
    }


async def test_preparation_and_release_as_given(world: World) -> None:
    await world.add_job(
        jobPreparationTask={
            "id": "Prep",
            "commandLine": "x",
            "constraints": {"maxTaskRetryCount": 5, "retentionTime": "PT60M"},
            "waitForSuccess": False,
            "rerunOnNodeRebootAfterSuccess": False,
            "userIdentity": {"username": "alice"},
        },
        jobReleaseTask={"id": "Rel", "commandLine": "y", "maxWallClockTime": "PT30S", "retentionTime": "P1D"},
    )
    job = world.control.store.jobs["j1"]
    assert job.preparation == JobPreparationRules("Prep", 5, False, False)
    assert job.release == JobReleaseRules("Rel", 30.0)
    body = (await world.call("GET", "/jobs/j1", query="$select=jobPreparationTask")).json()
    assert body["jobPreparationTask"]["constraints"]["retentionTime"] == "PT1H"
    assert body["jobPreparationTask"]["userIdentity"] == {"username": "alice"}


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"jobReleaseTask": RELEASE}, "MissingRequiredProperty", "jobPreparationTask"),
        ({"jobPreparationTask": {}}, "MissingRequiredProperty", "jobPreparationTask.commandLine"),
        (
            {"jobPreparationTask": {**PREPARATION, "id": "a b"}},
            "InvalidPropertyValue",
            "jobPreparationTask.id",
        ),
        (
            {"jobPreparationTask": {**PREPARATION, "constraints": {"maxTaskRetryCount": -2}}},
            "InvalidPropertyValue",
            "jobPreparationTask.constraints.maxTaskRetryCount",
        ),
        (
            {"jobPreparationTask": PREPARATION, "jobReleaseTask": {**RELEASE, "maxWallClockTime": "PT15M1S"}},
            "InvalidPropertyValue",
            "jobReleaseTask.maxWallClockTime",
        ),
        (
            {"jobPreparationTask": PREPARATION, "jobReleaseTask": {**RELEASE, "maxWallClockTime": UNLIMITED}},
            "InvalidPropertyValue",
            "jobReleaseTask.maxWallClockTime",
        ),
        (
            {"jobPreparationTask": PREPARATION, "jobReleaseTask": {**RELEASE, "maxWallClockTime": "PT0S"}},
            "InvalidPropertyValue",
            "jobReleaseTask.maxWallClockTime",
        ),
        (
            {"jobPreparationTask": PREPARATION, "jobReleaseTask": {**RELEASE, "retentionTime": "soon"}},
            "InvalidPropertyValue",
            "jobReleaseTask.retentionTime",
        ),
        (
            {"jobPreparationTask": PREPARATION, "jobReleaseTask": {**RELEASE, "id": "JobPreparation"}},
            "InvalidPropertyValue",
            "jobReleaseTask.id",
        ),
        (
            {"jobPreparationTask": PREPARATION, "jobReleaseTask": {**RELEASE, "constraints": {}}},
            "UnsupportedProperty",
            "jobReleaseTask.constraints",
        ),
    ],
)
async def test_bad_preparation_and_release(world: World, change: dict[str, Any], code: str, named: str) -> None:
    answer = await world.call("POST", "/jobs", {**JOB, **change})
    assert (answer.status, answer.code) == (400, code)
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.jobs


async def test_status_of_preparation_and_release(world: World) -> None:
    await world.add_job(jobPreparationTask=PREPARATION, jobReleaseTask=RELEASE)
    world.control.store.job_nodes = [
        JobNode(1, "node-2", "p1", preparation=SpecialTaskInfo(1, NOW, retry_count=2, last_retry_time=NOW)),
        JobNode(
            1,
            "node-1",
            "P1",
            preparation=SpecialTaskInfo(1, NOW, SpecialTaskState.COMPLETED, end_time=NOW + 5, exit_code=0),
            release=SpecialTaskInfo(
                1, NOW + 10, SpecialTaskState.COMPLETED, end_time=NOW + 15, exit_code=1, failure=FAILURE
            ),
        ),
        JobNode(2, "node-9", "p1", preparation=SpecialTaskInfo(1, NOW)),
    ]
    answer = await world.call("GET", "/jobs/j1/jobpreparationandreleasetaskstatus")
    assert answer.status == 200
    first, second = answer.json()["value"]
    url = "http://127.0.0.1:10010/pools/P1/nodes/node-1"
    assert first == {
        "poolId": "P1",
        "nodeId": "node-1",
        "nodeUrl": url,
        "jobPreparationTaskExecutionInfo": {
            "state": "completed",
            "startTime": "2026-11-21T04:30:48Z",
            "endTime": "2026-11-21T04:30:53Z",
            "exitCode": 0,
            "result": "success",
            "retryCount": 0,
            "taskRootDirectory": "workitems/j1/job-1/jobpreparation",
            "taskRootDirectoryUrl": f"{url}/files/workitems/j1/job-1/jobpreparation",
        },
        "jobReleaseTaskExecutionInfo": {
            "state": "completed",
            "startTime": "2026-11-21T04:30:58Z",
            "endTime": "2026-11-21T04:31:03Z",
            "exitCode": 1,
            "result": "failure",
            "failureInfo": {"category": "usererror", "code": "FailureExitCode", "message": "it failed"},
            "taskRootDirectory": "workitems/j1/job-1/jobrelease",
            "taskRootDirectoryUrl": f"{url}/files/workitems/j1/job-1/jobrelease",
        },
    }
    info = second["jobPreparationTaskExecutionInfo"]
    assert (info["state"], info["retryCount"], "exitCode" in info, "endTime" in info) == ("running", 2, False, False)
    assert "jobReleaseTaskExecutionInfo" not in second

    path = "/jobs/j1/jobpreparationandreleasetaskstatus"
    page = (await world.call("GET", path, query="maxresults=1&$select=nodeId")).json()
    assert page["value"] == [{"nodeId": "node-1"}]
    _, _, query = page["odata.nextLink"].partition("?")
    rest = "&".join(part for part in query.split("&") if not part.startswith("api-version"))
    page = (await world.call("GET", path, query=rest)).json()
    assert page["value"] == [{"nodeId": "node-2"}]
    assert "odata.nextLink" not in page
    page = (await world.call("GET", path, query="$filter=nodeId%20eq%20%27node-2%27")).json()
    assert [row["nodeId"] for row in page["value"]] == ["node-2"]
    for query in ("$filter=id%20eq%20%27x%27", "$select=id", "$skiptoken=x", "maxresults=0"):
        assert (await world.call("GET", path, query=query)).status == 400


async def test_a_job_without_preparation_has_no_status(world: World) -> None:
    await world.add_job()
    answer = await world.call("GET", "/jobs/j1/jobpreparationandreleasetaskstatus")
    assert (answer.status, answer.code) == (409, "JobPreparationTaskNotSpecified")
    answer = await world.call("GET", "/jobs/none/jobpreparationandreleasetaskstatus")
    assert (answer.status, answer.code) == (404, "JobNotFound")


# --- job manager -----------------------------------------------------------------------------------------------------


async def test_a_job_manager_is_the_first_task(world: World) -> None:
    manager = {
        "id": "Manager",
        "displayName": "M",
        "commandLine": "manage",
        "resourceFiles": [{"httpUrl": "http://s/f", "filePath": "f"}],
        "outputFiles": [
            {
                "filePattern": "*",
                "destination": {"container": {"containerUrl": "http://s/c"}},
                "uploadOptions": {"uploadCondition": "tasksuccess"},
            }
        ],
        "environmentSettings": [{"name": "A", "value": "b"}],
        "constraints": {"maxTaskRetryCount": 2, "retentionTime": "P1D"},
        "requiredSlots": 2,
        "userIdentity": POOL_USER,
        "authenticationTokenSettings": {"access": ["Job"]},
    }
    await world.add_job(jobManagerTask=manager)
    task = added(world).manager
    assert task is not None
    assert (task.id, task.required_slots, task.max_retry_count) == ("Manager", 2, 2)
    rules = task.rules
    assert rules is not None
    assert rules.job_manager == JobManagerRules(True, True, True)
    assert (rules.job_access, rules.instances, rules.retention_s) == (True, 0, 86400.0)
    listed = (await world.call("GET", "/jobs/j1/tasks")).json()["value"]
    assert [one["id"] for one in listed] == ["Manager"]
    assert listed[0]["commandLine"] == "manage"
    assert listed[0]["authenticationTokenSettings"] == {"access": ["job"]}
    assert listed[0]["outputFiles"] == manager["outputFiles"]
    assert "killJobOnCompletion" not in listed[0]
    shown = (await world.call("GET", "/jobs/j1")).json()["jobManagerTask"]
    assert shown == {
        **manager,
        "authenticationTokenSettings": {"access": ["job"]},
        "killJobOnCompletion": True,
        "runExclusive": True,
        "allowLowPriorityNode": True,
    }


async def test_a_job_manager_as_given(world: World) -> None:
    flags = {"killJobOnCompletion": False, "runExclusive": "false", "allowLowPriorityNode": False}
    await world.add_job(jobManagerTask={"id": "m", "commandLine": "x", **flags})
    task = added(world).manager
    assert task is not None
    assert task.rules is not None
    assert task.rules.job_manager == JobManagerRules(False, False, False)
    assert not task.rules.job_access
    assert (task.required_slots, task.max_retry_count) == (1, None)


@pytest.mark.parametrize(
    ("change", "status", "code", "named"),
    [
        ({"id": None}, 400, "MissingRequiredProperty", "jobManagerTask.id"),
        ({"id": "a:b"}, 400, "InvalidPropertyValue", "jobManagerTask.id"),
        ({"commandLine": ""}, 400, "InvalidPropertyValue", "jobManagerTask.commandLine"),
        ({"requiredSlots": 0}, 400, "InvalidPropertyValue", "jobManagerTask.requiredSlots"),
        ({"dependsOn": {}}, 400, "UnsupportedProperty", "jobManagerTask.dependsOn"),
        ({"multiInstanceSettings": {}}, 400, "UnsupportedProperty", "jobManagerTask.multiInstanceSettings"),
        ({"outputFiles": [{}]}, 400, "MissingRequiredProperty", "jobManagerTask.outputFiles[0].filePattern"),
        ({"containerSettings": {"imageName": "i"}}, 501, "NotImplemented", "jobManagerTask.containerSettings"),
        (
            {"applicationPackageReferences": [{"version": "1"}]},
            400,
            "MissingRequiredProperty",
            "jobManagerTask.applicationPackageReferences[0].applicationId",
        ),
        ({"id": "JOBPREPARATION"}, 409, "TaskIdSameAsJobPreparationTask", "jobManagerTask.id"),
        ({"id": "JobRelease"}, 409, "TaskIdSameAsJobReleaseTask", "jobManagerTask.id"),
    ],
)
async def test_bad_job_managers(world: World, change: dict[str, Any], status: int, code: str, named: str) -> None:
    manager = {"id": "m", "commandLine": "x", **change}
    body = {**JOB, "jobPreparationTask": PREPARATION, "jobReleaseTask": RELEASE, "jobManagerTask": manager}
    answer = await world.call("POST", "/jobs", body)
    assert (answer.status, answer.code) == (status, code)
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.jobs
    assert not world.control.store.tasks
