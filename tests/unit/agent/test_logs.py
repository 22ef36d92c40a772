"""The node's side of kept logs: what is sent, when, and what an agent that was killed sends later."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from millpond.agent import logs as logs_module
from millpond.agent.files import NodeFiles
from millpond.agent.listening import TransportError
from millpond.agent.logs import LogsRefused, NodeLogs
from millpond.protocol.messages import LogFile, Logs
from tests.waiting import until_true

LIMIT = 1000


class Service:
    """Keeps what it is sent, by task key: attempt, and contents by name."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[int, dict[str, bytes]]] = {}
        self.files: dict[int, list[LogFile]] = {}
        self.messages: list[Logs] = []
        self.fails: Exception | None = None

    async def send_logs(self, logs: Logs) -> None:
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        self.messages.append(logs)
        for task in logs.tasks:
            files = msgspec.msgpack.decode(task.files, type=list[LogFile])
            self.files[task.key] = files
            contents = {f.name: logs.data[task.offset + f.offset : task.offset + f.offset + f.size] for f in files}
            self.kept[task.key] = task.attempt, contents


class Node:
    """A root with task directories, and the logs that are sent of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "volatile").mkdir(parents=True)
        self.service = Service()
        self.logs = self.new()

    def new(self) -> NodeLogs:
        return NodeLogs(str(self.root), NodeFiles(str(self.root)), gather_s=0.01)

    def write(self, number: int, **files: bytes) -> str:
        directory = f"workitems/j/job-1/t{number}"
        (self.root / directory / "wd").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (self.root / directory / f"{name}.txt").write_bytes(content)
        return directory

    def ended(self, number: int, attempt: int = 1, patterns: str = "", **files: bytes) -> None:
        files = {"stdout": b"", "stderr": b"", **files}
        self.logs.ended(number, attempt, self.write(number, **files), patterns=patterns)

    def waiting(self) -> list[str]:
        directory = self.root / "volatile/logs"
        return sorted(os.listdir(directory)) if directory.exists() else []

    def begin(self) -> None:
        self.logs.configure(LIMIT)
        self.logs.begin(self.service)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "root")
    yield node
    await node.logs.close()


async def test_many_tasks_go_in_one_message(node: Node) -> None:
    node.begin()
    for number in range(1, 101):
        node.ended(number, stdout=b"out %d" % number)
    await until_true(lambda: len(node.service.kept) == 100)
    assert len(node.service.messages) == 1
    assert node.service.kept[7] == (1, {"stdout.txt": b"out 7", "stderr.txt": b""})
    await until_true(lambda: node.waiting() == [])


async def test_a_long_file_is_cut_in_the_middle_and_says_so(node: Node) -> None:
    node.begin()
    content = b"".join(b"line %05d\n" % n for n in range(20_000))
    node.ended(1, stdout=content)
    await until_true(lambda: 1 in node.service.kept)
    kept = node.service.kept[1][1]["stdout.txt"]
    assert kept.startswith(content[:250])
    assert kept.endswith(content[-750:])
    assert b"[... 219000 bytes were not kept ...]" in kept
    assert node.service.files[1][0].original_size == len(content)


async def test_nothing_is_sent_before_the_service_has_said_how_much(node: Node) -> None:
    node.logs.begin(node.service)
    node.ended(1, stdout=b"x")
    await node.logs.flush(0.05)
    assert node.service.messages == []
    node.logs.configure(LIMIT)
    await until_true(lambda: 1 in node.service.kept)


async def test_nothing_is_sent_where_logs_are_not_kept(node: Node) -> None:
    node.ended(1, stdout=b"x")
    node.logs.begin(node.service)
    node.logs.configure(0)
    node.ended(2, stdout=b"x")
    await node.logs.flush(5)
    assert (node.service.messages, node.waiting()) == ([], [])


async def test_what_was_not_sent_is_sent_by_the_next_agent(node: Node) -> None:
    node.ended(1, stdout=b"one")
    await until_true(lambda: node.waiting() == ["1"])
    await node.logs.close()
    node.logs = node.new()
    node.ended(2, stdout=b"two")
    node.begin()
    await until_true(lambda: len(node.service.kept) == 2)
    assert node.service.kept[1] == (1, {"stdout.txt": b"one", "stderr.txt": b""})
    await until_true(lambda: node.waiting() == [])
    assert sum(len(message.tasks) for message in node.service.messages) == 2


async def test_a_line_that_was_cut_off_costs_only_itself(node: Node) -> None:
    node.ended(1, stdout=b"one")
    await node.logs.close()
    file = node.root / "volatile/logs/1"
    file.write_bytes(file.read_bytes() + b'[2,1,"workit')
    node.logs = node.new()
    node.begin()
    await until_true(lambda: node.waiting() == [])
    assert list(node.service.kept) == [1]


async def test_an_attempt_that_came_after_has_its_own_say(node: Node) -> None:
    node.ended(1, stdout=b"first")
    (node.root / "workitems/j/job-1/t1").rename(node.root / "volatile/old")
    node.ended(1, attempt=2, stdout=b"second")
    node.begin()
    await node.logs.flush(20)
    assert node.service.kept[1] == (2, {"stdout.txt": b"second", "stderr.txt": b""})
    assert [task.attempt for message in node.service.messages for task in message.tasks] == [2]


async def test_a_service_that_is_away_gets_them_later(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "_MIN_PAUSE_S", 0.01)
    node.service.fails = TransportError("away")
    node.begin()
    node.ended(1, stdout=b"x")
    await node.logs.flush(0.05)
    assert (node.service.kept, node.waiting()) == ({}, ["1"])
    node.service.fails = None
    await node.logs.flush(20)
    assert 1 in node.service.kept


async def test_what_the_service_refuses_is_let_go(node: Node) -> None:
    node.service.fails = LogsRefused("too large")
    node.begin()
    node.ended(1, stdout=b"x")
    await until_true(lambda: node.waiting() == [] and node.logs._count == 0)
    node.service.fails = None
    node.ended(2, stdout=b"x")
    await until_true(lambda: list(node.service.kept) == [2])


async def test_a_flush_waits_for_all(node: Node) -> None:
    node.logs = NodeLogs(str(node.root), NodeFiles(str(node.root)), gather_s=1000)
    node.begin()
    node.ended(1, stdout=b"x")
    await asyncio.sleep(0)
    await node.logs.flush(20)
    assert list(node.service.kept) == [1]


async def test_links_and_names_that_lead_elsewhere_are_not_kept(node: Node) -> None:
    secret = node.root.parent / "secret"
    secret.write_bytes(b"secret")
    directory = node.root / node.write(1)
    (directory / "stdout.txt").symlink_to(secret)
    (directory / "wd/link.log").symlink_to(secret)
    (directory / "wd/own.log").write_bytes(b"own")
    node.begin()
    patterns = "*.log; ../../../../../secret; /etc/hostname; ../stderr.txt"
    node.logs.ended(1, 1, node.write(1, stderr=b"err"), patterns=patterns)
    await until_true(lambda: 1 in node.service.kept)
    assert node.service.kept[1][1] == {"stderr.txt": b"err", "wd/own.log": b"own"}


async def test_more_than_can_wait_is_not_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "MAX_WAITING", 2)
    for number in range(1, 5):
        node.ended(number, stdout=b"x")
    node.begin()
    await node.logs.flush(20)
    assert sorted(node.service.kept) == [1, 2]


async def test_messages_stay_small(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "PACK_BYTES", 2000)
    for number in range(1, 11):
        node.ended(number, stdout=b"x" * 900)
    node.begin()
    await node.logs.flush(20)
    assert len(node.service.kept) == 10
    assert max(len(message.data) for message in node.service.messages) < 3000


async def test_a_new_disk_has_nothing_to_send(node: Node) -> None:
    node.ended(1, stdout=b"x")
    node.logs.wiped()
    node.begin()
    await node.logs.flush(5)
    node.ended(2, stdout=b"x")
    await until_true(lambda: list(node.service.kept) == [2])
