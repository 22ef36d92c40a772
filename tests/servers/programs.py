"""A server program: started with its output in a file, waited for, stopped by its pid."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 60.0


class Program:
    """One run of a program that prints where it listens."""

    def __init__(self, command: Sequence[str], log: Path, ready: str, environment: Mapping[str, str]) -> None:
        """Start, and wait until `ready` (a regular expression whose first group is the port) stands in its output."""
        self.log_path = log
        self.port = 0
        # Of earlier runs with the same log.
        before = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **environment}
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while True:
            said = log.read_bytes()[before:].decode(errors="replace")
            if found := re.search(ready, said):
                self.port = int(found[1])
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"{command[0]} did not start:\n{said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()
