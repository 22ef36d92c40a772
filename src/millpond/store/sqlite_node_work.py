"""What nodes have worked, kept apart from their rows: one row for all nodes of a commit.

With thousands of nodes each task is another node's, and a node's row is a page of its own. What is kept apart is brought
into the rows when somebody reads them, or when there is much of it: by then most of it is out of date.
"""

import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from millpond.domain.node import NodeWork
from millpond.store.sqlite_bulk import Bulk
from millpond.store.sqlite_rows import Row, json_of, node_of_record

MAX_KEPT: Final = 50_000
"""Works of nodes that are kept apart, the latest commit's going in whole: some 8 MB."""

_work_of: Final = msgspec.msgpack.Decoder(list[NodeWork]).decode
_encode: Final = msgspec.json.Encoder().encode


class NodeWorkTable:
    """The table `node_work`, for who writes. Its methods are called within a transaction; should that come to nothing, what
    is remembered here has to be forgotten."""

    def __init__(self, queries: Mapping[str, str]) -> None:
        self._queries = queries
        self._update_nodes = Bulk(queries["update_worked_nodes"], 4)
        self._latest: dict[str, int] | None = None
        """Node id → number of the latest row that has its work; None: the table has to be read."""
        self._rows: deque[tuple[int, int]] = deque()
        """(number, of how many nodes), the oldest first."""
        self._kept = 0

    def forget(self) -> None:
        """The table is not as it was left, perhaps."""
        self._latest = None

    def add(self, connection: sqlite3.Connection, ids: Sequence[str], data: bytes) -> None:
        """Keep the works of these nodes, which are in `data`. What is too much is brought into the nodes' rows."""
        latest = self._known(connection)
        no = connection.execute(self._queries["add_node_work"], (len(ids), data)).lastrowid
        assert no is not None
        latest.update(dict.fromkeys(ids, no))
        self._rows.append((no, len(ids)))
        self._kept += len(ids)
        if self._kept > MAX_KEPT:
            self.settle(connection, MAX_KEPT)

    def settle(self, connection: sqlite3.Connection, most: int = 0) -> None:
        """Bring the oldest of what is kept into the nodes' rows, until there are no more than `most`."""
        latest = self._known(connection)
        due: dict[str, tuple[int, NodeWork]] = {}
        last = 0
        while self._rows and self._kept > most:
            last, nodes = self._rows.popleft()
            self._kept -= nodes
            (data,) = connection.execute(self._queries["node_work"], (last,)).fetchone()
            for work in _work_of(data):
                # Mostly the node has worked since, and that is kept.
                if latest.get(work.id) == last:
                    del latest[work.id]
                    due[work.id] = last, work
        if due:
            self._update_nodes.run(connection, self._changed(connection, due))
        if last:
            connection.execute(self._queries["delete_node_work"], (last,))

    def _known(self, connection: sqlite3.Connection) -> dict[str, int]:
        if self._latest is None:
            self._latest = {}
            self._rows.clear()
            self._kept = 0
            for no, nodes, data in connection.execute(self._queries["all_node_work"]):
                self._latest.update([(work.id, no) for work in _work_of(data)])
                self._rows.append((no, nodes))
                self._kept += nodes
        return self._latest

    def _changed(self, connection: sqlite3.Connection, due: Mapping[str, tuple[int, NodeWork]]) -> list[Row]:
        """The rows of those nodes that are older than what is due."""
        rows: list[Row] = []
        found: Any = connection.execute(self._queries["worked_nodes"], (json_of(list(due)),))
        for node_id, work_no, record in found:
            no, work = due[node_id]
            if no > work_no:
                node = node_of_record(record)
                node.take_work(work)
                rows.append((node_id, node.state._value_, node.state_time, _encode(node)))
        return rows
