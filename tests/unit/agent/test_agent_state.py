"""The agent's decisions, one rule at a time, and then all of them under random traffic."""

import msgspec

from millpond.agent.actions import Action, Deed, GoOn, Kill, Launch, Remove, Renew
from millpond.agent.base import Outcome
from millpond.agent.records import Record
from millpond.agent.state import AgentState
from millpond.domain.states import TaskKind
from millpond.protocol.messages import (
    Coordinated,
    Directive,
    Ended,
    Proceed,
    RemoveDirectory,
    Report,
    Restart,
    Return,
    Returned,
    Shutdown,
    Start,
    Started,
    Stop,
    Stopped,
    SyncReply,
    Welcome,
)

NOW = 1000.0
DONE = Outcome(start_time=NOW, end_time=NOW + 1, exit_code=0)
KILLED = Outcome(start_time=NOW, end_time=NOW + 1, exit_code=-9)


def start(revision: int, key: int, attempt: int = 1, *, slots: int = 1, task_id: str = "", job_id: str = "j") -> Start:
    return Start(revision, key, attempt, job_id=job_id, task_id=task_id or f"t{key}", slots=slots, spec=b"{}")


def welcome(session: str = "s1", slots: int = 2) -> Welcome:
    return Welcome(
        session=session,
        pool_id="p",
        account_name="a",
        account_url="http://a",
        is_dedicated=True,
        task_slots=slots,
        park_s=1,
    )


class Node:
    """A state with its journal, in a session."""

    def __init__(self, slots: int = 2) -> None:
        self.journal: list[Record] = []
        self.state = AgentState(slots)
        self.take(self.state.resume(NOW))
        self.take(self.state.welcomed(welcome(slots=slots), NOW))

    def take(self, actions: list[Action]) -> list[Deed]:
        deeds: list[Deed] = []
        for action in actions:
            if isinstance(action, Deed):
                deeds.append(action)
            else:
                self.journal.append(action)
        return deeds

    def tell(self, *directives: Directive, session: str = "s1") -> list[Deed]:
        return self.take(self.state.replied(session, SyncReply(session=session, directives=directives), NOW))

    def end(self, key: int, attempt: int = 1, outcome: Outcome = DONE) -> list[Deed]:
        return self.take(self.state.ended([((key, attempt), outcome)], NOW))

    def acknowledge(self, seq: int) -> None:
        self.take(self.state.replied("s1", SyncReply(session="s1", acknowledged=seq), NOW))

    def restart(self) -> list[Deed]:
        self.state = AgentState(9, self.journal)
        return self.take(self.state.resume(NOW))

    @property
    def reports(self) -> list[Report]:
        return list(self.state.reports(1000))

    @property
    def held(self) -> list[tuple[int, int, bool]]:
        return [(held.key, held.attempt, held.ended) for held in self.state.inventory()]


def launched(deeds: list[Deed]) -> list[int]:
    return [deed.start.key for deed in deeds if isinstance(deed, Launch)]


def test_attempts_start_in_order_while_slots_are_free() -> None:
    node = Node(slots=2)
    assert launched(node.tell(start(1, 1), start(2, 2), start(3, 3))) == [1, 2]
    assert launched(node.end(1)) == [3]


def test_nothing_overtakes_the_head_of_the_queue() -> None:
    node = Node(slots=2)
    assert launched(node.tell(start(1, 1), start(2, 2, slots=2), start(3, 3))) == [1]
    assert launched(node.end(1)) == [2]
    assert launched(node.end(2)) == [3]


def test_a_directive_is_taken_once() -> None:
    node = Node()
    node.tell(start(1, 1), start(2, 2))
    assert node.tell(start(1, 1), start(2, 2)) == []
    assert node.state.seen == 2
    assert launched(node.tell(start(2, 2), start(3, 3))) == []
    assert node.held == [(1, 1, False), (2, 1, False), (3, 1, False)]


def test_a_start_of_a_known_attempt_changes_nothing() -> None:
    node = Node()
    node.tell(start(1, 1))
    assert node.tell(start(2, 1)) == []
    assert node.held == [(1, 1, False)]


def test_answers_of_another_session_change_nothing() -> None:
    node = Node()
    assert node.tell(start(1, 1), session="s0") == []
    late = SyncReply(session="s0", directives=(start(5, 5),), acknowledged=9)
    assert node.state.replied("s1", late, NOW) == []
    assert node.held == []
    assert node.state.seen == 0


def test_an_unknown_session_is_lost_and_the_next_counts_from_nought() -> None:
    node = Node()
    node.tell(start(7, 1))
    assert node.state.replied("s0", SyncReply(session="s0", session_unknown=True), NOW) == []
    assert node.state.session == "s1"
    node.take(node.state.replied("s1", SyncReply(session="s1", session_unknown=True), NOW))
    assert node.state.session == ""
    node.take(node.state.welcomed(welcome("s2"), NOW))
    assert node.state.seen == 0
    assert launched(node.tell(start(1, 2), session="s2")) == [2]


def test_reports_are_kept_until_acknowledged() -> None:
    node = Node()
    node.tell(start(1, 1), start(2, 2))
    node.take(node.state.started(1, 1, NOW))
    assert [(type(report), report.seq) for report in node.reports] == [(Started, 1)]
    node.end(1)
    # The end says when it began.
    assert [(type(report), report.seq) for report in node.reports] == [(Ended, 2)]
    node.acknowledge(1)
    assert [report.seq for report in node.reports] == [2]
    assert node.held == [(1, 1, True), (2, 1, False)]
    node.acknowledge(2)
    node.acknowledge(1)
    assert node.reports == []
    assert node.held == [(2, 1, False)]


def test_what_the_end_does_not_say_is_told_before_it() -> None:
    node = Node(slots=4)
    instance = msgspec.structs.replace(start(3, 3), kind=TaskKind.INSTANCE)
    node.tell(start(1, 1), start(2, 2), instance, start(4, 4))
    for key in (1, 2, 3, 4):
        node.take(node.state.started(key, 1, NOW))
    node.tell(Stop(5, 1, 1))
    node.end(1, outcome=KILLED)
    node.end(2, outcome=Outcome(start_time=None, end_time=NOW, exit_code=None))
    node.end(3)
    node.end(4)
    kinds = [(type(report), report.key) for report in node.reports]
    assert kinds == [(Started, 1), (Started, 2), (Started, 3), (Stopped, 1), (Ended, 2), (Ended, 3), (Ended, 4)]
    # A part of them that has a beginning and not its end is told as it is.
    assert [report.seq for report in node.state.reports(4)] == [1, 2, 3, 4]
    # What is known is not called needless for ever.
    node.acknowledge(8)
    node.tell(start(6, 6))
    node.take(node.state.started(6, 1, NOW))
    node.acknowledge(9)
    node.end(6)
    assert [report.seq for report in node.reports] == [10]


def test_a_stop_kills_and_is_answered_at_the_end() -> None:
    node = Node()
    node.tell(start(1, 1))
    assert node.tell(Stop(2, 1, 1)) == [Kill(1, 1)]
    assert node.tell(Stop(3, 1, 1)) == []
    assert node.reports == []
    node.end(1, outcome=KILLED)
    assert node.reports == [Stopped(1, 1, 1, exit_code=-9)]


def test_a_stop_of_a_queued_attempt_never_launches_it() -> None:
    node = Node(slots=1)
    node.tell(start(1, 1), start(2, 2), start(3, 3))
    assert node.tell(Stop(4, 2, 1)) == []
    assert node.reports == [Stopped(1, 2, 1)]
    assert launched(node.end(1)) == [3]


def test_a_stop_before_its_turn_in_the_same_answer() -> None:
    node = Node()
    assert node.tell(start(1, 1), Stop(2, 1, 1)) == []
    assert node.reports == [Stopped(1, 1, 1)]


def test_a_stop_of_an_unknown_attempt_is_answered() -> None:
    node = Node()
    node.tell(Stop(1, 8, 3))
    assert node.reports == [Stopped(1, 8, 3)]


def test_a_stop_after_the_end_is_answered_behind_it() -> None:
    node = Node()
    node.tell(start(1, 1))
    node.end(1)
    assert node.tell(Stop(2, 1, 1)) == []
    assert [type(report) for report in node.reports] == [Ended, Stopped]
    node.acknowledge(1)
    assert node.held == [(1, 1, True)]
    node.acknowledge(2)
    assert node.held == []


def test_only_what_has_not_started_is_returned() -> None:
    node = Node(slots=1)
    node.tell(start(1, 1), start(2, 2))
    assert node.tell(Return(3, 1, 1), Return(4, 2, 1), Return(5, 9, 1)) == []
    assert node.reports == [Returned(1, 2, 1)]
    assert launched(node.end(1)) == []


def test_a_newer_attempt_takes_the_place_of_an_older_when_that_is_gone() -> None:
    node = Node(slots=4)
    node.tell(start(1, 1, 1))
    assert node.tell(start(2, 1, 2), start(3, 2)) == [Kill(1, 1)]
    assert launched(node.end(1, 1, KILLED)) == [1, 2]
    assert node.reports == [Stopped(1, 1, 1, exit_code=-9)]


def test_an_older_attempt_than_one_held_is_not_run() -> None:
    node = Node()
    node.tell(start(1, 1, 2))
    assert node.tell(start(2, 1, 1)) == []
    assert node.reports == [Stopped(1, 1, 1)]


def test_a_task_that_cannot_fit_goes_back_at_once() -> None:
    node = Node(slots=2)
    assert launched(node.tell(start(1, 1, slots=3), start(2, 2))) == [2]
    (report,) = node.reports
    assert isinstance(report, Ended)
    assert report.retryable
    assert report.failure is not None
    assert "3 task slots" in report.failure.message


def test_a_directory_is_removed_when_nothing_uses_it_and_before_it_is_used_again() -> None:
    node = Node(slots=4)
    node.tell(start(1, 1, task_id="t"), Stop(2, 1, 1))
    node.tell(start(3, 2, task_id="u"))
    assert node.tell(RemoveDirectory(4, "j", "u"), start(5, 3, task_id="u"), start(6, 4)) == []
    assert node.end(2) == [Remove("j", "u")]
    assert launched(node.take(node.state.removed("j", "u", NOW))) == [3, 4]


def test_all_directories_of_a_job_wait_for_all_its_tasks() -> None:
    node = Node(slots=4)
    node.tell(start(1, 1), start(2, 2), start(3, 3, job_id="other"))
    assert node.tell(RemoveDirectory(4, "j")) == []
    assert node.end(1) == []
    assert node.end(2) == [Remove("j", "")]


def test_shutdown_kills_everything_and_reports_nothing() -> None:
    node = Node(slots=1)
    node.tell(start(1, 1), start(2, 2))
    assert node.tell(Shutdown(3), start(4, 4)) == [Kill(1, 1)]
    assert node.state.leaving
    assert node.end(1, outcome=KILLED) == []
    assert node.reports == []
    assert node.state.idle
    node.restart()
    assert node.state.leaving


def test_what_is_killed_because_the_agent_stops_runs_again() -> None:
    node = Node(slots=2)
    node.tell(start(1, 1), start(2, 2), start(3, 3))
    assert node.take(node.state.interrupt()) == [Kill(1, 1), Kill(2, 1)]
    assert node.end(1, outcome=KILLED) == []
    assert node.end(2, outcome=DONE) == []
    assert [(r.key, r.retryable) for r in node.reports if isinstance(r, Ended)] == [(1, True), (2, False)]
    assert launched(node.restart()) == [3]


def test_after_a_restart_everything_goes_on() -> None:
    node = Node(slots=2)
    node.tell(start(1, 1), start(2, 2), start(3, 3), start(4, 4))
    node.take(node.state.started(1, 1, NOW))
    node.take(node.state.started(2, 1, NOW))
    node.end(1)
    node.acknowledge(1)
    before = node.held
    deeds = node.restart()
    assert [(deed.start.key, deed.resumed) for deed in deeds if isinstance(deed, Launch)] == [(2, True), (3, True)]
    assert node.state.session == ""
    assert sorted(node.held) == sorted(before)
    assert [report.seq for report in node.reports] == [2, 3]
    assert node.state.started(2, 1, NOW + 5) == []
    assert launched(node.end(2)) == [4]
    assert node.reports[-1].seq == 4


def test_a_stop_outlives_a_restart() -> None:
    node = Node()
    node.tell(start(1, 1))
    node.tell(Stop(2, 1, 1))
    assert node.restart() == [Launch(start(1, 1), resumed=True, began=NOW), Kill(1, 1)]
    node.end(1, outcome=KILLED)
    assert node.reports == [Stopped(1, 1, 1, exit_code=-9)]


def test_a_removal_outlives_a_restart() -> None:
    node = Node()
    assert node.tell(RemoveDirectory(1, "j", "t1"), start(2, 1)) == [Remove("j", "t1")]
    assert node.restart() == [Remove("j", "t1")]
    assert launched(node.take(node.state.removed("j", "t1", NOW))) == [1]


def test_report_numbers_are_never_used_again() -> None:
    node = Node()
    node.tell(start(1, 1))
    node.end(1)
    node.acknowledge(1)
    node.journal = node.state.snapshot()
    node.restart()
    node.take(node.state.welcomed(welcome(), NOW))
    node.tell(Stop(1, 5, 1))
    assert node.reports == [Stopped(2, 5, 1)]


def test_what_needs_no_slots_does_not_stand_in_line() -> None:
    node = Node(slots=1)
    assert launched(node.tell(start(1, 1), start(2, 2), start(3, 3, slots=0))) == [3, 1]
    assert launched(node.tell(start(4, 4, slots=0), start(5, 5, slots=0, task_id="t3"))) == [4]
    # In the directory of another it waits for that one only.
    assert launched(node.end(3)) == [5]
    assert launched(node.end(1)) == [2]


def test_a_release_task_waits_for_what_is_left_of_its_job() -> None:
    node = Node()
    release = Start(3, 9, 1, job_id="j", task_id="jobrelease", slots=0, spec=b"{}", kind=TaskKind.JOB_RELEASE)
    node.tell(start(1, 1), start(2, 2, job_id="other"))
    assert launched(node.tell(release, Stop(4, 1, 1))) == []
    assert launched(node.end(1, outcome=KILLED)) == [9]


def test_what_needs_no_slots_may_be_stopped_and_returned_before_its_directory_is_free() -> None:
    node = Node()
    node.tell(start(1, 1, slots=0, task_id="t"), start(2, 2, slots=0, task_id="t"), start(3, 3, slots=0, task_id="t"))
    assert node.tell(Stop(4, 2, 1), Return(5, 3, 1)) == []
    assert node.reports == [Stopped(1, 2, 1), Returned(2, 3, 1)]
    assert launched(node.end(1)) == []


def test_what_needed_no_slots_is_held_until_its_end_is_acknowledged() -> None:
    node = Node()
    node.tell(start(1, 1, slots=0))
    node.end(1)
    node.journal = node.state.snapshot()
    node.restart()
    assert node.held == [(1, 1, True)]
    assert [type(report) for report in node.reports] == [Ended]


def test_a_start_task_has_the_node_to_itself_as_far_as_directories_go() -> None:
    node = Node()
    first = Start(1, 1, 1, job_id="", task_id="", slots=0, spec=b"{}")
    again = Start(2, 1, 2, job_id="", task_id="", slots=0, spec=b"{}")
    assert launched(node.tell(first)) == [1]
    assert node.tell(again) == [Kill(1, 1)]
    assert launched(node.end(1, 1, KILLED)) == [1]


def test_an_instance_says_once_that_it_has_coordinated() -> None:
    node = Node()
    node.tell(start(1, 1))
    node.take(node.state.started(1, 1, NOW))
    node.take(node.state.coordinated(1, 1))
    node.take(node.state.coordinated(1, 1))
    assert node.reports == [Started(1, 1, 1, NOW), Coordinated(2, 1, 1)]
    node.acknowledge(2)
    assert node.held == [(1, 1, False)]
    for journal in (node.journal, node.state.snapshot()):
        node.journal = journal
        node.restart()
        node.take(node.state.coordinated(1, 1))
        assert node.reports == []


def test_the_primary_is_told_once_to_go_on_and_again_after_a_restart() -> None:
    node = Node()
    node.tell(start(1, 1))
    assert node.tell(Proceed(2, 1, 1)) == [GoOn(1, 1)]
    assert node.tell(Proceed(3, 1, 1)) == []
    assert node.tell(Proceed(4, 1, 2), Proceed(5, 8, 1)) == []
    assert node.restart() == [Launch(start(1, 1), resumed=True, began=NOW), GoOn(1, 1)]
    node.journal = node.state.snapshot()
    assert node.restart() == [Launch(start(1, 1), resumed=True, began=NOW), GoOn(1, 1)]
    node.take(node.state.welcomed(welcome("s2"), NOW))
    assert node.tell(Proceed(1, 1, 1), session="s2") == []
    node.end(1)
    assert node.tell(Proceed(2, 1, 1), session="s2") == []


def test_a_reboot_ends_everything_and_forgets_it() -> None:
    node = Node(slots=1)
    node.tell(start(1, 1), start(2, 2), start(3, 3, slots=0), Stop(4, 9, 1))
    assert node.tell(Restart(5), start(6, 6)) == [Kill(1, 1), Kill(3, 1)]
    assert node.state.session == ""
    assert node.take(node.state.started(1, 1, NOW)) == []
    assert node.take(node.state.coordinated(1, 1)) == []
    assert node.end(1, outcome=KILLED) == []
    assert node.end(3, outcome=KILLED) == [Renew(wipe=False)]
    assert node.reports == []
    assert not node.state.idle
    assert node.take(node.state.renewed(NOW + 5)) == []
    assert (node.state.boot_time, node.state.disk_time) == (NOW + 5, NOW)
    assert node.state.idle
    assert node.held == []
    node.take(node.state.welcomed(welcome("s2", slots=1), NOW))
    assert launched(node.tell(start(1, 2, 2), session="s2")) == [2]
    assert node.reports == []
    node.tell(Stop(2, 9, 1), session="s2")
    assert node.reports == [Stopped(2, 9, 1)], "report numbers go on"


def test_a_reimaged_node_has_a_new_disk() -> None:
    node = Node()
    assert node.tell(Restart(1, wipe=True)) == [Renew(wipe=True)]
    node.take(node.state.renewed(NOW + 5))
    assert (node.state.boot_time, node.state.disk_time) == (NOW + 5, NOW + 5)
    node.restart()
    assert (node.state.boot_time, node.state.disk_time) == (NOW + 5, NOW + 5)
    node.take(node.state.welcomed(welcome("s2"), NOW))
    # Its clock may stand still, or go back.
    node.tell(Restart(1, wipe=True), session="s2")
    node.take(node.state.renewed(NOW + 5))
    assert node.state.boot_time > NOW + 5
    assert node.state.disk_time != NOW + 5


def test_a_reboot_that_has_begun_is_gone_through_with() -> None:
    node = Node()
    node.tell(start(1, 1), start(2, 2))
    node.end(2)
    node.tell(Restart(3, wipe=True))
    for journal in (node.journal, node.state.snapshot()):
        node.journal = journal
        assert node.restart() == [Launch(start(1, 1), resumed=True, began=NOW), Kill(1, 1)]
        assert node.reports == []
        assert node.take(node.state.welcomed(welcome("s2"), NOW)) == []
        assert node.state.session == ""
    assert node.end(1, outcome=KILLED) == [Renew(wipe=True)]
    node.state = AgentState(9, [*node.journal])
    node.take(node.state.resume(NOW))
    assert node.end(1, outcome=KILLED) == [Renew(wipe=True)]
    node.take(node.state.renewed(NOW + 1))
    assert node.restart() == []
    assert node.state.idle


def test_what_is_removed_meanwhile_is_nothing_to_a_new_boot() -> None:
    node = Node()
    assert node.tell(RemoveDirectory(1, "j", "t1"), Restart(2)) == [Remove("j", "t1"), Renew(wipe=False)]
    assert node.take(node.state.removed("j", "t1", NOW)) == []
    node.take(node.state.renewed(NOW + 1))
    assert node.state.idle


def test_a_node_that_leaves_while_it_restarts_leaves() -> None:
    node = Node()
    node.tell(start(1, 1))
    node.tell(Restart(2))
    assert node.take(node.state.leave()) == [Kill(1, 1)]
    assert node.end(1, outcome=KILLED) == []
    assert node.take(node.state.renewed(NOW + 1)) == []
    assert node.state.leaving
