"""`make bench`: one table from one run, everything on this machine, durable, authentication on.

Every rate of real work stands beside the machine's own limit taken in the same run. Results go to `out/bench.json`.
Nothing is deleted, neither between measurements nor at the end: a file system that has just freed many inodes creates
new ones slowly. `make clean` removes what is left under `out/`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import autoscale, autoscaled_pools, inputs, lab, staging
from bench.client import Connection, task_bodies
from bench.spawn import spawn_rate

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PARTS = ("adds", "lives", "real", "logs", "size", "autoscale", "autoscaled-pools", "lab", "inputs", "staging")


class Row(NamedTuple):
    """One figure."""

    name: str
    value: float
    unit: str
    bar: str = ""
    met: bool | None = None


class Service:
    """A service under measurement, in its own process."""

    def __init__(self, data_dir: Path, *, arguments: Sequence[str] = ()) -> None:
        self.data_dir = data_dir
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.endpoint = ""
        self.account = ""
        self.key = ""
        self.start_s = 0.0

    def start(self) -> None:
        begun = time.perf_counter()
        command = [sys.executable, str(HERE / "service.py"), "--data-dir", str(self.data_dir)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        self._process = subprocess.Popen(
            [*command, *self._arguments], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            raise RuntimeError(f"the service did not start: {line!r}")
        self.start_s = time.perf_counter() - begun
        self.endpoint = line.split()[1]
        exports = subprocess.run(
            [sys.executable, "-m", "millpond", "env", "--json", "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        values = json.loads(exports.stdout)
        self.account, self.key = values["AZURE_BATCH_ACCOUNT"], values["AZURE_BATCH_ACCESS_KEY"]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def cpu_s(self) -> float:
        return _cpu_s(self.pid)

    def host_cpu_s(self) -> float:
        """Of the agent of the local nodes."""
        return _cpu_s(json.loads((self.data_dir / "nodes" / "host.json").read_text(encoding="utf-8"))["pid"])

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
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connect(self) -> Connection:
        return Connection(self.endpoint, self.account, self.key)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def service(directory: Path, name: str, *, zero: bool = False, kept_logs: bool = True) -> Iterator[Service]:
    flags = (["--zero"] if zero else []) + ([] if kept_logs else ["--no-kept-logs"])
    with _serving(Service(directory / name, arguments=flags)) as running:
        yield running


def input_service(directory: Path, name: str, cache_mib: int) -> contextlib.AbstractContextManager[Service]:
    return _serving(Service(directory / name, arguments=["--input-cache-mib", str(cache_mib)]))


@contextlib.contextmanager
def _serving(running: Service) -> Iterator[Service]:
    running.start()
    try:
        yield running
    finally:
        running.stop()


async def add_all(running: Service, job_id: str, bodies: list[bytes], connections: int = 4) -> float:
    """Send the Add Task Collection calls over a few connections; seconds it took."""
    queue = list(reversed(bodies))

    async def sender(connection: Connection) -> None:
        while queue:
            await connection.request("POST", f"/jobs/{job_id}/addtaskcollection", queue.pop())

    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(running.connect()) for _ in range(connections)]
        begun = time.perf_counter()
        await asyncio.gather(*(sender(connection) for connection in opened))
        return time.perf_counter() - begun


async def measure_adds(directory: Path, tasks: int, repeats: int) -> list[Row]:
    with service(directory, "adds") as running:
        rates = []
        async with running.connect() as connection:
            await connection.json("POST", "/jobs", {"id": "warm", "poolInfo": {"poolId": "none"}})
            await add_all(running, "warm", task_bodies(0, 2000, "/bin/true"))
            for repeat in range(repeats):
                await connection.json("POST", "/jobs", {"id": f"adds{repeat}", "poolInfo": {"poolId": "none"}})
                took_s = await add_all(running, f"adds{repeat}", task_bodies(0, tasks, "/bin/echo hello"))
                counts = await connection.counts(f"adds{repeat}")
                assert counts["active"] == tasks, counts
                rates.append(tasks / took_s)
        rate = statistics.median(rates)
        return [Row("durable adds over HTTP, 100 per call", rate, "tasks/s", "≥ 20,000", rate >= 20_000)]


async def measure_lives(directory: Path, tasks: int, repeats: int) -> list[Row]:
    with service(directory, "lives", zero=True) as running:
        rates = []
        async with running.connect() as connection:
            await connection.add_pool("zero", nodes=10, slots=4)
            await connection.wait_for_nodes("zero", 10)
            for repeat in range(repeats):
                job_id = f"lives{repeat}"
                await connection.add_job(job_id, "zero")
                begun = time.perf_counter()
                await add_all(running, job_id, task_bodies(0, tasks, "/bin/true"), connections=2)
                counts = await connection.wait_completed(job_id, tasks, poll_s=0.05)
                rates.append(tasks / (time.perf_counter() - begun))
                assert counts["succeeded"] == tasks, counts
        rate = statistics.median(rates)
        return [Row("full lives, simulated nodes that do no work", rate, "tasks/s", "≥ 5,000", rate >= 5_000)]


async def measure_real(directory: Path, tasks: int, repeats: int) -> list[Row]:
    limits, rates = [], []
    with service(directory, "real") as running:
        async with running.connect() as connection:
            await connection.add_pool("real", nodes=2, slots=1)
            await connection.wait_for_nodes("real", 2)
            await connection.add_job("warm", "real")
            await add_all(running, "warm", task_bodies(0, 200, "/bin/true"))
            await connection.wait_completed("warm", 200)
            for repeat in range(repeats):
                spawned = directory / f"spawned{repeat}"
                spawned.mkdir()
                limits.append(spawn_rate(tasks, str(spawned)))
                job_id = f"real{repeat}"
                await connection.add_job(job_id, "real")
                begun = time.perf_counter()
                await add_all(running, job_id, task_bodies(0, tasks, "/bin/true"), connections=2)
                counts = await connection.wait_completed(job_id, tasks, poll_s=0.05)
                rates.append(tasks / (time.perf_counter() - begun))
                assert counts["succeeded"] == tasks, counts
            await check_files(connection)
            latencies = await measure_latency(connection)
    limit, rate = statistics.median(limits), statistics.median(rates)
    ratio = statistics.median(r / s for r, s in zip(rates, limits, strict=True))
    p99 = latencies[int(len(latencies) * 0.99)]
    return [
        Row("this machine's posix_spawn limit, two in flight", limit, "processes/s"),
        Row("real /bin/true tasks, REST to files and back", rate, "tasks/s"),
        Row("… of the spawn limit", ratio * 100, "%", "≥ 50 %", ratio >= 0.5),
        Row("add → running on an idle node, p50", statistics.median(latencies) * 1000, "ms"),
        Row("add → running on an idle node, p99", p99 * 1000, "ms", "≤ 100 ms", p99 <= 0.1),
    ]


async def measure_logs(directory: Path, tasks: int, repeats: int) -> list[Row]:
    """What it costs that logs are kept: the same tasks with and without, in turn. The rate is what counts; on a machine
    that has other things to do, processor time says it more quietly."""
    rows = []
    with (
        service(directory, "logs-kept") as kept,
        service(directory, "logs-not-kept", kept_logs=False) as plain,
    ):
        for running in (kept, plain):
            async with running.connect() as connection:
                await connection.add_pool("real", nodes=2, slots=1)
                await connection.wait_for_nodes("real", 2)
        for name, command in (("no output", "/bin/true"), ("a line of output", "/bin/echo hello")):
            rates: dict[Service, list[float]] = {kept: [], plain: []}
            costs: dict[Service, list[float]] = {kept: [], plain: []}
            for repeat in range(repeats):
                for running in (kept, plain) if repeat % 2 else (plain, kept):
                    job_id = f"{command.rpartition('/')[2].split()[0]}{repeat}"
                    rate, cost = await _run_of_tasks(running, job_id, command, tasks)
                    rates[running].append(rate)
                    costs[running].append(cost)
            ratio = statistics.median(a / b for a, b in zip(rates[kept], rates[plain], strict=True))
            cost = statistics.median(a / b for a, b in zip(costs[kept], costs[plain], strict=True))
            rows += [
                Row(f"real tasks with {name}, logs kept", statistics.median(rates[kept]), "tasks/s"),
                Row("… of the rate without", ratio * 100, "%", "≥ 95 %", ratio >= 0.95),
                Row("… processor time of that without", cost * 100, "%"),
            ]
    return rows


async def _run_of_tasks(running: Service, job_id: str, command: str, tasks: int) -> tuple[float, float]:
    """(tasks a second, seconds of processor time of service and agent)"""
    async with running.connect() as connection:
        await connection.add_job(job_id, "real")
        cpu_s = running.cpu_s() + running.host_cpu_s()
        begun = time.perf_counter()
        await add_all(running, job_id, task_bodies(0, tasks, command), connections=2)
        await connection.wait_completed(job_id, tasks, poll_s=0.05)
        rate = tasks / (time.perf_counter() - begun)
        # What is kept is on its way for a moment longer.
        await asyncio.sleep(1.5)
        return rate, running.cpu_s() + running.host_cpu_s() - cpu_s


async def check_files(connection: Connection) -> None:
    """The way back: a task's output is read through the API."""
    await connection.add_job("files", "real")
    body = json.dumps({"id": "hello", "commandLine": "/bin/echo hello"}).encode()
    await connection.request("POST", "/jobs/files/tasks", body)
    await connection.wait_completed("files", 1)
    assert await connection.request("GET", "/jobs/files/tasks/hello/files/stdout.txt") == b"hello\n"


async def measure_latency(connection: Connection, samples: int = 300) -> list[float]:
    """Seconds from a task's addition to its start, by the service's own times, one at a time on an idle pool; sorted."""
    await connection.add_job("latency", "real")
    for number in range(samples):
        body = json.dumps({"id": f"t{number}", "commandLine": "/bin/true"}).encode()
        await connection.request("POST", "/jobs/latency/tasks", body)
        await connection.wait_completed("latency", number + 1, poll_s=0.002)
    latencies = []
    for number in range(samples):
        task = await connection.json("GET", f"/jobs/latency/tasks/t{number}")
        info = task["executionInfo"]
        assert isinstance(info, dict)
        latencies.append(_seconds(info["startTime"]) - _seconds(task["creationTime"]))
    return sorted(latencies)


def _seconds(text: object) -> float:
    whole, _, fraction = str(text).rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")


async def measure_size(directory: Path, tasks: int) -> list[Row]:
    with service(directory, "size") as running:
        async with running.connect() as connection:
            before = running.rss_bytes()
            await connection.json("POST", "/jobs", {"id": "big", "poolInfo": {"poolId": "none"}})
            pages_first = await _page_times(connection)
            took_s = 0.0
            for first in range(0, tasks, 100_000):
                took_s += await add_all(running, "big", task_bodies(first, min(100_000, tasks - first), "/bin/true"))
            counts = await connection.counts("big")
            assert counts["active"] == tasks, counts
            grown = running.rss_bytes() - before
            pages = await _page_times(connection)
        running.kill()
        running.start()
        restart_s = running.start_s
        async with running.connect() as connection:
            counts = await connection.counts("big")
            assert counts["active"] == tasks, counts
    del pages_first
    return [
        Row(f"adds while growing to {tasks:,} tasks", tasks / took_s, "tasks/s"),
        Row("memory per live task (process growth)", grown / tasks, "bytes"),
        Row("list page of 1,000 tasks, median", statistics.median(pages) * 1000, "ms"),
        Row(f"kill -9 to ready again with {tasks:,} live tasks", restart_s, "s"),
    ]


async def _page_times(connection: Connection, pages: int = 20) -> list[float]:
    times, query = [], {"maxresults": "1000"}
    for _ in range(pages):
        begun = time.perf_counter()
        page = await connection.json("GET", "/jobs/big/tasks", **query)
        times.append(time.perf_counter() - begun)
        link = page.get("odata.nextLink")
        if not isinstance(link, str):
            break
        query["$skiptoken"] = link.partition("skiptoken=")[2].partition("&")[0]
    return times


def workspace() -> Path:
    """A new directory. It stays (`make clean` removes it): what ran right after its removal would be slowed by that."""
    base = ROOT / "out"
    base.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="bench-", dir=base))


def machine() -> dict[str, object]:
    return {
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def show(rows: list[Row]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"\n{'measured':{width}}  {'value':>12}  {'unit':<11}  {'bar':<9}")
    for row in rows:
        verdict = "" if row.met is None else ("met" if row.met else "MISSED")
        print(f"{row.name:{width}}  {row.value:>12,.1f}  {row.unit:<11}  {row.bar:<9}  {verdict}")


async def main() -> int:
    parser = argparse.ArgumentParser(description="Measure Millpond on this machine.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that everything runs")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--json", type=Path, default=ROOT / "out" / "bench.json")
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    chosen = arguments.only or PARTS
    rows: list[Row] = []
    directory = workspace()
    if "adds" in chosen:
        rows += await measure_adds(directory, 50_000 // scale, 3)
    if "lives" in chosen:
        rows += await measure_lives(directory, 30_000 // scale, 3)
    if "real" in chosen:
        rows += await measure_real(directory, 4_000 // scale, 3)
    if "logs" in chosen:
        rows += await measure_logs(directory, 4_000 // scale, 2 if arguments.quick else 5)
    if "size" in chosen:
        rows += await measure_size(directory, 1_000_000 // scale)
    if "autoscale" in chosen:
        rows += [Row(*figure) for figure in autoscale.figures(300 // scale)]
    if "autoscaled-pools" in chosen:
        pools, rounds = autoscaled_pools.POOLS // scale, 1 if arguments.quick else 2
        # It runs an event loop of its own.
        measured = await asyncio.to_thread(lambda: list(autoscaled_pools.figures(directory, pools, rounds)))
        rows += [Row(*figure) for figure in measured]
    if "inputs" in chosen:
        few = arguments.quick
        measured = await inputs.figures(directory, input_service, 1 if few else 3, 4 if few else inputs.TASKS)
        rows += [Row(*figure) for figure in measured]
    if "lab" in chosen:
        rows += [Row(*figure) for figure in lab.figures(30.0 / scale)]
    if "staging" in chosen:
        big_mib, repeats = (32, 1) if arguments.quick else (256, 5)
        rows += [Row(*figure) async for figure in staging.figures(directory, big_mib, 1000 // scale, repeats)]
    show(rows)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), "rows": [row._asdict() for row in rows]}
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
