"""`python -m millpond.agent.main --directory DIR`: the agent of all local nodes of one directory (see `host`)."""

import argparse
import asyncio
import logging
import os
import random
import sys
import time

import msgspec
import uvloop

from millpond.agent.base import NodeFacts, Runner
from millpond.agent.desired import CA_BUNDLE_FILE, ENDPOINT_FILE, SETTINGS_FILE
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.files import NodeFiles
from millpond.agent.host import Host, HostRunning
from millpond.agent.http_transport import EndpointFile, HttpTransport, open_session
from millpond.agent.isolation.as_user import forget_groups
from millpond.agent.isolation.logins import Logins
from millpond.agent.isolation.node import Isolation, IsolationSettings
from millpond.agent.metrics import MachineMeter
from millpond.agent.orders import NodeDesk
from millpond.agent.runner.task_runner import TaskRunner
from millpond.staging.http import HttpStaging


def main() -> int:
    """Run until told to stop. 0 also when there is a host for the directory already."""
    parser = argparse.ArgumentParser(prog="millpond.agent.main", description="The agent of local Millpond nodes.")
    parser.add_argument("--directory", required=True, help="what nodes to be, and where they live")
    directory = os.path.abspath(parser.parse_args().directory)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    ca_bundle = os.path.join(directory, CA_BUNDLE_FILE)
    if not os.path.exists(ca_bundle):
        ca_bundle = ""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(directory, ca_bundle))
    except HostRunning:
        logging.getLogger(__name__).info("%s has a host already", directory)
    return 0


async def _run(directory: str, ca_bundle: str) -> None:
    isolation = _isolation(directory)
    executor = ProcessExecutor(directory, switch=isolation.switch)
    endpoint = EndpointFile(os.path.join(directory, ENDPOINT_FILE))
    session = open_session()
    staging = HttpStaging()

    def make_runner(facts: NodeFacts) -> Runner:
        node = isolation.of(facts.root)
        if node is not None:
            node.set_up(facts.pool_spec)
        facts = msgspec.structs.replace(facts, ca_bundle=ca_bundle)
        return TaskRunner(facts, executor, staging, isolation=node)

    def logins_of(root: str) -> Logins | None:
        node = isolation.of(root)
        return None if node is None else node.logins

    def make_files(root: str) -> NodeDesk:
        node = isolation.of(root)
        files = NodeFiles(root, None if node is None else node.users.owns)
        return NodeDesk(files, lambda: logins_of(root), isolation.reason, directory, staging)

    def make_transport(*, node_id: str, token: str) -> HttpTransport:
        return HttpTransport(session, endpoint, node_id=node_id, token=token)

    host = Host(
        directory,
        runner_factory=make_runner,
        files_factory=make_files,
        transport_factory=make_transport,
        clock=time.time,
        chance=random.random,
        executor=executor,
        isolation=isolation,
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


def _isolation(directory: str) -> Isolation:
    """How tasks are kept apart; before there are threads."""
    try:
        with open(os.path.join(directory, SETTINGS_FILE), "rb") as file:
            settings = msgspec.json.decode(file.read(), type=IsolationSettings)
    except FileNotFoundError:
        settings = IsolationSettings()
    isolation = Isolation(directory, settings)
    # The service may keep all it makes to itself; what others may see of a node is given on purpose.
    os.umask(0o022)
    if isolation.is_on:
        forget_groups()
    elif os.geteuid() == 0:
        logging.getLogger(__name__).warning("tasks run as root: %s", isolation.reason)
    return isolation


if __name__ == "__main__":
    sys.exit(main())
