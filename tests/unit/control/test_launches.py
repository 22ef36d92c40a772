"""Commands that one instance of a multi-instance task has run in another, by way of the control plane."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from millpond.control import launches
from millpond.control.tokens import LaunchClaim, TaskClaim, launch_token, read_launch_token, read_task_token, task_token
from millpond.domain import events as e
from millpond.domain.errors import ErrorCode
from millpond.domain.task import NewTask, TaskRules
from millpond.protocol import messages as m
from millpond.store.memory import MemoryStore
from tests.listening import hear, tell
from tests.unit.control.test_service import Cluster, refusal
from tests.unit.scheduler.world import new_job, new_pool


class Gang(Cluster):
    """Two nodes that run the instances of one task."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.nodes: list[str] = []
        self.sessions: dict[str, str] = {}
        self.starts: dict[str, m.Start] = {}

    async def begin(self) -> None:
        control = self.control
        await control.start()
        pool = new_pool(nodes=2, inter_node=True)
        await control.add_pool(pool, "test")
        await control.add_job(new_job(), "test")
        while len(self.nodes) < 2:
            page = await self.store.list_nodes("pool", None, 10, None)
            self.nodes = [node.id for node in page.items if node.handle]
            await asyncio.sleep(0)
        for number, node_id in enumerate(self.nodes):
            await self.say_hello(node_id, f"127.64.0.{number}")
        task = NewTask("t", b'{"commandLine":"true"}', rules=TaskRules(instances=2), max_retry_count=1)
        await control.to_job("job", e.TasksAdded(at=control.now(), job_id="job", tasks=(task,)))
        for node_id in self.nodes:
            await self.take_start(node_id)

    async def say_hello(self, node_id: str, address: str, *inventory: e.HeldAttempt) -> None:
        hello = m.Hello(node_id, m.PROTOCOL_VERSION, "1", 1.0, address, inventory=inventory)
        self.sessions[node_id] = (await self.control.agents.hello(hello)).session

    async def take_start(self, node_id: str) -> None:
        reply = await hear(self.control.agents, node_id, self.sessions[node_id])
        (self.starts[node_id],) = [directive for directive in reply.directives if isinstance(directive, m.Start)]

    async def sync(self, node_id: str, *reports: m.Report) -> m.SyncReply:
        return await tell(self.control.agents, m.Sync(node_id, self.sessions[node_id], 0, reports))

    def token_of(self, index: int) -> str:
        (token,) = [
            start.instance.launch_token
            for start in self.starts.values()
            if start.instance is not None and start.instance.index == index
        ]
        return token

    def launch(self, host: str, *, token: str | None = None) -> "asyncio.Task[m.LaunchAnswer]":
        call = m.LaunchCall("c1", host, "orted", stdout_from=5, stderr_from=6)
        token = self.token_of(0) if token is None else token
        return asyncio.create_task(self.control.agents.launch(token, call))

    async def asked(self, node_id: str) -> m.LaunchRequest:
        while True:
            seen = self.starts[node_id].revision
            reply = await hear(self.control.agents, node_id, self.sessions[node_id], seen)
            if reply.launch_requests:
                (request,) = reply.launch_requests
                return request


@pytest.fixture
async def gang() -> AsyncIterator[Gang]:
    gang = Gang()
    await gang.begin()
    yield gang
    await gang.control.stop()


async def test_instances_know_each_other_and_have_a_token_each(gang: Gang) -> None:
    instances = [gang.starts[node_id].instance for node_id in gang.nodes]
    assert sorted(instance.index for instance in instances if instance) == [0, 1]
    (addresses,) = {instance.addresses for instance in instances if instance}
    assert sorted(addresses) == ["127.64.0.0", "127.64.0.1"]
    assert gang.token_of(0) != gang.token_of(1)


@pytest.mark.parametrize("number", [0, 1])
async def test_a_command_goes_to_the_node_and_its_answer_comes_back(gang: Gang, number: int) -> None:
    node_id = gang.nodes[number]
    launching = gang.launch(f"127.64.0.{number}")
    request = await gang.asked(node_id)
    start = gang.starts[node_id]
    assert (request.key, request.attempt) == (start.key, start.attempt)
    assert (request.command_id, request.command, request.stdout_from, request.stderr_from) == ("c1", "orted", 5, 6)
    assert (await gang.sync(node_id)).launch_requests == (), "it goes out once"
    # Nobody but that node answers.
    gang.control.agents.launch_reply(gang.nodes[1 - number], request.id, m.LaunchReply(exit_code=9))
    gang.control.agents.launch_reply(node_id, "another", m.LaunchReply(exit_code=9))
    gang.control.agents.launch_reply(node_id, request.id, m.LaunchReply(exit_code=3, stdout=b"out", stderr=b"err"))
    gang.control.agents.launch_reply(node_id, request.id, m.LaunchReply(exit_code=9))
    assert await launching == m.LaunchAnswer(3, b"out", b"err")
    gang.control.agents.launch_reply(node_id, request.id, m.LaunchReply(exit_code=9))


async def test_a_node_may_be_named_by_its_id(gang: Gang) -> None:
    launching = gang.launch(gang.nodes[1])
    request = await gang.asked(gang.nodes[1])
    gang.control.agents.launch_reply(gang.nodes[1], request.id, m.LaunchReply())
    assert await launching == m.LaunchAnswer(None, b"", b"")


async def test_what_the_node_refuses_is_refused(gang: Gang) -> None:
    for error, code in (("TaskNotFound", ErrorCode.TASK_NOT_FOUND), ("Nonsense", ErrorCode.INTERNAL_ERROR)):
        launching = gang.launch("127.64.0.1")
        request = await gang.asked(gang.nodes[1])
        gang.control.agents.launch_reply(gang.nodes[1], request.id, m.LaunchReply(error=error, message="no"))
        assert await refusal(launching) is code


async def test_hosts_of_others_are_out_of_reach(gang: Gang) -> None:
    for host in ("127.64.0.2", "", "localhost", "127.64.0.0 "):
        assert await refusal(gang.launch(host)) is ErrorCode.NODE_NOT_FOUND


async def test_a_token_is_good_for_one_attempt(gang: Gang) -> None:
    node_id = gang.nodes[0]
    start = gang.starts[node_id]
    for token in (
        "",
        "nonsense",
        gang.token_of(0)[:-2],
        launch_token(b"another secret", LaunchClaim(node_id, start.key, 1)),
        launch_token(b"secret", LaunchClaim(node_id, start.key, 2)),
        launch_token(b"secret", LaunchClaim(node_id, start.key + 1, 1)),
        launch_token(b"secret", LaunchClaim("tvmps_other", start.key, 1)),
        task_token(b"secret", TaskClaim("job", "t", 1)),
    ):
        assert await refusal(gang.launch("127.64.0.1", token=token)) is ErrorCode.AUTHENTICATION_FAILED
    await gang.control.to_job(
        "job", e.TaskTerminateRequested(at=gang.control.now(), job_id="job", task_id="t", condition=None)
    )
    assert await refusal(gang.launch("127.64.0.1")) is ErrorCode.AUTHENTICATION_FAILED


async def test_a_node_that_is_not_in_touch_is_asked_later(gang: Gang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "_WAIT_S", 0.0)
    monkeypatch.setattr(launches, "_ANSWER_S", 0.01)
    assert await refusal(gang.launch("127.64.0.1")) is ErrorCode.NODE_NOT_READY, "no answer"
    link = gang.control._links.get(gang.nodes[1])
    assert link is not None
    link.session = ""
    assert await refusal(gang.launch("127.64.0.1")) is ErrorCode.NODE_NOT_READY


async def test_a_control_plane_that_stops_lets_them_ask_again(gang: Gang) -> None:
    launching = gang.launch("127.64.0.1")
    await gang.asked(gang.nodes[1])
    await gang.control.stop()
    assert await refusal(launching) is ErrorCode.SERVER_BUSY


def test_tokens_of_one_kind_are_none_of_the_other() -> None:
    claim = LaunchClaim("n", 1 << 40, 3)
    token = launch_token(b"secret", claim)
    assert read_launch_token(b"secret", token) == claim
    assert read_task_token(b"secret", token) is None
    body, signature = token.split(".")[1:]
    assert read_task_token(b"secret", f"mptask.{body}.{signature}") is None
    assert read_launch_token(b"secret", task_token(b"secret", TaskClaim("job", "t", 1))) is None
