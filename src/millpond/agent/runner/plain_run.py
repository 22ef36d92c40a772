"""An attempt that has nothing to wait for but its process, as most have: no file to fetch, none to upload.

It goes through the same hooks as any other, by callbacks of the executor: a coroutine, its task and its futures would
cost as much as all the hooks together.
"""

from collections.abc import Callable, Sequence

from millpond.agent.base import DirectoryNotMade, Executor, ProcessExit
from millpond.agent.runner.attempt import Attempt, Interrupted, Phase
from millpond.agent.runner.command_line import split_command_line
from millpond.agent.runner.spec import TaskSpec, decode_spec
from millpond.domain.durations import Timestamp
from millpond.domain.errors import Bug, TaskFailure
from millpond.domain.states import TaskKind
from millpond.protocol.messages import Start


def is_plain(start: Start, spec: TaskSpec) -> bool:
    """Whether none of the hooks has anything to wait for."""
    return (
        start.kind is TaskKind.TASK
        and start.instance is None
        and not spec.resource_files
        and not spec.output_files
        and not spec.application_packages
        and spec.multi_instance_settings is None
    )


def takes_ahead(start: Start) -> bool:
    """Whether such an attempt can be handed over before others have ended (see `Runner.begin`): it holds its slots for no
    longer than its process runs, so that the end of the process is all that the next one waits for."""
    try:
        return is_plain(start, decode_spec(start.spec))
    except TaskFailure:
        return False


class PlainRun:
    """See the module. It is the `base.Watcher` of its process."""

    __slots__ = ("_began", "_executor", "_make_directory", "_over", "_prestart", "_started", "attempt")

    def __init__(
        self,
        attempt: Attempt,
        executor: Executor,
        *,
        prestart: Sequence[Phase],
        make_directory: Sequence[Phase],
        began: Callable[[Attempt, Timestamp, bool], None],
        started: Sequence[Callable[[Attempt], None]],
        over: Callable[["PlainRun", ProcessExit | Exception | None], None],
    ) -> None:
        """`make_directory` are those of the hooks that make its directories, where the executor cannot. `began` is told
        when an attempt that waited began, and whether it is over by now. `over` is told once how the process ended
        (None: it was lost), or why there was none."""
        self.attempt = attempt
        self._executor = executor
        self._prestart = prestart
        self._make_directory = make_directory
        self._began = began
        self._started = started
        self._over = over

    def begin(self) -> None:
        """Set up, and start. Raises TaskFailure, OSError."""
        self.attempt.makes_directory = True
        self._go_through(self._prestart)
        self._start()

    def _start(self) -> None:
        attempt = self.attempt
        self._executor.begin(attempt.process(split_command_line(attempt.spec.command_line)), self)

    def _go_through(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            if phase(self.attempt) is not None:
                raise Bug(f"attempt {self.attempt.process_id} is not plain: {phase}")

    def has_begun(self, at: Timestamp, *, is_over: bool) -> None:
        """It waits no longer."""
        if self.attempt.waits:
            self._began(self.attempt, at, is_over)

    def running(self, began: Timestamp, *, is_over: bool) -> None:
        self.has_begun(began, is_over=is_over)
        for started in self._started:
            started(self.attempt)

    def ended(self, exit_: ProcessExit | None) -> None:
        self._over(self, exit_)

    def failed(self, error: Exception) -> None:
        if not isinstance(error, DirectoryNotMade):
            self._over(self, error)
            return
        if self.attempt.interruption is not None:
            self._over(self, Interrupted())
            return
        # What an earlier attempt left is in the way, or it is the first of its job. Or the disk is full: then this says it.
        self.attempt.makes_directory = False
        try:
            self._go_through(self._make_directory)
            self._start()
        except (TaskFailure, OSError) as failure:
            self._over(self, failure)
