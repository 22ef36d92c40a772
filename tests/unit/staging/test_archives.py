"""Zip files of others' making: what is unpacked from them, and what is refused."""

import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from millpond.staging.archives import ArchiveError, ArchiveLimits, inspect, unpack

Made = Callable[..., str]
LINK = stat.S_IFLNK | 0o777


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def make(tmp_path: Path) -> Made:
    """An archive of (name, content, st_mode or None for one made on Windows)."""

    def make(*entries: tuple[str, bytes, int | None], compression: int = zipfile.ZIP_DEFLATED) -> str:
        path = str(tmp_path / "archive.zip")
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content, mode in entries:
                info = zipfile.ZipInfo(name)
                info.filename = name  # as it is, also where the library would make it better
                info.compress_type = compression
                info.create_system = 0 if mode is None else 3
                info.external_attr = 0x20 if mode is None else mode << 16
                archive.writestr(info, content)
        return path

    return make


def refused(path: str, root: Path, *words: str, looks: bool = True) -> None:
    """It is refused, and nothing of it gets anywhere."""
    if looks:
        with pytest.raises(ArchiveError, match=".*".join(words)):
            inspect(path)
    with pytest.raises(ArchiveError, match=".*".join(words)):
        unpack(path, str(root))
    assert sorted(os.listdir(root.parent)) == ["archive.zip", "root"]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_directories_and_modes(make: Made, root: Path) -> None:
    path = make(
        ("bin/", b"", stat.S_IFDIR | 0o700),
        ("bin/tool", b"#!/bin/sh\n", stat.S_IFREG | 0o4775),
        ("./lib//deep/data.bin", b"\0" * 100_000, stat.S_IFREG | 0o600),
        ("script.sh", b"#!/bin/sh\n", stat.S_IFREG | 0o644),
        ("leer/", b"", stat.S_IFDIR | 0o755),
        ("gr\u00fc\u00dfe.txt", "\u00e4".encode(), stat.S_IFREG),
    )
    inspect(path)
    unpack(path, str(root))
    assert (root / "lib/deep/data.bin").read_bytes() == b"\0" * 100_000
    assert (root / "gr\u00fc\u00dfe.txt").read_text() == "\u00e4"
    assert (root / "leer").is_dir()
    modes = {str(one.relative_to(root)): oct(mode_of(one)) for one in root.rglob("*")}
    assert modes == {
        "bin": "0o755",
        "bin/tool": "0o755",
        "lib": "0o755",
        "lib/deep": "0o755",
        "lib/deep/data.bin": "0o644",
        "script.sh": "0o644",
        "leer": "0o755",
        "gr\u00fc\u00dfe.txt": "0o644",
    }
    assert mode_of(root) == 0o755


@pytest.mark.parametrize("mode", [None, stat.S_IFREG | 0o644], ids=["windows", "no bits"])
def test_programs_get_execute_bits_where_the_archive_has_none(make: Made, root: Path, mode: int | None) -> None:
    elf = Path(sys.executable).resolve().read_bytes()[:64]
    path = make(("tool", elf, mode), ("run.py", b"#!/usr/bin/env python3\n", mode), ("data", b"\x7fEL", mode))
    unpack(path, str(root))
    assert {name: mode_of(root / name) for name in ("tool", "run.py", "data")} == {
        "tool": 0o755,
        "run.py": 0o755,
        "data": 0o644,
    }


def test_backslashes_of_windows_are_separators_and_others_are_letters(make: Made, root: Path) -> None:
    path = make(("a\\b\\c.txt", b"1", None), ("x\\y", b"2", stat.S_IFREG | 0o755), ("d\\", b"", None))
    unpack(path, str(root))
    assert (root / "a/b/c.txt").read_bytes() == b"1"
    assert (root / "x\\y").read_bytes() == b"2"
    assert (root / "d").is_dir()


def test_names_that_differ_in_case_are_two(make: Made, root: Path) -> None:
    unpack(make(("A", b"1", None), ("a", b"2", None)), str(root))
    assert ((root / "A").read_bytes(), (root / "a").read_bytes()) == (b"1", b"2")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("../out", None),
        ("a/../../out", None),
        ("a/..", stat.S_IFREG | 0o644),
        ("..\\out", None),
        ("a\\..\\..\\out", None),
        ("..\\out", stat.S_IFREG | 0o644),
        ("/tmp/out", None),
        ("\\tmp\\out", None),
        ("C:\\out", None),
        ("C:out", None),
        ("//server/share", None),
    ],
)
def test_paths_that_lead_out_are_refused(make: Made, root: Path, name: str, mode: int | None) -> None:
    refused(make(("good", b"", None), (name, b"x", mode)), root, "out", "|absolute")


def test_a_name_with_a_nul_character(make: Made, root: Path) -> None:
    path = make(("goodXname", b"x", None))
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"goodXname", b"good\0name"))
    refused(path, root, "NUL|goodXname|differ")


@pytest.mark.parametrize(
    "entries",
    [
        [("l", b"/etc/passwd", LINK)],
        [("l", b"../x", LINK)],
        [("d/l", b"../../x", LINK)],
        [("d/l", b"..", LINK), ("m", b"d/l/../x", LINK)],  # the first leads to the root, hence the second above it
        [("a/b/c", b"../..", LINK), ("m", b"a/b/c/../../x", LINK)],
        [("l", b"m", LINK), ("m", b"l", LINK)],
        [("l", b"", LINK)],
        [("l", b"x" * 5000, LINK)],
    ],
)
def test_links_that_lead_out_or_nowhere_are_refused(
    make: Made, root: Path, entries: list[tuple[str, bytes, int]]
) -> None:
    refused(make(*entries), root, "symbolic link")


def test_links_that_stay_inside_are_kept(make: Made, root: Path) -> None:
    path = make(
        ("lib/libx.so.1.2", b"x", stat.S_IFREG | 0o755),
        ("lib/libx.so", b"libx.so.1.2", LINK),
        ("bin/deep/up", b"../../lib/./libx.so", LINK),
        ("later", b"bin/deep", LINK),
        ("over", b"later/../../lib", LINK),
        ("dangling", b"not/there", LINK),
    )
    inspect(path)
    unpack(path, str(root))
    assert (root / "later/up").read_bytes() == b"x"
    assert os.readlink(root / "lib/libx.so") == "libx.so.1.2"
    assert os.path.realpath(root / "over") == str(root / "lib")
    assert (root / "dangling").is_symlink()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_nothing_is_written_through_a_link(make: Made, root: Path, tmp_path: Path) -> None:
    refused(make(("d", b".", LINK), ("d/file", b"x", None)), root, "'d' is a file in it, and a directory")
    refused(make(("d", b"e", LINK), ("e/f", b"", None), ("d", b"x", None)), root, "twice")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "./a"), ("a/b", "a//b"), ("a", "a/b"), ("a/b", "a"), ("a/", "a"), ("a", "a/")]
)
def test_one_path_is_one_thing(make: Made, root: Path, names: tuple[str, ...]) -> None:
    refused(make(*((name, b"", stat.S_IFREG | 0o644 if name[-1] != "/" else None) for name in names)), root, "in it")


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_and_such_are_refused(make: Made, root: Path, kind: int) -> None:
    refused(make(("x", b"", kind | 0o666)), root, "neither a file nor")


def test_bombs(make: Made, root: Path) -> None:
    path = make(("zeros", b"\0" * (8 << 20), None))
    tight = ArchiveLimits(total_bytes=4 << 20)
    for work in (lambda: inspect(path, tight), lambda: unpack(path, str(root), tight)):
        with pytest.raises(ArchiveError, match="unpack to 8388608, and 4194304 are allowed"):
            work()
    inspect(path)  # the ratio alone is no reason, as long as it is not much
    # One that says it unpacks to 100 GiB, of a few bytes.
    _patch_sizes(path, 0xF000_0000)
    refused(path, root, "unpack to")


def test_an_archive_that_lies_about_its_size_is_stopped_while_it_unpacks(make: Made, root: Path) -> None:
    path = make(("zeros", b"\0" * (8 << 20), None))
    _patch_sizes(path, 1000)
    inspect(path)
    refused(path, root, "zeros", looks=False)
    assert sum(one.stat().st_size for one in root.rglob("*")) < 2 << 20


def _patch_sizes(path: str, size: int) -> None:
    """Write another unpacked size into the archive's directory and in front of the file."""
    content = bytearray(Path(path).read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.index(signature)
        content[at + offset : at + offset + 4] = struct.pack("<I", size)
    Path(path).write_bytes(content)


def test_too_many_entries(make: Made, root: Path) -> None:
    path = make(*((f"{number:0200}", b"", None) for number in range(20)))
    with pytest.raises(ArchiveError, match="it has 20 entries, and 19 are allowed"):
        inspect(path, ArchiveLimits(entries=19))
    with pytest.raises(ArchiveError, match="more entries than the 1 "):
        unpack(path, str(root), ArchiveLimits(entries=1))
    unpack(path, str(root), ArchiveLimits(entries=20))


def test_what_is_broken_says_so(make: Made, root: Path) -> None:
    path = make(("a", os.urandom(10_000), None))
    whole = Path(path).read_bytes()
    for content in (b"", b"#!/bin/sh\n", whole[:-30], whole[5000:], whole[:100] + whole[200:]):
        Path(path).write_bytes(content)
        refused(path, root, "not a zip file|cannot be", looks=False)
        shutil.rmtree(root)
        root.mkdir()
    Path(path).write_bytes(whole[:3000] + b"?" * 10 + whole[3010:])
    refused(path, root, "cannot be unpacked", looks=False)


def test_an_encrypted_archive(make: Made, root: Path) -> None:
    path = make(("a", b"x" * 100, None))
    content = bytearray(Path(path).read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(signature) + offset] |= 1
    Path(path).write_bytes(content)
    refused(path, root, "encrypted")


def test_a_compression_nobody_knows(make: Made, root: Path) -> None:
    path = make(("a", b"x" * 100, None))
    content = bytearray(Path(path).read_bytes())
    for signature, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        content[content.index(signature) + offset] = 77
    Path(path).write_bytes(content)
    refused(path, root, "cannot be unpacked", looks=False)


def test_long_names(make: Made, root: Path) -> None:
    refused(make(("n" * 256, b"", None)), root, "too long")
    refused(make(("/".join(["nnn"] * 1000), b"", None)), root, "too long")


def test_other_compressions(make: Made, root: Path) -> None:
    for index, compression in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)):
        unpack(make((f"f{index}", b"abc" * 100, None), compression=compression), str(root))
        assert (root / f"f{index}").read_bytes() == b"abc" * 100


def test_python_programs_run_from_where_they_were_unpacked(make: Made, root: Path) -> None:
    unpack(make(("bin/hello", b"#!/bin/sh\necho hello\n", stat.S_IFREG | 0o755)), str(root))
    assert subprocess.run([root / "bin/hello"], check=True, capture_output=True).stdout == b"hello\n"
