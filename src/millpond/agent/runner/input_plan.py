"""What files a task is to be given, and where: settled before anything is fetched."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from millpond.agent.runner.spec import ResourceFile
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.staging.base import RemoteFile

DEFAULT_FILE_MODE: Final = 0o770
MAX_FILES: Final = 1_000_000
"""Of a task: the agent of all nodes of a machine has them in memory."""

_C: Final = TaskFailureCode


class PlannedFile(NamedTuple):
    """One file. `path` is relative to the directory all go to; `mode` its permissions."""

    path: str
    resource: int
    """Which of the resource files it is of, or is."""
    blob: str
    """Its name in the container; empty for one named by its own URL."""
    mode: int
    size: int | None = None
    etag: str = ""


class InputPlan:
    """Add every resource file in its order, then `check`. All raise TaskFailure, naming the file.

    Where two resource files give a file of the same path, it is the later one's, as when they were fetched in turn.
    """

    def __init__(self) -> None:
        self.files: dict[str, PlannedFile] = {}
        self.directories: list[str] = []
        """All to be made, each after the one it is in."""
        self._marked: dict[str, None] = {}
        """Directories of which there is nothing but a mark."""

    def add_file(self, number: int, resource: ResourceFile) -> None:
        """A resource file with an httpUrl."""
        if not resource.file_path:
            raise TaskFailure(_C.RESOURCE_FILE_CREATE_FAILED, "A resource file with an httpUrl needs a filePath")
        path = relative_path(resource.file_path)
        if not path or resource.file_path.endswith("/"):
            raise _outside(resource.file_path)
        self.files[path] = PlannedFile(path, number, "", file_mode(resource.file_mode))

    def add_listing(self, number: int, resource: ResourceFile, listed: Sequence[RemoteFile]) -> None:
        """A resource file with a container, and what is in it."""
        if len(listed) + len(self.files) > MAX_FILES:
            raise TaskFailure(
                _C.RESOURCE_CONTAINER_LIST_MISC_ERROR,
                f"A task is given at most {MAX_FILES:,} files: name fewer by blobPrefix, or put them into an archive",
                BlobPrefix=resource.blob_prefix or "",
            )
        mode = file_mode(resource.file_mode)
        top = relative_path(resource.file_path) if resource.file_path else ""
        below = f"{top}/" if top else ""
        paths: dict[str, RemoteFile] = {}
        parents: set[str] = set()
        for remote in listed:
            rest = relative_path(remote.name)
            if not rest:
                raise _outside(remote.name)
            path = below + rest
            if remote.name.endswith("/"):
                if remote.size:
                    raise TaskFailure(
                        _C.RESOURCE_FILE_CREATE_FAILED,
                        f"The blob {remote.name!r} has a directory's name, and content no directory can have",
                        FilePath=remote.name,
                    )
                self._marked[path] = None
                continue
            other = paths.setdefault(path, remote)
            if other is not remote:
                raise TaskFailure(
                    _C.RESOURCE_FILE_CREATE_FAILED,
                    f"The blobs {other.name!r} and {remote.name!r} would be the same file",
                    FilePath=remote.name,
                )
            parents.update(_above(path, parents))
        for path, remote in paths.items():
            if not remote.size and path in parents:
                # Hierarchical storage lists a directory as an empty blob of its name.
                self._marked[path] = None
            else:
                self.files[path] = PlannedFile(path, number, remote.name, mode, remote.size, remote.etag)

    def check(self) -> None:
        """Settle the directories: no file may be where one has to be."""
        needed: dict[str, str] = {}
        known: set[str] = set()
        for path in (*self.files, *self._marked):
            for directory in _above(path, known):
                known.add(directory)
                needed[directory] = path
        for path in self._marked:
            needed.setdefault(path, f"{path}/")
        for directory, path in needed.items():
            file = self.files.get(directory)
            if file is not None:
                raise TaskFailure(
                    _C.RESOURCE_DIRECTORY_CREATE_FAILED,
                    f"The resource file {path!r} needs a directory where there is to be the file {directory!r}",
                    FilePath=file.blob or directory,
                )
        self.directories = sorted(needed)


def _above(path: str, known: set[str]) -> Iterator[str]:
    """The directories a path is in, innermost first, up to one that is known."""
    directory, slash, _ = path.rpartition("/")
    while slash and directory not in known:
        yield directory
        directory, slash, _ = directory.rpartition("/")


def relative_path(name: str) -> str:
    """A name's path below the task's directory; empty for that directory. Raises TaskFailure ResourceFileCreateFailed
    when it would not lie in it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or name.startswith("/") or "\0" in name:
        raise _outside(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _outside(name) from None
    return "/".join(parts)


def _outside(name: str) -> TaskFailure:
    shown = name.encode(errors="replace").decode()
    return TaskFailure(
        _C.RESOURCE_FILE_CREATE_FAILED,
        f"The path {shown!r} of a resource file is no file's within the task's working directory",
        FilePath=shown,
    )


def file_mode(text: str | None) -> int:
    """The octal mode of a resource file; 0770 when none is given. Raises TaskFailure ResourceFileCreateFailed."""
    if not text:
        return DEFAULT_FILE_MODE
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise TaskFailure(
            _C.RESOURCE_FILE_CREATE_FAILED,
            f"The file mode {text!r} of a resource file is not an octal number such as 0755",
            FileMode=text,
        )
    return mode
