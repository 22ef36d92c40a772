"""What a service is held against: the plainest server that keeps the same promise, and nothing else.

A bare uvicorn application (uvloop, httptools), msgspec, SQLite (WAL, full sync): Add Task Collection makes a row of each
task, commits, and answers with a result for each; a listing reads rows and makes JSON of them. No account, no checks, no
scheduler, no nodes. `--lives` instead measures the store alone: rows put in and changed twice, as a task's life needs.
"""

import argparse
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
import uvicorn

_PER_COMMIT = 100
_SPEC = b"x" * 300
"""About as much as a task's own row and its specification."""

Message = MutableMapping[str, Any]


class _Collection(msgspec.Struct):
    value: list[dict[str, Any]]


class PlainStore:
    """Tasks in one table with one further index."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for line in ("journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {line}")
        self._connection.execute(
            "CREATE TABLE task (key INTEGER PRIMARY KEY, job TEXT, id TEXT, state INTEGER, changed REAL, spec BLOB)"
        )
        self._connection.execute("CREATE UNIQUE INDEX task_id ON task (job, id)")

    def add(self, job: str, ids: list[str]) -> None:
        now = time.time()
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO task (job, id, state, changed, spec) VALUES (?, ?, 0, ?, ?)",
                [(job, task_id, now, _SPEC) for task_id in ids],
            )

    def change(self, keys: range, state: int) -> None:
        now = time.time()
        with self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "UPDATE task SET state = ?, changed = ? WHERE key = ?", [(state, now, key) for key in keys]
            )

    def page(self, job: str, after: str, count: int) -> list[tuple[str, int, float, bytes]]:
        return self._connection.execute(
            "SELECT id, state, changed, spec FROM task WHERE job = ? AND id > ? ORDER BY id LIMIT ?",
            (job, after, count),
        ).fetchall()


class PlainServer:
    """The application."""

    def __init__(self, store: PlainStore) -> None:
        self._store = store
        self._decode = msgspec.json.Decoder(_Collection).decode
        self._encode = msgspec.json.Encoder().encode

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        job = scope["path"].split("/")[2]
        if scope["method"] == "POST":
            ids = [task["id"] for task in self._decode(body).value]
            self._store.add(job, ids)
            answer: list[dict[str, object]] = [
                {"taskId": each, "status": "success", "eTag": "0x8DD0000", "location": f"/jobs/{job}/tasks/{each}"}
                for each in ids
            ]
        else:
            after = parse_qs(scope["query_string"].decode()).get("after", [""])[0]
            answer = [
                {"id": each, "state": state, "stateTransitionTime": changed, "commandLine": spec.decode()}
                for each, state, changed, spec in self._store.page(job, after, 1000)
            ]
        content = self._encode({"value": answer})
        headers = [(b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def lives(path: str, tasks: int) -> float:
    """Rows a second that are put in, and changed to running and to completed, so many to a transaction."""
    store = PlainStore(path)
    begun = time.perf_counter()
    for first in range(0, tasks, _PER_COMMIT):
        last = min(first + _PER_COMMIT, tasks)
        store.add("job", [f"task-{number:07d}" for number in range(first, last)])
        for state in (1, 2):
            store.change(range(first + 1, last + 1), state)
    return tasks / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--lives", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.lives:
        print(lives(arguments.path, arguments.lives))
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application = PlainServer(PlainStore(arguments.path))
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(application, log_level="critical", access_log=False, lifespan="off")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
