"""What every store keeps of special tasks, instances of multi-instance tasks, and job schedules."""

import asyncio

import pytest

from millpond.domain import ids
from millpond.domain.errors import Bug, LeaseLost
from millpond.domain.job import AutoPool, SchedulingError
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.node import PendingOperation
from millpond.domain.special_task import JobNode, JobPreparationRules, JobReleaseRules, SpecialTaskInfo, StartTaskRules
from millpond.domain.states import (
    ErrorCategory,
    JobScheduleState,
    JobState,
    NodeDeallocationOption,
    NodeOperation,
    PoolLifetimeOption,
    SpecialTaskState,
    SubtaskState,
    TaskState,
)
from millpond.domain.subtask import Subtask
from millpond.domain.task import FailureInfo, JobManagerRules, TaskRules
from millpond.odata import properties
from millpond.odata.parse import parse_filter
from millpond.store.base import Fence, Page
from millpond.store.changes import ChangeSet
from tests.contracts.stores import T0, a_job, a_node, a_pool, a_task, all_pages, lease, with_jobs, with_tasks

FAILURE = FailureInfo(ErrorCategory.USER_ERROR, "FailureExitCode", "it failed")


def info(attempt: int = 1, **fields: object) -> SpecialTaskInfo:
    return SpecialTaskInfo(attempt, T0, **fields)


def succeeded(attempt: int = 1, **fields: object) -> SpecialTaskInfo:
    ended = {"state": SpecialTaskState.COMPLETED, "end_time": T0 + 9, "exit_code": 0}
    return info(attempt, **(ended | fields))


def a_job_node(number: int = 1, job_no: int = 1, **fields: object) -> JobNode:
    return JobNode(job_no, f"Node-{number}", **({"pool_id": "Pool"} | fields))


def a_subtask(index: int, number: int = 1, job_no: int = 1, **fields: object) -> Subtask:
    defaults = {"attempt": 1, "node_id": f"node-{index}", "state": SubtaskState.RUNNING, "state_time": T0}
    return Subtask(ids.task_key(job_no, number), index, **(defaults | fields))


def a_schedule(no: int = 1, schedule_id: str = "Nightly", **fields: object) -> JobSchedule:
    defaults = {
        "state": JobScheduleState.ACTIVE,
        "creation_time": T0,
        "last_modified": T0,
        "state_time": T0,
        "spec": {"schedule": {"recurrenceInterval": "PT1H"}, "jobSpecification": {"priority": 1}},
    }
    return JobSchedule(no, schedule_id, **(defaults | fields))


def with_job_nodes(*rows: JobNode) -> ChangeSet:
    return ChangeSet(job_nodes={(row.job_no, row.node_id): row for row in rows})


def with_subtasks(*rows: Subtask) -> ChangeSet:
    return ChangeSet(subtasks={(row.task_key, row.index): row for row in rows})


def with_schedules(*rows: JobSchedule) -> ChangeSet:
    return ChangeSet(job_schedules={row.no: row for row in rows})


# --- records come back as they were ----------------------------------------------------------------------------------


async def test_nothing_of_it_in_an_empty_store(store):
    contents = await store.load_pool("pool")
    assert (contents.job_nodes, contents.subtasks) == ([], [])
    assert await store.load_job(1) is None
    assert await store.get_job_schedule("nightly") is None
    assert await store.list_job_schedules(None, 10, None) == Page([], None)
    assert await store.list_job_nodes(1, None, 10, None) == Page([], None)
    assert await store.list_subtasks(ids.task_key(1, 1)) == []
    assert await store.list_jobs(None, 10, None, schedule_id="nightly") == Page([], None)


async def test_records_come_back_whole(store, fence):
    pool = a_pool(start_task=StartTaskRules(3, False), inter_node_communication=True, auto_pool=True)
    node = a_node(
        pending=PendingOperation(NodeOperation.REIMAGE, NodeDeallocationOption.TASK_COMPLETION),
        disk_time=T0 - 5,
        start_task=info(2, retry_count=1, end_time=T0 + 1, exit_code=7, failure=FAILURE, last_retry_time=T0 + 2),
        start_task_waits=True,
        retain_until=T0 + 100,
    )
    job = a_job(
        preparation=JobPreparationRules("prep", -1, False, False),
        release=JobReleaseRules("rel", 60.5),
        auto_pool=AutoPool(True, PoolLifetimeOption.JOB_SCHEDULE),
        schedule_id="Nightly",
        scheduling_error=SchedulingError(ErrorCategory.USER_ERROR, "Code", "message"),
        release_deadline=T0 + 900,
        allow_task_preemption=True,
    )
    task = a_task(
        rules=TaskRules(
            job_manager=JobManagerRules(False, False, False), instances=4, job_access=True, retention_s=60.25
        )
    )
    job_node = a_job_node(disk_time=T0 - 1, boot_time=T0 - 0.5, preparation=succeeded(), release=info(3))
    subtask = a_subtask(
        1,
        state=SubtaskState.COMPLETED,
        previous_state=SubtaskState.RUNNING,
        previous_state_time=T0 - 1,
        start_time=T0 - 2,
        end_time=T0 + 0.123457,
        exit_code=-9,
        failure=FAILURE,
    )
    schedule = a_schedule(
        recurrence=Recurrence(T0, T0 + 1e6, 600.0, 3600.0),
        previous_state=JobScheduleState.DISABLED,
        previous_state_time=T0 - 1,
        next_run_time=T0 + 3600,
        next_job_number=4,
        recent_job_id="Nightly:job-3",
        recent_job_active=True,
        pool_id="pool-of-schedule",
    )
    changes = with_tasks(task)
    changes.pools[1], changes.nodes[node.id], changes.jobs[1] = pool, node, job
    changes.job_nodes = with_job_nodes(job_node).job_nodes
    changes.subtasks = with_subtasks(subtask).subtasks
    changes.job_schedules = with_schedules(schedule).job_schedules
    await store.commit(changes, fence)
    contents = await store.load_pool("pool")
    assert (contents.pool, contents.nodes, contents.jobs, contents.tasks) == (pool, [node], [job], [task])
    assert (contents.job_nodes, contents.subtasks) == ([job_node], [subtask])
    assert isinstance(contents.job_nodes[0].preparation.state, SpecialTaskState)
    assert await store.get_node("pool", node.id) == node
    assert await store.get_job_schedule("NIGHTLY") == schedule
    assert await store.list_job_schedules(None, 10, None) == Page([schedule], None)
    assert await store.list_job_nodes(1, None, 10, None) == Page([job_node], None)
    assert await store.list_subtasks(task.key) == [subtask]


async def test_rows_are_replaced(store, fence):
    node = a_node(start_task=info())
    changes = ChangeSet(pools={1: a_pool()}, nodes={node.id: node}, jobs={1: a_job()})
    await store.commit(changes, fence)
    for rows in (
        with_job_nodes(a_job_node(preparation=info())),
        with_subtasks(a_subtask(0), a_subtask(1)),
        with_schedules(a_schedule()),
    ):
        await store.commit(rows, fence)
    node.start_task, node.state_time = succeeded(2), T0 + 1
    later = a_job_node(preparation=succeeded(), release=info(), pool_id="Other")
    changes = with_job_nodes(later)
    changes.nodes[node.id] = node
    changes.subtasks = with_subtasks(a_subtask(1, attempt=2)).subtasks
    changes.job_schedules[1] = a_schedule(state=JobScheduleState.COMPLETED, end_time=T0 + 5)
    await store.commit(changes, fence)
    assert (await store.list_job_nodes(1, None, 10, None)).items == [later]
    assert [one.attempt for one in await store.list_subtasks(ids.task_key(1, 1))] == [1, 2]
    assert (await store.get_job_schedule("nightly")).end_time == T0 + 5
    succeeded_ones = parse_filter("startTaskInfo/result eq 'success'", properties.NODES)
    assert (await store.list_nodes("pool", succeeded_ones, 10, None)).items == [node]


async def test_records_may_change_once_a_commit_has_begun_and_once_they_were_read(store, fence):
    node, job_node, subtask, schedule = (
        a_node(start_task=info()),
        a_job_node(preparation=info()),
        a_subtask(0),
        a_schedule(),
    )
    changes = with_tasks(a_task())
    changes.pools[1], changes.jobs[1], changes.nodes[node.id] = a_pool(), a_job(), node
    changes.job_nodes[1, job_node.node_id] = job_node
    changes.subtasks[subtask.task_key, 0] = subtask
    changes.job_schedules[1] = schedule
    commit = asyncio.ensure_future(store.commit(changes, fence))
    await asyncio.sleep(0)  # it has read its records when it first suspends
    node.start_task.attempt = job_node.preparation.attempt = subtask.attempt = 77
    schedule.spec["jobSpecification"]["priority"] = 77
    changes.subtasks.clear()
    await commit
    for _ in range(2):
        contents = await store.load_pool("pool")
        found = (contents.nodes[0].start_task, contents.job_nodes[0].preparation, contents.subtasks[0])
        assert [one.attempt for one in found] == [1, 1, 1]
        assert (await store.get_job_schedule("nightly")).spec == a_schedule().spec
        for one in found:
            one.attempt = 99
        (await store.get_job_schedule("nightly")).spec.clear()
        (await store.list_subtasks(subtask.task_key))[0].attempt = 99
        (await store.list_job_nodes(1, None, 1, None)).items[0].preparation.attempt = 99


# --- deleting --------------------------------------------------------------------------------------------------------


async def test_subtasks_go_with_their_task(store, fence):
    await store.commit(with_tasks(a_task(1), a_task(2), a_task(3)), fence)
    await store.commit(with_subtasks(*(a_subtask(index, number) for index in (1, 0) for number in (1, 2, 3))), fence)
    await store.commit(ChangeSet(deleted_tasks={a_task(1).key}, deleted_subtasks={a_task(2).key, 12345}), fence)
    assert await store.list_subtasks(a_task(1).key) == []
    assert await store.list_subtasks(a_task(2).key) == []
    assert [one.index for one in await store.list_subtasks(a_task(3).key)] == [0, 1]
    # A gang of fewer instances takes the place of the former one in one commit.
    changes = with_subtasks(a_subtask(0, 3, attempt=2))
    changes.deleted_subtasks.add(a_task(3).key)
    await store.commit(changes, fence)
    assert await store.list_subtasks(a_task(3).key) == [a_subtask(0, 3, attempt=2)]


async def test_purging_takes_subtasks_and_at_last_the_nodes(store, fence):
    changes = with_tasks(*(a_task(number) for number in range(1, 6)), a_task(1, job_no=2))
    changes.jobs = {1: a_job(1, state=JobState.DELETING), 2: a_job(2, "Job-2")}
    changes.subtasks = with_subtasks(a_subtask(0, 1), a_subtask(0, 5), a_subtask(0, 1, 2)).subtasks
    changes.job_nodes = with_job_nodes(a_job_node(1), a_job_node(2), a_job_node(1, job_no=2)).job_nodes
    await store.commit(changes, fence)
    assert await store.purge_tasks(1, 4, fence) == 4
    assert await store.list_subtasks(a_task(1).key) == []
    assert len(await store.list_subtasks(a_task(5).key)) == 1
    assert len((await store.list_job_nodes(1, None, 10, None)).items) == 2
    assert await store.purge_tasks(1, 4, fence) == 1
    assert await store.list_subtasks(a_task(5).key) == []
    assert (await store.list_job_nodes(1, None, 10, None)).items == []
    assert len(await store.list_subtasks(ids.task_key(2, 1))) == 1
    assert len((await store.list_job_nodes(2, None, 10, None)).items) == 1
    await store.commit(ChangeSet(deleted_jobs={2}), fence)
    assert (await store.list_job_nodes(2, None, 10, None)).items == []


async def test_rows_of_a_job_on_a_node_outlive_the_node(store, fence):
    node = a_node()
    changes = with_job_nodes(JobNode(1, node.id, "Pool", preparation=info()))
    changes.pools[1], changes.nodes[node.id], changes.jobs[1] = a_pool(), node, a_job()
    await store.commit(changes, fence)
    await store.commit(ChangeSet(deleted_nodes={node.id}), fence)
    assert [row.node_id for row in (await store.list_job_nodes(1, None, 10, None)).items] == [node.id]


async def test_job_schedules_come_and_go(place):
    store = place.store()
    facts = await store.open()
    assert (facts.next_job_schedule_no, facts.job_schedules) == (1, [])
    fence = await lease(store, "the owner of the schedules")
    await store.commit(with_schedules(a_schedule(3, "b"), a_schedule(7, "A")), fence)
    await store.commit(ChangeSet(deleted_job_schedules={7}), fence)
    again = with_schedules(a_schedule(5, "B"))
    with pytest.raises(Bug):
        await store.commit(again, fence)
    again.deleted_job_schedules.add(3)
    await store.commit(again, fence)
    await store.close()
    store = place.store()
    facts = await store.open()
    assert facts.next_job_schedule_no == 8
    assert facts.job_schedules == [a_schedule(5, "B")]
    await store.close()


# --- all or nothing --------------------------------------------------------------------------------------------------


def everything() -> ChangeSet:
    changes = with_tasks(a_task(8))
    changes.job_nodes = with_job_nodes(a_job_node(8)).job_nodes
    changes.subtasks = with_subtasks(a_subtask(0, 8)).subtasks
    changes.job_schedules = with_schedules(a_schedule(8, "eight")).job_schedules
    changes.deleted_subtasks = {a_task(1).key}
    changes.deleted_job_schedules = {1}
    return changes


@pytest.mark.parametrize("wrong", ["no row to update", "schedule id used", "lease lost"])
async def test_a_commit_that_fails_writes_none_of_them(store, fence, wrong):
    first = with_tasks(a_task(1))
    first.jobs[1] = a_job()
    first.subtasks = with_subtasks(a_subtask(0)).subtasks
    first.job_schedules = {1: a_schedule(), 2: a_schedule(2, "two")}
    await store.commit(first, fence)
    before = await store.load_pool("pool")
    changes = everything()
    match wrong:
        case "no row to update":
            changes.tasks[a_task(9).key] = a_task(9)
        case "schedule id used":
            changes.job_schedules[9] = a_schedule(9, "TWO")
        case "lease lost":
            fence = Fence(fence.pool_key, fence.epoch - 1)
    with pytest.raises(LeaseLost if wrong == "lease lost" else Bug):
        await store.commit(changes, fence)
    assert await store.load_pool("pool") == before
    assert (await store.list_job_schedules(None, 10, None)).items == [a_schedule(), a_schedule(2, "two")]
    assert (await store.list_job_nodes(1, None, 10, None)).items == []


async def test_a_purge_needs_the_lease(store, fence):
    await store.commit(with_job_nodes(a_job_node()), fence)
    with pytest.raises(LeaseLost):
        await store.purge_tasks(1, 10, Fence(fence.pool_key, fence.epoch + 1))
    assert len((await store.list_job_nodes(1, None, 10, None)).items) == 1


# --- what the scheduler reads ----------------------------------------------------------------------------------------


async def test_loading_takes_what_is_alive(store, fence):
    changes = with_tasks(
        a_task(1),
        a_task(2, state=TaskState.COMPLETED),
        a_task(1, job_no=2),
        a_task(1, job_no=3),
    )
    changes.jobs = {1: a_job(1), 2: a_job(2, "b", state=JobState.COMPLETED), 3: a_job(3, "c", "elsewhere")}
    changes.job_nodes = with_job_nodes(*(a_job_node(number, job) for job in (1, 2, 3) for number in (2, 1))).job_nodes
    keys = ((1, 1), (1, 2), (2, 1), (3, 1))
    changes.subtasks = with_subtasks(*(a_subtask(index, task, job) for job, task in keys for index in (1, 0))).subtasks
    await store.commit(changes, fence)
    contents = await store.load_pool("pool")
    assert [(row.job_no, row.node_id) for row in contents.job_nodes] == [(1, "Node-1"), (1, "Node-2")]
    assert [(row.task_key, row.index) for row in contents.subtasks] == [(a_task(1).key, 0), (a_task(1).key, 1)]


async def test_loading_one_job(store, fence):
    changes = with_tasks(a_task(2, state=TaskState.COMPLETED), a_task(1), a_task(1, job_no=2))
    changes.jobs = {1: a_job(1), 2: a_job(2, "b")}
    changes.satisfied = {(1, "z"), (1, "a"), (2, "c")}
    changes.job_nodes = with_job_nodes(a_job_node(2), a_job_node(1), a_job_node(3, job_no=2)).job_nodes
    await store.commit(changes, fence)
    contents = await store.load_job(1)
    assert contents.job == a_job(1)
    assert [task.id for task in contents.tasks] == ["Task-1", "Task-2"]
    assert contents.satisfied == ["a", "z"]
    assert [row.node_id for row in contents.job_nodes] == ["Node-1", "Node-2"]
    contents.job.spec.clear()
    assert (await store.load_job(1)).job == a_job(1)
    assert await store.load_job(77) is None


# --- what the API reads ----------------------------------------------------------------------------------------------


async def test_listings_are_in_order_and_paged(store, fence):
    names = ["b", "A_1", "a-2", "Z", "c"]
    changes = with_schedules(*(a_schedule(number, name) for number, name in enumerate(names, 1)))
    changes.job_nodes = with_job_nodes(*(a_job_node(number) for number in (3, 1, 2)), a_job_node(9, job_no=2)).job_nodes
    await store.commit(changes, fence)
    for limit in (1, 2, 3, 5, 100):
        schedules = await all_pages(lambda n, t: store.list_job_schedules(None, n, t), limit)
        assert [one.id for one in schedules] == sorted(names, key=ids.id_key)
        job_nodes = await all_pages(lambda n, t: store.list_job_nodes(1, None, n, t), limit)
        assert [one.node_id for one in job_nodes] == ["Node-1", "Node-2", "Node-3"]
    for listing in (store.list_job_schedules, lambda *rest: store.list_job_nodes(1, *rest)):
        with pytest.raises(ValueError, match="is not where a page"):
            await listing(None, 10, "t1")


async def test_the_jobs_of_a_schedule(store, fence):
    jobs = [a_job(number, f"Nightly:job-{number}", schedule_id="Nightly") for number in (1, 2, 3)]
    jobs[1].state = JobState.COMPLETED
    others = [a_job(8, "Nightly"), a_job(9, "Nightly-2:job-1", schedule_id="Nightly-2")]
    await store.commit(with_jobs(*jobs, *others), fence)
    for limit in (1, 2, 10):
        found = await all_pages(lambda n, t: store.list_jobs(None, n, t, schedule_id="NIGHTLY"), limit)
        assert [job.id for job in found] == [job.id for job in jobs]
        active = parse_filter("state eq 'active'", properties.JOBS_OF_SCHEDULE)
        found = await all_pages(lambda n, t, active=active: store.list_jobs(active, n, t, schedule_id="nightly"), limit)
        assert [job.id for job in found] == ["Nightly:job-1", "Nightly:job-3"]
    assert len((await store.list_jobs(None, 10, None)).items) == 5
    assert (await store.list_jobs(None, 10, None, schedule_id="job")).items == []


async def test_filtered_nodes_by_start_task(store, fence):
    nodes = [
        a_node(1),
        a_node(2, start_task=info()),
        a_node(3, start_task=succeeded()),
        a_node(4, start_task=info(3, end_time=T0 + 20, exit_code=2, failure=FAILURE, retry_count=1)),
        a_node(5, start_task=succeeded(exit_code=1, failure=FAILURE, end_time=T0 + 30)),
    ]
    await store.commit(ChangeSet(pools={1: a_pool()}, nodes={node.id: node for node in nodes}), fence)
    expected = {
        "startTaskInfo/state eq 'running'": {2, 4},
        "startTaskInfo/state eq 'Completed'": {3, 5},
        "startTaskInfo/result eq 'success'": {3},
        "startTaskInfo/result eq 'failure'": {4, 5},
        "startTaskInfo/result ne 'success'": {1, 2, 4, 5},
        "startTaskInfo/exitCode ge 1": {4, 5},
        "startTaskInfo/exitCode ne 0": {1, 2, 4, 5},
        "startTaskInfo/startTime gt datetime'2000-01-01'": {2, 3, 4, 5},
        "startTaskInfo/endTime lt datetime'2023-11-14T22:13:35Z'": {3},
    }
    by_id = {node.id: number for number, node in enumerate(nodes, 1)}
    for text, numbers in expected.items():
        where = parse_filter(text, properties.NODES)
        found = await all_pages(lambda n, t, where=where: store.list_nodes("pool", where, n, t), 2)
        assert {by_id[node.id] for node in found} == numbers, text


async def test_filtered_status_of_preparation_and_release(store, fence):
    rows = [
        a_job_node(1, preparation=info()),
        a_job_node(2, preparation=succeeded(), release=info()),
        a_job_node(3, pool_id="other", preparation=succeeded(exit_code=4, failure=FAILURE)),
        a_job_node(4, release=succeeded(end_time=T0 + 100)),
    ]
    await store.commit(with_job_nodes(*rows), fence)
    expected = {
        "nodeId eq 'NODE-1'": [1],
        "nodeId ne 'node-1'": [2, 3, 4],
        "poolId eq 'POOL'": [1, 2, 4],
        "jobPreparationTaskExecutionInfo/state eq 'running'": [1],
        "jobPreparationTaskExecutionInfo/result eq 'success'": [2],
        "jobPreparationTaskExecutionInfo/result ne 'success'": [1, 3, 4],
        "jobPreparationTaskExecutionInfo/exitCode gt 0": [3],
        "jobPreparationTaskExecutionInfo/startTime le datetime'2100-01-01'": [1, 2, 3],
        "jobReleaseTaskExecutionInfo/state eq 'completed'": [4],
        "jobReleaseTaskExecutionInfo/endTime gt datetime'2023-11-14T22:14:00Z'": [4],
        "poolId eq 'pool' and jobReleaseTaskExecutionInfo/state eq 'running'": [2],
    }
    for text, numbers in expected.items():
        where = parse_filter(text, properties.JOB_NODES)
        for limit in (1, 10):
            found = await all_pages(lambda n, t, where=where: store.list_job_nodes(1, where, n, t), limit)
            assert [row.node_id for row in found] == [f"Node-{number}" for number in numbers], text


async def test_filtered_job_schedules(store, fence):
    await store.commit(
        with_schedules(
            a_schedule(1, "a", recurrence=Recurrence(do_not_run_until=T0 + 50)),
            a_schedule(2, "B", state=JobScheduleState.COMPLETED, end_time=T0 + 9, state_time=T0 + 9),
            a_schedule(3, "ba", last_modified=T0 + 3, recurrence=Recurrence(do_not_run_after=T0 + 50)),
        ),
        fence,
    )
    expected = {
        "startswith(id,'b')": ["B", "ba"],
        "id eq 'A'": ["a"],
        "state ne 'active'": ["B"],
        "executionInfo/endTime lt datetime'2100-01-01'": ["B"],
        "schedule/doNotRunUntil gt datetime'2000-01-01'": ["a"],
        "schedule/doNotRunAfter gt datetime'2000-01-01'": ["ba"],
        "lastModified gt datetime'2023-11-14T22:13:21Z'": ["ba"],
        "stateTransitionTime gt datetime'2023-11-14T22:13:25Z'": ["B"],
        "creationTime lt datetime'2000-01-01'": [],
    }
    for text, found in expected.items():
        where = parse_filter(text, properties.JOB_SCHEDULES)
        for limit in (1, 10):
            schedules = await all_pages(lambda n, t, where=where: store.list_job_schedules(where, n, t), limit)
            assert [schedule.id for schedule in schedules] == found, text
