"""Writing to the SQLite file: what is committed together goes into one transaction, with one `fsync` for any number of
engines. Who does it, and where, is for `sqlite_commits`.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeAlias, TypeVar

import msgspec

from millpond.domain.errors import Bug, LeaseLost, StoreUnavailable
from millpond.store.base import Fence
from millpond.store.sqlite_bulk import Bulk
from millpond.store.sqlite_node_work import NodeWorkTable
from millpond.store.sqlite_rows import MIN_ALIKE, NEW_TASK_NODE, OFTEN_ALIKE, Row, Rows, TaskUpdates, json_of
from millpond.store.sqlite_runs import Run

_log: Final = logging.getLogger(__name__)

_T = TypeVar("_T")


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Rows of one engine, and by what right they are written."""

    rows: Rows
    fence: Fence


class WatchNames(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """From here on, note which nodes tasks are given."""


class ForgetNames(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Forget the names of these nodes, but for those that tasks have been given since `WatchNames`."""

    refs: list[int]


class SettleNodes(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Bring what nodes have worked into their rows."""


Request: TypeAlias = Commit | WatchNames | ForgetNames | SettleNodes
Outcome: TypeAlias = Exception | None
"""Of a request: None once it is on disk, else LeaseLost, StoreUnavailable or Bug."""


def failure_of(error: sqlite3.Error) -> Exception:
    """What the caller is told: StoreUnavailable for the disk's troubles, Bug for rows that cannot be."""
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)):
        return Bug(f"rows that cannot be: {error}")
    return StoreUnavailable(f"the store could not be read or written: {error}")


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, if one is open (SQLite ends it by itself after some errors)."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        # The next BEGIN fails too then, and says so to whoever wants to write.
        _log.exception("a transaction could not be rolled back")


class Writer:
    """Owns a connection to write with. Used by one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, str]) -> None:
        self._connection = connection
        self._queries = queries
        self._save_pools = Bulk(queries["save_pools"], 12)
        self._save_nodes = Bulk(queries["save_nodes"], 13)
        self._save_jobs = Bulk(queries["save_jobs"], 11)
        self._insert_runs = Bulk(queries["insert_runs"], 8)
        self._insert_run_specs = Bulk(queries["insert_run_specs"], 3)
        self._insert_tasks = Bulk(queries["insert_tasks"], 23)
        self._update_tasks = Bulk(queries["update_tasks"], 10)
        self._update_tasks_alike = Bulk(queries["update_tasks_alike"], 5)
        self._save_hand_overs = Bulk(queries["save_hand_overs"], 3)
        self._save_specs = Bulk(queries["save_specs"], 2)
        self._insert_task_arrays = Bulk(queries["insert_task_arrays"], 5)
        self._update_rests = Bulk(queries["update_rests"], 2)
        self._save_satisfied = Bulk(queries["save_satisfied"], 2)
        self._save_job_nodes = Bulk(queries["save_job_nodes"], 14)
        self._save_subtasks = Bulk(queries["save_subtasks"], 3)
        self._save_job_schedules = Bulk(queries["save_job_schedules"], 10)
        self._name_nodes = Bulk(queries["name_nodes"], 1)
        self._node_work = NodeWorkTable(queries)
        # What the file holds for certain: asked for again rather than remembered wrongly.
        self._refs: dict[str, int] = {}
        """The numbers of nodes, by id."""
        self._borne: set[str] = set()
        """The nodes that tasks were given since `WatchNames`."""
        self._watches = False
        self._counters: dict[str, int] = {}

    def close(self) -> None:
        """Fold the write-ahead log in, and close the connection."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            _log.exception("the write-ahead log could not be folded in; that is done when the file is next opened")
        self._connection.close()

    def forget(self) -> None:
        """Another connection writes from now on: what this one knows of the file may be wrong before it is asked again."""
        self._refs.clear()
        self._borne.clear()
        self._watches = False
        self._counters.clear()
        self._node_work.forget()

    def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in a transaction of its own; what it raises undoes it. Raises StoreUnavailable, Bug."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = work(self._connection)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            roll_back(self._connection)
            raise failure_of(error) from error
        except Exception:  # whatever it is, it is the caller's
            roll_back(self._connection)
            raise
        return result

    def do(self, requests: Iterable[Request]) -> list[Outcome]:
        """What is asked for, in order; commits that follow one another in one transaction."""
        outcomes: list[Outcome] = []
        commits: list[Commit] = []
        for request in requests:
            if isinstance(request, Commit):
                commits.append(request)
                continue
            outcomes += self._write(commits)
            commits = []
            outcomes.append(self._settle_nodes() if isinstance(request, SettleNodes) else self._do_with_names(request))
        return outcomes + self._write(commits)

    def _write(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Write a group in one transaction. If it fails for a reason of one member, each is written alone."""
        if not commits:
            return []
        try:
            return self._write_together(commits)
        except sqlite3.Error as error:
            roll_back(self._connection)
            failure = failure_of(error)
        except Exception as error:  # of one member's rows: found out below
            roll_back(self._connection)
            failure = error
        self._counters.clear()
        self._node_work.forget()
        if len(commits) == 1 or isinstance(failure, StoreUnavailable):
            return [failure] * len(commits)
        return [outcome for commit in commits for outcome in self._write([commit])]

    def _write_together(self, commits: Sequence[Commit]) -> list[Outcome]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        keys = msgspec.json.encode([commit.fence.pool_key for commit in commits]).decode()
        (epochs_json,) = connection.execute(self._queries["epochs"], (keys,)).fetchone()
        epochs = msgspec.json.decode(epochs_json, type=dict[str, int])
        held = [epochs.get(commit.fence.pool_key) == commit.fence.epoch for commit in commits]
        refs: dict[str, int] = {}
        for rows in _merged(commit for commit, is_held in zip(commits, held, strict=True) if is_held):
            refs |= self._write_rows(rows)
        connection.execute("COMMIT")
        self._refs |= refs
        return [
            None if is_held else LeaseLost(f"the lease of pool {commit.fence.pool_key!r} is another's")
            for commit, is_held in zip(commits, held, strict=True)
        ]

    def _write_rows(self, rows: Rows) -> dict[str, int]:
        """Deletions first: what is deleted and what is saved may carry the same id. Returns the numbers of nodes that it
        learnt."""
        connection = self._connection
        if rows.deleted_tasks:
            queries = ("delete_tasks", "delete_hand_overs", "delete_specs", "delete_subtasks", "delete_kept_logs")
            self._delete(queries, rows.deleted_tasks)
        if rows.deleted_subtasks:
            self._delete(("delete_subtasks",), rows.deleted_subtasks)
        if rows.deleted_nodes:
            self._delete(("delete_nodes",), rows.deleted_nodes)
        if rows.deleted_jobs:
            self._delete(("delete_jobs", "delete_satisfied", "delete_job_nodes"), rows.deleted_jobs)
        if rows.deleted_job_schedules:
            self._delete(("delete_job_schedules",), rows.deleted_job_schedules)
        if rows.deleted_pools:
            self._delete(("delete_pools", "delete_sample_blocks", "delete_autoscale_runs"), rows.deleted_pools)
        if rows.pools:
            self._save_pools.run(connection, rows.pools)
            self._raise_counter("pool", max(row[0] for row in rows.pools) + 1)
        if rows.jobs:
            self._save_jobs.run(connection, rows.jobs)
            self._raise_counter("job", max(row[0] for row in rows.jobs) + 1)
        if rows.nodes:
            self._save_nodes.run(connection, rows.nodes)
        for ids, data in rows.node_work:
            self._node_work.add(connection, ids, data)
        if rows.runs:
            self._insert(rows.runs)
        learnt: dict[str, int] = {}
        if rows.new_tasks or rows.tasks or rows.hand_overs:
            learnt = self._name_nodes_of(rows)
            refs = self._refs | learnt if learnt else self._refs
            self._insert_tasks.run(connection, rows.new_tasks)
            self._update(rows.tasks, refs)
            self._save_hand_overs.run(
                connection,
                [(key, attempt, refs[node_id] if node_id else None) for key, attempt, node_id in rows.hand_overs],
            )
            if rows.tasks:
                self._delete(("delete_hand_overs",), [own[0] for together in rows.tasks for own in together.own])
        if rows.specs:
            self._save_specs.run(connection, rows.specs)
        if rows.deleted_task_arrays:
            self._delete(("delete_task_arrays",), rows.deleted_task_arrays)
        if rows.new_task_arrays:
            self._insert_task_arrays.run(connection, rows.new_task_arrays)
        if rows.rests:
            updated = self._update_rests.run(connection, rows.rests)
            if updated != len(rows.rests):
                raise Bug(f"the rests of {len(rows.rests)} arrays were to be updated, and {updated} of them have a row")
        if rows.satisfied:
            self._save_satisfied.run(connection, rows.satisfied)
        if rows.job_nodes:
            self._save_job_nodes.run(connection, rows.job_nodes)
        if rows.subtasks:
            self._save_subtasks.run(connection, rows.subtasks)
        if rows.job_schedules:
            self._save_job_schedules.run(connection, rows.job_schedules)
            self._raise_counter("job_schedule", max(row[0] for row in rows.job_schedules) + 1)
        return learnt

    def _name_nodes_of(self, rows: Rows) -> dict[str, int]:
        """Give the nodes that tasks are on numbers, if they have none; those that were not known here."""
        connection = self._connection
        named: set[str | None] = {row[NEW_TASK_NODE] for row in rows.new_tasks}
        named.update([together.node_id for together in rows.tasks])
        named.update([node_id for _, _, node_id in rows.hand_overs])
        ids = {node_id for node_id in named if node_id is not None}
        self._borne |= ids
        ids -= self._refs.keys()
        if not ids:
            return {}
        self._name_nodes.run(connection, [(node_id,) for node_id in ids])
        return dict(connection.execute(self._queries["node_refs"], (json_of(list(ids)),)))

    def _insert(self, runs: Sequence[Run]) -> None:
        """Two statements, however many runs there are."""
        self._insert_runs.run(self._connection, [run.row for run in runs])
        offsets = accumulate([len(run.specs) for run in runs], initial=0)
        rows = [(run.row[0], offset, run.places) for run, offset in zip(runs, offsets, strict=False)]
        # One parameter: a value in a row would be copied for each row that is made of it.
        self._insert_run_specs.run(self._connection, rows, (b"".join([run.specs for run in runs]),))

    def _update(self, updates: Sequence[TaskUpdates], refs: Mapping[str, int]) -> None:
        """Those that have most alike in one statement: values bound one by one are half of what an update takes."""
        updated = 0
        less_alike: dict[Row, list[Row]] = {}
        for together in updates:
            alike, own = together.alike, together.own
            ref = None if together.node_id is None else refs[together.node_id]
            if len(own) >= MIN_ALIKE:
                updated += self._update_tasks_alike.run(self._connection, own, (*alike, ref))
            else:
                rows = [(it[0], *alike[OFTEN_ALIKE:], ref, *it[1:]) for it in own]
                less_alike.setdefault(alike[:OFTEN_ALIKE], []).extend(rows)
        updated += sum([self._update_tasks.run(self._connection, rows, same) for same, rows in less_alike.items()])
        expected = sum([len(together.own) for together in updates])
        if updated != expected:
            raise Bug(f"{expected} tasks were to be updated, and {updated} of them have a row")

    def _settle_nodes(self) -> Outcome:
        try:
            self.call(self._node_work.settle)
        except Exception as error:  # it is the outcome
            self._node_work.forget()
            return error
        return None

    def _do_with_names(self, request: WatchNames | ForgetNames) -> Outcome:
        if isinstance(request, WatchNames):
            self._borne.clear()
            self._watches = True
            return None
        if not self._watches:
            return None  # another has written meanwhile: whom tasks were given is not known here
        parameters = (json_of(request.refs), json_of(sorted(self._borne)))
        try:
            gone = self.call(lambda it: it.execute(self._queries["forget_node_names"], parameters).fetchall())
        except Exception as error:  # it is the outcome
            return error
        # Should one come back, it is named again.
        for (node_id,) in gone:
            self._refs.pop(node_id, None)
        return None

    def _delete(self, names: Iterable[str], keys: Sequence[int] | Sequence[str]) -> None:
        encoded = msgspec.json.encode(keys).decode()
        for name in names:
            self._connection.execute(self._queries[name], (encoded,))

    def _raise_counter(self, name: str, to: int) -> None:
        if self._counters.get(name, 0) < to:
            self._connection.execute(self._queries["raise_counter"], (to, name))
            self._counters[name] = to


def _merged(commits: Iterable[Commit]) -> list[Rows]:
    """The commits' rows as few sets: those of different pools in one, because they touch different keys."""
    merged: list[Rows] = []
    pools: set[str] = set()
    for commit in commits:
        key = commit.fence.pool_key
        if not merged or key in pools:
            merged.append(commit.rows.copy())
            pools = {key}
        else:
            merged[-1].extend(commit.rows)
            pools.add(key)
    return merged
