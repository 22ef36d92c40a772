"""Pages of rows that pass a filter, in order of their ids."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from millpond.odata.filters import Filter
from millpond.odata.sql import Columns, Parameter, to_sql
from millpond.store import paging
from millpond.store.sqlite_file import transaction

SCAN_ROWS: Final = 20_000
"""Rows one call looks at, at most, to fill a page of a filtered listing."""

_LAST_ID: Final = "\U0010ffff"
"""Above every id."""


class Condition(NamedTuple):
    """What takes the place of `/*where*/` in a query."""

    text: str
    parameters: Sequence[Parameter]
    scans: bool
    """Whether rows are looked at that do not pass."""


def condition_of(where: Filter | None, columns: Columns) -> Condition:
    return Condition("TRUE", (), scans=False) if where is None else Condition(*to_sql(where, columns), scans=True)


def page_of(
    connection: sqlite3.Connection,
    queries: Mapping[str, str],
    noun: str,
    condition: Condition,
    *,
    after: str,
    limit: int,
    scope: Sequence[Parameter] = (),
) -> tuple[list[Any], str | None]:
    """(id, record) of a page in order of id, and where the next one starts. `noun` names the queries `list_<noun>` and
    `scan_<noun>`, whose first parameters are `scope`."""
    end = _LAST_ID
    with transaction(connection):
        if condition.scans:
            bound = connection.execute(queries[f"scan_{noun}"], (*scope, after, SCAN_ROWS - 1)).fetchone()
            end = bound[0] if bound else _LAST_ID
        sql = queries[f"list_{noun}"].replace("/*where*/", condition.text)
        rows = connection.execute(sql, (*scope, after, end, *condition.parameters, limit + 1)).fetchall()
    if len(rows) > limit:
        return rows[:limit], paging.token_of_id(rows[limit - 1][0])
    return rows, None if end == _LAST_ID else paging.token_of_id(end)
