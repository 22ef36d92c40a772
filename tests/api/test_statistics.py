"""`$expand=stats`, usage metrics and lifetime statistics: what is told of what was used."""

from typing import Any

import msgspec
import pytest

from millpond.domain.states import TaskState
from millpond.domain.task import ResourceUse
from millpond.store.base import TaskRow
from tests.api.calls import furnish
from tests.api.client import NOW
from tests.api.conftest import World

USE = ResourceUse(user_cpu_s=1.5, kernel_cpu_s=0.25, wall_s=60.0, wait_s=3.0, retries=2)


async def stats(world: World, path: str, query: str = "$expand=stats", version: str = "2025-06-01") -> Any:
    answer = await world.call("GET", path, query=query, version=version)
    assert answer.status == 200, answer.body
    body = answer.json()
    return body["value"][0].get("stats") if "value" in body else body.get("stats")


def ended(world: World) -> None:
    row = world.control.store.task_of("j1", "t1")
    task = msgspec.structs.replace(
        row.task, state=TaskState.COMPLETED, start_time=NOW + 3, end_time=NOW + 63, exit_code=0, use=USE
    )
    world.control.store.tasks[task.key] = TaskRow(task, row.spec)


@pytest.mark.parametrize("path", ["/jobs/j1/tasks/t1", "/jobs/j1/tasks"])
async def test_of_a_task(busy: World, path: str) -> None:
    assert await stats(busy, path, "") is None
    assert await stats(busy, path, "$select=id") is None
    busy.now += 10
    waiting = await stats(busy, path)
    assert (waiting["waitTime"], waiting["wallClockTime"], waiting["userCPUTime"]) == ("PT10S", "PT0S", "PT0S")
    ended(busy)
    for query in ("$expand=stats", "$select=stats", "$select=id&$expand=stats"):
        told = await stats(busy, path, query)
        assert (told["userCPUTime"], told["kernelCPUTime"]) == ("PT1.5S", "PT0.25S")
        assert (told["wallClockTime"], told["waitTime"]) == ("PT1M", "PT3S")
        assert told["readIOps"] == "0"
        assert told["lastUpdateTime"] == "2026-11-21T04:31:51Z"


async def test_a_task_that_runs_counts_up_to_now(busy: World) -> None:
    row = busy.control.store.task_of("j1", "t1")
    row.task.state, row.task.start_time = TaskState.RUNNING, NOW + 5
    busy.now += 30
    told = await stats(busy, "/jobs/j1/tasks/t1")
    assert (told["wallClockTime"], told["waitTime"]) == ("PT25S", "PT5S")


@pytest.mark.parametrize("path", ["/jobs/j1", "/jobs", "/jobschedules/s1", "/jobschedules", "/jobschedules/s1/jobs"])
async def test_of_jobs_and_schedules(busy: World, path: str) -> None:
    await busy.add_job_schedule()
    job = busy.control.store.jobs["j1"]
    job.schedule_id, job.use = "s1", USE
    job.counts.succeeded, job.counts.failed = 5, 1
    assert await stats(busy, path, "") is None
    told = await stats(busy, path)
    assert (told["userCPUTime"], told["wallClockTime"], told["waitTime"]) == ("PT1.5S", "PT1M", "PT3S")
    assert (told["numSucceededTasks"], told["numFailedTasks"], told["numTaskRetries"]) == ("5", "1", "2")


async def test_of_all_jobs(busy: World) -> None:
    await busy.add_job("j2")
    for job in busy.control.store.jobs.values():
        job.use = USE
    answer = await busy.call("GET", "/lifetimejobstats", version="2022-10-01.16.0")
    assert (answer.json()["userCPUTime"], answer.json()["numTaskRetries"]) == ("PT3S", "4")
    assert (await busy.call("GET", "/lifetimejobstats")).code == "InvalidUri"


@pytest.mark.parametrize("path", ["/pools/p1", "/pools"])
async def test_of_a_pool(world: World, path: str) -> None:
    await furnish(world)
    told = await stats(world, path)
    # Samples: from 03:00:00 every 30 s, up to 04:30:30: 182 of two dedicated nodes with two cores each.
    assert told["startTime"] == "2026-11-21T03:00:00Z"
    assert told["lastUpdateTime"] == "2026-11-21T04:30:30Z"
    assert told["usageStats"]["dedicatedCoreTime"] == "PT6H4M"
    resources = told["resourceStats"]
    assert resources["avgCPUPercentage"] == 50.0
    assert resources["avgMemoryGiB"] == pytest.approx(1.0)
    assert resources["diskReadIOps"] == str(182 * 2 * 3)
    assert await stats(world, path, "") is None


async def test_a_pool_without_samples_has_none(busy: World) -> None:
    told = await stats(busy, "/pools/p1")
    assert told["usageStats"]["dedicatedCoreTime"] == "PT0S"
    body = (await busy.call("GET", "/lifetimepoolstats", version="2022-10-01.16.0")).json()
    assert body["resourceStats"]["avgCPUPercentage"] == 0.0
    assert (await busy.call("GET", "/poolusagemetrics")).json()["value"] == []


async def test_usage_by_the_hour(world: World) -> None:
    await furnish(world)
    answer = await world.call("GET", "/poolusagemetrics")
    # Three nodes with two cores; of the samples of the hour that at 03:00:00 belongs to the hour before.
    assert answer.json()["value"] == [
        {
            "poolId": "p1",
            "startTime": "2026-11-21T03:00:00Z",
            "endTime": "2026-11-21T04:00:00Z",
            "vmSize": "standard_d2s_v3",
            "totalCoreHours": 6.0,
        }
    ]
    query = "startTime=2026-11-20T00:00:00Z&endtime=2026-11-22T00:00:00Z"
    whole = (await world.call("GET", "/poolusagemetrics", query=query)).json()["value"]
    assert [item["startTime"][11:16] for item in whole] == ["02:00", "03:00", "04:00"]
    page = (await world.call("GET", "/poolusagemetrics", query=query + "&maxresults=2")).json()
    assert page["value"] == whole[:2]
    token = page["odata.nextLink"].rpartition("=")[2]
    rest = await world.call("GET", "/poolusagemetrics", query=f"{query}&maxresults=2&$skiptoken={token}")
    assert rest.json()["value"] == whole[2:]
    # Pages stay of the hours that the first was asked of, whatever hour it is by then.
    default = (await world.call("GET", "/poolusagemetrics", query="startTime=2026-11-20T00:00:00Z&maxresults=1")).json()
    world.now += 7200
    link = default["odata.nextLink"].partition("api-version=2025-06-01&")[2]
    rest = (await world.call("GET", "/poolusagemetrics", query=link)).json()
    assert [item["startTime"][11:16] for item in default["value"] + rest["value"]] == ["02:00", "03:00"]
    other = await world.call("GET", "/poolusagemetrics", query=query + "&$filter=poolId%20eq%20'p2'")
    assert other.json()["value"] == []
    for bad in ("startTime=soon", "endtime=soon", "startTime=2026-11-22T00:00:00Z&endtime=2026-11-20T00:00:00Z"):
        assert (await world.call("GET", "/poolusagemetrics", query=bad)).code == "InvalidQueryParameterValue"
