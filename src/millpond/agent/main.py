"""`python -m millpond.agent.main --directory DIR`: the agent of all local nodes of one directory (see `host`)."""

import argparse
import asyncio
import logging
import os
import random
import sys
import time

import uvloop

from millpond.agent.base import NodeFacts, Runner
from millpond.agent.desired import ENDPOINT_FILE
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.files import NodeFiles
from millpond.agent.host import Host, HostRunning
from millpond.agent.http_transport import EndpointFile, HttpTransport, open_session
from millpond.agent.metrics import MachineMeter
from millpond.agent.runner.task_runner import TaskRunner
from millpond.staging.http import HttpStaging


def main() -> int:
    """Run until told to stop. 0 also when there is a host for the directory already."""
    parser = argparse.ArgumentParser(prog="millpond.agent.main", description="The agent of local Millpond nodes.")
    parser.add_argument("--directory", required=True, help="what nodes to be, and where they live")
    directory = os.path.abspath(parser.parse_args().directory)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(directory))
    except HostRunning:
        logging.getLogger(__name__).info("%s has a host already", directory)
    return 0


async def _run(directory: str) -> None:
    executor = ProcessExecutor(directory)
    endpoint = EndpointFile(os.path.join(directory, ENDPOINT_FILE))
    session = open_session()
    staging = HttpStaging()

    def make_runner(facts: NodeFacts) -> Runner:
        return TaskRunner(facts, executor, staging)

    def make_transport(*, node_id: str, token: str) -> HttpTransport:
        return HttpTransport(session, endpoint, node_id=node_id, token=token)

    host = Host(
        directory,
        runner_factory=make_runner,
        files_factory=NodeFiles,
        transport_factory=make_transport,
        clock=time.time,
        chance=random.random,
        executor=executor,
        moved=endpoint.forget,
        measure=MachineMeter(directory, time.monotonic).measure,
    )
    try:
        await host.run()
        # Told to end: with all its tasks. In any other case they run on, for the next host to find.
        await executor.shutdown()
    finally:
        await executor.close()
        await staging.close()
        await session.close()


if __name__ == "__main__":
    sys.exit(main())
