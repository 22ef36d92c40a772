"""A file of a task as it grows, on the node; and frames."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond.agent import follow as follow_module
from millpond.agent.files import NodeFiles
from millpond.agent.follow import FollowedFile
from millpond.agent.logs import NodeLogs
from millpond.agent.watch import Watches
from millpond.protocol.frames import ALIVE, frame, unframed
from tests.waiting import until_true

PATH = "workitems/j/job-1/t/stdout.txt"


class Node:
    def __init__(self, root: Path) -> None:
        self.file = root / PATH
        self.file.parent.mkdir(parents=True)
        self.files = NodeFiles(str(root))
        self.logs = NodeLogs(str(root), self.files)
        self.watches = Watches()
        self.running: set[tuple[int, int]] = set()

    def follow(self, offset: int = 0, attempt: int = 1) -> "Following":
        ref = (7, attempt)
        return Following(
            FollowedFile(
                self.files,
                self.logs,
                self.watches,
                path=PATH,
                offset=offset,
                attempt=ref,
                runs=lambda: ref in self.running,
            )
        )

    def launch(self, attempt: int = 1) -> None:
        self.running.add((7, attempt))

    def begin(self, attempt: int = 1) -> None:
        self.launch(attempt)
        self.logs.begun(7, attempt)

    def end(self, attempt: int = 1) -> None:
        self.logs.over(7, attempt)
        self.running.discard((7, attempt))


class Following:
    """Somebody who reads it, all the time."""

    def __init__(self, file: FollowedFile) -> None:
        self.file = file
        self.frames: list[bytes] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for one in unframed(self.file):
            self.frames.append(one)

    @property
    def content(self) -> bytes:
        return b"".join(self.frames)


@pytest.fixture(params=[True, False], ids=["inotify", "looks"])
def node(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Node:
    if not request.param:
        monkeypatch.setattr(Watches, "begin", lambda self, descriptor: None)
    return Node(tmp_path)


async def test_what_is_added_comes_and_the_end_comes_with_all(node: Node) -> None:
    node.begin()
    following = node.follow(offset=2)
    await until_true(lambda: following.frames == [b""])
    node.file.write_bytes(b"0123")
    await until_true(lambda: following.content == b"23")
    with node.file.open("ab") as file:
        file.write(b"45")
    await until_true(lambda: following.content == b"2345")
    with node.file.open("ab") as file:
        file.write(b"6" * 200_000)
    node.end()
    await following.task
    assert following.content == b"2345" + b"6" * 200_000


async def test_what_an_earlier_attempt_left_is_not_taken_for_this_ones(node: Node) -> None:
    node.file.write_bytes(b"old")
    node.launch(2)
    following = node.follow(attempt=2)
    await until_true(lambda: following.frames == [b""])
    node.file.unlink()
    node.file.write_bytes(b"new")
    node.begin(2)
    await until_true(lambda: following.content == b"new")
    node.end(2)
    await following.task
    # And the earlier one's is gone.
    node.begin(3)
    late = node.follow(attempt=2)
    await late.task
    assert late.content == b""


async def test_an_attempt_that_is_over_is_read_to_its_end(node: Node) -> None:
    node.file.write_bytes(b"all of it")
    following = node.follow(offset=4)
    await following.task
    assert following.content == b"of it"


async def test_signs_of_life(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_module, "_ALIVE_S", 0.01)
    node.begin()
    following = node.follow()
    await until_true(lambda: following.frames == [b""] * 3)
    node.end()
    await following.task


async def test_nothing_is_held_when_nobody_follows(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.file.write_bytes(b"x")
    node.begin()
    before = os.listdir("/proc/self/fd")
    followings = [node.follow() for _ in range(3)]
    await until_true(lambda: all(following.content == b"x" for following in followings))
    assert len(os.listdir("/proc/self/fd")) > len(before)
    for following in followings:
        following.task.cancel()
        await asyncio.wait([following.task])
        await following.file.aclose()
    assert len(os.listdir("/proc/self/fd")) == len(before)


class Chunks:
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("size", [1, 3, 5, 100])
async def test_frames_cut_anywhere(size: int) -> None:
    stream = ALIVE + frame(b"one") + frame(b"two2") + ALIVE
    chunks = Chunks(*(stream[start : start + size] for start in range(0, len(stream), size)))
    assert [one async for one in unframed(chunks)] == [b"", b"one", b"two2", b""]
    assert chunks.closed


@pytest.mark.parametrize("stream", [frame(b"one")[:-1], b"\x01", b"\xff\xff\xff\xff"])
async def test_streams_that_break_off(stream: bytes) -> None:
    chunks = Chunks(stream)
    with pytest.raises(ConnectionResetError):
        [one async for one in unframed(chunks)]
    assert chunks.closed
