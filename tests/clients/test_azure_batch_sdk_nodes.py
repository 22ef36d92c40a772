"""The official azure-batch SDK, unmodified, on nodes: restarted, deallocated, disabled, removed; and spot nodes that are
taken away by the service's own operation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.batch import models as m
from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest

from tests.clients.conftest import Batch, connect
from tests.commands import said_by

SOURCE = Path(__file__).resolve().parents[2] / "src"


def code_of(caught: "pytest.ExceptionInfo[HttpResponseError]") -> str:
    assert caught.value.error is not None
    return str(caught.value.error.code)


@pytest.fixture(scope="module")
def nodes(service: Any) -> Iterator[Batch]:
    with connect(service) as client:
        yield Batch(client, "none")


def node_of(batch: Batch, pool_id: str) -> m.BatchNode:
    (node,) = batch.nodes(pool_id)
    return node


def until_node(batch: Batch, pool_id: str, state: m.BatchNodeState) -> m.BatchNode:
    return batch.until(lambda: node_of(batch, pool_id), lambda node: node.state == state)


def pool_of_one(batch: Batch, *, spot: bool = False, **more: Any) -> tuple[str, str]:
    """A pool of one idle node."""
    pool_id = batch.name("nodes")
    batch.create_pool(pool_id, 0 if spot else 1, target_low_priority_nodes=1 if spot else 0, **more)
    (node,) = batch.until_idle(pool_id, 1)
    assert node.id is not None
    return pool_id, node.id


def job_on(batch: Batch, pool_id: str) -> str:
    return batch.create_job(pool_info=m.BatchPoolInfo(pool_id=pool_id))


def test_a_spot_node_is_preempted_and_its_task_runs_again_there(service: Any, nodes: Batch) -> None:
    pool_id, node_id = pool_of_one(nodes, spot=True)
    before = node_of(nodes, pool_id)
    job_id = job_on(nodes, pool_id)
    # The first run leaves a mark on the node's disk and stays; a run that finds no mark knows that the disk is fresh.
    mark = "$AZ_BATCH_NODE_SHARED_DIR/mark"
    script = f"if [ $AZ_BATCH_NODE_IS_DEDICATED = false ] && [ ! -e {service.data_dir}/ran ]; then "
    script += f"touch {mark} {service.data_dir}/ran; exec sleep 1000; fi; test ! -e {mark}"
    nodes.sh(job_id, "t", script)
    nodes.until((service.data_dir / "ran").exists, bool)
    assert said_by("node", "preempt", pool_id, node_id, data_dir=service.data_dir) == ""
    task = nodes.completed(job_id, "t")
    assert task.execution_info is not None
    assert task.node_info is not None
    assert (task.execution_info.exit_code, task.node_info.node_id) == (0, node_id)
    assert (task.execution_info.retry_count, task.execution_info.requeue_count) == (0, 0)
    (after,) = nodes.until_idle(pool_id, 1)
    assert (after.id, after.allocation_time) == (node_id, before.allocation_time)
    assert after.last_boot_time is not None
    assert before.last_boot_time is not None
    assert after.last_boot_time > before.last_boot_time
    pool = nodes.client.get_pool(pool_id)
    assert (pool.current_low_priority_nodes, pool.allocation_state) == (1, m.AllocationState.STEADY)
    assert "spot" in said_by("node", "list", pool_id, data_dir=service.data_dir)


def test_the_extension_goes_through_the_sdks_own_pipeline(service: Any, nodes: Batch) -> None:
    pool_id, node_id = pool_of_one(nodes)
    url = f"{service.endpoint}/pools/{pool_id}/nodes/{node_id}/preempt"
    with pytest.raises(HttpResponseError) as caught:
        nodes.client.send_request(HttpRequest("POST", url, params={"api-version": "2025-06-01"})).raise_for_status()
    assert caught.value.status_code == 409
    assert "OperationNotValidOnNode" in str(caught.value)


def test_scheduling_is_disabled_and_enabled(nodes: Batch) -> None:
    pool_id, node_id = pool_of_one(nodes)
    client = nodes.client
    job_id = job_on(nodes, pool_id)
    nodes.sh(job_id, "t", "sleep 1000")
    nodes.running(job_id, "t")
    requeue = {"nodeDisableSchedulingOption": "requeue"}
    client.disable_node_scheduling(pool_id, node_id, requeue)
    node = until_node(nodes, pool_id, m.BatchNodeState.OFFLINE)
    assert node.scheduling_state == m.SchedulingState.DISABLED
    with pytest.raises(HttpResponseError) as caught:
        client.disable_node_scheduling(pool_id, node_id, requeue)
    assert code_of(caught) == "NodeAlreadyInTargetSchedulingState"
    task = client.get_task(job_id, "t")
    assert task.state == m.BatchTaskState.ACTIVE
    assert task.execution_info is not None
    assert task.execution_info.requeue_count == 1
    client.enable_node_scheduling(pool_id, node_id)
    nodes.running(job_id, "t")


def test_a_node_is_deallocated_and_started(nodes: Batch) -> None:
    pool_id, node_id = pool_of_one(nodes)
    client = nodes.client
    options = {"nodeDeallocateOption": "terminate"}
    client.begin_deallocate_node(pool_id, node_id, options, polling_interval=nodes.poll_s).result()
    assert node_of(nodes, pool_id).state == m.BatchNodeState.DEALLOCATED
    counts = next(counts for counts in client.list_pool_node_counts() if counts.pool_id == pool_id)
    assert counts.dedicated is not None
    assert (counts.dedicated.deallocated, counts.dedicated.total) == (1, 1)
    with pytest.raises(HttpResponseError) as caught:
        client.begin_reboot_node(pool_id, node_id, {"nodeRebootOption": "requeue"})
    assert code_of(caught) == "OperationInvalidForCurrentState"
    client.begin_start_node(pool_id, node_id, polling_interval=nodes.poll_s).result()
    (again,) = nodes.until_idle(pool_id, 1)
    assert again.id == node_id


def test_nodes_are_removed_and_the_target_falls(nodes: Batch) -> None:
    pool_id = nodes.name("nodes")
    nodes.create_pool(pool_id, 2)
    first, second = nodes.until_idle(pool_id, 2)
    client = nodes.client
    assert first.id is not None
    options = m.BatchNodeRemoveOptions(node_ids=[first.id])
    client.begin_remove_nodes(pool_id, options, polling_interval=nodes.poll_s).result()
    pool = client.get_pool(pool_id)
    assert (pool.target_dedicated_nodes, pool.current_dedicated_nodes) == (1, 1)
    assert [node.id for node in nodes.nodes(pool_id)] == [second.id]
    with pytest.raises(HttpResponseError) as caught:
        client.begin_remove_nodes(pool_id, options)
    assert code_of(caught) == "NodeNotFound"


def test_a_pool_is_updated(nodes: Batch) -> None:
    pool_id, _ = pool_of_one(nodes)
    client = nodes.client
    item = m.BatchMetadataItem(name="a", value="b")
    start_task = m.BatchStartTask(command_line="/bin/true", wait_for_success=True)
    client.update_pool(pool_id, m.BatchPoolUpdateOptions(metadata=[item], start_task=start_task))
    pool = client.get_pool(pool_id)
    assert pool.metadata == [item]
    assert pool.start_task is not None
    with pytest.raises(HttpResponseError) as caught:
        client.update_pool(pool_id, m.BatchPoolUpdateOptions(task_slots_per_node=2))
    assert (caught.value.status_code, code_of(caught)) == (409, "OperationInvalidForCurrentState")
    client.replace_pool_properties(pool_id, m.BatchPoolReplaceOptions(application_package_references=[], metadata=[]))
    pool = client.get_pool(pool_id)
    assert not pool.metadata
    assert pool.start_task is None


@pytest.mark.parametrize("operation", ["reboot", "reimage"])
def test_a_node_is_restarted(service: Any, nodes: Batch, operation: str) -> None:
    pool_id, node_id = pool_of_one(nodes)
    client = nodes.client
    job_id = job_on(nodes, pool_id)
    mark = "$AZ_BATCH_NODE_SHARED_DIR/mark"
    nodes.sh(job_id, "mark", f"touch {mark}")
    nodes.completed(job_id, "mark")
    nodes.sh(
        job_id,
        "t",
        f"if [ ! -e {service.data_dir}/{operation} ]; then touch {service.data_dir}/{operation}; exec sleep 1000; fi; ls {mark}",
    )
    nodes.until((service.data_dir / operation).exists, bool)
    before = node_of(nodes, pool_id)
    if operation == "reboot":
        options: Any = {"nodeRebootOption": "requeue"}
        client.begin_reboot_node(pool_id, node_id, options, polling_interval=nodes.poll_s).result()
    else:
        options = {"nodeReimageOption": "requeue"}
        client.begin_reimage_node(pool_id, node_id, options, polling_interval=nodes.poll_s).result()
    task = nodes.completed(job_id, "t")
    assert task.execution_info is not None
    assert task.execution_info.requeue_count == 1
    assert (task.execution_info.exit_code == 0) == (operation == "reboot"), (
        "a reboot keeps the disk, a reimage does not"
    )
    after = until_node(nodes, pool_id, m.BatchNodeState.IDLE)
    assert before.last_boot_time is not None
    assert after.last_boot_time is not None
    assert after.last_boot_time > before.last_boot_time
