"""A service under measurement, in a process of its own, and what it and its nodes' host cost."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import machine
from bench.client import Connection

_STOP_S: Final = 60.0
_WRITES: Final = "millpond.store.sqlite_write_process"


class Service:
    """`bench/service.py` over a data directory."""

    def __init__(self, data_dir: Path, *, arguments: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self._command = [sys.executable, "-m", "bench.service", "--data-dir", str(data_dir), *arguments]
        self._process: subprocess.Popen[str] | None = None
        self.endpoint = ""
        self.account = ""
        self.key = ""
        self.start_s = 0.0
        """From its process's start until clients could come."""

    def start(self) -> None:
        """Raises RuntimeError when it does not come up."""
        begun = time.perf_counter()
        with (self.data_dir / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True, env=machine.ENVIRONMENT
            )
        try:
            self._read_where(begun)
        except BaseException:
            self.stop()
            raise

    def _read_where(self, begun: float) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            raise RuntimeError(f"the service did not start: see service.log in {self.data_dir}")
        self.start_s = time.perf_counter() - begun
        self.endpoint = line.split()[1]
        exports = subprocess.run(
            [sys.executable, "-m", "millpond", "env", "--json", "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            check=True,
            env=machine.ENVIRONMENT,
        )
        values = json.loads(exports.stdout)
        self.account, self.key = values["AZURE_BATCH_ACCOUNT"], values["AZURE_BATCH_ACCESS_KEY"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def host_pid(self) -> int:
        """Of the process that is the local nodes' agent."""
        return int(json.loads((self.data_dir / "nodes" / "host.json").read_text(encoding="utf-8"))["pid"])

    def rss_bytes(self) -> int:
        """Of it and the process that writes for it, if there is one."""
        return sum(map(machine.rss_bytes, self._pids()))

    def cpu_s(self) -> float:
        """Of the same."""
        return sum(map(machine.cpu_s, self._pids()))

    def _pids(self) -> list[int]:
        return machine.with_module(self.pid, _WRITES)

    def host_cpu_s(self) -> float:
        return machine.cpu_s(self.host_pid)

    def kill(self) -> None:
        """As a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGINT)  # the second kills the nodes, too
            self._process.wait()

    def connect(self) -> Connection:
        return Connection(self.endpoint, self.account, self.key)
