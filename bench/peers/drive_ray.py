"""Ray: one remote function that runs the command; tasks are handed over at once and waited for together."""

import os
import subprocess
import time

from bench.peers.driving import drive

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

import ray


@ray.remote
def _run(command: list[str]) -> int:
    return subprocess.run(command, check=True).returncode


def _many(command: list[str], count: int) -> float:
    begun = time.perf_counter()
    ray.get([_run.remote(command) for _ in range(count)])
    return time.perf_counter() - begun


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        drive(_many)
    finally:
        ray.shutdown()
