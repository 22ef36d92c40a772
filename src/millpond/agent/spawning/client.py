"""The spawner's client, an agent host: what it says, and what it is told.

What it is told in one turn of the loop is sent at once, at the turn's end. Some of that may wait for longer, and is told
together with what comes soon: that a process runs, and that it has ended. Such ends are told in their order, and before
whatever came after them.
"""

import math
import select
import socket
import time
from collections.abc import Iterator

from millpond.agent.spawning.frames import HEADER, MAX_FRAME, RUNNING, frame
from millpond.agent.spawning.processes import Process

TELL_S = 0.005
"""That a process runs may be told so much later: one that ends sooner is told of once."""
_GATHER_S = 0.01
"""That it has ended may be told so much later while others wait in its lane: the host takes several at once for half of
what they cost it one by one."""
_LEAST_WAITING = 2
"""With fewer than that in its lane an end is told at once, so that the host hands over more before the lane is dry."""


class Client:
    """One connection, from when it is accepted until it breaks or another takes its place."""

    def __init__(self, connection: socket.socket, epoll: select.epoll) -> None:
        self._connection = connection
        self._epoll = epoll
        self.descriptor = connection.fileno()
        self._received = bytearray()
        self._unsent = bytearray()
        self._writing = False
        """The kernel takes no more for now, and says when it does."""
        self._untold: dict[bytes, Process] = {}
        """Processes that run, which the client has yet to be told."""
        self._told_later = bytearray()
        """Frames about processes that have ended."""
        self._tell_at = 0.0
        """Monotonic time at which they are told in any case."""
        connection.setblocking(False)
        epoll.register(self.descriptor, select.EPOLLIN)

    def close(self) -> None:
        """What it has not been told is lost; the next one is told of all processes."""
        self._epoll.unregister(self.descriptor)
        self._connection.close()

    # --- what it says ---

    def receive(self) -> bool:
        """Take in what there is, for `frames`; whether there was anything. Raises EOFError when the client has gone."""
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._received += data
        return True

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """The whole frames that were received, as operation and payload. Raises ValueError for one that is too long."""
        received = self._received
        position = 0
        while len(received) - position >= HEADER.size:
            length, operation = HEADER.unpack_from(received, position)
            if length > MAX_FRAME:
                raise ValueError(length)
            end = position + HEADER.size + length
            if end > len(received):
                break
            yield operation, bytes(received[position + HEADER.size : end])
            position = end
        del received[:position]

    # --- what it is told ---

    def tell(self, data: bytes) -> None:
        """Tell frames, after all that came before them."""
        self._tell_ends()
        self._unsent += data

    def tell_running(self, process: Process) -> None:
        """It runs: that is told soon (`process.tell_at`), unless its end is told before."""
        self._untold[process.id] = process

    def tell_exit(self, process: Process) -> None:
        """It has ended: that is told at once, or soon while others wait in its lane."""
        assert process.exit is not None
        self._untold.pop(process.id, None)
        lane = process.lane
        if lane is not None and process.succeeded and len(lane.waiting) >= _LEAST_WAITING:
            if not self._told_later:
                self._tell_at = time.monotonic() + _GATHER_S
            self._told_later += process.exit
        else:
            self.tell(process.exit)

    def due_at(self) -> float:
        """Monotonic time at which something that waits is to be told; infinite when nothing waits."""
        due_at = self._tell_at if self._told_later else math.inf
        if self._untold:
            due_at = min(due_at, next(iter(self._untold.values())).tell_at)
        return due_at

    def tell_due(self) -> bool:
        """Tell what has waited for long enough; whether there is something to flush, and the kernel takes more."""
        if self._untold or self._told_later:
            now = time.monotonic()
            due = []
            for process in self._untold.values():
                if process.tell_at > now:
                    break
                due.append(process)
            if due or self._tell_at <= now:
                # Ends first: what runs now may have begun because of them.
                self._tell_ends()
            for process in due:
                del self._untold[process.id]
                self._unsent += frame(RUNNING, process.id, process.began)
        return bool(self._unsent) and not self._writing

    def _tell_ends(self) -> None:
        """Before anything that came after them."""
        if self._told_later:
            self._unsent += self._told_later
            self._told_later.clear()

    def flush(self) -> None:
        """Send what the kernel takes of what was told. Raises EOFError when the client has gone."""
        try:
            sent = self._connection.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise EOFError from None
        del self._unsent[:sent]
        if bool(self._unsent) != self._writing:
            self._writing = bool(self._unsent)
            self._epoll.modify(self.descriptor, select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))
