"""The official azure-batch SDK 15.1, unmodified, against a running service: start, preparation, release and manager tasks."""

from pathlib import Path
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError


def sh(script: str) -> str:
    return f'/bin/sh -c "{script}"'


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- start tasks ----------------------------------------------------------------------------------------------------


def test_a_start_task_prepares_the_node_before_any_task(batch: Any) -> None:
    pool_id = batch.name("started")
    batch.create_pool(
        pool_id,
        1,
        start_task=m.BatchStartTask(
            command_line=sh("echo ready > $AZ_BATCH_NODE_SHARED_DIR/ready; env | sort"),
            environment_settings=[m.EnvironmentSetting(name="FLAVOUR", value="plain")],
        ),
    )
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))
    batch.sh(job_id, "t", "cat $AZ_BATCH_NODE_SHARED_DIR/ready; pwd; ls $AZ_BATCH_NODE_STARTUP_DIR")
    batch.completed(job_id, "t")
    out = batch.stdout(job_id, "t").splitlines()
    assert out[0] == "ready"
    assert {"stdout.txt", "stderr.txt", "wd"} <= set(out[2:])
    (node,) = batch.nodes(pool_id)
    info = node.start_task_info
    assert (info.state, info.exit_code, info.retry_count) == (m.BatchStartTaskState.COMPLETED, 0, 0)
    assert info.result == m.BatchTaskExecutionResult.SUCCESS
    assert node.start_task.wait_for_success is True
    assert node.total_tasks_run == 1, "start tasks are not counted"
    text = b"".join(batch.client.download_node_file(pool_id, node.id, "startup/stdout.txt")).decode()
    environment = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    assert environment["FLAVOUR"] == "plain"
    assert environment["AZ_BATCH_TASK_WORKING_DIR"] == environment["AZ_BATCH_NODE_STARTUP_WORKING_DIR"]
    assert not {"AZ_BATCH_JOB_ID", "AZ_BATCH_TASK_ID"} & set(environment)


def test_a_failed_start_task_keeps_the_node_from_tasks(batch: Any) -> None:
    pool_id = batch.name("failed")
    batch.create_pool(pool_id, 1, start_task=m.BatchStartTask(command_line=sh("exit 9"), max_task_retry_count=1))
    (node,) = batch.until(
        lambda: batch.nodes(pool_id),
        lambda nodes: bool(nodes) and nodes[0].state == m.BatchNodeState.START_TASK_FAILED,
    )
    info = node.start_task_info
    assert (info.exit_code, info.retry_count) == (9, 1)
    assert info.failure_info.code == "FailureExitCode"
    assert info.last_retry_time is not None
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))
    batch.sh(job_id, "t", "true")
    assert batch.client.get_task(job_id, "t").state == m.BatchTaskState.ACTIVE
    # A start task that works now, and a reboot, mend it.
    batch.client.update_pool(pool_id, m.BatchPoolUpdateOptions(start_task=m.BatchStartTask(command_line=sh("true"))))
    batch.client.begin_reboot_node(
        pool_id,
        node.id,
        {"nodeRebootOption": "requeue"},
        polling_interval=batch.poll_s,
    ).result()
    batch.completed(job_id, "t")


def test_nobody_waits_for_a_start_task_that_says_so(batch: Any) -> None:
    pool_id = batch.name("background")
    batch.create_pool(pool_id, 1, start_task=m.BatchStartTask(command_line=sh("exit 1"), wait_for_success=False))
    (node,) = batch.until_idle(pool_id, 1)
    done = batch.until(
        lambda: batch.client.get_node(pool_id, node.id),
        lambda node: node.start_task_info.state == m.BatchStartTaskState.COMPLETED,
    )
    assert done.state == m.BatchNodeState.IDLE
    assert done.start_task_info.result == m.BatchTaskExecutionResult.FAILURE


# --- preparation and release ----------------------------------------------------------------------------------------


def test_preparation_runs_once_a_node_and_release_where_it_ran(batch: Any, open_path: Path) -> None:
    job_id = batch.create_job(
        job_preparation_task=m.BatchJobPreparationTask(
            command_line=sh(f"echo $AZ_BATCH_NODE_ID >> {open_path}/prepared; echo data > input")
        ),
        job_release_task=m.BatchJobReleaseTask(
            command_line=sh(
                f"cat $AZ_BATCH_JOB_PREP_WORKING_DIR/input && echo $AZ_BATCH_NODE_ID >> {open_path}/released"
            )
        ),
    )
    assert not (open_path / "prepared").exists(), "preparation is lazy"
    for number in range(12):
        batch.sh(job_id, f"t{number}", "cat $AZ_BATCH_JOB_PREP_WORKING_DIR/input")
    for number in range(12):
        assert batch.completed(job_id, f"t{number}").execution_info.exit_code == 0
        assert batch.stdout(job_id, f"t{number}") == "data\n"
    prepared = lines(open_path / "prepared")
    used = {task.node_info.node_id for task in batch.client.list_tasks(job_id)}
    assert sorted(prepared) == sorted(used), "once a node, on the nodes with tasks only"
    batch.client.begin_terminate_job(
        job_id, options={"terminateReason": "done"}, polling_interval=batch.poll_s
    ).result()
    batch.until_job(job_id, m.BatchJobState.COMPLETED)
    assert sorted(lines(open_path / "released")) == sorted(prepared)
    status = list(batch.client.list_job_preparation_and_release_task_status(job_id))
    assert {entry.node_id for entry in status} == used
    for entry in status:
        for info in (entry.job_preparation_task_execution_info, entry.job_release_task_execution_info):
            assert (info.state, info.exit_code) == ("completed", 0)
        assert (
            entry.job_preparation_task_execution_info.task_root_directory == f"workitems/{job_id}/job-1/jobpreparation"
        )
    batch.client.begin_delete_job(job_id, polling_interval=batch.poll_s).result()
    assert len(lines(open_path / "released")) == len(prepared), "not again on delete"


def test_failed_preparation_bars_its_nodes_for_that_job_only(batch: Any) -> None:
    job_id = batch.create_job(job_preparation_task=m.BatchJobPreparationTask(command_line=sh("exit 5")))
    batch.sh(job_id, "t", "true")
    batch.until(
        lambda: list(batch.client.list_job_preparation_and_release_task_status(job_id)),
        lambda status: (
            len(status) == 2 and all(entry.job_preparation_task_execution_info.exit_code == 5 for entry in status)
        ),
    )
    assert batch.until_state(job_id, "t", m.BatchTaskState.ACTIVE).execution_info.retry_count == 0
    other = batch.create_job()
    batch.sh(other, "t", "true")
    batch.completed(other, "t")


def test_what_special_tasks_refuse(batch: Any) -> None:
    with pytest.raises(HttpResponseError) as refused:
        batch.create_job(job_release_task=m.BatchJobReleaseTask(command_line="true"))
    assert refused.value.status_code == 400
    job_id = batch.create_job(job_preparation_task=m.BatchJobPreparationTask(command_line="true"))
    with pytest.raises(HttpResponseError) as refused:
        batch.add(job_id, "JobPreparation", "true")
    assert refused.value.error is not None
    assert (refused.value.status_code, refused.value.error.code) == (409, "TaskIdSameAsJobPreparationTask")
    plain = batch.create_job()
    with pytest.raises(HttpResponseError) as refused:
        list(batch.client.list_job_preparation_and_release_task_status(plain))
    assert refused.value.error is not None
    assert refused.value.error.code == "JobPreparationTaskNotSpecified"


# --- job managers ---------------------------------------------------------------------------------------------------

MANAGER = """
import json, os, urllib.request
job = os.environ["AZ_BATCH_JOB_ID"]
url = os.environ["AZ_BATCH_ACCOUNT_URL"].rstrip("/")
def call(method, path, body=None):
    request = urllib.request.Request(f"{url}{path}?api-version=2024-07-01.20.0", method=method)
    request.add_header("Authorization", "Bearer " + os.environ["AZ_BATCH_AUTHENTICATION_TOKEN"])
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json; odata=minimalmetadata")
    with urllib.request.urlopen(request) as answer:
        return answer.read()
for number in range(5):
    call("POST", f"/jobs/{job}/tasks", {"id": f"child{number}", "commandLine": "true"})
try:
    call("GET", "/pools")
except urllib.error.HTTPError as error:
    print("pools:", error.code)
while json.loads(call("GET", f"/jobs/{job}/taskcounts"))["taskCounts"]["completed"] < 5:
    pass
print("all done")
"""


def test_a_job_manager_adds_tasks_with_its_own_token_and_ends_its_job(batch: Any, open_path: Path) -> None:
    script = open_path / "manager.py"
    script.write_text(MANAGER)
    script.chmod(0o644)
    job_id = batch.name("managed")
    # The SDK's model has no authenticationTokenSettings any more; the operation takes it, and older SDKs send it.
    batch.client.create_job(
        {
            "id": job_id,
            "poolInfo": {"poolId": batch.pool_id},
            "jobManagerTask": {
                "id": "manager",
                "commandLine": f"/usr/bin/env python3 {script}",
                "runExclusive": False,
                "authenticationTokenSettings": {"access": ["job"]},
            },
        }
    )
    job = batch.until_job(job_id, m.BatchJobState.COMPLETED)
    assert job.execution_info.termination_reason == "JMComplete"
    out = batch.stdout(job_id, "manager")
    assert out == "pools: 403\nall done\n", (
        out,
        b"".join(batch.client.download_task_file(job_id, "manager", "stderr.txt")),
    )
    tasks = {task.id: task for task in batch.client.list_tasks(job_id)}
    assert set(tasks) == {"manager", *(f"child{number}" for number in range(5))}
    assert all(task.execution_info.exit_code == 0 for task in tasks.values())


def test_a_manager_takes_its_job_with_it(batch: Any) -> None:
    job_id = batch.create_job(
        job_manager_task=m.BatchJobManagerTask(id="manager", command_line=sh("exit 4"), kill_job_on_completion=True)
    )
    batch.until_job(job_id, m.BatchJobState.COMPLETED)
    assert batch.client.get_task(job_id, "manager").execution_info.exit_code == 4
    with pytest.raises(ResourceNotFoundError):
        batch.client.get_task(job_id, "another")
