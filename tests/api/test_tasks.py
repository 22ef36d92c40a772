"""Tasks over the wire."""

import json
from typing import Any

import msgspec
import pytest

from millpond.domain import events as e
from millpond.domain.states import DependencyAction, ErrorCategory, JobAction, TaskState
from millpond.domain.task import ExitConditions, ExitOptions, FailureInfo, NameValue, TaskRules
from millpond.store.base import TaskRow
from tests.api.client import Answer
from tests.api.conftest import NODE, World

UNLIMITED = "P10675199DT2H48M5.4775807S"
OUTPUT = {
    "filePattern": "../std*.txt",
    "destination": {"container": {"containerUrl": "https://a/c?sig=x", "path": "out"}},
    "uploadOptions": {"uploadCondition": "TaskCompletion"},
}


async def collection(world: World, *tasks: Any, job: str = "j1") -> Answer:
    return await world.call("POST", f"/jobs/{job}/addtaskcollection", {"value": list(tasks)})


async def test_create_and_get_with_defaults(busy: World) -> None:
    answer = await busy.call("POST", "/jobs/j1/tasks", {"id": "t2", "commandLine": "true"})
    assert (answer.status, answer.body) == (201, b"")
    url = "http://127.0.0.1:10010/jobs/j1/tasks/t2"
    assert answer.headers["location"] == answer.headers["dataserviceid"] == url
    got = await busy.call("GET", "/jobs/J1/tasks/T2")
    assert got.headers["etag"] == answer.headers["etag"]
    assert got.headers["dataserviceid"] == url
    assert got.json() == {
        "odata.metadata": "http://127.0.0.1:10010/$metadata#tasks/@Element",
        "id": "t2",
        "url": url,
        "eTag": answer.headers["etag"],
        "creationTime": "2026-11-21T04:30:48Z",
        "lastModified": "2026-11-21T04:30:48Z",
        "state": "active",
        "stateTransitionTime": "2026-11-21T04:30:48Z",
        "commandLine": "true",
        "constraints": {"maxWallClockTime": UNLIMITED, "retentionTime": "P7D", "maxTaskRetryCount": 0},
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}},
        "requiredSlots": 1,
        "executionInfo": {"retryCount": 0, "requeueCount": 0},
    }


async def test_everything_given_is_shown(busy: World) -> None:
    await busy.add_job("deps", usesTaskDependencies=True, onTaskFailure="performexitoptionsjobaction")
    more = {
        "displayName": "Ünïcode ✓",
        "resourceFiles": [
            {"httpUrl": "https://h/x", "filePath": "a/b.txt", "fileMode": "0770"},
            {"storageContainerUrl": "https://h/c?sas", "blobPrefix": "in/", "filePath": "d"},
            {"autoStorageContainerName": "my-files"},
        ],
        "outputFiles": [OUTPUT],
        "environmentSettings": [{"name": "A", "value": "b"}],
        "affinityInfo": {"affinityId": f"TVM:{NODE}"},
        "constraints": {"maxTaskRetryCount": "3", "maxWallClockTime": "PT01H"},
        "requiredSlots": "2",
        "userIdentity": {"autoUser": {"scope": "Task", "elevationLevel": "Admin"}},
        "dependsOn": {"taskIds": ["A", "b"], "taskIdRanges": [{"start": 1, "end": 9}]},
        "exitConditions": {
            "exitCodes": [{"code": 3, "exitOptions": {"jobAction": "Terminate", "dependencyAction": "Satisfy"}}],
            "exitCodeRanges": [{"start": 4, "end": 6, "exitOptions": {"dependencyAction": "block"}}],
            "default": {"jobAction": "none"},
        },
    }
    await busy.add_task("full", "deps", **more)
    new = busy.control.events[-1].tasks[0]
    assert (new.required_slots, new.max_retry_count) == (2, 3)
    assert new.rules == TaskRules(
        depends_on_ids=("a", "b"),
        depends_on_ranges=((1, 9),),
        exit_conditions=ExitConditions(
            exit_codes=((3, ExitOptions(JobAction.TERMINATE, DependencyAction.SATISFY)),),
            exit_code_ranges=((4, 6, ExitOptions(None, DependencyAction.BLOCK)),),
            default=ExitOptions(JobAction.NONE, None),
        ),
        affinity_node_id=NODE,
    )
    body = (await busy.call("GET", "/jobs/deps/tasks/full")).json()
    for name in ("displayName", "resourceFiles", "environmentSettings", "affinityInfo", "dependsOn"):
        assert body[name] == more[name]
    assert body["outputFiles"][0]["uploadOptions"] == {"uploadCondition": "taskcompletion"}
    assert body["constraints"] == {"maxWallClockTime": "PT1H", "retentionTime": "P7D", "maxTaskRetryCount": 3}
    assert body["requiredSlots"] == 2
    assert body["userIdentity"] == {"autoUser": {"scope": "task", "elevationLevel": "admin"}}
    assert body["exitConditions"]["exitCodes"][0]["exitOptions"] == {
        "jobAction": "terminate",
        "dependencyAction": "satisfy",
    }


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "a b"}, "InvalidPropertyValue", "id"),
    ({"commandLine": ""}, "InvalidPropertyValue", "commandLine"),
    ({"commandLine": " \t"}, "InvalidPropertyValue", "commandLine"),
    ({"commandLine": "a\0b"}, "InvalidPropertyValue", "commandLine"),
    ({"displayName": "x" * 1025}, "InvalidPropertyValue", "displayName"),
    ({"requiredSlots": 0}, "InvalidPropertyValue", "requiredSlots"),
    ({"requiredSlots": 257}, "InvalidPropertyValue", "requiredSlots"),
    ({"constraints": {"retentionTime": "1 week"}}, "InvalidPropertyValue", "constraints.retentionTime"),
    ({"constraints": {"maxWallClockTime": "PT0S"}}, "InvalidPropertyValue", "constraints.maxWallClockTime"),
    ({"constraints": {"maxTaskRetryCount": -2}}, "InvalidPropertyValue", "constraints.maxTaskRetryCount"),
    ({"resourceFiles": [{}]}, "InvalidPropertyValue", "resourceFiles[0]"),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "storageContainerUrl": "https://h/c", "filePath": "x"}]},
        "InvalidPropertyValue",
        "resourceFiles[0]",
    ),
    ({"resourceFiles": [{"httpUrl": "https://h/x"}]}, "MissingRequiredProperty", "resourceFiles[0].filePath"),
    (
        {"resourceFiles": [{"httpUrl": "ftp://h/x", "filePath": "x"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].httpUrl",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": "x", "blobPrefix": "p"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].blobPrefix",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": "../x"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].filePath",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": "a/../../x"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].filePath",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": "/etc/passwd"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].filePath",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": ""}]},
        "InvalidPropertyValue",
        "resourceFiles[0].filePath",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": "d/"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].filePath",
    ),
    (
        {"resourceFiles": [{"httpUrl": "https://h/x", "filePath": "x", "fileMode": "rwx"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].fileMode",
    ),
    (
        {"resourceFiles": [{"autoStorageContainerName": "Not_Good"}]},
        "InvalidPropertyValue",
        "resourceFiles[0].autoStorageContainerName",
    ),
    (
        {"outputFiles": [{**OUTPUT, "destination": {}}]},
        "MissingRequiredProperty",
        "outputFiles[0].destination.container",
    ),
    ({"outputFiles": [{**OUTPUT, "filePattern": ""}]}, "InvalidPropertyValue", "outputFiles[0].filePattern"),
    (
        {"outputFiles": [{**OUTPUT, "destination": {"container": {"containerUrl": "/tmp"}}}]},
        "InvalidPropertyValue",
        "outputFiles[0].destination.container.containerUrl",
    ),
    (
        {"outputFiles": [{**OUTPUT, "destination": {"container": {"containerUrl": "https://a/c", "path": "../x"}}}]},
        "InvalidPropertyValue",
        "outputFiles[0].destination.container.path",
    ),
    *(
        (
            {
                "outputFiles": [
                    {
                        **OUTPUT,
                        "destination": {"container": {"containerUrl": "https://a/c", "uploadHeaders": headers}},
                    }
                ]
            },
            "InvalidPropertyValue",
            f"outputFiles[0].destination.container.uploadHeaders[{index}].{name}",
        )
        for headers, index, name in (
            ([{"name": ""}], 0, "name"),
            ([{"name": "Content-Type", "value": "a"}, {"name": "Content-Length", "value": "1"}], 1, "name"),
            ([{"name": "Authorization", "value": "x"}], 0, "name"),
            ([{"name": "x-ms-blob-type", "value": "PageBlob"}], 0, "name"),
            ([{"name": "x-ms-meta-", "value": "x"}], 0, "name"),
            ([{"name": "Content-Type", "value": "a"}, {"name": "content-type", "value": "b"}], 1, "name"),
            ([{"name": "x-ms-meta-a", "value": "x\r\nHost: y"}], 0, "value"),
            ([{"name": "x-ms-meta-a", "value": "ü"}], 0, "value"),
        )
    ),
    (
        {"environmentSettings": [{"name": "", "value": "x"}]},
        "InvalidPropertyValue",
        "environmentSettings[0].name",
    ),
    ({"dependsOn": {"taskIds": ["a b"]}}, "InvalidPropertyValue", "dependsOn.taskIds[0]"),
    ({"dependsOn": {"taskIds": ["x" * 64] * 1001}}, "TaskDependencyListTooLong", "dependsOn.taskIds"),
    (
        {"dependsOn": {"taskIdRanges": [{"start": 2, "end": 1}]}},
        "InvalidPropertyValue",
        "dependsOn.taskIdRanges[0]",
    ),
    (
        {"dependsOn": {"taskIdRanges": [{"start": 1000000000, "end": 2000000000}] * 3201}},
        "TaskDependencyRangesTooLong",
        "dependsOn.taskIdRanges",
    ),
    (
        {"exitConditions": {"exitCodeRanges": [{"start": 2, "end": 1, "exitOptions": {}}]}},
        "InvalidPropertyValue",
        "exitConditions.exitCodeRanges[0]",
    ),
    ({"exitConditions": {"default": {"jobAction": "disable"}}}, "InvalidPropertyValue", "exitConditions"),
    (
        {"userIdentity": {"username": "u", "autoUser": {}}},
        "InvalidPropertyValue",
        "userIdentity",
    ),
    ({"containerSettings": {"imageName": "i"}}, "NotImplemented", "containerSettings"),
    (
        {"applicationPackageReferences": [{"applicationId": "a"}, {"applicationId": "a", "version": "1/2"}]},
        "InvalidPropertyValue",
        "applicationPackageReferences[1].version",
    ),
    (
        {"applicationPackageReferences": [{"applicationId": ""}]},
        "InvalidPropertyValue",
        "applicationPackageReferences[0].applicationId",
    ),
    ({"userIdentity": {}}, "InvalidPropertyValue", "userIdentity"),
    ({"userIdentity": {"username": ""}}, "InvalidPropertyValue", "userIdentity.username"),
    (
        {"multiInstanceSettings": {"coordinationCommandLine": " "}},
        "InvalidPropertyValue",
        "multiInstanceSettings.coordinationCommandLine",
    ),
    (
        {"multiInstanceSettings": {"coordinationCommandLine": "c", "numberOfInstances": 0}},
        "InvalidPropertyValue",
        "multiInstanceSettings.numberOfInstances",
    ),
    (
        {"multiInstanceSettings": {"coordinationCommandLine": "c", "commonResourceFiles": [{"filePath": "f"}]}},
        "InvalidPropertyValue",
        "multiInstanceSettings.commonResourceFiles[0]",
    ),
    (
        {"multiInstanceSettings": {"coordinationCommandLine": "c"}, "requiredSlots": 2},
        "InvalidPropertyValue",
        "requiredSlots",
    ),
]


@pytest.mark.parametrize(("change", "code", "named"), BAD, ids=[f"{code}-{named}" for _, code, named in BAD])
async def test_bad_tasks(busy: World, change: dict[str, Any], code: str, named: str) -> None:
    """The same is refused by itself and in a collection, where it leaves its neighbours alone."""
    bad = {"id": "bad", "commandLine": "true", **change}
    answer = await busy.call("POST", "/jobs/j1/tasks", bad)
    assert (answer.status, answer.code) == (501 if code == "NotImplemented" else 400, code)
    assert answer.values()["PropertyName"] == named
    answer = await collection(busy, {"id": "g1", "commandLine": "x"}, bad, {"id": "g2", "commandLine": "x"})
    assert answer.status == 200
    first, second, third = answer.json()["value"]
    assert (first["status"], second["status"], third["status"]) == ("success", "clienterror", "success")
    assert second["taskId"] == bad["id"]
    assert second["error"]["code"] == code
    assert {"key": "PropertyName", "value": named} in second["error"]["values"]
    assert busy.control.store.task_of("j1", "bad") is None


async def test_empty_lists_of_what_is_not_built_are_fine(busy: World) -> None:
    await busy.add_task("t2", applicationPackageReferences=[], containerSettings=None, dependsOn={"taskIds": []})
    assert busy.control.events[-1].tasks[0].rules is None


async def test_a_job_that_performs_job_actions_takes_them(busy: World) -> None:
    await busy.add_job("acts", onTaskFailure="performexitoptionsjobaction")
    await busy.add_task("t", "acts", exitConditions={"default": {"jobAction": "disable"}})
    answer = await busy.call(
        "POST",
        "/jobs/none/tasks",
        {"id": "t", "commandLine": "x", "exitConditions": {"default": {"jobAction": "none"}}},
    )
    assert answer.code == "JobNotFound"


async def test_collection(busy: World) -> None:
    answer = await collection(
        busy, *({"id": f"n{i}", "commandLine": f"echo {i}"} for i in range(3)), {"id": "t1", "commandLine": "x"}
    )
    assert answer.status == 200
    body = answer.json()
    assert body["odata.metadata"] == "http://127.0.0.1:10010/$metadata#taskaddresult"
    assert [item["status"] for item in body["value"]] == ["success"] * 3 + ["clienterror"]
    first = body["value"][0]
    assert first["taskId"] == "n0"
    assert first["location"] == "http://127.0.0.1:10010/jobs/j1/tasks/n0"
    assert first["lastModified"] == "2026-11-21T04:30:48Z"
    assert first["eTag"].startswith("0x8D")
    taken = body["value"][3]
    assert taken["taskId"] == "t1"
    assert taken["error"]["code"] == "TaskExists"
    assert "RequestId:" in taken["error"]["message"]["value"]
    assert len([event for event in busy.control.events if isinstance(event, e.TasksAdded)]) == 2


@pytest.mark.parametrize("more", [{}, {"displayName": None}, {"requiredSlots": 1}])
async def test_a_collection_of_plain_tasks_is_told_the_same(busy: World, more: dict[str, Any]) -> None:
    """What is read the quick way and what is read the long way."""
    bad_ids = ["", "a b", "x" * 65, "n\u0661", "a\nb"]
    bad_lines = ["", " \t", "a\0"]
    bodies = [{"id": task_id, "commandLine": "x"} for task_id in ("_-A9", "x" * 64, "-", *bad_ids)]
    bodies += [{"id": f"line{number}", "commandLine": line} for number, line in enumerate(bad_lines)]
    for number, body in enumerate(bodies):
        answer = await collection(busy, {"id": f"good{number}", "commandLine": "x"}, {**body, **more})
        results = [result for result in answer.json()["value"] if result["taskId"] == body["id"]]
        fine = body["id"] in ("_-A9", "x" * 64, "-")
        assert [result["status"] for result in results] == ["success" if fine else "clienterror"]
        event = [event for event in busy.control.events if isinstance(event, e.TasksAdded)][-1]
        if fine:
            assert json.loads(event.tasks[-1].spec) == {**body, **{k: v for k, v in more.items() if v is not None}}
        else:
            assert results[0]["error"]["code"] == "InvalidPropertyValue"
            assert len(event.tasks) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "InvalidRequestBody"),
        ({}, "MissingRequiredProperty"),
        ({"value": []}, "InvalidPropertyValue"),
        ({"value": [{"id": "a"}]}, "MissingRequiredProperty"),
        ({"value": [{"id": "a", "commandLine": 7}]}, "InvalidPropertyValue"),
        ({"value": [{"id": "a", "commandLine": "x", "colour": "red"}]}, "UnsupportedProperty"),
        ({"value": [{"id": f"n{i}", "commandLine": "x"} for i in range(101)]}, "InvalidPropertyValue"),
    ],
)
async def test_collections_that_are_refused_whole(busy: World, body: Any, code: str) -> None:
    answer = await busy.call("POST", "/jobs/j1/addtaskcollection", body)
    assert (answer.status, answer.code) == (400, code)
    assert len(busy.control.store.tasks) == 1


async def test_a_collection_too_large_is_told_by_its_code(busy: World) -> None:
    answer = await collection(busy, {"id": "a", "commandLine": "x" * 1024 * 1024})
    assert (answer.status, answer.code) == (413, "RequestBodyTooLarge")


async def test_a_collection_for_no_job(world: World) -> None:
    assert (await collection(world, {"id": "a", "commandLine": "x"})).code == "JobNotFound"
    assert (await collection(world, {"id": "a", "commandLine": ""})).code == "JobNotFound"


async def test_a_completed_task(busy: World) -> None:
    task = busy.control.store.task_of("j1", "t1").task
    task.state, task.previous_state = TaskState.COMPLETED, TaskState.RUNNING
    task.previous_state_time = task.start_time = busy.now
    task.end_time = task.last_retry_time = task.last_requeue_time = busy.now + 0.25
    task.node_id, task.exit_code = NODE, 3
    task.retry_count, task.requeue_count = 1, 2
    task.failure = FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", 'said "no"', (NameValue("Message", "x"),))
    body = (await busy.call("GET", "/jobs/j1/tasks/t1")).json()
    url = f"http://127.0.0.1:10010/pools/p1/nodes/{NODE}"
    assert (body["state"], body["previousState"]) == ("completed", "running")
    assert body["previousStateTransitionTime"] == "2026-11-21T04:30:48Z"
    assert body["executionInfo"] == {
        "startTime": "2026-11-21T04:30:48Z",
        "endTime": "2026-11-21T04:30:48.25Z",
        "exitCode": 3,
        "result": "failure",
        "failureInfo": {
            "category": "usererror",
            "code": "FailureExitCode",
            "message": 'said "no"',
            "details": [{"name": "Message", "value": "x"}],
        },
        "retryCount": 1,
        "requeueCount": 2,
        "lastRetryTime": "2026-11-21T04:30:48.25Z",
        "lastRequeueTime": "2026-11-21T04:30:48.25Z",
    }
    assert body["nodeInfo"] == {
        "affinityId": f"TVM:{NODE}",
        "nodeUrl": url,
        "poolId": "p1",
        "nodeId": NODE,
        "taskRootDirectory": "workitems/j1/job-1/t1",
        "taskRootDirectoryUrl": f"{url}/files/workitems/j1/job-1/t1",
    }


async def test_a_task_handed_to_a_node_and_not_begun_is_plainly_active(busy: World) -> None:
    task = busy.control.store.task_of("j1", "t1").task
    task.node_id, task.attempt = NODE, 1
    body = (await busy.call("GET", "/jobs/j1/tasks/t1")).json()
    assert body["state"] == "active"
    assert "nodeInfo" not in body


async def test_a_retry_count_that_is_not_set_is_the_jobs(busy: World) -> None:
    await busy.add_job("retries", constraints={"maxTaskRetryCount": 5})
    await busy.add_task("bare", "retries")
    await busy.add_task("some", "retries", constraints={"retentionTime": "PT1H"})
    await busy.add_task("own", "retries", constraints={"maxTaskRetryCount": 0})
    shown = [item["constraints"] for item in (await busy.call("GET", "/jobs/retries/tasks")).json()["value"]]
    assert [constraints["maxTaskRetryCount"] for constraints in shown] == [5, 5, 0]
    assert [constraints["retentionTime"] for constraints in shown] == ["P7D", "PT1H", "P7D"]


async def test_list_pages_select_and_filter(busy: World) -> None:
    for index in range(5):
        await busy.add_task(f"n{index}")
    seen = []
    query = "maxresults=2&$select=id,state"
    while query:
        page = (await busy.call("GET", "/jobs/j1/tasks", query=query)).json()
        assert page["odata.metadata"] == "http://127.0.0.1:10010/$metadata#tasks"
        assert all(set(item) == {"id", "state"} for item in page["value"])
        seen += [item["id"] for item in page["value"]]
        link = page.get("odata.nextLink", "")
        assert link.count("skiptoken") <= 1
        query = link.partition("api-version=2025-06-01&")[2]
    assert seen == ["t1", "n0", "n1", "n2", "n3", "n4"]
    named = await busy.call("GET", "/jobs/j1/tasks", query="$filter=startswith(id%2C'n')%20and%20state%20eq%20'active'")
    assert len(named.json()["value"]) == 5
    none = (await busy.call("GET", "/jobs/j1/tasks", query="$select=stats")).json()
    assert none["value"][0].keys() == {"stats"}
    one = (await busy.call("GET", "/jobs/j1/tasks/t1", query="$select=stats&$expand=stats")).json()
    assert set(one) == {"odata.metadata", "stats"}
    assert (await busy.call("GET", "/jobs/none/tasks")).code == "JobNotFound"


async def test_not_found(busy: World) -> None:
    assert (await busy.call("GET", "/jobs/j1/tasks/none")).code == "TaskNotFound"
    assert (await busy.call("GET", "/jobs/none/tasks/none")).code == "JobNotFound"
    for method, path in (("DELETE", ""), ("POST", "/terminate"), ("POST", "/reactivate")):
        assert (await busy.call(method, f"/jobs/j1/tasks/none{path}")).code == "TaskNotFound"


async def test_put_replaces_the_constraints_only(busy: World) -> None:
    await busy.add_task("t2", displayName="kept", constraints={"maxTaskRetryCount": 1, "retentionTime": "PT1H"})
    change = {"odata.metadata": "http://h/$metadata#tasks/@Element", "constraints": {"maxTaskRetryCount": 3}}
    answer = await busy.call("PUT", "/jobs/j1/tasks/t2", change)
    assert (answer.status, answer.body) == (200, b"")
    assert busy.control.events[-1].max_retry_count == 3
    body = (await busy.call("GET", "/jobs/j1/tasks/t2")).json()
    assert body["displayName"] == "kept"
    assert body["constraints"] == {"maxWallClockTime": UNLIMITED, "retentionTime": "P7D", "maxTaskRetryCount": 3}
    assert answer.headers["etag"] == body["eTag"]
    assert (await busy.call("PUT", "/jobs/j1/tasks/t2", {})).status == 200
    assert busy.control.events[-1].max_retry_count is None
    assert (await busy.call("PUT", "/jobs/j1/tasks/t2", {"commandLine": "x"})).code == "UnsupportedProperty"
    bad = await busy.call("PUT", "/jobs/j1/tasks/t2", {"constraints": {"retentionTime": "x"}})
    assert bad.code == "InvalidPropertyValue"
    late = await busy.call("PUT", "/jobs/j1/tasks/t2", {}, headers={"If-Match": '"0x1"'})
    assert (late.status, late.code) == (412, "ConditionNotMet")


@pytest.mark.parametrize(
    ("method", "path", "status", "event"),
    [
        ("POST", "/terminate", 204, e.TaskTerminateRequested),
        ("POST", "/reactivate", 204, e.TaskReactivateRequested),
        ("DELETE", "", 200, e.TaskDeleteRequested),
    ],
)
async def test_changes(busy: World, method: str, path: str, status: int, event: type) -> None:
    answer = await busy.call(method, f"/jobs/j1/tasks/t1{path}")
    assert (answer.status, answer.body) == (status, b"")
    sent = busy.control.events[-1]
    assert isinstance(sent, event)
    assert (sent.job_id, sent.task_id) == ("j1", "t1")
    if status == 204:
        assert "etag" in answer.headers
        assert "content-length" not in answer.headers


async def test_conditional_reads(busy: World) -> None:
    tag = (await busy.call("GET", "/jobs/j1/tasks/t1")).headers["etag"]
    assert (await busy.call("GET", "/jobs/j1/tasks/t1", headers={"If-None-Match": f'"{tag}"'})).status == 304


async def test_a_specification_in_another_order_is_shown_whole(busy: World) -> None:
    """What the splicing counts on is made sure of, not assumed."""
    row = busy.control.store.task_of("j1", "t1")
    spec = json.dumps({"constraints": {"maxTaskRetryCount": 2}, "id": "t1", "commandLine": "x"}).encode()
    busy.control.store.tasks[row.task.key] = TaskRow(row.task, spec)
    body = (await busy.call("GET", "/jobs/j1/tasks/t1")).json()
    assert (body["id"], body["commandLine"]) == ("t1", "x")
    assert body["constraints"]["maxTaskRetryCount"] == 2
    assert msgspec.json.encode(body).count(b'"constraints"') == 1
