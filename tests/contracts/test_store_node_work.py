"""What nodes work is written apart from their rows; whoever reads nodes does not notice."""

import copy
import os
import random
import signal
from collections import Counter

import pytest

from millpond.domain.errors import Bug, StoreUnavailable
from millpond.domain.node import Node
from millpond.domain.states import NodeState
from millpond.odata import properties
from millpond.odata.parse import parse_filter
from millpond.store import sqlite_node_work
from millpond.store.base import NodeCounts, Store
from millpond.store.changes import ChangeSet
from millpond.store.sqlite import SqliteStore
from tests.contracts.stores import T0, a_job, a_node, a_pool, a_task, lease, with_tasks

RUNNING = "state eq 'running'"


def with_nodes(*nodes: Node, worked: bool = False) -> ChangeSet:
    return ChangeSet(nodes={node.id: node for node in nodes}, worked={node.id for node in nodes} if worked else set())


def runs(node: Node, key: int, at: float) -> Node:
    """The node as it is once it has begun a task."""
    twin = copy.copy(node)
    twin.state, twin.state_time = NodeState.RUNNING, at
    twin.running_tasks += 1
    twin.running_task_slots += 2
    twin.total_tasks_run += 1
    twin.total_tasks_succeeded += 1
    twin.retain_until = at + 60.0
    twin.note_task(key)
    return twin


async def is_read(store: Store, nodes: list[Node]) -> None:
    """By every way there is."""
    expected = sorted(nodes, key=lambda node: node.id)
    counts = Counter((node.is_dedicated, node.state) for node in nodes)
    assert {(it.is_dedicated, it.state): it.count for it in await store.node_counts(None)} == counts
    where = parse_filter(RUNNING, properties.NODES)
    running = (await store.list_nodes("pool", where, 1000, None)).items
    assert running == [node for node in expected if node.state is NodeState.RUNNING]
    assert (await store.list_nodes("pool", None, 1000, None)).items == expected
    assert [await store.get_node("pool", node.id) for node in expected] == expected
    assert sorted((await store.load_pool("pool")).nodes, key=lambda node: node.id) == expected


@pytest.fixture
async def nodes(store, fence):
    nodes = [a_node(number) for number in range(1, 5)]
    await store.commit(ChangeSet(pools={1: a_pool()}, nodes={node.id: node for node in nodes}), fence)
    return nodes


async def test_whoever_reads_sees_what_nodes_worked(store, fence, nodes):
    one, two, *rest = nodes
    for turn in range(3):
        one, two = runs(one, turn, T0 + turn), runs(two, turn, T0 + turn)
        await store.commit(with_nodes(one, two, worked=True), fence)
        await is_read(store, [one, two, *rest])
    assert one.recent_tasks == (0, 1, 2)


@pytest.mark.parametrize("read", ["get", "list", "filter", "counts", "load"])
async def test_the_first_read_after_a_commit_sees_it(store, fence, nodes, read):
    node = runs(nodes[0], 7, T0 + 1)
    await store.commit(with_nodes(node, worked=True), fence)
    if read == "get":
        assert await store.get_node("pool", node.id) == node
    elif read == "list":
        assert node in (await store.list_nodes("pool", None, 10, None)).items
    elif read == "filter":
        where = parse_filter(RUNNING, properties.NODES)
        assert (await store.list_nodes("pool", where, 10, None)).items == [node]
    elif read == "counts":
        assert NodeCounts("Pool", True, NodeState.RUNNING, 1) in await store.node_counts(None)
    else:
        assert node in (await store.load_pool("pool")).nodes


async def test_a_row_that_is_written_later_is_newer(store, fence, nodes):
    one, two, three, four = nodes
    one, two = runs(one, 1, T0 + 1), runs(two, 1, T0 + 1)
    await store.commit(with_nodes(one, two, worked=True), fence)
    one = copy.copy(one)
    one.state, one.total_tasks_run, one.ip_address = NodeState.UNKNOWN, 40, "10.0.0.1"
    three = runs(three, 2, T0 + 2)
    both = with_nodes(one, three)
    both.worked = {three.id}
    await store.commit(both, fence)
    await is_read(store, [one, two, three, four])
    one = runs(one, 3, T0 + 3)
    await store.commit(with_nodes(one, worked=True), fence)
    await is_read(store, [one, two, three, four])


async def test_a_node_that_is_gone_stays_so(store, fence, nodes):
    gone = runs(nodes[0], 1, T0 + 1)
    await store.commit(with_nodes(gone, worked=True), fence)
    await store.commit(ChangeSet(deleted_nodes={gone.id}), fence)
    await is_read(store, nodes[1:])
    assert await store.get_node("pool", gone.id) is None
    # The same id again is another node.
    await store.commit(with_nodes(nodes[0]), fence)
    await is_read(store, nodes)


async def test_it_is_there_after_a_restart(place, store, fence, nodes):
    worked = [runs(node, 5, T0 + 5) for node in nodes]
    await store.commit(with_nodes(*worked, worked=True), fence)
    await store.close()
    store = place.store()
    await store.open()
    try:
        await is_read(store, worked)
        again = [runs(node, 6, T0 + 6) for node in worked[:2]]
        await store.commit(with_nodes(*again, worked=True), await lease(store))
        await is_read(store, again + worked[2:])
    finally:
        await store.close()


@pytest.mark.parametrize("seed", range(3))
async def test_any_order_of_changes(place, monkeypatch, seed):
    monkeypatch.setattr(sqlite_node_work, "MAX_KEPT", 6)
    store = place.store()
    await store.open()
    fence = await lease(store)
    await store.commit(ChangeSet(pools={1: a_pool()}), fence)
    chance = random.Random(seed)
    rows: dict[str, Node] = {}
    try:
        for turn in range(60):
            changes = ChangeSet()
            for number in chance.sample(range(8), chance.randrange(1, 6)):
                node_id = a_node(number).id
                what = chance.random()
                if node_id not in rows or what < 0.2:
                    node = a_node(number, ip_address=str(turn), total_tasks_run=turn)
                elif what < 0.3:
                    del rows[node_id]
                    changes.deleted_nodes.add(node_id)
                    continue
                else:
                    node = runs(rows[node_id], turn, T0 + turn)
                    changes.worked.add(node_id)
                rows[node_id] = changes.nodes[node_id] = node
            await store.commit(changes, fence)
            if chance.random() < 0.1:
                await store.close()
                store = place.store()
                await store.open()
                fence = await lease(store)
            if chance.random() < 0.3:
                await is_read(store, list(rows.values()))
        await is_read(store, list(rows.values()))
    finally:
        await store.close()


# --- of the file ------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file.db")


async def kept(store: SqliteStore) -> int:
    return await store._read(lambda it: it.execute("SELECT coalesce(sum(nodes), 0) FROM node_work").fetchone()[0])


async def test_no_more_is_kept_apart_than_there_may_be(path, monkeypatch):
    monkeypatch.setattr(sqlite_node_work, "MAX_KEPT", 10)
    store = SqliteStore(path)
    await store.open()
    fence = await lease(store)
    nodes = [a_node(number) for number in range(6)]
    await store.commit(ChangeSet(pools={1: a_pool()}, nodes={node.id: node for node in nodes}), fence)
    try:
        for turn in range(20):
            nodes = nodes[1:4] + nodes[:1] + nodes[4:]
            nodes[:3] = [runs(node, turn, T0 + turn) for node in nodes[:3]]
            await store.commit(with_nodes(*nodes[:3], worked=True), fence)
            assert await kept(store) <= 10
        assert await kept(store) > 0
        await is_read(store, nodes)
        assert await kept(store) == 0
    finally:
        await store.close()


async def test_a_commit_that_fails_leaves_what_was_kept(path, monkeypatch):
    monkeypatch.setattr(sqlite_node_work, "MAX_KEPT", 3)
    store = SqliteStore(path)
    await store.open()
    fence = await lease(store)
    one, two = a_node(1), a_node(2)
    changes = with_tasks(a_task(1))
    changes.pools, changes.jobs, changes.nodes = {1: a_pool()}, {1: a_job()}, {one.id: one, two.id: two}
    await store.commit(changes, fence)
    try:
        one, two = runs(one, 1, T0 + 1), runs(two, 1, T0 + 1)
        await store.commit(with_nodes(one, two, worked=True), fence)
        # With it, too much would be kept; but the task is there already.
        doomed = with_tasks(a_task(1))
        lost = [runs(one, 2, T0 + 2), runs(two, 2, T0 + 2)]
        doomed.nodes, doomed.worked = {node.id: node for node in lost}, {one.id, two.id}
        with pytest.raises(Bug):
            await store.commit(doomed, fence)
        two = runs(two, 3, T0 + 3)
        await store.commit(with_nodes(two, worked=True), fence)
        await is_read(store, [one, two])
    finally:
        await store.close()


async def test_when_the_process_that_writes_is_killed(path):
    store = SqliteStore(path)
    await store.open()
    fence = await lease(store)
    one, two = a_node(1), a_node(2)
    try:
        await store.commit(ChangeSet(pools={1: a_pool()}, nodes={one.id: one, two.id: two}), fence)
        one = runs(one, 1, T0 + 1)
        await store.commit(with_nodes(one, worked=True), fence)
        await store.write_by_process()
        two = runs(two, 2, T0 + 2)
        await store.commit(with_nodes(two, worked=True), fence)
        pid = store.process_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            await store.get_node("pool", one.id)
        await is_read(store, [one, two])
        one = runs(one, 3, T0 + 3)
        await store.commit(with_nodes(one, worked=True), fence)
        await is_read(store, [one, two])
    finally:
        await store.close()
