"""Job schedules over the wire."""

from typing import Any

import pytest

from millpond.api.intake.job_schedules import job_maker
from millpond.domain import events as e
from millpond.domain.errors import BatchError
from millpond.domain.job_schedule import Recurrence
from millpond.domain.states import PoolLifetimeOption
from millpond.providers.base import VmSize
from tests.api.client import NOW
from tests.api.conftest import MACHINE, World

TIME = "2026-11-21T04:30:48Z"
SPECIFICATION = {"poolInfo": {"poolId": "p1"}}
AUTO_POOL = {
    "poolInfo": {
        "autoPoolSpecification": {
            "autoPoolIdPrefix": "film",
            "poolLifetimeOption": "jobSchedule",
            "keepAlive": False,
            "pool": {
                "vmSize": "standard_a1_v2",
                "virtualMachineConfiguration": MACHINE,
                "targetDedicatedNodes": 1,
                "userAccounts": [{"name": "u", "password": "secret"}],
            },
        }
    }
}


async def test_create_and_get(world: World) -> None:
    body = {
        "id": "Nightly",
        "displayName": "Every night",
        "schedule": {
            "doNotRunUntil": "2026-11-21T05:30:48+01:00",
            "doNotRunAfter": "2026-12-01T00:00:00.1234567Z",
            "startWindow": "PT00H05M",
            "recurrenceInterval": "P1D",
        },
        "jobSpecification": {**SPECIFICATION, "priority": "5", "onAllTasksComplete": "terminateJob"},
        "metadata": [{"name": "a", "value": "b"}],
    }
    answer = await world.call("POST", "/jobschedules", body)
    assert (answer.status, answer.body) == (201, b"")
    assert answer.headers["location"] == "http://127.0.0.1:10010/jobschedules/Nightly"
    got = await world.call("GET", "/jobschedules/nightly")
    assert got.headers["etag"] == answer.headers["etag"]
    assert got.json() == {
        "odata.metadata": "http://127.0.0.1:10010/$metadata#jobschedules/@Element",
        "id": "Nightly",
        "displayName": "Every night",
        "url": "http://127.0.0.1:10010/jobschedules/Nightly",
        "eTag": answer.headers["etag"],
        "lastModified": TIME,
        "creationTime": TIME,
        "state": "active",
        "stateTransitionTime": TIME,
        "schedule": {
            "doNotRunUntil": TIME,
            "doNotRunAfter": "2026-12-01T00:00:00.123456Z",
            "startWindow": "PT5M",
            "recurrenceInterval": "P1D",
        },
        "jobSpecification": {**SPECIFICATION, "priority": 5, "onAllTasksComplete": "terminatejob"},
        "metadata": [{"name": "a", "value": "b"}],
        "executionInfo": {
            "nextRunTime": "2026-11-22T04:30:48Z",
            "recentJob": {"id": "Nightly:job-1", "url": "http://127.0.0.1:10010/jobs/Nightly%3Ajob-1"},
        },
    }


async def test_execution_info_over_a_life(world: World) -> None:
    await world.add_job_schedule(
        schedule={
            "recurrenceInterval": "PT1H",
            "doNotRunUntil": "2026-11-21T05:00:00Z",
            "doNotRunAfter": "2026-11-21T05:30:00Z",
        }
    )

    async def info() -> dict[str, Any]:
        body: dict[str, Any] = (await world.call("GET", "/jobschedules/s1")).json()
        return {"state": body["state"], **body["executionInfo"]}

    assert await info() == {"state": "active", "nextRunTime": "2026-11-21T05:00:00Z"}
    row = world.control.store.schedules.rows["s1"]
    world.now = row.next_run_time
    world.control.to_schedules(e.JobScheduleDue(at=world.now, schedule_id="s1", deadline=world.now))
    recent = {"id": "s1:job-1", "url": "http://127.0.0.1:10010/jobs/s1%3Ajob-1"}
    assert await info() == {"state": "active", "recentJob": recent}, "the next one would be after doNotRunAfter"
    world.now += 3600
    world.control.to_schedules(e.ScheduledJobCompleted(at=world.now, schedule_id="s1", job_id="s1:job-1"))
    assert await info() == {"state": "completed", "recentJob": recent, "endTime": "2026-11-21T06:00:00Z"}
    assert (await world.call("DELETE", "/jobschedules/s1")).status == 202
    assert await info() == {"state": "deleting", "recentJob": recent}


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"id": "a b"}, "InvalidPropertyValue", "id"),
        ({"id": "a" * 65}, "InvalidPropertyValue", "id"),
        ({"schedule": None}, "MissingRequiredProperty", "schedule"),
        ({"jobSpecification": None}, "MissingRequiredProperty", "jobSpecification"),
        ({"jobSpecification": {}}, "MissingRequiredProperty", "jobSpecification.poolInfo"),
        ({"schedule": {"recurrenceInterval": "PT59S"}}, "InvalidPropertyValue", "schedule.recurrenceInterval"),
        ({"schedule": {"recurrenceInterval": "1h"}}, "InvalidPropertyValue", "schedule.recurrenceInterval"),
        ({"schedule": {"startWindow": "PT59.9S"}}, "InvalidPropertyValue", "schedule.startWindow"),
        ({"schedule": {"doNotRunUntil": "tomorrow"}}, "InvalidPropertyValue", "schedule.doNotRunUntil"),
        (
            {"schedule": {"doNotRunUntil": "2027-01-01T00:00:00Z", "doNotRunAfter": "2026-12-31T00:00:00Z"}},
            "InvalidPropertyValue",
            "schedule.doNotRunAfter",
        ),
        ({"schedule": {"cron": "* * * * *"}}, "UnsupportedProperty", "schedule.cron"),
        ({"jobSpecification": {**SPECIFICATION, "priority": 1001}}, "OutOfRangePriority", "jobSpecification.priority"),
        (
            {"jobSpecification": {**SPECIFICATION, "jobManagerTask": {"id": "m"}}},
            "MissingRequiredProperty",
            "jobSpecification.jobManagerTask.commandLine",
        ),
        ({"metadata": [{"name": "", "value": ""}]}, "EmptyMetadataKey", "metadata[0].name"),
        ({"displayName": "x" * 1025}, "InvalidPropertyValue", "displayName"),
    ],
)
async def test_what_cannot_be_a_schedule(world: World, change: dict[str, Any], code: str, named: str) -> None:
    body = {"id": "s1", "schedule": {}, "jobSpecification": SPECIFICATION, **change}
    answer = await world.call("POST", "/jobschedules", body)
    assert (answer.status, answer.code, answer.values().get("PropertyName")) == (400, code, named)
    assert not world.control.store.schedules.rows


async def test_unlimited_durations_are_none(world: World) -> None:
    unlimited = "P10675199DT2H48M5.4775807S"
    await world.add_job_schedule(schedule={"recurrenceInterval": unlimited, "startWindow": unlimited})
    assert world.control.store.schedules.rows["s1"].recurrence == Recurrence()


async def test_exists_list_filter_select(world: World) -> None:
    for name in ("a", "b", "c"):
        await world.add_job_schedule(name)
    assert (await world.call("POST", "/jobschedules/b/disable")).status == 204
    assert (await world.call("HEAD", "/jobschedules/a")).status == 200
    missing = await world.call("HEAD", "/jobschedules/nope")
    assert (missing.status, missing.body) == (404, b"")
    page = (await world.call("GET", "/jobschedules", query="maxresults=2&$select=id,state")).json()
    assert page["odata.metadata"] == "http://127.0.0.1:10010/$metadata#jobschedules"
    assert page["value"] == [{"id": "a", "state": "active"}, {"id": "b", "state": "disabled"}]
    assert "$skiptoken=" in page["odata.nextLink"]
    found = (await world.call("GET", "/jobschedules", query="$filter=state%20eq%20%27disabled%27")).json()
    assert [item["id"] for item in found["value"]] == ["b"]
    assert (await world.call("GET", "/jobschedules", query="$expand=stats")).status == 200
    bad = await world.call("GET", "/jobschedules", query="$filter=schedule%20eq%201")
    assert (bad.status, bad.code) == (400, "InvalidQueryParameterValue")
    bad = await world.call("GET", "/jobschedules", query="$select=nothing")
    assert (bad.status, bad.code) == (400, "InvalidQueryParameterValue")


async def test_jobs_of_a_schedule(world: World) -> None:
    await world.add_job_schedule("S1")
    await world.add_job("other")
    maker = job_maker(world.control.vm_sizes, world.control.now)
    for n in (1, 2):
        await world.control.add_job(maker(world.control.store.schedules.rows["s1"], f"S1:job-{n}").job, "test")
    page = (await world.call("GET", "/jobschedules/s1/jobs", query="$select=id,executionInfo")).json()
    assert [job["id"] for job in page["value"]] == ["S1:job-1", "S1:job-2"]
    assert page["odata.metadata"] == "http://127.0.0.1:10010/$metadata#jobs"
    found = await world.call("GET", "/jobschedules/s1/jobs", query="$filter=state%20eq%20%27completed%27")
    assert found.json()["value"] == []
    missing = await world.call("GET", "/jobschedules/nope/jobs")
    assert (missing.status, missing.code) == (404, "JobScheduleNotFound")
    got = await world.call("GET", "/jobs/S1%3Ajob-1")
    assert (got.status, got.json()["id"]) == (200, "S1:job-1")
    task = await world.call("POST", "/jobs/S1%3Ajob-1/tasks", {"id": "t", "commandLine": "true"})
    assert task.status == 201


async def test_patch_changes_what_is_given_and_put_all(world: World) -> None:
    await world.add_job_schedule(metadata=[{"name": "a", "value": "b"}], displayName="Nice")
    await world.call("PATCH", "/jobschedules/s1", {"schedule": {"recurrenceInterval": "PT2H"}, "odata.metadata": "x"})
    body = (await world.call("GET", "/jobschedules/s1")).json()
    assert (body["schedule"], body["metadata"], body["displayName"]) == (
        {"recurrenceInterval": "PT2H"},
        [{"name": "a", "value": "b"}],
        "Nice",
    )
    assert body["executionInfo"]["nextRunTime"] == "2026-11-21T06:30:48Z"
    answer = await world.call("PUT", "/jobschedules/s1", {"jobSpecification": {**SPECIFICATION, "priority": 3}})
    assert (answer.status, answer.body) == (200, b"")
    body = (await world.call("GET", "/jobschedules/s1")).json()
    assert (body["schedule"], "metadata" in body, body["displayName"]) == ({}, False, "Nice")
    assert body["jobSpecification"]["priority"] == 3
    assert body["eTag"] == answer.headers["etag"]
    for method in ("PATCH", "PUT"):
        bad = await world.call(
            method,
            "/jobschedules/s1",
            {"jobSpecification": SPECIFICATION, "schedule": {"recurrenceInterval": "PT1S"}},
        )
        assert (bad.status, bad.values()["PropertyName"]) == (400, "schedule.recurrenceInterval")
        missing = await world.call(method, "/jobschedules/nope", {"jobSpecification": SPECIFICATION})
        assert (missing.status, missing.code) == (404, "JobScheduleNotFound")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "/jobschedules/s1", {}, 200),
        ("PUT", "/jobschedules/s1", {"jobSpecification": SPECIFICATION}, 200),
        ("POST", "/jobschedules/s1/disable", None, 204),
        ("POST", "/jobschedules/s1/terminate", {}, 202),
        ("DELETE", "/jobschedules/s1", None, 202),
    ],
)
async def test_conditions(world: World, method: str, path: str, body: Any, status: int) -> None:
    await world.add_job_schedule()
    etag = (await world.call("GET", "/jobschedules/s1")).headers["etag"]
    refused = await world.call(method, path, body, headers={"If-Match": '"0x8D0"'})
    assert (refused.status, refused.code) == (412, "ConditionNotMet")
    taken = await world.call(method, path, body, headers={"If-Match": f'"{etag}"'})
    assert taken.status == status
    assert taken.body == b""
    if method != "DELETE":
        assert taken.headers["etag"] != etag
        assert taken.headers["dataserviceid"] == "http://127.0.0.1:10010/jobschedules/s1"


async def test_reads_with_conditions(world: World) -> None:
    await world.add_job_schedule()
    etag = (await world.call("GET", "/jobschedules/s1")).headers["etag"]
    for method in ("GET", "HEAD"):
        assert (await world.call(method, "/jobschedules/s1", headers={"If-None-Match": etag})).status == 304


async def test_states_refuse_what_does_not_fit(world: World) -> None:
    await world.add_job_schedule()

    async def ask(path: str, method: str = "POST") -> tuple[int, str]:
        answer = await world.call(method, f"/jobschedules/s1{path}", {} if method == "PATCH" else None)
        return answer.status, answer.code if answer.status >= 400 else ""

    assert await ask("/enable") == (409, "OperationInvalidForCurrentState")
    assert await ask("/disable") == (204, "")
    assert await ask("/disable") == (409, "JobScheduleDisabled")
    assert await ask("", "PATCH") == (200, "")
    assert await ask("/enable") == (204, "")
    assert await ask("/terminate") == (202, "")
    for path, method in (("/disable", "POST"), ("/enable", "POST"), ("/terminate", "POST"), ("", "PATCH")):
        assert await ask(path, method) == (409, "JobScheduleBeingTerminated")
    world.control.to_schedules(e.ScheduledJobCompleted(at=NOW, schedule_id="s1", job_id="s1:job-1"))
    for path, method in (("/disable", "POST"), ("/enable", "POST"), ("/terminate", "POST"), ("", "PATCH")):
        assert await ask(path, method) == (409, "JobScheduleCompleted")
    assert (await world.call("DELETE", "/jobschedules/s1", query="force=true")).status == 202
    for path, method in (("/disable", "POST"), ("/terminate", "POST"), ("", "PATCH"), ("", "DELETE")):
        assert await ask(path, method) == (409, "JobScheduleBeingDeleted")
    again = await world.call("POST", "/jobschedules", {"id": "S1", "schedule": {}, "jobSpecification": SPECIFICATION})
    assert (again.status, again.code) == (409, "JobScheduleBeingDeleted")


async def test_an_id_that_is_taken(world: World) -> None:
    await world.add_job_schedule()
    again = await world.call("POST", "/jobschedules", {"id": "S1", "schedule": {}, "jobSpecification": SPECIFICATION})
    assert (again.status, again.code) == (409, "JobScheduleExists")


async def test_secrets_are_kept_for_the_pool_and_never_shown(world: World) -> None:
    await world.add_job_schedule(jobSpecification=AUTO_POOL)
    shown = (await world.call("GET", "/jobschedules/s1")).json()["jobSpecification"]["poolInfo"]
    assert shown["autoPoolSpecification"]["pool"]["userAccounts"] == [{"name": "u"}]
    assert shown["autoPoolSpecification"]["poolLifetimeOption"] == "jobschedule"
    assert b"secret" not in (await world.call("GET", "/jobschedules")).body


async def test_what_jobs_are_made_of(world: World) -> None:
    manager = {"id": "manager", "commandLine": "true", "killJobOnCompletion": True}
    await world.add_job_schedule(
        "S1", jobSpecification={**AUTO_POOL, "priority": 7, "jobManagerTask": manager, "displayName": "Tonight's"}
    )
    schedule = world.control.store.schedules.rows["s1"]
    assert schedule.pool_id is not None
    new = job_maker(world.control.vm_sizes, lambda: NOW)(schedule, "S1:job-1")
    assert (new.job.id, new.job.schedule_id, new.job.priority) == ("S1:job-1", "S1", 7)
    assert new.job.spec["displayName"] == "Tonight's"
    assert new.manager is not None
    assert new.manager.id == "manager"
    assert new.auto_pool is not None
    assert (new.auto_pool.id, new.job.pool_id) == (schedule.pool_id, schedule.pool_id)
    assert schedule.pool_id.startswith("film_")
    assert new.auto_pool.spec["userAccounts"][0]["password"] == "secret"
    assert new.job.auto_pool is not None
    assert new.job.auto_pool.lifetime is PoolLifetimeOption.JOB_SCHEDULE


async def test_a_size_no_longer_in_the_catalogue_is_for_the_control_plane_to_tell(world: World) -> None:
    await world.add_job_schedule(jobSpecification=AUTO_POOL)
    schedule = world.control.store.schedules.rows["s1"]
    sizes = {"other": VmSize("other", 1, 1, 0.0)}
    new = job_maker(sizes, lambda: NOW)(schedule, "s1:job-1")
    assert new.auto_pool is not None
    assert new.auto_pool.vm_size == "standard_a1_v2"
    refused = await world.call(
        "POST",
        "/jobschedules",
        {
            "id": "s2",
            "schedule": {},
            "jobSpecification": {
                "poolInfo": {
                    "autoPoolSpecification": {
                        "poolLifetimeOption": "job",
                        "pool": {"vmSize": "nonesuch", "virtualMachineConfiguration": MACHINE},
                    }
                }
            },
        },
    )
    assert (refused.status, refused.code) == (400, "InvalidPropertyValue")


async def test_what_cannot_be_made_any_more_says_so(world: World) -> None:
    await world.add_job_schedule()
    schedule = world.control.store.schedules.rows["s1"]
    schedule.spec = {**schedule.spec, "jobSpecification": {"poolInfo": {}}}
    with pytest.raises(BatchError):
        job_maker(world.control.vm_sizes, lambda: NOW)(schedule, "s1:job-1")


async def test_a_job_that_is_not_made_yet_is_not_told_of(world: World) -> None:
    await world.add_job_schedule()
    world.control.store.unmade_jobs.add("s1:job-1")
    for path in ("/jobschedules/s1", "/jobschedules"):
        answer = await world.call("GET", path)
        body = answer.json()
        (schedule,) = body.get("value", [body])
        assert "recentJob" not in schedule["executionInfo"]
