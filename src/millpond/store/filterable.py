"""The filterable properties of records: their values in memory. Their columns are in `sqlite_rows`."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.task import Task
from millpond.odata.evaluate import matches
from millpond.odata.filters import Filter, Literal

_T = TypeVar("_T")
Getters: TypeAlias = Mapping[str, Callable[[_T], Literal | None]]
"""Path on the wire → how to read it from a record; a path that is missing has no value."""

POOL: Final[Getters[Pool]] = {
    "id": lambda pool: pool.id,
    "state": lambda pool: pool.state,
    "stateTransitionTime": lambda pool: pool.state_time,
    "allocationState": lambda pool: pool.allocation_state,
    "allocationStateTransitionTime": lambda pool: pool.allocation_state_time,
    "creationTime": lambda pool: pool.creation_time,
    "lastModified": lambda pool: pool.last_modified,
    "enableAutoScale": lambda pool: pool.spec.get("enableAutoScale") is True,
    "enableInterNodeCommunication": lambda pool: pool.spec.get("enableInterNodeCommunication") is True,
    "vmSize": lambda pool: pool.vm_size,
}
NODE: Final[Getters[Node]] = {
    "state": lambda node: node.state,
    "stateTransitionTime": lambda node: node.state_time,
    "lastBootTime": lambda node: node.last_boot_time,
    "allocationTime": lambda node: node.allocation_time,
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
