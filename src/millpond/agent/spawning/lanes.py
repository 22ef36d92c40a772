"""Launches that wait for others to end: a host hands over what comes next before the process before it has ended.

Without them a slot of a node stands empty from the end of one process, over the host's turn, until the next is started.

A *lane* is that of one node, as wide as the node has room for the attempts that run in it: those that wait, and those they
wait for, need the same. What is handed over ahead waits while the lane is full, and is started in the turn in which one of
the lane is reaped. Only as long as all goes well: what waits is given back, as never having been there, when

- a process of the lane ends with anything but exit code 0, or cannot be started. The host then looks at what went wrong
  before anything else runs on that node;
- nothing of the lane has begun for `PATIENCE_S`: what runs takes longer than the host thought;
- the host is lost. Nobody would hear of what is started.

With that a lane is of the next *generation*. What was handed over before the host knew of it, and comes after, is given
back as well: it would overtake the others.
"""

from millpond.agent.spawning.switch import Switch

PATIENCE_S = 0.1
_MOST_REMEMBERED = 1024


class Lane:
    """The launches of one node."""

    __slots__ = ("begun_at", "name", "running", "waiting", "width")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.width = 1
        """So many may run at a time, when one is to begin that waits."""
        self.running = 0
        """Processes from their start until their end is told."""
        self.waiting: dict[bytes, tuple[bytes, Switch | None]] = {}
        """By id: launches, in order."""
        self.begun_at = 0.0
        """Monotonic time of the last start, or of the first launch to wait."""


class Lanes:
    """Bookkeeping only: what is to be started or told is for the caller."""

    def __init__(self) -> None:
        self._lanes: dict[bytes, Lane] = {}
        self._waiting: dict[bytes, Lane] = {}
        """By id of what waits."""
        self._generations: dict[bytes, int] = {}
        """By lane, also of those in which nothing is just now."""
        self.given_back: dict[bytes, None] = {}
        """What has waited, and was not launched again, as far as it is remembered: a host that was lost may not have been
        told, or not have written it down; the next one is."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._waiting)

    def __contains__(self, process_id: bytes) -> bool:
        return process_id in self._waiting

    def lane(self, name: bytes) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name)
        return lane

    def wait(self, lane: Lane, process_id: bytes, launch: bytes, switch: Switch | None, now: float) -> None:
        if not lane.waiting:
            lane.begun_at = now
        lane.waiting[process_id] = launch, switch
        self._waiting[process_id] = lane

    def next(self, lane: Lane) -> tuple[bytes, Switch | None] | None:
        """What is to be started now; it waits no longer."""
        if not lane.waiting or lane.running >= lane.width:
            return None
        process_id = next(iter(lane.waiting))
        del self._waiting[process_id]
        return lane.waiting.pop(process_id)

    def leave(self, lane: Lane) -> None:
        """One of its processes is over."""
        lane.running -= 1
        if not lane.running and not lane.waiting:
            self._lanes.pop(lane.name, None)

    def withdraw(self, process_id: bytes) -> Lane | None:
        """Give back what waits: its lane; None if it does not."""
        lane = self._waiting.pop(process_id, None)
        if lane is None:
            return None
        del lane.waiting[process_id]
        self.remember(process_id)
        return lane

    def remember(self, process_id: bytes) -> None:
        """It is given back."""
        self.given_back[process_id] = None
        if len(self.given_back) > _MOST_REMEMBERED:
            del self.given_back[next(iter(self.given_back))]

    def generation(self, lane: bytes) -> int:
        return self._generations.get(lane, 0)

    def empty(self, lane: Lane) -> list[bytes]:
        """Give back all that waits in a lane: their ids, in order."""
        self._generations[lane.name] = self.generation(lane.name) + 1
        ids = list(lane.waiting)
        for process_id in ids:
            self.withdraw(process_id)
        return ids

    def stuck(self, now: float) -> list[Lane]:
        """Lanes in which something waits, and nothing has begun for long."""
        return [lane for lane in self._lanes.values() if lane.waiting and now - lane.begun_at >= PATIENCE_S]

    def full(self) -> list[Lane]:
        """Lanes in which something waits."""
        return [lane for lane in self._lanes.values() if lane.waiting]
