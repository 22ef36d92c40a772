"""Adds: tasks a second that are accepted, on disk, over HTTP."""

from typing import Final, NamedTuple

from bench import limits, load
from bench.client import task_bodies
from bench.figures import Outcome, figure, ratios
from bench.workload import Site, Sizes, Workload

CONNECTIONS: Final = 8


class AddSizes(NamedTuple):
    tasks: int
    repeats: int


async def run(site: Site, sizes: AddSizes) -> Outcome:
    tasks, repeats = sizes
    bodies = task_bodies(0, tasks, "/bin/echo hello")
    rates, plain_rates, cpu_us, load_us = [], [], [], []
    with site.service("adds") as service, limits.plain_server(site.fresh("plain")) as plain:
        async with service.connect() as connection:
            await connection.add_job("warm-up", "none")
            await load.send(service, load.adds("warm-up", task_bodies(0, 1000, "/bin/true")), CONNECTIONS)
            for repeat in range(repeats):
                job_id = f"adds{repeat}"
                adds = load.adds(job_id, bodies)
                plain_rates.append(tasks / (await load.send(plain, adds, CONNECTIONS)).seconds)
                await connection.add_job(job_id, "none")
                cpu_s = service.cpu_s()
                report = await load.send(service, adds, CONNECTIONS)
                cpu_us.append((service.cpu_s() - cpu_s) / tasks * 1e6)
                load_us.append(report.cpu_s / tasks * 1e6)
                rates.append(tasks / report.seconds)
                counts = await connection.counts(job_id)
                if counts["active"] != tasks:
                    raise RuntimeError(f"not every task is there: {counts}")
    return Outcome(
        figures=(
            figure("the plain server", "tasks/s", *plain_rates),
            figure("Millpond", "tasks/s", *rates, at_least=60_000),
            figure("Millpond to the plain server", "%", *ratios(rates, plain_rates), is_gate=True),
            figure("processor time of the service for a task", "µs", *cpu_us, less_is_better=True),
            figure("processor time of the load for a task", "µs", *load_us, less_is_better=True),
        )
    )


WORKLOAD: Final = Workload(
    name="adds",
    title="Adds",
    about=(
        f"Add Task Collection, 100 tasks a call over {CONNECTIONS} connections, into one job whose pool does not exist. Beside "
        "it the plainest server that could keep the same promise: bare uvicorn, msgspec, a row in SQLite for each task and a "
        "synchronous commit for each call; no account, no checks, no scheduler."
    ),
    run=run,
    sizes=Sizes(full=AddSizes(100_000, 5), quick=AddSizes(20_000, 5), tiny=AddSizes(300, 2)),
    is_checked=True,
)
