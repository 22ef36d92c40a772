"""What every store keeps of automatic scaling: settings on the pool, samples, runs."""

from millpond.domain.autoscale import AutoScale, AutoScaleRun, AutoScaleRunError
from millpond.domain.task import NameValue
from millpond.store.base import SampleBlock, StoredRun
from millpond.store.changes import ChangeSet
from tests.contracts.stores import T0, a_pool


async def test_the_settings_and_the_last_run_of_a_pool(store, fence):
    error = AutoScaleRunError("InsufficientSampleData", "too few", (NameValue("Message", "Line 1, Col 2: …"),))
    for number, scale in enumerate(
        (
            None,
            AutoScale("$TargetDedicatedNodes=1", 300.0, T0, T0 + 300),
            AutoScale("$x=\u00e4", 5.5, T0, T0 + 1.25, AutoScaleRun(T0 + 7, "$TargetDedicatedNodes=1", error)),
        )
    ):
        pool = a_pool(no=number + 1, pool_id=f"p{number}", auto_scale=scale, auto_scale_enabled=T0)
        await store.commit(ChangeSet(pools={pool.no: pool}), fence)
        assert await store.get_pool(pool.id) == pool


async def test_blocks_of_samples(store, fence):
    await store.commit(ChangeSet(pools={1: a_pool(1, "a"), 2: a_pool(2, "b")}), fence)
    blocks = [SampleBlock(1, T0 + 10 * n, b"\x00one%d" % n) for n in range(5)]
    other = SampleBlock(2, T0, b"two")
    await store.save_samples([*blocks, other], {})
    assert await store.load_samples(1, 0.0) == blocks
    assert await store.load_samples(1, T0 + 20) == blocks[2:]
    longer = SampleBlock(1, T0 + 40, b"longer")
    await store.save_samples([longer], {1: T0 + 30})
    assert await store.load_samples(1, 0.0) == [blocks[3], longer]
    assert await store.load_samples(2, 0.0) == [other]


async def test_the_latest_runs(store, fence):
    await store.commit(ChangeSet(pools={1: a_pool(1, "a"), 2: a_pool(2, "b")}), fence)
    runs = [StoredRun(1, T0 + n, b'{"n":%d}' % n) for n in range(6)]
    await store.save_auto_scale_runs([*runs[:2], StoredRun(2, T0, b"{}")], 3)
    assert await store.list_auto_scale_runs(1, 10) == [runs[1], runs[0]]
    await store.save_auto_scale_runs(runs[2:], 3)
    assert await store.list_auto_scale_runs(1, 10) == [runs[5], runs[4], runs[3]]
    assert await store.list_auto_scale_runs(1, 1) == [runs[5]]
    again = StoredRun(1, T0 + 5, b'{"again":1}')
    await store.save_auto_scale_runs([again], 3)
    assert await store.list_auto_scale_runs(1, 10) == [again, runs[4], runs[3]]
    assert await store.list_auto_scale_runs(2, 10) == [StoredRun(2, T0, b"{}")]


async def test_they_go_with_their_pool_and_do_not_come_back(store, fence):
    await store.commit(ChangeSet(pools={1: a_pool(1, "a")}), fence)
    block, run = SampleBlock(1, T0, b"x"), StoredRun(1, T0, b"{}")
    await store.save_samples([block], {})
    await store.save_auto_scale_runs([run], 3)
    await store.commit(ChangeSet(deleted_pools={1}), fence)
    for _ in range(2):
        assert await store.load_samples(1, 0.0) == []
        assert await store.list_auto_scale_runs(1, 10) == []
        # A sampling that was under way.
        await store.save_samples([block], {1: T0})
        await store.save_auto_scale_runs([run], 3)


async def test_they_survive_a_restart(place, store, fence):
    await store.commit(ChangeSet(pools={1: a_pool(1, "a")}), fence)
    block, run = SampleBlock(1, T0, b"x"), StoredRun(1, T0, b"{}")
    await store.save_samples([block], {})
    await store.save_auto_scale_runs([run], 3)
    await store.close()
    other = place.store()
    await other.open()
    assert await other.load_samples(1, 0.0) == [block]
    assert await other.list_auto_scale_runs(1, 10) == [run]
    await other.close()
