"""The invariants: what must hold after every batch, every message and every start of a process."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

from millpond.control.engine import Engine
from millpond.domain import events as e
from millpond.domain.events import Event
from millpond.domain.ids import START_TASK_KEY, id_key, is_special_key, job_no_of, release_key
from millpond.domain.job import Job
from millpond.domain.states import (
    JOB_MOVES,
    JOB_SCHEDULE_MOVES,
    NODE_MOVES,
    POOL_MOVES,
    JobState,
    NodeState,
    SpecialTaskState,
    SubtaskState,
    TaskKind,
    TaskState,
)
from millpond.domain.task import Task, TaskCounts
from millpond.domain.task_array import Rest, covers
from millpond.protocol import messages as m
from millpond.scheduler.check import digest, violations
from millpond.scheduler.state import SchedulerState
from millpond.sim.ledger import Ledger
from millpond.sim.loop import VirtualLoop
from millpond.sim.making import MOST_NODES
from millpond.sim.names import named, short
from millpond.sim.story import Story, Violation
from millpond.store.changes import ChangeSet

_OVER = (JobState.COMPLETED, JobState.DELETING)
_SHUTDOWNS = (NodeState.LEAVING_POOL, NodeState.DEALLOCATING, NodeState.DEALLOCATED)
_RESTARTS = (NodeState.REBOOTING, NodeState.REIMAGING, NodeState.UNKNOWN, NodeState.LEAVING_POOL)
_REQUEUES = (
    e.PoolResizeRequested,
    e.PoolResizeTimedOut,
    e.PoolAutoScaled,
    e.PoolDeleteRequested,
    e.NodesRemoveRequested,
    e.NodeOperationRequested,
    e.NodeSchedulingDisableRequested,
    e.JobDisableRequested,
    e.TaskEnded,
    e.TasksEnded,
    e.TaskTerminateRequested,
)
"""What a user, or a job's exit conditions, may have tasks requeued by so that it is counted."""


_SETS_TARGETS = (e.PoolResizeRequested, e.NodesRemoveRequested, e.PoolDeleteRequested, e.JobDeleteRequested)


def _ends_of(events: Iterable[Event]) -> Iterator[e.TaskEnded | e.AttemptEnd]:
    for event in events:
        if isinstance(event, e.TaskEnded):
            yield event
        elif isinstance(event, e.TasksEnded):
            for _, ends in event.told:
                yield from ends


class Decided(NamedTuple):
    """The memory of an engine at the moment it had decided a batch."""

    account: str
    pool_id: str
    counts: dict[int, tuple[str, TaskCounts]]
    """By number of the job, with its id."""
    whole: dict[str, object] | None
    """`digest`, where that is to be compared."""
    others: Set[int]
    """Numbers of the jobs of other pools: one that is moved here while the batch is written is not in this memory yet."""


class MachineFacts:
    """What has really happened on a machine, as far as rules about special tasks go by it."""

    def __init__(self) -> None:
        self.boot_time = 0.0
        self.disk_time = 0.0
        self.started_at = 0.0
        """The boot under which a start task exited with 0 last."""
        self.prepared: dict[int, tuple[float, float, int]] = {}
        """Job number → (disk, boot, exit code) of its preparation task's last run on this disk."""


class Audit:
    """Checks, and ends the run at the first that fails."""

    def __init__(
        self, loop: VirtualLoop, story: Story, ledger: Ledger, clock: Callable[[], float], *, rebuild_every: int
    ) -> None:
        """`rebuild_every` n-th batch is compared with a memory rebuilt from the rows."""
        self._loop = loop
        self._story = story
        self._ledger = ledger
        self._clock = clock
        self._rebuild_every = rebuild_every
        self._batches = 0
        self.checks = 0
        self.deletes: set[tuple[str, str]] = set()
        """(job id key, task id key) of tasks that a user has asked to delete; an empty task id stands for the job."""
        self.reactivations: dict[tuple[str, str], int] = {}
        """How often a user has asked for it, and a row has not shown it yet."""
        self.exits: dict[tuple[int, int], set[int]] = {}
        """(task key, attempt) → exit codes, of all processes that ended."""
        self.coordinated: set[tuple[int, int, str]] = set()
        """(task key, attempt, node id) of all instances that ever did."""
        self.deleted_schedules: set[str] = set()
        """Id keys of job schedules that a user has asked to delete: their jobs go with them."""
        self.met: Counter[str] = Counter()
        """What engines came through, apart from faults."""
        self._events: dict[int, list[Event]] = {}
        """Of the batches on their way to the disk, by the identity of their changes."""

    def fail(self, text: str) -> None:
        if self._loop.failure is None:
            self._story.add("VIOLATION", text)
            self._loop.failure = Violation(text)

    # --- the rows ---

    def announce(self, changes: ChangeSet, events: list[Event]) -> None:
        """These changes, about to be committed, come of those events."""
        self._events[id(changes)] = events

    def events_of(self, changes: ChangeSet) -> list[Event]:
        """What was announced, which is let go of."""
        return self._events.pop(id(changes), [])

    def may_delete(self, job: Job) -> bool:
        """Whether a user has asked to delete the job, or the schedule that made it."""
        return (id_key(job.id), "") in self.deletes or id_key(job.schedule_id or "") in self.deleted_schedules

    def on_write(self, changes: ChangeSet, events: list[Event]) -> None:
        """Rows about to be written, which come of those events."""
        ledger = self._ledger
        self.checks += 1
        self._check_moves(changes)
        self._check_counters(changes, events)
        self._check_targets(changes, events)
        for key, task in changes.tasks.items():
            before = ledger.task(key)
            if task.exit_code is not None and task.exit_code not in self.exits.get((key, task.attempt), ()):
                self.fail(f"task {named(key)}#{task.attempt} has exit code {task.exit_code}: it never exited with that")
            if before is None:
                continue
            if task.attempt < before.attempt:
                self.fail(f"task {named(key)} goes back from attempt {before.attempt} to {task.attempt}")
            if before.state is TaskState.COMPLETED:
                self._after_completion(key, before.attempt, task.attempt, task.state)
        for key in changes.deleted_tasks:
            before = ledger.task(key)
            job = ledger.jobs.get(job_no_of(key))
            if before is None or job is None:
                self.fail(f"task {named(key)} is deleted, and there is no such row")
            elif (id_key(job.id), id_key(before.id)) not in self.deletes:
                self.fail(f"task {named(key)} is deleted, and nobody asked for it")
        for no in changes.deleted_jobs:
            job = ledger.jobs.get(no)
            if ledger.arrays_of(no):
                self.fail(f"job {no} is deleted before its arrays")
            if job is not None and ledger.tasks.get(no):
                self.fail(f"job {job.id} is deleted before its {len(ledger.tasks[no])} tasks")
            if job is not None and not self.may_delete(job):
                self.fail(f"job {job.id} is deleted, and nobody asked for it")

        for key, rest in changes.rests.items():
            if key not in changes.task_arrays:
                self._check_rest(key, rest, changes)

    def _check_rest(self, key: int, rest: Rest, changes: ChangeSet) -> None:
        """An item that is none of the rest any more has a row, or somebody has asked to delete it."""
        array, before = self._ledger.arrays[key]
        job = self._ledger.jobs.get(job_no_of(key))
        if job is None:
            self.fail(f"array {array.id} of job {job_no_of(key)} changes without a job")
            return
        if any(not covers(before, index) for first, last in rest for index in range(first, last + 1)):
            self.fail(f"the rest of array {array.id} of {job.id} grows from {before} to {rest}")
        for first, last in before:
            for index in range(first, last + 1):
                if covers(rest, index) or key + index in changes.new_tasks:
                    continue
                if (id_key(job.id), id_key(array.task_id(index))) not in self.deletes:
                    self.fail(f"item {array.task_id(index)} of {job.id} is gone, and nobody asked for it")

    def _check_moves(self, changes: ChangeSet) -> None:
        """From what a row was to what it is there is a way through the tables. (A batch may make several moves.)"""
        ledger = self._ledger
        for no, pool in changes.pools.items():
            before = ledger.pools.get(no)
            if before is not None:
                self._check_move(f"pool {pool.id}", before.state, pool.state, POOL_MOVES)
        for node_id, node in changes.nodes.items():
            known = ledger.nodes.get(node_id)
            if known is not None:
                self._check_move(f"node {short(node_id)}", known.state, node.state, NODE_MOVES)
        for no, job in changes.jobs.items():
            row = ledger.jobs.get(no)
            if row is not None:
                self._check_move(f"job {job.id}", row.state, job.state, JOB_MOVES)
        for no, schedule in changes.job_schedules.items():
            old = ledger.job_schedules.get(no)
            if old is not None:
                self._check_move(f"job schedule {schedule.id}", old.state, schedule.state, JOB_SCHEDULE_MOVES)

    def _check_move(self, who: str, before: Any, after: Any, moves: Mapping[Any, frozenset[Any]]) -> None:
        if before is after:
            return
        reached, fresh = {before}, {before}
        while fresh:
            fresh = {to for state in fresh for to in moves[state]} - reached
            reached |= fresh
        if after not in reached:
            self.fail(f"{who} goes from {before} to {after}")

    def _check_counters(self, changes: ChangeSet, events: list[Event]) -> None:
        """Retries are counted for runs that exited with an error, requeues for what users asked; nothing else."""
        for key, task in changes.tasks.items():
            before = self._ledger.task(key)
            if before is None:
                continue
            if task.retry_count > before.retry_count:
                ends = [one for one in _ends_of(events) if one.key == key]
                grown = task.retry_count - before.retry_count
                if sum(1 for one in ends if one.exit_code != 0 and not one.retryable) < grown:
                    self.fail(f"task {named(key)} counts {task.retry_count} retries: no run of it exited with an error")
                job = self._ledger.jobs.get(job_no_of(key))
                limits = [before.max_retry_count, task.max_retry_count]
                if None in limits and job is not None:
                    limits.append(job.max_task_retry_count)
                known = [limit for limit in limits if limit is not None]
                if min(known) >= 0 and task.retry_count > max(known):
                    self.fail(f"task {named(key)} is retried {task.retry_count} times, its limit is {max(known)}")
            if task.requeue_count > before.requeue_count and not any(isinstance(one, _REQUEUES) for one in events):
                self.fail(f"task {named(key)} counts {task.requeue_count} requeues: no user asked for it")
        for node_id, node in changes.nodes.items():
            row = self._ledger.nodes.get(node_id)
            if row is None or row.start_task is None or node.start_task is None:
                continue
            pool = self._ledger.pools.get(node.pool_no)
            limit = pool.start_task.max_retry_count if pool is not None and pool.start_task is not None else -1
            if node.start_task.retry_count > max(row.start_task.retry_count, limit) and limit >= 0:
                self.fail(f"node {short(node_id)}: its start task is retried more often than {limit} times")

    def _check_targets(self, changes: ChangeSet, events: list[Event]) -> None:
        """Of a pool that scales itself: they change by what formulas said only, and within limits."""
        for no, pool in changes.pools.items():
            before = self._ledger.pools.get(no)
            if before is None or before.auto_scale is None or any(isinstance(one, _SETS_TARGETS) for one in events):
                continue
            targets = (pool.target_dedicated_nodes, pool.target_low_priority_nodes)
            if targets == (before.target_dedicated_nodes, before.target_low_priority_nodes):
                continue
            runs = [one for one in events if isinstance(one, e.PoolAutoScaled) and one.run.error is None]
            if not runs:
                self.fail(f"the targets of pool {pool.id} are {targets}: no formula said so")
            if min(targets) < 0 or sum(targets) > MOST_NODES:
                self.fail(f"the targets of pool {pool.id} are {targets}, which is beyond the limit")

    def after_write(self, changes: ChangeSet) -> None:
        """The rows are written."""
        ledger = self._ledger
        for key in {*changes.tasks, *(key for key, _ in changes.subtasks)}:
            task = ledger.task(key)
            if task is not None and task.rules is not None and task.rules.instances:
                self._check_gang(task)
        for schedule_id in {id_key(job.schedule_id) for job in changes.jobs.values() if job.schedule_id}:
            active = [
                job.id
                for job in ledger.jobs.values()
                if job.schedule_id and id_key(job.schedule_id) == schedule_id and job.state not in _OVER
            ]
            if len(active) > 1:
                self.fail(f"job schedule {schedule_id} has {len(active)} active jobs: {', '.join(active)}")

    def _check_gang(self, task: Task) -> None:
        """A multi-instance task is on all of its nodes, or on none."""
        if task.node_id is None or task.state is TaskState.COMPLETED or task.rules is None:
            return
        rows = self._ledger.instances(task)
        if len(rows) != task.rules.instances or any(row.attempt != task.attempt for row in rows):
            self.fail(
                f"task {named(task.key)}#{task.attempt} has {task.rules.instances} instances, its rows are {rows}"
            )
        elif len({row.node_id for row in rows}) != len(rows) or rows[0].node_id != task.node_id:
            self.fail(f"the instances of task {named(task.key)}#{task.attempt} are on {[row.node_id for row in rows]}")

    def _after_completion(self, key: int, before: int, after: int, state: TaskState) -> None:
        if state is TaskState.COMPLETED and after == before:
            return
        job = self._ledger.jobs.get(job_no_of(key))
        task = self._ledger.task(key)
        if job is None or task is None:
            self.fail(f"task {named(key)} changes without a job")
            return
        name = (id_key(job.id), id_key(task.id))
        left = self.reactivations.get(name, 0)
        if not left:
            self.fail(f"task {named(key)} was completed as attempt {before} and is {state} as attempt {after}")
        self.reactivations[name] = left - 1

    def on_purge(self, job_no: int, keys: list[int]) -> None:
        job = self._ledger.jobs.get(job_no)
        if job is None:
            return
        if job.state is not JobState.DELETING:
            self.fail(f"tasks of job {job.id} are purged, which is {job.state}")
        if not self.may_delete(job):
            self.fail(f"tasks of job {job.id} are purged, and nobody asked for it: {keys[:5]}")

    def before_batch(self, state: SchedulerState, changes: ChangeSet | None = None) -> Decided:
        """An engine has decided these changes, and nothing of them is on disk: memory as the rows will be. What is decided
        while they are written does not show in this."""
        self._batches += 1
        for text in violations(state):
            self.fail(f"pool {state.pool_id}: {text}")
        rows = [job.row for job in state.jobs.values()]
        counts = {row.no: (row.id, copy.copy(row.counts)) for row in rows if row.state not in _OVER}
        whole = digest(state) if self._batches % self._rebuild_every == 0 else None
        belong = self._ledger.jobs_of(state.pool_id)
        others = self._ledger.jobs.keys() - belong
        if changes is not None:
            others -= changes.jobs.keys()
        # A job that comes from another pool is read first, which may take its time.
        here = belong & {row.no for row in rows}
        self._ledger.arriving -= here
        others |= self._ledger.arriving & belong
        return Decided(state.account, state.pool_id, counts, whole, others)

    def after_batch(self, decided: Decided) -> None:
        """The batch is on disk."""
        self.checks += 1
        for no, (job_id, counts) in decided.counts.items():
            if (recounted := self._ledger.recount(no)) != counts:
                self.fail(f"job {job_id}: counts are {counts}, the rows say {recounted}")
        if decided.whole is not None:
            self._compare(decided.account, decided.pool_id, decided.whole, decided.others)

    def compare(self, engine: Engine) -> None:
        """Memory equals what the rows rebuild, where nothing is on its way."""
        state = engine.state
        if state is not None:
            self._compare(state.account, engine.pool_id, digest(state))

    def _compare(self, account: str, pool_id: str, mine: dict[str, object], others: Set[int] = frozenset()) -> None:
        rebuilt = self._ledger.rebuilt(account, pool_id, self._clock(), without=others)
        for text in violations(rebuilt):
            self.fail(f"pool {pool_id} rebuilt: {text}")
        theirs = digest(rebuilt)
        if mine != theirs:
            self.fail(f"pool {pool_id}: memory is not what the rows rebuild: {_difference(mine, theirs)}")

    # --- what leaves the control plane ---

    def on_reply(self, node_id: str, sync: m.Sync, reply: m.SyncReply) -> None:
        """The answer to a sync is about to leave."""
        self.checks += 1
        ledger = self._ledger
        # What is placed and displaced in one batch is told to start and to stop at once: it never does.
        stopped = {(one.key, one.attempt) for one in reply.directives if isinstance(one, m.Stop)}
        for directive in reply.directives:
            match directive:
                case m.Start(key=key, attempt=attempt) if (key, attempt) not in stopped:
                    if node_id not in ledger.handed.get((key, attempt), ()):
                        self.fail(f"node {short(node_id)} is told to start {named(key)}#{attempt}: not on disk")
                case m.Stop(key=key, attempt=attempt):
                    task = ledger.task(key)
                    if (
                        task is not None
                        and task.attempt == attempt
                        and task.node_id == node_id
                        and task.state is not TaskState.COMPLETED
                        and ledger.jobs[job_no_of(key)].state not in _OVER
                    ):
                        self.fail(f"node {short(node_id)} is told to stop {named(key)}#{attempt}: not on disk")
                case m.Proceed(key=key, attempt=attempt):
                    task = ledger.task(key)
                    if task is not None and task.attempt == attempt and task.state is not TaskState.COMPLETED:
                        self._check_coordinated(task)
                case m.Restart():
                    node = ledger.nodes.get(node_id)
                    if node is not None and node.state not in _RESTARTS:
                        self.fail(f"node {short(node_id)} is told to restart and is {node.state}: not on disk")
                case m.RemoveDirectory(job_id=job_id, task_id=task_id):
                    of_schedule = job_id.partition(":")[0] if not task_id and ":" in job_id else ""
                    if (id_key(job_id), id_key(task_id)) not in self.deletes and (
                        id_key(of_schedule) not in self.deleted_schedules
                    ):
                        self.fail(f"node {short(node_id)} is told to remove {job_id}/{task_id}: nobody asked for it")
                case m.Shutdown():
                    node = ledger.nodes.get(node_id)
                    if node is not None and node.state not in _SHUTDOWNS:
                        self.fail(f"node {short(node_id)} is told to shut down: not on disk")
        for report in sync.reports:
            if report.seq > reply.acknowledged:
                continue
            if is_special_key(report.key):
                self._check_special_report(node_id, report)
                continue
            if isinstance(report, m.Coordinated):
                self._check_coordination(node_id, report)
                continue
            task = ledger.task(report.key)
            if (
                task is None
                or task.attempt != report.attempt
                or task.node_id != node_id
                or task.state is TaskState.COMPLETED
                or ledger.jobs[job_no_of(report.key)].state in _OVER
            ):
                continue
            if not isinstance(report, m.Started) or task.state in (TaskState.ACTIVE, TaskState.PREPARING):
                self.fail(
                    f"node {short(node_id)}: the report {type(report).__name__} of {named(report.key)}"
                    f"#{report.attempt} is acknowledged: not on disk"
                )

    def _check_special_report(self, node_id: str, report: m.Report) -> None:
        """What a node says of a special task is on disk once it is told so."""
        if report.key == START_TASK_KEY:
            node = self._ledger.nodes.get(node_id)
            info = node.start_task if node is not None else None
        else:
            known = self._ledger.job_nodes.get((job_no_of(report.key), node_id))
            job = self._ledger.jobs.get(job_no_of(report.key))
            if known is None or job is None or job.state in _OVER:
                return
            info = known.release if report.key == release_key(known.job_no) else known.preparation
        if (
            isinstance(report, m.Ended)
            and info is not None
            and info.attempt == report.attempt
            and info.state is SpecialTaskState.RUNNING
        ):
            self.fail(
                f"node {short(node_id)}: the end of special task {named(report.key)}#{report.attempt} is acknowledged: "
                "not on disk"
            )

    def _check_coordination(self, node_id: str, report: m.Coordinated) -> None:
        task = self._ledger.task(report.key)
        if task is None or task.attempt != report.attempt or task.state is TaskState.COMPLETED or task.node_id is None:
            return
        for row in self._ledger.instances(task):
            if row.node_id == node_id and row.attempt == report.attempt and row.state is SubtaskState.PREPARING:
                self.fail(
                    f"the coordination of {named(report.key)}#{report.attempt}.{row.index} is acknowledged: not on disk"
                )

    def _check_coordinated(self, task: Task) -> None:
        """The rows say that all instances have coordinated, and so it is."""
        for row in self._ledger.instances(task):
            name = f"{named(task.key)}#{task.attempt}.{row.index}"
            if row.state is SubtaskState.PREPARING:
                self.fail(
                    f"the primary of {named(task.key)} is told to proceed before {name} has coordinated: not on disk"
                )
            if (task.key, row.attempt, row.node_id) not in self.coordinated:
                self.fail(f"the primary of {named(task.key)} is told to proceed: {name} has not coordinated")

    # --- what really happens on nodes ---

    def on_launch(self, node_id: str, start: m.Start, facts: MachineFacts, others: list[m.Start]) -> None:
        """A process of an attempt is about to start; `others` run on the machine."""
        self.checks += 1
        ref = (start.key, start.attempt)
        name = f"{named(start.key)}#{start.attempt} on node {short(node_id)}"
        if node_id not in self._ledger.handed.get(ref, ()):
            self.fail(f"{name} starts: not on disk")
        if any(other.key == start.key for other in others):
            self.fail(f"{name} starts, and another attempt of it runs there")
        if is_special_key(start.key):
            self._check_special_launch(name, node_id, start, facts, others)
            return
        task = self._ledger.task(start.key)
        if task is None:
            return
        if start.attempt > task.attempt:
            self.fail(f"{name} starts: the row has attempt {task.attempt}")
        unmet = self._ledger.unmet(task)
        if unmet:
            self.fail(f"{name} starts before its parent {unmet}")
        self._check_started(name, node_id, facts)
        job = self._ledger.jobs.get(job_no_of(start.key))
        if job is not None:
            self._check_prepared(name, job, facts)

    def _check_started(self, name: str, node_id: str, facts: MachineFacts) -> None:
        """With waitForSuccess, nothing runs before the start task has succeeded since the node booted."""
        node = self._ledger.nodes.get(node_id)
        pool = self._ledger.pools.get(node.pool_no) if node is not None else None
        rules = pool.start_task if pool is not None else None
        if rules is not None and rules.wait_for_success and facts.started_at != facts.boot_time:
            self.fail(f"{name} starts before the start task has succeeded there")

    def _check_prepared(self, name: str, job: Job, facts: MachineFacts) -> None:
        """With waitForSuccess, no task of the job runs before its preparation task has succeeded on that disk (and, if
        it is to run again after a reboot, since the node booted)."""
        rules = job.preparation
        if rules is None or not rules.wait_for_success:
            return
        disk_time, boot_time, exit_code = facts.prepared.get(job.no, (0.0, 0.0, 0))
        if disk_time != facts.disk_time or exit_code != 0 or (rules.rerun_on_reboot and boot_time != facts.boot_time):
            self.fail(f"{name} starts before the preparation task of {job.id} has succeeded there")

    def _check_special_launch(
        self, name: str, node_id: str, start: m.Start, facts: MachineFacts, others: list[m.Start]
    ) -> None:
        if start.kind is TaskKind.START_TASK:
            return
        job = self._ledger.jobs.get(job_no_of(start.key))
        known = self._ledger.job_nodes.get((job_no_of(start.key), node_id))
        if job is None:
            return
        if start.kind is TaskKind.JOB_PREPARATION:
            self._check_started(name, node_id, facts)
            return
        if known is None or known.preparation is None or known.preparation.state is not SpecialTaskState.COMPLETED:
            self.fail(f"the release task of {job.id} starts on node {short(node_id)}, where it was not prepared")
        elif job.no not in facts.prepared or facts.prepared[job.no][0] != facts.disk_time:
            self.fail(f"the release task of {job.id} starts on node {short(node_id)}, on a disk it was not prepared on")
        if job.state not in (JobState.TERMINATING, JobState.DELETING, JobState.COMPLETED):
            self.fail(f"the release task of {job.id} starts, and the job is {job.state}")
        if any(job_no_of(other.key) == job.no for other in others):
            self.fail(f"the release task of {job.id} starts on node {short(node_id)}, where the job still runs")

    def on_proceed(self, node_id: str, start: m.Start) -> None:
        """The primary of a multi-instance task begins its command line."""
        self.checks += 1
        task = self._ledger.task(start.key)
        if task is None or task.attempt != start.attempt:
            return
        self._check_coordinated(task)
        # One that was told to proceed and has been requeued since is on no node by the rows: its stop is on the way.
        if task.node_id not in (None, node_id):
            self.fail(
                f"the primary of {named(start.key)}#{start.attempt} proceeds on node {short(node_id)}: not its own"
            )


def _difference(mine: dict[str, object], theirs: dict[str, object]) -> str:
    """The first place where two digests differ."""
    for part, value in mine.items():
        other = theirs[part]
        if value == other:
            continue
        if isinstance(value, dict) and isinstance(other, dict):
            for key in [*value, *other]:
                if value.get(key) != other.get(key):
                    return f"{part} {key}: {_narrow(value.get(key), other.get(key))}"
        return f"{part}: {value} / {other}"
    return "nothing"


def _narrow(mine: object, theirs: object) -> str:
    """The parts of two tuples, and the entries of two tables, that differ."""
    if isinstance(mine, tuple) and isinstance(theirs, tuple):
        return "; ".join(_narrow(a, b) for a, b in zip(mine, theirs, strict=False) if a != b)
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = [key for key in [*mine, *theirs] if mine.get(key) != theirs.get(key)]
        return ", ".join(f"{key}: {mine.get(key)} / {theirs.get(key)}" for key in dict.fromkeys(keys))
    return f"{mine} / {theirs}"
