"""Dask distributed: a local cluster of two processes with one thread each; the command is mapped over numbers."""

import subprocess
import time

from distributed import Client, LocalCluster, wait

from bench.peers.driving import drive


def _run(number: int, command: list[str]) -> int:
    return subprocess.run(command, check=True).returncode


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:

        def _many(command: list[str], count: int) -> float:
            begun = time.perf_counter()
            futures = client.map(_run, range(count), command=command, pure=False)
            wait(futures)
            taken = time.perf_counter() - begun
            assert not any(client.gather(futures))
            return taken

        drive(_many)
