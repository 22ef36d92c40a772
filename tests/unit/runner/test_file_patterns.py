"""Patterns of output files."""

import os
from pathlib import Path

import pytest

from millpond.agent.runner.file_patterns import compile_name, find_files

FILES = [
    "root/task/stdout.txt",
    "root/task/stderr.txt",
    "root/task/wd/a.txt",
    "root/task/wd/b.log",
    "root/task/wd/.hidden.txt",
    "root/task/wd/star*.txt",
    "root/task/wd/out/c.txt",
    "root/task/wd/out/deep/d.txt",
    "root/task/wd/.git/e.txt",
    "root/shared/s.txt",
    "elsewhere/x.txt",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "root/task/wd/empty").mkdir()
    return tmp_path


def found(place: Path, pattern: str) -> list[str]:
    return [one.name for one in find_files(pattern, f"{place}/root/task/wd", f"{place}/root")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.txt", ["a.txt"]),
        ("./out/c.txt", ["out/c.txt"]),
        ("*.txt", ["a.txt", "star*.txt"]),
        ("*", ["a.txt", "b.log", "star*.txt"]),
        ("std*.txt", []),
        ("../std*.txt", ["stderr.txt", "stdout.txt"]),
        ("**/*.txt", ["a.txt", "out/c.txt", "out/deep/d.txt", "star*.txt"]),
        ("out/**/*.txt", ["out/c.txt", "out/deep/d.txt"]),
        ("**", ["a.txt", "b.log", "out/c.txt", "out/deep/d.txt", "star*.txt"]),
        ("out/**", ["out/c.txt", "out/deep/d.txt"]),
        ("*/c.txt", ["out/c.txt"]),
        ("o?t/[a-c].txt", ["out/c.txt"]),
        ("[!a].log", ["b.log"]),
        ("[!b].log", []),
        (".*", [".hidden.txt"]),
        (".git/*", [".git/e.txt"]),
        ("star[*].txt", ["star*.txt"]),
        ("star?.txt", ["star*.txt"]),
        ("out", []),
        ("empty/*", []),
        ("no/such/*", []),
        ("a.txt/*", []),
        ("../../shared/*.txt", ["s.txt"]),
        ("[", []),
    ],
)
def test_what_matches(place: Path, pattern: str, names: list[str]) -> None:
    assert found(place, pattern) == names


def test_absolute_patterns(place: Path) -> None:
    assert found(place, f"{place}/root/task/wd/*.log") == ["b.log"]
    assert found(place, f"{place}/elsewhere/*.txt") == ["x.txt"]


def test_links_lead_no_further_than_the_node(place: Path) -> None:
    wd = place / "root/task/wd"
    (wd / "secret.txt").symlink_to(place / "elsewhere/x.txt")
    (wd / "shared.txt").symlink_to(place / "root/shared/s.txt")
    (wd / "broken.txt").symlink_to("nowhere")
    (wd / "dir").symlink_to(place / "elsewhere")
    (wd / "loop").symlink_to(".")
    assert found(place, "*.txt") == ["a.txt", "shared.txt", "star*.txt"]
    assert found(place, "secret.txt") == []
    assert found(place, "dir/x.txt") == []
    assert found(place, "dir/*") == []
    assert "loop/a.txt" not in found(place, "**/*")


def test_pipes_are_no_files(place: Path) -> None:
    os.mkfifo(place / "root/task/wd/pipe.txt")
    assert "pipe.txt" not in found(place, "*.txt")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("[]]x", "]x", True),
        ("[!]]x", "]x", False),
        ("[a-]", "-", True),
        ("[^a]", "^", True),
        ("[\\d]", "5", False),
        ("[z-a]", "[z-a]", True),
        ("a**b", "axxb", True),
        ("a.b", "axb", False),
        ("*", ".x", False),
        ("?x", ".x", False),
        ("[.]x", ".x", True),
        ("a\nb*", "a\nbc", True),
    ],
)
def test_one_name(pattern: str, name: str, *, matches: bool) -> None:
    assert (compile_name(pattern).match(name) is not None) is matches
