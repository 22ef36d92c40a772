"""An agent host whose nodes do no work: the true agent (state, journal, link, protocol), a runner that ends at once.

Attempts take the way of plain tasks that are short: begun by callbacks, and handed ahead.

As one host it is the true one in all but its runner. With `--processes` its nodes are spread over so many processes, with
their journals in memory, so that ten thousand of them fit one machine and its limit of open files.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
import uvloop

from millpond import collector
from millpond.agent.base import NodeFacts, Outcome, Runner
from millpond.agent.desired import (
    ENDPOINT_FILE,
    HOST_FILE,
    NODES_DIRECTORY,
    DesiredNode,
    HostProcess,
    process_start_time,
    read_node,
)
from millpond.agent.host import Host
from millpond.agent.http_transport import EndpointFile, HttpHost, HttpTransport, open_session
from millpond.agent.link import NodeLink
from millpond.agent.local_state import MemoryJournal
from millpond.agent.node import NodeAgent
from millpond.agent.replacement import replace_file
from millpond.domain.errors import ErrorCode
from millpond.protocol.messages import FileReply, FileRequest, LaunchReply, LaunchRequest, Start

_LOOK_S: Final = 0.5
"""Between looks for nodes that are to be."""


class ZeroRunner(Runner):
    """Every attempt succeeds in no time. As with true tasks that are short, nothing is awaited for one, and of one that was
    handed ahead only its end is told; those that were begun in one turn of the event loop end in the next."""

    def __init__(self, facts: NodeFacts) -> None:
        self.facts = facts
        self._begun: list[Callable[[Outcome], None]] = []

    def begin(
        self,
        start: Start,
        began: float,
        started: Callable[[float], None],
        ended: Callable[[Outcome], None],
        *,
        width: int = 0,
        ahead: bool = False,
    ) -> bool:
        if not ahead:
            started(began)
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._end)
        self._begun.append(ended)
        return True

    def _end(self) -> None:
        begun, self._begun = self._begun, []
        for ended in begun:
            now = time.time()
            ended(Outcome(now, now, 0))

    async def run(
        self,
        start: Start,
        started: Callable[[float], None],
        *,
        resumed: bool,
        began: float | None = None,
        coordinated: Callable[[], None] = lambda: None,
        width: int = 0,
        ahead: bool = False,
    ) -> Outcome:
        now = time.time()
        started(now)
        return Outcome(start_time=now, end_time=now, exit_code=0)

    def proceed(self, key: int, attempt: int) -> None:
        pass

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        return LaunchReply(
            error=ErrorCode.NOT_IMPLEMENTED, message="Nodes that do nothing run no multi-instance tasks."
        )

    async def stop(self, key: int, attempt: int) -> None:
        pass

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


def _takes_ahead(start: Start) -> bool:
    """As with the plain tasks of a true node."""
    return True


class NoFiles:
    def __init__(self, root: str) -> None:
        self.root = root

    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        return FileReply(error="FileNotFound", message="there are no files here"), None


async def _be_host(directory: str) -> None:
    endpoint = EndpointFile(os.path.join(directory, ENDPOINT_FILE))
    session = open_session()
    calls = HttpHost(session, endpoint)

    def transport(*, node_id: str, token: str) -> HttpTransport:
        return HttpTransport(calls, node_id=node_id, token=token)

    host = Host(
        directory,
        runner_factory=ZeroRunner,
        files_factory=NoFiles,
        transport_factory=transport,
        clock=time.time,
        chance=random.random,
        shared=calls,
        takes_ahead=_takes_ahead,
    )
    try:
        await host.run()
    finally:
        await calls.close()
        await session.close()


async def _be_share(directory: str, share: int, shares: int) -> None:
    """Be every so-many-th node there is to be, until standard input ends. Nodes are not taken away."""
    endpoint = EndpointFile(os.path.join(directory, ENDPOINT_FILE))
    nodes = os.path.join(directory, NODES_DIRECTORY)
    session = open_session()
    calls = HttpHost(session, endpoint)
    links: dict[str, asyncio.Task[None]] = {}
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, over.set)
    while not over.is_set():
        for name in os.listdir(nodes):
            if name in links or zlib.crc32(name.encode()) % shares != share:
                continue
            desired = read_node(os.path.join(nodes, name))
            if desired is not None:
                links[name] = asyncio.create_task(_be_node(desired, calls))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await over.wait()
    for link in links.values():
        link.cancel()
    await asyncio.gather(*links.values(), return_exceptions=True)
    await calls.close()
    await session.close()


async def _be_node(desired: DesiredNode, calls: HttpHost) -> None:
    agent = NodeAgent(
        desired.node_id,
        root="",
        task_slots=desired.task_slots,
        journal=MemoryJournal(),
        runner_factory=ZeroRunner,
        clock=time.time,
        ip_address=desired.ip_address,
        takes_ahead=_takes_ahead,
    )
    agent.begin()
    transport = HttpTransport(calls, node_id=desired.node_id, token=desired.token)
    await NodeLink(agent, transport, NoFiles(""), chance=random.random).run()


def _be_shares(directory: str, shares: int) -> None:
    """The process the provider knows: it starts the others, and they end with it."""
    # Looked for at intervals, not when poked; and blocked before anybody knows whom to poke.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    command = [sys.executable, __file__, "--directory", directory, "--shares", str(shares), "--share"]
    pipes = [subprocess.Popen([*command, str(share)], stdin=subprocess.PIPE) for share in range(shares)]
    own = HostProcess(pid=os.getpid(), start_time=process_start_time(os.getpid()), version="bench")
    replace_file(os.path.join(directory, HOST_FILE), msgspec.json.encode(own))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    for process in pipes:
        assert process.stdin is not None
        process.stdin.close()
    for process in pipes:
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--share", type=int)
    parser.add_argument("--shares", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.processes:
        _be_shares(arguments.directory, arguments.processes)
        return
    collector.settle_in()  # as the host of true nodes does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if arguments.share is None:
            runner.run(_be_host(arguments.directory))
        else:
            runner.run(_be_share(arguments.directory, arguments.share, arguments.shares))


if __name__ == "__main__":
    main()
