"""Rows that nothing refers to any more are looked for now and then."""

import asyncio

from millpond.control.retention import Sweeper
from millpond.control.settings import ControlSettings
from millpond.domain.errors import StoreUnavailable
from millpond.sim.loop import VirtualLoop
from millpond.store.memory import MemoryStore


class Names(MemoryStore):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.calls: list[tuple[float, int]] = []
        self._loop = loop

    async def forget_node_names(self, chunk: int) -> None:
        self.calls.append((self._loop.time(), chunk))
        if len(self.calls) == 1:
            raise StoreUnavailable("the disk is full")


def test_again_and_again() -> None:
    loop = VirtualLoop()
    store = Names(loop)

    async def watch() -> None:
        sweeper = Sweeper(store, ControlSettings(sweep_interval_s=100.0, sweep_chunk=10))
        sweeper.start()
        await asyncio.sleep(350.0)
        await sweeper.close()

    began = loop.time()
    try:
        loop.run_until_complete(watch())
    finally:
        loop.close()
    # What fails has its next turn.
    assert [(at - began, chunk) for at, chunk in store.calls] == [(100.0, 10), (200.0, 10), (300.0, 10)]
