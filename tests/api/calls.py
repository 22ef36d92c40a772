"""A call of every operation that it answers with success, in a world that has all it needs."""

from typing import Any

import msgspec

from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.domain.application import Application, ApplicationPackage, PackageState
from millpond.domain.node import NodeError
from millpond.domain.pool import ResizeError
from millpond.domain.special_task import JobNode, SpecialTaskInfo
from millpond.domain.states import ErrorCategory, NodeState, SpecialTaskState, SubtaskState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import FailureInfo, NameValue
from millpond.store.base import SampleBlock, TaskRow
from tests.api.client import NOW
from tests.api.conftest import MACHINE, NODE, World

POOL = {
    "displayName": "a pool",
    "startTask": {
        "commandLine": "true",
        "resourceFiles": [{"httpUrl": "http://h/f", "filePath": "f"}],
        "environmentSettings": [{"name": "A", "value": "1"}],
        "userIdentity": {"autoUser": {"scope": "pool", "elevationLevel": "admin"}},
        "maxTaskRetryCount": 1,
        "waitForSuccess": True,
    },
    "userAccounts": [{"name": "alice", "password": "x", "linuxUserConfiguration": {"uid": 5, "gid": 5}}],
    "metadata": [{"name": "a", "value": "b"}],
    "resizeTimeout": "PT20M",
    "networkConfiguration": {"publicIPAddressConfiguration": {"ipFamilies": ["IPv4"], "provision": "batchmanaged"}},
}
JOB = {
    "displayName": "a job",
    "jobManagerTask": {"id": "manager", "commandLine": "true", "authenticationTokenSettings": {"access": ["job"]}},
    "jobPreparationTask": {"commandLine": "true"},
    "jobReleaseTask": {"commandLine": "true"},
    "commonEnvironmentSettings": [{"name": "A", "value": "1"}],
    "metadata": [{"name": "a", "value": "b"}],
    "constraints": {"maxWallClockTime": "PT1H", "maxTaskRetryCount": 2},
    "usesTaskDependencies": True,
    "priority": 3,
}
BODIES: dict[str, Any] = {
    "create_pool": {"id": "made", "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE},
    "update_pool": {"metadata": []},
    "replace_pool_properties": {"applicationPackageReferences": [], "metadata": []},
    "resize_pool": {"targetDedicatedNodes": 1},
    "enable_pool_auto_scale": {"autoScaleFormula": "$TargetDedicatedNodes=0;"},
    "evaluate_pool_auto_scale": {"autoScaleFormula": "$TargetDedicatedNodes=0;"},
    "remove_nodes": {"nodeList": [NODE]},
    "create_job": {"id": "made", "poolInfo": {"poolId": "p1"}},
    "update_job": {"priority": 1},
    "replace_job": {"poolInfo": {"poolId": "p1"}},
    "disable_job": {"disableTasks": "wait"},
    "create_task": {"id": "made", "commandLine": "true"},
    "create_task_collection": {"value": [{"id": "made", "commandLine": "true"}, {"id": "t1", "commandLine": "true"}]},
    "create_task_array": {
        "id": "array",
        "taskFactory": {
            "type": "parametricSweep",
            "parameterSets": [{"start": 1, "end": 2}],
            "repeatTask": {"commandLine": "true {0}"},
        },
    },
    "replace_task": {"constraints": {"maxTaskRetryCount": 1}},
    "create_job_schedule": {
        "id": "made",
        "schedule": {"recurrenceInterval": "PT1H"},
        "jobSpecification": {"poolInfo": {"poolId": "p1"}},
    },
    "update_job_schedule": {"schedule": {"recurrenceInterval": "PT2H"}},
    "replace_job_schedule": {"jobSpecification": {"poolInfo": {"poolId": "p1"}}},
    "create_node_user": {"name": "bob", "password": "x"},
    "replace_node_user": {"password": "y"},
    "upload_node_logs": {"containerUrl": "http://h/c?sig=x", "startTime": "2026-11-21T00:00:00Z"},
    "create_certificate": {"thumbprint": "ab", "thumbprintAlgorithm": "sha1", "data": "eA=="},
}
QUERIES = dict.fromkeys(
    (
        "get_pool",
        "list_pools",
        "get_job",
        "list_jobs",
        "get_task",
        "list_tasks",
        "get_job_schedule",
        "list_job_schedules",
        "list_jobs_from_schedule",
    ),
    "$expand=stats",
)
PARAMS = {
    "poolId": "p1",
    "nodeId": NODE,
    "jobId": "j1",
    "taskId": "t1",
    "filePath": "wd%2Fx",
    "jobScheduleId": "s1",
    "userName": "alice",
    "extensionName": "x",
    "applicationId": "app",
    "thumbprintAlgorithm": "sha1",
    "thumbprint": "ab12",
}
IN_OTHER_STATES = {"enable_job_schedule": "/jobschedules/s1/disable"}
"""Operation → what must be called before it."""

_FAILURE = FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", "it failed", (NameValue("Message", "exit code 1"),))


async def furnish(world: World) -> None:
    """A pool with nodes in many states, jobs and tasks in all, a schedule, files."""
    await world.add_pool(**POOL)
    await world.add_job(**JOB)
    package = ApplicationPackage("1", NOW, NOW, blob="app/1", state=PackageState.ACTIVE, size=7)
    await world.control.store.save_application(Application("app", NOW, NOW, "An app", packages=(package,)))
    await world.add_job_schedule(jobSpecification={"poolInfo": {"poolId": "p1"}, **JOB})
    await world.add_job("s1job")
    world.control.store.jobs["s1job"].schedule_id = "s1"
    pool = world.control.store.pools["p1"]
    pool.resize_errors = (ResizeError("AllocationTimedOut", "too late", (NameValue("a", "b"),)),)
    failed = SpecialTaskInfo(2, NOW, SpecialTaskState.COMPLETED, NOW, 1, _FAILURE, 1, NOW)
    going = SpecialTaskInfo(1, NOW)
    world.add_node(
        ip_address="10.0.0.4",
        agent_version="1",
        last_boot_time=NOW,
        start_task=failed,
        total_tasks_run=3,
        errors=(NodeError("Oops", "it broke", (NameValue("a", "b"),)),),
    )
    for index, state in enumerate(NodeState):
        world.add_node(f"tvmps_{index:064x}_p", is_dedicated=False).state = state
    world.control.store.job_nodes = [
        JobNode(1, NODE, "p1", preparation=failed, release=going),
        JobNode(1, "tvmps_" + "b" * 64 + "_d", "p1", preparation=going),
    ]
    store = world.control.store
    history = History(period_s=30.0, keep_s=86400.0)
    for at in range(int(NOW) // 3600 * 3600 - 3600, int(NOW), 30):
        history.add(
            float(at),
            {
                Metric.CURRENT_DEDICATED_NODES: 2.0,
                Metric.CURRENT_LOW_PRIORITY_NODES: 1.0,
                Metric.SAMPLE_NODE_COUNT: 3.0,
                Metric.CPU_PERCENT: 0.5,
                Metric.MEMORY_BYTES: 1073.741824,
                Metric.DISK_READ_OPS: 2.0,
            },
        )
    pool.creation_time = NOW - 7200
    store.samples = [SampleBlock(pool.no, NOW - 7200, msgspec.msgpack.encode(history.snapshot()))]
    await world.add_task("t1")
    await world.add_task(
        "t2",
        dependsOn={"taskIds": ["t1"]},
        constraints={"maxTaskRetryCount": 1},
        resourceFiles=[{"httpUrl": "http://h/f", "filePath": "f"}],
        environmentSettings=[{"name": "A", "value": "1"}],
        affinityInfo={"affinityId": "TVM:" + NODE},
    )
    await world.add_task("t3", multiInstanceSettings={"coordinationCommandLine": "true", "numberOfInstances": 2})
    for number, state in ((1, TaskState.COMPLETED), (2, TaskState.COMPLETED), (3, TaskState.RUNNING)):
        row = store.task_of("j1", f"t{number}")
        task = msgspec.structs.replace(
            row.task,
            state=state,
            previous_state=TaskState.RUNNING,
            previous_state_time=NOW,
            node_id=NODE,
            start_time=NOW,
            end_time=NOW + 5 if state is TaskState.COMPLETED else None,
            exit_code=number - 1 if state is TaskState.COMPLETED else None,
            failure=_FAILURE if number == 2 else None,
            retry_count=1,
            last_retry_time=NOW,
            requeue_count=1,
            last_requeue_time=NOW,
        )
        store.tasks[task.key] = TaskRow(task, row.spec)
        if number == 1:
            store.subtasks = [
                Subtask(task.key, 1, 1, NODE, SubtaskState.COMPLETED, NOW, SubtaskState.RUNNING, NOW, NOW, NOW, 0),
                Subtask(task.key, 2, 1, NODE, SubtaskState.COMPLETED, NOW, None, None, NOW, NOW, 1, _FAILURE),
                Subtask(task.key, 3, 1, NODE, SubtaskState.PREPARING, NOW),
            ]
    for path, content in (("wd/x", b"x"), ("wd", None)):
        world.control.files.files[NODE, path] = content
        world.control.files.files[NODE, f"workitems/j1/job-1/t1/{path}"] = content
