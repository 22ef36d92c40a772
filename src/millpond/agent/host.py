"""One process that is the agent of every local node: what to be is in files (`desired`).

The host compares the files with the nodes it runs at its start, when poked (SIGUSR1), and seldom by itself. It outlives
the service that started it: tasks run on, and reports wait until there is a service again. It ends on SIGTERM or
SIGINT (killing all tasks), when its directory is gone, or when nothing has run and nobody has been heard for long.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol

import msgspec

import millpond
from millpond.agent.base import Executor, NodeFacts, Runner
from millpond.agent.content_cache import ContentCache
from millpond.agent.desired import (
    HOST_FILE,
    JOURNAL_FILE,
    LOCK_FILE,
    NODES_DIRECTORY,
    REMOVED,
    ROOT_DIRECTORY,
    TRASH_DIRECTORY,
    DesiredNode,
    HostProcess,
    process_start_time,
    read_node,
)
from millpond.agent.isolation.node import Isolation
from millpond.agent.isolation.users import HOMES
from millpond.agent.link import Files, Follow, NodeLink, Transport
from millpond.agent.local_state import FileJournal
from millpond.agent.logs import LogsFactory, LogTransport, NodeLogs
from millpond.agent.mounts import Mounts
from millpond.agent.node import NodeAgent
from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.replacement import replace_file
from millpond.agent.trash import Trash
from millpond.domain.durations import Timestamp
from millpond.domain.task import NameValue
from millpond.protocol.messages import NodeMetrics, Start, Welcome

_log = logging.getLogger(__name__)

_LOOK_S: Final = 15.0
"""How often the host looks at its directory unasked."""
_LOOK_TURN_S: Final = 0.05
"""So long a look goes on before all else has its turn."""
_MEASURE_S: Final = 10.0
"""How often the machine is measured."""
_IDLE_S: Final = 3600.0
_KILL_S: Final = 1.5
"""How long killed tasks may take to end when the host stops; the executor's own end kills what is left."""
_LEAVE_S: Final = 10.0
"""The same for a node that is removed."""
_UNMOUNT_S: Final = 0.5
"""How long the mounts of a node that is wiped may still be used: nothing else goes on meanwhile."""
_RELINK_S: Final = 1.0
_FLUSH_S: Final = 5.0
"""How long a node that is removed, or loses its disk, may take to send the logs that wait."""


class HostRunning(Exception):
    """Another host holds the directory."""


class HostTransport(Transport, LogTransport, Protocol):
    """How a node's calls and its logs reach the control plane."""


class Shared(Protocol):
    """The calls that are one for all nodes of the host."""

    @property
    def last_heard(self) -> float | None:
        """Event loop time of the last answer."""
        ...

    def tell(self, metrics: NodeMetrics) -> None:
        """How busy the machine is."""
        ...

    def moved(self) -> None:
        """The endpoint may have changed."""
        ...


class TransportFactory(Protocol):
    def __call__(self, *, node_id: str, token: str) -> HostTransport: ...


class _Node:
    """A node the host runs: its agent, and the task that keeps it in touch (None for one that is leaving)."""

    def __init__(self, desired: DesiredNode, agent: NodeAgent, logs: NodeLogs | None) -> None:
        self.desired = desired
        self.agent = agent
        self.logs = logs
        self.link: NodeLink | None = None
        self.linking: asyncio.Task[None] | None = None
        self.removal: asyncio.Task[None] | None = None


class Host:
    """See the module. `run` is called once."""

    def __init__(
        self,
        directory: str,
        *,
        runner_factory: Callable[[NodeFacts], Runner],
        files_factory: Callable[[str], Files],
        transport_factory: TransportFactory,
        clock: Callable[[], Timestamp],
        chance: Callable[[], float],
        executor: Executor | None = None,
        isolation: Isolation | None = None,
        cache: ContentCache | None = None,
        mounts: Mounts | None = None,
        logs_factory: LogsFactory | None = None,
        follow_factory: Callable[[NodeLogs], Follow] | None = None,
        shared: Shared | None = None,
        measure: Callable[[], NodeMetrics] | None = None,
        takes_ahead: Callable[[Start], bool] | None = None,
        idle_s: float = _IDLE_S,
    ) -> None:
        """`files_factory` and `logs_factory` are given the root directory of a node; `follow_factory` makes what follows the
        files of one. Processes of the `executor` that no attempt of a node's journal accounts for are killed at the
        start. The `cache` is opened, and what it has of a pool goes with its last node, or when one is made anew.
        `shared` is told when the endpoint may have changed, and what is measured. `takes_ahead` is the nodes' (see
        `NodeAgent`).
        `measure` says how busy the machine is, on behalf of every node. After `idle_s` without work and without a word from any
        service the host ends."""
        self._directory = os.path.abspath(directory)
        self._nodes_directory = os.path.join(self._directory, NODES_DIRECTORY)
        self._runner_factory = runner_factory
        self._files_factory = files_factory
        self._transport_factory = transport_factory
        self._clock = clock
        self._chance = chance
        self._takes_ahead = takes_ahead
        self._executor = executor
        self._isolation = isolation
        self._cache = cache
        self._mounts = mounts
        self._logs_factory = logs_factory
        self._follow_factory = follow_factory
        self._shared = shared
        self._measure = measure
        self._measuring: asyncio.Task[None] | None = None
        self._idle_s = idle_s
        self._nodes: dict[str, _Node] = {}
        self._trash = Trash(os.path.join(self._directory, TRASH_DIRECTORY))
        self._poked = asyncio.Event()
        self._stopping = False
        self._last_use = 0.0
        self._sweep: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Be the host until told to stop. Raises HostRunning when there is one; OSError when the directory cannot be
        used."""
        os.makedirs(self._nodes_directory, mode=0o700, exist_ok=True)
        if self._isolation is not None and self._isolation.is_on:
            # Passed by the nodes' users on the way to their own; what lies here is the agent's (0600).
            for directory in (self._directory, self._nodes_directory):
                os.chmod(directory, 0o711)  # noqa: S103  to be passed, not looked into
        with _locked(os.path.join(self._directory, LOCK_FILE)) as lock:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, self.stop)
            loop.add_signal_handler(signal.SIGINT, self.stop)
            loop.add_signal_handler(signal.SIGUSR1, self.poke)
            try:
                await self._serve(lock)
            finally:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                    loop.remove_signal_handler(number)

    def poke(self) -> None:
        """Look at the files now."""
        self._poked.set()

    def stop(self) -> None:
        """Kill all tasks and end."""
        self._stopping = True
        self._poked.set()

    # --- the loop ---

    async def _serve(self, lock: int) -> None:
        loop = asyncio.get_running_loop()
        own = HostProcess(pid=os.getpid(), start_time=process_start_time(os.getpid()), version=millpond.__version__)
        self._last_use = loop.time()
        # Nodes wished for from here on come with a poke; those before it are found by the first look.
        replace_file(os.path.join(self._directory, HOST_FILE), msgspec.json.encode(own))
        if self._cache is not None:
            self._cache.open(self._trash.put, self._pools_wished_for())
        try:
            if self._mounts is not None:
                await asyncio.to_thread(self._mounts.sweep, os.path.join(self._directory, TRASH_DIRECTORY))
            await self._look()
            self._trash.empty()
            if self._executor is not None:
                self._sweep = asyncio.create_task(self._kill_strays(self._executor))
            if self._measure is not None and self._shared is not None:
                self._measuring = asyncio.create_task(_tell_metrics(self._measure, self._shared))
            while not self._stopping:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._poked.wait()
                poked = self._poked.is_set()
                self._poked.clear()
                if self._stopping:
                    break
                if not _holds(lock, os.path.join(self._directory, LOCK_FILE)):
                    _log.warning("the directory %s is gone: the host ends", self._directory)
                    break
                await self._look()
                if poked:
                    self._nudge()
                if self._useless():
                    _log.info("nothing to do and nobody heard for %.0f s: the host ends", self._idle_s)
                    break
        finally:
            await self._close()

    def _nudge(self) -> None:
        if self._shared is not None:
            self._shared.moved()
        for node in self._nodes.values():
            if node.link is not None:
                node.link.nudge()

    def _useless(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._shared is not None and self._shared.last_heard is not None:
            self._last_use = max(self._last_use, self._shared.last_heard)
        for node in self._nodes.values():
            heard = node.link.last_heard if node.link is not None else None
            if heard is not None:
                self._last_use = max(self._last_use, heard)
            if node.agent.has_runs:
                self._last_use = now
        return now - self._last_use > self._idle_s

    async def _close(self) -> None:
        nodes = list(self._nodes.values())
        for node in nodes:
            node.agent.interrupt()
        # The links stay up to here: what ends now may still be reported.
        ends = [asyncio.create_task(node.agent.ended()) for node in nodes]
        if ends:
            await asyncio.wait(ends, timeout=_KILL_S)
        tasks = [*ends, *(task for node in nodes for task in (node.linking, node.removal) if task is not None)]
        if self._sweep is not None:
            tasks.append(self._sweep)
        if self._measuring is not None:
            tasks.append(self._measuring)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for node in nodes:
            if node.logs is not None:
                await node.logs.close()
            await node.agent.close()
            await self._unmount(os.path.join(self._nodes_directory, node.desired.node_id, ROOT_DIRECTORY))
            if self._isolation is not None:
                self._isolation.close_node(os.path.join(self._nodes_directory, node.desired.node_id, ROOT_DIRECTORY))
        await self._trash.close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._directory, HOST_FILE))

    # --- nodes ---

    async def _look(self) -> None:
        """Bring the nodes in line with the files. The nodes there are go on meanwhile: thousands may be new."""
        if self._isolation is not None:
            self._isolation.expire_logins()
        try:
            names = os.listdir(self._nodes_directory)
        except OSError as error:
            _log.warning("cannot look at the nodes wished for: %s", error)
            return
        clock = asyncio.get_running_loop()
        pause_at = clock.time() + _LOOK_TURN_S
        for name in names:
            try:
                self._look_at(name)
            except (OSError, msgspec.DecodeError) as error:
                _log.warning("node %s: %s", name, error)
            if clock.time() >= pause_at:
                await asyncio.sleep(0)
                if self._stopping:
                    return
                pause_at = clock.time() + _LOOK_TURN_S
        for node_id in self._nodes.keys() - set(names):
            self._remove(self._nodes[node_id])

    def _look_at(self, name: str) -> None:
        directory = os.path.join(self._nodes_directory, name)
        desired = read_node(directory)
        if desired is None or desired.node_id != name:
            return
        node = self._nodes.get(name)
        if node is None:
            root = os.path.join(directory, ROOT_DIRECTORY)
            logs = None if self._logs_factory is None else self._logs_factory(root)
            node = self._nodes[name] = _Node(desired, self._begin(desired, directory, logs), logs)
        elif node.removal is not None:
            return
        if desired.state == REMOVED:
            self._remove(node)
        elif desired != node.desired or node.link is None:
            node.desired = desired
            self._link(node)

    def _begin(self, desired: DesiredNode, directory: str, logs: NodeLogs | None) -> NodeAgent:
        root = os.path.join(directory, ROOT_DIRECTORY)
        _make_root(root)
        capabilities: tuple[NameValue, ...] = ()
        if self._isolation is not None:
            capabilities = self._isolation.open_node(
                directory, root, memory_mib=desired.memory_mib, task_slots=desired.task_slots
            )
        journal = os.path.join(directory, JOURNAL_FILE)
        make = partial(
            NodeAgent,
            desired.node_id,
            root=root,
            task_slots=desired.task_slots,
            runner_factory=self._runner_factory,
            clock=self._clock,
            capabilities=capabilities,
            ip_address=desired.ip_address,
            wipe=partial(self._wipe, root, desired.pool_id, logs),
            before_wipe=None if logs is None else partial(logs.flush, _FLUSH_S),
            takes_ahead=self._takes_ahead,
        )
        try:
            agent = make(journal=FileJournal(journal))
        except Exception:
            # Better a node that has forgotten its tasks (its hello says so) than none, or no host at all.
            _log.exception("node %s: its journal makes no sense and is put aside", desired.node_id)
            os.replace(journal, f"{journal}.broken")
            agent = make(journal=FileJournal(journal))
        if self._mounts is not None and not self._mounts.of(root).is_whole:
            _log.warning("node %s: its mounts are gone, so it restarts", desired.node_id)
            agent.restart_first()
        agent.begin()
        return agent

    async def _unmount(self, root: str) -> None:
        if self._mounts is not None:
            await asyncio.to_thread(self._mounts.of(root).take_down)

    def _wipe(self, root: str, pool_id: str, logs: NodeLogs | None) -> None:
        """Give a node a new, empty root directory. Raises OSError; to be tried again then."""
        NodeDirectories.forget(root)
        self._drop_cached(pool_id)
        if self._mounts is not None:
            # All that ran was killed; what still uses them is in nobody's way.
            self._mounts.of(root).take_down(_UNMOUNT_S)
        # It is not there when an earlier life of the host came as far as that.
        with contextlib.suppress(FileNotFoundError):
            self._trash.put(root)
        if self._isolation is not None:
            with contextlib.suppress(FileNotFoundError):
                self._trash.put(os.path.join(os.path.dirname(root), HOMES))
            self._isolation.wiped(root)
        _make_root(root)
        if logs is not None:
            logs.wiped()

    def _link(self, node: _Node) -> None:
        """Keep the node in touch, under the token it has now."""
        if node.linking is not None:
            node.linking.cancel()
        transport = self._transport_factory(node_id=node.desired.node_id, token=node.desired.token)
        files = self._files_factory(os.path.join(self._nodes_directory, node.desired.node_id, ROOT_DIRECTORY))
        node.link = NodeLink(
            node.agent,
            transport,
            files,
            chance=self._chance,
            welcomed=_welcome_for(node.logs),
            follow=None if self._follow_factory is None or node.logs is None else self._follow_factory(node.logs),
        )
        if node.logs is not None:
            node.logs.begin(transport)
        node.linking = asyncio.create_task(_keep_linked(node.link, node.desired.node_id))

    def _remove(self, node: _Node) -> None:
        if node.removal is None:
            node.removal = asyncio.create_task(self._take_down(node))

    async def _take_down(self, node: _Node) -> None:
        node_id = node.desired.node_id
        node.agent.leave()
        if node.linking is not None:
            node.linking.cancel()
            await asyncio.wait([node.linking])
        try:
            async with asyncio.timeout(_LEAVE_S):
                await node.agent.ended()
        except TimeoutError:
            _log.warning("node %s: some of its tasks do not end", node_id)
        if node.logs is not None:
            await node.logs.flush(_FLUSH_S)
            await node.logs.close()
        await node.agent.close()
        directory = os.path.join(self._nodes_directory, node_id)
        await self._unmount(os.path.join(directory, ROOT_DIRECTORY))
        try:
            self._trash.put(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("node %s: its directory cannot be moved away: %s", node_id, error)
        if self._isolation is not None:
            self._isolation.remove_node(directory, os.path.join(directory, ROOT_DIRECTORY))
        # If it is still there the next look tries again.
        del self._nodes[node_id]
        pool_id = node.desired.pool_id
        if not any(other.desired.pool_id == pool_id for other in self._nodes.values()):
            try:
                self._drop_cached(pool_id)
            except OSError as error:
                _log.warning("what is cached of pool %s cannot be moved away: %s", pool_id, error)
        _log.info("node %s: removed", node_id)

    def _drop_cached(self, pool_id: str) -> None:
        if self._cache is not None:
            self._cache.drop(pool_id, self._trash.put)

    def _pools_wished_for(self) -> set[str]:
        pools: set[str] = set()
        for name in os.listdir(self._nodes_directory):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                desired = read_node(os.path.join(self._nodes_directory, name))
                if desired is not None and desired.state != REMOVED:
                    pools.add(desired.pool_id)
        return pools

    async def _kill_strays(self, executor: Executor) -> None:
        """Kill processes of attempts that are with no node's runner (a journal was lost, a node's directory taken away),
        and forget those that ended and were told of in an earlier life."""
        try:
            for process_id in await executor.known():
                node_id, key, attempt = process_id.split("/")[:3]
                node = self._nodes.get(node_id)
                if node is None or not node.agent.runs(int(key), int(attempt)):
                    await executor.end(f"{node_id}/{key}/{attempt}")
                    await executor.forget(process_id)
        except (OSError, ValueError) as error:
            _log.warning("stray processes cannot be looked for: %s", error)


def _welcome_for(logs: NodeLogs | None) -> Callable[[Welcome], None]:
    def welcomed(welcome: Welcome) -> None:
        if logs is not None:
            logs.configure(welcome.kept_log_bytes)

    return welcomed


async def _tell_metrics(measure: Callable[[], NodeMetrics], shared: Shared) -> None:
    while True:
        await asyncio.sleep(_MEASURE_S)
        shared.tell(measure())


def _make_root(root: str) -> None:
    os.makedirs(root, exist_ok=True)


async def _keep_linked(link: NodeLink, node_id: str) -> None:
    while True:
        try:
            await link.run()
        except Exception:
            _log.exception("node %s: its link failed", node_id)
            await asyncio.sleep(_RELINK_S)
        else:
            return


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    """Hold the lock file (a descriptor of it). Raises HostRunning when another process does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HostRunning(path) from error
        yield fd
    finally:
        os.close(fd)


def _holds(lock: int, path: str) -> bool:
    """Whether the lock file is still the one at its path."""
    try:
        found = os.stat(path)
    except OSError:
        return False
    held = os.fstat(lock)
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
