"""What is sampled of a pool in virtual time: what the service samples, by the service's own functions.

Of the machines' own metrics there is one: `$CPUPercent` is taken to be the share of slots that are busy on the nodes
that take tasks. Formulas that look at memory, disks or the network find no samples.
"""

from millpond.autoscale.variables import Metric
from millpond.control.sampling import node_values, task_values
from millpond.sim.virtual_pool import VirtualPool


def metrics_of(virtual: VirtualPool) -> dict[Metric, float]:
    """The values of now."""
    state, pool = virtual.state, virtual.pool
    values = task_values(state, pool) | node_values(state)
    usable = values[Metric.USABLE_NODE_COUNT]
    values[Metric.SAMPLE_NODE_COUNT] = usable
    if usable:
        values[Metric.CPU_PERCENT] = min(1.0, state.load.running_slots / (usable * pool.task_slots_per_node))
    return values
