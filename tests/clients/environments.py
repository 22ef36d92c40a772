"""Environments of clients whose dependencies must not meet ours: made once below `.cache`, used by every run.

An environment is made from a pinned list; another list is another environment. Two test processes that want the same one
at once wait for each other. Where it cannot be made (no way to a package index, no Node.js), tests are left out.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import REPOSITORY

CACHE = REPOSITORY / ".cache" / "clients"
INSTALL_DEADLINE_S = 900.0


class EnvironmentMissing(Exception):
    """It cannot be made; the text says why."""


def python_environment(name: str, *requirements: str) -> Path:
    """The interpreter of a virtual environment with these requirements. Raises EnvironmentMissing."""

    def make(directory: Path) -> None:
        _run(sys.executable, "-m", "venv", str(directory))
        python = str(directory / "bin" / "python")
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)

    return _environment(name, requirements, make) / "bin" / "python"


def python_environment_is_there(name: str, *requirements: str) -> bool:
    """Whether `python_environment` has made it already: for those that are too big to make unasked."""
    return (_directory(name, requirements) / ".ready").exists()


def node_environment(name: str, *packages: str) -> Path:
    """A directory with these npm packages, to run programs in. Raises EnvironmentMissing."""
    npm = _program("npm")

    def make(directory: Path) -> None:
        directory.mkdir()
        (directory / "package.json").write_text('{"private": true}\n')
        _run(npm, "install", "--silent", "--no-audit", "--no-fund", *packages, directory=directory)

    return _environment(name, packages, make)


def maven_project(name: str, pom: Path, *sources: Path) -> list[str]:
    """The class path of a Maven project with this POM: its own compiled classes and all it needs. Raises
    EnvironmentMissing."""
    maven = _program("mvn")
    _program("javac")
    texts = tuple(path.read_text() for path in (pom, *sources))

    def make(directory: Path) -> None:
        code = directory / "src" / "main" / "java"
        code.mkdir(parents=True)
        shutil.copy(pom, directory / "pom.xml")
        for source in sources:
            shutil.copy(source, code / source.name)
        _run(maven, "-q", "-B", "package", "dependency:copy-dependencies", directory=directory)

    directory = _environment(name, texts, make)
    return [str(directory / "target" / "classes"), str(directory / "target" / "dependency" / "*")]


def _environment(name: str, wanted: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    directory = _directory(name, wanted)
    ready = directory / ".ready"
    with _alone(directory.name):
        if not ready.exists():
            shutil.rmtree(directory, ignore_errors=True)
            make(directory)
            ready.touch()
    return directory


def _directory(name: str, wanted: tuple[str, ...]) -> Path:
    digest = hashlib.sha256("\n".join((sys.version, *wanted)).encode()).hexdigest()[:12]
    return CACHE / f"{name}-{digest}"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise EnvironmentMissing(f"there is no {name} on this machine")
    return found


def _run(*command: str, directory: Path | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "AZURE_"))}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentMissing(f"{command[0]} took longer than {INSTALL_DEADLINE_S:g} s") from error
    if done.returncode:
        raise EnvironmentMissing(f"{' '.join(command)} failed: {(done.stderr or done.stdout)[-2000:]}")
