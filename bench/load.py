"""Load: prepared requests, sent by a process of its own over a few kept-alive connections as fast as they are answered.

It runs on the same processors as the service, so it must cost little. Requests are signed and joined to bodies before
the clock starts; then there is one `epoll`, a send and a receive or two for each. Nothing is decoded: the status and the
length of an answer are looked at, the caller counts what came of it.

The process reads a `Plan` (MessagePack, after its length), says that it is ready, begins when told, and prints `Report`.
"""

import asyncio
import contextlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from bench.client import Signer
from bench.machine import ENVIRONMENT

_BUFFER = 1 << 18
_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One call."""

    method: str
    path: str
    body: bytes | None = None
    query: dict[str, str] = {}


class Target(Protocol):
    """Where to send: a service, or what stands in for one."""

    @property
    def endpoint(self) -> str: ...

    @property
    def account(self) -> str: ...

    @property
    def key(self) -> str: ...


class Plan(msgspec.Struct, frozen=True):
    """What to send."""

    endpoint: str
    account: str
    key: str
    requests: list[Request]
    connections: int
    pause_s: float = 0.0
    """Of each connection, between an answer and the next request."""
    for_s: float = 0.0
    """Begin again at the first request until so much time has passed; 0 sends each once."""


class Report(msgspec.Struct, frozen=True):
    """What came of it."""

    seconds: float
    cpu_s: float
    """Of the load's own process, while it sent."""
    latencies: list[float]
    """Of each answer, in the order they came."""
    failures: list[str]
    """Answers that were not 2xx, the first few."""


class Load:
    """A load that is ready to begin."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def report(self) -> Report:
        """Once all is sent and answered. Raises RuntimeError when an answer was an error."""
        assert self._process.stdout is not None
        report = msgspec.msgpack.decode(await self._process.stdout.read(), type=Report)
        if report.failures:
            raise RuntimeError(f"calls failed, such as: {report.failures[0]}")
        return report

    async def run(self) -> Report:
        """Begin, and report."""
        self.begin()
        return await self.report()


@contextlib.asynccontextmanager
async def loading(
    target: Target, requests: Sequence[Request], connections: int, *, pause_s: float = 0.0, for_s: float = 0.0
) -> AsyncIterator[Load]:
    """The process, with everything prepared; nothing is sent before `run`."""
    plan = Plan(target.endpoint, target.account, target.key, list(requests), connections, pause_s, for_s)
    packed = msgspec.msgpack.encode(plan)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.load",
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 26,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(len(packed).to_bytes(8) + packed)
        await process.stdin.drain()
        await process.stdout.readexactly(1)
        yield Load(process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def send(target: Target, requests: Sequence[Request], connections: int) -> Report:
    """Each request once. Raises RuntimeError when an answer was an error."""
    async with loading(target, requests, connections) as load:
        return await load.run()


def adds(job_id: str, bodies: Sequence[bytes]) -> list[Request]:
    """Add Task Collection calls."""
    return [Request("POST", f"/jobs/{job_id}/addtaskcollection", body) for body in bodies]


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begun = 0.0
        self.head = b""
        self.status = 0
        self.missing = 0
        """Bytes of the answer still to come; -1 while its head is not whole, -2 for an answer in chunks."""
        self.tail = b""

    def send(self, request: bytes) -> None:
        self.head, self.missing, self.tail = b"", -1, b""
        self.begun = time.perf_counter()
        self.socket.sendall(request)

    def receive(self, buffer: memoryview) -> bool:
        """Take what is there; whether that was the end of an answer. Raises ConnectionError."""
        size = self.socket.recv_into(buffer)
        if not size:
            raise ConnectionError("the service closed the connection")
        if self.missing >= 0:
            self.missing -= size
            return self.missing == 0
        if self.missing == -2:
            self.tail = (self.tail + bytes(buffer[:size]))[-len(_LAST_CHUNK) :]
            return self.tail == _LAST_CHUNK
        self.head += bytes(buffer[:size])
        end = self.head.find(_END_OF_HEAD)
        if end < 0:
            return False
        self.status = int(self.head[9:12])
        head = self.head[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            self.missing = length - (len(self.head) - end - 4)
            return self.missing == 0
        if b"transfer-encoding: chunked" not in head:
            return True
        self.missing = -2
        self.tail = self.head[-len(_LAST_CHUNK) :]
        return self.tail == _LAST_CHUNK


def _prepare(plan: Plan) -> list[bytes]:
    """Equal calls within a second have equal heads: the signature is over the length, not over the body."""
    signer = Signer(plan.endpoint, plan.account, plan.key)
    heads: dict[tuple[str, str, int | None, tuple[str, ...]], bytes] = {}
    prepared = []
    for request in plan.requests:
        length = None if request.body is None else len(request.body)
        known = (request.method, request.path, length, tuple(request.query.values()))
        head = heads.get(known)
        if head is None:
            head = heads[known] = signer.head(request.method, request.path, request.query, length)
        prepared.append(head + (request.body or b""))
    return prepared


def _run(plan: Plan, requests: list[bytes], connections: list[_Connection]) -> Report:
    poll = select.epoll()
    by_fd = {connection.socket.fileno(): connection for connection in connections}
    buffer = memoryview(bytearray(_BUFFER))
    latencies: list[float] = []
    failures: list[str] = []
    resting: list[tuple[float, _Connection]] = []
    begun, cpu_s = time.perf_counter(), time.process_time()
    until = begun + plan.for_s
    position = 0

    def next_of(connection: _Connection) -> bool:
        nonlocal position
        if position >= len(requests):
            if time.perf_counter() >= until:
                return False
            position = 0
        elif plan.for_s and time.perf_counter() >= until:
            return False
        connection.send(requests[position])
        position += 1
        return True

    active = 0
    for fd, connection in by_fd.items():
        poll.register(fd, select.EPOLLIN)
        active += next_of(connection)
    while active or resting:
        wait_s = max(0.0, resting[0][0] - time.perf_counter()) if resting else -1.0
        for fd, _ in poll.poll(wait_s):
            connection = by_fd[fd]
            if not connection.receive(buffer):
                continue
            now = time.perf_counter()
            latencies.append(now - connection.begun)
            if not 200 <= connection.status < 300 and len(failures) < 10:
                failures.append(connection.head[:500].decode(errors="replace"))
            active -= 1
            if plan.pause_s:
                resting.append((now + plan.pause_s, connection))
            else:
                active += next_of(connection)
        while resting and resting[0][0] <= time.perf_counter():
            active += next_of(resting.pop(0)[1])
    return Report(time.perf_counter() - begun, time.process_time() - cpu_s, latencies, failures)


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    plan = msgspec.msgpack.decode(source.read(int.from_bytes(source.read(8))), type=Plan)
    requests = _prepare(plan)
    parts = urlsplit(plan.endpoint)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    connections = [_Connection(address) for _ in range(plan.connections)]
    sink.write(b"+")
    sink.flush()
    source.read()  # its end is the word to begin
    sink.write(msgspec.msgpack.encode(_run(plan, requests, connections)))
    sink.flush()


if __name__ == "__main__":
    main()
