"""The app over the fake control plane."""

from pathlib import Path
from typing import Any

import pytest

from millpond.api.asgi import create_app
from millpond.api.auth import AccountKeys
from millpond.domain.node import Node
from millpond.domain.states import NodeState
from millpond.staging.auto_storage import AutoStorage
from tests.api.client import ACCOUNT, KEY, NOW, SECONDARY, Api
from tests.api.fakes import FakeControl

NODE = "tvmps_" + "a" * 64 + "_d"

MACHINE = {
    "imageReference": {"publisher": "canonical", "offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts"},
    "nodeAgentSKUId": "batch.node.ubuntu 22.04",
}


class World(Api):
    """The app, its control plane and its storage, at a time that stands still until moved."""

    def __init__(self, directory: Path) -> None:
        self.now = NOW
        self.control = FakeControl(lambda: self.now)
        self.storage = AutoStorage(str(directory), ACCOUNT, KEY, lambda: self.now)
        super().__init__(create_app(self.control, AccountKeys(ACCOUNT, KEY, SECONDARY), self.storage))

    async def add_pool(self, pool_id: str = "p1", **more: Any) -> None:
        body = {"id": pool_id, "vmSize": "standard_d2s_v3", "virtualMachineConfiguration": MACHINE, **more}
        answer = await self.call("POST", "/pools", body)
        assert answer.status == 201, answer.body

    async def add_job(self, job_id: str = "j1", pool_id: str = "p1", **more: Any) -> None:
        answer = await self.call("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": pool_id}, **more})
        assert answer.status == 201, answer.body

    async def add_job_schedule(self, schedule_id: str = "s1", **more: Any) -> None:
        body = {
            "id": schedule_id,
            "schedule": {"recurrenceInterval": "PT1H"},
            "jobSpecification": {"poolInfo": {"poolId": "p1"}},
            **more,
        }
        answer = await self.call("POST", "/jobschedules", body)
        assert answer.status == 201, answer.body

    async def add_task(self, task_id: str = "t1", job_id: str = "j1", **more: Any) -> None:
        body = {"id": task_id, "commandLine": "true", **more}
        answer = await self.call("POST", f"/jobs/{job_id}/tasks", body)
        assert answer.status == 201, answer.body

    def add_node(self, node_id: str = NODE, pool_id: str = "p1", **more: Any) -> Node:
        node = Node(id=node_id, pool_no=1, state=NodeState.IDLE, state_time=NOW, allocation_time=NOW, **more)
        self.control.store.nodes[node_id] = (pool_id, node)
        return node


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


@pytest.fixture
async def busy(world: World) -> World:
    """With pool p1 and its node, job j1, task t1."""
    await world.add_pool()
    world.add_node()
    await world.add_job()
    await world.add_task()
    return world
