"""`stats` of pools, jobs, job schedules and tasks: what `$expand=stats` adds.

Of tasks and jobs they are sums over runs that have ended, and up to now for the one that goes on; reads and writes of
single tasks are not measured and are 0. Of pools they are made of the samples that are kept, so they reach back as far
as those do.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from millpond.api.render.common import timestamp_text
from millpond.autoscale.samples import History
from millpond.autoscale.variables import Metric
from millpond.domain.durations import Timestamp, format_duration
from millpond.domain.job import Job
from millpond.domain.task import NO_USE, ResourceUse, Task

_GIB: Final = float(1 << 30)
_NO_IO: Final = {"readIOps": "0", "writeIOps": "0", "readIOGiB": 0.0, "writeIOGiB": 0.0}


def _duration(seconds: float) -> str:
    return format_duration(round(max(0.0, seconds), 6))


def _use(use: ResourceUse) -> dict[str, Any]:
    return {
        "userCPUTime": _duration(use.user_cpu_s),
        "kernelCPUTime": _duration(use.kernel_cpu_s),
        "wallClockTime": _duration(use.wall_s),
        **_NO_IO,
        "waitTime": _duration(use.wait_s),
    }


def _range(url: str, start: Timestamp, end: Timestamp) -> dict[str, Any]:
    return {"url": f"{url}/stats", "startTime": timestamp_text(start), "lastUpdateTime": timestamp_text(end)}


def task_statistics(task: Task, url: str, now: Timestamp) -> dict[str, Any]:
    """Azure Batch: TaskStatistics."""
    use = task.use or NO_USE
    if task.start_time is not None and task.end_time is None and task.state.value == "running":
        use = use.plus(ResourceUse(wall_s=max(0.0, now - task.start_time)))
        if task.use is None:
            use = use.plus(ResourceUse(wait_s=max(0.0, task.start_time - task.creation_time)))
    elif task.start_time is None and task.end_time is None:
        use = use.plus(ResourceUse(wait_s=max(0.0, now - task.creation_time)))
    until = now if task.end_time is None else task.end_time
    return {**_range(url, task.creation_time, until), **_use(use)}


def jobs_statistics(jobs: Iterable[Job], url: str, since: Timestamp, now: Timestamp) -> dict[str, Any]:
    """Azure Batch: JobStatistics, JobScheduleStatistics: the sum over jobs."""
    use = NO_USE
    succeeded = failed = 0
    for job in jobs:
        use = use.plus(job.use)
        succeeded += job.counts.succeeded
        failed += job.counts.failed
    return {
        **_range(url, since, now),
        **_use(use),
        "numSucceededTasks": str(succeeded),
        "numFailedTasks": str(failed),
        "numTaskRetries": str(use.retries),
    }


def job_statistics(job: Job, url: str, now: Timestamp) -> dict[str, Any]:
    return jobs_statistics((job,), url, job.creation_time, job.end_time or now)


class PoolFacts:
    """What samples say of a pool between two times: sums that can be added to those of other pools."""

    def __init__(self, history: History, cores: int, after: Timestamp, until: Timestamp) -> None:
        self.period_s = history.period_s
        self.dedicated = self._values(history, Metric.CURRENT_DEDICATED_NODES, after, until)
        self.spot = self._values(history, Metric.CURRENT_LOW_PRIORITY_NODES, after, until)
        self.cores = cores
        self.cpu = self._values(history, Metric.CPU_PERCENT, after, until)
        self.memory = self._values(history, Metric.MEMORY_BYTES, after, until)
        self.disk = self._values(history, Metric.DISK_BYTES, after, until)
        self.rates = {
            name: self._total(history, metric, after, until)
            for name, metric in (
                ("diskReadIOps", Metric.DISK_READ_OPS),
                ("diskWriteIOps", Metric.DISK_WRITE_OPS),
                ("diskReadGiB", Metric.DISK_READ_BYTES),
                ("diskWriteGiB", Metric.DISK_WRITE_BYTES),
                ("networkReadGiB", Metric.NETWORK_IN_BYTES),
                ("networkWriteGiB", Metric.NETWORK_OUT_BYTES),
            )
        }

    @staticmethod
    def _values(history: History, metric: Metric, after: Timestamp, until: Timestamp) -> Sequence[float]:
        return history.between(metric, after, until).values

    def _total(self, history: History, metric: Metric, after: Timestamp, until: Timestamp) -> float:
        """Over the nodes: a sample is the mean of those that told of themselves."""
        counts = history.between(Metric.SAMPLE_NODE_COUNT, after, until)
        nodes = dict(zip(counts.times, counts.values, strict=True))
        samples = history.between(metric, after, until)
        return math.fsum(value * nodes.get(at, 0.0) for at, value in zip(samples.times, samples.values, strict=True))

    @property
    def dedicated_core_s(self) -> float:
        return math.fsum(self.dedicated) * self.cores * self.period_s

    @property
    def core_s(self) -> float:
        return math.fsum((*self.dedicated, *self.spot)) * self.cores * self.period_s


def pool_statistics(facts: Sequence[PoolFacts], url: str, since: Timestamp, now: Timestamp) -> dict[str, Any]:
    """Azure Batch: PoolStatistics: of one pool, or of all together."""
    times = {"startTime": timestamp_text(since), "lastUpdateTime": timestamp_text(now)}
    rates = {name: math.fsum(one.rates[name] for one in facts) for name in (facts[0].rates if facts else ())}
    return {
        **_range(url, since, now),
        "usageStats": {**times, "dedicatedCoreTime": _duration(math.fsum(one.dedicated_core_s for one in facts))},
        "resourceStats": {
            **times,
            # A sample of the processors is a part of all of them.
            "avgCPUPercentage": 100.0 * _mean(one.cpu for one in facts),
            # As sampled, megabytes of memory and gigabytes of disk.
            "avgMemoryGiB": _mean(one.memory for one in facts) * 1e6 / _GIB,
            "peakMemoryGiB": _peak(one.memory for one in facts) * 1e6 / _GIB,
            "avgDiskGiB": _mean(one.disk for one in facts) * 1e9 / _GIB,
            "peakDiskGiB": _peak(one.disk for one in facts) * 1e9 / _GIB,
            "diskReadIOps": str(round(rates.get("diskReadIOps", 0.0))),
            "diskWriteIOps": str(round(rates.get("diskWriteIOps", 0.0))),
            **{
                name: rates.get(name, 0.0) / _GIB
                for name in ("diskReadGiB", "diskWriteGiB", "networkReadGiB", "networkWriteGiB")
            },
        },
    }


def _mean(groups: Iterable[Sequence[float]]) -> float:
    values = [value for group in groups for value in group]
    return math.fsum(values) / len(values) if values else 0.0


def _peak(groups: Iterable[Sequence[float]]) -> float:
    return max((value for group in groups for value in group), default=0.0)
