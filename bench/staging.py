"""How fast a node moves bytes: staging beside the same transfers by obstore alone, against Azurite, in pairs.

Azurite is the limit of most of it; what counts is the ratio. A bar of 0.8 says that staging costs little beside the best
client there is. obstore alone writes its files in place, staging beside it and renames them.
"""

import asyncio
import os
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import obstore
from obstore.store import AzureStore

from millpond.staging.router import StagingRouter
from tests.servers.azurite import Azurite, why_not

Figure = tuple[str, float, str, str, bool | None]

MIB: Final = 1 << 20
_INSTALL: Final = Path(__file__).resolve().parent.parent / "tools" / "azurite.sh"
_PARALLEL: Final = 16
_BAR: Final = 0.8
_SMALL: Final = 1024


async def figures(directory: Path, big_mib: int, small: int, repeats: int) -> AsyncIterator[Figure]:
    """Figures of one file of `big_mib` MiB and of `small` files of 1 KiB; nothing where there is no Azurite."""
    subprocess.run(["sh", str(_INSTALL)], check=False)  # noqa: ASYNC221  nothing else runs yet
    if reason := why_not():
        print(f"staging is not measured: {reason}")
        return
    server = Azurite(directory / "azurite").start()
    staging = StagingRouter()
    try:
        container = server.new_container()
        url = server.container_url(container)
        store = AzureStore(
            container,
            config={
                "account_name": server.account,
                "endpoint": server.endpoint,
                "sas_key": url.partition("?")[2],
            },
            client_options={"allow_http": True, "timeout": "10min"},
        )
        work = directory / "staging"
        work.mkdir()
        (work / "big").write_bytes(os.urandom(MIB) * big_mib)
        for number in range(small):
            (work / f"small{number}").write_bytes(os.urandom(_SMALL))
        fresh = (str(work / f"fetched{number}") for number in range(10**9))

        async def obstore_get(name: str) -> None:
            answer = await obstore.get_async(store, name)
            with open(next(fresh), "wb") as file:  # noqa: ASYNC230
                async for chunk in answer.stream(MIB):
                    file.write(chunk)

        async def obstore_put(name: str) -> None:
            await obstore.put_async(store, name, work / name)

        async def fetch(name: str) -> None:
            await staging.fetch(staging.file_url(url, name), next(fresh))

        async def put(name: str) -> None:
            await staging.put(str(work / name), url, name, {})

        names = [f"small{number}" for number in range(small)]
        for what, ours, theirs in (("put", put, obstore_put), ("fetch", fetch, obstore_get)):
            rates = [(await _rate(theirs, ["big"]), await _rate(ours, ["big"])) for _ in range(repeats)]
            for figure in _figures(f"{what} of {big_mib} MiB", rates, big_mib, "MiB/s"):
                yield figure
            rates = [(await _rate(theirs, names), await _rate(ours, names)) for _ in range(repeats)]
            for figure in _figures(f"{what} of {small:,} x 1 KiB, {_PARALLEL} at once", rates, 1, "files/s"):
                yield figure
    finally:
        await staging.close()
        server.stop()


async def _rate(transfer: Callable[[str], Awaitable[None]], names: list[str]) -> float:
    """Files a second."""
    waiting = list(reversed(names))

    async def lane() -> None:
        while waiting:
            await transfer(waiting.pop())

    begun = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(_PARALLEL)))
    return len(names) / (time.perf_counter() - begun)


def _figures(what: str, rates: list[tuple[float, float]], scale: float, unit: str) -> list[Figure]:
    ratio = statistics.median(ours / theirs for theirs, ours in rates)
    return [
        (f"{what}, obstore alone", statistics.median(theirs for theirs, _ in rates) * scale, unit, "", None),
        (f"{what}, staging", statistics.median(ours for _, ours in rates) * scale, unit, "", None),
        ("… of obstore alone", ratio * 100, "%", f"≥ {_BAR:.0%}".replace("%", " %"), ratio >= _BAR),
    ]
