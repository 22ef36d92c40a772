"""The provider of local nodes: all of them live in one process on this machine, the agent host.

What nodes there should be is written to files below one directory, and the host is poked; what the host has made of it
is read from the same files. The layout is the host's (see `agent/desired.py`):

    DIR/endpoint                    URL of the service
    DIR/nodes/<node id>/node.json   the wish: present or removed
    DIR/ca-bundle.pem               certificates to trust, where the machine's own do not do
    DIR/host.json, DIR/host.log     the host's process and its output
    DIR/preempted/<node id>         the provider's own: a node that was not deleted, but preempted

The host outlives the service, so a service that comes back finds its nodes running. `stop_host` ends it.
"""

import asyncio
import contextlib
import functools
import hashlib
import ipaddress
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from millpond.domain.errors import ProviderError
from millpond.open_files import set_limit_of
from millpond.providers import local_processes
from millpond.providers.base import NodeCreated, NodeRefused, NodeRequest, NodeStatus
from millpond.providers.registry import ProviderContext

_T = TypeVar("_T")

_STOP_S: Final = 5.0
"""How long the host may take to end by itself."""
_KILLED_S: Final = 5.0
_LOOK_S: Final = 0.01
_MAX_LOG: Final = 4 << 20
_SHORT_LIFE_S: Final = 10.0
"""A host that did not live that long is started again with growing pauses."""
_MAX_RESTART_PAUSE_S: Final = 60.0


_LOOPBACK: Final = ipaddress.ip_network("127.64.0.0/10")
"""Nodes' addresses are from the upper part of what is always this machine: nothing else is there by custom."""


class LocalProvider:
    """See the module. One instance for a directory at a time; calls may overlap."""

    name = "local"

    def __init__(
        self,
        directory: str,
        *,
        endpoint: str = "",
        python: str = sys.executable,
        command: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        ca_bundle: str = "",
        open_files: int = 0,
        max_nodes: int = sys.maxsize,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`directory` holds the nodes and all their files. `endpoint` is the service's URL as nodes see it (see
        `set_endpoint`). `command` replaces the host's own command line; `--directory DIR` is added to it. `settings`
        are the host's (its `settings.json`): they count from when it is started next. `ca_bundle` is a file of
        certificates that nodes are to trust; empty: those of the machine. `open_files` is the limit the host is started
        with; 0: that of this process. Above `max_nodes` nodes, those that are still being removed included, more are
        refused."""
        self._directory = os.path.abspath(directory)
        self._nodes = os.path.join(self._directory, "nodes")
        self._preempted = os.path.join(self._directory, "preempted")
        self._endpoint = endpoint
        self._settings = settings
        self._ca_bundle = ca_bundle
        self._open_files = open_files
        self._max_nodes = max_nodes
        self._endpoint_is_written = False
        self._command = [*(command or (python, "-P", "-m", "millpond.agent.main")), "--directory", self._directory]
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._child: int | None = None
        """The host, when it is this process's child and was not seen to end."""
        self._child_since = 0.0
        self._restart_pause_s = 0.0
        self._stopped = False
        self._addresses: dict[str, str] = {}
        """IP address → node id, of all nodes wished for."""

    async def set_endpoint(self, url: str) -> None:
        """The service's URL as nodes see it; nodes that look for the service try there at once."""
        self._endpoint = url
        await self._in_thread(self._write_endpoint)

    async def prepare(self, *, start: bool = True) -> None:
        """Start the host, if there is none, so that the first node is quick; without `start` only see to it that it can
        be started. Raises ProviderError."""
        if not await self._in_thread(self._bring_certificates):
            # A host of before trusts what it was started with.
            await self.stop_host()
        self._stopped = False
        if start:
            await self._in_thread(self._ensure_host)

    async def create(self, requests: Sequence[NodeRequest]) -> list[NodeCreated | NodeRefused]:
        return await self._in_thread(lambda: self._create(requests))

    async def observe(self, handles: Sequence[str]) -> list[NodeStatus]:
        try:
            return await self._in_thread(lambda: self._observe(handles))
        except ProviderError:
            return [NodeStatus.UNKNOWN] * len(handles)

    async def delete(self, handles: Sequence[str]) -> None:
        await self._in_thread(lambda: self._delete(handles))

    async def preempt(self, handles: Sequence[str]) -> None:
        await self._in_thread(lambda: self._preempt(handles))

    async def close(self) -> None:
        """The host and its nodes stay."""

    async def delete_all(self, limit_s: float) -> bool:
        """Remove every node there is, with all its files, as `delete` does; whether that was done within the limit."""
        await self._in_thread(lambda: self._delete([self._handle(name) for name in self._there()]))
        return await self._until(lambda: not self._there(), limit_s)

    def _there(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(self._nodes)
        return []

    async def stop_host(self) -> None:
        """End the host, every task and whatever else runs below its directory, by force if need be. The nodes are not
        removed: a host started later goes on with them."""
        async with self._lock:
            self._stopped = True
            self._child_since = self._restart_pause_s = 0.0
            pid = self._host_pid() or self._child
            if pid is not None:
                _signal(pid, signal.SIGTERM)
                if not await self._until(lambda: not self._is_running(pid), _STOP_S):
                    _signal(pid, signal.SIGKILL)
                    await self._until(lambda: not self._is_running(pid), _KILLED_S)
            await asyncio.to_thread(local_processes.kill_all, self._directory, self._command, _KILLED_S)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, "host.json"))

    def kill_host(self) -> None:
        """The same at once and without asking, for a service that must end this instant."""
        self._stopped = True
        pid = self._host_pid() or self._child
        if pid is not None:
            _signal(pid, signal.SIGKILL)
        local_processes.kill_all(self._directory, self._command, _KILLED_S)

    # --- the calls ---

    def _create(self, requests: Sequence[NodeRequest]) -> list[NodeCreated | NodeRefused]:
        answers: list[NodeCreated | NodeRefused] = []
        changed = False
        self._read_addresses()
        there = len(self._there())
        for request in requests:
            node_id = request.node_id
            before = self._wish(node_id)
            if before is None and there >= self._max_nodes:
                # The same text for every node, so that the pool has the error once.
                message = (
                    f"This machine has all the nodes it may have, {self._max_nodes}: remove some, or see "
                    "nodes.max_nodes and nodes.uid_range in the service's configuration"
                )
                answers.append(NodeRefused(node_id, "AllocationFailed", message, retryable=False))
                continue
            if before is not None and before.get("state") == "removed":
                message = "A node of that id is still being removed."
                answers.append(NodeRefused(node_id, "AllocationFailed", message, retryable=True))
                continue
            there += before is None
            wish = {
                "node_id": node_id,
                "pool_id": request.pool_id,
                "token": request.token,
                "is_dedicated": request.is_dedicated,
                "task_slots": request.task_slots,
                "memory_mib": request.vm_size.memory_mib,
                "state": "present",
                "ip_address": (before or {}).get("ip_address") or self._address(node_id),
            }
            if before != wish:
                self._forget_preemption(node_id)
                os.makedirs(os.path.join(self._nodes, node_id), mode=0o700, exist_ok=True)
                self._write_wish(node_id, wish)
                changed = True
            answers.append(NodeCreated(node_id, self._handle(node_id)))
        self._ensure_host()
        if changed:
            self._poke()
        return answers

    def _observe(self, handles: Sequence[str]) -> list[NodeStatus]:
        self._ensure_host()
        there = NodeStatus.PENDING if self._host_pid() is None else NodeStatus.UP
        # One look at all of them: one at each takes ten times as long.
        present = self._present()
        statuses = []
        for handle in handles:
            node_id = _node_id(handle)
            if node_id in present:
                statuses.append(there)
            elif node_id and os.path.exists(os.path.join(self._preempted, node_id)):
                statuses.append(NodeStatus.PREEMPTED)
            else:
                statuses.append(NodeStatus.GONE)
        return statuses

    def _present(self) -> set[str]:
        """Names of the nodes that have a directory."""
        try:
            with os.scandir(self._nodes) as entries:
                return {entry.name for entry in entries if entry.is_dir()}
        except OSError:
            return set()

    def _preempt(self, handles: Sequence[str]) -> None:
        """As a deletion, of which there is a note that it was none: written first, so that a crash in between leaves a
        node that runs and nothing else."""
        for handle in handles:
            node_id = _node_id(handle)
            wish = self._wish(node_id) if node_id else None
            if wish is not None and wish.get("state") == "present":
                os.makedirs(self._preempted, mode=0o700, exist_ok=True)
                _write_file(os.path.join(self._preempted, node_id), b"")
        self._delete(handles, preempted=True)

    def _forget_preemption(self, node_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._preempted, node_id))

    def _delete(self, handles: Sequence[str], *, preempted: bool = False) -> None:
        found = False
        for handle in handles:
            node_id = _node_id(handle)
            if node_id and not preempted:
                self._forget_preemption(node_id)
            if not node_id or not os.path.isdir(os.path.join(self._nodes, node_id)):
                continue
            wish = self._wish(node_id) or {
                "node_id": node_id,
                "pool_id": "",
                "token": "",
                "is_dedicated": True,
                "task_slots": 1,
            }
            with contextlib.suppress(FileNotFoundError):  # the host was quicker
                self._write_wish(node_id, wish | {"state": "removed"})
            found = True
        if found:
            self._ensure_host()
            self._poke()

    # --- files ---

    def _handle(self, node_id: str) -> str:
        return json.dumps({"node_id": node_id, "directory": os.path.join(self._nodes, node_id)})

    def _wish(self, node_id: str) -> dict[str, Any] | None:
        try:
            with open(os.path.join(self._nodes, node_id, "node.json"), "rb") as file:
                wish = json.load(file)
        except (FileNotFoundError, ValueError):
            return None
        return wish if isinstance(wish, dict) else None

    def _write_wish(self, node_id: str, wish: dict[str, Any]) -> None:
        _write_file(os.path.join(self._nodes, node_id, "node.json"), json.dumps(wish).encode())

    def _read_addresses(self) -> None:
        """Which loopback addresses are taken."""
        with contextlib.suppress(FileNotFoundError):
            known = set(self._addresses.values())
            names = set(os.listdir(self._nodes))
            self._addresses = {address: name for address, name in self._addresses.items() if name in names}
            for name in names - known:
                address = (self._wish(name) or {}).get("ip_address")
                if isinstance(address, str):
                    self._addresses[address] = name

    def _address(self, node_id: str) -> str:
        """A loopback address for a new node, which no other has."""
        number = int.from_bytes(hashlib.sha256(node_id.encode()).digest()[:8], "big")
        while True:
            address = str(_LOOPBACK[1 + number % (_LOOPBACK.num_addresses - 2)])
            if self._addresses.setdefault(address, node_id) == node_id:
                return address
            number += 1

    def _write_endpoint(self) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        _write_file(os.path.join(self._directory, "endpoint"), self._endpoint.encode())
        self._endpoint_is_written = True
        self._poke()

    def _bring_certificates(self) -> bool:
        """Write the certificates to trust; whether that leaves them as they were."""
        path = os.path.join(self._directory, "ca-bundle.pem")
        wanted = _read_file(self._ca_bundle) if self._ca_bundle else None
        if wanted == _read_file(path):
            return True
        if wanted is None:
            os.unlink(path)
        else:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            _write_file(path, wanted, 0o644)
        return False

    # --- the host ---

    def _ensure_host(self) -> None:
        if self._endpoint and not self._endpoint_is_written:
            self._write_endpoint()
        if self._host_pid() is not None or self._stopped:
            return
        now = self._monotonic()
        if self._child is not None:
            if self._is_running(self._child):
                return  # it has just begun
            self._child = None
        if self._child_since:
            lived_s = now - self._child_since
            if lived_s < self._restart_pause_s:
                return
            short = lived_s - self._restart_pause_s < _SHORT_LIFE_S
            self._restart_pause_s = min(_MAX_RESTART_PAUSE_S, 2 * self._restart_pause_s or 1.0) if short else 0.0
        os.makedirs(self._nodes, mode=0o700, exist_ok=True)
        if self._settings is not None:
            _write_file(os.path.join(self._directory, "settings.json"), json.dumps(dict(self._settings)).encode())
        self._spawn_host()
        self._child_since = now

    def _spawn_host(self) -> None:
        log = os.path.join(self._directory, "host.log")
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(log) > _MAX_LOG:
                os.replace(log, f"{log}.1")
        # A session of its own and no descriptor of the service: the host lives on when the service dies. What the
        # service itself was configured with is none of the host's business.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLPOND_")}
        if self._ca_bundle:
            # What OpenSSL, and with it every library of the host, trusts; some look only when they are loaded.
            environment["SSL_CERT_FILE"] = os.path.join(self._directory, "ca-bundle.pem")
        self._child = os.posix_spawn(
            self._command[0],
            self._command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1),
        )
        if self._open_files:
            # Long before it looks: it has yet to load its libraries.
            set_limit_of(self._child, self._open_files)

    def _host_pid(self) -> int | None:
        """The host's process, once it takes pokes; None when there is none."""
        self._reap()
        try:
            with open(os.path.join(self._directory, "host.json"), "rb") as file:
                told = json.load(file)
            pid, start_time = int(told["pid"]), int(told["start_time"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None
        return pid if local_processes.start_time(pid) == start_time else None

    def _is_running(self, pid: int) -> bool:
        self._reap()
        return local_processes.start_time(pid) is not None

    def _reap(self) -> None:
        if self._child is not None:
            try:
                ended, _ = os.waitpid(self._child, os.WNOHANG)
            except ChildProcessError:
                ended = self._child  # somebody else has reaped it
            if ended:
                self._child = None

    def _poke(self) -> None:
        # Without `host.json` the host has yet to look at the files for the first time, and needs no poke (which would
        # kill it before it has a handler).
        pid = self._host_pid()
        if pid is not None:
            _signal(pid, signal.SIGUSR1)

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Wait until the condition holds; whether it did within the limit."""
        deadline = self._monotonic() + limit_s
        while not condition():
            if self._monotonic() > deadline:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        """Work on files and processes, one call at a time, beside the event loop."""
        async with self._lock:
            try:
                return await asyncio.to_thread(call)
            except OSError as error:
                message = f"The directory of local nodes cannot be used: {error}"
                raise ProviderError("LocalDirectoryNotUsable", message, retryable=True) from error


def make_provider(context: ProviderContext) -> LocalProvider:
    """The entry point."""
    return LocalProvider(context.directory, endpoint=context.endpoint)


@functools.lru_cache(maxsize=1 << 15)
def _node_id(handle: str) -> str:
    """The node id in a handle; empty when it is none of this provider's."""
    try:
        node_id = json.loads(handle)["node_id"]
    except (ValueError, TypeError, KeyError):
        return ""
    if not isinstance(node_id, str) or "/" in node_id or node_id.startswith("."):
        return ""
    return node_id


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _read_file(path: str) -> bytes | None:
    """None when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write_file(path: str, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the whole of it or the one before."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
    os.chmod(temporary, mode)
    os.replace(temporary, path)
