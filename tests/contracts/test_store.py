"""What every store keeps: the promises of `store.base.Store`.

Each test runs over every place in `stores.PLACES`; a new implementation is added there.
"""

import asyncio

import pytest

from millpond.domain import ids
from millpond.domain.autoscale import AutoScale
from millpond.domain.errors import Bug, LeaseLost, StoreUnavailable
from millpond.domain.node import NodeError
from millpond.domain.pool import ResizeError
from millpond.domain.states import (
    AllocationState,
    ErrorCategory,
    JobState,
    NodeState,
    OnAllTasksComplete,
    PoolState,
    SchedulingState,
    TaskState,
)
from millpond.domain.task import FailureInfo, NameValue, ResourceUse, TaskCounts, TaskRules
from millpond.odata import properties
from millpond.odata.parse import parse_filter
from millpond.store.base import Fence, NodeCounts, Page
from millpond.store.changes import ChangeSet, Together
from tests.contracts.stores import (
    T0,
    a_job,
    a_node,
    a_pool,
    a_task,
    a_wide_task,
    all_pages,
    lease,
    with_jobs,
    with_tasks,
)

# --- records come back as they were --------------------------------------------------------------------------------


async def test_an_empty_store(store):
    contents = await store.load_pool("pool")
    assert (contents.pool, contents.nodes, contents.jobs, contents.tasks, contents.satisfied) == (None, [], [], [], [])
    assert await store.get_pool("pool") is None
    assert await store.get_node("pool", "node") is None
    assert await store.get_job("job") is None
    assert await store.get_task("job", "task") is None
    for listing in (store.list_pools, store.list_jobs):
        assert await listing(None, 10, None) == Page([], None)
    assert await store.list_nodes("pool", None, 10, None) == Page([], None)
    assert await store.list_tasks(1, None, 10, None) == Page([], None)
    assert await store.node_counts(None) == []
    assert await store.tasks_of_keys([1]) == {}
    assert await store.pools_of_jobs(["job"]) == {}
    assert await store.task_specs([1]) == {}


async def test_records_come_back_whole(store, fence):
    pool = a_pool(
        allocation_state=AllocationState.RESIZING,
        resize_deadline=T0 + 900,
        resize_errors=(ResizeError("Code", "message", (NameValue("n", "v"),)),),
    )
    node = a_node(
        scheduling_state=SchedulingState.DISABLED,
        last_boot_time=T0,
        handle='{"pid": 7}',
        running_tasks=2,
        errors=(NodeError("Code", "message"),),
    )
    job = a_job(
        state=JobState.DISABLED,
        priority=-1000,
        max_wall_clock_s=1.5,
        on_all_tasks_complete=OnAllTasksComplete.TERMINATE_JOB,
        previous_state=JobState.ACTIVE,
        previous_state_time=T0 - 1,
        counts=TaskCounts(active=1, succeeded=4),
        next_task_number=9,
        use=ResourceUse(user_cpu_s=4.0, retries=1),
    )
    wide, plain = a_wide_task(1), a_task(2)
    await store.commit(
        ChangeSet(
            pools={1: pool},
            nodes={node.id: node},
            jobs={1: job},
            tasks={wide.key: wide, plain.key: plain},
            new_tasks={wide.key, plain.key},
            specs={wide.key: b'{"commandLine":"true"}', plain.key: b"{}"},
            satisfied={(1, "gone")},
        ),
        fence,
    )
    contents = await store.load_pool("pool")
    assert contents.pool == pool
    assert contents.nodes == [node]
    assert contents.jobs == [job]
    assert contents.tasks == [wide, plain]
    assert contents.satisfied == [(1, "gone")]
    assert await store.get_pool("Pool") == pool
    assert await store.get_node("Pool", node.id) == node
    assert await store.get_job("Job-1") == job
    row = await store.get_task("Job-1", "Task-1")
    assert (row.task, row.spec) == (wide, b'{"commandLine":"true"}')
    assert isinstance(row.task.state, TaskState)
    assert isinstance(row.task.failure.category, ErrorCategory)
    assert row.task.satisfies is True
    assert await store.task_specs([wide.key, 12345, plain.key]) == {
        wide.key: b'{"commandLine":"true"}',
        plain.key: b"{}",
    }


async def test_updates_replace_every_field_that_may_change(store, fence):
    await store.commit(with_tasks(a_task(1)), fence)
    wide = a_wide_task(1)
    await store.commit(with_tasks(wide, new=False), fence)
    assert (await store.list_tasks(1, None, 10, None)).items[0].task == wide
    plain = a_task(1)
    await store.commit(with_tasks(plain, new=False), fence)
    page = await store.list_tasks(1, None, 10, None)
    assert page.items[0].task == plain
    assert page.items[0].spec == b'{"id":"Task-1"}'
    await store.commit(ChangeSet(specs={plain.key: b'{"id":"other"}'}), fence)
    assert await store.task_specs([plain.key]) == {plain.key: b'{"id":"other"}'}


async def test_many_updates_that_are_nearly_alike(store, fence):
    """Many of one node that have ended together, with what sets each apart; among them some that are not like the others."""
    await store.commit(with_tasks(*(a_task(number) for number in range(1, 61))), fence)
    tasks = []
    for number in range(1, 61):
        task = a_wide_task(number)
        task.last_modified += number
        task.start_time, task.end_time = T0 + number, T0 + number + 0.25
        task.use = ResourceUse(user_cpu_s=number / 8) if number % 3 else None
        if number > 40:
            task.node_id = f"node-{number // 4}"
        if number in {7, 55}:
            task.exit_code, task.failure, task.rules, task.attempt = 4, None, None, 9
        tasks.append(task)
    await store.commit(with_tasks(*tasks, new=False), fence)
    assert [row.task for row in (await store.list_tasks(1, None, 100, None)).items] == tasks


async def test_tasks_that_came_together(store, fence):
    """Some of them alone, some handed over at once, and beside them one that came by itself and one that was there."""
    old = a_task(90)
    await store.commit(with_tasks(old), fence)
    runs = [[a_task(start + n, creation_time=T0 + start, last_modified=T0 + 1) for n in range(6)] for start in (1, 11)]
    single = a_task(50, required_slots=2)
    changes = with_tasks(*runs[0], *runs[1], single)
    for run in runs:
        changes.together.append(Together(run, [changes.specs[task.key] for task in run]))
    changes.together.append(Together([single], [changes.specs[single.key]]))
    handed = runs[1][2]
    handed.attempt, handed.node_id = 1, a_node().id
    changes.handed.add(handed.key)
    changes.specs[old.key] = b'{"id":"new"}'
    await store.commit(changes, fence)
    tasks = [*runs[0], *runs[1], single, old]
    assert [row.task for row in (await store.list_tasks(1, None, 100, None)).items] == tasks
    specs = {task.key: b'{"id":"%s"}' % task.id.encode() for task in tasks[:-1]}
    assert await store.task_specs([task.key for task in tasks]) == {**specs, old.key: b'{"id":"new"}'}


async def test_records_may_change_once_a_commit_has_begun(store, fence):
    pool, job, node, task = a_pool(), a_job(), a_node(), a_task()
    changes = with_tasks(task)
    changes.pools[1], changes.jobs[1], changes.nodes[node.id] = pool, job, node
    commit = asyncio.ensure_future(store.commit(changes, fence))
    await asyncio.sleep(0)  # it has read its records when it first suspends
    pool.spec["metadata"] = []
    pool.target_dedicated_nodes = 9
    job.spec["poolInfo"]["poolId"] = "other"
    job.counts.active = 77
    node.state = NodeState.OFFLINE
    task.state = TaskState.COMPLETED
    changes.tasks.clear()
    await commit
    assert await store.get_pool("pool") == a_pool()
    assert await store.get_job("job-1") == a_job()
    assert await store.get_node("pool", node.id) == a_node()
    assert (await store.get_task("job-1", "task-1")).task == a_task()


async def test_a_page_of_huge_specifications_may_be_short(store, fence):
    """Together more than a store would take into memory for one page; what is asked for comes page by page."""
    tasks = [a_task(number) for number in range(1, 15)]
    spec = b'{"commandLine":"%b"}' % (b'\\"' * 1_500_000)
    changes = with_tasks(*tasks)
    changes.specs.update({task.key: spec for task in tasks})
    await store.commit(changes, fence)
    rows = await all_pages(lambda limit, token: store.list_tasks(1, None, limit, token), 1000)
    assert [row.task for row in rows] == tasks
    assert all(row.spec == spec for row in rows)


async def test_what_was_read_may_change_without_harm(store, fence):
    changes = with_tasks(a_task())
    changes.pools[1], changes.jobs[1] = a_pool(), a_job()
    await store.commit(changes, fence)
    for _ in range(2):
        contents = await store.load_pool("pool")
        assert (contents.pool, contents.jobs, contents.tasks) == (a_pool(), [a_job()], [a_task()])
        contents.pool.spec.clear()
        contents.jobs[0].counts.active += 1
        contents.jobs[0].spec.clear()
        contents.tasks[0].state = TaskState.COMPLETED


async def test_many_rows_in_one_commit(store, fence):
    """More than fit into one statement, in numbers that are no power of two."""
    tasks = [a_task(number) for number in range(1, 1231)]
    await store.commit(with_tasks(*tasks), fence)
    for task in tasks:
        task.attempt = 3
        task.node_id = a_node(task.key % 70).id
    await store.commit(with_tasks(*tasks[:777], new=False), fence)
    found = [row.task for row in await all_pages(lambda limit, token: store.list_tasks(1, None, limit, token), 1000)]
    assert found[:777] == tasks[:777]
    assert [task.attempt for task in found[777:]] == [0] * 453
    await store.commit(ChangeSet(deleted_tasks={task.key for task in tasks[:700]}), fence)
    assert len(await all_pages(lambda limit, token: store.list_tasks(1, None, limit, token), 1000)) == 530
    assert await store.task_specs([tasks[0].key, tasks[700].key]) == {tasks[700].key: b'{"id":"Task-701"}'}


async def test_deleting(store, fence):
    node = a_node()
    changes = with_tasks(a_task(1), a_task(2))
    changes.pools[1], changes.jobs[1], changes.nodes[node.id] = a_pool(), a_job(), node
    changes.satisfied.add((1, "task-0"))
    await store.commit(changes, fence)
    await store.commit(ChangeSet(deleted_tasks={a_task(1).key}, satisfied={(1, "task-1")}), fence)
    contents = await store.load_pool("pool")
    assert [task.id for task in contents.tasks] == ["Task-2"]
    assert contents.satisfied == [(1, "task-0"), (1, "task-1")]
    await store.commit(ChangeSet(deleted_jobs={1}, deleted_nodes={node.id}, deleted_pools={1}), fence)
    assert await store.get_job("job-1") is None
    assert await store.get_pool("pool") is None
    contents = await store.load_pool("pool")
    assert (contents.pool, contents.nodes, contents.jobs, contents.tasks, contents.satisfied) == (None, [], [], [], [])
    await store.commit(ChangeSet(deleted_jobs={1}, deleted_nodes={node.id}, deleted_pools={1}), fence)


async def test_an_id_may_be_deleted_and_used_again_in_one_commit(store, fence):
    changes = with_tasks(a_task(1, task_id="same"))
    changes.pools[1], changes.jobs[1] = a_pool(1), a_job(1)
    await store.commit(changes, fence)
    again = with_tasks(a_task(2, task_id="SAME"))
    again.deleted_tasks.add(a_task(1).key)
    again.pools[2], again.jobs[2] = a_pool(2, "POOL"), a_job(2, "JOB-1")
    again.deleted_pools.add(1)
    again.deleted_jobs.add(1)
    await store.commit(again, fence)
    assert (await store.get_pool("pool")).no == 2
    assert (await store.get_job("job-1")).no == 2
    assert [row.task.id for row in (await store.list_tasks(1, None, 10, None)).items] == ["SAME"]


# --- all or nothing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        with_tasks(a_task(1, task_id="other")),
        with_tasks(a_task(5, task_id="TASK-1")),
        with_tasks(a_task(5, task_id="twin"), a_task(6, task_id="Twin")),
        with_tasks(a_task(9), new=False),
        ChangeSet(jobs={7: a_job(7, "JOB-1")}),
        ChangeSet(pools={7: a_pool(7, "POOL")}),
    ],
    ids=["key used", "id used", "ids alike", "no row to update", "job id used", "pool id used"],
)
async def test_a_commit_of_rows_that_cannot_be_writes_nothing(store, fence, wrong):
    first = with_tasks(a_task(1))
    first.pools[1], first.jobs[1] = a_pool(), a_job()
    await store.commit(first, fence)
    node = a_node()
    wrong.nodes[node.id] = node
    wrong.jobs[1] = a_job(priority=5)
    wrong.tasks[a_task(20).key] = a_task(20)
    wrong.new_tasks.add(a_task(20).key)
    wrong.satisfied.add((1, "x"))
    with pytest.raises(Bug):
        await store.commit(wrong, fence)
    contents = await store.load_pool("pool")
    assert (contents.nodes, contents.jobs, contents.tasks, contents.satisfied) == ([], [a_job()], [a_task(1)], [])
    await store.commit(with_tasks(a_task(20)), fence)
    assert len((await store.load_pool("pool")).tasks) == 2


async def test_an_empty_commit_still_needs_the_lease(store, fence):
    await store.commit(ChangeSet(), fence)
    with pytest.raises(LeaseLost):
        await store.commit(ChangeSet(), Fence("pool", fence.epoch + 1))


async def test_a_closed_store_says_so(place):
    store = place.store()
    with pytest.raises(StoreUnavailable):
        await store.get_pool("pool")
    await store.open()
    fence = await lease(store)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.commit(ChangeSet(), fence)
    with pytest.raises(StoreUnavailable):
        await store.load_pool("pool")
    with pytest.raises(StoreUnavailable):
        await store.acquire_lease("pool", "me", T0, 1.0)
    await store.close()


# --- leases ----------------------------------------------------------------------------------------------------------


async def test_a_lease_keeps_others_out_until_it_expires(store):
    mine = await store.acquire_lease("pool", "me", T0, 30.0)
    assert await store.acquire_lease("pool", "you", T0 + 29.9, 30.0) is None
    assert await store.acquire_lease("other", "you", T0, 30.0) is not None
    assert await store.renew_leases([mine], "me", T0 + 20, 30.0) == []
    assert await store.acquire_lease("pool", "you", T0 + 49.9, 30.0) is None
    yours = await store.acquire_lease("pool", "you", T0 + 50, 30.0)
    assert yours.epoch > mine.epoch
    assert await store.renew_leases([mine], "me", T0 + 51, 30.0) == [mine]
    with pytest.raises(LeaseLost):
        await store.commit(with_tasks(a_task(1)), mine)
    with pytest.raises(LeaseLost):
        await store.purge_tasks(1, 10, mine)
    await store.commit(with_tasks(a_task(1)), yours)
    assert len((await store.list_tasks(1, None, 10, None)).items) == 1


async def test_taking_ones_own_lease_again_fences_off_the_past(store):
    first = await store.acquire_lease("pool", "me", T0, 30.0)
    second = await store.acquire_lease("pool", "me", T0 + 1, 30.0)
    assert second.epoch > first.epoch
    with pytest.raises(LeaseLost):
        await store.commit(ChangeSet(), first)
    assert await store.renew_leases([first], "me", T0 + 2, 30.0) == [first]
    await store.commit(ChangeSet(), second)


async def test_an_expired_lease_that_nobody_took_is_still_good(store):
    mine = await store.acquire_lease("pool", "me", T0, 30.0)
    await store.commit(with_tasks(a_task(1)), mine)
    assert await store.renew_leases([mine], "me", T0 + 1000, 30.0) == []
    assert await store.acquire_lease("pool", "you", T0 + 1029, 30.0) is None


async def test_a_released_lease_is_free_at_once(store):
    mine = await store.acquire_lease("pool", "me", T0, 30.0)
    assert await store.renew_leases([mine], "you", T0, 30.0) == [mine]
    await store.release_lease(mine)
    with pytest.raises(LeaseLost):
        await store.commit(ChangeSet(), mine)
    assert await store.renew_leases([mine], "me", T0 + 1, 30.0) == [mine]
    yours = await store.acquire_lease("pool", "you", T0 + 1, 30.0)
    assert yours.epoch > mine.epoch
    await store.release_lease(mine)  # not the owner's any more: nothing happens
    await store.commit(ChangeSet(), yours)


async def test_many_leases_are_renewed_at_once_and_those_lost_are_told(store):
    assert await store.renew_leases([], "me", T0, 30.0) == []
    mine = [await store.acquire_lease(f"pool{number}", "me", T0, 30.0) for number in range(700)]
    theirs = await store.acquire_lease("other", "you", T0, 30.0)
    stale = mine[3]
    await store.acquire_lease(stale.pool_key, "me", T0, 30.0)
    gone = Fence("nowhere", 1)
    assert await store.renew_leases([*mine, theirs, gone], "me", T0 + 20, 30.0) == [stale, theirs, gone]
    assert await store.acquire_lease("pool0", "you", T0 + 49, 30.0) is None
    assert await store.acquire_lease("pool699", "you", T0 + 49, 30.0) is None
    assert await store.acquire_lease("other", "me", T0 + 31, 30.0) is not None


async def test_leases_that_were_not_given_back_are_told_at_the_start(store):
    kept = await store.acquire_lease("kept", "a", T0, 30.0)
    given_back = await store.acquire_lease("given back", "a", T0, 30.0)
    assert kept is not None
    await store.release_lease(given_back)
    await store.close()
    assert (await store.open()).leased == ["kept"]


async def test_nobody_commits_without_a_lease(store):
    for pool_key, epoch in (("pool", 0), ("pool", 1), ("", 0)):
        with pytest.raises(LeaseLost):
            await store.commit(ChangeSet(), Fence(pool_key, epoch))


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_commits_of_many_engines_at_once(store):
    """A lost lease and a wrong row among them harm nobody else."""
    count = 24
    fences = [await lease(store, f"pool-{number}") for number in range(count)]
    fences[3] = Fence("pool-3", fences[3].epoch - 1)
    await store.commit(with_tasks(a_task(1, job_no=105)), fences[5])

    async def engine(number: int) -> int:
        for task_number in range(1, 9):
            try:
                await store.commit(with_tasks(a_task(task_number, job_no=100 + number)), fences[number])
            except (LeaseLost, Bug):
                return task_number
            rows = (await store.list_tasks(100 + number, None, 100, None)).items
            assert [row.task.key for row in rows] == [
                ids.task_key(100 + number, seen) for seen in range(1, task_number + 1)
            ]
        return 0

    failed_at = await asyncio.gather(*(engine(number) for number in range(count)))
    assert failed_at == [1 if number in {3, 5} else 0 for number in range(count)]


async def test_commits_of_one_engine_keep_their_order(store, fence):
    await store.commit(with_tasks(a_task(1)), fence)
    task = a_task(1)
    commits = []
    for attempt in range(1, 30):
        task.attempt = attempt
        commits.append(asyncio.ensure_future(store.commit(with_tasks(task, new=False), fence)))
        await asyncio.sleep(0)
    commits.append(asyncio.ensure_future(store.commit(ChangeSet(deleted_tasks={task.key}), fence)))
    commits.append(asyncio.ensure_future(store.commit(with_tasks(a_task(2, task_id="Task-1")), fence)))
    await asyncio.gather(*commits[:-2])
    await asyncio.gather(*commits)
    assert [row.task.key for row in (await store.list_tasks(1, None, 10, None)).items] == [a_task(2).key]


async def test_a_cancelled_commit_leaves_the_store_working(store, fence):
    commit = asyncio.ensure_future(store.commit(with_tasks(a_task(1)), fence))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait([commit])
    await store.commit(with_tasks(a_task(2)), fence)
    keys = {row.task.key for row in (await store.list_tasks(1, None, 10, None)).items}
    assert a_task(2).key in keys


async def test_reads_see_what_was_acknowledged(store, fence):
    async def write(number: int) -> None:
        await store.commit(with_tasks(a_task(number)), fence)
        for _ in range(3):
            assert (await store.task_specs([a_task(number).key])) != {}

    await asyncio.gather(*(write(number) for number in range(1, 40)))


# --- restarts --------------------------------------------------------------------------------------------------------


async def test_a_restart_finds_everything(place):
    store = place.store()
    facts = await store.open()
    assert (facts.next_pool_no, facts.next_job_no, facts.jobs, facts.pools) == (1, 1, [], [])
    fence = await lease(store)
    changes = with_tasks(a_wide_task(1), a_task(2))
    changes.pools |= {3: a_pool(3), 4: a_pool(4, "spare")}
    changes.jobs |= {1: a_job(1), 9: a_job(9, "Job-9", pool_id="elsewhere")}
    changes.satisfied.add((1, "gone"))
    await store.commit(changes, fence)
    before = await store.load_pool("pool")
    await store.close()

    store = place.store()
    facts = await store.open()
    assert (facts.next_pool_no, facts.next_job_no) == (5, 10)
    assert facts.jobs == [("Job-1", 1, "Pool"), ("Job-9", 9, "elsewhere")]
    assert facts.pools == [("Pool", 3), ("spare", 4)]
    assert await store.load_pool("pool") == before
    await store.commit(ChangeSet(), fence)
    assert await store.acquire_lease("pool", "you", T0 + 1, 30.0) is None
    await store.commit(ChangeSet(deleted_pools={4}, deleted_jobs={9}), fence)
    await store.close()

    store = place.store()
    facts = await store.open()
    assert (facts.next_pool_no, facts.next_job_no) == (5, 10)
    assert [job_id for job_id, _, _ in facts.jobs] == ["Job-1"]
    await store.close()


async def test_numbers_are_never_given_twice(place):
    store = place.store()
    await store.open()
    fence = await lease(store)
    await store.commit(ChangeSet(jobs={41: a_job(41, "a")}, pools={17: a_pool(17, "a")}), fence)
    await store.commit(ChangeSet(deleted_jobs={41}, deleted_pools={17}), fence)
    await store.commit(ChangeSet(jobs={5: a_job(5, "b")}, pools={6: a_pool(6, "b")}), fence)
    with pytest.raises(Bug):
        await store.commit(ChangeSet(jobs={90: a_job(90, "c"), 91: a_job(91, "B")}), fence)
    await store.commit(ChangeSet(jobs={50: a_job(50, "d")}), fence)
    await store.close()
    facts = await store.open()
    assert (facts.next_pool_no, facts.next_job_no) == (18, 51)
    await store.close()


# --- what the scheduler reads ----------------------------------------------------------------------------------------


async def test_loading_takes_what_is_alive_of_one_pool(store, fence):
    completed, deleting = JobState.COMPLETED, JobState.DELETING
    jobs = [
        a_job(1, "a"),
        a_job(2, "b", state=completed),
        a_job(3, "c", "POOL", state=deleting),
        a_job(4, "d", "other"),
    ]
    changes = with_tasks(*(a_task(number, job_no) for job_no in (1, 2, 3, 4) for number in (1, 2)))
    changes.jobs = {job.no: job for job in jobs}
    changes.pools = {1: a_pool(1), 2: a_pool(2, "other")}
    changes.nodes = {node.id: node for node in (a_node(1, 1), a_node(2, 1), a_node(1, 2))}
    changes.satisfied = {(1, "z"), (1, "a"), (4, "b")}
    await store.commit(changes, fence)
    contents = await store.load_pool("pool")
    assert [job.id for job in contents.jobs] == ["a", "b", "c"]
    assert [task.key for task in contents.tasks] == [ids.task_key(job, number) for job in (1, 3) for number in (1, 2)]
    assert {node.id for node in contents.nodes} == {a_node(1, 1).id, a_node(2, 1).id}
    assert contents.satisfied == [(1, "a"), (1, "z")]
    without_pool = await store.load_pool("nowhere")
    assert (without_pool.pool, without_pool.jobs) == (None, [])


async def test_a_job_that_moves_to_another_pool_is_loaded_there(store, fence):
    await store.commit(with_jobs(a_job(1)), fence)
    await store.commit(with_jobs(a_job(1, pool_id="Elsewhere")), fence)
    assert (await store.load_pool("pool")).jobs == []
    assert [job.id for job in (await store.load_pool("elsewhere")).jobs] == ["Job-1"]
    assert await store.pools_of_jobs(["JOB-1", "job-2"]) == {"job-1": "Elsewhere"}


async def test_purging(store, fence):
    changes = with_tasks(*(a_task(number) for number in range(1, 2501)), a_task(1, job_no=2))
    changes.satisfied = {(1, f"gone-{number}") for number in range(2600)} | {(2, "kept")}
    changes.jobs = {1: a_job(1), 2: a_job(2, "Job-2")}
    await store.commit(changes, fence)
    assert await store.purge_tasks(1, 100, fence) == 100
    first = (await store.list_tasks(1, None, 1, None)).items[0]
    assert first.task.key == a_task(101).key
    assert await store.task_specs([a_task(100).key, a_task(101).key]) == {a_task(101).key: b'{"id":"Task-101"}'}
    assert await store.purge_tasks(1, 2300, fence) == 2300
    assert await store.purge_tasks(1, 1000, fence) == 100
    assert await store.purge_tasks(1, 1000, fence) == 0
    contents = await store.load_pool("pool")
    assert [task.job_no for task in contents.tasks] == [2]
    assert contents.satisfied == [(2, "kept")]
    assert await store.purge_tasks(77, 10, fence) == 0


# --- what the API reads ----------------------------------------------------------------------------------------------


async def test_ids_are_found_in_any_case(store, fence):
    node = a_node()
    changes = with_tasks(a_task(1, task_id="Mixed_Case-1"))
    changes.pools[1], changes.jobs[1], changes.nodes[node.id] = a_pool(), a_job(), node
    await store.commit(changes, fence)
    for spell in (str.lower, str.upper, str.swapcase):
        assert (await store.get_pool(spell("Pool"))).id == "Pool"
        assert (await store.get_job(spell("Job-1"))).id == "Job-1"
        assert (await store.get_task(spell("Job-1"), spell("Mixed_Case-1"))).task.id == "Mixed_Case-1"
        assert (await store.get_node(spell("Pool"), spell(node.id))).id == node.id
        assert [one.id for one in (await store.list_nodes(spell("Pool"), None, 10, None)).items] == [node.id]
        assert await store.pools_of_jobs([spell("Job-1")]) == {"job-1": "Pool"}
    assert await store.get_task("job-1", "mixed_case") is None
    assert await store.get_task("job-2", "mixed_case-1") is None
    assert await store.get_node("other", node.id) is None


async def test_listings_are_in_order_and_paged(store, fence):
    names = ["b", "A_1", "a-2", "Z", "c", "a"]
    changes = ChangeSet(
        pools={number: a_pool(number, name) for number, name in enumerate(names, 1)},
        jobs={number: a_job(number, name) for number, name in enumerate(names, 1)},
        nodes={node.id: node for node in (a_node(number, 2) for number in range(7))},
    )
    await store.commit(changes, fence)
    in_order = sorted(names, key=ids.id_key)
    for limit in (1, 2, 3, 6, 7, 100):
        assert [one.id for one in await all_pages(lambda n, t: store.list_pools(None, n, t), limit)] == in_order
        assert [one.id for one in await all_pages(lambda n, t: store.list_jobs(None, n, t), limit)] == in_order
        nodes = await all_pages(lambda n, t: store.list_nodes("A_1", None, n, t), limit)
        assert [one.id for one in nodes] == sorted(changes.nodes)
    assert await store.list_nodes("b", None, 10, None) == Page([], None)


async def test_tasks_are_listed_as_they_were_added(store, fence):
    names = ["t9", "t1", "T5", "a"]
    await store.commit(with_tasks(*(a_task(number, task_id=name) for number, name in enumerate(names, 1))), fence)
    await store.commit(with_tasks(a_task(1, job_no=2)), fence)
    for limit in (1, 2, 3, 4, 5):
        rows = await all_pages(lambda n, t: store.list_tasks(1, None, n, t), limit)
        assert [row.task.id for row in rows] == names
        assert [row.spec for row in rows] == [b'{"id":"%s"}' % name.encode() for name in names]


@pytest.mark.parametrize(
    "odd",
    [
        {"task_id": "Ünïcode-1"},
        {"required_slots": 2},
        {"max_retry_count": 3},
        {"creation_time": T0 + 1},
        {"last_modified": T0 + 0.000001},
        {"state": TaskState.COMPLETED},
        {"attempt": 1, "node_id": a_node(1).id},
        {"previous_state": TaskState.COMPLETED, "previous_state_time": T0},
        {"rules": TaskRules(depends_on_ids=("a",))},
        {"use": ResourceUse(wall_s=1.0)},
        {"satisfies": True},
    ],
)
async def test_tasks_added_together_of_which_one_is_odd(store, fence, odd):
    """A store may write those that are alike in one go, and read them so: nobody can tell."""
    tasks = [a_task(number, **(odd if number == 7 else {})) for number in (*range(1, 11), *range(21, 32))]
    changes = with_tasks(*tasks)
    changes.jobs = {1: a_job(1)}
    changes.specs = {
        task.key: f'{{"id":"{task.id}","text":"{"é" * index}"}}'.encode() for index, task in enumerate(tasks)
    }
    await store.commit(changes, fence)
    assert (await store.load_pool("pool")).tasks == tasks
    rows = (await store.list_tasks(1, None, 100, None)).items
    assert [row.task for row in rows] == tasks
    assert {row.task.key: row.spec for row in rows} == changes.specs == await store.task_specs(list(changes.specs))
    found = await store.get_task("job-1", tasks[-1].id)
    assert found == rows[-1]


async def test_a_job_is_read_as_it_was_written_last(store, fence):
    """Also one that is written all the time, is deleted, and comes again under another number."""
    for number in range(3):
        job = a_job(number + 1, "Job")
        for tasks in range(3):
            job.counts.active = tasks
            await store.commit(with_jobs(job), fence)
            found = await store.get_job("jOB")
            assert found == job
            found.counts.active = 100
        await store.commit(ChangeSet(deleted_jobs={job.no}), fence)
        assert await store.get_job("job") is None
    changes = with_jobs(a_job(9, "job"))
    changes.tasks = with_tasks(a_task(1), new=False).tasks
    with pytest.raises(Bug):
        await store.commit(changes, fence)
    assert await store.get_job("job") is None


async def test_pages_stay_put_while_rows_come_and_go(store, fence):
    await store.commit(with_tasks(*(a_task(number) for number in range(1, 21))), fence)
    await store.commit(with_jobs(*(a_job(number, f"job-{number:02}") for number in range(1, 21))), fence)
    tasks = await store.list_tasks(1, None, 5, None)
    jobs = await store.list_jobs(None, 5, None)
    # The row each token was made from goes, one before it goes, and others come at the end and in between.
    changes = with_tasks(a_task(21))
    changes.deleted_tasks = {a_task(5).key, a_task(2).key, a_task(8).key}
    changes.deleted_jobs = {5, 2, 8}
    changes.jobs = {30: a_job(30, "job-03x"), 31: a_job(31, "job-06x")}
    await store.commit(changes, fence)
    rest = tasks.items + await all_pages(lambda n, t: store.list_tasks(1, None, n, t or tasks.next), 5)
    assert [ids.task_number_of(row.task.key) for row in rest] == [n for n in range(1, 22) if n != 8]
    rest = jobs.items + await all_pages(lambda n, t: store.list_jobs(None, n, t or jobs.next), 5)
    expected = sorted([f"job-{n:02}" for n in range(1, 21) if n != 8] + ["job-06x"])
    assert [job.id for job in rest] == expected


@pytest.mark.parametrize(
    "token", ["", "x", "1", "-", "i", "t", "tt", "iAA", "i!!!!", "t123456789", "i" + "A" * 5000, "tÿ"]
)
async def test_a_token_that_is_none(store, fence, token):
    await store.commit(with_jobs(a_job()), fence)
    with pytest.raises(ValueError, match="is not where a page"):
        await store.list_tasks(1, None, 10, token)
    for listing in (store.list_jobs, store.list_pools):
        with pytest.raises(ValueError, match="is not where a page"):
            await listing(None, 10, token)
    with pytest.raises(ValueError, match="is not where a page"):
        await store.list_nodes("pool", None, 10, token)


async def test_tokens_of_one_listing_are_none_of_another(store, fence):
    await store.commit(with_tasks(a_task(1), a_task(2)), fence)
    await store.commit(with_jobs(a_job(1, "a"), a_job(2, "b")), fence)
    jobs = await store.list_jobs(None, 1, None)
    tasks = await store.list_tasks(1, None, 1, None)
    with pytest.raises(ValueError, match="is not where a page"):
        await store.list_tasks(1, None, 1, jobs.next)
    with pytest.raises(ValueError, match="is not where a page"):
        await store.list_jobs(None, 1, tasks.next)


async def test_filtered_tasks(store, fence):
    failure = FailureInfo(ErrorCategory.SERVER_ERROR, "DiskFull", "")
    tasks = [
        a_task(1, task_id="alpha"),
        a_task(2, task_id="Beta", state=TaskState.RUNNING, state_time=T0 + 10, start_time=T0 + 5, creation_time=T0 + 1),
        a_task(3, task_id="beta-2", state=TaskState.COMPLETED, exit_code=0, end_time=T0 + 20, last_modified=T0 + 2),
        a_task(4, task_id="gamma", state=TaskState.COMPLETED, exit_code=3, failure=failure, end_time=T0 + 30),
    ]
    await store.commit(with_tasks(*tasks), fence)
    expected = {
        "state eq 'active'": [1],
        "state eq 'Completed'": [3, 4],
        "state ne 'completed'": [1, 2],
        "id eq 'BETA'": [2],
        "id gt 'beta'": [3, 4],
        "startswith(id,'bE')": [2, 3],
        "startswith(id,'')": [1, 2, 3, 4],
        "startswith(id,'%')": [],
        "executionInfo/exitCode ge 0": [3, 4],
        "executionInfo/exitCode ne 0": [1, 2, 4],
        "executionInfo/exitCode lt 3": [3],
        "executionInfo/result eq 'success'": [3],
        "executionInfo/result eq 'Failure'": [4],
        "executionInfo/result ne 'success'": [1, 2, 4],
        "executionInfo/startTime gt datetime'2000-01-01'": [2],
        "executionInfo/endTime ne datetime'2000-01-01'": [1, 2, 3, 4],
        "stateTransitionTime gt DateTime'2023-11-14T22:13:25Z'": [2],
        "creationTime eq DateTime'2023-11-14T22:13:21.123457Z'": [2],
        "lastModifiedTime gt DateTime'Tue, 14 Nov 2023 22:13:21 GMT'": [3],
        "state eq 'completed' and (startswith(id,'gamma') or executionInfo/exitCode eq 0)": [3, 4],
        "state eq 'preparing' or id eq 'alpha' and state eq 'active'": [1],
    }
    for text, numbers in expected.items():
        where = parse_filter(text, properties.TASKS)
        for limit in (1, 2, 100):
            rows = await all_pages(lambda n, t, where=where: store.list_tasks(1, where, n, t), limit)
            assert [ids.task_number_of(row.task.key) for row in rows] == numbers, text


async def test_filtered_jobs(store, fence):
    await store.commit(
        with_jobs(
            a_job(1, "a", start_time=T0),
            a_job(2, "B", "gpu-pool", state=JobState.COMPLETED, end_time=T0 + 9, state_time=T0 + 9),
            a_job(3, "ba", "GPU-2", state=JobState.DISABLED, last_modified=T0 + 1, creation_time=T0 - 100),
        ),
        fence,
    )
    expected = {
        "id eq 'b'": ["B"],
        "startswith(id,'b')": ["B", "ba"],
        "state ne 'active'": ["B", "ba"],
        "startswith(executionInfo/poolId,'gpu')": ["B", "ba"],
        "executionInfo/poolId eq 'POOL'": ["a"],
        "executionInfo/startTime le datetime'2100-01-01'": ["a"],
        "executionInfo/endTime gt datetime'1999-01-01'": ["B"],
        "stateTransitionTime gt datetime'2023-11-14T22:13:25Z'": ["B"],
        "creationTime lt datetime'2023-11-14T22:13:00Z'": ["ba"],
        "lastModified gt datetime'2023-11-14T22:13:21Z'": ["ba"],
    }
    for text, found in expected.items():
        where = parse_filter(text, properties.JOBS)
        for limit in (1, 10):
            jobs = await all_pages(lambda n, t, where=where: store.list_jobs(where, n, t), limit)
            assert [job.id for job in jobs] == found, text


async def test_filtered_pools_nodes_and_counts(store, fence):
    scale = AutoScale("$TargetDedicatedNodes=1", 300.0, T0, T0)
    apart = {"enableInterNodeCommunication": False}
    changes = ChangeSet(
        pools={
            1: a_pool(1, "a"),
            2: a_pool(
                2,
                "B",
                state=PoolState.DELETING,
                allocation_state=AllocationState.RESIZING,
                spec=apart,
                auto_scale=scale,
            ),
        },
        nodes={
            node.id: node
            for node in (
                a_node(1, 1),
                a_node(2, 1, state=NodeState.RUNNING, last_boot_time=T0),
                a_node(3, 1, state=NodeState.RUNNING, state_time=T0 + 5, is_dedicated=False),
                a_node(4, 1, state=NodeState.RUNNING),
                a_node(1, 2),
            )
        },
    )
    await store.commit(changes, fence)
    pools = {
        "startswith(id,'b')": ["B"],
        "state eq 'active'": ["a"],
        "state ne 'active'": ["B"],
        "allocationState eq 'resizing'": ["B"],
        "enableAutoScale eq true": ["B"],
        "enableAutoScale ne true": ["a"],
        "enableInterNodeCommunication eq false": ["a", "B"],
        "vmSize eq 'standard_d2S_V3'": ["a", "B"],
        "allocationStateTransitionTime gt datetime'2023-11-14T22:13:23Z'": ["a", "B"],
        "lastModified lt datetime'2023-11-14T22:13:21Z'": [],
    }
    for text, found in pools.items():
        page = await store.list_pools(parse_filter(text, properties.POOLS), 10, None)
        assert [pool.id for pool in page.items] == found, text
    nodes = {
        "state eq 'running'": {2, 3, 4},
        "lastBootTime eq datetime'2023-11-14T22:13:20.123457Z'": {2},
        "lastBootTime lt datetime'2100-01-01'": {2},
        "stateTransitionTime gt datetime'2023-11-14T22:13:21Z'": {3},
        "allocationTime lt datetime'2023-11-14T22:13:20Z'": {1, 2, 3, 4},
        "startTaskInfo/exitCode eq 0": set(),
        "startTaskInfo/result ne 'success' and state eq 'idle'": {1},
    }
    by_id = {a_node(number, 1, is_dedicated=number != 3).id: number for number in (1, 2, 3, 4)}
    for text, numbers in nodes.items():
        where = parse_filter(text, properties.NODES)
        found = await all_pages(lambda n, t, where=where: store.list_nodes("A", where, n, t), 2)
        assert {by_id[node.id] for node in found} == numbers, text
    of_a = [
        NodeCounts("a", True, NodeState.IDLE, 1),
        NodeCounts("a", True, NodeState.RUNNING, 2),
        NodeCounts("a", False, NodeState.RUNNING, 1),
    ]
    assert await store.node_counts(None) == [*of_a, NodeCounts("B", True, NodeState.IDLE, 1)]
    assert await store.node_counts(parse_filter("poolId eq 'A'", properties.NODE_COUNTS)) == of_a


async def test_tasks_of_keys(store, fence):
    tasks = [
        a_task(1, node_id=a_node(1).id, state=TaskState.RUNNING),
        a_task(2),
        a_task(1, job_no=2),
        a_task(1, job_no=9),
    ]
    changes = with_tasks(*tasks, a_task(3))
    changes.jobs = {1: a_job(1), 2: a_job(2, "Job-2")}
    await store.commit(changes, fence)
    keys = [task.key for task in tasks]
    # Neither a task that is not there, nor one whose job is gone.
    assert await store.tasks_of_keys([*reversed(keys), a_task(8).key]) == {
        keys[0]: ("Job-1", tasks[0]),
        keys[1]: ("Job-1", tasks[1]),
        keys[2]: ("Job-2", tasks[2]),
    }
    assert await store.tasks_of_keys([]) == {}


async def test_tasks_that_are_handed_over(store, fence):
    """What only names the node and the attempt may be kept apart: nobody can tell."""

    async def hand_over(*tasks):
        changes = with_tasks(*tasks, new=False)
        changes.handed = {task.key for task in tasks}
        await store.commit(changes, fence)

    async def shown():
        listed = [row.task for row in (await store.list_tasks(1, None, 100, None)).items]
        assert (await store.load_pool("pool")).tasks == listed
        found = await store.tasks_of_keys([task.key for task in listed])
        assert [task for _, task in found.values()] == listed
        for task in listed:
            row = await store.get_task("job-1", task.id)
            assert row is not None
            assert row.task == task
        return listed

    one, two, three, four = tasks = [a_task(number) for number in (1, 2, 3, 4)]
    changes = with_tasks(*tasks)
    changes.jobs = {1: a_job(1)}
    await store.commit(changes, fence)
    one.node_id, one.attempt = a_node(1).id, 1
    two.node_id, two.attempt = a_node(2).id, 1
    four.node_id, four.attempt = a_node(2).id, 1
    await hand_over(one, two, four)
    assert await shown() == tasks
    # Begun; given back, and handed to another; deleted.
    one.state, one.start_time = TaskState.RUNNING, T0 + 1
    two.node_id = None
    await store.commit(with_tasks(one, two, new=False), fence)
    assert await shown() == tasks
    two.node_id, two.attempt = a_node(3).id, 2
    await hand_over(two)
    assert await shown() == tasks
    two.node_id, two.attempt = a_node(1).id, 3
    await hand_over(two)
    assert await shown() == tasks
    # Added and handed over at once.
    more = [a_task(number) for number in range(11, 19)]
    for task in more[:6]:
        task.node_id, task.attempt = a_node(task.key % 3).id, 1
    changes = with_tasks(*more)
    changes.handed = {task.key for task in more[:6]}
    await store.commit(changes, fence)
    assert await shown() == [*tasks, *more]
    await store.commit(ChangeSet(deleted_tasks={four.key, *(task.key for task in more)}), fence)
    assert await shown() == [one, two, three]
    await store.purge_tasks(1, 10, fence)
    assert await shown() == []


async def test_names_of_nodes_stay_as_long_as_anything_bears_them(store, fence):
    nodes = [a_node(number) for number in range(1, 8)]
    tasks = [a_task(number, node_id=nodes[number - 1].id) for number in range(1, 8)]
    changes = with_tasks(*tasks)
    changes.nodes = {node.id: node for node in nodes}
    changes.pools = {1: a_pool(1)}
    changes.jobs = {1: a_job(1)}
    await store.commit(changes, fence)
    # Nodes 3 to 7 leave; the tasks of 3, 4 and 7 are deleted, and those of 1 and 2.
    gone = {a_task(number).key for number in (1, 2, 3, 4, 7)}
    await store.commit(ChangeSet(deleted_nodes={node.id for node in nodes[2:]}, deleted_tasks=gone), fence)
    await store.forget_node_names(2)
    shown = {row.task.id: row.task.node_id for row in (await store.list_tasks(1, None, 100, None)).items}
    assert shown == {"Task-5": nodes[4].id, "Task-6": nodes[5].id}
    # New names, and old ones come back, mean what they say.
    later = [a_task(number, node_id=a_node(number % 20).id) for number in (21, 22, 23, 24, 27, 28)]
    await store.commit(with_tasks(*later), fence)
    shown = {row.task.id: row.task.node_id for row in (await store.list_tasks(1, None, 100, None)).items}
    assert shown == {task.id: task.node_id for task in [*tasks[4:6], *later]}
    await store.forget_node_names(2)
    assert [row.task.node_id for row in (await store.list_tasks(1, None, 100, None)).items] == list(shown.values())
