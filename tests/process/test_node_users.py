"""Users who log in to a node, in account files of the test's own; the node's users are real."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from millpond.agent.orders import NodeDesk
from millpond.domain.durations import Timestamp
from millpond.protocol.messages import FileReply, FileRequest, NodeOrder, PutUser, RemoveUser
from millpond.staging.http import HttpStaging
from tests.process.isolated import Machine, Node, open_directory, processes_of, why_not_here

REASON = why_not_here()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"tasks cannot run as users of their own here: {REASON}")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 somebody@somewhere"
FOREVER: Timestamp = 4e9


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    path = open_directory()
    machine = Machine(path)
    try:
        yield machine
    finally:
        await machine.close()
        shutil.rmtree(path)


@pytest.fixture
def node(machine: Machine) -> Node:
    return machine.node()


async def ask(node: Node, order: NodeOrder) -> FileReply:
    class NoFiles:
        async def handle(self, request: FileRequest) -> Any:
            raise AssertionError("this is no file operation")

    desk = NodeDesk(NoFiles(), lambda: node.isolation.logins, "", "/none", HttpStaging())
    reply, body = await desk.handle(FileRequest("1", "order", "", content=msgspec.json.encode(order)))
    assert body is None
    return reply


def entries(machine: Machine, name: str) -> dict[str, list[str]]:
    return {line.split(":")[0]: line.split(":") for line in (machine.etc / name).read_text().splitlines()}


async def test_a_user_may_log_in_with_a_key_or_a_password(machine: Machine, node: Node) -> None:
    order = PutUser("bob", exists=False, expires=FOREVER, password="hunter2", public_key=KEY)
    assert (await ask(node, order)).error == ""
    user = entries(machine, "passwd")["bob"]
    uid = int(user[2])
    assert uid == node.users.block.last
    shadow = entries(machine, "shadow")["bob"]
    assert shadow[1].startswith("$6$")
    assert int(shadow[7]) == int(FOREVER // 86400) + 1
    assert (machine.etc / "shadow").stat().st_mode & 0o777 == 0o600
    group = next(fields for fields in entries(machine, "group").values() if fields[2] == str(node.users.group))
    assert "bob" in group[3].split(",")
    keys = node.directory / "home/bob/.ssh/authorized_keys"
    assert keys.read_text() == KEY + "\n"
    assert (keys.stat().st_uid, keys.stat().st_mode & 0o777) == (uid, 0o600)
    # The pool's users are set up anew with every pool, and the agent's every life: those who log in stay.
    node.accounts = [{"name": "carol", "password": "x"}]
    node.next_life()
    assert "bob" in entries(machine, "passwd")
    group = next(fields for fields in entries(machine, "group").values() if fields[2] == str(node.users.group))
    assert {"bob", "carol"} <= set(group[3].split(","))


async def test_new_credentials_replace_the_old_ones(machine: Machine, node: Node) -> None:
    await ask(node, PutUser("bob", exists=False, expires=FOREVER, password="one", public_key=KEY))
    before = entries(machine, "shadow")["bob"][1]
    assert (await ask(node, PutUser("bob", exists=True, expires=FOREVER, password="two"))).error == ""
    assert entries(machine, "shadow")["bob"][1] != before
    assert not (node.directory / "home/bob/.ssh/authorized_keys").exists()
    assert (await ask(node, PutUser("bob", exists=True, expires=FOREVER, public_key=KEY))).error == ""
    assert entries(machine, "shadow")["bob"][1] == "!"


async def test_what_cannot_be(machine: Machine, node: Node) -> None:
    await ask(node, PutUser("bob", exists=False, expires=FOREVER, password="x"))
    assert (await ask(node, PutUser("bob", exists=False, expires=FOREVER, password="x"))).error == "NodeUserExists"
    assert (await ask(node, PutUser("alice", exists=False, expires=FOREVER, password="x"))).error == "NodeUserExists"
    assert (await ask(node, PutUser("eve", exists=True, expires=FOREVER, password="x"))).error == "NodeUserNotFound"
    assert (await ask(node, RemoveUser("alice"))).error == "NodeUserNotFound"
    assert "alice" in entries(machine, "passwd")


async def test_a_user_that_is_gone_leaves_nothing(machine: Machine, node: Node) -> None:
    await ask(node, PutUser("bob", exists=False, expires=FOREVER, password="x"))
    uid = node.users.block.last

    def become() -> None:
        os.setgid(uid)
        os.setuid(uid)

    left = await asyncio.create_subprocess_exec("sleep", "600", preexec_fn=become)  # a session of the user's
    assert processes_of(uid) == [left.pid]
    assert (await ask(node, RemoveUser("bob"))).error == ""
    assert await left.wait() == -9
    for name in ("passwd", "shadow"):
        assert "bob" not in entries(machine, name)
    assert all("bob" not in fields[0] + fields[3] for fields in entries(machine, "group").values())
    assert not (node.directory / "home/bob").exists()


async def test_users_go_when_their_time_is_over_and_with_their_node(machine: Machine, node: Node) -> None:
    await ask(node, PutUser("bob", exists=False, expires=1.0, password="x"))
    await ask(node, PutUser("carol", exists=False, expires=FOREVER, password="x"))
    machine.isolation.expire_logins()
    assert "bob" not in entries(machine, "passwd")
    assert "carol" in entries(machine, "passwd")
    machine.isolation.wiped(str(node.root))
    assert "carol" not in entries(machine, "passwd")
    await ask(node, PutUser("dora", exists=False, expires=FOREVER, password="x"))
    machine.isolation.remove_node(str(node.directory), str(node.root))
    assert "dora" not in entries(machine, "passwd")
    assert "dora" not in entries(machine, "shadow")
