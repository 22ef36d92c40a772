"""The rows as they were written, kept beside the store: what the invariants are checked against."""

import copy
from collections.abc import Iterator, Set
from itertools import chain

from millpond.domain.ids import START_TASK_KEY, id_key, job_no_of, preparation_key, release_key
from millpond.domain.job import Job
from millpond.domain.job_schedule import JobSchedule
from millpond.domain.node import Node
from millpond.domain.pool import Pool
from millpond.domain.special_task import JobNode
from millpond.domain.states import JobState, TaskState
from millpond.domain.subtask import Subtask
from millpond.domain.task import Task, TaskCounts
from millpond.domain.task_array import Rest, TaskArray, covers, size_of
from millpond.scheduler.dependencies import number_of
from millpond.scheduler.rebuild import rebuild
from millpond.scheduler.state import SchedulerState
from millpond.store import copies
from millpond.store.changes import ChangeSet


class Ledger:
    """All rows, and what was ever true of them. Records are never shared with anybody."""

    def __init__(self) -> None:
        self.commits = 0
        self.pools: dict[int, Pool] = {}
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[int, Job] = {}
        self.tasks: dict[int, dict[int, Task]] = {}
        """Job number → task key → row."""
        self.arrays: dict[int, tuple[TaskArray, Rest]] = {}
        """By key."""
        self.satisfied: set[tuple[int, str]] = set()
        self.job_nodes: dict[tuple[int, str], JobNode] = {}
        self.subtasks: dict[tuple[int, int], Subtask] = {}
        self.job_schedules: dict[int, JobSchedule] = {}
        self.arriving: set[int] = set()
        """Numbers of jobs whose rows name another pool than before, until the engine there has been seen to know them."""
        self.written_at: dict[tuple[str, object], int] = {}
        """("pool", id key) | ("job", number) | ("task", key) → number of the commit that wrote or deleted it last."""
        self.handed: dict[tuple[int, int], set[str]] = {}
        """(task key, attempt) → the nodes it was handed to, of all attempts ever on disk, special tasks among them."""
        self.released: dict[int, tuple[set[str], set[int]]] = {}
        """Job number → id keys and integers of parents that ever satisfied their dependents."""
        self.kept_pools: set[str] = set()
        """Id keys of auto pools that were to be kept."""
        self.deleted_tasks: set[tuple[int, str]] = set()
        """(job number, id key)"""

    def task(self, key: int) -> Task | None:
        """The row, or what stands for one that an item of an array has not got yet."""
        task = self.tasks.get(job_no_of(key), {}).get(key)
        if task is not None or not self.arrays:
            return task
        found = (array for array, rest in self.arrays.values() if covers(rest, key - array.key))
        return next((array.task(key - array.key) for array in found), None)

    def arrays_of(self, job_no: int) -> list[tuple[TaskArray, Rest]]:
        return [pair for key, pair in sorted(self.arrays.items()) if job_no_of(key) == job_no]

    def items(self, job_no: int) -> Iterator[Task]:
        """The items of a job's arrays that have no row."""
        for array, rest in self.arrays_of(job_no):
            for first, last in rest:
                yield from map(array.task, range(first, last + 1))

    def job_named(self, job_id: str) -> Job | None:
        wanted = id_key(job_id)
        return next((job for job in self.jobs.values() if id_key(job.id) == wanted), None)

    def pool_named(self, pool_id: str) -> Pool | None:
        wanted = id_key(pool_id)
        return next((pool for pool in self.pools.values() if id_key(pool.id) == wanted), None)

    def task_named(self, job_no: int, task_id: str) -> Task | None:
        wanted = id_key(task_id)
        tasks = chain(self.tasks.get(job_no, {}).values(), self.items(job_no))
        return next((task for task in tasks if id_key(task.id) == wanted), None)

    # --- writing ---

    def write(self, changes: ChangeSet) -> None:
        self.commits += 1
        n = self.commits
        for no in changes.deleted_pools:
            pool = self.pools.pop(no, None)
            if pool is not None:
                self.written_at["pool", id_key(pool.id)] = n
        for no, pool in changes.pools.items():
            self.pools[no] = pool
            self.written_at["pool", id_key(pool.id)] = n
        for node_id in changes.deleted_nodes:
            self.nodes.pop(node_id, None)
        self.nodes.update(changes.nodes)
        for node_id, node in changes.nodes.items():
            if node.start_task is not None:
                self._hand(START_TASK_KEY, node.start_task.attempt, node_id)
        for no in changes.deleted_jobs:
            self.jobs.pop(no, None)
            self.arriving.discard(no)
            self._forget_job(no)
            self.written_at["job", no] = n
        for no, job in changes.jobs.items():
            if no in self.jobs and id_key(self.jobs[no].pool_id) != id_key(job.pool_id):
                self.arriving.add(no)
            self.jobs[no] = job
            if job.auto_pool is not None and job.auto_pool.keep_alive:
                self.kept_pools.add(id_key(job.pool_id))
            self.written_at["job", no] = n
        for key in changes.deleted_tasks:
            task = self.tasks.get(job_no_of(key), {}).pop(key, None)
            self._forget_subtasks(key)
            self.written_at["task", key] = n
            if task is not None:
                self.deleted_tasks.add((job_no_of(key), id_key(task.id)))
        for key, task in changes.tasks.items():
            job_no = job_no_of(key)
            self.tasks.setdefault(job_no, {})[key] = task
            self.written_at["task", key] = n
            if task.node_id is not None and task.state is not TaskState.COMPLETED:
                self._hand(key, task.attempt, task.node_id)
            if task.state is TaskState.COMPLETED and task.satisfies:
                ids, numbers = self.released.setdefault(job_no, (set(), set()))
                ids.add(id_key(task.id))
                number = number_of(id_key(task.id))
                if number is not None:
                    numbers.add(number)
        for key, rest in changes.rests.items():
            array = changes.task_arrays[key] if key in changes.task_arrays else self.arrays[key][0]
            self.arrays[key] = (array, rest)
            if not rest:
                del self.arrays[key]
        self.satisfied |= changes.satisfied
        self.job_nodes.update(changes.job_nodes)
        for (job_no, node_id), known in changes.job_nodes.items():
            if known.preparation is not None:
                self._hand(preparation_key(job_no), known.preparation.attempt, node_id)
            if known.release is not None:
                self._hand(release_key(job_no), known.release.attempt, node_id)
        for key in changes.deleted_subtasks:
            self._forget_subtasks(key)
        self.subtasks.update(changes.subtasks)
        for (key, _), subtask in changes.subtasks.items():
            self._hand(key, subtask.attempt, subtask.node_id)
        for no in changes.deleted_job_schedules:
            schedule = self.job_schedules.pop(no, None)
            if schedule is not None:
                self.written_at["schedule", id_key(schedule.id)] = n
        for no, schedule in changes.job_schedules.items():
            self.job_schedules[no] = schedule
            if schedule.pool_id is not None and schedule.keeps_pool:
                self.kept_pools.add(id_key(schedule.pool_id))
            self.written_at["schedule", id_key(schedule.id)] = n

    def purge(self, job_no: int, keys: list[int], *, last: bool) -> None:
        """Rows of a deleted job's tasks go; with the `last` of them all that is known of its nodes."""
        rows = self.tasks.get(job_no, {})
        for key in [key for key in self.arrays if job_no_of(key) == job_no]:
            del self.arrays[key]
        for key in keys:
            rows.pop(key, None)
            self._forget_subtasks(key)
        if last:
            self._forget_job(job_no)

    def _hand(self, key: int, attempt: int, node_id: str) -> None:
        self.handed.setdefault((key, attempt), set()).add(node_id)

    def _forget_job(self, job_no: int) -> None:
        self.satisfied = {entry for entry in self.satisfied if entry[0] != job_no}
        for name in [name for name in self.job_nodes if name[0] == job_no]:
            del self.job_nodes[name]

    def _forget_subtasks(self, task_key: int) -> None:
        for name in [name for name in self.subtasks if name[0] == task_key]:
            del self.subtasks[name]

    # --- questions ---

    def instances(self, task: Task) -> list[Subtask]:
        """The rows of the task's instances, in order of index."""
        wanted = task.rules.instances if task.rules is not None else 0
        return [self.subtasks[task.key, index] for index in range(wanted) if (task.key, index) in self.subtasks]

    def nodes_of(self, pool: Pool) -> list[Node]:
        return [node for node in self.nodes.values() if node.pool_no == pool.no]

    def recount(self, job_no: int) -> TaskCounts:
        counts = TaskCounts()
        for task in self.tasks.get(job_no, {}).values():
            slots = task.required_slots
            if task.state is TaskState.ACTIVE:
                counts.active += 1
                counts.active_slots += slots
            elif task.state is not TaskState.COMPLETED:
                counts.running += 1
                counts.running_slots += slots
            elif task.failure is None:
                counts.succeeded += 1
                counts.succeeded_slots += slots
            else:
                counts.failed += 1
                counts.failed_slots += slots
        for array, rest in self.arrays_of(job_no):
            counts.active += size_of(rest)
            counts.active_slots += array.slots(rest)
        return counts

    def unmet(self, task: Task) -> str:
        """A parent of the task that never satisfied it; empty when there is none."""
        rules = task.rules
        if rules is None or not rules.has_dependencies:
            return ""
        ids, numbers = self.released.get(job_no_of(task.key), (set[str](), set[int]()))
        for parent in rules.depends_on_ids:
            if parent not in ids:
                return parent
        for first, last in rules.depends_on_ranges:
            for number in range(first, last + 1):
                if number not in numbers:
                    return f"{number} of {first}-{last}"
        return ""

    def jobs_of(self, pool_id: str) -> set[int]:
        """Numbers of the jobs whose rows name that pool."""
        wanted = id_key(pool_id)
        return {no for no, job in self.jobs.items() if id_key(job.pool_id) == wanted}

    def rebuilt(self, account: str, pool_id: str, at: float, *, without: Set[int] = frozenset()) -> SchedulerState:
        """The scheduler's memory of one pool id, built from copies of the rows; `without` the jobs of those numbers."""
        wanted = id_key(pool_id)
        pool = next((pool for pool in self.pools.values() if id_key(pool.id) == wanted), None)
        jobs = [self.jobs[no] for no in sorted(self.jobs_of(pool_id) - without)]
        live = [job.no for job in jobs if job.state not in (JobState.COMPLETED, JobState.DELETING)]
        lasting = {job.no for job in jobs if job.state is not JobState.COMPLETED}
        numbers = {job.no for job in jobs}
        state, _ = rebuild(
            account,
            pool_id,
            at,
            pool=None if pool is None else copies.copy_pool(pool),
            nodes=[
                copies.copy_node(node) for node in self.nodes.values() if pool is not None and node.pool_no == pool.no
            ],
            job_rows=[copies.copy_job(job) for job in jobs],
            task_rows=[copy.copy(rows[key]) for no in live if (rows := self.tasks.get(no)) for key in sorted(rows)],
            satisfied=sorted(entry for entry in self.satisfied if entry[0] in numbers),
            job_nodes=[copies.copy_job_node(row) for name, row in sorted(self.job_nodes.items()) if name[0] in lasting],
            subtasks=[
                copy.copy(row)
                for name, row in sorted(self.subtasks.items())
                if job_no_of(name[0]) in live
                and (task := self.task(name[0])) is not None
                and task.state is not TaskState.COMPLETED
            ],
            arrays=[pair for job in jobs for pair in self.arrays_of(job.no)],
        )
        return state
