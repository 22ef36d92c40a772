"""What is sampled of a pool in virtual time, as the service samples its own.

Of the machines' own metrics there is one: `$CPUPercent` is taken to be the share of slots that are busy on the nodes
there are. Formulas that look at memory, disks or the network find no samples.
"""

from millpond.autoscale.variables import Metric
from millpond.domain.states import SCHEDULABLE_NODE_STATES, NodeState
from millpond.sim.virtual_pool import VirtualPool


def metrics_of(virtual: VirtualPool) -> dict[Metric, float]:
    """The values of now. Every node there is counts, in whatever state, as in the pool's currentDedicatedNodes."""
    load, pool = virtual.state.load, virtual.pool
    dedicated = spot = preempted = usable = 0
    for node in virtual.state.nodes.values():
        row = node.row
        if row.is_dedicated:
            dedicated += 1
        else:
            spot += 1
        if row.state in SCHEDULABLE_NODE_STATES:
            usable += 1
        elif row.state is NodeState.PREEMPTED:
            preempted += 1
    values: dict[Metric, float] = {
        Metric.ACTIVE_TASKS: load.active,
        Metric.RUNNING_TASKS: load.running,
        Metric.PENDING_TASKS: load.active + load.running,
        Metric.SUCCEEDED_TASKS: load.succeeded,
        Metric.FAILED_TASKS: load.failed,
        Metric.ACTIVE_TASK_SLOTS: load.active_slots,
        Metric.RUNNING_TASK_SLOTS: load.running_slots,
        Metric.PENDING_TASK_SLOTS: load.active_slots + load.running_slots,
        Metric.TASK_SLOTS_PER_NODE: pool.task_slots_per_node,
        Metric.CURRENT_DEDICATED_NODES: dedicated,
        Metric.CURRENT_LOW_PRIORITY_NODES: spot,
        Metric.PREEMPTED_NODE_COUNT: preempted,
        Metric.USABLE_NODE_COUNT: usable,
        Metric.SAMPLE_NODE_COUNT: usable,
    }
    if usable:
        values[Metric.CPU_PERCENT] = min(1.0, load.running_slots / (usable * pool.task_slots_per_node))
    return values
