"""Inputs of tasks: many small files for one task, and one big file for many tasks, with the cache and without.

The files are in the service's own storage; rates are from adding a task to its completion. The limit the many files are
held against is what the same client fetches from the same service in the same run, with as many at a time, when it does
nothing else. A file that is to be cached is made twice, and making files is what costs: hence a bar below the half.
"""

import asyncio
import base64
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from bench.client import Connection
from millpond.staging.auto_storage import sign_url
from millpond.staging.http import HttpStaging

Figure: TypeAlias = tuple[str, float, str, str, bool | None]
"""The fields of a row: name, value, unit, bar, whether it is met."""

SMALL = 1000
BIG_MIB = 64
TASKS = 20
_AT_A_TIME = 16


class Service(Protocol):
    data_dir: Path
    endpoint: str
    account: str
    key: str

    def connect(self) -> Connection: ...


Start: TypeAlias = Callable[[Path, str, int], AbstractContextManager[Service]]
"""(directory, name, MiB of the cache; -1 as by default)"""


async def figures(directory: Path, start: Start, repeats: int, tasks: int) -> list[Figure]:
    """All rows."""
    bare, cold, warm = [], [], []
    with start(directory, "inputs", -1) as running:
        _put(running, "small", {f"d{number % 10}/{number}": os.urandom(1024) for number in range(SMALL)})
        _put(running, "big", {"one": os.urandom(BIG_MIB << 20)})
        async with _ready(running) as connection:
            for repeat in range(repeats):
                _put(
                    running, f"small{repeat}", {f"d{number % 10}/{number}": os.urandom(1024) for number in range(SMALL)}
                )
                bare.append(SMALL / await _fetch_all(running, directory / f"bare{repeat}", f"small{repeat}"))
                cold.append(SMALL / await _run(connection, f"cold{repeat}", f"small{repeat}", 1))
                warm.append(SMALL / await _run(connection, f"warm{repeat}", f"small{repeat}", 1))
            with_cache = await _run(connection, "big", "big", tasks)
    with start(directory, "uncached", 0) as running:
        _put(running, "big", {"one": os.urandom(BIG_MIB << 20)})
        _put(running, "small", {f"d{number % 10}/{number}": os.urandom(1024) for number in range(SMALL)})
        async with _ready(running) as connection:
            straight = SMALL / statistics.median(
                [await _run(connection, f"straight{repeat}", "small", 1) for repeat in range(repeats)]
            )
            without = await _run(connection, "big", "big", tasks)
    limit, fetched = statistics.median(bare), statistics.median(cold)
    share = statistics.median(one / most for one, most in zip(cold, bare, strict=True))
    again = statistics.median(second / first for first, second in zip(cold, warm, strict=True))
    return [
        (f"{SMALL:,} files of 1 KiB, fetched and nothing else", limit, "files/s", "", None),
        ("… as a task's inputs, add to completion", fetched, "files/s", "", None),
        ("… of that limit", share * 100, "%", "≥ 40 %", share >= 0.4),
        ("… without a cache", straight, "files/s", "", None),
        ("… once more, out of the cache, against the first time", again, "times", "", None),
        (f"one file of {BIG_MIB} MiB for {tasks} tasks, without a cache", without, "s", "", None),
        ("… with the cache", with_cache, "s", "", None),
        ("… so many times as fast", without / with_cache, "times", "≥ 1", without >= with_cache),
    ]


def _put(running: Service, container: str, blobs: dict[str, bytes]) -> None:
    for name, data in blobs.items():
        path = running.data_dir / "storage" / container / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@asynccontextmanager
async def _ready(running: Service) -> AsyncIterator[Connection]:
    async with running.connect() as connection:
        await connection.add_pool("p", nodes=1, slots=4)
        await connection.wait_for_nodes("p", 1)
        await connection.add_job("j", "p")
        yield connection


async def _run(connection: Connection, job_id: str, container: str, tasks: int) -> float:
    """Seconds that so many tasks take which all are given the files of the container."""
    await connection.add_job(job_id, "p")
    begun = time.perf_counter()
    for number in range(tasks):
        body = {
            "id": f"t{number}",
            "commandLine": "/bin/true",
            "resourceFiles": [{"autoStorageContainerName": container}],
        }
        await connection.request("POST", f"/jobs/{job_id}/tasks", json.dumps(body).encode())
    counts = await connection.wait_completed(job_id, tasks, poll_s=0.01)
    took_s = time.perf_counter() - begun
    assert counts["succeeded"] == tasks, counts
    return took_s


async def _fetch_all(running: Service, directory: Path, container: str) -> float:
    """Seconds to fetch a container's files, so many at a time as a node does."""
    os.mkdir(directory)
    url = sign_url(
        running.endpoint, running.account, base64.b64decode(running.key), container, None, "rl", time.time() + 3600
    )
    staging = HttpStaging()
    begun = time.perf_counter()
    waiting = iter(enumerate(await staging.list(url, "")))

    async def fetch() -> None:
        for number, remote in waiting:
            await staging.fetch(staging.file_url(url, remote.name), f"{directory}/{number}")

    await asyncio.gather(*(fetch() for _ in range(_AT_A_TIME)))
    took_s = time.perf_counter() - begun
    await staging.close()
    return took_s
