"""The make targets are there and can be read; setup refuses an interpreter that is too old or not there."""

import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import which

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
TARGETS = (
    "demo",
    "test",
    "lint",
    "bench",
    "bench-check",
    "bench-baseline",
    "sim",
    "planted-bugs",
    "soak",
    "fuzz",
    "clean",
    "help",
)


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", "--no-print-directory", "-C", str(REPOSITORY), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")},
    )


@pytest.fixture(autouse=True)
def _make_is_there(require_component: Callable[[str, str], None]) -> None:
    if which("make") is None:
        require_component("make", "install the package make")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_can_be_read(target: str) -> None:
    result = make("--dry-run", target)
    assert result.returncode == 0, result.stderr


def test_help_lists_every_target_and_is_the_default() -> None:
    result = make()
    assert result.returncode == 0, result.stderr
    assert [line.split()[1] for line in result.stdout.splitlines() if line.startswith("  make ")] == [
        "help",
        "setup",
        *(target for target in TARGETS if target != "help"),
    ]


def test_the_scripts_can_be_run_and_read() -> None:
    for name, shell in ((".ci/run", "bash"), ("tools/setup.sh", "sh")):
        path = REPOSITORY / name
        assert path.stat().st_mode & stat.S_IXUSR
        assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def setup(tmp_path: Path, python: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(REPOSITORY / "tools" / "setup.sh"), str(tmp_path / "venv")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHON": python, "PATH": path + os.environ["PATH"]},
    )


def program(path: Path, text: str) -> Path:
    """A stand-in for a program."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_setup_names_a_missing_interpreter(tmp_path: Path) -> None:
    result = setup(tmp_path, "python-that-is-not-there")
    assert result.returncode == 1
    assert "setup: no python-that-is-not-there here: install Python 3.11" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_setup_refuses_an_old_interpreter(tmp_path: Path) -> None:
    old = program(tmp_path / "python3.9", r'case "$2" in *version_info\[:2\]*) echo 3.9 ;; *) exit 1 ;; esac')
    result = setup(tmp_path, str(old))
    assert result.returncode == 1
    assert "is Python 3.9, Millpond needs 3.11 or later" in result.stderr


def bare_python(directory: Path) -> Path:
    """This interpreter as Debian ships it: without ensurepip."""
    return program(
        directory / "bare-python",
        f'case "$2" in *ensurepip*) exit 1 ;; *) exec {shlex.quote(sys.executable)} "$@" ;; esac',
    )


def test_without_venv_and_without_root_setup_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "id", "echo 1000")
    program(tmp_path / "bin" / "apt-get", f"touch {tmp_path}/called")
    result = setup(tmp_path, str(bare_python(tmp_path)), f"{tmp_path}/bin:")
    assert result.returncode == 1
    assert "has no venv module: install it (Debian, Ubuntu: sudo apt install python3." in result.stderr
    assert not (tmp_path / "called").exists()


def test_without_venv_but_as_root_setup_installs_the_package(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin" / "id", "echo 0")
    program(tmp_path / "bin" / "apt-get", f'echo "$@" >> {tmp_path}/called')
    result = setup(tmp_path, str(bare_python(tmp_path)), f"{tmp_path}/bin:")
    # The stand-in installs nothing, and that is noticed.
    assert result.returncode == 1
    assert "still has no venv module after installing python3." in result.stderr
    called = (tmp_path / "called").read_text()
    assert called.startswith("update")
    assert f"python3.{sys.version_info.minor}-venv" in called
