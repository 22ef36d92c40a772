"""One node of an agent: carries out what `state` decides, with a journal, a runner and a clock."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final

import millpond
from millpond.agent.actions import Action, Deed, GoOn, Kill, Launch, Remove, Renew
from millpond.agent.attempts import AttemptRef
from millpond.agent.base import NodeFacts, Outcome, Runner
from millpond.agent.local_state import Journal
from millpond.agent.pace import Pace
from millpond.agent.records import Joined
from millpond.agent.state import AgentState
from millpond.domain.durations import Timestamp
from millpond.domain.errors import Bug, ErrorCode, TaskFailureCode
from millpond.domain.states import ErrorCategory
from millpond.domain.task import FailureInfo, NameValue
from millpond.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    LaunchReply,
    LaunchRequest,
    Start,
    Sync,
    SyncReply,
    Welcome,
)

_log = logging.getLogger(__name__)

MAX_REPORTS = 512
"""Reports in one sync."""
_WIPE_PAUSE_S: Final = 2.0
"""Between tries to empty the disk."""


class NodeAgent:
    """A node: `AgentState` with its journal and its runner. All methods are called from the event loop's thread.

    `begin` comes first; `leave` or `interrupt` and then `ended` and `close` come last. `on_reports` is called whenever
    reports wait to be sent, `on_restarted` when the node has restarted and is to say hello (the link sets both).
    """

    def __init__(
        self,
        node_id: str,
        *,
        root: str,
        task_slots: int,
        journal: Journal,
        runner_factory: Callable[[NodeFacts], Runner],
        clock: Callable[[], Timestamp],
        ip_address: str = "127.0.0.1",
        capabilities: tuple[NameValue, ...] = (),
        wipe: Callable[[], None] = lambda: None,
        before_wipe: Callable[[], Awaitable[None]] | None = None,
        takes_ahead: Callable[[Start], bool] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`root` is the node's root directory; `task_slots` holds until the control plane says otherwise. `capabilities`
        are what the node says of itself. `wipe` empties the root when nothing uses it (the node is reimaged); what
        raises OSError in it is tried again; `before_wipe` comes once before. `takes_ahead` says which attempts its runners
        can be handed ahead, `pace` how many (see `AgentState`).

        Raises OSError when the journal cannot be read, KeyError or ValueError when it makes no sense.
        """
        self.node_id = node_id
        self.on_reports: Callable[[], None] = lambda: None
        self.on_restarted: Callable[[], None] = lambda: None
        self._root = root
        self._journal = journal
        self._runner_factory = runner_factory
        self._clock = clock
        self._ip_address = ip_address
        self._capabilities = capabilities
        self._wipe = wipe
        self._before_wipe = before_wipe
        self._facts: NodeFacts | None = None
        self._runner: Runner | None = None
        self._runner_facts: NodeFacts | None = None
        self._runs: dict[AttemptRef, asyncio.Task[None] | None] = {}
        """None for what the runner runs without a task of the event loop."""
        self._over: list[tuple[AttemptRef, Outcome | None]] = []
        """What the runner says is over and the state has yet to hear of: before it hears of anything else."""
        self._deeds: list[Deed] = []
        """Decided, and neither written down nor done."""
        self._too_late: set[AttemptRef] = set()
        """To be launched ahead, when it was not known yet that others, which come before them, were given back."""
        self._doing: asyncio.Handle | None = None
        """Will see to both."""
        self._chores: set[asyncio.Task[None]] = set()
        self._nothing_runs = asyncio.Event()
        self._nothing_runs.set()
        self._journal_fails = False
        try:
            self.state = AgentState(task_slots, journal.load(), takes_ahead=takes_ahead, pace=pace)
        except BaseException:
            journal.close()
            raise

    def begin(self) -> None:
        """Pick up where the journal ends."""
        self._know_pool()
        over = self.state.over()
        if over and self._facts is not None:
            try:
                self._current_runner().settle(over)
            except OSError as error:
                # What is to be run finds out, too, and tells it.
                _log.warning("node %s: it is not written down how long directories stay: %s", self.node_id, error)
        self._carry_out(self.state.resume(self._clock()))
        self._do()
        self._flush()

    def restart_first(self) -> None:
        """Before `begin`: have the node restart, as what it was set up with is gone."""
        self._carry_out(self.state.restart_first())
        self._flush()

    # --- what the link asks and says ---

    @property
    def session(self) -> str:
        return self.state.session

    @property
    def leaving(self) -> bool:
        return self.state.leaving

    @property
    def restarting(self) -> bool:
        """The node ends what it ran, and has nothing to say before it has begun anew."""
        return self.state.restarting is not None

    @property
    def has_queued(self) -> bool:
        """Attempts wait here for their turn: the node will not idle for a while."""
        return self.state.has_queued

    @property
    def has_reports(self) -> bool:
        return self.state.has_reports

    def hello(self) -> Hello:
        self._take_ends()
        self._flush()
        return Hello(
            node_id=self.node_id,
            protocol_version=PROTOCOL_VERSION,
            agent_version=millpond.__version__,
            boot_time=self.state.boot_time,
            ip_address=self._ip_address,
            inventory=self.state.inventory(),
            capabilities=self._capabilities,
            disk_time=self.state.disk_time,
        )

    def welcomed(self, welcome: Welcome) -> None:
        self._take_ends()
        actions = self.state.welcomed(welcome, self._clock())
        self._know_pool()
        self._carry_out(actions)

    def seen(self) -> int:
        """The highest directive revision of the session that was taken in, which is written down."""
        self._flush()
        return self.state.seen

    def report(self) -> Sync:
        """A sync with what is to be reported."""
        self._take_ends()
        if self._runner is not None:
            # What is told is written down.
            self._runner.settle()
        self._flush()
        return Sync(
            node_id=self.node_id,
            session=self.state.session,
            seen=self.state.seen,
            reports=self.state.reports(MAX_REPORTS),
            busy=self.state.has_queued,
        )

    def replied(self, session: str, reply: SyncReply) -> None:
        """What the control plane says to that session; it may come late."""
        self._take_ends()
        self._carry_out(self.state.replied(session, reply, self._clock()))

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        """Run a command in an instance of a multi-instance task, or tell of it. See `Runner.launch`."""
        if self._runner is None:
            return LaunchReply(error=ErrorCode.TASK_NOT_FOUND, message="This instance of the task does not run.")
        return await self._runner.launch(request)

    # --- its end ---

    def leave(self) -> None:
        """The node leaves its pool: kill everything, report nothing."""
        self._take_ends()
        self._carry_out(self.state.leave())
        self._do()
        self._flush()

    def interrupt(self) -> None:
        """The agent is being stopped: kill everything; what was killed is reported in the agent's next life."""
        self._take_ends()
        self._carry_out(self.state.interrupt())
        self._do()
        self._flush()

    async def ended(self) -> None:
        """Wait until nothing is with the runner."""
        self._do()
        await self._nothing_runs.wait()
        self._do()

    async def close(self) -> None:
        """Let go of everything; what still runs is left to the agent's next life."""
        self._take_ends()
        if self._doing is not None:
            self._doing.cancel()
        tasks = [*filter(None, self._runs.values()), *self._chores]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._runner is not None:
            await self._runner.close()
            self._runner = None
        self._journal.close()

    @property
    def has_runs(self) -> bool:
        """Whether anything is with the runner, or about to be."""
        return bool(self._runs or self._deeds or self._over)

    def runs(self, key: int, attempt: int) -> bool:
        """Whether the attempt is with the runner."""
        return (key, attempt) in self._runs

    # --- actions ---

    def _know_pool(self) -> None:
        joined = self.state.joined
        if joined is None:
            return
        self._facts = _facts(self.node_id, self._root, joined)

    def _current_runner(self) -> Runner:
        """The runner, made anew when the facts have changed. That waits for a moment in which nothing runs: a node has
        one runner at a time, as it owns the node's directories."""
        if self._facts is None:
            raise Bug(f"node {self.node_id}: there is something to run before the pool is known")
        if self._runner is None or (self._facts != self._runner_facts and not self._runs):
            if self._runner is not None:
                self._begin_chore(self._runner.close())
            self._runner = self._runner_factory(self._facts)
            self._runner_facts = self._facts
        return self._runner

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Deed):
                self._deeds.append(action)
            else:
                self._journal.append(action)
        if self._deeds:
            self._do_soon()
        if self.state.has_reports:
            self.on_reports()

    def _do_soon(self) -> None:
        if self._doing is None:
            self._doing = asyncio.get_running_loop().call_soon(self._do)

    def _take_ends(self) -> None:
        """Those of one turn of the event loop together: many at a time cost half of what they cost one by one."""
        over, self._over = self._over, []
        if over:
            self._carry_out(self.state.ended(over, self._clock()))

    def _do(self) -> None:
        """What has ended and what was decided in one turn of the event loop: it is written down in one go, and then done."""
        self._take_ends()
        deeds, self._deeds = self._deeds, []
        if self._doing is not None:
            self._doing.cancel()
            self._doing = None
        if deeds:
            self._flush()
        for deed in deeds:
            match deed:
                case Launch():
                    self._launch(deed)
                case Kill():
                    self._kill(deed.key, deed.attempt)
                case GoOn():
                    self._go_on(deed.key, deed.attempt)
                case Remove():
                    self._begin_chore(self._remove(deed.job_id, deed.task_id))
                case Renew():
                    self._begin_chore(self._renew(wipe=deed.wipe))

    def _flush(self) -> None:
        """Write down what is gathered. A disk that takes nothing does not stop the node: the journal keeps what it was
        given, and should the agent die before it gets through, the next hello tells the control plane what is lost."""
        try:
            if self._journal.wants_rewrite:
                self._journal.rewrite(self.state.snapshot())
            self._journal.flush()
        except OSError as error:
            if not self._journal_fails:
                _log.error("node %s: its journal cannot be written: %s", self.node_id, error)
            self._journal_fails = True
        else:
            self._journal_fails = False

    def _launch(self, launch: Launch) -> None:
        runner = self._current_runner()
        start, resumed = launch.start, launch.resumed
        key, attempt = start.key, start.attempt
        self._nothing_runs.clear()
        self._runs[key, attempt] = None
        if (
            not resumed
            and (key, attempt) not in self._too_late
            and runner.begin(
                start,
                launch.began,
                partial(self._started, key, attempt),
                partial(self._ended, key, attempt),
                width=launch.width,
                ahead=launch.ahead,
            )
        ):
            return
        if launch.ahead and not resumed:
            # Not now: it waits here.
            self._too_late.discard((key, attempt))
            self._ended(key, attempt, None)
            return
        self._runs[key, attempt] = asyncio.create_task(self._run(runner, launch))

    async def _run(self, runner: Runner, launch: Launch) -> None:
        start = launch.start
        key, attempt = start.key, start.attempt
        outcome: Outcome | None
        try:
            # Nothing may be awaited before this: a `stop` that follows the launch must find the run in the runner.
            outcome = await runner.run(
                start,
                lambda at: self._started(key, attempt, at),
                resumed=launch.resumed,
                began=launch.began,
                coordinated=lambda: self._coordinated(key, attempt),
                width=launch.width,
                ahead=launch.ahead,
            )
        except Exception as error:
            _log.exception("node %s: job %s task %s attempt %d", self.node_id, start.job_id, start.task_id, attempt)
            outcome = _broken(error, self._clock())
        except asyncio.CancelledError:
            self._no_longer_runs(key, attempt)
            raise
        self._ended(key, attempt, outcome)

    def _ended(self, key: int, attempt: int, outcome: Outcome | None) -> None:
        self._no_longer_runs(key, attempt)
        if outcome is None:
            starts = [deed.start for deed in self._deeds if isinstance(deed, Launch) and deed.ahead]
            self._too_late.update((start.key, start.attempt) for start in starts)
        self._over.append(((key, attempt), outcome))
        self._do_soon()

    def _no_longer_runs(self, key: int, attempt: int) -> None:
        del self._runs[key, attempt]
        if not self._runs:
            self._nothing_runs.set()

    def _started(self, key: int, attempt: int, start_time: Timestamp) -> None:
        self._take_ends()
        self._carry_out(self.state.started(key, attempt, start_time))

    def _coordinated(self, key: int, attempt: int) -> None:
        self._take_ends()
        self._carry_out(self.state.coordinated(key, attempt))

    def _go_on(self, key: int, attempt: int) -> None:
        if self._runner is not None and (key, attempt) in self._runs:
            self._begin_chore(self._proceed(self._runner, key, attempt))

    async def _proceed(self, runner: Runner, key: int, attempt: int) -> None:
        # Not at once: a launch just before it has yet to reach the runner.
        runner.proceed(key, attempt)

    def _kill(self, key: int, attempt: int) -> None:
        if self._runner is not None and (key, attempt) in self._runs:
            self._begin_chore(self._stop(self._runner, key, attempt))

    async def _stop(self, runner: Runner, key: int, attempt: int) -> None:
        try:
            await runner.stop(key, attempt)
        except Exception:
            _log.exception("node %s: stopping task %d attempt %d", self.node_id, key, attempt)

    async def _remove(self, job_id: str, task_id: str) -> None:
        try:
            await self._current_runner().remove_directory(job_id, task_id)
        except Exception:
            # What is left of it is in nobody's way for long: tasks that wait for the name go on.
            _log.exception("node %s: removing the directory of job %s task %s", self.node_id, job_id, task_id)
        self._take_ends()
        self._carry_out(self.state.removed(job_id, task_id, self._clock()))

    async def _renew(self, *, wipe: bool) -> None:
        """The node has ended all it ran: empty its disk, if so wished, and begin anew."""
        others = self._chores - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        if wipe:
            if self._before_wipe is not None:
                await self._before_wipe()
            runner, self._runner = self._runner, None
            if runner is not None:
                await runner.close()
            failures = 0
            while not self._wiped():
                failures += 1
                await asyncio.sleep(_WIPE_PAUSE_S * min(failures, 30))
        self._take_ends()
        self._carry_out(self.state.renewed(self._clock()))
        self._flush()
        try:
            # What it knew before is nobody's any more.
            self._journal.rewrite(self.state.snapshot())
        except OSError as error:
            _log.warning("node %s: its journal cannot be made anew: %s", self.node_id, error)
        _log.info("node %s: restarted%s", self.node_id, ", on an empty disk" if wipe else "")
        self.on_restarted()

    def _wiped(self) -> bool:
        try:
            self._wipe()
        except OSError as error:
            _log.error("node %s: its disk cannot be emptied; that is tried again: %s", self.node_id, error)
            return False
        return True

    def _begin_chore(self, chore: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _facts(node_id: str, root: str, joined: Joined) -> NodeFacts:
    return NodeFacts(
        node_id=node_id,
        pool_id=joined.pool_id,
        account_name=joined.account_name,
        account_url=joined.account_url,
        is_dedicated=joined.is_dedicated,
        root=root,
        pool_spec=joined.pool_spec,
        storage_options=joined.storage_options,
    )


def _broken(error: Exception, at: Timestamp) -> Outcome:
    """The outcome of a run that raised, which a runner must not: the node's fault, so the task runs again."""
    failure = FailureInfo(
        category=ErrorCategory.SERVER_ERROR,
        code=TaskFailureCode.UNKNOWN,
        message=f"The node agent failed: {type(error).__name__}: {error}",
    )
    return Outcome(start_time=None, end_time=at, exit_code=None, failure=failure, retryable=True)
