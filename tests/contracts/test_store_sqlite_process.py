"""A process that writes: when it comes, and what becomes of commits when it, or who started it, ends."""

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
import uvloop

from millpond.domain import ids
from millpond.domain.errors import Bug, LeaseLost, StoreUnavailable
from millpond.store.sqlite import SqliteStore
from tests.contracts.stores import T0, a_task, lease, with_tasks
from tests.waiting import until, until_true


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.db")


@pytest.fixture
async def store(path):
    store = SqliteStore(path, busy_commits=3)
    await store.open()
    yield store
    await store.close()


async def numbers_of(store: SqliteStore, job_no: int = 1) -> list[int]:
    page = await store.list_tasks(job_no, None, 1000, None)
    return [ids.task_number_of(row.task.key) for row in page.items]


def is_there(pid: int) -> bool:
    """Whether the process lives: who is dead but not reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


async def test_it_comes_when_commits_follow_one_another(store):
    fence = await lease(store)
    await store.commit(with_tasks(a_task(1)), fence)
    await store.commit(with_tasks(a_task(2)), fence)
    assert store._commits._starting is None
    await store.commit(with_tasks(a_task(3)), fence)
    await until_true(lambda: store.process_pid is not None, "the process writes")
    await store.commit(with_tasks(a_task(4)), fence)
    assert await numbers_of(store) == [1, 2, 3, 4]


def test_under_the_loop_of_a_service(path):
    async def write() -> list[int]:
        store = SqliteStore(path)
        await store.open()
        await store.write_by_process()
        await store.commit(with_tasks(a_task(1)), await lease(store))
        numbers = await numbers_of(store)
        await store.close()
        return numbers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(write()) == [1]


async def test_a_service_may_have_many_files_open(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip(f"does not apply here: a process may have {hard} files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
    store = SqliteStore(path)
    try:
        await store.open()
        await store.write_by_process()
        await store.commit(with_tasks(a_task(1)), await lease(store))
        assert await numbers_of(store) == [1]
        assert store.process_pid is not None
    finally:
        await store.close()
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_it_ends_with_its_store(path, tmp_path):
    store = SqliteStore(path)
    await store.open()
    await store.write_by_process()
    pid = store.process_pid
    fence = await lease(store)
    last = asyncio.ensure_future(store.commit(with_tasks(a_task(1)), fence))
    await asyncio.sleep(0)
    await store.close()
    await last
    assert not is_there(pid)
    assert "store.db-wal" not in os.listdir(tmp_path)  # folded in


async def test_commits_of_before_its_time_are_written_before_those_of_after(store):
    fence = await lease(store)
    starting = asyncio.ensure_future(store.write_by_process())
    commits = []
    while not starting.done():
        # Each changes what the one before has added, or does not find it.
        number = len(commits) // 2 + 1
        changes = with_tasks(a_task(number)) if len(commits) % 2 == 0 else with_tasks(a_task(number), new=False)
        commits.append(asyncio.ensure_future(store.commit(changes, fence)))
        await asyncio.sleep(0)
        if len(commits) % 8 == 0:
            await commits[-1]
    await asyncio.gather(*commits)
    assert len(await numbers_of(store)) == min(1000, (len(commits) + 1) // 2)


async def test_there_is_one_whoever_asks_for_it(store):
    fence = await lease(store)
    starting = [asyncio.ensure_future(store.write_by_process()) for _ in range(2)]
    for number in range(1, 5):
        await store.commit(with_tasks(a_task(number)), fence)
    await asyncio.gather(*starting)
    pid = store.process_pid
    await store.write_by_process()
    assert store.process_pid == pid


async def test_leases_change_hands_between_commits(store):
    await store.write_by_process()
    fence = await lease(store)
    before = asyncio.ensure_future(store.commit(with_tasks(a_task(1)), fence))
    taken = asyncio.ensure_future(store.release_lease(fence))
    again = asyncio.ensure_future(store.acquire_lease("pool", "another", T0, 30.0))
    after = asyncio.ensure_future(store.commit(with_tasks(a_task(2)), fence))
    await before
    await taken
    new_fence = await again
    with pytest.raises(LeaseLost):
        await after
    await store.commit(with_tasks(a_task(3)), new_fence)
    assert await numbers_of(store) == [1, 3]


async def test_what_fails_of_a_group_fails_alone(store):
    await store.write_by_process()
    fences = [await lease(store, f"pool-{number}") for number in range(3)]
    outcomes = await asyncio.gather(
        store.commit(with_tasks(a_task(1)), fences[0]),
        store.commit(with_tasks(a_task(1, job_no=2), new=False), fences[1]),  # has no row to change
        store.commit(with_tasks(a_task(1, job_no=3)), fences[2]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), Bug, type(None)]
    assert "have a row" in str(outcomes[1])


async def test_when_it_is_killed_a_thread_goes_on(store):
    """What was answered for is there, what was refused can be asked for again, and names of nodes are those of the file."""
    await store.write_by_process()
    fence = await lease(store)
    nodes = [ids.make_node_id("account", 1, number, dedicated=True) for number in range(1, 4)]
    await store.commit(with_tasks(a_task(1, node_id=nodes[0]), a_task(2, node_id=nodes[1])), fence)
    pid = store.process_pid
    os.kill(pid, signal.SIGSTOP)
    doomed = asyncio.ensure_future(store.commit(with_tasks(a_task(3, node_id=nodes[2])), fence))
    renewed = asyncio.ensure_future(store.renew_leases([fence], "me", T0, 30.0))
    waiting = asyncio.ensure_future(store.commit(with_tasks(a_task(4, node_id=nodes[1])), fence))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailable, match="ended before it answered"):
        await doomed
    assert await renewed == []
    await waiting
    assert store.process_pid is None
    await store.commit(with_tasks(a_task(5, node_id=nodes[0])), fence)
    page = await store.list_tasks(1, None, 10, None)
    where = {ids.task_number_of(row.task.key): row.task.node_id for row in page.items}
    assert where == {1: nodes[0], 2: nodes[1], 4: nodes[1], 5: nodes[0]}


async def test_without_a_process_a_thread_writes(store, monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StoreUnavailable, match="cannot be started"):
        await store.write_by_process()
    fence = await lease(store)
    for number in range(1, 6):
        await store.commit(with_tasks(a_task(number)), fence)
    await until_true(lambda: "a thread goes on writing" in caplog.text, "it is said")
    await store.commit(with_tasks(a_task(6)), fence)
    assert await numbers_of(store) == [1, 2, 3, 4, 5, 6]


PARENT = """
import asyncio, sys
from millpond.store.sqlite import SqliteStore
from tests.contracts.stores import a_task, lease, with_tasks

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.write_by_process()
    print(store.process_pid, flush=True)
    fence = await lease(store)
    for number in range(1, 1_000_000):
        await store.commit(with_tasks(a_task(number)), fence)
        print(number, flush=True)

asyncio.run(main())
"""


async def test_it_ends_with_who_started_it(path):
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, path, stdout=asyncio.subprocess.PIPE)
    pid = int(await asyncio.wait_for(parent.stdout.readline(), 60))
    for _ in range(50):
        await asyncio.wait_for(parent.stdout.readline(), 60)
    parent.kill()
    rest, _ = await parent.communicate()
    told = [int(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n")]
    until(lambda: not is_there(pid))
    store = SqliteStore(path)
    await store.open()
    found = await numbers_of(store)
    assert found == list(range(1, len(found) + 1))
    assert len(found) in {min(1000, last) for last in (max(told, default=50), max(told, default=50) + 1)}
    await store.close()
