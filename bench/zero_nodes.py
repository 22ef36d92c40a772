"""An agent host whose nodes do no work: the true agent (state, journal, link, protocol), a runner that ends at once."""

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable

import uvloop

from millpond.agent.base import NodeFacts, Outcome
from millpond.agent.desired import ENDPOINT_FILE
from millpond.agent.host import Host
from millpond.agent.http_transport import EndpointFile, HttpTransport, open_session
from millpond.protocol.messages import FileReply, FileRequest, LaunchReply, LaunchRequest, Start


class ZeroRunner:
    """`agent.base.Runner`: every attempt succeeds in no time."""

    def __init__(self, facts: NodeFacts) -> None:
        self.facts = facts

    async def run(
        self,
        start: Start,
        started: Callable[[float], None],
        *,
        resumed: bool,
        coordinated: Callable[[], None] = lambda: None,
    ) -> Outcome:
        now = time.time()
        started(now)
        return Outcome(start_time=now, end_time=now, exit_code=0)

    def proceed(self, key: int, attempt: int) -> None:
        pass

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        raise NotImplementedError("there are no multi-instance tasks here")

    async def stop(self, key: int, attempt: int) -> None:
        pass

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


class NoFiles:
    def __init__(self, root: str) -> None:
        self.root = root

    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        return FileReply(error="FileNotFound", message="there are no files here"), None


async def _run(directory: str) -> None:
    endpoint = EndpointFile(os.path.join(directory, ENDPOINT_FILE))
    session = open_session()

    def transport(*, node_id: str, token: str) -> HttpTransport:
        return HttpTransport(session, endpoint, node_id=node_id, token=token)

    host = Host(
        directory,
        runner_factory=ZeroRunner,
        files_factory=NoFiles,
        transport_factory=transport,
        clock=time.time,
        chance=random.random,
        moved=endpoint.forget,
    )
    try:
        await host.run()
    finally:
        await session.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(sys.argv[sys.argv.index("--directory") + 1]))
