"""The directories of a node: layout, retention, trash."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millpond.agent import node_dirs
from millpond.agent.node_dirs import NodeDirectories
from tests.waiting import until_true

TASK = "workitems/job/job-1/task"


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def directories(tmp_path: Path, clock: Clock) -> AsyncIterator[NodeDirectories]:
    directories = NodeDirectories(str(tmp_path / "root"), clock, bucket_s=1.0)
    yield directories
    await directories.close()


def trash(directories: NodeDirectories) -> list[str]:
    return os.listdir(f"{directories.root}/volatile/trash")


def empty_trash(directories: NodeDirectories) -> None:
    for _ in range(1000):
        if not trash(directories):
            return
        directories.delete_slice()
    raise AssertionError("the trash does not get empty")


def test_layout(tmp_path: Path) -> None:
    directories = NodeDirectories(str(tmp_path / "root"))
    directories.create()
    root = Path(directories.root)
    found = {str(path.relative_to(root)) for path in [root, *root.rglob("*")]}
    assert found == {
        ".",
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
    }


async def test_a_task_directory_is_new(directories: NodeDirectories) -> None:
    directories.make_task_directory(TASK)
    task = Path(directories.root) / TASK
    (task / "wd/old").touch()
    (task / "stdout.txt").touch()
    directories.make_task_directory(TASK)
    assert os.listdir(task) == ["wd"]
    assert os.listdir(task / "wd") == []
    assert len(trash(directories)) == 1


async def test_one_for_all_runners_of_a_root(tmp_path: Path) -> None:
    first = NodeDirectories.of(str(tmp_path / "a"))
    assert NodeDirectories.of(f"{tmp_path}/./a/") is first
    assert NodeDirectories.of(str(tmp_path / "b")) is not first


# --- retention ------------------------------------------------------------------------------------------------------


async def test_retention(directories: NodeDirectories, clock: Clock) -> None:
    task = Path(directories.root) / TASK
    directories.make_task_directory(TASK)
    directories.release(TASK)
    clock.now = time.time()
    directories.retain(TASK, 3600.0)
    directories.discard_expired()
    clock.now += 3590
    directories.discard_expired()
    assert task.exists()
    clock.now += 20
    directories.discard_expired()
    assert not task.exists()
    # Nor is anything left of the job it was the last of.
    assert os.listdir(f"{directories.root}/workitems") == []
    assert os.listdir(f"{directories.root}/volatile/retention") == []


async def test_retention_outlives_the_agent(tmp_path: Path, directories: NodeDirectories, clock: Clock) -> None:
    directories.make_task_directory(TASK)
    directories.retain(TASK, 60.0)
    await directories.close()
    clock.now += 120
    heir = NodeDirectories(directories.root, clock, bucket_s=1.0)
    heir.discard_expired()
    assert not (Path(directories.root) / TASK).exists()


async def test_retention_without_end(directories: NodeDirectories, clock: Clock) -> None:
    directories.make_task_directory(TASK)
    directories.release(TASK)
    directories.retain(TASK, None)
    clock.now += 1e9
    directories.discard_expired()
    assert (Path(directories.root) / TASK).exists()


async def test_a_later_attempt_in_the_directory_is_left_alone(directories: NodeDirectories, clock: Clock) -> None:
    task = Path(directories.root) / TASK
    clock.now -= 100
    directories.make_task_directory(TASK)
    directories.release(TASK)
    directories.retain(TASK, 10.0)
    # It runs again when the record of the first time falls due.
    directories.make_task_directory(TASK)
    clock.now += 50
    directories.discard_expired()
    assert task.exists()
    # And has ended, but later than that record is about.
    directories.release(TASK)
    directories.retain(TASK, 10.0)
    clock.now += 11
    directories.discard_expired()
    assert task.exists()
    clock.now += 3600
    directories.discard_expired()
    assert not task.exists()


@pytest.mark.parametrize(
    "line", ["", "nonsense\n", "1\t2\n", "x\t1\ta\n", "1\t1\t../../victim\n", "1\t1\tgone\n", "1\t1"]
)
async def test_records_cut_short(directories: NodeDirectories, tmp_path: Path, line: str) -> None:
    directories.create()
    (tmp_path / "victim").mkdir()
    (Path(directories.root) / "volatile/retention/5").write_text(line)
    (Path(directories.root) / "volatile/retention/README").write_text("not a bucket")
    directories.discard_expired()
    assert (tmp_path / "victim").exists()
    assert os.listdir(f"{directories.root}/volatile/retention") == ["README"]


async def test_a_record_says_nothing_of_a_later_task_of_that_name(directories: NodeDirectories, clock: Clock) -> None:
    task = Path(directories.root) / TASK
    directories.make_task_directory(TASK)
    directories.release(TASK)
    directories.retain(TASK, 10.0)
    # It is deleted, added again, and its files are to stay for a week.
    directories.discard_task(TASK)
    directories.make_task_directory(TASK)
    directories.release(TASK)
    clock.now = time.time()
    directories.retain(TASK, 7 * 86400.0)
    for _ in range(3):
        clock.now += 3600
        directories.discard_expired()
        assert task.exists()
    clock.now += 7 * 86400
    directories.discard_expired()
    assert not task.exists()


async def test_one_that_cannot_be_moved_holds_nothing_up(
    directories: NodeDirectories, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"workitems/job/job-1/{name}" for name in "abc"]
    for name in names:
        directories.make_task_directory(name)
        directories.release(name)
    clock.now = time.time()
    directories.retain(names[0], 10.0)
    directories.retain(names[1], 10.0)
    directories.retain(names[2], 100.0)
    real_rename = os.rename
    immovable = {f"{directories.root}/{names[0]}"}

    def rename(source: str, target: str, **how: int) -> None:
        if source in immovable:
            raise PermissionError(1, "it is immutable")
        real_rename(source, target, **how)

    monkeypatch.setattr(os, "rename", rename)
    clock.now += 200
    directories.discard_expired()
    assert [(Path(directories.root) / name).exists() for name in names] == [True, False, False]
    directories.discard_task(names[0])
    immovable.clear()
    clock.now += node_dirs._AGAIN_S + 2
    directories.discard_expired()
    assert not (Path(directories.root) / names[0]).exists()


async def test_a_full_disk_only_delays_the_record(
    directories: NodeDirectories, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories.make_task_directory(TASK)
    directories.release(TASK)
    clock.now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        directories.retain(TASK, 10.0)
        directories.discard_expired()
    directories.discard_expired()
    await directories.close()
    heir = NodeDirectories(directories.root, clock, bucket_s=1.0)
    clock.now += 30
    heir.discard_expired()
    assert not (Path(directories.root) / TASK).exists()


# --- trash ----------------------------------------------------------------------------------------------------------


async def test_the_trash_gets_empty(directories: NodeDirectories, tmp_path: Path) -> None:
    task = Path(directories.root) / TASK
    directories.make_task_directory(TASK)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").touch()
    wd = task / "wd"
    (wd / "link").symlink_to(victim)
    (wd / os.fsdecode(b"\xff\xfe")).touch()
    (wd / ("n" * 255)).mkdir()
    os.mkfifo(wd / "pipe")
    for name, mode in (("readonly", 0o555), ("closed", 0o000), ("blind", 0o333)):
        (wd / name / "sub").mkdir(parents=True)
        (wd / name / "sub/file").touch()
        (wd / name).chmod(mode)
    directories.discard(TASK)
    assert not task.exists()
    empty_trash(directories)
    assert (victim / "file").exists()


async def test_trash_deeper_than_a_path_can_name(directories: NodeDirectories) -> None:
    directories.make_task_directory(TASK)
    descriptor = os.open(f"{directories.root}/{TASK}/wd", os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=descriptor)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    directories.discard(TASK)
    empty_trash(directories)


async def test_much_trash_goes_slice_by_slice(directories: NodeDirectories) -> None:
    for number in range(100):
        directories.make_task_directory(f"workitems/job/job-1/{number}")
        (Path(directories.root) / f"workitems/job/job-1/{number}/stdout.txt").touch()
    directories.discard("workitems/job/job-1")
    directories.delete_slice()
    left = trash(directories)
    assert left
    # The next life of the agent goes on with it.
    heir = NodeDirectories(directories.root, time.time)
    empty_trash(heir)


async def test_what_cannot_be_deleted_does_not_hold_up_the_rest(
    directories: NodeDirectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        directories.make_task_directory(f"workitems/job/job-1/{name}")
        (Path(directories.root) / f"workitems/job/job-1/{name}/keep-{name}").touch()
        directories.discard(f"workitems/job/job-1/{name}")
    real_unlink = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        if path == "keep-a":
            raise PermissionError(1, "not yours")
        real_unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    for _ in range(10):
        directories.delete_slice()
    assert len(trash(directories)) == 1


async def test_tending(directories: NodeDirectories, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background: what expires goes, from the disk too; and again after a restart."""
    monkeypatch.setattr(node_dirs, "_QUIET_S", 0.01)
    directories.make_task_directory(TASK)
    directories.release(TASK)
    directories.retain(TASK, 0.0)
    clock.now += 10
    directories.tend()
    directories.tend()
    await gone(Path(directories.root) / TASK)
    await until_empty(directories)
    directories.make_task_directory(TASK)
    directories.discard(TASK)
    await until_empty(directories)


async def gone(path: Path) -> None:
    await until_true(lambda: not path.exists())


async def until_empty(directories: NodeDirectories) -> None:
    await until_true(lambda: not trash(directories))
