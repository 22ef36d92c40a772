"""How fast a node moves bytes: staging beside the same transfers by obstore alone, against Azurite, in pairs.

Azurite is the limit of most of it; what counts is the ratio. A bar of 0.8 says that staging costs little beside the best
client there is. obstore alone writes its files in place, staging beside it and renames them.
"""

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import obstore
from obstore.store import AzureStore

from bench.figures import Figure, Outcome, figure, ratios
from bench.workload import Site, Sizes, Workload
from millpond.staging.router import StagingRouter
from tests.servers.azurite import Azurite, why_not

MIB: Final = 1 << 20
_INSTALL: Final = Path(__file__).resolve().parents[2] / "tools" / "azurite.sh"
_PARALLEL: Final = 16
_BAR: Final = 80.0
_SMALL: Final = 1024


class StagingSizes(NamedTuple):
    big_mib: int
    """One file of so much."""
    small: int
    """And so many of 1 KiB."""
    repeats: int


async def run(site: Site, sizes: StagingSizes) -> Outcome:
    big_mib, small, repeats = sizes
    subprocess.run(["sh", str(_INSTALL)], check=False)
    if reason := why_not():
        return Outcome(figures=(), notes=(f"Not measured: {reason}.",))
    figures: list[Figure] = []
    server = Azurite(site.fresh("azurite")).start()
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
        work = site.fresh("staging")
        (work / "big").write_bytes(os.urandom(MIB) * big_mib)
        for number in range(small):
            (work / f"small{number}").write_bytes(os.urandom(_SMALL))
        fresh = (str(work / f"fetched{number}") for number in range(10**9))

        async def obstore_get(name: str) -> None:
            answer = await obstore.get_async(store, name)
            with open(next(fresh), "wb") as file:
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
            figures += _figures(f"{what} of {big_mib} MiB", rates, big_mib, "MiB/s")
            rates = [(await _rate(theirs, names), await _rate(ours, names)) for _ in range(repeats)]
            figures += _figures(f"{what} of {small:,} x 1 KiB, {_PARALLEL} at once", rates, 1, "files/s")
    finally:
        await staging.close()
        server.stop()
    return Outcome(figures=tuple(figures))


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
    theirs, ours = [rate for rate, _ in rates], [rate for _, rate in rates]
    return [
        figure(f"{what}, obstore alone", unit, *(rate * scale for rate in theirs)),
        figure(f"{what}, staging", unit, *(rate * scale for rate in ours)),
        figure(f"{what}, staging to obstore alone", "%", *ratios(ours, theirs), at_least=_BAR),
    ]


WORKLOAD: Final = Workload(
    name="staging",
    title="Staging",
    about=(
        "How fast a node moves bytes to and from Azure Blob storage (Azurite on the same machine): staging beside the same "
        "transfers by obstore alone, in turns. obstore alone writes its files in place, staging beside it and renames them."
    ),
    run=run,
    sizes=Sizes(full=StagingSizes(256, 1000, 5), quick=StagingSizes(32, 100, 1), tiny=StagingSizes(1, 10, 1)),
)
