"""The commands as users run them: `millpond` in a process of its own, and a reader's shell for the snippets of a page."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
_OURS: Final = ("MILLPOND_", "AZURE_")
_SHELL: Final = ("bash", "-euo", "pipefail", "-c")


def plain_environment() -> dict[str, str]:
    """This process's, with our source in the path, and nothing that steers the commands or their clients."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | {"PYTHONPATH": str(REPOSITORY / "src")}


def millpond(
    *arguments: str,
    data_dir: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: bool = True,
) -> "subprocess.CompletedProcess[Any]":
    """Run a command to its end, on the service of a data directory; it has nothing to read."""
    return subprocess.run(
        [sys.executable, "-m", "millpond", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=text,
        check=False,
        timeout=120,
        cwd=cwd,
        env=plain_environment()
        | ({} if data_dir is None else {"MILLPOND_DATA_DIR": str(data_dir)})
        | dict(environment or {}),
    )


def said_by(*arguments: str, data_dir: Path) -> str:
    """What a command that must succeed prints."""
    done = millpond(*arguments, data_dir=data_dir)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def reader(directory: Path, data_dir: Path) -> dict[str, str]:
    """The environment of somebody who reads a page: `millpond` and `python3` are ours, made in a directory."""
    commands = directory / "bin"
    commands.mkdir()
    for name, arguments in {"millpond": "-m millpond ", "python3": ""}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        (commands / name).chmod(0o755)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    return plain_environment() | {"PATH": path, "MILLPOND_DATA_DIR": str(data_dir)}


def read_aloud(
    *snippets: str, environment: Mapping[str, str], cwd: Path, language: str = "bash", limit_s: float = 200.0
) -> str:
    """What snippets print, one after the other in one shell (what one exports the next one uses) or program. Raises
    AssertionError."""
    program = list(_SHELL) if language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, "\n".join(snippets)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, f"{snippets}\n{done.stdout}{done.stderr}"
    return done.stdout
