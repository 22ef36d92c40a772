"""What tests share with everything else that runs on the machine: ports, numbers, processes, files that come and go."""

import contextlib
import errno
import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

_held: Final[list[socket.socket]] = []


def free_port() -> int:
    """A port of this machine for a server that has to come back at the same one.

    None of those that the kernel hands out, where it leaves any: while the server is away, any connection's own end
    might get it.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [*range(10_000, first), *range(last + 1, 65_536)] or [*range(10_000, 65_536)]
    while True:
        port = random.SystemRandom().choice(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            return port


@cache
def own_number() -> int:
    """A small number that no other test process on this machine has, as long as this one lives."""
    number = 0
    while True:
        # A name of the kernel's, not a file: other runs may have another TMPDIR, or be another user's.
        held = socket.socket(socket.AF_UNIX)
        try:
            held.bind(f"\0millpond-test-number-{number}")
        except OSError as error:
            held.close()
            if error.errno != errno.EADDRINUSE:
                raise
            number += 1
        else:
            # It stays open until the process ends.
            _held.append(held)
            return number


def command_lines() -> Iterator[tuple[int, str]]:
    """The processes of the machine: id, and arguments with a NUL after each. Those that end meanwhile are left out."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                yield int(name), Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")


def runs(pid: int) -> bool:
    """Whether that process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def files_below(directory: Path) -> Iterator[Path]:
    """All regular files below a directory in which others make and remove some meanwhile (`Path.rglob` may raise)."""
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                yield path


def content_of(path: Path) -> bytes:
    """A file's bytes; none when it is gone."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
