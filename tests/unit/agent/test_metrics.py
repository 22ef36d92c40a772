"""How busy a machine is, by files like those of /proc."""

from pathlib import Path

import pytest

from millpond.agent.metrics import MachineMeter

DISKS = """\
   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9 9
   8       0 sda {reads} 0 {read} 5 {writes} 0 {written} 5 0 5 5
   8       1 sda1 {reads} 0 {read} 5 {writes} 0 {written} 5 0 5 5
 259       0 nvme0n1 0 0 0 0 0 0 0 0 0 0 0
 253       0 dm-0 {reads} 0 {read} 5 {writes} 0 {written} 5 0 5 5
"""
NETWORK = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 999999 1 0 0 0 0 0 0 999999 1 0 0 0 0 0 0
  eth0:{received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0
"""


class Machine:
    """A directory that looks like /proc, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = 100.0
        (directory / "net").mkdir()
        self.write(busy=100, idle=900)

    def write(self, *, busy: int, idle: int, moved: int = 0) -> None:
        files = {
            "stat": f"cpu  {busy - 30} 10 10 {idle - 50} 50 5 5 0 0 0\ncpu0 1 2 3 4\n",
            "meminfo": "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n",
            "diskstats": DISKS.format(reads=moved, read=moved * 8, writes=moved * 2, written=moved * 16),
            "net/dev": NETWORK.format(received=moved * 100, sent=moved * 10),
        }
        for name, text in files.items():
            (self.directory / name).write_text(text)

    def meter(self) -> MachineMeter:
        return MachineMeter(str(self.directory), lambda: self.now, proc=str(self.directory))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_rates_are_means_since_the_last_measurement(machine: Machine) -> None:
    meter = machine.meter()
    machine.now += 10
    machine.write(busy=400, idle=1600, moved=50)
    found = meter.measure()
    assert found.cpu == pytest.approx(0.3)
    assert found.memory_bytes == 600 * 1024
    assert found.disk_bytes is not None
    assert (found.disk_read_bytes_s, found.disk_write_bytes_s) == (5 * 8 * 512, 5 * 16 * 512)
    assert (found.disk_reads_s, found.disk_writes_s) == (5, 10)
    assert (found.network_in_bytes_s, found.network_out_bytes_s) == (500, 50)
    machine.now += 10
    assert meter.measure().disk_reads_s == 0


def test_counters_that_begin_anew_tell_nothing_once(machine: Machine) -> None:
    machine.write(busy=100, idle=900, moved=50)
    meter = machine.meter()
    machine.now += 10
    machine.write(busy=200, idle=1000, moved=10)
    found = meter.measure()
    assert (found.disk_reads_s, found.network_in_bytes_s) == (None, None)
    assert found.cpu == pytest.approx(0.5)


def test_no_time_has_passed(machine: Machine) -> None:
    found = machine.meter().measure()
    assert (found.cpu, found.disk_reads_s) == (None, None)


@pytest.mark.parametrize("name", ["stat", "meminfo", "diskstats", "net/dev"])
def test_files_that_are_not_there_or_make_no_sense(machine: Machine, name: str) -> None:
    for turn, text in enumerate((None, "", "cpu x y\nbogus\n: 1\n 8 0 sda x")):
        machine.write(busy=500 * turn, idle=4000, moved=7)
        meter = machine.meter()
        machine.now += 1
        machine.write(busy=500 * turn + 100, idle=4100, moved=7)
        (machine.directory / name).unlink()
        if text is not None:
            (machine.directory / name).write_text(text)
        found = meter.measure()
        assert (found.cpu is None) is (name == "stat")
        assert (found.memory_bytes is None) is (name == "meminfo")


def test_this_machine() -> None:
    found = MachineMeter("/", iter(range(100)).__next__).measure()
    assert found.memory_bytes is None or found.memory_bytes > 0
