"""`millpond storage` against a running service."""

import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.commands import millpond
from tests.conftest import MillpondProcess
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module", params=["directory", "account"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The data directory of a running service with each kind of storage."""
    arguments: tuple[str, ...] = ()
    environment = {}
    if request.param == "account":
        azurite = request.getfixturevalue("azurite")
        arguments = ("--blob", azurite.endpoint)
        environment["MILLPOND_STORAGE_ACCOUNT_KEY"] = azurite.key
    service = MillpondProcess(tmp_path_factory.mktemp("service") / "data", *arguments, environment=environment)
    service.start()
    yield service.data_dir
    service.stop()


@pytest.fixture
def storage(place: Path, tmp_path: Path) -> Any:
    def run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return millpond("storage", *arguments, data_dir=place, cwd=tmp_path, text=False)

    return run


def test_put_ls_get_url(storage: Any, tmp_path: Path) -> None:
    (tmp_path / "Größe 1.txt").write_bytes(b"one\n")
    (tmp_path / "big.bin").write_bytes(os.urandom(3_000_000))
    assert storage("put", "Größe 1.txt", "files").stdout.decode() == "files/Größe 1.txt\n"
    assert storage("put", "Größe 1.txt", "files/deep/").stdout.decode() == "files/deep/Größe 1.txt\n"
    assert storage("put", "big.bin", "files/deep/other.bin").returncode == 0
    listing = storage("ls", "files").stdout.decode().splitlines()
    assert [line.split(maxsplit=1) for line in listing] == [
        ["4", "Größe 1.txt"],
        ["4", "deep/Größe 1.txt"],
        ["3000000", "deep/other.bin"],
    ]
    assert len(storage("ls", "files/deep/o").stdout.splitlines()) == 1
    assert storage("get", "files/Größe 1.txt", "-").stdout == b"one\n"
    assert storage("get", "files/deep/other.bin").stdout == b"other.bin\n"
    assert (tmp_path / "other.bin").read_bytes() == (tmp_path / "big.bin").read_bytes()

    url = storage("url", "files/Größe 1.txt", "--expires", "5m").stdout.decode().strip()
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        assert answer.read() == b"one\n"


def test_containers_are_listed(storage: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for container in ("zebra", "aardvark"):
        assert storage("put", "a.txt", container).returncode == 0
    names = storage("ls").stdout.decode().splitlines()
    assert [name for name in names if name in ("zebra", "aardvark")] == ["aardvark", "zebra"]
    assert names == sorted(names)


def test_errors_are_one_line(storage: Any, tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("mine")
    assert storage("put", "there.txt", "errors").returncode == 0
    for code, arguments, expected in (
        (1, ("get", "errors/none.txt"), "(BlobNotFound)"),
        (1, ("ls", "nothing-here"), "(ContainerNotFound)"),
        (2, ("get", "errors"), "name a file, as CONTAINER/NAME"),
        (2, ("put", "there.txt", "No_Container"), "is no container name"),
        (2, ("url", "errors/a/../b"), "is no blob name"),
        (2, ("url", "errors/a", "--permissions", "x"), "are no permissions"),
        (2, ("url", "errors/a", "--expires", "soon"), "--expires: must be a time such as 30m"),
    ):
        result = storage(*arguments)
        text = result.stderr.decode()
        assert (result.returncode, result.stdout) == (code, b""), text
        assert expected in text
        assert text.count("\n") == 1
    # A download that fails leaves what was there.
    assert storage("get", "errors/none.txt", "there.txt").returncode == 1
    assert (tmp_path / "there.txt").read_text() == "mine"


def test_folders_there_and_back(storage: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "er" / "b c.txt").write_text("bb")
    (source / "empty").mkdir()
    (source / "loop").symlink_to(source)
    (source / "link.txt").symlink_to(source / "a.txt")
    put = storage("put", "source", "folders/top")
    assert put.returncode == 0, put.stderr
    names = ["top/a.txt", "top/deep/er/b c.txt", "top/link.txt"]
    assert sorted(put.stdout.decode().splitlines()) == [f"folders/{name}" for name in names]
    assert put.stderr.decode() == "3 files, 4 bytes\n"
    assert storage("put", "source", "folders").returncode == 0
    assert [line.split(maxsplit=1)[1] for line in storage("ls", "folders/top/").stdout.decode().splitlines()] == names

    got = storage("get", "folders/top/deep/", "back")
    assert got.returncode == 0, got.stderr
    assert got.stdout.decode() == "back/er/b c.txt\n"
    assert storage("get", "folders/", "all").returncode == 0
    files = {str(path.relative_to(tmp_path / "all")): path.read_text() for path in (tmp_path / "all").rglob("*.txt")}
    plain = {"a.txt": "a", "deep/er/b c.txt": "bb", "link.txt": "a"}
    assert files == plain | {f"top/{name}": text for name, text in plain.items()}
    nothing = storage("get", "folders/none/", "other")
    assert (nothing.returncode, nothing.stderr.decode()) == (1, "millpond: folders/none/: there is no file below it\n")
    assert storage("put", "source/empty", "folders").returncode == 1


def test_a_file_longer_than_a_block(storage: Any, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 40 + b"end"
    (tmp_path / "big.bin").write_bytes(content)
    assert storage("put", "big.bin", "blocks").returncode == 0
    assert storage("ls", "blocks").stdout.split() == [str(len(content)).encode(), b"big.bin"]
    assert storage("get", "blocks/big.bin", "back.bin").returncode == 0
    assert (tmp_path / "back.bin").read_bytes() == content
