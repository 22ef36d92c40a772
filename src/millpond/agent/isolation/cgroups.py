"""What the tasks of a node may use up: control groups, of version 1 or 2, as this machine has them.

A node has one group: the memory of its VM size, a number of processes. Its tasks share it, and so nothing is made and
removed for an ordinary task, which costs more than starting it should (ADR 12). A task of several slots has a group of
its own, by which it gets that many shares of the processor; with limits per task, each has one, with its share of the
memory.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

CGROUP_ROOT: Final = "/sys/fs/cgroup"
MAX_PROCESSES: Final = 8192
"""Of one node, threads included: enough for any job, not enough to bring the machine down."""

_WANTED: Final = ("memory", "pids", "cpu")
_CPU_SHARES_V1: Final = 1024
_CPU_WEIGHT_V2: Final = 100
_MAX_CPU_WEIGHT: Final = 10000
_REST: Final = "rest"

_log = logging.getLogger(__name__)


class CgroupTree(msgspec.Struct, frozen=True):
    """Where this process may make groups."""

    version: int
    controllers: dict[str, str]
    """Controller → directory in which groups for it are made; the same for all in version 2."""


def find_tree(
    proc: str = "/proc/self", is_writable: Callable[[str], bool] = lambda path: os.access(path, os.W_OK)
) -> tuple[CgroupTree | None, str]:
    """The tree, or None and why there is none."""
    try:
        own = _own_groups(f"{proc}/cgroup")
        mounts = _mounts(f"{proc}/mountinfo")
    except OSError as error:
        return None, f"control groups cannot be found: {error}"
    found: dict[str, str] = {}
    for controller in _WANTED:
        mount = mounts.get(controller)
        if mount is not None and controller in own:
            directory = _below(mount, own[controller])
            if is_writable(directory):
                found[controller] = directory
    if found:
        return CgroupTree(1, found), ""
    if "" in mounts and "" in own:
        directory = _below(mounts[""], own[""])
        try:
            with open(f"{directory}/cgroup.controllers", encoding="ascii") as file:
                offered = file.read().split()
        except OSError as error:
            return None, f"control groups cannot be read: {error}"
        there = [controller for controller in _WANTED if controller in offered]
        if not there:
            return None, "this process's control group has none of memory, pids and cpu delegated to it"
        if not is_writable(f"{directory}/cgroup.subtree_control"):
            return None, f"{directory} may not be written to"
        try:
            _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{controller}" for controller in there))
        except OSError as error:
            # A group with processes in it (a container's) can have no groups below.
            return None, f"control groups cannot be made in {directory}: {error.strerror}"
        return CgroupTree(2, dict.fromkeys(there, directory)), ""
    return None, "no control groups are mounted that this process may write to"


def _own_groups(path: str) -> dict[str, str]:
    groups: dict[str, str] = {}
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file.read().splitlines():
            _, controllers, group = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = group
    return groups


def _mounts(path: str) -> dict[str, tuple[str, str]]:
    """Controller ("" is version 2) → (which group is mounted, where)."""
    mounts: dict[str, tuple[str, str]] = {}
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file.read().splitlines():
            left, _, right = line.partition(" - ")
            fields, kind = left.split(), right.split()
            if kind[0] == "cgroup2":
                mounts[""] = (fields[3], fields[4])
            elif kind[0] == "cgroup":
                for option in kind[2].split(","):
                    mounts[option] = (fields[3], fields[4])
    return mounts


def _below(mount: tuple[str, str], group: str) -> str:
    root, point = mount
    if root != "/" and (group == root or group.startswith(f"{root}/")):
        group = group[len(root) :]
    return os.path.normpath(f"{point}/{group}")


class NodeCgroup:
    """The group of one node. Raises OSError when it cannot be made."""

    def __init__(
        self,
        tree: CgroupTree,
        name: str,
        *,
        memory_bytes: int,
        task_slots: int,
        per_task: bool = False,
        max_processes: int = MAX_PROCESSES,
    ) -> None:
        """`memory_bytes` 0 is no limit. With `per_task` every task has a group, and a share of the memory."""
        self._tree = tree
        self._name = name
        self._task_slots = max(1, task_slots)
        self.is_per_task = per_task and memory_bytes > 0 and "memory" in tree.controllers
        """Every task has groups of its own."""
        self.memory_bytes = memory_bytes if "memory" in tree.controllers else 0
        self.max_processes = max_processes if "pids" in tree.controllers else 0
        self._events: dict[str, int] = {}
        """Open files in which the kernel counts what it killed, by path."""
        self._make()

    def _make(self) -> None:
        v2 = self._tree.version == 2
        for controller, parent in self._tree.controllers.items():
            directory = f"{parent}/{self._name}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o755)
            if controller == "memory":
                if not v2:
                    with contextlib.suppress(OSError):
                        # It is so already on newer kernels.
                        _write(f"{directory}/memory.use_hierarchy", "1")
                if self.memory_bytes:
                    _limit_memory(directory, self.memory_bytes, v2=v2)
            elif controller == "pids":
                _write(f"{directory}/pids.max", str(self.max_processes))
        if v2:
            directory = self._directory("memory")
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{directory}/{_REST}", 0o755)
            _write(f"{directory}/cgroup.subtree_control", " ".join(f"+{one}" for one in self._tree.controllers))

    def _directory(self, controller: str) -> str:
        parent = self._tree.controllers.get(controller) or next(iter(self._tree.controllers.values()))
        return f"{parent}/{self._name}"

    def enter(self, task: str, slots: int) -> tuple[str, ...]:
        """The directories whose groups a task's process is to join; its own groups are made. Raises OSError."""
        own = self.is_per_task or slots > 1
        if self._tree.version == 2:
            if not own:
                return (f"{self._directory('memory')}/{_REST}",)
            return (self._make_own(self._directory("memory"), task, slots, self._tree.controllers),)
        joined: list[str] = []
        for controller in self._tree.controllers:
            directory = self._directory(controller)
            if (controller == "memory" and self.is_per_task) or (controller == "cpu" and own):
                joined.append(self._make_own(directory, task, slots, (controller,)))
            elif controller != "cpu":
                joined.append(directory)
        return tuple(joined)

    def _make_own(self, directory: str, task: str, slots: int, controllers: Iterable[str]) -> str:
        v2 = self._tree.version == 2
        path = f"{directory}/{task}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o755)
        if "cpu" in controllers:
            if v2:
                _write(f"{path}/cpu.weight", str(min(_MAX_CPU_WEIGHT, _CPU_WEIGHT_V2 * max(1, slots))))
            else:
                _write(f"{path}/cpu.shares", str(_CPU_SHARES_V1 * max(1, slots)))
        if "memory" in controllers and self.is_per_task:
            _limit_memory(path, self.share(slots), v2=v2)
        return path

    def share(self, slots: int) -> int:
        """The bytes of memory a task of so many slots may use."""
        if not self.is_per_task:
            return self.memory_bytes
        return max(1 << 20, self.memory_bytes * max(1, slots) // self._task_slots)

    def leave(self, task: str) -> None:
        """The task has ended: its own groups go."""
        for controller in self._tree.controllers:
            path = f"{self._directory(controller)}/{task}"
            descriptor = self._events.pop(self._counter(task), -1) if controller == "memory" else -1
            if descriptor >= 0:
                os.close(descriptor)
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                # Something in it takes its time to end. It goes with the node.
                _log.warning("%s: %s", path, error)

    def out_of_memory_kills(self, task: str) -> int:
        """How many processes the kernel killed for want of memory in the group the task is in; 0 when it cannot say."""
        path = self._counter(task)
        try:
            descriptor = self._events.get(path)
            if descriptor is None:
                descriptor = self._events[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            text = os.pread(descriptor, 1024, 0)
        except OSError:
            return 0
        for line in text.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == b"oom_kill":
                return int(words[1])
        return 0

    def _counter(self, task: str) -> str:
        directory = self._directory("memory")
        if self.is_per_task:
            directory = f"{directory}/{task}"
        return f"{directory}/memory.events" if self._tree.version == 2 else f"{directory}/memory.oom_control"

    def close(self) -> None:
        """Let go of open files; the group stays."""
        for descriptor in self._events.values():
            os.close(descriptor)
        self._events.clear()

    def remove(self) -> None:
        """The node is gone, and all that ran on it."""
        self.close()
        remove_group(self._tree, self._name)


def remove_group(tree: CgroupTree, name: str) -> None:
    """Remove the group of a node that is gone, as far as nothing runs in it."""
    for parent in set(tree.controllers.values()):
        directory = f"{parent}/{name}"
        try:
            for below in os.listdir(directory):
                if os.path.isdir(f"{directory}/{below}"):
                    os.rmdir(f"{directory}/{below}")
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("%s: %s", directory, error)


def _limit_memory(directory: str, size: int, *, v2: bool) -> None:
    if v2:
        _write(f"{directory}/memory.max", str(size))
        with contextlib.suppress(OSError):
            _write(f"{directory}/memory.swap.max", "0")
        return
    _write(f"{directory}/memory.limit_in_bytes", str(size))
    with contextlib.suppress(OSError):
        # With swap, where swap is counted.
        _write(f"{directory}/memory.memsw.limit_in_bytes", str(size))


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
