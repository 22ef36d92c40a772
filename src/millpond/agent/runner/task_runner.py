"""The runner of a node's tasks: the list of hooks, and the way of an attempt through it."""

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final

from millpond.agent.base import Executor, GivenBack, NodeFacts, Outcome, ProcessExit
from millpond.agent.content_cache import ContentCache
from millpond.agent.isolation.node import NodeIsolation
from millpond.agent.logs import NodeLogs
from millpond.agent.mount_kinds import MountSettings
from millpond.agent.mounts import NodeMounts
from millpond.agent.node_dirs import NodeDirectories
from millpond.agent.runner.attempt import (
    Attempt,
    Interrupted,
    Phase,
    TaskHook,
    failure_info,
    process_id,
    relative_directory,
)
from millpond.agent.runner.command_line import split_command_line
from millpond.agent.runner.hooks.application_packages import ApplicationPackages
from millpond.agent.runner.hooks.directories import Directories
from millpond.agent.runner.hooks.environment import Environment
from millpond.agent.runner.hooks.hand_over import HandOver
from millpond.agent.runner.hooks.identity import Identity, IsolatedIdentity
from millpond.agent.runner.hooks.keep_logs import KeepLogs, WatchLogs
from millpond.agent.runner.hooks.limits import Limits
from millpond.agent.runner.hooks.log_files import LogFiles
from millpond.agent.runner.hooks.mounts import MountPool
from millpond.agent.runner.hooks.output_files import OutputFiles
from millpond.agent.runner.hooks.prepared import Prepared
from millpond.agent.runner.hooks.resource_files import ResourceFiles
from millpond.agent.runner.hooks.resource_limits import ResourceLimits
from millpond.agent.runner.hooks.retention import Retention
from millpond.agent.runner.hooks.wall_clock import WallClock
from millpond.agent.runner.instance import Instances, lost_process
from millpond.agent.runner.packages import NodePackages
from millpond.agent.runner.plain_run import PlainRun, is_plain
from millpond.agent.runner.spec import TaskSpec, decode_spec
from millpond.domain import ids
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import TaskKind
from millpond.protocol.messages import LaunchReply, LaunchRequest, Start
from millpond.staging.base import Staging

_FORGET_AFTER_S: Final = 5.0
"""A process is forgotten so long after its attempt ended: until then the agent has surely written down how."""
_SETTLE_S: Final = 0.05
"""What is to be written down of an attempt that is over waits no longer; before its end is reported it is written."""
_RETRY_PAUSE_S: Final = 1.0
"""Before a failure of the node's own is told. It will be tried again at once, and a node that can start nothing must
not spin."""

_log = logging.getLogger(__name__)


class TaskRunner:
    """Implements `agent.base.Runner`. `close` it when the agent ends: what runs then is left running."""

    def __init__(
        self,
        facts: NodeFacts,
        executor: Executor,
        staging: Staging,
        clock: Callable[[], Timestamp] = time.time,
        *,
        directories: NodeDirectories | None = None,
        isolation: NodeIsolation | None = None,
        cache: ContentCache | None = None,
        mounts: NodeMounts | None = None,
        logs: NodeLogs | None = None,
    ) -> None:
        """With `isolation` tasks run as users of the node. `cache` is the host's, of resource files; `mounts` are the
        node's; `logs` is told of every attempt that has ended."""
        self._facts = facts
        self._executor = executor
        self._clock = clock
        self.directories = directories or NodeDirectories.of(facts.root, clock)
        self._staging = staging
        self._packages = NodePackages.of(self.directories)
        directories_hook = Directories()
        hand_over = () if isolation is None else (HandOver(isolation),)
        self._hooks: tuple[TaskHook, ...] = (
            # First, as downloads are within its time.
            WallClock(clock),
            MountPool(
                mounts or NodeMounts(facts.root, MountSettings()), None if isolation is None else isolation.users.group
            ),
            directories_hook,
            *(() if logs is None else (WatchLogs(logs),)),
            Identity() if isolation is None else IsolatedIdentity(isolation),
            Environment(facts, self._packages),
            Prepared(),
            ApplicationPackages(self._packages, staging),
            ResourceFiles(staging, cache, facts.pool_id),
            Limits(),
            *(() if isolation is None or isolation.cgroup is None else (ResourceLimits(isolation.cgroup),)),
            # After all that puts something into the task's directory.
            *hand_over,
            LogFiles(),
            # The command line runs here.
            OutputFiles(staging, clock),
            *(() if logs is None else (KeepLogs(logs),)),
            Retention(),
        )
        self._set_up = [hook.set_up for hook in self._hooks if type(hook).set_up is not TaskHook.set_up]
        self._prestart = [hook.prestart for hook in self._hooks if type(hook).prestart is not TaskHook.prestart]
        self._began = [hook.began for hook in self._hooks if type(hook).began is not TaskHook.began]
        self._given_back = [hook.given_back for hook in self._hooks if type(hook).given_back is not TaskHook.given_back]
        self._started = [hook.started for hook in self._hooks if type(hook).started is not TaskHook.started]
        self._exited = [hook.exited for hook in self._hooks if type(hook).exited is not TaskHook.exited]
        self._stop = [hook.stop for hook in self._hooks if type(hook).stop is not TaskHook.stop]
        self._make_directory: list[Phase] = [directories_hook.prestart, *(hook.prestart for hook in hand_over)]
        """What a plain attempt leaves to the executor."""
        self._instances = Instances(executor, self.directories.root)
        self._running: dict[tuple[int, int], Attempt] = {}
        self._ended: collections.deque[tuple[float, str]] = collections.deque()
        """(loop time, process id) of processes to forget, in order."""
        self._opened = False
        self._plain: set[PlainRun] = set()
        self._late: dict[str, Attempt] = {}
        """By directory: attempts that are over, and have yet to go through the last of the hooks. Many at a time that
        costs a third of what it costs one by one."""
        self._late_timer: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._forget_timer: asyncio.TimerHandle | None = None

    # --- Runner -------------------------------------------------------------------------------------------------

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
        """See `Runner.run`."""
        self.open()
        number = (start.key, start.attempt)
        start_time = began or self._clock()
        if not ahead:
            started(start_time)
        attempt: Attempt | None = None
        try:
            spec = decode_spec(start.spec)
            attempt = self._attempt(start, spec, start_time, resumed=resumed)
            attempt.coordinated = coordinated
            attempt.width = width
            if ahead:
                attempt.start_time = await self._executor.began(attempt.process_id) or start_time
                started(attempt.start_time)
            await self._run(attempt)
        except GivenBack:
            return None
        except TaskFailure as failure:
            # It never became an attempt.
            return Outcome(start_time, self._clock(), None, failure_info(failure))
        finally:
            self._running.pop(number, None)
            if attempt is not None:
                attempt.disarm()
        if attempt.resumed and attempt.start.instance is None and not attempt.spec.output_files:
            # Nothing came after its process, which may have ended while no agent was there.
            return self._outcome(attempt, _exit_time(attempt))
        return self._outcome(attempt)

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
        """See `Runner.begin`."""
        try:
            spec = decode_spec(start.spec)
        except TaskFailure:
            return False
        if not is_plain(start, spec) or not self._executor.is_ready:
            return False
        if not self._opened:
            self.open()
        if not ahead:
            started(began)
        attempt = self._attempt(start, spec, began, resumed=False)
        attempt.width = width
        attempt.waits = ahead
        attempt.kill = lambda: self._in_background(self._executor.kill(attempt.process_id))
        run = PlainRun(
            attempt,
            self._executor,
            prestart=self._prestart,
            make_directory=self._make_directory,
            began=lambda attempt, at, is_over: self._waited(attempt, at, started, is_over=is_over),
            started=self._started,
            over=lambda run, how: self._plain_over(run, how, ended),
        )
        self._plain.add(run)
        try:
            run.begin()
        except Exception as error:
            # What waits fails when its turn has come.
            asyncio.get_running_loop().call_soon(run.failed, GivenBack() if ahead else error)
        return True

    def _waited(self, attempt: Attempt, at: Timestamp, started: Callable[[Timestamp], None], *, is_over: bool) -> None:
        """It has begun, so long after it was launched; if `is_over`, its end says so."""
        attempt.waits = False
        attempt.start_time = at
        if not is_over:
            started(at)
        for began in self._began:
            began(attempt)

    def _outcome(self, attempt: Attempt, end_time: Timestamp | None = None) -> Outcome:
        if attempt.interruption is not None and attempt.failure is None:
            attempt.failure = attempt.interruption
        exit_ = attempt.exit
        return Outcome(
            attempt.start_time,
            end_time or self._clock(),
            None if exit_ is None else exit_.exit_code,
            attempt.failure,
            attempt.retryable,
            0.0 if exit_ is None else exit_.user_cpu_s,
            0.0 if exit_ is None else exit_.kernel_cpu_s,
        )

    def settle(self, over: Sequence[Start] = ()) -> None:
        """See `Runner.settle`."""
        if self._late_timer is not None:
            self._late_timer.cancel()
            self._late_timer = None
        late, self._late = self._late, {}
        if late:
            with self.directories.retaining_together():
                for attempt in late.values():
                    self._stop_all(attempt)
        for start in over:
            if start.kind is not TaskKind.START_TASK and start.kind is not TaskKind.NODE_SETUP:
                with contextlib.suppress(TaskFailure):
                    self.directories.retain(relative_directory(start), decode_spec(start.spec).retention_s)

    async def stop(self, key: int, attempt: int) -> None:
        """See `Runner.stop`."""
        running = self._running.get((key, attempt))
        if running is not None:
            running.interrupt(
                failure_info(TaskFailure(TaskFailureCode.TASK_ENDED, "The task was ended by request", user_error=True))
            )

    def proceed(self, key: int, attempt: int) -> None:
        """See `Runner.proceed`."""
        running = self._running.get((key, attempt))
        if running is not None:
            running.proceeds.set()

    async def launch(self, request: LaunchRequest) -> LaunchReply:
        """See `Runner.launch`."""
        return await self._instances.launch(self._running.get((request.key, request.attempt)), request)

    async def remove_directory(self, job_id: str, task_id: str) -> None:
        """See `Runner.remove_directory`."""
        self.settle()
        self.open()
        try:
            self.directories.discard_task(ids.task_directory(job_id, task_id).rstrip("/"))
        except OSError as error:
            _log.warning("the directory of %s/%s cannot be removed: %s", job_id, task_id, error)

    # --- life ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to tend the directories: expiry and trash. `run` does it too; needs a running loop."""
        self._opened = True
        self.directories.tend()

    async def close(self) -> None:
        """End what runs in the background. Attempts that run are left to their callers, processes to the executor."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        self.settle()
        for run in self._plain:
            run.attempt.disarm()
        self._plain.clear()
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.directories.close()

    async def forget_others(self, held: Collection[tuple[int, int]]) -> None:
        """After a restart: kill and forget the processes of all attempts but these (key, attempt), the ones to resume.

        They ended, and were told of, in an earlier life of the agent.
        """
        expected = {process_id(self._facts.node_id, key, attempt) for key, attempt in held}
        for known in await self._executor.known():
            attempt_id = "/".join(known.split("/")[:3])
            if attempt_id not in expected:
                await self._executor.end(attempt_id)
                await self._executor.forget(known)

    # --- one attempt --------------------------------------------------------------------------------------------

    def _attempt(self, start: Start, spec: TaskSpec, start_time: Timestamp, *, resumed: bool) -> Attempt:
        attempt = Attempt(start, spec, self._facts, self.directories, start_time, resumed=resumed)
        if attempt.relative_directory in self._late:
            self.settle()
        self._running[start.key, start.attempt] = attempt
        return attempt

    async def _run(self, attempt: Attempt) -> None:
        """The whole way; how it ended is in the attempt. Raises nothing but cancellation."""
        is_setup = attempt.start.kind is TaskKind.NODE_SETUP
        try:
            if is_setup:
                await self._set_node_up(attempt)
                return
            if attempt.resumed:
                await self._find_process(attempt)
            with attempt.interruptible():
                for prestart in self._prestart:
                    if (work := prestart(attempt)) is not None:
                        await work
            if attempt.start.instance is None:
                await self._run_process(attempt)
            else:
                await self._run_instance(attempt)
        except Exception as error:
            _fail(attempt, error)
        if attempt.exit is not None:
            await self._after(attempt)
        if not is_setup:
            self._stop_all(attempt)
        await self._pause(attempt)

    def _stop_all(self, attempt: Attempt) -> None:
        for stop in self._stop:
            try:
                stop(attempt)
            except Exception:
                _log.exception("attempt %s", attempt.process_id)

    def _plain_over(
        self, run: PlainRun, how: ProcessExit | Exception | None, ended: Callable[[Outcome | None], None]
    ) -> None:
        """The process of a plain attempt has ended, or there is none."""
        attempt = run.attempt
        if run not in self._plain:
            # The runner was closed.
            return
        self._plain.discard(run)
        attempt.kill = None
        if isinstance(how, GivenBack):
            self._give_back(attempt)
            ended(None)
            return
        # It may have been its turn, and it could not be started.
        run.has_begun(self._clock(), is_over=True)
        if isinstance(how, ProcessExit):
            self._take_exit(attempt, how)
            for exited in self._exited if attempt.interruption is None else ():
                try:
                    exited(attempt)
                except Exception as error:
                    _fail_after(attempt, error)
        else:
            _fail(attempt, lost_process() if how is None else how)
        if attempt.exit is None or attempt.has_own_user:
            self._stop_all(attempt)
        else:
            self._late[attempt.relative_directory] = attempt
            if self._late_timer is None:
                self._late_timer = asyncio.get_running_loop().call_later(_SETTLE_S, self.settle)
        if attempt.retryable:
            self._in_background(self._end_later(attempt, ended))
        else:
            self._end_plain(attempt, ended)

    def _give_back(self, attempt: Attempt) -> None:
        del self._running[attempt.start.key, attempt.start.attempt]
        for given_back in self._given_back:
            try:
                given_back(attempt)
            except Exception:
                _log.exception("attempt %s", attempt.process_id)

    async def _end_later(self, attempt: Attempt, ended: Callable[[Outcome | None], None]) -> None:
        await self._pause(attempt)
        self._end_plain(attempt, ended)

    def _end_plain(self, attempt: Attempt, ended: Callable[[Outcome | None], None]) -> None:
        attempt.disarm()
        del self._running[attempt.start.key, attempt.start.attempt]
        # The next one may have begun since its process ended.
        ended(self._outcome(attempt, _exit_time(attempt)))

    @staticmethod
    async def _pause(attempt: Attempt) -> None:
        if attempt.retryable:
            with contextlib.suppress(Interrupted), attempt.interruptible():
                await asyncio.sleep(_RETRY_PAUSE_S)

    async def _set_node_up(self, attempt: Attempt) -> None:
        """No command: it has succeeded when every hook has."""
        with attempt.interruptible():
            for set_up in self._set_up:
                if (work := set_up(attempt)) is not None:
                    await work
        attempt.exit = ProcessExit(0, self._clock())

    async def _find_process(self, attempt: Attempt) -> None:
        attempt.directories.use(attempt.relative_directory)
        known = await self._executor.known()
        attempt.command_line_runs = attempt.process_id in known
        if not attempt.command_line_runs and not self._instances.is_known(attempt, known):
            raise lost_process()

    async def _run_instance(self, attempt: Attempt) -> None:
        """An instance of a multi-instance task: coordination, its turn, and (of the primary) the command line."""
        attempt.kill = lambda: self._in_background(self._executor.end(attempt.process_id))
        try:
            coordinated = await self._instances.coordinate(attempt)
            attempt.kill = None
            if coordinated:
                await self._instances.wait_for_turn(attempt)
                await self._run_process(attempt)
        except Exception:
            await self._end_instance(attempt)
            raise
        # Cancelled, the attempt is left to the agent's next life.
        await self._end_instance(attempt)
        if attempt.timed_out:
            attempt.interruption = None

    async def _end_instance(self, attempt: Attempt) -> None:
        attempt.kill = None
        for known in await self._instances.end(attempt):
            self._forget_later(known)

    async def _run_process(self, attempt: Attempt) -> None:
        attempt.kill = lambda: self._in_background(self._executor.kill(attempt.process_id))
        try:
            if not attempt.command_line_runs:
                argv = split_command_line(attempt.spec.command_line)
                # What the coordination command said stays.
                await self._executor.start(attempt.process(argv, appends=attempt.start.instance is not None))
            if attempt.interruption is not None:
                # It came while the process was being started: the kill may have been too early.
                await self._executor.kill(attempt.process_id)
            for started in self._started:
                started(attempt)
            exit_ = await self._executor.wait(attempt.process_id)
        finally:
            attempt.kill = None
        if exit_ is None:
            raise lost_process()
        self._take_exit(attempt, exit_)

    def _take_exit(self, attempt: Attempt, exit_: ProcessExit) -> None:
        attempt.exit = exit_
        self._forget_later(attempt.process_id)
        if attempt.timed_out:
            # It did end. What its wall clock makes of that is the hook's to say; a stop may still interrupt the rest.
            attempt.interruption = None

    async def _after(self, attempt: Attempt) -> None:
        try:
            with attempt.interruptible():
                for exited in self._exited:
                    await self._leave(attempt, exited)
        except Interrupted:
            # Told to stop: nothing is uploaded any more.
            return

    @staticmethod
    async def _leave(attempt: Attempt, exited: Phase) -> None:
        try:
            if (work := exited(attempt)) is not None:
                await work
        except Exception as error:
            _fail_after(attempt, error)

    # --- in the background --------------------------------------------------------------------------------------

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _forget_later(self, known: str) -> None:
        loop = asyncio.get_running_loop()
        self._ended.append((loop.time() + _FORGET_AFTER_S, known))
        if self._forget_timer is None:
            self._forget_timer = loop.call_later(_FORGET_AFTER_S, self._forget_due)

    def _forget_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._forget_timer = None
        due: list[str] = []
        while self._ended and self._ended[0][0] <= loop.time():
            due.append(self._ended.popleft()[1])
        if due:
            self._in_background(self._forget(due))
        if self._ended:
            # Whatever ends until then goes with it.
            self._forget_timer = loop.call_later(_FORGET_AFTER_S / 5, self._forget_due)

    async def _forget(self, due: list[str]) -> None:
        await self._executor.forget(*due)


def _exit_time(attempt: Attempt) -> Timestamp | None:
    return None if attempt.exit is None else max(attempt.exit.end_time, attempt.start_time)


def _fail(attempt: Attempt, error: Exception) -> None:
    """What was raised before the process ended becomes the attempt's failure."""
    if isinstance(error, Interrupted):
        # Its own failure says why.
        return
    if isinstance(error, TaskFailure):
        attempt.fail(error, retryable=not error.user_error)
    elif isinstance(error, OSError):
        text = f"The node could not run the task: {error}"
        attempt.fail(TaskFailure(TaskFailureCode.COMMAND_LAUNCH_FAILED, text, user_error=False), retryable=True)
    else:
        _fail_after(attempt, error)


def _fail_after(attempt: Attempt, error: Exception) -> None:
    """What was raised once the command line had run: whatever it is, the node does not run it again."""
    if isinstance(error, TaskFailure):
        attempt.fail(error)
    else:
        _log.error("attempt %s", attempt.process_id, exc_info=error)
        attempt.fail(TaskFailure(TaskFailureCode.UNKNOWN, f"The node agent failed: {error!r}", user_error=False))


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """Nobody awaits it: the spawner being away is told by what else is asked of it."""
    try:
        await work
    except OSError as error:
        _log.warning("%s", error)
