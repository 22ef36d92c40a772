"""How busy the machine is: a few small files of /proc, read now and then.

Rates are means since the reading before. What a machine does not tell (another kernel, a container without that file)
is left out.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from millpond.domain.durations import Timestamp
from millpond.protocol.messages import NodeMetrics

_SECTOR: Final = 512
"""Bytes; of /proc/diskstats, whatever the disk."""
_VIRTUAL_DISKS: Final = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")
"""Not disks, or made of disks that are counted by themselves."""
_VIRTUAL_NETWORKS: Final = ("lo", "veth", "docker", "br-", "virbr", "cni", "flannel", "cali")


class _Counters(msgspec.Struct, frozen=True):
    """What only ever grows."""

    at: Timestamp
    busy: float | None = None
    """Of all processors, in the kernel's ticks."""
    ticks: float | None = None
    """Busy or not."""
    disk: tuple[float, float, float, float] | None = None
    """Bytes read and written, reads and writes."""
    network: tuple[float, float] | None = None
    """Bytes received and sent."""


class MachineMeter:
    """Measures one machine, for all nodes that are on it."""

    def __init__(self, directory: str, clock: Callable[[], float], *, proc: str = "/proc") -> None:
        """`directory` is on the disk to be measured; `clock` is monotonic."""
        self._directory = directory
        self._clock = clock
        self._proc = proc
        self._before = self._read_counters()

    def measure(self) -> NodeMetrics:
        """What has been going on since it was last called. Never raises."""
        before, now = self._before, self._read_counters()
        self._before = now
        cpu: float | None = None
        if now.busy is not None and now.ticks is not None and before.busy is not None and before.ticks is not None:
            ticks = now.ticks - before.ticks
            cpu = min(1.0, max(0.0, (now.busy - before.busy) / ticks)) if ticks > 0 else None
        disk = _rates(before.disk, now.disk, now.at - before.at)
        network = _rates(before.network, now.network, now.at - before.at)
        return NodeMetrics(cpu, self._memory(), self._disk_use(), *disk or (None,) * 4, *network or (None,) * 2)

    def _read_counters(self) -> _Counters:
        at = self._clock()
        busy = ticks = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = [float(word) for word in self._lines("stat")[0].split()[1:9]]
            # user nice system idle iowait irq softirq steal
            ticks = sum(fields)
            busy = ticks - fields[3] - fields[4]
        disk: tuple[float, float, float, float] | None = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            disk = self._disk()
        network: tuple[float, float] | None = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            network = self._network()
        return _Counters(at, busy, ticks, disk, network)

    def _lines(self, name: str) -> list[str]:
        with open(os.path.join(self._proc, name), encoding="ascii", errors="replace") as file:
            return file.read().splitlines()

    def _disk(self) -> tuple[float, float, float, float]:
        read = written = reads = writes = 0.0
        disks: list[str] = []
        for line in self._lines("diskstats"):
            fields = line.split()
            name = fields[2]
            # A partition follows its disk, and is in its figures.
            if name.startswith(_VIRTUAL_DISKS) or any(name.startswith(disk) for disk in disks):
                continue
            disks.append(name)
            reads += float(fields[3])
            read += float(fields[5]) * _SECTOR
            writes += float(fields[7])
            written += float(fields[9]) * _SECTOR
        return read, written, reads, writes

    def _network(self) -> tuple[float, float]:
        received = sent = 0.0
        for line in self._lines("net/dev")[2:]:
            name, _, figures = line.partition(":")
            if name.strip().startswith(_VIRTUAL_NETWORKS):
                continue
            fields = figures.split()
            received += float(fields[0])
            sent += float(fields[8])
        return received, sent

    def _memory(self) -> float | None:
        try:
            known = dict(line.split(":", 1) for line in self._lines("meminfo"))
            total, available = (float(known[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        except (OSError, ValueError, KeyError, IndexError):
            return None
        return max(0.0, total - available)

    def _disk_use(self) -> float | None:
        try:
            disk = os.statvfs(self._directory)
        except OSError:
            return None
        return float((disk.f_blocks - disk.f_bfree) * disk.f_frsize)


def _rates(before: Iterable[float] | None, now: Iterable[float] | None, seconds: float) -> tuple[float, ...] | None:
    """A counter that has begun anew (a disk or an interface came or went) tells nothing this time."""
    if before is None or now is None or seconds <= 0:
        return None
    rates = tuple((new - old) / seconds for old, new in zip(before, now, strict=True))
    return rates if min(rates) >= 0 else None
