"""A connected azure-batch client, and waiting for conditions through it."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from azure.batch import BatchClient
from azure.batch import models as m
from azure.core.credentials import AzureNamedKeyCredential

from tests.waiting import until

_T = TypeVar("_T")


class Batch:
    """A client and what tests do with it again and again."""

    poll_s = 0.1
    """For the SDK's pollers, which take 5 s when not told."""

    def __init__(self, client: BatchClient, pool_id: str) -> None:
        self.client = client
        self.pool_id = pool_id

    @staticmethod
    def name(prefix: str) -> str:
        return f"{prefix}-{uuid.uuid4().hex[:8]}"

    @staticmethod
    def until(look: Callable[[], _T], wanted: Callable[[_T], bool]) -> _T:
        """Look again and again until what is seen is wanted."""
        return until(look, wanted)

    def image(self) -> m.VirtualMachineConfiguration:
        image = next(i for i in self.client.list_supported_images() if i.os_type == m.OSType.LINUX)
        return m.VirtualMachineConfiguration(
            image_reference=image.image_reference, node_agent_sku_id=image.node_agent_sku_id
        )

    def create_pool(self, pool_id: str, nodes: int, **more: Any) -> None:
        self.client.create_pool(
            m.BatchPoolCreateOptions(
                id=pool_id,
                vm_size="standard_d2s_v3",
                virtual_machine_configuration=self.image(),
                target_dedicated_nodes=nodes,
                **more,
            )
        )

    def nodes(self, pool_id: str | None = None) -> list[m.BatchNode]:
        return list(self.client.list_nodes(pool_id or self.pool_id))

    def until_idle(self, pool_id: str, count: int) -> list[m.BatchNode]:
        return self.until(
            lambda: self.nodes(pool_id),
            lambda nodes: len(nodes) == count and all(n.state == m.BatchNodeState.IDLE for n in nodes),
        )

    def create_job(self, prefix: str = "job", **more: Any) -> str:
        job_id = self.name(prefix)
        more.setdefault("pool_info", m.BatchPoolInfo(pool_id=self.pool_id))
        self.client.create_job(m.BatchJobCreateOptions(id=job_id, **more))
        return job_id

    def add(self, job_id: str, task_id: str, command_line: str, **more: Any) -> None:
        self.client.create_task(job_id, m.BatchTaskCreateOptions(id=task_id, command_line=command_line, **more))

    def sh(self, job_id: str, task_id: str, script: str, **more: Any) -> None:
        """Add a task that runs a line of shell (without double quotes in it)."""
        self.add(job_id, task_id, f'/bin/sh -c "{script}"', **more)

    def until_state(self, job_id: str, task_id: str, state: m.BatchTaskState) -> m.BatchTask:
        return self.until(lambda: self.client.get_task(job_id, task_id), lambda task: task.state == state)

    def completed(self, job_id: str, task_id: str) -> m.BatchTask:
        return self.until_state(job_id, task_id, m.BatchTaskState.COMPLETED)

    def running(self, job_id: str, task_id: str) -> m.BatchTask:
        return self.until_state(job_id, task_id, m.BatchTaskState.RUNNING)

    def until_job(self, job_id: str, state: m.BatchJobState) -> m.BatchJob:
        return self.until(lambda: self.client.get_job(job_id), lambda job: job.state == state)

    def stdout(self, job_id: str, task_id: str) -> str:
        return b"".join(self.client.download_task_file(job_id, task_id, "stdout.txt")).decode()


def connect(service: Any, key: str | None = None) -> BatchClient:
    return BatchClient(
        endpoint=service.endpoint, credential=AzureNamedKeyCredential(service.account, key or service.key)
    )


@pytest.fixture(scope="module")
def batch(service: Any) -> Iterator[Batch]:
    """A client of the file's service, with a pool of two idle nodes of four slots each."""
    with connect(service) as client:
        batch = Batch(client, "shared")
        batch.create_pool("shared", 2, task_slots_per_node=4)
        batch.until_idle("shared", 2)
        yield batch
