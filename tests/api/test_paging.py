"""Pages over a store on disk: exact, whatever is asked for, and whatever happens between two of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millpond.domain.ids import task_key
from millpond.domain.states import NodeState, TaskState
from millpond.store.changes import ChangeSet
from millpond.store.sqlite import SqliteStore
from tests.api.conftest import NODE, World
from tests.contracts.stores import a_job, a_node, a_pool, a_task, lease, with_jobs, with_tasks

VERSION = "api-version=2025-06-01&"


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[World]:
    """Pool p1 and job j1, in a store on disk."""
    world = World(tmp_path / "storage")
    store = SqliteStore(str(tmp_path / "store.db"))
    await store.open()
    world.control.store = store
    await commit(world, ChangeSet(pools={1: a_pool(1, "p1")}))
    await commit(world, with_jobs(a_job(1, "j1", "p1")))
    yield world
    await world.control.store.close()


async def commit(world: World, changes: ChangeSet) -> None:
    store: Any = world.control.store
    await store.commit(changes, await lease(store))


async def pages(world: World, path: str, query: str = "") -> AsyncIterator[list[str]]:
    """The ids of each page, by its links."""
    while True:
        answer = await world.call("GET", path, query=query)
        assert answer.status == 200, answer.body
        yield [item["id"] for item in answer.json()["value"]]
        link = answer.json().get("odata.nextLink")
        if link is None:
            return
        query = link.partition(VERSION)[2]


async def token_of(world: World, path: str, query: str) -> str:
    answer = await world.call("GET", path, query=query)
    return str(answer.json()["odata.nextLink"].rpartition("$skiptoken=")[2])


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 1001, 2000, 2001])
async def test_pages_are_exact(stored: World, rows: int) -> None:
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, rows + 1))))
    await commit(stored, with_jobs(*(a_job(no, f"k{no:04}", "p1") for no in range(2, rows + 2))))
    await commit(stored, ChangeSet(nodes={node.id: node for node in (a_node(number) for number in range(rows))}))
    for path, query, wanted in (
        ("/jobs/j1/tasks", "$select=id", [f"t{number}" for number in range(1, rows + 1)]),
        (
            "/jobs/j1/tasks",
            "$select=id&$filter=state%20eq%20'active'",
            [f"t{number}" for number in range(1, rows + 1)],
        ),
        ("/jobs", "$select=id&$filter=startswith(id,'K')", [f"k{no:04}" for no in range(2, rows + 2)]),
        ("/pools/p1/nodes", "$select=id", sorted(a_node(number).id for number in range(rows))),
    ):
        found = [page async for page in pages(stored, path, query)]
        assert [len(page) for page in found] == [1000] * ((rows - 1) // 1000) + [rows - max(rows - 1, 0) // 1000 * 1000]
        assert [item for page in found for item in page] == wanted


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
async def test_pages_of_any_size(stored: World, size: int) -> None:
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, 8))))
    found = [page async for page in pages(stored, "/jobs/j1/tasks", f"maxresults={size}")]
    assert [len(page) for page in found] == [size] * (7 // size) + ([7 % size] if 7 % size else [])
    assert [item for page in found for item in page] == [f"t{number}" for number in range(1, 8)]


async def test_what_comes_and_goes_moves_no_page(stored: World) -> None:
    """Of the rows that stay, each is seen once; a row that went before its page is not."""
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, 10))))
    await commit(stored, with_jobs(*(a_job(no, f"k{no}", "p1") for no in range(2, 10))))
    seen: list[str] = []
    async for page in pages(stored, "/jobs/j1/tasks", "maxresults=3"):
        seen += page
        if len(seen) == 3:  # the last of the page, the first of the next; and another at the end
            gone = {task_key(1, 3), task_key(1, 4)}
            await commit(stored, ChangeSet(deleted_tasks=gone))
            await commit(stored, with_tasks(a_task(10, task_id="t0")))
    assert seen == ["t1", "t2", "t3", "t5", "t6", "t7", "t8", "t9", "t0"]
    seen = []
    async for page in pages(stored, "/jobs", "maxresults=3&$filter=startswith(id,'k')"):
        seen += page
        if len(seen) == 3:
            await commit(stored, ChangeSet(deleted_jobs={2, 4, 5}))
            await commit(stored, with_jobs(a_job(20, "k1", "p1"), a_job(21, "K4", "p1"), a_job(22, "k44", "p1")))
    assert seen == ["k2", "k3", "k4", "k44", "k6", "k7", "k8", "k9"]


async def test_rows_that_stop_passing_between_pages_hide_no_others(stored: World) -> None:
    tasks = [a_task(number, task_id=f"t{number}") for number in range(1, 8)]
    await commit(stored, with_tasks(*tasks))
    seen: list[str] = []
    async for page in pages(stored, "/jobs/j1/tasks", "maxresults=2&$filter=state%20eq%20'active'"):
        seen += page
        if len(seen) == 2:
            for task in tasks[:3]:
                task.state = TaskState.RUNNING
            await commit(stored, with_tasks(*tasks[:3], new=False))
    assert seen == ["t1", "t2", "t4", "t5", "t6", "t7"]


async def test_links_outlive_the_service(stored: World, tmp_path: Path) -> None:
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, 6))))
    token = await token_of(stored, "/jobs/j1/tasks", "maxresults=2")
    await stored.control.store.close()
    later = World(tmp_path / "storage")
    stored.control.store = later.control.store = SqliteStore(str(tmp_path / "store.db"))
    await later.control.store.open()
    found = [page async for page in pages(later, "/jobs/j1/tasks", f"maxresults=2&$skiptoken={token}")]
    assert found == [["t3", "t4"], ["t5"]]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/jobs/j1/tasks", "maxresults=2&$filter=state%20eq%20'running'"),
        ("/jobs/j1/tasks", "maxresults=2&$filter=state%20ne%20'active'"),
        ("/jobs/j2/tasks", "maxresults=2"),
        ("/jobs", "maxresults=2"),
        ("/pools/p1/nodes", "maxresults=2"),
        ("/supportedimages", "maxresults=2"),
        ("/nodecounts", ""),
        ("/poolusagemetrics", ""),
        ("/applications", ""),
        ("/certificates", ""),
        ("/jobs/j1/tasks/t1/subtasksinfo", ""),
        (f"/pools/p1/nodes/{NODE}/files", "recursive=true"),
    ],
)
async def test_a_token_is_of_its_question(stored: World, path: str, query: str) -> None:
    await commit(stored, with_jobs(a_job(2, "j2", "p1")))
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, 6))))
    node = a_node()
    node.id, node.state = NODE, NodeState.IDLE
    await commit(stored, ChangeSet(nodes={NODE: node}))
    token = await token_of(stored, "/jobs/j1/tasks", "maxresults=2")
    version = "2024-02-01.19.0"
    answer = await stored.call("GET", path, query=f"{query}&$skiptoken={token}", version=version)
    assert (answer.status, answer.code) == (400, "InvalidQueryParameterValue")
    assert answer.values()["QueryParameterName"] == "$skiptoken"
    assert "follow the link" in answer.values()["Reason"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/jobs/J1/tasks", "maxresults=1"),
        ("/jobs/j1/tasks", "$select=state,id&$expand=stats&timeout=9"),
        ("/jobs/j%31/tasks", "MAXRESULTS=4&$filter="),
    ],
)
async def test_how_much_is_shown_may_change_on_the_way(stored: World, path: str, query: str) -> None:
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, 6))))
    token = await token_of(stored, "/jobs/j1/tasks", "maxresults=2")
    answer = await stored.call("GET", path, query=f"{query}&$skiptoken={token}")
    assert answer.status == 200
    assert answer.json()["value"][0]["id"] == "t3"


async def test_a_token_cut_or_changed_is_refused(stored: World) -> None:
    await commit(stored, with_tasks(*(a_task(number, task_id=f"t{number}") for number in range(1, 6))))
    token = await token_of(stored, "/jobs/j1/tasks", "maxresults=2")
    for bad in (token[:-1], token[1:], token[:8], token + "AA", token.swapcase(), "A" * 9000, "t3"):
        answer = await stored.call("GET", "/jobs/j1/tasks", query=f"$skiptoken={bad}")
        assert (answer.status, answer.code) == (400, "InvalidQueryParameterValue"), bad
        assert answer.values()["QueryParameterName"] == "$skiptoken"


@pytest.mark.parametrize(
    ("path", "most"), [("/certificates", 100), ("/pools", 1000), ("/jobs", 1000), ("/nodecounts", 1000)]
)
async def test_a_page_has_a_longest(stored: World, path: str, most: int) -> None:
    version = "2024-02-01.19.0"
    assert (await stored.call("GET", path, query=f"maxresults={most}", version=version)).status == 200
    answer = await stored.call("GET", path, query=f"maxresults={most + 1}", version=version)
    assert (answer.status, answer.code) == (400, "OutOfRangeQueryParameterValue")
    assert (answer.values()["MinimumAllowed"], answer.values()["MaximumAllowed"]) == ("1", str(most))
