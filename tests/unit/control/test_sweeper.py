"""Rows that nothing refers to any more are looked for now and then, a few at a time."""

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

    async def forget_node_names(self, after: int, limit: int) -> int | None:
        self.calls.append((self._loop.time(), after))
        if len(self.calls) == 1:
            raise StoreUnavailable("the disk is full")
        return after + limit if after < 20 else None


def test_a_few_at_a_time_again_and_again() -> None:
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
    assert [after for _, after in store.calls] == [0, 0, 10, 20, 0, 10, 20]
    times = [at - began for at, _ in store.calls]
    # What fails has its next turn; between two chunks there is room for others.
    assert times[0] == 100.0
    assert times[1] >= 200.0
    assert times[1] < times[2] < times[3] < 202.0
