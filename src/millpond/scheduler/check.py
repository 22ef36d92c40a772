"""Invariants of the scheduler's memory, for tests and the simulation (design: "Invariants after every step")."""

from collections.abc import Iterator
from itertools import pairwise

from millpond.domain import task_array
from millpond.domain.ids import NODE_SETUP_KEY, id_key, is_special_key
from millpond.domain.states import (
    IN_SERVICE_NODE_STATES,
    JobState,
    NodeState,
    SchedulingState,
    SubtaskState,
    TaskKind,
    TaskState,
)
from millpond.domain.task import TaskCounts
from millpond.scheduler import apart, gangs, lines, load
from millpond.scheduler.state import Assignment, JobMemory, NodeMemory, SchedulerState, TaskLoad, is_ready

_HOLD_TASKS = IN_SERVICE_NODE_STATES | {
    NodeState.UNKNOWN,
    NodeState.WAITING_FOR_START_TASK,
    NodeState.START_TASK_FAILED,
    NodeState.UNUSABLE,
}
"""Node states in which tasks can be on a node (running out, in some of them)."""

_NO_MACHINE = frozenset({NodeState.PREEMPTED, NodeState.DEALLOCATED})
_OPERATED = _NO_MACHINE | {
    NodeState.CREATING,
    NodeState.STARTING,
    NodeState.REBOOTING,
    NodeState.REIMAGING,
    NodeState.DEALLOCATING,
    NodeState.LEAVING_POOL,
}
"""Node states under which no operation but a removal can be waiting."""


def violations(state: SchedulerState) -> list[str]:
    """Every broken invariant in words; empty when all is well."""
    return [
        *_node_violations(state),
        *_gang_violations(state),
        *_job_violations(state),
        *_filing_violations(state),
        *_load_violations(state),
    ]


def _home(state: SchedulerState, assignment: Assignment) -> str | None:
    """The node the records say the attempt is on."""
    gang = state.gangs.get(assignment.task.key)
    return assignment.task.node_id if gang is None else gang.instances[assignment.index].node_id


def _gang_violations(state: SchedulerState) -> Iterator[str]:
    """All of a multi-instance task is on nodes, or nothing; what is to have a node alone has it alone."""
    members: dict[int, set[int]] = {}
    for node in state.nodes.values():
        name = f"node {node.row.id[-8:]}"
        for assignment in node.assigned.values():
            task = assignment.task
            if gangs.is_gang(task):
                members.setdefault(task.key, set()).add(assignment.index)
            if apart.wants_whole_nodes(task):
                if assignment.slots != node.slots or not node.alone:
                    yield f"{name}: task {task.id} is to be alone and has {assignment.slots} slots of {node.slots}"
                if assignment.holds and sum(1 for a in node.assigned.values() if a.holds) != 1:
                    yield f"{name}: task {task.id} is to be alone and is not"
    if members.keys() != state.gangs.keys():
        yield f"multi-instance tasks on nodes are {sorted(members)}, in memory {sorted(state.gangs)}"
    for key, gang in state.gangs.items():
        left = {i.index for i in gang.instances if i.state is not SubtaskState.COMPLETED}
        if members.get(key, set()) != left or 0 not in left:
            yield f"task {gang.task.id}: instances {members.get(key)} are on nodes, should be {left}"
        if len({i.node_id for i in gang.instances}) != len(gang.instances):
            yield f"task {gang.task.id}: two instances are on one node"
        if gang.task.node_id != gang.instances[0].node_id or gang.instances[0].attempt != gang.task.attempt:
            yield f"task {gang.task.id}: its rows tell of another attempt"
    reserved = {node.row.id for node in state.nodes.values() if node.reserved}
    reservation = state.reservation
    if reserved != (set(reservation.nodes) & set(state.nodes) if reservation is not None else set()):
        yield f"nodes {reserved} are reserved, the reservation says otherwise"
    if reservation is not None and (
        not is_ready(reservation.task) or len(reservation.nodes) != apart.nodes_wanted(reservation.task)
    ):
        yield f"task {reservation.task.id}: has {len(reservation.nodes)} nodes reserved"


def _node_violations(state: SchedulerState) -> Iterator[str]:
    for node in state.nodes.values():
        name = f"node {node.row.id[-8:]}"
        held = sum(a.slots for a in node.assigned.values() if a.holds)
        stopping = sum(s.slots for s in node.stopping.values())
        if held > node.slots:
            yield f"{name}: {held} slots handed out of {node.slots}"
        if node.free != node.slots - held - stopping:
            yield f"{name}: free is {node.free}, should be {node.slots - held - stopping}"
        if node.ahead != sum(1 for a in node.assigned.values() if not a.holds):
            yield f"{name}: ahead is {node.ahead}"
        running = [a for a in node.assigned.values() if gangs.is_running(state, a)]
        if node.row.running_tasks != len(running):
            yield f"{name}: running_tasks is {node.row.running_tasks}, should be {len(running)}"
        if any(not a.holds for a in running):
            yield f"{name}: a running task holds no slots"
        for key, assignment in node.assigned.items():
            task = assignment.task
            if _home(state, assignment) != node.row.id or task.attempt != assignment.attempt or task.key != key:
                yield f"{name}: task {task.id} is not on it as attempt {assignment.attempt}"
            if (key, assignment.attempt) in node.stopping:
                yield f"{name}: task {task.id} attempt {assignment.attempt} both runs and stops"
        yield from _state_violations(node, name)
        yield from _special_violations(node, name)


def _state_violations(node: NodeMemory, name: str) -> Iterator[str]:
    row = node.row
    # A preparation task may be told to stop while its node restarts.
    stopping = any(not is_special_key(key) for key, _ in node.stopping)
    if row.state not in _HOLD_TASKS and (node.assigned or stopping):
        yield f"{name}: is {row.state} and has tasks"
    if row.pending is not None and row.removal is None and row.state in _OPERATED:
        yield f"{name}: is {row.state} and {row.pending.operation} still waits"
    if node.connected and row.state is NodeState.IDLE and row.scheduling_state is SchedulingState.DISABLED:
        yield f"{name}: is idle and scheduling is disabled"
    if node.connected and row.state is NodeState.OFFLINE and row.scheduling_state is SchedulingState.ENABLED:
        yield f"{name}: is offline and scheduling is enabled"
    if node.connected and row.state in _NO_MACHINE:
        yield f"{name}: is {row.state} and connected"
    if node.retention_timer is not None and row.pending is None:
        yield f"{name}: a timer is set for nothing"


def _special_violations(node: NodeMemory, name: str) -> Iterator[str]:
    for assignment in node.assigned.values():
        if not assignment.sent and not assignment.index and assignment.task.state is TaskState.RUNNING:
            yield f"{name}: task {assignment.task.id} waits for a preparation task and is {assignment.task.state}"
    for key, run in node.specials.items():
        if run.key != key:
            yield f"{name}: special task {run.key} is filed under {key}"
        if run.kind is TaskKind.START_TASK and NODE_SETUP_KEY in node.specials:
            yield f"{name}: its start task runs before it is set up"
        if run.job is not None and node.row.id not in run.job.on_nodes:
            yield f"{name}: special task {key} has no row"


def _recount(job: JobMemory) -> TaskCounts:
    counts = TaskCounts()
    for task in job.tasks.values():
        if task.state is TaskState.ACTIVE:
            counts.active += 1
            counts.active_slots += task.required_slots
        elif task.state is not TaskState.COMPLETED:
            counts.running += 1
            counts.running_slots += task.required_slots
        elif task.failure is None:
            counts.succeeded += 1
            counts.succeeded_slots += task.required_slots
        else:
            counts.failed += 1
            counts.failed_slots += task.required_slots
    for memory in job.arrays.values():
        counts.active += task_array.size_of(memory.rest)
        counts.active_slots += memory.array.slots(memory.rest)
    return counts


def _job_violations(state: SchedulerState) -> Iterator[str]:
    stopping: dict[int, int] = {}
    specials: dict[int, int] = {}
    for node in state.nodes.values():
        for run in node.specials.values():
            if run.job is not None:
                specials[run.job.row.no] = specials.get(run.job.row.no, 0) + 1
        for key, _attempt in node.stopping:
            stopping[key >> 32] = stopping.get(key >> 32, 0) + 1
    for job in state.jobs.values():
        name = f"job {job.row.id}"
        if job.stopping != stopping.get(job.row.no, 0):
            yield f"{name}: stopping is {job.stopping}, should be {stopping.get(job.row.no, 0)}"
        if job.specials != specials.get(job.row.no, 0):
            yield f"{name}: specials is {job.specials}, should be {specials.get(job.row.no, 0)}"
        if job.row.state in (JobState.COMPLETED, JobState.DELETING):
            if job.assigned:
                yield f"{name}: is {job.row.state} and has tasks on nodes"
            continue
        if _recount(job) != job.row.counts:
            yield f"{name}: counts are {job.row.counts}, should be {_recount(job)}"
        queued: dict[int, int] = {}
        for queue in (*job.ready.values(), job.first, *job.gangs.values()):
            for task in queue:
                if is_ready(task):
                    queued[task.key] = queued.get(task.key, 0) + 1
        yield from _line_violations(job, queued)
        for task in lines.with_records(job):
            queued[task.key] = queued.get(task.key, 0) + 1
        waiting = job.dependencies.waiting if job.dependencies is not None else {}
        for task in job.tasks.values():
            assigned_to = job.assigned.get(task.key)
            if (assigned_to is not None) != (task.state is not TaskState.COMPLETED and task.node_id is not None):
                yield f"{name}: task {task.id} is {task.state} on {task.node_id}, books say {assigned_to}"
            if task.state is TaskState.COMPLETED:
                continue
            places = (task.key in queued) + (task.key in waiting) + (assigned_to is not None)
            if places != 1:
                yield f"{name}: task {task.id} is in {places} of ready, waiting, assigned"


def _line_violations(job: JobMemory, queued: dict[int, int]) -> Iterator[str]:
    """Every item without a record stands in a line whose head is in a queue, and in one only."""
    name = f"job {job.row.id}"
    for line in job.lines.values():
        without_record = task_array.covers(line.memory.rest, line.head.key - line.memory.array.key)
        if without_record and queued.get(line.head.key) != 1:
            yield f"{name}: item {line.head.id} is the head of a line and in {queued.get(line.head.key)} queues"
    for memory in job.arrays.values():
        array = memory.array
        first, last = memory.rest[0][0], memory.rest[-1][1]
        if (
            any(end + 1 >= start for (_, end), (start, _) in pairwise(memory.rest))
            or not 0 <= first <= last < array.count
        ):
            yield f"{name}: the rest of array {array.id} is {memory.rest}"
        spans = sorted((line.head.key - array.key, line.last) for line in job.lines.values() if line.memory is memory)
        for start, end in memory.rest:
            index: int | None = start
            while index is not None and index <= end:
                span = next((span for span in spans if span[0] <= index <= span[1]), None)
                if span is None:
                    yield f"{name}: item {array.task_id(index)} stands in no line"
                index = None if span is None else span[1] + 1
        both = [edge for edge in {first, last} if id_key(array.task_id(edge)) in job.tasks]
        if both:
            yield f"{name}: items {both} of array {array.id} have a record and have none"


def _filing_violations(state: SchedulerState) -> Iterator[str]:
    for free, bucket in enumerate(state.free_nodes):
        for node in bucket.values():
            if not node.takes_tasks or node.free != free or node.ahead or free == 0 or node.reserved:
                yield f"node {node.row.id[-8:]}: misfiled under {free} free slots"
    for node in state.nodes.values():
        filed = any(node.row.id in bucket for bucket in state.free_nodes)
        if node.takes_tasks and node.free > 0 and not node.ahead and not node.reserved and not filed:
            yield f"node {node.row.id[-8:]}: has free slots and is not filed"


def _load_violations(state: SchedulerState) -> Iterator[str]:
    """The sums are what counting task by task gives."""
    total = TaskLoad()
    for job in state.jobs.values():
        row = job.row
        if row.state is JobState.ACTIVE:
            for memory in job.arrays.values():
                total.active += task_array.size_of(memory.rest)
                total.active_slots += memory.array.slots(memory.rest)
        total.succeeded += row.counts.succeeded
        total.failed += row.counts.failed
        waiting = job.dependencies.waiting if job.dependencies is not None else {}
        for task in job.tasks.values():
            instances = 1 + load.extra_instances(task)
            slots = instances * task.required_slots
            if task.state is TaskState.ACTIVE and row.state is JobState.ACTIVE and task.key not in waiting:
                total.active += instances
                total.active_slots += slots
            elif task.state in (TaskState.PREPARING, TaskState.RUNNING):
                total.running += instances
                total.running_slots += slots
    if total != state.load:
        yield f"load is {state.load}, should be {total}"


def digest(state: SchedulerState) -> dict[str, object]:
    """What two memories of the same truth agree on, in comparable form.

    Left out: what only the nodes know (stopping attempts, connections), hints, and the order of queues. It does not change
    when the memory does.
    """
    return {
        "pool": repr(state.pool),
        "nodes": {node_id: _node_digest(node) for node_id, node in state.nodes.items()},
        "jobs": {key: _job_digest(job) for key, job in state.jobs.items()},
        "gangs": {key: repr(gang) for key, gang in state.gangs.items()},
    }


def _node_digest(node: NodeMemory) -> object:
    return (
        node.row.id,
        node.row.pending,
        node.row.handle,
        node.row.scheduling_state,
        node.row.retain_until,
        node.row.state if node.row.state in _OPERATED else "",
        repr(node.row.setup),
        repr(node.row.start_task),
        sorted((k, a.attempt, a.sent, a.index, a.slots) for k, a in node.assigned.items()),
        sorted((k, run.kind, run.attempt) for k, run in node.specials.items()),
    )


def _job_digest(job: JobMemory) -> object:
    queues = (*job.ready.values(), job.first, *job.gangs.values())
    # The head of a line that has no record may stand there or, while one that has got a record does, come after it.
    entries = (task for queue in queues for task in queue if is_ready(task))
    ready = {task.key for task in entries if task.key not in job.lines or id_key(task.id) in job.tasks}
    ready |= {task.key for task in lines.with_records(job)}
    arrays = {key: (repr(memory.array), tuple(memory.rest)) for key, memory in job.arrays.items()}
    index = job.dependencies
    waiting = {key: wait.remaining for key, wait in index.waiting.items()} if index is not None else {}
    tasks = {key: repr(task) for key, task in job.tasks.items()}
    # Of a job that is being deleted the rows go one by one, and nobody asks for them.
    deleting = job.row.state is JobState.DELETING
    on_nodes = {} if deleting else {node_id: repr(known) for node_id, known in job.on_nodes.items()}
    barred = set() if deleting else set(job.barred)
    return (repr(job.row), tasks, arrays, ready, waiting, dict(job.assigned), on_nodes, barred)
