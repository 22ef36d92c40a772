"""How users reach the control plane: a call may be refused, lose its request, or lose its answer."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from millpond.domain.errors import BatchError, ErrorCode, StoreUnavailable
from millpond.sim.control import ControlServer, SimControl
from millpond.sim.loop import VirtualLoop
from millpond.sim.network import Network

_T = TypeVar("_T")


class NoAnswer(Exception):
    """The caller cannot tell whether anything was done."""


class Api:
    """The REST face as far as the simulation has one: calls of the control service, answered by value."""

    def __init__(self, loop: VirtualLoop, random: Random, network: Network) -> None:
        self._loop = loop
        self._random = random
        self._network = network
        self.server: ControlServer | None = None
        self.given_up = 0.0
        """How likely a caller hangs up before the answer: what handles the call is cancelled."""
        self.calls = 0

    async def call(
        self,
        make: Callable[[SimControl], Awaitable[_T]],
        check: Callable[[_T], None],
        *,
        timeout_s: float = 30.0,
    ) -> _T:
        """The value `make` gives in the control plane; `check` sees it as it leaves there.

        Raises BatchError, or NoAnswer.
        """
        self.calls += 1
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        network = self._network

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        def succeed(value: _T) -> None:
            if not answer.done():
                answer.set_result(value)

        def arrive() -> None:
            server = self.server
            if server is None or not server.process.alive or not server.serving:
                self._loop.in_world(network.delay(), fail, NoAnswer("connection refused"))
                return
            task = server.process.spawn(handle(server), name="call")
            if self.given_up and self._random.random() < self.given_up:
                self._loop.in_world(self._random.uniform(0.0, 0.02), task.cancel)

        async def handle(server: ControlServer) -> None:
            try:
                value = await make(server.service)
            except (BatchError, StoreUnavailable) as error:
                if not network.loses():
                    told = error if isinstance(error, BatchError) else BatchError(ErrorCode.SERVER_BUSY)
                    self._loop.in_world(network.delay(), fail, told)
                return
            check(value)
            if not network.loses():
                self._loop.in_world(network.delay(), succeed, value)

        if not network.loses():
            self._loop.in_world(network.delay(), arrive)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise NoAnswer("no answer in time") from error
        finally:
            answer.cancel()
