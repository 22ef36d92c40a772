"""One pool in virtual time: the true scheduler, with machines and tasks that are no more than moments on a heap.

`sim.cluster` simulates agents message by message, to find faults; here nothing ever goes wrong between the service and
its nodes, and a month passes in seconds. What is left out: the time messages take (milliseconds), and files.
"""

import heapq
import random
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec

from millpond.domain import effects as f
from millpond.domain import events as e
from millpond.domain.durations import Timestamp
from millpond.domain.ids import task_number_of
from millpond.domain.job import Job
from millpond.domain.pool import Pool
from millpond.domain.states import JobState, NodeState
from millpond.domain.task import NewTask
from millpond.scheduler.core import apply, place
from millpond.scheduler.state import SchedulerState

JOB_ID: Final = "load"
_HOUR: Final = 3600.0


class Machines(msgspec.Struct, frozen=True):
    """How the machines of a pool behave."""

    boot_s: float = 120.0
    """From asking for a machine until its node takes tasks."""
    boot_spread: float = 0.0
    """Each boot takes up to this share less or more, at random: 0.2 is from 80 to 120 percent."""
    release_s: float = 0.0
    """From giving a machine back until it costs nothing any more."""
    evictions_per_hour: float = 0.0
    """How often a spot machine is taken back, on average, for each hour it is there."""
    eviction_wait_s: float = 0.0
    """How long there is no new machine for an evicted spot node."""
    evictions: tuple[tuple[Timestamp, float], ...] = ()
    """(time, share): at these times that share of the spot machines is taken back, all at once."""

    def problem(self) -> str | None:
        """What makes no sense in it."""
        for name in ("boot_s", "boot_spread", "release_s", "evictions_per_hour", "eviction_wait_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                return f"{name} is {value:g}: it must be 0 or more"
        if self.boot_spread > 1:
            return f"boot_spread is {self.boot_spread:g}: it is a share, from 0 to 1"
        for at, share in self.evictions:
            if not 0 <= share <= 1 or not at >= 0:
                return f"an eviction of a share of {share:g} at {at:g}: the share is from 0 to 1, the time 0 or more"
        return None


class Work(NamedTuple):
    """A task to do."""

    duration_s: float
    slots: int = 1


class TaskStory(msgspec.Struct, gc=False):
    """What became of one task."""

    added: Timestamp
    duration_s: float
    slots: int
    first_start: Timestamp | None = None
    end: Timestamp | None = None
    lost_s: float = 0.0
    """Seconds of runs that came to nothing, because its node was taken away."""
    runs: int = 0


class _Machine:
    """The machine of a node, and what its agent holds."""

    __slots__ = ("free", "is_dedicated", "is_up", "life", "queue", "running", "since")

    def __init__(self, slots: int, *, is_dedicated: bool) -> None:
        self.is_dedicated = is_dedicated
        self.free = slots
        self.is_up = False
        self.life = 0
        """Which machine it is, of all there have been: moments of an earlier one are void."""
        self.since: Timestamp | None = None
        """Since when it costs; None while there is none."""
        self.queue: deque[f.StartTask] = deque()
        self.running: dict[tuple[int, int], tuple[Timestamp, int]] = {}
        """(task key, attempt) → since when, slots."""


class VirtualPool:
    """A pool, one job without end, and machines. Moments of equal time come in the order they were arranged in."""

    def __init__(self, pool: Pool, machines: Machines, at: Timestamp, seed: int = 0) -> None:
        """Raises ValueError for machines that make no sense."""
        problem = machines.problem()
        if problem is not None:
            raise ValueError(problem)
        self.now = at
        self.state = SchedulerState("lab", pool.id)
        self.stories: list[TaskStory] = []
        """By number of the task, which is the order they were added in."""
        self.changes = 0
        """Counts the batches the scheduler has seen: nothing is otherwise while this stands still."""
        self.node_seconds = {True: 0.0, False: 0.0}
        """By whether dedicated: of machines that have been given back. See `cost_seconds`."""
        self.done = 0
        self.requeued = 0
        """Runs that were begun and came to nothing."""
        self.evicted = 0
        self._machines = machines
        self._chance = random.Random(seed)
        self._alive: dict[str, _Machine] = {}
        self._heap: list[tuple[Timestamp, int, str, tuple[Any, ...]]] = []
        self._order = 0
        self._lives = 0
        self._due: list[e.Event] = []
        """What nodes and provider have to say at once."""
        self._timers: dict[str, Timestamp | None] = {}
        for moment, share in machines.evictions:
            self._arrange(moment, "eviction", share)
        self.do(e.PoolAdded(at=at, pool=pool), e.JobAdded(at=at, job=_job(pool.id, at)))

    @property
    def pool(self) -> Pool:
        pool = self.state.pool
        assert pool is not None
        return pool

    @property
    def evaluation_due(self) -> Timestamp | None:
        """When the pool's formula is to be evaluated next."""
        return self._timers.get("autoscale")

    @property
    def next_moment(self) -> Timestamp | None:
        """When something happens by itself next."""
        return self._heap[0][0] if self._heap else None

    @property
    def unfinished(self) -> int:
        return len(self.stories) - self.done

    def cost_seconds(self, *, dedicated: bool) -> float:
        """Seconds of machines up to now, from when they were asked for until they were given back."""
        running = (
            self.now - machine.since
            for machine in self._alive.values()
            if machine.is_dedicated is dedicated and machine.since is not None
        )
        return self.node_seconds[dedicated] + sum(running)

    def add(self, work: Iterable[Work]) -> None:
        """Add tasks now."""
        tasks = []
        for duration_s, slots in work:
            self.stories.append(TaskStory(self.now, duration_s, slots))
            tasks.append(NewTask(id=f"t{len(self.stories)}", spec=b"", required_slots=slots))
        if tasks:
            self.do(e.TasksAdded(at=self.now, job_id=JOB_ID, tasks=tuple(tasks)))

    def do(self, *events: e.Event) -> None:
        """Have events happen now, with all that follows at once. Raises BatchError for one the rules forbid."""
        self.changes += 1
        batch: Iterable[e.Event] = events
        while batch:
            for event in batch:
                self._carry_out(apply(self.state, event))
            self._carry_out(place(self.state, self.now))
            batch, self._due = self._due, []

    def advance(self, until: Timestamp) -> None:
        """Let pass what happens by itself up to and including a time; `now` is that time then."""
        while self._heap and self._heap[0][0] <= until:
            at = self.now = max(self.now, self._heap[0][0])
            events: list[e.Event] = []
            while self._heap and self._heap[0][0] <= at:
                _, _, what, about = heapq.heappop(self._heap)
                events.extend(getattr(self, f"_{what}")(*about))
            if events:
                self.do(*events)
        self.now = max(self.now, until)

    def _arrange(self, at: Timestamp, what: str, *about: object) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, what, about))

    # --- what the scheduler wants ---

    def _carry_out(self, effects: Iterable[f.Effect]) -> None:
        for effect in effects:
            match effect:
                case f.StartTask(node_id=node_id):
                    self._hand_over(node_id, effect)
                case f.CreateNode(_, node):
                    self._create(node.id, is_dedicated=node.is_dedicated, again=node.state is NodeState.PREEMPTED)
                case f.ReleaseNode(_, node):
                    self._release(node.id)
                case f.StopTask(node_id, key, attempt):
                    self._stop(node_id, key, attempt)
                case f.ReturnTask(node_id, key, attempt):
                    self._give_back(node_id, key, attempt)
                case f.SetAutoScaleTimer(deadline):
                    self._timers["autoscale"] = deadline
                case f.SetResizeTimer(deadline):
                    self._set_timer("resize", deadline)
                case f.SetNodeRetentionTimer(node_id, deadline):
                    self._set_timer(node_id, deadline)

    def _set_timer(self, name: str, deadline: Timestamp | None) -> None:
        self._timers[name] = deadline
        if deadline is not None:
            self._arrange(deadline, "timer", name, deadline)

    def _create(self, node_id: str, *, is_dedicated: bool, again: bool) -> None:
        machine = self._alive.get(node_id)
        if machine is None:
            machine = self._alive[node_id] = _Machine(self.pool.task_slots_per_node, is_dedicated=is_dedicated)
        self._renew(machine)
        if again and self._machines.eviction_wait_s > 0:
            self._arrange(self.now + self._machines.eviction_wait_s, "found", node_id, machine.life)
        else:
            self._due.extend(self._found(node_id, machine.life))

    def _release(self, node_id: str) -> None:
        machine = self._alive.get(node_id)
        if machine is None:
            self._due.append(e.NodeGone(at=self.now, node_id=node_id))
            return
        self._lose(machine)
        if self._machines.release_s > 0:
            self._arrange(self.now + self._machines.release_s, "gone", node_id, machine.life)
        else:
            self._due.extend(self._gone(node_id, machine.life))

    def _renew(self, machine: _Machine) -> None:
        self._lives += 1
        machine.life = self._lives

    def _lose(self, machine: _Machine) -> None:
        """Whatever it ran is lost."""
        self._renew(machine)
        machine.is_up = False
        for (key, _), (since, _) in machine.running.items():
            self._count_lost(key, since)
        machine.running.clear()
        machine.queue.clear()
        machine.free = self.pool.task_slots_per_node

    def _count_lost(self, key: int, since: Timestamp) -> None:
        self.stories[task_number_of(key) - 1].lost_s += self.now - since
        self.requeued += 1

    # --- nodes ---

    def _hand_over(self, node_id: str, start: f.StartTask) -> None:
        machine = self._alive.get(node_id)
        if machine is not None and machine.is_up:
            machine.queue.append(start)
            self._begin(node_id, machine)

    def _begin(self, node_id: str, machine: _Machine) -> None:
        """Start what fits, strictly in order."""
        while machine.queue and machine.queue[0].slots <= machine.free:
            start = machine.queue.popleft()
            key, attempt = start.task.key, start.attempt
            machine.free -= start.slots
            machine.running[key, attempt] = (self.now, start.slots)
            story = self.stories[task_number_of(key) - 1]
            story.runs += 1
            if story.first_start is None:
                story.first_start = self.now
            self._due.append(e.TaskStarted(at=self.now, node_id=node_id, key=key, attempt=attempt, start_time=self.now))
            self._arrange(self.now + story.duration_s, "end", node_id, key, attempt, machine.life)

    def _stop(self, node_id: str, key: int, attempt: int) -> None:
        machine = self._alive.get(node_id)
        if machine is None or not machine.is_up:
            return
        begun = machine.running.pop((key, attempt), None)
        if begun is None:
            _drop(machine.queue, key, attempt)
        else:
            machine.free += begun[1]
            self._count_lost(key, begun[0])
        exit_code = None if begun is None else -9
        self._due.append(e.TaskStopped(at=self.now, node_id=node_id, key=key, attempt=attempt, exit_code=exit_code))
        self._begin(node_id, machine)

    def _give_back(self, node_id: str, key: int, attempt: int) -> None:
        machine = self._alive.get(node_id)
        if machine is not None and _drop(machine.queue, key, attempt):
            self._due.append(e.TaskReturned(at=self.now, node_id=node_id, key=key, attempt=attempt))

    # --- moments ---

    def _timer(self, name: str, deadline: Timestamp) -> Iterator[e.Event]:
        if self._timers.get(name) != deadline:
            return
        self._timers[name] = None
        if name == "resize":
            yield e.PoolResizeTimedOut(at=self.now, deadline=deadline)
        else:
            yield e.NodeRetentionPassed(at=self.now, node_id=name, deadline=deadline)

    def _found(self, node_id: str, life: int) -> Iterator[e.Event]:
        """There is a machine: from now on it costs, and boots."""
        machine = self._alive.get(node_id)
        if machine is None or machine.life != life:
            return
        model = self._machines
        machine.since = self.now
        spread = model.boot_spread * (2 * self._chance.random() - 1) if model.boot_spread else 0.0
        self._arrange(self.now + model.boot_s * (1 + spread), "up", node_id, life)
        if not machine.is_dedicated and model.evictions_per_hour:
            left_s = self._chance.expovariate(model.evictions_per_hour) * _HOUR
            self._arrange(self.now + left_s, "evict", node_id, life)
        yield e.NodeProvisioned(at=self.now, node_id=node_id, handle=f"{node_id}/{life}")

    def _up(self, node_id: str, life: int) -> Iterator[e.Event]:
        machine = self._alive.get(node_id)
        if machine is None or machine.life != life:
            return
        machine.is_up = True
        # Two machines of one node never have the same boot time, however quick they are.
        yield e.NodeConnected(
            at=self.now,
            node_id=node_id,
            boot_time=self.now + life * 1e-6,
            ip_address="10.0.0.1",
            agent_version="lab",
        )

    def _gone(self, node_id: str, life: int) -> Iterator[e.Event]:
        machine = self._alive.get(node_id)
        if machine is None or machine.life != life:
            return
        self._charge(machine)
        del self._alive[node_id]
        yield e.NodeGone(at=self.now, node_id=node_id)

    def _end(self, node_id: str, key: int, attempt: int, life: int) -> Iterator[e.Event]:
        machine = self._alive.get(node_id)
        if machine is None or machine.life != life:
            return
        begun = machine.running.pop((key, attempt), None)
        if begun is None:
            return
        since, slots = begun
        machine.free += slots
        self.done += 1
        self.stories[task_number_of(key) - 1].end = self.now
        yield e.TaskEnded(
            at=self.now,
            node_id=node_id,
            key=key,
            attempt=attempt,
            start_time=since,
            end_time=self.now,
            exit_code=0,
        )
        self._begin(node_id, machine)

    def _evict(self, node_id: str, life: int) -> Iterator[e.Event]:
        machine = self._alive.get(node_id)
        if machine is None or machine.life != life:
            return
        node = self.state.nodes.get(node_id)
        if node is None or node.row.state is NodeState.LEAVING_POOL:
            return
        self._lose(machine)
        self._charge(machine)
        self.evicted += 1
        yield e.NodePreempted(at=self.now, node_id=node_id)

    def _eviction(self, share: float) -> Iterator[e.Event]:
        spot = [
            (node_id, machine.life)
            for node_id, machine in self._alive.items()
            if not machine.is_dedicated and machine.since is not None
        ]
        chosen = self._chance.sample(spot, round(share * len(spot)))
        return chain.from_iterable(self._evict(node_id, life) for node_id, life in chosen)

    def _charge(self, machine: _Machine) -> None:
        if machine.since is not None:
            self.node_seconds[machine.is_dedicated] += self.now - machine.since
            machine.since = None


def _drop(queue: "deque[f.StartTask]", key: int, attempt: int) -> bool:
    for start in queue:
        if start.task.key == key and start.attempt == attempt:
            queue.remove(start)
            return True
    return False


def _job(pool_id: str, at: Timestamp) -> Job:
    return Job(
        no=1,
        id=JOB_ID,
        pool_id=pool_id,
        state=JobState.ACTIVE,
        creation_time=at,
        last_modified=at,
        state_time=at,
        spec={},
    )
