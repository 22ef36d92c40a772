"""The small parts of the control plane: outbox, timers, batches, specifications."""

import asyncio
import json

import pytest

from millpond.control.commit import Batch
from millpond.control.outbox import Outbox
from millpond.control.specs import SpecCache, release_spec, sign_auto_storage
from millpond.control.timers import Timers
from millpond.domain import effects as f
from millpond.domain.states import TaskState
from millpond.domain.task import Task
from millpond.protocol.messages import FileRequest, Stop
from tests.waiting import PATIENCE_S


def put(outbox: Outbox, key: int) -> None:
    outbox.put(Stop(outbox.next_revision(), key, 1))


def test_directives_are_repeated_until_they_were_seen() -> None:
    outbox = Outbox()
    put(outbox, 1)
    put(outbox, 2)
    assert [d.revision for d in outbox.take()[0]] == [1, 2]
    assert [d.revision for d in outbox.take()[0]] == [1, 2]
    outbox.seen(1)
    put(outbox, 3)
    assert [d.revision for d in outbox.take()[0]] == [2, 3]
    outbox.seen(3)
    assert outbox.take() == ((), ())


def test_news_are_told_of_once() -> None:
    told: list[str] = []
    outbox = Outbox(lambda: told.append("news"))
    put(outbox, 1)
    put(outbox, 2)
    assert (told, outbox.has_news) == (["news"], True)
    outbox.take()
    assert (outbox.has_news, outbox.has_unseen) == (False, True)
    put(outbox, 3)
    assert told == ["news"] * 2
    outbox.take()
    outbox.repeat()
    assert outbox.has_news
    outbox.seen(3)
    outbox.take()
    assert (outbox.has_news, outbox.has_unseen) == (False, False)


def test_what_follows_from_reports_goes_with_their_answer_and_with_no_other() -> None:
    told: list[str] = []
    outbox = Outbox(lambda: told.append("news"))
    outbox.expect_answer()
    put(outbox, 1)
    assert (told, outbox.has_news) == ([], False)
    assert [d.revision for d in outbox.take()[0]] == [1]
    outbox.answered()
    assert (told, outbox.has_news, outbox.has_unseen) == ([], False, True)
    # Of what no answer took it is told; and of what is asked besides, at once.
    outbox.expect_answer()
    put(outbox, 2)
    outbox.ask(FileRequest("r", "stat", "x"))
    assert (told, outbox.has_news) == (["news"], True)
    outbox.answered()
    assert (told, outbox.has_news) == (["news"] * 2, True)


def test_a_new_session_starts_its_revisions_again() -> None:
    outbox = Outbox()
    put(outbox, 1)
    outbox.reset()
    put(outbox, 2)  # decided before the new session's inventory was compared: part of that comparison
    outbox.open()
    put(outbox, 2)
    assert [(d.revision, d.key) for d in outbox.take()[0] if isinstance(d, Stop)] == [(1, 2)]


def test_file_requests_go_out_once() -> None:
    outbox = Outbox()
    outbox.ask(FileRequest("r", "stat", "x"))
    assert [request.id for request in outbox.take()[1]] == ["r"]
    assert outbox.take()[1] == ()


async def test_timers_fire_replace_and_cancel() -> None:
    now = asyncio.get_running_loop().time
    timers = Timers(now)
    fired: list[str] = []
    rung = asyncio.Event()
    timers.set("a", now() + 0.01, lambda: fired.append("first"))
    timers.set("a", now() + 0.02, lambda: (fired.append("second"), rung.set()))
    timers.set("b", now() + 0.01, lambda: fired.append("cancelled"))
    timers.set("b", None, lambda: None)
    await asyncio.wait_for(rung.wait(), PATIENCE_S)
    assert fired == ["second"]
    past = asyncio.Event()
    timers.set("past", now() - 5, past.set)
    timers.set("far", now() + 1e6, lambda: fired.append("far"))
    await asyncio.wait_for(past.wait(), PATIENCE_S)
    timers.clear()
    assert fired == ["second"]


async def test_a_timer_notices_that_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timers, "_MAX_SLEEP_S", 0.01)
    loop = asyncio.get_running_loop()
    skew = 0.0
    timers = Timers(lambda: loop.time() + skew)
    told = asyncio.Event()
    fired: list[str] = []
    timers.set("a", loop.time() + 1000, lambda: fired.append("a"), set_back=told.set)
    timers.set("b", loop.time() + 1000, lambda: fired.append("b"))
    skew = -0.5
    looked = asyncio.Event()
    timers.set("c", loop.time() + skew + 0.05, looked.set)
    await asyncio.wait_for(looked.wait(), PATIENCE_S)
    assert not told.is_set(), "a clock that is kept right moves a little"
    skew = -500.0
    await asyncio.wait_for(told.wait(), PATIENCE_S)
    assert fired == []
    timers.clear()


def task(number: int) -> Task:
    return Task(
        key=(1 << 32) | number, id=str(number), state=TaskState.ACTIVE, creation_time=1, last_modified=1, state_time=1
    )


def test_the_last_row_of_a_batch_wins() -> None:
    batch = Batch()
    one, two, old = task(1), task(2), task(3)
    reply = batch.take(
        [
            f.AddTasks([one, two], [b"1", b"2"]),
            f.SaveTask(one),
            f.DeleteTask(two),
            f.SaveTask(old),
            f.DeleteTask(old),
            f.StopTask("n", 1, 1),
            f.Reply("answer"),
        ]
    )
    changes = batch.changes
    assert reply == "answer"
    assert (set(changes.tasks), changes.new_tasks, changes.specs) == ({one.key}, {one.key}, {one.key: b"1"})
    assert changes.deleted_tasks == {old.key}, "a row that never was need not be deleted"
    assert batch.after == [f.StopTask("n", 1, 1)]


def test_what_ends_is_not_only_handed_over_any_more() -> None:
    batch = Batch()
    first, second, third = task(1), task(2), task(3)
    batch.take([f.HandOver(first), f.HandOver(second), f.HandOver(third), f.SaveTasks([first, third])])
    assert batch.changes.handed == {second.key}
    assert batch.changes.tasks == {one.key: one for one in (first, second, third)}


def test_tasks_that_came_together_part_when_one_of_them_changes() -> None:
    def together(*then: f.Effect) -> list[int]:
        batch = Batch()
        first, second, other = [task(1), task(2)], [task(3), task(4)], task(9)
        batch.take([f.AddTasks(first, [b"1", b"2"], alike=True), f.AddTasks([other], [b"9"])])
        batch.take([f.AddTasks(second, [b"3", b"4"], alike=True)])
        batch.take(then)
        return [it.tasks[0].key & 0xFF for it in batch.changes.together]

    assert together() == [1, 3]
    assert together(f.HandOver(task(2)), f.SaveTask(task(9)), f.SaveTask(task(5))) == [1, 3]
    assert together(f.SaveTask(task(2))) == [3]
    assert together(f.SaveTasks([task(9), task(5)])) == [1, 3]
    assert together(f.HandOver(task(2)), f.SaveTasks([task(9), task(2)])) == [3]
    assert together(f.SaveTaskSpec(task(4).key, b"{}")) == [1]
    assert together(f.DeleteTask(task(1)), f.SaveTask(task(3))) == []


def test_specifications_are_kept_in_bounds() -> None:
    """What is needed first stays; each is given out once, as it was last."""
    cache = SpecCache(10_000)
    cache.add(dict.fromkeys(range(20), b"x" * 1000))
    kept = [number for number in range(20) if cache.take(number) is not None]
    assert kept == list(range(len(kept)))
    assert 5 <= len(kept) < 10
    cache.add({1: b"old", 2: b"two"})
    cache.add({1: b"new"})
    assert (cache.take(1), cache.take(1), cache.take(2)) == (b"new", None, b"two")
    cache.add(dict.fromkeys(range(10000), b""))
    assert sum(cache.take(number) is not None for number in range(10_000)) < 200, "small ones take memory too"


def test_auto_storage_containers_are_signed_on_the_way_out() -> None:
    plain = b'{"commandLine":"true"}'
    assert sign_auto_storage(plain, lambda name: "") is plain
    spec = json.dumps(
        {"resourceFiles": [{"autoStorageContainerName": "in", "blobPrefix": "a/"}, {"httpUrl": "http://x/"}]}
    )
    signed = json.loads(sign_auto_storage(spec.encode(), lambda name: f"http://s/{name}?sig=1"))
    assert signed["resourceFiles"] == [
        {"blobPrefix": "a/", "storageContainerUrl": "http://s/in?sig=1"},
        {"httpUrl": "http://x/"},
    ]


def test_the_common_files_of_instances_are_signed_too() -> None:
    files = [{"autoStorageContainerName": "in", "filePath": "d"}]
    spec = json.dumps({"multiInstanceSettings": {"coordinationCommandLine": "c", "commonResourceFiles": files}})
    signed = json.loads(sign_auto_storage(spec.encode(), lambda name: f"http://s/{name}?sig=1"))
    assert signed["multiInstanceSettings"]["commonResourceFiles"] == [
        {"filePath": "d", "storageContainerUrl": "http://s/in?sig=1"}
    ]


def test_the_limits_of_a_release_task_reach_nodes_as_constraints() -> None:
    spec = {"id": "jobrelease", "commandLine": "x", "maxWallClockTime": "PT1M", "retentionTime": "P1D"}
    assert release_spec(spec) == {
        "id": "jobrelease",
        "commandLine": "x",
        "constraints": {"maxWallClockTime": "PT1M", "retentionTime": "P1D"},
    }
    assert release_spec({"commandLine": "x"}) == {"commandLine": "x", "constraints": {}}
