"""Jobs over the wire."""

from typing import Any

import pytest

from millpond.domain import events as e
from millpond.domain.job import SchedulingError
from millpond.domain.states import DisableJobOption, ErrorCategory, JobState, OnAllTasksComplete
from millpond.domain.task import NameValue, TaskCounts
from tests.api.conftest import World

UNLIMITED = "P10675199DT2H48M5.4775807S"


async def test_create_and_get_with_defaults(world: World) -> None:
    answer = await world.call("POST", "/jobs", {"id": "j1", "poolInfo": {"poolId": "p1"}})
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers["location"] == "http://127.0.0.1:10010/jobs/j1"
    got = await world.call("GET", "/jobs/j1")
    assert got.json() == {
        "odata.metadata": "http://127.0.0.1:10010/$metadata#jobs/@Element",
        "id": "j1",
        "url": "http://127.0.0.1:10010/jobs/j1",
        "eTag": answer.headers["etag"],
        "lastModified": "2026-11-21T04:30:48Z",
        "creationTime": "2026-11-21T04:30:48Z",
        "state": "active",
        "stateTransitionTime": "2026-11-21T04:30:48Z",
        "priority": 0,
        "maxParallelTasks": -1,
        "allowTaskPreemption": False,
        "usesTaskDependencies": False,
        "constraints": {"maxWallClockTime": UNLIMITED, "maxTaskRetryCount": 0},
        "poolInfo": {"poolId": "p1"},
        "onAllTasksComplete": "noaction",
        "onTaskFailure": "noaction",
        "executionInfo": {"startTime": "2026-11-21T04:30:48Z", "poolId": "p1"},
    }


async def test_everything_given_is_shown(world: World) -> None:
    more = {
        "displayName": "Film",
        "priority": "3",
        "maxParallelTasks": 5,
        "usesTaskDependencies": True,
        "constraints": {"maxWallClockTime": "PT01H00M00S", "maxTaskRetryCount": "4"},
        "commonEnvironmentSettings": [{"name": "A", "value": "b"}, {"name": "EMPTY"}],
        "onAllTasksComplete": "TerminateJob",
        "onTaskFailure": "performExitOptionsJobAction",
        "metadata": [{"name": "a", "value": ""}],
        "networkConfiguration": {"subnetId": "/s", "skipWithdrawFromVNet": True},
    }
    await world.add_job(**more)
    body = (await world.call("GET", "/jobs/j1")).json()
    job = world.control.store.jobs["j1"]
    assert (job.max_wall_clock_s, job.max_task_retry_count) == (3600, 4)
    assert job.on_all_tasks_complete is OnAllTasksComplete.TERMINATE_JOB
    assert body["constraints"] == {"maxWallClockTime": "PT1H", "maxTaskRetryCount": 4}
    assert body["commonEnvironmentSettings"] == more["commonEnvironmentSettings"]
    assert (body["priority"], body["maxParallelTasks"], body["usesTaskDependencies"]) == (3, 5, True)
    assert (body["onAllTasksComplete"], body["onTaskFailure"]) == ("terminatejob", "performexitoptionsjobaction")
    assert body["networkConfiguration"] == {"subnetId": "/s", "skipWithdrawFromVNet": True}
    assert body["metadata"] == [{"name": "a", "value": ""}]


@pytest.mark.parametrize(
    ("change", "status", "code", "named"),
    [
        ({"id": "a:b"}, 400, "InvalidPropertyValue", "id"),
        ({"priority": 1001}, 400, "OutOfRangePriority", "priority"),
        ({"priority": -1001}, 400, "OutOfRangePriority", "priority"),
        ({"maxParallelTasks": 0}, 400, "InvalidPropertyValue", "maxParallelTasks"),
        ({"constraints": {"maxWallClockTime": "PT0S"}}, 400, "InvalidPropertyValue", "constraints.maxWallClockTime"),
        ({"constraints": {"maxWallClockTime": "-PT5M"}}, 400, "InvalidPropertyValue", "constraints.maxWallClockTime"),
        ({"constraints": {"maxTaskRetryCount": -2}}, 400, "InvalidPropertyValue", "constraints.maxTaskRetryCount"),
        ({"poolInfo": {}}, 400, "MissingRequiredProperty", "poolInfo.poolId"),
        ({"poolInfo": None}, 400, "MissingRequiredProperty", "poolInfo"),
        ({"poolInfo": {"poolId": "../x"}}, 400, "InvalidPropertyValue", "poolInfo.poolId"),
        (
            {"poolInfo": {"poolId": "p", "autoPoolSpecification": {"poolLifetimeOption": "job"}}},
            400,
            "InvalidPropertyValue",
            "poolInfo",
        ),
        ({"onTaskFailure": "panic"}, 400, "InvalidPropertyValue", "onTaskFailure"),
        (
            {"commonEnvironmentSettings": [{"name": "A=B", "value": ""}]},
            400,
            "InvalidPropertyValue",
            "commonEnvironmentSettings[0].name",
        ),
        (
            {"commonEnvironmentSettings": [{"name": "A", "value": "\0"}]},
            400,
            "InvalidPropertyValue",
            "commonEnvironmentSettings[0].value",
        ),
    ],
)
async def test_bad_bodies(world: World, change: dict[str, Any], status: int, code: str, named: str) -> None:
    answer = await world.call("POST", "/jobs", {"id": "j1", "poolInfo": {"poolId": "p1"}, **change})
    assert (answer.status, answer.code) == (status, code)
    assert answer.values()["PropertyName"] == named
    assert not world.control.store.jobs


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "InvalidRequestBody"),
        (b"   ", "InvalidRequestBody"),
        (b"{", "InvalidRequestBody"),
        (b"[]", "InvalidRequestBody"),
        (b'"text"', "InvalidRequestBody"),
        (b"null", "InvalidRequestBody"),
        (b'{"id":"\xff"}', "InvalidRequestBody"),
        (b'{"id":"\\ud800"}', "InvalidRequestBody"),
        (b'{"id":"j","poolInfo":{"poolId":"p"}} trailing', "InvalidRequestBody"),
        (b'{"jobManagerTask":{"containerSettings":{"a":' + b"[" * 100000, "InvalidRequestBody"),
        (b"{}", "MissingRequiredProperty"),
    ],
)
async def test_bodies_that_are_no_job(world: World, body: bytes, code: str) -> None:
    answer = await world.call("POST", "/jobs", body)
    assert (answer.status, answer.code) == (400, code)


async def test_a_body_too_large(world: World) -> None:
    answer = await world.call("POST", "/jobs", b" " * (4 * 1024 * 1024 + 1))
    assert (answer.status, answer.code) == (413, "RequestBodyTooLarge")
    assert answer.headers["connection"] == "close"


async def test_patch_changes_what_is_given(busy: World) -> None:
    await busy.add_job("full", priority=5, metadata=[{"name": "a", "value": "b"}])
    tag = (await busy.call("GET", "/jobs/full")).headers["etag"]
    body = {"constraints": {"maxTaskRetryCount": 2}, "onAllTasksComplete": "terminatejob"}
    answer = await busy.call("PATCH", "/jobs/full", body, headers={"If-Match": f'"{tag}"'})
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["etag"] != tag
    event = busy.control.events[-1]
    assert isinstance(event, e.JobUpdated)
    assert (event.changes.priority, event.changes.pool_id) == (None, None)
    assert event.changes.constraints == (None, 2)
    got = (await busy.call("GET", "/jobs/full")).json()
    assert (got["priority"], got["metadata"]) == (5, [{"name": "a", "value": "b"}])
    assert got["constraints"]["maxTaskRetryCount"] == 2
    assert got["onAllTasksComplete"] == "terminatejob"
    late = await busy.call("PATCH", "/jobs/full", {"priority": 1}, headers={"If-Match": tag})
    assert (late.status, late.code) == (412, "ConditionNotMet")


async def test_put_gives_defaults_to_what_is_not_given(busy: World) -> None:
    await busy.add_job("full", priority=5, maxParallelTasks=3, metadata=[{"name": "a", "value": "b"}])
    read = (await busy.call("GET", "/jobs/full")).json()
    body = {"odata.metadata": read["odata.metadata"], "priority": 3, "poolInfo": {"poolId": "P1"}}
    answer = await busy.call("PUT", "/jobs/full", body)  # the SDK sends the metadata it read back
    assert answer.status == 200
    assert busy.control.events[-1].changes.pool_id is None
    assert "odata.metadata" not in busy.control.events[-1].changes.spec
    got = (await busy.call("GET", "/jobs/full")).json()
    assert (got["priority"], got["maxParallelTasks"]) == (3, -1)
    assert "metadata" not in got
    assert got["constraints"] == {"maxWallClockTime": UNLIMITED, "maxTaskRetryCount": 0}
    assert got["poolInfo"] == {"poolId": "p1"}
    answer = await busy.call("PUT", "/jobs/full", {"priority": 3})
    assert (answer.status, answer.code) == (400, "MissingRequiredProperty")
    await busy.call("PATCH", "/jobs/full", {"poolInfo": {"poolId": "p2"}})
    assert busy.control.events[-1].changes.pool_id == "p2"


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_updates_of_what_cannot_be(busy: World, method: str) -> None:
    pool = {"poolInfo": {"poolId": "p1"}}
    assert (await busy.call(method, "/jobs/j1", {**pool, "id": "j1"})).code == "UnsupportedProperty"
    assert (await busy.call(method, "/jobs/none", pool)).code == "JobNotFound"
    assert (await busy.call(method, "/jobs/j1", {**pool, "priority": 5000})).code == "OutOfRangePriority"


@pytest.mark.parametrize("option", ["requeue", "Terminate", "wait"])
async def test_disable(busy: World, option: str) -> None:
    answer = await busy.call("POST", "/jobs/j1/disable", {"disableTasks": option})
    assert (answer.status, answer.body) == (202, b"")
    assert busy.control.events[-1].option is DisableJobOption(option.lower())
    assert (await busy.call("GET", "/jobs/j1")).json()["state"] == "disabling"


async def test_disable_needs_to_know_how(busy: World) -> None:
    assert (await busy.call("POST", "/jobs/j1/disable", {})).code == "MissingRequiredProperty"
    assert (await busy.call("POST", "/jobs/j1/disable")).code == "InvalidRequestBody"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "UserTerminate"),
        ({}, "UserTerminate"),
        (b" ", "UserTerminate"),
        ({"terminateReason": "enough"}, "enough"),
    ],
)
@pytest.mark.parametrize("query", ["", "force=true", "force=False"])
async def test_terminate(busy: World, body: Any, reason: str, query: str) -> None:
    headers = {"content-type": "application/json; odata=minimalmetadata"}
    answer = await busy.call("POST", "/jobs/j1/terminate", body, query=query, headers=headers)
    assert (answer.status, answer.body) == (202, b"")
    assert busy.control.events[-1].reason == reason


async def test_terminate_with_a_long_reason_or_a_strange_force(busy: World) -> None:
    answer = await busy.call("POST", "/jobs/j1/terminate", {"terminateReason": "x" * 2000})
    assert answer.code == "InvalidPropertyValue"
    answer = await busy.call("POST", "/jobs/j1/terminate", query="force=maybe")
    assert answer.code == "InvalidQueryParameterValue"


async def test_enable_and_delete(busy: World) -> None:
    answer = await busy.call("POST", "/jobs/j1/enable")
    assert (answer.status, answer.body) == (202, b"")
    assert (await busy.call("GET", "/jobs/j1")).json()["state"] == "enabling"
    answer = await busy.call("DELETE", "/jobs/j1", query="force=true")
    assert (answer.status, answer.body) == (202, b"")
    assert (await busy.call("GET", "/jobs/j1")).json()["state"] == "deleting"
    for method, path in (("DELETE", ""), ("POST", "/enable"), ("POST", "/terminate")):
        assert (await busy.call(method, f"/jobs/none{path}")).code == "JobNotFound"


async def test_a_completed_job(busy: World) -> None:
    job = busy.control.store.jobs["j1"]
    job.state, job.previous_state = JobState.COMPLETED, JobState.TERMINATING
    job.previous_state_time = job.end_time = busy.now + 1.5
    job.terminate_reason = "AllTasksComplete"
    body = (await busy.call("GET", "/jobs/j1")).json()
    assert (body["state"], body["previousState"]) == ("completed", "terminating")
    assert body["previousStateTransitionTime"] == "2026-11-21T04:30:49.5Z"
    assert body["executionInfo"] == {
        "startTime": "2026-11-21T04:30:48Z",
        "endTime": "2026-11-21T04:30:49.5Z",
        "poolId": "p1",
        "terminateReason": "AllTasksComplete",
    }


async def test_task_counts(busy: World) -> None:
    busy.control.store.jobs["j1"].counts = TaskCounts(1, 2, 3, 4, 10, 20, 30, 40)
    body = (await busy.call("GET", "/jobs/j1/taskcounts")).json()
    assert body["taskCounts"] == {"active": 1, "running": 2, "completed": 7, "succeeded": 3, "failed": 4}
    assert body["taskSlotCounts"] == {"active": 10, "running": 20, "completed": 70, "succeeded": 30, "failed": 40}
    assert (await busy.call("GET", "/jobs/none/taskcounts")).code == "JobNotFound"


async def test_list(busy: World) -> None:
    await busy.add_job("j2")
    body = (await busy.call("GET", "/jobs", query="$select=id,state")).json()
    assert body["value"] == [{"id": "j1", "state": "active"}, {"id": "j2", "state": "active"}]
    body = (await busy.call("GET", "/jobs", query="$filter=id%20eq%20'J2'&maxresults=1")).json()
    assert [job["id"] for job in body["value"]] == ["j2"]
    assert (await busy.call("GET", "/jobs", query="$skiptoken=eA")).code == "InvalidQueryParameterValue"


async def test_conditional_reads(busy: World) -> None:
    tag = (await busy.call("GET", "/jobs/j1")).headers["etag"]
    assert (await busy.call("GET", "/jobs/j1", headers={"If-None-Match": tag})).status == 304
    assert (await busy.call("GET", "/jobs/j1", query="$select=id")).json().keys() == {"odata.metadata", "id"}


async def test_preemption_can_be_allowed_and_forbidden(world: World) -> None:
    await world.add_job(allowTaskPreemption=True)
    job = world.control.store.jobs["j1"]
    assert job.allow_task_preemption is True
    assert (await world.call("GET", "/jobs/j1")).json()["allowTaskPreemption"] is True
    await world.call("PATCH", "/jobs/j1", {"priority": 1})
    assert world.control.events[-1].changes.allow_task_preemption is None
    assert job.allow_task_preemption is True
    await world.call("PATCH", "/jobs/j1", {"allowTaskPreemption": False})
    assert world.control.events[-1].changes.allow_task_preemption is False
    await world.call("PATCH", "/jobs/j1", {"allowTaskPreemption": True})
    # A replacement that does not name it sets it back.
    await world.call("PUT", "/jobs/j1", {"poolInfo": {"poolId": "p1"}})
    assert world.control.events[-1].changes.allow_task_preemption is False
    assert (await world.call("GET", "/jobs/j1")).json()["allowTaskPreemption"] is False


async def test_another_pool(world: World) -> None:
    await world.add_job()
    for method in ("PATCH", "PUT"):
        assert (await world.call(method, "/jobs/j1", {"poolInfo": {"poolId": "P1"}})).status == 200
        changes = world.control.events[-1].changes
        assert (changes.pool_id, "poolInfo" in changes.spec) == (None, False)
        assert (await world.call(method, "/jobs/j1", {"poolInfo": {"poolId": "other"}})).status == 200
        changes = world.control.events[-1].changes
        assert (changes.pool_id, changes.spec["poolInfo"]) == ("other", {"poolId": "other"})
        world.control.store.jobs["j1"].pool_id = "p1"


async def test_a_job_that_could_not_be_scheduled_says_why(world: World) -> None:
    await world.add_job()
    job = world.control.store.jobs["j1"]
    assert "schedulingError" not in (await world.call("GET", "/jobs/j1")).json()["executionInfo"]
    details = (NameValue("Reason", "no"),)
    job.scheduling_error = SchedulingError(ErrorCategory.USER_ERROR, "InvalidAutoPoolSettings", "why", details)
    assert (await world.call("GET", "/jobs/j1")).json()["executionInfo"]["schedulingError"] == {
        "category": "usererror",
        "code": "InvalidAutoPoolSettings",
        "message": "why",
        "details": [{"name": "Reason", "value": "no"}],
    }
