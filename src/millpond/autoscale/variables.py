"""The variables the service defines, and the words and constants beside them: one table.

Names are matched whatever their case and echoed as they stand here (Azure's documentation spells them in several ways).
What Azure Batch does not have is marked `extension`; what it has announced to retire is marked `retired`.
"""

from enum import StrEnum
from typing import Final

import msgspec

from millpond.autoscale.values import TICKS_PER_SECOND, Interval
from millpond.domain.states import NodeDeallocationOption


class Metric(StrEnum):
    """What is sampled, by the full name of its variable. Units and meanings are in `SERVICE_VARIABLES`."""

    CPU_PERCENT = "$CPUPercent"
    WALL_CLOCK_SECONDS = "$WallClockSeconds"
    MEMORY_BYTES = "$MemoryBytes"
    DISK_BYTES = "$DiskBytes"
    DISK_READ_BYTES = "$DiskReadBytes"
    DISK_WRITE_BYTES = "$DiskWriteBytes"
    DISK_READ_OPS = "$DiskReadOps"
    DISK_WRITE_OPS = "$DiskWriteOps"
    NETWORK_IN_BYTES = "$NetworkInBytes"
    NETWORK_OUT_BYTES = "$NetworkOutBytes"
    SAMPLE_NODE_COUNT = "$SampleNodeCount"
    ACTIVE_TASKS = "$ActiveTasks"
    RUNNING_TASKS = "$RunningTasks"
    PENDING_TASKS = "$PendingTasks"
    SUCCEEDED_TASKS = "$SucceededTasks"
    FAILED_TASKS = "$FailedTasks"
    TASK_SLOTS_PER_NODE = "$TaskSlotsPerNode"
    CURRENT_DEDICATED_NODES = "$CurrentDedicatedNodes"
    CURRENT_LOW_PRIORITY_NODES = "$CurrentLowPriorityNodes"
    PREEMPTED_NODE_COUNT = "$PreemptedNodeCount"
    USABLE_NODE_COUNT = "$UsableNodeCount"
    ACTIVE_TASK_SLOTS = "$ActiveTaskSlots"
    RUNNING_TASK_SLOTS = "$RunningTaskSlots"
    PENDING_TASK_SLOTS = "$PendingTaskSlots"


class ServiceVariable(msgspec.Struct, frozen=True, gc=False):
    """One line of the table."""

    name: str
    meaning: str
    metric: Metric | None = None
    """What it samples; None for the three that a formula sets."""
    aliases: tuple[str, ...] = ()
    extension: bool = False
    """Millpond's own: a formula that uses it does not run on Azure Batch."""
    retired: bool = False
    """Announced as retired by Azure Batch."""

    @property
    def read_only(self) -> bool:
        return self.metric is not None


TARGET_DEDICATED: Final = ServiceVariable(
    "$TargetDedicatedNodes",
    "Nodes wanted, dedicated; read before it is assigned, the pool's present target. Cut to a whole number.",
    aliases=("$TargetDedicated",),
)
TARGET_LOW_PRIORITY: Final = ServiceVariable(
    "$TargetLowPriorityNodes",
    "Nodes wanted, spot or low-priority; otherwise as $TargetDedicatedNodes.",
    aliases=("$TargetLowPriority",),
)
DEALLOCATION_OPTION: Final = ServiceVariable(
    "$NodeDeallocationOption",
    "What happens to tasks on nodes that are taken away: requeue (the default), terminate, taskcompletion or "
    "retaineddata.",
)


def _sampled(
    metric: Metric, meaning: str, *aliases: str, extension: bool = False, retired: bool = False
) -> ServiceVariable:
    return ServiceVariable(metric.value, meaning, metric, aliases, extension, retired)


SERVICE_VARIABLES: Final = (
    TARGET_DEDICATED,
    TARGET_LOW_PRIORITY,
    DEALLOCATION_OPTION,
    # Azure's documentation calls it a percentage, and every formula it shows compares it with 0.2 or 0.7.
    _sampled(Metric.CPU_PERCENT, "Processor use, mean over the nodes, as a fraction from 0 to 1.", retired=True),
    _sampled(Metric.WALL_CLOCK_SECONDS, "Seconds the nodes have run.", retired=True),
    _sampled(Metric.MEMORY_BYTES, "Memory in use, mean over the nodes, in megabytes.", retired=True),
    _sampled(Metric.DISK_BYTES, "Local disk in use, mean over the nodes, in gigabytes.", retired=True),
    _sampled(Metric.DISK_READ_BYTES, "Bytes read from local disks.", retired=True),
    _sampled(Metric.DISK_WRITE_BYTES, "Bytes written to local disks.", retired=True),
    _sampled(Metric.DISK_READ_OPS, "Reads from local disks.", retired=True),
    _sampled(Metric.DISK_WRITE_OPS, "Writes to local disks.", retired=True),
    _sampled(Metric.NETWORK_IN_BYTES, "Bytes received.", retired=True),
    _sampled(Metric.NETWORK_OUT_BYTES, "Bytes sent.", retired=True),
    _sampled(Metric.SAMPLE_NODE_COUNT, "Nodes that reported.", retired=True),
    _sampled(
        Metric.ACTIVE_TASKS,
        "Tasks ready to run: active, with their dependencies satisfied. A multi-instance task counts its instances.",
    ),
    _sampled(Metric.RUNNING_TASKS, "Tasks on nodes, running or in preparation."),
    _sampled(Metric.PENDING_TASKS, "$ActiveTasks and $RunningTasks together."),
    _sampled(Metric.SUCCEEDED_TASKS, "Tasks that finished well."),
    _sampled(Metric.FAILED_TASKS, "Tasks that failed."),
    _sampled(Metric.TASK_SLOTS_PER_NODE, "The pool's taskSlotsPerNode."),
    _sampled(Metric.CURRENT_DEDICATED_NODES, "Dedicated nodes the pool has.", "$CurrentDedicated"),
    _sampled(Metric.CURRENT_LOW_PRIORITY_NODES, "Spot nodes the pool has, preempted ones included."),
    _sampled(Metric.PREEMPTED_NODE_COUNT, "Spot nodes that are preempted."),
    _sampled(Metric.USABLE_NODE_COUNT, "Nodes that can be used."),
    _sampled(Metric.ACTIVE_TASK_SLOTS, "Slots the tasks of $ActiveTasks need.", extension=True),
    _sampled(Metric.RUNNING_TASK_SLOTS, "Slots the tasks of $RunningTasks hold.", extension=True),
    _sampled(Metric.PENDING_TASK_SLOTS, "$ActiveTaskSlots and $RunningTaskSlots together.", extension=True),
)

SPELLINGS: Final[dict[str, tuple[str, ServiceVariable]]] = {
    spelling.lower(): (spelling, variable)
    for variable in SERVICE_VARIABLES
    for spelling in (variable.name, *variable.aliases)
}
"""Lower case → (the spelling to echo, the variable). Aliases keep their own spelling."""

_SECOND: Final = TICKS_PER_SECOND
CONSTANTS: Final[dict[str, tuple[str, Interval]]] = {
    name.lower(): (name, Interval(ticks))
    for name, ticks in (
        ("TimeInterval_Zero", 0),
        ("TimeInterval_100ns", 1),
        ("TimeInterval_Microsecond", 10),
        ("TimeInterval_Millisecond", 10_000),
        ("TimeInterval_Second", _SECOND),
        ("TimeInterval_Minute", 60 * _SECOND),
        ("TimeInterval_Hour", 3600 * _SECOND),
        ("TimeInterval_Day", 86_400 * _SECOND),
        ("TimeInterval_Week", 7 * 86_400 * _SECOND),
        ("TimeInterval_Year", 365 * 86_400 * _SECOND),
    )
}
"""Lower case → (the spelling to echo, the value). A year has 365 days."""

OPTIONS: Final = {option.value: option for option in NodeDeallocationOption}
"""The words that may be assigned to `$NodeDeallocationOption`, unless a variable of that name hides them."""
