"""A node with isolation, made of the real parts: users, control group, spawner and runner. For tests that run as root."""

import asyncio
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from millpond.agent.base import NodeFacts, Outcome
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.files import NodeFiles
from millpond.agent.isolation.node import Isolation, IsolationSettings, NodeIsolation, why_not
from millpond.agent.runner.task_runner import TaskRunner
from millpond.domain.states import TaskKind
from millpond.protocol.messages import FileReply, FileRequest, Start
from tests.machine import own_number
from tests.unit.runner.staging import MemoryStaging
from tests.waiting import PATIENCE_S

# Not the numbers a service takes by itself, which may run on this machine, nor those of another test process: users and
# control groups are the whole machine's.
FIRST_UID = 2_000_000_000 + 100_000 * own_number()
SETTINGS = IsolationSettings(first_uid=FIRST_UID, last_uid=FIRST_UID + 99_999)


def open_directory() -> Path:
    """A temporary directory that every user can reach (pytest's own is for its user only)."""
    path = Path(tempfile.mkdtemp(prefix="millpond-test-"))
    path.chmod(0o711)
    return path


def why_not_here() -> str:
    """Why this machine cannot run tests of isolation."""
    path = open_directory()
    try:
        return why_not(str(path / "host"), SETTINGS.uid_range)
    finally:
        shutil.rmtree(path)


class Machine:
    """A host's directory with what isolation needs, its accounts in files of its own."""

    def __init__(self, path: Path, settings: IsolationSettings = SETTINGS) -> None:
        self.path = path
        self.host = path / "host"
        (self.host / "nodes").mkdir(parents=True)
        for directory in (self.host, self.host / "nodes"):
            directory.chmod(0o711)
        self.etc = path / "etc"
        self.etc.mkdir()
        (self.etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
        (self.etc / "group").write_text("root:x:0:\nalice:x:1000:\n")
        self.isolation = Isolation(str(self.host), settings, claims_directory=str(path / "claims"), etc=str(self.etc))
        assert self.isolation.is_on, self.isolation.reason
        self.executor = ProcessExecutor(str(self.host), switch=self.isolation.switch)
        self.nodes: list[Node] = []
        self.keys = itertools.count(1)

    def node(self, name: str = "n1", *, memory_mib: int = 0, slots: int = 4, accounts: Sequence[object] = ()) -> "Node":
        node = Node(self, name, memory_mib, slots, accounts)
        self.nodes.append(node)
        return node

    async def close(self) -> None:
        for node in self.nodes:
            await node.runner.close()
        await self.executor.shutdown()
        for node in self.nodes:
            self.isolation.remove_node(str(node.directory), str(node.root))


class Node:
    def __init__(self, machine: Machine, name: str, memory_mib: int, slots: int, accounts: Sequence[object]) -> None:
        self.machine = machine
        self.name = name
        self.directory = machine.host / "nodes" / name
        self.root = self.directory / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        (self.directory / "journal").touch(0o600)
        self.capabilities = {
            one.name: one.value
            for one in machine.isolation.open_node(
                str(self.directory), str(self.root), memory_mib=memory_mib, task_slots=slots
            )
        }
        found = machine.isolation.of(str(self.root))
        assert found is not None
        self.isolation: NodeIsolation = found
        self.users = found.users
        self.staging = MemoryStaging()
        self.accounts = accounts
        self.runner = self.next_life()

    def next_life(self) -> TaskRunner:
        """The runner of an agent that has just begun."""
        pool_spec = msgspec.json.encode({"userAccounts": list(self.accounts)})
        self.isolation.set_up(pool_spec)
        facts = NodeFacts(
            self.name,
            "pool",
            "account",
            "https://account",
            is_dedicated=True,
            root=str(self.root),
            pool_spec=pool_spec,
        )
        self.runner = TaskRunner(facts, self.machine.executor, self.staging, isolation=self.isolation)
        return self.runner

    @property
    def pool_uid(self) -> int:
        return self.users.block.first + 1

    def task(self, task_id: str) -> Path:
        return self.root / "workitems/job/job-1" / task_id

    def start(
        self, task_id: str, command_line: str, *, kind: TaskKind = TaskKind.TASK, slots: int = 1, **spec: Any
    ) -> Start:
        wire = json.dumps({"commandLine": command_line, **spec}).encode()
        return Start(1, next(self.machine.keys), 1, "job", task_id, slots, wire, kind=kind)

    async def run(self, start: Start, *, resumed: bool = False) -> Outcome:
        async with asyncio.timeout(PATIENCE_S):
            return await self.runner.run(start, lambda at: None, resumed=resumed)

    async def shell(self, task_id: str, script: str, **more: Any) -> Outcome:
        """Run a script as a task."""
        return await self.run(self.start(task_id, f"/bin/sh -c '{script}'", **more))

    async def output(self, task_id: str, script: str, **more: Any) -> str:
        """What a script that must succeed prints."""
        outcome = await self.shell(task_id, script, **more)
        assert outcome.exit_code == 0, (outcome, (self.task(task_id) / "stderr.txt").read_text())
        return (self.task(task_id) / "stdout.txt").read_text()

    async def file(self, path: str, operation: str = "read") -> tuple[FileReply, bytes]:
        """What the API is told of a file."""
        files = NodeFiles(str(self.root), self.users.owns)
        reply, content = await files.handle(FileRequest("1", operation, path))
        data = b""
        if content is not None:
            data = b"".join([part async for part in content])
        return reply, data


OWN = {"autoUser": {"scope": "task", "elevationLevel": "nonadmin"}}
ADMIN = {"autoUser": {"scope": "pool", "elevationLevel": "admin"}}


def processes_of(uid: int) -> list[int]:
    """The processes of a user."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    found.append(int(name))
            except FileNotFoundError:
                continue
    return found
