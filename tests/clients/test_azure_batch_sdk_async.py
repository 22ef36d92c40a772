"""The official `azure-batch` client, its asyncio side (`azure.batch.aio`), against a running service."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import pytest
from azure.batch import models as m
from azure.batch.aio import BatchClient
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from tests.conftest import MillpondProcess

_T = TypeVar("_T")
DEADLINE_S = 60.0
TASKS = 1000


@pytest.fixture
async def client(service: MillpondProcess) -> AsyncIterator[BatchClient]:
    credential = AzureNamedKeyCredential(service.account, service.key)
    async with BatchClient(endpoint=service.endpoint, credential=credential) as client:
        yield client


async def until(look: Callable[[], Awaitable[_T]], wanted: Callable[[_T], bool]) -> _T:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        seen = await look()
        if wanted(seen):
            return seen
        assert time.monotonic() < deadline, f"not in {DEADLINE_S:g} s; last seen: {seen}"
        await asyncio.sleep(0.05)


async def create_pool(client: BatchClient, pool_id: str, nodes: int) -> None:
    images = [image async for image in client.list_supported_images()]
    image = next(image for image in images if image.os_type == m.OSType.LINUX)
    await client.create_pool(
        m.BatchPoolCreateOptions(
            id=pool_id,
            vm_size="standard_d2s_v3",
            virtual_machine_configuration=m.VirtualMachineConfiguration(
                image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
            ),
            target_dedicated_nodes=nodes,
            task_slots_per_node=4,
        )
    )


async def test_pools(client: BatchClient) -> None:
    await create_pool(client, "sizes", 1)
    await until(lambda: client.get_pool("sizes"), lambda pool: pool.current_dedicated_nodes == 1)
    poller = await client.begin_resize_pool(
        "sizes", m.BatchPoolResizeOptions(target_dedicated_nodes=2), polling_interval=0.1
    )
    await poller.result()
    pool = await client.get_pool("sizes")
    assert (pool.allocation_state, pool.current_dedicated_nodes) == (m.AllocationState.STEADY, 2)
    await client.update_pool("sizes", m.BatchPoolUpdateOptions(metadata=[m.BatchMetadataItem(name="a", value="b")]))
    listed = {pool.id: pool.metadata async for pool in client.list_pools(filter="startswith(id,'siz')")}
    assert listed == {"sizes": [m.BatchMetadataItem(name="a", value="b")]}
    with pytest.raises(HttpResponseError, match="PoolExists"):
        await create_pool(client, "sizes", 1)
    await (await client.begin_delete_pool("sizes", polling_interval=0.1)).result()
    with pytest.raises(ResourceNotFoundError, match="PoolNotFound"):
        await client.get_pool("sizes")


async def test_a_thousand_tasks_and_their_files(client: BatchClient) -> None:
    await create_pool(client, "many", 2)
    await client.create_job(m.BatchJobCreateOptions(id="many", pool_info=m.BatchPoolInfo(pool_id="many")))
    command_line = "/bin/sh -c 'echo $AZ_BATCH_TASK_ID; mkdir -p deep; echo deeper > deep/file.txt'"
    tasks = [m.BatchTaskCreateOptions(id=f"t{number}", command_line=command_line) for number in range(TASKS)]
    added = await client.create_tasks("many", tasks, max_concurrency=4)
    assert {value.status for value in added.result_values or []} == {m.BatchTaskAddStatus.SUCCESS}
    assert len(added.result_values or []) == TASKS
    counts = await until(
        lambda: client.get_job_task_counts("many"), lambda counts: counts.task_counts.completed == TASKS
    )
    assert counts.task_counts.succeeded == TASKS
    assert {task.id async for task in client.list_tasks("many", select=["id"])} == {task.id for task in tasks}

    async def text(path: str, **more: str) -> str:
        return b"".join([chunk async for chunk in await client.download_task_file("many", "t7", path, **more)]).decode()

    assert await text("stdout.txt") == "t7\n"
    assert await text("wd/deep/file.txt", ocp_range="bytes=0-3") == "deep"
    files = {file.name async for file in client.list_task_files("many", "t7", recursive=True)}
    assert {"stdout.txt", "stderr.txt", "wd/deep/file.txt"} <= files
    task = await client.get_task("many", "t7")
    assert task.node_info is not None
    place = ("many", str(task.node_info.node_id))
    assert "shared" in {file.name async for file in client.list_node_files(*place)}
    with pytest.raises(HttpResponseError) as missing:
        await text("nothing.txt")
    assert missing.value.status_code == 404


async def test_jobs(client: BatchClient) -> None:
    await client.create_job(m.BatchJobCreateOptions(id="short", pool_info=m.BatchPoolInfo(pool_id="none"), priority=3))
    options = m.BatchJobDisableOptions(disable_tasks=m.DisableBatchJobOption.REQUEUE)
    await (await client.begin_disable_job("short", options, polling_interval=0.1)).result()
    assert (await client.get_job("short")).state == m.BatchJobState.DISABLED
    await (await client.begin_enable_job("short", polling_interval=0.1)).result()
    ended = {"terminateReason": "enough"}
    await (await client.begin_terminate_job("short", ended, polling_interval=0.1)).result()
    job = await until(lambda: client.get_job("short"), lambda job: job.state == m.BatchJobState.COMPLETED)
    assert job.execution_info is not None
    assert job.execution_info.termination_reason == "enough"
    await (await client.begin_delete_job("short", polling_interval=0.1)).result()
    assert "short" not in {job.id async for job in client.list_jobs()}
