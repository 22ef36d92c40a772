"""Patterns of output files."""

import os
from pathlib import Path

import pytest

from millpond.agent.runner.file_patterns import compile_name, find_files, parse_pattern

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
    return [one.name for one in find_files(parse_pattern(pattern, f"{place}/root/task/wd"), f"{place}/root")]


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


def test_a_link_to_itself_is_no_file(place: Path) -> None:
    (place / "root/task/wd/self.txt").symlink_to("self.txt")
    assert found(place, "*.txt") == ["a.txt", "star*.txt"]


def test_files_however_deep(place: Path) -> None:
    wd = place / "root/task/wd"
    deep = wd / "/".join(["d"] * 400)
    deep.mkdir(parents=True)
    (deep / "found.dat").touch()
    assert found(place, "**/*.dat") == [f"{'d/' * 400}found.dat"]


def test_many_ways_to_one_place_are_gone_once(place: Path) -> None:
    (place / "root/task/wd" / "/".join("abcdefghijklmnop")).mkdir(parents=True)
    (place / "root/task/wd" / "/".join("abcdefghijklmnop") / "x.dat").touch()
    # Each further `**/*` would double the ways.
    assert found(place, "/".join(["**/*"] * 12) + "/**/**/**/*.dat") == ["a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/x.dat"]


def test_the_nodes_own_path_is_no_pattern(tmp_path: Path) -> None:
    wd = tmp_path / "data[1]/job*/wd"
    wd.mkdir(parents=True)
    (wd / "a.txt").touch()
    (wd.parent / "stdout.txt").touch()
    for text, one_file, names in (
        ("a.txt", True, ["a.txt"]),
        ("*.txt", False, ["a.txt"]),
        (f"{wd}/a.txt", True, ["a.txt"]),
        ("../stdout.txt", True, ["stdout.txt"]),
    ):
        pattern = parse_pattern(text, str(wd))
        assert pattern.is_one_file is one_file
        assert [one.name for one in find_files(pattern, str(tmp_path))] == names


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
