"""Multi-instance tasks and their subtasks, and the rarer settings of tasks: tokens, users, retention."""

from typing import Any

import pytest

from millpond.domain.events import TasksAdded, TaskUpdated
from millpond.domain.ids import task_key
from millpond.domain.states import ErrorCategory, SubtaskState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import FailureInfo, TaskRules
from tests.api.client import NOW
from tests.api.conftest import NODE, World

SETTINGS = {"coordinationCommandLine": "start daemons", "numberOfInstances": 3}


async def rules_of(world: World, **more: Any) -> TaskRules | None:
    """What the scheduler is told of a task with these properties."""
    number = len(world.control.events)
    await world.add_task(f"task-{number}", **more)
    event = world.control.events[-1]
    assert isinstance(event, TasksAdded)
    return event.tasks[0].rules


async def test_a_multi_instance_task(busy: World) -> None:
    settings = {**SETTINGS, "commonResourceFiles": [{"httpUrl": "http://s/f", "filePath": "f"}]}
    assert await rules_of(busy, multiInstanceSettings=settings, requiredSlots=1) == TaskRules(instances=3)
    task = (await busy.call("GET", f"/jobs/j1/tasks/task-{len(busy.control.events) - 1}")).json()
    assert task["multiInstanceSettings"] == settings
    only = {"coordinationCommandLine": "x"}
    assert await rules_of(busy, multiInstanceSettings=only) == TaskRules(instances=1)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (
            {"multiInstanceSettings": {"numberOfInstances": 2}},
            "MissingRequiredProperty",
            "multiInstanceSettings.coordinationCommandLine",
        ),
        (
            {"multiInstanceSettings": {**SETTINGS, "numberOfInstances": "many"}},
            "InvalidPropertyValue",
            "multiInstanceSettings.numberOfInstances",
        ),
        (
            {"authenticationTokenSettings": {"access": ["pool"]}},
            "InvalidPropertyValue",
            "authenticationTokenSettings.access[0]",
        ),
        ({"authenticationTokenSettings": {"x": 1}}, "UnsupportedProperty", "authenticationTokenSettings.x"),
    ],
)
async def test_what_cannot_be_read(busy: World, change: dict[str, Any], code: str, named: str) -> None:
    before = len(busy.control.events)
    answer = await busy.call("POST", "/jobs/j1/tasks", {"id": "bad", "commandLine": "x", **change})
    assert (answer.status, answer.code) == (400, code)
    assert answer.values()["PropertyName"] == named
    assert len(busy.control.events) == before


async def test_tokens_users_and_retention(busy: World) -> None:
    assert await rules_of(busy, authenticationTokenSettings={"access": ["Job"]}) == TaskRules(job_access=True)
    assert await rules_of(busy, authenticationTokenSettings={"access": []}) is None
    assert await rules_of(busy, authenticationTokenSettings={}) is None
    assert await rules_of(busy, userIdentity={"username": "alice"}) is None
    assert await rules_of(busy, constraints={"retentionTime": "PT1H"}) == TaskRules(retention_s=3600.0)
    for default in ({}, {"retentionTime": "P7D"}, {"retentionTime": "PT168H"}, {"maxTaskRetryCount": 1}):
        assert await rules_of(busy, constraints=default) is None
    rules = await rules_of(busy, constraints={"retentionTime": "P10675199DT2H48M5.4775807S"})
    assert rules is not None
    assert rules.retention_s is not None
    assert rules.retention_s > 1e11


async def test_new_constraints_bring_a_new_retention_time(busy: World) -> None:
    for constraints, retention in (({"retentionTime": "PT2H"}, 7200.0), ({"maxTaskRetryCount": 1}, None), (None, None)):
        assert (await busy.call("PUT", "/jobs/j1/tasks/t1", {"constraints": constraints})).status == 200
        event = busy.control.events[-1]
        assert isinstance(event, TaskUpdated)
        assert event.retention_s == retention


async def test_subtasks(busy: World) -> None:
    await busy.add_task("gang", multiInstanceSettings=SETTINGS)
    key = task_key(1, 2)
    failure = FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", "it failed")
    busy.control.store.subtasks = [
        Subtask(key, 0, 1, NODE, SubtaskState.RUNNING, NOW),
        Subtask(
            key, 1, 1, "node-1", SubtaskState.RUNNING, NOW + 1, SubtaskState.PREPARING, NOW, start_time=NOW, exit_code=5
        ),
        Subtask(
            key,
            2,
            1,
            "node-2",
            SubtaskState.COMPLETED,
            NOW + 2,
            start_time=NOW,
            end_time=NOW + 2,
            exit_code=3,
            failure=failure,
        ),
        Subtask(key + 1, 1, 1, "node-9", SubtaskState.RUNNING, NOW),
    ]
    answer = await busy.call("GET", "/jobs/J1/tasks/Gang/subtasksinfo")
    assert answer.status == 200
    assert "odata.nextLink" not in answer.json()
    first, second = answer.json()["value"]
    url = "http://127.0.0.1:10010/pools/p1/nodes/node-1"
    directory = "workitems/j1/job-1/gang"
    assert first == {
        "id": 1,
        "nodeInfo": {
            "affinityId": "TVM:node-1",
            "nodeUrl": url,
            "poolId": "p1",
            "nodeId": "node-1",
            "taskRootDirectory": directory,
            "taskRootDirectoryUrl": f"{url}/files/{directory}",
        },
        "state": "running",
        "stateTransitionTime": "2026-11-21T04:30:49Z",
        "previousState": "preparing",
        "previousStateTransitionTime": "2026-11-21T04:30:48Z",
        "startTime": "2026-11-21T04:30:48Z",
    }
    assert (second["id"], second["state"], second["exitCode"], second["result"]) == (2, "completed", 3, "failure")
    assert second["endTime"] == "2026-11-21T04:30:50Z"
    assert second["failureInfo"]["code"] == "FailureExitCode"
    answer = await busy.call("GET", "/jobs/j1/tasks/gang/subtasksinfo", query="$select=id,state")
    assert answer.json()["value"] == [{"id": 1, "state": "running"}, {"id": 2, "state": "completed"}]
    assert (await busy.call("GET", "/jobs/j1/tasks/gang/subtasksinfo", query="$select=url")).status == 400


async def test_an_ordinary_task_has_no_subtasks(busy: World) -> None:
    answer = await busy.call("GET", "/jobs/j1/tasks/t1/subtasksinfo")
    assert (answer.status, answer.json()["value"]) == (200, [])
    answer = await busy.call("GET", "/jobs/j1/tasks/none/subtasksinfo")
    assert (answer.status, answer.code) == (404, "TaskNotFound")
    answer = await busy.call("GET", "/jobs/none/tasks/t1/subtasksinfo")
    assert (answer.status, answer.code) == (404, "JobNotFound")


async def test_a_multi_instance_task_shows_its_primarys_node(busy: World) -> None:
    await busy.add_task("gang", multiInstanceSettings=SETTINGS)
    task = busy.control.store.tasks[task_key(1, 2)].task
    task.state, task.node_id, task.attempt = TaskState.RUNNING, NODE, 1
    assert (await busy.call("GET", "/jobs/j1/tasks/gang")).json()["nodeInfo"]["nodeId"] == NODE


# --- jobs that a schedule made ---------------------------------------------------------------------------------------


async def test_the_job_of_a_schedule_is_reached_by_its_id(busy: World) -> None:
    """Its id has a colon, which clients send as it is or percent-encoded, and which no user's job may have."""
    store = busy.control.store
    job = store.jobs.pop("j1")
    job.id = job.spec["id"] = "Nightly:job-3"
    job.schedule_id = "Nightly"
    store.jobs["nightly:job-3"] = job
    task = store.tasks[task_key(1, 1)].task
    task.state, task.node_id, task.attempt = TaskState.RUNNING, NODE, 1
    directory = "workitems/Nightly/job-3/t1"
    busy.control.files.files[NODE, f"{directory}/stdout.txt"] = b"out"
    for name in ("Nightly:job-3", "Nightly%3Ajob-3", "nightly%3ajob-3"):
        shown = (await busy.call("GET", f"/jobs/{name}")).json()
        assert (shown["id"], shown["url"]) == ("Nightly:job-3", "http://127.0.0.1:10010/jobs/Nightly%3Ajob-3")
        shown = (await busy.call("GET", f"/jobs/{name}/tasks/t1")).json()
        assert shown["nodeInfo"]["taskRootDirectory"] == directory
        assert (await busy.call("GET", f"/jobs/{name}/tasks/t1/files/stdout.txt")).body == b"out"
    answer = await busy.call("POST", "/jobs", {"id": "Nightly:job-4", "poolInfo": {"poolId": "p1"}})
    assert (answer.status, answer.code) == (400, "InvalidPropertyValue")
