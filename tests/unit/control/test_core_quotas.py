"""Quotas of cores: of one account's nodes in all its pools."""

import asyncio

import msgspec

from millpond.control.core_quotas import CoreQuotas
from millpond.domain import events as e
from millpond.domain.errors import BatchError
from millpond.domain.states import AllocationState
from tests.unit.control.lab import SETTINGS, Lab
from tests.unit.scheduler.world import new_pool


def test_nodes_are_counted_once_and_by_kind() -> None:
    quotas = CoreQuotas(msgspec.structs.replace(SETTINGS, dedicated_core_quota=4, low_priority_core_quota=2))
    for _ in range(2):
        assert quotas.take("a", 2, is_dedicated=True) is None
    assert quotas.take("b", 2, is_dedicated=True) is None
    refused = quotas.take("c", 1, is_dedicated=True)
    assert refused is not None
    assert refused[0] == "AccountCoreQuotaReached"
    assert quotas.take("d", 2, is_dedicated=False) is None
    refused = quotas.take("e", 1, is_dedicated=False)
    assert refused is not None
    assert refused[0] == "AccountLowPriorityCoreQuotaReached"
    quotas.give_back("c")
    quotas.give_back("a")
    assert quotas.take("c", 2, is_dedicated=True) is None
    # One that is there counts, whatever the quota is now.
    assert quotas.take("f", 8, is_dedicated=True, force=True) is None
    quotas.give_back("b")
    assert quotas.take("g", 1, is_dedicated=True) is not None


def test_no_quota_refuses_nobody() -> None:
    quotas = CoreQuotas(SETTINGS)
    assert quotas.take("a", 10**6, is_dedicated=True) is None
    quotas.give_back("a")
    quotas.give_back("never")


def test_a_resize_stops_at_the_quota_also_after_a_restart() -> None:
    # The size `local` has two cores.
    lab = Lab(msgspec.structs.replace(SETTINGS, dedicated_core_quota=6))

    async def pools_are(expected: dict[str, int]) -> None:
        async with asyncio.timeout(600):
            while True:
                page = await lab.store.list_pools(None, 10, None)
                counts = {}
                for pool in page.items:
                    nodes = await lab.store.list_nodes(pool.id, None, 100, None)
                    counts[pool.id] = len(nodes.items)
                steady = all(pool.allocation_state is AllocationState.STEADY for pool in page.items)
                if steady and counts == expected:
                    return
                await asyncio.sleep(0.5)

    async def errors_of(pool_id: str) -> list[str]:
        pool = await lab.store.get_pool(pool_id)
        assert pool is not None
        return [error.code for error in pool.resize_errors]

    async def resize(pool_id: str, nodes: int) -> None:
        event = e.PoolResizeRequested(at=lab.clock(), cause="test", target_dedicated_nodes=nodes, resize_timeout_s=900)
        assert not isinstance(await lab.insist(lambda c: c.to_pool(pool_id, event)), BatchError)

    async def story() -> None:
        await lab.start()
        await lab.insist(lambda c: c.add_pool(new_pool(2, pool_id="one"), "test"))
        await lab.insist(lambda c: c.add_pool(new_pool(pool_id="two"), "test"))
        await pools_are({"one": 2, "two": 0})
        await resize("two", 3)
        await pools_are({"one": 2, "two": 1})
        assert await errors_of("two") == ["AccountCoreQuotaReached"]
        await lab.restart()
        await resize("one", 3)
        await pools_are({"one": 2, "two": 1})
        assert await errors_of("one") == ["AccountCoreQuotaReached"]

    lab.run(story())
