"""Items of task arrays that have no rows read as if they had some, whatever the filter and the page."""

import msgspec
import pytest

from millpond.domain import ids
from millpond.domain.errors import Bug
from millpond.domain.states import TaskState
from millpond.domain.task import Task
from millpond.domain.task_array import INDEX_MARK, ItemTemplate, Override, ParameterSet, Rest, TaskArray, value_mark
from millpond.odata import properties
from millpond.odata.parse import parse_filter
from millpond.store import task_arrays
from millpond.store.base import Fence, Store
from millpond.store.changes import ChangeSet
from tests.contracts.stores import T0, Place, a_job, a_task, all_pages, lease

FILTERS = (
    None,
    "state eq 'active'",
    "state eq 'completed'",
    "id eq 'sweep-9'",
    "(id eq 'SWEEP-9' or id eq 't30' or id eq 'sweep-2' or id eq 'sweep-1') and state eq 'active'",
    "id eq 'sweep-9' or state eq 'completed'",
    "startswith(id, 'SWEEP-1') and state ne 'running'",
    "id ge 'sweep-5' or creationTime lt datetime'2020-01-01T00:00:00Z'",
    "executionInfo/exitCode eq null and id lt 'sweep-3'",
    "executionInfo/result eq 'failure'",
)


def an_array(job_no: int = 1, number: int = 3, count: int = 20, array_id: str = "Sweep") -> TaskArray:
    spec = f'{{"id":"{array_id}-{INDEX_MARK}","commandLine":"{value_mark(0, 3)}"}}'
    return TaskArray(
        array_id,
        (ParameterSet(1, count),),
        ItemTemplate(spec),
        (Override(4, 6, ItemTemplate('{"id":"other"}', 3, -1)),),
        ids.task_key(job_no, number),
        T0,
    )


def moved(array: TaskArray, index: int) -> Task:
    """An item that has been run, as a row."""
    task = array.task(index)
    task.state = TaskState.COMPLETED
    task.exit_code = 0
    return task


async def fill(store: Store, fence: Fence) -> tuple[TaskArray, Rest]:
    """Job 1 with an array, of which some items have rows and some are deleted; job 2 with the same as rows."""
    array, twin = an_array(1), an_array(2)
    rest = ((2, 4), (6, 6), (9, 19))
    run = (0, 1, 8)
    rows = [a_task(number, job, f"t{number}") for job in (1, 2) for number in (1, 2, 30)]
    rows += [moved(array, index) for index in run]
    specs = {moved(array, index).key: array.spec(index) for index in run}
    for index in range(20):
        if index in run:
            rows.append(moved(twin, index))
        elif any(first <= index <= last for first, last in rest):
            rows.append(twin.task(index))
        specs[twin.key + index] = twin.spec(index)
    await store.commit(
        ChangeSet(
            jobs={1: a_job(1, "one"), 2: a_job(2, "two")},
            task_arrays={array.key: array},
            rests={array.key: ((0, 19),)},
        ),
        fence,
    )
    changes = ChangeSet(tasks={row.key: row for row in rows}, specs=specs, rests={array.key: rest})
    changes.new_tasks.update(changes.tasks)
    changes.specs = {key: spec for key, spec in specs.items() if key in changes.tasks}
    await store.commit(changes, fence)
    return array, rest


def seen(rows: list[task_arrays.TaskRow]) -> list[tuple[int, Task, bytes]]:
    """Without the job they are in."""
    return [
        (ids.task_number_of(row.task.key), msgspec.structs.replace(row.task, key=0), bytes(row.spec)) for row in rows
    ]


@pytest.mark.parametrize("scan", [1, 4, 20_000])
async def test_listings_are_those_of_rows(
    store: Store, fence: Fence, scan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_arrays, "SCAN_ITEMS", scan)
    await fill(store, fence)
    for text in FILTERS:
        where = None if text is None else parse_filter(text, properties.TASKS)
        for limit in (1, 3, 100):
            mine, theirs = [
                await all_pages(lambda size, after, no=no, where=where: store.list_tasks(no, where, size, after), limit)
                for no in (1, 2)
            ]
            assert seen(mine) == seen(theirs), (text, limit)
            assert mine or text == FILTERS[-1]


async def test_items_are_found_by_id(store: Store, fence: Fence) -> None:
    await fill(store, fence)
    for name in [*(f"sweep-{index}" for index in range(-1, 22)), "SWEEP-3", "sweep-03", "t1", "sweep", "3", "-3"]:
        mine, theirs = await store.get_task("ONE", name), await store.get_task("two", name)
        assert (mine is None) == (theirs is None), name
        if mine is not None and theirs is not None:
            assert seen([mine]) == seen([theirs])


async def test_what_is_loaded_is_what_was_saved(store: Store, place: Place, fence: Fence) -> None:
    array, rest = await fill(store, fence)
    contents = await store.load_pool("pool")
    assert [(one, tuple(left)) for one, left in contents.task_arrays] == [(array, rest)]
    job = await store.load_job(1)
    assert job is not None
    assert [(one, tuple(left)) for one, left in job.task_arrays] == [(array, rest)]
    await store.close()
    again = place.store()
    await again.open()
    assert [(one, tuple(left)) for one, left in (await again.load_pool("pool")).task_arrays] == [(array, rest)]
    await again.close()


async def test_an_array_without_a_rest_is_gone_and_its_id_is_free(store: Store, fence: Fence) -> None:
    array, _ = await fill(store, fence)
    other = an_array(1, 40, 2, "SWEEP")
    await store.commit(ChangeSet(rests={array.key: (), other.key: ((1, 1),)}, task_arrays={other.key: other}), fence)
    assert await store.get_task("one", "sweep-3") is None
    assert await store.get_task("one", "sweep-1") is not None
    # One that begins and ends in one batch was never there.
    brief = an_array(1, 50, 1, "brief")
    rows = {brief.key: brief.task(0)}
    await store.commit(
        ChangeSet(rests={brief.key: ()}, task_arrays={brief.key: brief}, tasks=rows, new_tasks=set(rows)), fence
    )
    contents = await store.load_pool("pool")
    assert [one.id for one, _ in contents.task_arrays] == ["SWEEP"]


async def test_a_purge_takes_arrays_first(store: Store, fence: Fence) -> None:
    await fill(store, fence)
    assert await store.purge_tasks(1, 2, fence) == 2
    assert await store.get_task("one", "sweep-3") is None
    assert len((await store.list_tasks(1, None, 100, None)).items) == 4
    assert (await store.load_pool("pool")).task_arrays == []
    assert len((await store.list_tasks(2, None, 100, None)).items) == 21


async def test_a_rest_without_an_array_is_a_bug(store: Store, fence: Fence) -> None:
    with pytest.raises(Bug):
        await store.commit(ChangeSet(rests={ids.task_key(1, 7): ((0, 1),)}), fence)


async def test_a_million_items_are_one_small_row(place: Place) -> None:
    store = place.store()
    await store.open()
    fence = await lease(store)
    array = an_array(count=1_000_000)
    await store.commit(
        ChangeSet(jobs={1: a_job(1, "one")}, task_arrays={array.key: array}, rests={array.key: ((0, 999_999),)}),
        fence,
    )
    page = await store.list_tasks(1, None, 1000, None)
    assert [row.task.id for row in page.items[::999]] == ["Sweep-0", "Sweep-999"]
    where = parse_filter("id eq 'sweep-999999'", properties.TASKS)
    found = await store.list_tasks(1, where, 10, None)
    assert ([row.task.id for row in found.items], found.next) == (["Sweep-999999"], None)
    where = parse_filter("startswith(id, 'sweep-99999')", properties.TASKS)
    pages: list[list[str]] = []
    after = None
    while not pages or after is not None:
        part = await store.list_tasks(1, where, 10, after)
        pages.append([row.task.id for row in part.items])
        after = part.next
    assert pages[4] == ["Sweep-99999"]
    assert pages[49] == [f"Sweep-{index}" for index in range(999_990, 1_000_000)]
    assert len(pages) <= 51  # each looks at 20,000
    await store.close()
