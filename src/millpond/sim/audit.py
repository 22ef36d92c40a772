"""The invariants: what must hold after every batch, every message and every start of a process."""

from collections.abc import Callable

from millpond.control.engine import Engine
from millpond.domain.ids import id_key, job_no_of
from millpond.domain.states import JobState, NodeState, TaskState
from millpond.protocol import messages as m
from millpond.scheduler.check import digest, violations
from millpond.sim.disk import named, short
from millpond.sim.ledger import Ledger
from millpond.sim.loop import VirtualLoop
from millpond.sim.story import Story, Violation
from millpond.store.changes import ChangeSet

_OVER = (JobState.COMPLETED, JobState.DELETING)


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
        self.exits: dict[tuple[int, int], int] = {}
        """(task key, attempt) → exit code, of all processes that ended."""

    def fail(self, text: str) -> None:
        if self._loop.failure is None:
            self._story.add("VIOLATION", text)
            self._loop.failure = Violation(text)

    # --- the rows ---

    def on_write(self, changes: ChangeSet) -> None:
        """Rows about to be written."""
        ledger = self._ledger
        self.checks += 1
        for key, task in changes.tasks.items():
            before = ledger.task(key)
            if task.exit_code is not None and self.exits.get((key, task.attempt)) != task.exit_code:
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
            if job is not None and ledger.tasks.get(no):
                self.fail(f"job {job.id} is deleted before its {len(ledger.tasks[no])} tasks")

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
        if (id_key(job.id), "") not in self.deletes:
            self.fail(f"tasks of job {job.id} are purged, and nobody asked for it: {keys[:5]}")

    def after_batch(self, engine: Engine) -> None:
        """The batch of an engine is on disk, and nothing has happened to its memory since."""
        state = engine.state
        if state is None:
            return
        self._batches += 1
        self.checks += 1
        for text in violations(state):
            self.fail(f"pool {engine.pool_id}: {text}")
        for job in state.jobs.values():
            row = job.row
            if row.state not in _OVER and (counts := self._ledger.recount(row.no)) != row.counts:
                self.fail(f"job {row.id}: counts are {row.counts}, the rows say {counts}")
        if self._batches % self._rebuild_every == 0:
            self.compare(engine)

    def compare(self, engine: Engine) -> None:
        """Memory equals what the rows rebuild."""
        state = engine.state
        if state is None:
            return
        rebuilt = self._ledger.rebuilt(state.account, engine.pool_id, self._clock())
        for text in violations(rebuilt):
            self.fail(f"pool {engine.pool_id} rebuilt: {text}")
        mine, theirs = digest(state), digest(rebuilt)
        if mine != theirs:
            self.fail(f"pool {engine.pool_id}: memory is not what the rows rebuild: {_difference(mine, theirs)}")

    # --- what leaves the control plane ---

    def on_reply(self, node_id: str, sync: m.Sync, reply: m.SyncReply) -> None:
        """The answer to a sync is about to leave."""
        self.checks += 1
        ledger = self._ledger
        for directive in reply.directives:
            match directive:
                case m.Start(key=key, attempt=attempt):
                    if ledger.handed.get((key, attempt)) != node_id:
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
                case m.RemoveDirectory(job_id=job_id, task_id=task_id):
                    if (id_key(job_id), id_key(task_id)) not in self.deletes:
                        self.fail(f"node {short(node_id)} is told to remove {job_id}/{task_id}: nobody asked for it")
                case m.Shutdown():
                    node = ledger.nodes.get(node_id)
                    if node is not None and node.state is not NodeState.LEAVING_POOL:
                        self.fail(f"node {short(node_id)} is told to shut down: not on disk")
        for report in sync.reports:
            if report.seq > reply.acknowledged:
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
            if not isinstance(report, m.Started) or task.state is TaskState.ACTIVE:
                self.fail(
                    f"node {short(node_id)}: the report {type(report).__name__} of {named(report.key)}"
                    f"#{report.attempt} is acknowledged: not on disk"
                )

    # --- what really happens on nodes ---

    def on_launch(self, node_id: str, start: m.Start) -> None:
        """A process of an attempt is about to start."""
        self.checks += 1
        ref = (start.key, start.attempt)
        name = f"{named(start.key)}#{start.attempt} on node {short(node_id)}"
        if self._ledger.handed.get(ref) != node_id:
            self.fail(f"{name} starts: not on disk")
        task = self._ledger.task(start.key)
        if task is None:
            return
        if start.attempt > task.attempt:
            self.fail(f"{name} starts: the row has attempt {task.attempt}")
        unmet = self._ledger.unmet(task)
        if unmet:
            self.fail(f"{name} starts before its parent {unmet}")


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
