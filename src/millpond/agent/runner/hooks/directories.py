"""The task's directory and its `wd`, new for each attempt (semantics 4.1)."""

from millpond.agent.runner.attempt import Attempt, TaskHook, node_failure
from millpond.domain.errors import TaskFailureCode
from millpond.domain.states import TaskKind


class Directories(TaskHook):
    def given_back(self, attempt: Attempt) -> None:
        attempt.directories.release(attempt.relative_directory)

    def prestart(self, attempt: Attempt) -> None:
        if attempt.resumed:
            return
        try:
            # In the loop's own thread: two calls of the system, less than handing them over would cost.
            if attempt.makes_directory:
                attempt.directories.use_new(attempt.relative_directory)
                return
            if attempt.start.kind is TaskKind.START_TASK:
                attempt.directories.make_start_directory()
                return
            attempt.directories.make_task_directory(attempt.relative_directory)
        except OSError as error:
            raise node_failure(
                TaskFailureCode.RESOURCE_DIRECTORY_CREATE_FAILED, "The task's directory could not be made", error
            ) from error
