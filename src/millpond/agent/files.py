"""File operations below a node's root, for the file routes of the API.

Paths come from users, and tasks may change the tree meanwhile. So a path is walked name by name, each opened relative
to the directory before it and never through a link; links are read and walked by hand, within the root only.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeAlias

from millpond.agent.file_names import meant, shown
from millpond.domain.errors import CATALOGUE, ErrorCode
from millpond.protocol.messages import FileEntry, FileReply, FileRequest
from millpond.staging.threads import finish_in_thread

MAX_ENTRIES: Final = 100_000
"""More are not listed at once, where no limit is asked for."""
_NO_SUCH_PATH: Final = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ})
_MAX_LINKS: Final = 40
_MAX_DEPTH: Final = 256
_CHUNK: Final = 1 << 18
_FEW_BYTES: Final = 1 << 16
"""So much is read in the event loop's own thread."""

Answer: TypeAlias = tuple[FileReply, AsyncIterator[bytes] | None]


class _Refused(Exception):
    """The operation cannot be done; becomes the reply."""

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message or CATALOGUE[code][1]


class NodeFiles:
    """Answers file requests about what lies below `root`."""

    def __init__(self, root: str, owns: Callable[[int], bool] | None = None) -> None:
        """With isolation `owns` says of a user id whether it is one of the node's: the agent may read what its tasks may
        not, and a hard link to such a file is not served."""
        self._root = os.path.realpath(root)
        self._owns = owns

    async def handle(self, request: FileRequest) -> Answer:
        """The reply, and for `read` the content, to be iterated or closed. Errors are in the reply."""
        try:
            if request.operation == "read":
                return await self._read(request)
            work = {"list": self._list, "stat": self._stat, "delete": self._delete}.get(request.operation)
            if work is not None:
                return await finish_in_thread(work, request), None
            message = f"The node knows no file operation {request.operation!r}."
            return _refusal(ErrorCode.NOT_IMPLEMENTED, message), None
        except _Refused as refused:
            return FileReply(error=refused.code.value, message=refused.message), None
        except (FileNotFoundError, NotADirectoryError):
            return _refusal(ErrorCode.FILE_NOT_FOUND), None
        except PermissionError:
            message = "The node agent may not do this with the file."
            return _refusal(ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE, message), None
        except OSError as error:
            if error.errno in _NO_SUCH_PATH:
                return _refusal(ErrorCode.FILE_NOT_FOUND), None
            return _refusal(ErrorCode.INTERNAL_ERROR, f"The node could not do it: {error.strerror}."), None

    def open(self, path: str) -> tuple[int, os.stat_result] | None:
        """A descriptor for reading a regular file, to be closed, and its facts; None when there is none, or it is not
        to be read."""
        try:
            with self._opened(path) as found:
                facts = os.fstat(found)
                if not stat.S_ISREG(facts.st_mode) or self._is_others(facts):
                    return None
                return _reopen(found, os.O_RDONLY | os.O_NONBLOCK), facts
        except (_Refused, OSError):
            return None

    def open_directly(self, path: str) -> tuple[int, os.stat_result] | None:
        """As `open`, at a fifth of its price, for a file right in a directory whose way from the root is the agent's own:
        only the file itself may be a link, and is not followed."""
        try:
            found = os.open(f"{self._root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        facts = os.fstat(found)
        if stat.S_ISREG(facts.st_mode) and not self._is_others(facts):
            return found, facts
        os.close(found)
        return None

    def _is_others(self, facts: os.stat_result) -> bool:
        return self._owns is not None and facts.st_nlink > 1 and not self._owns(facts.st_uid)

    # --- operations ---------------------------------------------------------------------------------------------

    def _stat(self, request: FileRequest) -> FileReply:
        with self._opened(request.path) as descriptor:
            return FileReply(entries=(_entry(request.path, os.fstat(descriptor)),))

    def _list(self, request: FileRequest) -> FileReply:
        with self._opened(request.path) as found:
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                raise _Refused(ErrorCode.FILE_NOT_FOUND, "The specified path is not a directory.")
            listing = _Listing(request.after, request.limit, recursive=request.recursive)
            directory = _reopen(found, os.O_RDONLY | os.O_DIRECTORY)
            try:
                listing.gather(directory, "", depth=0)
            finally:
                os.close(directory)
        return FileReply(entries=listing.entries())

    async def _read(self, request: FileRequest) -> Answer:
        with self._opened(request.path) as found:
            facts = os.fstat(found)
            if not stat.S_ISREG(facts.st_mode):
                # Opening a pipe would wait for its other end, and opening a device may do anything.
                raise _Refused(ErrorCode.FILE_NOT_FOUND, "The specified path is not a regular file.")
            if self._is_others(facts):
                raise _Refused(ErrorCode.FILE_NOT_FOUND, "The file is somebody else's, linked from here.")
            size = facts.st_size
            if request.offset < 0 or (request.length is not None and request.length < 0):
                raise _Refused(ErrorCode.INVALID_RANGE)
            if request.offset > size or (request.offset == size and size > 0):
                raise _Refused(ErrorCode.INVALID_RANGE)
            end = size if request.length is None else min(size, request.offset + request.length)
            content = _reopen(found, os.O_RDONLY | os.O_NONBLOCK)
        return FileReply(entries=(_entry(request.path, facts),)), _Content(content, request.offset, end)

    def _delete(self, request: FileRequest) -> FileReply:
        names = _names(request.path)
        if len(names) < 2:
            raise _Refused(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE, "The node's own directories cannot be deleted."
            )
        with self._opened("/".join(names[:-1])) as parent:
            facts = os.stat(names[-1], dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(facts.st_mode):
                os.unlink(names[-1], dir_fd=parent)
            elif request.recursive:
                shutil.rmtree(names[-1], dir_fd=parent)
            else:
                self._remove_empty(parent, names[-1])
        return FileReply()

    def _remove_empty(self, parent: int, name: str) -> None:
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            raise _Refused(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
                "The directory is not empty: it can only be deleted recursively.",
            ) from error

    # --- paths --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """A descriptor that stands for what the path leads to (O_PATH: nothing is opened for reading)."""
        # The directories from the root to where the walk is: `..` in a link is the one before, and there is none
        # before the root.
        trail = [os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            self._walk(trail, _names(path))
            yield trail[-1]
        finally:
            for descriptor in trail:
                os.close(descriptor)

    def _walk(self, trail: list[int], names: list[str]) -> None:
        names.reverse()
        links = 0
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(trail) == 1:
                    raise _Refused(ErrorCode.FILE_NOT_FOUND)
                os.close(trail.pop())
                continue
            if len(trail) > _MAX_DEPTH:
                raise _Refused(ErrorCode.FILE_NOT_FOUND, "The path has too many parts.")
            found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trail[-1])
            trail.append(found)
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                continue
            links += 1
            target = os.readlink("", dir_fd=found)
            os.close(trail.pop())
            if links > _MAX_LINKS:
                raise _Refused(ErrorCode.FILE_NOT_FOUND, "The path has too many links.")
            if target.startswith("/"):
                target = self._inside(target)
                while len(trail) > 1:
                    os.close(trail.pop())
            names += target.split("/")[::-1]

    def _inside(self, target: str) -> str:
        """What an absolute link leads to, relative to the root."""
        if target == self._root or target.startswith(f"{self._root}/"):
            return target[len(self._root) :]
        raise _Refused(ErrorCode.FILE_NOT_FOUND)


class _Content:
    """The bytes of an open file between two offsets. Closes it at the end, when closed, or when let go of."""

    def __init__(self, descriptor: int, offset: int, end: int) -> None:
        self._file = open(descriptor, "rb", buffering=0)  # noqa: SIM115  closed by aclose
        self._position = offset
        self._end = end

    def __aiter__(self) -> "_Content":
        return self

    async def __anext__(self) -> bytes:
        length = min(_CHUNK, self._end - self._position)
        if length <= 0:
            await self.aclose()
            raise StopAsyncIteration
        arguments = (self._file.fileno(), length, self._position)
        data = os.pread(*arguments) if length <= _FEW_BYTES else await finish_in_thread(os.pread, *arguments)
        if not data:
            await self.aclose()
            raise OSError("the file got shorter while it was read")
        self._position += len(data)
        return data

    async def aclose(self) -> None:
        """Close the file; it may be closed already."""
        self._file.close()


def _names(path: str) -> list[str]:
    """The parts of a path that was asked for: relative to the root, and in it."""
    try:
        path = meant(path)
        os.fsencode(path)
    except UnicodeEncodeError:
        raise _Refused(ErrorCode.FILE_NOT_FOUND) from None
    if path.startswith("/") or "\0" in path:
        raise _Refused(ErrorCode.FILE_NOT_FOUND)
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise _Refused(ErrorCode.FILE_NOT_FOUND)
    return names


def _reopen(descriptor: int, flags: int) -> int:
    """Open what an O_PATH descriptor stands for."""
    return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_CLOEXEC)


class _Listing:
    """The first `limit` entries, in order of name, after the name `after`; all of them where `limit` is 0. However many
    there are, no more than some multiple of the limit is held."""

    def __init__(self, after: str, limit: int, *, recursive: bool) -> None:
        self._after = after
        self._limit = limit
        self._recursive = recursive
        self._entries: list[FileEntry] = []
        self._bound = ""
        """What comes after that name is not among the first; empty while there is room."""

    def entries(self) -> tuple[FileEntry, ...]:
        self._entries.sort(key=_name_of)
        return tuple(self._entries[: self._limit] if self._limit else self._entries)

    def gather(self, directory: int, prefix: str, depth: int) -> None:
        """The entries of an open directory; links are listed as what they are, and not followed."""
        with os.scandir(directory) as listed:
            for one in listed:
                name = prefix + shown(one.name)
                may_be_wanted = name > self._after and not (self._bound and name > self._bound)
                if not may_be_wanted and not self._recursive:
                    continue
                try:
                    facts = one.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if may_be_wanted:
                    self._add(_entry(name, facts))
                if self._recursive and stat.S_ISDIR(facts.st_mode) and depth < _MAX_DEPTH:
                    self._descend(directory, one.name, f"{name}/", depth)

    def _descend(self, directory: int, name: str, prefix: str, depth: int) -> None:
        if (prefix < self._after and not self._after.startswith(prefix)) or (self._bound and prefix > self._bound):
            return
        try:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            # Gone, replaced, or not the agent's to read.
            return
        try:
            self.gather(below, prefix, depth + 1)
        finally:
            os.close(below)

    def _add(self, entry: FileEntry) -> None:
        if not self._limit and len(self._entries) >= MAX_ENTRIES:
            raise _Refused(
                ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE,
                f"There are more than {MAX_ENTRIES} files: list a directory further down, or not recursively.",
            )
        self._entries.append(entry)
        if self._limit and len(self._entries) >= 4 * self._limit:
            self._entries.sort(key=_name_of)
            del self._entries[self._limit :]
            self._bound = self._entries[-1].name


def _name_of(entry: FileEntry) -> str:
    return entry.name


def _entry(name: str, facts: os.stat_result) -> FileEntry:
    is_directory = stat.S_ISDIR(facts.st_mode)
    return FileEntry(
        name=name,
        is_directory=is_directory,
        size=0 if is_directory else facts.st_size,
        last_modified=facts.st_mtime,
        mode=facts.st_mode,
    )


def _refusal(code: ErrorCode, message: str = "") -> FileReply:
    return FileReply(error=code.value, message=message or CATALOGUE[code][1])
