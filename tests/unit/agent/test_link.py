"""A node and its control plane: the link on a real event loop, over a scripted transport."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from millpond.agent import node as node_module
from millpond.domain.events import HeldAttempt
from millpond.protocol.messages import (
    Coordinated,
    Ended,
    FileRequest,
    LaunchRequest,
    Proceed,
    RemoveDirectory,
    Report,
    Restart,
    Shutdown,
    Started,
    Stop,
    Stopped,
    Sync,
    SyncReply,
)
from millpond.sim.loop import VirtualLoop
from tests.unit.agent.fakes import FakeControl, Node, start
from tests.waiting import PATIENCE_S, until_true


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node(FakeControl())
    node.begin()
    yield node
    await node.close()


def ends(reports: dict[int, Report]) -> list[int]:
    """Keys of the attempts whose end was reported: whether their beginning was told apart is a matter of time."""
    return [report.key for _, report in sorted(reports.items()) if isinstance(report, Ended)]


def kinds(reports: dict[int, Report]) -> list[tuple[str, int]]:
    return [(type(report).__name__, report.key) for _, report in sorted(reports.items())]


async def test_a_task_is_run_and_reported(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    node.runner.end(1, exit_code=3)
    await until_true(lambda: ends(control.reports) == [1])
    assert control.reports[2] == Ended(2, 1, 1, 1.0, 2.0, 3)
    assert control.hellos[0].inventory == ()
    (facts,) = node.runner.facts
    assert (facts.node_id, facts.pool_id, facts.account_url, facts.root) == ("n1", "p", "http://a", "/nowhere")


async def test_one_call_is_parked_while_reports_go_beside_it(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running and control.parked == 1)
    calls = len(control.listener.calls)
    node.runner.end(1)
    await until_true(lambda: ends(control.reports) == [1])
    assert control.parked == 1
    assert len(control.listener.calls) == calls
    assert all(sync.reports for sync in control.syncs)


async def test_a_node_says_with_its_reports_whether_it_reports_again_soon(node: Node) -> None:
    control = node.control
    control.tell(*(start(key, key) for key in range(1, 9)))
    await until_true(lambda: len(node.runner.running) == 4 and len(control.reports) == 4)
    assert {sync.busy for sync in control.syncs} == {True}
    # The answers bring what is new as soon as the call that is parked.
    control.directives.append(Stop(9, 1, 1))
    node.runner.end(2)
    await until_true(lambda: Stopped in map(type, control.reports.values()))
    node.runner.end(3)
    node.runner.end(4)
    await until_true(
        lambda: {key for key, _ in node.runner.running} == {5, 6, 7, 8} and len(ends(control.reports)) == 3
    )
    await until_true(lambda: not control.syncs[-1].busy)


async def test_what_ends_together_is_reported_together(node: Node) -> None:
    control = node.control
    node.runner.at_once = True
    control.tell(*(start(key, key) for key in range(1, 101)))
    await until_true(lambda: len(ends(control.reports)) == 100)
    # What has ended when it is told of needs no report of its beginning.
    assert len(control.reports) < 200
    assert sum(bool(sync.reports) for sync in control.syncs) < 60


class TimedControl(FakeControl):
    """Knows when it was told something."""

    def __init__(self) -> None:
        super().__init__()
        self.told_at: list[float] = []

    async def sync(self, sync: Sync) -> SyncReply:
        if sync.reports:
            self.told_at.append(asyncio.get_running_loop().time())
        return await super().sync(sync)


def test_busy_nodes_of_a_host_report_at_the_same_moments() -> None:
    loop = VirtualLoop()
    controls = [TimedControl(), TimedControl()]

    async def run() -> None:
        nodes = [Node(control) for control in controls]
        await asyncio.sleep(1.0)
        for node in nodes:
            node.begin()
            node.control.tell(*(start(key, key) for key in range(1, 101)))
            await asyncio.sleep(0.013)
        for _ in range(60):
            await asyncio.sleep(0.003)
            for node in nodes:
                node.runner.end(min(key for key, _ in node.runner.running))
        for node in nodes:
            await node.close()

    loop.run_until_complete(run())
    loop.close()
    first, second = (control.told_at for control in controls)
    assert first[0] < second[0]
    assert len(first) > 3
    assert first[-3:] == second[-3:]


async def test_directives_are_seen_once_however_often_they_are_sent(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1), start(2, 2))
    await until_true(lambda: len(node.runner.running) == 2)
    node.runner.end(1)
    node.runner.end(2)
    await until_true(lambda: ends(control.reports) == [1, 2])
    control.directives = [start(1, 1), start(2, 2)]
    control.tell(start(3, 3))
    await until_true(lambda: (3, 1) in node.runner.running)
    assert node.runner.launches == [(1, 1, False), (2, 1, False), (3, 1, False)]


async def test_tasks_run_on_while_the_control_plane_is_away(node: Node) -> None:
    control = node.control
    control.tell(*(start(key, key, slots=4) for key in (1, 2)))
    await until_true(lambda: (1, 1) in node.runner.running)
    control.down = True
    control.poke()
    node.runner.end(1)
    await until_true(lambda: (2, 1) in node.runner.running)
    control.forget()
    control.down = False
    await until_true(lambda: control.sessions == 2)
    assert HeldAttempt(2, 1, 4) in control.hellos[1].inventory
    node.runner.end(2)
    await until_true(lambda: ends(control.reports) == [1, 2])


async def test_a_session_lost_while_a_call_is_parked_is_made_anew_at_once(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running and control.parked == 1)
    # The call stays where it is: only the report learns of it.
    control.forget()
    node.runner.end(1)
    await until_true(lambda: control.sessions == 2 and ends(control.reports) == [1])
    await until_true(lambda: control.parked == 1)


async def test_reports_are_repeated_until_acknowledged(node: Node) -> None:
    control = node.control
    control.acknowledges = False
    node.runner.at_once = True
    control.tell(start(1, 1))
    await until_true(lambda: sum(bool(sync.reports) for sync in control.syncs) > 2)
    control.acknowledges = True
    await until_true(lambda: ends(control.reports) == [1])
    control.acknowledges = False
    await until_true(lambda: not node.agent.has_reports)


async def test_a_busy_control_plane_is_asked_again_when_it_says(node: Node) -> None:
    control = node.control
    control.retry_after_s = 0.02
    node.runner.at_once = True
    control.tell(start(1, 1))
    await until_true(lambda: sum(bool(sync.reports) for sync in control.syncs) > 1)
    assert control.reports == {}
    control.retry_after_s = 0.0
    await until_true(lambda: ends(control.reports) == [1])


async def test_a_call_that_is_not_parked_is_not_repeated_in_a_rush(node: Node) -> None:
    await until_true(lambda: node.control.parked == 1)
    control = node.control
    calls = control.listener.calls
    control.listener.parks = False
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    before = len(calls)
    pauses = 4
    await until_true(lambda: len(calls) >= before + pauses)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await until_true(lambda: len(calls) >= before + 2 * pauses)
    assert loop.time() - begun >= (pauses - 1) * 0.75 * 0.05


async def test_stop_and_removal_are_carried_out(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    control.tell(Stop(2, 1, 1), RemoveDirectory(3, "j", "t1"))
    await until_true(lambda: node.runner.removed == [("j", "t1")])
    await until_true(lambda: Stopped(2, 1, 1, -9) in control.reports.values())


async def test_a_stop_right_behind_a_start_finds_the_run(node: Node) -> None:
    node.control.tell(start(1, 1), start(2, 2), Stop(3, 2, 1), start(4, 2, 2))
    await until_true(lambda: (2, 2) in node.runner.running)
    assert node.runner.launches == [(1, 1, False), (2, 2, False)]


async def test_shutdown_ends_the_link_and_everything_that_runs(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    control.tell(Shutdown(2))
    await asyncio.wait_for(node.task, PATIENCE_S)
    await asyncio.wait_for(node.agent.ended(), PATIENCE_S)
    assert node.runner.stops == [(1, 1)]


async def test_after_a_crash_the_node_goes_on_where_it_was(node: Node) -> None:
    control = node.control
    control.tell(*(start(key, key, slots=2) for key in (1, 2, 3)))
    await until_true(lambda: len(node.runner.running) == 2 and len(control.reports) == 2)
    control.down = True
    control.poke()
    node.runner.end(1)
    await until_true(lambda: (3, 1) in node.runner.running)
    await node.crash()
    control.forget()
    control.down = False
    node.begin()
    await until_true(lambda: control.sessions == 2)
    assert set(control.hellos[1].inventory) == {
        HeldAttempt(1, 1, 2, ended=True),
        HeldAttempt(2, 1, 2),
        HeldAttempt(3, 1, 2),
    }
    assert set(node.runner.launches[3:]) == {(2, 1, True), (3, 1, True)}
    assert control.hellos[1].boot_time == control.hellos[0].boot_time
    await until_true(lambda: len(node.runner.running) == 2)
    node.runner.end(2)
    node.runner.end(3)
    await until_true(lambda: sum(isinstance(report, Ended) for report in control.reports.values()) == 3)


async def test_a_moved_service_gets_new_facts_to_attempts_once_nothing_runs(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    control.account_url = "http://b"
    control.forget()
    control.poke()
    await until_true(lambda: control.sessions == 2)
    control.tell(start(1, 2))
    await until_true(lambda: (2, 1) in node.runner.running)
    assert [facts.account_url for facts in node.runner.facts] == ["http://a"]
    node.runner.end(1)
    node.runner.end(2)
    await until_true(lambda: ends(control.reports) == [1, 2])
    control.tell(start(2, 3))
    await until_true(lambda: (3, 1) in node.runner.running)
    assert [facts.account_url for facts in node.runner.facts] == ["http://a", "http://b"]
    await until_true(lambda: node.runner.closed == 1)


async def test_files_are_answered_and_closed(node: Node) -> None:
    control = node.control
    control.ask(FileRequest("a", "read", "x"))
    control.ask(FileRequest("b", "stat", "y"))
    control.ask(FileRequest("c", "stat", "broken"))
    await until_true(lambda: len(control.file_replies) == 3)
    replies = {request_id: (reply.message, reply.error, body) for request_id, reply, body in control.file_replies}
    assert replies["a"] == ("x", "", b"one two")
    assert replies["b"] == ("y", "", b"")
    assert replies["c"][1] == "InternalError"
    assert node.files.closed == 1


async def test_a_nudge_ends_a_pause(node: Node) -> None:
    control = node.control
    await until_true(lambda: control.parked == 1)
    control.retry_after_s = 3600.0
    node.runner.at_once = True
    control.tell(start(1, 1))
    await until_true(lambda: any(sync.reports for sync in control.syncs))
    control.retry_after_s = 0.0

    def reported() -> bool:
        node.link.nudge()
        return ends(control.reports) == [1]

    await until_true(reported)


async def test_a_lost_answer_to_a_call_that_listens_is_noticed_after_its_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = node.control
    await until_true(lambda: control.parked == 1)
    monkeypatch.setattr("millpond.agent.link._ANSWER_S", 0.05)
    monkeypatch.setattr("millpond.agent.listening._ANSWER_S", 0.05)
    control.park_s = 0.05
    control.forget()
    control.deaf = True
    control.poke()
    await until_true(lambda: node.agent.session == "")
    control.deaf = False
    await until_true(lambda: control.sessions == 2 and control.parked == 1)
    calls = len(control.listener.calls)
    await until_true(lambda: len(control.listener.calls) > calls + 2)
    assert control.sessions == 2


async def test_an_instance_coordinates_and_goes_on(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    node.runner.coordinates[1, 1]()
    await until_true(lambda: Coordinated(2, 1, 1) in control.reports.values())
    control.tell(Proceed(2, 1, 1))
    await until_true(lambda: node.runner.proceeded == [(1, 1)])
    await node.crash()
    node.begin()
    await until_true(lambda: node.runner.proceeded == [(1, 1), (1, 1)])


async def test_a_reboot_ends_with_a_hello_that_holds_nothing(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1), start(2, 2))
    await until_true(lambda: len(node.runner.running) == 2 and len(control.reports) == 2)
    node.at = 200.0
    control.tell(Restart(3))
    await until_true(lambda: len(control.hellos) == 2)
    assert control.hellos[0].boot_time == control.hellos[0].disk_time == 100.0
    again = control.hellos[1]
    assert (again.boot_time, again.disk_time, again.inventory) == (200.0, 100.0, ())
    assert sorted(node.runner.stops) == [(1, 1), (2, 1)]
    assert kinds(control.reports) == [("Started", 1), ("Started", 2)]
    assert (node.wipes, node.runner.closed) == (0, 0)
    control.tell(start(1, 1, 2))
    await until_true(lambda: (1, 2) in node.runner.running)
    await until_true(lambda: control.reports.get(3) == Started(3, 1, 2, 1.0))


async def test_a_reimaged_node_comes_up_on_an_empty_disk(node: Node) -> None:
    control = node.control
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    node.at = 200.0
    control.tell(Restart(2, wipe=True))
    await until_true(lambda: len(control.hellos) == 2)
    assert (control.hellos[1].boot_time, control.hellos[1].disk_time) == (200.0, 200.0)
    assert (node.wipes, node.runner.closed) == (1, 1)


async def test_a_disk_that_cannot_be_wiped_yet_is_tried_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "_WIPE_PAUSE_S", 0.001)
    control = node.control
    node.wipe_fails = True
    await until_true(lambda: control.parked == 1)
    control.tell(Restart(1, wipe=True))
    await until_true(lambda: node.wipes > 2)
    assert len(control.hellos) == 1
    node.wipe_fails = False
    await until_true(lambda: len(control.hellos) == 2)


async def test_an_agent_that_dies_in_the_middle_of_a_reimage_goes_on_with_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "_WIPE_PAUSE_S", 0.001)
    control = node.control
    node.wipe_fails = True
    control.tell(start(1, 1), Restart(2, wipe=True))
    await until_true(lambda: node.wipes > 0)
    await node.crash()
    control.forget()
    node.at = 300.0
    node.begin()
    assert node.agent.restarting
    await until_true(lambda: node.wipes > 1)
    assert len(control.hellos) == 1
    node.wipe_fails = False
    await until_true(lambda: len(control.hellos) == 2)
    assert (control.hellos[1].boot_time, control.hellos[1].inventory) == (300.0, ())


async def test_a_command_for_an_instance_is_answered(node: Node) -> None:
    control = node.control
    await until_true(lambda: control.parked == 1)
    control.launch_requests += [
        LaunchRequest("r1", 1, 1, "c", "four", 0, 0, 1.0),
        LaunchRequest("r2", 1, 1, "c", "broken", 0, 0, 1.0),
    ]
    control.poke()
    await until_true(lambda: len(control.launch_replies) == 2)
    assert control.launch_replies["r1"].error == "TaskNotFound"
    control.tell(start(1, 1))
    await until_true(lambda: (1, 1) in node.runner.running)
    control.launch_requests += [
        LaunchRequest("r3", 1, 1, "c", "four", 0, 0, 1.0),
        LaunchRequest("r4", 1, 1, "c", "broken", 0, 0, 1.0),
    ]
    control.poke()
    await until_true(lambda: len(control.launch_replies) == 4)
    assert control.launch_replies["r3"].exit_code == 4
    assert control.launch_replies["r4"].error == "InternalError"
