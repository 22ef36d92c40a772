"""`millpond storage` against a running service."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def storage(service: Any, tmp_path: Path) -> Any:
    def run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
        command, *rest = arguments
        return subprocess.run(
            [sys.executable, "-m", "millpond", "storage", command, "--data-dir", str(service.data_dir), *rest],
            capture_output=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        )

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
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.read() == b"one\n"


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
