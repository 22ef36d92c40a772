"""A host as `millpond.agent.main` makes it, but with a runner that just starts the command: `simple_host.py --directory DIR`.

The specification of a task is its command line, split at blanks. Processes carry the marker of real ones.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable

from millpond.agent.base import NodeFacts, Outcome, Runner
from millpond.agent.host import Host, HostRunning
from millpond.agent.http_transport import EndpointFile, HttpHost, HttpTransport, open_session
from millpond.domain.durations import Timestamp
from millpond.domain.states import ErrorCategory
from millpond.domain.task import FailureInfo
from millpond.protocol.messages import LaunchReply, LaunchRequest, Start
from tests.unit.agent.fakes import FakeFiles

DIRECTORY = os.path.abspath(sys.argv[sys.argv.index("--directory") + 1])


class SimpleRunner(Runner):
    """Commands as plain children; a resumed attempt is lost."""

    def __init__(self, facts: NodeFacts) -> None:
        self._facts = facts
        self._processes: dict[tuple[int, int], asyncio.subprocess.Process] = {}
        self._stopped: set[tuple[int, int]] = set()

    async def run(
        self,
        start: Start,
        started: Callable[[Timestamp], None],
        *,
        resumed: bool,
        began: Timestamp | None = None,
        coordinated: Callable[[], None] = lambda: None,
        width: int = 0,
        ahead: bool = False,
    ) -> Outcome:
        ref = (start.key, start.attempt)
        begun = time.time()
        started(begun)
        if resumed:
            lost = FailureInfo(ErrorCategory.SERVER_ERROR, "Unknown", "lost")
            return Outcome(begun, time.time(), None, lost, retryable=True)
        facts = os.stat(DIRECTORY)
        process = self._processes[ref] = await asyncio.create_subprocess_exec(
            *start.spec.decode().split(),
            cwd=self._facts.root,
            env={"MILLPOND_PROCESS": f"{facts.st_dev:x}-{facts.st_ino:x}:{start.key}", "PATH": os.defpath},
            start_new_session=True,
        )
        if ref in self._stopped:
            process.kill()
        return Outcome(begun, time.time(), await process.wait())

    def proceed(self, key: int, attempt: int) -> None:
        pass

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        return LaunchReply(error="TaskNotFound")

    async def stop(self, key: int, attempt: int) -> None:
        self._stopped.add((key, attempt))
        process = self._processes.get((key, attempt))
        if process is not None and process.returncode is None:
            process.kill()

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


async def _main() -> None:
    endpoint = EndpointFile(os.path.join(DIRECTORY, "endpoint"))
    async with open_session() as session:
        calls = HttpHost(session, endpoint)
        host = Host(
            DIRECTORY,
            runner_factory=SimpleRunner,
            files_factory=lambda _: FakeFiles(),
            transport_factory=lambda *, node_id, token: HttpTransport(calls, node_id=node_id, token=token),
            clock=time.time,
            chance=random.random,
            shared=calls,
        )
        try:
            await host.run()
        finally:
            await calls.close()


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except HostRunning:
        sys.exit(0)
