"""The filterable properties of records: their values in memory. Their columns are in `sqlite_rows`."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode, SpecialTaskInfo
from millpond.domain.task import Task
from millpond.odata.evaluate import matches
from millpond.odata.filters import Filter, Literal

_T = TypeVar("_T")
Getters: TypeAlias = Mapping[str, Callable[[_T], Literal | None]]
"""Path on the wire → how to read it from a record; a path that is missing has no value."""


def _of_special_task(path: str, info_of: Callable[[_T], SpecialTaskInfo | None]) -> Getters[_T]:
    """The properties of a special task's execution information, under the path it has on the wire."""

    def getter(read: Callable[[SpecialTaskInfo], Literal | None]) -> Callable[[_T], Literal | None]:
        def get(record: _T) -> Literal | None:
            info = info_of(record)
            return None if info is None else read(info)

        return get

    return {
        f"{path}/state": getter(lambda info: info.state),
        f"{path}/result": getter(lambda info: info.result),
        f"{path}/exitCode": getter(lambda info: info.exit_code),
        f"{path}/startTime": getter(lambda info: info.start_time),
        f"{path}/endTime": getter(lambda info: info.end_time),
    }


POOL: Final[Getters[Pool]] = {
    "id": lambda pool: pool.id,
    "state": lambda pool: pool.state,
    "stateTransitionTime": lambda pool: pool.state_time,
    "allocationState": lambda pool: pool.allocation_state,
    "allocationStateTransitionTime": lambda pool: pool.allocation_state_time,
    "creationTime": lambda pool: pool.creation_time,
    "lastModified": lambda pool: pool.last_modified,
    "enableAutoScale": lambda pool: pool.auto_scale is not None,
    "enableInterNodeCommunication": lambda pool: pool.spec.get("enableInterNodeCommunication") is True,
    "vmSize": lambda pool: pool.vm_size,
}
NODE: Final[Getters[Node]] = {
    "state": lambda node: node.state,
    "stateTransitionTime": lambda node: node.state_time,
    "lastBootTime": lambda node: node.last_boot_time,
    "allocationTime": lambda node: node.allocation_time,
    **_of_special_task("startTaskInfo", lambda node: node.start_task),
}
JOB: Final[Getters[Job]] = {
    "id": lambda job: job.id,
    "state": lambda job: job.state,
    "stateTransitionTime": lambda job: job.state_time,
    "creationTime": lambda job: job.creation_time,
    "lastModified": lambda job: job.last_modified,
    "executionInfo/startTime": lambda job: job.start_time,
    "executionInfo/endTime": lambda job: job.end_time,
    "executionInfo/poolId": lambda job: job.pool_id,
}
JOB_SCHEDULE: Final[Getters[JobSchedule]] = {
    "id": lambda schedule: schedule.id,
    "state": lambda schedule: schedule.state,
    "stateTransitionTime": lambda schedule: schedule.state_time,
    "creationTime": lambda schedule: schedule.creation_time,
    "lastModified": lambda schedule: schedule.last_modified,
    "executionInfo/endTime": lambda schedule: schedule.end_time,
    "schedule/doNotRunUntil": lambda schedule: schedule.recurrence.do_not_run_until,
    "schedule/doNotRunAfter": lambda schedule: schedule.recurrence.do_not_run_after,
}
JOB_NODE: Final[Getters[JobNode]] = {
    "poolId": lambda job_node: job_node.pool_id,
    "nodeId": lambda job_node: job_node.node_id,
    **_of_special_task("jobPreparationTaskExecutionInfo", lambda job_node: job_node.preparation),
    **_of_special_task("jobReleaseTaskExecutionInfo", lambda job_node: job_node.release),
}
TASK: Final[Getters[Task]] = {
    "id": lambda task: task.id,
    "state": lambda task: task.state,
    "stateTransitionTime": lambda task: task.state_time,
    "creationTime": lambda task: task.creation_time,
    "lastModified": lambda task: task.last_modified,
    "executionInfo/startTime": lambda task: task.start_time,
    "executionInfo/endTime": lambda task: task.end_time,
    "executionInfo/exitCode": lambda task: task.exit_code,
    "executionInfo/result": lambda task: task.result,
}
NODE_COUNTS: Final[Getters[str]] = {"poolId": lambda pool_id: pool_id}


def passes(where: Filter | None, record: _T, getters: Getters[_T]) -> bool:
    """Whether a record passes the filter; everything passes None."""
    if where is None:
        return True

    def value_of(path: str) -> Literal | None:
        getter = getters.get(path)
        return None if getter is None else getter(record)

    return matches(where, value_of)
