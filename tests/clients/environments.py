"""Environments of clients whose dependencies must not meet ours: made once below `.cache`, used by every run.

An environment is made from a pinned list; another list is another environment. Two test processes that want the same one
at once wait for each other. Where it cannot be made (no way to a package index, no Node.js), tests are left out.

A heavy one takes minutes and hundreds of megabytes: it is made in CI; elsewhere it is used if it is there.
`CI=true make test PYTEST_ARGS=tests/clients` makes them all.
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

from tests.commands import REPOSITORY
from tests.conftest import MillpondProcess, is_ci

CACHE = REPOSITORY / ".cache" / "clients"
INSTALL_DEADLINE_S = 900.0


class EnvironmentMissing(Exception):
    """It cannot be made; the text says why."""


def client_environment(service: MillpondProcess, **more: str) -> dict[str, str]:
    """What a client is started with: this process's environment, the service's address and key, nothing of ours, nor a word
    against compiled modules: without them `az` takes twice as long to start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AZURE_"))}
    return {**kept, **service.client_environment(), **more}


def output_of(service: MillpondProcess, *command: str, directory: Path | None = None, limit_s: float = 240.0) -> str:
    """What a client's program that must succeed prints."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env=client_environment(service),
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def python_environment(name: str, *requirements: str, heavy: bool = False) -> Path:
    """The interpreter of a virtual environment with these requirements. Raises EnvironmentMissing."""

    def make(directory: Path) -> None:
        _run(sys.executable, "-m", "venv", str(directory))
        python = str(directory / "bin" / "python")
        # What is imported is compiled then: of tens of thousands of modules few are.
        options = ("--quiet", "--disable-pip-version-check", "--no-compile")
        _run(python, "-m", "pip", "install", *options, *requirements)

    return _environment(name, requirements, make, heavy=heavy) / "bin" / "python"


def node_environment(name: str, *packages: str) -> Path:
    """A directory with these npm packages, to run programs in. Raises EnvironmentMissing."""
    npm = _program("npm")

    def make(directory: Path) -> None:
        directory.mkdir()
        (directory / "package.json").write_text('{"private": true}\n')
        _run(npm, "install", "--silent", "--no-audit", "--no-fund", *packages, directory=directory)

    return _environment(name, packages, make)


def java_libraries(name: str, pom: Path, *, heavy: bool = False) -> Path:
    """A directory with the jars that a Maven project with this POM needs. Raises EnvironmentMissing."""
    maven = _program("mvn")
    _program("javac")

    def make(directory: Path) -> None:
        directory.mkdir()
        shutil.copy(pom, directory / "pom.xml")
        _run(maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars", directory=directory)

    return _environment(name, (pom.read_text(),), make, heavy=heavy) / "jars"


def _environment(name: str, wanted: tuple[str, ...], make: Callable[[Path], None], *, heavy: bool = False) -> Path:
    directory = _directory(name, wanted)
    ready = directory / ".ready"
    with _alone(directory.name):
        if not ready.exists():
            if heavy and not is_ci():
                raise EnvironmentMissing("heavy client: runs with CI=true")
            shutil.rmtree(directory, ignore_errors=True)
            make(directory)
            ready.touch()
    return directory


def _directory(name: str, wanted: tuple[str, ...]) -> Path:
    # Programs of an environment name the place where it was made: a checkout that was moved makes its own anew.
    digest = hashlib.sha256("\n".join((sys.version, str(CACHE), *wanted)).encode()).hexdigest()[:12]
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
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AZURE_"))}
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
