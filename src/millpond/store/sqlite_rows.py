"""Records to SQLite rows and back, and the columns filters look at."""

import copy
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from millpond.domain.application import Application
from millpond.domain.durations import Timestamp
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode, SpecialTaskInfo
from millpond.domain.states import NodeState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import FailureInfo, ResourceUse, Task, TaskRules
from millpond.odata.sql import Column, Columns
from millpond.store.changes import ChangeSet
from millpond.store.sqlite_runs import MIN_TASKS, Run, run_of, runs_of

Row: TypeAlias = tuple[Any, ...]


class TaskUpdates(msgspec.Struct, array_like=True):
    """Tasks of one node that are nearly alike, as most are that end together."""

    node_id: str | None
    alike: Row
    """What many tasks have alike that change together, and from `OFTEN_ALIKE` on what those of one node have."""
    own: list[Row]
    """Of each task, its key first."""


OFTEN_ALIKE: Final = 11
MIN_ALIKE: Final = 16
"""So many are worth a statement of their own."""

_encode: Final = msgspec.json.Encoder().encode
_encode_work: Final = msgspec.msgpack.Encoder().encode
pool_of_record: Final = msgspec.json.Decoder(Pool).decode
node_of_record: Final = msgspec.json.Decoder(Node).decode
application_of_record: Final = msgspec.json.Decoder(Application).decode
job_of_record: Final = msgspec.json.Decoder(Job).decode
job_node_of_record: Final = msgspec.json.Decoder(JobNode).decode
job_schedule_of_record: Final = msgspec.json.Decoder(JobSchedule).decode
subtask_of_record: Final = msgspec.json.Decoder(Subtask).decode
_decode_numbers: Final = msgspec.json.Decoder(list[int | None]).decode
_failure_of: Final = msgspec.json.Decoder(FailureInfo).decode
_rules_of: Final = msgspec.json.Decoder(TaskRules).decode
_use_of: Final = msgspec.json.Decoder(ResourceUse).decode

_TASK_STATES: Final = {state.value: state for state in TaskState}
_PREVIOUS_STATES: Final[Mapping[str | None, TaskState | None]] = {
    None if state is None else state.value: state for state in (None, *TaskState)
}
NODE_STATES: Final = {state.value: state for state in NodeState}

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
    "startTaskInfo/state": Column("node.start_task_state", folded=True),
    "startTaskInfo/result": Column("node.start_task_result", folded=True),
    "startTaskInfo/exitCode": Column("node.start_task_exit_code"),
    "startTaskInfo/startTime": Column("node.start_task_start_time"),
    "startTaskInfo/endTime": Column("node.start_task_end_time"),
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
JOB_SCHEDULE_COLUMNS: Final[Columns] = {
    "id": Column("job_schedule.id"),
    "state": Column("job_schedule.state", folded=True),
    "stateTransitionTime": Column("job_schedule.state_time"),
    "creationTime": Column("job_schedule.creation_time"),
    "lastModified": Column("job_schedule.last_modified"),
    "executionInfo/endTime": Column("job_schedule.end_time"),
    "schedule/doNotRunUntil": Column("job_schedule.do_not_run_until"),
    "schedule/doNotRunAfter": Column("job_schedule.do_not_run_after"),
}
JOB_NODE_COLUMNS: Final[Columns] = {
    "poolId": Column("job_node.pool_id"),
    "nodeId": Column("job_node.node_id"),
    "jobPreparationTaskExecutionInfo/state": Column("job_node.preparation_state", folded=True),
    "jobPreparationTaskExecutionInfo/result": Column("job_node.preparation_result", folded=True),
    "jobPreparationTaskExecutionInfo/exitCode": Column("job_node.preparation_exit_code"),
    "jobPreparationTaskExecutionInfo/startTime": Column("job_node.preparation_start_time"),
    "jobPreparationTaskExecutionInfo/endTime": Column("job_node.preparation_end_time"),
    "jobReleaseTaskExecutionInfo/state": Column("job_node.release_state", folded=True),
    "jobReleaseTaskExecutionInfo/result": Column("job_node.release_result", folded=True),
    "jobReleaseTaskExecutionInfo/exitCode": Column("job_node.release_exit_code"),
    "jobReleaseTaskExecutionInfo/startTime": Column("job_node.release_start_time"),
    "jobReleaseTaskExecutionInfo/endTime": Column("job_node.release_end_time"),
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
"""Where the node id stands in a row of `new_tasks`."""
TASK_REF: Final = 11
"""Where the node's number stands in a row that was read."""


def json_of(values: object) -> str:
    """Many values as one parameter of a query."""
    return _encode(values).decode()


class Rows(msgspec.Struct, array_like=True):
    """The rows of a change set, taken out of its records: nothing of it changes when they do."""

    pools: list[Row]
    nodes: list[Row]
    node_work: list[tuple[list[str], bytes]]
    """Ids of nodes that have worked, and `list[NodeWork]` of these in MessagePack."""
    jobs: list[Row]
    runs: list[Run]
    new_tasks: list[Row]
    """Those in no run."""
    tasks: list[TaskUpdates]
    hand_overs: list[tuple[int, int, str | None]]
    """Key, attempt, id of the node."""
    specs: list[Row]
    """Those of no run."""
    new_task_arrays: list[Row]
    rests: list[Row]
    satisfied: list[Row]
    job_nodes: list[Row]
    subtasks: list[Row]
    job_schedules: list[Row]
    deleted_subtasks: list[int]
    deleted_job_schedules: list[int]
    deleted_pools: list[int]
    deleted_nodes: list[str]
    deleted_jobs: list[int]
    deleted_tasks: list[int]
    deleted_task_arrays: list[int]

    def copy(self) -> "Rows":
        """Lists of its own, the same rows."""
        return Rows(*(list(getattr(self, name)) for name in self.__struct_fields__))

    def extend(self, other: "Rows") -> None:
        """Add the rows of another change set, which touch other keys."""
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))


def rows_of(changes: ChangeSet) -> Rows:
    """Reads the records; a value that is no JSON raises here, before anything is written."""
    is_new = changes.new_tasks
    is_handed = changes.handed
    specs = changes.specs
    together = [it for it in changes.together if len(it.tasks) >= MIN_TASKS]
    runs = [run_of(it.tasks, it.specs) for it in together]
    single: list[Task] = []
    if sum([len(it.tasks) for it in together]) < len(is_new):
        known = {task.key for it in together for task in it.tasks}
        # Handed over at once, they are written as if they were not, so that they are still alike, and then the hand-over.
        added = ((task, key in is_handed) for key, task in changes.tasks.items() if key in is_new and key not in known)
        more, single = runs_of((_before_hand_over(task) if handed else task for task, handed in added), specs)
        runs += more
    if runs:
        alone = {task.key for task in single}
        # Every new task has one.
        all_in_runs = not alone and len(specs) == len(is_new)
        specs = {} if all_in_runs else {key: it for key, it in specs.items() if key in alone or key not in is_new}
    updates: list[TaskUpdates] = []
    hand_overs: list[tuple[int, int, str | None]] = []
    if is_handed or len(changes.tasks) > len(is_new):
        for key, task in changes.tasks.items():
            if key in is_handed:
                hand_overs.append((key, task.attempt, task.node_id))
            elif key not in is_new:
                _add_update(updates, task)
    return Rows(
        pools=[_pool_row(pool) for pool in changes.pools.values()],
        nodes=[_node_row(node) for node_id, node in changes.nodes.items() if node_id not in changes.worked],
        node_work=[_node_work(changes)] if changes.worked else [],
        jobs=[_job_row(job) for job in changes.jobs.values()],
        runs=runs,
        new_tasks=[_new_task_row(task) for task in single],
        tasks=updates,
        hand_overs=hand_overs,
        specs=list(specs.items()),
        new_task_arrays=[
            (array.key, array.last_key, array.id, _encode(changes.rests[key]), _encode(array))
            for key, array in changes.task_arrays.items()
            if changes.rests[key]
        ],
        rests=[(key, _encode(rest)) for key, rest in changes.rests.items() if rest and key not in changes.task_arrays],
        satisfied=sorted(changes.satisfied),
        job_nodes=[_job_node_row(job_node) for job_node in changes.job_nodes.values()],
        subtasks=[_subtask_row(subtask) for subtask in changes.subtasks.values()],
        job_schedules=[_job_schedule_row(schedule) for schedule in changes.job_schedules.values()],
        deleted_subtasks=sorted(changes.deleted_subtasks),
        deleted_job_schedules=sorted(changes.deleted_job_schedules),
        deleted_pools=sorted(changes.deleted_pools),
        deleted_nodes=sorted(changes.deleted_nodes),
        deleted_jobs=sorted(changes.deleted_jobs),
        deleted_tasks=sorted(changes.deleted_tasks),
        deleted_task_arrays=sorted(key for key, rest in changes.rests.items() if not rest),
    )


# `_value_` of a state and 1 or 0 for a flag: sqlite3 binds plain str and int directly and looks for an adapter first
# for anything derived from them.


def _before_hand_over(task: Task) -> Task:
    before = copy.copy(task)
    before.attempt -= 1
    before.node_id = None
    return before


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
        None if task.use is None else _encode(task.use),
    )


def _add_update(updates: list[TaskUpdates], task: Task) -> None:
    """Together with those before it, if it is like them."""
    previous = task.previous_state
    node_id = task.node_id
    alike = (
        task.state._value_,
        task.required_slots,
        task.max_retry_count,
        None if previous is None else previous._value_,
        task.attempt,
        task.retry_count,
        task.requeue_count,
        task.last_retry_time,
        task.last_requeue_time,
        None if task.failure is None else _encode(task.failure),
        1 if task.satisfies else 0,
        task.state_time,
        task.previous_state_time,
        task.exit_code,
        None if task.rules is None else _encode(task.rules),
    )
    use = task.use
    own = (task.key, task.last_modified, task.start_time, task.end_time, None if use is None else _encode(use))
    if updates:
        last = updates[-1]
        if last.alike == alike and last.node_id == node_id:
            last.own.append(own)
            return
    updates.append(TaskUpdates(node_id, alike, [own]))


def task_of_row(row: Row, node_names: Mapping[int | None, str | None]) -> Task:
    """A task from the query fragment `task_columns`; further columns are ignored."""
    failure = row[19]
    rules = row[21]
    use = row[22]
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
        use and _use_of(use),
    )


ListedRow: TypeAlias = tuple[
    int,
    str,
    TaskState,
    int,
    int,
    int,
    int,
    int | None,
    TaskState | None,
    int | None,
    int,
    int | None,
    int,
    int,
    int | None,
    int | None,
    int | None,
    int | None,
    int | None,
    FailureInfo | None,
    int,
    TaskRules | None,
    ResourceUse | None,
    str | None,
]
"""A row of `list_other_tasks`."""
listed_rows_of: Final = msgspec.json.Decoder(list[ListedRow]).decode


def listed_task(row: ListedRow, node_names: Mapping[int | None, str | None]) -> Task:
    return Task(
        row[0],
        row[1],
        row[2],
        row[3] / 1e6,
        row[4] / 1e6,
        row[5] / 1e6,
        row[6],
        row[7],
        row[8],
        _seconds(row[9]),
        row[10],
        node_names[row[11]],
        row[12],
        row[13],
        _seconds(row[14]),
        _seconds(row[15]),
        _seconds(row[16]),
        _seconds(row[17]),
        row[18],
        row[19],
        row[20] == 1,
        row[21],
        row[22],
    )


def _seconds(microseconds: int | None) -> Timestamp | None:
    return None if microseconds is None else microseconds / 1e6


def added_tasks(keys: str, task_ids: str, created: str, slots: str, retries: str) -> list[Task]:
    """Tasks from the row of `load_added_tasks`. Those added together have one time between them: the same object."""
    active = TaskState.ACTIVE
    tasks: list[Task] = []
    last = -1
    at: Timestamp = 0.0
    columns = (_numbers(keys), task_ids.split(" "), _numbers(created), _numbers(slots), _numbers(retries))
    for key, task_id, microseconds, required_slots, max_retry_count in zip(*columns, strict=True):
        if microseconds != last:
            last, at = microseconds, microseconds / 1e6
        tasks.append(Task(key, task_id, active, at, at, at, required_slots, max_retry_count))
    return tasks


def _numbers(text: str) -> list[Any]:
    return _decode_numbers(f"[{text}]")


def application_row(application: Application) -> Row:
    return (application.id, 1 if application.active_versions else 0, _encode(application))


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
        0 if pool.auto_scale is None else 1,
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
        *_special_task_columns(node.start_task),
        _encode(node),
    )


def _node_work(changes: ChangeSet) -> tuple[list[str], bytes]:
    ids = list(changes.worked)
    return ids, _encode_work([changes.nodes[node_id].work() for node_id in ids])


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
        job.schedule_id,
        _encode(job),
    )


def _job_schedule_row(schedule: JobSchedule) -> Row:
    return (
        schedule.no,
        schedule.id,
        schedule.state._value_,
        schedule.state_time,
        schedule.creation_time,
        schedule.last_modified,
        schedule.end_time,
        schedule.recurrence.do_not_run_until,
        schedule.recurrence.do_not_run_after,
        _encode(schedule),
    )


def _job_node_row(job_node: JobNode) -> Row:
    return (
        job_node.job_no,
        job_node.node_id,
        job_node.pool_id,
        *_special_task_columns(job_node.preparation),
        *_special_task_columns(job_node.release),
        _encode(job_node),
    )


def _subtask_row(subtask: Subtask) -> Row:
    return (subtask.task_key, subtask.index, _encode(subtask))


def _special_task_columns(info: SpecialTaskInfo | None) -> Row:
    """What filters look at: state, result, exit code, start time, end time."""
    if info is None:
        return (None, None, None, None, None)
    result = info.result
    return (
        info.state._value_,
        None if result is None else result._value_,
        info.exit_code,
        info.start_time,
        info.end_time,
    )
