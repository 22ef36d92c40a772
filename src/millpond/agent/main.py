"""`python -m millpond.agent.main --directory DIR`: the agent of all local nodes of one directory (see `host`)."""

import argparse
import asyncio
import logging
import os
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec
import uvloop

from millpond import collector
from millpond.agent.base import NodeFacts, Runner
from millpond.agent.content_cache import CacheSettings, ContentCache
from millpond.agent.desired import CA_BUNDLE_FILE, CACHE_DIRECTORY, ENDPOINT_FILE, SETTINGS_FILE
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.files import NodeFiles
from millpond.agent.follow import FollowedFile
from millpond.agent.host import Host, HostRunning
from millpond.agent.http_transport import EndpointFile, HttpHost, HttpTransport, open_session
from millpond.agent.isolation.as_user import forget_groups
from millpond.agent.isolation.logins import Logins
from millpond.agent.isolation.node import Isolation, IsolationSettings
from millpond.agent.link import Follow
from millpond.agent.logs import NodeLogs
from millpond.agent.metrics import MachineMeter
from millpond.agent.mount_kinds import MountSettings
from millpond.agent.mounts import Mounts
from millpond.agent.orders import NodeDesk
from millpond.agent.runner.plain_run import takes_ahead
from millpond.agent.runner.task_runner import TaskRunner
from millpond.agent.watch import Watches
from millpond.open_files import raise_limit
from millpond.protocol.messages import FileRequest
from millpond.staging.router import StagingRouter

_Settings = TypeVar("_Settings", bound=msgspec.Struct)


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
    collector.settle_in()
    isolation = _isolation(directory)
    cache = ContentCache(os.path.join(directory, CACHE_DIRECTORY), _settings(directory, CacheSettings))
    executor = ProcessExecutor(directory, switch=isolation.switch, open_files=raise_limit())
    endpoint = EndpointFile(os.path.join(directory, ENDPOINT_FILE))
    session = open_session()
    calls = HttpHost(session, endpoint)
    mounts = Mounts(_mount_settings(directory))
    stagings: dict[bytes, StagingRouter] = {}

    def staging_with(options: bytes) -> StagingRouter:
        """One for all nodes with the same credentials: those of their pool, and of no other."""
        if options not in stagings:
            stagings[options] = StagingRouter(credentials=msgspec.json.decode(options), ca_file=ca_bundle)
        return stagings[options]

    logs: dict[str, NodeLogs] = {}

    def logs_of(root: str) -> NodeLogs:
        found = logs.get(root)
        if found is None:
            found = logs[root] = NodeLogs(root, files_of(root))
        return found

    watches = Watches()

    def make_follow(node_logs: NodeLogs) -> Follow:
        def follow(request: FileRequest, runs: Callable[[], bool]) -> FollowedFile:
            return FollowedFile(
                node_logs.files,
                node_logs,
                watches,
                path=request.path,
                offset=request.offset,
                attempt=(request.key, request.attempt),
                runs=runs,
            )

        return follow

    def make_runner(facts: NodeFacts) -> Runner:
        node = isolation.of(facts.root)
        if node is not None:
            node.set_up(facts.pool_spec)
        facts = msgspec.structs.replace(facts, ca_bundle=ca_bundle)
        staging = staging_with(facts.storage_options)
        return TaskRunner(
            facts,
            executor,
            staging,
            isolation=node,
            cache=cache,
            mounts=mounts.of(facts.root),
            logs=logs_of(facts.root),
        )

    def logins_of(root: str) -> Logins | None:
        node = isolation.of(root)
        return None if node is None else node.logins

    def files_of(root: str) -> NodeFiles:
        node = isolation.of(root)
        return NodeFiles(root, None if node is None else node.users.owns)

    def make_files(root: str) -> NodeDesk:
        return NodeDesk(files_of(root), lambda: logins_of(root), isolation.reason, directory, staging_with(b"{}"))

    def make_transport(*, node_id: str, token: str) -> HttpTransport:
        return HttpTransport(calls, node_id=node_id, token=token)

    host = Host(
        directory,
        runner_factory=make_runner,
        files_factory=make_files,
        transport_factory=make_transport,
        clock=time.time,
        chance=random.random,
        executor=executor,
        isolation=isolation,
        cache=cache,
        mounts=mounts,
        logs_factory=logs_of,
        follow_factory=make_follow,
        shared=calls,
        measure=MachineMeter(directory, time.monotonic).measure,
        takes_ahead=takes_ahead,
    )
    try:
        await host.run()
        # Told to end: with all its tasks. In any other case they run on, for the next host to find.
        await executor.shutdown()
    finally:
        await executor.close()
        for staging in stagings.values():
            await staging.close()
        await calls.close()
        await session.close()


def _settings(directory: str, type_: type[_Settings]) -> _Settings:
    """One room's part of the host's settings."""
    try:
        with open(os.path.join(directory, SETTINGS_FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=type_)
    except FileNotFoundError:
        return type_()


def _isolation(directory: str) -> Isolation:
    """How tasks are kept apart; before there are threads."""
    isolation = Isolation(directory, _settings(directory, IsolationSettings))
    # The service may keep all it makes to itself; what others may see of a node is given on purpose.
    os.umask(0o022)
    if isolation.is_on:
        forget_groups()
    elif os.geteuid() == 0:
        logging.getLogger(__name__).warning("tasks run as root: %s", isolation.reason)
    return isolation


class _HostSettings(msgspec.Struct, frozen=True):
    mounts: MountSettings = MountSettings()


def _mount_settings(directory: str) -> MountSettings:
    try:
        with open(os.path.join(directory, SETTINGS_FILE), "rb") as file:
            return msgspec.json.decode(file.read(), type=_HostSettings).mounts
    except FileNotFoundError:
        return MountSettings()


if __name__ == "__main__":
    sys.exit(main())
