"""Kept logs of tasks in the SQLite file. Each method runs in a transaction of its caller's."""

import sqlite3
from collections.abc import Mapping, Sequence

from millpond.store.base import KeptLog, LogPack
from millpond.store.sqlite_bulk import Bulk
from millpond.store.sqlite_rows import json_of


class KeptLogs:
    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self._save = Bulk(queries["save_kept_logs"], 4)

    def save(self, connection: sqlite3.Connection, logs: Sequence[KeptLog], pack: LogPack | None) -> None:
        if pack is not None:
            connection.execute(self._queries["save_log_pack"], (pack.no, pack.size))
        # One statement must not hold a task twice: the latest counts.
        latest: dict[int, KeptLog] = {}
        for log in logs:
            if log.key not in latest or latest[log.key].attempt <= log.attempt:
                latest[log.key] = log
        self._save.run(connection, [(log.key, log.attempt, log.pack, log.data) for log in latest.values()])

    def change(self, connection: sqlite3.Connection, log: KeptLog) -> None:
        connection.execute(self._queries["change_kept_log"], (log.key, log.attempt, log.pack, log.data))

    def get(self, connection: sqlite3.Connection, key: int) -> KeptLog | None:
        row = connection.execute(self._queries["get_kept_log"], (key,)).fetchone()
        return None if row is None else KeptLog(*row)

    def size(self, connection: sqlite3.Connection) -> int:
        (size,) = connection.execute(self._queries["kept_log_bytes"]).fetchone()
        return int(size)

    def packs(self, connection: sqlite3.Connection, after: int, limit: int) -> list[LogPack]:
        return [LogPack(*row) for row in connection.execute(self._queries["list_log_packs"], (after, limit))]

    def unused(self, connection: sqlite3.Connection, after: int, limit: int) -> tuple[list[LogPack], int | None]:
        rows = connection.execute(self._queries["unused_log_packs"], (after, limit)).fetchall()
        (end,) = connection.execute(self._queries["end_of_log_packs"], (after, limit)).fetchone()
        (more,) = connection.execute(self._queries["has_log_packs"], (after if end is None else end,)).fetchone()
        return [LogPack(*row) for row in rows], end if more else None

    def drop(self, connection: sqlite3.Connection, packs: Sequence[int]) -> None:
        connection.execute(self._queries["drop_kept_logs"], (json_of(packs),))

    def delete_packs(self, connection: sqlite3.Connection, packs: Sequence[int]) -> None:
        connection.execute(self._queries["delete_log_packs"], (json_of(packs),))
