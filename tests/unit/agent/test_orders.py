"""Orders a node carries out: its logs, and what it does not know or cannot do."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from millpond.agent.orders import NodeDesk
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.protocol.messages import FileReply, FileRequest, PutUser, UploadLogs
from millpond.staging.base import Staging


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


class Sink:
    """Storage that keeps what it is given."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.error: TaskFailure | None = None

    async def put(self, path: str, container_url: str, name: str, headers: Mapping[str, str]) -> None:
        if self.error is not None:
            raise self.error
        self.files[container_url, name] = content_of(path)


class Files:
    async def handle(self, request: FileRequest) -> tuple[FileReply, None]:
        return FileReply(message=request.operation), None


def desk(directory: Path, sink: Any) -> NodeDesk:
    staging: Staging = sink
    return NodeDesk(Files(), lambda: None, "the agent does not run as root", str(directory), staging)


async def ask(one: NodeDesk, content: bytes) -> FileReply:
    reply, body = await one.handle(FileRequest("1", "order", "", content=content))
    assert body is None
    return reply


async def test_logs_of_the_time_asked_for_are_uploaded(tmp_path: Path) -> None:
    for name, changed in (("host.log", 2000.0), ("old.log", 500.0), ("other.txt", 2000.0)):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (changed, changed))
    (tmp_path / "link.log").symlink_to("/etc/hostname")
    sink = Sink()
    order = UploadLogs("http://h/c?sig", "p/n/r", start=1000.0)
    reply = await ask(desk(tmp_path, sink), msgspec.json.encode(order))
    assert (reply.error, reply.content) == ("", b'{"files":1}')
    assert sink.files == {("http://h/c?sig", "p/n/r/host.log"): b"host.log"}


async def test_storage_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "host.log").write_text("x")
    sink = Sink()
    order = msgspec.json.encode(UploadLogs("http://h/c", "d", start=0.0))
    sink.error = TaskFailure(TaskFailureCode.FILE_UPLOAD_ACCESS_DENIED, "no signature")
    reply = await ask(desk(tmp_path, sink), order)
    assert reply.error == "InvalidPropertyValue"
    assert "no signature" in reply.message
    sink.error = TaskFailure(TaskFailureCode.FILE_UPLOAD_TIMED_OUT, "slow")
    assert (await ask(desk(tmp_path, sink), order)).error == "OperationTimedOut"


async def test_users_need_isolation_and_other_orders_are_not_known(tmp_path: Path) -> None:
    one = desk(tmp_path, Sink())
    reply = await ask(one, msgspec.json.encode(PutUser("bob", exists=False, expires=9e9, password="x")))
    assert reply.error == "NotImplemented"
    assert "does not run as root" in reply.message
    assert (await ask(one, b'{"type":"dance"}')).error == "NotImplemented"
    reply, _ = await one.handle(FileRequest("1", "list", ""))
    assert reply.message == "list"
