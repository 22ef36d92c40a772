"""Azurite, Azure's own storage emulator, beside the service: installed when it is asked for, started, watched, stopped.

It is a Node.js program. Its blobs lie below the data directory; it has an account and a key of its own, and listens on
this machine only. Like the local nodes it outlives a crash of the service, so that tasks go on uploading; the next start
finds it again by its process id.
"""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import platformdirs

VERSION: Final = "3.35.0"
HOST: Final = "127.0.0.1"
_SCRIPT: Final = "node_modules/azurite/dist/src/blob/main.js"
_INSTALL_S: Final = 900.0
_READY_S: Final = 60.0
_STOP_S: Final = 5.0
_MAX_PAUSE_S: Final = 30.0
_WITHOUT: Final = "or name a storage account with --blob URL, or leave --blob out"

_log: Final = logging.getLogger(__name__)


class AzuriteError(Exception):
    """Azurite cannot be had. The text is one line that says why and what to do."""


def default_directory() -> Path:
    """Where it is installed once for all services of the user."""
    return Path(platformdirs.user_cache_dir("millpond")) / f"azurite-{VERSION}"


def install(say: Callable[[str], None], directory: Path | None = None) -> list[str]:
    """The command that runs it; what is missing is installed, and `say` told so. Blocks. Raises AzuriteError."""
    directory = directory or default_directory()
    node = shutil.which("node")
    if node is None:
        raise AzuriteError(f"Azurite needs Node.js, and there is no node in PATH: install Node.js with npm, {_WITHOUT}")
    command = [node, str(directory / _SCRIPT)]
    if (directory / _SCRIPT).exists():
        return command
    npm = shutil.which("npm")
    if npm is None:
        raise AzuriteError(
            f"Azurite is not installed yet, and there is no npm in PATH to do it: install npm, {_WITHOUT}"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with open(directory.with_name(directory.name + ".lock"), "w", encoding="ascii") as lock:
            # Two starts at once: the second waits, and finds it done.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (directory / _SCRIPT).exists():
                say(f"Installing Azurite {VERSION} with npm into {directory} (once, about 190 MB) ...")
                _install(npm, directory)
    except OSError as error:
        raise AzuriteError(f"Azurite cannot be installed in {directory} ({error.strerror}); make room there") from error
    return command


def _install(npm: str, directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".azurite-") as temporary:
        # Where there is a package.json npm looks no further for one.
        (Path(temporary) / "package.json").write_text('{"private": true}\n', encoding="ascii")
        arguments = ("install", "--prefix", temporary, "--no-audit", "--no-fund", "--ignore-scripts", "--omit=dev")
        try:
            done = subprocess.run(
                [npm, *arguments, "--loglevel=error", f"azurite@{VERSION}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_INSTALL_S,
                check=False,
                cwd=temporary,
            )
            told = done.stderr.strip().splitlines() or ["no reason given"]
            if done.returncode != 0 or not (Path(temporary) / _SCRIPT).exists():
                raise AzuriteError(
                    f"npm could not install azurite@{VERSION} ({told[0][:200]}); see to that, {_WITHOUT}"
                )
        except subprocess.TimeoutExpired as error:
            raise AzuriteError(f"npm did not install azurite@{VERSION} in {_INSTALL_S:.0f} s; try again") from error
        if directory.exists():
            shutil.rmtree(directory)
        os.rename(temporary, directory)
        # For the clean-up to find something.
        os.mkdir(temporary)


class Azurite:
    """One Azurite. Used in one event loop; `prepare`, then `start`, then `ready`, then `stop`.

    `directory` holds its blobs, log and process id. `port` 0 takes a free one and keeps to it from then on, so that URLs
    given out stay good. It is started again when it ends by itself.
    """

    def __init__(self, command: list[str], directory: Path, account: str, key: str, *, port: int = 0) -> None:
        self._command = command
        self._directory = directory
        self._account = account
        self._key = key
        self._wanted_port = port
        self._port = 0
        self._pid = 0
        self._pidfd = -1
        self._child: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def endpoint(self) -> str:
        """URL of the account's blobs."""
        return f"http://{HOST}:{self._port}/{self._account}"

    @property
    def pid(self) -> int:
        return self._pid

    def prepare(self) -> None:
        """Find the one that runs, or the port for one: the `endpoint` is known from then on. Raises AzuriteError."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            known = self._known()
            if not self._adopt(known):
                self._port = self._choose_port(known.get("port", 0))
        except OSError as error:
            raise AzuriteError(f"{self._directory} cannot be used ({error.strerror or error})") from error

    def start(self) -> None:
        """Start it, unless it runs; it is not `ready` yet. Raises AzuriteError."""
        try:
            if self._pidfd < 0:
                self._spawn()
        except OSError as error:
            raise AzuriteError(f"Azurite cannot be started ({error.strerror or error}) in {self._directory}") from error

    async def ready(self) -> None:
        """Wait until it answers, and watch it from then on. Raises AzuriteError."""
        await self._answering()
        self._watching = asyncio.create_task(self._watch(), name="azurite")

    async def stop(self) -> None:
        """End it, and wait for that."""
        self._stopping = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._end()

    def kill(self) -> None:
        """SIGKILL, without waiting."""
        self._signal(signal.SIGKILL)

    # --- the process ---

    @property
    def _facts_path(self) -> Path:
        return self._directory / "process.json"

    @property
    def _log_path(self) -> Path:
        return self._directory / "azurite.log"

    def _known(self) -> dict[str, Any]:
        """What is known of the last one."""
        try:
            facts = json.loads(self._facts_path.read_text(encoding="utf-8"))
            return {"pid": int(facts["pid"]), "port": int(facts["port"]), "account": str(facts["account"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _adopt(self, known: dict[str, Any]) -> bool:
        """Whether the last one runs and is as it should be; one that is not is killed."""
        if not known:
            return False
        try:
            self._pidfd = os.pidfd_open(known["pid"])
            arguments = Path(f"/proc/{known['pid']}/cmdline").read_bytes().split(b"\0")
        except OSError:
            self._forget()
            return False
        # The number may be another process's by now.
        if os.fsencode(self._command[1]) not in arguments or os.fsencode(self._data) not in arguments:
            self._forget()
            return False
        self._pid, self._port = known["pid"], known["port"]
        if known["account"] == self._account and self._wanted_port in (0, self._port):
            return True
        self._signal(signal.SIGKILL)
        select.select([self._pidfd], [], [], _STOP_S)
        self._forget()
        return False

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _choose_port(self, last: int) -> int:
        if self._wanted_port:
            if not _is_free(self._wanted_port):
                raise AzuriteError(
                    f"Azurite's port {self._wanted_port} on {HOST} is in use; "
                    "choose another with storage.azurite_port (0 takes a free one)"
                )
            return self._wanted_port
        if last:
            if _is_free(last):
                return last
            _log.warning("Azurite's port %d is in use: it gets another, and URLs given out before are void", last)
        with socket.socket() as free:
            free.bind((HOST, 0))
            port: int = free.getsockname()[1]
            return port

    def _spawn(self) -> None:
        wanted = ("PATH", "HOME", "LANG", "TMPDIR")
        environment = {name: os.environ[name] for name in wanted if name in os.environ}
        # The key is in the environment, which only this user can read; arguments everybody can.
        environment["AZURITE_ACCOUNTS"] = f"{self._account}:{self._key}"
        flags = ("--silent", "--disableTelemetry", "--skipApiVersionCheck")
        descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._child = subprocess.Popen(
                [*self._command, "--blobHost", HOST, "--blobPort", str(self._port), "--location", self._data, *flags],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self._pid = self._child.pid
        self._pidfd = os.pidfd_open(self._pid)
        facts = {"pid": self._pid, "port": self._port, "account": self._account}
        temporary = self._facts_path.with_suffix(".new")
        temporary.write_text(json.dumps(facts), encoding="ascii")
        temporary.replace(self._facts_path)

    async def _answering(self) -> None:
        deadline = asyncio.get_running_loop().time() + _READY_S
        while True:
            if self._has_ended():
                raise AzuriteError(f"Azurite ended at its start ({self._last_words()}); see {self._log_path}")
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                async with asyncio.timeout(5):
                    reader, writer = await asyncio.open_connection(HOST, self._port)
                    try:
                        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                        # Another server may have taken the port.
                        if b"\r\nserver: azurite" in (await reader.readuntil(b"\r\n\r\n")).lower():
                            return
                    finally:
                        writer.close()
            if asyncio.get_running_loop().time() > deadline:
                raise AzuriteError(
                    f"Azurite did not answer on port {self._port} in {_READY_S:.0f} s; see {self._log_path}"
                )
            await asyncio.sleep(0.05)

    def _last_words(self) -> str:
        try:
            lines = self._log_path.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:200] if lines else "without a word"

    async def _watch(self) -> None:
        """Start it again whenever it ends, on the same port."""
        pause_s = 0.2
        while True:
            if self._pidfd >= 0:
                await _readable(self._pidfd)
                _log.warning("Azurite (process %d) has ended; it is started again", self._pid)
                self._forget()
            try:
                self._spawn()
                await self._answering()
            except (AzuriteError, OSError) as error:
                _log.error("Azurite is not there, and is tried again in %.0f s: %s", pause_s, error)
                await self._end()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)
            else:
                _log.warning("Azurite runs again (process %d)", self._pid)
                pause_s = 0.2

    async def _end(self) -> None:
        if self._pidfd < 0:
            return
        for number, patience_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
            self._signal(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await _readable(self._pidfd)
                    break
        self._forget()

    def _has_ended(self) -> bool:
        if self._child is not None:
            return self._child.poll() is not None
        try:
            signal.pidfd_send_signal(self._pidfd, 0)
        except OSError:
            return True
        return False

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _forget(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._child is not None:
            self._child.poll()
            self._child = None


async def _readable(descriptor: int) -> None:
    """Wait until a process's descriptor says that it has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As node binds it: connections of the last one that are being forgotten do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
