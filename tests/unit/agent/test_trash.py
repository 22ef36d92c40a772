"""Directories on their way out."""

import os
from pathlib import Path

from millpond.agent.trash import Trash
from tests.waiting import until_true


async def test_a_name_is_free_at_once_and_the_files_go(tmp_path: Path) -> None:
    node = tmp_path / "node"
    for number in range(300):
        (node / f"d{number % 7}").mkdir(parents=True, exist_ok=True)
        (node / f"d{number % 7}" / f"f{number}").write_text("x")
    outside = tmp_path / "outside"
    outside.write_text("stays")
    (node / "link").symlink_to(outside)
    (node / "dirlink").symlink_to(tmp_path)
    (node / "locked").mkdir()
    (node / "locked" / "f").write_text("x")
    (node / "locked").chmod(0o500)
    trash = Trash(str(tmp_path / "trash"))
    trash.put(str(node))
    assert not node.exists()
    await until_true(lambda: os.listdir(tmp_path / "trash") == [])
    assert outside.read_text() == "stays"
    await trash.close()


async def test_a_tree_too_deep_to_be_named_goes_too(tmp_path: Path) -> None:
    top = tmp_path / "node"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(120):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    trash = Trash(str(tmp_path / "trash"))
    trash.put(str(top))
    await until_true(lambda: os.listdir(tmp_path / "trash") == [])
    await trash.close()


async def test_what_is_left_goes_next_time(tmp_path: Path) -> None:
    left = tmp_path / "trash" / "1-1" / "a"
    left.mkdir(parents=True)
    trash = Trash(str(tmp_path / "trash"))
    trash.empty()
    await until_true(lambda: os.listdir(tmp_path / "trash") == [])
    await trash.close()


async def test_no_trash_no_work(tmp_path: Path) -> None:
    trash = Trash(str(tmp_path / "trash"))
    trash.empty()
    await trash.close()
    assert os.listdir(tmp_path) == []
