"""Resource files and their cache on real nodes, from real servers: crashes, restarts, full disks, users."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from azure.batch import BatchClient
from azure.batch import models as m

from millpond.agent.base import NodeFacts, Outcome
from millpond.agent.content_cache import CacheSettings, ContentCache
from millpond.agent.executors.process import ProcessExecutor
from millpond.agent.runner.task_runner import TaskRunner
from millpond.protocol.messages import Ended, Restart, Start
from millpond.providers.base import NodeRequest, NodeStatus, VmSize
from millpond.providers.local import LocalProvider
from millpond.staging.http import HttpStaging
from millpond.staging.retries import Retries
from tests.process import isolated
from tests.process.agent_service import AgentService
from tests.process.test_host import SOURCE, Site
from tests.process.test_up import client_of, make_pool
from tests.servers.http import Answer, HttpServer, file
from tests.waiting import PATIENCE_S, until, until_true

MIB = 1 << 20
SIGNED = "sv=1&se=2030-01-01&sr=b&sp=r&sig={}"


def start(revision: int, key: int, command: str, files: list[dict[str, str]], *, attempt: int = 1) -> Start:
    spec = msgspec.json.encode({"commandLine": command, "resourceFiles": files})
    return Start(revision, key, attempt, "j", f"t{key}", 1, spec)


def half(data: bytes, go_on: Callable[[], bool]) -> Answer:
    """The first half of the bytes at once, the rest when told."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(data)), "ETag": '"1"'})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        while not go_on():
            await asyncio.sleep(0.005)
        await response.write(data[len(data) // 2 :])
        return response

    return answer


def downloads(server: HttpServer, path: str) -> int:
    """How often the whole of it was fetched: not those that were told it is still the same."""
    asked = [one for one in server.requests if one.path.partition("?")[0] == path]
    return sum("If-None-Match" not in one.headers for one in asked)


# --- a host's process -----------------------------------------------------------------------------------------------


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("PYTHONPATH", SOURCE)
    service = AgentService()
    directory = tmp_path / "nodes"
    provider = LocalProvider(str(directory), settings={"isolation": "none", "input_cache_mib": 64})
    await provider.set_endpoint(await service.begin())
    yield Site(directory, provider, service)
    await provider.stop_host()
    await service.end()


def task(site: Site, node_id: str, key: int) -> Path:
    return site.directory / f"nodes/{node_id}/root/workitems/j/job-1/t{key}"


async def ended(site: Site, node_id: str, revision: int) -> Ended:
    """The end of the attempt among a node's reports."""

    def find() -> Ended | None:
        reports = site.node(node_id).reports.values()
        return next((r for r in reports if isinstance(r, Ended) and (r.key, r.attempt) == attempt), None)

    attempt = (revision // 10, revision % 10)
    await until_true(lambda: find() is not None)
    found = find()
    assert found is not None
    return found


async def test_one_download_for_the_nodes_of_a_pool_and_for_lives_to_come(site: Site, http_server: HttpServer) -> None:
    data = os.urandom(300_000)
    http_server.on("/c/in", file(data, ETag='"1"'))
    handles = await site.add("n1", "n2")
    other = [NodeRequest("n3", "other", VmSize("local", 2, 1024, 0.0), 4, True, "secret")]
    site.node("n3").pool_id = "other"
    await site.provider.create(other)
    await until_true(lambda: all(site.node(name).sessions == 1 for name in ("n1", "n2", "n3")))
    expected = (await asyncio.to_thread(subprocess.run, ["cksum"], input=data, capture_output=True)).stdout
    revision = 0

    async def run(node_id: str, key: int) -> None:
        nonlocal revision
        revision += 1
        url = f"{http_server.url}/c/in?{SIGNED.format(key)}"
        # What it does to its copy is nobody else's business.
        command = "/bin/sh -c 'cksum < in; echo spoiled > in'"
        site.node(node_id).tell(start(revision, key, command, [{"httpUrl": url, "filePath": "in"}]))
        assert (await ended(site, node_id, key * 10 + 1)).exit_code == 0
        assert (task(site, node_id, key) / "stdout.txt").read_bytes() == expected

    for key in (1, 2):
        await run("n1", key)
        await run("n2", key + 10)
    assert downloads(http_server, "/c/in") == 1
    # Another pool's is another's.
    await run("n3", 3)
    assert downloads(http_server, "/c/in") == 2
    # The next life of the agent has it still.
    before = site.host_pid
    os.kill(before, signal.SIGKILL)
    await site.status(handles[0], NodeStatus.UP, other_than=before)
    await until_true(lambda: len(site.node("n1").hellos) == 2)
    await run("n1", 4)
    assert downloads(http_server, "/c/in") == 2
    # A disk made anew has nothing.
    site.node("n1").tell(Restart(99, wipe=True))
    await until_true(lambda: len(site.node("n1").hellos) == 3)
    assert not (site.directory / "cache/p").exists()
    assert (site.directory / "cache/other").exists()
    revision = 99
    await run("n1", 5)
    assert downloads(http_server, "/c/in") == 3
    # And with the last node of a pool goes what it has.
    await site.provider.delete(handles)
    await until_true(lambda: not (site.directory / "cache/p").exists())
    assert [path.name for path in (site.directory / "cache").iterdir() if path.is_dir()] == ["other"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_host_ends_in_the_middle_of_a_download(
    site: Site, http_server: HttpServer, number: signal.Signals
) -> None:
    data, go_on = os.urandom(4 * MIB), False
    http_server.on("/c/big", half(data, lambda: go_on))
    http_server.on("/c/small", file(b"small", ETag='"2"'))
    (handle,) = await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    files = [{"httpUrl": f"{http_server.url}/c/{name}", "filePath": f"d/{name}"} for name in ("small", "big")]
    node.tell(start(1, 1, "/bin/sh -c 'cat d/big | wc -c'", files))
    inputs = site.directory / "nodes/n1/root/volatile/inputs"
    await until_true(lambda: any(path.stat().st_size for path in inputs.rglob("*.part")))
    assert os.listdir(task(site, "n1", 1) / "wd") == []
    before = site.host_pid
    os.kill(before, number)
    go_on = True
    await site.status(handle, NodeStatus.UP, other_than=before)
    lost = await ended(site, "n1", 11)
    assert lost.exit_code is None
    assert lost.retryable or number is signal.SIGTERM
    await until_true(lambda: node.sessions == 2)
    node.tell(start(9, 1, "/bin/sh -c 'cat d/big | wc -c'", files, attempt=2))
    outcome = await ended(site, "n1", 12)
    assert (outcome.exit_code, outcome.failure) == (0, None)
    assert (task(site, "n1", 1) / "stdout.txt").read_text().strip() == str(len(data))
    assert os.listdir(inputs) == []
    assert not [name for name in os.listdir(site.directory / "cache/p") if name.startswith("new-")]


async def test_a_host_leaks_no_descriptor(site: Site, http_server: HttpServer) -> None:
    http_server.on("/c/in", file(os.urandom(300_000), ETag='"1"'))
    http_server.on("/c/bare", file(os.urandom(300_000)))
    await site.add("n1")
    node = site.node("n1")
    await until_true(lambda: node.sessions == 1)
    good = [{"httpUrl": f"{http_server.url}/c/{name}", "filePath": name} for name in ("in", "bare")]
    bad = [*good, {"httpUrl": f"{http_server.url}/c/none", "filePath": "none"}]

    async def run(keys: range) -> None:
        for key in keys:
            node.tell(start(key, key, "/bin/true", bad if key % 2 else good))
        for key in keys:
            failure = (await ended(site, "n1", key * 10 + 1)).failure
            assert ("" if failure is None else failure.code) == ("BlobNotFound" if key % 2 else "")

    def files_open() -> list[str]:
        """Sockets come and go with idle connections."""
        found = []
        for name in os.listdir(f"/proc/{site.host_pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{site.host_pid}/fd/{name}"))
            except FileNotFoundError:
                continue
        return [name for name in found if name.startswith("/")]

    await run(range(1, 11))
    before = Counter(files_open())
    await run(range(11, 51))
    await until_true(lambda: not Counter(files_open()) - before, "what was opened is closed")


# --- a disk that fills up -------------------------------------------------------------------------------------------


class SmallNode:
    """A node with a cache on a disk of its own."""

    def __init__(self, disk: Path, tmp_path: Path) -> None:
        self.root = disk / "root"
        self.executor = ProcessExecutor(str(tmp_path))
        self.staging = HttpStaging(retries=Retries(backoff_s=0.01))
        self.cache = ContentCache(str(disk / "cache"), CacheSettings(input_cache_mib=16))
        self.cache.open(shutil.rmtree)
        facts = NodeFacts("n", "p", "a", "https://a", is_dedicated=True, root=str(self.root))
        self.runner = TaskRunner(facts, self.executor, self.staging, cache=self.cache)

    async def run(self, key: int, files: list[dict[str, str]]) -> Outcome:
        async with asyncio.timeout(PATIENCE_S):
            return await self.runner.run(start(key, key, "/bin/true", files), lambda at: None, resumed=False)

    async def close(self) -> None:
        await self.runner.close()
        await self.executor.shutdown()
        await self.staging.close()


@pytest.fixture
def disk(tmp_path: Path, leave_out: Callable[[str], None]) -> Iterator[Path]:
    """A file system of 32 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        leave_out("only root may mount a file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        leave_out(f"no file system may be mounted: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk(disk: Path, tmp_path: Path, http_server: HttpServer) -> None:
    node = SmallNode(disk, tmp_path)
    try:
        for number in range(3):
            http_server.on(f"/c/{number}", file(os.urandom(3 * MIB), ETag=f'"{number}"'))
        http_server.on("/c/fits", file(os.urandom(15 * MIB), ETag='"f"'))
        http_server.on("/c/huge", file(os.urandom(24 * MIB), ETag='"h"'))
        http_server.on("/c/again", file(os.urandom(MIB), ETag='"a"'))
        old = [{"httpUrl": f"{http_server.url}/c/{number}", "filePath": str(number)} for number in range(3)]
        assert (await node.run(1, old)).failure is None
        assert node.cache.used > 9 * MIB
        # 14 MiB are free, and there would be more without the cache.
        assert shutil.disk_usage(disk).free < 15 * MIB
        outcome = await node.run(2, [{"httpUrl": f"{http_server.url}/c/fits", "filePath": "fits"}])
        assert outcome.failure is None
        assert (node.root / "workitems/j/job-1/t2/wd/fits").stat().st_size == 15 * MIB
        assert node.cache.used == 0
        free = shutil.disk_usage(disk).free
        outcome = await node.run(3, [{"httpUrl": f"{http_server.url}/c/huge", "filePath": "d/huge"}])
        assert outcome.failure is not None
        assert outcome.failure.code == "DiskFull"
        assert {d.name: d.value for d in outcome.failure.details}["FilePath"] == "d/huge"
        assert os.listdir(node.root / "workitems/j/job-1/t3/wd") == []
        assert os.listdir(node.root / "volatile/inputs") == []
        # What it had of it is given back at once.
        assert shutil.disk_usage(disk).free > free - MIB
        # A copy that does not fit is like a download that does not.
        again = [{"httpUrl": f"{http_server.url}/c/again", "filePath": "a"}]
        assert (await node.run(4, again)).failure is None
        filler = disk / "filler"
        with filler.open("wb") as out:
            out.write(bytes(shutil.disk_usage(disk).free - MIB // 2))
        outcome = await node.run(5, again)
        assert outcome.failure is not None
        assert outcome.failure.code == "DiskFull"
        filler.unlink()
        assert (await node.run(6, again)).failure is None
    finally:
        await node.close()


# --- users ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(isolated.why_not_here()), reason=f"does not apply here: {isolated.why_not_here()}")
async def test_users_do_not_get_at_the_cache(http_server: HttpServer) -> None:
    place = isolated.open_directory()
    groups = os.getgroups()
    os.setgroups([])
    machine = isolated.Machine(place, msgspec.structs.replace(isolated.SETTINGS, limits="none"))
    staging = HttpStaging()
    try:
        data = os.urandom(300_000)
        url = http_server.on("/c/in", file(data, ETag='"1"'))
        cache = ContentCache(f"{machine.host}/cache", CacheSettings(input_cache_mib=64))
        cache.open(shutil.rmtree)
        node = machine.node()
        facts = NodeFacts("n1", "p", "a", "https://a", is_dedicated=True, root=str(node.root))
        node.runner = TaskRunner(facts, machine.executor, staging, isolation=node.isolation, cache=cache)
        files = [{"httpUrl": url, "filePath": "d/in", "fileMode": "0640"}]
        script = 'ls {0} 2>&1; cat {0}/p/* 2>&1; id -u; stat -c "%u %h %a" d/in; cksum < d/in; echo x > d/in'
        script = script.format(f"{machine.host}/cache")
        seen = []
        for task_id in ("a", "b"):
            for identity in ({"userIdentity": isolated.OWN}, {}):
                printed = await node.output(f"{task_id}{len(identity)}", script, resourceFiles=files, **identity)
                lines = printed.splitlines()
                assert "Permission denied" in lines[0]
                assert "ermission denied" in lines[1] or "No such file" in lines[1]
                # Its own, under no other name, and as it was fetched.
                assert lines[3] == f"{lines[2]} 1 640"
                seen.append(lines[4])
        assert len(set(seen)) == 1
        assert downloads(http_server, "/c/in") == 1
    finally:
        await staging.close()
        await machine.close()
        os.setgroups(groups)
        shutil.rmtree(place)


# --- a service's own storage, and others' ---------------------------------------------------------------------------


def test_the_services_own_storage(service: Any, tmp_path: Path) -> None:
    storage = service.data_dir / "storage" / "inputs"
    (storage / "d/deep").mkdir(parents=True)
    names = [f"d/{number:03}" for number in range(300)] + ["d/deep/é x", "other"]
    for name in names:
        (storage / name).write_text(f"content of {name}\n")
    with client_of(service) as client:
        make_pool(client, 2)
        run_tasks(client, ["a", "b", "c", "d"])
        for number in range(4):
            text = b"".join(client.download_task_file("j", "abcd"[number], "stdout.txt")).decode()
            assert text.splitlines() == ["301", "content of d/deep/é x", "content of other"]
    kept = [path for path in (service.data_dir / "nodes/cache/p").iterdir() if path.is_file()]
    assert len(kept) == len(names)


def run_tasks(client: BatchClient, task_ids: list[str]) -> None:
    files = [
        m.ResourceFile(auto_storage_container_name="inputs", blob_prefix="d/", file_path="in"),
        m.ResourceFile(auto_storage_container_name="inputs", blob_prefix="other", file_mode="0444"),
    ]
    command = "/bin/sh -c 'find in -type f | wc -l; cat \"in/d/deep/é x\" other; rm -f other; echo x > in/d/000'"
    for task_id in task_ids:
        client.create_task("j", m.BatchTaskCreateOptions(id=task_id, command_line=command, resource_files=files))
    until(lambda: client.get_job_task_counts("j").task_counts.succeeded, lambda count: count == len(task_ids))


async def test_a_container_of_azurite(azurite: Any, tmp_path: Path) -> None:
    container = azurite.new_container()
    for name in ("a", "d/b", "d/e/c"):
        await asyncio.to_thread(azurite.put, container, name, name.encode() * 1000)
    node = SmallNode(tmp_path, tmp_path)
    try:
        for key in (1, 2):
            url = azurite.container_url(container, "rl", valid_s=3600 + key)
            outcome = await node.run(key, [{"storageContainerUrl": url, "filePath": "in"}])
            assert outcome.failure is None
            wd = node.root / f"workitems/j/job-1/t{key}/wd"
            found = {str(path.relative_to(wd)): path.read_bytes() for path in wd.rglob("*") if path.is_file()}
            assert found == {f"in/{name}": name.encode() * 1000 for name in ("a", "d/b", "d/e/c")}
        # All of it came from the cache but the one that shows that it may be read.
        cached = list((tmp_path / "cache/p").iterdir())
        assert len(cached) == 3
        before = {path: path.stat().st_mtime_ns for path in cached}
        await asyncio.to_thread(azurite.put, container, "d/b", b"changed")
        url = azurite.container_url(container, "rl")
        assert (await node.run(3, [{"storageContainerUrl": url}])).failure is None
        assert (node.root / "workitems/j/job-1/t3/wd/d/b").read_bytes() == b"changed"
        kept = [path for path in (tmp_path / "cache/p").iterdir() if path in before]
        assert len(kept) == 2
        # Who may list only is told so.
        url = azurite.container_url(container, "l")
        outcome = await node.run(4, [{"storageContainerUrl": url}])
        assert outcome.failure is not None
        assert outcome.failure.code == "BlobAccessDenied"
        assert os.listdir(node.root / "workitems/j/job-1/t4/wd") == []
    finally:
        await node.close()


async def test_a_thousand_files(tmp_path: Path, http_server: HttpServer) -> None:
    """Whoever lists them, and fetches each, has few connections and little memory for it."""
    names = [f"f/{number % 10}/{number}" for number in range(1000)]
    blobs = [{"name": name, "size": 1024, "etag": f'"{number}"'} for number, name in enumerate(names)]

    async def listing(request: web.Request) -> web.StreamResponse:
        first = int(request.query.get("marker") or 0)
        page = blobs[first : first + 250]
        more = str(first + 250) if first + 250 < len(blobs) else None
        return web.Response(body=msgspec.json.encode({"blobs": page, "next": more}), content_type="application/json")

    http_server.on("/c", listing)
    most, now = 0, 0

    def blob(number: int) -> Answer:
        answer = file(b"%04d" % number * 256, ETag=f'"{number}"')

        async def counted(request: web.Request) -> web.StreamResponse:
            nonlocal most, now
            now += 1
            most = max(most, now)
            try:
                return await answer(request)
            finally:
                now -= 1

        return counted

    for number, name in enumerate(names):
        http_server.on(f"/c/{name}", blob(number))
    node = SmallNode(tmp_path, tmp_path)
    try:
        for key in (1, 2):
            outcome = await node.run(key, [{"storageContainerUrl": f"{http_server.url}/c?{SIGNED.format(key)}"}])
            assert outcome.failure is None
            wd = node.root / f"workitems/j/job-1/t{key}/wd"
            assert {name: (wd / name).read_bytes() for name in names} == {
                name: b"%04d" % number * 256 for number, name in enumerate(names)
            }
        assert most <= 16
        # 4 pages of a listing each time, every file once, and one more that shows that they may be read.
        assert len(http_server.requests) == 4 + 1000 + 4 + 1
    finally:
        await node.close()
