"""Inputs of tasks: many small files for one task, and one big file for many tasks, with the cache and without.

The files are in the service's own storage; rates are from adding a task to its completion. The limit the many files are
held against is what the same client fetches from the same service in the same run, with as many at a time, when it does
nothing else. A file that is to be cached is made twice, and making files is what costs: hence a bar below the half.
"""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bench.client import Connection
from bench.figures import Outcome, figure, ratios
from bench.served import Service
from bench.workload import Site, Sizes, Workload
from millpond.staging.auto_storage import sign_url
from millpond.staging.http import HttpStaging

_AT_A_TIME = 16


class InputSizes(NamedTuple):
    small: int
    """Files of 1 KiB."""
    big_mib: int
    tasks: int
    repeats: int


async def run(site: Site, sizes: InputSizes) -> Outcome:
    bare, cold, warm = [], [], []
    small, big_mib, tasks, repeats = sizes
    with site.service("inputs") as running:
        _put_small(running, "small", small)
        _put(running, "big", {"one": os.urandom(big_mib << 20)})
        async with _ready(running) as connection:
            for repeat in range(repeats):
                container = f"small{repeat}"
                _put_small(running, container, small)
                bare.append(small / await _fetch_all(running, site.fresh("bare"), container))
                cold.append(small / await _run(connection, f"cold{repeat}", container, 1))
                warm.append(small / await _run(connection, f"warm{repeat}", container, 1))
            with_cache = await _run(connection, "big", "big", tasks)
    with site.service("uncached", "--input-cache-mib", "0") as running:
        _put(running, "big", {"one": os.urandom(big_mib << 20)})
        _put_small(running, "small", small)
        async with _ready(running) as connection:
            straight = [small / await _run(connection, f"straight{repeat}", "small", 1) for repeat in range(repeats)]
            without = await _run(connection, "big", "big", tasks)
    return Outcome(
        figures=(
            figure(f"{small:,} files of 1 KiB, fetched and nothing else", "files/s", *bare),
            figure(f"{small:,} files as a task's inputs, add to completion", "files/s", *cold),
            figure("inputs, to fetching and nothing else", "%", *ratios(cold, bare), at_least=40.0),
            figure("inputs without a cache", "files/s", *straight),
            figure("inputs once more, out of the cache, to the first time", "%", *ratios(warm, cold)),
            figure(f"one file of {big_mib} MiB for {tasks} tasks, without a cache", "s", without),
            figure(f"one file of {big_mib} MiB for {tasks} tasks, with the cache", "s", with_cache),
            figure(
                "one file for many tasks: with the cache so many times as fast",
                "times",
                without / with_cache,
                at_least=1.0,
            ),
        )
    )


def _put_small(running: Service, container: str, count: int) -> None:
    _put(running, container, {f"d{number % 10}/{number}": os.urandom(1024) for number in range(count)})


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


WORKLOAD: Final = Workload(
    name="inputs",
    title="Inputs of tasks",
    about=(
        "Many small files for one task, and one big file for many tasks, from the service's own storage, with the cache of "
        "inputs and without. The limit is what the same client fetches in the same run with as many at a time, when it does "
        "nothing else. A file that is to be cached is made twice, and making files is what costs: hence a bar below the half."
    ),
    run=run,
    sizes=Sizes(
        full=InputSizes(1000, 64, 20, 3),
        quick=InputSizes(1000, 64, 4, 1),
        tiny=InputSizes(20, 1, 2, 1),
    ),
)
