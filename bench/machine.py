"""The machine, and what processes on it cost."""

import contextlib
import os
import platform
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Final

import millpond

ROOT: Final = Path(__file__).resolve().parent.parent
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
"""For processes of ours: this checkout, wherever they run."""
TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
"""Processor time is counted in these."""


def facts() -> dict[str, str]:
    """What figures depend on, for the page."""
    return {
        "processors": f"{os.cpu_count()} of {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
        "file system": _file_system(str(ROOT)),
        "system": f"{_distribution()}, Linux {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        "Millpond": millpond.__version__,
    }


def commit() -> str:
    """The commit that is measured, with a + when files differ from it; empty outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return ""
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def load() -> float:
    """How many processes wanted a processor in the last minute, on average."""
    return os.getloadavg()[0]


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmRSS")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "Linux"


def _file_system(path: str) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, found, *_ = line.split()
        if path.startswith(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def tree_cpu_s(pid: int) -> float:
    """Of a process and all that live below it; what ended is not in it."""
    return cpu_s(pid) + sum(tree_cpu_s(child) for child in _children(pid))


def with_module(pid: int, module: str) -> list[int]:
    """The process, and those of its children that run this module of ours."""
    return [pid, *(child for child in _children(pid) if module.encode() in _arguments(child))]


def _children(pid: int) -> list[int]:
    """Whichever thread started them."""
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
    return children


def _arguments(pid: int) -> list[bytes]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def stop(process: subprocess.Popen[str] | subprocess.Popen[bytes], patience_s: float) -> None:
    """End it as a user would, and by force when it takes longer than that."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
