"""Output files on a real blob server: names, headers, failures, and a server that goes away while they are uploaded."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from millpond.agent.base import NodeFacts, Outcome, ProcessSpec
from millpond.agent.executors.fake import FakeExecutor, FakeRun
from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.runner.task_runner import TaskRunner
from millpond.protocol.messages import Start
from millpond.staging.http import HttpStaging
from millpond.staging.retries import Retries
from tests.servers.azurite import Azurite
from tests.waiting import until_true


class Node:
    """A runner whose tasks write files, over pretended processes and real staging."""

    def __init__(self, root: Path) -> None:
        self.wd = root / "workitems/job/job-1/task/wd"
        self.files: dict[str, bytes] = {}
        self.staging = HttpStaging(retries=Retries(backoff_s=1.0))
        facts = NodeFacts("node", "pool", "account", "https://account", is_dedicated=True, root=str(root))
        self.runner = TaskRunner(
            facts, FakeExecutor(self._write, time.time), self.staging, directories=NodeDirectories(str(root), time.time)
        )

    def _write(self, process: ProcessSpec) -> FakeRun:
        for name, data in self.files.items():
            (self.wd / name).parent.mkdir(parents=True, exist_ok=True)
            (self.wd / name).write_bytes(data)
        return FakeRun()

    async def run(self, *outputs: dict[str, Any]) -> Outcome:
        spec = json.dumps({"commandLine": "x", "outputFiles": outputs}).encode()
        return await self.runner.run(Start(1, 7, 1, "job", "task", 1, spec), lambda _: None, resumed=False)

    def log(self, name: str) -> str:
        return (self.wd.parent / name).read_text()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "root")
    yield node
    await node.runner.close()
    await node.staging.close()


def output(url: str, pattern: str, **container: Any) -> dict[str, Any]:
    return {"filePattern": pattern, "destination": {"container": {"containerUrl": url, **container}}}


def code_of(outcome: Outcome) -> str:
    return "" if outcome.failure is None else outcome.failure.code


async def test_what_arrives(node: Node, azurite: Azurite) -> None:
    container = azurite.new_container()
    url = azurite.container_url(container)
    node.files = {"a b.txt": b"blank", "ü/é%20#.txt": b"strange", "big.bin": bytes(1 << 20) * 9, "empty.txt": b""}
    headers = [{"name": "x-ms-blob-content-type", "value": "text/x-test"}, {"name": "X-MS-META-who", "value": "me"}]
    outcome = await node.run(
        output(url, "**/*.txt", path="run/1"),
        output(url, "big.bin", path="renamed.bin", uploadHeaders=headers),
        output(url, "nothing*"),
    )
    assert outcome.failure is None
    with azurite.client() as client, client.get_container_client(container) as one:
        assert {blob.name: blob.size for blob in one.list_blobs()} == {
            "run/1/a b.txt": 5,
            "run/1/ü/é%20#.txt": 7,
            "run/1/empty.txt": 0,
            "renamed.bin": 9 << 20,
        }
        facts = one.get_blob_client("renamed.bin").get_blob_properties()
    assert facts.content_settings.content_type == "text/x-test"
    assert facts.metadata == {"who": "me"}


async def test_a_container_that_is_not_there(node: Node, azurite: Azurite) -> None:
    node.files = {"a.txt": b"x"}
    outcome = await node.run(output(azurite.container_url("there-is-none"), "*.txt"))
    assert (outcome.exit_code, code_of(outcome)) == (0, "FileUploadContainerNotFound")
    assert "there-is-none" in node.log("fileuploaderr.txt")


@pytest.mark.parametrize(("valid_s", "permissions"), [(-10.0, "racwdl"), (3600.0, "rl")])
async def test_what_may_not_be_written(node: Node, azurite: Azurite, valid_s: float, permissions: str) -> None:
    node.files = {"a.txt": b"x"}
    url = azurite.container_url(azurite.new_container(), permissions, valid_s=valid_s)
    outcome = await node.run(output(url, "*.txt"))
    assert (outcome.exit_code, code_of(outcome)) == (0, "FileUploadAccessDenied")
    assert "sig=" not in node.log("fileuploaderr.txt")


async def test_storage_that_is_killed_and_comes_back(node: Node, new_azurite: Callable[[], Azurite]) -> None:
    azurite = new_azurite()
    container = azurite.new_container()
    url = azurite.container_url(container)
    await until_true(lambda: azurite.has_written_down(container))
    await asyncio.to_thread(azurite.stop)
    node.files = {f"{number}.txt": b"x" * number for number in range(20)}
    running = asyncio.create_task(node.run(output(url, "*.txt")))
    log = node.wd.parent / "fileuploaderr.txt"
    await until_true(lambda: log.exists() and "there is another" in log.read_text())
    await asyncio.to_thread(azurite.start)
    failure = (await running).failure
    assert failure is None, f"{failure}\n{log.read_text()}"
    assert azurite.read(container, "19.txt") == b"x" * 19
    with azurite.client() as client, client.get_container_client(container) as one:
        assert len(list(one.list_blobs())) == 20
