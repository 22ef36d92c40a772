"""`millpond logs`: what a task writes, or wrote."""

import base64
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from millpond.cli.client import Client, ServiceError, Unreachable
from millpond.cli.common import CliError, CliUsageError, service_options

_CHUNK: Final = 1 << 16
_FOLLOW_TIMEOUT_S: Final = 35.0
"""The service says something every 10 s."""
_RECONNECT_S: Final = 1.0
_PATIENCE_S: Final = 30.0
"""So long a service that does not answer is tried again."""
_INTERRUPTED: Final = 130
_NOT_THERE_YET: Final = frozenset({"TaskFilesUnavailable", "FileNotFound"})


@click.command()
@service_options
@click.option("-f", "--follow", is_flag=True, help="Go on as the task writes, until it is completed.")
@click.option("--stderr", "stderr", is_flag=True, help="Its stderr.txt instead of stdout.txt.")
@click.option("--file", "path", metavar="PATH", help="Another of its files, such as wd/out.log.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines.")
@click.argument("job", metavar="JOB")
@click.argument("task", metavar="TASK")
def logs(
    config_path: Path | None,
    data_dir: str | None,
    follow: bool,
    stderr: bool,
    path: str | None,
    tail: int | None,
    job: str,
    task: str,
) -> None:
    """Print what TASK of JOB writes to its standard output.

    With -f also before it has begun: the command waits for it, goes on when it runs again, and ends with it. What is
    said besides the task's own output goes to standard error.
    """
    if stderr and path is not None:
        raise CliUsageError("--stderr and --file exclude each other; leave one out")
    name = path or ("stderr.txt" if stderr else "stdout.txt")
    files = _TaskFile(Client(config_path, data_dir), job, task, name)
    try:
        if follow:
            files.follow(0 if tail is None else files.start_of_tail(tail, missing_is_empty=True))
        else:
            files.print_from(0 if tail is None else files.start_of_tail(tail))
        sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        _leave(_INTERRUPTED)
    except BrokenPipeError:
        # As in `| head`: whoever read it has seen enough.
        _leave(0)


def _leave(exit_code: int) -> None:
    """End without another word, also from what standard output still holds."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(exit_code)


class _TaskFile:
    def __init__(self, client: Client, job: str, task: str, name: str) -> None:
        self._client = client
        self._task = ("jobs", job, "tasks", task)
        self._name = name
        self._last_id = ""

    # --- what is there ---

    def print_from(self, offset: int) -> None:
        for chunk in self._read(offset):
            sys.stdout.buffer.write(chunk)

    def start_of_tail(self, lines: int, *, missing_is_empty: bool = False) -> int:
        """Where the last so many lines begin."""
        try:
            with self._client.open("HEAD", *self._task, "files", self._name) as answer:
                size = int(answer.headers["Content-Length"])
        except ServiceError as error:
            if missing_is_empty and error.status in (404, 409):
                return 0
            # An answer to HEAD has no words: GET has.
            self.print_from(0)
            raise
        wanted = lines
        position = size
        behind = b""
        while position > 0 and wanted >= 0:
            begin = max(0, position - _CHUNK)
            block = b"".join(self._read(begin, position - 1))
            # The newline at the very end begins no line.
            places = [begin + i for i, byte in enumerate(block) if byte == 0x0A and begin + i != size - 1]
            if len(places) >= wanted:
                return (places[len(places) - wanted] + 1) if wanted else size
            wanted -= len(places)
            position = begin
            behind = block
        return 0 if behind or size == 0 else size

    def _read(self, first: int, last: int | None = None) -> Iterator[bytes]:
        headers = {} if first == 0 and last is None else {"ocp-range": f"bytes={first}-{'' if last is None else last}"}
        try:
            with self._client.open("GET", *self._task, "files", self._name, headers=headers) as answer:
                while chunk := answer.read(_CHUNK):
                    yield chunk
        except ServiceError as error:
            if error.code == "InvalidRange":
                # Nothing is there from there on.
                return
            if error.code in _NOT_THERE_YET:
                raise CliError(f"{error.message}{self._hint()}") from error
            raise
        except http.client.HTTPException as error:
            raise CliError(f"the file broke off ({error!r})") from error

    def _hint(self) -> str:
        state = self._client.get(*self._task).get("state")
        return "" if state == "completed" else f" (the task is {state}; -f waits for it)"

    # --- what is coming ---

    def follow(self, offset: int) -> None:
        query = {"filePath": self._name, **({"offset": str(offset)} if offset else {})}
        silent_since: float | None = None
        while True:
            headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
            try:
                with self._client.open(
                    "GET", *self._task, "follow", query=query, headers=headers, timeout_s=_FOLLOW_TIMEOUT_S
                ) as answer:
                    silent_since = None
                    if self._take(answer):
                        return
                reason: object = "the connection was closed"
            except Unreachable as error:
                reason = error.message
            except (http.client.HTTPException, OSError) as error:
                if isinstance(error, BrokenPipeError):
                    raise
                reason = error
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _PATIENCE_S:
                raise CliError(f"the service is gone: {reason}")
            time.sleep(_RECONNECT_S)

    def _take(self, answer: http.client.HTTPResponse) -> bool:
        """Print what comes; whether it was all."""
        event: dict[str, str] = {}
        while line := answer.readline():
            text = line.decode().rstrip("\n")
            if text.startswith(":"):
                continue
            if text:
                name, _, value = text.partition(": ")
                event[name] = value
            elif event:
                self._last_id = event.get("id", self._last_id)
                if self._act(event["event"], json.loads(event["data"])):
                    return True
                event = {}
        return False

    _attempt = 0

    def _act(self, event: str, data: dict[str, Any]) -> bool:
        match event:
            case "data":
                content = base64.b64decode(data["base64"]) if "base64" in data else data["text"].encode()
                sys.stdout.buffer.write(content)
                sys.stdout.buffer.flush()
            case "state":
                _say(f"the task is {data['state']}; waiting for it to run")
            case "attempt":
                if self._attempt not in (0, data["attempt"]):
                    _say(f"the task runs again (attempt {data['attempt']})")
                self._attempt = data["attempt"]
            case "end":
                self._end(data)
                return True
        return False

    def _end(self, data: dict[str, Any]) -> None:
        if data["reason"] == "deleted":
            _say("the task was deleted")
        elif data["reason"] == "unavailable":
            raise CliError(f"{data['code']}: {data['message']}")


def _say(text: str) -> None:
    sys.stdout.buffer.flush()
    click.echo(f"millpond: {text}", err=True)
