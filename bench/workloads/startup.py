"""How long it takes until something can be done, and what a service costs that has nothing to do."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench import machine
from bench.figures import Chart, Outcome, Series, figure
from bench.workload import Site, Sizes, Workload

_READY: Final = "ready"
_STOP_S: Final = 30.0


class StartSizes(NamedTuple):
    repeats: int
    idle_s: float


async def run(site: Site, sizes: StartSizes) -> Outcome:
    bare, imported, version, ready = [], [], [], []
    python = [sys.executable, "-I"]
    environment = _compiled(site.fresh("compiled"))
    # Compiles what is imported, as an installation does.
    with _up(site.fresh("first"), environment):
        pass
    for _ in range(sizes.repeats):
        bare.append(_seconds([*python, "-c", "pass"], environment))
        imported.append(_seconds([sys.executable, "-c", "import millpond.cli.main"], environment))
        version.append(_seconds([sys.executable, "-m", "millpond", "--version"], environment))
        with _up(site.fresh("up"), environment) as (_, ready_s):
            ready.append(ready_s)
    with _up(site.fresh("idle"), environment) as (process, _):
        # What the start has left to do is done soon.
        await asyncio.sleep(min(3.0, sizes.idle_s))
        cpu_s = machine.cpu_s(process.pid)
        await asyncio.sleep(sizes.idle_s)
        idle_cpu = (machine.cpu_s(process.pid) - cpu_s) / sizes.idle_s * 100
        idle_mb = machine.rss_bytes(process.pid) / 1e6
    starts = {"python": bare, "import": imported, "--version": version, "up": ready}
    return Outcome(
        figures=(
            figure("the interpreter alone", "ms", *_ms(bare), less_is_better=True),
            figure("import millpond.cli.main", "ms", *_ms(imported), at_most=150.0),
            figure("millpond --version", "ms", *_ms(version), at_most=150.0),
            figure(
                "millpond --version, to the interpreter alone",
                "times",
                *(ours / theirs for ours, theirs in zip(version, bare, strict=True)),
                is_gate=True,
                less_is_better=True,
            ),
            figure("millpond up, until clients can come", "ms", *_ms(ready), at_most=700.0),
            figure(
                "millpond up, to the interpreter alone",
                "times",
                *(ours / theirs for ours, theirs in zip(ready, bare, strict=True)),
                is_gate=True,
                less_is_better=True,
            ),
            figure("an idle service: a processor's time", "%", idle_cpu, at_most=1.0),
            figure("an idle service: memory", "MB", idle_mb, at_most=100.0),
        ),
        charts=(
            Chart(
                title="Starts",
                unit="ms",
                places=tuple(starts),
                series=(
                    Series(name="median", values=tuple(sorted(_ms(each))[len(each) // 2] for each in starts.values())),
                ),
            ),
        ),
    )


def _ms(seconds: Sequence[float]) -> list[float]:
    return [each * 1e3 for each in seconds]


def _compiled(directory: Path) -> Mapping[str, str]:
    """The environment of processes that find this checkout's modules compiled, as those of an installed package are."""
    kept = {name: value for name, value in machine.ENVIRONMENT.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(directory)}


def _seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begun


@contextlib.contextmanager
def _up(directory: Path, environment: Mapping[str, str]) -> Iterator[tuple["subprocess.Popen[str]", float]]:
    """`millpond up` on a new data directory, and the seconds until it says where it is."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "millpond", "up", "--port", "0", "--data-dir", str(directory / "data")]
    with (directory / "up.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if _READY in line.lower():
                break
        else:
            raise RuntimeError(f"millpond up did not come up: see up.log in {directory}")
        yield process, time.perf_counter() - begun
    finally:
        machine.stop(process, _STOP_S)


WORKLOAD: Final = Workload(
    name="startup",
    title="Starts, and doing nothing",
    about=(
        "Processes from their start until they have ended, or until `millpond up` on a new data directory says that clients can "
        "come, their modules compiled before as an installation has them; beside them the Python interpreter that does "
        "nothing. Then a service with no pool, job or client."
    ),
    run=run,
    sizes=Sizes(full=StartSizes(7, 20.0), quick=StartSizes(3, 3.0), tiny=StartSizes(1, 0.5)),
    is_checked=True,
)
