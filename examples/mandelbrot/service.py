"""A Millpond service of the demo's own: started on a free port, stopped at the end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_S = 30.0
STOP_S = 20.0


class ServiceError(Exception):
    """The service does not start or does not stop; the text says what it printed."""


@contextlib.contextmanager
def own_service(directory: Path) -> Iterator[dict[str, str]]:
    """Run `millpond up` below the directory; the variables that point clients at it. Raises ServiceError."""
    directory.mkdir(parents=True, exist_ok=True)
    # A temporary directory is its user's only; when that is root, tasks run as other users, who pass through here.
    directory.chmod(0o711)
    data_dir, log_path = directory / "data", directory / "service.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLPOND_")}
    with log_path.open("w") as log:
        # In a session of its own, so that Ctrl-C reaches the demo only, which then stops the service in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "millpond", "up", "--data-dir", str(data_dir), "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, data_dir, log_path)
        yield _client_environment(data_dir)
    finally:
        _stop(process, log_path)


def _wait_until_ready(process: "subprocess.Popen[bytes]", data_dir: Path, log_path: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with contextlib.suppress(OSError, ValueError, KeyError):
            # Written when clients can come.
            if json.loads((data_dir / "endpoint.json").read_text())["pid"] == process.pid:
                return
        if process.poll() is not None:
            raise ServiceError(f"the service did not start:\n{log_path.read_text()}")
        if time.monotonic() > deadline:
            raise ServiceError(f"the service was not ready in {START_S:g} s:\n{log_path.read_text()}")
        time.sleep(0.02)


def _client_environment(data_dir: Path) -> dict[str, str]:
    command = [sys.executable, "-m", "millpond", "env", "--json", "--data-dir", str(data_dir)]
    variables: dict[str, str] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return variables


def _stop(process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise ServiceError(f"the service did not stop in {STOP_S:g} s:\n{log_path.read_text()}") from None
