"""The official azure-batch SDK 15.1, unmodified, against a running service: pools, nodes, jobs, errors."""

import json
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core import MatchConditions
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)

from tests.waiting import PATIENCE_S


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> str:
    assert caught.value.error is not None
    assert caught.value.error.code is not None
    return caught.value.error.code


# --- the account ---


def test_the_front_door_tells_its_state_without_key_and_secrets(service: Any) -> None:
    with urllib.request.urlopen(service.endpoint + "/healthz", timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    request = urllib.request.Request(service.endpoint + "/", headers={"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    assert isinstance(json.loads(text), dict)
    assert service.key not in text
    request = urllib.request.Request(service.endpoint + "/", headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        assert service.key not in answer.read().decode()


def test_a_wrong_key_is_refused_and_both_keys_are_good(service: Any) -> None:
    keys = json.loads((service.data_dir / "keys.json").read_text())
    for key in (keys["primary"], keys["secondary"]):
        with BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, key)) as client:
            assert list(client.list_supported_images())
    wrong = BatchClient(service.endpoint, AzureNamedKeyCredential(service.account, "a2V5" * 20))
    with wrong as client, pytest.raises(HttpResponseError) as caught:
        list(client.list_pools())
    assert caught.value.status_code == 403
    assert code_of(caught) == "AuthenticationFailed"


def test_supported_images_name_a_node_agent(batch: Any) -> None:
    images = list(batch.client.list_supported_images())
    linux = [image for image in images if image.os_type == m.OSType.LINUX]
    assert linux
    assert all(i.node_agent_sku_id and i.image_reference and i.verification_type for i in linux)


def test_what_is_not_there_yet_says_so(batch: Any) -> None:
    job_id = batch.create_job()
    container = m.BatchTaskContainerSettings(image_name="debian")
    with pytest.raises(HttpResponseError) as caught:
        batch.add(job_id, "t", "true", container_settings=container)
    assert caught.value.status_code == 501
    assert code_of(caught) == "NotImplemented"
    assert "containerSettings" in str(caught.value)


# --- pools and nodes ---


def test_a_pool_grows_shrinks_and_goes(batch: Any) -> None:
    pool_id = batch.name("Pool")
    batch.create_pool(pool_id, 2, display_name="tüte", metadata=[m.BatchMetadataItem(name="a", value="b")])
    with pytest.raises(ResourceExistsError) as caught:
        batch.create_pool(pool_id.lower(), 1)
    assert code_of(caught) == "PoolExists"

    batch.until_idle(pool_id, 2)
    pool = batch.client.get_pool(pool_id)
    assert (pool.id, pool.state, pool.display_name) == (pool_id, m.BatchPoolState.ACTIVE, "tüte")
    assert pool.allocation_state == m.AllocationState.STEADY
    assert (pool.current_dedicated_nodes, pool.target_dedicated_nodes) == (2, 2)
    assert pool.resize_errors is None
    assert pool.metadata is not None
    assert [(item.name, item.value) for item in pool.metadata] == [("a", "b")]
    assert pool.url is not None
    assert pool.url.endswith(f"/pools/{pool_id}")

    batch.client.begin_resize_pool(
        pool_id, m.BatchPoolResizeOptions(target_dedicated_nodes=1), polling_interval=batch.poll_s
    ).result()
    resized = batch.client.get_pool(pool_id)
    assert resized.allocation_state == m.AllocationState.STEADY
    assert resized.current_dedicated_nodes == 1
    assert resized.etag != pool.etag

    batch.client.begin_delete_pool(pool_id, polling_interval=batch.poll_s).result()
    with pytest.raises(ResourceNotFoundError) as gone:
        batch.client.get_pool(pool_id)
    assert code_of(gone) == "PoolNotFound"


def test_pool_exists(batch: Any) -> None:
    assert batch.client.pool_exists(batch.pool_id)
    # 15.1 raises on the bare 404 instead of answering False: the client's fault.
    with pytest.raises(ResourceNotFoundError):
        batch.client.pool_exists("no-such-pool")


def test_pools_are_listed_by_filter_and_select(batch: Any) -> None:
    found = list(batch.client.list_pools(filter="startswith(id,'SHAR') and state eq 'active'", select=["id", "state"]))
    assert [(pool.id, pool.state) for pool in found] == [("shared", m.BatchPoolState.ACTIVE)]
    assert found[0].vm_size is None
    assert list(batch.client.list_pools(filter="id eq 'other'")) == []
    with pytest.raises(HttpResponseError) as caught:
        list(batch.client.list_pools(filter="color eq 'red'"))
    assert code_of(caught) == "InvalidQueryParameterValue"


def test_nodes_are_listed_got_and_counted(batch: Any) -> None:
    nodes = batch.nodes()
    assert len(nodes) == 2
    node = batch.client.get_node(batch.pool_id, nodes[0].id)
    assert node.id == nodes[0].id
    assert node.id.startswith("tvmps_")
    assert node.affinity_id == "TVM:" + node.id
    assert node.is_dedicated
    assert node.scheduling_state == m.SchedulingState.ENABLED
    assert node.vm_size == "standard_d2s_v3"
    with pytest.raises(ResourceNotFoundError) as caught:
        batch.client.get_node(batch.pool_id, "tvmps_none_d")
    assert code_of(caught) == "NodeNotFound"
    counts = {c.pool_id: c for c in batch.client.list_pool_node_counts(filter=f"poolId eq '{batch.pool_id}'")}
    dedicated = counts[batch.pool_id].dedicated
    assert dedicated.total == 2
    assert dedicated.idle + dedicated.running == 2


def test_resize_of_a_pool_that_is_not_there(batch: Any) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        batch.client.begin_resize_pool("none", m.BatchPoolResizeOptions(target_dedicated_nodes=1))
    assert code_of(caught) == "PoolNotFound"


# --- jobs ---


def test_a_job_is_added_got_changed_and_deleted(batch: Any) -> None:
    job_id = batch.create_job("Job", display_name="one", priority=5)
    with pytest.raises(ResourceExistsError) as caught:
        batch.client.create_job(m.BatchJobCreateOptions(id=job_id.upper(), pool_info=m.BatchPoolInfo(pool_id="x")))
    assert code_of(caught) == "JobExists"

    job = batch.client.get_job(job_id)
    assert (job.id, job.display_name, job.priority) == (job_id, "one", 5)
    assert job.state == m.BatchJobState.ACTIVE
    assert job.execution_info is not None
    assert job.execution_info.pool_id == batch.pool_id
    assert job.all_tasks_complete_mode == m.BatchAllTasksCompleteMode.NO_ACTION

    batch.client.update_job(job_id, m.BatchJobUpdateOptions(priority=7))
    patched = batch.client.get_job(job_id)
    assert (patched.priority, patched.display_name) == (7, "one")
    assert patched.etag != job.etag

    patched.priority = 9
    patched.constraints = m.BatchJobConstraints(max_task_retry_count=2, max_wall_clock_time=timedelta(hours=1))
    batch.client.replace_job(job_id, patched)
    replaced = batch.client.get_job(job_id)
    assert replaced.priority == 9
    assert replaced.constraints is not None
    assert replaced.constraints.max_task_retry_count == 2
    assert replaced.constraints.max_wall_clock_time == timedelta(hours=1)

    batch.client.begin_delete_job(job_id, polling_interval=batch.poll_s).result()
    with pytest.raises(ResourceNotFoundError) as gone:
        batch.client.get_job(job_id)
    assert code_of(gone) == "JobNotFound"


def test_conditions_on_etag_and_time(batch: Any) -> None:
    job_id = batch.create_job()
    job = batch.client.get_job(job_id)
    batch.client.update_job(
        job_id, m.BatchJobUpdateOptions(priority=1), etag=job.etag, match_condition=MatchConditions.IfNotModified
    )
    with pytest.raises(ResourceModifiedError) as caught:
        batch.client.update_job(
            job_id, m.BatchJobUpdateOptions(priority=2), etag=job.etag, match_condition=MatchConditions.IfNotModified
        )
    assert caught.value.status_code == 412
    now = batch.client.get_job(job_id)
    assert now.priority == 1
    with pytest.raises(ResourceModifiedError) as unchanged:
        batch.client.get_job(job_id, etag=now.etag, match_condition=MatchConditions.IfModified)
    assert unchanged.value.status_code == 304
    past = datetime.now(UTC) - timedelta(days=1)
    with pytest.raises(HttpResponseError) as modified:
        batch.client.begin_delete_job(job_id, if_unmodified_since=past)
    assert modified.value.status_code == 412
    assert batch.client.get_job(job_id).state == m.BatchJobState.ACTIVE


def test_the_state_does_not_change_the_etag(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "true")
    before = batch.client.get_task(job_id, "t").etag
    assert batch.completed(job_id, "t").etag == before


def test_jobs_are_listed_by_filter(batch: Any) -> None:
    prefix = batch.name("list")
    for number in range(3):
        batch.client.create_job(
            m.BatchJobCreateOptions(id=f"{prefix}-{number}", pool_info=m.BatchPoolInfo(pool_id=batch.pool_id))
        )
    pages = batch.client.list_jobs(filter=f"startswith(id,'{prefix}')", select=["id"], max_results=2).by_page()
    assert [[job.id for job in page] for page in pages] == [[f"{prefix}-0", f"{prefix}-1"], [f"{prefix}-2"]]


def test_disable_requeues_and_enable_runs_again(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "sleep 300")
    batch.running(job_id, "t")
    batch.client.begin_disable_job(
        job_id,
        m.BatchJobDisableOptions(disable_tasks=m.DisableBatchJobOption.REQUEUE),
        polling_interval=batch.poll_s,
    ).result()
    assert batch.client.get_job(job_id).state == m.BatchJobState.DISABLED
    task = batch.client.get_task(job_id, "t")
    assert task.state == m.BatchTaskState.ACTIVE
    assert task.execution_info is not None
    assert (task.execution_info.requeue_count, task.execution_info.retry_count) == (1, 0)
    batch.client.begin_enable_job(job_id, polling_interval=batch.poll_s).result()
    assert batch.client.get_job(job_id).state == m.BatchJobState.ACTIVE
    batch.running(job_id, "t")
    batch.client.terminate_task(job_id, "t")


def test_disable_with_wait_lets_tasks_finish(batch: Any, tmp_path: Path) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done")
    batch.running(job_id, "t")
    poller = batch.client.begin_disable_job(
        job_id, m.BatchJobDisableOptions(disable_tasks=m.DisableBatchJobOption.WAIT), polling_interval=batch.poll_s
    )
    assert batch.client.get_job(job_id).state == m.BatchJobState.DISABLING
    batch.sh(job_id, "later", "true")
    (tmp_path / "go").touch()
    poller.result()
    assert batch.client.get_job(job_id).state == m.BatchJobState.DISABLED
    assert batch.client.get_task(job_id, "t").execution_info.exit_code == 0
    assert batch.client.get_task(job_id, "later").state == m.BatchTaskState.ACTIVE


def test_disable_with_terminate_ends_tasks(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "sleep 300")
    batch.running(job_id, "t")
    batch.client.begin_disable_job(
        job_id,
        m.BatchJobDisableOptions(disable_tasks=m.DisableBatchJobOption.TERMINATE),
        polling_interval=batch.poll_s,
    ).result()
    task = batch.client.get_task(job_id, "t")
    assert task.state == m.BatchTaskState.COMPLETED
    assert task.execution_info.result == m.BatchTaskExecutionResult.FAILURE


def test_terminate_ends_running_tasks_and_closes_the_job(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "sleep 300")
    batch.running(job_id, "t")
    batch.client.begin_terminate_job(
        job_id, options={"terminateReason": "enough"}, polling_interval=batch.poll_s
    ).result()
    job = batch.client.get_job(job_id)
    assert job.state == m.BatchJobState.COMPLETED
    assert job.execution_info.termination_reason == "enough"
    assert job.execution_info.end_time is not None
    task = batch.client.get_task(job_id, "t")
    assert task.state == m.BatchTaskState.COMPLETED
    assert task.execution_info.failure_info.code == "TaskEnded"
    with pytest.raises(ResourceExistsError) as caught:
        batch.sh(job_id, "late", "true")
    assert code_of(caught) == "JobCompleted"


def test_a_job_ends_by_itself_when_all_tasks_are_complete(batch: Any) -> None:
    job_id = batch.create_job()
    batch.sh(job_id, "t", "true")
    batch.client.update_job(
        job_id, m.BatchJobUpdateOptions(all_tasks_complete_mode=m.BatchAllTasksCompleteMode.TERMINATE_JOB)
    )
    job = batch.until_job(job_id, m.BatchJobState.COMPLETED)
    assert job.execution_info.termination_reason == "AllTasksComplete"


def test_a_job_may_name_a_pool_that_comes_later(batch: Any) -> None:
    pool_id = batch.name("later")
    job_id = batch.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))
    batch.sh(job_id, "t", "true")
    assert batch.client.get_task(job_id, "t").state == m.BatchTaskState.ACTIVE
    batch.create_pool(pool_id, 1)
    assert batch.completed(job_id, "t").execution_info.exit_code == 0
    batch.client.begin_delete_pool(pool_id, polling_interval=batch.poll_s).result()


def test_bad_values_are_refused_with_their_code(batch: Any) -> None:
    with pytest.raises(HttpResponseError) as bad_id:
        batch.client.create_job(m.BatchJobCreateOptions(id="no spaces", pool_info=m.BatchPoolInfo(pool_id="p")))
    assert bad_id.value.status_code == 400
    assert code_of(bad_id) == "InvalidPropertyValue"
    with pytest.raises(HttpResponseError) as no_pool:
        batch.client.create_job({"id": batch.name("j"), "poolInfo": {}})
    assert no_pool.value.status_code == 400
    with pytest.raises(HttpResponseError) as unknown:
        batch.client.create_job({"id": batch.name("j"), "poolInfo": {"poolId": "p"}, "colour": "red"})
    assert unknown.value.status_code == 400
    with pytest.raises(HttpResponseError) as priority:
        batch.create_job(priority=1001)
    assert priority.value.status_code == 400


async def test_the_async_client_works_too(service: Any, batch: Any) -> None:
    from azure.batch.aio import BatchClient as AsyncBatchClient

    credential = AzureNamedKeyCredential(service.account, service.key)
    async with AsyncBatchClient(service.endpoint, credential) as client:
        assert [pool.id async for pool in client.list_pools(filter=f"id eq '{batch.pool_id}'")] == [batch.pool_id]
