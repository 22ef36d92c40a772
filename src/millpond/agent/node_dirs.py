"""The directories of a node (semantics 4.1): made quickly, deleted slowly.

Creating files gets 10 to 40 times slower on ext4 in the seconds after many were deleted. So nothing is deleted while
tasks start: what is to go is moved into `volatile/trash`, and emptied from there when the node is quiet.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from millpond.agent.deletion import Deletion
from millpond.domain.durations import Timestamp

_Retained: TypeAlias = tuple[Timestamp, float, str, int]
"""Since when, for how many seconds, which directory, and its inode (0: not known)."""

LAYOUT: Final = (
    "applications",
    "fsmounts",
    "shared",
    "startup",
    "startup/wd",
    "volatile",
    "volatile/trash",
    "volatile/retention",
    "volatile/inputs",
    "workitems",
)
START_DIRECTORY: Final = "startup"
"""That of the start task, one level below the root."""
DIRECTORY_MODE: Final = 0o770

_PASSAGE_MODE: Final = 0o710
"""Of directories that lead to those of tasks, with isolation: to be passed by who knows the name."""
_OPEN_MODES: Final = {
    "applications": 0o750,
    "fsmounts": 0o750,
    "shared": 0o2770,
    "startup": 0o750,
    "startup/wd": 0o750,
    "workitems": _PASSAGE_MODE,
}
_USERS_OWN: Final = frozenset({"startup", "startup/wd"})
"""They are the start task's user's once it has run."""

_QUIET_S: Final = 2.0
"""So long after the last task started its directory, the node counts as quiet."""
_PATIENCE_S: Final = 600.0
"""So long trash waits for a quiet node; then it is emptied all the same."""
_AGAIN_S: Final = 600.0
"""Before the next try to move a directory away that cannot be moved."""
_SLICE: Final = 200
"""Entries deleted at a stretch."""
_PAUSE_S: Final = 0.1
_BUSY_PAUSE_S: Final = 1.0

_log = logging.getLogger(__name__)


class NodeDirectories:
    """Layout, task directories, retention and trash below one node's root. One for all runners of a root: see `of`.

    `bucket_s` is how finely retention is told apart: directories whose time ends within the same such span go together.
    """

    def __init__(self, root: str, clock: Callable[[], Timestamp] = time.time, *, bucket_s: float = 60.0) -> None:
        self.root = os.path.abspath(root)
        self._clock = clock
        self._bucket_s = bucket_s
        self._trash = f"{self.root}/volatile/trash"
        self._retention = f"{self.root}/volatile/retention"
        self._inputs = f"{self.root}/volatile/inputs"
        self._names = itertools.count()
        self._life = time.time_ns()
        self._in_use: set[str] = set()
        self._last_created = float("-inf")
        self._trash_waits = False
        self._trash_since = 0.0
        self._deletion = Deletion(self._trash, self._trash_name)
        self._open_bucket: tuple[int, int] | None = None
        """(number, file descriptor) of the bucket last written to."""
        self._lock = threading.Lock()
        """Expiry runs in a thread: a directory must not be discarded while an attempt moves in, nor two records mix."""
        self._wake: asyncio.Event | None = None
        self._tending: asyncio.Task[None] | None = None
        self._unrecorded: list[_Retained] = []
        """Retention that the disk had no room for."""
        self._gathered: list[_Retained] | None = None
        """What is to be written down together; None where each is by itself."""
        self._made = False
        self._group: int | None = None
        """Whom the directories are open to, with isolation; the agent is root then."""

    @classmethod
    def of(cls, root: str, clock: Callable[[], Timestamp] = time.time) -> "NodeDirectories":
        """The one of that root in this process. A node gets a new runner when the service or its pool changed, while
        attempts of the old one still run: both must know which directories are in use."""
        root = os.path.abspath(root)
        found = _shared.get(root)
        if found is None:
            found = _shared[root] = cls(root, clock)
        return found

    @classmethod
    def forget(cls, root: str) -> None:
        """The root is about to be emptied: the next `of` begins anew. Nothing uses the one there is any more."""
        _shared.pop(os.path.abspath(root), None)

    def create(self) -> None:
        """Make the layout. Raises OSError."""
        if not self._made:
            os.makedirs(self.root, mode=DIRECTORY_MODE, exist_ok=True)
            for name in LAYOUT:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(f"{self.root}/{name}", DIRECTORY_MODE)
            self._made = True
            for name in os.listdir(self._inputs):
                # An earlier life of the agent ended while it fetched them.
                self.discard_inputs(f"{self._inputs}/{name}")

    def open_to(self, group: int, *, again: bool) -> None:
        """Open the layout to the group of the node's users, and to nobody else (semantics 4.2). `again`: what is there
        may have been made for another group, or for none. Raises OSError."""
        self.create()
        self._group = group
        if not again and os.stat(self.root).st_gid == group:
            return
        for name, mode in _OPEN_MODES.items():
            path = f"{self.root}/{name}"
            owner = os.stat(path).st_uid if name in _USERS_OWN else 0
            os.chown(path, owner, group, follow_symlinks=False)
            os.chmod(path, mode)
        os.chmod(f"{self.root}/volatile", 0o700)
        for job in _directories_in(f"{self.root}/workitems"):
            self._open(job)
            for run in _directories_in(job):
                self._open(run)
        # Last, so that what was cut short is begun again.
        # Others pass through to `bin`: mpirun names its launch agent there to its daemons on other nodes of this machine.
        os.chmod(self.root, 0o751)  # noqa: S103  every directory in it has a mode of its own
        os.chown(self.root, 0, group)

    def _open(self, path: str) -> None:
        assert self._group is not None
        os.chown(path, 0, self._group)
        os.chmod(path, _PASSAGE_MODE)

    def _make_parents(self, parent: str) -> None:
        if self._group is None:
            os.makedirs(f"{self.root}/{parent}", mode=DIRECTORY_MODE, exist_ok=True)
            return
        path = self.root
        for name in parent.split("/"):
            path += f"/{name}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
                self._open(path)

    # --- task directories ---------------------------------------------------------------------------------------

    def make_task_directory(self, relative: str) -> None:
        """Make a task's directory and the `wd` in it, both new: what an earlier attempt left is moved away."""
        self.use_new(relative)
        path = f"{self.root}/{relative}"
        try:
            os.mkdir(path, DIRECTORY_MODE)
        except FileExistsError:
            self.discard(relative)
            os.mkdir(path, DIRECTORY_MODE)
        except FileNotFoundError:
            self._make_parents(os.path.dirname(relative))
            os.mkdir(path, DIRECTORY_MODE)
        os.mkdir(f"{path}/wd", DIRECTORY_MODE)

    def make_start_directory(self) -> None:
        """Make the start task's `wd` anew; what else is in its directory stays (semantics 3.1)."""
        self.create()
        self._last_created = time.monotonic()
        if self._group is not None:
            # It is some earlier user's: nobody puts anything there until it is the next one's.
            os.chmod(f"{self.root}/{START_DIRECTORY}", 0o700)
            os.chown(f"{self.root}/{START_DIRECTORY}", 0, 0)
        self.discard(f"{START_DIRECTORY}/wd")
        os.makedirs(f"{self.root}/{START_DIRECTORY}/wd", mode=DIRECTORY_MODE, exist_ok=True)

    def new_inputs(self) -> str:
        """A new directory where the files of an attempt are gathered, out of the sight of tasks; its path."""
        self.create()
        path = f"{self._inputs}/{self._trash_name()}"
        os.mkdir(path, DIRECTORY_MODE)
        return path

    def discard_inputs(self, path: str) -> None:
        """Such a directory is of no use, or moved away."""
        self.discard(os.path.relpath(path, self.root))

    def use_new(self, relative: str) -> None:
        """An attempt is about to be in a task directory that somebody else makes. Raises OSError."""
        self.create()
        self._last_created = time.monotonic()
        with self._lock:
            self._in_use.add(relative)

    def use(self, relative: str) -> None:
        """An attempt is in a task directory that is there already."""
        self._in_use.add(relative)

    def release(self, relative: str) -> None:
        """The attempt in that directory is over."""
        self._in_use.discard(relative)

    def discard(self, relative: str) -> None:
        """Move a directory out of the way, to be deleted later. One that does not exist is no error."""
        self.create()
        self._move_to_trash(relative)
        if self._trash_waits and self._wake is not None:
            self._wake.set()

    def _move_to_trash(self, relative: str) -> None:
        try:
            os.rename(f"{self.root}/{relative}", f"{self._trash}/{self._trash_name()}")
        except FileNotFoundError:
            return
        if not self._trash_waits:
            self._trash_since = time.monotonic()
            self._trash_waits = True

    def discard_task(self, relative: str) -> None:
        """Discard a task's directory (or a job's), and those it was in when it was the last there. One that cannot be
        moved now is tried again later."""
        try:
            self.discard(relative)
        except OSError as error:
            with self._lock:
                self._put_off(relative, error)
            return
        self._remove_empty(os.path.dirname(relative))

    def _remove_empty(self, parent: str) -> None:
        while "/" in parent:
            try:
                os.rmdir(f"{self.root}/{parent}")
            except OSError:
                return
            parent = os.path.dirname(parent)

    # --- retention ----------------------------------------------------------------------------------------------

    def retain(self, relative: str, retention_s: float | None, inode: int = 0) -> None:
        """Have a task's directory discarded that long from now; None keeps it. Written down, so that it outlives the
        agent; on a disk that is full, as soon as there is room. `inode` is the directory's, if known."""
        if retention_s is None:
            return
        record = (self._clock(), retention_s, relative, inode)
        if self._gathered is not None:
            self._gathered.append(record)
        else:
            with self._lock:
                self._remember([record])

    @contextlib.contextmanager
    def retaining_together(self) -> Iterator[None]:
        """What is retained within is written down at the end, in one go."""
        self._gathered = []
        try:
            yield
        finally:
            records, self._gathered = self._gathered, None
            with self._lock:
                self._remember(records)

    def _remember(self, records: list[_Retained]) -> None:
        records.sort(key=self._bucket)
        for number, together in itertools.groupby(records, self._bucket):
            wanted = list(together)
            try:
                self._record(number, wanted)
            except OSError as error:
                _log.warning("retention of %s cannot be recorded yet: %s", wanted[0][2], error)
                self._unrecorded += wanted

    def _bucket(self, record: _Retained) -> int:
        since, retention_s, _, _ = record
        return int((since + retention_s) // self._bucket_s)

    def _record(self, number: int, records: list[_Retained]) -> None:
        if self._open_bucket is None or self._open_bucket[0] != number:
            self._close_bucket()
            self.create()
            path = f"{self._retention}/{number}"
            self._open_bucket = (number, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        lines = [
            f"{since!r}\t{retention_s!r}\t{relative}\t{inode or self._inode(relative)}\n"
            for since, retention_s, relative, inode in records
        ]
        data = "".join(lines).encode()
        if os.write(self._open_bucket[1], data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _inode(self, relative: str) -> int:
        try:
            return os.lstat(f"{self.root}/{relative}").st_ino
        except OSError:
            return 0

    def _close_bucket(self) -> None:
        if self._open_bucket is not None:
            os.close(self._open_bucket[1])
            self._open_bucket = None

    def discard_expired(self) -> None:
        """Discard what is past its retention time."""
        with self._lock:
            unrecorded, self._unrecorded = self._unrecorded, []
            self._remember(unrecorded)
        try:
            buckets = sorted(int(name) for name in os.listdir(self._retention) if name.isdigit())
        except FileNotFoundError:
            return
        for number in buckets:
            if (number + 1) * self._bucket_s > self._clock():
                return
            with self._lock:
                if self._open_bucket is not None and self._open_bucket[0] == number:
                    self._close_bucket()
            path = f"{self._retention}/{number}"
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    with self._lock:
                        self._expire(line)
            os.unlink(path)

    def _expire(self, line: str) -> None:
        """One record. It may be about an earlier attempt in the same directory: then the directory stays."""
        try:
            since, retention_s, relative, *inode = line.rstrip("\n").split("\t")
            facts = os.lstat(f"{self.root}/{relative}")
            changed = facts.st_ctime
            recorded = float(since)
            is_another = bool(inode) and int(inode[0]) != facts.st_ino
        except (ValueError, OSError):
            # A line cut short by a crash, or a directory that is gone.
            return
        if is_another or relative in self._in_use or ".." in relative.split("/"):
            # The attempt whose it is now makes, or has made, its own record at its end.
            return
        if changed > recorded + 1.0:
            # A file in it was deleted since the record, or it was made anew: its time counts from then.
            self._remember([(changed, float(retention_s), relative, 0)])
            return
        try:
            self._move_to_trash(relative)
        except OSError as error:
            # Immutable, perhaps, or something is mounted on it. The others are not held up by it.
            self._put_off(relative, error)
            return
        self._remove_empty(os.path.dirname(relative))

    def _put_off(self, relative: str, error: OSError) -> None:
        _log.warning("%s/%s cannot be removed; that is tried again: %s", self.root, relative, error)
        self._remember([(self._clock(), _AGAIN_S, relative, 0)])

    # --- trash --------------------------------------------------------------------------------------------------

    def _trash_name(self) -> str:
        return f"{self._life:x}-{next(self._names)}"

    def tend(self) -> None:
        """From now on discard what expires and empty the trash, in the background of the running loop."""
        loop = asyncio.get_running_loop()
        if self._tending is None or self._tending.done() or self._tending.get_loop() is not loop:
            self._tending = loop.create_task(self._tend())

    async def close(self) -> None:
        """Stop tending."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        with self._lock:
            self._close_bucket()

    async def _tend(self) -> None:
        self.create()
        self._wake = asyncio.Event()
        # Until the node is removed, and its root with it.
        while await asyncio.to_thread(os.path.isdir, self._trash):
            try:
                await asyncio.to_thread(self.discard_expired)
                # What was left of it, here or by an earlier life, has its turn too.
                self._trash_waits = self._trash_waits or bool(await asyncio.to_thread(os.listdir, self._trash))
                await self._empty_trash()
            except OSError as error:
                _log.warning("tidying up below %s: %s", self.root, error)
            self._wake.clear()
            # Not wait_for: a cancellation that meets the event being set is lost in it (Python 3.11).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._bucket_s / 2):
                    await self._wake.wait()

    async def _empty_trash(self) -> None:
        while self._trash_waits:
            now = time.monotonic()
            quiet = now - self._last_created >= _QUIET_S
            if not quiet and now - self._trash_since < _PATIENCE_S:
                await asyncio.sleep(self._last_created + _QUIET_S - now)
                continue
            await asyncio.to_thread(self.delete_slice)
            await asyncio.sleep(_PAUSE_S if quiet else _BUSY_PAUSE_S)

    def delete_slice(self) -> None:
        """Delete some of the trash."""
        self._trash_waits = False
        if self._deletion.go_on(_SLICE):
            self._trash_waits = True


def _directories_in(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


_shared: weakref.WeakValueDictionary[str, NodeDirectories] = weakref.WeakValueDictionary()
