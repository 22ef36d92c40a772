"""Machines of a simulated cluster: the true agent on an in-memory journal, and processes that outlive it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import msgspec

from millpond.agent.base import Outcome, Runner
from millpond.agent.link import NodeLink
from millpond.agent.local_state import MemoryJournal
from millpond.agent.node import NodeAgent
from millpond.agent.pace import Pace
from millpond.domain.durations import Timestamp
from millpond.domain.errors import ErrorCode, TaskFailureCode
from millpond.domain.ids import is_special_key, job_no_of
from millpond.domain.states import ErrorCategory, TaskKind
from millpond.domain.task import FailureInfo
from millpond.protocol.messages import FileReply, FileRequest, LaunchReply, LaunchRequest, Start
from millpond.sim.audit import Audit, MachineFacts
from millpond.sim.loop import Process, VirtualLoop
from millpond.sim.making import ENDLESS_S
from millpond.sim.names import named
from millpond.sim.network import Network, SimTransport
from millpond.sim.plans import TaskPlan
from millpond.sim.story import Story

AttemptRef = tuple[int, int]


_plan_decoder = msgspec.json.Decoder(TaskPlan)
_COORDINATION_FAILS = 7
"""Exit code of a coordination command that fails."""
_ENDLESS_ENDS_S = 1.0
_LANE_PATIENCE_S = (0.1, 5.0, 100.0)
"""What waits for others to end is given back after one of these times: long ones, so that much of it does begin."""
_TELL_S = 0.005


class _Running:
    """A process of an attempt: it runs, or its exit waits to be taken in."""

    def __init__(self, start: Start, begun: Timestamp) -> None:
        self.start = start
        self.begun = begun
        self.exit_code: int | None = None
        self.ended: Timestamp = 0.0
        self.over = asyncio.Event()
        self.coordinated = asyncio.Event()
        """Of an instance: its coordination command has ended, well or not (then it is over)."""
        self.command_runs = False
        """Of an instance: the primary's command line has begun."""

    @property
    def runs(self) -> bool:
        return not self.over.is_set()


class Waiting:
    """An attempt that is handed to a machine ahead of others' ends."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.process: _Running | None = None
        """None, once it is settled: it was given back."""
        self.settled = asyncio.Event()

    def settle(self, process: _Running | None) -> None:
        self.process = process
        self.settled.set()


class Launches:
    """All attempts ever started as a process, of the whole cluster."""

    def __init__(self) -> None:
        self.refs: set[tuple[str, int, int]] = set()
        """(node id, where several nodes run the same attempt; task key; attempt)"""
        self.endless_runs = True
        """Endless tasks do run on. Else they soon end."""


class Machine:
    """One machine of a node: its disk (the journal), its processes, its agent."""

    def __init__(
        self,
        node_id: str,
        task_slots: int,
        loop: VirtualLoop,
        random: Random,
        network: Network,
        audit: Audit,
        story: Story,
        launches: Launches,
        clock: Callable[[], Timestamp],
    ) -> None:
        self.node_id = node_id
        self.ip_address = f"10.0.{random.randint(0, 255)}.{random.randint(1, 254)}"
        self.facts = MachineFacts()
        self.name = f"node {node_id.removeprefix('tvmps_')[:6]}"
        self.task_slots = task_slots
        self.alive = True
        self.agent: NodeAgent | None = None
        self.process: Process | None = None
        self.removing: set[tuple[str, str]] = set()
        self._loop = loop
        self._random = random
        self._network = network
        self._audit = audit
        self._story = story
        self._launches = launches
        self._journal = MemoryJournal()
        self._processes: dict[AttemptRef, _Running] = {}
        self._waiting: dict[AttemptRef, Waiting] = {}
        """Handed over ahead, in order."""
        self.given_back: set[AttemptRef] = set()
        """What has waited, and was not begun."""
        self.generation = 0
        """Times that all that waited was given back."""
        skew_s = random.choice((0.0, 0.0, random.uniform(-5.0, 5.0)))
        self.clock: Callable[[], Timestamp] = lambda: clock() + skew_s
        self.stopping = False

    @property
    def is_spot(self) -> bool:
        return self.node_id.endswith("_p")

    # --- its life ---

    def boot(self) -> None:
        """Start the agent, as after power on."""
        if not self.alive or (self.process is not None and self.process.alive):
            return
        self._story.add(self.name, "the agent starts")
        self.stopping = False
        self.process = self._loop.process(self.name)
        self.process.spawn(self._run_agent(), name="agent")

    async def _run_agent(self) -> None:
        self.agent = NodeAgent(
            self.node_id,
            root="/node",
            task_slots=self.task_slots,
            journal=self._journal,
            runner_factory=lambda _: SimRunner(self, self._random),
            clock=self.clock,
            ip_address=self.ip_address,
            wipe=self._wipe,
            takes_ahead=_is_plain,
            pace=_AnyPace(self._random),
        )
        self.agent.begin()
        self._transport = SimTransport(self._network, self.node_id, self._random)
        link = NodeLink(self.agent, self._transport, _NoFiles(), chance=self._random.random)
        self._link = asyncio.create_task(link.run(), name="link")
        await self._link
        await self._transport.close()
        await self.agent.ended()
        await self.agent.close()
        self._story.add(self.name, "the agent has left")

    def crash_agent(self) -> None:
        """kill -9 of the agent: its disk and its processes stay."""
        if self.process is not None and self.process.alive:
            self._story.add(self.name, "the agent is killed")
            self.process.kill()
            self.agent = None
            self.removing.clear()
            self.give_back_all()

    def stop_agent(self) -> None:
        """Ask the agent to end, as a host that is stopped does."""
        agent, process = self.agent, self.process
        if agent is None or process is None or not process.alive or self.stopping:
            return
        self.stopping = True
        self._story.add(self.name, "the agent is asked to stop")
        process.spawn(self._stop(agent, process), name="stop")

    async def _stop(self, agent: NodeAgent, process: Process) -> None:
        agent.interrupt()
        ends = asyncio.create_task(agent.ended())
        await asyncio.wait([ends], timeout=1.5)
        self._link.cancel()
        await asyncio.wait([self._link])
        await self._transport.close()
        await agent.close()
        self._story.add(self.name, "the agent has stopped")
        process.kill()
        self.agent = None
        self.give_back_all()

    def reboot(self) -> None:
        """The machine restarts: processes are lost, the disk stays."""
        if not self.alive:
            return
        self._story.add(self.name, "the machine reboots")
        self.crash_agent()
        self._processes.clear()
        self.given_back.clear()

    def die(self) -> None:
        """The machine is no more."""
        self._story.add(self.name, "the machine is gone")
        self.crash_agent()
        self.alive = False
        self._processes.clear()

    def _wipe(self) -> None:
        """The agent wants an empty disk; the machine may not be able to just now."""
        if self._random.random() < 0.1:
            raise OSError("simulated: the disk is busy")
        self._story.add(self.name, "the disk is wiped")
        if self.running or self._waiting:
            self._audit.fail(f"{self.name}: the disk is wiped under {self.running}")
        self._processes.clear()
        self.facts.prepared.clear()

    # --- processes ---

    @property
    def running(self) -> list[AttemptRef]:
        return [ref for ref, process in self._processes.items() if process.runs]

    @property
    def idle(self) -> bool:
        """Nothing runs, and the agent has nothing to do or to say."""
        return not self.running and self.agent is not None and self.agent.state.idle

    @property
    def _busy(self) -> int:
        """Processes that have slots."""
        return sum(process.start.slots > 0 for process in self._processes.values() if process.runs)

    def find(self, ref: AttemptRef) -> _Running | None:
        return self._processes.get(ref)

    def start(self, start: Start, plan: TaskPlan) -> _Running:
        """Start the process of an attempt; of an instance, its coordination command."""
        ref = (start.key, start.attempt)
        what = "" if start.kind is TaskKind.TASK else f" {start.kind}"
        name = f"{named(start.key)}#{start.attempt}{what}"
        self._story.add(self.name, f"{name} starts ({start.slots} slots, {plan.run_s:.3f} s)")
        if self.agent is not None:
            self.facts.boot_time = self.agent.state.boot_time
            self.facts.disk_time = self.agent.state.disk_time
        others = [process.start for process in self._processes.values() if process.runs]
        self._audit.on_launch(self.node_id, start, self.facts, others)
        mark = ("" if start.kind is TaskKind.TASK else self.node_id, *ref)
        if mark in self._launches.refs:
            self._audit.fail(f"{name} starts on {self.name}: it has been started before")
        self._launches.refs.add(mark)
        used = sum(other.slots for other in others)
        if used + start.slots > self.task_slots:
            self._audit.fail(f"{self.name} runs {used} slots and starts {start.slots} more of {self.task_slots}")
        directory = (start.job_id, start.task_id)
        if directory in self.removing or (start.job_id, "") in self.removing:
            self._audit.fail(f"{name} starts on {self.name} while its directory is being removed")
        for other in others:
            if (other.job_id, other.task_id) == directory:
                self._audit.fail(f"{name} starts on {self.name} in a directory in use by #{other.attempt}")
        process = self._processes[ref] = _Running(start, self.clock())
        if start.instance is not None:
            last = start.instance.index == len(start.instance.addresses) - 1
            fails = last and start.attempt <= plan.coordination_fails
            self._loop.in_world(plan.coordination_s, self._coordinate, ref, process, fails)
        else:
            self._schedule_exit(ref, process, plan)
        return process

    def wait(self, start: Start, width: int, generation: int) -> "Waiting":
        """Start the process of an attempt once no more than `width` run with it; at once if that is 0."""
        ref = (start.key, start.attempt)
        waiting = Waiting(start)
        self.given_back.discard(ref)
        if width and generation != self.generation:
            self.given_back.add(ref)
            waiting.settle(None)
        elif width and (self._waiting or self._busy >= width):
            self._story.add(self.name, f"{named(start.key)}#{start.attempt} waits here for others to end")
            self._waiting[ref] = waiting
            self._loop.in_world(self._random.choice(_LANE_PATIENCE_S), self._lose_patience, ref)
        else:
            waiting.settle(self.start(start, _plan_decoder.decode(start.spec)))
        return waiting

    def _lose_patience(self, ref: AttemptRef) -> None:
        if ref in self._waiting:
            self.give_back_all()

    def _go_on(self, exit_code: int) -> None:
        """A process with slots has ended."""
        if exit_code != 0:
            self.give_back_all()
        elif self._waiting:
            waiting = self._waiting.pop(next(iter(self._waiting)))
            waiting.settle(self.start(waiting.start, _plan_decoder.decode(waiting.start.spec)))

    def give_back_all(self) -> None:
        self.generation += 1
        for ref in list(self._waiting):
            self._give_back(ref)

    def _give_back(self, ref: AttemptRef) -> None:
        self._story.add(self.name, f"{named(ref[0])}#{ref[1]} is given back")
        self.given_back.add(ref)
        self._waiting.pop(ref).settle(None)

    def _schedule_exit(self, ref: AttemptRef, process: _Running, plan: TaskPlan) -> None:
        if plan.run_s >= ENDLESS_S and self._launches.endless_runs:
            return
        codes = plan.exit_codes
        number = process.start.attempt - 1
        code = codes[number % len(codes)] if is_special_key(ref[0]) else codes[min(number, len(codes) - 1)]
        run_s = plan.run_s if plan.run_s < ENDLESS_S else _ENDLESS_ENDS_S
        self._loop.in_world(run_s, self._exit, ref, process, code)

    def _coordinate(self, ref: AttemptRef, process: _Running, fails: bool) -> None:
        if self._processes.get(ref) is not process or not process.runs:
            return
        if fails:
            self._exit(ref, process, _COORDINATION_FAILS)
            return
        self._story.add(self.name, f"{named(ref[0])}#{ref[1]} has coordinated")
        self._audit.coordinated.add((*ref, self.node_id))
        process.coordinated.set()

    def start_command(self, process: _Running, plan: TaskPlan) -> None:
        """The primary of a multi-instance task begins its command line."""
        if process.command_runs or not process.runs:
            return
        process.command_runs = True
        start = process.start
        self._story.add(self.name, f"{named(start.key)}#{start.attempt} proceeds")
        self._audit.on_proceed(self.node_id, start)
        self._schedule_exit((start.key, start.attempt), process, plan)

    def end_endless(self) -> None:
        """What runs without end comes to one."""
        for ref, process in list(self._processes.items()):
            if process.runs and process.start.instance is None:
                plan = _plan_decoder.decode(process.start.spec)
                if plan.run_s >= ENDLESS_S:
                    self._schedule_exit(ref, process, plan)

    def kill(self, ref: AttemptRef) -> None:
        if ref in self._waiting:
            self._give_back(ref)
        process = self._processes.get(ref)
        if process is not None and process.runs:
            self._loop.in_world(self._random.uniform(0.0, 0.05), self._exit, ref, process, -9)

    def _exit(self, ref: AttemptRef, process: _Running, exit_code: int) -> None:
        if self._processes.get(ref) is not process or not process.runs:
            return
        process.exit_code = exit_code
        process.ended = self.clock()
        process.over.set()
        process.coordinated.set()
        self._audit.exits.setdefault(ref, set()).add(exit_code)
        self._story.add(self.name, f"{named(ref[0])}#{ref[1]} exits with {exit_code}")
        start = process.start
        if start.kind is TaskKind.START_TASK and exit_code == 0:
            self.facts.started_at = self.facts.boot_time
        elif start.kind is TaskKind.JOB_PREPARATION:
            self.facts.prepared[job_no_of(start.key)] = (self.facts.disk_time, self.facts.boot_time, exit_code)
        if start.slots:
            self._go_on(exit_code)

    def forget(self, ref: AttemptRef) -> None:
        self._processes.pop(ref, None)


class SimRunner(Runner):
    """`agent.base.Runner` on a machine; one for each life of the agent."""

    def __init__(self, machine: Machine, random: Random) -> None:
        self._machine = machine
        self._random = random
        self._stops: dict[AttemptRef, asyncio.Event] = {}
        self._generation = 0
        """The machine's, as far as it was told."""
        self._following: set[asyncio.Task[None]] = set()
        self._proceeds: dict[AttemptRef, asyncio.Event] = {}

    async def run(
        self,
        start: Start,
        started: Callable[[Timestamp], None],
        *,
        resumed: bool,
        began: Timestamp | None = None,
        coordinated: Callable[[], None] = lambda: None,
        width: int = 0,
        ahead: bool = False,
    ) -> Outcome | None:
        ref = (start.key, start.attempt)
        machine = self._machine
        stop = self._stops[ref] = asyncio.Event()
        self._proceeds[ref] = asyncio.Event()
        try:
            plan = _plan_decoder.decode(start.spec)
            process = machine.find(ref)
            if process is None and ahead and ref in machine.given_back:
                return None
            begun = machine.clock() if process is None else process.begun
            if process is None:
                if resumed:
                    return Outcome(None, machine.clock(), None, _LOST, retryable=True)
                started(begun)
                if plan.prepare_s and await _set_within(stop, plan.prepare_s):
                    return Outcome(begun, machine.clock(), None, _LOST, retryable=True)
                process = machine.start(start, plan)
            else:
                started(begun)
            if stop.is_set():
                machine.kill(ref)
            if start.instance is not None:
                await process.coordinated.wait()
                if process.runs:
                    coordinated()
                    if start.instance.index == 0 and await _first_of(self._proceeds[ref], process.over):
                        machine.start_command(process, plan)
            await process.over.wait()
            failure: FailureInfo | None = None
            if plan.upload_fails and process.exit_code == 0:
                await asyncio.sleep(0.1)
                failure = _NO_UPLOAD
            # From here on an agent that dies before it has written the end down finds nothing, and the task runs again.
            machine.forget(ref)
            return Outcome(begun, process.ended, process.exit_code, failure)
        finally:
            del self._stops[ref]
            del self._proceeds[ref]

    def begin(
        self,
        start: Start,
        began: Timestamp,
        started: Callable[[Timestamp], None],
        ended: Callable[[Outcome | None], None],
        *,
        width: int = 0,
        ahead: bool = False,
    ) -> bool:
        if not width:
            return False
        if not ahead:
            started(began)
        waiting = self._machine.wait(start, width if ahead else 0, self._generation)
        following = asyncio.create_task(self._follow(waiting, started if ahead else _nothing, ended))
        self._following.add(following)
        following.add_done_callback(self._following.discard)
        return True

    async def _follow(
        self, waiting: Waiting, started: Callable[[Timestamp], None], ended: Callable[[Outcome | None], None]
    ) -> None:
        """An attempt that has nothing to it but its process."""
        await waiting.settled.wait()
        process = waiting.process
        # What the machine tells takes its time, and comes in order.
        await asyncio.sleep(_TELL_S)
        if process is None:
            self._generation = self._machine.generation
            ended(None)
            return
        started(process.begun)
        if process.runs:
            await process.over.wait()
            await asyncio.sleep(_TELL_S)
        self._machine.forget((waiting.start.key, waiting.start.attempt))
        ended(Outcome(process.begun, process.ended, process.exit_code))

    def proceed(self, key: int, attempt: int) -> None:
        proceed = self._proceeds.get((key, attempt))
        if proceed is not None:
            proceed.set()

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        return LaunchReply(error=ErrorCode.TASK_NOT_FOUND, message="Simulated tasks launch nothing.")

    async def stop(self, key: int, attempt: int) -> None:
        ref = (key, attempt)
        stop = self._stops.get(ref)
        if stop is not None:
            stop.set()
        self._machine.kill(ref)

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        directory = (job_id, task_id)
        self._machine.removing.add(directory)
        await asyncio.sleep(self._random.uniform(0.0, 0.5))
        self._machine.removing.discard(directory)

    async def close(self) -> None:
        """Processes run on."""
        for following in self._following:
            following.cancel()


class _AnyPace(Pace):
    """Attempts are handed ahead whether they are short or not."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    def ahead(self, width: int) -> int:
        return self._random.choice((0, 2, 5))


def _is_plain(start: Start) -> bool:
    if start.kind is not TaskKind.TASK or start.instance is not None:
        return False
    plan = _plan_decoder.decode(start.spec)
    return not plan.prepare_s and not plan.upload_fails


def _nothing(at: Timestamp) -> None:
    """It is known already."""


_LOST = FailureInfo(ErrorCategory.SERVER_ERROR, TaskFailureCode.UNKNOWN.value, "lost")
_NO_UPLOAD = FailureInfo(ErrorCategory.USER_ERROR, TaskFailureCode.FILE_UPLOAD_MISC_ERROR.value, "no upload")


async def _first_of(wanted: asyncio.Event, other: asyncio.Event) -> bool:
    """Wait for either; whether it was the one that is wanted."""
    waits = [asyncio.ensure_future(event.wait()) for event in (wanted, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return wanted.is_set()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class _NoFiles:
    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        return FileReply(error=ErrorCode.FILE_NOT_FOUND, message=request.path), None
