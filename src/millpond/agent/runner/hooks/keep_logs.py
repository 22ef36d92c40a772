"""The logs of an attempt, to be sent to the service that keeps them (see `agent.logs`)."""

from millpond.agent.logs import PATTERNS_VARIABLE, UPLOAD_LOG_FILES, NodeLogs
from millpond.agent.runner.attempt import Attempt, TaskHook
from millpond.domain.states import TaskKind

_KINDS = frozenset({TaskKind.TASK, TaskKind.INSTANCE})


class WatchLogs(TaskHook):
    """Right after the directory is made, so that those who follow its files know whose they are."""

    def __init__(self, logs: NodeLogs) -> None:
        self._logs = logs

    def prestart(self, attempt: Attempt) -> None:
        if not attempt.makes_directory:
            self.started(attempt)

    def started(self, attempt: Attempt) -> None:
        if attempt.start.kind in _KINDS:
            self._logs.begun(attempt.start.key, attempt.start.attempt)


class KeepLogs(TaskHook):
    def __init__(self, logs: NodeLogs) -> None:
        self._logs = logs

    def stop(self, attempt: Attempt) -> None:
        start = attempt.start
        self._logs.over(start.key, start.attempt)
        if start.kind not in _KINDS or not attempt.is_primary:
            # Of a multi-instance task the primary's are the task's; special tasks have no row of their own.
            return
        self._logs.ended(
            start.key,
            start.attempt,
            attempt.relative_directory,
            more=UPLOAD_LOG_FILES if attempt.spec.output_files else (),
            patterns=_patterns(attempt),
            outputs=() if attempt.exit is None else attempt.exit.outputs,
        )


def _patterns(attempt: Attempt) -> str:
    for setting in attempt.spec.environment_settings or ():
        if setting.name == PATTERNS_VARIABLE:
            return setting.value or ""
    return next((value for name, value in attempt.start.common_environment if name == PATTERNS_VARIABLE), "")
