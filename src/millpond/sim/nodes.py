"""Machines of a simulated cluster: the true agent on an in-memory journal, and processes that outlive it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from random import Random

import msgspec

from millpond.agent.base import Outcome
from millpond.agent.link import NodeLink
from millpond.agent.local_state import MemoryJournal
from millpond.agent.node import NodeAgent
from millpond.domain.durations import Timestamp
from millpond.domain.errors import ErrorCode, TaskFailureCode
from millpond.domain.states import ErrorCategory, TaskKind
from millpond.domain.task import FailureInfo
from millpond.protocol.messages import FileReply, FileRequest, Start
from millpond.sim.audit import Audit
from millpond.sim.disk import named
from millpond.sim.loop import Process, VirtualLoop
from millpond.sim.network import Network, SimTransport
from millpond.sim.story import Story

AttemptRef = tuple[int, int]


class TaskPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task does: its specification, as the simulated runner reads it."""

    run_s: float
    prepare_s: float = 0.0
    exit_codes: tuple[int, ...] = (0,)
    """By attempt; the last one stands for all further ones."""
    upload_fails: bool = False


_plan_decoder = msgspec.json.Decoder(TaskPlan)


class _Running:
    """A process of an attempt: it runs, or its exit waits to be taken in."""

    def __init__(self, start: Start, begun: Timestamp) -> None:
        self.start = start
        self.begun = begun
        self.exit_code: int | None = None
        self.ended: Timestamp = 0.0
        self.over = asyncio.Event()

    @property
    def runs(self) -> bool:
        return not self.over.is_set()


class Launches:
    """All attempts ever started as a process, of the whole cluster."""

    def __init__(self) -> None:
        self.refs: set[AttemptRef] = set()


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
        skew_s = random.choice((0.0, 0.0, random.uniform(-5.0, 5.0)))
        self.clock: Callable[[], Timestamp] = lambda: clock() + skew_s
        self.stopping = False

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
        )
        self.agent.begin()
        link = NodeLink(self.agent, SimTransport(self._network, self.node_id), _NoFiles(), chance=self._random.random)
        self._link = asyncio.create_task(link.run(), name="link")
        await self._link
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
        await agent.close()
        self._story.add(self.name, "the agent has stopped")
        process.kill()
        self.agent = None

    def reboot(self) -> None:
        """The machine restarts: processes are lost, the disk stays."""
        if not self.alive:
            return
        self._story.add(self.name, "the machine reboots")
        self.crash_agent()
        self._processes.clear()

    def die(self) -> None:
        """The machine is no more."""
        self._story.add(self.name, "the machine is gone")
        self.crash_agent()
        self.alive = False
        self._processes.clear()

    # --- processes ---

    @property
    def running(self) -> list[AttemptRef]:
        return [ref for ref, process in self._processes.items() if process.runs]

    @property
    def idle(self) -> bool:
        """Nothing runs, and the agent has nothing to do or to say."""
        return not self.running and self.agent is not None and self.agent.state.idle

    def find(self, ref: AttemptRef) -> _Running | None:
        return self._processes.get(ref)

    def start(self, start: Start, plan: TaskPlan) -> _Running:
        """Start the process of an attempt."""
        ref = (start.key, start.attempt)
        name = f"{named(start.key)}#{start.attempt}"
        self._story.add(self.name, f"{name} starts ({start.slots} slots, {plan.run_s:.3f} s)")
        self._audit.on_launch(self.node_id, start)
        if ref in self._launches.refs:
            self._audit.fail(f"{name} starts on {self.name}: it has been started before")
        self._launches.refs.add(ref)
        used = sum(process.start.slots for process in self._processes.values() if process.runs)
        if used + start.slots > self.task_slots:
            self._audit.fail(f"{self.name} runs {used} slots and starts {start.slots} more of {self.task_slots}")
        directory = (start.job_id, start.task_id)
        if directory in self.removing or (start.job_id, "") in self.removing:
            self._audit.fail(f"{name} starts on {self.name} while its directory is being removed")
        for other in self._processes.values():
            if other.runs and (other.start.job_id, other.start.task_id) == directory:
                self._audit.fail(f"{name} starts on {self.name} in a directory in use by #{other.start.attempt}")
        process = self._processes[ref] = _Running(start, self.clock())
        exit_code = plan.exit_codes[min(start.attempt, len(plan.exit_codes)) - 1]
        self._loop.in_world(plan.run_s, self._exit, ref, process, exit_code)
        return process

    def kill(self, ref: AttemptRef) -> None:
        process = self._processes.get(ref)
        if process is not None and process.runs:
            self._loop.in_world(self._random.uniform(0.0, 0.05), self._exit, ref, process, -9)

    def _exit(self, ref: AttemptRef, process: _Running, exit_code: int) -> None:
        if self._processes.get(ref) is not process or not process.runs:
            return
        process.exit_code = self._audit.exits[ref] = exit_code
        process.ended = self.clock()
        process.over.set()
        self._story.add(self.name, f"{named(ref[0])}#{ref[1]} exits with {exit_code}")

    def forget(self, ref: AttemptRef) -> None:
        self._processes.pop(ref, None)


class SimRunner:
    """`agent.base.Runner` on a machine; one for each life of the agent."""

    def __init__(self, machine: Machine, random: Random) -> None:
        self._machine = machine
        self._random = random
        self._stops: dict[AttemptRef, asyncio.Event] = {}
        self._proceeds: dict[AttemptRef, asyncio.Event] = {}

    async def run(
        self,
        start: Start,
        started: Callable[[Timestamp], None],
        *,
        resumed: bool,
        coordinated: Callable[[], None] = lambda: None,
    ) -> Outcome:
        ref = (start.key, start.attempt)
        machine = self._machine
        stop = self._stops[ref] = asyncio.Event()
        proceed = self._proceeds[ref] = asyncio.Event()
        try:
            plan = _plan_decoder.decode(start.spec)
            process = machine.find(ref)
            begun = machine.clock() if process is None else process.begun
            if process is None:
                if resumed:
                    return Outcome(None, machine.clock(), None, _LOST, retryable=True)
                started(begun)
                if plan.prepare_s and await _set_within(stop, plan.prepare_s):
                    return Outcome(begun, machine.clock(), None, _LOST, retryable=True)
                if start.kind is TaskKind.INSTANCE:
                    # What it coordinates with leaves nothing behind: an agent that dies here has lost the attempt.
                    coordinated()
                    await _first_of(stop, proceed)
                    if stop.is_set():
                        return Outcome(begun, machine.clock(), -9)
                process = machine.start(start, plan)
            else:
                started(begun)
            if stop.is_set():
                machine.kill(ref)
            await process.over.wait()
            failure: FailureInfo | None = None
            if plan.upload_fails and process.exit_code == 0:
                await asyncio.sleep(0.1)
                failure = _NO_UPLOAD
            # From here on an agent that dies before it has written the end down finds nothing, and the task runs again.
            machine.forget(ref)
            return Outcome(begun, process.ended, process.exit_code, failure)
        finally:
            del self._stops[ref], self._proceeds[ref]

    def proceed(self, key: int, attempt: int) -> None:
        proceed = self._proceeds.get((key, attempt))
        if proceed is not None:
            proceed.set()

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
        """Nothing to let go of."""


_LOST = FailureInfo(ErrorCategory.SERVER_ERROR, TaskFailureCode.UNKNOWN.value, "lost")
_NO_UPLOAD = FailureInfo(ErrorCategory.USER_ERROR, TaskFailureCode.FILE_UPLOAD_MISC_ERROR.value, "no upload")


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class _NoFiles:
    async def handle(self, request: FileRequest) -> tuple[FileReply, AsyncIterator[bytes] | None]:
        return FileReply(error=ErrorCode.FILE_NOT_FOUND, message=request.path), None
