"""The content cache of a host: an input many tasks name is fetched once, and each task given a copy of its own.

    DIR/cache/boot                                    the machine's boot the contents are of
    DIR/cache/<pool id>/<key>.<size>.<number>.<etag>  a content; whatever else is there is swept

Pools do not share: they are the boundary between those who trust each other. A content is given out only after the
server has said, to a request with the asker's own signature, that it is still the same (see docs/adr/0017). What is
known of a content is in its file's name, so there is nothing to get out of step with the files.
"""

import asyncio
import base64
import binascii
import contextlib
import errno
import fcntl
import itertools
import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from millpond.agent.content_index import ContentIndex, Entry, Place
from millpond.agent.content_key import content_key
from millpond.staging.base import Fetched, Staging
from millpond.staging.threads import finish_in_thread

AUTO_MIB: Final = -1
_AUTO_MOST: Final = 10 << 30
_AUTO_SHARE: Final = 10
"""By itself it takes at most a tenth of the disk."""
_LARGEST_SHARE: Final = 4
"""A file larger than a quarter of the whole would push out too much."""
_SMALL: Final = 16 << 10
"""A file below that, named by itself, is not kept: to ask whether it has changed takes as long as to fetch it."""
_KEEP_FREE_SHARE: Final = 20
_KEEP_FREE_MOST: Final = 1 << 30
"""Nothing is kept that would leave less than a twentieth of the disk free, or of a big disk less than 1 GiB."""
_MAX_ETAG: Final = 100
_MAX_STRAIGHT: Final = 4096
_TOUCH_S: Final = 60.0
"""A file is marked as used no more often than that."""
_STEP: Final = 32 << 20
"""Copied at a stretch: a cancellation waits for no more."""
_INLINE: Final = 256 << 10
_BATCH_FILES: Final = 64
_BATCH_BYTES: Final = 8 << 20
_TEMPORARY: Final = "new-"
_BOOT_FILE: Final = "boot"
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_FICLONE: Final = 0x40049409
_NO_CLONE: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ETXTBSY}
)

_log = logging.getLogger(__name__)


class CacheSettings(msgspec.Struct, frozen=True):
    """See docs/reference/configuration.md, `nodes.input_cache_mib`."""

    input_cache_mib: int = AUTO_MIB


class Listed(NamedTuple):
    """A file of a listing, and where it is to be."""

    key: str
    """`content_key` of its URL."""
    etag: str
    size: int
    path: str
    mode: int


class _Broken(Exception):
    """A file of the cache is not what its name says."""


class _Flight:
    """A download, or a question whether a content is still the same, that others wait for."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.went_well = False


class ContentCache:
    """See the module. For one event loop; `open` it first."""

    def __init__(self, directory: str, settings: CacheSettings | None = None) -> None:
        """`directory` is the cache's own; made by `open`."""
        self._directory = directory
        self._settings = settings or CacheSettings()
        self._index = ContentIndex(0)
        self._numbers = itertools.count(time.time_ns())
        self._flights: dict[Place, _Flight] = {}
        self._straight: OrderedDict[Place, None] = OrderedDict()
        """Contents that were not worth keeping: asked for again, they are fetched without waiting for each other."""
        self.freed = 0
        """How often room was made for others on the disk."""

    @property
    def limit(self) -> int:
        """Bytes; 0 while it is off."""
        return self._index.limit

    @property
    def used(self) -> int:
        """Bytes of the disk its files take, in whole blocks."""
        return self._index.used

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self, discard: Callable[[str], None], pools: Iterable[str] | None = None) -> None:
        """Take up what an earlier life of the agent left; `discard` is given directories to be deleted some time, of
        pools other than `pools` too (None: all stay). A disk that does not let us leaves the cache off."""
        try:
            self._open(discard, None if pools is None else {_directory_name(pool) for pool in pools})
        except OSError as error:
            _log.warning("inputs are not cached: %s", error)
            self._index = ContentIndex(0)

    def _open(self, discard: Callable[[str], None], pools: set[str] | None) -> None:
        self._index = ContentIndex(0)
        mib = self._settings.input_cache_mib
        same_boot = _read(f"{self._directory}/{_BOOT_FILE}") == _read(_BOOT_ID)
        if mib == 0 or not same_boot:
            # What was written shortly before the machine went down may not all be on the disk.
            with contextlib.suppress(FileNotFoundError):
                discard(self._directory)
        if mib == 0:
            return
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        os.chmod(self._directory, 0o700)
        if not same_boot:
            with open(f"{self._directory}/{_BOOT_FILE}", "wb") as file:
                file.write(_read(_BOOT_ID))
        self._index = ContentIndex(mib << 20 if mib > 0 else _automatic(self._directory))
        found: list[tuple[float, Entry]] = []
        for pool in _subdirectories(self._directory):
            if pools is not None and pool not in pools:
                discard(f"{self._directory}/{pool}")
            else:
                found += self._scan(pool)
        # The longest unused first: these are given up again when there is less room now.
        for used_at, entry in sorted(found, key=lambda one: one[0]):
            entry.touched_at = used_at
            going = self._index.make_room(entry.size)
            if going is None:
                self._delete(entry)
                continue
            replaced = self._index.add(entry)
            self._delete_all(going)
            if replaced is not None:
                self._delete(replaced)

    def _scan(self, pool: str) -> Iterator[tuple[float, Entry]]:
        with os.scandir(f"{self._directory}/{pool}") as files:
            for file in files:
                entry = _entry_of(pool, file.name)
                facts = file.stat(follow_symlinks=False)
                if entry is not None and stat.S_ISREG(facts.st_mode) and facts.st_size == entry.size:
                    yield facts.st_mtime, entry
                elif not stat.S_ISDIR(facts.st_mode):
                    os.unlink(file.path)

    def drop(self, pool_id: str, discard: Callable[[str], None]) -> None:
        """Forget all of a pool: its last node is gone, or one is made anew. Raises OSError."""
        pool = _directory_name(pool_id)
        self._index.remove_pool(pool)
        for place in [place for place in self._straight if place[0] == pool]:
            del self._straight[place]
        if self.limit:
            with contextlib.suppress(FileNotFoundError):
                discard(f"{self._directory}/{pool}")

    async def free(self) -> int:
        """Make room on the disk: give up all that is not being copied. How many files went."""
        going = self._index.remove_unused()
        if going:
            self.freed += 1
            await asyncio.to_thread(self._delete_all, going)
        return len(going)

    # --- giving out ---------------------------------------------------------------------------------------------

    async def fetch(
        self,
        pool_id: str,
        staging: Staging,
        url: str,
        path: str,
        slots: asyncio.Semaphore,
        *,
        size: int | None = None,
        listed: bool = False,
    ) -> None:
        """As `Staging.fetch`, to a path where there is nothing, from the cache when the server says it still may.

        A slot is held while bytes move. `size` is what a listing says, `listed` that there was one. Of several at once for
        the same content one downloads and the others wait for it, without a slot; the next takes over when it fails or
        is cancelled. Raises TaskFailure, OSError (of a copy).
        """
        place = None
        if self.limit and (size is None or size <= self._largest):
            # What is no URL staging has words for.
            with contextlib.suppress(ValueError):
                place = (_directory_name(pool_id), content_key(url))
        if place is None:
            async with slots:
                await staging.fetch(url, path)
            return
        waited = False
        while (flight := self._flights.get(place)) is not None and not waited:
            await flight.over.wait()
            # What came of it is asked about once more, with our own signature; others who waited do so beside us.
            waited = flight.went_well
        if waited or place in self._straight:
            await self._fetch(place, staging, url, path, slots, listed=listed)
            return
        flight = self._flights[place] = _Flight()
        try:
            await self._fetch(place, staging, url, path, slots, listed=listed)
            flight.went_well = True
        finally:
            del self._flights[place]
            flight.over.set()

    async def _fetch(
        self, place: Place, staging: Staging, url: str, path: str, slots: asyncio.Semaphore, *, listed: bool
    ) -> None:
        async with slots:
            entry = self._index.get(place)
            fetched = await (staging.fetch(url, path) if entry is None else self._ask(entry, staging, url, path))
            if fetched is not None:
                await self._keep(place, fetched, path, listed=listed)

    async def _ask(self, entry: Entry, staging: Staging, url: str, path: str) -> Fetched | None:
        """Whether the entry is still what the server has; then a copy of it is made (None), else it is fetched anew."""
        self._index.use(entry)
        try:
            fetched = await staging.fetch(url, path, known_etag=entry.etag)
            if fetched is None:
                await self._copy_out(entry, path)
        except _Broken:
            self._give_up(entry)
            return await staging.fetch(url, path)
        finally:
            self._release(entry)
        return fetched

    def has(self, pool_id: str, key: str, etag: str) -> bool:
        """Whether there is that version of that content."""
        if not self.limit or not etag:
            return False
        entry = self._index.get((_directory_name(pool_id), key))
        return entry is not None and entry.etag == etag

    async def copy_listed(self, pool_id: str, files: Iterable[Listed]) -> list[Listed]:
        """Copy files of which a listing says that they are as the cache has them, to paths where there is nothing; those
        the cache has no more. The asker has shown that it may read them: by the same URL's authority it has just read
        one of the listing. Raises OSError."""
        missing: list[Listed] = []
        pool = _directory_name(pool_id)
        for batch in _batches(files):
            held: list[tuple[Entry, Listed]] = []
            for listed in batch:
                entry = self._index.get((pool, listed.key))
                if entry is None or entry.etag != listed.etag:
                    missing.append(listed)
                    continue
                self._index.use(entry)
                held.append((entry, listed))
            broken: set[Entry] = set()
            try:
                if len(held) == 1:
                    await self._copy_one(*held[0], broken)
                elif held:
                    await finish_in_thread(self._copy_all, held, broken)
            finally:
                for entry, _ in held:
                    self._release(entry)
            for entry in broken:
                self._give_up(entry)
            missing += [listed for entry, listed in held if entry in broken]
        return missing

    async def _copy_one(self, entry: Entry, listed: Listed, broken: set[Entry]) -> None:
        try:
            await self._copy_out(entry, listed.path, listed.mode)
        except _Broken:
            broken.add(entry)

    def _copy_all(self, held: list[tuple[Entry, Listed]], broken: set[Entry]) -> None:
        for entry, listed in held:
            try:
                self._touch(entry)
                with _copying(self._path(entry), listed.path, entry.size, listed.mode) as copy:
                    while copy.step():
                        pass
            except _Broken:
                broken.add(entry)

    async def _copy_out(self, entry: Entry, path: str, mode: int | None = None) -> None:
        self._touch(entry)
        await _copy_file(self._path(entry), path, entry.size, mode)

    # --- taking in ----------------------------------------------------------------------------------------------

    @property
    def _largest(self) -> int:
        return self.limit // _LARGEST_SHARE

    async def _keep(self, place: Place, fetched: Fetched, path: str, *, listed: bool) -> None:
        """Take a copy of what was fetched, if it is worth it. Never fails: the task has its file."""
        known = self._index.get(place)
        if known is not None and (known.etag, known.size) == (fetched.etag, fetched.size):
            return
        if known is not None:
            self._give_up(known)
        if not self._is_worth_it(fetched, listed=listed):
            self._straight[place] = None
            if len(self._straight) > _MAX_STRAIGHT:
                self._straight.popitem(last=False)
            return
        self._straight.pop(place, None)
        name = _file_name(place[1], fetched, next(self._numbers))
        temporary = f"{self._directory}/{place[0]}/{_TEMPORARY}{name[:64]}"
        try:
            if not self._has_space(fetched.size):
                return
            with contextlib.suppress(FileExistsError):
                os.mkdir(os.path.dirname(temporary), 0o700)
            await _copy_file(path, temporary, fetched.size, 0o400)
            # No await from here on: the room that is made is taken.
            going = self._index.make_room(fetched.size)
            if going is None:
                return
            self._delete_all(going)
            os.rename(temporary, f"{self._directory}/{place[0]}/{name}")
            replaced = self._index.add(Entry(place, fetched.etag, fetched.size, name))
            if replaced is not None:
                self._delete(replaced)
        except (_Broken, OSError) as error:
            _log.info("an input is not cached: %s", error)
        finally:
            _remove_file(temporary)

    def _is_worth_it(self, fetched: Fetched, *, listed: bool) -> bool:
        etag = fetched.etag
        # A weak ETag promises less than the same bytes.
        return (
            (listed or fetched.size >= _SMALL)
            and fetched.size <= self._largest
            and etag.startswith('"')
            and len(etag.encode(errors="surrogatepass")) <= _MAX_ETAG
        )

    def _has_space(self, size: int) -> bool:
        facts = os.statvfs(self._directory)
        to_stay_free = min(_KEEP_FREE_MOST, facts.f_blocks * facts.f_frsize // _KEEP_FREE_SHARE)
        return facts.f_bavail * facts.f_frsize - size > to_stay_free

    # --- files --------------------------------------------------------------------------------------------------

    def _path(self, entry: Entry) -> str:
        return f"{self._directory}/{entry.place[0]}/{entry.name}"

    def _delete(self, entry: Entry) -> None:
        _remove_file(self._path(entry))

    def _delete_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._delete(entry)

    def _give_up(self, entry: Entry) -> None:
        if self._index.remove(entry):
            self._delete(entry)

    def _release(self, entry: Entry) -> None:
        if self._index.release(entry):
            self._delete(entry)

    def _touch(self, entry: Entry) -> None:
        """So that the next life of the agent knows what was used last."""
        now = time.time()
        if now - entry.touched_at > _TOUCH_S:
            entry.touched_at = now
            with contextlib.suppress(OSError):
                os.utime(self._path(entry))


class _Copy:
    """A copy being made, to a path where there is nothing: shared blocks where the file system can. `close` it."""

    def __init__(self, source: str, target: str, size: int, mode: int | None) -> None:
        """Raises _Broken when the source is not there or of another size; OSError."""
        try:
            self._source = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _Broken from error
        try:
            _check_size(self._source, size)
            self._target = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o660)
        except BaseException:
            os.close(self._source)
            raise
        self._mode = mode
        self._size = size
        self._done = 0

    def step(self) -> bool:
        """Some more of it; False when it is whole. Raises OSError, _Broken when the source is shorter by now."""
        if self._done == 0 and self._size and self._clone():
            self._done = self._size
        elif self._done < self._size:
            copied = _copy_some(self._source, self._target, self._done, min(_STEP, self._size - self._done))
            if not copied:
                raise _Broken
            self._done += copied
        if self._done < self._size:
            return True
        if self._mode is not None:
            os.fchmod(self._target, self._mode)
        return False

    def _clone(self) -> bool:
        try:
            fcntl.ioctl(self._target, _FICLONE, self._source)
        except OSError as error:
            if error.errno in _NO_CLONE:
                return False
            raise
        return True

    def close(self) -> None:
        os.close(self._source)
        os.close(self._target)


@contextlib.contextmanager
def _copying(source: str, target: str, size: int, mode: int | None) -> Iterator[_Copy]:
    """A `_Copy` of which nothing is left unless it is made to the end."""
    copy = _Copy(source, target, size, mode)
    try:
        yield copy
    except BaseException:
        _remove_file(target)
        raise
    finally:
        copy.close()


async def _copy_file(source: str, target: str, size: int, mode: int | None) -> None:
    """Small files are copied at once, big ones in a thread, step by step."""
    with _copying(source, target, size, mode) as copy:
        if size <= _INLINE:
            while copy.step():
                pass
        else:
            while await finish_in_thread(copy.step):
                pass


def _check_size(descriptor: int, size: int) -> None:
    if os.fstat(descriptor).st_size != size:
        raise _Broken


def _copy_some(source: int, target: int, position: int, length: int) -> int:
    """Copy some bytes within the kernel, and by hand where it does not."""
    try:
        return os.copy_file_range(source, target, length, position, position)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    data = os.pread(source, min(length, 1 << 20), position)
    written = 0
    while written < len(data):
        written += os.pwrite(target, data[written:], position + written)
    return written


def _batches(files: Iterable[Listed]) -> Iterator[list[Listed]]:
    batch: list[Listed] = []
    size = 0
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or size + file.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch


def _directory_name(pool_id: str) -> str:
    # Ids differ by more than case.
    return pool_id.lower()


def _file_name(key: str, fetched: Fetched, number: int) -> str:
    etag = base64.urlsafe_b64encode(fetched.etag.encode(errors="surrogatepass")).rstrip(b"=").decode()
    return f"{key}.{fetched.size:x}.{number:x}.{etag}"


def _entry_of(pool: str, name: str) -> Entry | None:
    """The entry a file's name tells of; None for any other name."""
    try:
        key, size, number, etag = name.split(".")
        int(number, 16)
        decoded = base64.urlsafe_b64decode(f"{etag}{'=' * (-len(etag) % 4)}").decode(errors="surrogatepass")
        return Entry((pool, key), decoded, int(size, 16), name) if len(key) == 32 else None
    except (ValueError, binascii.Error):
        return None


def _automatic(directory: str) -> int:
    facts = os.statvfs(directory)
    return min(_AUTO_MOST, facts.f_blocks * facts.f_frsize // _AUTO_SHARE)


def _subdirectories(directory: str) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _read(path: str) -> bytes:
    """Empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _remove_file(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
