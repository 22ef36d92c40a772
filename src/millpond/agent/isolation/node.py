"""Isolation as a whole: what this machine lets the agent do, and what of it a node has.

A host finds out once, when it starts. With isolation, every task of every node runs as a user of that node; without,
all run as the agent's own user, and the nodes say so and why.
"""

import contextlib
import errno
import logging
import os
import socket
import struct
import sys
import time
from typing import Final

import msgspec

from millpond.agent import switch
from millpond.agent.isolation.account_files import AccountFiles
from millpond.agent.isolation.cgroups import CgroupTree, NodeCgroup, find_tree, remove_group
from millpond.agent.isolation.claims import DEFAULT_DIRECTORY, Block, NoUidsLeft, UidClaims, UidRange
from millpond.agent.isolation.logins import Logins
from millpond.agent.isolation.users import NodeUsers, named_accounts, read_state
from millpond.agent.node_dirs import NodeDirectories
from millpond.domain.task import NameValue

AUTO: Final = "auto"
USERS: Final = "users"
NONE: Final = "none"
LIMIT_NODE: Final = "node"
LIMIT_TASK: Final = "task"

_NEEDED: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}
_SWITCH_DIRECTORY: Final = "switch"

_log = logging.getLogger(__name__)


class IsolationSettings(msgspec.Struct, frozen=True):
    """How tasks are to be kept apart; see docs/reference/configuration.md."""

    isolation: str = AUTO
    """`auto`, `users` or `none`"""
    first_uid: int = 1_900_000_000
    last_uid: int = 1_999_999_999
    limits: str = LIMIT_NODE
    """`node`, `task` or `none`"""

    @property
    def uid_range(self) -> UidRange:
        return UidRange(self.first_uid, self.last_uid)


class NotIsolated(OSError):
    """Isolation was asked for and cannot be had; the text says why."""


def why_not(directory: str, uid_range: UidRange) -> str:
    """Why tasks of nodes in `directory`, the agent's own, cannot run as users of theirs; empty when they can."""
    if os.geteuid() != 0:
        return "the agent does not run as root"
    missing = _missing_capabilities()
    if missing:
        return f"the agent's root is not allowed to: {', '.join(missing)}"
    for name in ("uid_map", "gid_map"):
        if not _is_mapped(name, uid_range):
            return f"user ids {uid_range.first} to {uid_range.last} do not exist here (a user namespace): see nodes.uid_range"
    place = os.path.abspath(directory)
    while place != "/":
        place = os.path.dirname(place)
        try:
            mode = os.stat(place).st_mode
        except OSError as error:
            return f"{place}: {error.strerror}"
        if not mode & 0o001:
            return (
                f"other users cannot enter {place} (mode {mode & 0o7777:04o}), below which the nodes are: "
                "put data_dir where they can, or open it with chmod o+x"
            )
    return ""


def _missing_capabilities() -> list[str]:
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                has = int(line.split()[1], 16)
                return [name for name, bit in _NEEDED.items() if not has >> bit & 1]
    return []


def _is_mapped(name: str, uid_range: UidRange) -> bool:
    try:
        with open(f"/proc/self/{name}", encoding="ascii") as file:
            spans = [tuple(int(word) for word in line.split()) for line in file]
    except OSError:
        return True
    return any(inside <= uid_range.first and uid_range.last < inside + count for inside, _, count in spans)


class NodeIsolation:
    """What one node has: users, and a control group where there are any."""

    def __init__(self, root: str, users: NodeUsers, cgroup: NodeCgroup | None, logins: Logins) -> None:
        self._root = root
        self.users = users
        self.cgroup = cgroup
        self.logins = logins
        self.capabilities: tuple[NameValue, ...] = ()
        self._directories = NodeDirectories.of(root)
        """Held here: they know whom they are open to, and are no longer there than somebody has them."""

    def set_up(self, pool_spec: bytes) -> None:
        """Have the users of the pool, and directories they may use. Raises OSError."""
        self.users.set_up(named_accounts(pool_spec))
        # Others than before if the node was reimaged.
        self._directories = NodeDirectories.of(self._root)
        self._directories.open_to(self.users.group, again=self.users.is_new)
        self.users.is_new = False


class Isolation:
    """What a host can do for its nodes."""

    def __init__(
        self,
        directory: str,
        settings: IsolationSettings,
        *,
        claims_directory: str = DEFAULT_DIRECTORY,
        etc: str = "/etc",
    ) -> None:
        """`directory` is the host's: where the nodes are below. Makes what isolation needs there."""
        self._settings = settings
        self._claims = UidClaims(settings.uid_range, claims_directory)
        self._account_files = AccountFiles(etc)
        self._nodes: dict[str, NodeIsolation] = {}
        """By root directory."""
        self._tree: CgroupTree | None = None
        self._no_tree = "limits are switched off"
        self.switch = ""
        """For the executor."""
        self.reason = "isolation is switched off" if settings.isolation == NONE else ""
        if not self.reason:
            self.reason = why_not(directory, settings.uid_range) or self._prepare(directory)
        self.is_on = not self.reason
        """Tasks run as users of their nodes."""
        if self.is_on and settings.limits != NONE:
            self._tree, self._no_tree = find_tree()

    def _prepare(self, directory: str) -> str:
        """Put the switch in place and try it; what is wrong with it, or nothing."""
        place = os.path.join(directory, _SWITCH_DIRECTORY)
        try:
            os.makedirs(place, mode=0o700, exist_ok=True)
            path = switch.install(place)
            _try(path, self._settings.last_uid)
        except OSError as error:
            return f"processes cannot be started as other users: {error}"
        self.switch = path
        return ""

    def check(self) -> None:
        """Raises NotIsolated when isolation was asked for (`users`) and cannot be had."""
        if self._settings.isolation == USERS and not self.is_on:
            raise NotIsolated(errno.EPERM, f"nodes.isolation is 'users', but {self.reason}")

    def of(self, root: str) -> NodeIsolation | None:
        """That of the node with this root directory; None when it has none."""
        return self._nodes.get(root)

    def open_node(
        self, directory: str, root: str, *, memory_mib: int = 0, task_slots: int = 1
    ) -> tuple[NameValue, ...]:
        """Get a node ready, before it says hello; what it is to say of itself. Raises OSError when it must not run."""
        self.check()
        if not self.is_on:
            return (NameValue("isolation", NONE), NameValue("isolationReason", self.reason))
        known = self._nodes.get(root)
        if known is None:
            known = self._nodes[root] = self._open(directory, root, memory_mib, task_slots)
        return known.capabilities

    def _open(self, directory: str, root: str, memory_mib: int, task_slots: int) -> NodeIsolation:
        earlier = read_state(directory)
        try:
            block = self._claims.claim(directory, None if earlier is None else earlier.block, self._clear_up)
        except NoUidsLeft as error:
            raise OSError(errno.EAGAIN, str(error)) from error
        # Passed on the way to the root; what else is here is the agent's (0600).
        os.chown(directory, 0, block.first)
        os.chmod(directory, 0o711)  # noqa: S103  to be passed, not looked into
        users = NodeUsers(directory, block, self._account_files)
        cgroup = self._make_cgroup(_group_name(block), memory_mib, task_slots)
        node = NodeIsolation(root, users, cgroup, Logins(directory, block, self._account_files, time.time))
        node.logins.expire()
        node.set_up(b"{}")
        node.capabilities = self._capabilities(node)
        return node

    def _clear_up(self, gone: Block) -> None:
        """What a node left that went without a word."""
        with contextlib.suppress(OSError):
            self._account_files.remove(gone.first, gone.last)
        if self._tree is not None:
            remove_group(self._tree, _group_name(gone))

    def _make_cgroup(self, name: str, memory_mib: int, task_slots: int) -> NodeCgroup | None:
        if self._tree is None:
            return None
        try:
            return NodeCgroup(
                self._tree,
                name,
                memory_bytes=memory_mib << 20,
                task_slots=task_slots,
                per_task=self._settings.limits == LIMIT_TASK,
            )
        except OSError as error:
            _log.warning("control groups cannot be made, nothing is limited: %s", error)
            self._no_tree = f"control groups cannot be made: {error}"
            return None

    def _capabilities(self, node: NodeIsolation) -> tuple[NameValue, ...]:
        users, cgroup = node.users, node.cgroup
        told = {
            "isolation": USERS,
            "userIds": f"{users.block.first}-{users.block.last}",
            "poolUser": users.pool_user,
            "accountNames": "passwd" if users.has_names else "environment",
            "adminUser": "root",
        }
        if self._tree is None or cgroup is None:
            told |= {"limits": NONE, "limitsReason": self._no_tree}
        else:
            told |= {
                "limits": self._settings.limits,
                "cgroupVersion": str(self._tree.version),
                "cgroupControllers": ",".join(self._tree.controllers),
            }
            if cgroup.memory_bytes:
                told["memoryLimitMiB"] = str(cgroup.memory_bytes >> 20)
            if cgroup.max_processes:
                told["processLimit"] = str(cgroup.max_processes)
        return tuple(NameValue(name, value) for name, value in told.items())

    def expire_logins(self) -> None:
        """Take away the node users whose time is over."""
        for node in self._nodes.values():
            try:
                node.logins.expire()
            except OSError as error:
                _log.warning("node users whose time is over cannot be taken away: %s", error)

    def wiped(self, root: str) -> None:
        """The node's disk is empty: homes are made anew when it is set up next."""
        node = self._nodes.get(root)
        if node is not None:
            node.users.forget_homes()
            node.logins.clear()

    def close_node(self, root: str) -> None:
        """The agent ends; the node stays."""
        node = self._nodes.pop(root, None)
        if node is not None and node.cgroup is not None:
            node.cgroup.close()

    def remove_node(self, directory: str, root: str) -> None:
        """The node is gone, its directory too."""
        node = self._nodes.pop(root, None)
        if node is None:
            return
        if node.cgroup is not None:
            node.cgroup.remove()
        block = node.users.block
        try:
            self._account_files.remove(block.first, block.last)
            self._claims.release(directory)
        except OSError as error:
            _log.warning("the user ids of %s are not given back: %s", directory, error)


def _group_name(block: Block) -> str:
    return f"millpond.{block.first}"


def _try(path: str, uid: int) -> None:
    """Have the switch become a user and start a program that is not there: it says so once all else went well. Raises
    OSError."""
    if os.path.basename(path) != switch.PROGRAM_NAME:
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5.0)
        missing = "/nonexistent/millpond"
        pid = os.posix_spawn(
            path, ["switch", missing, missing], {}, file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
        )
        theirs.close()
        try:
            ours.send(struct.pack("=5I", uid, uid, 0, 1, uid))
            answer = ours.recv(8)
        finally:
            os.waitpid(pid, 0)
    number = int.from_bytes(answer[:4], sys.byteorder) if answer else errno.EIO
    if number != errno.ENOENT:
        raise OSError(number, f"the switch failed: {os.strerror(number)}")
