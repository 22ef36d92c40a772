"""A node with real processes that launches ahead of its slots whatever its tasks take."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from millpond.agent.base import NodeFacts
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.link import NodeLink
from millpond.agent.local_state import FileJournal
from millpond.agent.node import NodeAgent
from millpond.agent.pace import Pace
from millpond.agent.records import Launched, PutBack
from millpond.agent.runner.plain_run import takes_ahead
from millpond.agent.runner.task_runner import TaskRunner
from millpond.protocol.messages import Directive, Ended, Report, Return, Returned, Start, Stop, Stopped
from millpond.staging.router import StagingRouter
from tests.unit.agent.fakes import FakeControl, FakeFiles
from tests.waiting import until_true


class Eager(Pace):
    def ahead(self, width: int) -> int:
        return 4


class Remembering(FileJournal):
    """What was ever written into it."""

    def __init__(self, path: str, written: list[object]) -> None:
        super().__init__(path)
        self._written = written

    def append(self, record: object) -> None:
        self._written.append(record)
        super().append(record)


class Node:
    def __init__(self, directory: Path, *, compiled: bool) -> None:
        self.directory = directory
        self.control = FakeControl()
        self.control.task_slots = 1
        self.journal: list[object] = []
        self._is_compiled = compiled
        self._revision = 0

    async def begin(self, *, again: bool = False) -> None:
        self.executor = ProcessExecutor(str(self.directory / "host"), compiles=False)
        self.staging = StagingRouter(credentials={})
        if self._is_compiled:
            assert await self.executor.compile()
        await self.executor.open()
        self.agent = NodeAgent(
            "n1",
            root=str(self.directory / "root"),
            task_slots=1,
            journal=Remembering(str(self.directory / "journal"), self.journal),
            runner_factory=self._runner,
            clock=time.time,
            takes_ahead=takes_ahead,
            pace=Eager(),
        )
        self.agent.begin()
        link = NodeLink(self.agent, self.control, FakeFiles(), chance=lambda: 0.5)
        self._linking = asyncio.create_task(link.run())
        if not again:
            await until_true(lambda: self.control.parked == 1)

    def _runner(self, facts: NodeFacts) -> TaskRunner:
        return TaskRunner(facts, self.executor, self.staging)

    async def crash(self) -> None:
        """The agent is gone, the spawner is not."""
        self._linking.cancel()
        await asyncio.wait([self._linking])
        await self.agent.close()
        await self.executor.close()
        await self.staging.close()

    async def end(self) -> None:
        self._linking.cancel()
        await asyncio.wait([self._linking])
        await self.agent.close()
        await self.executor.shutdown()
        await self.staging.close()

    def tell(self, *make: Callable[[int], Directive]) -> None:
        directives = []
        for one in make:
            self._revision += 1
            directives.append(one(self._revision))
        self.control.tell(*directives)

    def run(self, *scripts: str) -> None:
        """Tasks 1, 2, 3 …"""
        self.tell(*(task(key, script) for key, script in enumerate(scripts, start=1)))

    def reports(self, kind: type[Report]) -> list[Report]:
        return [report for report in self.control.reports.values() if isinstance(report, kind)]

    @property
    def ahead(self) -> int:
        return sum(isinstance(record, Launched) and record.ahead for record in self.journal)

    @property
    def put_back(self) -> int:
        return sum(isinstance(record, PutBack) for record in self.journal)


def task(key: int, script: str) -> Callable[[int], Directive]:
    spec = json.dumps({"commandLine": f"/bin/sh -c '{script}'"}).encode()
    return lambda revision: Start(revision, key, 1, job_id="j", task_id=f"t{key}", slots=1, spec=spec)


@pytest.fixture(params=["python", "compiled"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path, compiled=request.param == "compiled")
    await node.begin()
    yield node
    await node.end()


async def test_they_run_in_order_and_never_beside_each_other(node: Node) -> None:
    node.run(*(f"echo {key} >> {node.directory}/ran" for key in range(1, 31)))
    await until_true(lambda: len(node.reports(Ended)) == 30)
    ended = [report for report in node.reports(Ended) if isinstance(report, Ended)]
    assert [report.key for report in ended] == list(range(1, 31))
    assert {report.exit_code for report in ended} == {0}
    assert (node.directory / "ran").read_text().split() == [str(key) for key in range(1, 31)]
    for before, after in pairwise(ended):
        assert before.start_time is not None
        assert after.start_time is not None
        assert before.start_time <= before.end_time <= after.start_time <= after.end_time
    assert node.ahead > 0
    assert node.agent.state.idle or node.agent.has_reports


async def test_one_that_fails_is_followed_by_all_the_same(node: Node) -> None:
    node.run("exit 0", "exit 3", "exit 0", "exit 0", "kill -9 $$", "exit 0")
    await until_true(lambda: len(node.reports(Ended)) == 6)
    codes = [report.exit_code for report in node.reports(Ended) if isinstance(report, Ended)]
    assert codes == [0, 3, 0, 0, -9, 0]
    assert node.put_back > 0


async def test_what_waits_can_be_stopped_and_given_back(node: Node) -> None:
    node.run("sleep 600", *(f"echo {key} >> {node.directory}/ran" for key in range(2, 6)))
    await until_true(lambda: node.ahead > 0)
    node.tell(lambda revision: Stop(revision, 2, 1), lambda revision: Return(revision, 3, 1))
    await until_true(lambda: node.reports(Stopped) and node.reports(Returned))
    assert [report.key for report in (*node.reports(Stopped), *node.reports(Returned))] == [2, 3]
    assert not node.reports(Ended)
    node.tell(lambda revision: Stop(revision, 1, 1))
    await until_true(lambda: len(node.reports(Ended)) == 2)
    assert [report.key for report in node.reports(Ended)] == [4, 5]
    assert (node.directory / "ran").read_text().split() == ["4", "5"]


async def test_the_agent_dies_while_some_wait(node: Node) -> None:
    """Each runs once, and none is told to be lost."""
    fifo = node.directory / "go"
    fifo.touch()
    script = f"echo {{}} >> {node.directory}/ran; while [ -e {fifo} ]; do sleep 0.05; done"
    node.run(*(script.format(key) for key in range(1, 8)))
    await until_true(lambda: node.ahead > 0 and (node.directory / "ran").exists())
    await node.crash()
    fifo.unlink()
    await node.begin(again=True)
    await until_true(lambda: len(node.reports(Ended)) == 7)
    ended = [report for report in node.reports(Ended) if isinstance(report, Ended)]
    assert [(report.key, report.exit_code) for report in ended] == [(key, 0) for key in range(1, 8)]
    assert (node.directory / "ran").read_text().split() == [str(key) for key in range(1, 8)]
    for before, after in pairwise(ended):
        assert before.end_time <= (after.start_time or 0.0)
