"""Auto pools, and the job specifications of job schedules: what is taken, refused, made and shown."""

from typing import Any

import pytest

from millpond.api.intake.job_schedules import checked_specification, decode_job_specification, job_maker
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.events import JobUpdated
from millpond.domain.job import AutoPool
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.pool import Pool
from millpond.domain.special_task import StartTaskRules
from millpond.domain.states import JobScheduleState, PoolLifetimeOption
from millpond.providers.base import VmSize
from tests.api.client import NOW
from tests.api.conftest import MACHINE, World

PATH = "poolInfo.autoPoolSpecification"
USERS = [
    {
        "name": "alice",
        "password": "pa55",
        "elevationLevel": "Admin",
        "linuxUserConfiguration": {"uid": 2000, "gid": 2000, "sshPrivateKey": "key"},
    }
]
SHOWN_USERS = [{"name": "alice", "elevationLevel": "admin", "linuxUserConfiguration": {"uid": 2000, "gid": 2000}}]
POOL = {
    "vmSize": "Standard_D2s_v3",
    "virtualMachineConfiguration": MACHINE,
    "targetDedicatedNodes": 2,
    "taskSlotsPerNode": 4,
    "resizeTimeout": "PT600S",
    "startTask": {"commandLine": "install"},
}


def auto(**more: Any) -> dict[str, Any]:
    return {"autoPoolIdPrefix": "my-", "poolLifetimeOption": "Job", "pool": POOL, **more}


async def create(world: World, specification: dict[str, Any], job_id: str = "j1") -> Any:
    return await world.call("POST", "/jobs", {"id": job_id, "poolInfo": {"autoPoolSpecification": specification}})


def made_pool(world: World, index: int = -1) -> Pool:
    pool = world.control.added[index].auto_pool
    assert pool is not None
    return pool


async def test_a_job_with_its_own_pool(world: World) -> None:
    assert (await create(world, auto())).status == 201
    pool = made_pool(world)
    assert pool.id.startswith("my-_")
    assert len(pool.id) == len("my-_") + 36
    assert (pool.auto_pool, pool.target_dedicated_nodes, pool.task_slots_per_node) == (True, 2, 4)
    assert pool.start_task == StartTaskRules()
    job = world.control.store.jobs["j1"]
    assert (job.pool_id, job.auto_pool) == (pool.id, AutoPool(False, PoolLifetimeOption.JOB))
    shown = (await world.call("GET", "/jobs/j1")).json()
    assert shown["executionInfo"]["poolId"] == pool.id
    specification = shown["poolInfo"].pop("autoPoolSpecification")
    assert shown["poolInfo"] == {}
    assert (specification["autoPoolIdPrefix"], specification["keepAlive"]) == ("my-", False)
    assert specification["poolLifetimeOption"] == "job"
    assert specification["pool"]["resizeTimeout"] == "PT10M"
    whole = (await world.call("GET", f"/pools/{pool.id}")).json()
    assert (whole["id"], whole["vmSize"], whole["resizeTimeout"]) == (pool.id, "Standard_D2s_v3", "PT10M")
    await create(world, auto(autoPoolIdPrefix=None, keepAlive=True), "j2")
    assert len(made_pool(world).id) == 36
    assert made_pool(world).id != pool.id
    assert world.control.store.jobs["j2"].auto_pool == AutoPool(True, PoolLifetimeOption.JOB)


async def test_the_secrets_of_an_auto_pool_are_kept_with_the_pool_alone(world: World) -> None:
    await create(world, auto(pool={**POOL, "userAccounts": USERS}))
    pool, job = made_pool(world), world.control.store.jobs["j1"]
    assert pool.spec["userAccounts"][0]["password"] == "pa55"
    assert "pa55" not in str(job.spec)
    assert "'key'" not in str(job.spec)
    for path in ("/jobs/j1", "/jobs", f"/pools/{pool.id}", "/pools"):
        answer = await world.call("GET", path)
        assert b"alice" in answer.body
        assert b"pa55" not in answer.body
        assert b'"key"' not in answer.body


@pytest.mark.parametrize(
    ("specification", "status", "code", "named"),
    [
        ({"pool": POOL}, 400, "MissingRequiredProperty", f"{PATH}.poolLifetimeOption"),
        (auto(poolLifetimeOption="forever"), 400, "InvalidPropertyValue", f"{PATH}.poolLifetimeOption"),
        (auto(poolLifetimeOption="jobschedule"), 400, "InvalidPropertyValue", f"{PATH}.poolLifetimeOption"),
        (auto(autoPoolIdPrefix="x" * 21), 400, "InvalidPropertyValue", f"{PATH}.autoPoolIdPrefix"),
        (auto(autoPoolIdPrefix="a b"), 400, "InvalidPropertyValue", f"{PATH}.autoPoolIdPrefix"),
        (auto(pool=None), 400, "MissingRequiredProperty", f"{PATH}.pool"),
        (auto(pool={**POOL, "id": "mine"}), 400, "UnsupportedProperty", f"{PATH}.pool.id"),
        (auto(pool={**POOL, "vmSize": "huge"}), 400, "InvalidPropertyValue", f"{PATH}.pool.vmSize"),
        (auto(pool={**POOL, "taskSlotsPerNode": 9}), 400, "InvalidPropertyValue", f"{PATH}.pool.taskSlotsPerNode"),
        (
            auto(pool={**POOL, "enableAutoScale": True}),
            400,
            "InvalidAutoScalingSettings",
            f"{PATH}.pool.targetDedicatedNodes",
        ),
        (
            auto(pool={**POOL, "startTask": {"commandLine": ""}}),
            400,
            "InvalidPropertyValue",
            f"{PATH}.pool.startTask.commandLine",
        ),
    ],
)
async def test_bad_auto_pools(world: World, specification: dict[str, Any], status: int, code: str, named: str) -> None:
    answer = await create(world, specification)
    assert (answer.status, answer.code) == (status, code)
    assert answer.values()["PropertyName"] == named
    assert f"'{named}'" in answer.json()["message"]["value"]
    assert not world.control.store.jobs
    assert not world.control.store.pools


async def test_whether_an_auto_pool_is_kept_can_be_changed(world: World) -> None:
    await create(world, auto(pool={**POOL, "userAccounts": USERS}))
    job = world.control.store.jobs["j1"]
    # What was read may be sent back, and what was sent first too; absent parts stay.
    read = (await world.call("GET", "/jobs/j1")).json()["poolInfo"]["autoPoolSpecification"]
    for specification, keep in (
        ({**read, "keepAlive": True}, True),
        (auto(pool={**POOL, "userAccounts": USERS}, keepAlive=False), False),
        ({"poolLifetimeOption": "job", "keepAlive": True}, True),
    ):
        for method in ("PATCH", "PUT"):
            body = {"poolInfo": {"autoPoolSpecification": specification}}
            assert (await world.call(method, "/jobs/j1", body)).status == 200
            event = world.control.events[-1]
            assert isinstance(event, JobUpdated)
            assert event.changes.pool_id is None
            assert job.auto_pool == AutoPool(keep, PoolLifetimeOption.JOB)
            after = (await world.call("GET", "/jobs/j1")).json()["poolInfo"]["autoPoolSpecification"]
            assert after == {**read, "keepAlive": keep}
    await world.call("PATCH", "/jobs/j1", {"poolInfo": {"poolId": job.pool_id.lower()}, "priority": 1})
    assert (await world.call("GET", "/jobs/j1")).json()["poolInfo"] == {"autoPoolSpecification": after}


@pytest.mark.parametrize(
    ("specification", "named"),
    [
        (auto(autoPoolIdPrefix="other"), f"{PATH}.autoPoolIdPrefix"),
        (auto(poolLifetimeOption="jobschedule"), f"{PATH}.poolLifetimeOption"),
        (auto(pool={**POOL, "targetDedicatedNodes": 3}), f"{PATH}.pool"),
        (auto(pool={**POOL, "userAccounts": USERS}), f"{PATH}.pool"),
    ],
)
async def test_nothing_else_of_an_auto_pool_can_be_changed(
    world: World, specification: dict[str, Any], named: str
) -> None:
    await create(world, auto())
    before = (await world.call("GET", "/jobs/j1")).body
    answer = await world.call("PATCH", "/jobs/j1", {"poolInfo": {"autoPoolSpecification": specification}})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")
    assert answer.values()["PropertyName"] == named
    assert (await world.call("GET", "/jobs/j1")).body == before
    assert not world.control.events


async def test_a_job_without_an_auto_pool_cannot_get_one(world: World) -> None:
    await world.add_job()
    answer = await world.call("PATCH", "/jobs/j1", {"poolInfo": {"autoPoolSpecification": auto()}})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")
    assert answer.values()["PropertyName"] == PATH
    assert not world.control.events


# --- job specifications ----------------------------------------------------------------------------------------------

SIZES = {"standard_d2s_v3": VmSize("standard_d2s_v3", 2, 8192, 0.1)}
SPECIFICATION = {
    "displayName": "nightly",
    "priority": 5,
    "onAllTasksComplete": "TerminateJob",
    "constraints": {"maxWallClockTime": "PT60M"},
    "jobManagerTask": {"id": "m", "commandLine": "manage"},
    "jobPreparationTask": {"commandLine": "prepare"},
    "poolInfo": {"poolId": "p1"},
    "metadata": [{"name": "a", "value": "b"}],
}


def a_schedule(specification: dict[str, Any], **fields: Any) -> JobSchedule:
    body = decode_job_specification(specification)
    kept = checked_specification(body, SIZES, NOW)
    return JobSchedule(7, "Nightly", JobScheduleState.ACTIVE, NOW, NOW, NOW, spec={"jobSpecification": kept}, **fields)


def test_a_job_of_a_schedule() -> None:
    schedule = a_schedule(SPECIFICATION)
    assert schedule.spec["jobSpecification"]["constraints"] == {"maxWallClockTime": "PT1H"}
    make = job_maker(SIZES, lambda: NOW + 5)
    new = make(schedule, "Nightly:job-3")
    job = new.job
    assert (job.id, job.schedule_id, job.pool_id, job.creation_time) == ("Nightly:job-3", "Nightly", "p1", NOW + 5)
    assert (job.priority, job.max_wall_clock_s, job.auto_pool) == (5, 3600.0, None)
    assert job.preparation is not None
    assert job.spec["id"] == "Nightly:job-3"
    assert job.spec["metadata"] == SPECIFICATION["metadata"]
    assert new.manager is not None
    assert new.manager.id == "m"
    assert new.auto_pool is None
    # Made of what is kept again and again, the same comes out.
    assert make(schedule, "Nightly:job-3") == new
    kept = schedule.spec["jobSpecification"]
    assert checked_specification(decode_job_specification(kept), SIZES, NOW) == kept


def test_the_pools_of_a_schedules_jobs() -> None:
    make = job_maker(SIZES, lambda: NOW)
    info = {"autoPoolSpecification": auto(pool={**POOL, "userAccounts": USERS})}
    schedule = a_schedule({**SPECIFICATION, "poolInfo": info})
    first, again, second = (make(schedule, f"Nightly:job-{number}") for number in (1, 1, 2))
    assert first == again
    assert first.auto_pool is not None
    assert second.auto_pool is not None
    assert first.job.pool_id == first.auto_pool.id != second.auto_pool.id
    assert first.auto_pool.spec["userAccounts"][0]["password"] == "pa55"
    assert "pa55" not in str(first.job.spec)
    # Of lifetime jobschedule there is one, and the schedule knows its id.
    info = {"autoPoolSpecification": auto(poolLifetimeOption="JobSchedule", keepAlive=True)}
    schedule = a_schedule({**SPECIFICATION, "poolInfo": info}, pool_id="my-_shared")
    for number in (1, 2):
        new = make(schedule, f"Nightly:job-{number}")
        assert new.auto_pool is not None
        assert new.job.pool_id == new.auto_pool.id == "my-_shared"
        assert new.job.auto_pool == AutoPool(True, PoolLifetimeOption.JOB_SCHEDULE)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"id": "x"}, ErrorCode.UNSUPPORTED_PROPERTY, "jobSpecification.id"),
        ({"poolInfo": None}, ErrorCode.MISSING_REQUIRED_PROPERTY, "jobSpecification.poolInfo"),
        ({"poolInfo": {}}, ErrorCode.MISSING_REQUIRED_PROPERTY, "jobSpecification.poolInfo.poolId"),
        ({"priority": 1001}, ErrorCode.OUT_OF_RANGE_PRIORITY, "jobSpecification.priority"),
        (
            {"jobManagerTask": {"id": "m"}},
            ErrorCode.MISSING_REQUIRED_PROPERTY,
            "jobSpecification.jobManagerTask.commandLine",
        ),
        (
            {"jobManagerTask": {"id": "m", "commandLine": ""}},
            ErrorCode.INVALID_PROPERTY_VALUE,
            "jobSpecification.jobManagerTask.commandLine",
        ),
        (
            {"poolInfo": {"autoPoolSpecification": auto(pool={**POOL, "vmSize": "huge"})}},
            ErrorCode.INVALID_PROPERTY_VALUE,
            f"jobSpecification.{PATH}.pool.vmSize",
        ),
    ],
)
def test_bad_specifications(change: dict[str, Any], code: ErrorCode, named: str) -> None:
    with pytest.raises(BatchError) as caught:
        checked_specification(decode_job_specification({**SPECIFICATION, **change}), SIZES, NOW)
    assert (caught.value.code, caught.value.values["PropertyName"]) == (code, named)


def test_a_job_that_cannot_be_made_any_more() -> None:
    maker = job_maker({}, lambda: NOW)
    with pytest.raises(BatchError, match="poolId"):
        maker(a_schedule({**SPECIFICATION, "poolInfo": {}}), "Nightly:job-1")
    # A size that has left the catalogue is told on the job, as a scheduling error.
    new = maker(a_schedule({**SPECIFICATION, "poolInfo": {"autoPoolSpecification": auto()}}), "Nightly:job-1")
    assert new.auto_pool is not None
    assert new.auto_pool.vm_size == POOL["vmSize"]
