"""What all tests share: a real service as a subprocess, and two ways to leave a test out."""

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from millpond.cli.proxies import spare_loopback
from tests.commands import plain_environment
from tests.waiting import PATIENCE_S

pytest_plugins = ["tests.servers.fixtures"]

START_DEADLINE_S = STOP_DEADLINE_S = PATIENCE_S

# All that tests ask for themselves is on this machine.
spare_loopback(os.environ)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in the background of a script, and all that tests start would inherit it and take no Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "millpond", hypothesis.settings.default, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("millpond")


def is_ci() -> bool:
    """Whether everything has to be there, and what takes long is done too."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


class MillpondProcess:
    """`millpond up` in a process of its own, on a free port unless told otherwise."""

    def __init__(self, data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.arguments = arguments
        self.environment = dict(environment or {})
        self.process: subprocess.Popen[str] | None = None
        self.endpoint = ""
        self.account = ""
        self.key = ""
        self.log_path = data_dir.parent / (data_dir.name + ".log")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def spawn(self) -> "subprocess.Popen[str]":
        """Start it and do not wait."""
        ports = () if "--port" in self.arguments else ("--port", "0")
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "millpond", "up", "--data-dir", str(self.data_dir), *ports, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                env=plain_environment() | self.environment,
                cwd=self.data_dir.parent,
            )
        return self.process

    def start(self) -> "MillpondProcess":
        """Start it and wait until it is ready for clients."""
        process = self.spawn()
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._is_ready():
            if process.poll() is not None:
                raise AssertionError(f"millpond up ended with {process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"millpond up was not ready in {START_DEADLINE_S:g} s:\n{self.log()}")
            time.sleep(0.02)
        return self

    def _is_ready(self) -> bool:
        try:
            facts = json.loads((self.data_dir / "endpoint.json").read_text())
            if facts["pid"] != self.pid:
                return False
            trust = ssl.create_default_context(cafile=facts["bundle"]) if facts["bundle"] else None
            with urllib.request.urlopen(facts["url"] + "/healthz", timeout=5, context=trust) as answer:
                if answer.status != 200:
                    return False
            keys = json.loads((self.data_dir / "keys.json").read_text())
        except (OSError, urllib.error.URLError, ValueError, KeyError):
            return False
        self.endpoint, self.account, self.key = facts["url"], facts["account"], keys["primary"]
        return True

    def log(self) -> str:
        """All that it has printed, of every start."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop and wait; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"millpond up did not stop in {STOP_DEADLINE_S:g} s:\n{self.log()}") from None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client_environment(self) -> dict[str, str]:
        return {
            "AZURE_BATCH_ACCOUNT": self.account,
            "AZURE_BATCH_ACCESS_KEY": self.key,
            "AZURE_BATCH_ENDPOINT": self.endpoint,
        }


ServiceFactory = Callable[..., MillpondProcess]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that the users of tasks may get at, and write to.

    pytest's own are for its user only, and must stay so: whether a service in one of them runs tasks as users of their own
    goes by that, and another run of pytest closes the outermost again.
    """
    path = Path(tempfile.mkdtemp(prefix="millpond-test-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def new_service(tmp_path: Path) -> Iterator[ServiceFactory]:
    """Make services (not started) that are stopped at the end of the test: `new_service("name", "--account", "x")`."""
    made: list[MillpondProcess] = []

    def make(name: str = "data", *arguments: str, environment: Mapping[str, str] | None = None) -> MillpondProcess:
        service = MillpondProcess(tmp_path / name, *arguments, environment=environment)
        made.append(service)
        return service

    yield make
    _stop_all(made)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MillpondProcess]:
    """One running service for all tests of a file."""
    running = MillpondProcess(tmp_path_factory.mktemp("service") / "data")
    try:
        yield running.start()
    finally:
        _stop_all([running])


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MillpondProcess]:
    """One running service for all tests of a file, over TLS and with the development issuer."""
    running = MillpondProcess(tmp_path_factory.mktemp("secured") / "data", "--tls", "--development-issuer")
    try:
        yield running.start()
    finally:
        _stop_all([running])


def _stop_all(services: list[MillpondProcess]) -> None:
    with contextlib.ExitStack() as stack:
        # Each, also when another one does not stop.
        for service in services:
            stack.callback(_stop, service)


def _stop(service: MillpondProcess) -> None:
    if service.process is None:
        return
    if service.process.poll() is not None and service.process.returncode < 0:
        # It was killed: its nodes live on by design. One more life takes them down in the proper way.
        service.start()
    service.stop()


@pytest.fixture(scope="session")
def require_component() -> Callable[[str, str], None]:
    """`require_component(name, reason)`: leave the test out because a component (a program, a server) is missing.

    In CI everything is there: then it is a failure.
    """

    def require(name: str, reason: str) -> None:
        text = f"component {name} is missing: {reason}"
        if is_ci():
            pytest.fail(text, pytrace=False)
        pytest.skip(text)

    return require


@pytest.fixture(scope="session")
def leave_out() -> Callable[[str], Any]:
    """`leave_out(reason)`: leave the test out because it does not apply here, in CI too (no root, no `../shared`)."""

    def leave(reason: str) -> None:
        pytest.skip(f"does not apply here: {reason}")

    return leave
