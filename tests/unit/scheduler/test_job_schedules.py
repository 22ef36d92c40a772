"""Job schedules: events in, effects out, over virtual time."""

import contextlib
import copy
import random
from collections.abc import Iterable, Mapping

import pytest

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.durations import etag_of
from millpond.domain.effects import Effect
from millpond.domain.errors import BatchError, ErrorCode
from millpond.domain.job_schedule import JobSchedule, Recurrence
from millpond.domain.preconditions import Precondition
from millpond.domain.states import JobScheduleState as S
from millpond.scheduler.job_schedules import JobSchedulesState, apply, deadline_of, rebuild

MINUTE = 60.0
HOUR = 3600.0
T0 = 1_000_000.0
SHARED_POOL: dict[str, dict[str, object]] = {
    "autoPoolSpecification": {"poolLifetimeOption": "jobschedule", "autoPoolIdPrefix": "film", "pool": {}}
}


def new_schedule(
    schedule_id: str = "daily",
    no: int = 1,
    *,
    pool: Mapping[str, object] | None = None,
    like: Recurrence | None = None,
    **recurrence: float | None,
) -> JobSchedule:
    return JobSchedule(
        no=no,
        id=schedule_id,
        state=S.ACTIVE,
        creation_time=0.0,
        last_modified=0.0,
        state_time=0.0,
        spec={"id": schedule_id, "jobSpecification": {"poolInfo": pool or {"poolId": "pool"}}},
        recurrence=like or Recurrence(**recurrence),
    )


class World:
    """The machine with its rows and timers, and somebody who makes jobs at once and ends them when told."""

    def __init__(self) -> None:
        self.now = T0
        self.state = JobSchedulesState()
        self.rows: dict[int, JobSchedule] = {}
        self.timers: dict[str, float | None] = {}
        self.made: list[tuple[str, float]] = []
        """(job id, when)."""
        self.wishes: list[Effect] = []

    def do(self, event: e.JobScheduleEvent) -> None:
        before = repr(self.state.rows)
        try:
            effects = apply(self.state, event)
            self.take(effects)
        except BatchError:
            assert repr(self.state.rows) == before, "a refused event left a trace"
            raise
        self.check()
        schedule_id = event.schedule.id if isinstance(event, e.JobScheduleAdded) else event.schedule_id
        row = self.state.rows.get(schedule_id.lower())
        deadline = None if row is None or not effects else deadline_of(row)
        assert deadline is None or deadline > self.now - 0.01, "a deadline that has passed rings for ever"

    def take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case f.SaveJobSchedule(row):
                    self.rows[row.no] = copy.deepcopy(row)
                case f.DeleteJobSchedule(row):
                    del self.rows[row.no]
                    self.timers.pop(row.id, None)
                case f.SetJobScheduleTimer(schedule_id, deadline):
                    self.timers[schedule_id] = deadline
                case f.CreateScheduledJob(row):
                    assert row.recent_job_id is not None
                    assert row.recent_job_active
                    self.made.append((row.recent_job_id, self.now))
                case _:
                    self.wishes.append(effect)

    def check(self) -> None:
        assert {no: repr(row) for no, row in self.rows.items()} == {
            row.no: repr(row) for row in self.state.rows.values()
        }, "memory is what is on disk"
        for row in self.state.rows.values():
            assert self.timers[row.id] == deadline_of(row)
            assert row.end_time is not None or row.state is not S.COMPLETED
            assert row.end_time is None or row.state in (S.COMPLETED, S.DELETING)
            if row.state in (S.COMPLETED, S.TERMINATING, S.DELETING):
                assert row.next_run_time is None
            if row.state is S.COMPLETED:
                assert not row.recent_job_active

    def restart(self) -> None:
        """The memory is built anew from the rows."""
        rows = [copy.deepcopy(self.rows[no]) for no in sorted(self.rows)]
        self.timers = dict.fromkeys((row.id for row in rows), None)
        self.state, effects = rebuild(rows, self.now)
        self.take(effects)
        self.check()

    def add(self, schedule: JobSchedule) -> JobSchedule:
        self.do(e.JobScheduleAdded(at=self.now, schedule=schedule))
        return schedule

    def row(self, schedule_id: str = "daily") -> JobSchedule:
        return self.state.rows[schedule_id]

    def run_to(self, moment: float) -> None:
        """Let time pass; timers ring at their deadlines."""
        while True:
            due = sorted((at, name) for name, at in self.timers.items() if at is not None and at <= moment)
            if not due:
                break
            at, name = due[0]
            self.now = max(self.now, at)
            self.timers[name] = None
            self.do(e.JobScheduleDue(at=self.now, schedule_id=name, deadline=at))
        self.now = moment

    def end_job(self, schedule_id: str = "daily") -> None:
        job_id = self.row(schedule_id).recent_job_id
        assert job_id is not None
        self.do(e.ScheduledJobCompleted(at=self.now, schedule_id=schedule_id, job_id=job_id))

    def run_with_jobs(self, lasting_s: float, moment: float, *, restarts: bool = False) -> None:
        """Let time pass; jobs end so long after they were made, at equal times before timers ring."""
        while True:
            row = self.state.rows["daily"]
            end = self.made[-1][1] + lasting_s if row.recent_job_active else None
            ring = self.timers["daily"]
            upcoming = min((at for at in (end, ring) if at is not None), default=None)
            if upcoming is None or upcoming > moment:
                break
            if upcoming == end:
                self.now = upcoming
                self.end_job()
            else:
                self.run_to(upcoming)
            if restarts:
                made = len(self.made)
                self.restart()
                # An active job is wished for again: it may not have been made.
                assert set(self.made[made:]) <= {(self.row().recent_job_id, self.now)}
                del self.made[made:]
        self.run_to(moment)

    def made_at(self) -> list[float]:
        return [at - T0 for _, at in self.made]


def refusal(world: World, event: e.JobScheduleEvent) -> ErrorCode:
    with pytest.raises(BatchError) as caught:
        world.do(event)
    return caught.value.code


# --- when jobs are made ---------------------------------------------------------------------------------------------


def test_a_schedule_without_an_interval_makes_one_job_at_once_and_completes_with_it() -> None:
    world = World()
    world.add(new_schedule())
    row = world.row()
    assert world.made == [("daily:job-1", T0)]
    assert (row.state, row.next_run_time, row.recent_job_id) == (S.ACTIVE, None, "daily:job-1")
    world.run_to(T0 + 10 * HOUR)
    world.end_job()
    assert (row.state, row.end_time, row.previous_state) == (S.COMPLETED, T0 + 10 * HOUR, S.ACTIVE)
    assert row.previous_state_time == T0
    assert len(world.made) == 1


@pytest.mark.parametrize(
    ("recurrence", "job_lasts", "made"),
    [
        pytest.param({"interval_s": HOUR}, 5 * MINUTE, [0, 60, 120, 180, 240], id="every hour"),
        pytest.param({"interval_s": HOUR}, 0, [0, 60, 120, 180, 240], id="jobs that end at once"),
        pytest.param(
            {"interval_s": HOUR, "do_not_run_until": T0 + 30 * MINUTE},
            MINUTE,
            [30, 90, 150, 210, 270],
            id="the rhythm counts from doNotRunUntil",
        ),
        pytest.param(
            {"interval_s": HOUR, "do_not_run_until": T0 - 40 * MINUTE},
            MINUTE,
            [0, 60, 120, 180, 240],
            id="a doNotRunUntil that has passed is none",
        ),
        pytest.param({"interval_s": HOUR}, 90 * MINUTE, [0, 90, 180, 270], id="late when the one before it runs long"),
        pytest.param(
            {"interval_s": HOUR, "start_window_s": 45 * MINUTE},
            90 * MINUTE,
            [0, 90, 180, 270],
            id="late, but within the window",
        ),
        pytest.param(
            {"interval_s": HOUR, "start_window_s": 10 * MINUTE},
            90 * MINUTE,
            [0, 120, 240],
            id="lost when the window closes before the job ends",
        ),
        pytest.param(
            {"interval_s": HOUR, "start_window_s": 2 * HOUR},
            200 * MINUTE,
            [0, 200],
            id="a window longer than the interval is none: one job is made up for, not three",
        ),
        pytest.param({"interval_s": HOUR}, 150 * MINUTE, [0, 150], id="missed jobs are not queued"),
        pytest.param(
            {"interval_s": HOUR, "do_not_run_after": T0 + 130 * MINUTE}, MINUTE, [0, 60, 120], id="doNotRunAfter"
        ),
        pytest.param(
            {"interval_s": HOUR, "do_not_run_after": T0 + 70 * MINUTE},
            90 * MINUTE,
            [0],
            id="late is too late after doNotRunAfter",
        ),
        pytest.param({"do_not_run_until": T0 + 20 * MINUTE}, MINUTE, [20], id="one job, later"),
    ],
)
@pytest.mark.parametrize("restarts", [False, True])
def test_when_jobs_are_made(
    recurrence: dict[str, float], job_lasts: float, made: list[float], *, restarts: bool
) -> None:
    world = World()
    world.add(new_schedule(like=Recurrence(**recurrence)))
    world.run_with_jobs(job_lasts, T0 + 280 * MINUTE, restarts=restarts)
    assert [round(at / MINUTE) for at in world.made_at()] == made
    assert [job_id for job_id, _ in world.made] == [f"daily:job-{n + 1}" for n in range(len(made))]


def test_next_run_time_is_the_moment_the_next_job_is_due() -> None:
    world = World()
    world.add(new_schedule(interval_s=HOUR, start_window_s=10 * MINUTE, do_not_run_until=T0 + HOUR))
    assert world.row().next_run_time == T0 + HOUR
    assert not world.made
    world.run_to(T0 + HOUR)
    assert world.row().next_run_time == T0 + 2 * HOUR
    world.run_to(T0 + 2 * HOUR + 5 * MINUTE)
    assert world.row().next_run_time == T0 + 2 * HOUR, "it may still be made"
    world.run_to(T0 + 2 * HOUR + 10 * MINUTE)
    assert world.row().next_run_time == T0 + 3 * HOUR, "it is lost, though nothing else happened"


def test_the_last_modified_time_is_that_of_the_definition() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR))
    tag = etag_of(row.last_modified)
    world.run_to(T0 + 3 * HOUR)
    world.end_job()
    assert etag_of(row.last_modified) == tag
    condition = Precondition(if_match=(tag,))
    world.do(e.JobScheduleDisableRequested(at=world.now, schedule_id="Daily", condition=condition))
    assert etag_of(row.last_modified) != tag
    for event in (
        e.JobScheduleEnableRequested(at=world.now, schedule_id="daily", condition=condition),
        e.JobScheduleTerminateRequested(at=world.now, schedule_id="daily", condition=condition),
        e.JobScheduleDeleteRequested(at=world.now, schedule_id="daily", condition=condition),
        e.JobScheduleUpdated(at=world.now, schedule_id="daily", spec={}, condition=condition),
    ):
        assert refusal(world, event) is ErrorCode.CONDITION_NOT_MET


def test_a_schedule_with_an_end_completes_at_it_and_not_before() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR, do_not_run_after=T0 + 90 * MINUTE))
    world.run_with_jobs(MINUTE, T0 + 89 * MINUTE)
    assert (row.state, len(world.made)) == (S.ACTIVE, 2)
    world.run_to(T0 + 90 * MINUTE)
    assert (row.state, row.end_time) == (S.COMPLETED, T0 + 90 * MINUTE)


def test_a_single_job_whose_window_was_missed_is_never_made() -> None:
    world = World()
    row = world.add(new_schedule(do_not_run_until=T0 + HOUR, start_window_s=5 * MINUTE))
    world.now = T0 + 2 * HOUR  # the service was down
    world.restart()
    assert (row.id, world.row().state, world.made) == ("daily", S.COMPLETED, [])


def test_what_came_due_while_nobody_looked_is_made_once() -> None:
    world = World()
    world.add(new_schedule(interval_s=HOUR))
    world.end_job()
    world.now = T0 + 5.5 * HOUR
    world.restart()
    assert world.made_at() == [0, 5.5 * HOUR]
    assert world.row().next_run_time == T0 + 6 * HOUR


# --- clocks that are set --------------------------------------------------------------------------------------------


def test_a_clock_set_forward_makes_one_job_and_keeps_the_rhythm() -> None:
    world = World()
    world.add(new_schedule(interval_s=HOUR))
    world.end_job()
    deadline = world.timers["daily"]
    assert deadline is not None
    world.now = T0 + 1000.25 * HOUR
    world.do(e.JobScheduleDue(at=world.now, schedule_id="daily", deadline=deadline))
    assert world.made_at() == [0, 1000.25 * HOUR]
    assert world.row().next_run_time == T0 + 1001 * HOUR


@pytest.mark.parametrize(
    ("back_s", "wait_s"),
    [(10.0, HOUR + 10), (50 * MINUTE, HOUR + 50 * MINUTE), (1000.5 * HOUR, 1.5 * HOUR), (87600 * HOUR, 2 * HOUR)],
)
def test_a_clock_set_back_makes_no_job_again_and_delays_the_next_by_an_interval_at_most(
    back_s: float, wait_s: float
) -> None:
    world = World()
    world.now = T0 + 100_000 * HOUR
    row = world.add(new_schedule(interval_s=HOUR))
    world.end_job()
    deadline = world.timers["daily"]
    assert deadline is not None
    world.now -= back_s
    world.do(e.JobScheduleDue(at=world.now, schedule_id="daily", deadline=deadline))
    assert len(world.made) == 1
    assert row.next_run_time == pytest.approx(world.now + wait_s)
    world.run_to(world.now + wait_s + 1)
    assert len(world.made) == 2


def test_a_clock_set_back_does_not_undo_do_not_run_until() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR, do_not_run_until=T0 + 24 * HOUR))
    world.now = T0 - 48 * HOUR
    world.do(e.JobScheduleDue(at=world.now, schedule_id="daily", deadline=T0 + 24 * HOUR))
    assert row.next_run_time == T0 + 24 * HOUR


def test_a_timer_that_rings_a_little_early_rings_for_its_deadline_and_a_stale_one_for_nothing() -> None:
    world = World()
    row = world.add(new_schedule(do_not_run_until=T0 + HOUR))
    world.now = T0 + HOUR - 0.001
    world.do(e.JobScheduleDue(at=world.now, schedule_id="daily", deadline=T0 + 7))
    world.do(e.JobScheduleDue(at=world.now, schedule_id="no such", deadline=T0 + 7))
    assert not world.made
    world.do(e.JobScheduleDue(at=world.now, schedule_id="daily", deadline=T0 + HOUR))
    assert row.recent_job_id == "daily:job-1"


# --- what users ask -------------------------------------------------------------------------------------------------


def test_a_disabled_schedule_makes_no_jobs_and_lets_the_running_one_be() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR))
    world.do(e.JobScheduleDisableRequested(at=world.now, schedule_id="daily"))
    assert (row.state, row.recent_job_active, world.wishes) == (S.DISABLED, True, [])
    world.run_to(T0 + 5.5 * HOUR)
    world.end_job()
    assert (row.state, len(world.made), world.timers["daily"]) == (S.DISABLED, 1, None)
    world.do(e.JobScheduleEnableRequested(at=world.now, schedule_id="daily"))
    assert (row.state, row.previous_state) == (S.ACTIVE, S.DISABLED)
    assert world.made_at() == [0, 5.5 * HOUR], "without a window the current opportunity stands"
    assert row.next_run_time == T0 + 6 * HOUR


def test_enabling_does_not_bring_lost_opportunities_back() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR, start_window_s=10 * MINUTE))
    world.end_job()
    world.do(e.JobScheduleDisableRequested(at=world.now, schedule_id="daily"))
    world.run_to(T0 + 5.5 * HOUR)
    world.do(e.JobScheduleEnableRequested(at=world.now, schedule_id="daily"))
    assert (world.made_at(), row.next_run_time) == ([0], T0 + 6 * HOUR)


def test_enabling_completes_what_has_nothing_left_to_do() -> None:
    world = World()
    row = world.add(new_schedule())
    world.do(e.JobScheduleDisableRequested(at=world.now, schedule_id="daily"))
    world.end_job()
    assert row.state is S.DISABLED
    world.do(e.JobScheduleEnableRequested(at=world.now, schedule_id="daily"))
    assert (row.state, row.previous_state) == (S.COMPLETED, S.ACTIVE)


def test_terminate_ends_the_job_and_then_the_schedule() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR))
    world.do(e.JobScheduleTerminateRequested(at=world.now, schedule_id="daily"))
    (wish,) = world.wishes
    assert isinstance(wish, f.TerminateScheduledJob)
    assert (wish.schedule.recent_job_id, row.state, row.next_run_time) == ("daily:job-1", S.TERMINATING, None)
    world.run_to(T0 + 9 * HOUR)
    world.restart()
    assert len(world.made) == 1
    assert len([w for w in world.wishes if isinstance(w, f.TerminateScheduledJob)]) == 2
    world.end_job()
    assert (world.row().state, world.row().previous_state) == (S.COMPLETED, S.TERMINATING)


def test_terminate_without_a_job_completes_at_once() -> None:
    world = World()
    row = world.add(new_schedule(do_not_run_until=T0 + HOUR))
    world.do(e.JobScheduleTerminateRequested(at=world.now, schedule_id="daily"))
    assert (row.state, row.previous_state, world.wishes) == (S.COMPLETED, S.TERMINATING, [])


def test_delete_waits_until_everything_under_it_is_gone() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR))
    world.do(e.JobScheduleDeleteRequested(at=world.now, schedule_id="daily"))
    assert row.state is S.DELETING
    assert [type(wish) for wish in world.wishes] == [f.DeleteScheduledJobs]
    world.end_job()
    world.run_to(T0 + 9 * HOUR)
    world.restart()
    assert [type(wish) for wish in world.wishes] == [f.DeleteScheduledJobs] * 2
    assert (len(world.made), world.row().state) == (1, S.DELETING)
    world.do(e.ScheduledJobsDeleted(at=world.now, schedule_id="daily"))
    assert (world.rows, world.state.rows) == ({}, {})
    world.add(new_schedule(no=2))
    assert world.made[-1][0] == "daily:job-1"


REQUESTS: dict[str, type[e.JobScheduleEvent]] = {
    "disable": e.JobScheduleDisableRequested,
    "enable": e.JobScheduleEnableRequested,
    "terminate": e.JobScheduleTerminateRequested,
    "delete": e.JobScheduleDeleteRequested,
}


def request(name: str, at: float, schedule_id: str = "daily") -> e.JobScheduleEvent:
    if name == "update":
        return e.JobScheduleUpdated(at=at, schedule_id=schedule_id, spec={})
    return REQUESTS[name](at=at, schedule_id=schedule_id)


@pytest.mark.parametrize(
    ("before", "refused"),
    [
        ((), {"enable": ErrorCode.OPERATION_INVALID_FOR_CURRENT_STATE}),
        (("disable",), {"disable": ErrorCode.JOB_SCHEDULE_DISABLED}),
        (("terminate",), dict.fromkeys(("disable", "enable", "update", "terminate"), "JobScheduleBeingTerminated")),
        (("terminate", "end"), dict.fromkeys(("disable", "enable", "update", "terminate"), "JobScheduleCompleted")),
        (
            ("delete",),
            dict.fromkeys(("disable", "enable", "update", "terminate", "delete"), "JobScheduleBeingDeleted"),
        ),
    ],
)
def test_which_requests_each_state_takes(before: tuple[str, ...], refused: dict[str, str]) -> None:
    for name in ("disable", "enable", "update", "terminate", "delete"):
        world = World()
        world.add(new_schedule(interval_s=HOUR))
        for step in before:
            if step == "end":
                world.end_job()
            else:
                world.do(request(step, world.now))
        if name in refused:
            assert refusal(world, request(name, world.now)) == refused[name]
        else:
            world.do(request(name, world.now))
        assert refusal(world, request(name, world.now, "nowhere")) is ErrorCode.JOB_SCHEDULE_NOT_FOUND


def test_ids_are_taken_whatever_their_case() -> None:
    world = World()
    world.add(new_schedule())
    again = e.JobScheduleAdded(at=world.now, schedule=new_schedule("DAILY", 2))
    assert refusal(world, again) is ErrorCode.JOB_SCHEDULE_EXISTS
    world.do(e.JobScheduleDeleteRequested(at=world.now, schedule_id="daily"))
    assert refusal(world, again) is ErrorCode.JOB_SCHEDULE_BEING_DELETED


@pytest.mark.parametrize(
    ("before", "after", "next_run"),
    [
        pytest.param({"interval_s": HOUR}, {"interval_s": HOUR, "start_window_s": 70.0}, 60, id="only the window"),
        pytest.param({"interval_s": HOUR}, {"interval_s": 2 * HOUR}, 120, id="longer interval, from the last job"),
        pytest.param({"interval_s": HOUR}, {"interval_s": 30 * MINUTE}, 30, id="shorter interval"),
        pytest.param(
            {"interval_s": HOUR},
            {"interval_s": HOUR, "do_not_run_until": T0 + 5 * HOUR},
            300,
            id="not until later",
        ),
        pytest.param({}, {"interval_s": HOUR}, 70, id="a single job's becomes recurring"),
        pytest.param({}, {"start_window_s": 70.0}, None, id="a single job has been made"),
        pytest.param({"interval_s": HOUR}, {}, 10, id="recurring becomes one more job"),
        pytest.param(
            {"do_not_run_until": T0 + HOUR}, {"do_not_run_until": T0 + 30 * MINUTE}, 30, id="a first job earlier"
        ),
        pytest.param({"do_not_run_until": T0 + HOUR}, {}, 10, id="a first job now"),
    ],
)
def test_an_update_keeps_the_rhythm(before: dict[str, float], after: dict[str, float], next_run: int | None) -> None:
    world = World()
    row = world.add(new_schedule(like=Recurrence(**before)))
    world.run_to(T0 + 10 * MINUTE)
    known = len(world.made)
    world.do(e.JobScheduleUpdated(at=world.now, schedule_id="daily", spec={}, recurrence=Recurrence(**after)))
    if len(world.made) > known:
        assert next_run == 10
    else:
        assert row.next_run_time == (None if next_run is None else T0 + next_run * MINUTE)


def test_an_update_is_for_later_jobs_and_replaces_top_level_properties() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR))
    changes = {"jobSpecification": {"priority": 7}, "metadata": None, "displayName": "x"}
    world.do(e.JobScheduleUpdated(at=world.now, schedule_id="daily", spec=changes))
    assert row.spec == {"id": "daily", "jobSpecification": {"priority": 7}, "displayName": "x"}
    assert len(world.made) == 1, "the job made before keeps what it was made with"


# --- the pool they share --------------------------------------------------------------------------------------------


def test_jobs_of_a_schedule_share_one_auto_pool_until_it_is_over() -> None:
    world = World()
    row = world.add(new_schedule(interval_s=HOUR, pool=SHARED_POOL, do_not_run_after=T0 + 90 * MINUTE))
    pool_id = row.pool_id
    assert pool_id is not None
    assert pool_id.startswith("film_")
    assert len(pool_id) == 41
    world.run_with_jobs(MINUTE, T0 + 80 * MINUTE)
    assert (row.pool_id, world.wishes) == (pool_id, [])
    world.run_to(T0 + 2 * HOUR)
    assert [type(wish) for wish in world.wishes] == [f.DeleteScheduleAutoPool]
    world.restart()
    assert [type(wish) for wish in world.wishes] == [f.DeleteScheduleAutoPool] * 2, "said at least once"


def test_a_pool_to_be_kept_is_kept_and_a_first_job_names_it() -> None:
    world = World()
    keep = {"autoPoolSpecification": {**SHARED_POOL["autoPoolSpecification"], "keepAlive": True}}
    row = world.add(new_schedule(pool=keep, do_not_run_until=T0 + HOUR))
    assert row.pool_id is None, "nothing has needed it yet"
    world.run_with_jobs(MINUTE, T0 + 2 * HOUR)
    assert (row.state, row.pool_id is not None, world.wishes) == (S.COMPLETED, True, [])
    other = World()
    other.add(new_schedule(pool={"autoPoolSpecification": {"poolLifetimeOption": "job", "pool": {}}}))
    assert other.row().pool_id is None


# --- anything -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_random_events_replay_and_rebuild(seed: int) -> None:
    """Any order of anything: the rules hold, the same events give the same rows, a restart changes nothing."""
    dice = random.Random(seed)
    world = World()
    story: list[tuple[float, e.JobScheduleEvent | None]] = []
    names = ("a", "b", "c")

    def do(event: e.JobScheduleEvent) -> None:
        story.append((world.now, copy.deepcopy(event)))
        active = {row.id: row.recent_job_id for row in world.state.rows.values() if row.recent_job_active}
        try:
            world.do(event)
        except BatchError:
            return
        for job_id, _ in world.made:
            schedule_id = job_id.partition(":")[0]
            if schedule_id in active and not isinstance(event, e.ScheduledJobCompleted | e.ScheduledJobsDeleted):
                assert world.state.rows[schedule_id].recent_job_id == active[schedule_id], "a second active job"

    for step in range(150):
        world.now += dice.choice((0.0, 1.0, 30.0, 61.0, 500.0, 4000.0)) * dice.choice((1, 1, 1, 1, 1, -0.5))
        name = dice.choice(names)
        match dice.randrange(10):
            case 0:
                schedule = new_schedule(
                    name,
                    step + 1,
                    pool=dice.choice((None, SHARED_POOL)),
                    interval_s=dice.choice((None, 60.0, HOUR)),
                    start_window_s=dice.choice((None, 60.0, 2 * HOUR)),
                    do_not_run_until=dice.choice((None, world.now + HOUR, world.now - HOUR)),
                    do_not_run_after=dice.choice((None, world.now + 2 * HOUR)),
                )
                do(e.JobScheduleAdded(at=world.now, schedule=schedule))
            case 1:
                do(
                    request(
                        dice.choice(("disable", "enable", "enable", "update", "terminate", "delete")), world.now, name
                    )
                )
            case 2:
                recurrence = Recurrence(interval_s=dice.choice((None, 60.0, 600.0)))
                do(e.JobScheduleUpdated(at=world.now, schedule_id=name, spec={}, recurrence=recurrence))
            case 3 | 4 | 5:
                row = world.state.rows.get(name)
                job_id = f"{name}:job-{dice.randint(1, 3)}" if row is None else row.recent_job_id or "x"
                do(e.ScheduledJobCompleted(at=world.now, schedule_id=name, job_id=job_id))
            case 6:
                wishes, world.wishes = world.wishes, []
                for wish in wishes:
                    if isinstance(wish, f.DeleteScheduledJobs):
                        do(e.ScheduledJobsDeleted(at=world.now, schedule_id=wish.schedule.id))
            case 7:
                story.append((world.now, None))
                world.restart()
            case _:
                pass
        for timer, deadline in list(world.timers.items()):
            if deadline is not None and (deadline <= world.now or dice.random() < 0.02):
                do(e.JobScheduleDue(at=world.now, schedule_id=timer, deadline=deadline))
    again = World()
    for now, told in story:
        again.now = now
        if told is None:
            again.restart()
            continue
        with contextlib.suppress(BatchError):
            again.do(told)
    assert repr(again.rows) == repr(world.rows)
    assert again.made == world.made
