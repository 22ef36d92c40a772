"""Samples and runs of automatic scaling in the SQLite file. Each function runs in a transaction of its caller's."""

import sqlite3
from collections.abc import Mapping, Sequence

from millpond.domain.durations import Timestamp
from millpond.store.base import SampleBlock, StoredRun


def save_samples(
    connection: sqlite3.Connection,
    queries: Mapping[str, str],
    blocks: Sequence[SampleBlock],
    forget_before: Mapping[int, Timestamp],
) -> None:
    connection.executemany(queries["save_sample_block"], [(block.pool_no, block.start, block.data) for block in blocks])
    connection.executemany(queries["prune_sample_blocks"], list(forget_before.items()))


def load_samples(
    connection: sqlite3.Connection, queries: Mapping[str, str], pool_no: int, since: Timestamp
) -> list[SampleBlock]:
    rows = connection.execute(queries["load_sample_blocks"], (pool_no, since))
    return [SampleBlock(pool_no, start, data) for start, data in rows]


def save_runs(connection: sqlite3.Connection, queries: Mapping[str, str], runs: Sequence[StoredRun], keep: int) -> None:
    connection.executemany(queries["save_autoscale_run"], [(run.pool_no, run.at, run.record) for run in runs])
    pools = sorted({run.pool_no for run in runs})
    connection.executemany(queries["prune_autoscale_runs"], [(pool_no, keep) for pool_no in pools])


def list_runs(connection: sqlite3.Connection, queries: Mapping[str, str], pool_no: int, limit: int) -> list[StoredRun]:
    rows = connection.execute(queries["list_autoscale_runs"], (pool_no, limit))
    return [StoredRun(pool_no, at, record) for at, record in rows]
