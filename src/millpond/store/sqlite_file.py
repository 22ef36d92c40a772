"""The SQLite file itself: its schema, connections to it, and the threads that read it."""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from millpond.domain.errors import StoreUnavailable
from millpond.store.sql_files import load_migrations
from millpond.store.sqlite_writer import failure_of

READERS: Final = 3
"""Threads that read; one may be loading a pool for seconds."""
APPLICATION_ID: Final = 0x4D494C4C
"""Marks the file as Millpond's ("MILL")."""

_BUSY_TIMEOUT_S: Final = 10.0
_CHECKPOINT_PAGES: Final = 4000
"""16 MB of write-ahead log are folded into the file at a time: fewer, larger writes than SQLite's default of 4 MB."""

_T = TypeVar("_T")


def open_file(path: str) -> sqlite3.Connection:
    """A connection to write with; the file is made, and its schema brought up to date.

    Raises StoreUnavailable, and ValueError for what this Millpond cannot read.
    """
    try:
        # Specifications may hold secrets; SQLite gives the two files beside this one the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = _connect(path)
        try:
            _migrate(connection, path)
            # What a service that was killed had in hand is written now, or never.
            connection.executescript("BEGIN IMMEDIATE; COMMIT")
            _set_up(connection)
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"the store {path} cannot be opened: {error}") from error
    return connection


def open_writable(path: str) -> sqlite3.Connection:
    """One more connection to write with, to a file that is open already. Raises sqlite3.Error."""
    connection = _connect(path)
    _set_up(connection)
    return connection


def _set_up(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute("PRAGMA cache_size = -65536")


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in ("synchronous = FULL", "foreign_keys = OFF", "temp_store = MEMORY", "secure_delete = FAST"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    """Create the schema or bring it up to date."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (application_id or tables):
        raise ValueError(f"{path} is a database, but not one of Millpond's")
    version = 0
    if tables:
        (version,) = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    migrations = load_migrations()
    if version > len(migrations):
        raise ValueError(
            f"{path} was written by a newer Millpond: its schema is version {version}, "
            f"this Millpond knows up to {len(migrations)}"
        )
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnavailable(f"the store {path} is where SQLite cannot keep a write-ahead log (journal mode {mode})")
    for number, script in migrations[version:]:
        # The script leaves its transaction open; a failure closes the connection, and with it nothing has happened.
        connection.executescript(f"BEGIN IMMEDIATE; {script}")
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO schema_version VALUES (?)", (number,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read inside is of one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


class Readers:
    """Threads that read, each with its own connection."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="millpond-store-reader")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        """To be closed at the end."""

    async def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Raises StoreUnavailable, and what `work` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call_here, work)

    async def close(self) -> None:
        """Wait for what is being read."""
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()

    def _call_here(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """In a reader's thread."""
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = _connect(self._path)
                self._connections.append(connection)
                connection.execute("PRAGMA query_only = ON")
            return work(connection)
        except sqlite3.Error as error:
            raise failure_of(error) from error
