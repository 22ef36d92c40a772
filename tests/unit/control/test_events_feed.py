"""The feed of service log events, through the true control plane on virtual time."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millpond.control.events_feed import KEPT_EVENTS, MAX_EVENTS, Events, EventsFeed
from millpond.domain import events as e
from millpond.domain.autoscale import AutoScale
from millpond.domain.service_log import PoolDeleteStartEvent
from millpond.domain.task import NewTask
from millpond.protocol import messages as m
from tests.listening import hear, tell
from tests.unit.control.lab import SETTINGS, Lab
from tests.unit.scheduler.world import new_job, new_pool
from tests.waiting import PATIENCE_S

GROWS = "$TargetDedicatedNodes = 2; $NodeDeallocationOption = taskcompletion;"


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def read(lab: Lab, after: int | None = None, wait_s: float = 0.0) -> Events:
    answer = await lab.insist(lambda c: c.events_feed.read(after, wait_s))
    assert isinstance(answer, Events)
    return answer


def names(events: Events) -> list[str]:
    return [event.name for event in events.events]


def bodies(events: Events, name: str) -> list[Any]:
    return [msgspec.json.decode(msgspec.json.encode(event.body)) for event in events.events if event.name == name]


async def events_named(lab: Lab, name: str, count: int = 1) -> Events:
    """All there is, once it holds so many of that name."""

    async def there() -> bool:
        return len(bodies(await read(lab), name)) >= count

    await lab.until(there)
    return await read(lab)


class Node:
    """The pool's only node."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._id = self._session = ""
        self._seen = self._said = 0

    async def connect(self) -> None:
        (node,) = (await self._lab.store.list_nodes("pool", None, 2, None)).items
        self._id, self._seen, self._said = node.id, 0, 0
        hello = m.Hello(node.id, m.PROTOCOL_VERSION, "1", self._lab.clock(), "10.0.0.1")
        welcome = await self._lab.insist(lambda c: c.agents.hello(hello))
        assert isinstance(welcome, m.Welcome)
        self._session = welcome.session

    async def _sync(self, *reports: m.Report) -> m.SyncReply:
        sync = m.Sync(self._id, self._session, self._seen, reports)
        if reports:
            reply = await self._lab.insist(lambda c: tell(c.agents, sync))
        else:
            reply = await self._lab.insist(lambda c: hear(c.agents, self._id, self._session, self._seen))
        assert isinstance(reply, m.SyncReply)
        return reply

    async def run(self, exit_code: int) -> None:
        """Take the next task, and end it."""
        start: m.Start | None = None
        while start is None:
            for directive in (await self._sync()).directives:
                if directive.revision > self._seen:
                    self._seen = directive.revision
                    start = directive if isinstance(directive, m.Start) else start
        at, said = self._lab.clock(), self._said
        self._said += 2
        started = m.Started(said + 1, start.key, start.attempt, at)
        await self._sync(started, m.Ended(said + 2, start.key, start.attempt, at, at, exit_code))


async def add_work(lab: Lab, *task_ids: str) -> None:
    tasks = tuple(NewTask(task_id, b"{}") for task_id in task_ids)
    await lab.insist(lambda c: c.to_job("job", e.TasksAdded(at=lab.clock(), job_id="job", tasks=tasks)))


def test_the_life_of_a_pool_that_scales_itself(lab: Lab) -> None:
    async def main() -> None:
        await lab.keep_alive()
        pool = new_pool(pool_id="pool")
        pool.auto_scale = AutoScale(GROWS, 300.0, 0.0, 0.0)
        await lab.insist(lambda c: c.add_pool(pool, "test"))
        await events_named(lab, "PoolResizeCompleteEvent")
        await lab.insist(lambda c: c.to_pool("pool", e.PoolDeleteRequested(at=lab.clock())))
        told = await events_named(lab, "PoolDeleteCompleteEvent")
        assert names(told) == [
            "PoolCreateEvent",
            "PoolAutoScaleEvent",
            "PoolResizeStartEvent",
            "PoolResizeCompleteEvent",
            "PoolDeleteStartEvent",
            "PoolDeleteCompleteEvent",
        ]
        numbers = [event.sequence for event in told.events]
        assert numbers == sorted(set(numbers))
        (created,) = bodies(told, "PoolCreateEvent")
        assert (created["id"], created["enableAutoScale"], created["vmFillType"]) == ("pool", True, "Spread")
        assert created["resizeTimeout"] == "900000"
        (scaled,) = bodies(told, "PoolAutoScaleEvent")
        assert scaled["formula"] == GROWS
        assert scaled["results"].startswith("$TargetDedicatedNodes=2;")
        assert scaled["error"] == {"code": "", "message": "", "values": []}
        (started,) = bodies(told, "PoolResizeStartEvent")
        assert started == {
            "id": "pool",
            "nodeDeallocationOption": "Invalid",
            "currentDedicatedNodes": 0,
            "targetDedicatedNodes": 2,
            "currentLowPriorityNodes": 0,
            "targetLowPriorityNodes": 0,
            "enableAutoScale": True,
            "isAutoPool": False,
        }
        (ended,) = bodies(told, "PoolResizeCompleteEvent")
        assert (ended["currentDedicatedNodes"], ended["resultCode"]) == (2, "Success")
        assert ended["startTime"] <= ended["endTime"]

    lab.run(main())


def test_an_evaluation_that_fails_is_told_with_its_error(lab: Lab) -> None:
    async def main() -> None:
        await lab.keep_alive()
        pool = new_pool(pool_id="pool")
        pool.auto_scale = AutoScale("$TargetDedicatedNodes = 1 / 0;", 300.0, 0.0, 0.0)
        await lab.insist(lambda c: c.add_pool(pool, "test"))
        (scaled,) = bodies(await events_named(lab, "PoolAutoScaleEvent"), "PoolAutoScaleEvent")
        assert scaled["error"]["code"] == "AutoScalingFormulaEvaluationError"
        assert scaled["error"]["values"][0]["value"].startswith("Line 1, Col ")

    lab.run(main())


def test_tasks_are_told_of_while_somebody_reads(lab: Lab) -> None:
    async def main() -> None:
        await lab.keep_alive()
        await lab.insist(lambda c: c.add_pool(new_pool(1, pool_id="pool"), "test"))
        await lab.insist(lambda c: c.add_job(new_job(), "test"))
        node = Node(lab)
        await node.connect()
        await add_work(lab, "unseen")
        await node.run(0)
        first = await read(lab)
        assert not any(name.startswith("Task") for name in names(first))
        await add_work(lab, "good")
        await node.run(0)
        await add_work(lab, "bad")
        await node.run(3)
        told = await read(lab, first.next)
        assert names(told) == [
            "TaskStartEvent",
            "TaskCompleteEvent",
            "TaskStartEvent",
            "TaskCompleteEvent",
            "TaskFailEvent",
        ]
        start = bodies(told, "TaskStartEvent")[0]
        node_id = start.pop("nodeInfo")["nodeId"]
        assert node_id.startswith("tvmps_")
        assert start == {
            "jobId": "job",
            "id": "good",
            "taskType": "User",
            "systemTaskVersion": 1,
            "requiredSlots": 1,
            "multiInstanceSettings": {"numberOfInstances": 1},
            "constraints": {"maxTaskRetryCount": 0},
            "executionInfo": {"retryCount": 0},
        }
        info = bodies(told, "TaskCompleteEvent")[0]["executionInfo"]
        assert info.keys() == {"startTime", "endTime", "exitCode", "retryCount", "requeueCount"}
        (failed,) = bodies(told, "TaskFailEvent")
        assert (failed["id"], failed["executionInfo"]["exitCode"]) == ("bad", 3)
        assert failed["executionInfo"]["result"] == "Failure"
        assert failed["executionInfo"]["schedulingError"]["code"] == "FailureExitCode"
        assert failed["executionInfo"]["schedulingError"]["category"] == "UserError"
        # Nobody has read for long: tasks cost nothing again.
        await asyncio.sleep(100.0)
        await node.connect()
        await add_work(lab, "late")
        await node.run(0)
        assert names(await read(lab, told.next)) == []

    lab.run(main())


def test_a_reader_waits_for_the_first_event(lab: Lab) -> None:
    async def main() -> None:
        await lab.keep_alive()
        begun = lab.loop.time()
        nothing = await read(lab, wait_s=20.0)
        assert names(nothing) == []
        assert lab.loop.time() - begun >= 20.0
        reading = asyncio.ensure_future(read(lab, nothing.next, wait_s=30.0))
        await asyncio.sleep(1.0)
        assert not reading.done()
        await lab.insist(lambda c: c.add_pool(new_pool(pool_id="pool"), "test"))
        told = await reading
        assert names(told) == ["PoolCreateEvent"]
        assert not told.missed

    lab.run(main())


def test_a_stopping_service_answers_its_readers(lab: Lab) -> None:
    async def main() -> None:
        await lab.keep_alive()
        control = lab.control
        assert control is not None
        reading = asyncio.ensure_future(read(lab, wait_s=60.0))
        await asyncio.sleep(1.0)
        begun = lab.loop.time()
        await lab.call(lambda c: c.stop())
        assert names(await reading) == []
        assert lab.loop.time() - begun < 30.0

    lab.run(main())


def test_a_reader_from_before_a_restart_is_told_that_it_missed_something(lab: Lab) -> None:
    async def main() -> None:
        await lab.keep_alive()
        await lab.insist(lambda c: c.add_pool(new_pool(pool_id="pool"), "test"))
        before = await read(lab)
        assert not before.missed
        await asyncio.sleep(1.0)
        await lab.restart()
        await lab.insist(lambda c: c.to_pool("pool", e.PoolDeleteRequested(at=lab.clock())))
        after = await events_named(lab, "PoolDeleteCompleteEvent")
        assert after.events[0].sequence > before.next
        again = await read(lab, before.next)
        assert again.missed
        assert names(again) == names(after)
        lab.skew_s = -3600.0
        await lab.restart()
        assert (await read(lab, again.next)).missed

    lab.run(main())


async def test_only_the_last_events_are_kept() -> None:
    feed = EventsFeed(lambda: 1.0, lambda wanted: None)
    for number in range(KEPT_EVENTS + 5):
        feed.add(PoolDeleteStartEvent(id=f"p{number}"))
    first = await feed.read(None, 0.0)
    assert len(first.events) == MAX_EVENTS
    assert first.events[0].body == PoolDeleteStartEvent(id="p5")
    assert (await feed.read(1_000_000, 0.0)).missed
    second = await feed.read(first.next, 0.0)
    assert second.events[0].sequence == first.events[-1].sequence + 1
    assert not second.missed
    last = await feed.read(1_000_000 + KEPT_EVENTS + 5, 0.0)
    assert (list(last.events), last.missed) == ([], False)


async def test_events_go_to_a_file_one_object_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "there" / "events.jsonl"
    feed = EventsFeed(lambda: 1_700_000_000.0, lambda wanted: None, str(path))
    assert feed.wants_tasks
    feed.start()
    feed.add(PoolDeleteStartEvent(id="p1"))
    async with asyncio.timeout(PATIENCE_S):
        while "events are not in" not in caplog.text:
            await asyncio.sleep(0.01)
        path.parent.mkdir()
        while not path.exists():
            await asyncio.sleep(0.01)
    feed.add(PoolDeleteStartEvent(id="p2"))
    await feed.stop()
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    assert [line["body"] for line in lines] == [{"id": "p1"}, {"id": "p2"}]
    assert (lines[0]["name"], lines[0]["time"]) == ("PoolDeleteStartEvent", "2023-11-14T22:13:20Z")


def test_with_a_file_tasks_are_always_told_of(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    feed = EventsFeed(lambda: 1.0, lambda wanted: None, str(path))
    assert feed.wants_tasks
    assert not EventsFeed(lambda: 1.0, lambda wanted: None).wants_tasks
    assert SETTINGS.events_file is None
