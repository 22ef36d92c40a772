"""A lean Azure Batch client for load: SharedKey-signed requests over kept-alive sockets, bodies shaped as the SDK's.

The load generator runs on the same two cores as the service, so it must cost little; it is no client library.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from urllib.parse import quote, urlsplit

API_VERSION = "2025-06-01"
CONTENT_TYPE = "application/json; odata=minimalmetadata"
_OF_WHAT_IS_LEFT = 0.2
_LONGEST_PAUSE_S = 2.0


class HttpError(Exception):
    """An answer that is not 2xx."""


class Signer:
    """Heads of requests, signed as the SDK signs them (Azure Batch: SharedKey)."""

    def __init__(self, endpoint: str, account: str, key: str) -> None:
        parts = urlsplit(endpoint)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._account = account
        self._key = base64.b64decode(key)

    def head(self, method: str, path: str, query: dict[str, str], length: int | None) -> bytes:
        """Of one request; `length` is that of its body, None for a request without one."""
        date = formatdate(time.time(), usegmt=True)
        query = {"api-version": API_VERSION, **query}
        to_sign = (
            f"{method}\n\n\n{length if length is not None else ''}\n\n{CONTENT_TYPE if length else ''}\n\n\n\n\n\n\n"
            f"ocp-date:{date}\n/{self._account}{path}"
        )
        to_sign += "".join(f"\n{name}:{query[name]}" for name in sorted(query))
        signature = base64.b64encode(hmac.new(self._key, to_sign.encode(), hashlib.sha256).digest()).decode()
        url = f"{path}?{'&'.join(f'{name}={quote(value)}' for name, value in query.items())}"
        lines = [
            f"{method} {url} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Accept: application/json",
            "User-Agent: azsdk-python-batch/15.1.0 Python/3.11",
            "client-request-id: 53548874-e564-11f1-987f-02fc00000001",
            f"ocp-date: {date}",
            f"Authorization: SharedKey {self._account}:{signature}",
        ]
        if length is not None:
            lines.append(f"Content-Length: {length}")
            if length:
                lines.append(f"Content-Type: {CONTENT_TYPE}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection:
    """One kept-alive connection; one request at a time."""

    def __init__(self, endpoint: str, account: str, key: str) -> None:
        self._signer = Signer(endpoint, account, key)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection(self._signer.host, self._signer.port, limit=1 << 24)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()

    async def request(self, method: str, path: str, body: bytes | None = None, **query: str) -> bytes:
        """The body of the answer. Raises HttpError."""
        assert self._reader is not None
        assert self._writer is not None
        if body is None and method not in ("GET", "HEAD"):
            body = b""
        head = self._signer.head(method, path, query, None if body is None else len(body))
        self._writer.write(head + (body or b""))
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length, chunked = 0, False
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
        content = await self._chunks() if chunked else await self._reader.readexactly(length)
        if status >= 300:
            raise HttpError(f"{method} {path}: {status} {content[:500].decode()}")
        return content

    async def _chunks(self) -> bytes:
        assert self._reader is not None
        content = b""
        while True:
            size = int(await self._reader.readline(), 16)
            content += await self._reader.readexactly(size)
            await self._reader.readline()
            if not size:
                return content

    async def json(self, method: str, path: str, body: object = None, **query: str) -> dict[str, object]:
        content = await self.request(method, path, None if body is None else json.dumps(body).encode(), **query)
        answer = json.loads(content) if content else {}
        assert isinstance(answer, dict)
        return answer

    # --- what every measurement needs ---

    async def add_pool(self, pool_id: str, nodes: int, slots: int, vm_size: str = "standard_d2s_v3") -> None:
        await self.json(
            "POST",
            "/pools",
            {
                "id": pool_id,
                "vmSize": vm_size,
                "targetDedicatedNodes": nodes,
                "taskSlotsPerNode": slots,
                "virtualMachineConfiguration": {
                    "imageReference": {
                        "publisher": "canonical",
                        "offer": "0001-com-ubuntu-server-jammy",
                        "sku": "22_04-lts",
                        "version": "latest",
                    },
                    "nodeAgentSKUId": "batch.node.ubuntu 22.04",
                },
            },
        )

    async def wait_for_nodes(self, pool_id: str, nodes: int, deadline_s: float = 60.0) -> None:
        until = time.monotonic() + deadline_s
        while True:
            page = await self.json("GET", "/nodecounts", **{"$filter": f"poolId eq '{pool_id}'"})
            listed = page["value"]
            assert isinstance(listed, list)
            counts = listed[0]["dedicated"] if listed else {"idle": 0, "running": 0}
            if counts["idle"] + counts["running"] >= nodes:
                return
            if time.monotonic() > until:
                raise TimeoutError(f"nodes of {pool_id} did not come up: {counts}")
            await asyncio.sleep(0.05)

    async def add_job(self, job_id: str, pool_id: str, **options: object) -> None:
        """`options` are further properties of the job, as on the wire."""
        await self.json("POST", "/jobs", {"id": job_id, "poolInfo": {"poolId": pool_id}, **options})

    async def counts(self, job_id: str) -> dict[str, int]:
        answer = await self.json("GET", f"/jobs/{job_id}/taskcounts")
        counts = answer["taskCounts"]
        assert isinstance(counts, dict)
        return counts

    async def wait_completed(
        self, job_id: str, tasks: int, deadline_s: float = 300.0, poll_s: float = 0.02
    ) -> dict[str, int]:
        """The job's counts once so many tasks have ended, within `poll_s` of it. Asked rarely while the rate of ends says
        that most of the time is still to come: each answer costs the machine what several tasks do."""
        begun = time.monotonic()
        pause_s = poll_s
        while True:
            counts = await self.counts(job_id)
            done, passed_s = counts["completed"], time.monotonic() - begun
            if done >= tasks:
                return counts
            if passed_s > deadline_s:
                raise TimeoutError(f"{job_id}: {counts}")
            left_s = passed_s * (tasks - done) / done if done else 0.0
            pause_s = max(poll_s, min(left_s * _OF_WHAT_IS_LEFT, 2 * pause_s, _LONGEST_PAUSE_S))
            await asyncio.sleep(pause_s)


def task_bodies(first: int, count: int, command_line: str, per_call: int = 100) -> list[bytes]:
    """Bodies of Add Task Collection calls, as the SDK's `create_tasks` sends them: last first."""
    bodies = []
    for start in range(first, first + count, per_call):
        numbers = range(min(start + per_call, first + count) - 1, start - 1, -1)
        tasks = [{"id": f"task-{number:07d}", "commandLine": command_line} for number in numbers]
        bodies.append(json.dumps({"value": tasks}).encode())
    return bodies


def bodies_of(tasks: Sequence[Mapping[str, object]], per_call: int = 100) -> list[bytes]:
    """The same for any tasks, in their order."""
    return [json.dumps({"value": tasks[start : start + per_call]}).encode() for start in range(0, len(tasks), per_call)]
