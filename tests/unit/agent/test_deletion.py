"""Deleting a little at a time: what must not be deleted, and what cannot be."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from millpond.agent.deletion import Deletion

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trash(tmp_path: Path) -> Path:
    (tmp_path / "trash").mkdir()
    return tmp_path / "trash"


@pytest.fixture
def deletion(trash: Path, clock: Clock) -> Deletion:
    numbers = itertools.count()
    return Deletion(str(trash), lambda: f"n{next(numbers)}", clock)


def finish(deletion: Deletion) -> None:
    for _ in range(1000):
        if not deletion.go_on(10):
            return
    raise AssertionError("it does not end")


def tool(*argv: str) -> None:
    """One that may not work here."""
    if shutil.which(argv[0]) is None or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip(f"{argv[0]} does not work here")


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[list[Path]]:
    mounted: list[Path] = []
    yield mounted
    for _ in mounted:
        # It was moved since.
        for line in Path("/proc/self/mounts").read_text().splitlines():
            place = line.split()[1]
            if place.startswith(f"{tmp_path}/"):
                subprocess.run(["umount", "-l", place], check=False)


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_what_is_mounted_is_not_entered(
    trash: Path, deletion: Deletion, clock: Clock, tmp_path: Path, mounts: list[Path], kind: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = trash / "node/root/fsmounts/data"
    place.mkdir(parents=True)
    if kind == "tmpfs":
        tool("mount", "-t", "tmpfs", "none", str(place))
    else:
        tool("mount", "--bind", str(outside), str(place))
    mounts.append(place)
    (place / "precious").touch()
    (trash / "node/root/other").touch()
    finish(deletion)
    (left,) = list(trash.rglob("precious"))
    assert not list(trash.rglob("other"))
    subprocess.run(["umount", str(left.parent)], check=True)
    clock.now += 61
    finish(deletion)
    assert os.listdir(trash) == []
    assert os.listdir(outside) == ([] if kind == "tmpfs" else ["precious"])


@needs_root
def test_immutable_files_are_tried_again_now_and_then(trash: Path, deletion: Deletion, clock: Clock) -> None:
    (trash / "d").mkdir()
    for name in "abc":
        (trash / "d" / name).touch()
    tool("chattr", "+i", str(trash / "d/b"))
    try:
        finish(deletion)
        assert os.listdir(trash / "d") == ["b"]
        assert not deletion.go_on(10)
        assert deletion.next_try_s() == 60.0
        clock.now += 61
        finish(deletion)
        # Each pause is longer than the last.
        assert deletion.next_try_s() == 120.0
    finally:
        tool("chattr", "-i", str(trash / "d/b"))
    clock.now += 121
    finish(deletion)
    assert os.listdir(trash) == []
    assert deletion.next_try_s() is None


def test_pauses_grow_to_an_hour_and_it_never_spins(
    trash: Path, deletion: Deletion, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trash / "file").touch()
    tries: list[float] = []

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        tries.append(clock.now)
        raise PermissionError(1, "not yours")

    monkeypatch.setattr(os, "unlink", refuse)
    for _ in range(20_000):
        deletion.go_on(10)
        clock.now += 10
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert pauses[:4] == [60, 120, 240, 480]
    assert set(pauses[7:]) == {3600}


def test_links_are_not_followed(trash: Path, deletion: Deletion, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub/file").touch()
    (trash / "d").mkdir()
    (trash / "d/dir").symlink_to(outside)
    (trash / "d/file").symlink_to(outside / "sub/file")
    (trash / "top").symlink_to(outside)
    finish(deletion)
    assert os.listdir(trash) == []
    assert (outside / "sub/file").exists()
