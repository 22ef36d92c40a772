"""Multi-instance tasks on nodes: their instances, and how far they are (Azure Batch: semantics 3.5).

All instances run under the task's key and attempt, one on a node. The primary (index 0) stands for the task: its node is
the task's, its start and its end are the task's. What the instances do is in the rows of subtasks, from which the memory
of a gang is built again; a later attempt replaces them. Placing a gang is the business of `reservations`; taking it
off its nodes, of `tasks.detach`.
"""

from collections.abc import Sequence
from typing import Final

from millpond.domain.durations import Timestamp
from millpond.domain.effects import Effect, GangMember, Proceed, SaveSubtask, StartTask
from millpond.domain.errors import Bug
from millpond.domain.events import InstanceCoordinated, TaskEnded
from millpond.domain.pool import Pool
from millpond.domain.states import IN_SERVICE_NODE_STATES, SUBTASK_MOVES, SubtaskState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import FailureInfo, NameValue, Task
from millpond.scheduler import retries
from millpond.scheduler.state import Assignment, Gang, JobMemory, NodeMemory, SchedulerState, settle_node_state

_COORDINATED: Final = 0
"""The exit code a subtask shows that was stopped after its coordination command: that command's."""


def is_gang(task: Task) -> bool:
    return task.rules is not None and task.rules.instances > 0


def fits_pool(pool: Pool, task: Task) -> bool:
    """Whether the pool is of the kind that runs multi-instance tasks; elsewhere they wait without an error."""
    return pool.inter_node_communication and pool.task_slots_per_node == 1 and task.required_slots == 1


# --- beginning ------------------------------------------------------------------------------------------------------


def found(state: SchedulerState, task: Task, nodes: Sequence[NodeMemory], at: Timestamp, effects: list[Effect]) -> None:
    """The task's current attempt is about to be assigned to these nodes, in order of index."""
    gang = Gang(
        task,
        [
            Subtask(task.key, index, task.attempt, node.row.id, SubtaskState.PREPARING, at)
            for index, node in enumerate(nodes)
        ],
    )
    state.gangs[task.key] = gang
    effects.extend(SaveSubtask(instance) for instance in gang.instances)


def start_of(state: SchedulerState, job: JobMemory, node: NodeMemory, assignment: Assignment) -> StartTask:
    """What tells the node to run what it was assigned."""
    task = assignment.task
    gang = state.gangs.get(task.key) if is_gang(task) else None
    members: tuple[GangMember, ...] = ()
    if gang is not None:
        members = tuple(GangMember(i.node_id, _address(state, i.node_id)) for i in gang.instances)
    return StartTask(
        node.row.id, job.row, task, assignment.attempt, assignment.slots, members=members, index=assignment.index
    )


def _address(state: SchedulerState, node_id: str) -> str:
    node = state.nodes.get(node_id)
    return node.row.ip_address if node is not None else ""


# --- what nodes report ----------------------------------------------------------------------------------------------


def _instance(state: SchedulerState, assignment: Assignment) -> Subtask | None:
    gang = state.gangs.get(assignment.task.key)
    return gang.instances[assignment.index] if gang is not None else None


def is_running(state: SchedulerState, assignment: Assignment) -> bool:
    """Whether the assigned attempt counts among what its node runs."""
    if not assignment.index:
        return assignment.task.state is TaskState.RUNNING
    instance = _instance(state, assignment)
    return instance is not None and instance.start_time is not None


def note_start(
    state: SchedulerState,
    node: NodeMemory,
    assignment: Assignment,
    start_time: Timestamp,
    at: Timestamp,
    effects: list[Effect],
) -> None:
    """An instance has begun. The primary's node is told of in `tasks`, with the task."""
    instance = _instance(state, assignment)
    if instance is None or instance.start_time is not None:
        return
    instance.start_time = min(max(start_time, instance.state_time), at)
    effects.append(SaveSubtask(instance))
    if assignment.index:
        row = node.row
        row.running_tasks += 1
        row.running_task_slots += assignment.task.required_slots
        row.total_tasks_run += 1
        state.touch_work(node)
        if row.state in IN_SERVICE_NODE_STATES:
            settle_node_state(state, node, at)


def on_instance_coordinated(state: SchedulerState, event: InstanceCoordinated, effects: list[Effect]) -> None:
    node = state.nodes.get(event.node_id)
    assignment = node.assigned.get(event.key) if node is not None else None
    if node is None or assignment is None or assignment.attempt != event.attempt:
        return
    gang = state.gangs.get(event.key)
    instance = _instance(state, assignment)
    if gang is None or instance is None or instance.state is not SubtaskState.PREPARING:
        return
    _move(instance, SubtaskState.RUNNING, event.at)
    effects.append(SaveSubtask(instance))
    _proceed_when_coordinated(gang, effects)


def _proceed_when_coordinated(gang: Gang, effects: list[Effect]) -> None:
    primary = gang.instances[0]
    if gang.is_coordinated and primary.state is SubtaskState.RUNNING:
        effects.append(Proceed(primary.node_id, gang.task.key, gang.task.attempt))


def note_end(state: SchedulerState, assignment: Assignment, event: TaskEnded, effects: list[Effect]) -> bool:
    """An instance ended by itself: whether the whole task ends with it.

    It does with the primary, and with a subtask that failed. A subtask that ended well is done, and the others go on.
    """
    gang = state.gangs.get(assignment.task.key)
    if gang is None:
        return True
    instance = gang.instances[assignment.index]
    failure = event.failure
    if failure is None and event.exit_code != 0:
        failure = retries.EXIT_CODE_FAILURE
    _end(instance, event.at, event.exit_code, failure)
    instance.end_time = min(max(event.end_time, instance.start_time or event.end_time), event.at)
    effects.append(SaveSubtask(instance))
    if assignment.index == 0 or failure is not None:
        return True
    _proceed_when_coordinated(gang, effects)
    return False


def blame(assignment: Assignment, failure: FailureInfo) -> FailureInfo:
    """The failure of the task, saying which of its instances failed."""
    if not assignment.index:
        return failure
    return FailureInfo(
        failure.category,
        failure.code,
        failure.message,
        (*failure.details, NameValue("SubtaskId", str(assignment.index))),
    )


def _move(instance: Subtask, to: SubtaskState, at: Timestamp) -> None:
    if to not in SUBTASK_MOVES[instance.state]:
        raise Bug(f"instance {instance.index} of task {instance.task_key} cannot go from {instance.state} to {to}")
    instance.previous_state = instance.state
    instance.previous_state_time = instance.state_time
    instance.state = to
    instance.state_time = at


def _end(instance: Subtask, at: Timestamp, exit_code: int | None, failure: FailureInfo | None) -> None:
    _move(instance, SubtaskState.COMPLETED, at)
    instance.end_time = at
    instance.exit_code = exit_code
    instance.failure = failure


# --- ending ---------------------------------------------------------------------------------------------------------


def disband(state: SchedulerState, key: int, at: Timestamp, effects: list[Effect]) -> list[Subtask]:
    """The attempt is over: its instances that had not ended, which are still on their nodes."""
    gang = state.gangs.pop(key, None)
    if gang is None:
        return []
    left = [instance for instance in gang.instances if instance.state is not SubtaskState.COMPLETED]
    for instance in left:
        if instance.state is SubtaskState.RUNNING:
            _end(instance, at, _COORDINATED if instance.index else None, None)
        else:
            _end(instance, at, None, retries.ENDED_WITH_TASK)
        effects.append(SaveSubtask(instance))
    return left


# --- sessions and rebuilding ----------------------------------------------------------------------------------------


def relies_on(state: SchedulerState, assignment: Assignment) -> bool:
    """Whether the other instances count on what this one has done: it cannot be started again by itself."""
    if not is_gang(assignment.task):
        return False
    instance = _instance(state, assignment)
    return instance is None or instance.state is not SubtaskState.PREPARING


def repeat_proceed(state: SchedulerState, assignment: Assignment, effects: list[Effect]) -> None:
    """The node holds the instance, and may not have been told to proceed: it is told again."""
    gang = state.gangs.get(assignment.task.key) if is_gang(assignment.task) else None
    if gang is not None and not assignment.index:
        _proceed_when_coordinated(gang, effects)


def recall(state: SchedulerState, task: Task, rows: Sequence[Subtask]) -> Gang | None:
    """The gang of a task that is on nodes, as its rows have it; None when they do not tell of this attempt."""
    instances = sorted((row for row in rows if row.attempt == task.attempt), key=lambda row: row.index)
    wanted = task.rules.instances if task.rules is not None else 0
    if [instance.index for instance in instances] != list(range(wanted)):
        return None
    if instances[0].node_id != task.node_id or instances[0].state is SubtaskState.COMPLETED:
        return None
    if any(i.state is not SubtaskState.COMPLETED and i.node_id not in state.nodes for i in instances):
        return None
    gang = state.gangs[task.key] = Gang(task, instances)
    return gang
