"""File requests below a node's root."""

import os
import stat
from pathlib import Path

import pytest

from millpond.agent import files as files_module
from millpond.agent.files import NodeFiles
from millpond.protocol.messages import FileReply, FileRequest

TASK = "workitems/job/job-1/task"


class Place:
    def __init__(self, path: Path) -> None:
        self.root = path / "root"
        self.task = self.root / TASK
        (self.task / "wd/sub").mkdir(parents=True)
        (self.root / "shared").mkdir()
        self.secret = path / "secret.txt"
        self.secret.write_text("secret")
        (self.task / "stdout.txt").write_text("hello\n")
        (self.task / "wd/a.txt").write_text("0123456789")
        (self.task / "wd/sub/b.txt").write_text("b")
        (self.task / "wd/empty").touch()
        self.files = NodeFiles(str(self.root))

    async def ask(
        self, operation: str, path: str, *, recursive: bool = False, offset: int = 0, length: int | None = None
    ) -> FileReply:
        reply, content = await self.files.handle(
            FileRequest("1", operation, path, recursive=recursive, offset=offset, length=length)
        )
        assert content is None
        return reply

    async def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        reply, content = await self.files.handle(FileRequest("1", "read", path, offset=offset, length=length))
        assert reply.error == "", reply
        assert content is not None
        return b"".join([chunk async for chunk in content])

    async def names(self, path: str, *, recursive: bool = False) -> list[str]:
        reply = await self.ask("list", path, recursive=recursive)
        assert reply.error == "", reply
        return [entry.name for entry in reply.entries]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- list and stat --------------------------------------------------------------------------------------------------


async def test_list(place: Place) -> None:
    assert await place.names("") == ["shared", "workitems"]
    assert await place.names(TASK) == ["stdout.txt", "wd"]
    assert await place.names(f"{TASK}/wd/") == ["a.txt", "empty", "sub"]
    assert await place.names(TASK, recursive=True) == [
        "stdout.txt",
        "wd",
        "wd/a.txt",
        "wd/empty",
        "wd/sub",
        "wd/sub/b.txt",
    ]


async def test_list_tells_sizes_times_and_modes(place: Place) -> None:
    os.utime(place.task / "stdout.txt", (1, 1_700_000_000))
    (place.task / "stdout.txt").chmod(0o640)
    file, directory = (await place.ask("list", TASK)).entries
    assert (file.name, file.is_directory, file.size, file.last_modified) == ("stdout.txt", False, 6, 1_700_000_000.0)
    assert stat.S_IMODE(file.mode) == 0o640
    assert (directory.name, directory.is_directory, directory.size) == ("wd", True, 0)


async def test_stat(place: Place) -> None:
    (entry,) = (await place.ask("stat", f"{TASK}/wd/a.txt")).entries
    assert (entry.name, entry.is_directory, entry.size) == (f"{TASK}/wd/a.txt", False, 10)
    (entry,) = (await place.ask("stat", f"{TASK}/wd")).entries
    assert entry.is_directory


@pytest.mark.parametrize("operation", ["list", "stat", "read", "delete"])
@pytest.mark.parametrize(
    "path",
    [
        "workitems/none",
        "workitems/job/job-1/task/stdout.txt/x",
        "..",
        "../secret.txt",
        "shared/../../secret.txt",
        "shared/../workitems",
        "/etc/passwd",
        "shared/a\0b",
        "shared/\ud800",
        "shared/" + "x" * 300,
        "shared/" + "x/" * 3000,
    ],
)
async def test_what_is_not_there_or_not_inside(place: Place, operation: str, path: str) -> None:
    reply = await place.ask(operation, path)
    assert reply.error == "FileNotFound"
    assert reply.message
    assert place.secret.exists()


async def test_list_of_a_file(place: Place) -> None:
    assert (await place.ask("list", f"{TASK}/stdout.txt")).error == "FileNotFound"


async def test_list_has_an_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_ENTRIES", 3)
    assert await place.names(f"{TASK}/wd") == ["a.txt", "empty", "sub"]
    assert (await place.ask("list", TASK, recursive=True)).error == "OperationInvalidForCurrentState"


async def test_names_that_are_not_text(place: Place) -> None:
    """They are shown as text, all differently, and asked for by it."""
    names = [b"\xff.txt", b"\xfe.txt", "\uefff.txt".encode(), b"\xc3(\xff", "ü.txt".encode(), b"a%2Fb"]
    for number, name in enumerate(names):
        (place.task / "wd/sub" / os.fsdecode(name)).write_text(str(number))
    shown = await place.names(f"{TASK}/wd/sub")
    assert len(set(shown)) == 1 + len(names)
    assert {"\uefff.txt", "\uefc3(\uefff", "ü.txt", "a%2Fb"} < set(shown)
    assert "".join(shown).encode()
    found = sorted([await place.read(f"{TASK}/wd/sub/{name}") for name in shown if name != "b.txt"])
    assert found == [b"%d" % number for number in range(len(names))]
    assert await place.read(f"{TASK}/wd/sub/\uefff.txt") == b"0"


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_page_by_page_it_is_the_whole_listing(place: Place, recursive: bool, limit: int) -> None:
    for name in ("sub-x", "sub.y", "subz/a/b/c", "sub0/d", "sub/e/f"):
        (place.task / "wd" / name).mkdir(parents=True)
    for number in range(20):
        (place.task / f"wd/sub/e/{number}").touch()
    whole = await place.names(f"{TASK}/wd", recursive=recursive)
    assert whole == sorted(whole)
    pages: list[str] = []
    while True:
        after = pages[-1] if pages else ""
        request = FileRequest("1", "list", f"{TASK}/wd", recursive=recursive, after=after, limit=limit)
        reply, _ = await place.files.handle(request)
        assert len(reply.entries) <= limit
        pages += [entry.name for entry in reply.entries]
        if len(reply.entries) < limit:
            break
    assert pages == whole


async def test_a_page_holds_no_more_than_it_needs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "MAX_ENTRIES", 3)
    for number in range(500):
        (place.task / f"wd/{number:03}").touch()
    request = FileRequest("1", "list", f"{TASK}/wd", after="100", limit=10)
    reply, _ = await place.files.handle(request)
    assert [entry.name for entry in reply.entries] == [f"{number:03}" for number in range(101, 111)]


async def test_an_operation_nobody_knows(place: Place) -> None:
    assert (await place.ask("format", "")).error == "NotImplemented"


# --- read -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length", "content"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (0, 4, b"0123"),
        (8, 100, b"89"),
        (9, 1, b"9"),
        (5, 0, b""),
    ],
)
async def test_read(place: Place, offset: int, length: int | None, content: bytes) -> None:
    assert await place.read(f"{TASK}/wd/a.txt", offset, length) == content


async def test_read_an_empty_file(place: Place) -> None:
    assert await place.read(f"{TASK}/wd/empty") == b""


async def test_read_much(place: Place) -> None:
    data = os.urandom(1_000_001)
    (place.task / "wd/big").write_bytes(data)
    assert await place.read(f"{TASK}/wd/big") == data
    assert await place.read(f"{TASK}/wd/big", 300_000, 600_000) == data[300_000:900_000]


@pytest.mark.parametrize(("offset", "length"), [(10, None), (11, 1), (-1, None), (0, -1)])
async def test_ranges_that_are_none(place: Place, offset: int, length: int | None) -> None:
    assert (await place.ask("read", f"{TASK}/wd/a.txt", offset=offset, length=length)).error == "InvalidRange"
    assert (await place.ask("read", f"{TASK}/wd/empty", offset=1)).error == "InvalidRange"


async def test_read_what_is_no_file(place: Place) -> None:
    os.mkfifo(place.task / "wd/pipe")
    assert (await place.ask("read", f"{TASK}/wd/pipe")).error == "FileNotFound"
    assert (await place.ask("read", f"{TASK}/wd")).error == "FileNotFound"


async def test_a_file_that_grows_is_read_as_it_was(place: Place) -> None:
    path = place.task / "wd/a.txt"
    reply, content = await place.files.handle(FileRequest("1", "read", f"{TASK}/wd/a.txt"))
    with path.open("a") as file:
        file.write("more")
    assert content is not None
    assert b"".join([chunk async for chunk in content]) == b"0123456789"
    assert reply.entries[0].size == 10


async def test_a_file_that_shrinks_breaks_off(place: Place) -> None:
    _, content = await place.files.handle(FileRequest("1", "read", f"{TASK}/wd/a.txt"))
    (place.task / "wd/a.txt").write_text("")
    assert content is not None
    with pytest.raises(OSError, match="shorter"):
        await anext(content)


async def test_content_nobody_wants(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    _, content = await place.files.handle(FileRequest("1", "read", f"{TASK}/wd/a.txt"))
    assert isinstance(content, files_module._Content)
    await content.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


# --- links ----------------------------------------------------------------------------------------------------------


async def test_links_within_the_root(place: Place) -> None:
    (place.task / "wd/relative").symlink_to("sub/b.txt")
    (place.task / "wd/up").symlink_to("../stdout.txt")
    (place.task / "wd/absolute").symlink_to(place.task / "wd/sub")
    (place.task / "wd/chain").symlink_to("absolute/b.txt")
    assert await place.read(f"{TASK}/wd/relative") == b"b"
    assert await place.read(f"{TASK}/wd/up") == b"hello\n"
    assert await place.read(f"{TASK}/wd/absolute/b.txt") == b"b"
    assert await place.read(f"{TASK}/wd/chain") == b"b"
    # In a listing a link is not followed.
    assert "wd/absolute/b.txt" not in await place.names(TASK, recursive=True)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../../../../../secret.txt", "../../../../../secret.txt", "link", "nowhere", "/"]
)
@pytest.mark.parametrize("operation", ["stat", "read", "list"])
async def test_links_out_of_the_root(place: Place, target: str, operation: str) -> None:
    (place.task / "wd/link").symlink_to(target)
    reply = await place.ask(operation, f"{TASK}/wd/link")
    assert reply.error == "FileNotFound"
    (place.task / "wd/out").symlink_to(place.secret.parent)
    assert (await place.ask(operation, f"{TASK}/wd/out/secret.txt")).error == "FileNotFound"


async def test_nothing_stays_open(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (place.task / "wd/loop").symlink_to("loop")
    for path in ("", TASK, f"{TASK}/wd/loop", f"{TASK}/none/x", "shared/" + "x/" * 3000):
        for operation in ("list", "stat", "delete"):
            await place.ask(operation, path, recursive=True) if operation != "delete" else None
    assert len(os.listdir("/proc/self/fd")) == before


# --- delete ---------------------------------------------------------------------------------------------------------


async def test_delete(place: Place) -> None:
    assert (await place.ask("delete", f"{TASK}/stdout.txt")).error == ""
    assert await place.names(TASK) == ["wd"]
    assert (await place.ask("delete", f"{TASK}/wd")).error == "OperationInvalidForCurrentState"
    assert (await place.ask("delete", f"{TASK}/wd", recursive=True)).error == ""
    assert await place.names(TASK) == []
    # An empty directory goes without.
    assert (await place.ask("delete", TASK)).error == ""
    assert not place.task.exists()
    assert (await place.ask("delete", TASK)).error == "FileNotFound"


async def test_delete_does_not_follow_links(place: Place) -> None:
    (place.task / "wd/link").symlink_to(place.secret)
    (place.task / "wd/dir").symlink_to(place.secret.parent)
    assert (await place.ask("delete", f"{TASK}/wd/link")).error == ""
    assert (await place.ask("delete", f"{TASK}/wd/dir", recursive=True)).error == ""
    assert place.secret.exists()
    assert await place.names(f"{TASK}/wd") == ["a.txt", "empty", "sub"]


@pytest.mark.parametrize("path", ["", ".", "shared", "workitems/"])
async def test_the_nodes_own_directories_stay(place: Place, path: str) -> None:
    assert (await place.ask("delete", path, recursive=True)).error == "OperationInvalidForCurrentState"
    assert place.task.exists()
