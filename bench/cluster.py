"""A service with a pool that is up, and jobs run on it."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from bench import load, machine
from bench.client import Connection, task_bodies
from bench.served import Service
from bench.workload import Site

POOL = "pool"
_POLL_S = 0.03


class Ran(NamedTuple):
    """What a job took."""

    tasks: int
    seconds: float
    """From the first add to the last end."""
    add_s: float
    cpu_s: float
    """Of the service's process."""
    agents_cpu_s: float
    load_cpu_s: float
    calls_s: tuple[float, ...]
    """What each call that added tasks took, while others ran already."""

    @property
    def rate(self) -> float:
        return self.tasks / self.seconds


class Cluster(NamedTuple):
    """See `running`."""

    service: Service
    connection: Connection

    async def run(
        self,
        job_id: str,
        tasks: int,
        bodies: Sequence[bytes],
        *,
        connections: int = 8,
        poll_s: float = _POLL_S,
        **options: object,
    ) -> Ran:
        """Make a job, add the bodies' tasks and wait for their end. `options` are the job's. Raises RuntimeError unless
        all succeed."""
        await self.connection.add_job(job_id, POOL, **options)
        async with load.loading(self.service, load.adds(job_id, bodies), connections) as loading:
            cpu_s, agents_s = self.service.cpu_s(), self.agents_cpu_s()
            begun = time.perf_counter()
            report = await loading.run()
            counts = await self.connection.wait_completed(job_id, tasks, deadline_s=600.0, poll_s=poll_s)
            seconds = time.perf_counter() - begun
        if counts["succeeded"] != tasks:
            raise RuntimeError(f"not every task succeeded: {counts}")
        return Ran(
            tasks,
            seconds,
            report.seconds,
            max(self.service.cpu_s() - cpu_s, machine.TICK_S),  # what is compared is divided by
            self.agents_cpu_s() - agents_s,
            report.cpu_s,
            tuple(report.latencies),
        )

    async def run_commands(self, job_id: str, tasks: int, command_line: str = "/bin/true") -> Ran:
        return await self.run(job_id, tasks, task_bodies(0, tasks, command_line))

    def agents_cpu_s(self) -> float:
        """Of the process that is all nodes' agent, and of those it started."""
        return machine.tree_cpu_s(self.service.host_pid)


@contextlib.asynccontextmanager
async def running(
    site: Site, name: str, *arguments: str, nodes: int, slots: int, warm_up: int = 100
) -> AsyncIterator[Cluster]:
    """A fresh service with one pool whose nodes are up, and some tasks behind it."""
    with site.service(name, *arguments) as service:
        async with service.connect() as connection:
            await connection.add_pool(POOL, nodes=nodes, slots=slots)
            await connection.wait_for_nodes(POOL, nodes, deadline_s=300.0)
            cluster = Cluster(service, connection)
            if warm_up:
                await cluster.run_commands("warm-up", warm_up)
            yield cluster
