"""Samples and runs of automatic scaling in the SQLite file."""

import sqlite3
from collections.abc import Mapping, Sequence

from millpond.domain.durations import Timestamp
from millpond.store.base import SampleBlock, StoredRun
from millpond.store.sqlite_bulk import Bulk
from millpond.store.sqlite_rows import json_of


class AutoScaleTables:
    """Each method runs in a transaction of its caller's."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self._save_blocks = Bulk(queries["save_sample_blocks"], 3)
        self._save_runs = Bulk(queries["save_autoscale_runs"], 3)

    def save_samples(self, connection: sqlite3.Connection, blocks: Sequence[SampleBlock]) -> None:
        self._save_blocks.run(connection, [(block.pool_no, block.start, block.data) for block in blocks])

    def forget_samples(self, connection: sqlite3.Connection, before: Mapping[int, Timestamp]) -> None:
        connection.execute(self._queries["prune_sample_blocks"], (json_of(list(before.items())),))

    def load_samples(self, connection: sqlite3.Connection, pool_no: int, since: Timestamp) -> list[SampleBlock]:
        rows = connection.execute(self._queries["load_sample_blocks"], (pool_no, since))
        return [SampleBlock(pool_no, start, data) for start, data in rows]

    def save_runs(self, connection: sqlite3.Connection, runs: Sequence[StoredRun], keep: int) -> None:
        self._save_runs.run(connection, [(run.pool_no, run.at, run.record) for run in runs])
        pools = json_of(sorted({run.pool_no for run in runs}))
        connection.execute(self._queries["prune_autoscale_runs"], (pools, keep))

    def list_runs(self, connection: sqlite3.Connection, pool_no: int, limit: int) -> list[StoredRun]:
        rows = connection.execute(self._queries["list_autoscale_runs"], (pool_no, limit))
        return [StoredRun(pool_no, at, record) for at, record in rows]
