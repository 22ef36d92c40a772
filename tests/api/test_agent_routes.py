"""The calls of node agents."""

import base64
from typing import Any

import msgspec
import pytest

from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.protocol import messages as m
from tests.api.client import Answer, send
from tests.api.conftest import World

HELLO = m.Hello("n1", m.PROTOCOL_VERSION, "0.1.0", 1.0, "10.0.0.4")
SYNC = m.Sync("n1", "s1", 3, (m.Started(1, 7, 1, 2.0),))
SYNCS = m.Syncs((m.NodeSync("token-of-n1", SYNC),))


async def call(
    world: World,
    path: str,
    body: Any,
    *,
    node: str | None = "n1",
    token: str | None = "token-of-n1",
    method: str = "POST",
    **headers: str,
) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if node is not None:
        sent[m.NODE_HEADER] = node
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    content = body if isinstance(body, (bytes, list)) else msgspec.msgpack.encode(body)
    return await send(world.app, method, path, sent, content)


async def test_hello_and_sync(world: World) -> None:
    answer = await call(world, m.HELLO_PATH, HELLO)
    assert (answer.status, answer.headers["content-type"]) == (200, m.CONTENT_TYPE)
    assert msgspec.msgpack.decode(answer.body, type=m.Welcome).session == "s1"
    answer = await call(world, m.SYNCS_PATH, SYNCS, node=None, token=None)
    (reply,) = msgspec.msgpack.decode(answer.body, type=m.SyncReplies).replies
    assert reply == m.NodeReply(m.SyncReply("s1", acknowledged=7))
    assert world.control.agents.calls == [HELLO, SYNC]


async def test_a_host_listens_for_the_nodes_whose_tokens_it_has(world: World) -> None:
    nodes = [m.Listening(place, f"n{place}", f"token-of-n{place}", f"s{place}", 0) for place in (1, 2, 3)]
    listen = m.Listen("host", 1, begins=True, nodes=tuple(nodes))
    answer = await call(world, m.LISTEN_PATH, listen, node=None, token=None)
    assert (answer.status, answer.headers["content-type"]) == (200, m.CONTENT_TYPE)
    told = tuple(m.NodeNews(node.place, m.SyncReply(node.session)) for node in nodes)
    assert msgspec.msgpack.decode(answer.body, type=m.News) == m.News(told)
    # One with the token of another is refused at once, and the others hear what there is just now.
    false = m.Listening(2, "n2", "token-of-n1", "s2", 0)
    mixed = msgspec.structs.replace(listen, nodes=(nodes[0], false, nodes[2]))
    answer = await call(world, m.LISTEN_PATH, mixed, node=None, token=None)
    refusal = m.NodeNews(2, status=403, error="AuthenticationFailed")
    assert msgspec.msgpack.decode(answer.body, type=m.News) == m.News((refusal, told[0], told[2]))
    sound = msgspec.structs.replace(listen, nodes=(nodes[0], nodes[2]))
    # Who is listened for already need not be named again.
    again = m.Listen("host", 2, seen=((1, 4),))
    assert (await call(world, m.LISTEN_PATH, again, node=None, token=None)).status == 200
    assert world.control.agents.calls == [(listen, True), (sound, False), (again, True)]
    # That a later call has overtaken this one is told beside a refusal, too: it changed nothing.
    world.control.agents.overtaken = True
    answer = await call(world, m.LISTEN_PATH, mixed, node=None, token=None)
    assert msgspec.msgpack.decode(answer.body, type=m.News) == m.News((refusal,), overtaken=True)


@pytest.mark.parametrize(
    ("node", "token"), [(None, "token-of-n1"), ("n1", None), ("n1", "wrong"), ("n2", "token-of-n1"), ("n1", "")]
)
@pytest.mark.parametrize(
    "path",
    [m.HELLO_PATH, m.FILE_REPLY_PATH + "r1", m.LAUNCH_REPLY_PATH + "r1", m.LOGS_PATH, "/agent/v1/none"],
)
async def test_a_bad_token_opens_nothing(world: World, path: str, node: str | None, token: str | None) -> None:
    answer = await call(world, path, SYNC, node=node, token=token)
    assert (answer.status, answer.code) == (403, "AuthenticationFailed")
    assert not world.control.agents.calls


async def test_a_node_speaks_for_itself_only(world: World) -> None:
    answer = await call(world, m.HELLO_PATH, HELLO, node="n2", token="token-of-n2")
    assert answer.status == 403
    assert not world.control.agents.calls


@pytest.mark.parametrize("body", [b"", b"\xc1", b"{}", msgspec.msgpack.encode({"node_id": 7}), b"\x91" * 100000])
@pytest.mark.parametrize("path", [m.HELLO_PATH, m.LISTEN_PATH, m.SYNCS_PATH, m.LOGS_PATH])
async def test_garbage(world: World, path: str, body: bytes) -> None:
    answer = await call(world, path, body)
    assert (answer.status, answer.code) == (400, "InvalidRequestBody")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BatchError(ErrorCode.NODE_NOT_FOUND), 404, "NodeNotFound"),
        (BatchError(ErrorCode.SERVER_BUSY), 503, "ServerBusy"),
        (StoreUnavailable("disk full"), 503, "ServerBusy"),
        (RuntimeError("boom"), 500, "InternalError"),
    ],
)
async def test_errors(world: World, error: Exception, status: int, code: str) -> None:
    world.control.agents.error = error
    answer = await call(world, m.SYNCS_PATH, SYNCS)
    assert (answer.status, answer.code) == (status, code)
    assert ("retry-after" in answer.headers) is (status == 503)


async def test_other_paths_and_verbs(world: World) -> None:
    assert (await call(world, "/agent/v1/none", b"")).status == 404
    assert (await call(world, m.FILE_REPLY_PATH + "a/b", b"")).status == 404
    assert (await call(world, m.SYNCS_PATH, b"", method="GET")).status == 405


async def test_several_nodes_in_one_call(world: World) -> None:
    first, second = (m.Sync(node, "s1", 0, (m.Started(1, 7, 1, 2.0),)) for node in ("n1", "n2"))
    syncs = m.Syncs(
        (
            m.NodeSync("token-of-n1", first),
            m.NodeSync("token-of-n1", second),
            m.NodeSync("token-of-n2", second),
        )
    )
    answer = await call(world, m.SYNCS_PATH, syncs, node=None, token=None)
    assert answer.status == 200
    replies = msgspec.msgpack.decode(answer.body, type=m.SyncReplies).replies
    assert [(reply.status, reply.error) for reply in replies] == [
        (200, ""),
        (403, "AuthenticationFailed"),
        (200, ""),
    ]
    assert [reply.reply is not None for reply in replies] == [True, False, True]
    assert world.control.agents.calls == [first, second]
    world.control.agents.error = StoreUnavailable("disk full")
    answer = await call(world, m.SYNCS_PATH, m.Syncs(syncs.syncs[:1]), node=None, token=None)
    assert (answer.status, answer.code) == (503, "ServerBusy")
    too_many = m.Syncs(syncs.syncs[:1] * (m.MAX_SYNCS + 1))
    assert (await call(world, m.SYNCS_PATH, too_many, node=None, token=None)).status == 400
    assert (await call(world, m.SYNCS_PATH, b"junk", node=None, token=None)).status == 400


def head_of(reply: m.FileReply) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(reply)).rstrip(b"=").decode()


async def test_a_file_comes_in_as_a_stream(world: World) -> None:
    reply = m.FileReply(entries=(m.FileEntry("x", is_directory=False, size=6),))
    answer = await call(world, m.FILE_REPLY_PATH + "r1", [b"abc", b"", b"def"], **{m.FILE_REPLY_HEADER: head_of(reply)})
    assert answer.status == 200
    assert "connection" not in answer.headers
    assert world.control.agents.calls == [("n1", "r1", reply)]
    assert world.control.agents.bodies == {"r1": b"abcdef"}


async def test_an_answer_without_content_is_the_body(world: World) -> None:
    entries = tuple(m.FileEntry(f"file-{n}", is_directory=False) for n in range(5000))
    reply = m.FileReply(entries=entries)
    answer = await call(world, m.FILE_REPLY_PATH + "r1", msgspec.msgpack.encode(reply))
    assert answer.status == 200
    assert world.control.agents.calls == [("n1", "r1", reply)]


async def test_a_file_nobody_takes_ends_the_connection(world: World) -> None:
    world.control.agents.take_body = False
    head = head_of(m.FileReply(error="FileNotFound"))
    answer = await call(world, m.FILE_REPLY_PATH + "r1", [b"abc", b"def"], **{m.FILE_REPLY_HEADER: head})
    assert (answer.status, answer.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("head", [None, "%%%", "AAAA"])
async def test_file_replies_without_a_head(world: World, head: str | None) -> None:
    headers = {} if head is None else {m.FILE_REPLY_HEADER: head}
    assert (await call(world, m.FILE_REPLY_PATH + "r1", b"x", **headers)).status == 400


async def test_a_node_that_hangs_up_breaks_the_askers_stream(world: World) -> None:
    headers = {
        m.NODE_HEADER: "n1",
        "Authorization": "Bearer token-of-n1",
        m.FILE_REPLY_HEADER: head_of(m.FileReply()),
    }
    answer = await send(world.app, "POST", m.FILE_REPLY_PATH + "r1", headers, b"half", hang_up=True)
    assert answer.status == 500
    assert world.control.agents.bodies == {}


async def test_logs_are_answered_once_they_are_safe(world: World) -> None:
    logs = m.Logs((m.TaskLogs(7, 1, 0, msgspec.msgpack.encode([m.LogFile("stdout.txt", 3, 0, 1.5, 0o644)])),), b"out")
    answer = await call(world, m.LOGS_PATH, logs)
    assert (answer.status, answer.body) == (200, b"")
    assert world.control.agents.calls == [logs]
    world.control.agents.error = BatchError(ErrorCode.SERVER_BUSY)
    assert (await call(world, m.LOGS_PATH, logs)).status == 503


async def test_a_launch_agent_speaks_json_with_a_token_of_its_own(world: World) -> None:
    body = b'{"id":"c1","host":"10.0.0.5","command":"orted -x","stdoutFrom":3}'
    answer = await call(world, m.LAUNCH_PATH, body, node=None, token="launch-token")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert msgspec.json.decode(answer.body) == {"exitCode": 3, "stdout": "b3V0", "stderr": ""}
    assert world.control.agents.calls == [m.LaunchCall("c1", "10.0.0.5", "orted -x", stdout_from=3)]


@pytest.mark.parametrize("token", [None, "", "another", "token-of-n1"])
async def test_a_launch_without_its_token(world: World, token: str | None) -> None:
    body = b'{"id":"c1","host":"10.0.0.5","command":"orted"}'
    answer = await call(world, m.LAUNCH_PATH, body, token=token)
    assert (answer.status, answer.code) == (403, "AuthenticationFailed")
    assert world.control.agents.calls == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"id":1,"host":"a","command":"b"}', b"\xff"])
async def test_a_launch_that_makes_no_sense(world: World, body: bytes) -> None:
    answer = await call(world, m.LAUNCH_PATH, body, token="launch-token")
    assert (answer.status, answer.code) == (400, "InvalidRequestBody")


async def test_a_nodes_answer_to_a_launch(world: World) -> None:
    reply = m.LaunchReply(exit_code=0, stdout=b"\xff")
    assert (await call(world, m.LAUNCH_REPLY_PATH + "r1", reply)).status == 200
    assert world.control.agents.calls == [("n1", "r1", reply)]
    assert (await call(world, m.LAUNCH_REPLY_PATH + "r1", b"\xc1")).status == 400
