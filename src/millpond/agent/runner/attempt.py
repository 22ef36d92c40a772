"""One attempt on its way through the hooks, and what a hook is."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from millpond.agent.base import NodeFacts, ProcessExit, ProcessSpec, RunAs
from millpond.agent.node_dirs import START_DIRECTORY, NodeDirectories
from millpond.agent.runner.spec import TaskSpec
from millpond.domain import ids
from millpond.domain.durations import Timestamp
from millpond.domain.errors import TaskFailure, TaskFailureCode
from millpond.domain.states import ErrorCategory, TaskKind
from millpond.domain.task import FailureInfo, NameValue
from millpond.protocol.messages import Start

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Interrupted(Exception):
    """The attempt was told to end while something of it was awaited."""


class Attempt:
    """What the hooks of one attempt share. Each fills in its part; nothing else is kept between them."""

    def __init__(
        self,
        start: Start,
        spec: TaskSpec,
        facts: NodeFacts,
        directories: NodeDirectories,
        start_time: Timestamp,
        *,
        resumed: bool,
    ) -> None:
        self.start = start
        self.spec = spec
        self.facts = facts
        self.directories = directories
        self.start_time = start_time
        """Entry to `running`, also when that was in an earlier life of the agent. Of one that waits it is not known yet."""
        self.waits = False
        """It was handed ahead and is not known to have begun."""
        self.width = 0
        """Of the node's lane, if its process runs in that; else 0."""
        self.resumed = resumed
        """Its process was started by an earlier life of the agent: hooks only find out what they once set up."""
        self.process_id = process_id(facts.node_id, start.key, start.attempt)
        self.relative_directory = relative_directory(start)
        self.task_directory = f"{directories.root}/{self.relative_directory}"
        self.working_directory = f"{self.task_directory}/wd"
        self.stdout_path = f"{self.task_directory}/stdout.txt"
        self.stderr_path = f"{self.task_directory}/stderr.txt"
        self.user = ""
        self.user_identity = ""
        self.run_as: RunAs | None = None
        """Another user than the agent's own; with isolation always."""
        self.has_own_user = False
        """`run_as` is a user of this task alone."""
        self.cgroups: tuple[str, ...] = ()
        self.memory_kills = 0
        """What the kernel had killed in its groups before it began."""
        self.environment: dict[str, str] = {}
        self.exit: ProcessExit | None = None
        self.failure: FailureInfo | None = None
        self.retryable = False
        self.interruption: FailureInfo | None = None
        """Why it was told to end."""
        self.timed_out = False
        """It was its wall clock that told it to."""
        self.kill: Callable[[], None] | None = None
        """Kills the process, while there may be one."""
        self.coordinated: Callable[[], None] = lambda: None
        """Tells that the instance has coordinated. May be called again by a resumed attempt."""
        self.proceeds = asyncio.Event()
        """All instances have coordinated."""
        self.takes_commands = False
        """Commands that other instances launch here may run now."""
        self.makes_directory = False
        """The executor makes its directories as it starts the process."""
        self.command_line_runs = False
        """An earlier life of the agent has started the primary's command line."""
        self.deadline_timer: asyncio.TimerHandle | None = None
        self._interruptible: asyncio.Task[object] | None = None

    @property
    def is_primary(self) -> bool:
        """Whether the command line runs here: not in the subtasks of a multi-instance task."""
        return self.start.instance is None or self.start.instance.index == 0

    def process(
        self, argv: tuple[str, ...], *, name: str = "", keeps: bool = False, appends: bool = False
    ) -> ProcessSpec:
        """A process of the attempt; the one without a name is its command line."""
        return ProcessSpec(
            id=f"{self.process_id}/{name}" if name else self.process_id,
            argv=argv,
            directory=self.working_directory,
            environment=self.environment,
            stdout_path=self.stdout_path,
            stderr_path=self.stderr_path,
            keeps=keeps,
            appends=appends,
            run_as=self.run_as,
            cgroups=self.cgroups,
            makes_directory=self.makes_directory,
            lane=self.facts.node_id if self.width else "",
            width=self.width if self.waits else 0,
        )

    def interrupt(self, why: FailureInfo) -> None:
        """Make it end soon: what it awaits is cancelled, its process is killed. The first reason counts."""
        if self.interruption is not None:
            return
        self.interruption = why
        if self.kill is not None:
            self.kill()
        elif self._interruptible is not None:
            self._interruptible.cancel()

    def interruptible(self) -> "_Interruptible":
        """What is awaited inside is cancelled by `interrupt`, and ends as Interrupted."""
        return _Interruptible(self)

    def disarm(self) -> None:
        """Its wall clock does not matter any more."""
        if self.deadline_timer is not None:
            self.deadline_timer.cancel()
            self.deadline_timer = None

    def fail(self, failure: TaskFailure, *, retryable: bool = False) -> None:
        """Take a failure as the attempt's own; the first one counts."""
        if self.failure is None:
            self.failure = failure_info(failure)
            self.retryable = retryable


class _Interruptible:
    """See `Attempt.interruptible`. Written out, as every attempt passes it a few times."""

    __slots__ = ("_attempt", "_cancelled_before", "_task")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        if self._attempt.interruption is not None:
            raise Interrupted
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelled_before = task.cancelling()
        self._attempt._interruptible = task

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        attempt = self._attempt
        attempt._interruptible = None
        if (
            # The cancellation may be the caller's own, which passes.
            isinstance(error, asyncio.CancelledError)
            and attempt.interruption is not None
            and self._task.uncancel() <= self._cancelled_before
        ):
            raise Interrupted from None


Phase: TypeAlias = Callable[[Attempt], Awaitable[None] | None]
"""One phase of a hook."""


class TaskHook:
    """A step around the command line. Hooks are shared by all attempts of a node and keep nothing of one in themselves.

    A phase does its work at once, or returns what is to be awaited: most attempts have nothing to wait for but their
    process. It raises TaskFailure to end the attempt with it. All are safe to repeat for an attempt that is resumed.

    One that `waits` goes through `prestart` while others run before it: what counts from its own beginning is for
    `began`.
    """

    def set_up(self, attempt: Attempt) -> Awaitable[None] | None:
        """The node is made ready for its pool: all there is to an attempt of kind `nodesetup`, again after a restart."""

    def prestart(self, attempt: Attempt) -> Awaitable[None] | None:
        """Before the process is started, in the order of the list."""

    def began(self, attempt: Attempt) -> None:
        """An attempt that waited has begun, and waits no longer. It may have ended, too."""

    def given_back(self, attempt: Attempt) -> None:
        """An attempt that waited does not begin now: what `prestart` has set up is undone."""

    def started(self, attempt: Attempt) -> None:
        """The process runs."""

    def exited(self, attempt: Attempt) -> Awaitable[None] | None:
        """The process has ended, with `attempt.exit`."""

    def stop(self, attempt: Attempt) -> None:
        """The attempt is over, however it went; also when its process was never started."""


def relative_directory(start: Start) -> str:
    """An attempt's directory, below the node's root (semantics 4.1)."""
    if start.kind in (TaskKind.NODE_SETUP, TaskKind.START_TASK):
        return START_DIRECTORY
    return ids.task_directory(start.job_id, start.task_id)


def process_id(node_id: str, key: int, attempt: int) -> str:
    """See `ProcessSpec.id`."""
    return f"{node_id}/{key}/{attempt}"


def failure_info(failure: TaskFailure) -> FailureInfo:
    """A failure as the control plane is told of it."""
    return FailureInfo(
        category=ErrorCategory.USER_ERROR if failure.user_error else ErrorCategory.SERVER_ERROR,
        code=failure.code.value,
        message=failure.message,
        details=tuple(NameValue(name, value) for name, value in failure.details.items()),
    )


def node_failure(code: TaskFailureCode, message: str, error: OSError) -> TaskFailure:
    """The failure for an OSError on the node's own disk: the node's fault, but for a disk that is full.

    A full disk is told to the user (DiskFull): the next attempt would most likely find it full again.
    """
    if error.errno in _DISK_FULL:
        return TaskFailure(TaskFailureCode.DISK_FULL, f"There is not enough disk space on the node: {message}")
    reason = error.strerror or type(error).__name__
    return TaskFailure(code, f"{message}: {reason}", user_error=False, Reason=reason)
