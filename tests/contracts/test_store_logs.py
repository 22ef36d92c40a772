"""What every store keeps of the logs of tasks."""

from millpond.domain import ids
from millpond.store.base import KeptLog, LogPack
from millpond.store.changes import ChangeSet
from tests.contracts.stores import a_task


def key(number: int, job_no: int = 1) -> int:
    return ids.task_key(job_no, number)


def tasks(*numbers: int, job_no: int = 1) -> ChangeSet:
    rows = {key(number, job_no): a_task(number=number, job_no=job_no) for number in numbers}
    return ChangeSet(tasks=rows, new_tasks=set(rows))


async def test_the_latest_attempt_counts_whatever_the_order(store, fence):
    await store.commit(tasks(1, 2), fence)
    first, second = KeptLog(key(1), 1, None, b"\x00first"), KeptLog(key(1), 2, 7, b"second")
    other = KeptLog(key(2), 1, 7, b"other")
    await store.save_kept_logs([first])
    assert await store.get_kept_log(key(1)) == first
    await store.save_kept_logs([second, other], LogPack(7, 100))
    await store.save_kept_logs([first])
    assert await store.get_kept_log(key(1)) == second
    assert await store.get_kept_log(key(2)) == other
    # Sent again, because the first answer was lost.
    again = KeptLog(key(1), 2, 8, b"again")
    await store.save_kept_logs([again], LogPack(8, 50))
    assert await store.get_kept_log(key(1)) == again
    assert await store.kept_log_bytes() == 150
    assert await store.get_kept_log(key(3)) is None


async def test_many_at_once_and_one_task_twice(store, fence):
    numbers = range(1, 1300)
    await store.commit(tasks(*numbers), fence)
    logs = [KeptLog(key(number), 1, None, b"%d" % number) for number in numbers]
    await store.save_kept_logs([KeptLog(key(5), 2, None, b"later"), *logs])
    assert (await store.get_kept_log(key(1299))).data == b"1299"
    assert (await store.get_kept_log(key(5))).data == b"later"


async def test_they_go_with_their_task_and_do_not_come_back(store, fence):
    await store.commit(tasks(1, 2), fence)
    await store.commit(tasks(1, job_no=2), fence)
    logs = [KeptLog(key(1), 1, 7, b"1"), KeptLog(key(2), 1, 7, b"2"), KeptLog(key(1, 2), 1, 9, b"3")]
    await store.save_kept_logs(logs[:2], LogPack(7, 1))
    await store.save_kept_logs(logs[2:], LogPack(9, 1))
    await store.commit(ChangeSet(deleted_tasks={key(1)}), fence)
    await store.save_kept_logs(logs[:1])
    assert await store.get_kept_log(key(1)) is None
    assert await store.unused_log_packs(0, 10) == ([], None)
    assert await store.purge_tasks(1, 100, fence) == 1
    assert await store.get_kept_log(key(2)) is None
    assert await store.get_kept_log(key(1, 2)) == logs[2]
    assert await store.unused_log_packs(0, 10) == ([LogPack(7, 1)], None)


async def test_packs_are_found_dropped_and_forgotten(store, fence):
    numbers = range(1, 6)
    await store.commit(tasks(*numbers), fence)
    for number in numbers:
        await store.save_kept_logs([KeptLog(key(number), 1, number, b"x")], LogPack(number, 10 * number))
    assert await store.list_log_packs(0, 2) == [LogPack(1, 10), LogPack(2, 20)]
    assert await store.list_log_packs(4, 2) == [LogPack(5, 50)]
    await store.drop_kept_logs([2, 5])
    assert await store.get_kept_log(key(2)) is None
    assert await store.get_kept_log(key(3)) is not None
    assert await store.unused_log_packs(0, 2) == ([LogPack(2, 20)], 2)
    assert await store.unused_log_packs(2, 2) == ([], 4)
    assert await store.unused_log_packs(4, 2) == ([LogPack(5, 50)], None)
    await store.delete_log_packs([2, 5])
    assert await store.unused_log_packs(0, 10) == ([], None)
    assert await store.kept_log_bytes() == 80


async def test_a_row_is_changed_only_as_it_was(store, fence):
    await store.commit(tasks(1), fence)
    await store.save_kept_logs([KeptLog(key(1), 2, None, b"x")])
    changed = KeptLog(key(1), 2, None, b"y")
    for stale in (KeptLog(key(1), 1, None, b"z"), KeptLog(key(1), 2, 3, b"z"), KeptLog(key(2), 2, None, b"z")):
        await store.change_kept_log(stale)
    assert (await store.get_kept_log(key(1))).data == b"x"
    await store.change_kept_log(changed)
    assert await store.get_kept_log(key(1)) == changed


async def test_they_survive_a_restart(place, store, fence):
    await store.commit(tasks(1), fence)
    log = KeptLog(key(1), 1, 3, b"\x00")
    await store.save_kept_logs([log], LogPack(3, 4))
    await store.close()
    other = place.store()
    await other.open()
    assert await other.get_kept_log(key(1)) == log
    assert await other.kept_log_bytes() == 4
    await other.close()
