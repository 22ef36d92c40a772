"""The host of local nodes as a real process: started, killed, left alone, and brought down by the provider."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

import millpond
from millpond.domain.events import HeldAttempt
from millpond.protocol.messages import Ended, Restart, Start, Started
from millpond.providers.base import NodeCreated, NodeRequest, NodeStatus, VmSize
from millpond.providers.local import LocalProvider
from millpond.providers.local_processes import start_time
from tests.process.agent_service import AgentService
from tests.unit.agent.fakes import FakeControl
from tests.waiting import PATIENCE_S, until_true

SIZE = VmSize("local", 2, 1024, 0.0)
REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = str(Path(millpond.__file__).resolve().parents[1])
SIMPLE_HOST = (sys.executable, "-m", "tests.process.simple_host")


def run(revision: int, key: int, command: str, *, slots: int = 1) -> Start:
    return Start(revision, key, 1, job_id="j", task_id=f"t{key}", slots=slots, spec=command.encode())


def processes_in(directory: Path) -> list[int]:
    """Processes whose working directory is below the directory."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/cwd").startswith(f"{directory}/"):
                    found.append(int(name))
            except OSError:
                continue
    return found


class Site:
    """A provider, the service its nodes talk to, and their directory."""

    def __init__(self, directory: Path, provider: LocalProvider, service: AgentService) -> None:
        self.directory = directory
        self.provider = provider
        self.service = service

    async def add(self, *node_ids: str) -> list[str]:
        requests = [NodeRequest(node_id, "p", SIZE, 4, True, "secret") for node_id in node_ids]
        answers = await self.provider.create(requests)
        assert all(isinstance(answer, NodeCreated) for answer in answers)
        return [answer.handle for answer in answers if isinstance(answer, NodeCreated)]

    async def status(self, handle: str, expected: NodeStatus, *, other_than: int = 0) -> None:
        """Wait for the status, under another host than that."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await self.provider.observe([handle]) == [expected] and not (
                    other_than and self._host_pid_now() in (None, other_than)
                ):
                    return
                await asyncio.sleep(0.02)

    def node(self, node_id: str) -> FakeControl:
        return self.service.nodes[node_id]

    @property
    def host_pid(self) -> int:
        pid = self._host_pid_now()
        assert pid is not None
        return pid

    def _host_pid_now(self) -> int | None:
        """None between one host, which takes its file with it, and the next."""
        try:
            return int(json.loads((self.directory / "host.json").read_text())["pid"])
        except FileNotFoundError:
            return None


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([SOURCE, str(REPOSITORY)]))
    service = AgentService()
    directory = tmp_path / "nodes"
    provider = LocalProvider(str(directory), command=SIMPLE_HOST)
    await provider.set_endpoint(await service.begin())
    yield Site(directory, provider, service)
    await provider.stop_host()
    await service.end()
    assert processes_in(directory) == []


async def test_a_node_comes_up_runs_a_task_and_goes(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    await site.status(handle, NodeStatus.UP)
    node.tell(run(1, 1, "/bin/false"))
    await until_true(lambda: len(node.reports) == 2)
    assert isinstance(node.reports[1], Started)
    ended = node.reports[2]
    assert isinstance(ended, Ended)
    assert ended.exit_code == 1
    node.tell(run(2, 2, "/bin/sleep 1000"))
    await until_true(lambda: len(processes_in(site.directory)) == 1)
    await site.provider.delete([handle])
    await site.status(handle, NodeStatus.GONE)
    assert processes_in(site.directory) == []
    await until_true(lambda: os.listdir(site.directory / "trash") == [])
    assert os.listdir(site.directory / "nodes") == []


async def test_one_process_hosts_all_nodes(site: Site) -> None:
    node_ids = [f"n{number}" for number in range(50)]
    await site.add(*node_ids)
    await until_true(lambda: all(site.node(node_id).parked == 1 for node_id in node_ids))
    threads = os.listdir(f"/proc/{site.host_pid}/task")
    assert len(threads) < 10


async def test_tasks_outlive_the_service_and_are_reported_to_the_next(site: Site) -> None:
    await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    fifo = site.directory / "go"
    os.mkfifo(fifo)
    node.tell(run(1, 1, f"/bin/cat {fifo}"))
    await until_true(lambda: len(node.reports) == 1)
    await site.service.end()
    with fifo.open("w"):
        pass
    await until_true(lambda: processes_in(site.directory) == [])
    await site.provider.set_endpoint(await site.service.begin())
    await until_true(lambda: node.sessions == 2)
    assert node.hellos[1].inventory == (HeldAttempt(1, 1, 1, ended=True),)
    await until_true(lambda: len(node.reports) == 2)
    assert isinstance(node.reports[2], Ended)


async def test_a_killed_host_is_started_again_and_goes_on(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/sleep 1000", slots=4), run(2, 2, "/bin/true"))
    await until_true(lambda: len(node.reports) == 1)
    first = site.host_pid
    os.kill(first, signal.SIGKILL)
    node.forget()
    await site.status(handle, NodeStatus.UP, other_than=first)
    await until_true(lambda: node.sessions == 2)
    await until_true(lambda: sum(isinstance(report, Ended) for report in node.reports.values()) == 2)
    ends = {report.key: report for report in node.reports.values() if isinstance(report, Ended)}
    assert ends[1].retryable
    assert ends[2].exit_code == 0


async def test_a_host_told_to_end_kills_its_tasks_and_they_run_again(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/sleep 1000"))
    await until_true(lambda: len(processes_in(site.directory)) == 1)
    await site.service.end()
    first = site.host_pid
    os.kill(first, signal.SIGTERM)
    await until_true(lambda: processes_in(site.directory) == [])
    await site.provider.set_endpoint(await site.service.begin())
    # The first one may be there for a moment after its tasks.
    await site.status(handle, NodeStatus.UP, other_than=first)
    await until_true(lambda: any(isinstance(report, Ended) for report in node.reports.values()))
    (ended,) = [report for report in node.reports.values() if isinstance(report, Ended)]
    assert ended.retryable
    # Nothing is known of how it ended when the host had to go before it could look.
    assert ended.exit_code in (-9, None)


async def test_nothing_remains_after_stop_host_even_of_a_host_that_hangs(site: Site) -> None:
    await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/sleep 1000"))
    await until_true(lambda: len(processes_in(site.directory)) == 1)
    host = site.host_pid
    os.kill(host, signal.SIGSTOP)
    await asyncio.to_thread(site.provider.kill_host)
    await until_true(lambda: processes_in(site.directory) == [])
    await until_true(lambda: start_time(host) is None)


async def test_a_directory_has_one_host(site: Site) -> None:
    await site.add("n1")
    await until_true(lambda: site.node("n1").sessions == 1)
    first = site.host_pid
    second = await asyncio.create_subprocess_exec(*SIMPLE_HOST, "--directory", str(site.directory))
    assert await asyncio.wait_for(second.wait(), PATIENCE_S) == 0
    assert site.host_pid == first
    os.kill(first, 0)


async def test_a_host_without_its_directory_ends(site: Site) -> None:
    await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/sleep 1000"))
    await until_true(lambda: len(processes_in(site.directory)) == 1)
    host = site.host_pid
    site.directory.rename(site.directory.with_name("elsewhere"))
    os.kill(host, signal.SIGUSR1)
    await until_true(lambda: start_time(host) is None)
    await until_true(lambda: processes_in(site.directory.with_name("elsewhere")) == [])


async def test_a_wish_that_makes_no_sense_is_left_alone(site: Site) -> None:
    broken = site.directory / "nodes" / "broken"
    broken.mkdir(parents=True)
    (broken / "node.json").write_text("{")
    other = site.directory / "nodes" / "other"
    other.mkdir()
    (other / "node.json").write_text(json.dumps({"node_id": "n9"}))
    await site.add("n1")
    await until_true(lambda: site.node("n1").sessions == 1)
    assert set(site.service.nodes) == {"n1"}


async def test_a_journal_that_makes_no_sense_is_put_aside(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/true"))
    await until_true(lambda: len(node.reports) == 2)
    first = site.host_pid
    os.kill(first, signal.SIGKILL)
    journal = site.directory / "nodes" / "n1" / "journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[len(whole) // 2 :] * 2)
    node.forget()
    await site.status(handle, NodeStatus.UP, other_than=first)
    await until_true(lambda: node.sessions == 2)


async def test_the_host_outlives_the_process_that_started_it(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "service.py"
    script.write_text(
        "import asyncio, os, signal, sys\n"
        "from millpond.providers.local import LocalProvider\n"
        "asyncio.run(LocalProvider(sys.argv[1], command=sys.argv[2:]).prepare())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(site.directory), *SIMPLE_HOST, stdout=subprocess.PIPE
    )
    # Its standard output is ours alone: a host that had inherited it would keep the pipe open.
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert output == b""
    assert process.returncode == -signal.SIGKILL
    await until_true((site.directory / "host.json").exists)
    host = site.host_pid
    await site.add("n1")
    await until_true(lambda: site.node("n1").sessions == 1)
    assert site.host_pid == host
    await site.provider.stop_host()
    assert start_time(host) is None


async def test_a_reboot_kills_all_tasks_and_keeps_the_disk(site: Site) -> None:
    await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/sleep 1000"))
    await until_true(lambda: len(processes_in(site.directory)) == 1)
    (site.directory / "nodes/n1/root/kept").touch()
    # What is told of it is dropped by a restart that comes first.
    await until_true(lambda: node.reports)
    node.tell(Restart(2))
    await until_true(lambda: len(node.hellos) == 2)
    first, second = node.hellos
    assert processes_in(site.directory) == []
    assert second.boot_time > first.boot_time
    assert second.disk_time == first.disk_time == first.boot_time
    assert second.inventory == ()
    assert (site.directory / "nodes/n1/root/kept").exists()
    assert [type(report) for report in node.reports.values()] == [Started]


async def test_a_reimage_gives_an_empty_disk_even_if_the_host_dies_over_it(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    root = site.directory / "nodes/n1/root"
    (root / "workitems").mkdir(exist_ok=True)
    (root / "workitems/old").touch()
    first = site.host_pid
    # It cannot move the disk away while the trash is no directory.
    trash = site.directory / "trash"
    trash.touch()
    node.tell(Restart(1, wipe=True))
    await until_true(lambda: "cannot be emptied" in (site.directory / "host.log").read_text())
    os.kill(first, signal.SIGKILL)
    await site.status(handle, NodeStatus.UP, other_than=first)
    assert (root / "workitems/old").exists()
    assert len(node.hellos) == 1
    trash.unlink()
    await until_true(lambda: len(node.hellos) == 2)
    assert not (root / "workitems").exists()
    assert node.hellos[1].disk_time == node.hellos[1].boot_time > node.hellos[0].disk_time
    assert node.hellos[1].inventory == ()


async def test_each_node_has_an_address_of_its_own(site: Site) -> None:
    await site.add("n1", "n2", "n3")
    await until_true(lambda: all(site.node(name).sessions == 1 for name in ("n1", "n2", "n3")))
    addresses = [site.node(name).hellos[0].ip_address for name in ("n1", "n2", "n3")]
    assert len(set(addresses)) == 3
    for address in addresses:
        assert ip_address(address).is_loopback
        with socket.create_server((address, 0)):
            pass
    # Asked for again, also by another life of the provider, it is the same.
    again = LocalProvider(str(site.directory), command=SIMPLE_HOST)
    await again.create([NodeRequest("n2", "p", SIZE, 4, True, "secret")])
    wish = json.loads((site.directory / "nodes/n2/node.json").read_text())
    assert wish["ip_address"] == addresses[1]


async def test_a_preempted_node_is_taken_away_with_all_it_has_and_comes_back_bare(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    node.tell(run(1, 1, "/bin/sleep 1000"))
    await until_true(lambda: len(processes_in(site.directory)) == 1)
    boot_time = node.hellos[0].boot_time
    await site.provider.preempt([handle])
    await site.status(handle, NodeStatus.PREEMPTED)
    assert processes_in(site.directory) == []
    assert os.listdir(site.directory / "nodes") == []
    (again,) = await site.add("n1")
    await until_true(lambda: node.sessions == 2)
    await site.status(again, NodeStatus.UP)
    assert node.hellos[1].inventory == ()
    assert node.hellos[1].boot_time > boot_time


async def test_a_preemption_outlives_the_host_that_was_to_carry_it_out(site: Site) -> None:
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    first = site.host_pid
    os.kill(first, signal.SIGKILL)
    await site.provider.preempt([handle])
    await site.status(handle, NodeStatus.PREEMPTED, other_than=first)
