"""The agent's decisions under random traffic: lost, doubled and late messages, restarts, anything in between."""

from collections import deque
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from millpond.agent.actions import Action, Deed, GoOn, Kill, Launch, Remove, Renew
from millpond.agent.base import Outcome
from millpond.agent.pace import Pace
from millpond.agent.records import Record, RemovalAsked
from millpond.agent.state import AgentState
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
    Start,
    Started,
    Stop,
    Stopped,
    SyncReply,
    Welcome,
)

SLOTS = 3
Ref = tuple[int, int]


class Eager(Pace):
    """Whatever came before, a few attempts are launched ahead."""

    def ahead(self, width: int) -> int:
        return 3


class AgentTraffic(RuleBasedStateMachine):
    """A control plane that repeats what is not seen, a network that doubles and delays, and a runner."""

    answers = Bundle("answers")
    takes_ahead: Callable[[Start], bool] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.journal: list[Record] = []
        self.at = 100.0
        self.sessions = 0
        self.session = ""
        self.directives: list[Directive] = []
        self.attempts: dict[int, int] = {}
        self.starts: dict[Ref, Start] = {}
        self.running: dict[Ref, Start] = {}
        """With the runner, as far as the agent knows."""
        self.processes: dict[Ref, Start] = {}
        """Those that do run."""
        self.waiting: dict[Ref, Launch] = {}
        """Launched ahead, in order."""
        self.news: deque[tuple[Ref, Outcome | None]] = deque()
        """What the runner has yet to tell: how one ended; None when it was given back."""
        self.begun: list[Ref] = []
        self.launches: list[Ref] = []
        self.accepted: list[Ref] = []
        self.removing: set[tuple[str, str]] = set()
        self.ends: set[Ref] = set()
        self.stops_taken: set[Ref] = set()
        self.reported: dict[int, Report] = {}
        self.acknowledged = 0
        self.proceeds: set[Ref] = set()
        self.going_on: set[Ref] = set()
        self.renewing: bool | None = None
        """With `wipe` or not; None when nothing is to be renewed."""
        self.boots: list[float] = []
        self.disks: list[float] = []
        self.state = self.new_state()
        self.take(self.state.resume(self.at))
        self.hello()

    def new_state(self) -> AgentState:
        return AgentState(SLOTS, self.journal, takes_ahead=self.takes_ahead, pace=Eager())

    def slots_of(self, key: int, slots: int) -> int:
        return slots

    # --- carrying out ---

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Launch(start=start, resumed=resumed):
                    ref = (start.key, start.attempt)
                    if resumed:
                        assert ref in self.launches
                        self.find(action)
                    else:
                        assert ref not in self.launches, "an attempt was launched twice"
                        assert ref not in self.stops_taken, "a stopped attempt was launched"
                        self.launches.append(ref)
                        self.launch(action)
                    directories = [(other.job_id, other.task_id) for other in self.running.values()]
                    assert (start.job_id, start.task_id) not in directories
                    assert (start.job_id, start.task_id) not in self.removing
                    assert (start.job_id, "") not in self.removing
                    self.running[ref] = start
                case Kill(key=key, attempt=attempt):
                    assert (key, attempt) in self.running
                case GoOn(key=key, attempt=attempt):
                    assert (key, attempt) in self.running
                    assert (key, attempt) in self.proceeds
                    assert (key, attempt) not in self.going_on, "told twice in one life"
                    self.going_on.add((key, attempt))
                case Renew(wipe=wipe):
                    assert not self.running, "something runs over a restart of the node"
                    assert self.renewing is None
                    self.renewing = wipe
                case Remove(job_id=job_id, task_id=task_id):
                    for start in self.running.values():
                        assert start.job_id != job_id or task_id not in {"", start.task_id}
                    self.removing.add((job_id, task_id))
                case _:
                    assert not isinstance(action, Deed)
                    self.journal.append(action)
        assert sum(start.slots for start in self.processes.values()) <= SLOTS, "slots are oversold"
        for report in self.state.reports(10_000):
            known = self.reported.setdefault(report.seq, report)
            assert known == report, "a report changed"

    def launch(self, launch: Launch) -> None:
        busy = sum(start.slots > 0 for start in self.processes.values())
        if launch.ahead and any(outcome is None for _, outcome in self.news):
            # It comes too late: the agent has yet to hear that those before it were given back.
            self.news.append(((launch.start.key, launch.start.attempt), None))
        elif launch.ahead and (self.waiting or busy >= launch.width):
            self.waiting[launch.start.key, launch.start.attempt] = launch
        else:
            assert launch.ahead or not self.waiting or not launch.start.slots, "it overtakes what waits"
            self.process(launch.start)

    def process(self, start: Start) -> None:
        ref = (start.key, start.attempt)
        self.processes[ref] = start
        self.begun.append(ref)

    def find(self, launch: Launch) -> None:
        """The agent takes up what an earlier life of it has launched."""
        ref = (launch.start.key, launch.start.attempt)
        if ref in self.processes:
            return
        if ref in self.begun:
            self.news.append((ref, Outcome(self.at, self.at, 0)))
        else:
            assert launch.ahead
            self.news.append((ref, None))

    def give_back_all(self) -> None:
        self.news.extend((ref, None) for ref in self.waiting)
        self.waiting.clear()

    def note(self, session: str, directives: list[Directive]) -> None:
        """What an answer will do, told before the state takes it."""
        if session != self.state.session:
            return
        for directive in directives:
            if directive.revision <= self.state.seen:
                continue
            match directive:
                case Start(key=key, attempt=attempt):
                    self.accepted.append((key, attempt))
                case Stop(key=key, attempt=attempt):
                    self.stops_taken.add((key, attempt))
                case Proceed(key=key, attempt=attempt):
                    self.proceeds.add((key, attempt))
                case Restart():
                    # Nothing of what was is told any more, and nothing that follows is heard.
                    self.acknowledged = 10**9
                    return

    # --- the control plane ---

    def hello(self) -> None:
        self.sessions += 1
        self.session = f"s{self.sessions}"
        held = {(held.key, held.attempt) for held in self.state.inventory()}
        # What the node does not hold is forgotten by both; the next attempt has the next number.
        self.directives = [Stop(0, *ref) for ref in sorted(held) if ref in self.stops_taken and ref not in self.ends]
        self.renumber()
        self.take(
            self.state.welcomed(
                Welcome(
                    session=self.session,
                    pool_id="p",
                    account_name="a",
                    account_url="u",
                    is_dedicated=True,
                    task_slots=SLOTS,
                    park_s=1,
                ),
                self.at,
            )
        )

    def renumber(self) -> None:
        self.directives = [
            Stop(revision, directive.key, directive.attempt)
            for revision, directive in enumerate(self.directives, start=1)
            if isinstance(directive, Stop)
        ]

    @rule(key=st.integers(1, 6), slots=st.integers(0, SLOTS + 1), task=st.integers(1, 4))
    def start(self, key: int, slots: int, task: int) -> None:
        attempt = self.attempts[key] = self.attempts.get(key, 0) + 1
        slots = self.slots_of(key, slots)
        new = Start(
            len(self.directives) + 1, key, attempt, job_id=f"j{key % 2}", task_id=f"t{task}", slots=slots, spec=b""
        )
        self.starts[key, attempt] = new
        self.directives.append(new)

    @rule(key=st.integers(1, 7), back=st.integers(0, 1))
    def stop(self, key: int, back: int) -> None:
        """Of a current or an older attempt, or of one the node can never have heard of."""
        attempt = max(1, self.attempts[key] - back) if key in self.attempts else 99
        self.directives.append(Stop(len(self.directives) + 1, key, attempt))

    @rule(key=st.integers(1, 6))
    def give_back(self, key: int) -> None:
        self.directives.append(Return(len(self.directives) + 1, key, self.attempts.get(key, 1)))

    @rule(key=st.integers(1, 6))
    def proceed(self, key: int) -> None:
        self.directives.append(Proceed(len(self.directives) + 1, key, self.attempts.get(key, 1)))

    @rule(wipe=st.booleans())
    def restart_the_node(self, wipe: bool) -> None:
        self.directives.append(Restart(len(self.directives) + 1, wipe))

    @precondition(lambda self: self.renewing is not None and not self.removing)
    @rule(passed=st.sampled_from([-5.0, 0.0, 3.0]))
    def renewed(self, passed: float) -> None:
        """Whatever the node's clock does."""
        self.at += passed
        wipe, self.renewing = self.renewing, None
        before = self.state.boot_time, self.state.disk_time
        self.take(self.state.renewed(self.at))
        assert self.state.boot_time > before[0]
        assert (self.state.disk_time != before[1]) == wipe
        assert self.state.idle
        assert self.state.inventory() == ()
        assert self.state.session == ""
        self.acknowledged = max(self.reported, default=0)
        self.ends.clear()
        self.stops_taken.clear()
        self.hello()

    @rule(job=st.integers(0, 1), task=st.integers(0, 4))
    def remove(self, job: int, task: int) -> None:
        self.directives.append(RemoveDirectory(len(self.directives) + 1, f"j{job}", f"t{task}" if task else ""))

    @rule(target=answers, size=st.integers(0, 50), acknowledge=st.integers(0, 50))
    def answer(self, size: int, acknowledge: int) -> tuple[str, SyncReply]:
        """An answer is made: what was not seen when it was asked for, perhaps not all of it."""
        unseen = [directive for directive in self.directives if directive.revision > self.state.seen]
        due = self.state.reports(acknowledge)
        return self.session, SyncReply(
            session=self.session,
            directives=tuple(unseen[:size]),
            acknowledged=due[-1].seq if due else 0,
        )

    @rule(answer=answers)
    def arrive(self, answer: tuple[str, SyncReply]) -> None:
        """Some answer arrives: now, late, again, or of a session long gone."""
        session, reply = answer
        self.note(session, list(reply.directives))
        if session == self.state.session and self.acknowledged < 10**9:
            self.acknowledged = max(self.acknowledged, reply.acknowledged)
        self.take(self.state.replied(session, reply, self.at))

    @rule(acknowledge=st.sampled_from([0, 1, 50]))
    def deliver(self, acknowledge: int) -> None:
        """The usual case: all that is not seen, at once."""
        self.arrive(self.answer(50, acknowledge))

    @rule(keys=st.permutations(range(1, 7)), slots=st.integers(1, SLOTS), task=st.integers(1, 4))
    def deliver_many(self, keys: list[int], slots: int, task: int) -> None:
        for key in keys:
            self.start(key, 1 + (key + slots) % SLOTS, 1 + (key + task) % 4)
        self.deliver(0)

    @precondition(lambda self: not self.state.restarting)
    @rule()
    def lose_session(self) -> None:
        self.state.replied(self.session, SyncReply(session="", session_unknown=True), self.at)
        assert self.state.session == ""
        self.hello()

    # --- the runner ---

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 10))
    def begin(self, pick: int) -> None:
        ref = sorted(self.running)[pick % len(self.running)]
        if ref in self.begun:
            self.take(self.state.started(*ref, self.at))

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 10))
    def coordinate(self, pick: int) -> None:
        ref = sorted(self.running)[pick % len(self.running)]
        if ref in self.begun:
            self.take(self.state.coordinated(*ref))

    @precondition(lambda self: self.processes)
    @rule(pick=st.integers(0, 10), exit_code=st.sampled_from([0, 0, 0, 1, -9]))
    def end(self, pick: int, exit_code: int) -> None:
        """It is told later; what was launched ahead of its slots begins meanwhile, or is given back."""
        ref = sorted(self.processes)[pick % len(self.processes)]
        start = self.processes.pop(ref)
        self.at += 1
        self.news.append((ref, Outcome(self.at, self.at, exit_code)))
        if exit_code and start.slots:
            self.give_back_all()
        elif start.slots and self.waiting:
            following = next(iter(self.waiting))
            assert self.waiting[following].width * start.slots <= SLOTS
            self.process(self.waiting.pop(following).start)
        self.check_slots()

    def check_slots(self) -> None:
        assert sum(start.slots for start in self.processes.values()) <= SLOTS, "slots are oversold"

    @precondition(lambda self: self.news)
    @rule(most=st.integers(1, 4))
    def hear(self, most: int) -> None:
        for _ in range(min(most, len(self.news))):
            ref, outcome = self.news.popleft()
            if ref not in self.running:
                continue
            if outcome is not None:
                if ref[0] % 2 or not self.takes_ahead:
                    # Of one that was handed ahead its end may be all that is told.
                    self.take(self.state.started(*ref, self.at))
                self.ends.add(ref)
            elif not self.state.restarting:
                self.launches.remove(ref)
            del self.running[ref]
            self.take(self.state.ended([(ref, outcome)], self.at))

    @precondition(lambda self: self.waiting)
    @rule(pick=st.integers(0, 3))
    def give_one_back(self, pick: int) -> None:
        """It was killed before it had begun."""
        ref = list(self.waiting)[pick % len(self.waiting)]
        del self.waiting[ref]
        self.news.append((ref, None))

    @precondition(lambda self: self.waiting)
    @rule()
    def give_back_what_waits(self) -> None:
        self.give_back_all()

    @precondition(lambda self: self.removing)
    @rule()
    def removed(self) -> None:
        directory = min(self.removing)
        self.removing.discard(directory)
        self.take(self.state.removed(*directory, self.at))

    # --- the agent dies ---

    @rule(rewritten=st.booleans())
    def restart(self, rewritten: bool) -> None:
        if rewritten:
            self.journal = self.state.snapshot()
        self.running.clear()
        self.waiting.clear()
        self.news.clear()
        self.removing.clear()
        self.going_on.clear()
        self.renewing = None
        before = self.state.boot_time, self.state.disk_time, self.state.restarting
        self.state = self.new_state()
        assert before == (self.state.boot_time, self.state.disk_time, self.state.restarting)
        self.take(self.state.resume(self.at))
        if not self.state.restarting:
            self.hello()

    # --- what holds ---

    @invariant()
    def the_journal_gives_the_state_again(self) -> None:
        if self.state.restarting:
            return  # What it has let go of by then is not written down.
        again = self.new_state().snapshot()
        assert again == AgentState(SLOTS, self.state.snapshot(), takes_ahead=self.takes_ahead).snapshot()
        assert sorted(map(repr, again)) == sorted(map(repr, self.state.snapshot()))

    @invariant()
    def a_node_that_restarts_is_silent(self) -> None:
        if self.state.restarting:
            assert self.state.session == ""
            assert self.state.reports(1) == ()

    @invariant()
    def what_ended_is_reported_until_acknowledged(self) -> None:
        if self.state.restarting:
            return
        final = {(r.key, r.attempt) for r in self.reported.values() if not isinstance(r, Started | Coordinated)}
        assert self.ends <= final
        due = {report.seq for report in self.state.reports(10_000)}
        unknown = {seq: report for seq, report in self.reported.items() if seq > self.acknowledged}
        assert due <= unknown.keys()
        told = {(r.key, r.attempt) for r in unknown.values() if isinstance(r, Ended)}
        for report in (unknown[seq] for seq in unknown.keys() - due):
            # Its end, which is told, says as much.
            assert isinstance(report, Started)
            assert (report.key, report.attempt) in told

    @invariant()
    def every_stop_is_answered_or_on_its_way(self) -> None:
        if self.state.restarting:
            return
        answered = {(r.key, r.attempt) for r in self.reported.values() if isinstance(r, Stopped)}
        assert self.stops_taken <= answered | set(self.running)

    @invariant()
    def an_attempt_ends_once(self) -> None:
        ended = [(r.key, r.attempt) for r in self.reported.values() if isinstance(r, Ended | Returned)]
        started = [(r.key, r.attempt) for r in self.reported.values() if isinstance(r, Started)]
        assert len(ended) == len(set(ended))
        assert len(started) == len(set(started))
        coordinated = [(r.key, r.attempt) for r in self.reported.values() if isinstance(r, Coordinated)]
        assert len(coordinated) == len(set(coordinated))

    @invariant()
    def attempts_start_in_the_order_they_came(self) -> None:
        place = {ref: index for index, ref in reversed(list(enumerate(self.accepted)))}
        places = [place[ref] for ref in self.begun if self.starts[ref].slots]
        assert places == sorted(places)

    @invariant()
    def what_needs_no_slots_waits_for_its_directory_only(self) -> None:
        if self.state.restarting:
            return
        busy = {(start.job_id, start.task_id) for start in self.running.values()}
        # Also one that is to be removed once what uses it has ended.
        busy |= {
            (record.job_id, record.task_id) for record in self.state.snapshot() if isinstance(record, RemovalAsked)
        }
        for held in self.state.inventory():
            ref = (held.key, held.attempt)
            if not held.ended and not held.slots and ref not in self.running:
                start = self.starts[ref]
                assert (start.job_id, start.task_id) in busy or (start.job_id, "") in busy

    @invariant()
    def what_is_to_be_reported_is_in_the_inventory(self) -> None:
        held = {(held.key, held.attempt) for held in self.state.inventory()}
        for report in self.state.reports(10_000):
            if isinstance(report, Ended | Returned):
                assert (report.key, report.attempt) in held

    @invariant()
    def nothing_waits_without_a_reason(self) -> None:
        queued = [
            (held.key, held.attempt)
            for held in self.state.inventory()
            if not held.ended and (held.key, held.attempt) not in self.running
        ]
        if queued and not self.running and not self.removing and not self.state.restarting:
            raise AssertionError(f"{queued} wait for nothing")


class AheadTraffic(AgentTraffic):
    """The same, with a runner that is handed some attempts ahead."""

    takes_ahead = staticmethod(lambda start: start.key != 6)

    def slots_of(self, key: int, slots: int) -> int:
        """Most need the same, and so can follow each other."""
        return slots if key == 5 else 1


AheadTraffic.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAheadTraffic = AheadTraffic.TestCase
AgentTraffic.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAgentTraffic = AgentTraffic.TestCase
