"""What runs commands: peers, the limit and Millpond, all in one shape, so that they are measured in the same way."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from bench.machine import ROOT

SLOTS: Final = 2
"""Commands at a time, for everybody."""
_HERE: Final = Path(__file__).resolve().parent
_ENVIRONMENTS: Final = ROOT / ".cache" / "bench"

RunMany: TypeAlias = Callable[[Sequence[str], int], Awaitable[float]]
"""Run a command so many times, SLOTS at a time; the seconds from handing it over until all have ended well."""


class Contender(Protocol):
    """Raises nothing in `why_not`; `started` and what it yields raise when it does not work after all."""

    name: str

    def why_not(self) -> str:
        """Why it cannot be measured here; empty when it can. Installs what is missing, where that may be done."""
        ...

    def version(self) -> str: ...

    def started(self, directory: Path) -> AbstractAsyncContextManager[RunMany]:
        """A fresh instance, ready to take commands, with its files below the directory."""
        ...


class Library:
    """A peer that is a Python package, in a virtual environment of its own, driven by a script beside this file."""

    def __init__(self, name: str, requirement: str) -> None:
        self.name = name
        self._requirement = requirement
        self._environment = _ENVIRONMENTS / name
        self._python = self._environment / "bin" / "python"

    def why_not(self) -> str:
        stamp = self._environment / ".requirement"
        if stamp.exists() and stamp.read_text(encoding="utf-8") == self._requirement:
            return ""
        print(f"bench: installing {self._requirement} into {self._environment.relative_to(ROOT)}", flush=True)
        pip = [str(self._python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", self._requirement]
        for command in ([sys.executable, "-m", "venv", "--clear", str(self._environment)], pip):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"it could not be installed: {_last_line(done.stderr)}"
        stamp.write_text(self._requirement, encoding="utf-8")
        return ""

    def version(self) -> str:
        code = f"import importlib.metadata as m; print(m.version({self.name!r}))"
        return subprocess.run(
            [str(self._python), "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()

    @contextlib.asynccontextmanager
    async def started(self, directory: Path) -> AsyncIterator[RunMany]:
        with (directory / "peer.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(self._python),
                str(_HERE / f"drive_{self.name}.py"),
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert process.stdin is not None
        assert process.stdout is not None
        reader, writer = process.stdout, process.stdin

        async def answer() -> object:
            line = await reader.readline()
            if not line:
                raise RuntimeError(f"{self.name} ended: see peer.log in {directory}")
            return json.loads(line)

        async def run(command: Sequence[str], count: int) -> float:
            writer.write(json.dumps([list(command), count]).encode() + b"\n")
            seconds = await answer()
            assert isinstance(seconds, float)
            return seconds

        try:
            await answer()
            yield run
        finally:
            writer.close()
            await process.wait()


class Program:
    """A peer that reads what to run, a line each, and is done when it ends."""

    def __init__(self, program: str, package: str, arguments: Sequence[str], *, name: str = "") -> None:
        """`name` is what results call it, if not by the program's."""
        self.name = name or program
        self._program = program
        self._package = package
        self._arguments = arguments

    def why_not(self) -> str:
        return why_not_installed([self._program], [self._package])

    def version(self) -> str:
        return first_line([self._program, "--version"])

    @contextlib.asynccontextmanager
    async def started(self, directory: Path) -> AsyncIterator[RunMany]:
        environment = {**os.environ, "HOME": str(directory), "PARALLEL_HOME": str(directory)}

        async def run(command: Sequence[str], count: int) -> float:
            fresh = tempfile.mkdtemp(dir=directory)
            numbers = b"".join(b"%d\n" % number for number in range(count))
            begun = asyncio.get_running_loop().time()
            process = await asyncio.create_subprocess_exec(
                self._program,
                *(part.format(slots=SLOTS) for part in self._arguments),
                *command,
                cwd=fresh,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            await process.communicate(numbers)
            if process.returncode:
                raise RuntimeError(f"{self.name} ended with {process.returncode}")
            return asyncio.get_running_loop().time() - begun

        yield run


def why_not_installed(programs: Sequence[str], packages: Sequence[str]) -> str:
    """Why a program is not there; installs its Debian packages as root."""
    if _are_there(programs):
        return ""
    if os.geteuid() or shutil.which("apt-get") is None:
        return f"{', '.join(programs)} are not here: install {' '.join(packages)}"
    print(f"bench: installing {' '.join(packages)}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", *command], capture_output=True, check=False, env=environment)
    return "" if _are_there(programs) else f"{' '.join(packages)} could not be installed"


def first_line(command: Sequence[str]) -> str:
    """Of what a program says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _are_there(programs: Sequence[str]) -> bool:
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"
    return all(shutil.which(program, path=path) for program in programs)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it says nothing"
