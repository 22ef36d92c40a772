"""All parts of the suite, in the order of the page. A part is a module of `bench.workloads` and a line here."""

from typing import Final

from bench.workload import Registry
from bench.workloads import (
    adds,
    arrays,
    autoscale,
    autoscaled_pools,
    commands,
    inputs,
    lab,
    latency,
    lives,
    logs,
    million,
    mixed,
    nodes,
    output,
    reads,
    staging,
    startup,
)

WORKLOADS: Final[Registry] = tuple(
    module.WORKLOAD
    for module in (
        commands,
        adds,
        arrays,
        lives,
        latency,
        mixed,
        reads,
        million,
        nodes,
        output,
        startup,
        logs,
        inputs,
        staging,
        autoscale,
        autoscaled_pools,
        lab,
    )
)
