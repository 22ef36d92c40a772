"""What an agent decides, as a pure machine: what happened goes in, actions come out. No I/O, no clock, no asyncio.

Actions are in order, and every `Record` among them is to be written down before the actions that follow it are carried
out ("written down before it is done"). An attempt is named by (key, attempt) throughout. What keeps it right under
lost, doubled and late messages:

- a directive is taken once: its revision is above all seen, and its session is the current one;
- an attempt is launched once: it is held from its `Start` until the report that ends it is acknowledged;
- attempts start strictly in the order they came: when the first in line has not enough free slots it waits, and so do
  all behind it; those that need no slots stand in no line;
- where tasks are short, some are launched `ahead` of their slots: each is begun by the runner once one that has as many
  has ended well, so that never more run than there are slots for. What is given back without having begun waits where it
  did before;
- two attempts never share a task directory: one whose directory is in use, or is about to be removed, waits;
- a restart of the node, once asked for, is gone through with before anything else: it has no session, and with its end
  it has forgotten all but the number of its next report.
"""

from collections.abc import Callable, Iterable
from typing import Final

from millpond.agent.actions import Action, GoOn, Kill, Launch, Renew
from millpond.agent.ahead import Ahead
from millpond.agent.attempts import AttemptRef, Attempts, Held, Phase, does_not_fit, interrupted
from millpond.agent.base import Outcome
from millpond.agent.due_reports import DueReports
from millpond.agent.pace import Pace
from millpond.agent.records import (
    Accepted,
    Acknowledged,
    Begun,
    Joined,
    Launched,
    Left,
    Proceeded,
    PutBack,
    Record,
    RemovalAsked,
    RemovalDone,
    Reported,
    RestartAsked,
    StopAsked,
)
from millpond.domain.durations import Timestamp
from millpond.domain.events import HeldAttempt
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

_LEAST_BOOT_S: Final = 0.001
"""Boot times of a node differ at least by that, whatever its clock does."""


class AgentState:
    """The state of one node's agent. Every input method returns the actions to carry out, in order."""

    def __init__(
        self,
        task_slots: int,
        records: Iterable[Record] = (),
        *,
        takes_ahead: Callable[[Start], bool] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Of a new node, or of one whose journal holds `records`; `resume` must be called once before anything else.

        `takes_ahead` says whether such an attempt can be launched ahead: by nothing but the attempt itself, so the same
        each time. None: nothing ever is. `pace` says how many are."""
        self.session = ""
        """The current session; empty while there is none."""
        self.seen = 0
        """The highest directive revision of the session that was taken in."""
        self.joined: Joined | None = None
        self.leaving = False
        """The node was told to leave its pool: nothing is launched or reported any more."""
        self.restarting: RestartAsked | None = None
        """The node restarts: what ran is being ended, and nothing is taken in or reported before that is through."""
        self._interrupted = False
        self._slots = task_slots
        self._reports = DueReports()
        self._boot_time: Timestamp | None = None
        self._disk_time: Timestamp = 0.0
        self._renewing = False
        self._ahead = Ahead(takes_ahead, pace or Pace())
        self._hold_nothing()
        for record in records:
            self._replay(record)

    def _hold_nothing(self) -> None:
        self._attempts = Attempts()
        self._directories = self._attempts.directories
        self._reports.clear()

    # --- questions ---

    @property
    def boot_time(self) -> Timestamp:
        """When the node came to be, or was last restarted."""
        return self._boot_time or 0.0

    @property
    def disk_time(self) -> Timestamp:
        """When the node's disk was made: when it came to be, or was last wiped."""
        return self._disk_time or self.boot_time

    @property
    def idle(self) -> bool:
        """Nothing is queued, runs, or is about to be removed, no report is due, and no restart under way."""
        return not (self._attempts.held or self._reports or self._directories.removals or self.restarting)

    @property
    def launched(self) -> list[AttemptRef]:
        """The attempts that are with the runner."""
        return self._attempts.launched

    @property
    def has_launched(self) -> bool:
        return bool(self._directories.busy)

    @property
    def has_queued(self) -> bool:
        """Something waits for its turn. (What needs no slots keeps no slot busy.)"""
        return bool(self._attempts.queue)

    @property
    def has_reports(self) -> bool:
        return bool(self._reports)

    def reports(self, limit: int) -> tuple[Report, ...]:
        """See `DueReports.first`."""
        return self._reports.first(limit)

    def over(self) -> list[Start]:
        """Attempts that have ended, of which the control plane has not acknowledged that."""
        return [held.start for held in self._attempts.held.values() if held.phase is Phase.ENDED and held.start.job_id]

    def inventory(self) -> tuple[HeldAttempt, ...]:
        """All attempts held, for a hello."""
        return tuple(
            HeldAttempt(key=key, attempt=attempt, slots=held.start.slots, ended=held.phase is Phase.ENDED)
            for (key, attempt), held in self._attempts.held.items()
        )

    def snapshot(self) -> list[Record]:
        """The shortest journal that gives this state again."""
        records: list[Record] = [
            Begun(boot_time=self.boot_time, next_seq=self._reports.next_seq, disk_time=self._disk_time),
        ]
        if self.joined is not None:
            records.append(self.joined)
        records.extend(RemovalAsked(job_id=job_id, task_id=task_id) for job_id, task_id in self._directories.removals)
        records.extend(self._attempts.records())
        records.extend(self._reports)
        if self.restarting is not None:
            records.append(self.restarting)
        if self.leaving:
            records.append(Left())
        return records

    # --- inputs: the agent's own life ---

    def resume(self, at: Timestamp) -> list[Action]:
        """The agent begins, or begins again: what was launched is picked up where it is, the queue goes on."""
        actions: list[Action] = []
        if self._boot_time is None:
            self._boot_time = at
            actions.append(Begun(boot_time=at))
        ending = self.leaving or self.restarting is not None
        for (key, attempt), held in self._attempts.held.items():
            if held.phase is Phase.LAUNCHED:
                actions.append(Launch(held.start, resumed=True, began=held.began, width=held.width, ahead=held.ahead))
                if held.proceeds:
                    actions.append(GoOn(key, attempt))
                if held.stop_asked or ending:
                    actions.append(Kill(key, attempt))
        if ending:
            self._drop_all_but_launched()
            self._renew(actions)
            return actions
        actions.extend(self._directories.begin_removals())
        self._fill(at, actions)
        return actions

    def interrupt(self) -> list[Action]:
        """The agent is being stopped, and with it all it runs. What is killed by that ends as the node's own fault, so
        that it runs again; the queue stays for the agent's next life."""
        if self._interrupted:
            return []
        self._interrupted = True
        return [Kill(key, attempt) for key, attempt in self.launched]

    def leave(self) -> list[Action]:
        """The node leaves its pool for good: everything is killed, nothing more is reported."""
        if self.leaving:
            return []
        self.leaving = True
        actions: list[Action] = [Left()]
        actions.extend(Kill(key, attempt) for key, attempt in self.launched)
        self._drop_all_but_launched()
        return actions

    def restart_first(self) -> list[Action]:
        """Comes before `resume`: what the node was set up with is gone, so it restarts before it does anything else."""
        if self.joined is None or self.leaving or self.restarting is not None:
            return []
        self.restarting = RestartAsked()
        return [self.restarting]

    # --- inputs: the control plane ---

    def welcomed(self, welcome: Welcome, at: Timestamp) -> list[Action]:
        """A new session has begun; the directives of the last one are void."""
        if self.restarting is not None:
            return []
        self.session = welcome.session
        self.seen = 0
        joined = Joined(
            pool_id=welcome.pool_id,
            account_name=welcome.account_name,
            account_url=welcome.account_url,
            is_dedicated=welcome.is_dedicated,
            task_slots=welcome.task_slots,
            pool_spec=welcome.pool_spec,
            storage_options=welcome.storage_options,
        )
        actions: list[Action] = []
        if joined != self.joined:
            self.joined = joined
            self._slots = joined.task_slots
            actions.append(joined)
            self._fill(at, actions)
        return actions

    def replied(self, session: str, reply: SyncReply, at: Timestamp) -> list[Action]:
        """The answer to a sync of that session. Answers to or of another session than the current one change nothing."""
        actions: list[Action] = []
        if not session or session != self.session:
            return actions
        if reply.session_unknown:
            self.session = ""
        elif reply.session != session:
            return actions
        if reply.acknowledged:
            self._acknowledge(reply.acknowledged, actions)
        if not self.session:
            return actions
        seen = self.seen
        for directive in reply.directives:
            if directive.revision > seen and self.session:
                self.seen = max(self.seen, directive.revision)
                self._direct(directive, actions)
        if reply.directives and not self._silent:
            self._fill(at, actions)
        return actions

    # --- inputs: the runner ---

    def coordinated(self, key: int, attempt: int) -> list[Action]:
        """The runner says: the instance's coordination command has succeeded. Said again (by a resumed run), it is not
        reported again."""
        held = self._attempts.held.get((key, attempt))
        actions: list[Action] = []
        if held is None or held.phase is not Phase.LAUNCHED or held.coordinated or self._silent:
            return actions
        held.coordinated = True
        self._report(Coordinated(self._reports.next_seq, key, attempt), None, actions)
        return actions

    def started(self, key: int, attempt: int, start_time: Timestamp) -> list[Action]:
        """The runner says: the attempt is `running`. Said again (by a resumed run), it is not reported again."""
        held = self._attempts.held.get((key, attempt))
        actions: list[Action] = []
        if held is None or held.phase is not Phase.LAUNCHED or held.started or self._silent:
            return actions
        held.started = True
        held.started_seq = seq = self._reports.next_seq
        held.ahead = False
        held.began = start_time
        self._report(Started(seq, key, attempt, start_time), None, actions)
        return actions

    def ended(self, ends: Iterable[tuple[AttemptRef, Outcome | None]], at: Timestamp) -> list[Action]:
        """The runner says: these attempts are over, in that order. None: it was handed ahead, and given back without having
        begun. Of one handed ahead this may be the first that is said."""
        actions: list[Action] = []
        attempts, silent = self._attempts, self._silent
        for ref, outcome in ends:
            held = attempts.held.get(ref)
            if held is None or held.phase is not Phase.LAUNCHED:
                continue
            attempts.make_room(held)
            if silent:
                attempts.forget(held)
            elif outcome is None:
                self._ahead.given_back()
                self._given_back(ref, held, actions)
            else:
                self._ahead.ended(outcome)
                is_killed = self._interrupted and not held.stop_asked
                self._end(ref, held, interrupted(outcome) if is_killed else outcome, actions)
        if silent:
            self._renew(actions)
            return actions
        actions.extend(self._directories.begin_removals())
        self._fill(at, actions)
        return actions

    def removed(self, job_id: str, task_id: str, at: Timestamp) -> list[Action]:
        """The directory asked to be removed is out of the way."""
        actions: list[Action] = []
        if self._directories.removals.pop((job_id, task_id), None) is not None:
            actions.append(RemovalDone(job_id=job_id, task_id=task_id))
            self._fill(at, actions)
        return actions

    def renewed(self, at: Timestamp) -> list[Action]:
        """What was to be renewed is: the node begins anew."""
        if self.restarting is None or self.leaving:
            return []
        if self.restarting.wipe:
            self._disk_time = at if at != self.disk_time else at + _LEAST_BOOT_S
        else:
            self._disk_time = self.disk_time
        self._boot_time = max(at, self.boot_time + _LEAST_BOOT_S)
        self._begin_anew()
        return [Begun(boot_time=self.boot_time, next_seq=self._reports.next_seq, disk_time=self._disk_time)]

    # --- directives ---

    def _direct(self, directive: Directive, actions: list[Action]) -> None:
        if self.leaving:
            return
        match directive:
            case Start():
                self._on_start(directive, actions)
            case Stop():
                self._on_stop(directive.key, directive.attempt, actions)
            case Return():
                self._on_return(directive, actions)
            case Proceed():
                self._on_proceed(directive, actions)
            case Restart():
                self._on_restart(directive, actions)
            case RemoveDirectory():
                self._on_remove(directive, actions)
            case Shutdown():
                actions += self.leave()

    def _on_start(self, start: Start, actions: list[Action]) -> None:
        ref = (start.key, start.attempt)
        if ref in self._attempts.held:
            return
        latest = self._attempts.latest.get(start.key)
        if latest is not None:
            if latest > start.attempt:
                self._report(Stopped(self._reports.next_seq, start.key, start.attempt), None, actions)
                return
            # A newer attempt is the current one, so the older is of no use to anybody.
            self._on_stop(start.key, latest, actions)
        self._attempts.accept(start)
        actions.append(Accepted(start))

    def _on_stop(self, key: int, attempt: int, actions: list[Action]) -> None:
        ref = (key, attempt)
        held = self._attempts.held.get(ref)
        if held is None:
            self._report(Stopped(self._reports.next_seq, key, attempt), None, actions)
        elif held.stop_asked:
            return
        elif held.phase is Phase.QUEUED:
            held.stop_asked = True
            self._attempts.leave_line(held)
            self._end(ref, held, None, actions)
        elif held.phase is Phase.LAUNCHED:
            held.stop_asked = True
            actions += (StopAsked(key=key, attempt=attempt), Kill(key, attempt))
        else:
            # Its end is on the way already; the answer follows it.
            held.stop_asked = True
            held.end_seq = self._reports.next_seq
            self._report(Stopped(self._reports.next_seq, key, attempt, held.exit_code), held.start.slots, actions)

    def _on_return(self, directive: Return, actions: list[Action]) -> None:
        ref = (directive.key, directive.attempt)
        held = self._attempts.held.get(ref)
        if held is None:
            return
        if held.phase is Phase.QUEUED:
            self._attempts.leave_line(held)
            self._return(ref, held, actions)
        elif held.ahead:
            # Either it begins in a moment, or the runner gives it back.
            held.returned = True

    def _return(self, ref: AttemptRef, held: Held, actions: list[Action]) -> None:
        held.phase = Phase.ENDED
        held.end_seq = self._reports.next_seq
        self._report(Returned(self._reports.next_seq, *ref), held.start.slots, actions)

    def _given_back(self, ref: AttemptRef, held: Held, actions: list[Action]) -> None:
        """It was handed ahead, and has not begun."""
        if held.stop_asked:
            self._end(ref, held, None, actions)
        elif held.returned:
            self._return(ref, held, actions)
        else:
            self._attempts.put_back(held)
            actions.append(PutBack(*ref))

    def _on_proceed(self, directive: Proceed, actions: list[Action]) -> None:
        held = self._attempts.held.get((directive.key, directive.attempt))
        if held is None or held.phase is not Phase.LAUNCHED or held.proceeds:
            return
        held.proceeds = True
        actions += (
            Proceeded(key=directive.key, attempt=directive.attempt),
            GoOn(directive.key, directive.attempt),
        )

    def _on_restart(self, directive: Restart, actions: list[Action]) -> None:
        # What else the session has to say is for the node as it was.
        self.session = ""
        self.restarting = RestartAsked(wipe=directive.wipe)
        actions.append(self.restarting)
        actions.extend(Kill(key, attempt) for key, attempt in self.launched)
        self._drop_all_but_launched()
        self._renew(actions)

    def _on_remove(self, directive: RemoveDirectory, actions: list[Action]) -> None:
        directory = (directive.job_id, directive.task_id)
        if directory not in self._directories.removals:
            self._directories.removals[directory] = False
            actions.append(RemovalAsked(job_id=directive.job_id, task_id=directive.task_id))
            actions.extend(self._directories.begin_removals())

    # --- the rest ---

    @property
    def _silent(self) -> bool:
        """Nothing is launched or reported any more, for good or until the node has restarted."""
        return self.leaving or self.restarting is not None

    def _renew(self, actions: list[Action]) -> None:
        """Once nothing runs any more."""
        if self.restarting is not None and not self.leaving and not self._attempts.held and not self._renewing:
            self._renewing = True
            actions.append(Renew(self.restarting.wipe))

    def _begin_anew(self) -> None:
        self.session = ""
        self.seen = 0
        self.restarting = None
        self._renewing = False
        self._hold_nothing()

    def _fill(self, at: Timestamp, actions: list[Action]) -> None:
        """Launch what needs no slots, and from the head of the queue while it fits."""
        if self._interrupted:
            return
        attempts = self._attempts
        for held in attempts.ready_without_slots():
            self._launch(held, at, actions)
        while attempts.queue:
            held = attempts.queue[0]
            slots = held.start.slots
            if slots > self._slots:
                attempts.queue.popleft()
                self._end(held.ref, held, does_not_fit(slots, self._slots, at), actions)
            elif attempts.has_room(slots, self._slots) and self._directories.is_free(held.start):
                attempts.queue.popleft()
                self._launch(held, at, actions)
            else:
                break
        for held in self._ahead.hand(attempts, self._slots):
            start = held.start
            actions += (Launched(start.key, start.attempt, ahead=True), Launch(start, width=held.width, ahead=True))

    def _launch(self, held: Held, at: Timestamp, actions: list[Action]) -> None:
        start = held.start
        held.width = self._ahead.width(start, self._slots)
        self._attempts.launch(held, at)
        actions += (
            Launched(start.key, start.attempt, began=at),
            Launch(start, began=at, width=held.width),
        )

    def _end(self, ref: AttemptRef, held: Held, outcome: Outcome | None, actions: list[Action]) -> None:
        """Report the end of an attempt; `outcome` is None when it was stopped before it was launched."""
        key, attempt = ref
        held.phase = Phase.ENDED
        held.end_seq = seq = self._reports.next_seq
        if outcome is not None:
            held.exit_code = outcome.exit_code
        report: Report
        if outcome is None or held.stop_asked:
            report = Stopped(seq, key, attempt, held.exit_code)
        else:
            report = Ended(
                seq,
                key,
                attempt,
                start_time=outcome.start_time,
                end_time=outcome.end_time,
                exit_code=outcome.exit_code,
                failure=outcome.failure,
                retryable=outcome.retryable,
                user_cpu_s=outcome.user_cpu_s,
                kernel_cpu_s=outcome.kernel_cpu_s,
            )
            if outcome.start_time is not None and held.started_seq and held.start.kind is TaskKind.TASK:
                # It says when the task began; that of an instance, or of a special task, counts by itself.
                self._reports.say_later(held.started_seq, seq)
        self._report(report, held.start.slots, actions)

    def _report(self, report: Report, slots: int | None, actions: list[Action]) -> None:
        due = Reported(report, slots)
        self._reports.add(due)
        actions.append(due)

    def _acknowledge(self, seq: int, actions: list[Action]) -> None:
        taken_in = self._reports.acknowledge(seq)
        for report in taken_in:
            held = self._attempts.held.get((report.key, report.attempt))
            if held is not None and held.phase is Phase.ENDED and held.end_seq == report.seq:
                self._attempts.forget(held)
        if taken_in:
            actions.append(Acknowledged(seq=seq))

    def _drop_all_but_launched(self) -> None:
        self._reports.clear()
        self._attempts.drop_all_but_launched()

    # --- the journal ---

    def _replay(self, record: Record) -> None:
        match record:
            case Begun(boot_time=boot_time, next_seq=next_seq, disk_time=disk_time):
                self._boot_time = boot_time
                self._disk_time = disk_time
                self._reports.next_seq = max(self._reports.next_seq, next_seq)
                self._begin_anew()
            case Joined():
                self.joined = record
                self._slots = record.task_slots
            case Accepted(start=start):
                self._attempts.accept(start)
            case Launched():
                self._attempts.replay_launch(record, self._slots)
            case PutBack(key=key, attempt=attempt):
                held = self._attempts.held[key, attempt]
                self._attempts.make_room(held)
                self._attempts.put_back(held)
            case StopAsked(key=key, attempt=attempt):
                self._attempts.held[key, attempt].stop_asked = True
            case Proceeded(key=key, attempt=attempt):
                self._attempts.held[key, attempt].proceeds = True
            case Reported():
                self._reports.restore(record)
                self._attempts.replay_report(record)
            case Acknowledged(seq=seq):
                self._acknowledge(seq, [])
            case RemovalAsked(job_id=job_id, task_id=task_id):
                self._directories.removals[job_id, task_id] = False
            case RemovalDone(job_id=job_id, task_id=task_id):
                self._directories.removals.pop((job_id, task_id), None)
            case RestartAsked():
                self.restarting = record
                self._drop_all_but_launched()
            case Left():
                self.leaving = True
