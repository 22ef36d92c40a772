"""Records to SQLite rows and back, and the columns filters look at."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from millpond.domain.job import Job
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.states import NodeState, TaskState
from millpond.domain.task import FailureInfo, Task, TaskRules
from millpond.odata.sql import Column, Columns
from millpond.store.changes import ChangeSet

Row: TypeAlias = tuple[Any, ...]

_encode: Final = msgspec.json.Encoder().encode
pool_of_record: Final = msgspec.json.Decoder(Pool).decode
node_of_record: Final = msgspec.json.Decoder(Node).decode
job_of_record: Final = msgspec.json.Decoder(Job).decode
_failure_of: Final = msgspec.json.Decoder(FailureInfo).decode
_rules_of: Final = msgspec.json.Decoder(TaskRules).decode

_TASK_STATES: Final = {state.value: state for state in TaskState}
_PREVIOUS_STATES: Final[Mapping[str | None, TaskState | None]] = {
    None if state is None else state.value: state for state in (None, *TaskState)
}
NODE_STATES: Final = {state.value: state for state in NodeState}

_NO_VALUE: Final = Column("NULL")

POOL_COLUMNS: Final[Columns] = {
    "id": Column("pool.id"),
    "state": Column("pool.state", folded=True),
    "stateTransitionTime": Column("pool.state_time"),
    "allocationState": Column("pool.allocation_state", folded=True),
    "allocationStateTransitionTime": Column("pool.allocation_state_time"),
    "creationTime": Column("pool.creation_time"),
    "lastModified": Column("pool.last_modified"),
    "enableAutoScale": Column("pool.enable_auto_scale"),
    "enableInterNodeCommunication": Column("pool.enable_inter_node_communication"),
    "vmSize": Column("pool.vm_size"),
}
NODE_COLUMNS: Final[Columns] = {
    "state": Column("node.state", folded=True),
    "stateTransitionTime": Column("node.state_time"),
    "lastBootTime": Column("node.last_boot_time"),
    "allocationTime": Column("node.allocation_time"),
    # A node's record says nothing of its start task.
    "startTaskInfo/state": _NO_VALUE,
    "startTaskInfo/result": _NO_VALUE,
    "startTaskInfo/exitCode": _NO_VALUE,
    "startTaskInfo/startTime": _NO_VALUE,
    "startTaskInfo/endTime": _NO_VALUE,
}
NODE_COUNTS_COLUMNS: Final[Columns] = {"poolId": Column("pool.id")}
JOB_COLUMNS: Final[Columns] = {
    "id": Column("job.id"),
    "state": Column("job.state", folded=True),
    "stateTransitionTime": Column("job.state_time"),
    "creationTime": Column("job.creation_time"),
    "lastModified": Column("job.last_modified"),
    "executionInfo/startTime": Column("job.start_time"),
    "executionInfo/endTime": Column("job.end_time"),
    "executionInfo/poolId": Column("job.pool_id"),
}
TASK_COLUMNS: Final[Columns] = {
    "id": Column("task.id"),
    "state": Column("task.state", folded=True),
    "stateTransitionTime": Column("task.state_time"),
    "creationTime": Column("task.creation_time"),
    "lastModified": Column("task.last_modified"),
    "executionInfo/startTime": Column("task.start_time"),
    "executionInfo/endTime": Column("task.end_time"),
    "executionInfo/exitCode": Column("task.exit_code"),
    # `Task.result`
    "executionInfo/result": Column(
        "(CASE WHEN task.state <> 'completed' THEN NULL WHEN task.failure IS NULL THEN 'success' ELSE 'failure' END)",
        folded=True,
    ),
}

NEW_TASK_NODE: Final = 11
"""Where the node id stands in `new_task_row`."""
TASK_NODE: Final = 9
"""Where the node id stands in `task_row`."""
TASK_REF: Final = 11
"""Where the node's number stands in a row that was read."""


class Rows(msgspec.Struct):
    """The rows of a change set, taken out of its records: nothing of it changes when they do."""

    pools: list[Row]
    nodes: list[Row]
    jobs: list[Row]
    new_tasks: list[Row]
    tasks: list[Row]
    specs: list[Row]
    satisfied: list[Row]
    deleted_pools: list[int]
    deleted_nodes: list[str]
    deleted_jobs: list[int]
    deleted_tasks: list[int]

    def copy(self) -> "Rows":
        """Lists of its own, the same rows."""
        return Rows(*(list(getattr(self, name)) for name in self.__struct_fields__))

    def extend(self, other: "Rows") -> None:
        """Add the rows of another change set, which touch other keys."""
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))


def rows_of(changes: ChangeSet) -> Rows:
    """Reads the records; a value that is no JSON raises here, before anything is written."""
    new_tasks: list[Row] = []
    tasks: list[Row] = []
    is_new = changes.new_tasks
    for key, task in changes.tasks.items():
        if key in is_new:
            new_tasks.append(_new_task_row(task))
        else:
            tasks.append(_task_row(task))
    return Rows(
        pools=[_pool_row(pool) for pool in changes.pools.values()],
        nodes=[_node_row(node) for node in changes.nodes.values()],
        jobs=[_job_row(job) for job in changes.jobs.values()],
        new_tasks=new_tasks,
        tasks=tasks,
        specs=list(changes.specs.items()),
        satisfied=sorted(changes.satisfied),
        deleted_pools=sorted(changes.deleted_pools),
        deleted_nodes=sorted(changes.deleted_nodes),
        deleted_jobs=sorted(changes.deleted_jobs),
        deleted_tasks=sorted(changes.deleted_tasks),
    )


# `_value_` of a state and 1 or 0 for a flag: sqlite3 binds plain str and int directly and looks for an adapter first
# for anything derived from them.


def _new_task_row(task: Task) -> Row:
    previous = task.previous_state
    return (
        task.key,
        task.id,
        task.state._value_,
        task.creation_time,
        task.last_modified,
        task.state_time,
        task.required_slots,
        task.max_retry_count,
        None if previous is None else previous._value_,
        task.previous_state_time,
        task.attempt,
        task.node_id,
        task.retry_count,
        task.requeue_count,
        task.last_retry_time,
        task.last_requeue_time,
        task.start_time,
        task.end_time,
        task.exit_code,
        None if task.failure is None else _encode(task.failure),
        1 if task.satisfies else 0,
        None if task.rules is None else _encode(task.rules),
    )


def _task_row(task: Task) -> Row:
    previous = task.previous_state
    return (
        task.key,
        task.state._value_,
        task.last_modified,
        task.state_time,
        task.required_slots,
        task.max_retry_count,
        None if previous is None else previous._value_,
        task.previous_state_time,
        task.attempt,
        task.node_id,
        task.retry_count,
        task.requeue_count,
        task.last_retry_time,
        task.last_requeue_time,
        task.start_time,
        task.end_time,
        task.exit_code,
        None if task.failure is None else _encode(task.failure),
        1 if task.satisfies else 0,
        None if task.rules is None else _encode(task.rules),
    )


def task_of_row(row: Row, node_names: Mapping[int | None, str | None]) -> Task:
    """A task from the query fragment `task_columns`; further columns are ignored."""
    failure = row[19]
    rules = row[21]
    return Task(
        row[0],
        row[1],
        _TASK_STATES[row[2]],
        row[3],
        row[4],
        row[5],
        row[6],
        row[7],
        _PREVIOUS_STATES[row[8]],
        row[9],
        row[10],
        node_names[row[11]],
        row[12],
        row[13],
        row[14],
        row[15],
        row[16],
        row[17],
        row[18],
        failure and _failure_of(failure),
        row[20] == 1,
        rules and _rules_of(rules),
    )


def _pool_row(pool: Pool) -> Row:
    return (
        pool.no,
        pool.id,
        pool.state._value_,
        pool.state_time,
        pool.allocation_state._value_,
        pool.allocation_state_time,
        pool.creation_time,
        pool.last_modified,
        1 if pool.spec.get("enableAutoScale") is True else 0,
        1 if pool.spec.get("enableInterNodeCommunication") is True else 0,
        pool.vm_size,
        _encode(pool),
    )


def _node_row(node: Node) -> Row:
    return (
        node.id,
        node.pool_no,
        1 if node.is_dedicated else 0,
        node.state._value_,
        node.state_time,
        node.last_boot_time,
        node.allocation_time,
        _encode(node),
    )


def _job_row(job: Job) -> Row:
    return (
        job.no,
        job.id,
        job.pool_id,
        job.state._value_,
        job.state_time,
        job.creation_time,
        job.last_modified,
        job.start_time,
        job.end_time,
        _encode(job),
    )
